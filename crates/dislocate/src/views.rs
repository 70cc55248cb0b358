//! What the admin listener says, in the words of the configuration.

use balance::{Backend, BackendSet};
use proxy::{Bind, ListenerView, SessionView};
use serde::Serialize;

/// A line of `/v1/services`.
#[derive(Debug, Serialize)]
pub struct ServiceJson {
    name: String,
    balance: &'static str,
    panic_threshold: u8,
    zones: Vec<ZoneJson>,
    backends: Vec<BackendJson>,
}

#[derive(Debug, Serialize)]
struct ZoneJson {
    zone: String,
    panic: bool,
}

#[derive(Debug, Serialize)]
struct BackendJson {
    address: String,
    zone: String,
    weight: u32,
    priority: u8,
    /// All facts together.
    state: &'static str,
    /// What the health check says.
    check: &'static str,
    sessions: u32,
    connecting: u32,
    failure_ratio: f32,
    ejections: u64,
}

impl ServiceJson {
    /// A service at `now_ms`.
    pub fn new(name: &str, set: &BackendSet, now_ms: u64) -> Self {
        let zones = set.panics(now_ms).into_iter();
        let backend = |backend: &std::sync::Arc<Backend>| BackendJson::new(backend, now_ms);
        Self {
            name: name.to_owned(),
            balance: set.settings().policy.as_str(),
            panic_threshold: set.settings().panic_threshold,
            zones: zones.map(|(zone, panic)| ZoneJson { zone: zone.to_string(), panic }).collect(),
            backends: set.backends().iter().map(backend).collect(),
        }
    }
}

impl BackendJson {
    fn new(backend: &Backend, now_ms: u64) -> Self {
        let (endpoint, state) = (backend.endpoint(), backend.state());
        Self {
            address: endpoint.address.to_string(),
            zone: endpoint.zone.to_string(),
            weight: endpoint.weight,
            priority: endpoint.priority,
            state: backend.standing(now_ms).as_str(),
            check: endpoint.facts.active.as_str(),
            sessions: state.sessions(),
            connecting: state.connecting(),
            failure_ratio: state.failure_ratio(now_ms),
            ejections: state.ejections(),
        }
    }
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
