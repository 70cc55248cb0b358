//! One TCP connection through us, from accept to its record.
//!
//! ```text
//!   accepted ──▶ permit? ──▶ pick ──▶ connect ──▶ relay ──▶ ended
//!                  │ no       ▲          │ failed    │
//!                  │          └── retry ─┤           │
//!                  ▼                     ▼           ▼
//!               refused (reset)      given up     one record, one count, everything closed: Owner::drop
//! ```

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use balance::{Address, Backend, ConnectFailure, Lease, Pick, PickReason, SoFar, Turns, source_key};
use rustix::io::Errno;

use crate::ask;
use crate::connect::{ConnectError, LocalFailure, connect};
use crate::leg::Leg;
use crate::limits::{Limit, Permit};
use crate::line::NoWait;
use crate::listener::{Listener, ListenerSettings};
use crate::record::{Peer, Reason, Record};
use crate::relay::{Opening, Progress, Relay, Side};
use crate::worker::Worker;

/// A session as its worker's registry sees it.
#[derive(Debug)]
pub(crate) struct Session {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    settings: Arc<ListenerSettings>,
    id: u64,
    peer: Peer,
    accepted: Instant,
    client: Leg,
    backend: OnceCell<Leg>,
    /// The backend in use, or being tried.
    lease: RefCell<Option<Lease>>,
    /// The last backend tried, whatever came of it, and how it was picked.
    last: RefCell<Option<Chosen>>,
    turns: RefCell<Turns>,
    /// Milliseconds spent in the line.
    queued_ms: Cell<u32>,
    /// From established on.
    established: Cell<Option<Instant>>,
    connect: Cell<Option<Duration>>,
    first_byte: Cell<Option<Duration>>,
    /// When a byte last moved.
    active_ms: Cell<u64>,
    half_closed: Cell<bool>,
    /// Whether the backend's socket has its keepalive and user timeout.
    lively: Cell<bool>,
    attempts: Cell<u32>,
    moved: Cell<Bytes>,
    reported: Cell<Bytes>,
    /// Why it is to end, once that is known.
    reason: Cell<Option<Reason>>,
    _permit: Option<Permit>,
}

/// A backend and how it was picked.
#[derive(Clone, Debug)]
struct Chosen {
    backend: Arc<Backend>,
    reason: PickReason,
    score_us: Option<f32>,
}

/// A try that failed: what the session would end with, and whose fault it was if a backend's.
struct Failed {
    reason: Reason,
    blame: Option<ConnectFailure>,
}

/// Bytes of both directions.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    received: u64,
    sent: u64,
    spliced: u64,
}

/// A session's line in `/v1/sessions`.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Unique in this process.
    pub session: u64,
    /// The listener's name.
    pub listener: Arc<str>,
    /// Who came.
    pub client: Peer,
    /// Where it went, once it is connected.
    pub backend: Option<Arc<Backend>>,
    /// Since it was accepted.
    pub age: Duration,
    /// Since a byte moved.
    pub idle: Duration,
    /// Bytes of the client so far.
    pub received_bytes: u64,
    /// Bytes of the backend so far.
    pub sent_bytes: u64,
}

/// The one owner of a session. Dropping it ends the session, whatever came before: counts it, records it, takes it out
/// of the registry, and closes what is open.
struct Owner {
    session: Rc<Session>,
    key: usize,
}

/// Begins the session of an accepted connection; one without a permit ends at once, by a reset.
pub(crate) fn start(
    worker: &Rc<Worker>,
    listener: &Arc<Listener>,
    settings: Arc<ListenerSettings>,
    client: Leg,
    peer: Peer,
    permit: Result<Permit, Limit>,
) {
    listener.stats(worker.index()).count_opened();
    let (permit, refused) = match permit {
        Ok(permit) => (Some(permit), None),
        Err(limit) => (None, Some(limit)),
    };
    let accepted = Instant::now();
    let session = Rc::new(Session {
        worker: Rc::clone(worker),
        listener: Arc::clone(listener),
        settings,
        id: worker.next_id(),
        peer,
        accepted,
        client,
        backend: OnceCell::new(),
        lease: RefCell::default(),
        last: RefCell::default(),
        turns: RefCell::new(Turns::new(0, 0)),
        queued_ms: Cell::default(),
        established: Cell::default(),
        connect: Cell::default(),
        first_byte: Cell::default(),
        active_ms: Cell::new(worker.epoch().millis(accepted)),
        half_closed: Cell::default(),
        lively: Cell::default(),
        attempts: Cell::default(),
        moved: Cell::default(),
        reported: Cell::default(),
        reason: Cell::new(refused.map(reason_of_limit)),
        _permit: permit,
    });
    let key = worker.register(&session);
    let owner = Owner { session, key };
    match refused {
        Some(limit) => listener.stats(worker.index()).count_refused(limit),
        None => worker.attach(key, tokio::task::spawn_local(run(owner)).abort_handle()),
    }
}

