//! What is said and meant about datagrams.

use std::path::PathBuf;
use std::time::Duration;

use proxy::{Bind, ConnectionIds, Draining, Networks, QuicLb, SendProxy, Unproven};

use super::super::Probe;
use super::{BACKENDS, LISTEN, bad, codes, good, with};

const UDP: &str = "listen = \"127.0.0.1:80\"\nprotocol = \"udp\"";
const DATAGRAM: &str = "listen = \"unix:/x\"\nprotocol = \"datagram\"";
const QUIC: &str = "connection_ids = [{ config_id = 0, server_id_length = 2, nonce_length = 4 }]";

/// A text with a mistake between bars, and what is said about it: code and a part of the help.
fn check(cases: &[(String, &str, &str)]) {
    for (marked, code, help) in cases {
        let parts: Vec<&str> = marked.split('|').collect();
        let [before, wrong, _] = parts[..] else { panic!("a mistake is not marked:\n{marked}") };
        let report = bad(&parts.concat());
        let [problem] = report.problems() else { panic!("one mistake is not one problem:\n{report}") };
        let place = Some(before.len()..before.len() + wrong.len());
        assert_eq!((problem.code.as_str(), &problem.span), (*code, &place), "\n{report}");
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "the help lacks {help:?}:\n{report}");
    }
}

#[test]
fn a_listener_that_is_wrong_is_told_where_and_how() {
    let udp = |line: &str| with(&format!("{UDP}\n{line}"), BACKENDS);
    let plain = |line: &str| with(&format!("{LISTEN}\n{line}"), BACKENDS);
    check(&[
        (with("listen = \"unix:/x\"\nprotocol = |\"udp\"|", BACKENDS), "contradiction", "datagram with unix paths"),
        (with("listen = \"127.0.0.1:80\"\nprotocol = |\"datagram\"|", BACKENDS), "contradiction", "udp go with IP"),
        (with("listen = [\"[::]:80\", \"unix:/x\"]\nprotocol = |\"udp\"|", BACKENDS), "contradiction", "datagram"),
        (with("listen = \"[::]:80\"\nprotocol = |\"upd\"|\nrequests = 1", BACKENDS), "unknown-value", "mean \"udp\""),
        (with("listen = [\"[::]:8\", |\"0.0.0.0:8\"|]\nprotocol = \"udp\"", BACKENDS), "address-conflict", "IPv4 too"),
        (udp("half_close_timeout = |\"1s\"|"), "contradiction", "remove"),
        (udp("keepalive = |\"1s\"|"), "contradiction", "remove"),
        (udp("user_timeout = |\"1s\"|"), "contradiction", "remove"),
        (udp("connect_timeout = |\"1s\"|"), "contradiction", "remove"),
        (udp("splice = |true|"), "contradiction", "remove"),
        (plain("requests = |1|"), "contradiction", "protocol = \"udp\""),
        (plain("replies = |1|"), "contradiction", "protocol = \"udp\""),
        (plain("unproven_datagrams = |\"1/s\"|"), "contradiction", "protocol = \"udp\""),
        (plain("unproven_reply_bytes = |\"1B/s\"|"), "contradiction", "protocol = \"udp\""),
        (plain("accept_proxy = |\"10.0.0.0/8\"|"), "not-built", "leave it out"),
        (with(&format!("{DATAGRAM}\naccept_proxy = |\"::/0\"|"), BACKENDS), "contradiction", "unix sockets"),
        (udp("accept_proxy = |[]|"), "out-of-range", "1 to 256"),
        (udp("accept_proxy = |\"example.com\"|"), "invalid-address", "IP/LENGTH"),
        (udp("accept_proxy = [\"10.0.0.0/8\", |\"10.0.0.0/33\"|]"), "invalid-address", "IP/LENGTH"),
        (udp("accept_proxy = |\"10.0.0.0/+8\"|"), "invalid-address", "IP/LENGTH"),
        (udp("accept_proxy = |\"10.0.0.1/8\"|"), "invalid-address", "10.0.0.0/8"),
        (udp("accept_proxy = |\"2001:db8::1/32\"|"), "invalid-address", "2001:db8::/32"),
        (udp("unproven_datagrams = |5|"), "wrong-type", ""),
        (udp("unproven_datagrams = |\"5\"|"), "invalid-value", "\"0/s\" is no limit"),
        (udp("unproven_datagrams = |\"2000000000/s\"|"), "out-of-range", "0/s to 1000000000/s"),
        (udp("unproven_reply_bytes = |\"1MB/s\"|"), "invalid-value", "\"4MiB/s\""),
        (udp("unproven_reply_bytes = |\"9999999GiB/s\"|"), "out-of-range", "0B/s to 1024GiB/s"),
        (udp("requests = |-1|"), "out-of-range", "0 to 1000000000"),
    ]);
}

