//! A flow: one client's datagrams to one backend, and the replies.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use balance::{Address, Backend, Lease, PickReason, Turns, source_key};

use super::batch::{Local, Source};
use super::socket::{Endpoint, Equipment, Family, connect_datagram, connect_udp, equip};
use super::stats::Moved;
use super::table::{self, prefixes};
use crate::limits::Permit;
use crate::record::Peer;

/// Whose datagrams are one flow: who sent them, and to which of our addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey {
    pub(crate) source: Source,
    pub(crate) local: Option<Local>,
}

impl table::Origin for ClientKey {
    fn prefix(&self) -> u64 {
        self.source.inet().map_or(0, |addr| prefixes(addr.ip()).0)
    }

    fn source(&self) -> u64 {
        self.source.inet().map_or(0, |addr| prefixes(addr.ip()).1)
    }
}

/// A flow's socket, connected to its backend.
#[derive(Debug)]
pub(crate) enum Upstream {
    Udp(UdpSocket, Family),
    Unix(UnixDatagram),
}

impl Upstream {
    pub(crate) fn connect(backend: &Address, equipment: Equipment) -> io::Result<Self> {
        match backend {
            Address::Inet(addr) => Ok(Self::Udp(connect_udp(*addr, equipment)?, Family::of(*addr))),
            Address::Unix(path) => Ok(Self::Unix(connect_datagram(path)?)),
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        match self {
            Self::Udp(socket, family) => Endpoint::new(socket.as_fd(), *family),
            Self::Unix(socket) => Endpoint::new(socket.as_fd(), Family::Unix),
        }
    }

    /// Makes a lean socket receive several datagrams as one, and their ECN bits.
    fn equip(&self) {
        if let Self::Udp(socket, family) = self {
            // Without it everything works as before, one datagram at a time.
            let _refused = equip(socket, *family);
        }
    }
}

/// What a flow is beside its place in the table.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Unique in this process.
    pub(crate) session: u64,
    pub(crate) began: Instant,
    /// Whom the datagrams are from: the sender, or whom a trusted sender names.
    pub(crate) client: Peer,
    pub(crate) upstream: Upstream,
    /// The socket receives several datagrams at once, and ECN bits.
    pub(crate) is_equipped: bool,
    /// Missing for a moment only, while another backend is sought.
    pub(crate) lease: Option<Lease>,
    pub(crate) turns: Turns,
    /// The first datagram, until the first reply: another backend gets it when this one's machine refuses it.
    pub(crate) held: Option<Box<[u8]>>,
    /// Why the next datagram must go to another backend, when that is known already.
    pub(crate) broken: Option<Moved>,
    /// Whether the backend has been told the client by a PROXY header.
    pub(crate) is_announced: bool,
    /// In the list of those whose reply may come too late.
    pub(crate) is_watched: bool,
    /// For which version of the live set it was found that its backend is in it.
    pub(crate) checked: u64,
    pub(crate) attempts: u32,
    pub(crate) first_reply: Option<Duration>,
    pub(crate) moved: Count,
    pub(crate) last: Chosen,
    pub(crate) _permit: Permit,
}

/// The last backend that was tried, and why that one.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) backend: Arc<Backend>,
    pub(crate) reason: PickReason,
    pub(crate) score_us: Option<f32>,
}

impl Chosen {
    pub(crate) fn of(lease: &Lease) -> Self {
        Self { backend: Arc::clone(lease.backend()), reason: lease.reason(), score_us: lease.score_us() }
    }
}

/// What was passed on, both ways.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_datagrams: u64,
    pub(crate) sent_datagrams: u64,
}

impl Flow {
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.last.backend
    }

    /// Makes its socket one for several datagrams at once and for ECN bits, if it is not yet.
    pub(crate) fn equip(&mut self) {
        if !std::mem::replace(&mut self.is_equipped, true) {
            self.upstream.equip();
        }
    }

    /// A client's datagrams went to the backend. Returns whether they begin a turn.
    pub(crate) fn asked(&mut self, datagrams: u64, bytes: u64, now_us: u64, now_ms: u64) -> bool {
        self.moved.received_datagrams += datagrams;
        self.moved.received_bytes += bytes;
        if self.moved.received_datagrams >= EQUIP_AFTER {
            self.equip();
        }
        let began = self.turns.client_bytes(now_us);
        if let (true, Some(lease)) = (began, &mut self.lease) {
            lease.turn_began(now_ms);
        }
        began
    }

    /// Replies came and were passed on.
    pub(crate) fn answered(&mut self, datagrams: u64, bytes: u64, now: Instant, now_us: u64, now_ms: u64) {
        self.moved.sent_datagrams += datagrams;
        self.moved.sent_bytes += bytes;
        let Some(lease) = &mut self.lease else { return };
        if let Some(sample) = self.turns.server_bytes(now_us) {
            lease.turn_ended(sample, now_ms);
        }
        if self.first_reply.is_none() {
            let took = now.saturating_duration_since(self.began);
            self.first_reply = Some(took);
            self.held = None;
            lease.backend().state().first_byte_seconds().observe(took);
        }
    }
}

/// When a flow was accepted, by the wall clock.
pub(crate) fn wall_clock(lasted: Duration) -> SystemTime {
    SystemTime::now().checked_sub(lasted).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The key of a client for policies that go by it.
pub(crate) fn affinity_of(client: Peer) -> u64 {
    match client {
        Peer::Inet(addr) => source_key(addr.ip()),
        Peer::Unix => 0,
    }
}

/// Datagrams of a client after which its flow is no short one any more, and two further system calls for its socket pay.
const EQUIP_AFTER: u64 = 4;
