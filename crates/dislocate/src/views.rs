//! What the admin listener says, in the words of the configuration.

use std::collections::BTreeMap;

use balance::{BackendSet, Candidate, Policy, ZoneView};
use discovery::{MemberReport, SourceReport};
use proxy::{Bind, ListenerView, SessionView};
use serde::{Deserialize, Serialize};

/// A line of `/v1/services`.
#[derive(Debug, Serialize)]
pub struct ServiceJson {
    name: String,
    balance: &'static str,
    panic_threshold: u8,
    /// Sessions that wait for a place.
    waiting: u32,
    zones: Vec<ZoneJson>,
    backends: Vec<BackendJson>,
}

/// A zone of a service, in `/v1/services` and `/v1/explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZoneJson {
    /// Its name.
    pub zone: String,
    /// Whether it is the node's own.
    pub home: bool,
    /// Whether health is ignored in it.
    pub panic: bool,
    /// Whether it is so slow that its sessions may be sent elsewhere.
    pub gate_open: bool,
    /// How often that changed.
    pub gate_flips: u64,
    /// Its answer time without congestion; nothing while unknown.
    pub floor_ms: Option<f64>,
    /// Its answer time now; nothing while unknown.
    pub time_ms: Option<f64>,
    /// The round trip to its nearest backend; nothing while unknown.
    pub base_ms: Option<f64>,
    /// Sessions of the home zone that it got because it was to answer sooner.
    pub spills: u64,
}

#[derive(Debug, Serialize)]
struct BackendJson {
    address: String,
    /// The source that found it; nothing for the configuration.
    source: Option<String>,
    /// Whether no source names it any more.
    orphan: bool,
    zone: String,
    weight: u32,
    priority: u8,
    /// All facts together.
    state: &'static str,
    /// What the health check says.
    check: &'static str,
    /// Whether it has given too few answers to be known.
    warming: bool,
    sessions: u32,
    connecting: u32,
    /// Turns in flight.
    turns: u32,
    load: f32,
    answer_ms: Option<f64>,
    base_ms: Option<f64>,
    score_ms: Option<f64>,
    failure_ratio: f32,
    ejections: u64,
}

impl ServiceJson {
    /// A service at `now_ms`; `members` in the order of addresses say where its backends are from.
    pub fn new(name: &str, set: &BackendSet, members: &[MemberReport], now_ms: u64) -> Self {
        let scored = set.settings().policy == Policy::Latency;
        let backend = |at| {
            let candidate = set.candidate(at, now_ms);
            BackendJson::new(&candidate, member_of(members, &candidate), scored)
        };
        Self {
            name: name.to_owned(),
            balance: set.settings().policy.as_str(),
            panic_threshold: set.settings().panic_threshold,
            waiting: set.turnstile().waiting(),
            zones: zones(&set.zones(now_ms)),
            backends: (0..set.backends().len()).map(backend).collect(),
        }
    }
}

/// The zones of a service.
pub fn zones(zones: &[ZoneView]) -> Vec<ZoneJson> {
    let zone = |view: &ZoneView| ZoneJson {
        zone: view.zone.to_string(),
        home: view.home,
        panic: view.panic,
        gate_open: view.gate_open,
        gate_flips: view.gate_flips,
        floor_ms: known_ms(view.floor_us),
        time_ms: known_ms(view.time_us),
        base_ms: known_ms(view.base_us),
        spills: view.spills,
    };
    zones.iter().map(zone).collect()
}

impl BackendJson {
    fn new(it: &Candidate, member: Option<&MemberReport>, scored: bool) -> Self {
        let (endpoint, terms) = (it.backend.endpoint(), &it.terms);
        Self {
            address: endpoint.address.to_string(),
            source: member.and_then(|member| member.source.as_deref()).map(str::to_owned),
            orphan: member.is_some_and(MemberReport::is_orphan),
            zone: endpoint.zone.to_string(),
            weight: endpoint.weight,
            priority: endpoint.priority,
            state: it.standing.as_str(),
            check: endpoint.facts.active.as_str(),
            warming: !terms.is_warm(),
            sessions: it.sessions,
            connecting: it.connecting,
            turns: it.turns,
            load: terms.load,
            answer_ms: known_ms(terms.answer_us),
            base_ms: known_ms(terms.base_us),
            score_ms: (scored && terms.score_us.is_finite()).then(|| ms(terms.score_us)),
            failure_ratio: it.failure_ratio,
            ejections: it.backend.state().ejections(),
        }
    }
}

