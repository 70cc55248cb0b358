//! The configuration after every check: nothing here can be missing, contradictory or out of bounds.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use balance::{Address, Policy, Zone, Zones};
use discovery::sources::{
    ConsulSettings, DnsSettings, EtcdSettings, FileSettings, HttpSettings, KubernetesSettings, XdsSettings,
};
use discovery::{Cidr, Merge};
use proxy::{Bind, ConnectionIds, Draining, Networks, SendProxy, Unproven};

use super::report::Report;

/// A whole configuration that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This process.
    pub node: Node,
    /// The admin API.
    pub admin: Admin,
    /// Where clients arrive. Names are unique, and so are addresses; at least one.
    pub listeners: Vec<Listener>,
    /// For each listener the lines of its addresses, one for one.
    pub listen_lines: Vec<Vec<usize>>,
    /// What clients ask for. Names are unique, and every listener's service is among them.
    pub services: Vec<Service>,
    /// A hash of the text, to tell a file that was touched from one that was changed. Stable within a process only.
    pub hash: u64,
    /// What is remarkable but not wrong; for the log and for `check`.
    pub warnings: Report,
}

impl Config {
    /// The line that asks for an address of a listener.
    pub fn line_of(&self, listener: &str, bind: &Bind) -> Option<usize> {
        let at = self.listeners.iter().position(|other| other.name == listener)?;
        let binds = &self.listeners[at].binds;
        self.listen_lines[at].get(binds.iter().position(|other| other == bind)?).copied()
    }
}

/// This process and the machine it runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name in logs and metrics.
    pub name: String,
    /// Where this node is.
    pub zone: Zone,
    /// Threads that carry traffic, at least one.
    pub workers: usize,
    /// Sessions of the whole process; `None` is what the limit on open files allows.
    pub max_connections: Option<NonZeroU32>,
    /// Where the backends that sources found are remembered; `None` is nowhere.
    pub state_dir: Option<PathBuf>,
    /// How long sessions may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Where session records go.
    pub log: LogTarget,
}

/// Where session records go.
#[derive(Clone, Debug, PartialEq)]
pub enum LogTarget {
    /// Standard error, with the events.
    Stderr,
    /// Nowhere.
    None,
    /// A file, to the end of which they are written.
    File(PathBuf),
}

/// The admin API.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub listen: AdminAddress,
}

/// Where the admin API listens.
#[derive(Clone, Debug, PartialEq)]
pub enum AdminAddress {
    /// A loopback address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A unix socket, guarded by the permissions of its directory.
    Unix(PathBuf),
}

/// Prints the form that the configuration takes.
impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A place where clients arrive, and how their sessions are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The name in logs and metrics.
    pub name: String,
    /// The addresses, ranges of ports expanded; at least one.
    pub binds: Vec<Bind>,
    /// The name of its service.
    pub service: String,
    /// Silence in both directions after which a session is ended.
    pub idle_timeout: Duration,
    /// Silence after one side has finished after which a session is ended.
    pub half_close_timeout: Duration,
    /// Silence after which TCP asks whether the peer is still there.
    pub keepalive: Duration,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Duration,
    /// How long one try to reach a backend may take.
    pub connect_timeout: Duration,
    /// Other backends tried after the first.
    pub retries: u32,
    /// Sessions of this listener, at least 1.
    pub max_connections: u32,
    /// Sessions of one source address; 0 is no limit.
    pub max_connections_per_source: u32,
    /// Whether bulk data moves by splice(2).
    pub splice: bool,
    /// What flows of datagrams need beside; nothing where clients connect. All `binds` are of the one kind or the other.
    pub udp: Option<UdpListener>,
}

/// What a listener of datagrams has beside.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpListener {
    /// Datagrams of the client in one flow; 0 is no limit.
    pub requests: u32,
    /// Replies to each of them; 0 is no limit.
    pub replies: u32,
    /// Who must say by a PROXY header on whose behalf they send.
    pub accept_proxy: Networks,
    /// What a source may do that has not proven itself.
    pub unproven: Unproven,
}

