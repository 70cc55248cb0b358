//! The table's rules, one by one.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// A client by address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client(pub(super) IpAddr, pub(super) u16);

impl Origin for Client {
    fn prefix(&self) -> u64 {
        prefixes(self.0).0
    }

    fn source(&self) -> u64 {
        prefixes(self.0).1
    }
}

/// Without any limit but silence.
const RULES: Rules = Rules { idle_ms: 3_200, requests: 0, replies: 0, prefix_share: 0, unproven: UNLIMITED };

fn client(last: u8, port: u16) -> Client {
    Client(Ipv4Addr::new(192, 0, 2, last).into(), port)
}

fn table(rules: Rules) -> Table<Client> {
    Table::new(rules, 10_000)
}

/// One datagram of 100 bytes, which begins a flow if there is none.
fn send(table: &mut Table<Client>, key: Client, now_ms: u64) -> FlowId {
    match table.arrive(&key, 1, 100, now_ms) {
        Arrival::Flow(id) => id,
        Arrival::New => table.open(key, 1, 100, now_ms),
        Arrival::Refused(why) => panic!("refused: {why:?}"),
    }
}

fn expired(table: &mut Table<Client>, now_ms: u64) -> Vec<FlowId> {
    let mut ids = Vec::new();
    table.expired(now_ms, &mut ids);
    ids
}

#[test]
fn a_flow_is_found_by_its_key_and_counts_both_directions() {
    let mut table = table(RULES);
    assert_eq!(table.arrive(&client(1, 1), 2, 200, 10_000), Arrival::New);
    assert_eq!(table.len(), 0, "an arrival made a flow");
    let id = table.open(client(1, 1), 2, 200, 10_000);
    assert_eq!(table.arrive(&client(1, 2), 1, 100, 10_000), Arrival::New, "another port is another client");
    assert_eq!(table.arrive(&client(1, 1), 1, 0, 10_005), Arrival::Flow(id));
    assert_eq!(table.flow(id).unwrap().waiting_since_ms, Some(10_000));
    assert_eq!(table.reply(id, 3, 900, 10_020), Some(Reply::Deliver));
    assert_eq!(table.flow(id).unwrap().waiting_since_ms, None);
    table.arrive(&client(1, 1), 1, 50, 10_030);
    table.arrive(&client(1, 1), 1, 50, 10_040);

    let flow = table.end(id).unwrap();
    assert_eq!(
        (flow.key, flow.began_ms, flow.last_request_ms, flow.last_reply_ms),
        (client(1, 1), 10_000, 10_040, 10_020)
    );
    assert_eq!((flow.requests, flow.request_bytes, flow.replies, flow.reply_bytes), (5, 300, 3, 900));
    assert_eq!(flow.waiting_since_ms, Some(10_030));
    assert_eq!((table.len(), table.flow(id)), (0, None));
    assert_eq!(table.end(id), None);
}

#[test]
fn a_late_event_never_names_another_flow() {
    let mut table = table(RULES);
    let first = send(&mut table, client(1, 1), 10_000);
    table.end(first).unwrap();
    let second = send(&mut table, client(1, 1), 10_000);

    assert_eq!((first.slot(), second.slot()), (0, 0));
    assert_ne!(first, second);
    assert_eq!(FlowId::from_bits(second.bits()), second);
    assert!(first.bits() >= 1 << 32);
    assert_eq!(table.reply(first, 1, 1, 10_000), None);
    assert_eq!(table.end(first), None);
    for bits in [0, 1, u64::MAX, 1 << 32 | 5, second.bits() + (1 << 32)] {
        assert_eq!(table.reply(FlowId::from_bits(bits), 1, 1, 10_000), None, "of {bits:#x}");
    }
    assert_eq!(table.iter().map(|(id, flow)| (id, flow.replies)).collect::<Vec<_>>(), [(second, 0)]);
}

