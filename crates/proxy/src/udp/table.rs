//! Which flow a datagram belongs to, and when flows end: pure, by addresses, lengths and the time.
//!
//! ```text
//!  New --open--> in use --`requests` datagrams came--> used up
//!                  |                                      |
//!                  +----------------- end ----------------+
//! ```
//!
//! Either ends by silence (`expired`), by the last reply (`Reply::DeliverAndEnd`), or because the engine wants it.
//!
//! A flow in use is found by its key. A flow that is used up is found by its [`FlowId`] only, so that its client's
//! next datagram is new while replies still come home. Until its first reply a flow is *unanswered*, and nothing
//! tells it from one that a forged address began: unanswered flows are bounded per network, and are what is given up
//! for room.
//!
//! Nothing is made for a datagram before [`Table::open`], but for the entry that counts its source (`sources`). All
//! that comes in with a datagram is hashed with a random key.

mod flow;
#[cfg(test)]
mod simulation;
mod slots;
mod sources;
#[cfg(test)]
mod tests;
mod wheel;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;

use self::slots::Slots;
use self::sources::{Sources, Standing};
use self::wheel::Wheel;
use super::Unproven;

pub(crate) use self::flow::{Flow, FlowId};

/// The key of a flow: everything that makes two datagrams belong together.
pub(crate) trait Origin: Clone + Eq + Hash {
    /// The network that the client is in; see [`prefixes`].
    fn prefix(&self) -> u64;

    /// Who the client is, as far as rates are concerned; see [`prefixes`].
    fn source(&self) -> u64;
}

/// What decides over all flows of a listener.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// A flow ends when there was no datagram in either direction for so long.
    pub(crate) idle_ms: u64,
    /// Datagrams of the client after which a flow is used up. 0 is no limit.
    pub(crate) requests: u32,
    /// Replies to each datagram of the client after which a flow has nothing to wait for. 0 is no limit.
    pub(crate) replies: u32,
    /// Unanswered flows that one network may have. 0 is no limit.
    pub(crate) prefix_share: u32,
    /// What a source may do until it has proven that it receives what is sent to it.
    pub(crate) unproven: Unproven,
}

impl Rules {
    fn deadline_ms<K>(&self, flow: &Flow<K>) -> u64 {
        flow.last_ms().saturating_add(self.idle_ms)
    }

    fn used_up<K>(&self, flow: &Flow<K>) -> bool {
        self.requests > 0 && flow.requests >= u64::from(self.requests)
    }

    /// Whether all replies that were to come are here. Where `requests` is a limit too, it is reached first: until
    /// then the client is expected to go on.
    fn all_answered<K>(&self, flow: &Flow<K>) -> bool {
        let complete = !flow.indexed || flow.requests >= u64::from(self.requests);
        self.replies > 0 && complete && flow.replies >= flow.requests.saturating_mul(self.replies.into())
    }
}

/// What becomes of a client's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// They belong to this flow.
    Flow(FlowId),
    /// They may begin a flow.
    New,
    /// They are dropped, and nothing is counted but the refusal.
    Refused(Refusal),
}

/// Why datagrams of a client are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client's network has all the unanswered flows that it may have.
    Prefix,
    /// The client has not proven itself and sends more than it then may.
    Rate,
}

/// What becomes of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// They go to the client.
    Deliver,
    /// They go to the client and are the last: the flow is to be ended.
    DeliverAndEnd,
    /// They are dropped, because the client has not proven itself and is sent more than it then may be. The flow
    /// lives on as if they had not come, but no longer waits: its backend did answer.
    OverBudget,
}

/// The flows of one listener and worker.
///
/// *Cost*: an arrival on a known flow is a keyed hash, a look-up and a few stores; no call allocates but
/// [`Table::open`] and the growth of `sources`. At most 160 bytes for each flow with a key of up to 52 bytes, and as
/// long as it is unanswered up to 40 more for its network. The table keeps the room that it once needed.
#[derive(Debug)]
pub(crate) struct Table<K> {
    rules: Rules,
    /// Keys are chosen by strangers.
    hashing: RandomState,
    /// The slots of the flows in use, by key. The keys themselves are in the slots, and only there.
    index: HashTable<u32>,
    slots: Slots<K>,
    /// Unanswered flows by network; a network without any is not in it.
    prefixes: HashMap<u64, u32>,
    sources: Sources,
    wheel: Wheel,
    /// Reported by `expired`, in no order; those that were ended since are found by their generation.
    overdue: Vec<FlowId>,
    /// Room for `expired`.
    fired: Vec<u32>,
}

impl<K: Origin> Table<K> {
    /// Without any flow.
    pub(crate) fn new(rules: Rules, now_ms: u64) -> Self {
        Self {
            rules,
            hashing: RandomState::new(),
            index: HashTable::new(),
            slots: Slots::new(),
            prefixes: HashMap::new(),
            sources: Sources::new(),
            wheel: Wheel::new(rules.idle_ms, now_ms),
            overdue: Vec::new(),
            fired: Vec::new(),
        }
    }

