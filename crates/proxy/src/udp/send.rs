//! Sending many datagrams with few system calls.
//!
//! What is to be sent is first laid out as messages of the kernel (`train`): trains of datagrams of one size to one
//! place, which the kernel cuts (UDP_SEGMENT), and single ones. Those that need the same control messages, one after
//! the other, then go in one call (sendmmsg).

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, sendmmsg, sendmsg,
};
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::batch::{ECN_BITS, Local, Source, control_space};
use super::socket::{Endpoint, Family};
use super::train::{Control, Offload, Train, Trains};

/// What is to be sent: a datagram, or a train of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// Put before each of the datagrams; empty for none.
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// The length of each datagram in `payload`, of which the last may be shorter. One that is 0 or not below the whole
    /// length says that there is one.
    pub(crate) segment: usize,
    /// Where to. None is for a connected socket.
    pub(crate) to: Option<&'a Source>,
    /// The address to send from, where the socket has several.
    pub(crate) from: Option<Local>,
    /// The two bits of ECN (RFC 3168).
    pub(crate) ecn: u8,
}

/// What became of messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) datagrams: u64,
    /// Of payload, without headers.
    pub(crate) bytes: u64,
    /// What was not sent. It is dropped, as the network may do it.
    pub(crate) failed: Vec<Failure>,
    /// An error that ICMP had reported for what was sent on the connected socket before. Nothing was lost by it now.
    pub(crate) pending: Option<SendFault>,
}

/// Datagrams that were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Which of the messages. Of several that became one train, all to one place, the first.
    pub(crate) message: usize,
    pub(crate) datagrams: u64,
    /// Of payload, without headers.
    pub(crate) bytes: u64,
    pub(crate) fault: SendFault,
}

/// Why datagrams were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SendFault {
    /// The datagram is longer than what the socket sends.
    TooBig,
    /// Nobody listens there.
    Refused,
    /// No way leads there.
    Unreachable,
    /// The kernel has no memory for it, or the queue of the interface is full.
    NoBuffers,
    /// The send buffer is full, or on a unix socket the receiver's queue.
    Full,
    /// A rule of this host forbids it.
    Denied,
    /// Something else.
    Other,
}

impl SendFault {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::EMSGSIZE => Self::TooBig,
            Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::ENOENT | Errno::ENOTCONN => Self::Refused,
            Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN | Errno::ENONET => {
                Self::Unreachable
            }
            Errno::ENOBUFS | Errno::ENOMEM => Self::NoBuffers,
            Errno::EAGAIN => Self::Full,
            Errno::EPERM | Errno::EACCES => Self::Denied,
            Errno::EDESTADDRREQ => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// Sends, and remembers what the kernel refused. One for each direction of a worker, because the ways to the backends
/// are others than those to the clients.
#[derive(Default)]
pub(crate) struct Sender {
    v4: Headers<SockaddrIn>,
    v6: Headers<SockaddrIn6>,
    offload: Offload,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sends `messages` in their order, as far as the kernel takes them; what it does not take is dropped.
    ///
    /// *Cost*: one system call for a train or a datagram alone, one for up to 32 of them that have the same ECN, local
    /// address and segment length, and one for each that fails. Allocates for each call, in proportion to the messages.
    pub(crate) fn send<'a>(&mut self, socket: Endpoint<'_>, messages: impl IntoIterator<Item = Message<'a>>) -> Sent {
        let trains = Trains::new(socket.family, self.offload.allows(), messages);
        let Self { v4, v6, offload } = self;
        match socket.family {
            Family::V4 => Round::new(socket, v4, offload).send(&trains),
            Family::V6 => Round::new(socket, v6, offload).send(&trains),
            Family::Unix => send_unix(socket.fd, &trains),
        }
    }
}

impl Sent {
    fn sent(&mut self, train: &Train<'_>) {
        self.datagrams += train.datagrams as u64;
        self.bytes += train.bytes() as u64;
    }

    fn failed(&mut self, train: &Train<'_>, fault: SendFault) {
        let (datagrams, bytes) = (train.datagrams as u64, train.bytes() as u64);
        self.failed.push(Failure { message: train.message, datagrams, bytes, fault });
    }
}

/// One call of [`Sender::send`].
struct Round<'a, S> {
    socket: Endpoint<'a>,
    headers: &'a mut Headers<S>,
    offload: &'a mut Offload,
    sent: Sent,
    /// The send buffer is full, so that there is no use in trying more.
    full: bool,
}

