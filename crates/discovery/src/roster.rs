//! The checks of one service: who is due, what a finding changes, what is to be published. Pure.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use balance::{Active, Address, Backend, BackendSet, Endpoint, Facts, Outcome, Rng};

use crate::check::{Check, Limits};
use crate::probe::{Finding, Trouble};
use crate::schedule::Schedule;
use crate::{HealthConfig, Probe, ServiceConfig};

/// The endpoints of a service with what their checks found.
///
/// *Shape*: a backend has one monitor, and is either in `due` once or in `running` once, so that its probes never
/// overlap. An address that leaves while it is being probed stays in `running` alone until that probe ends.
#[derive(Debug)]
pub(crate) struct Roster {
    config: ServiceConfig,
    health: Option<Arc<HealthConfig>>,
    monitors: HashMap<Address, Monitor>,
    due: BinaryHeap<Reverse<(u64, Address)>>,
    running: HashMap<Address, Relevance>,
    /// When the states that turned are published; a little later than the first of them, so that others can join.
    publish_ms: Option<u64>,
    /// Before this, a further probe that could not be made is not worth a log line.
    quiet_until_ms: u64,
    rng: Rng,
}

/// One backend under check.
#[derive(Debug)]
struct Monitor {
    /// Of some earlier set perhaps: its state is the current one, its facts need not be.
    backend: Arc<Backend>,
    check: Check,
    due_ms: u64,
    last: Option<LastResult>,
}

/// Whether the finding of a probe that runs still answers a question that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relevance {
    Counts,
    Outdated,
}

/// A probe to be made.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) service: Arc<str>,
    pub(crate) address: Address,
    pub(crate) backend: Arc<Backend>,
    pub(crate) health: Arc<HealthConfig>,
}

/// What a finding changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The backend is in another state now.
    Turned { from: Active, to: Active },
    /// The probe could not be made, and this has not been said for a while.
    Hindered,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agenda {
    /// A probe is due now.
    pub(crate) is_probe_due: bool,
    /// The next moment at which something becomes due by itself.
    pub(crate) wake_ms: Option<u64>,
}

/// The check of one backend, for the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Which backend.
    pub address: Address,
    /// What the results so far come to.
    pub active: Active,
    /// The latest result; nothing before the first one.
    pub last: Option<LastResult>,
}

/// What one probe came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastResult {
    /// What came, in words of our own: nothing that a backend sent is repeated.
    pub text: Cow<'static, str>,
    /// When, in milliseconds of the program's epoch.
    pub at_ms: u64,
}

impl Roster {
    /// The roster of a service of which `set` is the first set.
    pub(crate) fn new(config: ServiceConfig, set: &BackendSet, now_ms: u64, rng: Rng) -> Self {
        let mut roster = Self {
            health: None,
            monitors: HashMap::new(),
            due: BinaryHeap::new(),
            running: HashMap::new(),
            publish_ms: None,
            quiet_until_ms: 0,
            rng,
            config: config.clone(),
        };
        roster.adopt(config, set, now_ms);
        roster
    }

    pub(crate) fn config(&self) -> &ServiceConfig {
        &self.config
    }

    pub(crate) fn health(&self) -> Option<&Arc<HealthConfig>> {
        self.health.as_ref()
    }

    /// The endpoints of `config` with what is known of them; of those that are new, and of all when nothing is
    /// checked any more, nothing is.
    pub(crate) fn overlay(&self, config: &ServiceConfig) -> Vec<Endpoint> {
        let active = |endpoint: &Endpoint| match (&config.health, self.monitors.get(&endpoint.address)) {
            (Some(_), Some(monitor)) => monitor.check.active(),
            (None, _) | (_, None) => Active::Unknown,
        };
        let with_facts = |endpoint: &Endpoint| Endpoint {
            facts: Facts { active: active(endpoint), ..endpoint.facts },
            ..endpoint.clone()
        };
        config.endpoints.iter().map(with_facts).collect()
    }

