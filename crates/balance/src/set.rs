//! One immutable snapshot of a service: its backends, their facts, and what the policy precomputes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::backend::BackendState;
use crate::estimate::Share;
use crate::hash::Maglev;
use crate::pool::{Pool, SWEEP_MOST, Sweep};
use crate::queue::Turnstile;
use crate::review::{Group, Review};
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
    /// The zone that we are in.
    pub home: Zone,
    /// What zones mean to [`Policy::Latency`]; to the other policies all are the same.
    pub zones: Zones,
    /// How much sooner another zone must answer, beside 10 %, to be worth leaving the home zone.
    pub zone_margin: Duration,
    /// Most sessions of a backend, connecting ones included; 0 any number. Those of this process: other proxies count
    /// their own.
    pub max_connections_per_backend: u32,
}

impl Settings {
    /// The settings of a service of this name, all defaults.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            policy: Policy::default(),
            panic_threshold: PANIC_THRESHOLD,
            home: Zone::default(),
            zones: Zones::default(),
            zone_margin: ZONE_MARGIN,
            max_connections_per_backend: 0,
        }
    }
}

/// What zones mean to [`Policy::Latency`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Zones {
    /// The home zone, until another one answers sooner with the distance counted.
    #[default]
    Latency,
    /// The home zone only.
    Strict,
    /// Nothing: all backends are as one zone.
    Ignore,
}

impl Zones {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Latency, Self::Strict, Self::Ignore];

    /// The name in the configuration and in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Strict => "strict",
            Self::Ignore => "ignore",
        }
    }
}

/// A service at one moment. Readers hold it as long as they like; a change is a new set.
#[derive(Debug)]
pub struct BackendSet {
    settings: Settings,
    /// Sorted by level, then address: the order is part of what hashing proxies agree on.
    backends: Vec<Arc<Backend>>,
    levels: Vec<Level>,
    /// Those that have a server id, sorted by it.
    named: Vec<u32>,
    review: Review,
    has_orphans: bool,
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
    /// Who waits for a place at a full backend.
    pub(crate) turnstile: Turnstile,
    /// Share of its sessions' time that a backend works for them, in f32; 0 is none known, and stands for all of it.
    duty: AtomicU32,
    /// How many of the questions in its flows of datagrams are answered.
    pub(crate) replies: Share,
    /// When the pools last learned, and for which set.
    learned_ms: AtomicU64,
}

impl Shared {
    /// A backend was ejected or readmitted.
    pub(crate) fn changed(&self) {
        self.events.fetch_add(1, Relaxed);
    }

    /// How often that happened.
    pub(crate) fn changes(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// What an open session counts for, as a share of one that waits for an answer.
    pub(crate) fn duty(&self) -> f32 {
        match f32::from_bits(self.duty.load(Relaxed)) {
            0.0 => 1.0,
            duty => duty,
        }
    }
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
        let shared: Arc<Shared> = previous.map_or_else(Arc::default, |set| Arc::clone(&set.shared));
        let mut pools: HashMap<Zone, Arc<Pool>> = HashMap::new();
        if let Some(set) = previous {
            pools.extend(set.review.groups().iter().map(|group| (group.zone().clone(), Arc::clone(&group.pool))));
        }
        let keep = |endpoint: Endpoint| {
            let old = known.get(&endpoint.address);
            if let Some(old) = old.filter(|old| *old.endpoint() == endpoint) {
                return Arc::clone(old);
            }
            let state = old.map_or_else(|| Arc::new(BackendState::default()), |old| Arc::clone(old.shared_state()));
            let new = || Arc::new(Pool::new(endpoint.zone.clone(), Arc::clone(&shared)));
            let pool = Arc::clone(pools.entry(endpoint.zone.clone()).or_insert_with(new));
            Arc::new(Backend::new(endpoint, state, pool))
        };
        let backends: Vec<_> = endpoints.into_iter().map(keep).collect();
        let levels = levels(&backends, settings.policy, previous);
        let review = Review::new(&backends, &levels, &settings.home, settings.zones);
        backends.iter().for_each(|backend| crate::round_robin::enter(&shared.clock, backend));
        // A change may bring places.
        shared.turnstile.freed();
        let named = crate::affinity::named(&backends);
        let has_orphans = backends.iter().any(|backend| backend.is_orphan());
        Self { settings, backends, levels, named, review, has_orphans, shared }
    }

