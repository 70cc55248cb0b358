//! UDP sockets, and moving many datagrams in one call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn};
use nix::sys::socket::{recvmmsg, sendmmsg, sendmsg, setsockopt, sockopt};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

use crate::args::wrong;

/// Datagrams (or trains of them) that one call moves at most.
pub const BATCH: usize = 32;

/// A train of segments, as generic receive offload delivers it, is no longer than an IP packet.
const TRAIN_BYTES: usize = 1 << 16;
/// Whole datagrams of an ordinary network.
const DATAGRAM_BYTES: usize = 2048;
/// Enough that nothing is lost here: what is lost shall be the proxy's doing.
const BUFFER_BYTES: usize = 8 << 20;

/// A socket bound to `local`. With a `segment` size, what is longer leaves as a train of segments of that size
/// (UDP_SEGMENT), and trains arrive whole (UDP_GRO).
pub fn bound(local: SocketAddr, segment: Option<u16>) -> io::Result<OwnedFd> {
    let socket =
        net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    // Beyond the limit of the machine needs a privilege; without it, up to the limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES)?;
    }
    if let Some(segment) = segment {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(segment))?;
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    }
    net::bind(&socket, &local)?;
    Ok(socket)
}

/// A socket that talks to `target` only.
pub fn connected(target: SocketAddr, segment: Option<u16>) -> io::Result<OwnedFd> {
    let socket = bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), segment)?;
    net::connect(&socket, &target)?;
    Ok(socket)
}

/// IPv4 addresses only: the sources of [`send_from`] are.
pub fn v4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(wrong(format!("{address} is not an IPv4 address"))),
    }
}

/// Room for one call's datagrams.
pub struct Inbox {
    headers: MultiHeaders<SockaddrIn>,
    buffer: Vec<u8>,
    each: usize,
    /// Length and sender of each that the last call brought.
    received: Vec<(usize, Option<SockaddrIn>)>,
}

impl Inbox {
    /// With room for trains of segments if `trains`, else for ordinary datagrams.
    pub fn new(trains: bool) -> Self {
        let each = if trains { TRAIN_BYTES } else { DATAGRAM_BYTES };
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            buffer: vec![0; each * BATCH],
            each,
            received: Vec::with_capacity(BATCH),
        }
    }

    /// Replaces the contents by what waits, at most [`BATCH`]; how many. A pending ICMP error comes back as an error.
    pub fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        self.received.clear();
        let mut rooms = self.buffer.chunks_exact_mut(self.each);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(rooms.next().expect("as many rooms as slices"))]);
        match recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), MsgFlags::empty(), None) {
            Ok(messages) => self.received.extend(messages.map(|message| (message.bytes, message.address))),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.received.len())
    }

    /// The datagrams of the last call.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let rooms = self.buffer.chunks_exact(self.each);
        rooms.zip(&self.received).map(|(room, (length, _))| &room[..*length])
    }

    /// Their senders.
    pub fn senders(&self) -> impl Iterator<Item = Option<SockaddrIn>> {
        self.received.iter().map(|(_, sender)| *sender)
    }
}

/// Headers for one call's datagrams.
pub struct Outbox(MultiHeaders<SockaddrIn>);

impl Outbox {
    /// For up to [`BATCH`] datagrams a call.
    pub fn new() -> Self {
        Self(MultiHeaders::preallocate(BATCH, None))
    }

    /// Sends up to [`BATCH`] datagrams, to `addresses` or, where there is none, to the socket's peer; how many left.
    pub fn send<'a>(
        &'a mut self,
        socket: &OwnedFd,
        datagrams: impl Iterator<Item = &'a [u8]>,
        addresses: &'a [Option<SockaddrIn>],
    ) -> io::Result<usize> {
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        let mut count = 0;
        for (slice, datagram) in slices.iter_mut().zip(datagrams) {
            *slice = [IoSlice::new(datagram)];
            count += 1;
        }
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmmsg(socket.as_raw_fd(), &mut self.0, slices[..count].iter(), &addresses[..count], [], flags) {
            Ok(sent) => Ok(sent.count()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sends one datagram from an address of our choice: to a proxy, every other source is another client, and all their
/// answers come back to this one socket.
pub fn send_from(socket: &OwnedFd, source: Ipv4Addr, target: SocketAddrV4, datagram: &[u8]) -> io::Result<()> {
    let from = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let parts = [IoSlice::new(datagram)];
    let control = [ControlMessage::Ipv4PacketInfo(&from)];
    sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, Some(&SockaddrIn::from(target)))?;
    Ok(())
}
