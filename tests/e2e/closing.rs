//! An end of one side becomes the same end on the other: FIN after all bytes, reset for reset, never one for the other.

use std::io::Read as _;

use crate::harness::{Acceptor, Backend, Config, Conn, Digest, End, eventually, full_backlog};

const RELAYS: [&str; 2] = ["splice = true", "splice = false"];

#[test]
fn a_client_that_finishes_sending_still_gets_its_answer() {
    for relay in RELAYS {
        // given
        let backend = Acceptor::new();
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let (mut client, mut server) = backend.session(&proxy.main());

        // when
        client.send("question");
        client.finish_sending();

        // then
        assert_eq!(server.text(), "question", "the client's FIN follows its bytes");
        server.send_pattern(300_000);
        drop(server);
        assert_eq!(client.rest(), (Digest::of_pattern(300_000), End::Fin), "the answer after the FIN arrives whole");
        proxy.record("closed");
        proxy.finish();
    }
}

#[test]
fn a_backend_that_finishes_sending_still_gets_the_rest() {
    for relay in RELAYS {
        // given
        let backend = Acceptor::new();
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let (mut client, mut server) = backend.session(&proxy.main());

        // when
        server.send("enough said");
        server.finish_sending();

        // then
        assert_eq!(client.text(), "enough said", "the backend's FIN follows its bytes");
        client.send_pattern(300_000);
        drop(client);
        assert_eq!(server.rest(), (Digest::of_pattern(300_000), End::Fin), "the upload after the FIN arrives whole");
        proxy.record("closed");
        drop(server);
        proxy.finish();
    }
}

#[test]
fn fin_comes_after_the_last_byte_however_slowly_the_other_side_reads() {
    for relay in RELAYS {
        // given: a reader whose buffers are a fraction of what is on its way
        let backend = Backend::source(3_000_001);
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let mut client = Conn::open_small(&proxy.main(), 4096);

        // when: it takes a little at a time
        let mut received = Vec::new();
        let mut piece = [0; 1000];
        let end = loop {
            match client.read(&mut piece) {
                Ok(0) => break End::Fin,
                Ok(read) => received.extend_from_slice(&piece[..read]),
                Err(_) => break End::Reset,
            }
        };

        // then
        let (digest, _) = Digest::of_rest(&received[..]);
        assert_eq!((digest, end), (Digest::of_pattern(3_000_001), End::Fin), "the tail is not lost to the FIN");
        drop(client);
        proxy.finish();
    }
}

#[test]
fn a_reset_by_the_backend_resets_the_client() {
    for relay in RELAYS {
        let backend = Acceptor::new();
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let (mut client, mut server) = backend.session(&proxy.main());
        client.echo_through(&mut server);
        server.reset();
        assert_eq!(client.end(), End::Reset, "a reset is passed on as a reset");
        assert_eq!(proxy.record("backend_reset")["received_bytes"], 4, "what went through before is counted");
        proxy.finish();
    }
}

#[test]
fn a_reset_by_the_client_resets_the_backend() {
    for relay in RELAYS {
        let backend = Acceptor::new();
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let (mut client, mut server) = backend.session(&proxy.main());
        client.echo_through(&mut server);
        client.reset();
        assert_eq!(server.end(), End::Reset, "a reset is passed on as a reset");
        proxy.record("client_reset");
        proxy.finish();
    }
}

#[test]
fn a_reset_after_bulk_is_never_taken_for_an_end() {
    for relay in RELAYS {
        let backend = Backend::reset_after(5_000_000);
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let mut client = Conn::open(proxy.main());
        let (received, end) = client.rest();
        assert_eq!(end, End::Reset, "a transfer that was cut does not look complete");
        assert!(received.length <= 5_000_000, "no byte is made up");
        assert_eq!(received, Digest::of_pattern(received.length), "what arrived is a prefix of what was sent");
        drop(client);
        proxy.record("backend_reset");
        proxy.finish();
    }
}

#[test]
fn a_reset_of_a_half_closed_session_is_passed_on() {
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();
    let (client, mut server) = backend.session(&proxy.main());
    client.finish_sending();
    assert_eq!(server.text(), "", "the client's FIN arrives");
    client.reset();
    // The backend may only notice when it sends.
    eventually("a reset reaches the half-closed side", || server.try_send_pattern(1).is_err());
    drop(server);
    proxy.record("client_reset");
    proxy.finish();
}

#[test]
fn a_client_that_resets_while_the_backend_is_connected_is_forgotten_at_once() {
    // given: a connect that would hang for longer than the test waits
    let backend = full_backlog();
    let proxy = Config::to([backend.address()]).listener("connect_timeout = \"60s\"").start();
    let client = Conn::open(proxy.main());
    eventually("the session begins", || proxy.metrics().sum("connections_active") == 1.0);

    // when
    client.reset();

    // then
    let record = proxy.record("client_gone");
    assert_eq!(record["received_bytes"], 0);
    proxy.finish();
}

#[test]
fn a_client_that_closes_while_the_backend_is_connected_leaves_nothing_behind() {
    // A FIN alone may be a half-close: the connect goes on, to its timeout here.
    let backend = full_backlog();
    let proxy = Config::to([backend.address()]).listener("connect_timeout = \"500ms\"").start();
    proxy.expect_trouble_with_backends();
    drop(Conn::open(proxy.main()));
    eventually("the session ends", || proxy.sessions().len() == 1);
    proxy.finish();
}

#[test]
fn both_sides_may_close_at_once() {
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();
    for _ in 0..50 {
        let (client, server) = backend.session(&proxy.main());
        std::thread::scope(|scope| {
            scope.spawn(|| drop(client));
            scope.spawn(|| drop(server));
        });
    }
    eventually("all sessions end", || proxy.sessions().len() == 50);
    assert!(proxy.sessions().iter().all(|record| record["reason"] == "closed"), "two FINs are a proper end");
    proxy.finish();
}

impl Conn {
    /// Four bytes each way between the two ends of a session, so that it is established beyond doubt.
    fn echo_through(&mut self, server: &mut Conn) {
        self.send("ping");
        assert_eq!(server.receive(4), b"ping");
        server.send("pong");
        assert_eq!(self.receive(4), b"pong");
    }
}
