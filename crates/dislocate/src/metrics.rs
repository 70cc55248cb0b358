//! `/metrics`: what is counted all over the program, in Prometheus' text format 0.0.4.
//!
//! Nothing is registered and no family lives between scrapes: a scrape walks over what runs now, so the series of a
//! listener or backend that is gone are gone too, and a reload cannot register anything twice.

use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use balance::{BackendSet, Candidate, ConnectFailure, HistogramSnapshot, PickReason, Policy, Standing, Use};
use discovery::{Refusal, SourceReport, SourceState};
use prometheus::TextEncoder;
use proxy::{AcceptError, Dropped, Limit, Listener, ListenerStats, Moved, Reason, UdpStats};

use crate::families::{Families, Kind};
use crate::process;
use crate::state::{PANICS, State};

/// Everything, as text. *Cost*: O(listeners × workers + backends); the data path is not touched.
///
/// *Errors*: none in practice: the encoder refuses only families without name or samples, and there are none.
pub fn render(state: &State) -> prometheus::Result<String> {
    let mut families = Families::default();
    let running = state.running.load();
    of_program(&mut families, state, &running.node);
    for view in &running.listeners {
        match view.listener.settings().udp {
            None => of_listener(&mut families, &view.listener),
            Some(_) => of_udp_listener(&mut families, &view.listener),
        }
        of_any_listener(&mut families, &view.listener);
    }
    let now_ms = state.now_ms();
    for report in state.sources.sources() {
        of_source(&mut families, state, &report);
    }
    for (service, reader) in &running.services {
        let set = reader.load();
        of_service(&mut families, service, &set, now_ms);
        let scored = set.settings().policy == Policy::Latency;
        for at in 0..set.backends().len() {
            let candidate = set.candidate(at, now_ms);
            of_backend(&mut families, service, &candidate);
            estimates(&mut families, service, &candidate, scored);
        }
        let orphans = state.sources.orphans(service).unwrap_or_default();
        let help = "Backends that no source names any more, and that serve while they answer.";
        families.add(Kind::Gauge, "orphans", help, &[("service", service)], orphans as f64);
    }
    TextEncoder::new().encode_to_string(&families.into_sorted())
}

fn of_program(families: &mut Families, state: &State, node: &str) {
    let count = |value: &std::sync::atomic::AtomicU64| value.load(Relaxed) as f64;
    families.add(
        Kind::Gauge,
        "build_info",
        "The version and the node's name, as labels; always 1.",
        &[("version", env!("CARGO_PKG_VERSION")), ("node", node)],
        1.0,
    );
    for (result, value) in
        [("ok", &state.reloads.ok), ("refused", &state.reloads.refused), ("unchanged", &state.reloads.unchanged)]
    {
        families.add(Kind::Counter, "config_reloads_total", "Reloads by result.", &[("result", result)], count(value));
    }
    let successful = !state.reloads.last_refused.load(Relaxed);
    let help = "Whether the configuration in the file is the one that runs.";
    families.add(Kind::Gauge, "config_last_reload_successful", help, &[], f64::from(u8::from(successful)));
    let help = "Log lines thrown away because their destination did not take them.";
    families.add(Kind::Counter, "log_dropped_total", help, &[], count(&state.log_dropped));
    let help = "Errors in dislocate itself; each ended one task.";
    families.add(Kind::Counter, "panics_total", help, &[], count(&PANICS));
    for purpose in Use::ALL {
        let used = f64::from(state.ledger.used(purpose));
        families.add(Kind::Gauge, "descriptors", "Open descriptors by use.", &[("use", purpose.as_str())], used);
    }
    let help = "Descriptors that sessions, pipes, probes and admin connections may have together.";
    families.add(Kind::Gauge, "descriptors_limit", help, &[], f64::from(state.ledger.limit()));
    for (name, value) in [("busy", state.pipes.busy()), ("idle", state.pipes.idle())] {
        families.add(Kind::Gauge, "pipes", "Pipes for splicing.", &[("state", name)], f64::from(value));
    }
    let help = "Bulk transfers that were copied because no pipe of a useful size was to be had.";
    families.add(Kind::Counter, "pipes_refused_total", help, &[], state.pipes.refused() as f64);
    for ((from, to), bytes) in state.cross_zone.totals() {
        let labels = [("from", from.as_str()), ("to", to.as_str())];
        families.add(Kind::Counter, "cross_zone_bytes_total", "Bytes between zones.", &labels, bytes as f64);
    }
    let started = state.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let help = "When this process started, in seconds since 1970.";
    families.add(Kind::Gauge, "process_start_time_seconds", help, &[], started);
    for sample in process::samples() {
        families.add(sample.kind, sample.name, sample.help, &[], sample.value);
    }
}

