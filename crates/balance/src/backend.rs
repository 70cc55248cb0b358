//! A backend: what a snapshot says of it, and the state that outlives snapshots.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::estimate::{Line, Observation};
use crate::passive::{Evidence, Passive, Verdict};
use crate::pool::Pool;
use crate::{Address, Availability, Facts, Histogram, Outcome, Rng, Sample, TurnClass, Zone};

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
    /// The id by which QUIC servers of this service name themselves in connection ids (QUIC-LB).
    pub server_id: Option<Box<[u8]>>,
}

/// One backend in one [`BackendSet`](crate::BackendSet).
#[derive(Debug)]
pub struct Backend {
    endpoint: Endpoint,
    key: u64,
    /// What its facts and weight allow, worked out once.
    availability: Availability,
    state: Arc<BackendState>,
    pool: Arc<Pool>,
}

impl Backend {
    pub(crate) fn new(endpoint: Endpoint, state: Arc<BackendState>, pool: Arc<Pool>) -> Self {
        let key = crate::hash::address_key(&endpoint.address);
        let availability = endpoint.facts.availability(endpoint.weight);
        Self { endpoint, key, availability, state, pool }
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

    /// Whether no source names it any more.
    pub(crate) fn is_orphan(&self) -> bool {
        self.endpoint.facts.is_orphan
    }

    /// Whether a failure means that it is gone: its source says so already, and nobody listens where it was.
    pub(crate) fn is_gone_by(&self, failure: ConnectFailure) -> bool {
        self.is_orphan() && failure == ConnectFailure::Refused
    }

    pub(crate) fn availability(&self) -> Availability {
        self.availability
    }

    /// The stable hash of its address.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn shared_state(&self) -> &Arc<BackendState> {
        &self.state
    }

