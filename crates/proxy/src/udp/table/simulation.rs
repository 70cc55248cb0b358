//! Hours of hostile traffic in virtual time, beside a model that is too simple to be wrong.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use balance::Rng;

use super::flow::{PROOF_MS, PROOF_TURNS};
use super::tests::Client;
use super::*;

#[test]
fn whatever_comes_the_table_is_what_the_model_is() {
    let mut seen = Seen::default();
    for seed in 0..100 {
        let mut world = World::new(seed);
        for step in 0..600 {
            world.step(&mut seen);
            world.check(&format!("seed {seed}, step {step}"));
        }
    }
    // A simulation that does not get where it is interesting proves nothing.
    assert!(seen.opened > 5_000 && seen.expired > 1_000 && seen.shed > 100, "{seen:?}");
    assert!(seen.prefix > 500 && seen.rate > 500 && seen.over_budget > 500, "{seen:?}");
    assert!(seen.last > 500 && seen.stale > 500 && seen.used_up > 500 && seen.proven > 50, "{seen:?}");
}

/// How often what happened.
#[derive(Debug, Default)]
struct Seen {
    opened: u32,
    expired: u32,
    shed: u32,
    prefix: u32,
    rate: u32,
    over_budget: u32,
    last: u32,
    stale: u32,
    used_up: u32,
    proven: u32,
}

/// What the model knows of a flow.
#[derive(Clone, Debug)]
struct Known {
    id: FlowId,
    key: Client,
    began: u64,
    last_request: u64,
    last_reply: u64,
    waiting: Option<u64>,
    requests: u64,
    replies: u64,
    turns: u8,
    answered_last: bool,
    used_up: bool,
    proven: bool,
}

/// What a source may still do, in nanoseconds of its rate: may be negative.
#[derive(Clone, Debug, Default)]
struct Account {
    proven: bool,
    datagrams: Option<(i128, u64)>,
    bytes: Option<(i128, u64)>,
}

fn spend(account: &mut Option<(i128, u64)>, amount: u64, per_second: u64, now: u64) -> bool {
    const SECOND: i128 = 1_000_000_000;
    let (left, at) = account.unwrap_or((SECOND, now));
    let left = (left + i128::from(now - at) * 1_000_000).min(SECOND);
    let cost = i128::from(amount) * SECOND / i128::from(per_second);
    let may = left == SECOND || left >= cost;
    *account = Some((if may { left - cost } else { left }, now));
    may
}