async fn run(owner: Owner) {
    let session = &owner.session;
    // In an allocation of its own, which goes when the backend is reached: inside the task it would stay, and idle
    // sessions would pay for the largest moment of their lives.
    let reason = match Box::pin(reach(session)).await {
        Ok(()) => session.relay().await,
        Err(reason) => reason,
    };
    session.reason.set(Some(reason));
}

/// Finds a backend that answers, unless the client goes away before.
async fn reach(session: &Session) -> Result<(), Reason> {
    tokio::select! {
        biased;
        reached = session.try_backends() => reached,
        _error = poll_fn(|cx| session.client.poll_reset(cx)) => Err(Reason::ClientGone),
    }
}

impl Session {
    /// Tries backends until one answers, within the listener's retries and the service's budget.
    async fn try_backends(&self) -> Result<(), Reason> {
        self.settings.backends.load().retry_budget().deposit(self.worker.now_ms());
        let mut tried: Vec<Arc<Backend>> = Vec::new();
        let mut failed: Option<Failed> = None;
        loop {
            let lease = match self.place(&tried).await {
                Ok(lease) => lease,
                Err(reason) => return Err(failed.map_or(reason, |it| it.reason)),
            };
            if let Some(failed) = failed {
                self.listener.stats(self.worker.index()).count_retry(failed.blame);
            }
            let backend = Arc::clone(lease.backend());
            let now = match self.try_one(lease).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            // What we lack as a whole is not to be found at another backend.
            let is_hopeless = matches!(now.reason, Reason::NoDescriptor | Reason::LocalError);
            if is_hopeless || tried.len() >= self.settings.retries as usize {
                return Err(now.reason);
            }
            if !self.settings.backends.load().may_retry(self.worker.now_ms(), &backend, now.blame) {
                return Err(Reason::RetryBudget);
            }
            failed = Some(now);
            tried.push(backend);
        }
    }

    /// Tries one backend, and tells `balance` what came of it.
    async fn try_one(&self, lease: Lease) -> Result<(), Failed> {
        let backend = Arc::clone(lease.backend());
        let chosen = Chosen { backend: Arc::clone(&backend), reason: lease.reason(), score_us: lease.score_us() };
        *self.last.borrow_mut() = Some(chosen);
        *self.lease.borrow_mut() = Some(lease);
        self.attempts.set(self.attempts.get() + 1);
        let begun = Instant::now();
        match connect(backend.address(), self.settings.connect_timeout).await {
            Ok(leg) => {
                self.established(leg, begun);
                Ok(())
            }
            Err(ConnectError::Backend(failure, error)) => {
                self.blame(failure, &error);
                Err(Failed { reason: reason_of_connect(failure), blame: Some(failure) })
            }
            Err(ConnectError::Local(failure, error)) => {
                self.complain(backend.address(), failure, &error);
                Err(Failed { reason: reason_of_local(failure), blame: None })
            }
        }
    }

    /// Picks a backend, waiting in line for it while all are full.
    async fn place(&self, tried: &[Arc<Backend>]) -> Result<Lease, Reason> {
        let seen = match self.pick(tried, true) {
            Picked::Lease(lease) => return Ok(lease),
            Picked::Nobody => return Err(Reason::NoBackend),
            Picked::Full { .. } if self.settings.queue_timeout.is_zero() => return Err(Reason::QueueFull),
            Picked::Full { seen } => seen,
        };
        let begun = Instant::now();
        let placed = self.wait_in_line(tried, seen, begun + self.settings.queue_timeout).await;
        let waited_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.queued_ms.set(self.queued_ms.get().saturating_add(waited_ms));
        placed
    }

