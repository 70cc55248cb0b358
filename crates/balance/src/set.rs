//! One immutable snapshot of a service: its backends, their facts, and what the policy precomputes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::backend::BackendState;
use crate::hash::Maglev;
use crate::review::Review;
use crate::{Address, Availability, Backend, Endpoint, Policy, RetryBudget, Zone};

/// What a service is apart from its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// How it chooses.
    pub policy: Policy,
    /// Percent of a zone's backends below which checks and ejections are ignored there; 0 never.
    pub panic_threshold: u8,
}

/// A service at one moment. Readers hold it as long as they like; a change is a new set.
#[derive(Debug)]
pub struct BackendSet {
    settings: Settings,
    /// Sorted by level, then address: the order is part of what hashing proxies agree on.
    backends: Vec<Arc<Backend>>,
    levels: Vec<Level>,
    review: Review,
    shared: Arc<Shared>,
}

/// The backends of one priority.
#[derive(Debug)]
pub(crate) struct Level {
    /// Where they stand in the set.
    pub(crate) range: Range<usize>,
    /// Running sum of weights, for draws by weight; only for `random_two`.
    pub(crate) cumulative: Vec<u64>,
    /// The table; only for `maglev`.
    pub(crate) maglev: Option<Arc<Maglev>>,
    /// What the table was built from, to reuse it while that stays.
    members: Vec<(u64, u32)>,
}

/// What stays with a service through all of its sets.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) budget: RetryBudget,
    /// Virtual time of the round robin.
    pub(crate) clock: AtomicU64,
    /// Counts ejections and readmissions, so that a reader knows when to judge panic anew.
    pub(crate) events: AtomicU64,
}

impl BackendSet {
    /// A first set.
    pub fn new(settings: Settings, endpoints: Vec<Endpoint>) -> Self {
        Self::build(settings, endpoints, None)
    }

    /// The set that follows `self`: backends that stay keep their state, those that are new start fresh.
    ///
    /// *Cost*: O(n log n), and a Maglev table when members or weights changed.
    pub fn next(&self, settings: Settings, endpoints: Vec<Endpoint>) -> Self {
        Self::build(settings, endpoints, Some(self))
    }

    fn build(settings: Settings, mut endpoints: Vec<Endpoint>, previous: Option<&Self>) -> Self {
        endpoints.sort_by(|a, b| (a.priority, &a.address).cmp(&(b.priority, &b.address)));
        let mut known: HashMap<&Address, &Arc<Backend>> = HashMap::new();
        if let Some(set) = previous {
            known.extend(set.backends.iter().map(|backend| (backend.address(), backend)));
        }
        let mut seen = std::collections::HashSet::with_capacity(endpoints.len());
        // One address is one backend: of several endpoints with it the first, which has the lowest level, is taken.
        endpoints.retain(|endpoint| seen.insert(endpoint.address.clone()));
        let keep = |endpoint: Endpoint| match known.get(&endpoint.address) {
            Some(old) if *old.endpoint() == endpoint => Arc::clone(old),
            Some(old) => Arc::new(Backend::new(endpoint, Arc::clone(old.shared_state()))),
            None => Arc::new(Backend::new(endpoint, Arc::new(BackendState::default()))),
        };
        let backends: Vec<_> = endpoints.into_iter().map(keep).collect();
        let levels = levels(&backends, settings.policy, previous);
        let review = Review::new(&backends, &levels);
        let shared: Arc<Shared> = previous.map_or_else(Arc::default, |set| Arc::clone(&set.shared));
        backends.iter().for_each(|backend| crate::round_robin::enter(&shared.clock, backend));
        Self { settings, backends, levels, review, shared }
    }

    /// The service's name and policy.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All backends, sorted by level, then address.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The retry budget of the service.
    pub fn retry_budget(&self) -> &RetryBudget {
        &self.shared.budget
    }

    /// Whether a session could be given a backend now without ignoring checks and ejections.
    pub fn has_available(&self, now_ms: u64) -> bool {
        self.backends.iter().any(|backend| backend.standing(now_ms) == crate::Standing::Up)
    }

    /// The zones of this set, each with whether it is in panic on any of its levels.
    pub fn panics(&self, now_ms: u64) -> Vec<(Zone, bool)> {
        self.judge(now_ms);
        let mut zones: Vec<(Zone, bool)> = Vec::new();
        for (zone, panicking) in self.review.zones() {
            match zones.iter_mut().find(|(known, _)| known == zone) {
                Some((_, any)) => *any |= panicking,
                None => zones.push((zone.clone(), panicking)),
            }
        }
        zones
    }

    pub(crate) fn levels(&self) -> &[Level] {
        &self.levels
    }

    pub(crate) fn review(&self) -> &Review {
        &self.review
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Brings the review up to date if it is due.
    pub(crate) fn judge(&self, now_ms: u64) {
        self.review.refresh(self, now_ms);
    }
}

fn levels(backends: &[Arc<Backend>], policy: Policy, previous: Option<&BackendSet>) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut start = 0;
    for chunk in backends.chunk_by(|a, b| a.endpoint().priority == b.endpoint().priority) {
        let range = start..start + chunk.len();
        start = range.end;
        let members: Vec<_> = chunk.iter().map(|backend| (backend.key(), usable_weight(backend))).collect();
        let maglev = (policy == Policy::Maglev).then(|| table(&members, previous)).flatten();
        let cumulative = if policy == Policy::RandomTwo { cumulative(&members) } else { Vec::new() };
        levels.push(Level { range, cumulative, maglev, members });
    }
    levels
}

/// The weight for tables and draws, which know draining but not health: that changes too often to rebuild for.
fn usable_weight(backend: &Backend) -> u32 {
    match backend.availability() {
        Availability::Draining => 0,
        Availability::Up | Availability::Down => backend.endpoint().weight,
    }
}

fn table(members: &[(u64, u32)], previous: Option<&BackendSet>) -> Option<Arc<Maglev>> {
    let same = |level: &&Level| level.maglev.is_some() && level.members == members;
    match previous.and_then(|set| set.levels.iter().find(same)) {
        Some(level) => level.maglev.clone(),
        None => Maglev::build(members).map(Arc::new),
    }
}

fn cumulative(members: &[(u64, u32)]) -> Vec<u64> {
    let running = |sum: &mut u64, &(_, weight): &(u64, u32)| {
        *sum += u64::from(weight);
        Some(*sum)
    };
    members.iter().scan(0, running).collect()
}
