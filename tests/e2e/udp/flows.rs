//! What a flow carries, which backend it stays with, and when it ends.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::harness::{
    Behaviour, Config, DatagramBackend, Datagrams, LARGEST, LONG, Proxy, Served, counts, eventually, pattern,
    who_serves, within,
};

#[test]
fn datagrams_of_every_size_pass_unchanged_both_ways() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], LONG).start();
    let client = Datagrams::open(proxy.main());

    for size in [0, 1, 2, 64, 511, 1_200, 1_472, 1_473, 9_000, 16_384, 65_000, LARGEST] {
        // when
        let sent = pattern(size);
        let received = client.ask(&sent);

        // then
        assert_eq!(received.len(), size, "a datagram comes back as long as it was sent");
        assert!(received == sent, "a datagram of {size} bytes comes back unchanged");
        let arrived = backend.arrived();
        assert!(arrived.last().unwrap().bytes == sent, "a datagram of {size} bytes arrives unchanged");
    }
    assert_eq!(backend.count(), 12, "each is forwarded once");
    assert_eq!(counts(backend.arrived().into_iter().map(|it| it.from)).len(), 1, "all belong to one flow");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("udp_flows_created_total{listener=\"main\"}"), 1.0);
    assert_eq!(metrics.sum("udp_datagrams_total{listener=\"main\",side=\"client\",direction=\"received\"}"), 12.0);
    assert_eq!(metrics.sum("udp_datagrams_total{listener=\"main\",side=\"client\",direction=\"sent\"}"), 12.0);
    assert_eq!(metrics.sum("udp_dropped_datagrams_total"), 0.0, "nothing is dropped");
    proxy.finish();
}

#[test]
fn what_a_flow_sends_in_order_arrives_in_order() {
    // given: a client that keeps a few datagrams on their way, so that none has a reason to be lost
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], LONG).start();
    let client = Datagrams::open(proxy.main());
    const ALL: u32 = 20_000;
    const UNDER_WAY: u32 = 16;

    // when
    (0..UNDER_WAY).for_each(|number| client.send(numbered(number)));
    for number in 0..ALL {
        let received = client.receive();
        assert!(received == numbered(number), "reply {number} comes in its turn and as it was sent");
        if number + UNDER_WAY < ALL {
            client.send(numbered(number + UNDER_WAY));
        }
    }

    // then
    assert_eq!(backend.count(), u64::from(ALL), "each is forwarded once");
    for (number, arrived) in backend.arrived().into_iter().enumerate() {
        assert!(arrived.bytes == numbered(number as u32), "datagram {number} arrives in its turn");
    }
    proxy.finish();
}

#[test]
fn a_thousand_flows_stay_each_with_its_backend_and_are_spread() {
    // given
    let backends = DatagramBackend::each(["a", "b", "c", "d"]);
    let config = Config::datagrams(backends.each_ref().map(DatagramBackend::address), LONG).node("workers = 2");
    let proxy = config.service("balance = \"round_robin\"").start();
    let clients: Vec<Datagrams> = (0..1_000).map(|_| Datagrams::open(proxy.main())).collect();

    // when
    let first: Vec<Served> = clients.iter().map(who_serves).collect();
    let active = proxy.metrics().sum("udp_flows_active{listener=\"main\"}");
    for _ in 0..3 {
        let again: Vec<Served> = clients.iter().map(who_serves).collect();

        // then
        assert_eq!(again, first, "a flow stays with its backend and keeps the address that it is seen under");
    }
    assert_eq!(active, 1_000.0, "each client is a flow");
    assert_eq!(proxy.metrics().sum("udp_flows_created_total"), 1_000.0, "no flow was begun twice");
    let spread = counts(first.iter().map(|served| served.by.clone()));
    assert!(spread.len() == 4 && spread.values().all(|flows| (200..=300).contains(flows)), "spread: {spread:?}");
    let seen: HashSet<&String> = first.iter().map(|served| &served.from).collect();
    assert_eq!(seen.len(), 1_000, "no two flows look the same to their backends");
    let picks: f64 = proxy.metrics().sum("picks_total{service=\"app\"}");
    assert_eq!(picks, 1_000.0, "each flow is one pick");
    drop(clients);
    proxy.finish();
}

