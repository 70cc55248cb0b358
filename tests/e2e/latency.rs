//! Balancing on latency, from outside: who is served by whom while backends slow down, fail, join and are far away.
//!
//! Errors and shares are asserted, never times: the machine is shared.

use std::net::SocketAddr;
use std::time::Duration;

use rig::backends::{Backends, Spec};
use rig::draw::{Requests, Work};
use rig::link::{Conditions, End, Link};
use rig::load::{self, Plan};
use rig::outcome::Outcome;

use crate::harness::{Config, Netns, Options, Proxy, eventually, loopback, needs_root, needs_tools};

const CHECKS: &str = "{ kind = \"tcp\", interval = \"300ms\", rise = 2, fall = 2 }";
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_slow_backend_loses_its_share_within_seconds() {
    let (backends, proxy) = five();
    tell(&backends, "home-0 speed 0.1");
    let outcome = put_load(&proxy, 150.0, 6 * SECOND);
    let settled = outcome.summary(2 * SECOND, Duration::MAX);
    assert_eq!(outcome.summary(Duration::ZERO, Duration::MAX).errors, 0, "slow is not broken");
    assert!(settled.share("home-0") < 0.1, "a slow one of five gets less than half of a fair share: {settled:?}");
    proxy.finish();
}

#[test]
fn a_backend_that_resets_costs_next_to_nothing() {
    let (backends, proxy) = five();
    proxy.expect_trouble_with_backends();
    tell(&backends, "home-0 reset");
    let all = put_load(&proxy, 250.0, 6 * SECOND).summary(Duration::ZERO, Duration::MAX);
    assert!(all.error_share() <= 0.01, "fast failures do not attract traffic: {all:?}");
    proxy.finish();
}

#[test]
fn a_silent_backend_loses_its_traffic() {
    let (backends, proxy) = five();
    proxy.expect_trouble_with_backends();
    tell(&backends, "home-0 silent");
    let settled = put_load(&proxy, 150.0, 6 * SECOND).summary(2 * SECOND, Duration::MAX);
    assert!(settled.error_share() <= 0.02, "after two seconds hardly anybody is sent there: {settled:?}");
    proxy.finish();
}

#[test]
fn a_refusing_backend_costs_no_client_anything() {
    let (backends, proxy) = five();
    proxy.expect_trouble_with_backends();
    tell(&backends, "home-0 refuse");
    let all = put_load(&proxy, 150.0, 4 * SECOND).summary(Duration::ZERO, Duration::MAX);
    assert_eq!(all.errors, 0, "who is refused is sent elsewhere: {all:?}");
    proxy.finish();
}

#[test]
fn a_backend_that_joins_gets_traffic() {
    let (backends, proxy) = five();
    proxy.expect_trouble_with_backends();
    tell(&backends, "home-0 refuse");
    eventually("the check sees it", || proxy.state(&backends.addresses()[0].to_string()) == "down");
    tell(&backends, "home-0 heal");
    eventually("the check sees that too", || proxy.state(&backends.addresses()[0].to_string()) == "up");
    let all = put_load(&proxy, 150.0, 8 * SECOND).summary(2 * SECOND, Duration::MAX);
    assert_eq!(all.errors, 0, "joining harms nobody");
    // Work is random, and whoever met the long pieces first has a small share for a while.
    assert!(all.share("home-0") > 0.02, "one of five gets more than a trickle: {all:?}");
    proxy.finish();
}

#[test]
fn a_light_load_stays_at_home() {
    if !(needs_root() && needs_tools(&["ip"])) {
        return;
    }
    let zones = Zones::start();
    let all = zones.put_load(60.0, 6 * SECOND).summary(SECOND, Duration::MAX);
    assert_eq!(all.errors, 0);
    assert!(all.share("home") >= 0.99, "nobody is sent away without need: {all:?}");
    zones.proxy.finish();
}