/// The table, the model and the hand that plays.
struct World {
    rng: Rng,
    now: u64,
    rules: Rules,
    table: Table<Client>,
    /// In the order of their beginning.
    flows: Vec<Known>,
    accounts: HashMap<u64, Account>,
    names: HashSet<FlowId>,
    ended: Vec<FlowId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let now = rng.below(1 << 40);
        let rules = random_rules(&mut rng);
        let table = Table::new(rules, now);
        let (flows, accounts, names, ended) = Default::default();
        Self { rng, now, rules, table, flows, accounts, names, ended }
    }

    fn step(&mut self, seen: &mut Seen) {
        match self.rng.below(100) {
            0..45 => self.arrive(seen),
            45..72 => self.reply(seen),
            72..76 => self.end(seen),
            76..94 => self.pass_time(seen),
            94..98 => self.shed(seen),
            98 => self.reload(),
            _ => self.converse(seen),
        }
    }

    fn arrive(&mut self, seen: &mut Seen) {
        let key = match self.pick().map(|known| known.key) {
            Some(key) if self.rng.below(2) == 0 => key,
            _ => random_client(&mut self.rng),
        };
        let datagrams = [1, 1, 1, 1, 2, 30][self.rng.below(6) as usize];
        let bytes = self.rng.below(1_500) * u64::from(datagrams);
        self.send(key, datagrams, bytes, seen);
    }

    fn send(&mut self, key: Client, datagrams: u32, bytes: u64, seen: &mut Seen) {
        let (now, rules) = (self.now, self.rules);
        let expected = self.expected(&key, datagrams);
        let arrival = self.table.arrive(&key, datagrams, bytes, now);
        assert_eq!(arrival, expected);
        match arrival {
            Arrival::Flow(id) => {
                let account = self.accounts.entry(key.source()).or_default();
                let known = self.flows.iter_mut().find(|known| known.id == id).unwrap();
                known.request(datagrams, now);
                known.used_up = rules.requests > 0 && known.requests >= rules.requests.into();
                seen.used_up += u32::from(known.used_up);
                let limited = rules.unproven != UNLIMITED;
                if limited && !known.proven && known.turns >= PROOF_TURNS && now - known.began >= PROOF_MS {
                    (known.proven, account.proven) = (true, true);
                    seen.proven += 1;
                }
            }
            // Now and then the engine has no socket for it.
            Arrival::New if self.rng.below(5) > 0 => {
                let id = self.table.open(key, datagrams, bytes, now);
                assert!(self.names.insert(id), "{id:?} named another flow before");
                let mut known = Known::new(id, key, now);
                known.request(datagrams, now);
                known.used_up = rules.requests > 0 && known.requests >= rules.requests.into();
                self.flows.push(known);
                seen.opened += 1;
            }
            Arrival::New => {}
            Arrival::Refused(Refusal::Prefix) => seen.prefix += 1,
            Arrival::Refused(Refusal::Rate) => seen.rate += 1,
        }
    }

    /// A client and its backend take turns for some seconds.
    fn converse(&mut self, seen: &mut Seen) {
        let Some((id, key)) = self.pick().map(|known| (known.id, known.key)) else { return };
        for _ in 0..self.rng.below(40) {
            self.send(key, 1, 100, seen);
            self.now += self.rng.below(300);
            self.reply_to(id, 1, 100, seen);
        }
    }

    /// What the table must say to datagrams; takes them from the source's account.
    fn expected(&mut self, key: &Client, datagrams: u32) -> Arrival {
        let rules = self.rules;
        let unanswered = self.unanswered(key.prefix());
        let account = self.accounts.entry(key.source()).or_default();
        let per_second = rules.unproven.datagrams_per_second;
        let mut known = self.flows.iter_mut().find(|known| known.key == *key && !known.used_up);
        // `requests` may have been lowered.
        if let Some(over) = known.take_if(|known| rules.requests > 0 && known.requests >= rules.requests.into()) {
            over.used_up = true;
        }
        if known.is_none() && rules.prefix_share > 0 && unanswered >= rules.prefix_share as usize {
            return Arrival::Refused(Refusal::Prefix);
        }
        let exempt = per_second == 0 || account.proven || known.as_ref().is_some_and(|known| known.proven);
        if !exempt && !spend(&mut account.datagrams, datagrams.into(), per_second.into(), self.now) {
            return Arrival::Refused(Refusal::Rate);
        }
        match known {
            Some(known) => {
                known.proven |= per_second > 0 && account.proven;
                Arrival::Flow(known.id)
            }
            None => Arrival::New,
        }
    }

    fn reply(&mut self, seen: &mut Seen) {
        let id = self.some_id();
        let datagrams = [1, 1, 1, 2, 40][self.rng.below(5) as usize];
        let bytes = self.rng.below(1_500) * u64::from(datagrams);
        self.reply_to(id, datagrams, bytes, seen);
    }

    fn reply_to(&mut self, id: FlowId, datagrams: u32, bytes: u64, seen: &mut Seen) {
        let (now, rules) = (self.now, self.rules);
        let reply = self.table.reply(id, datagrams, bytes, now);
        let Some(known) = self.flows.iter_mut().find(|known| known.id == id) else {
            assert_eq!(reply, None, "{id:?} has ended");
            seen.stale += 1;
            return;
        };
        known.waiting = None;
        let per_second = rules.unproven.reply_bytes_per_second;
        let account = self.accounts.entry(known.key.source()).or_default();
        if per_second > 0 && !known.proven {
            known.proven = account.proven;
            if !known.proven && !spend(&mut account.bytes, bytes, per_second, now) {
                assert_eq!(reply, Some(Reply::OverBudget));
                seen.over_budget += 1;
                return;
            }
        }
        known.replies += u64::from(datagrams);
        known.last_reply = now;
        known.answered_last = true;
        let complete = known.used_up || rules.requests == 0 || known.requests >= rules.requests.into();
        let last = rules.replies > 0 && complete && known.replies >= known.requests * u64::from(rules.replies);
        assert_eq!(reply, Some(if last { Reply::DeliverAndEnd } else { Reply::Deliver }));
        if last {
            seen.last += 1;
            self.end_both(id);
        }
    }

    fn end(&mut self, seen: &mut Seen) {
        let id = self.some_id();
        if self.flows.iter().any(|known| known.id == id) {
            self.end_both(id);
        } else {
            assert_eq!(self.table.end(id), None, "{id:?} has ended");
            seen.stale += 1;
        }
    }

    fn shed(&mut self, seen: &mut Seen) {
        if let Some(id) = self.table.oldest_unanswered().filter(|_| self.flows.len() > 5) {
            seen.shed += 1;
            self.end_both(id);
        }
    }

    fn end_both(&mut self, id: FlowId) {
        let place = self.flows.iter().position(|known| known.id == id).expect("the model has the flow");
        let known = self.flows.remove(place);
        known.is(&self.table.end(id).expect("the table has the flow"));
        self.ended.push(id);
    }

    fn pass_time(&mut self, seen: &mut Seen) {
        self.now += match self.rng.below(60) {
            0 => self.rng.below(10 * 3_600_000),
            1..4 => self.rng.below(2 * self.rules.idle_ms),
            4..10 => self.rng.below(self.rules.idle_ms / 4 + 1),
            _ => self.rng.below(300),
        };
        if self.rng.below(3) > 0 {
            self.expire(seen);
        }
    }

    fn expire(&mut self, seen: &mut Seen) {
        let (now, idle) = (self.now, self.rules.idle_ms);
        let mut due = Vec::new();
        self.table.expired(now, &mut due);
        let mut again = Vec::new();
        self.table.expired(now, &mut again);
        assert_eq!(due, again, "what was not ended is reported again");

        let deadlines: Vec<u64> = due.iter().map(|id| self.known(*id).deadline(idle)).collect();
        assert!(deadlines.is_sorted(), "not in the order of the deadlines");
        assert!(deadlines.iter().all(|&deadline| deadline <= now), "ended before its time");
        let reported: HashSet<FlowId> = due.iter().copied().collect();
        assert_eq!(reported.len(), due.len(), "reported twice");
        for known in &self.flows {
            let late = known.deadline(idle) + tick(idle) <= now;
            assert!(!late || reported.contains(&known.id), "{known:?} outlived its deadline at {now}");
        }
        let keep = self.rng.below(4) == 0;
        for id in due {
            if !keep || self.rng.below(2) == 0 {
                seen.expired += 1;
                self.end_both(id);
            }
        }
        if !keep {
            assert!(self.table.next_deadline_ms().is_none_or(|at| at > now), "the engine would spin");
        }
    }

    fn reload(&mut self) {
        self.rules = random_rules(&mut self.rng);
        self.table.set_rules(self.rules);
    }

    fn check(&self, at: &str) {
        assert_eq!(self.table.len(), self.flows.len(), "{at}: flows");
        for known in &self.flows {
            known.is(self.table.flow(known.id).unwrap_or_else(|| panic!("{at}: {known:?} is gone")));
        }
        assert_eq!(self.table.iter().count(), self.flows.len(), "{at}: flows of the iterator");
        let in_use = self.flows.iter().filter(|known| !known.used_up).count();
        assert_eq!(self.table.index.len(), in_use, "{at}: flows that are found by key");
        let oldest = self.flows.iter().find(|known| known.replies == 0).map(|known| known.id);
        assert_eq!(self.table.oldest_unanswered(), oldest, "{at}: the oldest unanswered");
        for (prefix, unanswered) in &self.table.prefixes {
            assert_eq!(*unanswered as usize, self.unanswered(*prefix), "{at}: unanswered of {prefix:#x}");
        }
        let unanswered = self.flows.iter().filter(|known| known.replies == 0).count();
        assert_eq!(self.table.prefixes.values().sum::<u32>() as usize, unanswered, "{at}: unanswered");

        let idle = self.rules.idle_ms;
        if let Some(first) = self.flows.iter().map(|known| known.deadline(idle)).min() {
            let end_of_tick = first.div_ceil(tick(idle)) * tick(idle);
            let next = self.table.next_deadline_ms().unwrap_or_else(|| panic!("{at}: no deadline"));
            assert!(next <= end_of_tick.max(self.now), "{at}: the next deadline is after {first}, the first");
        }
        let slots = self.names.iter().map(|id| id.slot()).max().map_or(0, |slot| slot + 1);
        assert_eq!(self.table.slots.slots() as usize, slots, "{at}: slots");
    }

    fn known(&self, id: FlowId) -> &Known {
        self.flows.iter().find(|known| known.id == id).expect("a flow is reported that has ended")
    }

    fn unanswered(&self, prefix: u64) -> usize {
        self.flows.iter().filter(|known| known.replies == 0 && known.key.prefix() == prefix).count()
    }

    /// Half the time one of the oldest, so that some flows have much of a life.
    fn pick(&mut self) -> Option<&Known> {
        let among = [self.flows.len(), self.flows.len().min(2)][self.rng.below(2) as usize];
        self.flows.get(self.rng.below(among as u64) as usize)
    }

    /// Mostly a flow's, now and then one that has ended or never was.
    fn some_id(&mut self) -> FlowId {
        let stale = self.ended.get(self.rng.below(self.ended.len() as u64) as usize).copied();
        match (self.rng.below(20), stale) {
            (0, _) => FlowId::from_bits(self.rng.next_u64() >> self.rng.below(64)),
            (1..4, Some(stale)) => stale,
            _ => self.pick().map_or(FlowId::from_bits(0), |known| known.id),
        }
    }
}