    async fn wait_in_line(
        &self,
        tried: &[Arc<Backend>],
        mut seen: Option<u64>,
        deadline: Instant,
    ) -> Result<Lease, Reason> {
        let mut waiting = None;
        loop {
            let pick_again = match &waiting {
                None => match self.settings.line.enter(&self.settings.backends, seen) {
                    Ok(place) => {
                        waiting = Some(place);
                        false
                    }
                    Err(NoWait::Again) => true,
                    Err(NoWait::Full) => return Err(Reason::QueueFull),
                },
                Some(place) => seen.is_none_or(|seen| place.again(seen, !tried.is_empty())),
            };
            if let (false, Some(place)) = (pick_again, &waiting)
                && !place.turn(deadline.into()).await
            {
                return Err(Reason::QueueTimeout);
            }
            seen = match self.pick(tried, waiting.is_none()) {
                Picked::Lease(lease) => return Ok(lease),
                Picked::Nobody => return Err(Reason::NoBackend),
                Picked::Full { seen } => seen,
            };
        }
    }

    /// One pick. A newcomer does not pick past those who wait.
    fn pick(&self, tried: &[Arc<Backend>], newcomer: bool) -> Picked {
        let source = match self.peer {
            Peer::Inet(addr) => source_key(addr.ip()),
            Peer::Unix => 0,
        };
        let set = self.settings.backends.load();
        if newcomer && set.turnstile().is_awaited() {
            return Picked::Full { seen: None };
        }
        let seen = Some(set.turnstile().passed());
        match set.pick(self.worker.now_ms(), source, tried, &mut self.worker.rng()) {
            Pick::Backend(lease) => Picked::Lease(lease),
            Pick::Wait => Picked::Full { seen },
            Pick::Refuse => Picked::Nobody,
        }
    }

    /// A lease is gone: whoever waits for a place may have it.
    fn call_next(&self) {
        if self.settings.backends.load().turnstile().is_awaited() {
            self.settings.line.freed();
        }
    }

    fn established(&self, leg: Leg, begun: Instant) {
        let now = Instant::now();
        let took = now - begun;
        let now_ms = self.worker.epoch().millis(now);
        if let Some(lease) = self.lease.borrow_mut().as_mut() {
            lease.connected(now_ms, took, &mut self.worker.rng());
            ask::distance(&leg, lease);
            *self.turns.borrow_mut() = Turns::new(self.worker.epoch().micros(now), lease.base_us());
        }
        self.connect.set(Some(took));
        self.established.set(Some(now));
        self.active_ms.set(now_ms);
        self.backend.set(leg).expect("a session reaches one backend");
    }

    /// Counts a failed connection against its backend.
    fn blame(&self, failure: ConnectFailure, error: &io::Error) {
        let Some(lease) = self.lease.borrow_mut().take() else { return };
        let backend = Arc::clone(lease.backend());
        let now_ms = self.worker.now_ms();
        if self.settings.backends.load().connect_failed(lease, now_ms, failure, &mut self.worker.rng()) {
            let (service, address) = (&*self.settings.service, backend.address());
            tracing::info!(service, backend = %address, %error, "ejected a backend that cannot be reached");
        }
        self.call_next();
    }

    /// Tells `balance` that the session ends while its client may still be waiting for an answer.
    fn break_off(&self, how: BreakOff) {
        let now_ms = self.worker.now_ms();
        let mut lease = self.lease.borrow_mut();
        let (Some(lease), Some(established)) = (lease.as_mut(), self.established.get()) else { return };
        let rng = &mut *self.worker.rng();
        let ejected = match how {
            BreakOff::BackendReset => {
                let Bytes { received: received_bytes, sent: sent_bytes, .. } = self.moved.get();
                let (half_closed, lasted) = (self.half_closed.get(), established.elapsed());
                lease.server_reset(SoFar { received_bytes, sent_bytes, half_closed, lasted }, now_ms, rng)
            }
            BreakOff::BackendFinished => lease.server_finished(now_ms, rng),
            BreakOff::ClientLeft => lease.client_gone(now_ms.saturating_sub(self.active_ms.get()), now_ms, rng),
        };
        if ejected {
            let (service, address) = (&*self.settings.service, lease.backend().address());
            tracing::info!(service, backend = %address, "ejected a backend that does not answer");
        }
    }

    fn complain(&self, backend: &Address, failure: LocalFailure, error: &io::Error) {
        self.lease.borrow_mut().take();
        self.call_next();
        self.worker.complain(|| {
            tracing::warn!(service = &*self.settings.service, %backend, ?failure, %error, "cannot open a connection");
        });
    }

