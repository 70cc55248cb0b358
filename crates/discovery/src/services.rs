//! The handle on all services, for the program.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use balance::{Epoch, Ledger, Reader, Rng};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::service::{Context, Service, check};
use crate::{CheckReport, ServiceConfig};

/// All services, their live sets and their checks. Dropping it ends the checks; readers keep the last sets.
///
/// *Shape*: one task a service on the runtime that [`Services::new`] was called in. Methods may be called from any
/// thread.
#[derive(Debug)]
pub struct Services {
    context: Arc<Context>,
    runtime: Handle,
    rng: Rng,
    running: BTreeMap<Arc<str>, Running>,
}

/// A service and the task that checks it.
#[derive(Debug)]
struct Running {
    service: Arc<Service>,
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
        let context = Arc::new(Context { epoch, ledger, slots });
        Self { context, runtime: Handle::current(), rng: Rng::new(seed), running: BTreeMap::new() }
    }

    /// Makes the services those of `configs`, and publishes their sets before it returns.
    ///
    /// A service that stays keeps its readers valid, and a backend that stays keeps its state and its place in the
    /// schedule; when its check changes, it keeps its state and is asked again soon. A name that is given twice is the
    /// last of the two.
    pub fn apply(&mut self, configs: Vec<ServiceConfig>) {
        let names: HashSet<Arc<str>> = configs.iter().map(|config| Arc::clone(&config.settings.name)).collect();
        self.running.retain(|name, _| names.contains(name));
        for config in configs {
            match self.running.get(&config.settings.name) {
                Some(running) => running.service.apply(config),
                None => self.start(config),
            }
        }
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
        self.running.get(name).map(|running| running.service.reports())
    }

    fn start(&mut self, config: ServiceConfig) {
        let name = Arc::clone(&config.settings.name);
        let rng = Rng::new(self.rng.next_u64());
        let service = Arc::new(Service::new(config, Arc::clone(&self.context), rng));
        let checked = Arc::clone(&service);
        let checks = move || check(Arc::clone(&checked));
        let task = self.runtime.spawn(supervise(Arc::clone(&name), RESTART_AFTER, checks));
        self.running.insert(name, Running { service, _task: AbortOnDropHandle::new(task) });
    }
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