impl Known {
    fn new(id: FlowId, key: Client, now: u64) -> Self {
        Self {
            id,
            key,
            began: now,
            last_request: now,
            last_reply: now,
            waiting: None,
            requests: 0,
            replies: 0,
            turns: 0,
            answered_last: false,
            used_up: false,
            proven: false,
        }
    }

    fn request(&mut self, datagrams: u32, now: u64) {
        self.requests += u64::from(datagrams);
        self.last_request = now;
        self.waiting = self.waiting.or(Some(now));
        if self.answered_last {
            self.turns = self.turns.saturating_add(1);
        }
        self.answered_last = false;
    }

    fn deadline(&self, idle: u64) -> u64 {
        self.last_request.max(self.last_reply) + idle
    }

    fn is(&self, flow: &Flow<Client>) {
        assert_eq!((flow.key, flow.began_ms), (self.key, self.began));
        assert_eq!((flow.requests, flow.replies), (self.requests, self.replies), "{self:?}");
        assert_eq!((flow.last_request_ms, flow.last_reply_ms), (self.last_request, self.last_reply), "{self:?}");
        assert_eq!(flow.waiting_since_ms, self.waiting, "{self:?}");
    }
}

fn tick(idle_ms: u64) -> u64 {
    (idle_ms / 32).max(1)
}