    /// What the checks of `address` come to.
    pub(crate) fn active(&self, address: &Address) -> Active {
        self.monitors.get(address).map_or(Active::Unknown, |monitor| monitor.check.active())
    }

    /// Goes over to `config`, whose endpoints are in `set`, which was just published. Backends that stay keep their state and, unless the
    /// check itself changed, their schedule.
    pub(crate) fn adopt(&mut self, config: ServiceConfig, set: &BackendSet, now_ms: u64) {
        let same_health = self.health.as_deref() == config.health.as_ref();
        let same_probe = self.health.as_ref().map(|old| &old.probe) == config.health.as_ref().map(|new| &new.probe);
        if !same_health {
            self.health = config.health.clone().map(Arc::new);
        }
        self.config = config;
        self.publish_ms = None;
        self.monitor(set, now_ms, same_health);
        if !same_probe {
            self.monitors.values_mut().for_each(|monitor| monitor.check.forget_contrary());
        }
        for (address, relevance) in &mut self.running {
            if !same_probe || !self.monitors.contains_key(address) {
                *relevance = Relevance::Outdated;
            }
        }
        self.fill_due();
    }

    /// Gives each of its backends in `set` a monitor, the one it has if it has one, and drops all others.
    fn monitor(&mut self, set: &BackendSet, now_ms: u64, keep_schedule: bool) {
        let mut known = std::mem::take(&mut self.monitors);
        let Some(health) = &self.health else { return };
        let schedule = Schedule::new(health.interval);
        let ours: HashSet<&Address> = self.config.endpoints.iter().map(|endpoint| &endpoint.address).collect();
        for backend in set.backends().iter().filter(|backend| ours.contains(backend.address())) {
            let (backend, address) = (Arc::clone(backend), backend.address());
            let monitor = match known.remove(address) {
                Some(monitor) if keep_schedule => Monitor { backend, ..monitor },
                Some(monitor) => Monitor { backend, due_ms: schedule.first(now_ms, &mut self.rng), ..monitor },
                None => Monitor::new(backend, schedule.first(now_ms, &mut self.rng)),
            };
            self.monitors.insert(monitor.backend.address().clone(), monitor);
        }
    }

