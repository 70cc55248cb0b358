//! What networks do to datagrams between the program and its peers: small packets, trains of segments, marks of congestion.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, poll};

use crate::harness::{
    Config, DatagramBackend, Datagrams, LONG, Link, Netns, Options, Proxy, eventually, loopback, needs_root,
    needs_tools, pattern,
};

#[test]
fn datagrams_larger_than_the_packets_of_a_path_cross_it() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    for (clients, backends) in [(1_280, 1_500), (1_500, 1_280), (1_280, 1_280)] {
        // given
        let way = Way::new(clients, backends);
        let client = way.client();

        for size in [1_200, 1_253, 1_400, 1_472, 9_000, 40_000, 65_507] {
            // then
            client.echoes(pattern(size));
        }
        let metrics = way.proxy.metrics();
        assert_eq!(metrics.sum("udp_dropped_datagrams_total"), 0.0, "packets of {clients} and {backends} bytes");
        way.proxy.finish();
    }
}

#[test]
fn trains_of_segments_cross_a_path_of_small_packets() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    for (clients, backends) in [(1_500, 1_280), (1_500, 1_500), (65_535, 1_280)] {
        // given
        let way = Way::new(clients, backends);
        let client = way.client();
        client.echoes("the flow is there");
        let sender = Marked::from(&client);

        for (segment, count) in [(1_400, 16), (1_200, 40), (1_400, 1), (100, 64), (1_240, 20)] {
            // when: the last one is shorter, as it may be
            let train = numbered_train(segment, count);
            sender.send(&train, Some(segment), None);

            // then: whatever way the train took, each of its segments is answered as it was
            for sent in train.chunks(segment) {
                let received = client.receive();
                assert!(received == sent, "a segment of {segment} bytes crosses unchanged and in its turn");
            }
        }
        assert_eq!(way.proxy.metrics().sum("udp_dropped_datagrams_total"), 0.0);
        assert_eq!(way.backend.count(), 1 + 16 + 40 + 1 + 64 + 20);
        way.proxy.finish();
    }
}

#[test]
fn a_train_of_large_segments_crosses_loopback_both_ways() {
    // given
    let backend = Marked::bound();
    let proxy = Config::datagrams([backend.address().as_str()], LONG).start();
    let client = Datagrams::open(proxy.main());
    let sender = Marked::from(&client);
    let train = numbered_train(1_200, 50);

    for _ in 0..20 {
        // when
        sender.send(&train, Some(1_200), None);
        let (mut arrived, mut from) = (Vec::new(), None);
        while arrived.len() < train.len() {
            let piece = backend.receive();
            arrived.extend(piece.bytes);
            from = Some(piece.from);
        }
        backend.send_to(from.unwrap(), &train, Some(1_200), None);

        // then
        assert!(arrived == train, "a train arrives whole and in order");
        for sent in train.chunks(1_200) {
            assert!(client.receive() == sent, "a train of replies arrives whole and in order");
        }
    }
    proxy.finish();
}

#[test]
fn marks_of_congestion_pass_both_ways() {
    for (listen, host) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]")] {
        // given
        let backend = if host == "[::1]" { Marked::bound_to("[::1]:0") } else { Marked::bound() };
        let proxy = Config::datagrams([backend.address().as_str()], LONG).listen(listen).start();
        let port = proxy.main().rsplit_once(':').unwrap().1.to_owned();
        let client = Marked::connected(&format!("{host}:{port}"));

        for mark in [None, Some(EcnCodepoint::Ect0), Some(EcnCodepoint::Ect1), Some(EcnCodepoint::Ce), None] {
            // when
            client.send(b"question", None, mark);
            let question = backend.receive();
            backend.send_to(question.from, b"answer", None, mark);
            let answer = client.receive();

            // then
            assert_eq!((question.mark, &question.bytes[..]), (mark, &b"question"[..]), "towards a backend");
            assert_eq!((answer.mark, &answer.bytes[..]), (mark, &b"answer"[..]), "towards a client of {listen}");
        }
        proxy.finish();
    }
}

#[test]
fn a_mark_in_the_middle_of_a_train_stays_with_its_segment() {
    let backend = Marked::bound();
    let proxy = Config::datagrams([backend.address().as_str()], LONG).start();
    let client = Marked::connected(&proxy.main());
    let marks = |number: u8| if number % 5 == 3 { EcnCodepoint::Ce } else { EcnCodepoint::Ect0 };
    for number in 0..40 {
        client.send(&[number; 300], None, Some(marks(number)));
    }
    let mut next = 0;
    while next < 40 {
        let piece = backend.receive();
        for segment in piece.bytes.chunks(piece.segment) {
            assert_eq!(segment, [next; 300]);
            assert_eq!(piece.mark, Some(marks(next)), "datagram {next} keeps its own mark");
            next += 1;
        }
    }
    proxy.finish();
}