/// What is counted of connections, and of nothing else.
fn of_listener(families: &mut Families, listener: &Listener) {
    let name = ("listener", listener.name());
    let sum = |of: &dyn Fn(&ListenerStats) -> u64| listener.all_stats().iter().map(of).sum::<u64>() as f64;
    let mut counter = |metric, help, labels: &[_], value| families.add(Kind::Counter, metric, help, labels, value);
    counter("connections_opened_total", "Connections accepted.", &[name], sum(&ListenerStats::opened));
    for reason in Reason::ALL {
        let labels = [name, ("reason", reason.as_str())];
        counter("connections_closed_total", "Sessions ended, by reason.", &labels, sum(&|stats| stats.closed(reason)));
    }
    for error in AcceptError::ALL {
        let labels = [name, ("errno", error.as_str())];
        let help = "Failures to accept a connection.";
        counter("accept_errors_total", help, &labels, sum(&|stats| stats.accept_errors(error)));
    }
    let spliced = sum(&|stats| stats.bytes().2);
    counter("spliced_bytes_total", "Bytes passed on without copying.", &[name], spliced);
    let active = f64::from(listener.active());
    families.add(Kind::Gauge, "connections_active", "Sessions now.", &[name], active);
    let help = "How long sessions lasted.";
    families.histogram("connection_duration_seconds", help, &[name], durations(listener));
}

/// What is counted of flows and their datagrams.
fn of_udp_listener(families: &mut Families, listener: &Listener) {
    let name = ("listener", listener.name());
    let sum = |of: &dyn Fn(&ListenerStats) -> u64| listener.all_stats().iter().map(of).sum::<u64>() as f64;
    let mut counter = |metric, help, labels: &[_], value| families.add(Kind::Counter, metric, help, labels, value);
    counter("udp_flows_created_total", "Flows begun.", &[name], sum(&ListenerStats::opened));
    for reason in Reason::ALL {
        let labels = [name, ("reason", reason.as_str())];
        counter("udp_flows_ended_total", "Flows ended, by reason.", &labels, sum(&|stats| stats.closed(reason)));
    }
    for reason in Moved::ALL {
        let labels = [name, ("reason", reason.as_str())];
        let help = "Flows that were given another backend, by what was wrong with the one before.";
        counter("udp_flows_moved_total", help, &labels, sum(&|stats| stats.udp().moved(reason)));
    }
    for reason in Dropped::ALL {
        let labels = [name, ("reason", reason.as_str())];
        let help = "Datagrams not passed on, by reason.";
        counter("udp_dropped_datagrams_total", help, &labels, sum(&|stats| stats.udp().dropped(reason)));
    }
    for (side, of) in [("client", UdpStats::client as fn(&UdpStats) -> (u64, u64)), ("backend", UdpStats::backend)] {
        for (direction, value) in
            [("received", sum(&|stats| of(stats.udp()).0)), ("sent", sum(&|stats| of(stats.udp()).1))]
        {
            let labels = [name, ("side", side), ("direction", direction)];
            counter("udp_datagrams_total", "Datagrams, by side and direction.", &labels, value);
        }
    }
    let active = f64::from(listener.active());
    families.add(Kind::Gauge, "udp_flows_active", "Flows now.", &[name], active);
    families.histogram("udp_flow_duration_seconds", "How long flows lasted.", &[name], durations(listener));
}

