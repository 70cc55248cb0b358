//! Full backends are not picked, and those who wait for a place get it in the order in which they came.

use std::thread;
use std::time::Duration;

use crate::harness::{Acceptor, Backend, Config, Conn, End, Named, Proxy, eventually};

#[test]
fn a_full_backend_is_passed_over() {
    for balance in ["latency", "least_conn", "round_robin", "random_two", "source_hash", "maglev"] {
        // given
        let (one, two) = (Named::start("one"), Named::start("two"));
        let config = Config::to([one.address(), two.address()]);
        let proxy = config.service(&format!("balance = \"{balance}\"\nmax_connections_per_backend = 3")).start();

        // when
        let mut held: Vec<Conn> = (0..6).map(|_| Conn::open(proxy.main())).collect();
        let names: Vec<String> = held.iter_mut().map(Conn::name).collect();

        // then
        let ones = names.iter().filter(|name| *name == "one").count();
        assert_eq!(ones, 3, "{balance} gives each backend what it may have");
        drop(held);
        proxy.finish();
    }
}

#[test]
fn the_first_who_waits_is_served_first_when_somebody_leaves() {
    // given: one place, which is taken, and three who wait
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).service("max_connections_per_backend = 1").start();
    let (first, at_backend) = backend.session(&proxy.main());
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let mut conn = Conn::open(proxy.main());
        conn.send([b'0' + number]);
        waiting.push(conn);
        eventually("the client is in the line", || present(&proxy) == 1 + waiting.len());
    }

    // when
    drop((first, at_backend));

    // then
    for number in 1..=3 {
        let mut served = backend.accept();
        assert_eq!(served.receive(1), [b'0' + number], "the line is kept");
        drop((served, waiting.remove(0)));
    }
    eventually("all sessions are over", || proxy.metrics().sum("connections_active") == 0.0);
    let waited = queued_millis(&proxy).into_iter().filter(|&millis| millis > 0.0).count();
    assert!(waited >= 2, "a record tells how long its session has waited");
    proxy.finish();
}

#[test]
fn who_waits_in_vain_is_refused_by_its_own_reason() {
    let backend = Backend::echo();
    let config = Config::to([backend.address()]);
    let config = config.service("max_connections_per_backend = 1\nqueue_timeout = \"200ms\"\nqueue_length = 1");
    let proxy = config.start();
    let mut held = Conn::open(proxy.main());
    held.echoes("held");

    let mut waiting = Conn::open(proxy.main());
    eventually("the client is in the line", || present(&proxy) == 2);
    assert_eq!(Conn::open(proxy.main()).end(), End::Reset, "the line is as long as it may be");
    proxy.record("queue_full");
    assert_eq!(waiting.end(), End::Reset, "patience has an end");
    proxy.record("queue_timeout");

    held.echoes("still held");
    drop(held);
    eventually("the place is free again", || Conn::open(proxy.main()).still_echoes());
    proxy.finish();
}

#[test]
fn nobody_waits_where_the_timeout_is_zero() {
    let backend = Backend::echo();
    let config = Config::to([backend.address()]);
    let proxy = config.service("max_connections_per_backend = 1\nqueue_timeout = \"0s\"").start();
    let mut held = Conn::open(proxy.main());
    held.echoes("held");
    assert_eq!(Conn::open(proxy.main()).end(), End::Reset);
    proxy.record("queue_full");
    drop(held);
    proxy.finish();
}

#[test]
fn a_client_that_leaves_the_line_leaves_no_gap() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).service("max_connections_per_backend = 1").start();
    let mut held = Conn::open(proxy.main());
    held.echoes("held");
    let impatient = Conn::open(proxy.main());
    let mut patient = Conn::open(proxy.main());
    eventually("both are in the line", || present(&proxy) == 3);
    impatient.reset();
    proxy.record("client_gone");
    drop(held);
    patient.echoes("my turn");
    drop(patient);
    proxy.finish();
}

#[test]
fn no_wake_up_is_lost_between_many_who_come_and_go() {
    // given: two places for forty clients, over and over
    let backends = [Backend::echo(), Backend::echo()];
    let config = Config::to([backends[0].address(), backends[1].address()]).node("workers = 2");
    let proxy = config.service("max_connections_per_backend = 1\nqueue_timeout = \"30s\"").start();

    // when
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let address = proxy.main();
            thread::spawn(move || (0..25).filter(|_| Conn::open(&address).still_echoes()).count())
        })
        .collect();

    // then
    let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(served, 1_000, "everybody has a turn");
    let slowest = queued_millis(&proxy).into_iter().fold(0.0, f64::max);
    let limit = Duration::from_secs(20).as_millis() as f64;
    assert!(slowest < limit, "nobody is forgotten until the end: {slowest} ms");
    proxy.finish();
}

/// Sessions that are served or wait.
fn present(proxy: &Proxy) -> usize {
    proxy.json("/v1/sessions").as_array().unwrap().len()
}

/// How long each session that has ended waited in line.
fn queued_millis(proxy: &Proxy) -> Vec<f64> {
    proxy.sessions().iter().filter_map(|record| record["queued_ms"].as_f64()).collect()
}