    /// Has `rules` decide from now on, over the flows that are there too: but a flow that is used up remains so.
    ///
    /// *Cost*: one step for each slot where `idle_ms` changes.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        let idle_changed = self.rules.idle_ms != rules.idle_ms;
        self.rules = rules;
        if !idle_changed {
            return;
        }
        self.wheel = Wheel::new(rules.idle_ms, self.wheel.done_ms());
        self.overdue.clear();
        for slot in 0..self.slots.slots() {
            self.slots.set_overdue(slot, false);
            self.file(slot, self.wheel.done_ms());
        }
    }

    /// Whose are `datagrams` of together `bytes` that came from `key`'s client? For [`Arrival::Flow`] they are
    /// counted as its requests and keep it alive; for [`Arrival::New`] they count towards the source's rate only.
    ///
    /// A batch is never divided: one that exceeds `requests` counts to the flow whole, and asks for as many replies.
    pub(crate) fn arrive(&mut self, key: &K, datagrams: u32, bytes: u64, now_ms: u64) -> Arrival {
        let hash = self.hashing.hash_one(key);
        let Some(slot) = self.find(hash, key) else { return self.begin(key, datagrams, now_ms) };
        let Some((id, flow)) = self.slots.at_mut(slot) else { return self.begin(key, datagrams, now_ms) };
        if self.rules.used_up(flow) {
            // `requests` was lowered meanwhile.
            self.forget(hash, slot);
            return self.begin(key, datagrams, now_ms);
        }
        let per_second = self.rules.unproven.datagrams_per_second;
        if !flow.proven {
            match self.sources.datagrams(key.source(), datagrams, per_second, now_ms) {
                Standing::Over => return Arrival::Refused(Refusal::Rate),
                Standing::Proven => flow.proven = true,
                Standing::Within => {}
            }
        }
        flow.request(datagrams, bytes, now_ms);
        if !flow.proven && self.rules.unproven != UNLIMITED && flow.is_proof(now_ms) {
            self.sources.prove(key.source(), now_ms);
            flow.proven = true;
        }
        if self.rules.used_up(flow) {
            self.forget(hash, slot);
        }
        Arrival::Flow(id)
    }

    /// Begins the flow that `arrive` found [`Arrival::New`], with its first datagrams counted. A flow in use that had
    /// the key is used up by it.
    pub(crate) fn open(&mut self, key: K, datagrams: u32, bytes: u64, now_ms: u64) -> FlowId {
        let hash = self.hashing.hash_one(&key);
        if let Some(slot) = self.find(hash, &key) {
            self.forget(hash, slot);
        }
        *self.prefixes.entry(key.prefix()).or_insert(0) += 1;
        let mut flow = Flow::new(key, now_ms);
        flow.request(datagrams, bytes, now_ms);
        flow.indexed = !self.rules.used_up(&flow);
        let (indexed, deadline_ms) = (flow.indexed, self.rules.deadline_ms(&flow));
        let id = self.slots.insert(flow);
        if indexed {
            let (slots, hashing) = (&self.slots, &self.hashing);
            let rehash = |&slot: &u32| slots.at(slot).map_or(0, |(_, flow)| hashing.hash_one(&flow.key));
            self.index.insert_unique(hash, id.slot_bits(), rehash);
        }
        self.wheel.file(id.slot_bits(), deadline_ms);
        id
    }

    /// Counts `datagrams` of together `bytes` that came from a flow's backend, and says what becomes of them. None:
    /// there is no such flow any more.
    pub(crate) fn reply(&mut self, id: FlowId, datagrams: u32, bytes: u64, now_ms: u64) -> Option<Reply> {
        let flow = self.slots.get_mut(id)?;
        flow.waiting_since_ms = None;
        if !flow.proven {
            let per_second = self.rules.unproven.reply_bytes_per_second;
            match self.sources.reply_bytes(flow.key.source(), bytes, per_second, now_ms) {
                Standing::Over => return Some(Reply::OverBudget),
                Standing::Proven => flow.proven = true,
                Standing::Within => {}
            }
        }
        let was_unanswered = flow.is_unanswered();
        flow.reply(datagrams, bytes, now_ms);
        let last = self.rules.all_answered(flow);
        if was_unanswered && !flow.is_unanswered() {
            let prefix = flow.key.prefix();
            self.slots.answered(id);
            self.release(prefix);
        }
        Some(if last { Reply::DeliverAndEnd } else { Reply::Deliver })
    }

    /// What is known of a flow; None when it has ended.
    pub(crate) fn flow(&self, id: FlowId) -> Option<&Flow<K>> {
        self.slots.get(id)
    }

    /// Ends a flow, and returns what was known of it; None when it had ended before.
    pub(crate) fn end(&mut self, id: FlowId) -> Option<Flow<K>> {
        let flow = self.slots.get(id)?;
        if flow.indexed {
            let hash = self.hashing.hash_one(&flow.key);
            self.forget(hash, id.slot_bits());
        }
        let flow = self.slots.remove(id)?;
        if flow.is_unanswered() {
            self.release(flow.key.prefix());
        }
        Some(flow)
    }

    /// Adds the flows whose time is over to `into`, in the order of their deadlines: not before their deadline, and
    /// up to 1/32 of `idle_ms` after it. Each is reported at every call until it is ended or a datagram comes for it.
    pub(crate) fn expired(&mut self, now_ms: u64, into: &mut Vec<FlowId>) {
        let mut fired = std::mem::take(&mut self.fired);
        fired.extend(self.overdue.drain(..).filter_map(|id| self.slots.get(id).map(|_| id.slot_bits())));
        self.wheel.advance(now_ms, &mut fired);
        for slot in fired.drain(..) {
            self.slots.set_overdue(slot, false);
            self.file(slot, now_ms);
        }
        self.fired = fired;
        let (slots, rules) = (&self.slots, &self.rules);
        self.overdue.sort_unstable_by_key(|id| (slots.get(*id).map(|flow| rules.deadline_ms(flow)), id.slot_bits()));
        into.extend(&self.overdue);
    }

    /// When `expired` will next have something to do: at the latest when it would report a flow. None when there is
    /// nothing to wait for. After a call of `expired` whose flows were ended, this is later than the time of the
    /// call.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        if self.slots.overdue() > 0 { Some(self.wheel.done_ms()) } else { self.wheel.next_ms() }
    }

    /// The flow to give up when there is no room for another: the oldest that never had a reply. None when all were
    /// answered: then the new one is refused, and those who are served stay served.
    pub(crate) fn oldest_unanswered(&self) -> Option<FlowId> {
        self.slots.oldest()
    }

    /// How many flows have begun and not ended.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All flows that have not ended, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow<K>)> {
        self.slots.iter()
    }

    /// Whether a datagram that belongs to no flow may begin one.
    fn begin(&mut self, key: &K, datagrams: u32, now_ms: u64) -> Arrival {
        let share = self.rules.prefix_share;
        if share > 0 && self.prefixes.get(&key.prefix()).is_some_and(|&unanswered| unanswered >= share) {
            return Arrival::Refused(Refusal::Prefix);
        }
        let per_second = self.rules.unproven.datagrams_per_second;
        match self.sources.datagrams(key.source(), datagrams, per_second, now_ms) {
            Standing::Over => Arrival::Refused(Refusal::Rate),
            Standing::Proven | Standing::Within => Arrival::New,
        }
    }

    /// The slot of the flow in use that has the key.
    fn find(&self, hash: u64, key: &K) -> Option<u32> {
        self.index.find(hash, |&slot| self.slots.at(slot).is_some_and(|(_, flow)| flow.key == *key)).copied()
    }

    /// Takes a flow in use out of the index.
    fn forget(&mut self, hash: u64, slot: u32) {
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        if let Some((_, flow)) = self.slots.at_mut(slot) {
            flow.indexed = false;
        }
    }

    /// One unanswered flow of a network less.
    fn release(&mut self, prefix: u64) {
        if let Some(unanswered) = self.prefixes.get_mut(&prefix) {
            *unanswered -= 1;
            if *unanswered == 0 {
                self.prefixes.remove(&prefix);
            }
        }
    }

    /// Puts the flow in a slot that is not on the wheel where it belongs at `now_ms`: on the wheel or among the
    /// overdue.
    fn file(&mut self, slot: u32, now_ms: u64) {
        let Some((id, flow)) = self.slots.at(slot) else { return };
        let deadline_ms = self.rules.deadline_ms(flow);
        if deadline_ms <= now_ms {
            self.slots.set_overdue(slot, true);
            self.overdue.push(id);
        } else {
            self.wheel.file(slot, deadline_ms);
        }
    }
}

/// The network and the source that `ip` counts to: for IPv4 its /24 and the address, for IPv6 its /48 and /64, which
/// are what a site and a client are given (RFC 6177). An IPv4 address is the same in its IPv6 form.
///
/// *Shape*: the leading bits of an IPv6 address. IPv4 lies where 0:1::/32 would, which is reserved (RFC 4291, 2.4)
/// and no client's.
pub(crate) fn prefixes(ip: IpAddr) -> (u64, u64) {
    const IPV4: u64 = 1 << 32;
    match ip.to_canonical() {
        IpAddr::V4(ip) => (IPV4 | u64::from(ip.to_bits() & !0xff), IPV4 | u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let leading = (ip.to_bits() >> 64) as u64;
            (leading & !0xffff, leading)
        }
    }
}

/// No limit for anybody: then sources are not looked at.
const UNLIMITED: Unproven = Unproven { datagrams_per_second: 0, reply_bytes_per_second: 0 };
