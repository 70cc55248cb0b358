//! One service at work: its roster and publisher, and the task that makes its probes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use balance::{Active, Address, Epoch, Ledger, Publisher, Reader, Rng, Use};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use crate::probe::{self, Finding, Trouble};
use crate::roster::{Agenda, CheckReport, Event, Job, Roster};
use crate::{HealthConfig, ServiceConfig};

/// What all services share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) epoch: Epoch,
    pub(crate) ledger: Arc<Ledger>,
    /// Probes that may run at once.
    pub(crate) slots: Arc<Semaphore>,
}

impl Context {
    pub(crate) fn now_ms(&self) -> u64 {
        self.epoch.millis(Instant::now().into_std())
    }
}

/// A service's state. It lives apart from the task, so that the program can change it at once, without waiting for
/// the task, and so that nothing is lost should the task panic.
#[derive(Debug)]
pub(crate) struct Service {
    name: Arc<str>,
    context: Arc<Context>,
    reader: Reader,
    /// Held for a few microseconds a time (a publication: some milliseconds for 10,000 backends), never while waiting.
    desk: Mutex<Desk>,
    changed: Notify,
}

#[derive(Debug)]
struct Desk {
    roster: Roster,
    publisher: Publisher,
}

impl Service {
    pub(crate) fn new(config: ServiceConfig, context: Arc<Context>, rng: Rng) -> Self {
        let (publisher, reader) = balance::live(config.settings.clone(), unjudged(&config));
        let name = Arc::clone(&config.settings.name);
        let roster = Roster::new(config, &reader.load(), context.now_ms(), rng);
        Self { name, context, reader, desk: Mutex::new(Desk { roster, publisher }), changed: Notify::new() }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Goes over to `config`; published when this returns. Does nothing when nothing changed.
    pub(crate) fn apply(&self, config: ServiceConfig) {
        let mut desk = self.desk();
        if *desk.roster.config() == config {
            return;
        }
        let endpoints = desk.roster.overlay(&config);
        desk.publisher.publish(config.settings.clone(), endpoints);
        desk.roster.adopt(config, &self.reader.load(), self.context.now_ms());
        self.changed.notify_one();
    }

    pub(crate) fn reports(&self) -> Vec<CheckReport> {
        self.desk().roster.reports()
    }

    /// Publishes what is due to be, and says what comes next.
    fn settle(&self, now_ms: u64) -> Agenda {
        let mut desk = self.desk();
        if let Some(endpoints) = desk.roster.take_publication(now_ms) {
            let settings = desk.roster.config().settings.clone();
            desk.publisher.publish(settings, endpoints);
        }
        desk.roster.agenda(now_ms)
    }

    fn conclude(&self, address: &Address, finding: &Finding) {
        let now_ms = self.context.now_ms();
        let (event, health) = {
            let mut desk = self.desk();
            (desk.roster.conclude(address, finding, now_ms), desk.roster.health().cloned())
        };
        if let (Some(event), Some(health)) = (event, health) {
            log(&self.name, address, &health, &event, finding);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // The roster is whole between its calls, and `abandon_running` rebuilds what a panic inside could leave open.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the probes of `service` for ever. One task for all of its backends: what waits is in the roster's heap, and
/// only the probes that run are tasks of their own.
///
/// *Cancel safety*: dropping it ends all of its probes; the service stays as it is.
pub(crate) async fn check(service: Arc<Service>) {
    // Those of a task that panicked were dropped with it.
    service.desk().roster.abandon_running();
    let mut checker = Checker { service, probes: JoinSet::new(), addresses: HashMap::new() };
    loop {
        checker.step().await;
    }
}

/// The running probes of one service.
struct Checker {
    service: Arc<Service>,
    probes: JoinSet<Finding>,
    /// Whom each of `probes` asks: a probe that panics cannot say so itself.
    addresses: HashMap<Id, Address>,
}

impl Checker {
    /// Waits for the next thing to happen and deals with it.
    async fn step(&mut self) {
        let context = Arc::clone(&self.service.context);
        let now_ms = context.now_ms();
        let agenda = self.service.settle(now_ms);
        let wait = Duration::from_millis(agenda.wake_ms.unwrap_or(now_ms).saturating_sub(now_ms));
        tokio::select! {
            () = self.service.changed.notified() => {}
            Some(ended) = self.probes.join_next_with_id() => self.finish(ended),
            Ok(slot) = Arc::clone(&context.slots).acquire_owned(), if agenda.is_probe_due => self.start(slot),
            () = sleep(wait), if agenda.wake_ms.is_some() => {}
        }
    }

    fn start(&mut self, slot: OwnedSemaphorePermit) {
        let context = &self.service.context;
        let Some(job) = self.service.desk().roster.take_due(context.now_ms()) else { return };
        let address = job.address.clone();
        let Some(hold) = context.ledger.take(Use::Probes, probe::descriptors(&job.health.probe)) else {
            return self.service.conclude(&address, &Err(Trouble::Ours("no descriptor is left for it".into())));
        };
        let run = async move |job: Job| {
            let finding = probe::run(&job).await;
            drop((slot, hold));
            finding
        };
        let task = self.probes.spawn(run(job));
        self.addresses.insert(task.id(), address);
    }

    fn finish(&mut self, ended: Result<(Id, Finding), JoinError>) {
        let (id, finding) = match ended {
            Ok((id, finding)) => (id, finding),
            Err(error) => {
                tracing::error!(%error, "a health check probe ended by a bug and counts as nothing");
                (error.id(), Err(Trouble::Ours("the probe ended by a bug".into())))
            }
        };
        if let Some(address) = self.addresses.remove(&id) {
            self.service.conclude(&address, &finding);
        }
    }
}

fn unjudged(config: &ServiceConfig) -> Vec<balance::Endpoint> {
    let mut endpoints = config.endpoints.clone();
    endpoints.iter_mut().for_each(|endpoint| endpoint.facts.active = Active::Unknown);
    endpoints
}

fn log(service: &str, address: &Address, health: &HealthConfig, event: &Event, finding: &Finding) {
    let (Ok(result) | Err(Trouble::Theirs(result) | Trouble::Ours(result))) = finding;
    let (backend, probe) = (address, &health.probe);
    match event {
        Event::Turned { to: Active::Down, .. } => {
            tracing::warn!(service, %backend, %probe, %result, "backend is down");
        }
        Event::Turned { from: Active::Down, .. } => {
            tracing::info!(service, %backend, %probe, %result, "backend is up again");
        }
        // The first success changes nothing for clients, and there are as many of them as backends.
        Event::Turned { .. } => tracing::debug!(service, %backend, %probe, %result, "backend is up"),
        Event::Hindered => tracing::warn!(service, %backend, %probe, %result, "health checks cannot be made"),
    }
}
