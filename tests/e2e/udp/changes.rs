//! Draining, reloading and stopping, as flows see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Config, DatagramBackend, Datagrams, LONG, Proxy, Served, eventually, loopback, observe, who_serves,
    who_serves_within,
};

#[test]
fn a_draining_backend_keeps_its_flows_and_gets_no_new_ones() {
    // given
    let backends = DatagramBackend::each(["a", "b"]);
    let (proxy, clients) = with_flows(&backends, "drain = \"keep_flows\"");
    let before: Vec<Served> = clients.iter().map(who_serves).collect();

    // when
    drain_the_first(&proxy, &backends, "drain = \"keep_flows\"");

    // then
    for _ in 0..3 {
        let after: Vec<Served> = clients.iter().map(who_serves).collect();
        assert_eq!(after, before, "flows stay, and look the same to their backends");
    }
    for _ in 0..10 {
        assert_eq!(who_serves(&Datagrams::open(proxy.main())).by, "b", "new flows go elsewhere");
    }
    proxy.finish();
}

#[test]
fn a_draining_backend_loses_its_flows_at_once_where_they_may_move() {
    // given
    let backends = DatagramBackend::each(["a", "b"]);
    let (proxy, clients) = with_flows(&backends, "drain = \"move_now\"");
    let before: Vec<Served> = clients.iter().map(who_serves).collect();

    // when
    drain_the_first(&proxy, &backends, "drain = \"move_now\"");

    // then
    let after: Vec<Served> = clients.iter().map(who_serves).collect();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.by, "b", "the next datagram of every flow is answered elsewhere");
        assert!(before.by == "a" || before == after, "flows of the other backend stay as they are");
    }
    proxy.finish();
}

#[test]
fn a_reload_that_does_not_concern_them_leaves_flows_as_they_are() {
    // given
    let backends = DatagramBackend::each(["a", "b"]);
    let (proxy, clients) = with_flows(&backends, "");
    let before: Vec<Served> = clients.iter().map(who_serves).collect();
    let other = format!(
        "[[listener]]\nname = \"other\"\nlisten = \"{}:4000\"\nprotocol = \"udp\"\nservice = \"app\"\n",
        loopback()
    );
    let unchanged = config(&backends, "").listen(&proxy.main());

    for next in [unchanged.clone().more(&other), unchanged.clone().listener("max_connections = 500"), unchanged] {
        // when
        proxy.reload(&next.toml());

        // then
        let after: Vec<Served> = clients.iter().map(who_serves).collect();
        assert_eq!(after, before, "flows stay, and look the same to their backends");
    }
    assert_eq!(proxy.metrics().sum("udp_flows_created_total{listener=\"main\"}"), 16.0);
    proxy.finish();
}

#[test]
fn ten_reloads_a_second_lose_no_datagram() {
    // given
    let backends = DatagramBackend::each(["a", "b", "c"]);
    let main = format!("{}:4000", loopback());
    let version = |number: usize| {
        // Weights turn, a setting changes, a backend that has no flow to lose comes and goes.
        let weighted = backends.iter().enumerate().map(|(at, backend)| {
            format!("{{ address = \"{}\", weight = {} }}", backend.address(), 1 + (number + at) % 3)
        });
        let spare = number.is_multiple_of(2).then(|| format!("{{ address = \"{main}0\", weight = 0 }}"));
        let entries: Vec<String> = weighted.chain(spare).collect();
        let config = Config::datagrams(entries.iter().map(String::as_str), LONG).listen(&main);
        config.listener(&format!("max_connections = {}", 20_000 + number)).service("balance = \"round_robin\"")
    };
    let proxy = version(0).start();
    let clients = [(); 8].map(|()| Datagrams::open(&main));
    let first = clients.each_ref().map(who_serves);
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));

    thread::scope(|scope| {
        // when
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // then: each is answered, or this panics
                assert_eq!(clients.each_ref().map(who_serves), first, "flows stay as they are");
                Datagrams::open(&main).echoes("a flow begun between reloads");
                asked.fetch_add(9, Ordering::Relaxed);
            }
        });
        let start = Instant::now();
        for number in 1..=30 {
            proxy.rewrite(&version(number).toml());
            observe((start + Duration::from_millis(100) * number as u32).saturating_duration_since(Instant::now()));
        }
        done.store(true, Ordering::Relaxed);
    });

    // then
    assert!(asked.load(Ordering::Relaxed) > 500, "there was load");
    let metrics = proxy.metrics();
    assert!(metrics.sum("config_reloads_total{result=\"ok\"}") >= 10.0, "reloads were made, though some at once");
    assert_eq!(metrics.sum("udp_dropped_datagrams_total"), 0.0);
    proxy.finish();
}