#[test]
fn a_flow_ends_by_silence_in_both_directions() {
    let mut table = table(RULES);
    assert_eq!(table.next_deadline_ms(), None);
    let ids: Vec<_> = (0..3).map(|n| send(&mut table, client(n, 1), 10_000)).collect();
    table.reply(ids[0], 1, 1, 11_000);
    send(&mut table, client(1, 1), 12_000);

    assert_eq!(expired(&mut table, 13_199), []);
    assert_eq!(table.next_deadline_ms(), Some(13_200));
    assert_eq!(expired(&mut table, 13_200), [ids[2]]);
    assert_eq!(expired(&mut table, 13_200), [ids[2]], "a flow that was not ended is not reported again");
    assert!(table.next_deadline_ms().is_some_and(|at| at <= 13_200));
    table.end(ids[2]).unwrap();
    assert_eq!(expired(&mut table, 13_200), []);
    assert_eq!(expired(&mut table, 15_200), [ids[0], ids[1]], "not in the order of the deadlines");
    send(&mut table, client(1, 1), 15_200);
    assert_eq!(expired(&mut table, 15_200), [ids[0]], "a flow that is active again is reported");
    table.end(ids[0]).unwrap();
    assert_eq!(table.next_deadline_ms(), Some(18_400));
    assert_eq!(expired(&mut table, 100_000), [ids[1]]);
    table.end(ids[1]).unwrap();
    assert_eq!((table.next_deadline_ms(), table.len()), (None, 0));
}

#[test]
fn a_slots_next_flow_has_its_own_deadline() {
    let mut table = table(RULES);
    let first = send(&mut table, client(1, 1), 10_000);
    table.end(first);
    let second = send(&mut table, client(2, 1), 13_000);
    assert_eq!(expired(&mut table, 16_199), []);
    assert_eq!(expired(&mut table, 16_200), [second]);
    // And when the first was reported before it ended.
    table.end(second);
    let third = send(&mut table, client(3, 1), 16_200);
    assert_eq!(expired(&mut table, 16_300), []);
    assert_eq!(table.next_deadline_ms(), Some(19_400));
    assert_eq!(expired(&mut table, 19_400), [third]);
}

#[test]
fn after_so_many_requests_the_client_is_new_and_the_flow_still_takes_replies() {
    let mut table = table(Rules { requests: 2, ..RULES });
    let first = send(&mut table, client(1, 1), 10_000);
    assert_eq!(send(&mut table, client(1, 1), 10_000), first);
    let second = send(&mut table, client(1, 1), 10_000);
    assert_ne!(first, second);
    assert_eq!(table.len(), 2);
    assert_eq!(table.reply(first, 100, 1, 10_001), Some(Reply::Deliver), "replies are without limit");
    // Within a batch the limit counts to the batch as a whole, at its beginning too.
    assert_eq!(table.arrive(&client(1, 1), 64, 1, 10_000), Arrival::Flow(second));
    assert_eq!(table.flow(second).unwrap().requests, 65);
    assert_eq!(table.arrive(&client(1, 1), 64, 1, 10_000), Arrival::New);
    table.open(client(1, 1), 64, 1, 10_000);
    assert_eq!(table.arrive(&client(1, 1), 64, 1, 10_000), Arrival::New);
    // One that is used up ends like others.
    table.end(first).unwrap();
    assert_eq!(expired(&mut table, 13_200).len(), 2);
}

#[test]
fn a_flow_ends_with_its_last_reply() {
    use Reply::{Deliver, DeliverAndEnd};
    // (requests, replies, requests or replies as they come, what becomes of the last)
    let cases: [(u32, u32, &[i32], Reply); 14] = [
        (0, 0, &[1, -1, -1], Deliver),
        (1, 1, &[1, -1], DeliverAndEnd),
        (1, 2, &[1, -1], Deliver),
        (1, 2, &[1, -1, -1], DeliverAndEnd),
        (0, 1, &[1, -1], DeliverAndEnd),
        (0, 1, &[2, -1], Deliver),
        (0, 1, &[2, -1, 1, -1], Deliver),
        (0, 1, &[2, -1, 1, -2], DeliverAndEnd),
        (3, 1, &[1, -1], Deliver),
        (3, 1, &[2, -2, 1, -1], DeliverAndEnd),
        (3, 1, &[3, -2], Deliver),
        (3, 1, &[3, -5], DeliverAndEnd),
        // A batch beyond the limit asks for as many replies.
        (1, 1, &[3, -2], Deliver),
        (1, 1, &[3, -2, -1], DeliverAndEnd),
    ];
    for (requests, replies, steps, expected) in cases {
        let mut table = table(Rules { requests, replies, ..RULES });
        let id = table.open(client(1, 1), steps[0] as u32, 1, 10_000);
        let mut last = None;
        for step in &steps[1..] {
            last = match *step {
                n if n > 0 => {
                    assert_eq!(table.arrive(&client(1, 1), n as u32, 1, 10_000), Arrival::Flow(id));
                    None
                }
                n => table.reply(id, n.unsigned_abs(), 1, 10_000),
            };
        }
        assert_eq!(last, Some(expected), "{requests} requests, {replies} replies each: {steps:?}");
        assert_eq!(table.len(), 1, "the table ended a flow by itself");
    }
}

