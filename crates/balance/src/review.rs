//! Panic: deciding, per zone, that so few backends are left that the evidence against the others must be wrong.
//!
//! A check that fails everywhere is more often a broken check than a broken zone, and sending everything to the few
//! that pass would break those as well (Envoy's panic threshold; Facebook 2021-10). Judged at most every 100 ms, or at
//! once after an ejection or readmission, so that a pick costs two loads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::backend::Gate;
use crate::pool::Pool;
use crate::set::Level;
use crate::{Availability, Backend, BackendSet, BackendState, Zone, Zones};

/// The judgement over one set.
#[derive(Debug)]
pub(crate) struct Review {
    /// One entry for each zone of each level.
    groups: Vec<Group>,
    /// Backend index → group index.
    group_of: Vec<u32>,
    /// For each level, its groups and which of them is the home zone.
    levels: Vec<(Range<usize>, Option<usize>)>,
    /// For each level, all of its backends; only for [`Zones::Ignore`].
    whole: Vec<Vec<Seat>>,
    /// The lowest level with a backend that may be picked, or [`NO_LEVEL`].
    level: AtomicUsize,
    /// Whether that level has a zone with such a backend that is not in panic.
    calm: AtomicBool,
    /// Whether any zone is in panic.
    any_panicking: AtomicBool,
    due_ms: AtomicU64,
    events: AtomicU64,
}

/// The backends of one zone on one level.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) level: usize,
    pub(crate) pool: Arc<Pool>,
    /// Its backends.
    pub(crate) seats: Vec<Seat>,
    panicking: AtomicBool,
}

/// A backend as a scan of its zone needs it: side by side, so that a pick among many follows one pointer for each.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) state: Arc<BackendState>,
    /// Where it stands in the set.
    pub(crate) at: u32,
    /// What a unit of load weighs: the mean weight of the zone over its own, so that a weight is a share and not a count.
    pub(crate) per_load: f32,
    pub(crate) availability: Availability,
}

/// Seats for the backends of a set at `members`.
fn seats(backends: &[Arc<Backend>], members: impl Iterator<Item = usize> + Clone) -> Vec<Seat> {
    let weights = members.clone().map(|at| backends[at].endpoint().weight).filter(|&weight| weight > 0);
    let (sum, count) = weights.fold((0.0f64, 0u32), |(sum, count), weight| (sum + f64::from(weight), count + 1));
    let mean = if count > 0 { sum / f64::from(count) } else { 1.0 };
    let seat = |at: usize| {
        let backend = &backends[at];
        Seat {
            state: Arc::clone(backend.shared_state()),
            at: at as u32,
            per_load: (mean / f64::from(backend.endpoint().weight.max(1))) as f32,
            availability: backend.availability(),
        }
    };
    members.map(seat).collect()
}

impl Group {
    fn new(level: usize, pool: Arc<Pool>) -> Self {
        Self { level, pool, seats: Vec::new(), panicking: AtomicBool::new(false) }
    }

    pub(crate) fn zone(&self) -> &Zone {
        self.pool.zone()
    }
}

/// Which backends a first pick may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those that may be picked, in zones of this level that are not in panic; and, in any zone, those due for a trial.
    Calm { level: usize },
    /// The same without orphans; where a retry begins.
    Reported { level: usize },
    /// All of this level that are not draining: every zone with somebody left is in panic.
    Panic { level: usize },
    /// Nobody anywhere may be picked; all that are not draining.
    Desperate,
}

impl Scope {
    /// Whether checks and ejections count.
    pub(crate) fn is_calm(self) -> bool {
        matches!(self, Self::Calm { .. } | Self::Reported { .. })
    }
}

