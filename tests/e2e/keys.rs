//! Keys of the configuration that no other test is about: each changes what it says it changes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::mpsc;

use crate::harness::{Backend, Config, Conn, End, Named, eventually, refusing, who};

#[test]
fn retries_zero_tries_one_backend_only() {
    let (gone, alive) = (refusing(), Named::start("alive"));
    let config = Config::to([gone.address(), alive.address()]).service("balance = \"round_robin\"");
    let proxy = config.listener("retries = 0").start();
    proxy.expect_trouble_with_backends();
    eventually("a client meets the backend that refuses", || Conn::open(proxy.main()).end() == End::Reset);
    assert_eq!(proxy.record("connect_failed")["attempts"], 1, "nobody else is tried");
    assert_eq!(proxy.metrics().sum("retries_total"), 0.0);
    proxy.finish();
}

#[test]
fn the_zone_of_the_node_and_of_a_backend_tell_what_crosses() {
    // given
    let backend = Backend::echo();
    let away = format!("{{ address = \"{}\", zone = \"ams\" }}", backend.address());
    let proxy = Config::to([away.as_str()]).node("zone = \"fra/a\"").start();

    // when
    let mut client = Conn::open(proxy.main());
    client.echoes("12345678");
    drop(client);

    // then
    assert_eq!(proxy.record("closed")["zone"], "ams");
    let crossed = |from, to| proxy.metrics().sum(&format!("cross_zone_bytes_total{{from=\"{from}\",to=\"{to}\"}}"));
    assert_eq!((crossed("fra/a", "ams"), crossed("ams", "fra/a")), (8.0, 8.0), "both directions are counted");
    proxy.finish();
}

#[test]
fn the_name_of_the_node_and_the_number_of_its_workers_are_told() {
    let backend = Backend::echo();
    let threads = |workers: usize| {
        let proxy = Config::to([backend.address()]).node(&format!("workers = {workers}")).start();
        assert!(proxy.metrics().has("build_info{node=\"test\"}"), "metrics name the node");
        let threads = proxy.metrics().sum("process_threads");
        proxy.finish();
        threads
    };
    assert_eq!(threads(5) - threads(2), 3.0, "each worker is a thread");
}

#[test]
fn a_panic_threshold_of_zero_always_trusts_the_checks() {
    // given: most of the backends are out
    let (alive, others) = (Named::start("alive"), [refusing(), refusing(), refusing()]);
    let backends = others.iter().map(|backend| backend.address()).chain([alive.address()]);
    let config = Config::to(backends).service("panic_threshold = 0\nbalance = \"round_robin\"");
    let proxy = config.health("{ kind = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }").start();
    proxy.expect_trouble_with_backends();
    for other in &others {
        eventually("a backend that refuses is down", || proxy.state(other.address()) == "down");
    }

    // when
    for _ in 0..8 {
        assert_eq!(who(&proxy.main()), "alive");
    }

    // then
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("panic"), 0.0, "there is no panic at any number of healthy backends");
    assert_eq!(metrics.sum("picks_total{reason=\"panic\"}") + metrics.sum("retries_total"), 0.0);
    proxy.finish();
}

#[test]
fn an_http_check_asks_for_the_host_that_is_named() {
    let (heard, hosts) = mpsc::channel();
    let backend = Backend::serve(move |conn| {
        let mut reader = BufReader::new(conn);
        let mut request = String::new();
        while reader.read_line(&mut request).is_ok_and(|read| read > 0) && !request.ends_with("\r\n\r\n") {}
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        // The test may be over.
        let _ = heard.send(host.to_owned());
        let _ = write!(reader.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let proxy = Config::to([backend.address()]).health("{ kind = \"http\", host = \"db.example\" }").start();
    assert_eq!(hosts.recv().unwrap(), "db.example");
    proxy.finish();
}

#[test]
fn a_backend_of_a_higher_priority_number_waits_for_all_lower_ones() {
    // given
    let numbers = [(7, "last"), (3, "middle"), (0, "first")].map(|(priority, name)| (priority, Named::start(name)));
    let entry =
        |(priority, backend): &(u8, Named)| format!("{{ address = \"{}\", priority = {priority} }}", backend.address());
    let entries = numbers.each_ref().map(entry);
    let health = "{ kind = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }";
    let proxy = Config::to(entries.iter().map(String::as_str)).health(health).start();
    proxy.expect_trouble_with_backends();
    let [(_, _last), (_, mut middle), (_, mut first)] = numbers;

    // when, then
    assert_eq!(who(&proxy.main()), "first");
    for (stopped, next) in [(&mut first, "middle"), (&mut middle, "last")] {
        stopped.stop();
        eventually("a backend that stopped is down", || proxy.state(stopped.address()) == "down");
        assert_eq!(who(&proxy.main()), next);
    }
    assert_eq!(proxy.metrics().sum("picks_total{reason=\"backup\"}"), 2.0, "such picks are counted as backups");
    proxy.finish();
}