impl<'a, S: Address> Round<'a, S> {
    fn new(socket: Endpoint<'a>, headers: &'a mut Headers<S>, offload: &'a mut Offload) -> Self {
        Self { socket, headers, offload, sent: Sent::default(), full: false }
    }

    fn send(mut self, all: &Trains<'_>) -> Sent {
        self.send_all(all);
        self.sent
    }

    fn send_all(&mut self, all: &Trains<'_>) {
        let family = self.socket.family;
        for run in all.trains.chunk_by(|a, b| a.control(family) == b.control(family)) {
            run.chunks(MAX_RUN).for_each(|run| self.send_run(all, run));
        }
    }

    /// Sends `run`, all of which needs the same control messages.
    fn send_run(&mut self, all: &Trains<'_>, mut run: &[Train<'_>]) {
        // An error that waited on a connected socket comes in place of sending. It is gone then, so that trying again
        // shows which it was.
        let mut before = None;
        while let [first, rest @ ..] = run {
            let control = first.control(self.socket.family);
            let result =
                if self.full { Err(Errno::EAGAIN) } else { self.headers.send(self.socket.fd, all, run, control) };
            match result {
                Ok(number) => {
                    let (now, later) = run.split_at(number.min(run.len()));
                    now.iter().for_each(|train| self.sent.sent(train));
                    if control.segment > 0 {
                        self.offload.taken();
                    }
                    self.sent.pending = before.take().map(SendFault::of).or(self.sent.pending);
                    run = later;
                    continue;
                }
                Err(Errno::EAGAIN) => {
                    self.full = true;
                    self.sent.failed(first, SendFault::Full);
                }
                Err(errno) if first.to.is_none() && before.is_none() && may_have_waited(errno) => {
                    before = Some(errno);
                    continue;
                }
                Err(errno) if control.segment > 0 && refuses_trains(errno) => {
                    self.offload.refused();
                    self.send_all(&all.apart(first));
                }
                Err(errno) => self.sent.failed(first, SendFault::of(errno)),
            }
            before = None;
            run = rest;
        }
    }
}

/// Whether the kernel may say so of something that was sent before (`icmp_err_convert` in net/ipv4/icmp.c).
fn may_have_waited(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::ENOPROTOOPT
            | Errno::EOPNOTSUPP
            | Errno::EMSGSIZE
            | Errno::EPROTO
            | Errno::EACCES
    )
}

/// Whether the kernel may take the datagrams of a train singly that it does not take whole.
fn refuses_trains(errno: Errno) -> bool {
    matches!(errno, Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT)
}

/// The address of a socket's family.
trait Address: SockaddrLike + Copy {
    /// Whether the socket speaks of addresses in the terms of IPv6.
    const V6: bool;

    /// What stands for an address that the family does not have is one without a port, to which the kernel refuses to
    /// send.
    fn of(addr: Option<SocketAddr>) -> Self;
}

impl Address for SockaddrIn {
    const V6: bool = false;

    fn of(addr: Option<SocketAddr>) -> Self {
        match addr {
            Some(SocketAddr::V4(addr)) => addr.into(),
            Some(SocketAddr::V6(_)) | None => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }
}

impl Address for SockaddrIn6 {
    const V6: bool = true;

    fn of(addr: Option<SocketAddr>) -> Self {
        match addr {
            Some(SocketAddr::V4(addr)) => SocketAddrV6::new(addr.ip().to_ipv6_mapped(), addr.port(), 0, 0).into(),
            Some(SocketAddr::V6(addr)) => addr.into(),
            None => SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0).into(),
        }
    }
}

/// What sendmmsg needs, made once for each length of control messages, of which there are few.
struct Headers<S>(Vec<(usize, MultiHeaders<S>)>);

