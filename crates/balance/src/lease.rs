//! A picked backend, counted as load until it is let go.

use std::sync::Arc;
use std::time::Duration;

use crate::blame::SoFar;
use crate::flow::Flow;
use crate::{Backend, ConnectFailure, Rng, Sample, TurnClass, Zone};

/// Why a backend was picked; the `reason` of `dislocate_picks_total` and of the session record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PickReason {
    /// The policy's choice: in the home zone, or under a policy to which zones are all the same.
    Local,
    /// In another zone, because an answer from there will come sooner.
    Spill,
    /// The policy's choice among those not tried yet, after another one failed.
    Retry,
    /// The one session that tries a backend after its ejection.
    Trial,
    /// Checks and ejections were ignored, since too few backends of the zone would have been left.
    Panic,
    /// From a higher level, because no lower one had a backend to pick.
    Backup,
    /// Not the policy's choice: the client's connection id named it.
    Affinity,
}

impl PickReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 7] =
        [Self::Local, Self::Spill, Self::Retry, Self::Trial, Self::Panic, Self::Backup, Self::Affinity];

    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Spill => "spill",
            Self::Retry => "retry",
            Self::Trial => "trial",
            Self::Panic => "panic",
            Self::Backup => "backup",
            Self::Affinity => "affinity",
        }
    }
}

/// The right to use a backend for one session. It counts as load from the pick on, first as connecting and after
/// [`Lease::connected`] as established, and with its turn while the client waits for an answer; dropping it ends all of
/// that, whatever happened before.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    reason: PickReason,
    /// What the backend was chosen for; 0 under policies without a score.
    score: f32,
    connecting: bool,
    pub(crate) on_trial: bool,
    /// Of a flow of datagrams only.
    pub(crate) flow: Option<Flow>,
    /// Whether its end may be what a waiting session waits for.
    counted: bool,
    in_turn: bool,
    /// Load of the backend, apart from this session, when its turn began.
    load: f32,
    /// When the turn began.
    pub(crate) turn_ms: u64,
}

/// What a pick decided, before it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) reason: PickReason,
    pub(crate) score: f32,
    /// Whether the caller took the backend's trial.
    pub(crate) on_trial: bool,
    /// Most sessions of a backend; 0 for any number.
    pub(crate) capacity: u32,
}

impl Lease {
    /// Counts a session on `backend`, or nothing when it is full.
    pub(crate) fn new(backend: &Arc<Backend>, grant: Grant) -> Option<Self> {
        let state = backend.state();
        if !state.admit(grant.capacity) {
            if grant.on_trial {
                state.abandon_trial();
            }
            return None;
        }
        state.picked(grant.reason);
        Some(Self {
            backend: Arc::clone(backend),
            reason: grant.reason,
            score: grant.score,
            connecting: true,
            on_trial: grant.on_trial,
            flow: None,
            counted: grant.capacity > 0,
            in_turn: false,
            load: 0.0,
            turn_ms: 0,
        })
    }

    /// Whose session this is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Why it was picked.
    pub fn reason(&self) -> PickReason {
        self.reason
    }

    /// Where it is.
    pub fn zone(&self) -> &Zone {
        self.backend.zone()
    }

    /// The score that it was picked for, in microseconds; nothing under policies without one.
    pub fn score_us(&self) -> Option<f32> {
        (self.score > 0.0).then_some(self.score)
    }

    /// The round trip to the backend without load, for [`Turns`](crate::Turns): that of connects, since what is learned
    /// from answers cannot say which answers are too soon. 0 while unknown.
    pub fn base_us(&self) -> u32 {
        self.backend.state().line.connect_us() as u32
    }

    /// The connection is established, `took` after it was begun.
    pub fn connected(&mut self, now_ms: u64, took: Duration, rng: &mut Rng) {
        let on_trial = std::mem::take(&mut self.on_trial);
        self.on_trial = self.backend.state().connected(now_ms, took, on_trial, rng);
        if on_trial && !self.on_trial {
            self.backend.pool().service().changed();
        }
        self.end_connecting();
    }

    /// The client's bytes wait for an answer from now on.
    pub fn turn_began(&mut self, now_ms: u64) {
        if std::mem::replace(&mut self.in_turn, true) {
            return;
        }
        (self.load, self.turn_ms) = (self.load_without_us(now_ms), now_ms);
        self.backend.state().line.turn_began(now_ms);
    }

