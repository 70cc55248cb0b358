//! Why a pick would go where it goes: the pick's own code, with everything that it looked at laid open.

use crate::backend::Gate;
use crate::latency::{Latency, Terms, ZoneGate};
use crate::pick::{Admission, Choice};
use crate::{Backend, BackendSet, PickReason, Rng, Standing, Zone};
use std::sync::Arc;

/// What one pick would do, and by what.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Every backend, in the order of the set.
    pub candidates: Vec<Candidate>,
    /// The zones.
    pub zones: Vec<ZoneView>,
    /// The index of the winner, and why it was picked; nothing when the session would wait or be refused.
    pub winner: Option<(usize, PickReason)>,
    /// Whether it would wait for a place, since all who may be picked are full.
    pub waits: bool,
    /// Under the latency policy: whether other zones were looked at.
    pub gate: ZoneGate,
    /// The index and time (in microseconds, distance counted) of the best at home.
    pub home: Option<(usize, f32)>,
    /// The same for the best elsewhere.
    pub away: Option<(usize, f32)>,
}

/// One backend as a pick sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub backend: Arc<Backend>,
    /// Whether it may be picked, or why not.
    pub admission: Admission,
    /// How it stands.
    pub standing: Standing,
    /// What its score is made of.
    pub terms: Terms,
    /// The time of an answer with the distance counted, by which zones are compared.
    pub time_us: f32,
    /// Turns in flight.
    pub turns: u32,
    /// Sessions, connecting ones included.
    pub sessions: u32,
    /// Those of them that are connecting.
    pub connecting: u32,
    /// Share of recent tries that failed.
    pub failure_ratio: f32,
}

/// A zone of a service as the latency policy knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneView {
    /// Its name.
    pub zone: Zone,
    /// Whether it is ours.
    pub home: bool,
    /// Whether it is in panic on any level.
    pub panic: bool,
    /// Whether sessions of it may be compared with other zones.
    pub gate_open: bool,
    /// How often that changed.
    pub gate_flips: u64,
    /// Its uncongested answer time (P) in microseconds; 0 unknown.
    pub floor_us: f32,
    /// Its answer time now (Z) in microseconds; 0 unknown.
    pub time_us: f32,
    /// The base round trip of its nearest backend in microseconds; 0 unknown.
    pub base_us: f32,
    /// Sessions of the home zone that it got because an answer from here would come sooner.
    pub spills: u64,
}

impl BackendSet {
    /// What [`BackendSet::pick`] would do with the same arguments. Nothing is counted and nobody is moved; `rng` draws as
    /// a pick's would. (Under `round_robin` the winner is whose turn it is.)
    ///
    /// *Cost*: allocates and looks at every backend.
    pub fn explain(&self, now_ms: u64, source: u64, tried: &[Arc<Backend>], rng: &mut Rng) -> Explanation {
        self.judge(now_ms);
        let mut found: Option<Choice> = None;
        let mut waits = false;
        let mut last = None;
        for scope in self.scopes(!tried.is_empty()) {
            let (choice, full) = self.choose(scope, now_ms, source, tried, rng, true);
            last = Some((scope, choice));
            (found, waits) = (choice, full && choice.is_none());
            if choice.is_some() || full {
                break;
            }
        }
        let scope = last.expect("there is always a scope to look at").0;
        let winner = found.map(|choice| {
            let trial = self.backends()[choice.at].state().gate(now_ms) == Gate::TrialDue;
            (choice.at, self.reason(choice, scope, trial, !tried.is_empty()))
        });
        let decision = found.and_then(|choice| choice.decision);
        let timed = |best: Option<crate::latency::Best>, home| best.map(|best| (best.at, best.terms.time_us(home)));
        Explanation {
            candidates: (0..self.backends().len())
                .map(|at| Candidate {
                    admission: self.admission(at, self.ask(scope, tried, now_ms)),
                    ..self.candidate(at, now_ms)
                })
                .collect(),
            zones: self.zones(now_ms),
            winner,
            waits,
            gate: decision.map_or(ZoneGate::Unused, |decision| decision.gate),
            home: timed(decision.and_then(|decision| decision.home), true),
            away: timed(decision.and_then(|decision| decision.away), false),
        }
    }

    /// The backend at `at` of [`BackendSet::backends`] as a first pick sees it; also the source of its metrics.
    pub fn candidate(&self, at: usize, now_ms: u64) -> Candidate {
        let (backend, group) = (&self.backends()[at], self.review().group(at));
        let terms = Latency::new(self, now_ms, 0).weigh(self.review().seat(at));
        let state = backend.state();
        Candidate {
            backend: Arc::clone(backend),
            admission: self.admission(at, self.ask(self.review().scope(), &[], now_ms)),
            standing: backend.standing(now_ms),
            terms,
            time_us: terms.time_us(*group.zone() == self.settings().home),
            turns: state.turns(),
            sessions: state.sessions(),
            connecting: state.connecting(),
            failure_ratio: state.failure_ratio(now_ms),
        }
    }

    /// The zones of this set.
    pub fn zones(&self, now_ms: u64) -> Vec<ZoneView> {
        let view = |(zone, panic): (Zone, bool)| {
            let group = self.review().groups().iter().find(|group| *group.zone() == zone);
            let pool = &group.expect("a zone of the set has a group").pool;
            ZoneView {
                home: zone == self.settings().home,
                zone,
                panic,
                gate_open: pool.is_open(),
                gate_flips: pool.flips(),
                floor_us: pool.floor_us(),
                time_us: pool.time_us(),
                base_us: pool.base_us(),
                spills: pool.spills(),
            }
        };
        self.panics(now_ms).into_iter().map(view).collect()
    }

    /// What an open session counts for beside one that waits for an answer (0.002 to 1), over the service.
    pub fn duty(&self) -> f32 {
        self.shared().duty()
    }
}
