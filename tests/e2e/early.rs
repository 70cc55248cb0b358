//! Whoever speaks first is heard at once: no byte waits for the other side, for a connect or for a fuller packet.

use std::time::{Duration, Instant};

use crate::harness::{Acceptor, Backend, Config, Conn, Digest, End, full_backlog, pattern};

/// What a held-back reply costs: a cork in the kernel holds bytes for 200 ms, a delayed acknowledgement for 40.
/// Between the two, so that a busy machine passes and a cork does not.
const NOTICEABLE: Duration = Duration::from_millis(150);

const RELAYS: [&str; 2] = ["splice = true", "splice = false"];

#[test]
fn the_greeting_of_a_backend_that_speaks_first_is_not_held_back() {
    for relay in RELAYS {
        // given
        let backend = Backend::banner("220 welcome\r\n");
        let proxy = Config::to([backend.address()]).listener(relay).start();

        // when
        let median = median_of(20, || {
            let mut client = Conn::open(proxy.main());
            assert_eq!(client.receive(13), b"220 welcome\r\n", "a greeting arrives unchanged");
        });

        // then
        assert!(median < NOTICEABLE, "a greeting is passed on at once");
        proxy.finish();
    }
}

#[test]
fn small_questions_and_answers_are_not_held_back_after_bulk() {
    for relay in RELAYS {
        // given: a session that has moved enough to splice
        let backend = Backend::echo();
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let mut client = Conn::open(proxy.main());
        let mut sender = client.clone();
        let sending = std::thread::spawn(move || sender.send_pattern(4 << 20));
        assert_eq!(Digest::of_next(&mut client, 4 << 20), Digest::of_pattern(4 << 20));
        sending.join().unwrap();

        // when: so few that the session still splices
        let median = median_of(5, || client.echoes("ping"));

        // then
        assert!(median < NOTICEABLE, "a small message is passed on at once");
        drop(client);
        proxy.finish();
    }
}

#[test]
fn bytes_and_fin_sent_before_the_backend_accepts_arrive() {
    // given
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();

    // when
    let mut client = Conn::open(proxy.main());
    client.send(pattern(100_000));
    client.finish_sending();
    let mut server = backend.accept();

    // then
    assert_eq!(server.rest(), (Digest::of_pattern(100_000), End::Fin), "early bytes arrive, then FIN");
    server.send("answer");
    drop(server);
    assert_eq!(client.text(), "answer", "an answer after an early FIN arrives");
    proxy.finish();
}

#[test]
fn bytes_sent_while_the_backend_is_being_connected_arrive() {
    // given: a backend whose kernel answers no SYN until there is room
    let backend = full_backlog();
    let proxy = Config::to([backend.address()]).listener("connect_timeout = \"20s\"").start();

    // when
    let mut client = Conn::open(proxy.main());
    client.send(pattern(50_000));
    client.finish_sending();
    let (mut server, _listener) = backend.open_and_accept();

    // then
    assert_eq!(server.rest(), (Digest::of_pattern(50_000), End::Fin), "bytes that waited arrive, then FIN");
    drop(server);
    assert_eq!(client.end(), End::Fin);
    proxy.finish();
}

fn median_of(rounds: usize, mut round: impl FnMut()) -> Duration {
    let mut spans = (0..rounds).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed()
    });
    let mut spans: Vec<Duration> = spans.by_ref().collect();
    spans.sort_unstable();
    spans[rounds / 2]
}
