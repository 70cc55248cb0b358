//! Backends that end, vanish or keep silent: clients are moved, and a listener outlives all of it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Behaviour, Config, DatagramBackend, Datagrams, LONG, Link, Options, counts, eventually, loopback,
    needs_root, needs_tools, observe, who_serves, who_serves_within, within,
};

/// A reply that is not there by then was lost.
const SOON: Duration = Duration::from_millis(500);

#[test]
fn the_datagram_after_a_refused_one_is_answered_by_another_backend() {
    // given
    let mut backends = DatagramBackend::each(["a", "b"]);
    let proxy = round_robin(&backends, LONG).start();
    proxy.expect_trouble_with_backends();
    let clients = [(); 20].map(|()| Datagrams::open(proxy.main()));
    let before = clients.each_ref().map(|client| who_serves(client).by);

    // when
    backends[0].stop();

    // then
    for (client, before) in clients.iter().zip(&before) {
        let answers = [(); 2].map(|()| who_serves_within(SOON, client).map(|served| served.by));
        assert_eq!(answers[1].as_deref(), Some("b"), "what is sent after a refusal is answered elsewhere");
        assert!(before == "a" || answers[0].as_deref() == Some("b"), "flows of other backends notice nothing");
    }
    eventually("a backend that refuses is ejected", || proxy.state(backends[0].address()) == "ejected");
    assert!(proxy.metrics().sum("backend_ejections_total") >= 1.0);
    let refused = format!("backend_connect_failures_total{{backend=\"{}\",reason=\"refused\"}}", backends[0].address());
    assert!(proxy.metrics().sum(&refused) >= 1.0, "a refusal is counted against the backend that refused");
    let moved = clients.len() - before.iter().filter(|by| *by == "b").count();
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("udp_flows_moved_total"), moved as f64, "moves are counted");
    assert!(metrics.sum("udp_flows_moved_total{reason=\"refused\"}") >= 1.0, "and why");
    for _ in 0..20 {
        assert_eq!(who_serves(&Datagrams::open(proxy.main())).by, "b", "new flows do not meet it");
    }
    proxy.finish();
}

#[test]
fn a_listener_outlives_the_refusals_of_its_only_backend() {
    // given
    let mut backend = DatagramBackend::start("only");
    let proxy = Config::datagrams([backend.address()], LONG).start();
    proxy.expect_trouble_with_backends();
    let client = Datagrams::open(proxy.main());
    client.echoes("before");
    backend.stop();

    // when: refused again and again, by flows old and new
    for _ in 0..50 {
        assert_eq!(client.ask_within(Duration::from_millis(5), "anybody?"), None);
        assert_eq!(Datagrams::open(proxy.main()).ask_within(Duration::from_millis(5), "anybody?"), None);
    }
    backend.start_again();

    // then
    eventually("the same client is served again", || client.ask_within(SOON, "after").is_some());
    proxy.finish();
}

#[test]
fn a_backend_that_returns_is_used_again() {
    let mut backends = DatagramBackend::each(["a", "b"]);
    let proxy = round_robin(&backends, LONG).start();
    proxy.expect_trouble_with_backends();
    backends[0].stop();
    eventually("a backend that refuses is ejected", || {
        let _ = who_serves_within(SOON, &Datagrams::open(proxy.main()));
        proxy.state(backends[0].address()) == "ejected"
    });
    backends[0].start_again();
    within(Duration::from_secs(15), "a backend that is back gets flows", || {
        observe(Duration::from_millis(50));
        who_serves_within(SOON, &Datagrams::open(proxy.main())).is_some_and(|served| served.by == "a")
    });
    proxy.finish();
}

#[test]
fn one_way_traffic_to_a_process_that_ended_is_moved_within_a_second() {
    // given: a sender of statistics who never expects a reply, every 20 ms
    let mut backends = DatagramBackend::each(["a", "b"]);
    backends.iter().for_each(|backend| backend.behaves(Behaviour::IsSilent));
    let proxy = round_robin(&backends, LONG).start();
    proxy.expect_trouble_with_backends();
    let one_way = OneWay::start(proxy.main());
    let (first, other) = used_first(&backends);

    // when
    let before = backends[other].count();
    backends[first].stop();
    let stopped = Instant::now();

    // then
    within(Duration::from_secs(5), "what nobody answers is moved", || backends[other].count() > before + 2);
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(1), "moved within a second, not {took:?}");
    assert_eq!(proxy.metrics().sum("udp_flows_active"), 1.0, "the dead flow is gone");
    one_way.stop();
    proxy.finish();
}

