//! The probe that sends a datagram.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use balance::{Active, Address};
use discovery::Probe;
use tokio::net::UdpSocket;

use crate::support::{Refusing, checked, health, last, states, udp, until, until_state};

async fn socket(ip: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((ip, 0)).await.expect("loopback has a port left");
    let address = socket.local_addr().expect("a bound socket has an address");
    (socket, address)
}

/// A server that gives `reply` to `question`, and nothing to anything else.
async fn server(ip: &str, question: &'static [u8], reply: &'static [u8]) -> Address {
    let (socket, address) = socket(ip).await;
    tokio::spawn(async move {
        let mut datagram = [0; 64];
        while let Ok((length, client)) = socket.recv_from(&mut datagram).await {
            if datagram[..length] == *question {
                socket.send_to(reply, client).await.expect("loopback takes a datagram");
            }
        }
    });
    address.into()
}

#[tokio::test]
async fn the_reply_decides() {
    let cases: [(&[u8], &[u8], Active, &str); 7] = [
        (b"pong", b"", Active::Up, "reply"),
        (b"", b"", Active::Up, "reply"),
        (b"\0\x01\xff", b"\0\x01", Active::Up, "reply"),
        (b"pong", b"pong", Active::Up, "reply"),
        (b"pong", b"ping", Active::Down, "udp: the reply does not begin with what is expected"),
        (b"po", b"pong", Active::Down, "udp: the reply does not begin with what is expected"),
        (b"", b"pong", Active::Down, "udp: the reply does not begin with what is expected"),
    ];
    for (reply, expect, state, text) in cases {
        for ip in ["127.0.0.1", "::1"] {
            let services = checked(udp(b"ping\xfe", expect), &[server(ip, b"ping\xfe", reply).await]);
            assert_eq!(until_state(&services, state).await.text, text, "{reply:?} where {expect:?} is expected");
        }
    }
}

#[tokio::test]
async fn a_backend_is_up_while_it_replies() {
    let (first, address) = socket("127.0.0.1").await;
    let echo = async |socket: UdpSocket| {
        let mut datagram = [0; 64];
        // What a socket says of a check that has left is nothing to stop for.
        loop {
            if let Ok((length, client)) = socket.recv_from(&mut datagram).await {
                let _sent = socket.send_to(&datagram[..length], client).await;
            }
        }
    };
    let running = tokio::spawn(echo(first));
    let services = checked(udp(b"ping", b"ping"), &[address.into()]);
    until_state(&services, Active::Up).await;
    running.abort();
    let begun = Instant::now();
    let result = until_state(&services, Active::Down).await;
    assert!(result.text.contains("refused"), "that nobody listens is known from ICMP: {}", result.text);
    let timeout = health(udp(b"", b"")).timeout;
    assert!(begun.elapsed() < timeout * 2, "two failures that are known at once do not take two timeouts");
    tokio::spawn(echo(UdpSocket::bind(address).await.unwrap()));
    until_state(&services, Active::Up).await;
}

#[tokio::test]
async fn a_lost_datagram_is_no_failure() {
    let (socket, address) = socket("127.0.0.1").await;
    let services = checked(udp(b"ping", b""), &[address.into()]);
    let mut datagram = [0; 64];
    for _ in 0..2 {
        let (_, lost) = socket.recv_from(&mut datagram).await.unwrap();
        let (length, again) = socket.recv_from(&mut datagram).await.unwrap();
        assert_eq!((lost, &datagram[..length]), (again, &b"ping"[..]), "the same socket sends the same again");
        socket.send_to(b"pong", again).await.unwrap();
    }
    assert_eq!(until_state(&services, Active::Up).await.text, "reply");
}

#[tokio::test]
async fn a_backend_that_never_replies_is_down_after_two_datagrams_each_time() {
    let (socket, address) = socket("127.0.0.1").await;
    let counted = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&counted);
    tokio::spawn(async move {
        while socket.recv_from(&mut [0; 64]).await.is_ok() {
            counter.fetch_add(1, Relaxed);
        }
    });
    let services = checked(udp(b"ping", b""), &[address.into()]);
    let result = until_state(&services, Active::Down).await;
    assert_eq!(result.text, "udp: timed out");
    assert!(counted.load(Relaxed) >= 4, "two checks, of which each sends twice");
}

#[tokio::test]
async fn another_port_of_the_backend_is_asked() {
    let address = server("127.0.0.1", b"ping", b"pong").await;
    let port = address.inet().map(|addr| addr.port());
    let probe = Probe::Udp { port, send: b"ping".into(), expect: b"pong".into() };
    until_state(&checked(probe, &[Refusing::new().address()]), Active::Up).await;
}

#[tokio::test]
async fn a_unix_backend_cannot_be_asked_and_nothing_is_said_of_it() {
    let services = checked(udp(b"ping", b""), &["unix:/nowhere".parse().unwrap()]);
    until(|| last(&services).is_some_and(|last| last.text.contains("cannot be asked"))).await;
    assert_eq!(states(&services), [Active::Unknown]);
}