#[test]
fn the_oldest_without_a_reply_makes_room_and_none_that_was_answered() {
    let mut table = table(RULES);
    let ids: Vec<_> = (0..4).map(|n| send(&mut table, client(n, 1), 10_000)).collect();
    assert_eq!(table.oldest_unanswered(), Some(ids[0]));
    table.reply(ids[1], 1, 1, 10_000);
    table.end(ids[0]);
    assert_eq!(table.oldest_unanswered(), Some(ids[2]));
    // Requests do not make it younger.
    send(&mut table, client(2, 1), 12_000);
    assert_eq!(table.oldest_unanswered(), Some(ids[2]));
    table.reply(ids[3], 1, 0, 10_000);
    table.reply(ids[2], 1, 0, 10_000);
    assert_eq!(table.oldest_unanswered(), None);
    let last = send(&mut table, client(9, 1), 12_000);
    assert_eq!(table.oldest_unanswered(), Some(last));
}

#[test]
fn a_network_has_its_share_of_unanswered_flows() {
    let refused = Arrival::Refused(Refusal::Prefix);
    let mut table = table(Rules { prefix_share: 2, ..RULES });
    let first = send(&mut table, client(1, 1), 10_000);
    let second = send(&mut table, client(2, 1), 10_000);
    assert_eq!(table.arrive(&client(3, 1), 1, 1, 10_000), refused);
    assert_eq!(table.arrive(&client(2, 1), 1, 1, 10_000), Arrival::Flow(second), "a known flow is refused");
    let elsewhere = Client("192.0.3.1".parse().unwrap(), 1);
    assert_eq!(table.arrive(&elsewhere, 1, 1, 10_000), Arrival::New);

    table.reply(first, 1, 1, 10_000);
    let third = send(&mut table, client(3, 1), 10_000);
    assert_eq!(table.arrive(&client(4, 1), 1, 1, 10_000), refused);
    table.end(first);
    assert_eq!(table.arrive(&client(4, 1), 1, 1, 10_000), refused, "an answered flow counted when it ended");
    table.end(third);
    assert_eq!(table.arrive(&client(4, 1), 1, 1, 10_000), Arrival::New);
    table.end(second);
    assert!(table.prefixes.is_empty());
}

#[test]
fn the_unproven_send_within_their_rate() {
    let unproven = Unproven { datagrams_per_second: 3, reply_bytes_per_second: 0 };
    let mut table = table(Rules { unproven, ..RULES });
    let id = send(&mut table, client(1, 1), 10_000);
    send(&mut table, client(1, 1), 10_000);
    // Another flow of the source.
    let other = send(&mut table, client(1, 2), 10_000);
    assert_ne!(id, other);
    for key in [client(1, 1), client(1, 3)] {
        assert_eq!(table.arrive(&key, 1, 100, 10_001), Arrival::Refused(Refusal::Rate));
    }
    let flow = table.flow(id).unwrap();
    assert_eq!((flow.requests, flow.last_request_ms), (2, 10_000), "what was refused is counted");
    assert_eq!(table.arrive(&client(2, 1), 3, 100, 10_001), Arrival::New, "a source counts for another");
    assert_eq!(table.arrive(&client(1, 1), 1, 100, 10_334), Arrival::Flow(id));
    assert_eq!(table.reply(id, 1, 1 << 40, 10_334), Some(Reply::Deliver));
}

#[test]
fn the_unproven_are_sent_what_they_may_be_sent() {
    let unproven = Unproven { datagrams_per_second: 0, reply_bytes_per_second: 1_000 };
    let mut table = table(Rules { unproven, requests: 1, replies: 1, ..RULES });
    let first = send(&mut table, client(1, 1), 10_000);
    let second = send(&mut table, client(1, 2), 10_000);
    assert_eq!(table.reply(first, 1, 900, 10_000), Some(Reply::DeliverAndEnd));
    assert_eq!(table.reply(second, 1, 900, 10_010), Some(Reply::OverBudget));
    let flow = table.flow(second).unwrap();
    assert_eq!((flow.replies, flow.last_reply_ms), (0, 10_000), "what was not delivered is counted");
    assert_eq!(flow.waiting_since_ms, None, "the backend is blamed though it did answer");
    assert_eq!(table.oldest_unanswered(), Some(second));
    assert_eq!(table.reply(second, 1, 900, 10_810), Some(Reply::DeliverAndEnd));
}