    async fn relay(&self) -> Reason {
        let backend = self.backend.get().expect("the relay begins when a backend is reached");
        let opening = Opening { splice: self.settings.splice, ..Opening::default() };
        match Relay::new(&self.client, backend, self.worker.tools(), self, opening).await {
            Ok(()) => {
                self.client.release();
                backend.release();
                Reason::Closed
            }
            Err((side, error)) => {
                self.break_off(match side {
                    Side::Backend => BreakOff::BackendReset,
                    Side::Client => BreakOff::ClientLeft,
                });
                reason_of_relay(side, &error)
            }
        }
    }

    /// What the worker looks at now and then: reports bytes, arms the kernel's own timers, and says why to cut the
    /// session if it was silent for too long.
    pub(crate) fn inspect(&self, now_ms: u64) -> Option<Reason> {
        let backend = self.backend.get()?;
        self.report_bytes();
        if !self.lively.replace(true) {
            backend.set_liveness(self.settings.keepalive, self.settings.user_timeout);
        }
        if let Some(lease) = self.lease.borrow().as_ref()
            && lease.backend().state().is_kernel_due(now_ms)
        {
            ask::for_metrics(backend, lease.backend());
        }
        let silent = Duration::from_millis(now_ms.saturating_sub(self.active_ms.get()));
        let (limit, reason) = match self.half_closed.get() {
            true => (self.settings.half_close_timeout, Reason::HalfCloseTimeout),
            false => (self.settings.idle_timeout, Reason::IdleTimeout),
        };
        (silent >= limit).then_some(reason)
    }

    /// Names the end that is about to come.
    pub(crate) fn condemn(&self, reason: Reason) {
        self.reason.set(Some(reason));
    }

    /// What is said about it while it lasts.
    pub(crate) fn view(&self, now: Instant) -> SessionView {
        let idle_ms = self.worker.epoch().millis(now).saturating_sub(self.active_ms.get());
        let backend = self.backend.get().and(self.lease.borrow().as_ref().map(|lease| Arc::clone(lease.backend())));
        SessionView {
            session: self.id,
            listener: self.listener.shared_name(),
            client: self.peer,
            backend,
            age: now.saturating_duration_since(self.accepted),
            idle: Duration::from_millis(idle_ms),
            received_bytes: self.moved.get().received,
            sent_bytes: self.moved.get().sent,
        }
    }

    /// Adds what moved since the last report to the counters.
    fn report_bytes(&self) {
        let (now, before) = (self.moved.get(), self.reported.replace(self.moved.get()));
        let (received, sent) = (now.received - before.received, now.sent - before.sent);
        if received + sent == 0 {
            return;
        }
        self.listener.stats(self.worker.index()).count_bytes(received, sent, now.spliced - before.spliced);
        if let Some(lease) = self.lease.borrow().as_ref() {
            lease.backend().state().add_bytes(sent, received);
            let (home, away) = (self.worker.zone(), lease.backend().zone());
            self.worker.cross_zone().add(home, away, received);
            self.worker.cross_zone().add(away, home, sent);
        }
    }

    fn record(&self, lasted: Duration, reason: Reason) -> Record {
        let last = self.last.borrow();
        let backend = last.as_ref().map(|chosen| &chosen.backend);
        let bytes = self.moved.get();
        Record {
            accepted: SystemTime::now() - lasted,
            session: self.id,
            listener: self.listener.shared_name(),
            protocol: match self.peer {
                Peer::Inet(_) => "tcp",
                Peer::Unix => "stream",
            },
            client: self.peer,
            local: self.client.local_addr(),
            service: Arc::clone(&self.settings.service),
            backend: backend.map(|backend| backend.address().clone()),
            zone: backend.map(|backend| backend.zone().clone()),
            pick: last.as_ref().map(|chosen| chosen.reason),
            score_us: last.as_ref().and_then(|chosen| chosen.score_us),
            queued: Duration::from_millis(self.queued_ms.get().into()),
            attempts: self.attempts.get(),
            connect: self.connect.get(),
            first_byte: self.first_byte.get(),
            duration: lasted,
            received_datagrams: None,
            sent_datagrams: None,
            received_bytes: bytes.received,
            sent_bytes: bytes.sent,
            spliced_bytes: bytes.spliced,
            reason,
        }
    }
}

