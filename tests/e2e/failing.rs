//! Backends that refuse, hang or cannot be reached: a client notices only when all of them do.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Config, Conn, End, Link, Named, Netns, Options, Proxy, eventually, full_backlog, needs_root, needs_tools,
    observe, refusing, who, within,
};

/// Well below the default connect timeout, well above what an answer on this machine takes.
const PROMPT: Duration = Duration::from_secs(2);

#[test]
fn retries_another_backend_when_connect_is_refused() {
    // given
    let (gone, alive) = (refusing(), Named::start("alive"));
    let config = Config::to([gone.address(), alive.address()]).service("balance = \"round_robin\"");
    let proxy = config.start();
    proxy.expect_trouble_with_backends();

    // when
    for _ in 0..20 {
        assert_eq!(who(&proxy.main()), "alive", "a client is served while any backend is up");
    }

    // then
    let metrics = proxy.metrics();
    let refused = format!("backend_connect_failures_total{{backend=\"{}\",reason=\"refused\"}}", gone.address());
    assert!(metrics.sum(&refused) >= 1.0, "a refusal is counted against the backend that refused");
    assert!(metrics.sum("retries_total") >= 1.0, "a retry is counted");
    assert!(metrics.sum("picks_total{reason=\"retry\"}") >= 1.0, "a pick for a retry is counted as such");
    assert!(proxy.sessions().iter().any(|record| record["attempts"] == 2), "the record counts the attempts");
    proxy.finish();
}

#[test]
fn a_client_is_reset_at_once_when_every_backend_refuses() {
    // given
    let (one, two) = (refusing(), refusing());
    let proxy = Config::to([one.address(), two.address()]).start();
    proxy.expect_trouble_with_backends();

    // when
    let start = Instant::now();
    let end = Conn::open(proxy.main()).end();

    // then
    assert_eq!(end, End::Reset, "a client that cannot be served is told by a reset");
    assert!(start.elapsed() < PROMPT, "a refusal is passed on promptly");
    assert_eq!(proxy.record("connect_failed")["attempts"], 2, "every backend is tried once");
    proxy.finish();
}

#[test]
fn a_service_whose_backends_all_have_weight_zero_refuses_at_once() {
    let backend = Backend::echo();
    let resting = format!("{{ address = \"{}\", weight = 0 }}", backend.address());
    let proxy = Config::to([resting.as_str()]).start();
    proxy.expect_log("weight 0");
    assert_eq!(Conn::open(proxy.main()).end(), End::Reset);
    proxy.record("no_backend");
    assert_eq!(backend.accepted(), 0, "a backend of weight zero gets nobody");
    proxy.finish();
}

#[test]
fn a_backend_that_answers_no_syn_is_passed_over_after_the_connect_timeout_and_then_avoided() {
    // given
    let (hanging, alive) = (full_backlog(), Named::start("alive"));
    let config = Config::to([hanging.address(), alive.address()]).service("balance = \"round_robin\"");
    let proxy = config.listener("connect_timeout = \"200ms\"").start();
    proxy.expect_trouble_with_backends();

    // when
    eventually("a backend that keeps timing out is ejected", || {
        assert_eq!(who(&proxy.main()), "alive", "a client is served while any backend is up");
        proxy.state(hanging.address()) == "ejected"
    });

    // then
    let timeouts = format!("backend_connect_failures_total{{backend=\"{}\",reason=\"timeout\"}}", hanging.address());
    let before = proxy.metrics();
    assert!(before.sum(&timeouts) >= 1.0, "a timeout is counted against the backend that hung");
    let ejected = format!("backend_state{{backend=\"{}\",state=\"ejected\"}}", hanging.address());
    assert_eq!(before.sum(&ejected), 1.0, "an ejection is visible");
    for _ in 0..20 {
        assert_eq!(who(&proxy.main()), "alive");
    }
    assert_eq!(proxy.metrics().sum(&timeouts), before.sum(&timeouts), "an ejected backend is left alone");
    proxy.finish();
}

#[test]
fn a_client_is_reset_after_the_connect_timeout_when_the_only_backend_hangs() {
    let hanging = full_backlog();
    let proxy = Config::to([hanging.address()]).listener("connect_timeout = \"300ms\"").start();
    proxy.expect_trouble_with_backends();
    assert_eq!(Conn::open(proxy.main()).end(), End::Reset);
    proxy.record("connect_timeout");
    proxy.finish();
}