fn of_any_listener(families: &mut Families, listener: &Listener) {
    let name = ("listener", listener.name());
    let sum = |of: &dyn Fn(&ListenerStats) -> u64| listener.all_stats().iter().map(of).sum::<u64>() as f64;
    let mut counter = |metric, help, labels: &[_], value| families.add(Kind::Counter, metric, help, labels, value);
    for limit in Limit::ALL {
        let labels = [name, ("limit", limit.as_str())];
        counter("limit_refused_total", "Sessions refused by a limit.", &labels, sum(&|stats| stats.refused(limit)));
    }
    for failure in ConnectFailure::ALL.map(Some).into_iter().chain([None]) {
        let labels = [name, ("reason", failure.map_or("local", ConnectFailure::as_str))];
        let help = "Further backends tried, by what was wrong with the one before.";
        counter("retries_total", help, &labels, sum(&|stats| stats.retries(failure)));
    }
    let received = sum(&|stats| stats.bytes().0);
    let sent = sum(&|stats| stats.bytes().1);
    for (side, received, sent) in [("client", received, sent), ("backend", sent, received)] {
        let labels = [name, ("side", side)];
        counter("received_bytes_total", "Bytes received from that side and passed on.", &labels, received);
        counter("sent_bytes_total", "Bytes sent to that side.", &labels, sent);
    }
}

fn durations(listener: &Listener) -> HistogramSnapshot {
    let durations = listener.all_stats().iter().map(|stats| stats.duration().snapshot());
    durations.reduce(HistogramSnapshot::merged).expect("there is at least one worker")
}

fn of_source(families: &mut Families, state: &State, report: &SourceReport) {
    let (service, source) = (("service", &*report.service), ("source", &*report.name));
    let labels = [service, source];
    if let Some(at_ms) = report.last_success_ms {
        let at = state.wall(at_ms).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let help = "When the source last proved that it is in touch with its registry, in seconds since 1970.";
        families.add(Kind::Gauge, "source_last_success_timestamp_seconds", help, &labels, at);
    }
    let help = "Endpoints that the source reports.";
    families.add(Kind::Gauge, "source_endpoints", help, &labels, report.endpoints as f64);
    for other in SourceState::ALL {
        let labels = [service, source, ("state", other.as_str())];
        let value = f64::from(u8::from(other == report.state));
        families.add(Kind::Gauge, "source_state", "1 for the state that the source is in.", &labels, value);
    }
    for (update, count) in report.updates {
        let labels = [service, source, ("result", update.as_str())];
        let help = "What came of what the source said, by result.";
        families.add(Kind::Counter, "source_updates_total", help, &labels, count as f64);
    }
    for refusal in Refusal::ALL.map(Refusal::as_str) {
        let labels = [service, source, ("reason", refusal)];
        let count = report.refused.get(refusal).copied().unwrap_or_default();
        let help = "Endpoints that were reported and not taken, by reason, each time that they were.";
        families.add(Kind::Counter, "source_refused_endpoints_total", help, &labels, count as f64);
    }
}

fn of_service(families: &mut Families, service: &str, set: &BackendSet, now_ms: u64) {
    let waiting = f64::from(set.turnstile().waiting());
    let help = "Sessions that wait for a place at a backend.";
    families.add(Kind::Gauge, "queue_waiting", help, &[("service", service)], waiting);
    let scored = set.settings().policy == Policy::Latency;
    let home = set.settings().home.to_string();
    for view in set.zones(now_ms) {
        let zone = view.zone.to_string();
        let labels = [("service", service), ("zone", zone.as_str())];
        let mut gauge = |name, help, value| families.add(Kind::Gauge, name, help, &labels, value);
        let help = "Whether checks and ejections of the zone are ignored, because too few backends would be left.";
        gauge("panic", help, f64::from(u8::from(view.panic)));
        if !scored {
            continue;
        }
        let help = "Whether the zone is so slow that its sessions may be sent elsewhere.";
        gauge("zone_gate_open", help, f64::from(u8::from(view.gate_open)));
        for (name, help, us) in [
            ("zone_floor_seconds", "Answer time of the zone without congestion.", view.floor_us),
            ("zone_time_seconds", "Answer time of the zone now.", view.time_us),
        ] {
            if us > 0.0 {
                gauge(name, help, f64::from(us) / 1e6);
            }
        }
        if !view.home {
            let labels = [("service", service), ("from", home.as_str()), ("to", zone.as_str())];
            let help = "Sessions sent to another zone because it was to answer sooner.";
            families.add(Kind::Counter, "spill_total", help, &labels, view.spills as f64);
        }
    }
}