    /// Takes the next probe that is due off the schedule. Backends whose traffic proves them healthy are passed over.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> Option<Job> {
        let health = Arc::clone(self.health.as_ref()?);
        while self.due.peek().is_some_and(|Reverse((due_ms, _))| *due_ms <= now_ms) {
            let Reverse((_, address)) = self.due.pop()?;
            self.running.insert(address.clone(), Relevance::Counts);
            let monitor = self.monitors.get(&address)?;
            if monitor.is_proved_by_traffic(&health, now_ms) {
                self.conclude(&address, &Ok(Cow::Borrowed("connections of clients succeed")), now_ms);
                continue;
            }
            let service = Arc::clone(&self.config.settings.name);
            return Some(Job { service, address, backend: Arc::clone(&monitor.backend), health });
        }
        None
    }

    /// Takes what a probe found, and puts the backend on the schedule again.
    pub(crate) fn conclude(&mut self, address: &Address, finding: &Finding, now_ms: u64) -> Option<Event> {
        let relevance = self.running.remove(address)?;
        let health = self.health.as_ref()?;
        let monitor = self.monitors.get_mut(address)?;
        let schedule = Schedule::new(health.interval);
        let mut event = None;
        if relevance == Relevance::Counts {
            event = monitor.note(finding, health, now_ms);
            monitor.due_ms = schedule.next(now_ms, monitor.check.is_wavering(), &mut self.rng);
        } else {
            monitor.due_ms = schedule.first(now_ms, &mut self.rng);
        }
        self.due.push(Reverse((monitor.due_ms, address.clone())));
        match event {
            Some(Event::Turned { .. }) => {
                self.publish_ms.get_or_insert(now_ms + GATHER_MS);
            }
            Some(Event::Hindered) if now_ms < self.quiet_until_ms => return None,
            Some(Event::Hindered) => self.quiet_until_ms = now_ms + QUIET_MS,
            None => {}
        }
        event
    }

    /// The endpoints to publish, if states turned and the time to gather others is over.
    pub(crate) fn take_publication(&mut self, now_ms: u64) -> Option<Vec<Endpoint>> {
        self.publish_ms.take_if(|publish_ms| *publish_ms <= now_ms)?;
        Some(self.overlay(&self.config))
    }

    pub(crate) fn agenda(&self, now_ms: u64) -> Agenda {
        let probe_ms = self.due.peek().map(|Reverse((due_ms, _))| *due_ms);
        // A probe that is due waits for a slot, not for the clock.
        let later_ms = probe_ms.filter(|&due_ms| due_ms > now_ms);
        let wake_ms = [later_ms, self.publish_ms].into_iter().flatten().min();
        Agenda { is_probe_due: probe_ms.is_some() && later_ms.is_none(), wake_ms }
    }

    /// Forgets the probes that run: whoever ran them is gone.
    pub(crate) fn abandon_running(&mut self) {
        self.running.clear();
        self.fill_due();
    }

    pub(crate) fn reports(&self) -> Vec<CheckReport> {
        let report = |(address, monitor): (&Address, &Monitor)| CheckReport {
            address: address.clone(),
            active: monitor.check.active(),
            last: monitor.last.clone(),
        };
        let mut reports: Vec<CheckReport> = self.monitors.iter().map(report).collect();
        reports.sort_unstable_by(|a, b| a.address.cmp(&b.address));
        reports
    }

    fn fill_due(&mut self) {
        let waiting = self.monitors.iter().filter(|(address, _)| !self.running.contains_key(*address));
        self.due = waiting.map(|(address, monitor)| Reverse((monitor.due_ms, address.clone()))).collect();
    }
}

impl Monitor {
    fn new(backend: Arc<Backend>, due_ms: u64) -> Self {
        Self { backend, check: Check::default(), due_ms, last: None }
    }

    fn note(&mut self, finding: &Finding, health: &HealthConfig, now_ms: u64) -> Option<Event> {
        let (outcome, text) = match finding {
            Ok(text) => (Some(Outcome::Success), text),
            Err(Trouble::Theirs(text)) => (Some(Outcome::Failure), text),
            Err(Trouble::Ours(text)) => (None, text),
        };
        self.last = Some(LastResult { text: text.clone(), at_ms: now_ms });
        let Some(outcome) = outcome else { return Some(Event::Hindered) };
        let from = self.check.active();
        let turned = self.check.handle(Limits { rise: health.rise, fall: health.fall }, outcome);
        if outcome == Outcome::Success && self.check.active() == Active::Up {
            self.backend.state().probe_succeeded(now_ms);
        }
        turned.map(|to| Event::Turned { from, to })
    }

    /// Whether a client's connection succeeded so lately, and hardly any failed, that another one of ours would tell
    /// nothing. A backend that is down is always asked: in panic it gets traffic that may succeed by luck.
    fn is_proved_by_traffic(&self, health: &HealthConfig, now_ms: u64) -> bool {
        let state = self.backend.state();
        let success_ms = state.last_success_ms();
        health.probe == Probe::Tcp { port: None }
            && self.check.active() == Active::Up
            && success_ms > 0
            && now_ms.saturating_sub(success_ms) <= Schedule::new(health.interval).interval_ms()
            && state.failure_ratio(now_ms) < PROVED_RATIO
    }
}

/// How long a turned state waits for others before it is published: far below any probe interval, and enough that
/// thousands of backends that turn at once make tens of sets and not thousands.
const GATHER_MS: u64 = 25;
/// Once a minute is often enough to be told that probes cannot be made.
const QUIET_MS: u64 = 60_000;
/// One failure lifts the ratio of a spotless backend to 0.1; then a probe is worth its connection.
const PROVED_RATIO: f32 = 0.05;
