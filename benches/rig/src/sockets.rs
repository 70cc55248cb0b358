//! Sockets that never block, as thin as the rig needs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// What a send or receive came to.
pub(crate) enum Step {
    /// This many bytes were moved; never zero.
    Moved(usize),
    /// Nothing to do before the next event.
    Blocked,
    /// The other side has finished (receiving only).
    Finished,
    /// The connection is broken.
    Broken(Errno),
}

pub(crate) fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Inherited by what it accepts, which saves a call per connection.
    sockopt::set_tcp_nodelay(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, 4096)?;
    Ok(socket)
}

pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(net::getsockname(socket)?).map_err(|_| io::ErrorKind::Unsupported.into())
}

/// Accepts one connection, or `None` when none is waiting.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Starts connecting. On loopback the handshake is usually over when this returns.
pub(crate) fn connect(target: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = stream_socket(target)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> Step {
    match net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => Step::Moved(sent),
        Err(Errno::AGAIN | Errno::INTR) => Step::Blocked,
        Err(error) => Step::Broken(error),
    }
}

pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Step {
    match net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((_, 0)) => Step::Finished,
        Ok((_, count)) => Step::Moved(count),
        Err(Errno::AGAIN | Errno::INTR) => Step::Blocked,
        Err(error) => Step::Broken(error),
    }
}

/// Closes with a reset.
pub(crate) fn reset(socket: OwnedFd) {
    // Refused only on a socket that is gone, which is what is wanted.
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}

fn stream_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}
