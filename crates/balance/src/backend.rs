//! A backend: what a snapshot says of it, and the state that outlives snapshots.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::passive::{Passive, Verdict};
use crate::{Address, Availability, Facts, Histogram, Outcome, Rng, Zone};

/// A backend as its source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is, and its identity.
    pub address: Address,
    /// Its share of the work beside the others of its level; 0 means draining.
    pub weight: u32,
    /// Where it stands.
    pub zone: Zone,
    /// Its level: higher numbers are used only when no backend of a lower one may be. Backups have 1.
    pub priority: u8,
    /// What is known about it.
    pub facts: Facts,
}

/// One backend in one [`BackendSet`](crate::BackendSet).
#[derive(Debug)]
pub struct Backend {
    endpoint: Endpoint,
    key: u64,
    state: Arc<BackendState>,
}

impl Backend {
    pub(crate) fn new(endpoint: Endpoint, state: Arc<BackendState>) -> Self {
        let key = crate::hash::address_key(&endpoint.address);
        Self { endpoint, key, state }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.endpoint.address
    }

    /// Where it stands.
    pub fn zone(&self) -> &Zone {
        &self.endpoint.zone
    }

    /// All that its source and the checks say.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its counters, which stay with the address from snapshot to snapshot.
    pub fn state(&self) -> &BackendState {
        &self.state
    }

    /// The word for it in `/v1/services` and in `dislocate_backend_state`.
    pub fn standing(&self, now_ms: u64) -> Standing {
        match self.availability() {
            Availability::Draining => Standing::Draining,
            Availability::Down => Standing::Down,
            Availability::Up => match self.state.gate(now_ms) {
                Gate::Open => Standing::Up,
                Gate::Shut => Standing::Ejected,
                Gate::TrialDue | Gate::OnTrial => Standing::Trial,
            },
        }
    }

    pub(crate) fn availability(&self) -> Availability {
        self.endpoint.facts.availability(self.endpoint.weight)
    }

    /// The stable hash of its address.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn shared_state(&self) -> &Arc<BackendState> {
        &self.state
    }

    /// Whether both are one backend, in whatever snapshots.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

/// How a backend stands at one moment, all facts and the passive state together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// May be picked.
    Up,
    /// Failed its checks, or reported out of service.
    Down,
    /// Shut out for a while by failures of real connections.
    Ejected,
    /// Its ejection is over; one session at a time may try it.
    Trial,
    /// Takes no new sessions.
    Draining,
}

impl Standing {
    /// Every standing, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Up, Self::Down, Self::Ejected, Self::Trial, Self::Draining];

    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Trial => "trial",
            Self::Draining => "draining",
        }
    }
}

/// Why a connection to a backend failed; the `reason` of `dislocate_backend_connect_failures_total`. All of these are
/// the backend's or the network's doing, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// No way there.
    Unreachable,
    /// Closed by a reset while it was set up.
    Reset,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Refused, Self::Timeout, Self::Unreachable, Self::Reset, Self::Other];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Other => "other",
        }
    }
}

/// The state of one backend that the proxy feeds. Survives every change of the set, found again by address.
///
/// *Cost*: everything a pick reads is one relaxed load; the failure memory is behind a lock that only failures, and
/// successes soon after failures, take.
#[derive(Debug, Default)]
pub struct BackendState {
    /// Sessions that count as load: connecting plus established, from the moment of the pick (counting only one of
    /// the two lets a slow backend pile up the other).
    sessions: AtomicU32,
    /// Those of `sessions` that are still connecting.
    connecting: AtomicU32,
    /// [`GATE_OPEN`], [`GATE_ON_TRIAL`], or the end of the ejection in milliseconds.
    gate: AtomicU64,
    /// Virtual time of the round robin: see [`crate::round_robin`].
    pub(crate) pass: AtomicU64,
    passive: Mutex<Passive>,
    /// Whether a success would tell `passive` nothing new, so that it need not be locked.
    settled: AtomicBool,
    last_success_ms: AtomicU64,
    ejections: AtomicU64,
    picks: [AtomicU64; crate::PickReason::ALL.len()],
    failures: [AtomicU64; ConnectFailure::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    connect: Histogram,
    first_byte: Histogram,
}

/// Whether the passive state lets a pick through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Shut,
    TrialDue,
    OnTrial,
}

impl BackendState {
    /// Sessions connecting or established.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// Sessions that are connecting.
    pub fn connecting(&self) -> u32 {
        self.connecting.load(Relaxed)
    }

    /// Ejections so far.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Picks for this reason so far.
    pub fn picks(&self, reason: crate::PickReason) -> u64 {
        self.picks[reason as usize].load(Relaxed)
    }

    /// Failed connections of this kind so far.
    pub fn failures(&self, failure: ConnectFailure) -> u64 {
        self.failures[failure as usize].load(Relaxed)
    }

