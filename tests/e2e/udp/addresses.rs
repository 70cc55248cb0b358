//! Where datagrams are taken and where replies come from: wildcards, both families, ranges of ports, unix paths.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::{
    Config, DatagramBackend, Datagrams, LONG, TempDir, counts, eventually, loopback, pattern, who_serves,
};

#[test]
fn a_wildcard_replies_from_the_address_that_was_asked() {
    for (listen, hosts) in
        [("0.0.0.0:0", &["127.0.0.1", "127.0.0.2"][..]), ("[::]:0", &["127.0.0.1", "127.0.0.2", "[::1]"])]
    {
        // given
        let backend = DatagramBackend::start("backend");
        let proxy = Config::datagrams([backend.address()], LONG).listen(listen).start();
        let port = port_of(&proxy.main());

        for host in hosts {
            // when: a connected socket takes nothing from another address
            let client = Datagrams::open(format!("{host}:{port}"));

            // then
            client.echoes(format!("through {listen} at {host}"));
            client.echoes(pattern(20_000));
        }
        proxy.finish();
    }
}

#[test]
fn one_client_at_two_addresses_of_a_wildcard_has_two_flows() {
    // given: a socket that is connected to nobody
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], LONG).listen("0.0.0.0:0").start();
    let port = port_of(&proxy.main());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let targets = [2, 3, 2].map(|last| SocketAddr::from(([127, 0, 0, last], port)));

    for target in targets {
        // when
        client.send_to(target.to_string().as_bytes(), target).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = client.recv_from(&mut buffer).unwrap();

        // then
        assert_eq!(from, target, "a reply comes from where the client sent to");
        assert_eq!(buffer[..length], *target.to_string().as_bytes());
    }
    assert_eq!(proxy.metrics().sum("udp_flows_created_total"), 2.0, "each address that was asked is a flow");
    assert_eq!(counts(backend.arrived().into_iter().map(|it| it.from)).len(), 2);
    proxy.finish();
}

#[test]
fn clients_of_either_family_reach_backends_of_either_family() {
    let backends = [DatagramBackend::start_on("six", "[::1]:0"), DatagramBackend::start("four")];
    for backend in &backends {
        let proxy = Config::datagrams([backend.address()], "1s").listen("[::]:0").start();
        let port = port_of(&proxy.main());
        for client in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")].map(Datagrams::open) {
            assert_eq!(who_serves(&client).by, backend.name());
            let record = || {
                let address = client.local().to_string();
                proxy.sessions().into_iter().any(|record| record["client"] == address.as_str())
            };
            eventually("a client is told of in the family it speaks", record);
        }
        proxy.finish();
    }
}

#[test]
fn every_port_of_a_range_replies_from_itself() {
    let backend = DatagramBackend::start("backend");
    let listen = format!("{}:5000-5003", loopback());
    let proxy = Config::datagrams([backend.address()], LONG).listen(&listen).start();
    let addresses = proxy.addresses("main");
    assert_eq!(addresses.len(), 4);
    let source = SocketAddr::from((loopback(), 40_000));
    for address in &addresses {
        // One after the other from one port: only the port that they ask tells these flows apart.
        Datagrams::open_bound(source, address).echoes(format!("to {address}"));
    }
    assert_eq!(proxy.metrics().sum("udp_flows_created_total"), 4.0);
    proxy.finish();
}

#[test]
fn a_unix_socket_takes_datagrams_for_unix_and_udp_backends() {
    let folder = TempDir::new();
    let backends = [
        DatagramBackend::start_on("unix", &format!("unix:{}", folder.join("backend").display())),
        DatagramBackend::start("udp"),
    ];
    for (number, backend) in backends.iter().enumerate() {
        // given
        let path = folder.join(&format!("front{number}"));
        let proxy = Config::unix_datagrams(&path, [backend.address()], "1s").start();
        let client = Datagrams::open(proxy.main());
        let other = Datagrams::open(proxy.main());

        // then
        for size in [0, 1, 1_200, 9_000, 60_000] {
            client.echoes(pattern(size));
        }
        let served = [&client, &other].map(who_serves);
        assert_ne!(served[0].from, served[1].from, "each client is a flow");
        assert_eq!(who_serves(&client), served[0]);
        assert_eq!(proxy.metrics().sum("udp_flows_created_total"), 2.0);
        assert_eq!(proxy.record("idle_timeout")["protocol"], "datagram");
        proxy.finish();
    }
}

#[test]
fn udp_clients_reach_a_unix_backend() {
    let folder = TempDir::new();
    let backend = DatagramBackend::start_on("unix", &format!("unix:{}", folder.join("backend").display()));
    let proxy = Config::datagrams([backend.address()], LONG).start();
    let clients = [(); 2].map(|()| Datagrams::open(proxy.main()));
    let served = clients.each_ref().map(who_serves);
    assert_ne!(served[0].from, served[1].from, "each client is a flow");
    clients[0].echoes(pattern(30_000));
    assert_eq!(who_serves(&clients[0]), served[0]);
    proxy.finish();
}

#[test]
fn a_unix_client_without_a_name_is_heard_though_nobody_can_reply_to_it() {
    let folder = TempDir::new();
    let backend = DatagramBackend::start("backend");
    let proxy = Config::unix_datagrams(&folder.join("front"), [backend.address()], LONG).start();
    let nameless = UnixDatagram::unbound().unwrap();
    nameless.connect(folder.join("front")).unwrap();
    for _ in 0..10 {
        nameless.send(b"syslog line").unwrap();
    }
    eventually("what a nameless client sends arrives", || backend.count() == 10);
    Datagrams::open(proxy.main()).echoes("others are served");
    proxy.finish();
}

#[test]
fn a_large_datagram_over_ipv6_passes() {
    let backend = DatagramBackend::start_on("six", "[::1]:0");
    let proxy = Config::datagrams([backend.address()], LONG).listen("[::1]:0").start();
    let client = Datagrams::open(proxy.main());
    for size in [0, 1_232, 1_452, 9_000, 65_507] {
        client.echoes(pattern(size));
    }
    proxy.finish();
}

fn port_of(address: &str) -> u16 {
    let address: SocketAddr = address.parse().unwrap();
    assert!(matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified()) || address.is_ipv6());
    address.port()
}
