//! The PROXY header over datagrams: told to backends, and taken from proxies that are trusted.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use crate::harness::{Config, DatagramBackend, Datagrams, LARGEST, LONG, Proxy, eventually, loopback, pattern};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Length of a header with IPv4 addresses.
const HEADER: usize = 28;

#[test]
fn backends_are_told_the_client_by_the_first_datagram_or_by_every_one() {
    for (datagrams, told) in [("first", [true, false, false]), ("every", [true, true, true])] {
        // given
        let backend = DatagramBackend::start("backend");
        let config = Config::datagrams([backend.address()], LONG);
        let proxy = config.service(&format!("send_proxy = \"v2\"\nsend_proxy_datagrams = \"{datagrams}\"")).start();
        let client = Datagrams::open(proxy.main());
        let expected = header(v4(client.local()), proxy.main().parse().unwrap());

        for told in told {
            // when
            let seen = client.ask("payload");

            // then
            let expected = if told { [&expected[..], b"payload"].concat() } else { b"payload".to_vec() };
            assert_eq!(seen, expected, "with a header before {datagrams}");
        }
        client.send("");
        let expected = if datagrams == "every" { expected.to_vec() } else { Vec::new() };
        assert_eq!(client.receive(), expected, "an empty datagram is a datagram too");
        proxy.finish();
    }
}

#[test]
fn what_does_not_fit_with_its_header_is_dropped_and_counted() {
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], LONG);
    let proxy = config.service("send_proxy = \"v2\"\nsend_proxy_datagrams = \"every\"").start();
    let client = Datagrams::open(proxy.main());
    client.send(pattern(LARGEST));
    assert_eq!(client.ask(pattern(LARGEST - HEADER)).len(), LARGEST, "the flow goes on");
    assert_eq!(backend.count(), 1);
    assert_eq!(proxy.metrics().sum("udp_dropped_datagrams_total{reason=\"too_big\"}"), 1.0);
    proxy.finish();
}

#[test]
fn clients_are_believed_that_a_trusted_proxy_names() {
    // given
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], "1s").listener("accept_proxy = [\"127.0.0.2/32\"]");
    let proxy = config.service("send_proxy = \"v2\"").start();
    let target: SocketAddrV4 = "198.51.100.1:53".parse().unwrap();

    for number in 1..=3_u8 {
        // when: a socket for each client, as proxies have them
        let upstream = Datagrams::open_from([127, 0, 0, 2], &proxy.main());
        let client = SocketAddrV4::new([192, 0, 2, number].into(), 1_000);
        let answers = [(); 2].map(|()| upstream.ask([&header(client, target)[..], b"question"].concat()));

        // then
        let own: SocketAddrV4 = proxy.main().parse().unwrap();
        assert_eq!(answers[0], [&header(client, own)[..], b"question"].concat(), "the client is told on");
        assert_eq!(answers[1], b"question", "by the first datagram of each flow");
        let told = || proxy.sessions().into_iter().any(|record| record["client"] == client.to_string());
        eventually("the record names the client", told);
    }
    assert_eq!(proxy.metrics().sum("udp_flows_created_total"), 3.0, "each client is a flow");

    // when: the proxy speaks for itself
    let upstream = Datagrams::open_from([127, 0, 0, 2], &proxy.main());
    let local = [&SIGNATURE[..], &[0x20, 0, 0, 0], b"check"].concat();

    // then
    let answer = upstream.ask(local);
    let own = header(v4(upstream.local()), proxy.main().parse().unwrap());
    assert_eq!(answer, [&own[..], b"check"].concat());
    proxy.finish();
}

#[test]
fn garbage_from_a_trusted_proxy_is_dropped_and_counted() {
    // given
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], LONG).listener("accept_proxy = [\"127.0.0.2/32\"]");
    let proxy = config.start();
    let upstream = Datagrams::open_from([127, 0, 0, 2], &proxy.main());
    let good = header("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:53".parse().unwrap());
    let changed = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        bytes
    };
    let bad = [
        Vec::new(),
        b"no header at all".to_vec(),
        b"PROXY UDP4 192.0.2.1 198.51.100.1 1000 53\r\nquestion".to_vec(),
        good[..HEADER - 1].to_vec(),
        SIGNATURE.to_vec(),
        changed(0, b'x'),
        changed(12, 0x31),
        changed(12, 0x2f),
        changed(13, 0x42),
        changed(14, 0xff),
        changed(15, 4),
    ];

    // when
    bad.iter().for_each(|bytes| upstream.send(bytes));

    // then
    assert_eq!(upstream.ask([&good[..], b"question"].concat()), b"question", "what is right is served");
    assert_eq!(backend.count(), 1, "nothing else was forwarded");
    let dropped = || proxy.metrics().sum("udp_dropped_datagrams_total{reason=\"proxy_header\"}");
    eventually("what is wrong is counted", || dropped() == bad.len() as f64);
    assert_eq!(upstream.receive_within(Duration::from_millis(100)), None, "garbage is not answered");
    proxy.finish();
}

#[test]
fn strangers_cannot_claim_to_be_somebody_else() {
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], "1s").listener("accept_proxy = [\"127.0.0.2/32\"]");
    let proxy = config.start();
    let stranger = Datagrams::open_from([127, 0, 0, 3], &proxy.main());
    let claim = header("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:53".parse().unwrap());
    stranger.send([&claim[..], b"question"].concat());
    stranger.echoes("a plain question");
    assert_eq!(backend.count(), 1, "a header from a stranger is not forwarded");
    assert_eq!(proxy.metrics().sum("udp_dropped_datagrams_total{reason=\"proxy_header\"}"), 1.0);
    let honest = stranger.local().to_string();
    eventually("the record names the stranger", || proxy.sessions().iter().any(|record| record["client"] == *honest));
    proxy.finish();
}

#[test]
fn a_header_passes_through_two_of_us() {
    // given
    let backend = DatagramBackend::start("backend");
    let inner = Config::datagrams([backend.address()], LONG).listener("accept_proxy = [\"127.0.0.0/8\"]");
    let inner: Proxy = inner.service("send_proxy = \"v2\"").listen(&format!("{}:4000", loopback())).start();
    let outer = Config::datagrams([inner.main().as_str()], LONG);
    let outer = outer.service("send_proxy = \"v2\"\nsend_proxy_datagrams = \"every\"").start();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    // when
    client.send_to(b"question", outer.main()).unwrap();
    let mut buffer = [0; 100];
    let length = client.recv(&mut buffer).unwrap();

    // then
    let expected = header(v4(client.local_addr().unwrap()), inner.main().parse().unwrap());
    assert_eq!(buffer[..length], [&expected[..], b"question"].concat(), "the last backend is told the first client");
    outer.finish();
    inner.finish();
}

/// Version 2, PROXY, datagrams over IPv4.
fn header(client: SocketAddrV4, local: SocketAddrV4) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..12].copy_from_slice(&SIGNATURE);
    header[12..16].copy_from_slice(&[0x21, 0x12, 0, 12]);
    header[16..20].copy_from_slice(&client.ip().octets());
    header[20..24].copy_from_slice(&local.ip().octets());
    header[24..26].copy_from_slice(&client.port().to_be_bytes());
    header[26..28].copy_from_slice(&local.port().to_be_bytes());
    header
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("{address} is of IPv6"),
    }
}