    /// The service's name and policy.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All backends, sorted by level, then address.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Whether any backend is an orphan.
    pub(crate) fn has_orphans(&self) -> bool {
        self.has_orphans
    }

    /// The retry budget of the service.
    pub fn retry_budget(&self) -> &RetryBudget {
        &self.shared.budget
    }

    /// Where sessions are counted that wait for a place at a full backend.
    pub fn turnstile(&self) -> &Turnstile {
        &self.shared.turnstile
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

    pub(crate) fn named(&self) -> &[u32] {
        &self.named
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
        if self.settings.policy == Policy::Latency {
            self.learn(now_ms);
        }
    }

    /// Every 100 ms one caller lets the pools learn from what their backends know.
    fn learn(&self, now_ms: u64) {
        let last_ms = self.shared.learned_ms.load(Relaxed);
        if now_ms < last_ms + LEARN_MS && last_ms != 0 {
            return;
        }
        if self.shared.learned_ms.compare_exchange(last_ms, now_ms.max(1), Relaxed, Relaxed).is_err() {
            return;
        }
        let elapsed_ms = if last_ms == 0 { LEARN_MS } else { now_ms - last_ms };
        let (mut busy, mut sessions) = (0, 0);
        for group in self.review.groups() {
            let mut sweep = self.sweep(group, now_ms);
            group.pool.learn(sweep.median_us(), sweep.base_us(), elapsed_ms);
            let (more_busy, more_sessions) = sweep.work();
            (busy, sessions) = (busy + more_busy, sessions + more_sessions);
        }
        let floors = || self.review.groups().iter().map(|group| group.pool.floor_us()).filter(|&floor| floor > 0.0);
        let least = floors().min_by(f32::total_cmp).unwrap_or(0.0);
        self.review.groups().iter().for_each(|group| group.pool.expect(least));
        if sessions > 0 {
            self.learn_duty(busy as f32 / sessions as f32, elapsed_ms);
        }
    }

    fn sweep(&self, group: &Group, now_ms: u64) -> Sweep {
        let (count, mut sweep) = (group.seats.len(), Sweep::new());
        // A stride through a large zone that starts somewhere else each time.
        let step = count.div_ceil(SWEEP_MOST).max(1);
        let start = (now_ms / LEARN_MS) as usize % step;
        for seat in group.seats[start.min(count)..].iter().step_by(step) {
            sweep.add(&seat.state.line, now_ms);
        }
        sweep
    }

    fn learn_duty(&self, seen: f32, elapsed_ms: u64) {
        let duty = self.shared.duty();
        let gain = elapsed_ms as f32 / (elapsed_ms as f32 + DUTY_TAU_MS);
        let next = (duty + gain * (seen - duty)).clamp(DUTY_LEAST, 1.0);
        self.shared.duty.store(next.to_bits(), Relaxed);
    }
}

/// How often pools learn.
const LEARN_MS: u64 = 100;
/// Time constant of the duty, and the least that an open session counts for: low enough for sessions that linger ten
/// seconds after half a second of use (a floor of 0.02 cost a quarter of the tail there), high enough to spread idle ones.
const DUTY_TAU_MS: f32 = 1_000.0;
const DUTY_LEAST: f32 = 0.002;
/// Half of a zone gone is more often a broken check (Envoy's default).
const PANIC_THRESHOLD: u8 = 50;
/// Below this zones of one city differ by chance.
const ZONE_MARGIN: Duration = Duration::from_millis(1);

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
