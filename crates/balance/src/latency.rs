//! The latency policy: where will the answer come soonest?
//!
//! Within a zone the backend with the least
//!
//! ```text
//!   score = Q · (L / w + 1) · F · W     Q  answer time without the network, towards the zone's floor P when it is old
//!                                       L  load: max(turns + connecting, sessions · duty, sessions begun lately / 5)
//!                                       w  weight over the mean weight of its zone
//!                                       F  1 / (1 − failure ratio)²
//!                                       W  warm-up: 4 (L + 1) / (1 + answers) for an unknown backend with more in flight
//!                                          than it has answered
//! ```
//!
//! of all up to sixteen, or of sixteen drawn evenly. The product has what a prediction by load lacks, a force that
//! brings equal backends back together; and drawing by weight would make wrong weights unrecoverable.
//!
//! A session stays in the home zone until that takes twice its floor (the gate: closed again at one and a half times).
//! With the gate open every session compares the best of each zone by
//!
//! ```text
//!   T = B + Q · max(m, (L + 4) / (N + 4)) · F · W     B  base round trip    N  load at which Q was measured
//!                                                     m  0.25 at home, 1 elsewhere
//! ```
//!
//! and leaves for a T that is 10 % and the margin better. Each one that leaves raises T there and lowers it here, so that
//! the comparison needs no controller; an integrating one was tried, and flapped. The gate is passed over when the home
//! zone has nobody to pick, when its best has not answered anything for twenty floors, and by retries, of which the
//! last goes to another zone if it can.

use std::sync::atomic::Ordering::Relaxed;

use crate::backend::Gate;
use crate::estimate::{Line, WARM_SAMPLES};
use crate::lease::STUCK_FLOORS;
use crate::pool::Pool;
use crate::review::{Group, Seat};
use crate::{BackendSet, Rng, Zones};

/// Everything that the score of a backend is made of, at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Estimated answer time without the network (Q); 0 unknown.
    pub answer_us: f32,
    /// What is expected of it now: `answer_us`, or the floor of its zone when that is unknown or old (Qr).
    pub expected_us: f32,
    /// Base round trip (B); that of the zone's nearest while its own is unknown, 0 while none is known.
    pub base_us: f32,
    /// Load (L).
    pub load: f32,
    /// Load at which the answer time was measured (Nb).
    pub load_measured: f32,
    /// Weight over the mean of its zone (w).
    pub weight: f32,
    /// Failure factor (F), 1 without failures.
    pub failure: f32,
    /// Warm-up factor (W), 1 when warm.
    pub warming: f32,
    /// Answers it has given since it was unknown.
    pub samples: u32,
    /// The score, in microseconds: lowest wins within a zone.
    pub score_us: f32,
}

impl Terms {
    /// Whether it has answered often enough to be known. Until then its score rises steeply once more is in
    /// flight than it has answered.
    pub fn is_warm(&self) -> bool {
        self.samples >= WARM_SAMPLES
    }

    /// The time of an answer from here with the distance counted (T); `home` is whether it is in the home zone.
    pub fn time_us(&self, home: bool) -> f32 {
        let least = if home { LEAST_LOAD_HOME } else { LEAST_LOAD_AWAY };
        let load = (self.load + LOAD_SOFTENER) / (self.load_measured + LOAD_SOFTENER);
        self.base_us + self.expected_us * load.max(least) * self.failure * self.warming
    }
}

/// Whether the home zone may be left, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneGate {
    /// The home zone is as fast as ever; no other is looked at.
    Closed,
    /// It takes more than twice its floor.
    Open,
    /// Nobody there may be picked.
    NobodyHome,
    /// Its best backend has not answered anything for long.
    Stuck,
    /// A retry: a backend at home has failed this session.
    Retry,
    /// Zones mean nothing here, or the home zone must not be left.
    Unused,
}

impl ZoneGate {
    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::NobodyHome => "nobody_home",
            Self::Stuck => "stuck",
            Self::Retry => "retry",
            Self::Unused => "unused",
        }
    }
}

/// A backend that was chosen among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Best {
    pub(crate) at: usize,
    pub(crate) terms: Terms,
}

/// What the policy decided, with what it decided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub(crate) winner: Best,
    pub(crate) spill: bool,
    pub(crate) gate: ZoneGate,
    /// The best at home and the best elsewhere, as far as they were looked at.
    pub(crate) home: Option<Best>,
    pub(crate) away: Option<Best>,
}

/// The policy over one set at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency<'a> {
    set: &'a BackendSet,
    now_ms: u64,
    duty: f32,
    /// How many backends have failed the session.
    tried: usize,
}

impl<'a> Latency<'a> {
    pub(crate) fn new(set: &'a BackendSet, now_ms: u64, tried: usize) -> Self {
        Self { set, now_ms, duty: set.shared().duty(), tried }
    }