/// Few networks and addresses, so that they meet, or of the whole world.
fn random_client(rng: &mut Rng) -> Client {
    let port = rng.below(3) as u16;
    let ip = match rng.below(10) {
        0..6 => Ipv4Addr::new(10, 0, rng.below(3) as u8, rng.below(4) as u8).into(),
        6 => Ipv4Addr::new(10, 0, rng.below(3) as u8, rng.below(4) as u8).to_ipv6_mapped().into(),
        7 => Ipv6Addr::new(0x2001, 0xdb8, 0, rng.below(3) as u16, 0, 0, 0, rng.below(2) as u16).into(),
        8 => Ipv6Addr::from_bits(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).into(),
        _ => Ipv4Addr::from_bits(rng.next_u64() as u32).into(),
    };
    Client(ip, port)
}

fn random_rules(rng: &mut Rng) -> Rules {
    let mut of = |choices: &[u32]| choices[rng.below(choices.len() as u64) as usize];
    Rules {
        idle_ms: of(&[1, 20, 3_333, 10_000, 30_000]).into(),
        requests: of(&[0, 0, 0, 1, 2, 30]),
        replies: of(&[0, 0, 0, 1, 3]),
        prefix_share: of(&[0, 1, 3, 8]),
        unproven: Unproven {
            datagrams_per_second: of(&[0, 3, 50]),
            reply_bytes_per_second: of(&[0, 1_000, 100_000]).into(),
        },
    }
}
