//! From backends to clients.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::batch::{Batch, Source};
use super::engine::{Engine, State, Tools, Turn};
use super::inbound::reason_of_fault;
use super::send::{Message, Sender};
use super::stats::{Dropped, Moved};
use super::table::{FlowId, Reply};
use crate::record::Reason;

/// A flow's replies in a batch.
type Gathered = (FlowId, Range<usize>);

impl Engine {
    /// Takes the replies of the flows that have some, and sends all of them together. Returns how many came.
    pub(super) fn outbound(&self, state: &mut State, tools: &mut Tools, turn: &Turn<'_>) -> usize {
        let Tools { outward, sender, .. } = tools;
        outward.clear();
        let mut gathered: Vec<Gathered> = Vec::with_capacity(state.ready.len());
        let mut came = 0;
        for id in std::mem::take(&mut state.ready) {
            let mut most = FIRST_LOOK;
            for round in 0.. {
                if outward.is_full() {
                    came += self.deliver(state, outward, sender, &mut gathered, turn);
                }
                if round == ROUNDS_MOST {
                    // Others first; it goes on in the next turn.
                    state.ready.push(id);
                    break;
                }
                let Some(flow) = state.flow(id) else { break };
                let asked = most.min(outward.free());
                match outward.receive_up_to(flow.upstream.endpoint(), asked) {
                    Ok(range) => {
                        let taken = range.len();
                        gathered.push((id, range));
                        if taken < asked {
                            break;
                        }
                        most = usize::MAX;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => self.flow_error(state, id, &error, sender, turn),
                }
            }
        }
        came + self.deliver(state, outward, sender, &mut gathered, turn)
    }

    /// An error that waited on a flow's socket: what became of an earlier datagram.
    fn flow_error(&self, state: &mut State, id: FlowId, error: &io::Error, sender: &mut Sender, turn: &Turn<'_>) {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        let key = state.table.flow(id).map(|placed| placed.key.clone());
        let (Some(flow), Some(key)) = (state.flow(id), key) else { return };
        match errno {
            Some(Errno::CONNREFUSED | Errno::CONNRESET) => {
                self.refused(flow, turn);
                // The one datagram that it was sent may go to another backend: nobody has received it.
                if flow.held.is_some()
                    && flow.attempts <= turn.settings.retries
                    && self.move_flow(flow, id, Moved::Refused, turn).is_ok()
                {
                    self.send_held(flow, &key, sender, turn);
                } else {
                    self.drop_datagrams(Dropped::BackendRefused, 1);
                }
            }
            Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN) => {
                self.drop_datagrams(Dropped::Unreachable, 1);
            }
            Some(Errno::MSGSIZE) => self.drop_datagrams(Dropped::TooBig, 1),
            Some(_) | None => self.worker.complain(|| {
                tracing::warn!(service = &*turn.settings.service, %error, "a flow's socket reported an error; going on");
            }),
        }
    }

    /// Sends the replies gathered so far to their clients.
    fn deliver(
        &self,
        state: &mut State,
        batch: &mut Batch,
        sender: &mut Sender,
        gathered: &mut Vec<Gathered>,
        turn: &Turn<'_>,
    ) -> usize {
        let mut came = 0;
        let mut over: Vec<FlowId> = Vec::new();
        let mut outgoing: Vec<(FlowId, usize)> = Vec::with_capacity(batch.len());
        for (id, range) in gathered.drain(..) {
            for slot in range {
                let received = batch.slot(slot);
                came += received.count();
                match self.admit_reply(state, id, &received, &mut over, turn) {
                    Ok(()) => outgoing.push((id, slot)),
                    Err(reason) => self.drop_datagrams(reason, received.count() as u64),
                }
            }
        }
        self.send_replies(state, batch, sender, &outgoing, came, turn);
        batch.clear();
        over.into_iter().for_each(|id| self.end(state, id, Reason::Answered));
        came
    }

    fn admit_reply(
        &self,
        state: &mut State,
        id: FlowId,
        received: &super::batch::Received<'_>,
        over: &mut Vec<FlowId>,
        turn: &Turn<'_>,
    ) -> Result<(), Dropped> {
        let bytes = received.payload.len() as u64;
        if over.contains(&id) {
            // A duplicate of the last reply, in the same batch.
            return Err(Dropped::NoReturn);
        }
        let verdict = state.table.reply(id, received.count() as u32, bytes, turn.ms);
        match verdict {
            // It ended a moment ago.
            None => return Err(Dropped::NoReturn),
            Some(Reply::OverBudget) => return Err(Dropped::LimitReplies),
            Some(Reply::DeliverAndEnd) => over.push(id),
            Some(Reply::Deliver) => {}
        }
        if received.truncated {
            return Err(Dropped::Truncated);
        }
        let is_unnamed = state.table.flow(id).is_some_and(|placed| placed.key.source == Source::Unnamed);
        if is_unnamed {
            return Err(Dropped::NoReturn);
        }
        Ok(())
    }

    fn send_replies(
        &self,
        state: &mut State,
        batch: &Batch,
        sender: &mut Sender,
        outgoing: &[(FlowId, usize)],
        came: usize,
        turn: &Turn<'_>,
    ) {
        if came == 0 {
            return;
        }
        let stats = self.listener.stats(self.worker.index());
        stats.udp().count_backend(came as u64, 0);
        let table = &state.table;
        let messages = outgoing.iter().filter_map(|(id, slot)| {
            let (placed, received) = (table.flow(*id)?, batch.slot(*slot));
            Some(Message {
                header: &[],
                payload: received.payload,
                segment: received.segment,
                to: Some(&placed.key.source),
                from: placed.key.local,
                ecn: received.ecn,
            })
        });
        let sent = sender.send(self.endpoint(), messages);
        stats.udp().count_client(0, sent.datagrams);
        stats.count_bytes(0, sent.bytes, 0);
        for failure in &sent.failed {
            self.drop_datagrams(reason_of_fault(failure.fault), failure.datagrams);
        }
        let has_failed = |at: usize| sent.failed.iter().any(|failure| failure.message == at);
        for (at, (id, slot)) in outgoing.iter().enumerate() {
            let received = batch.slot(*slot);
            let Some(flow) = state.flow(*id) else { continue };
            let backend = std::sync::Arc::clone(flow.backend());
            self.learn_id(received.payload, &backend, turn);
            backend.state().add_bytes(received.payload.len() as u64, 0);
            let (datagrams, bytes) = match has_failed(at) {
                true => (0, 0),
                false => (received.count() as u64, received.payload.len() as u64),
            };
            flow.answered(datagrams, bytes, turn.now, turn.us, turn.ms);
        }
    }
}

/// Replies asked for with the first call: most flows have one waiting, and fewer than asked for says that it was all.
const FIRST_LOOK: usize = 4;
/// Calls for one flow before others have their turn.
const ROUNDS_MOST: usize = 4;
