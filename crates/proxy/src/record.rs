//! What is said about a session when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use balance::{Address, PickReason, Zone};

/// Why a session ended. A closed set: `docs/metrics.md` explains each, and a test compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Both sides finished, and all of it was forwarded.
    Closed,
    /// The client reset the connection.
    ClientReset,
    /// The backend reset the connection.
    BackendReset,
    /// The client's machine stopped answering.
    ClientUnreachable,
    /// The backend's machine stopped answering.
    BackendUnreachable,
    /// No byte either way for `idle_timeout`.
    IdleTimeout,
    /// One side had finished, and there was no byte for `half_close_timeout`.
    HalfCloseTimeout,
    /// The service had no backend to try.
    NoBackend,
    /// Every backend that was tried refused or could not be reached.
    ConnectFailed,
    /// The last backend tried did not answer within `connect_timeout`.
    ConnectTimeout,
    /// All backends were full, and so was the line of those who wait.
    QueueFull,
    /// All backends were full for as long as `queue_timeout`.
    QueueTimeout,
    /// A backend failed, and the service's retry budget was used up.
    RetryBudget,
    /// No free local port towards any backend that was tried.
    NoLocalPort,
    /// No descriptor for a connection to a backend.
    NoDescriptor,
    /// Another error of this machine.
    LocalError,
    /// The client reset the connection before a backend answered.
    ClientGone,
    /// The process was told to stop and `drain_timeout` had passed.
    DrainTimeout,
    /// The process was told to stop at once.
    Shutdown,
    /// `max_connections` of the process.
    LimitProcess,
    /// `max_connections` of the listener.
    LimitListener,
    /// `max_connections_per_source` of the listener.
    LimitSource,
    /// Too few descriptors left.
    LimitDescriptors,
    /// All replies to a flow that were to come have come.
    Answered,
    /// A flow without any reply made room for another one.
    Evicted,
    /// The backend's machine said that nobody receives there, and no other backend was left to try.
    BackendRefused,
    /// A flow's listener was taken out of the configuration.
    ListenerClosed,
    /// An error in dislocate itself.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 28] = [
        Self::Closed,
        Self::ClientReset,
        Self::BackendReset,
        Self::ClientUnreachable,
        Self::BackendUnreachable,
        Self::IdleTimeout,
        Self::HalfCloseTimeout,
        Self::NoBackend,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::RetryBudget,
        Self::NoLocalPort,
        Self::NoDescriptor,
        Self::LocalError,
        Self::ClientGone,
        Self::DrainTimeout,
        Self::Shutdown,
        Self::LimitProcess,
        Self::LimitListener,
        Self::LimitSource,
        Self::LimitDescriptors,
        Self::Answered,
        Self::Evicted,
        Self::BackendRefused,
        Self::ListenerClosed,
        Self::Internal,
    ];

    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::ClientUnreachable => "client_unreachable",
            Self::BackendUnreachable => "backend_unreachable",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::NoBackend => "no_backend",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::RetryBudget => "retry_budget",
            Self::NoLocalPort => "no_local_port",
            Self::NoDescriptor => "no_descriptor",
            Self::LocalError => "local_error",
            Self::ClientGone => "client_gone",
            Self::DrainTimeout => "drain_timeout",
            Self::Shutdown => "shutdown",
            Self::LimitProcess => "limit_process",
            Self::LimitListener => "limit_listener",
            Self::LimitSource => "limit_source",
            Self::LimitDescriptors => "limit_descriptors",
            Self::Answered => "answered",
            Self::Evicted => "evicted",
            Self::BackendRefused => "backend_refused",
            Self::ListenerClosed => "listener_closed",
            Self::Internal => "internal",
        }
    }
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address of the network.
    Inet(SocketAddr),
    /// A process of this machine, on a unix socket; it has no address worth naming.
    Unix,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inet(addr) => SocketAddr::new(addr.ip().to_canonical(), addr.port()).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// One session, told at its end. Exactly one for each accepted connection.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was accepted, by the wall clock.
    pub accepted: SystemTime,
    /// Unique in this process.
    pub session: u64,
    /// The listener's name.
    pub listener: Arc<str>,
    /// `tcp` or `udp`, or `stream` or `datagram` on a unix path.
    pub protocol: &'static str,
    /// Who came.
    pub client: Peer,
    /// The address that the client used, where it is one of the network.
    pub local: Option<SocketAddr>,
    /// The service's name.
    pub service: Arc<str>,
    /// The last backend tried.
    pub backend: Option<Address>,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Why that one.
    pub pick: Option<PickReason>,
    /// What the latency policy expected of it, in microseconds.
    pub score_us: Option<f32>,
    /// Time spent waiting for a place at a full backend.
    pub queued: Duration,
    /// Connections tried.
    pub attempts: u32,
    /// From the beginning of the successful connection to its being established.
    pub connect: Option<Duration>,
    /// From established to the first byte of the backend.
    pub first_byte: Option<Duration>,
    /// From accepted to the end.
    pub duration: Duration,
    /// Datagrams of the client that the backend's socket took; nothing where there are none.
    pub received_datagrams: Option<u64>,
    /// Datagrams of the backend that the client's socket took.
    pub sent_datagrams: Option<u64>,
    /// Bytes of the client that the backend's socket took.
    pub received_bytes: u64,
    /// Bytes of the backend that the client's socket took.
    pub sent_bytes: u64,
    /// How many of both were spliced.
    pub spliced_bytes: u64,
    /// Why it ended.
    pub reason: Reason,
}

/// Where records go. Called on the data path: it must not wait.
pub type RecordSink = Arc<dyn Fn(Record) + Send + Sync>;