#[test]
fn one_way_traffic_leaves_a_backend_that_leaves_the_configuration() {
    // given
    let backends = DatagramBackend::each(["a", "b"]);
    backends.iter().for_each(|backend| backend.behaves(Behaviour::IsSilent));
    let proxy = round_robin(&backends, LONG).start();
    let one_way = OneWay::start(proxy.main());
    let (first, other) = used_first(&backends);

    // when
    let rest = Config::datagrams([backends[other].address()], LONG).service("balance = \"round_robin\"");
    proxy.reload(&rest.listen(&proxy.main()).toml());
    eventually("the flow is moved", || backends[other].count() > 2);
    let left_behind = backends[first].count();
    let later = backends[other].count();
    eventually("the flow goes on", || backends[other].count() > later + 10);

    // then
    assert_eq!(backends[first].count(), left_behind, "nothing is sent to a backend that is gone");
    one_way.stop();
    proxy.finish();
}

#[test]
fn a_backend_whose_companion_check_fails_loses_its_one_way_flows() {
    // given: health is asked on TCP, of the same address
    let backends = DatagramBackend::each(["a", "b"]);
    backends.iter().for_each(|backend| backend.behaves(Behaviour::IsSilent));
    let mut companions = backends.each_ref().map(|backend| Some(Backend::echo_on(backend.address())));
    let config = round_robin(&backends, LONG);
    let proxy = config.health("{ kind = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }").start();
    proxy.expect_trouble_with_backends();
    let one_way = OneWay::start(proxy.main());
    let (first, other) = used_first(&backends);

    // when
    companions[first] = None;
    eventually("the check notices", || proxy.state(backends[first].address()) == "down");

    // then
    let before = backends[other].count();
    within(Duration::from_secs(2), "the flow is moved", || backends[other].count() > before + 2);
    one_way.stop();
    proxy.finish();
}

#[test]
fn a_silent_backend_among_answering_ones_loses_its_flows_without_any_check() {
    // given
    let backends = DatagramBackend::each(["a", "b", "c", "d"]);
    let config = Config::datagrams(backends.each_ref().map(DatagramBackend::address), LONG);
    let config = config.service("balance = \"round_robin\"\nreply_timeout = \"500ms\"");
    let proxy = config.start();
    proxy.expect_trouble_with_backends();
    let clients: Vec<Datagrams> = (0..40).map(|_| Datagrams::open(proxy.main())).collect();
    let spread = counts(clients.iter().map(|client| who_serves(client).by));
    assert_eq!(spread.len(), 4, "all backends are used");

    // when
    backends[0].behaves(Behaviour::IsSilent);
    let lost = |rounds: u32| {
        let lost = (0..rounds).map(|_| {
            clients.iter().for_each(|client| client.send("question"));
            let lost = Instant::now() + SOON;
            let answered =
                |client: &&Datagrams| client.receive_within(lost.saturating_duration_since(Instant::now())).is_some();
            clients.len() - clients.iter().filter(answered).count()
        });
        lost.sum::<usize>()
    };
    within(Duration::from_secs(20), "the flows of a silent backend are moved", || lost(1) == 0);

    // then
    assert_eq!(lost(20), 0, "once moved, nobody goes unanswered");
    assert_eq!(proxy.state(backends[0].address()), "ejected", "its silence is held against it");
    assert!(proxy.state(backends[1].address()) == "up");
    proxy.finish();
}

#[test]
fn backends_that_never_reply_are_not_blamed_for_it() {
    let backends = DatagramBackend::each(["a", "b"]);
    backends.iter().for_each(|backend| backend.behaves(Behaviour::IsSilent));
    let config = round_robin(&backends, LONG).service("reply_timeout = \"200ms\"");
    let proxy = config.start();
    let one_way = OneWay::start(proxy.main());
    let (first, other) = used_first(&backends);
    eventually("a second of it", || backends[first].count() > 100);
    assert_eq!(backends[other].count(), 0, "a flow that is never answered stays where it is");
    assert_eq!(proxy.state(backends[first].address()), "up");
    one_way.stop();
    proxy.finish();
}

#[test]
fn flows_to_a_machine_that_vanished_are_moved() {
    if !needs_root() || !needs_tools(&["ip", "nft"]) {
        return;
    }
    // given: one backend behind a cable, one here
    let link = Link::new();
    let far = link.far.enter(|| DatagramBackend::start_on("far", &format!("{}:0", link.far_address)));
    let near = link.near.enter(|| DatagramBackend::start("near"));
    let config = Config::datagrams([far.address(), near.address()], LONG);
    let config = config.service("balance = \"round_robin\"\nreply_timeout = \"300ms\"");
    let proxy = config.start_with(Options { netns: Some(link.near.clone()), ..Options::default() });
    proxy.expect_trouble_with_backends();
    let clients = link.near.enter(|| [(); 8].map(|()| Datagrams::open(proxy.main())));
    clients.iter().for_each(|client| drop(who_serves(client)));

    // when
    link.swallow();

    // then: everybody ends up where answers come from
    for client in &clients {
        eventually("a client of the vanished machine is moved", || {
            who_serves_within(Duration::from_millis(100), client).is_some_and(|served| served.by == "near")
        });
    }
    proxy.finish();
}