#[test]
fn listeners_of_datagrams_come_and_go() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "1s").start();
    let extra = format!("{}:4000", loopback());
    let one = Config::datagrams([backend.address()], "1s").listen(&proxy.main());
    let second = format!(
        "[[listener]]\nname = \"extra\"\nlisten = \"{extra}\"\nprotocol = \"udp\"\nidle_timeout = \"1s\"\nservice = \"app\"\n"
    );
    let two = one.clone().more(&second);

    for _ in 0..2 {
        // when
        proxy.reload(&two.toml());

        // then
        Datagrams::open(&extra).echoes("an added listener serves");
        assert_eq!(proxy.addresses_now("extra"), std::slice::from_ref(&extra));

        // when
        proxy.reload(&one.toml());

        // then
        eventually("a removed listener serves nobody new", || {
            Datagrams::open(&extra).ask_within(Duration::from_millis(50), "anybody?").is_none()
        });
        assert!(proxy.addresses_now("extra").is_empty());
        Datagrams::open(proxy.main()).echoes("the other goes on");
    }
    proxy.finish();
}

#[test]
fn flows_go_on_after_a_stop_until_they_fall_silent_and_nobody_new_comes_in() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "1s").node("drain_timeout = \"30s\"").start();
    let client = Datagrams::open(proxy.main());
    let served = who_serves(&client);

    // when
    proxy.signal(Signal::TERM);

    // then
    eventually("readiness is withdrawn", || proxy.get("/readyz").0 == 503);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        assert_eq!(who_serves(&client), served, "a flow goes on during the drain");
    }
    let late = Datagrams::open(proxy.main());
    assert_eq!(late.ask_within(Duration::from_millis(300), "anybody?"), None, "nobody new comes in");
    let records = proxy.exits();
    let reasons: Vec<&str> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["idle_timeout"], "the flow ended by itself");
}

#[test]
fn flows_left_at_the_deadline_are_ended() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "10m").node("drain_timeout = \"1s\"").start();
    let client = Datagrams::open(proxy.main());
    client.echoes("before");

    // when
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    eventually("readiness is withdrawn", || proxy.get("/readyz").0 == 503);
    client.echoes("during");
    let records = proxy.exits();

    // then
    assert!(start.elapsed() >= Duration::from_millis(900), "nobody is cut before the deadline");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["reason"], "drain_timeout");
}

#[test]
fn a_quit_ends_flows_at_once() {
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "10m").node("drain_timeout = \"10m\"").start();
    let client = Datagrams::open(proxy.main());
    client.echoes("before");
    proxy.signal(Signal::QUIT);
    assert_eq!(proxy.exits()[0]["reason"], "shutdown");
    assert_eq!(who_serves_within(Duration::from_millis(50), &client), None);
}

fn config(backends: &[DatagramBackend; 2], service: &str) -> Config {
    let addresses = backends.each_ref().map(DatagramBackend::address);
    Config::datagrams(addresses, LONG).service("balance = \"round_robin\"").service(service)
}

/// A proxy with sixteen flows, half of them to each backend.
fn with_flows(backends: &[DatagramBackend; 2], service: &str) -> (Proxy, Vec<Datagrams>) {
    let proxy = config(backends, service).start();
    let clients: Vec<Datagrams> = (0..16).map(|_| Datagrams::open(proxy.main())).collect();
    let of_the_first = clients.iter().filter(|client| who_serves(client).by == backends[0].name()).count();
    assert!((4..=12).contains(&of_the_first), "both have flows");
    (proxy, clients)
}

/// Sets the weight of the first backend to 0 in the running configuration.
fn drain_the_first(proxy: &Proxy, backends: &[DatagramBackend; 2], service: &str) {
    let resting = format!("{{ address = \"{}\", weight = 0 }}", backends[0].address());
    let config = Config::datagrams([resting.as_str(), backends[1].address()], LONG).listen(&proxy.main());
    proxy.reload(&config.service("balance = \"round_robin\"").service(service).toml());
    eventually("the backend drains", || proxy.state(backends[0].address()) == "draining");
}
