//! The event loop of one listening socket of datagrams on one worker: its flows, and what ends them.
//!
//! One epoll instance holds the listening socket and the sockets of all flows, edge-triggered, and is itself watched by
//! the worker's event loop: flows cost no task and no waker. A turn takes what epoll reports, moves datagrams of clients
//! (`inbound`), then replies (`outbound`), and touches nothing that has not moved.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::BackendSet;
use rustix::event::epoll;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::flow::{ClientKey, Flow, wall_clock};
use super::send::Sender;
use super::settings::UdpSettings;
use super::socket::{Endpoint, Family};
use super::table::{FlowId, Rules, Table};
use crate::bind::Shard;
use crate::listener::{Listener, ListenerSettings};
use crate::record::{Reason, Record};
use crate::session::SessionView;
use crate::worker::Worker;

/// What moves datagrams, one for each worker and shared by its engines: no engine needs it beyond a turn.
pub(crate) struct Tools {
    pub(super) inward: Batch,
    pub(super) outward: Batch,
    pub(super) sender: Sender,
}

impl Tools {
    pub(crate) fn new() -> Self {
        Self { inward: Batch::default(), outward: Batch::default(), sender: Sender::new() }
    }
}

/// A listening socket and its flows.
pub(crate) struct Engine {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Arc<Listener>,
    pub(super) socket: Shard,
    /// Where it listens; nothing on a unix path.
    pub(super) address: Option<SocketAddr>,
    epoll: AsyncFd<OwnedFd>,
    state: RefCell<State>,
    /// No new flows any more.
    pub(super) draining: Cell<bool>,
    over: CancellationToken,
}

/// All that changes.
pub(super) struct State {
    pub(super) table: Table<ClientKey>,
    /// By the slots of the table.
    pub(super) flows: Vec<Option<Box<Flow>>>,
    /// Flows in the order in which their replies become late, each at most once.
    pub(super) watched: VecDeque<(u64, FlowId)>,
    /// Flows whose sockets have something.
    pub(super) ready: Vec<FlowId>,
    /// The listening socket has something.
    pub(super) has_clients: bool,
    events: Vec<epoll::Event>,
    settings: Arc<ListenerSettings>,
    set: Arc<BackendSet>,
    /// The set's `changes` when `version` was last raised.
    changes: u64,
    /// Rises with everything that may mean that a backend must be left.
    version: u64,
    /// When it was last looked for flows whose time is over.
    looked_ms: u64,
}

/// What is true for one turn.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) ms: u64,
    pub(super) us: u64,
    pub(super) settings: &'a ListenerSettings,
    pub(super) udp: &'a UdpSettings,
    pub(super) set: &'a BackendSet,
    /// Of the set and the settings.
    pub(super) version: u64,
}

/// Whether a turn left something behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// Enough moved that more is likely there already.
    Likely,
    Some,
}