impl<S> Default for Headers<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: Address> Headers<S> {
    /// Sends the first of `run`, or more, and returns how many.
    fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        all: &Trains<'_>,
        run: &[Train<'_>],
        control: Control,
    ) -> nix::Result<usize> {
        if let [train] = run
            && let ([slice], None) = (all.slices(train), train.to)
            && control.is_nothing()
        {
            // What most flows send, without a message header for the kernel to read.
            return rustix::net::send(fd, slice, ONE).map(|_| 1).map_err(|errno| Errno::from_raw(errno.raw_os_error()));
        }
        let values = Values::new(control, S::V6);
        let (controls, space) = values.messages();
        let address = |train: &Train<'_>| train.to.map(|to| S::of(to.inet()));
        if let [train] = run {
            return sendmsg(fd.as_raw_fd(), all.slices(train), &controls, FLAGS, address(train).as_ref()).map(|_| 1);
        }
        let slices: Vec<&[IoSlice<'_>]> = run.iter().map(|train| all.slices(train)).collect();
        let addresses: Vec<Option<S>> = run.iter().map(address).collect();
        sendmmsg(fd.as_raw_fd(), self.of_space(space), &slices, addresses, controls, FLAGS).map(Iterator::count)
    }

    fn of_space(&mut self, space: usize) -> &mut MultiHeaders<S> {
        let at = self.0.iter().position(|(other, _)| *other == space).unwrap_or_else(|| {
            let room = (space > 0).then(|| vec![0; space]);
            self.0.push((space, MultiHeaders::preallocate(MAX_RUN, room)));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }
}

/// The values of control messages, as the kernel reads them.
struct Values {
    from: Option<From>,
    ecn: Option<Ecn>,
    segment: Option<u16>,
}

enum From {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

enum Ecn {
    V4(u8),
    V6(libc::c_int),
}

impl Values {
    fn new(control: Control, on_v6: bool) -> Self {
        let ecn = control.ecn & ECN_BITS;
        Self {
            from: control.from.and_then(|local| from(local, on_v6)),
            ecn: (ecn > 0).then_some(if control.v4 { Ecn::V4(ecn) } else { Ecn::V6(ecn.into()) }),
            segment: u16::try_from(control.segment).ok().filter(|length| *length > 0),
        }
    }

    /// The messages, and the bytes that they take.
    fn messages(&self) -> (Vec<ControlMessage<'_>>, usize) {
        let from = self.from.as_ref().map(|from| match from {
            From::V4(info) => (ControlMessage::Ipv4PacketInfo(info), size_of_val(info)),
            From::V6(info) => (ControlMessage::Ipv6PacketInfo(info), size_of_val(info)),
        });
        let ecn = self.ecn.as_ref().map(|ecn| match ecn {
            Ecn::V4(tos) => (ControlMessage::Ipv4Tos(tos), size_of_val(tos)),
            Ecn::V6(class) => (ControlMessage::Ipv6TClass(class), size_of_val(class)),
        });
        let segment = self.segment.as_ref().map(|length| (ControlMessage::UdpGsoSegments(length), size_of_val(length)));
        let mut messages = Vec::new();
        let mut space = 0;
        for (message, length) in [from, ecn, segment].into_iter().flatten() {
            messages.push(message);
            space += control_space(length);
        }
        (messages, space)
    }
}

/// `local` as the source of what is sent on a socket, if it can be one there.
fn from(local: Local, on_v6: bool) -> Option<From> {
    match local.ip {
        IpAddr::V4(ip) if !on_v6 => {
            let address = |ip: Ipv4Addr| libc::in_addr { s_addr: ip.to_bits().to_be() };
            let (ipi_spec_dst, ipi_addr) = (address(ip), address(Ipv4Addr::UNSPECIFIED));
            Some(From::V4(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr }))
        }
        IpAddr::V6(_) if !on_v6 => None,
        ip => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let ipi6_addr = libc::in6_addr { s6_addr: ip.octets() };
            Some(From::V6(libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: local.interface }))
        }
    }
}

/// Unix sockets have no trains, and each receiver a queue of its own.
fn send_unix(socket: BorrowedFd<'_>, all: &Trains<'_>) -> Sent {
    let mut sent = Sent::default();
    for train in &all.trains {
        let slices = all.slices(train);
        let mut none = SendAncillaryBuffer::default();
        let result = match train.to {
            None => rustix::net::sendmsg(socket, slices, &mut none, ONE),
            Some(Source::Unix(path)) => rustix::net::sendmsg_addr(socket, &**path, slices, &mut none, ONE),
            Some(Source::Inet(_) | Source::Unnamed) => Err(rustix::io::Errno::DESTADDRREQ),
        };
        match result {
            Ok(_) => sent.sent(train),
            Err(errno) => sent.failed(train, SendFault::of(Errno::from_raw(errno.raw_os_error()))),
        }
    }
    sent
}

const ONE: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
const FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Trains that one system call sends.
const MAX_RUN: usize = 32;