    /// What its zone has in common.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Takes an answer: its time for the estimates, and that there was one for the failure memory. Returns whether that
    /// readmitted an ejected backend.
    pub(crate) fn answered(&self, sample: Sample, load: f32, now_ms: u64, on_trial: bool) -> bool {
        let line = &self.state.line;
        line.progressed(now_ms);
        if sample.class != TurnClass::Untimed {
            self.state.turn.observe(Duration::from_micros(sample.took_us.into()));
            let took_us = self.pool.scaled(sample, line.base_us(), now_ms);
            let net_us = line.saw_answer(Observation { took_us, load, now_ms });
            self.pool.saw(net_us, now_ms);
        }
        self.state.answered(now_ms, on_trial)
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
    /// What picks read. Its gate is [`GATE_OPEN`], [`GATE_ON_TRIAL`], or a time in milliseconds: the end of the ejection,
    /// or with [`GATE_TRYING`] the time up to which a silent trial keeps others from trying.
    pub(crate) line: Line,
    /// Virtual time of the round robin: see [`crate::round_robin`].
    pub(crate) pass: AtomicU64,
    passive: Mutex<Passive>,
    /// Whether a success would tell `passive` nothing new, so that it need not be locked.
    settled: AtomicBool,
    last_success_ms: AtomicU64,
    ejections: AtomicU64,
    unanswered: AtomicU64,
    picks: [AtomicU64; crate::PickReason::ALL.len()],
    failures: [AtomicU64; ConnectFailure::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    connect: Histogram,
    first_byte: Histogram,
    turn: Histogram,
    /// When the kernel may be asked next what it knows of a connection to it.
    kernel_due_ms: AtomicU64,
    kernel_rtt_us: AtomicU32,
    kernel_min_rtt_us: AtomicU32,
    retransmits: AtomicU64,
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
        self.line.sessions.load(Relaxed)
    }

    /// Sessions that are connecting.
    pub fn connecting(&self) -> u32 {
        self.line.connecting.load(Relaxed)
    }

    /// Turns in flight: client bytes that wait for an answer.
    pub fn turns(&self) -> u32 {
        self.line.turns.load(Relaxed)
    }

    /// How long it takes to answer, network time taken out, as estimated now; nothing before the first answers.
    pub fn server_seconds(&self) -> Option<f64> {
        (self.line.samples() > 0).then(|| f64::from(self.line.answer().0) / 1e6)
    }

    /// The round trip to it without load; nothing before the first connection. Where there are only datagrams, half of
    /// the smallest recent answer stands for it.
    pub fn base_rtt_seconds(&self) -> Option<f64> {
        let base = self.line.base_us();
        (base > 0.0).then(|| f64::from(base) / 1e6)
    }

    /// How long its turns in flight have been waiting without any answer from it.
    pub fn stuck_ms(&self, now_ms: u64) -> u32 {
        self.line.stuck_ms(now_ms)
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
        self.line.failure(now_ms)
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

    /// Time of turns as their clients saw it from here, network included.
    pub fn turn_seconds(&self) -> &Histogram {
        &self.turn
    }

    /// The round trip of its connections as the kernel measures it: the smoothed one of the connection that was asked
    /// last, and the least of that connection. For people only: no pick reads it.
    pub fn kernel_rtt_seconds(&self) -> Option<(f64, Option<f64>)> {
        let known = |us: &AtomicU32| Some(us.load(Relaxed)).filter(|us| *us > 0).map(|us| f64::from(us) / 1e6);
        Some((known(&self.kernel_rtt_us)?, known(&self.kernel_min_rtt_us)))
    }

    /// Segments that were sent to it again, over those of its sessions that were asked at their end.
    pub fn retransmits(&self) -> u64 {
        self.retransmits.load(Relaxed)
    }

    /// Whether the kernel may be asked about a connection to it. Says yes to one session a second, whichever asks first.
    pub fn is_kernel_due(&self, now_ms: u64) -> bool {
        let due = self.kernel_due_ms.load(Relaxed);
        let next = now_ms + KERNEL_PAUSE_MS;
        now_ms >= due && self.kernel_due_ms.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    /// Takes the kernel's round trips of one connection, in microseconds; a least of 0 is not known.
    pub fn saw_kernel_rtt(&self, rtt_us: u32, min_rtt_us: u32) {
        self.kernel_rtt_us.store(rtt_us, Relaxed);
        self.kernel_min_rtt_us.store(min_rtt_us, Relaxed);
    }

    /// Adds the segments that an ending session sent to it again.
    pub fn add_retransmits(&self, segments: u32) {
        self.retransmits.fetch_add(segments.into(), Relaxed);
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

    /// A check's connection was established, `took` after it was begun. It tells the distance of a backend without
    /// traffic, and nothing about its load: a check does not queue like a request.
    pub fn probe_connected(&self, took: Duration) {
        self.line.saw_connect(micros(took));
    }

    /// A health check passed: an ejection that still runs ends now, so that the next pick may be its trial. It never
    /// makes an ejection longer and never skips the trial: a check is not a session. An ejection for requests without
    /// an answer stands: a check that only connects would end it again and again at the cost of a client each time.
    pub fn probe_succeeded(&self, now_ms: u64) {
        if self.line.gate.load(Relaxed) == GATE_OPEN || self.passive().wants_answers() {
            return;
        }
        let shorten = |gate: u64| (gate & GATE_TRYING == 0 && gate > now_ms).then_some(now_ms);
        // An error only says that there was nothing to shorten.
        let _unchanged = self.line.gate.fetch_update(Relaxed, Relaxed, shorten);
    }

    #[inline(always)]
    pub(crate) fn gate(&self, now_ms: u64) -> Gate {
        match self.line.gate.load(Relaxed) {
            GATE_OPEN => Gate::Open,
            until if now_ms >= until & !GATE_TRYING => Gate::TrialDue,
            until if until & GATE_TRYING != 0 => Gate::OnTrial,
            _ => Gate::Shut,
        }
    }

    /// Takes the one trial, if it is due and nobody else has it.
    pub(crate) fn begin_trial(&self, now_ms: u64) -> bool {
        let due = |gate: u64| (gate != GATE_OPEN && gate & !GATE_TRYING <= now_ms).then_some(GATE_ON_TRIAL);
        self.line.gate.fetch_update(Relaxed, Relaxed, due).is_ok()
    }

    /// Gives the trial back undecided: the client left before the backend answered.
    pub(crate) fn abandon_trial(&self) {
        // An error says that somebody else has decided since.
        let _kept = self.line.gate.compare_exchange(GATE_ON_TRIAL, GATE_TRIAL_DUE, Relaxed, Relaxed);
    }

    /// Counts a session, unless there are `capacity` of them (0: any number).
    pub(crate) fn admit(&self, capacity: u32) -> bool {
        let sessions = &self.line.sessions;
        if capacity == 0 {
            sessions.fetch_add(1, Relaxed);
        } else if sessions.fetch_update(Relaxed, Relaxed, |held| (held < capacity).then_some(held + 1)).is_err() {
            return false;
        }
        self.line.connecting.fetch_add(1, Relaxed);
        true
    }

    pub(crate) fn picked(&self, reason: crate::PickReason) {
        self.picks[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn connecting_ended(&self) {
        self.line.connecting.fetch_sub(1, Relaxed);
    }

    pub(crate) fn session_ended(&self) {
        self.line.sessions.fetch_sub(1, Relaxed);
    }

    pub(crate) fn turn_over(&self) {
        self.line.turns.fetch_sub(1, Relaxed);
    }

    /// Notes a connection that was established in `took`. Returns whether a trial goes on: a backend that was ejected
    /// for not answering is tried until it answers, and while this session is silent others may try it too.
    pub(crate) fn connected(&self, now_ms: u64, took: Duration, on_trial: bool, rng: &mut Rng) -> bool {
        self.connect.observe(took);
        self.line.saw_connect(micros(took));
        self.last_success_ms.store(now_ms, Relaxed);
        if on_trial && self.passive().wants_answers() {
            self.tries_on(now_ms);
            return true;
        }
        if on_trial || !self.settled.load(Relaxed) {
            self.record(now_ms, Evidence::Connect, Outcome::Success, on_trial, rng);
        }
        false
    }

    /// A trial is still undecided: for now it keeps others from trying, but not for as long as it lasts.
    pub(crate) fn tries_on(&self, now_ms: u64) {
        let until = GATE_TRYING | (now_ms + SILENT_TRIAL_MS);
        // An error says that another trial has decided since.
        let _still_out = self.line.gate.compare_exchange(GATE_ON_TRIAL, until, Relaxed, Relaxed);
    }

    /// Notes that datagrams to it were not refused, which is the most that can be said of one from which no answer is
    /// expected; `true` when that readmitted the backend.
    pub(crate) fn unrefused(&self, now_ms: u64, on_trial: bool) -> bool {
        self.succeeded(now_ms, Evidence::Connect, on_trial)
    }

    /// Notes a connection that failed; `true` when that ejected the backend.
    pub(crate) fn failed(&self, now_ms: u64, failure: ConnectFailure, on_trial: bool, rng: &mut Rng) -> bool {
        self.failures[failure as usize].fetch_add(1, Relaxed);
        self.record(now_ms, Evidence::Connect, Outcome::Failure, on_trial, rng)
    }

    /// As [`failed`](Self::failed), where one failure is enough.
    pub(crate) fn failed_for_good(&self, now_ms: u64, failure: ConnectFailure, rng: &mut Rng) -> bool {
        self.failures[failure as usize].fetch_add(1, Relaxed);
        let mut passive = self.passive();
        if self.gate(now_ms) == Gate::Shut {
            return false;
        }
        let verdict = passive.record_trial(now_ms, Evidence::Connect, Outcome::Failure, rng);
        self.apply(&passive, verdict, now_ms)
    }

    /// Notes an answer; `true` when that readmitted the backend.
    pub(crate) fn answered(&self, now_ms: u64, on_trial: bool) -> bool {
        self.succeeded(now_ms, Evidence::Answer, on_trial)
    }

    fn succeeded(&self, now_ms: u64, of: Evidence, on_trial: bool) -> bool {
        if !on_trial && self.settled.load(Relaxed) {
            return false;
        }
        let was_out = self.line.gate.load(Relaxed) != GATE_OPEN;
        // A success draws nothing, so any generator will do.
        self.record(now_ms, of, Outcome::Success, on_trial, &mut Rng::new(0));
        was_out && self.line.gate.load(Relaxed) == GATE_OPEN
    }

    /// Notes a request that got no answer by the backend's doing; `true` when that ejected the backend.
    pub(crate) fn unanswered(&self, now_ms: u64, on_trial: bool, rng: &mut Rng) -> bool {
        self.unanswered.fetch_add(1, Relaxed);
        self.record(now_ms, Evidence::Answer, Outcome::Failure, on_trial, rng)
    }

    /// Requests without an answer so far.
    pub fn unanswered_total(&self) -> u64 {
        self.unanswered.load(Relaxed)
    }

    fn record(&self, now_ms: u64, of: Evidence, outcome: Outcome, on_trial: bool, rng: &mut Rng) -> bool {
        let mut passive = self.passive();
        let is_out = self.line.gate.load(Relaxed) != GATE_OPEN;
        let verdict = match on_trial && is_out {
            // One of several silent trials, of which another has failed before.
            true if outcome == Outcome::Failure && self.gate(now_ms) == Gate::Shut => Verdict::Keep,
            true => passive.record_trial(now_ms, of, outcome, rng),
            // Sessions picked before the ejection still report; they tell nothing new and must not lengthen it.
            false if is_out => Verdict::Keep,
            false => passive.record(now_ms, of, outcome, rng),
        };
        self.apply(&passive, verdict, now_ms)
    }

    /// Returns whether it was an ejection.
    fn apply(&self, passive: &Passive, verdict: Verdict, now_ms: u64) -> bool {
        self.settled.store(passive.is_clean(), Relaxed);
        self.line.set_failure(passive.ratio(now_ms), now_ms);
        match verdict {
            Verdict::Keep => {}
            Verdict::Eject { until_ms } => {
                self.line.forget();
                self.line.gate.store(until_ms, Relaxed);
            }
            Verdict::Readmit => self.line.gate.store(GATE_OPEN, Relaxed),
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

fn micros(took: Duration) -> f32 {
    took.as_nanos() as f32 / 1e3
}

/// A session on trial that has not said anything keeps others from trying for as long.
const SILENT_TRIAL_MS: u64 = 1_000;
/// The kernel is asked about a backend at most so often: half a microsecond a call, for numbers that nobody waits for.
const KERNEL_PAUSE_MS: u64 = 1_000;
const GATE_OPEN: u64 = 0;
/// A trial that keeps others from trying until it is over.
const GATE_ON_TRIAL: u64 = u64::MAX;
/// Marks the time up to which a trial does.
const GATE_TRYING: u64 = 1 << 63;
/// An ejection that ended at the first millisecond of the epoch: due since ever.
const GATE_TRIAL_DUE: u64 = 1;