#[test]
fn a_service_that_is_wrong_is_told_where_and_how() {
    let udp = |line: &str| with(UDP, &format!("{BACKENDS}\n{line}"));
    let plain = |line: &str| with(LISTEN, &format!("{BACKENDS}\n{line}"));
    let unix = |line: &str| with(DATAGRAM, &format!("backends = [\"unix:/y\"]\n{line}"));
    check(&[
        (plain("drain = |\"move_now\"|"), "contradiction", "protocol = \"udp\""),
        (plain("reply_timeout = |\"1s\"|"), "contradiction", "protocol = \"udp\""),
        (plain("connection_ids = |\"learned\"|"), "contradiction", "protocol = \"udp\""),
        (plain("send_proxy = |\"v2\"|"), "not-built", "a service of their own"),
        (udp("send_proxy = |\"v1\"|"), "not-built", "v2"),
        (udp("send_proxy_datagrams = |\"every\"|"), "contradiction", "send_proxy"),
        (udp("drain = |\"move\"|"), "unknown-value", "move_now"),
        (udp("reply_timeout = |\"2h\"|"), "out-of-range", "1ms to 1h"),
        (with(UDP, "backends = [|\"127.0.0.1:80\"|]"), "proxy-loop", "really serves"),
        (udp("health = |{ interval = \"1s\" }|"), "missing-key", "kind = \"udp\""),
        (unix("health = { kind = |\"udp\"|, send = \"x\" }"), "contradiction", "exec"),
        (unix("health = { kind = |\"tcp\"| }"), "contradiction", "exec"),
        (unix("health = { kind = \"http\", port = |80| }"), "contradiction", "exec"),
        (with(LISTEN, "backends = [\"unix:/y\"]\nhealth = { port = |80| }"), "contradiction", "exec"),
        (
            with(LISTEN, "backends = [\"unix:/y\"]\nhealth = { kind = |\"udp\"|, send = \"x\" }"),
            "contradiction",
            "exec",
        ),
        (
            with(
                &format!("{LISTEN}\n[[listener]]\nname = \"b\"\nservice = \"web\"\n{DATAGRAM}"),
                "backends = [|\"unix:/y\"|]",
            ),
            "contradiction",
            "their own",
        ),
        (udp(&format!("health = {{ kind = \"udp\", send = |\"{}\"| }}", "x".repeat(1025))), "out-of-range", "1024"),
    ]);
}

#[test]
fn connection_ids_that_are_wrong_are_told_where_and_how() {
    let ids = |line: &str| with(UDP, &format!("{BACKENDS}\nconnection_ids = {line}"));
    let one = |rest: &str| ids(&format!("[{{ config_id = 1, server_id_length = 8, {rest} }}]"));
    let backends = |backends: &str| with(UDP, &format!("{QUIC}\nbackends = [{backends}]"));
    let b = |at: u8, id: &str| format!("{{ address = \"10.0.0.{at}:80\", server_id = {id} }}");
    check(&[
        (ids("|\"learnt\"|"), "unknown-value", "learned"),
        (ids("|[]|"), "out-of-range", "1 to 7"),
        (ids("|{}|"), "wrong-type", ""),
        (ids("[|{ config_id = 1, server_id_length = 8 }|]"), "missing-key", "nonce_length"),
        (ids("[{ config_id = |7|, server_id_length = 8, nonce_length = 4 }]"), "out-of-range", "0 to 6"),
        (one("nonce_length = |3|"), "out-of-range", "4 to 18"),
        (one("nonce_length = |12|"), "contradiction", "at most 19"),
        (one("nonce_length = 4, key_file = |\"key\"|"), "invalid-value", "absolute"),
        (one("nonce_length = 4, key_file = |\"/nonexistent/key\"|"), "invalid-value", "32 hexadecimal"),
        (one("nonce_length = 4, key_file = |\"/dev/zero\"|"), "invalid-value", "32 hexadecimal"),
        (one("nonce_length = 4 }, { config_id = |1|, server_id_length = 4, nonce_length = 4"), "duplicate", "its own"),
        (with(UDP, &format!("backends = [{}]", b(1, "|\"0a0b\"|"))), "contradiction", "connection_ids"),
        (backends(&b(1, "|\"0a0\"|")), "invalid-value", "two hexadecimal digits"),
        (backends(&b(1, "|\"\"|")), "invalid-value", "two hexadecimal digits"),
        (backends(&b(1, "|\"0a0b0c\"|")), "contradiction", "has: 2"),
        (backends(&format!("{}, {}", b(1, "\"0a0b\""), b(2, "|\"0A0B\"|"))), "duplicate", "its own"),
    ]);
}