impl Review {
    pub(crate) fn new(backends: &[Arc<Backend>], levels: &[Level], home: &Zone, zones: Zones) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = Vec::with_capacity(backends.len());
        let mut spans = Vec::with_capacity(levels.len());
        for (level, Level { range, .. }) in levels.iter().enumerate() {
            let first = groups.len();
            let mut by_zone = std::collections::HashMap::new();
            for backend in &backends[range.clone()] {
                let at = *by_zone.entry(backend.zone()).or_insert_with(|| {
                    groups.push(Group::new(level, Arc::clone(backend.pool())));
                    groups.len() - 1
                });
                debug_assert!(at >= first, "a group belongs to one level");
                group_of.push(at as u32);
            }
            let own = groups[first..].iter().position(|group| group.zone() == home);
            spans.push((first..groups.len(), own));
        }
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
        group_of.iter().enumerate().for_each(|(at, &group)| members[group as usize].push(at));
        for (group, members) in groups.iter_mut().zip(members) {
            group.seats = seats(backends, members.into_iter());
        }
        // Only where zones mean nothing is a level looked at as one.
        let whole =
            |level: &Level| if zones == Zones::Ignore { seats(backends, level.range.clone()) } else { Vec::new() };
        let whole = levels.iter().map(whole).collect();
        Self {
            groups,
            group_of,
            levels: spans,
            whole,
            level: AtomicUsize::new(NO_LEVEL),
            calm: AtomicBool::new(false),
            any_panicking: AtomicBool::new(false),
            due_ms: AtomicU64::new(0),
            events: AtomicU64::new(u64::MAX),
        }
    }

    /// Judges anew if the time has come or something happened.
    pub(crate) fn refresh(&self, set: &BackendSet, now_ms: u64) {
        let events = set.shared().events.load(Relaxed);
        let fresh = events == self.events.load(Relaxed) && now_ms < self.due_ms.load(Relaxed);
        if fresh {
            return;
        }
        // Stored first: an event while this runs makes the next pick judge again.
        self.events.store(events, Relaxed);
        self.due_ms.store(now_ms + INTERVAL_MS, Relaxed);
        self.judge(set, now_ms);
    }

    fn judge(&self, set: &BackendSet, now_ms: u64) {
        let mut counts = vec![Count::default(); self.groups.len()];
        for (backend, &group) in set.backends().iter().zip(&self.group_of) {
            counts[group as usize].add(backend, now_ms);
        }
        let threshold = u32::from(set.settings().panic_threshold);
        for (group, count) in self.groups.iter().zip(&counts) {
            group.panicking.store(count.panicking(threshold), Relaxed);
        }
        self.any_panicking.store(counts.iter().any(|count| count.panicking(threshold)), Relaxed);
        let occupied = || self.groups.iter().zip(&counts).filter(|(_, count)| count.pickable > 0);
        let level = occupied().map(|(group, _)| group.level).min().unwrap_or(NO_LEVEL);
        let calm = occupied().any(|(group, count)| group.level == level && !count.panicking(threshold));
        self.level.store(level, Relaxed);
        self.calm.store(calm, Relaxed);
    }

    pub(crate) fn scope(&self) -> Scope {
        match (self.level.load(Relaxed), self.calm.load(Relaxed)) {
            (NO_LEVEL, _) => Scope::Desperate,
            (level, true) => Scope::Calm { level },
            (level, false) => Scope::Panic { level },
        }
    }

    /// Whether the zone of the backend at `at` is in panic on its level.
    pub(crate) fn panicking(&self, at: usize) -> bool {
        self.group(at).panicking.load(Relaxed)
    }

    /// Whether any zone is.
    pub(crate) fn any_panicking(&self) -> bool {
        self.any_panicking.load(Relaxed)
    }

    /// The zones of every level, each with whether it is in panic on the level that picks use now. Levels that wait for
    /// their turn tell nothing: a backup that nobody tries may have been ejected long ago.
    pub(crate) fn zones(&self) -> impl Iterator<Item = (&Zone, bool)> {
        let level = self.level.load(Relaxed);
        let in_use = move |group: &Group| level == NO_LEVEL || group.level == level;
        self.groups.iter().map(move |group| (group.zone(), in_use(group) && group.panicking.load(Relaxed)))
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The groups of a level, and which of them is the home zone.
    pub(crate) fn level(&self, level: usize) -> (&[Group], Option<usize>) {
        let (range, home) = &self.levels[level];
        (&self.groups[range.clone()], *home)
    }

    /// All backends of a level, under [`Zones::Ignore`].
    pub(crate) fn whole(&self, level: usize) -> &[Seat] {
        &self.whole[level]
    }

    /// The seat of the backend at `at`.
    pub(crate) fn seat(&self, at: usize) -> &Seat {
        let seats = &self.group(at).seats;
        let nth = seats.binary_search_by_key(&at, |seat| seat.at as usize);
        &seats[nth.expect("every backend has a seat in its zone")]
    }

    /// The group of the backend at `at`.
    pub(crate) fn group(&self, at: usize) -> &Group {
        &self.groups[self.group_of[at] as usize]
    }
}

/// What there is in one zone of one level.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Not draining.
    members: u32,
    /// Of these, in full service.
    healthy: u32,
    /// Of these, in service or due for a trial.
    pickable: u32,
}

impl Count {
    fn add(&mut self, backend: &Backend, now_ms: u64) {
        let availability = backend.availability();
        let gate = backend.state().gate(now_ms);
        // An orphan that does not answer is gone; that says nothing of those that are not orphans.
        if backend.is_orphan() && (availability != Availability::Up || gate != Gate::Open) {
            return;
        }
        self.members += u32::from(availability != Availability::Draining);
        self.healthy += u32::from(availability == Availability::Up && gate == Gate::Open);
        self.pickable += u32::from(availability == Availability::Up && matches!(gate, Gate::Open | Gate::TrialDue));
    }

    fn panicking(self, threshold_percent: u32) -> bool {
        self.healthy * 100 < self.members * threshold_percent
    }
}

const NO_LEVEL: usize = usize::MAX;
/// How old a judgement may be when nothing was heard: the end of an ejection is not an event.
const INTERVAL_MS: u64 = 100;
