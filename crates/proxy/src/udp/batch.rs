//! Receiving many datagrams with few system calls.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg,
};
use rustix::net::{RecvFlags, SocketAddrAny, SocketAddrUnix};

use super::socket::{Endpoint, Family, canonical};

/// Memory for datagrams, and what was received into it. Receiving fills the slots that are free, so that what several
/// sockets have to say gathers until it is sent on.
///
/// *Shape*: slots of one size, filled from the first. A slot holds a datagram, or a train of them (UDP_GRO).
#[derive(Debug)]
pub(crate) struct Batch {
    memory: Vec<u8>,
    slot_bytes: usize,
    slots: usize,
    filled: Vec<Slot>,
}

/// Whom a datagram came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An address; that of an IPv4 client is one of IPv4 on an IPv6 socket too.
    Inet(SocketAddr),
    /// A unix socket with a path or an abstract name.
    Unix(Arc<SocketAddrUnix>),
    /// A unix socket without a name: nothing can be sent back to it.
    Unnamed,
}

impl Source {
    /// The address, if it has one.
    pub(crate) fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(addr) => Some(*addr),
            Self::Unix(_) | Self::Unnamed => None,
        }
    }
}

/// The address of this host that a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Local {
    pub(crate) ip: IpAddr,
    /// The interface where `ip` is link-local. 0 elsewhere: which way a reply goes is for the routes to say.
    pub(crate) interface: u32,
}

/// What is in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) payload: &'a [u8],
    /// The length of each datagram in `payload`, of which the last may be shorter; all of it where there is one.
    pub(crate) segment: usize,
    pub(crate) source: &'a Source,
    /// Where the socket is bound to a wildcard.
    pub(crate) local: Option<Local>,
    /// The two bits of ECN (RFC 3168).
    pub(crate) ecn: u8,
    /// The datagram was longer than the slot, and its end is lost.
    pub(crate) truncated: bool,
}

impl<'a> Received<'a> {
    /// How many datagrams there are: at least one, for an empty one is one too.
    pub(crate) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.segment.max(1)).max(1)
    }

    /// Each of the datagrams.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (payload, segment) = (self.payload, self.segment);
        (0..self.count()).map(move |n| &payload[n * segment..payload.len().min((n + 1) * segment)])
    }
}

#[derive(Debug)]
struct Slot {
    bytes: usize,
    segment: usize,
    source: Source,
    local: Option<Local>,
    ecn: u8,
    truncated: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new(SLOTS, SLOT_BYTES)
    }
}

impl Batch {
    /// *Cost*: the memory is the kernel's zeroes until datagrams touch it.
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> Self {
        Self { memory: vec![0; slots * slot_bytes], slot_bytes, slots, filled: Vec::with_capacity(slots) }
    }

    /// Receives what waits on `socket` into the free slots, and says which it filled.
    ///
    /// *Errors*: `WouldBlock` when nothing waits. On a connected socket the errors that ICMP reports: what was sent
    /// before could not be delivered. The socket goes on working after each.
    /// *Cost*: for UDP a system call. For unix sockets one for each datagram, and one more.
    pub(crate) fn receive(&mut self, socket: Endpoint<'_>) -> io::Result<Range<usize>> {
        self.receive_up_to(socket, usize::MAX)
    }

    /// The same into at most `most` slots. When it fills fewer, and others are free, nothing more waits than perhaps an
    /// error, which the next call returns.
    pub(crate) fn receive_up_to(&mut self, socket: Endpoint<'_>, most: usize) -> io::Result<Range<usize>> {
        let start = self.filled.len();
        let most = most.min(self.free());
        if most > 0 {
            let memory = self.memory[start * self.slot_bytes..].chunks_exact_mut(self.slot_bytes).take(most);
            match socket.family {
                Family::V4 => receive_inet::<SockaddrIn>(socket.fd, memory, &mut self.filled)?,
                Family::V6 => receive_inet::<SockaddrIn6>(socket.fd, memory, &mut self.filled)?,
                Family::Unix => receive_unix(socket.fd, memory, &mut self.filled)?,
            }
        }
        Ok(start..self.filled.len())
    }

    /// What is in the slot `index`.
    ///
    /// *Panics*: it is not filled.
    pub(crate) fn slot(&self, index: usize) -> Received<'_> {
        let Slot { bytes, segment, source, local, ecn, truncated } = &self.filled[index];
        Received {
            payload: &self.memory[index * self.slot_bytes..][..*bytes],
            segment: *segment,
            source,
            local: *local,
            ecn: *ecn,
            truncated: *truncated,
        }
    }

    /// How many slots are filled.
    pub(crate) fn len(&self) -> usize {
        self.filled.len()
    }
    pub(crate) fn free(&self) -> usize {
        self.slots - self.filled.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Frees all slots.
    pub(crate) fn clear(&mut self) {
        self.filled.clear();
    }
}

