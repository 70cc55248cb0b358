//! Stopping: who is there may finish, nobody new comes in, and the deadline holds.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Acceptor, Backend, Config, Conn, Digest, End, Proxy, eventually};

#[test]
fn sessions_finish_after_a_stop_and_nobody_new_comes_in() {
    // given: sessions that talk and one in the middle of a transfer
    let (backend, proxy) = held_by("drain_timeout = \"30s\"");
    let mut talking = (0..5).map(|_| backend.session(&proxy.main())).collect::<Vec<_>>();
    let (mut downloading, mut server) = backend.session(&proxy.main());
    let sending = std::thread::spawn(move || server.send_pattern(50_000_000));
    assert_eq!(proxy.get("/readyz").0, 200);
    assert_eq!(Digest::of_next(&mut downloading, 1), Digest::of_pattern(1), "the transfer is under way");

    // when
    proxy.signal(Signal::TERM);

    // then
    eventually("readiness is withdrawn", || proxy.get("/readyz").0 == 503);
    assert_eq!(proxy.get("/healthz").0, 200, "a proxy that drains is alive");
    eventually("nobody new comes in", || Conn::try_open(&proxy.main()).is_err());
    for (client, server) in &mut talking {
        client.send("still");
        assert_eq!(server.receive(5), b"still", "a session goes on during the drain");
    }
    let (rest, end) = downloading.rest();
    assert_eq!((rest.length, end), (50_000_000 - 1, End::Fin), "a transfer is finished during the drain");
    sending.join().unwrap();

    // when
    drop((talking, downloading));

    // then
    let mut records = proxy.exits();
    // Who knocked in vain at last may have been let in before, and left without a word, even before a backend was reached.
    records.retain(|record| record["received_bytes"] != 0 || record["sent_bytes"] != 0);
    assert_eq!(records.len(), 6, "every session leaves its record");
    assert!(
        records.iter().all(|record| record["reason"] == "closed"),
        "nobody is cut before the deadline: {records:?}"
    );
}

#[test]
fn sessions_left_at_the_deadline_are_reset() {
    // given
    let (backend, proxy) = held_by("drain_timeout = \"1s\"");
    let (mut client, mut server) = backend.session(&proxy.main());

    // when
    let start = Instant::now();
    proxy.signal(Signal::TERM);

    // then
    assert_eq!(client.end(), End::Reset, "a session cut by the deadline does not look complete to its client");
    assert_eq!(server.end(), End::Reset, "a session cut by the deadline does not look complete to its backend");
    assert!(start.elapsed() >= Duration::from_millis(900), "nobody is cut before the deadline");
    let records = proxy.exits();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["reason"], "drain_timeout");
}

#[test]
fn a_second_stop_does_not_wait() {
    let (backend, proxy) = held_by("drain_timeout = \"10m\"");
    let (mut client, _server) = backend.session(&proxy.main());
    proxy.signal(Signal::TERM);
    eventually("readiness is withdrawn", || proxy.get("/readyz").0 == 503);
    proxy.signal(Signal::TERM);
    assert_eq!(client.end(), End::Reset);
    assert_eq!(proxy.exits()[0]["reason"], "shutdown");
}

#[test]
fn a_quit_does_not_wait() {
    let (backend, proxy) = held_by("drain_timeout = \"10m\"");
    let (mut client, _server) = backend.session(&proxy.main());
    proxy.signal(Signal::QUIT);
    assert_eq!(client.end(), End::Reset);
    assert_eq!(proxy.exits()[0]["reason"], "shutdown");
}

#[test]
fn an_interrupt_from_the_terminal_drains_as_a_stop_does() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    let mut client = Conn::open(proxy.main());
    client.echoes("before");
    proxy.signal(Signal::INT);
    eventually("readiness is withdrawn", || proxy.get("/readyz").0 == 503);
    client.echoes("during");
    drop(client);
    assert_eq!(proxy.exits()[0]["reason"], "closed");
}

#[test]
fn a_stop_in_the_middle_of_arrivals_loses_no_session_that_was_accepted() {
    // given
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    let address = proxy.main();

    // when: clients arrive until nobody is taken in any more
    let arriving = std::thread::spawn(move || {
        let mut served = 0;
        while let Ok(mut conn) = Conn::try_open(&address) {
            if !conn.still_echoes() {
                // Connected by the kernel in the moment the listener closed, never accepted.
                break;
            }
            served += 1;
        }
        served
    });
    eventually("there is load", || proxy.sessions().len() > 50);
    proxy.signal(Signal::TERM);
    let served = arriving.join().unwrap();

    // then
    let records = proxy.exits();
    let closed = records.iter().filter(|record| record["reason"] == "closed").count();
    assert_eq!(closed, served, "every session that was served ended well");
}

/// A backend whose sessions the test holds, behind a proxy with a line for the node.
fn held_by(node: &str) -> (Acceptor, Proxy) {
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).node(node).start();
    (backend, proxy)
}