/// Clients, the program and a backend, each in a namespace of its own, with a cable between neighbours.
struct Way {
    proxy: Proxy,
    backend: DatagramBackend,
    clients: Netns,
    _links: [Link; 2],
}

impl Way {
    /// With the most that a packet may carry between clients and the program, and between it and the backend.
    fn new(clients: u32, backends: u32) -> Way {
        let middle = Netns::new();
        let links = [Link::between(middle.clone(), Netns::new()), Link::between(middle.clone(), Netns::new())];
        links[0].set_mtu(clients);
        links[1].set_mtu(backends);
        let backend = links[1].far.enter(|| DatagramBackend::start_on("far", &format!("{}:0", links[1].far_address)));
        let config = Config::datagrams([backend.address()], LONG).listen(&format!("{}:4000", links[0].near_address));
        let options = Options { netns: Some(middle), ..Options::default() };
        let proxy = config.start_with(options);
        Way { proxy, backend, clients: links[0].far.clone(), _links: links }
    }

    fn client(&self) -> Datagrams {
        self.clients.enter(|| Datagrams::open(self.proxy.main()))
    }
}

/// A socket that sends and receives trains of segments and marks of congestion.
struct Marked {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// What one call received: segments of one peer with one mark.
struct Piece {
    bytes: Vec<u8>,
    segment: usize,
    mark: Option<EcnCodepoint>,
    from: SocketAddr,
}

impl Marked {
    fn new(socket: UdpSocket) -> Marked {
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
        Marked { socket, state }
    }

    fn bound() -> Marked {
        Marked::bound_to(&format!("{}:0", loopback()))
    }

    fn bound_to(address: &str) -> Marked {
        Marked::new(UdpSocket::bind(address).unwrap())
    }

    /// A socket of its own, bound so that it hears of one peer only.
    fn connected(address: &str) -> Marked {
        let Datagrams::Udp(socket) = Datagrams::open(address) else { panic!("{address} is an address of UDP") };
        Marked::new(socket)
    }

    /// The same socket, which goes on receiving one datagram at a time.
    fn from(client: &Datagrams) -> Sender<'_> {
        let Datagrams::Udp(socket) = client else { panic!("a client of UDP") };
        Sender { socket, target: socket.peer_addr().unwrap() }
    }

    fn address(&self) -> String {
        self.socket.local_addr().unwrap().to_string()
    }

    fn send(&self, bytes: &[u8], segment: Option<usize>, mark: Option<EcnCodepoint>) {
        self.send_to(self.socket.peer_addr().unwrap(), bytes, segment, mark);
    }

    fn send_to(&self, to: SocketAddr, bytes: &[u8], segment: Option<usize>, mark: Option<EcnCodepoint>) {
        let transmit = Transmit { destination: to, ecn: mark, contents: bytes, segment_size: segment, src_ip: None };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit).unwrap();
    }

    fn receive(&self) -> Piece {
        let mut buffer = vec![0; 1 << 16];
        let mut meta = [RecvMeta::default()];
        loop {
            let received = {
                let mut slices = [IoSliceMut::new(&mut buffer)];
                self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta)
            };
            match received {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut wanted = [PollFd::new(&self.socket, PollFlags::IN)];
                    let limit = Duration::from_secs(20).try_into().unwrap();
                    assert!(poll(&mut wanted, Some(&limit)).unwrap() > 0, "no datagram came");
                }
                Err(error) => panic!("receiving: {error}"),
            }
        }
        let [meta] = meta;
        buffer.truncate(meta.len);
        Piece { bytes: buffer, segment: meta.stride.max(1), mark: meta.ecn, from: meta.addr }
    }
}

/// Sends trains by a socket that somebody else receives by.
struct Sender<'a> {
    socket: &'a UdpSocket,
    target: SocketAddr,
}

impl Sender<'_> {
    fn send(&self, bytes: &[u8], segment: Option<usize>, mark: Option<EcnCodepoint>) {
        // Asking a copy of the socket what it can do would also ask for trains to be received whole.
        let state = UdpSocketState::new(UdpSockRef::from(&UdpSocket::bind("127.0.0.1:0").unwrap())).unwrap();
        let transmit =
            Transmit { destination: self.target, ecn: mark, contents: bytes, segment_size: segment, src_ip: None };
        eventually("a train is sent", || state.try_send(UdpSockRef::from(self.socket), &transmit).is_ok());
    }
}

/// Segments that say which one they are; the last is a byte shorter.
fn numbered_train(segment: usize, count: usize) -> Vec<u8> {
    let mut train: Vec<u8> = (0..count)
        .flat_map(|number| {
            let mut bytes = pattern(segment);
            bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
            bytes
        })
        .collect();
    train.pop();
    train
}