impl Engine {
    /// An engine for the worker's socket of a listener.
    ///
    /// *Errors*: no descriptor, or no memory, for an epoll instance.
    pub(crate) fn new(worker: &Rc<Worker>, listener: &Arc<Listener>, socket: Shard) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let settings = listener.settings();
        let address = match &socket {
            Shard::Udp(socket) => Some(socket.local_addr()?),
            Shard::Tcp(_) | Shard::Unix(_) | Shard::Datagram(_) => None,
        };
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, endpoint(&socket, address).fd, epoll::EventData::new_u64(LISTENING), events)?;
        let ms = worker.now_ms();
        let state = State {
            table: Table::new(rules(&settings, worker.max_connections()), ms),
            flows: Vec::new(),
            watched: VecDeque::new(),
            ready: Vec::new(),
            has_clients: true,
            events: Vec::with_capacity(EVENTS),
            set: Arc::clone(&settings.backends.load()),
            settings,
            changes: 0,
            version: 0,
            looked_ms: ms,
        };
        Ok(Self {
            worker: Rc::clone(worker),
            listener: Arc::clone(listener),
            socket,
            address,
            epoll: watched(epoll)?,
            state: RefCell::new(state),
            draining: Cell::new(false),
            over: CancellationToken::new(),
        })
    }

    /// Serves until it was told to stop and its flows have ended.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut timer = pin!(tokio::time::sleep_until((Instant::now() + FAR).into()));
        loop {
            if let Some(due) = self.due()
                && due != timer.deadline().into_std()
            {
                timer.as_mut().reset(due.into());
            }
            tokio::select! {
                biased;
                () = self.over.cancelled() => return,
                () = &mut timer => {
                    timer.as_mut().reset((Instant::now() + FAR).into());
                    self.look();
                }
                readable = self.epoll.readable() => {
                    let mut guard = match readable {
                        Ok(guard) => guard,
                        // The event loop is shutting down.
                        Err(_closed) => return,
                    };
                    let mut turns = 0;
                    let rest = loop {
                        turns += 1;
                        let rest = self.turn();
                        if rest == Rest::Nothing || turns == TURNS_MOST {
                            break rest;
                        }
                    };
                    if rest == Rest::Nothing {
                        guard.clear_ready();
                    } else {
                        drop(guard);
                        // Others of this worker first.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Takes no new flows any more. Those there are go on until they end by themselves, or end now.
    pub(crate) fn stop(&self, flows: WhatOfFlows) {
        self.draining.set(true);
        if flows == WhatOfFlows::End {
            self.cut(Reason::ListenerClosed);
        }
        self.leave_when_done(&self.state.borrow());
    }

    /// Ends all flows.
    pub(crate) fn cut(&self, reason: Reason) {
        let mut state = self.state.borrow_mut();
        let all: Vec<FlowId> = state.table.iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.end(&mut state, id, reason));
        self.leave_when_done(&state);
    }

    /// Up to `limit` of its flows.
    pub(crate) fn views(&self, limit: usize) -> Vec<SessionView> {
        let (state, now) = (self.state.borrow(), Instant::now());
        let now_ms = self.worker.epoch().millis(now);
        let view = |(id, placed): (FlowId, &super::table::Flow<ClientKey>)| {
            let flow = state.flows[id.slot()].as_deref()?;
            Some(SessionView {
                session: flow.session,
                listener: self.listener.shared_name(),
                client: flow.client,
                backend: Some(Arc::clone(flow.backend())),
                age: now.saturating_duration_since(flow.began),
                idle: Duration::from_millis(now_ms.saturating_sub(placed.last_ms())),
                received_bytes: flow.moved.received_bytes,
                sent_bytes: flow.moved.sent_bytes,
            })
        };
        state.table.iter().filter_map(view).take(limit).collect()
    }

    /// Moves what is there to be moved, up to a limit for the sake of others.
    fn turn(&self) -> Rest {
        let mut tools = self.worker.datagrams();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        self.poll(state);
        let (settings, set) = self.refresh(state);
        let Some(udp) = &settings.udp else { return Rest::Nothing };
        let turn = self.now(&settings, udp, &set, state.version);
        let inward = if state.has_clients { self.inbound(state, &mut tools, &turn) } else { 0 };
        let outward = if state.ready.is_empty() { 0 } else { self.outbound(state, &mut tools, &turn) };
        self.leave_when_done(state);
        match () {
            () if state.has_clients || !state.ready.is_empty() => Rest::Some,
            () if inward + outward >= BUSY => Rest::Likely,
            () => Rest::Nothing,
        }
    }

    /// Asks epoll what has something. Edge-triggered: what is reported once is remembered here until it is drained.
    fn poll(&self, state: &mut State) {
        state.events.clear();
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut state.events);
        if let Err(error) = epoll::wait(self.epoll.get_ref(), spare, Some(&at_once)) {
            // Interrupted: what there is stays for the next turn. Nothing else can be wrong with a valid descriptor.
            tracing::debug!(%error, "epoll_wait");
        }
        for event in &state.events {
            match event.data.u64() {
                LISTENING => state.has_clients = true,
                bits => state.ready.push(FlowId::from_bits(bits)),
            }
        }
    }

    /// The settings and the live set of now, which may have been replaced.
    fn refresh(&self, state: &mut State) -> (Arc<ListenerSettings>, Arc<BackendSet>) {
        let settings = self.listener.settings();
        if !Arc::ptr_eq(&settings, &state.settings) {
            state.table.set_rules(rules(&settings, self.worker.max_connections()));
            state.settings = Arc::clone(&settings);
            state.version += 1;
        }
        let set = settings.backends.load();
        let changes = set.changes();
        if !Arc::ptr_eq(&set, &state.set) || changes != state.changes {
            (state.set, state.changes) = (Arc::clone(&set), changes);
            state.version += 1;
        }
        (settings, Arc::clone(&state.set))
    }

    fn now<'a>(
        &self,
        settings: &'a ListenerSettings,
        udp: &'a UdpSettings,
        set: &'a BackendSet,
        version: u64,
    ) -> Turn<'a> {
        let (now, epoch) = (Instant::now(), self.worker.epoch());
        Turn { now, ms: epoch.millis(now), us: epoch.micros(now), settings, udp, set, version }
    }

    /// When to look for flows whose time is over.
    fn due(&self) -> Option<Instant> {
        let state = self.state.borrow();
        let timeout_ms = state.settings.udp.as_ref().map_or(0, |udp| udp.reply_timeout.as_millis() as u64);
        let late_ms = state.watched.front().map(|(since_ms, _)| since_ms + timeout_ms);
        let due_ms = [state.table.next_deadline_ms(), late_ms].into_iter().flatten().min()?;
        // New settings may have brought deadlines forward.
        let due_ms = due_ms.min(state.looked_ms + LOOK_MS);
        // Not more often than a coarse tick, since nobody notices a flow that ends so much later; and a timer that stays
        // where it is costs nothing.
        Some(self.worker.epoch().at(due_ms.div_ceil(GRANULE_MS) * GRANULE_MS))
    }

    /// Ends the flows whose time is over, and blames the backends that let clients wait for too long.
    fn look(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let (settings, set) = self.refresh(state);
        let Some(udp) = &settings.udp else { return };
        let turn = self.now(&settings, udp, &set, state.version);
        state.looked_ms = turn.ms;
        self.find_silent(state, &turn);
        let mut over = Vec::new();
        state.table.expired(turn.ms, &mut over);
        over.into_iter().for_each(|id| self.end(state, id, Reason::IdleTimeout));
        self.leave_when_done(state);
    }

    fn find_silent(&self, state: &mut State, turn: &Turn<'_>) {
        let timeout_ms = turn.udp.reply_timeout.as_millis() as u64;
        while let Some((since_ms, id)) = state.watched.front().copied()
            && since_ms + timeout_ms <= turn.ms
        {
            state.watched.pop_front();
            let waiting_since = state.table.flow(id).and_then(|placed| placed.waiting_since_ms);
            let Some(flow) = state.flow(id) else { continue };
            flow.is_watched = false;
            match waiting_since {
                Some(since_ms) if since_ms + timeout_ms <= turn.ms => self.blame_silence(flow, turn),
                Some(since_ms) => {
                    flow.is_watched = true;
                    state.watched.push_back((since_ms, id));
                }
                None => {}
            }
        }
    }

    fn blame_silence(&self, flow: &mut Flow, turn: &Turn<'_>) {
        let Some(lease) = &mut flow.lease else { return };
        let ejected = lease.silent(turn.ms, &mut self.worker.rng());
        flow.turns.gave_up();
        if ejected {
            let (service, address) = (&*turn.settings.service, lease.backend().address());
            tracing::info!(service, backend = %address, "ejected a backend that does not reply");
        }
    }

    /// Ends a flow: counts it, records it, and closes its socket.
    pub(super) fn end(&self, state: &mut State, id: FlowId, reason: Reason) {
        let Some(placed) = state.table.end(id) else { return };
        let Some(flow) = state.flows[id.slot()].take() else { return };
        let lasted = flow.began.elapsed();
        self.listener.stats(self.worker.index()).count_closed(reason, lasted);
        let (home, away) = (self.worker.zone(), flow.backend().zone());
        self.worker.cross_zone().add(home, away, flow.moved.received_bytes);
        self.worker.cross_zone().add(away, home, flow.moved.sent_bytes);
        if let Some(sink) = self.worker.sink() {
            sink(self.record(state, &flow, &placed.key, lasted, reason));
        }
        drop(flow);
        if state.set.turnstile().is_awaited() {
            // A connection of the same service may wait for the place.
            state.settings.line.freed();
        }
    }

    fn record(&self, state: &State, flow: &Flow, key: &ClientKey, lasted: Duration, reason: Reason) -> Record {
        Record {
            accepted: wall_clock(lasted),
            session: flow.session,
            listener: self.listener.shared_name(),
            protocol: if self.address.is_some() { "udp" } else { "datagram" },
            client: flow.client,
            local: self.local(key),
            service: Arc::clone(&state.settings.service),
            backend: Some(flow.backend().address().clone()),
            zone: Some(flow.backend().zone().clone()),
            pick: Some(flow.last.reason),
            score_us: flow.last.score_us,
            queued: Duration::ZERO,
            attempts: flow.attempts,
            connect: None,
            first_byte: flow.first_reply,
            duration: lasted,
            received_datagrams: Some(flow.moved.received_datagrams),
            sent_datagrams: Some(flow.moved.sent_datagrams),
            received_bytes: flow.moved.received_bytes,
            sent_bytes: flow.moved.sent_bytes,
            spliced_bytes: 0,
            reason,
        }
    }

    /// The address that the client used.
    pub(super) fn local(&self, key: &ClientKey) -> Option<SocketAddr> {
        let mut address = self.address?;
        if let Some(local) = key.local {
            address.set_ip(local.ip);
        }
        Some(address)
    }

    /// The listening socket for sending and receiving.
    pub(super) fn endpoint(&self) -> Endpoint<'_> {
        endpoint(&self.socket, self.address)
    }

    /// Has replies on a flow's socket reported.
    pub(super) fn watch(&self, flow: &Flow, id: FlowId) -> io::Result<()> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(id.bits());
        Ok(epoll::add(self.epoll.get_ref(), flow.upstream.endpoint().fd, data, events)?)
    }

    fn leave_when_done(&self, state: &State) {
        if self.draining.get() && state.table.len() == 0 {
            self.over.cancel();
        }
    }
}