#[test]
fn a_backend_that_returns_is_used_again() {
    // given
    let (mut flaky, alive) = (Named::start("flaky"), Named::start("alive"));
    let config = Config::to([flaky.address(), alive.address()]).service("balance = \"round_robin\"");
    let config = config.health("{ kind = \"tcp\", interval = \"300ms\", rise = 2, fall = 2 }");
    let proxy = config.start();
    proxy.expect_trouble_with_backends();
    eventually("both backends serve", || who(&proxy.main()) == "flaky");

    // when
    flaky.stop();
    for _ in 0..20 {
        assert_eq!(who(&proxy.main()), "alive", "no client meets the backend that went away");
    }
    eventually("a backend that is gone is seen to be", || proxy.state(flaky.address()) != "up");
    flaky.start_again();

    // then: its checks succeed, which shortens an ejection
    eventually("a backend that is back gets sessions", || who(&proxy.main()) == "flaky");
    eventually("a backend that is back is up", || proxy.state(flaky.address()) == "up");
    proxy.finish();
}

#[test]
fn unreachable_backends_are_passed_over_as_fast_as_the_network_says_so() {
    if !needs_root() || !needs_tools(&["ip", "nft"]) {
        return;
    }
    // given: a backend whose host the network rejects, one whose cable is out, and one that is there
    let rejected = Link::new();
    let near = rejected.near.clone();
    let unplugged = Link::between(near.clone(), Netns::new());
    // Otherwise the kernel sends no more than one such message a second.
    rejected.far.sysctl("ipv4/icmp_ratelimit", "0");
    rejected.far.filter_input("tcp dport 80 reject with icmpx type host-unreachable");
    unplugged.cut_near_end();
    let alive = near.enter(|| Named::start("alive"));
    let (one, two) = (format!("{}:80", rejected.far_address), format!("{}:80", unplugged.far_address));
    let config = Config::to([one.as_str(), two.as_str(), alive.address()]).service("balance = \"round_robin\"");

    // when
    let proxy = Proxy::start_with(&config.toml(), Options { netns: Some(near.clone()), ..Options::default() });
    proxy.expect_trouble_with_backends();
    let start = Instant::now();
    for _ in 0..12 {
        assert_eq!(near.enter(|| who(&proxy.main())), "alive", "a client is served while any backend is up");
    }

    // then
    assert!(start.elapsed() < PROMPT, "what the network reports is not waited for");
    for address in [one, two] {
        let count = format!("backend_connect_failures_total{{backend=\"{address}\",reason=\"unreachable\"}}");
        assert!(proxy.metrics().sum(&count) >= 1.0, "{address} is counted as unreachable");
    }
    proxy.finish();
}

#[test]
fn a_backend_behind_a_filter_that_swallows_syns_costs_one_connect_timeout() {
    if !needs_root() || !needs_tools(&["ip", "nft"]) {
        return;
    }
    let link = Link::new();
    link.swallow();
    let alive = link.near.enter(|| Named::start("alive"));
    let swallowed = format!("{}:80", link.far_address);
    let config = Config::to([swallowed.as_str(), alive.address()]).service("balance = \"round_robin\"");
    let config = config.listener("connect_timeout = \"300ms\"");
    let proxy = Proxy::start_with(&config.toml(), Options { netns: Some(link.near.clone()), ..Options::default() });
    proxy.expect_trouble_with_backends();
    eventually("a backend behind such a filter is ejected", || {
        assert_eq!(link.near.enter(|| who(&proxy.main())), "alive", "a client is served while any backend is up");
        proxy.state(&swallowed) == "ejected"
    });
    proxy.finish();
}

#[test]
fn a_trial_after_an_ejection_brings_a_healed_backend_back_without_checks() {
    // given: an ejected backend and no health checks that could vouch for it
    let (mut flaky, alive) = (Named::start("flaky"), Named::start("alive"));
    let config = Config::to([flaky.address(), alive.address()]).service("balance = \"round_robin\"");
    let proxy = config.start();
    proxy.expect_trouble_with_backends();
    flaky.stop();
    eventually("a backend that keeps refusing is ejected", || {
        who(&proxy.main());
        proxy.state(flaky.address()) == "ejected"
    });

    // when
    flaky.start_again();

    // then: the first ejection lasts five seconds and a tenth
    within(Duration::from_secs(15), "a healed backend is tried and taken back", || {
        observe(Duration::from_millis(50));
        who(&proxy.main()) == "flaky"
    });
    assert!(proxy.metrics().sum("picks_total{reason=\"trial\"}") >= 1.0, "a trial is counted as such");
    proxy.finish();
}
