//! Tests of receiving and sending over the real sockets of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Local, Source};
use super::send::{Failure, Message, SendFault, Sender, Sent};
use super::socket::{Endpoint, Equipment, Family, bind_udp, connect_datagram, connect_udp, equip};

fn wait(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "something comes");
}

fn listen(addr: &str) -> (UdpSocket, SocketAddr) {
    let socket = bind_udp(addr.parse().unwrap(), false).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// A client or a backend that is as simple as they come.
fn plain(addr: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

fn endpoint(socket: &UdpSocket) -> Endpoint<'_> {
    Endpoint::new(socket.as_fd(), Family::of(socket.local_addr().unwrap()))
}

/// Receives until there are `count` datagrams, and returns their contents.
fn receive(batch: &mut Batch, socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        wait(socket.as_fd());
        for index in batch.receive(endpoint(socket)).unwrap() {
            let slot = batch.slot(index);
            assert!(!slot.truncated);
            datagrams.extend(slot.datagrams().map(<[u8]>::to_vec));
        }
    }
    datagrams
}

fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}

fn connected(payload: &[u8]) -> Message<'_> {
    Message { header: b"", payload, segment: 0, to: None, from: None, ecn: 0 }
}

fn all_sent(sent: &Sent, datagrams: u64, bytes: u64) {
    assert_eq!(*sent, Sent { datagrams, bytes, failed: Vec::new(), pending: None });
}

/// Bytes that differ from datagram to datagram and within each (SplitMix64).
fn payload(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|n| {
            let mixed = (seed << 32 | n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9).to_be_bytes()[0]
        })
        .collect()
}