    /// Chooses on one level among those whom `admits` admits.
    pub(crate) fn decide(
        &self,
        level: usize,
        admits: impl Fn(&Seat) -> bool + Copy,
        rng: &mut Rng,
    ) -> Option<Decision> {
        let (groups, home) = self.set.review().level(level);
        match self.set.settings().zones {
            Zones::Ignore => self.best(self.set.review().whole(level), admits, rng).map(Decision::undivided),
            Zones::Strict => self.best(&groups[home?].seats, admits, rng).map(Decision::undivided),
            Zones::Latency => self.across(groups, home, admits, rng),
        }
    }

    fn across(
        &self,
        groups: &[Group],
        home: Option<usize>,
        admits: impl Fn(&Seat) -> bool + Copy,
        rng: &mut Rng,
    ) -> Option<Decision> {
        let best_home = home.and_then(|home| self.best(&groups[home].seats, admits, rng));
        let gate = self.gate(home.map(|home| &*groups[home].pool), best_home);
        let away = if gate == ZoneGate::Closed { None } else { self.away(groups, home, admits, rng) };
        let spill = match (best_home, away) {
            (None, _) => true,
            (_, None) => false,
            (Some(home), Some(away)) => self.leaves(&home.terms, &away.terms),
        };
        let winner = if spill { away } else { best_home }?;
        Some(Decision { winner, spill, gate, home: best_home, away })
    }

    fn gate(&self, pool: Option<&Pool>, best: Option<Best>) -> ZoneGate {
        let (Some(pool), Some(best)) = (pool, best) else { return ZoneGate::NobodyHome };
        let stuck_ms = self.set.backends()[best.at].state().line.stuck_ms(self.now_ms) as f32;
        match () {
            () if self.tried > 0 => ZoneGate::Retry,
            () if pool.is_open() => ZoneGate::Open,
            () if stuck_ms > STUCK_LEAST_MS && stuck_ms > STUCK_FLOORS * pool.floor_us() / 1e3 => ZoneGate::Stuck,
            () => ZoneGate::Closed,
        }
    }

    /// The best of each other zone, and of these the soonest.
    fn away(
        &self,
        groups: &[Group],
        home: Option<usize>,
        admits: impl Fn(&Seat) -> bool + Copy,
        rng: &mut Rng,
    ) -> Option<Best> {
        let mut soonest: Option<Best> = None;
        for (at, group) in groups.iter().enumerate() {
            let best = if Some(at) == home { None } else { self.best(&group.seats, admits, rng) };
            let Some(best) = best else { continue };
            if soonest.is_none_or(|other| best.terms.time_us(false) < other.terms.time_us(false)) {
                soonest = Some(best);
            }
        }
        soonest
    }

    fn leaves(&self, home: &Terms, away: &Terms) -> bool {
        let margin_us = self.set.settings().zone_margin.as_micros() as f32;
        self.tried >= LAST_RETRY || away.time_us(false) < (home.time_us(true) - margin_us) / MARGIN_RATIO
    }

    /// The lowest score among `seats`, or among sixteen of them; a trial that is due goes first, since it is the one way
    /// back and asks for one session.
    fn best(&self, seats: &[Seat], admits: impl Fn(&Seat) -> bool, rng: &mut Rng) -> Option<Best> {
        let mut lead = Lead { latency: self, seat: None, score_us: f32::INFINITY, seen: 0 };
        self.scan(&mut lead, seats, admits, rng);
        let seat = lead.seat?;
        // Weighed once more for all of its terms: the scan keeps no more than the score.
        Some(Best { at: seat.at as usize, terms: self.weigh(seat) })
    }

    /// Sixteen are drawn one from each sixteenth of the zone, turned by a random offset: distinct, each backend as
    /// likely as any other. Where too many of them may not be picked, others are found by a walk.
    fn scan<'s>(&self, lead: &mut Lead<'s>, seats: &'s [Seat], admits: impl Fn(&Seat) -> bool, rng: &mut Rng)
    where
        'a: 's,
    {
        let count = seats.len();
        let start = rng.below(count as u64) as usize;
        if count > SAMPLE {
            for stratum in 0..SAMPLE {
                let (low, high) = (stratum * count / SAMPLE, (stratum + 1) * count / SAMPLE);
                let nth = low + rng.below((high - low) as u64) as usize + start;
                let seat = &seats[if nth >= count { nth - count } else { nth }];
                if admits(seat) && lead.offer(seat) {
                    return;
                }
            }
            if lead.seen >= SAMPLE_LEAST {
                return;
            }
        }
        let (before, after) = seats.split_at(start);
        for part in [after, before] {
            for seat in part {
                if admits(seat) && (lead.offer(seat) || lead.seen > SAMPLE + SAMPLE_LEAST) {
                    return;
                }
            }
        }
    }

