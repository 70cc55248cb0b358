//! From clients to backends.

use std::net::SocketAddr;

use super::batch::{Batch, Received};
use super::engine::{Engine, State, Tools, Turn};
use super::flow::{ClientKey, Flow};
use super::proxy_header::{self, Command};
use super::reach::Reached;
use super::send::{Message, SendFault, Sender};
use super::settings::{Draining, SendProxy};
use super::stats::{Dropped, Moved};
use super::table::{Arrival, FlowId, Refusal};
use crate::record::{Peer, Reason};

/// Datagrams of a flow that lie one behind the other in one slot of a batch.
#[derive(Clone, Copy, Debug)]
struct Piece {
    flow: FlowId,
    slot: usize,
    start: usize,
    end: usize,
    segment: usize,
}

/// Whom a datagram is from, and where its payload begins.
struct Arrived {
    client: Peer,
    skip: usize,
}

impl Engine {
    /// Takes what clients sent, up to a few batches, and passes it on. Returns how many datagrams came.
    pub(super) fn inbound(&self, state: &mut State, tools: &mut Tools, turn: &Turn<'_>) -> usize {
        let Tools { inward, sender, .. } = tools;
        let mut came = 0;
        for _ in 0..BATCHES_MOST {
            inward.clear();
            let room = inward.free();
            match inward.receive(self.endpoint()) {
                Ok(range) => {
                    let taken = range.len();
                    came += self.pass_on(state, inward, sender, turn);
                    if taken < room {
                        state.has_clients = false;
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    state.has_clients = false;
                    break;
                }
                // An error of an earlier datagram of ours, or a shortage; the socket is as good as ever. Should it last, the
                // next datagram is heard of all the same, and nothing spins until then.
                Err(error) => {
                    self.complain_of_listener(&error);
                    state.has_clients = false;
                }
            }
        }
        came
    }

    fn complain_of_listener(&self, error: &std::io::Error) {
        self.listener.stats(self.worker.index()).count_accept_error(crate::accept::AcceptError::Other);
        self.worker.complain(|| {
            tracing::warn!(listener = self.listener.name(), %error, "receiving datagrams reported an error; going on");
        });
    }

    /// Finds out whose all datagrams of the batch are, and sends them flow by flow, each flow's in their order.
    fn pass_on(&self, state: &mut State, batch: &Batch, sender: &mut Sender, turn: &Turn<'_>) -> usize {
        let mut pieces: Vec<Piece> = Vec::with_capacity(batch.len());
        let (mut came, mut bytes) = (0, 0);
        for slot in 0..batch.len() {
            let received = batch.slot(slot);
            came += received.count();
            if received.truncated {
                self.drop_datagrams(Dropped::Truncated, 1);
                continue;
            }
            self.classify(state, slot, &received, turn, &mut pieces);
        }
        pieces.sort_by_key(|piece| piece.flow.bits());
        for run in pieces.chunk_by(|a, b| a.flow == b.flow) {
            bytes += self.forward(state, batch, run, sender, turn);
        }
        let stats = self.listener.stats(self.worker.index());
        stats.udp().count_client(came as u64, 0);
        stats.count_bytes(bytes, 0, 0);
        came
    }

    /// Adds what is in a slot to the pieces, each with its flow.
    fn classify(
        &self,
        state: &mut State,
        slot: usize,
        received: &Received<'_>,
        turn: &Turn<'_>,
        pieces: &mut Vec<Piece>,
    ) {
        if turn.udp.accept_proxy.is_empty() {
            let client = received.source.inet().map_or(Peer::Unix, Peer::Inet);
            match self.flow_of(state, received, received.payload, client, turn) {
                Ok(flow) => {
                    let (end, segment) = (received.payload.len(), received.segment);
                    pieces.push(Piece { flow, slot, start: 0, end, segment });
                }
                Err(reason) => self.drop_datagrams(reason, received.count() as u64),
            }
            return;
        }
        // Each may have a header of its own length.
        let mut end = 0;
        for datagram in received.datagrams() {
            end += datagram.len();
            let placed = arrived(received, datagram, turn).and_then(|Arrived { client, skip }| {
                let payload = &datagram[skip..];
                Ok((self.flow_of(state, received, payload, client, turn)?, payload.len()))
            });
            match placed {
                Ok((flow, length)) => pieces.push(Piece { flow, slot, start: end - length, end, segment: 0 }),
                Err(reason) => self.drop_datagrams(reason, 1),
            }
        }
    }

    /// The flow that datagrams belong to, which may have to be begun.
    fn flow_of(
        &self,
        state: &mut State,
        received: &Received<'_>,
        payload: &[u8],
        client: Peer,
        turn: &Turn<'_>,
    ) -> Result<FlowId, Dropped> {
        let key = ClientKey { source: received.source.clone(), local: received.local };
        let count = if payload.len() <= received.segment { 1 } else { received.count() as u32 };
        match state.table.arrive(&key, count, payload.len() as u64, turn.ms) {
            Arrival::Flow(id) => Ok(id),
            Arrival::New => self.begin(state, key, client, payload, (count, received.ecn), turn),
            Arrival::Refused(Refusal::Prefix) => Err(Dropped::LimitNetwork),
            Arrival::Refused(Refusal::Rate) => Err(Dropped::LimitRate),
        }
    }

    /// Sends a run of datagrams of one flow, to another backend if its own is none any more. Returns the bytes that went.
    fn forward(&self, state: &mut State, batch: &Batch, run: &[Piece], sender: &mut Sender, turn: &Turn<'_>) -> u64 {
        let id = run[0].flow;
        let count = |piece: &Piece| (piece.end - piece.start).div_ceil(piece.segment.max(1)).max(1) as u64;
        let datagrams =
            |run: &[Piece]| -> u64 { run.iter().map(|piece| if piece.segment == 0 { 1 } else { count(piece) }).sum() };
        for _ in 0..=turn.settings.retries {
            let Some(flow) = state.flow(id) else {
                // It made room for another flow of this very batch.
                self.drop_datagrams(Dropped::LimitListener, datagrams(run));
                return 0;
            };
            if let Some(why) = must_move(flow, turn)
                && let Err(reason) = self.move_flow(flow, id, why, turn)
            {
                self.drop_datagrams(reason, datagrams(run));
                self.end(state, id, reason_of_end(why, reason));
                return 0;
            }
            let header = match turn.udp.send_proxy {
                None => Vec::new(),
                Some(_) => {
                    let (client, is_announced) = (flow.client, flow.is_announced);
                    let local = state.table.flow(id).and_then(|placed| self.local(&placed.key));
                    announcement(turn, client, local, is_announced)
                }
            };
            let Some(flow) = state.flow(id) else { return 0 };
            if run.iter().any(|piece| batch.slot(piece.slot).ecn != 0) {
                // Who marks datagrams wants to see the marks of the replies.
                flow.equip();
            }
            let every = turn.udp.send_proxy == Some(SendProxy::Every);
            let messages = messages(batch, run, &header, every);
            let sent = sender.send(flow.upstream.endpoint(), messages);
            let refused = sent.pending == Some(SendFault::Refused)
                || sent.failed.iter().any(|failure| failure.fault == SendFault::Refused);
            if refused {
                // Nobody received them, so that another backend may have them.
                self.refused(flow, turn);
                continue;
            }
            for failure in &sent.failed {
                self.drop_datagrams(reason_of_fault(failure.fault), failure.datagrams);
            }
            flow.is_announced = true;
            let began = flow.asked(sent.datagrams, sent.bytes, turn.us, turn.ms);
            flow.backend().state().add_bytes(0, sent.bytes);
            if began {
                state.watch_for_reply(id, turn.ms);
            }
            self.listener.stats(self.worker.index()).udp().count_backend(0, sent.datagrams);
            return sent.bytes;
        }
        self.drop_datagrams(Dropped::BackendRefused, datagrams(run));
        self.end(state, id, Reason::BackendRefused);
        0
    }

    pub(super) fn drop_datagrams(&self, reason: Dropped, datagrams: u64) {
        self.listener.stats(self.worker.index()).udp().count_dropped(reason, datagrams);
    }

    /// Begins a flow by its first datagrams, of which `payload` is what goes to the backend.
    fn begin(
        &self,
        state: &mut State,
        key: ClientKey,
        client: Peer,
        payload: &[u8],
        (count, ecn): (u32, u8),
        turn: &Turn<'_>,
    ) -> Result<FlowId, Dropped> {
        if self.draining.get() {
            return Err(Dropped::Draining);
        }
        if let Some(addr) = key.source.inet()
            && self.worker.is_own(addr, self.local(&key))
        {
            return Err(Dropped::OwnListener);
        }
        let permit = self.permit(state, client)?;
        turn.set.retry_budget().deposit(turn.ms);
        let is_short = count == 1 && ecn == 0;
        let Reached { lease, upstream, attempts } =
            self.reach(client, self.backend_of_id(payload, turn), &mut Vec::new(), is_short, turn)?;
        let id = state.table.open(key, count, payload.len() as u64, turn.ms);
        let flow = Flow {
            session: self.worker.next_id(),
            began: turn.now,
            client,
            upstream,
            is_equipped: !is_short,
            turns: balance::Turns::new(turn.us, lease.base_us()),
            last: super::flow::Chosen::of(&lease),
            lease: Some(lease),
            held: (payload.len() <= HELD_MOST && count == 1).then(|| payload.into()),
            broken: None,
            is_announced: false,
            is_watched: false,
            checked: turn.version,
            attempts,
            first_reply: None,
            moved: Default::default(),
            _permit: permit,
        };
        if let Err(error) = self.watch(&flow, id) {
            state.table.end(id);
            self.worker.complain(|| tracing::warn!(%error, "cannot watch a flow's socket"));
            return Err(Dropped::LocalError);
        }
        self.listener.stats(self.worker.index()).count_opened();
        state.place(id, flow);
        Ok(id)
    }

    /// Sends the first datagram again, to the backend that the flow has now.
    pub(super) fn send_held(&self, flow: &mut Flow, key: &ClientKey, sender: &mut Sender, turn: &Turn<'_>) {
        let Some(held) = flow.held.take() else { return };
        let header = announcement(turn, flow.client, self.local(key), flow.is_announced);
        let message = Message { header: &header, payload: &held, segment: 0, to: None, from: None, ecn: 0 };
        let sent = sender.send(flow.upstream.endpoint(), [message]);
        flow.is_announced = true;
        flow.held = Some(held);
        self.listener.stats(self.worker.index()).udp().count_backend(0, sent.datagrams);
        sent.failed.iter().for_each(|failure| self.drop_datagrams(reason_of_fault(failure.fault), failure.datagrams));
    }
}

/// The PROXY header that is due before the next datagram, or nothing.
fn announcement(turn: &Turn<'_>, client: Peer, local: Option<SocketAddr>, is_announced: bool) -> Vec<u8> {
    let mut header = Vec::new();
    match (turn.udp.send_proxy, client, local) {
        (None, _, _) => {}
        (Some(SendProxy::First), _, _) if is_announced => {}
        (Some(_), Peer::Inet(client), Some(local)) => proxy_header::encode(client, local, &mut header),
        (Some(_), _, _) => proxy_header::encode_unknown(&mut header),
    }
    header
}

/// What a datagram says of its origin, where some senders are trusted with that.
fn arrived(received: &Received<'_>, datagram: &[u8], turn: &Turn<'_>) -> Result<Arrived, Dropped> {
    let sender = received.source.inet();
    let is_trusted = sender.is_some_and(|addr: SocketAddr| turn.udp.accept_proxy.contains(addr.ip()));
    let own = Arrived { client: sender.map_or(Peer::Unix, Peer::Inet), skip: 0 };
    match (is_trusted, proxy_header::parse(datagram)) {
        (true, Ok(header)) => Ok(match header.command {
            Command::Local => Arrived { skip: header.length, ..own },
            Command::Proxy { client, .. } => Arrived { client: Peer::Inet(client), skip: header.length },
        }),
        (false, Ok(_)) | (true, Err(_)) => Err(Dropped::ProxyHeader),
        (false, Err(_)) => Ok(own),
    }
}

/// Why the flow cannot stay where it is, if it cannot.
fn must_move(flow: &mut Flow, turn: &Turn<'_>) -> Option<Moved> {
    if flow.broken.is_some() || flow.checked == turn.version {
        return flow.broken;
    }
    flow.checked = turn.version;
    match turn.set.keeps(flow.backend(), turn.ms) {
        balance::Keep::Yes => None,
        balance::Keep::Draining if turn.udp.draining == Draining::MoveNow => Some(Moved::Draining),
        balance::Keep::Draining => None,
        balance::Keep::Gone => Some(Moved::Gone),
    }
}

fn messages<'a>(
    batch: &'a Batch,
    run: &'a [Piece],
    header: &'a [u8],
    every: bool,
) -> impl Iterator<Item = Message<'a>> {
    let message = move |piece: &Piece, start: usize, end: usize, header: &'a [u8]| {
        let received = batch.slot(piece.slot);
        Message {
            header,
            payload: &received.payload[start..end],
            segment: piece.segment,
            to: None,
            from: None,
            ecn: received.ecn,
        }
    };
    run.iter().enumerate().flat_map(move |(at, piece)| {
        let single = match (at, header.is_empty(), every) {
            // The header is for the first datagram alone.
            (0, false, false) if piece.segment > 0 => piece.end.min(piece.start + piece.segment),
            (0, false, false) => piece.end,
            _ => piece.start,
        };
        let alone = (single > piece.start || (at == 0 && !header.is_empty() && !every))
            .then(|| message(piece, piece.start, single, header));
        let rest = (alone.is_none() || single < piece.end)
            .then(|| message(piece, single, piece.end, if every { header } else { &[] }));
        alone.into_iter().chain(rest)
    })
}

pub(super) fn reason_of_fault(fault: SendFault) -> Dropped {
    match fault {
        SendFault::TooBig => Dropped::TooBig,
        SendFault::Refused => Dropped::BackendRefused,
        SendFault::Unreachable => Dropped::Unreachable,
        SendFault::NoBuffers | SendFault::Full => Dropped::NoBuffers,
        SendFault::Denied | SendFault::Other => Dropped::LocalError,
    }
}

fn reason_of_end(why: Moved, reason: Dropped) -> Reason {
    match (why, reason) {
        (Moved::Refused, Dropped::NoBackend) => Reason::BackendRefused,
        (_, Dropped::NoLocalPort) => Reason::NoLocalPort,
        (_, Dropped::LimitDescriptors) => Reason::NoDescriptor,
        (_, Dropped::LocalError | Dropped::NoBuffers) => Reason::LocalError,
        (_, Dropped::Unreachable) => Reason::ConnectFailed,
        _ => Reason::NoBackend,
    }
}

/// Batches of clients before replies have their turn.
const BATCHES_MOST: usize = 4;
/// First datagrams up to this length are kept until the first reply.
const HELD_MOST: usize = 1500;