#[test]
fn tcp_and_udp_share_nothing_but_a_path_is_one() {
    let udp = "[[listener]]\nname = \"u\"\nprotocol = \"udp\"\nservice = \"web\"\nlisten = ";
    let both = |tcp: &str, other: &str| format!("{udp}\"{other}\"\n{}", with(&format!("listen = \"{tcp}\""), BACKENDS));
    for (tcp, other) in [("0.0.0.0:53", "0.0.0.0:53"), ("[::]:53", "127.0.0.1:50-60"), ("unix:/x", "[::]:53")] {
        good(&both(tcp, other));
    }
    let report = bad(&both("unix:/x", "unix:/x").replace("\"udp\"", "\"datagram\""));
    assert_eq!(codes(&report), ["address-conflict"], "\n{report}");
    assert!(report.to_string().contains("its own"), "what to do is not said:\n{report}");
}

#[test]
fn a_loop_is_one_only_over_the_same_transport() {
    let text = |listen: &str, backend: &str| {
        let other = "[[listener]]\nname = \"other\"\nlisten = \"[::]:53\"\nservice = \"other\"\n";
        let far = "[[service]]\nname = \"other\"\nbackends = [\"10.0.0.1:80\"]\n";
        format!("{other}{far}{}", with(listen, &format!("backends = [\"{backend}\"]")))
    };
    let (tcp, udp) = ("listen = \"127.0.0.1:54\"", "listen = \"127.0.0.1:54\"\nprotocol = \"udp\"");
    let loops = |text: &str| codes(&bad(text)) == ["proxy-loop"];
    assert!(loops(&text(tcp, "127.0.0.1:53")), "a connection would come back");
    assert!(loops(&text(udp, "127.0.0.1:54")), "a datagram would come back");
    good(&text(udp, "127.0.0.1:53"));
    good(&text(udp, "127.0.0.1:9901"));
    let wide = "listen = \"0.0.0.0:54\"\nprotocol = \"udp\"";
    assert!(loops(&text(wide, "127.0.0.9:54")), "a datagram to loopback would come back through the wildcard");
    assert!(loops(&text(DATAGRAM, "unix:/x")), "a datagram to a path would come back");
    let both = format!("{udp}\n[[listener]]\nname = \"t\"\nlisten = \"127.0.0.1:55\"\nservice = \"web\"");
    assert!(loops(&text(&both, "127.0.0.1:54")), "of a service over both, the datagrams would come back");
    assert!(loops(&text(&both, "127.0.0.1:55")), "of a service over both, the connections would come back");
}

#[test]
fn a_key_that_is_left_out_has_its_default() {
    let config = good(&with(UDP, BACKENDS));

    let (listener, service) = (&config.listeners[0], &config.services[0]);
    assert_eq!(listener.binds, [Bind::Udp("127.0.0.1:80".parse().unwrap())]);
    assert_eq!((listener.idle_timeout, listener.max_connections), (Duration::from_secs(30), 10_000));
    let udp = listener.udp.as_ref().expect("a listener of datagrams has what they need");
    assert_eq!((udp.requests, udp.replies, &udp.accept_proxy), (0, 0, &Networks::default()));
    let unproven = Unproven { datagrams_per_second: 10_000, reply_bytes_per_second: 4 << 20 };
    assert_eq!(udp.unproven, unproven);
    assert_eq!((service.udp.draining, service.udp.reply_timeout), (Draining::KeepFlows, Duration::from_secs(2)));
    assert_eq!((&service.udp.send_proxy, &service.udp.connection_ids), (&None, &None));
    assert_eq!(service.health.probe, Probe::None, "what serves datagrams need not take connections");

    let plain = good(&with(LISTEN, BACKENDS));
    assert_eq!(plain.listeners[0].udp, None);
    let both = format!("{LISTEN}\n[[listener]]\nname = \"u\"\nservice = \"web\"\n{UDP}");
    let both = good(&with(&both, BACKENDS));
    assert_eq!(both.services[0].health.probe, Probe::Tcp { port: None }, "what takes connections is checked by them");
}

