//! What the backends of a zone have in common: their uncongested level, their present time, and the gate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::estimate::{Line, Mean};
use crate::set::Shared;
use crate::{Sample, TurnClass, Zone};

/// A zone of a service. Stays through all sets that have the zone.
#[derive(Debug)]
pub(crate) struct Pool {
    zone: Zone,
    service: Arc<Shared>,
    /// The uncongested answer time in f32 microseconds; 0 unknown.
    floor: AtomicU32,
    /// What an unknown backend is expected to take: the floor, or another zone's while this one has none.
    prior: AtomicU32,
    /// Smallest base round trip among its backends; 0 unknown.
    base: AtomicU32,
    /// Answer time of the zone now.
    time: Mean,
    /// Means of the classes of turns.
    first: Mean,
    later: Mean,
    open: AtomicBool,
    flips: AtomicU64,
    spills: AtomicU64,
}

impl Pool {
    pub(crate) fn new(zone: Zone, service: Arc<Shared>) -> Self {
        let (floor, prior, base) = Default::default();
        let (time, first, later) = Default::default();
        let (open, flips, spills) = Default::default();
        Self { zone, service, floor, prior, base, time, first, later, open, flips, spills }
    }

    pub(crate) fn zone(&self) -> &Zone {
        &self.zone
    }

    pub(crate) fn service(&self) -> &Shared {
        &self.service
    }

    pub(crate) fn floor_us(&self) -> f32 {
        f32::from_bits(self.floor.load(Relaxed))
    }

    pub(crate) fn prior_us(&self) -> f32 {
        f32::from_bits(self.prior.load(Relaxed))
    }

    pub(crate) fn base_us(&self) -> f32 {
        f32::from_bits(self.base.load(Relaxed))
    }

    pub(crate) fn time_us(&self) -> f32 {
        self.time.get()
    }

    /// Whether sessions may be compared with other zones.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// How often the gate opened or closed.
    pub(crate) fn flips(&self) -> u64 {
        self.flips.load(Relaxed)
    }

    /// Sessions of the home zone that came here because it was cheaper.
    pub(crate) fn spills(&self) -> u64 {
        self.spills.load(Relaxed)
    }

    pub(crate) fn count_spill(&self) {
        self.spills.fetch_add(1, Relaxed);
    }

    /// The time of a turn in the scale of later turns: a first turn is other work, and a backend that happens to get
    /// more new connections must not look faster or slower for it.
    pub(crate) fn scaled(&self, sample: Sample, base_us: f32, now_ms: u64) -> f32 {
        let net_us = (sample.took_us as f32 - base_us).max(1.0);
        let (own, first) = match sample.class {
            TurnClass::First => (&self.first, true),
            TurnClass::Later | TurnClass::Untimed => (&self.later, false),
        };
        let mean = own.get();
        let clipped = if mean > 0.0 { net_us.min(CLASS_CLIP * mean) } else { net_us };
        own.update(clipped, now_ms, CLASS_TAU_MS, CLASS_GAIN);
        let (first_us, later_us) = (self.first.get(), self.later.get());
        if !first || first_us <= 0.0 || later_us <= 0.0 {
            return sample.took_us as f32;
        }
        base_us + net_us * (later_us / first_us).clamp(1.0 / SCALE_MOST, SCALE_MOST)
    }

    /// Takes an answer's net time into the zone's, and moves the gate.
    pub(crate) fn saw(&self, net_us: f32, now_ms: u64) {
        let time = self.time.update(net_us, now_ms, TIME_TAU_MS, TIME_GAIN);
        let floor = self.floor_us();
        if floor <= 0.0 {
            return;
        }
        let was = self.is_open();
        let open = if was { time >= CLOSES_BELOW * floor } else { time > OPENS_ABOVE * floor };
        if open != was {
            self.open.store(open, Relaxed);
            self.flips.fetch_add(1, Relaxed);
        }
    }

    /// Learns the floor from the lower median of its backends' times, `elapsed_ms` after the last time.
    pub(crate) fn learn(&self, median_us: Option<f32>, base_us: f32, elapsed_ms: u64) {
        if base_us > 0.0 {
            self.base.store(base_us.to_bits(), Relaxed);
        }
        let Some(median) = median_us else { return };
        let floor = self.floor_us();
        let next = match () {
            () if floor <= 0.0 || median < floor => median,
            () => {
                let tau = if self.is_open() { FLOOR_TAU_OPEN_MS } else { FLOOR_TAU_MS };
                floor + (median - floor) * (1.0 - (-(elapsed_ms as f32) / tau).exp())
            }
        };
        self.floor.store(next.max(1.0).to_bits(), Relaxed);
    }

    /// Sets what is expected of the unknown: the own floor, else `other_us`.
    pub(crate) fn expect(&self, other_us: f32) {
        let floor = self.floor_us();
        let prior = if floor > 0.0 { floor } else { other_us };
        self.prior.store(prior.to_bits(), Relaxed);
    }
}