#[test]
fn an_outage_at_home_moves_everybody_to_the_nearest_zone_and_back() {
    if !(needs_root() && needs_tools(&["ip"])) {
        return;
    }
    // given
    let zones = Zones::start();
    zones.proxy.expect_trouble_with_backends();

    // when
    tell(&zones.backends[0], "home-* refuse");
    let away = zones.put_load(60.0, 5 * SECOND).summary(Duration::ZERO, Duration::MAX);

    // then
    assert!(away.error_share() <= 0.01, "another zone serves: {away:?}");
    assert!(away.share("near") >= 0.95, "the nearer of two: {away:?}");

    // when
    tell(&zones.backends[0], "home-* heal");

    // then
    eventually("traffic comes home", || {
        zones.put_load(60.0, SECOND).summary(Duration::ZERO, Duration::MAX).share("home") >= 0.95
    });
    zones.proxy.finish();
}

/// A home zone, one near and one far, each in a namespace behind a link, and the program before them.
struct Zones {
    proxy: Proxy,
    backends: Vec<Backends>,
    centre: Netns,
    _links: Vec<Link>,
}

impl Zones {
    fn start() -> Zones {
        let centre = Netns::new();
        let (mut backends, mut links, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (zone, micros)) in [("home", 250), ("near", 10_000), ("far", 40_000)].into_iter().enumerate() {
            let netns = Netns::new();
            let (near, far) = (format!("10.88.{number}.1"), format!("10.88.{number}.2"));
            let near = End { netns: centre.file(), device: format!("to-{zone}"), address: format!("{near}/24") };
            let end = End { netns: netns.file(), device: zone.to_owned(), address: format!("{far}/24") };
            links.push(Link::new(&near, &end, Conditions::delay(Duration::from_micros(micros))).unwrap());
            let specs = (0..3).map(|index| spec(zone, index, format!("{far}:{}", 9000 + index).parse().unwrap()));
            let started = Backends::start(&specs.collect::<Vec<_>>(), Some(&netns.file())).unwrap();
            entries.extend(started.addresses().iter().map(|it| format!("{{ address = \"{it}\", zone = \"{zone}\" }}")));
            backends.push(started);
        }
        let config = Config::to(entries.iter().map(String::as_str)).node("zone = \"home\"");
        let config = config.service("balance = \"latency\"").health(CHECKS);
        let proxy = Proxy::start_with(&config.toml(), Options { netns: Some(centre.clone()), ..Options::default() });
        Zones { proxy, backends, centre, _links: links }
    }

    fn put_load(&self, rate: f64, length: Duration) -> Outcome {
        self.centre.enter(|| put_load(&self.proxy, rate, length))
    }
}

fn five() -> (Backends, Proxy) {
    let specs: Vec<Spec> = (0..5).map(|index| spec("home", index, SocketAddr::from((loopback(), 0)))).collect();
    let backends = Backends::start(&specs, None).unwrap();
    let addresses: Vec<String> = backends.addresses().iter().map(SocketAddr::to_string).collect();
    let config = Config::to(addresses.iter().map(String::as_str)).service("balance = \"latency\"").health(CHECKS);
    (backends, config.start())
}

fn spec(zone: &str, index: usize, address: SocketAddr) -> Spec {
    Spec { name: format!("{zone}-{index}"), address, workers: 4, speed: 1.0 }
}

fn tell(backends: &Backends, command: &str) {
    backends.command(command.parse().unwrap());
}

fn put_load(proxy: &Proxy, rate: f64, length: Duration) -> Outcome {
    let plan = Plan {
        targets: vec![proxy.main().parse().unwrap()],
        rates: vec![(Duration::ZERO, rate)],
        length,
        timeout: 2 * SECOND,
        requests: Requests::Exactly(1),
        think: Duration::ZERO,
        work: Work::log_normal(Duration::from_millis(20), 1.0),
        seed: 7,
    };
    load::run(&plan).unwrap()
}
