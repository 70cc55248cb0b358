//! The handle on all services, for the program.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use balance::{Epoch, Ledger, Reader, Rng};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::desk::Start;
use crate::keeper::Keeper;
use crate::service::{Context, Service, check};
use crate::snapshot::Remembered;
use crate::{CheckReport, Overview, ServiceConfig, supervisor};

/// All services, their live sets, their checks and their sources. Dropping it ends checks and sources; readers keep the
/// last sets.
///
/// *Shape*: one task a service and one a source, on the runtime that [`Services::new`] was called in. Methods may be
/// called from any thread.
#[derive(Debug)]
pub struct Services {
    context: Arc<Context>,
    runtime: Handle,
    rng: Rng,
    running: BTreeMap<Arc<str>, Running>,
    overview: Overview,
    keeper: Option<Arc<Keeper>>,
    _keeping: Option<AbortOnDropHandle<()>>,
    /// What services that have not started yet are to begin with.
    remembered: Remembered,
}

/// A service, the task that checks it, and the tasks of its sources.
#[derive(Debug)]
struct Running {
    service: Arc<Service>,
    sources: HashMap<Arc<str>, AbortOnDropHandle<()>>,
    /// Ends with the service.
    _task: AbortOnDropHandle<()>,
}

impl Services {
    /// No services yet. `seed` decides the spread of probes in time.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which is needed for the checks.
    pub fn new(epoch: Epoch, ledger: Arc<Ledger>, seed: u64) -> Self {
        let slots = Arc::new(Semaphore::new(PROBES_MAX));
        Self {
            context: Arc::new(Context { epoch, ledger, slots }),
            runtime: Handle::current(),
            rng: Rng::new(seed),
            running: BTreeMap::new(),
            overview: Overview::default(),
            keeper: None,
            _keeping: None,
            remembered: Remembered::default(),
        }
    }

    /// Remembers in `dir` what sources report, and begins with what is remembered there. To be called before the first
    /// [`Services::apply`]. Nothing about the directory is fatal; what is wrong with it is logged.
    ///
    /// *Cost*: blocks while a file is read.
    pub fn keep_state(&mut self, dir: &Path) {
        let (keeper, remembered) = Keeper::open(dir, self.overview.clone());
        self.remembered = remembered;
        self._keeping = Some(AbortOnDropHandle::new(self.runtime.spawn(Arc::clone(&keeper).keep())));
        self.keeper = Some(keeper);
    }

    /// Writes what is to be remembered now. For the end of the program.
    ///
    /// *Errors*: the disk does not take it; the last snapshot stays. *Cancel safety*: a write that began is finished.
    pub async fn save_state(&self) -> io::Result<()> {
        match &self.keeper {
            Some(keeper) => keeper.save(true).await,
            None => Ok(()),
        }
    }

    /// Makes the services those of `configs`, and publishes their sets before it returns.
    ///
    /// A service that stays keeps its readers valid, and a backend that stays keeps its state and its place in the
    /// schedule; when its check changes, it keeps its state and is asked again soon. A source that stays goes on; of one
    /// that asks something else now, the old answers stand until there are new ones. A name that is given twice is the
    /// last of the two.
    pub fn apply(&mut self, configs: Vec<ServiceConfig>) {
        let names: HashSet<Arc<str>> = configs.iter().map(|config| Arc::clone(&config.settings.name)).collect();
        self.running.retain(|name, _| names.contains(name));
        for config in configs {
            let (name, sources) = (Arc::clone(&config.settings.name), names_of(&config));
            let starts = match self.running.get(&name) {
                Some(running) => running.service.apply(config),
                None => self.add(config),
            };
            self.start(&name, &sources, starts);
        }
        self.overview.replace(self.running.values().map(|running| Arc::clone(&running.service)).collect());
        // Services that come later were not there when this was written, or were taken away since.
        self.remembered = Remembered::default();
    }

    /// The reading end of a service's set. It stays valid for as long as the service does.
    pub fn reader(&self, name: &str) -> Option<Reader> {
        self.running.get(name).map(|running| running.service.reader().clone())
    }

    /// Every service by name, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Reader)> {
        self.running.iter().map(|(name, running)| (&**name, running.service.reader()))
    }

    /// What the checks of a service found, in the order of addresses; empty for a service that is not checked, and
    /// nothing for one that is not there. What is here may be newer than the set by some milliseconds.
    pub fn checks(&self, name: &str) -> Option<Vec<CheckReport>> {
        self.running.get(name).map(|running| running.service.look(|desk| desk.checks()))
    }

    /// A handle on what others may see. It follows every change.
    pub fn overview(&self) -> &Overview {
        &self.overview
    }

    fn add(&mut self, config: ServiceConfig) -> Vec<Start> {
        let name = Arc::clone(&config.settings.name);
        let rng = Rng::new(self.rng.next_u64());
        let (service, starts) = Service::new(config, &self.remembered, Arc::clone(&self.context), rng);
        let service = Arc::new(service);
        let checked = Arc::clone(&service);
        let checks = move || check(Arc::clone(&checked));
        let task = self.runtime.spawn(supervise(Arc::clone(&name), RESTART_AFTER, checks));
        let sources = HashMap::new();
        self.running.insert(name, Running { service, sources, _task: AbortOnDropHandle::new(task) });
        starts
    }

    /// Ends the sources that are none of `names`, and starts `starts`.
    fn start(&mut self, service: &str, names: &HashSet<Arc<str>>, starts: Vec<Start>) {
        let Some(running) = self.running.get_mut(service) else { return };
        running.sources.retain(|name, _| names.contains(name));
        for start in starts {
            let (name, rng) = (Arc::clone(&start.name), Rng::new(self.rng.next_u64()));
            let task = self.runtime.spawn(supervisor::supervise(Arc::clone(&running.service), start, rng));
            // One of this name that ran so far ends here.
            running.sources.insert(name, AbortOnDropHandle::new(task));
        }
    }
}

fn names_of(config: &ServiceConfig) -> HashSet<Arc<str>> {
    config.membership.sources.iter().map(|source| Arc::clone(&source.name)).collect()
}

/// Runs what `start` makes, and again after a pause should it panic: a bug must not end the checks in silence.
///
/// *Cancel safety*: dropping it ends what runs.
async fn supervise<F: Future<Output = ()> + Send + 'static>(
    name: Arc<str>,
    pause: Duration,
    mut start: impl FnMut() -> F,
) {
    loop {
        let task = AbortOnDropHandle::new(tokio::spawn(start()));
        let ended: Result<(), JoinError> = task.await;
        let Err(error) = ended else { return };
        tracing::error!(service = &*name, %error, "health checks ended by a bug and start again");
        tokio::time::sleep(pause).await;
    }
}

/// Probes that run at once in the whole process, each of which takes a descriptor or a child process. With the
/// default timing 640 backends that answer nothing at all are still asked on time; beyond that, probes come late.
const PROBES_MAX: usize = 128;
/// Long enough that a panic at each start is no load, short enough that the checks are not missed.
const RESTART_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn what_panics_is_started_again_until_it_ends_by_itself() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let start = move || {
            let nth = counted.fetch_add(1, Relaxed);
            async move { assert_eq!(nth, 2, "the first two starts panic") }
        };
        supervise("web".into(), Duration::from_millis(1), start).await;
        assert_eq!(starts.load(Relaxed), 3);
    }
}
