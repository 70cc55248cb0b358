//! What good texts mean.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use balance::{Address, Policy, Zone, Zones};
use proxy::Bind;

use super::super::{AdminAddress, DEFAULT, LogTarget, Probe, limits};
use super::{BACKENDS, LISTEN, good, with};

fn inet(text: &str) -> Bind {
    Bind::Inet(text.parse::<SocketAddr>().unwrap())
}

#[test]
fn a_key_that_is_left_out_has_its_default() {
    let config = good(&with(LISTEN, BACKENDS));

    let (node, listener, service) = (&config.node, &config.listeners[0], &config.services[0]);
    assert!(!node.name.is_empty(), "a node has no name");
    assert_eq!(node.zone, Zone::default());
    assert!(node.workers >= 1, "a node has no threads");
    assert_eq!((node.max_connections, node.drain_timeout), (None, limits::DRAIN_TIMEOUT.default));
    assert_eq!(node.log, LogTarget::Stderr);
    assert_eq!(config.admin.listen, AdminAddress::Tcp(limits::ADMIN_LISTEN.parse().unwrap()));
    assert_eq!(listener.idle_timeout, Duration::from_secs(3600));
    assert_eq!(listener.half_close_timeout, Duration::from_secs(30));
    assert_eq!(listener.keepalive, Duration::from_secs(60));
    assert_eq!(listener.user_timeout, Duration::from_secs(30));
    assert_eq!(listener.connect_timeout, Duration::from_secs(3));
    assert_eq!((listener.retries, listener.max_connections, listener.max_connections_per_source), (2, 10_000, 0));
    assert!(listener.splice);
    assert_eq!((service.balance, service.panic_threshold), (Policy::Latency, 50));
    assert_eq!((service.zones, service.zone_margin), (Zones::Latency, Duration::from_millis(1)));
    assert_eq!((service.max_connections_per_backend, service.queue_length), (0, 1_024));
    assert_eq!(service.queue_timeout, Duration::from_secs(5));
    let (backend, health) = (&service.backends[0], &service.health);
    assert_eq!((backend.weight, &backend.zone, backend.priority), (1, &node.zone, 0));
    assert_eq!((&health.probe, health.rise, health.fall), (&Probe::Tcp { port: None }, 2, 3));
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(5), Duration::from_secs(1)));
}

#[test]
fn the_default_file_spells_out_what_holds_without_it() {
    let spelt = good(DEFAULT);
    let bare: String = DEFAULT
        .lines()
        .filter(|line| {
            line.starts_with('[') || ["name", "listen", "service", "address"].iter().any(|k| line.starts_with(k))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let bare = good(&bare);

    assert_eq!(spelt.node, bare.node);
    assert_eq!(spelt.admin, bare.admin);
    assert_eq!(spelt.listeners, bare.listeners);
    assert_eq!(spelt.services, bare.services);
}

#[test]
fn every_value_is_taken_as_it_is_written() {
    let text = r#"
        node = { name = "edge-1", zone = "fra/a", workers = 3, max_connections = 10_000, drain_timeout = "0s", log = "/var/log/x" }
        admin.listen = "unix:/run/admin.sock"
        [[listener]]
        name = "web"
        listen = ["[::]:80", "unix:/run/web.sock"]
        service = "web"
        idle_timeout = "250ms"
        retries = 0x2
        splice = false
        [[service]]
        name = "web"
        balance = "maglev"
        panic_threshold = 0
        zones = "strict"
        zone_margin = "5ms"
        max_connections_per_backend = 3
        queue_timeout = "0s"
        queue_length = 7
        backends = ["10.0.0.1:80", { address = "unix:/run/b.sock", weight = 0, zone = "ams", backup = true }]
        health = { kind = "http", path = "/up", host = "web", expect = [204, "300-302"], interval = "200ms" }
    "#;
    let config = good(text);

    let (node, listener, service) = (&config.node, &config.listeners[0], &config.services[0]);
    assert_eq!((node.name.as_str(), node.zone.as_str(), node.workers), ("edge-1", "fra/a", 3));
    assert_eq!(node.max_connections.map(|n| n.get()), Some(10_000));
    assert_eq!((node.drain_timeout, &node.log), (Duration::ZERO, &LogTarget::File("/var/log/x".into())));
    assert_eq!(config.admin.listen, AdminAddress::Unix("/run/admin.sock".into()));
    assert_eq!(listener.binds, [inet("[::]:80"), Bind::Unix(PathBuf::from("/run/web.sock"))]);
    assert_eq!((listener.idle_timeout, listener.retries, listener.splice), (Duration::from_millis(250), 2, false));
    assert_eq!((service.balance, service.panic_threshold), (Policy::Maglev, 0));
    assert_eq!((service.zones, service.zone_margin), (Zones::Strict, Duration::from_millis(5)));
    assert_eq!((service.max_connections_per_backend, service.queue_length), (3, 7));
    assert_eq!(service.queue_timeout, Duration::ZERO);
    let [first, second] = &service.backends[..] else { panic!("two backends are not two") };
    assert_eq!((&first.address, first.zone.as_str()), (&"10.0.0.1:80".parse::<Address>().unwrap(), "fra/a"));
    assert_eq!((second.weight, second.zone.as_str(), second.priority), (0, "ams", 1));
    let expect = vec![204..=204, 300..=302];
    assert_eq!(service.health.probe, Probe::Http { port: None, path: "/up".into(), host: Some("web".into()), expect });
    assert_eq!(service.health.timeout, Duration::from_millis(200), "the default timeout is longer than the interval");
}

#[test]
fn a_range_is_one_address_for_each_of_its_ports() {
    let cases = [
        ("0.0.0.0:5000-5002", vec!["0.0.0.0:5000", "0.0.0.0:5001", "0.0.0.0:5002"]),
        ("[::1]:7-7", vec!["[::1]:7"]),
        ("127.0.0.1:0", vec!["127.0.0.1:0"]),
        ("[::ffff:192.0.2.1]:80", vec!["192.0.2.1:80"]),
        ("[fe80::1%2]:65535", vec!["[fe80::1%2]:65535"]),
    ];
    for (text, expected) in cases {
        let config = good(&with(&format!("listen = \"{text}\""), BACKENDS));
        assert_eq!(config.listeners[0].binds, expected.into_iter().map(inet).collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn what_is_odd_but_works_is_a_warning() {
    let spare = "[[service]]\nname = \"spare\"\nbackends = [\"10.0.0.2:80\"]\n";
    let text = with(LISTEN, "backends = [{ address = \"10.0.0.1:80\", weight = 0 }]") + spare;
    let warnings = good(&text).warnings;
    assert_eq!(super::codes(&warnings), ["no-weight", "unused-service"]);
}

#[test]
fn the_hash_tells_whether_the_text_changed() {
    let text = with(LISTEN, BACKENDS);
    let other = format!("{text}\n# a comment");
    assert_eq!(good(&text).hash, good(&text).hash);
    assert_ne!(good(&text).hash, good(&other).hash);
}