    /// The terms of a backend.
    #[inline(always)]
    pub(crate) fn weigh(&self, seat: &Seat) -> Terms {
        let line = &seat.state.line;
        // Behind two more pointers, and needed only for what is unknown, old or to be shown.
        let pool = || &**self.set.backends()[seat.at as usize].pool();
        let (answer_us, load_measured) = line.answer();
        let samples = line.samples();
        let load = load(line, self.duty, 0, self.now_ms);
        let expected_us = self.expected(line, pool, answer_us, samples);
        let failure = match line.failure(self.now_ms) {
            0.0 => 1.0,
            _ if seat.state.gate(self.now_ms) == Gate::TrialDue => 1.0,
            ratio => (1.0 - ratio.min(FAILURE_MOST)).powi(-2),
        };
        let warming = if samples < WARM_SAMPLES && load >= 1.0 + samples as f32 {
            WARMING * (load + 1.0) / (1.0 + samples as f32)
        } else {
            1.0
        };
        let score_us = expected_us.max(EXPECTED_LEAST_US) * (load * seat.per_load + 1.0) * failure * warming;
        Terms {
            answer_us: if samples > 0 { answer_us } else { 0.0 },
            expected_us,
            base_us: match line.base_us() {
                0.0 => pool().base_us(),
                base => base,
            },
            load,
            load_measured,
            weight: seat.per_load.recip(),
            failure,
            warming,
            samples,
            score_us,
        }
    }

    /// Fresh knowledge as it is; old knowledge on its way back to the floor, so that a backend that was slow is tried
    /// again; the floor for the unknown.
    #[inline(always)]
    fn expected<'p>(&self, line: &Line, pool: impl Fn() -> &'p Pool, answer_us: f32, samples: u32) -> f32 {
        if samples == 0 {
            return pool().prior_us();
        }
        let age_ms = line.sample_age_ms(self.now_ms);
        if age_ms <= STALE_AFTER_MS {
            return answer_us;
        }
        let prior = pool().prior_us();
        prior + (answer_us - prior) * (-((age_ms - STALE_AFTER_MS) as f32) / STALE_TAU_MS).exp()
    }
}

impl Decision {
    fn undivided(winner: Best) -> Self {
        Self { winner, spill: false, gate: ZoneGate::Unused, home: Some(winner), away: None }
    }
}

/// The best so far.
struct Lead<'a> {
    latency: &'a Latency<'a>,
    seat: Option<&'a Seat>,
    score_us: f32,
    seen: usize,
}

impl<'a> Lead<'a> {
    /// Considers a backend; `true` when it wins at once.
    #[inline(always)]
    fn offer(&mut self, seat: &'a Seat) -> bool {
        let score_us = self.latency.weigh(seat).score_us;
        self.seen += 1;
        let is_trial = self.latency.tried == 0 && seat.state.gate(self.latency.now_ms) == Gate::TrialDue;
        if is_trial || score_us < self.score_us {
            (self.seat, self.score_us) = (Some(seat), score_us);
        }
        is_trial
    }
}

/// The load of a backend, `without` so many of its sessions. One formula for short connections (duty near 1: least
/// connections), long ones that are mostly idle, and sessions that linger. Sessions that have just begun count for more
/// than idle ones: nobody knows yet what they will do, and a client's pool that is filled at once would otherwise go to
/// one backend as a whole.
#[inline]
pub(crate) fn load(line: &Line, duty: f32, without: u32, now_ms: u64) -> f32 {
    let working = line.turns.load(Relaxed) + line.connecting.load(Relaxed);
    let sessions = line.sessions.load(Relaxed).saturating_sub(without) as f32;
    (working as f32).max(sessions * duty).max(BEGUN * line.lately(now_ms).min(sessions))
}

/// What a session that has just begun counts for. By simulation: whole sessions for a second place those that live for
/// seconds worse (unequal machines: p99 22 ms); a fifth for 180 ms does not (16.5 ms against 16.6 without), and costs
/// sessions that open with a handshake and live for a fraction of a second 13 % of p99.
const BEGUN: f32 = 0.2;
/// Backends that a pick looks at. More is better at any number that was simulated, up to a hundred proxies over thirty
/// backends; sixteen costs about 100 ns.
pub(crate) const SAMPLE: usize = 16;
/// Fewer than this among the sixteen are too few to choose from.
const SAMPLE_LEAST: usize = 8;
/// Below this answer times are noise.
const EXPECTED_LEAST_US: f32 = 50.0;
/// A backend that only fails is not infinitely bad.
const FAILURE_MOST: f32 = 0.97;
const WARMING: f32 = 4.0;
const STALE_AFTER_MS: u32 = 5_000;
const STALE_TAU_MS: f32 = 10_000.0;
/// What softens the ratio of loads where both are small.
const LOAD_SOFTENER: f32 = 4.0;
const LEAST_LOAD_HOME: f32 = 0.25;
const LEAST_LOAD_AWAY: f32 = 1.0;
/// How much sooner, as a ratio, another zone must answer.
const MARGIN_RATIO: f32 = 1.1;
/// A best backend at home that is silent for less may be waiting for one slow answer.
const STUCK_LEAST_MS: f32 = 20.0;
/// From this retry on another zone goes first.
const LAST_RETRY: usize = 2;