#[test]
fn every_value_is_taken_as_it_is_written() {
    let config = good(
        r#"
        [[listener]]
        name = "dns"
        listen = ["[::]:53", "192.0.2.1:1000-1001"]
        protocol = "udp"
        service = "dns"
        idle_timeout = "5s"
        requests = 1
        replies = 2
        accept_proxy = ["10.0.0.0/8", "192.0.2.7", "::ffff:172.16.0.0/108", "2001:db8::/32"]
        unproven_datagrams = "0/s"
        unproven_reply_bytes = "64KiB/s"
        [[listener]]
        name = "local"
        listen = "unix:/run/dns.sock"
        protocol = "datagram"
        service = "local"
        [[service]]
        name = "dns"
        drain = "move_now"
        reply_timeout = "250ms"
        send_proxy = "v2"
        send_proxy_datagrams = "every"
        connection_ids = "learned"
        backends = ["10.0.0.1:53"]
        health = { kind = "udp", send = "pïng\u0000", expect = { hex = "00fF" }, port = 54 }
        [[service]]
        name = "local"
        send_proxy = "v2"
        backends = ["unix:/run/b.sock"]
        "#,
    );

    let udp = |text: &str| Bind::Udp(text.parse().unwrap());
    let [dns, local] = &config.listeners[..] else { panic!("two listeners are not two") };
    assert_eq!(dns.binds, [udp("[::]:53"), udp("192.0.2.1:1000"), udp("192.0.2.1:1001")]);
    assert_eq!(local.binds, [Bind::Datagram(PathBuf::from("/run/dns.sock"))]);
    assert_eq!(dns.idle_timeout, Duration::from_secs(5));
    let of = dns.udp.as_ref().expect("a listener of datagrams has what they need");
    assert_eq!((of.requests, of.replies), (1, 2));
    let networks = [("10.0.0.0", 8), ("192.0.2.7", 32), ("172.16.0.0", 12), ("2001:db8::", 32)];
    let networks = networks.map(|(ip, length)| (ip.parse().unwrap(), length));
    assert_eq!(of.accept_proxy, Networks::new(networks.into()));
    assert_eq!(of.unproven, Unproven { datagrams_per_second: 0, reply_bytes_per_second: 65_536 });
    let [dns, local] = &config.services[..] else { panic!("two services are not two") };
    assert_eq!((dns.udp.draining, dns.udp.reply_timeout), (Draining::MoveNow, Duration::from_millis(250)));
    assert_eq!((dns.udp.send_proxy, local.udp.send_proxy), (Some(SendProxy::Every), Some(SendProxy::First)));
    assert_eq!(dns.udp.connection_ids, Some(ConnectionIds::Learned));
    let (send, expect) = ("pïng\0".as_bytes().to_vec(), vec![0, 0xff]);
    assert_eq!(dns.health.probe, Probe::Udp { port: Some(54), send, expect });
}

#[test]
fn connection_ids_are_taken_with_their_keys_which_nothing_prints() {
    let path = std::env::temp_dir().join(format!("dislocate-quic-lb-{}", std::process::id()));
    std::fs::write(&path, "8f95f09245765f80256934e50c66207f\n").unwrap();
    let first = "{ config_id = 0, server_id_length = 2, nonce_length = 17 }";
    let second =
        format!("{{ config_id = 6, server_id_length = 4, nonce_length = 4, key_file = \"{}\" }}", path.display());
    let backends = "[{ address = \"10.0.0.1:80\", server_id = \"0aF1\" }, { address = \"10.0.0.2:80\", \
                    server_id = \"00000001\" }, \"10.0.0.3:80\"]";
    let text = with(UDP, &format!("connection_ids = [{first}, {second}]\nbackends = {backends}"));
    let config = good(&text);

    let service = &config.services[0];
    let ids: Vec<_> = service.backends.iter().map(|backend| backend.server_id.as_deref()).collect();
    assert_eq!(ids, [Some(&[0x0a, 0xf1][..]), Some(&[0, 0, 0, 1][..]), None]);
    let key = 0x8f95_f092_4576_5f80_2569_34e5_0c66_207f_u128.to_be_bytes();
    let expected = vec![QuicLb::new(0, 2, 17, None).unwrap(), QuicLb::new(6, 4, 4, Some(key)).unwrap()];
    assert_eq!(service.udp.connection_ids, Some(ConnectionIds::Encoded(expected)));
    assert!(!format!("{config:?}").contains("143, 149, 240"), "a key is printed");

    std::fs::write(&path, "00000000000000000000000000000000").unwrap();
    assert_ne!(good(&text).hash, config.hash, "a new key under the old name is a change");
    std::fs::write(&path, "secret").unwrap();
    let report = bad(&text);
    assert_eq!(codes(&report), ["invalid-value"]);
    assert!(!report.to_string().contains("secret"), "what the file holds is repeated:\n{report}");
    std::fs::remove_file(&path).unwrap();
}