impl State {
    pub(super) fn flow(&mut self, id: FlowId) -> Option<&mut Flow> {
        // The slot may be another flow's by now.
        self.table.flow(id)?;
        self.flows.get_mut(id.slot())?.as_deref_mut()
    }

    pub(super) fn place(&mut self, id: FlowId, flow: Flow) {
        if self.flows.len() <= id.slot() {
            self.flows.resize_with(id.slot() + 1, || None);
        }
        self.flows[id.slot()] = Some(Box::new(flow));
    }

    /// Has the flow looked at when its reply is late.
    pub(super) fn watch_for_reply(&mut self, id: FlowId, now_ms: u64) {
        if let Some(flow) = self.flow(id)
            && !std::mem::replace(&mut flow.is_watched, true)
        {
            self.watched.push_back((now_ms, id));
        }
    }
}

/// What becomes of the flows of a listener that stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhatOfFlows {
    /// They end by themselves: the process drains.
    GoOn,
    /// They end with it: its address is free at once.
    End,
}

fn endpoint(socket: &Shard, address: Option<SocketAddr>) -> Endpoint<'_> {
    match (socket, address) {
        (Shard::Udp(socket), Some(address)) => Endpoint::new(socket.as_fd(), Family::of(address)),
        (Shard::Udp(socket), None) => Endpoint::new(socket.as_fd(), Family::V4),
        (Shard::Datagram(socket), _) => Endpoint::new(socket.as_fd(), Family::Unix),
        (Shard::Tcp(socket), _) => Endpoint::new(socket.as_fd(), Family::V4),
        (Shard::Unix(socket), _) => Endpoint::new(socket.as_fd(), Family::Unix),
    }
}

