//! Limits refuse with a reset, count it, and hurt nobody who is already there.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::harness::{Backend, Config, Conn, End, Link, Options, Proxy, eventually, needs_root, needs_tools, observe};

#[test]
fn a_listener_refuses_beyond_its_limit_until_somebody_leaves() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).listener("max_connections = 3").start();
    refuses_the_fourth(&proxy, "listener");
    proxy.finish();
}

#[test]
fn the_process_refuses_beyond_its_limit_until_somebody_leaves() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).node("max_connections = 3").start();
    refuses_the_fourth(&proxy, "process");
    proxy.finish();
}

#[test]
fn the_limit_of_a_source_leaves_other_sources_alone() {
    // given
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).listener("max_connections_per_source = 2").start();
    let (greedy, modest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let mut held = [(); 2].map(|()| Conn::open_from(greedy, &proxy.main()));
    held.iter_mut().for_each(|conn| conn.echoes("held"));

    // when
    let refused = Conn::open_from(greedy, &proxy.main()).end();

    // then
    assert_eq!(refused, End::Reset, "a source that has its share is refused by a reset");
    Conn::open_from(modest, &proxy.main()).echoes("welcome");
    proxy.record("limit_source");
    assert_eq!(proxy.metrics().sum("limit_refused_total{listener=\"main\",limit=\"source\"}"), 1.0);
    drop(held);
    eventually("a source that has left may come back", || Conn::open_from(greedy, &proxy.main()).still_echoes());
    proxy.finish();
}

#[test]
fn the_default_limit_follows_from_the_descriptors_the_process_may_have() {
    // given: room for a few dozen sessions
    let backend = Backend::echo();
    let config = Config::to([backend.address()]).toml();
    let proxy = Proxy::start_with(&config, Options { descriptors: Some(400), ..Options::default() });
    proxy.expect_log("descriptor");

    // when
    let mut held = Vec::new();
    eventually("sessions beyond the budget are refused", || {
        let mut conn = Conn::open(proxy.main());
        let served = conn.still_echoes();
        held.push(conn);
        !served
    });

    // then
    assert!(held.len() > 20, "the budget leaves room for sessions");
    assert_eq!(proxy.metrics().sum("accept_errors_total"), 0.0, "the budget ends before the descriptors do");
    let refused = proxy.metrics().sum("limit_refused_total");
    assert!(refused >= 1.0, "a refusal is counted");
    held[0].echoes("still here");
    drop(held);
    eventually("there is room again", || Conn::open(proxy.main()).still_echoes());
    proxy.finish();
}

#[test]
fn running_out_of_descriptors_hurts_nobody_who_is_there_and_passes() {
    // given
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    for text in ["descriptor", "EMFILE", "Too many open files"] {
        proxy.expect_log(text);
    }
    let mut established = Conn::open(proxy.main());
    established.echoes("before");

    // when: the limit falls to what is open
    let former = proxy.limit_descriptors(Some(proxy.descriptors().total() as u64));
    let waiting = (0..20).map(|_| Conn::open(proxy.main())).collect::<Vec<_>>();
    let (ticks, start) = (proxy.cpu_ticks(), Instant::now());
    observe(Duration::from_secs(2));

    // then
    let busy = (proxy.cpu_ticks() - ticks) as f64 / 100.0 / start.elapsed().as_secs_f64();
    assert!(busy < 0.2, "accepting backs off instead of spinning: {busy:.2} of a processor");
    established.echoes("unhurt");

    // when
    proxy.limit_descriptors(former);
    drop(waiting);

    // then
    eventually("new sessions are served again", || Conn::open(proxy.main()).still_echoes());
    established.echoes("after");
    let metrics = proxy.metrics();
    let noticed = metrics.sum("accept_errors_total{errno=\"EMFILE\"}") + metrics.sum("limit_refused_total");
    assert!(noticed >= 1.0, "the shortage is counted");
    let alarms =
        proxy.log_lines().iter().filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")).count();
    assert!(alarms <= 10, "a shortage does not flood the log: {alarms} lines");
    drop(established);
    proxy.finish();
}

#[test]
fn running_out_of_local_ports_is_never_the_backends_fault() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    // given: ten ports to connect from, and clients elsewhere
    let link = Link::new();
    let backend = link.far.enter(|| Backend::echo_on(&format!("{}:0", link.far_address)));
    let config = Config::to([backend.address()]).listen(&format!("{}:4000", link.near_address)).toml();
    let proxy = Proxy::start_with(&config, Options { netns: Some(link.near.clone()), ..Options::default() });
    proxy.expect_log("cannot open a connection");
    // After the start, since a listener on any port would take one of them.
    link.near.sysctl("ipv4/ip_local_port_range", "40000 40009");
    let open = || link.far.enter(|| Conn::open(proxy.main()));
    let mut held = (0..10).map(|_| open()).collect::<Vec<_>>();
    held.iter_mut().for_each(|conn| conn.echoes("held"));

    // when
    let end = open().end();

    // then
    assert_eq!(end, End::Reset, "a client for whom there is no port is refused by a reset");
    proxy.record("no_local_port");
    assert_eq!(proxy.metrics().sum("backend_connect_failures_total"), 0.0, "our shortage is no failure of a backend");
    assert_eq!(proxy.state(backend.address()), "up", "our shortage takes no backend out");
    held.iter_mut().for_each(|conn| conn.echoes("unhurt"));

    // when: with resets, since a FIN would leave the ports in TIME_WAIT
    held.into_iter().for_each(Conn::reset);

    // then
    eventually("ports that are free again are used", || open().still_echoes());
    proxy.finish();
}

/// Holds three sessions, the limit, and expects the refusal of one more under the given name.
fn refuses_the_fourth(proxy: &Proxy, limit: &str) {
    // given
    let mut held = [(); 3].map(|()| Conn::open(proxy.main()));
    held.iter_mut().for_each(|conn| conn.echoes("held"));

    // when
    let refused = Conn::open(proxy.main()).end();

    // then
    assert_eq!(refused, End::Reset, "a session beyond the limit is refused by a reset");
    let record = proxy.record(&format!("limit_{limit}"));
    assert_eq!(record["attempts"], 0, "a refused session reaches no backend");
    let counted = format!("limit_refused_total{{listener=\"main\",limit=\"{limit}\"}}");
    assert_eq!(proxy.metrics().sum(&counted), 1.0, "a refusal is counted under its limit");
    held.iter_mut().for_each(|conn| conn.echoes("unhurt"));

    // when
    let [first, ..] = held;
    drop(first);

    // then
    eventually("a place that is free again is given away", || Conn::open(proxy.main()).still_echoes());
}
