//! What the program asks of this crate, already checked.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use balance::{Endpoint, Settings};

/// A service with its endpoints, and how these are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Its name, unique among the services, and how it balances.
    pub settings: Settings,
    /// Its endpoints. The fact `active` is found out here; what is written in it is not looked at.
    pub endpoints: Vec<Endpoint>,
    /// How they are checked; nothing leaves every backend unknown, which counts as up.
    pub health: Option<HealthConfig>,
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