#[test]
fn datagrams_of_all_sizes_come_in_their_order() {
    let (server, addr) = listen("127.0.0.1:0");
    let (client, from) = plain("127.0.0.1:0");
    let mut batch = Batch::default();
    for seed in 0..8 {
        let mut sizes = vec![0, 1, 1472, 65_507, 0];
        sizes.extend(payload(seed, 20).iter().map(|byte| usize::from(*byte) * 11));
        sizes.rotate_left(seed as usize * 3);
        let expected: Vec<Vec<u8>> = sizes.iter().zip(seed * 100..).map(|(size, n)| payload(n, *size)).collect();
        for datagram in &expected {
            client.send_to(datagram, addr).unwrap();
        }
        assert!(receive(&mut batch, &server, expected.len()) == expected, "seed {seed}");
        assert_eq!(batch.slot(0).source, &Source::Inet(from));
        assert_eq!(batch.slot(0).local, None, "where it is bound to one address, none is needed");
        batch.clear();
        let error = batch.receive(endpoint(&server)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn no_more_slots_are_filled_than_asked_for_or_free() {
    let (server, addr) = listen("127.0.0.1:0");
    let (client, _) = plain("127.0.0.1:0");
    for n in 0..6 {
        client.send_to(&[n], addr).unwrap();
    }
    let mut batch = Batch::new(4, 1 << 16);
    assert_eq!(batch.receive_up_to(endpoint(&server), 1).unwrap(), 0..1);
    assert_eq!(batch.receive_up_to(endpoint(&server), 0).unwrap(), 1..1);
    assert_eq!(batch.receive(endpoint(&server)).unwrap(), 1..4);
    assert!(batch.is_full());
    assert_eq!(batch.receive(endpoint(&server)).unwrap(), 4..4);
    let first: Vec<u8> = (0..batch.len()).map(|index| batch.slot(index).payload[0]).collect();
    assert_eq!(first, [0, 1, 2, 3]);
    batch.clear();
    assert_eq!(batch.len(), 0);
    assert_eq!(batch.receive(endpoint(&server)).unwrap(), 0..2, "fewer than are free: nothing more waits");
}

#[test]
fn a_train_crosses_whole_and_arrives_as_the_same_datagrams() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (server, addr) = listen(address);
        let (backend, backend_addr) = plain(address);
        let client = connect_udp(addr, Equipment::Lean).unwrap();
        let upstream = connect_udp(backend_addr, Equipment::Full).unwrap();
        let expected: Vec<Vec<u8>> = (0..16).map(|n| payload(n, if n < 15 { 1200 } else { 700 })).collect();

        // Datagrams of one size leave the client as a train.
        let sent = Sender::new().send(endpoint(&client), expected.iter().map(|datagram| connected(datagram)));
        all_sent(&sent, 16, 15 * 1200 + 700);
        let mut batch = Batch::default();
        wait(server.as_fd());
        assert_eq!(batch.receive(endpoint(&server)).unwrap(), 0..1, "it comes in one piece");
        let slot = batch.slot(0);
        assert_eq!((slot.count(), slot.segment, slot.payload.len()), (16, 1200, 15 * 1200 + 700));

        let whole = Message { segment: slot.segment, ..connected(slot.payload) };
        all_sent(&Sender::new().send(endpoint(&upstream), [whole]), 16, 15 * 1200 + 700);
        for datagram in &expected {
            assert!(received(&backend).0 == *datagram);
        }
    }
}

#[test]
fn a_header_goes_before_each_datagram_of_a_train() {
    let (backend, addr) = plain("127.0.0.1:0");
    let upstream = connect_udp(addr, Equipment::Lean).unwrap();
    let message = Message { header: b"head", segment: 300, ..connected(&[7; 1000]) };
    all_sent(&Sender::new().send(endpoint(&upstream), [message]), 4, 1000);
    for length in [300, 300, 300, 100] {
        let (datagram, _) = received(&backend);
        assert_eq!(datagram, [b"head".as_slice(), &[7; 1000][..length]].concat());
    }
}

#[test]
fn replies_come_from_the_address_that_the_client_used() {
    let second = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let cases = [
        ("0.0.0.0:0", second, "127.0.0.1:0"),
        ("[::]:0", second, "127.0.0.1:0"),
        ("[::]:0", "::1".parse().unwrap(), "[::1]:0"),
    ];
    for (bind, used, client_addr) in cases {
        let (server, addr) = listen(bind);
        let (client, client_addr) = plain(client_addr);
        client.connect((used, addr.port())).unwrap();
        client.send(b"request").unwrap();
        let mut batch = Batch::default();
        receive(&mut batch, &server, 1);
        let slot = batch.slot(0);
        assert_eq!(slot.source, &Source::Inet(client_addr), "an IPv4 client is one on {bind} too");
        assert_eq!(slot.local, Some(Local { ip: used, interface: 0 }));

        // The client's socket is connected: from elsewhere it takes nothing.
        let reply = |payload: &'static [u8], from| Message { to: Some(slot.source), from, ..connected(payload) };
        let other = slot.local.filter(|_| used != second);
        let replies = [reply(b"lost unless ::1", other), reply(b"one", slot.local), reply(b"three", slot.local)];
        all_sent(&Sender::new().send(endpoint(&server), replies), 3, 23);
        let mut expected = vec![b"lost unless ::1".as_slice(), b"one", b"three"];
        if used == second {
            expected.remove(0);
        }
        for expected in expected {
            assert_eq!(received(&client).0, expected);
        }
    }
}

#[test]
fn trains_of_several_clients_leave_a_wildcard_socket_together() {
    let (server, addr) = listen("[::]:0");
    let clients: Vec<_> = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"].map(plain).into();
    let mut batch = Batch::default();
    for (client, from) in &clients {
        client.connect((from.ip(), addr.port())).unwrap();
        client.send(b"request").unwrap();
        receive(&mut batch, &server, 1);
    }
    let train = payload(1, 5000);
    let replies = (0..3).map(|index| {
        let slot = batch.slot(index);
        Message { header: b"", payload: &train, segment: 1000, to: Some(slot.source), from: slot.local, ecn: 2 }
    });
    all_sent(&Sender::new().send(endpoint(&server), replies), 15, 15_000);
    for (client, _) in &clients {
        for datagram in train.chunks(1000) {
            assert!(received(client).0 == *datagram);
        }
    }
}

#[test]
fn ecn_goes_both_ways() {
    for (bind, used) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        let (server, addr) = listen(bind);
        let client = connect_udp((used.parse::<IpAddr>().unwrap(), addr.port()).into(), Equipment::Lean).unwrap();
        equip(&client, endpoint(&client).family).unwrap();
        let mut sender = Sender::new();
        for ecn in 0..4 {
            let (mut requests, mut replies) = (Batch::default(), Batch::default());
            all_sent(&sender.send(endpoint(&client), [Message { ecn, ..connected(b"request") }]), 1, 7);
            receive(&mut requests, &server, 1);
            let request = requests.slot(0);
            assert_eq!(request.ecn, ecn, "to {used} on {bind}");
            let ecn = 3 - ecn;
            let reply = Message { to: Some(request.source), from: request.local, ecn, ..connected(b"reply") };
            all_sent(&sender.send(endpoint(&server), [reply, reply, reply]), 3, 15);
            receive(&mut replies, &client, 3);
            assert_eq!(replies.slot(0).ecn, ecn, "from {used} on {bind}");
        }
    }
}