fn receive_inet<'a, S>(
    socket: BorrowedFd<'_>,
    memory: impl Iterator<Item = &'a mut [u8]>,
    filled: &mut Vec<Slot>,
) -> io::Result<()>
where
    S: SockaddrLike + Copy + Into<SocketAddr>,
{
    let mut buffers: Vec<[IoSliceMut<'_>; 1]> = memory.map(|slot| [IoSliceMut::new(slot)]).collect();
    // Made for every call: the kernel shortens them to what it wrote, and they cannot be made long again.
    let mut headers = MultiHeaders::<S>::preallocate(buffers.len(), Some(Vec::with_capacity(CONTROL_BYTES)));
    let received = recvmmsg(socket.as_raw_fd(), &mut headers, buffers.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
    filled.extend(received.map(|message| Slot::inet(&message)));
    Ok(())
}

impl Slot {
    fn inet<S: Copy + Into<SocketAddr>>(message: &RecvMsg<'_, '_, S>) -> Self {
        let mut slot = Self {
            bytes: message.bytes,
            segment: message.bytes,
            source: message.address.map_or(Source::Unnamed, |address| Source::Inet(canonical(address.into()))),
            local: None,
            ecn: 0,
            truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
        };
        // There is room for all that was asked for, so that they are whole.
        for control in message.cmsgs().into_iter().flatten() {
            slot.note(&control);
        }
        slot
    }

    fn note(&mut self, control: &ControlMessageOwned) {
        match control {
            // For what was sent to many, the kernel names the address to reply from.
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let ip = Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr));
                self.local = Some(Local { ip: ip.into(), interface: 0 });
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                // From a group nothing can be sent.
                self.local = (!ip.is_multicast()).then_some(Local { ip: ip.to_canonical(), interface });
            }
            ControlMessageOwned::Ipv4Tos(tos) => self.ecn = tos & ECN_BITS,
            ControlMessageOwned::Ipv6TClass(class) => self.ecn = class.to_le_bytes()[0] & ECN_BITS,
            ControlMessageOwned::UdpGroSegments(length) => {
                if let Ok(length @ 1..) = usize::try_from(*length) {
                    self.segment = length.min(self.bytes);
                }
            }
            _ => {}
        }
    }
}

fn receive_unix<'a>(
    socket: BorrowedFd<'_>,
    memory: impl Iterator<Item = &'a mut [u8]>,
    filled: &mut Vec<Slot>,
) -> io::Result<()> {
    let start = filled.len();
    for slot in memory {
        let room = slot.len();
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let (_, sent, address) = match rustix::net::recvfrom(socket, slot, flags) {
            Ok(received) => received,
            // Told by the next call, if it lasts.
            Err(_) if filled.len() > start => break,
            Err(error) => return Err(error.into()),
        };
        let bytes = sent.min(room);
        let source = address.map_or(Source::Unnamed, unix_source);
        filled.push(Slot { bytes, segment: bytes, source, local: None, ecn: 0, truncated: sent > room });
    }
    Ok(())
}

fn unix_source(address: SocketAddrAny) -> Source {
    match SocketAddrUnix::try_from(address) {
        Ok(address) if !address.is_unnamed() => Source::Unix(Arc::new(address)),
        Ok(_) | Err(_) => Source::Unnamed,
    }
}

/// The bits of ECN in the type of service, and in the traffic class.
pub(super) const ECN_BITS: u8 = 0b11;

/// Enough that the system call is a small part of what a datagram costs, and few enough that the first of a batch does
/// not wait for the last.
const SLOTS: usize = 32;

/// More than any datagram or train of datagrams has.
const SLOT_BYTES: usize = 1 << 16;

/// Room for the control messages that a socket is asked for, at most these: the local address, ECN and UDP_GRO.
const CONTROL_BYTES: usize = control_space(size_of::<nix::libc::in6_pktinfo>())
    + control_space(size_of::<nix::libc::c_int>())
    + control_space(size_of::<nix::libc::c_int>());

/// Bytes that a control message of `length` takes: CMSG_SPACE(3).
pub(super) const fn control_space(length: usize) -> usize {
    let header = size_of::<nix::libc::cmsghdr>();
    (header + length).next_multiple_of(size_of::<usize>())
}
