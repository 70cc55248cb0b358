//! Bytes go through unchanged, in both directions, at every size, over every kind of address.

use std::thread;

use crate::harness::{Acceptor, Backend, Config, Conn, Digest, End, TempDir, loopback};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Around what fits a segment, a buffer and a pipe.
const SIZES: [u64; 6] = [1, KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB];

const BOTH_WAYS_TO_RELAY: [&str; 2] = ["splice = true", "splice = false"];

#[test]
fn uploads_of_every_size_arrive_unchanged() {
    for relay in BOTH_WAYS_TO_RELAY {
        let backend = Backend::hash_sink();
        let proxy = Config::to([backend.address()]).listener(relay).start();
        for size in SIZES {
            upload(&proxy.main(), size);
        }
        proxy.finish();
    }
}

#[test]
fn downloads_of_every_size_arrive_unchanged() {
    for relay in BOTH_WAYS_TO_RELAY {
        for size in SIZES {
            let backend = Backend::source(size);
            let proxy = Config::to([backend.address()]).listener(relay).start();
            download(&proxy.main(), size);
            proxy.finish();
        }
    }
}

#[test]
fn a_hundred_mebibytes_arrive_unchanged_with_splice_and_without() {
    for relay in BOTH_WAYS_TO_RELAY {
        let (sink, source) = (Backend::hash_sink(), Backend::source(100 * MIB));
        for (backend, transfer) in [(&sink, upload as fn(&str, u64)), (&source, download)] {
            let proxy = Config::to([backend.address()]).listener(relay).start();
            transfer(&proxy.main(), 100 * MIB);
            proxy.finish();
        }
    }
}

#[test]
fn a_gibibyte_arrives_unchanged_at_the_backend() {
    let backend = Backend::hash_sink();
    let proxy = Config::to([backend.address()]).start();
    upload(&proxy.main(), GIB);
    proxy.finish();
}

#[test]
fn a_gibibyte_arrives_unchanged_at_the_client() {
    let backend = Backend::source(GIB);
    let proxy = Config::to([backend.address()]).start();
    download(&proxy.main(), GIB);
    proxy.finish();
}

#[test]
fn both_directions_run_at_the_same_time() {
    for relay in BOTH_WAYS_TO_RELAY {
        let backend = Backend::duplex(32 * MIB);
        let proxy = Config::to([backend.address()]).listener(relay).start();
        exchange(&proxy.main(), 32 * MIB);
        proxy.finish();
    }
}

#[test]
fn many_sessions_at_once_keep_their_bytes_apart() {
    for relay in BOTH_WAYS_TO_RELAY {
        let backend = Backend::duplex(MIB);
        let proxy = Config::to([backend.address()]).listener(relay).start();
        let address = proxy.main();
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| exchange(&address, MIB));
            }
        });
        proxy.finish();
    }
}

#[test]
fn the_record_of_a_session_counts_what_went_through() {
    // given
    for (relay, spliced) in [("splice = true", true), ("splice = false", false)] {
        let backend = Backend::source(8 * MIB);
        let proxy = Config::to([backend.address()]).listener(relay).start();

        // when
        let mut client = Conn::open(proxy.main());
        client.send("four");
        client.finish_sending();
        client.rest();

        // then
        let record = proxy.record("closed");
        assert_eq!(record["received_bytes"], 4, "the record counts what the client sent");
        assert_eq!(record["sent_bytes"], 8 * MIB, "the record counts what the client got");
        assert_eq!(record["client"], client.local().to_string(), "the record names the client");
        assert_eq!(record["local"], proxy.main(), "the record names where the client arrived");
        assert_eq!(record["backend"], backend.address(), "the record names the backend");
        assert_eq!((&record["listener"], &record["service"]), (&"main".into(), &"app".into()));
        assert_eq!((&record["zone"], &record["attempts"]), (&"local".into(), &1.into()));
        assert_eq!(record["spliced_bytes"].as_u64() > Some(0), spliced, "bulk is spliced unless that is switched off");
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("sent_bytes_total{side=\"client\"}"), (8 * MIB) as f64);
        assert_eq!(metrics.sum("received_bytes_total{side=\"backend\"}"), (8 * MIB) as f64);
        assert_eq!(metrics.sum("received_bytes_total{side=\"client\"}"), 4.0);
        assert_eq!(metrics.sum("sent_bytes_total{side=\"backend\"}"), 4.0);
        proxy.finish();
    }
}

#[test]
fn a_unix_listener_stands_before_a_unix_backend() {
    // given
    let folder = TempDir::new();
    let path = |name: &str| format!("unix:{}", folder.join(name).display());
    let sink = Backend::hash_sink_on(&path("sink.sock"));
    let source = Backend::source_on(&path("source.sock"), 2 * MIB);

    for relay in BOTH_WAYS_TO_RELAY {
        for (backend, transfer) in [(&sink, upload as fn(&str, u64)), (&source, download)] {
            // when
            let config = Config::to([backend.address()]).listen(&path("in.sock")).listener("protocol = \"stream\"");
            let proxy = config.listener(relay).start();

            // then
            assert_eq!(proxy.main(), path("in.sock"), "a unix listener is told by its path");
            transfer(&proxy.main(), 2 * MIB);
            proxy.finish();
        }
    }
}

