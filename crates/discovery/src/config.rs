//! What the program asks of this crate, already checked.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use balance::{Endpoint, Settings};

use crate::{Merge, Reach, Source};

/// A service with its endpoints, and how these are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Its name, unique among the services, and how it balances.
    pub settings: Settings,
    /// Its endpoints. The fact `active` is found out here; what is written in it is not looked at.
    pub endpoints: Vec<Endpoint>,
    /// How they are checked; nothing leaves every backend unknown, which counts as up.
    pub health: Option<HealthConfig>,
    /// Who else belongs to it.
    pub membership: Membership,
}

/// Where a service finds backends beside those of its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The registries, in the order of precedence. The endpoints of the configuration come before all of them where
    /// words are united, and after all of them where the first that has any counts.
    pub sources: Vec<SourceConfig>,
    /// How their words make one.
    pub merge: Merge,
    /// How backends are probed that a registry suddenly does not name any more, beside the service's own check. Nothing
    /// where nothing can be asked, as with datagrams: they serve until [`Membership::orphan_ttl`] is over.
    pub orphan_probe: Option<Probe>,
    /// How long such a backend serves on while it answers. Raising it bears longer with a registry that lies; lowering
    /// it takes away sooner what was taken out of many at once and still listens.
    pub orphan_ttl: Duration,
}

/// No registries.
impl Default for Membership {
    fn default() -> Self {
        let orphan_probe = Some(Probe::Tcp { port: None });
        Self { sources: Vec::new(), merge: Merge::default(), orphan_probe, orphan_ttl: ORPHAN_TTL }
    }
}

/// A source of a service.
#[derive(Clone)]
pub struct SourceConfig {
    /// Its name in metrics and on disk, unique in the service and the same over restarts.
    pub name: Arc<str>,
    /// What it asks, in words that are the same if and only if that is the same. While they stay, a reload does not
    /// touch it.
    pub identity: Arc<str>,
    /// The source itself.
    pub source: Arc<dyn Source>,
    /// Which addresses it may name.
    pub reach: Reach,
    /// Most endpoints it may have; 0 means 1. A longer list is refused as a whole.
    pub max_endpoints: usize,
}

/// Two are equal that mean the same, whether or not they are one object.
impl PartialEq for SourceConfig {
    fn eq(&self, other: &Self) -> bool {
        let key = |it: &Self| (Arc::clone(&it.name), Arc::clone(&it.identity), it.reach.clone(), it.max_endpoints);
        key(self) == key(other)
    }
}

impl Eq for SourceConfig {}

impl fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, identity, source, reach, max_endpoints } = self;
        let mut debug = f.debug_struct("SourceConfig");
        debug.field("name", name).field("identity", identity).field("kind", &source.kind());
        debug.field("reach", reach).field("max_endpoints", max_endpoints).finish()
    }
}

/// The health check of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is tried.
    pub probe: Probe,
    /// Time from a result to the next probe of the same backend, ±20 %. Raising it lowers the load on backends and
    /// notices trouble later. A backend whose results begin to contradict its state is asked again sooner, after a
    /// fifth of this but at least a second.
    pub interval: Duration,
    /// How long a probe may take in all. A backend that is slower than this has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up again; 0 means 1. The first success of a backend that was never
    /// judged is enough by itself.
    pub rise: u32,
    /// Failures in a row that take a backend down; 0 means 1.
    pub fall: u32,
}

/// Connects every 5 s: often enough to notice a dead backend within 10 s, and rare enough to be no load.
impl Default for HealthConfig {
    fn default() -> Self {
        Self { probe: Probe::Tcp { port: None }, interval: INTERVAL, timeout: TIMEOUT, rise: RISE, fall: FALL }
    }
}

/// What is tried to see whether a backend works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Connects, and closes without a word. Left out while real connections prove the same.
    Tcp {
        /// Another port of the backend's address, where a companion of what serves clients listens.
        port: Option<u16>,
    },
    /// Asks for a page by HTTP/1.1 on a fresh connection.
    Http {
        /// As for `Tcp`.
        port: Option<u16>,
        /// Path and query, beginning with `/`.
        path: String,
        /// The `Host` header; the backend's address when there is none.
        host: Option<String>,
        /// The statuses that are a success.
        expect: Vec<RangeInclusive<u16>>,
    },
    /// Sends a datagram, once more when half of the timeout is over, and waits for a reply. That nobody listens (ICMP) is
    /// known at once. A unix datagram socket is not asked: it has no address to reply to.
    Udp {
        /// As for `Tcp`.
        port: Option<u16>,
        /// What is sent.
        send: Vec<u8>,
        /// What the reply begins with.
        expect: Vec<u8>,
    },
    /// Runs a program, not by way of a shell; exit status 0 is a success. It finds the backend in the environment:
    /// `DISLOCATE_SERVICE`, `DISLOCATE_BACKEND` (the whole address), `DISLOCATE_HOST` (IP address or unix path),
    /// `DISLOCATE_PORT` (empty for unix) and `DISLOCATE_ZONE`.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// The words for a log line.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => f.write_str("tcp").and_then(|()| on_port(f, *port)),
            Self::Http { port, path, .. } => write!(f, "http GET {path}").and_then(|()| on_port(f, *port)),
            Self::Udp { port, .. } => f.write_str("udp").and_then(|()| on_port(f, *port)),
            Self::Exec { command } => write!(f, "exec {}", command.join(" ")),
        }
    }
}

fn on_port(f: &mut fmt::Formatter<'_>, port: Option<u16>) -> fmt::Result {
    port.map_or(Ok(()), |port| write!(f, " on port {port}"))
}

/// Long enough for somebody to look at a registry that lies, and for one that restarts to be filled again.
const ORPHAN_TTL: Duration = Duration::from_secs(600);
/// What a source may have unless it is told otherwise: more than any one service that we know of, and some 50 MB.
pub const MAX_ENDPOINTS: usize = 100_000;

/// Between the 2 s of HAProxy and the 10 s of Kubernetes. Where there is traffic, its own failures are noticed within
/// milliseconds, so that this need only find the trouble of quiet backends, and the end of all trouble.
const INTERVAL: Duration = Duration::from_secs(5);
/// Three round trips between continents. A lost SYN, which is sent again after 1 s (RFC 6298), fails the probe;
/// that is what `fall` forgives.
const TIMEOUT: Duration = Duration::from_secs(1);
/// As in HAProxy: one lucky answer of a restarting backend is not enough.
const RISE: u32 = 2;
/// As in HAProxy: a lost packet, or two, takes nothing down.
const FALL: u32 = 3;