#[test]
fn a_slot_that_is_too_small_says_so() {
    let (server, addr) = listen("127.0.0.1:0");
    let (client, _) = plain("127.0.0.1:0");
    client.send_to(&[1; 100], addr).unwrap();
    client.send_to(&[2; 101], addr).unwrap();
    let mut batch = Batch::new(4, 100);
    assert_eq!(batch.receive(endpoint(&server)).unwrap(), 0..2);
    assert_eq!(
        [0, 1].map(|index| (batch.slot(index).payload.len(), batch.slot(index).truncated)),
        [(100, false), (100, true)]
    );
    assert_eq!(batch.slot(1).payload, [2; 100], "no slot reaches into another");
}

#[test]
fn replies_of_several_flows_gather_in_a_batch() {
    let backends: Vec<_> = (0..3).map(|_| plain("127.0.0.1:0")).collect();
    let flows: Vec<_> = backends.iter().map(|(_, addr)| connect_udp(*addr, Equipment::Full).unwrap()).collect();
    let mut batch = Batch::default();
    for (n, (flow, (backend, addr))) in flows.iter().zip(&backends).enumerate() {
        all_sent(&Sender::new().send(endpoint(flow), [connected(b"?")]), 1, 1);
        let (_, from) = received(backend);
        backend.send_to(&[n as u8; 3], from).unwrap();
        backend.send_to(&[n as u8; 4], from).unwrap();
        wait(flow.as_fd());
        assert_eq!(batch.receive(endpoint(flow)).unwrap(), 2 * n..2 * n + 2);
        assert_eq!(batch.slot(2 * n).source, &Source::Inet(*addr));
    }
    let (client, to) = plain("127.0.0.1:0");
    let (server, _) = listen("127.0.0.1:0");
    let to = Source::Inet(to);
    let replies = (0..6).map(|index| Message { to: Some(&to), ..connected(batch.slot(index).payload) });
    all_sent(&Sender::new().send(endpoint(&server), replies), 6, 21);
    for n in 0..3 {
        assert_eq!(received(&client).0, [n; 3]);
        assert_eq!(received(&client).0, [n; 4]);
    }
}