#[test]
fn latency_prefers_the_backend_that_answers_soonest() {
    // given
    let backends = DatagramBackend::each(["near", "far"]);
    backends[1].behaves(Behaviour::Delays(Duration::from_millis(40)));
    let config = Config::datagrams(backends.each_ref().map(DatagramBackend::address), LONG);
    let proxy = config.service("balance = \"latency\"").start();

    // when
    let served: Vec<String> = (0..200).map(|_| who_serves(&Datagrams::open(proxy.main())).by).collect();

    // then
    let late = counts(served[50..].iter().cloned());
    assert!(late.get("near").is_some_and(|near| *near >= 135), "once known, the near one is picked: {late:?}");
    let backend = proxy.backend(backends[1].address());
    assert!(backend["answer_ms"].as_f64().is_some_and(|ms| ms >= 20.0), "answers are timed: {backend}");
    assert!(proxy.metrics().sum("backend_turn_seconds_count") >= 190.0, "each answer is a turn");
    proxy.finish();
}

#[test]
fn a_check_over_udp_takes_a_backend_out_that_does_not_reply() {
    // given: an echo answers a check as its configuration expects
    let backends = DatagramBackend::each(["a", "b"]);
    let config = round_robin(&backends, LONG);
    let check = "{ kind = \"udp\", send = \"ping\", expect = \"ping\", interval = \"200ms\", timeout = \"100ms\", rise = 1, fall = 2 }";
    let proxy = config.health(check).start();
    proxy.expect_trouble_with_backends();
    eventually("both are up", || backends.iter().all(|backend| proxy.state(backend.address()) == "up"));

    // when
    backends[0].behaves(Behaviour::IsSilent);

    // then
    eventually("the check notices", || proxy.state(backends[0].address()) == "down");
    for _ in 0..10 {
        assert_eq!(who_serves(&Datagrams::open(proxy.main())).by, "b");
    }
    backends[0].behaves(Behaviour::Answers);
    eventually("the check notices", || proxy.state(backends[0].address()) == "up");
    proxy.finish();
}

#[test]
fn syslog_reaches_another_collector_when_one_is_killed() {
    if !needs_tools(&["logger"]) {
        return;
    }
    // given: collectors that never reply
    let mut backends = DatagramBackend::each(["a", "b"]);
    backends.iter().for_each(|backend| backend.behaves(Behaviour::IsSilent));
    let proxy = round_robin(&backends, LONG).listen(&format!("{}:5140", loopback())).start();
    proxy.expect_trouble_with_backends();
    let (host, port) = proxy.main().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let log = |text: &str| {
        let mut logger = Command::new("logger");
        logger.args(["--udp", "--server", &host, "--port", &port, "--rfc3164", "--tag", "test", text]);
        crate::harness::succeeds(&mut logger);
    };

    // when
    (0..10).for_each(|number| log(&format!("line {number}")));
    eventually("all lines arrive", || backends.iter().map(DatagramBackend::count).sum::<u64>() == 10);
    let text = String::from_utf8(backends[0].arrived()[0].bytes.clone()).unwrap();
    assert!(text.starts_with('<') && text.contains("test: line "), "as they were written: {text}");
    backends[0].stop();
    let before = backends[1].count();
    (0..20).for_each(|number| log(&format!("later {number}")));

    // then: each line is a flow of its own, and a refusal is known after the first one
    eventually("the lines after the first go to the other", || backends[1].count() >= before + 17);
    proxy.finish();
}

/// Two or more backends in turns, without any check.
fn round_robin<const N: usize>(backends: &[DatagramBackend; N], idle: &str) -> Config {
    Config::datagrams(backends.each_ref().map(DatagramBackend::address), idle).service("balance = \"round_robin\"")
}

/// Which of two backends gets the flow that has just begun, and which does not.
fn used_first(backends: &[DatagramBackend; 2]) -> (usize, usize) {
    eventually("the flow reaches a backend", || backends.iter().any(|backend| backend.count() > 2));
    if backends[0].count() > 0 { (0, 1) } else { (1, 0) }
}

/// A thread that sends fifty datagrams a second from one socket, whatever comes back.
struct OneWay {
    done: std::sync::Arc<AtomicBool>,
    sender: thread::JoinHandle<()>,
}

impl OneWay {
    fn start(address: String) -> OneWay {
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let done = done.clone();
            move || {
                let client = Datagrams::open(address);
                while !done.load(Ordering::Relaxed) {
                    client.send("app.requests:1|c");
                    thread::park_timeout(Duration::from_millis(10));
                }
            }
        });
        OneWay { done, sender }
    }

    fn stop(self) {
        self.done.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
    }
}
