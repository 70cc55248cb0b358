//! `docs/metrics.md` and the metrics page name the same metrics and the same values of closed labels.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::harness::{Backend, Config, Conn, DatagramBackend, Datagrams, Metrics, TempDir, eventually, list, refusing};

/// What a healthy machine cannot be made to show: present in the documentation, shown with the first event.
const ONLY_IN_TROUBLE: [&str; 1] = ["dislocate_accept_errors_total"];

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    // given
    let documented = documented();

    // when
    let metrics = after_a_bit_of_everything();

    // then
    let shown = metrics.families().map(str::to_owned).collect::<BTreeSet<_>>();
    let undocumented = shown.difference(&documented).collect::<Vec<_>>();
    assert!(undocumented.is_empty(), "a metric that is shown is documented, unlike {undocumented:?}");
    let missing = documented.difference(&shown).filter(|name| !ONLY_IN_TROUBLE.contains(&name.as_str()));
    let missing = missing.collect::<Vec<_>>();
    assert!(missing.is_empty(), "a metric that is documented is shown, unlike {missing:?}");
}

#[test]
fn every_reason_that_is_shown_is_documented() {
    let page = page();
    let metrics = after_a_bit_of_everything();
    let of_connections = ["connections_closed_total", "backend_connect_failures_total", "picks_total", "retries_total"];
    let of_datagrams = ["udp_flows_ended_total", "udp_flows_moved_total", "udp_dropped_datagrams_total"];
    for name in of_connections.into_iter().chain(of_datagrams) {
        for reason in metrics.label_values(name, "reason") {
            assert!(page.contains(&format!("`{reason}`")), "reason {reason} of {name} is documented");
        }
    }
}

/// The page after sessions, one of them looked at while it lasts, timed answers, a refused backend, a retry, a refused session and a reload.
fn after_a_bit_of_everything() -> Metrics {
    let (gone, alive) = (refusing(), Backend::echo());
    // In another zone, so that bytes cross.
    let alive = format!("{{ address = \"{}\", zone = \"elsewhere\" }}", alive.address());
    let config = Config::to([gone.address(), &alive]).service("balance = \"round_robin\"");
    let (silent, replying) = (refusing(), DatagramBackend::start("replying"));
    let more = by_latency(&alive) + &of_datagrams(silent.address(), replying.address());
    let folder = TempDir::new();
    let found = folder.join("app.json");
    fs::write(&found, list([])).unwrap();
    let config = config.listener("max_connections = 1");
    let config = config.source(&format!("kind = \"file\"\npath = \"{}\"", found.display())).more(&more);
    let proxy = config.start();
    proxy.sources_may_open(2);
    proxy.expect_trouble_with_backends();
    proxy.expect_source("file", "live");
    let mut held = Conn::open(proxy.main());
    held.echoes("held");
    eventually("the kernel was asked about the open session", || {
        let metrics = proxy.metrics();
        metrics.has("backend_tcp_rtt_seconds") && metrics.sum("backend_tcp_rtt_seconds") < 1.0
    });
    assert!(!Conn::open(proxy.main()).still_echoes(), "the limit refuses");
    drop(held);
    eventually("sessions with retries", || {
        Conn::open(proxy.main()).still_echoes();
        proxy.metrics().sum("retries_total") >= 1.0
    });
    eventually("answers are timed, and a zone has learned from them", || {
        Conn::open(proxy.address("second")).echoes("what takes how long");
        proxy.metrics().has("zone_floor_seconds")
    });
    eventually("flows are begun, refused, moved and ended", || {
        let client = Datagrams::open(proxy.address("third"));
        for _ in 0..3 {
            let _answer = client.ask_within(Duration::from_millis(20), "anybody");
        }
        let metrics = proxy.metrics();
        ["moved", "ended"].iter().all(|what| metrics.sum(&format!("udp_flows_{what}_total")) >= 1.0)
            && metrics.sum("udp_dropped_datagrams_total") >= 1.0
    });
    proxy.reload(&config.listen(&proxy.main()).listener("idle_timeout = \"5m\"").toml());
    let metrics = proxy.metrics();
    proxy.finish();
    metrics
}

/// A second service, whose policy has scores and zones.
fn by_latency(backend: &str) -> String {
    format!(
        r#"[[listener]]
name = "second"
listen = "127.0.0.1:0"
service = "second"

[[service]]
name = "second"
backends = [{backend}]
health = {{ kind = "none" }}"#
    )
}

/// A listener of one flow at a time, whose service refuses every other one.
fn of_datagrams(gone: &str, replying: &str) -> String {
    format!(
        r#"
[[listener]]
name = "third"
listen = "127.0.0.1:0"
protocol = "udp"
idle_timeout = "50ms"
max_connections = 1
service = "third"

[[service]]
name = "third"
balance = "round_robin"
backends = ["{gone}", "{replying}"]
health = {{ kind = "none" }}"#
    )
}

/// Every name between backticks that begins as our metrics do, up to its labels.
fn documented() -> BTreeSet<String> {
    let page = page();
    let quoted = page.split('`').skip(1).step_by(2);
    let names = quoted.filter(|text| text.starts_with("dislocate_"));
    names.map(|text| text.split('{').next().unwrap_or(text).to_owned()).collect()
}

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).expect("docs/metrics.md is there")
}