    /// The backend answered. In a flow of datagrams its distance is learned from that, there being no connect.
    pub fn turn_ended(&mut self, sample: Sample, now_ms: u64) {
        if !self.end_turn() {
            // A banner, or an answer after the client was given up on: nobody counted the wait for it.
            self.load = self.load_without_us(now_ms);
        }
        if let Some(flow) = &mut self.flow {
            flow.answered();
            self.backend.pool().service().replies.saw(true);
            if sample.class != TurnClass::Untimed {
                self.backend.state().line.saw_reply(sample.took_us as f32);
            }
        }
        let on_trial = std::mem::take(&mut self.on_trial);
        if self.backend.answered(sample, self.load, now_ms, on_trial) {
            self.backend.pool().service().changed();
        }
    }

    /// The backend reset the connection. If the client waits for an answer, or the backend was asked and never said a
    /// word, that is a failure of the backend. Returns whether it ejected the backend, for the log.
    pub fn server_reset(&mut self, so_far: SoFar, now_ms: u64, rng: &mut Rng) -> bool {
        let awaiting = self.end_turn();
        so_far.reset_is_failure(awaiting) && self.blame(now_ms, rng)
    }

    /// The backend ended its direction before the client ended its own. If client bytes were waiting for an answer, that
    /// is a failure of the backend where answers are known, since there are services that only listen. Returns whether it
    /// ejected the backend, for the log.
    pub fn server_finished(&mut self, now_ms: u64, rng: &mut Rng) -> bool {
        self.end_turn() && self.answers_are_known() && self.blame(now_ms, rng)
    }

    /// The client gave up while its bytes were waiting, `silent_ms` after the last byte moved. That is a failure of the
    /// backend if it answered nobody in all that time, the time was long for this service, and the service is one that
    /// answers. Returns whether it ejected the backend, for the log.
    pub fn client_gone(&mut self, silent_ms: u64, now_ms: u64, rng: &mut Rng) -> bool {
        let line = &self.backend.state().line;
        let waited_ms = now_ms.saturating_sub(self.turn_ms);
        let long_ms = (STUCK_FLOORS * self.backend.pool().floor_us() / 1e3).max(STUCK_LEAST_MS);
        let is_stuck = u64::from(line.stuck_ms(now_ms)) >= waited_ms && silent_ms as f32 >= long_ms;
        self.end_turn() && is_stuck && self.answers_are_known() && self.blame(now_ms, rng)
    }

    fn answers_are_known(&self) -> bool {
        let pool = self.backend.pool();
        pool.time_us() > 0.0 || pool.prior_us() > 0.0
    }

    /// The connection failed by the backend's doing. Returns whether that ejected the backend, for the log.
    pub(crate) fn failed(mut self, now_ms: u64, failure: ConnectFailure, rng: &mut Rng) -> bool {
        let on_trial = std::mem::take(&mut self.on_trial);
        match self.backend.is_gone_by(failure) {
            true => self.backend.state().failed_for_good(now_ms, failure, rng),
            false => self.backend.state().failed(now_ms, failure, on_trial, rng),
        }
    }

    pub(crate) fn blame(&mut self, now_ms: u64, rng: &mut Rng) -> bool {
        let ejected = self.backend.state().unanswered(now_ms, std::mem::take(&mut self.on_trial), rng);
        if ejected {
            self.backend.pool().service().changed();
        }
        ejected
    }

    fn load_without_us(&self, now_ms: u64) -> f32 {
        let line = &self.backend.state().line;
        let duty = self.backend.pool().service().duty();
        crate::latency::load(line, duty, 1, now_ms)
    }

    pub(crate) fn end_turn(&mut self) -> bool {
        let was = std::mem::take(&mut self.in_turn);
        if was {
            self.backend.state().turn_over();
        }
        was
    }

    pub(crate) fn end_connecting(&mut self) {
        if std::mem::take(&mut self.connecting) {
            self.backend.state().connecting_ended();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end_connecting();
        self.end_turn();
        if self.on_trial {
            self.backend.state().abandon_trial();
        }
        self.backend.state().session_ended();
        if self.counted {
            self.backend.pool().service().turnstile.freed();
        }
    }
}

/// No answer for this many times the uncongested level, and at least for this long, is none to wait for.
pub(crate) const STUCK_FLOORS: f32 = 20.0;
const STUCK_LEAST_MS: f32 = 1_000.0;