#[test]
fn a_port_that_nobody_has_is_told_once_and_the_socket_goes_on() {
    // An address of its own, so that no other test takes the port.
    let (closed, addr) = plain("127.0.0.9:0");
    drop(closed);
    let flow = connect_udp(addr, Equipment::Lean).unwrap();
    let (mut batch, mut sender) = (Batch::default(), Sender::new());
    all_sent(&sender.send(endpoint(&flow), [connected(b"lost")]), 1, 4);
    wait(flow.as_fd());
    let error = batch.receive(endpoint(&flow)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(batch.receive(endpoint(&flow)).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    // What sending is told of the past does not cost the present.
    all_sent(&sender.send(endpoint(&flow), [connected(b"lost")]), 1, 4);
    wait(flow.as_fd());
    let backend = UdpSocket::bind(addr).unwrap();
    let sent = sender.send(endpoint(&flow), [connected(b"comes")]);
    assert_eq!(sent, Sent { datagrams: 1, bytes: 5, failed: Vec::new(), pending: Some(SendFault::Refused) });
    assert_eq!(received(&backend).0, b"comes");
}

#[test]
fn one_destination_that_fails_does_not_cost_the_others() {
    for (bind, fails) in [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:0", "[::1]:9"), ("[::]:0", "[::1]:0")] {
        let (server, _) = listen(bind);
        let (client, to) = plain("127.0.0.1:0");
        let (good, bad) = (Source::Inet(to), Source::Inet(fails.parse().unwrap()));
        let payloads: Vec<Vec<u8>> = (0..6).map(|n| payload(n, 10 * (n as usize + 1))).collect();
        let messages = payloads
            .iter()
            .enumerate()
            .map(|(n, payload)| Message { to: Some(if n % 3 == 1 { &bad } else { &good }), ..connected(payload) });
        let sent = Sender::new().send(endpoint(&server), messages);
        let failure = |message, bytes| Failure { message, datagrams: 1, bytes, fault: SendFault::Other };
        assert_eq!(sent.failed, [failure(1, 20), failure(4, 50)], "{fails} on {bind}");
        assert_eq!((sent.datagrams, sent.bytes), (4, 140));
        for n in [0, 2, 3, 5] {
            assert!(received(&client).0 == payloads[n]);
        }
    }
}

#[test]
fn a_datagram_that_is_too_long_fails_alone() {
    let (backend, addr) = plain("127.0.0.1:0");
    let flow = connect_udp(addr, Equipment::Lean).unwrap();
    let sent = Sender::new().send(endpoint(&flow), [connected(&[1; 65_508]), connected(b"short")]);
    assert_eq!(sent.failed, [Failure { message: 0, datagrams: 1, bytes: 65_508, fault: SendFault::TooBig }]);
    assert_eq!((sent.datagrams, sent.pending), (1, None));
    assert_eq!(received(&backend).0, b"short");
}

#[test]
fn trains_that_the_kernel_refuses_go_singly_and_none_is_lost() {
    // Of UDP-Lite the kernel knows no trains: it refuses them as for a network card that cannot help (EIO).
    let lite = Some(Protocol::from(136));
    let Ok(backend) = Socket::new(Domain::IPV4, Type::DGRAM, lite) else {
        // Then this kernel has none.
        return;
    };
    backend.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    backend.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let flow = Socket::new(Domain::IPV4, Type::DGRAM, lite).unwrap();
    flow.connect(&backend.local_addr().unwrap()).unwrap();
    let (backend, flow) = (UdpSocket::from(backend), UdpSocket::from(flow));
    let mut sender = Sender::new();
    for seed in 0..3 {
        let train = payload(seed, 1000);
        let messages = [Message { header: b"head", segment: 300, ..connected(&train) }, connected(&train[..500])];
        all_sent(&sender.send(endpoint(&flow), messages), 5, 1500);
        for datagram in train.chunks(300).chain([&train[..500]]) {
            let (got, _) = received(&backend);
            assert!(got == [b"head", datagram].concat() || got == datagram);
        }
    }
}

#[test]
fn unix_datagrams_go_both_ways_and_an_unnamed_client_gets_no_reply() {
    let dir = std::env::temp_dir().join(format!("dislocate-datagrams-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let [server_path, client_path] = ["server", "client"].map(|name| dir.join(name));
    let server = UnixDatagram::bind(&server_path).unwrap();
    let named = UnixDatagram::bind(&client_path).unwrap();
    let clients = [connect_datagram(&server_path).unwrap(), named, UnixDatagram::unbound().unwrap()];
    for (n, client) in clients.iter().enumerate() {
        client.connect(&server_path).unwrap();
        client.send(&[n as u8; 50]).unwrap();
    }
    clients[2].send(&[]).unwrap();
    clients[2].send(&[9; 101]).unwrap();
    let mut batch = Batch::new(8, 100);
    let endpoint = Endpoint::new(server.as_fd(), Family::Unix);
    assert_eq!(batch.receive(endpoint).unwrap(), 0..5);
    assert_eq!(batch.receive(endpoint).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(matches!(batch.slot(0).source, Source::Unix(name) if name.abstract_name().is_some()));
    assert!(matches!(batch.slot(1).source, Source::Unix(name) if name.path_bytes().is_some()));
    assert_eq!(batch.slot(2).source, &Source::Unnamed);
    assert_eq!((batch.slot(3).payload.len(), batch.slot(3).count()), (0, 1));
    assert_eq!((batch.slot(4).payload.len(), batch.slot(4).truncated), (100, true));

    let replies = (0..3).map(|index| {
        let slot = batch.slot(index);
        Message { header: b"to ", segment: 25, to: Some(slot.source), ..connected(slot.payload) }
    });
    let sent = Sender::new().send(endpoint, replies);
    assert_eq!((sent.datagrams, sent.bytes), (4, 100));
    assert!(sent.failed.iter().all(|failure| failure.message == 2 && failure.fault == SendFault::Unreachable));
    for (n, client) in clients.iter().enumerate().take(2) {
        for _ in 0..2 {
            let mut buffer = [0; 100];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [b"to ".as_slice(), &[n as u8; 25]].concat());
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_full_queue_drops_and_does_not_block() {
    let (_backend, flow) = UnixDatagram::pair().unwrap();
    let endpoint = Endpoint::new(flow.as_fd(), Family::Unix);
    let sent = Sender::new().send(endpoint, std::iter::repeat_n(connected(&[1; 1000]), 10_000));
    assert!(sent.datagrams > 0 && !sent.failed.is_empty());
    assert_eq!(sent.datagrams + sent.failed.len() as u64, 10_000);
    assert!(sent.failed.iter().all(|failure| failure.fault == SendFault::Full));
}
