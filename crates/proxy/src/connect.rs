//! Opening a connection to a backend, and telling whose fault it is when that fails.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use balance::{Address, ConnectFailure};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpStream, UnixStream};

use crate::leg::{Leg, Stream};

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The backend's or the network's doing: it counts against the backend.
    Backend(ConnectFailure, io::Error),
    /// This machine's doing: it says nothing about the backend.
    Local(LocalFailure, io::Error),
}

/// What this machine lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalFailure {
    /// No free port towards that address. Another backend has ports of its own.
    NoPort,
    /// No file descriptor.
    NoDescriptor,
    /// Memory, permission, an address family that is switched off.
    Other,
}

/// Connects to `address` within `limit`.
///
/// No local address is bound, so the kernel draws the local port for this destination only (a port bound before
/// connecting is taken for all destinations).
///
/// *Cancel safety*: dropping it closes the socket. *Cost*: socket, connect, epoll_ctl, and a timer.
pub(crate) async fn connect(address: &Address, limit: Duration) -> Result<Leg, ConnectError> {
    let started = begin(address).map_err(classify)?;
    let established = tokio::time::timeout(limit, poll_fn(|cx| started.poll_connected(cx)));
    match established.await {
        Ok(Ok(())) if may_meet_itself(address) && started.is_own_peer() => {
            Err(classify(io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error())))
        }
        Ok(Ok(())) => Ok(started),
        Ok(Err(error)) => Err(classify(error)),
        Err(_elapsed) => Err(ConnectError::Backend(ConnectFailure::Timeout, io::ErrorKind::TimedOut.into())),
    }
}

fn begin(address: &Address) -> io::Result<Leg> {
    let (domain, target) = match address {
        Address::Inet(addr @ SocketAddr::V4(_)) => (Domain::IPV4, SockAddr::from(*addr)),
        Address::Inet(addr @ SocketAddr::V6(_)) => (Domain::IPV6, SockAddr::from(*addr)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&target) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let stream = match address {
        Address::Inet(_) => Stream::Tcp(TcpStream::from_std(socket.into())?),
        Address::Unix(_) => Stream::Unix(UnixStream::from_std(socket.into())?),
    };
    Ok(Leg::connecting(stream))
}

/// Only on loopback, and only at a port that the kernel hands out itself.
fn may_meet_itself(address: &Address) -> bool {
    address.inet().is_some_and(|addr| addr.ip().is_loopback() && addr.port() >= FIRST_EPHEMERAL)
}

/// Whose fault an error of socket(2) or connect(2) is.
fn classify(error: io::Error) -> ConnectError {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let backend = |failure| Ok(failure);
    let local = |failure| Err(failure);
    let verdict = match errno {
        // ENOENT: the path of a unix socket that nobody has created.
        Some(Errno::CONNREFUSED | Errno::NOENT) => backend(ConnectFailure::Refused),
        Some(Errno::TIMEDOUT) => backend(ConnectFailure::Timeout),
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN) => {
            backend(ConnectFailure::Unreachable)
        }
        Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE) => backend(ConnectFailure::Reset),
        Some(Errno::ADDRNOTAVAIL) => local(LocalFailure::NoPort),
        Some(Errno::MFILE | Errno::NFILE) => local(LocalFailure::NoDescriptor),
        // ENOSPC: the user's watches of epoll(7) are used up.
        Some(Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC | Errno::ACCESS | Errno::PERM | Errno::AFNOSUPPORT) => {
            local(LocalFailure::Other)
        }
        // EAGAIN of a unix socket is a full backlog; the rest is as unexpected as it is unexplained.
        _ => backend(ConnectFailure::Other),
    };
    match verdict {
        Ok(failure) => ConnectError::Backend(failure, error),
        Err(failure) => ConnectError::Local(failure, error),
    }
}

/// Where Linux begins to draw local ports unless told otherwise (`net.ipv4.ip_local_port_range`).
const FIRST_EPHEMERAL: u16 = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_never_the_backends_fault() {
        let cases = [
            (Errno::ADDRNOTAVAIL, LocalFailure::NoPort),
            (Errno::MFILE, LocalFailure::NoDescriptor),
            (Errno::NFILE, LocalFailure::NoDescriptor),
            (Errno::NOBUFS, LocalFailure::Other),
            (Errno::NOMEM, LocalFailure::Other),
            (Errno::NOSPC, LocalFailure::Other),
            (Errno::PERM, LocalFailure::Other),
        ];
        for (errno, expected) in cases {
            match classify(io::Error::from_raw_os_error(errno.raw_os_error())) {
                ConnectError::Local(failure, _) => assert_eq!(failure, expected),
                ConnectError::Backend(..) => panic!("{errno:?} is blamed on the backend"),
            }
        }
    }

    #[test]
    fn what_the_network_says_is_told_apart() {
        let cases = [
            (Errno::CONNREFUSED, ConnectFailure::Refused),
            (Errno::NOENT, ConnectFailure::Refused),
            (Errno::TIMEDOUT, ConnectFailure::Timeout),
            (Errno::HOSTUNREACH, ConnectFailure::Unreachable),
            (Errno::NETUNREACH, ConnectFailure::Unreachable),
            (Errno::CONNRESET, ConnectFailure::Reset),
            (Errno::PROTO, ConnectFailure::Other),
        ];
        for (errno, expected) in cases {
            match classify(io::Error::from_raw_os_error(errno.raw_os_error())) {
                ConnectError::Backend(failure, _) => assert_eq!(failure, expected),
                ConnectError::Local(..) => panic!("{errno:?} is taken for our own"),
            }
        }
    }
}