/// What clients ask for, and who serves it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The name in logs and metrics.
    pub name: String,
    /// How a backend is chosen for a new session.
    pub balance: Policy,
    /// What zones mean to the latency policy.
    pub zones: Zones,
    /// How much sooner another zone must answer, beside 10 %.
    pub zone_margin: Duration,
    /// Sessions of one backend; 0 is no limit.
    pub max_connections_per_backend: u32,
    /// How long a session may wait while all backends are full; zero is not at all.
    pub queue_timeout: Duration,
    /// How many sessions may wait.
    pub queue_length: u32,
    /// Percent of a zone's backends below which health is ignored, 0 to 100.
    pub panic_threshold: u8,
    /// What flows of datagrams need beside. Sessions of connections take nothing from it.
    pub udp: UdpService,
    /// Where else its backends are found. Labels are unique.
    pub sources: Vec<Source>,
    /// How the words of several sources make one.
    pub merge: Merge,
    /// How long a backend serves on that no source names any more.
    pub orphan_ttl: Duration,
    /// The backends, each address once; at least one where there is no source.
    pub backends: Vec<Endpoint>,
    /// How they are checked.
    pub health: Health,
}

/// What a service has for flows of datagrams.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpService {
    /// What becomes of flows whose backend drains.
    pub draining: Draining,
    /// How long a datagram may wait for a reply until the backend is blamed.
    pub reply_timeout: Duration,
    /// Which datagrams tell the backend the client by a PROXY header.
    pub send_proxy: Option<SendProxy>,
    /// How connection IDs of QUIC lead to backends, the config IDs unique; `None` is by addresses alone.
    pub connection_ids: Option<ConnectionIds>,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it accepts connections.
    pub address: Address,
    /// Its share of the sessions, 0 to 65535; 0 is draining.
    pub weight: u32,
    /// Where it is; the node's zone where none was written.
    pub zone: Zone,
    /// 0 is used first; a backup is 1.
    pub priority: u8,
    /// The server ID in the QUIC connection IDs that it issues, as long as one of its service's configurations says;
    /// unique within the service.
    pub server_id: Option<Box<[u8]>>,
}

/// A registry in which a service finds backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The name in metrics, logs and the snapshot.
    pub label: String,
    /// What is asked, and how.
    pub kind: SourceKind,
    /// The networks that backends may be in; none are all but loopback, link-local and our own listeners.
    pub allowed: Vec<Cidr>,
    /// The most endpoints that it may name, at least 1.
    pub max_endpoints: usize,
}

/// What a source asks. The settings are such that the source can be made.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceKind {
    /// A file, or the files of a folder.
    File(FileSettings),
    /// The DNS.
    Dns(DnsSettings),
    /// A page over HTTP.
    Http(HttpSettings),
    /// Consul, one data centre.
    Consul(ConsulSettings),
    /// etcd.
    Etcd(EtcdSettings),
    /// A Service of Kubernetes.
    Kubernetes(KubernetesSettings),
    /// A cluster of a control plane that speaks xDS.
    Xds(XdsSettings),
}

/// How the backends of a service are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is tried.
    pub probe: Probe,
    /// Time between two checks of one backend.
    pub interval: Duration,
    /// How long one check may take, at most the interval.
    pub timeout: Duration,
    /// Good checks in a row that bring a backend back, at least 1.
    pub rise: u32,
    /// Bad checks in a row that take a backend out, at least 1.
    pub fall: u32,
}

/// What one check tries.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Nothing: a backend is up until its sessions say otherwise.
    None,
    /// A connection.
    Tcp {
        /// Another port of the backend's address.
        port: Option<u16>,
    },
    /// A GET request.
    Http {
        /// Another port of the backend's address.
        port: Option<u16>,
        /// What is asked for, beginning with `/`.
        path: String,
        /// The Host header; `None` is the backend's address.
        host: Option<String>,
        /// The statuses that count as good, at least one range within 100 to 599.
        expect: Vec<RangeInclusive<u16>>,
    },
    /// A datagram.
    Udp {
        /// Another port of the backend's address.
        port: Option<u16>,
        /// What is sent, at least one byte.
        send: Vec<u8>,
        /// What the reply begins with; empty is any reply.
        expect: Vec<u8>,
    },
    /// A program, good when it exits with 0.
    Exec {
        /// Its absolute path, then its arguments.
        command: Vec<String>,
    },
}