#[test]
fn a_source_is_proven_by_turns_that_take_a_while() {
    let unproven = Unproven { datagrams_per_second: 10, reply_bytes_per_second: 1_000 };
    // (turns, milliseconds between them, whether that proves it)
    for (turns, apart, proven) in [(16, 100, true), (15, 1_000, false), (12, 100, false), (20, 100, true)] {
        let mut table = table(Rules { unproven, ..RULES });
        let id = send(&mut table, client(1, 1), 10_000);
        let mut now = 10_000;
        for _ in 0..turns {
            table.reply(id, 1, 10, now);
            now += apart;
            send(&mut table, client(1, 1), now);
        }
        let after = if proven { Arrival::New } else { Arrival::Refused(Refusal::Rate) };
        assert_eq!(table.arrive(&client(1, 2), 10, 1, now), after, "{turns} turns, {apart} ms apart");
        let reply = if proven { Reply::Deliver } else { Reply::OverBudget };
        table.reply(id, 1, 1_000, now);
        assert_eq!(table.reply(id, 1, 1_000, now), Some(reply), "{turns} turns, {apart} ms apart");
    }
}

#[test]
fn requests_without_replies_and_replies_over_budget_prove_nothing() {
    let unproven = Unproven { datagrams_per_second: 10, reply_bytes_per_second: 1_000 };
    let mut table = table(Rules { unproven, ..RULES });
    let id = send(&mut table, client(1, 1), 10_000);
    table.reply(id, 1, 100_000, 10_000);
    for now in (11_000..20_000).step_by(500) {
        send(&mut table, client(1, 1), now);
        assert_eq!(table.reply(id, 1, 1, now), Some(Reply::OverBudget));
    }
    assert_eq!(table.arrive(&client(1, 1), 10, 1, 20_000), Arrival::Flow(id));
    assert_eq!(table.arrive(&client(1, 1), 1, 1, 20_000), Arrival::Refused(Refusal::Rate));
}

#[test]
fn new_rules_hold_for_the_flows_that_are_there() {
    let mut table = table(RULES);
    let ids: Vec<_> = (0..3).map(|n| send(&mut table, client(n, 1), 10_000 + u64::from(n) * 1_000)).collect();
    expired(&mut table, 12_000);
    // Shorter: one is over, the next soon.
    table.set_rules(Rules { idle_ms: 320, ..RULES });
    assert_eq!(table.next_deadline_ms(), Some(12_000));
    assert_eq!(expired(&mut table, 12_000), [ids[0], ids[1]]);
    // Longer again: what was reported but not ended lives on.
    table.set_rules(Rules { idle_ms: 32_000, ..RULES });
    assert_eq!(expired(&mut table, 41_999), []);
    assert_eq!(expired(&mut table, 42_000), [ids[0]]);
    table.end(ids[0]);

    send(&mut table, client(1, 1), 42_000);
    table.set_rules(Rules { requests: 2, ..RULES });
    assert_eq!(table.arrive(&client(1, 1), 1, 1, 42_000), Arrival::New, "two requests came before");
    assert_eq!(table.arrive(&client(2, 1), 1, 1, 42_000), Arrival::Flow(ids[2]));
    table.set_rules(RULES);
    assert_eq!(table.arrive(&client(2, 1), 1, 1, 42_000), Arrival::New, "what is used up is in use again");
}

#[test]
fn prefixes_are_what_a_site_and_a_client_are_given() {
    let same = |a: &str, b: &str| {
        let (a, b) = (prefixes(a.parse().unwrap()), prefixes(b.parse().unwrap()));
        (a.0 == b.0, a.1 == b.1)
    };
    let cases = [
        ("192.0.2.1", "192.0.2.1", (true, true)),
        ("192.0.2.1", "::ffff:192.0.2.1", (true, true)),
        ("192.0.2.1", "192.0.2.255", (true, false)),
        ("192.0.2.1", "192.0.3.1", (false, false)),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", (true, true)),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", (true, false)),
        ("2001:db8:1:2::1", "2001:db8:2:2::1", (false, false)),
        ("0.0.0.0", "::", (false, false)),
        ("192.0.2.1", "::c000:201", (false, false)),
        ("192.0.2.1", "0:0:c000:201::", (false, false)),
    ];
    for (a, b, expected) in cases {
        assert_eq!(same(a, b), expected, "{a} and {b}");
    }
}
