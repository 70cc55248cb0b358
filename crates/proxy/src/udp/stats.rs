//! What is counted of datagrams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a datagram was not passed on; the `reason` of `dislocate_udp_dropped_datagrams_total`. A closed set:
/// `docs/metrics.md` explains each, and a test compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// The service had no backend for a new flow, or for one whose backend is gone.
    NoBackend,
    /// All backends have as many sessions as they may.
    BackendsFull,
    /// `max_connections` of the process, and all its flows have had replies.
    LimitProcess,
    /// `max_connections` of the listener, and all its flows have had replies.
    LimitListener,
    /// `max_connections_per_source`.
    LimitSource,
    /// Too few descriptors left, and all flows have had replies.
    LimitDescriptors,
    /// The client's network has too many flows that were never answered.
    LimitNetwork,
    /// `unproven_datagrams` of a source that has not shown that it receives replies.
    LimitRate,
    /// `unproven_reply_bytes` of such a source.
    LimitReplies,
    /// No new flows, since the listener is to close.
    Draining,
    /// It came from an address on which this process itself listens.
    OwnListener,
    /// Longer than any buffer, so that only its beginning was received.
    Truncated,
    /// Longer than the next network takes, or than UDP allows.
    TooBig,
    /// The backend's machine said that nobody receives there.
    BackendRefused,
    /// There is no way to the backend's or the client's network.
    Unreachable,
    /// The kernel had no room for it to be sent.
    NoBuffers,
    /// No free local port towards a backend.
    NoLocalPort,
    /// Another error of this machine.
    LocalError,
    /// The PROXY header that it should have begun with was missing or malformed, or its sender is not trusted with one.
    ProxyHeader,
    /// A reply to a client that has no address.
    NoReturn,
}

impl Dropped {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 20] = [
        Self::NoBackend,
        Self::BackendsFull,
        Self::LimitProcess,
        Self::LimitListener,
        Self::LimitSource,
        Self::LimitDescriptors,
        Self::LimitNetwork,
        Self::LimitRate,
        Self::LimitReplies,
        Self::Draining,
        Self::OwnListener,
        Self::Truncated,
        Self::TooBig,
        Self::BackendRefused,
        Self::Unreachable,
        Self::NoBuffers,
        Self::NoLocalPort,
        Self::LocalError,
        Self::ProxyHeader,
        Self::NoReturn,
    ];

    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::BackendsFull => "backends_full",
            Self::LimitProcess => "limit_process",
            Self::LimitListener => "limit_listener",
            Self::LimitSource => "limit_source",
            Self::LimitDescriptors => "limit_descriptors",
            Self::LimitNetwork => "limit_network",
            Self::LimitRate => "limit_rate",
            Self::LimitReplies => "limit_replies",
            Self::Draining => "draining",
            Self::OwnListener => "own_listener",
            Self::Truncated => "truncated",
            Self::TooBig => "too_big",
            Self::BackendRefused => "backend_refused",
            Self::Unreachable => "unreachable",
            Self::NoBuffers => "no_buffers",
            Self::NoLocalPort => "no_local_port",
            Self::LocalError => "local_error",
            Self::ProxyHeader => "proxy_header",
            Self::NoReturn => "no_return",
        }
    }
}

/// Why a flow was given another backend; the `reason` of `dislocate_udp_flows_moved_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moved {
    /// Its backend's machine said that nobody receives there.
    Refused,
    /// Its backend is not in the service any more, failed its checks, or was ejected (for silence, too).
    Gone,
    /// Its backend drains, and the service says `move_now`.
    Draining,
}

impl Moved {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Refused, Self::Gone, Self::Draining];

    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Draining => "draining",
        }
    }
}

/// Datagrams of one listener on one worker.
#[derive(Debug, Default)]
pub struct UdpStats {
    client_received: AtomicU64,
    client_sent: AtomicU64,
    backend_received: AtomicU64,
    backend_sent: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    moved: [AtomicU64; Moved::ALL.len()],
}

impl UdpStats {
    /// Datagrams received from clients, and sent to them.
    pub fn client(&self) -> (u64, u64) {
        (self.client_received.load(Relaxed), self.client_sent.load(Relaxed))
    }

    /// Datagrams received from backends, and sent to them.
    pub fn backend(&self) -> (u64, u64) {
        (self.backend_received.load(Relaxed), self.backend_sent.load(Relaxed))
    }

    /// Datagrams that were not passed on for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize].load(Relaxed)
    }

    /// Flows that were given another backend for this reason.
    pub fn moved(&self, reason: Moved) -> u64 {
        self.moved[reason as usize].load(Relaxed)
    }

    pub(crate) fn count_client(&self, received: u64, sent: u64) {
        self.client_received.fetch_add(received, Relaxed);
        self.client_sent.fetch_add(sent, Relaxed);
    }

    pub(crate) fn count_backend(&self, received: u64, sent: u64) {
        self.backend_received.fetch_add(received, Relaxed);
        self.backend_sent.fetch_add(sent, Relaxed);
    }

    pub(crate) fn count_dropped(&self, reason: Dropped, datagrams: u64) {
        self.dropped[reason as usize].fetch_add(datagrams, Relaxed);
    }

    pub(crate) fn count_moved(&self, reason: Moved) {
        self.moved[reason as usize].fetch_add(1, Relaxed);
    }
}