/// A sweep over some backends of a zone: what the pool learns from. *Cost*: bounded, without allocation.
#[derive(Debug)]
pub(crate) struct Sweep {
    times: [f32; SWEEP_MOST],
    count: usize,
    base_us: f32,
    busy: u64,
    sessions: u64,
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Self { times: [0.0; SWEEP_MOST], count: 0, base_us: 0.0, busy: 0, sessions: 0 }
    }

    pub(crate) fn add(&mut self, line: &Line, now_ms: u64) {
        let speaks = line.samples() >= SWEEP_SAMPLES && line.sample_age_ms(now_ms) <= SWEEP_AGE_MS;
        if speaks && self.count < SWEEP_MOST {
            self.times[self.count] = line.answer().0;
            self.count += 1;
        }
        let base = line.base_us();
        if base > 0.0 && (self.base_us == 0.0 || base < self.base_us) {
            self.base_us = base;
        }
        let (turns, connecting) = (line.turns.load(Relaxed), line.connecting.load(Relaxed));
        self.busy += u64::from(turns) + u64::from(connecting);
        self.sessions += u64::from(line.sessions.load(Relaxed));
    }

    /// The lower median of the times.
    pub(crate) fn median_us(&mut self) -> Option<f32> {
        let times = &mut self.times[..self.count];
        let middle = times.len().checked_sub(1)? / 2;
        Some(*times.select_nth_unstable_by(middle, f32::total_cmp).1)
    }

    pub(crate) fn base_us(&self) -> f32 {
        self.base_us
    }

    /// (busy, sessions).
    pub(crate) fn work(&self) -> (u64, u64) {
        (self.busy, self.sessions)
    }
}

/// Backends of a zone that a sweep looks at.
pub(crate) const SWEEP_MOST: usize = 256;
/// Answers before a backend speaks for its zone.
const SWEEP_SAMPLES: u32 = 3;
/// How old its last answer may be: what a backend once took that is drained or a backup now is not what the zone can do.
const SWEEP_AGE_MS: u32 = 30_000;
/// The gate: opens when the zone takes twice its floor and closes at one and a half times.
const OPENS_ABOVE: f32 = 2.0;
const CLOSES_BELOW: f32 = 1.5;
/// Time constant and least gain of the zone's time.
const TIME_TAU_MS: f32 = 500.0;
const TIME_GAIN: f32 = 0.002;
/// The floor falls at once and rises within minutes, so that it remembers what the zone can do when it is not congested.
const FLOOR_TAU_MS: f32 = 60_000.0;
/// While the gate is open the zone is congested by its own judgement; a floor that learned from that would close the
/// gate on an overload that lasts.
const FLOOR_TAU_OPEN_MS: f32 = 1_800_000.0;
/// Class means: slow, since they are ratios of a workload and not states of a machine.
const CLASS_TAU_MS: f32 = 10_000.0;
const CLASS_GAIN: f32 = 0.002;
const CLASS_CLIP: f32 = 16.0;
/// How different the classes may be.
const SCALE_MOST: f32 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(Zone::default(), Arc::default())
    }

    #[test]
    fn the_gate_opens_at_twice_the_floor_and_closes_at_one_and_a_half() {
        let pool = pool();
        pool.learn(Some(5_000.0), 0.0, 100);
        let settle = |us: f32, from: u64| (0..5_000).for_each(|n| pool.saw(us, from + n));
        settle(9_000.0, 0);
        assert!(!pool.is_open());
        settle(11_000.0, 10_000);
        assert!(pool.is_open());
        settle(9_000.0, 20_000);
        assert!(pool.is_open(), "between the thresholds it stays as it is");
        settle(7_000.0, 30_000);
        assert!(!pool.is_open());
        assert_eq!(pool.flips(), 2);
    }

    #[test]
    fn the_floor_remembers_the_uncongested_level() {
        let pool = pool();
        pool.learn(Some(5_000.0), 0.0, 100);
        (0..300).for_each(|_| pool.learn(Some(40_000.0), 0.0, 100));
        assert!(pool.floor_us() < 19_500.0, "half a minute of congestion is not a new level");
        pool.learn(Some(4_000.0), 0.0, 100);
        assert_eq!(pool.floor_us(), 4_000.0);
    }

    #[test]
    fn first_turns_are_scaled_to_what_later_turns_take() {
        let pool = pool();
        let sample = |class, took_us| Sample { class, took_us };
        for now_ms in 0..5_000 {
            pool.scaled(sample(TurnClass::First, 1_500), 500.0, now_ms);
            pool.scaled(sample(TurnClass::Later, 10_500), 500.0, now_ms);
        }
        let scaled = pool.scaled(sample(TurnClass::First, 1_500), 500.0, 5_000);
        assert!((scaled - 10_500.0).abs() < 100.0, "{scaled}");
        assert_eq!(pool.scaled(sample(TurnClass::Later, 7_000), 500.0, 5_000), 7_000.0);
    }
}
