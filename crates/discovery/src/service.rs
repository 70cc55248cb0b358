//! One service at work: its desk behind a lock, and the task that makes its probes and publishes what is due.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use balance::{Active, Address, Epoch, Ledger, Reader, Rng, Use};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use crate::desk::{Desk, Purpose, Start};
use crate::probe::{self, Finding, Trouble};
use crate::roster::{Event, Job};
use crate::snapshot::Remembered;
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

/// A service's state. It lives apart from the tasks, so that the program can change it at once, without waiting for
/// them, and so that nothing is lost should one panic.
#[derive(Debug)]
pub(crate) struct Service {
    name: Arc<str>,
    context: Arc<Context>,
    reader: Reader,
    /// Held for a few microseconds a time (a publication: some milliseconds for 10,000 backends), never while waiting.
    desk: Mutex<Desk>,
    changed: Notify,
}

impl Service {
    /// A service, published, and the sources to start for it.
    pub(crate) fn new(
        config: ServiceConfig,
        remembered: &Remembered,
        context: Arc<Context>,
        mut rng: Rng,
    ) -> (Self, Vec<Start>) {
        let (name, now_ms) = (Arc::clone(&config.settings.name), context.now_ms());
        let mut desk = Desk::new(&config, now_ms, &mut rng);
        let starts = desk.apply(config, remembered, now_ms);
        let reader = desk.reader().clone();
        (Self { name, context, reader, desk: Mutex::new(desk), changed: Notify::new() }, starts)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.context.now_ms()
    }

    /// Goes over to `config`; published when this returns. Returns the sources to start.
    pub(crate) fn apply(&self, config: ServiceConfig) -> Vec<Start> {
        let starts = self.desk().apply(config, &Remembered::default(), self.now_ms());
        self.changed.notify_one();
        starts
    }

    /// Whatever is done at its desk may change what is due.
    pub(crate) fn with_desk<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T {
        let result = act(&mut self.desk());
        self.changed.notify_one();
        result
    }

    /// What can be seen at its desk.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Desk) -> T) -> T {
        look(&self.desk())
    }

    fn conclude(&self, purpose: Purpose, address: &Address, finding: &Finding) {
        let now_ms = self.context.now_ms();
        let turn = self.desk().conclude(purpose, address, finding, now_ms);
        if let Some((turn, health)) = turn {
            log(&self.name, purpose, address, &health, &turn, finding);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // The desk is whole between its calls, and `abandon_running` rebuilds what a panic inside could leave open.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the probes of `service` for ever. One task for all of its backends: what waits is in the roster's heap, and
/// only the probes that run are tasks of their own.
///
/// *Cancel safety*: dropping it ends all of its probes; the service stays as it is.
pub(crate) async fn check(service: Arc<Service>) {
    // Those of a task that panicked were dropped with it.
    service.desk().abandon_running();
    let mut checker = Checker { service, probes: JoinSet::new(), addresses: HashMap::new(), orphans: 0 };
    loop {
        checker.step().await;
    }
}

/// The running probes of one service.
struct Checker {
    service: Arc<Service>,
    probes: JoinSet<Finding>,
    /// Whom each of `probes` asks: a probe that panics cannot say so itself.
    addresses: HashMap<Id, (Purpose, Address)>,
    /// How many orphans there were at the last look, for the log.
    orphans: usize,
}

impl Checker {
    /// Waits for the next thing to happen and deals with it.
    async fn step(&mut self) {
        let context = Arc::clone(&self.service.context);
        let now_ms = context.now_ms();
        let (agenda, orphans) = {
            let mut desk = self.service.desk();
            (desk.settle(now_ms), desk.orphans())
        };
        self.tell_of_orphans(orphans);
        let wait = Duration::from_millis(agenda.wake_ms.unwrap_or(now_ms).saturating_sub(now_ms));
        tokio::select! {
            () = self.service.changed.notified() => {}
            Some(ended) = self.probes.join_next_with_id() => self.finish(ended),
            Ok(slot) = Arc::clone(&context.slots).acquire_owned(), if agenda.is_probe_due => self.start(slot),
            () = sleep(wait), if agenda.wake_ms.is_some() => {}
        }
    }

    /// More of them are news, and that there are none any more; fewer are told one by one.
    fn tell_of_orphans(&mut self, orphans: usize) {
        let before = std::mem::replace(&mut self.orphans, orphans);
        let service = &*self.service.name;
        if orphans > before {
            tracing::warn!(service, orphans, "backends that no source names any more serve on while they answer");
        } else if orphans == 0 && before > 0 {
            tracing::info!(service, "no backend is an orphan any more");
        }
    }

    fn start(&mut self, slot: OwnedSemaphorePermit) {
        let context = &self.service.context;
        let Some((purpose, job)) = self.service.desk().take_due(context.now_ms()) else { return };
        let address = job.address.clone();
        let Some(hold) = context.ledger.take(Use::Probes, probe::descriptors(&job.health.probe)) else {
            return self.service.conclude(
                purpose,
                &address,
                &Err(Trouble::Ours("no descriptor is left for it".into())),
            );
        };
        let run = async move |job: Job| {
            let finding = probe::run(&job).await;
            drop((slot, hold));
            finding
        };
        let task = self.probes.spawn(run(job));
        self.addresses.insert(task.id(), (purpose, address));
    }

    fn finish(&mut self, ended: Result<(Id, Finding), JoinError>) {
        let (id, finding) = match ended {
            Ok((id, finding)) => (id, finding),
            Err(error) => {
                tracing::error!(%error, "a health check probe ended by a bug and counts as nothing");
                (error.id(), Err(Trouble::Ours("the probe ended by a bug".into())))
            }
        };
        if let Some((purpose, address)) = self.addresses.remove(&id) {
            self.service.conclude(purpose, &address, &finding);
        }
    }
}

fn log(service: &str, purpose: Purpose, address: &Address, health: &HealthConfig, event: &Event, finding: &Finding) {
    let (Ok(result) | Err(Trouble::Theirs(result) | Trouble::Ours(result))) = finding;
    let (backend, probe) = (address, &health.probe);
    match event {
        Event::Turned { to: Active::Down, .. } if purpose == Purpose::Orphan => {
            tracing::info!(service, %backend, %probe, %result, "backend that no source reports is gone");
        }
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