#[test]
fn tcp_and_unix_meet_in_either_order() {
    let folder = TempDir::new();
    let path = |name: &str| format!("unix:{}", folder.join(name).display());
    let (inside, outside) = (Backend::hash_sink_on(&path("backend.sock")), Backend::hash_sink());
    let to_unix = Config::to([inside.address()]).start();
    let from_unix = Config::to([outside.address()]).listen(&path("in.sock")).listener("protocol = \"stream\"").start();
    for proxy in [to_unix, from_unix] {
        upload(&proxy.main(), 2 * MIB);
        proxy.finish();
    }
}

#[test]
fn ipv6_reaches_ipv6() {
    let backend = Backend::hash_sink_on("[::1]:0");
    let proxy = Config::to([backend.address()]).listen("[::1]:0").start();
    assert!(proxy.main().starts_with("[::1]:"), "an IPv6 address is told in brackets");
    upload(&proxy.main(), MIB);
    proxy.finish();
}

#[test]
fn the_ipv6_wildcard_serves_both_families() {
    let backend = Backend::hash_sink();
    let proxy = Config::to([backend.address()]).listen("[::]:0").start();
    let port = proxy.main().rsplit_once(':').unwrap().1.to_owned();
    upload(&format!("[::1]:{port}"), KIB);
    upload(&format!("127.0.0.1:{port}"), KIB);
    proxy.finish();
}

#[test]
fn a_range_of_ports_is_served_at_every_port() {
    // The host is nobody else's, so the ports are free.
    let host = loopback();
    let backend = Backend::hash_sink();
    let proxy = Config::to([backend.address()]).listen(&format!("{host}:7000-7004")).start();
    let expected = (7000..=7004).map(|port| format!("{host}:{port}")).collect::<Vec<_>>();
    assert_eq!(proxy.addresses("main"), expected, "every port of the range is told");
    for address in expected {
        upload(&address, KIB);
    }
    proxy.finish();
}

#[test]
fn a_list_of_addresses_is_served_at_every_address() {
    let backend = Backend::hash_sink();
    let listen = format!("[\"{}:0\", \"{}:0\", \"[::1]:0\"]", loopback(), loopback());
    let proxy = Config::to([backend.address()]).listen(&listen).start();
    assert_eq!(proxy.addresses("main").len(), 3, "every address of the list is told");
    for address in proxy.addresses("main") {
        upload(&address, KIB);
    }
    assert_eq!(proxy.addresses_now("main"), proxy.addresses("main"), "the admin interface tells the same addresses");
    proxy.finish();
}

/// Sends, half-closes, and expects the backend's hash in return.
fn upload(address: &str, length: u64) {
    let mut client = Conn::open(address);
    client.send_pattern(length);
    client.finish_sending();
    assert_eq!(client.text(), Digest::of_pattern(length).line(), "an upload of {length} bytes arrives unchanged");
}

/// Receives to the end, which is FIN.
fn download(address: &str, length: u64) {
    let mut client = Conn::open(address);
    let received = client.rest();
    assert_eq!(received, (Digest::of_pattern(length), End::Fin), "a download of {length} bytes arrives unchanged");
}

/// Both at once, against a duplex backend: its pattern, then the hash of ours.
fn exchange(address: &str, length: u64) {
    let mut client = Conn::open(address);
    let mut sender = client.clone();
    let sending = thread::spawn(move || {
        sender.send_pattern(length);
        sender.finish_sending();
    });
    let received = Digest::of_next(&mut client, length);
    assert_eq!(received, Digest::of_pattern(length), "the direction to the client is unchanged");
    assert_eq!(client.text(), Digest::of_pattern(length).line(), "the direction to the backend is unchanged");
    sending.join().unwrap();
}

#[test]
fn a_session_that_goes_back_to_small_messages_gives_its_pipe_back() {
    // given
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();
    let (mut client, mut at_backend) = backend.session(&proxy.main());

    // when: bulk, then a conversation
    const LENGTH: u64 = 32 * MIB;
    let sender = thread::spawn(move || {
        at_backend.send_pattern(LENGTH);
        at_backend
    });
    assert_eq!(Digest::of_next(&mut client, LENGTH), Digest::of_pattern(LENGTH), "the bulk arrives unchanged");
    let mut at_backend = sender.join().unwrap();
    assert!(proxy.metrics().sum("spliced_bytes_total") > 0.0 || proxy.metrics().sum("pipes") > 0.0, "bulk is spliced");
    for _ in 0..20 {
        at_backend.send("answer");
        assert_eq!(client.receive(6), b"answer");
        client.send("question");
        assert_eq!(at_backend.receive(8), b"question");
    }

    // then
    let busy = proxy.metrics().sum("pipes{state=\"busy\"}");
    assert_eq!(busy, 0.0, "an idle session holds no pipe");
    drop((client, at_backend));
    proxy.finish();
}
