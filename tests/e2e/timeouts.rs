//! Silence ends by the configured time and with RST, since nobody said FIN; a byte sets the time back.

use std::time::Duration;

use crate::harness::{Acceptor, Backend, Config, Conn, End, eventually, observe};

/// Half of the timeouts below, so that two pauses without a byte between them would cut the session.
const PAUSE: Duration = Duration::from_millis(600);

#[test]
fn an_idle_session_is_reset_on_both_sides() {
    for relay in ["splice = true", "splice = false"] {
        // given
        let backend = Acceptor::new();
        let proxy = Config::to([backend.address()]).listener(relay).listener("idle_timeout = \"1s\"").start();

        // when
        let (mut client, mut server) = backend.session(&proxy.main());

        // then
        assert_eq!(client.end(), End::Reset, "a session cut for silence does not look complete to its client");
        assert_eq!(server.end(), End::Reset, "a session cut for silence does not look complete to its backend");
        proxy.record("idle_timeout");
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn bytes_in_either_direction_keep_a_session_from_idling_out() {
    // given
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).listener("idle_timeout = \"1s\"").start();

    // when: one direction alone speaks, then the other alone
    for from_client in [true, false] {
        let (mut client, mut server) = backend.session(&proxy.main());
        for _ in 0..4 {
            let (from, to) = if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            pass_a_byte(from, to);
            observe(PAUSE);
        }

        // then
        pass_a_byte(&mut client, &mut server);
        drop(client);
        assert_eq!(server.end(), End::Fin, "a session that moves bytes is not idle");
    }
    proxy.finish();
}

#[test]
fn a_half_closed_session_lives_while_bytes_move_and_is_reset_when_they_stop() {
    for client_finishes in [true, false] {
        // given
        let backend = Acceptor::new();
        let proxy = Config::to([backend.address()]).listener("half_close_timeout = \"1s\"").start();
        let (client, server) = backend.session(&proxy.main());
        let (finished, mut open) = if client_finishes { (client, server) } else { (server, client) };

        // when
        finished.finish_sending();
        assert_eq!(open.text(), "", "the FIN is passed on");
        let mut finished = finished;
        for _ in 0..4 {
            pass_a_byte(&mut open, &mut finished);
            observe(PAUSE);
        }
        pass_a_byte(&mut open, &mut finished);

        // then
        assert_eq!(finished.end(), End::Reset, "a half-closed session that falls silent is cut");
        proxy.record("half_close_timeout");
        drop((open, finished));
        proxy.finish();
    }
}

#[test]
fn the_half_close_timeout_does_not_touch_a_session_that_is_open_both_ways() {
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).listener("half_close_timeout = \"500ms\"").start();
    let (mut client, mut server) = backend.session(&proxy.main());
    observe(PAUSE * 2);
    pass_a_byte(&mut client, &mut server);
    pass_a_byte(&mut server, &mut client);
    drop((client, server));
    proxy.finish();
}

fn pass_a_byte(from: &mut Conn, to: &mut Conn) {
    from.send("x");
    assert_eq!(to.receive(1), b"x", "a byte goes through");
}

#[test]
fn asking_for_the_sessions_all_the_time_puts_no_timeout_off() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).listener("idle_timeout = \"500ms\"").start();
    let mut conn = Conn::open(proxy.main());
    conn.echoes("now silence");
    eventually("the session idles out although somebody looks at it", || {
        proxy.json("/v1/sessions");
        proxy.sessions().iter().any(|record| record["reason"] == "idle_timeout")
    });
    drop(conn);
    proxy.finish();
}