/// What is known only after traffic is left out until then: a 0 would be the best answer time there is.
fn estimates(families: &mut Families, service: &str, it: &Candidate, scored: bool) {
    let address = it.backend.address().to_string();
    let labels = [("service", service), ("backend", address.as_str())];
    let mut gauge = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            families.add(Kind::Gauge, name, help, &labels, value);
        }
    };
    let state = it.backend.state();
    let answer = state.server_seconds();
    gauge("backend_server_time_seconds", "Estimated time to answer, without the network.", answer);
    gauge("backend_base_rtt_seconds", "Round trip to it without load.", state.base_rtt_seconds());
    let rtt = state.kernel_rtt_seconds().map(|(rtt, _least)| rtt);
    gauge("backend_tcp_rtt_seconds", "Round trip of one of its connections, as the kernel measures it.", rtt);
    gauge("backend_load", "Work it has from us, in sessions that wait for an answer.", Some(it.terms.load.into()));
    gauge("backend_inflight_turns", "Requests that wait for its answer.", Some(it.turns.into()));
    gauge("backend_failure_ratio", "Share of recent tries that failed.", Some(it.failure_ratio.into()));
    let score = (scored && it.terms.score_us.is_finite()).then(|| f64::from(it.terms.score_us) / 1e6);
    gauge("backend_score_seconds", "What it would be picked for; the lowest of a zone is.", score);
    let help = "Time from a client's bytes to the first byte of the answer.";
    families.histogram("backend_turn_seconds", help, &labels, state.turn_seconds().snapshot());
}

fn of_backend(families: &mut Families, service: &str, it: &Candidate) {
    let (backend, standing) = (&it.backend, it.standing);
    let address = backend.address().to_string();
    let (service, address) = (("service", service), ("backend", address.as_str()));
    let state = backend.state();
    for other in Standing::ALL {
        let labels = [service, address, ("state", other.as_str())];
        let value = f64::from(u8::from(other == standing));
        families.add(Kind::Gauge, "backend_state", "1 for the state that the backend is in.", &labels, value);
    }
    let labels = [service, address];
    let sessions = f64::from(state.sessions());
    families.add(Kind::Gauge, "backend_sessions", "Sessions, connecting or established.", &labels, sessions);
    let mut counter = |metric, help, labels: &[_], value: u64| {
        families.add(Kind::Counter, metric, help, labels, value as f64);
    };
    counter("backend_ejections_total", "Times that it was ejected.", &labels, state.ejections());
    let (received, sent) = state.bytes();
    counter("backend_received_bytes_total", "Bytes from the backend.", &labels, received);
    counter("backend_sent_bytes_total", "Bytes to the backend.", &labels, sent);
    let help = "Segments that one in 64 of its sessions sent to it again, counted at their ends.";
    counter("backend_retransmits_total", help, &labels, state.retransmits());
    for reason in PickReason::ALL {
        let labels = [service, address, ("reason", reason.as_str())];
        counter("picks_total", "Times that it was picked, and why.", &labels, state.picks(reason));
    }
    for failure in ConnectFailure::ALL {
        let labels = [service, address, ("reason", failure.as_str())];
        let help = "Connections to it that failed by its or the network's doing.";
        counter("backend_connect_failures_total", help, &labels, state.failures(failure));
    }
    let help = "Time to connect.";
    families.histogram("backend_connect_seconds", help, &labels, state.connect_seconds().snapshot());
    let help = "Time from connected to the backend's first byte.";
    families.histogram("backend_first_byte_seconds", help, &labels, state.first_byte_seconds().snapshot());
}
