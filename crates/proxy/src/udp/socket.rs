//! Sockets of datagrams: those that clients send to, and those of flows towards backends.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::SocketAddrUnix;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, SockAddr, Socket, Type};

/// What addresses and control messages look like on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    /// IPv6, and IPv4 in its IPv6 form.
    V6,
    Unix,
}

impl Family {
    /// Of a socket that is bound or connected to `addr`.
    pub(crate) fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A socket of datagrams of any kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) family: Family,
}

impl<'a> Endpoint<'a> {
    pub(crate) fn new(fd: BorrowedFd<'a>, family: Family) -> Self {
        Self { fd, family }
    }
}

/// What a flow's socket is asked to tell of what it receives. Each thing is a system call for every flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Equipment {
    /// Nothing: for flows that end after a reply or a few.
    Lean,
    /// What [`equip`] asks for.
    Full,
}

/// Opens a non-blocking UDP socket at `addr`; `shared` with others that say the same.
///
/// *Errors*: the address is in use, or not of this host.
pub(crate) fn bind_udp(addr: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking().cloexec(), None)?;
    if addr.is_ipv6() {
        // Said out loud, so that `[::]` means the same whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // SO_REUSEADDR would let any UDP socket of this user have the same port, and the datagrams with it.
    socket.set_reuse_port(shared)?;
    // All before the bind: what comes after it must find them in force.
    enlarge_buffers(&socket);
    if addr.ip().is_unspecified() {
        // Where the client sent its datagram is where the reply must come from; the kernel would take the address that
        // the route suggests, which a client of another address of this host drops.
        match Family::of(addr) {
            Family::V6 => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            Family::V4 | Family::Unix => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        }
    }
    if addr.is_ipv6() {
        // For IPv4 in its IPv6 form.
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
    }
    receive_ecn(&socket, Family::of(addr))?;
    receive_whole(&socket);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Opens a non-blocking UDP socket that sends to `backend` and receives from it alone. An ICMP error for what was sent
/// is the error of a later call.
///
/// *Errors*: there is no route; no local port is free (`AddrNotAvailable`). The kernel gives such a socket a port that
/// no other has, from `net.ipv4.ip_local_port_range`, so that there are 28,232 of them at its default.
/// *Cost*: 2 system calls, and those of [`equip`] with `Equipment::Full`.
pub(crate) fn connect_udp(backend: SocketAddr, equipment: Equipment) -> io::Result<UdpSocket> {
    let backend = canonical(backend);
    let socket = Socket::new(Domain::for_address(backend), Type::DGRAM.nonblocking().cloexec(), None)?;
    if equipment == Equipment::Full {
        equip(&socket, Family::of(backend))?;
    }
    socket.connect(&backend.into()).map_err(|error| match error.kind() {
        // Else it would look like a socket that has nothing to say.
        io::ErrorKind::WouldBlock => io::ErrorKind::AddrNotAvailable.into(),
        _ => error,
    })?;
    Ok(socket.into())
}

/// Has a flow's socket tell what `Equipment::Full` is to tell: trains of datagrams in one piece (UDP_GRO) and the bits
/// of ECN. A flow that began lean can be given it when it goes on for longer.
///
/// *Cost*: 2 system calls.
pub(crate) fn equip<F: AsFd>(socket: &F, family: Family) -> io::Result<()> {
    receive_whole(socket);
    receive_ecn(socket, family)
}

/// Opens a non-blocking unix datagram socket that sends to `path`, with a name of its own to which replies come.
///
/// *Errors*: nobody is there, or what is there is no datagram socket.
/// *Cost*: 3 system calls.
pub(crate) fn connect_datagram(path: &Path) -> io::Result<UnixDatagram> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking().cloexec(), None)?;
    // The kernel finds an abstract name, which is gone with the socket.
    rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// An address of IPv4 in its IPv6 form as that of IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        // Not made anew, which would lose the interface of a link-local one.
        IpAddr::V6(_) => addr,
    }
}

/// Has the kernel hand over a train of datagrams of one sender in one piece. One that cannot hands them over singly.
fn receive_whole<F: AsFd>(socket: &F) {
    let _refused = setsockopt(socket, sockopt::UdpGroSegment, &true);
}

fn receive_ecn<F: AsFd>(socket: &F, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::IpRecvTos, &true)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6RecvTClass, &true)?,
        Family::Unix => {}
    }
    Ok(())
}

/// Makes room for what comes while the worker is busy, and for a batch of replies on their way out.
fn enlarge_buffers(socket: &Socket) {
    // Beyond the limits of net.core only with CAP_NET_ADMIN; without, as far as they allow. Too small a buffer shows
    // where it matters, in the kernel's count of what it dropped, and is no reason not to listen.
    if set_socket_recv_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        let _cut = socket.set_recv_buffer_size(BUFFER_BYTES);
    }
    if set_socket_send_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        let _cut = socket.set_send_buffer_size(BUFFER_BYTES);
    }
}

/// Asked for each listening socket in each direction. A small datagram takes some 800 bytes of it in the kernel's count,
/// so that it holds 5,000: 10 ms of 500,000 a second.
const BUFFER_BYTES: usize = 4 << 20;