#[test]
fn a_flow_shows_in_the_list_of_sessions_and_leaves_a_record_when_it_falls_silent() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "1s").start();
    let client = Datagrams::open(proxy.main());

    // when
    client.echoes("one");
    client.echoes("three");
    let listed = proxy.json("/v1/sessions");

    // then
    let listed = listed.as_array().or(listed["sessions"].as_array()).cloned().expect("sessions are a list");
    let mine = listed.iter().find(|session| session["client"] == client.local().to_string());
    let mine = mine.unwrap_or_else(|| panic!("a flow that lasts is listed: {listed:?}"));
    assert_eq!((&mine["backend"], &mine["listener"]), (&backend.address().into(), &"main".into()));

    // when
    let record = proxy.record("idle_timeout");

    // then
    assert_eq!(record["protocol"], "udp");
    assert_eq!(record["client"], client.local().to_string());
    assert_eq!(record["backend"], backend.address());
    assert_eq!((&record["listener"], &record["service"]), (&"main".into(), &"app".into()));
    assert_eq!((&record["received_bytes"], &record["sent_bytes"]), (&8.into(), &8.into()));
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("udp_flows_ended_total{listener=\"main\",reason=\"idle_timeout\"}"), 1.0);
    assert_eq!(metrics.sum("udp_flows_active"), 0.0);
    let before = who_from(&backend);
    client.echoes("a flow that ended begins anew");
    assert_ne!(who_from(&backend), before, "by a socket of its own");
    proxy.finish();
}

#[test]
fn traffic_in_either_direction_keeps_a_flow() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "1s").start();
    let client = Datagrams::open(proxy.main());
    let served = who_serves(&client);

    // when: only the backend sends, for three times as long as silence may last
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        backend.send_to(&served.from, b"news");
        assert_eq!(client.receive(), b"news", "what a backend sends unasked reaches the client");
        std::thread::park_timeout(Duration::from_millis(50));
    }

    // then
    assert_eq!(proxy.metrics().sum("udp_flows_created_total"), 1.0);
    assert_eq!(who_serves(&client), served, "the flow is the same");
    proxy.finish();
}

#[test]
fn one_question_and_one_answer_end_a_flow_at_once() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "10m").listener("requests = 1\nreplies = 1").start();
    let client = Datagrams::open(proxy.main());

    // when
    let served = [(); 3].map(|()| who_serves(&client));

    // then
    let seen: HashSet<&String> = served.iter().map(|served| &served.from).collect();
    assert_eq!(seen.len(), 3, "each question is a flow of its own");
    eventually("a flow that has its answer ends", || {
        proxy.metrics().sum("udp_flows_ended_total{listener=\"main\",reason=\"answered\"}") == 3.0
    });
    assert_eq!(proxy.record("answered")["protocol"], "udp");

    // when: what ended long ago
    backend.send_to(&served[0].from, b"late");

    // then
    assert_eq!(client.receive_within(Duration::from_millis(300)), None, "a late reply goes nowhere");
    client.echoes("the listener goes on");
    proxy.finish();
}

#[test]
fn duplicates_of_the_only_reply_go_nowhere() {
    let backend = DatagramBackend::start("backend");
    backend.behaves(Behaviour::Repeats(3));
    let proxy = Config::datagrams([backend.address()], "10m").listener("requests = 1\nreplies = 1").start();
    let client = Datagrams::open(proxy.main());
    client.echoes("once");
    assert_eq!(client.receive_within(Duration::from_millis(300)), None, "only as many replies as were promised");
    proxy.finish();
}