/// The epoll instance on the worker's event loop.
// Deprecated because it trusts any `AsRawFd` to keep its descriptor open; `OwnedFd` does.
#[expect(deprecated)]
fn watched(epoll: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(epoll, Interest::READABLE)
}

/// What the table decides by. `process` is `max_connections` of the process; 0 is none.
fn rules(settings: &ListenerSettings, process: u32) -> Rules {
    let most = [settings.max_connections, process].into_iter().filter(|most| *most > 0).min().unwrap_or(u32::MAX);
    let udp = settings.udp.as_ref();
    Rules {
        idle_ms: settings.idle_timeout.as_millis() as u64,
        requests: udp.map_or(0, |udp| udp.requests),
        replies: udp.map_or(0, |udp| udp.replies),
        prefix_share: (most / NETWORKS_LEAST).max(1),
        unproven: udp
            .map_or(super::Unproven { datagrams_per_second: 0, reply_bytes_per_second: 0 }, |udp| udp.unproven),
    }
}

/// What the epoll instance calls the listening socket; no flow has a name below 2^32.
const LISTENING: u64 = 0;
/// Events taken with one call.
const EVENTS: usize = 128;
/// Turns after which other tasks of the worker go first.
const TURNS_MOST: u32 = 8;
/// Datagrams of a turn that make it worth to ask epoll again before the event loop: an event loop's turn costs more.
const BUSY: usize = 8;
/// One network may have this part of all flows without ever having had a reply on them.
const NETWORKS_LEAST: u32 = 8;
/// For timers without anything to do.
const FAR: Duration = Duration::from_secs(3600);
/// As long as there are flows, their deadlines are looked at so often, whatever the settings were when they began.
const LOOK_MS: u64 = 1_000;
/// Timers are this coarse.
const GRANULE_MS: u64 = 16;