impl Progress for Session {
    fn moved(&self, up: (u64, u64), down: (u64, u64)) {
        let now = Instant::now();
        let now_ms = self.worker.epoch().millis(now);
        self.active_ms.set(now_ms);
        let before = self.moved.get();
        if let Some(lease) = self.lease.borrow_mut().as_mut() {
            let (mut turns, now_us) = (self.turns.borrow_mut(), self.worker.epoch().micros(now));
            // In this order: what the backend says in one turn of the relay answers what came in an earlier one.
            if down.0 > before.sent
                && let Some(sample) = turns.server_bytes(now_us)
            {
                lease.turn_ended(sample, now_ms);
            }
            if up.0 > before.received && turns.client_bytes(now_us) {
                lease.turn_began(now_ms);
            }
        }
        if down.0 > 0 && self.moved.get().sent == 0 {
            let first_byte = self.established.get().map(|established| now - established);
            self.first_byte.set(first_byte);
            if let (Some(took), Some(lease)) = (first_byte, self.lease.borrow().as_ref()) {
                lease.backend().state().first_byte_seconds().observe(took);
            }
        }
        self.moved.set(Bytes { received: up.0, sent: down.0, spliced: up.1 + down.1 });
    }

    fn began(&self, first: u8) {
        if first == TLS_HANDSHAKE {
            self.turns.borrow_mut().opens_with_tls();
        }
    }

    fn half_closed(&self, by_backend: bool) {
        self.half_closed.set(true);
        if by_backend {
            self.break_off(BreakOff::BackendFinished);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let session = &self.session;
        session.worker.deregister(self.key);
        // Only a panic or a runtime that goes down under the session leaves no reason.
        let reason = session.reason.get().unwrap_or(Reason::Internal);
        let lasted = session.accepted.elapsed();
        session.report_bytes();
        if let (Some(leg), Some(lease)) = (session.backend.get(), session.lease.borrow().as_ref()) {
            ask::at_end(leg, lease.backend(), session.id);
        }
        session.listener.stats(session.worker.index()).count_closed(reason, lasted);
        if let Some(sink) = session.worker.sink() {
            sink(session.record(lasted, reason));
        }
        if !matches!(reason, Reason::DrainTimeout | Reason::Shutdown | Reason::Internal) {
            session.break_off(BreakOff::ClientLeft);
        }
        // Counted down before the sockets close, so that whoever sees the end of the session also sees it counted.
        if session.lease.borrow_mut().take().is_some() {
            session.call_next();
        }
    }
}

/// How a session ends early, as the backend's record has it.
#[derive(Clone, Copy)]
enum BreakOff {
    BackendReset,
    /// By its FIN, while the client was not finished.
    BackendFinished,
    /// By its end, by ours in its stead, or by a timeout.
    ClientLeft,
}

/// What came of one pick.
enum Picked {
    Lease(Lease),
    /// All are full, or others wait for them; with what the turnstile showed before, if a pick was made.
    Full {
        seen: Option<u64>,
    },
    Nobody,
}

/// The type of the record that every TLS connection begins with (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

fn reason_of_limit(limit: Limit) -> Reason {
    match limit {
        Limit::Process => Reason::LimitProcess,
        Limit::Listener => Reason::LimitListener,
        Limit::Source => Reason::LimitSource,
        Limit::Descriptors => Reason::LimitDescriptors,
    }
}

fn reason_of_connect(failure: ConnectFailure) -> Reason {
    match failure {
        ConnectFailure::Timeout => Reason::ConnectTimeout,
        ConnectFailure::Refused | ConnectFailure::Unreachable | ConnectFailure::Reset | ConnectFailure::Other => {
            Reason::ConnectFailed
        }
    }
}

fn reason_of_local(failure: LocalFailure) -> Reason {
    match failure {
        LocalFailure::NoPort => Reason::NoLocalPort,
        LocalFailure::NoDescriptor => Reason::NoDescriptor,
        LocalFailure::Other => Reason::LocalError,
    }
}

fn reason_of_relay(side: Side, error: &io::Error) -> Reason {
    let silent = matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN)
    );
    match (side, silent) {
        (Side::Client, true) => Reason::ClientUnreachable,
        (Side::Client, false) => Reason::ClientReset,
        (Side::Backend, true) => Reason::BackendUnreachable,
        (Side::Backend, false) => Reason::BackendReset,
    }
}