#[test]
fn a_flow_takes_as_many_requests_as_it_may_and_the_next_one_begins_another() {
    let backends = DatagramBackend::each(["a", "b"]);
    let config = Config::datagrams(backends.each_ref().map(DatagramBackend::address), LONG);
    let proxy = config.listener("requests = 2").service("balance = \"round_robin\"").start();
    let client = Datagrams::open(proxy.main());
    let served = [(); 6].map(|()| who_serves(&client));
    for pair in served.chunks(2) {
        assert_eq!(pair[0], pair[1], "two requests are one flow");
    }
    assert_ne!(served[1].by, served[2].by, "the third is picked for anew");
    assert_eq!(served[0].by, served[4].by, "in turns");
    proxy.finish();
}

#[test]
fn what_others_send_to_the_socket_of_a_flow_does_not_reach_its_client() {
    // given
    let backend = DatagramBackend::start("backend");
    let stranger = DatagramBackend::start("stranger");
    let proxy = Config::datagrams([backend.address()], LONG).start();
    let client = Datagrams::open(proxy.main());
    let served = who_serves(&client);

    // when
    stranger.send_to(&served.from, b"forged");

    // then
    assert_eq!(client.ask("question"), b"question", "only the backend's replies reach the client");
    assert_eq!(client.receive_within(Duration::from_millis(200)), None);
    proxy.finish();
}

#[test]
fn two_listeners_share_a_port_by_protocol() {
    let backend = DatagramBackend::start("backend");
    let stream = crate::harness::Backend::echo_on(backend.address());
    let config = Config::datagrams([backend.address()], LONG).listen(&format!("{}:4000", crate::harness::loopback()));
    let proxy = config.start();
    let tcp = format!("[[listener]]\nname = \"tcp\"\nlisten = \"{}\"\nservice = \"app\"\n", proxy.main());
    proxy.reload(&config.more(&tcp).toml());
    Datagrams::open(proxy.main()).echoes("datagram");
    crate::harness::Conn::open(proxy.main()).echoes("stream");
    assert_eq!(backend.count(), 1);
    assert_eq!(stream.accepted(), 1);
    proxy.finish();
}

#[test]
fn the_picks_of_flows_are_explained() {
    let backends = DatagramBackend::each(["a", "b"]);
    let config = Config::datagrams(backends.each_ref().map(DatagramBackend::address), LONG);
    let proxy = config.service("balance = \"source_hash\"").start();
    for last in 1..=8 {
        let source = std::net::Ipv4Addr::new(127, 0, 0, last);
        let told = proxy.json(&format!("/v1/explain/main?source={source}"));
        let served = who_serves(&Datagrams::open_from(source, &proxy.main()));
        let winner = backends.iter().find(|backend| told["winner"]["address"] == backend.address()).unwrap();
        assert_eq!(winner.name(), served.by, "who is said to win gets the flow of {source}");
    }
    proxy.finish();
}

#[test]
fn flows_are_told_at_start_and_by_the_admin_interface() {
    let backend = DatagramBackend::start("backend");
    let proxy: Proxy = Config::datagrams([backend.address()], LONG).start();
    let listeners = proxy.json("/v1/listeners");
    let main = listeners.as_array().unwrap().iter().find(|it| it["name"] == "main").unwrap().clone();
    assert_eq!(main["protocol"], "udp");
    assert_eq!(main["addresses"][0], proxy.main());
    assert_eq!(proxy.protocol_of("main"), "udp", "the line on standard output says the protocol");
    let client = Datagrams::open(proxy.main());
    client.echoes("here");
    within(Duration::from_secs(20), "the listener shows its flow", || {
        let listeners = proxy.json("/v1/listeners");
        listeners.as_array().unwrap().iter().any(|it| it["name"] == "main" && it["active"] == 1)
    });
    eventually("the backend shows its flow", || proxy.backend(backend.address())["sessions"] == 1);
    proxy.finish();
}

fn numbered(number: u32) -> Vec<u8> {
    // Sizes differ, so that no two neighbours could be one super-packet all the time.
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(4 + (number as usize * 7) % 900, number as u8);
    bytes
}

/// The address under which the last datagram reached a backend.
fn who_from(backend: &DatagramBackend) -> String {
    backend.arrived().last().expect("a datagram has come").from.clone()
}