/// Microseconds as milliseconds, with three places.
pub fn ms(us: f32) -> f64 {
    f64::from(us).round() / 1e3
}

/// The same for a time that is 0 while it is unknown.
pub fn known_ms(us: f32) -> Option<f64> {
    (us > 0.0).then(|| ms(us))
}

/// A line of `/v1/listeners`.
#[derive(Debug, Serialize)]
pub struct ListenerJson {
    name: String,
    protocol: &'static str,
    addresses: Vec<String>,
    service: String,
    active: u32,
    max_connections: u32,
}

impl ListenerJson {
    /// A listener now.
    pub fn new(view: &ListenerView) -> Self {
        let settings = view.listener.settings();
        Self {
            name: view.listener.name().to_owned(),
            protocol: view.addresses.first().map_or("tcp", protocol),
            addresses: view.addresses.iter().map(ToString::to_string).collect(),
            service: settings.service.to_string(),
            active: view.listener.active(),
            max_connections: settings.max_connections,
        }
    }
}

/// `tcp`, or `stream` on a unix path.
pub fn protocol(bind: &Bind) -> &'static str {
    match bind {
        Bind::Inet(_) => "tcp",
        Bind::Unix(_) => "stream",
        Bind::Udp(_) => "udp",
        Bind::Datagram(_) => "datagram",
    }
}

/// Why a backend is in its service; `members` are in the order of addresses.
pub fn member_of<'m>(members: &'m [MemberReport], candidate: &Candidate) -> Option<&'m MemberReport> {
    let found = members.binary_search_by(|member| member.address.cmp(candidate.backend.address()));
    found.ok().map(|at| &members[at])
}

/// A line of `/v1/sources`.
#[derive(Debug, Serialize)]
pub struct SourceJson {
    service: String,
    source: String,
    kind: &'static str,
    state: &'static str,
    /// Endpoints that it reports.
    endpoints: usize,
    /// Whether they are its own words, and not those of the snapshot.
    confirmed: bool,
    /// Since it last proved that it is in touch with its registry; nothing when it never did.
    last_success_ago_ms: Option<u64>,
    /// Why its last run failed; stays when it works again.
    last_error: Option<String>,
    last_error_ago_ms: Option<u64>,
    /// What came of what it said.
    updates: BTreeMap<&'static str, u64>,
    /// Endpoints that were not taken, by reason.
    refused: BTreeMap<&'static str, u64>,
}

impl SourceJson {
    /// A source at `now_ms`.
    pub fn new(report: &SourceReport, now_ms: u64) -> Self {
        let ago = |at_ms: u64| now_ms.saturating_sub(at_ms);
        Self {
            service: report.service.to_string(),
            source: report.name.to_string(),
            kind: report.kind,
            state: report.state.as_str(),
            endpoints: report.endpoints,
            confirmed: report.is_confirmed,
            last_success_ago_ms: report.last_success_ms.map(ago),
            last_error: report.last_error.as_ref().map(|(text, _)| text.to_string()),
            last_error_ago_ms: report.last_error.as_ref().map(|&(_, at_ms)| ago(at_ms)),
            updates: report.updates.iter().map(|(update, count)| (update.as_str(), *count)).collect(),
            refused: report.refused.clone(),
        }
    }
}

/// A line of `/v1/sessions`.
#[derive(Debug, Serialize)]
pub struct SessionJson {
    session: u64,
    listener: String,
    client: String,
    backend: Option<String>,
    zone: Option<String>,
    age_ms: u64,
    idle_ms: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

impl SessionJson {
    /// A session now.
    pub fn new(view: &SessionView) -> Self {
        let backend = view.backend.as_ref();
        Self {
            session: view.session,
            listener: view.listener.to_string(),
            client: view.client.to_string(),
            backend: backend.map(|backend| backend.address().to_string()),
            zone: backend.map(|backend| backend.zone().to_string()),
            age_ms: view.age.as_millis() as u64,
            idle_ms: view.idle.as_millis() as u64,
            received_bytes: view.received_bytes,
            sent_bytes: view.sent_bytes,
        }
    }
}