    /// Share of recent connections that failed, 0 to 1.
    pub fn failure_ratio(&self, now_ms: u64) -> f32 {
        self.passive().ratio(now_ms)
    }

    /// Bytes that ended sessions and finished transfers moved: (from the backend, to the backend).
    pub fn bytes(&self) -> (u64, u64) {
        (self.received_bytes.load(Relaxed), self.sent_bytes.load(Relaxed))
    }

    /// Time from SYN to established.
    pub fn connect_seconds(&self) -> &Histogram {
        &self.connect
    }

    /// Time from established to the first byte of the backend.
    pub fn first_byte_seconds(&self) -> &Histogram {
        &self.first_byte
    }

    /// When a connection to it last succeeded; 0 for never.
    pub fn last_success_ms(&self) -> u64 {
        self.last_success_ms.load(Relaxed)
    }

    /// Adds the bytes of a session: `received` from the backend, `sent` to it.
    pub fn add_bytes(&self, received: u64, sent: u64) {
        self.received_bytes.fetch_add(received, Relaxed);
        self.sent_bytes.fetch_add(sent, Relaxed);
    }

    /// A health check passed: an ejection that still runs ends now, so that the next pick may be its trial. It never
    /// makes an ejection longer and never skips the trial: a check is not a session.
    pub fn probe_succeeded(&self, now_ms: u64) {
        let shorten = |gate: u64| (gate != GATE_OPEN && gate != GATE_ON_TRIAL && gate > now_ms).then_some(now_ms);
        // An error only says that there was nothing to shorten.
        let _unchanged = self.gate.fetch_update(Relaxed, Relaxed, shorten);
    }

    pub(crate) fn gate(&self, now_ms: u64) -> Gate {
        match self.gate.load(Relaxed) {
            GATE_OPEN => Gate::Open,
            GATE_ON_TRIAL => Gate::OnTrial,
            until_ms if now_ms < until_ms => Gate::Shut,
            _ => Gate::TrialDue,
        }
    }

    /// Takes the one trial, if it is due and nobody else has it.
    pub(crate) fn begin_trial(&self, now_ms: u64) -> bool {
        let due = |gate: u64| (gate != GATE_OPEN && gate != GATE_ON_TRIAL && gate <= now_ms).then_some(GATE_ON_TRIAL);
        self.gate.fetch_update(Relaxed, Relaxed, due).is_ok()
    }

    /// Gives the trial back undecided: the client left before the backend answered.
    pub(crate) fn abandon_trial(&self) {
        self.gate.store(GATE_TRIAL_DUE, Relaxed);
    }

    pub(crate) fn picked(&self, reason: crate::PickReason) {
        self.sessions.fetch_add(1, Relaxed);
        self.connecting.fetch_add(1, Relaxed);
        self.picks[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn connecting_ended(&self) {
        self.connecting.fetch_sub(1, Relaxed);
    }

    pub(crate) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Notes a connection that was established in `took`.
    pub(crate) fn connected(&self, now_ms: u64, took: Duration, on_trial: bool, rng: &mut Rng) {
        self.connect.observe(took);
        self.last_success_ms.store(now_ms, Relaxed);
        if on_trial || !self.settled.load(Relaxed) {
            self.record(now_ms, Outcome::Success, on_trial, rng);
        }
    }

    /// Notes a connection that failed; `true` when that ejected the backend.
    pub(crate) fn failed(&self, now_ms: u64, failure: ConnectFailure, on_trial: bool, rng: &mut Rng) -> bool {
        self.failures[failure as usize].fetch_add(1, Relaxed);
        self.record(now_ms, Outcome::Failure, on_trial, rng)
    }

    fn record(&self, now_ms: u64, outcome: Outcome, on_trial: bool, rng: &mut Rng) -> bool {
        let mut passive = self.passive();
        let already_out = !on_trial && self.gate.load(Relaxed) != GATE_OPEN;
        let verdict = match on_trial {
            true => passive.record_trial(now_ms, outcome, rng),
            // Sessions picked before the ejection still report; they tell nothing new and must not lengthen it.
            false if already_out => Verdict::Keep,
            false => passive.record(now_ms, outcome, rng),
        };
        self.settled.store(passive.is_clean(), Relaxed);
        match verdict {
            Verdict::Keep => {}
            Verdict::Eject { until_ms } => self.gate.store(until_ms, Relaxed),
            Verdict::Readmit => self.gate.store(GATE_OPEN, Relaxed),
        }
        let ejected = matches!(verdict, Verdict::Eject { .. });
        self.ejections.fetch_add(u64::from(ejected), Relaxed);
        ejected
    }

    fn passive(&self) -> std::sync::MutexGuard<'_, Passive> {
        // A panic cannot leave the plain numbers inside half-written in a way that matters.
        self.passive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const GATE_OPEN: u64 = 0;
const GATE_ON_TRIAL: u64 = u64::MAX;
/// An ejection that ended at the first millisecond of the epoch: due since ever.
const GATE_TRIAL_DUE: u64 = 1;
