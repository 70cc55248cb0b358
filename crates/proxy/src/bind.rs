//! Opening listening sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::leg::set_liveness;
use crate::udp::bind_udp;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IP address and a port of TCP; port 0 lets the kernel choose one. `[::]` takes IPv4 as well.
    Inet(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
    /// The same as `Inet`, for UDP. It shares nothing with TCP, not even its port numbers.
    Udp(SocketAddr),
    /// The path of a unix datagram socket.
    Datagram(PathBuf),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) | Self::Udp(addr) => addr.fmt(f),
            Self::Unix(path) | Self::Datagram(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for listener {listener:?}{}", hint(.source))]
pub struct BindError {
    /// The listener that asked.
    pub listener: String,
    /// The address.
    pub address: Bind,
    /// What the kernel said.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another process listens there; stop it or choose another address",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => ": no interface of this host has that address",
        _ => "",
    }
}

/// One listening socket, not yet on an event loop.
#[derive(Debug)]
pub(crate) enum Shard {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
    Udp(std::net::UdpSocket),
    Datagram(UnixDatagram),
}

impl Shard {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
            Self::Datagram(socket) => Self::Datagram(socket.try_clone()?),
        })
    }
}

/// An open address: its sockets, of which every worker gets one. Dropping it closes this side's copies, and removes the
/// path of a unix socket.
#[derive(Debug)]
pub(crate) struct Bound {
    address: Bind,
    shards: Vec<Shard>,
}

/// What accepted sockets inherit from the listening one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    pub(crate) keepalive: Duration,
    pub(crate) user_timeout: Duration,
}

impl Bound {
    /// Opens `address` for `workers`. An inet address gets a SO_REUSEPORT socket for each, after one bind without it has
    /// shown that the address is free: with SO_REUSEPORT a second instance would share the port in silence. A unix path
    /// has one socket, which the workers share.
    pub(crate) fn open(address: &Bind, workers: usize, inherited: Inherited) -> io::Result<Self> {
        match address {
            Bind::Inet(addr) => Self::open_tcp(*addr, workers, inherited),
            Bind::Unix(path) => Self::open_path(address, Shard::Unix(bind_unix(path)?), workers),
            Bind::Udp(addr) => Self::open_udp(*addr, workers),
            Bind::Datagram(path) => Self::open_path(address, Shard::Datagram(bind_datagram(path)?), workers),
        }
    }

    fn open_tcp(addr: SocketAddr, workers: usize, inherited: Inherited) -> io::Result<Self> {
        if addr.port() != 0 {
            bind_tcp(addr, false)?;
        }
        let mut addr = addr;
        let mut shards = Vec::with_capacity(workers);
        for _ in 0..workers {
            let socket = bind_tcp(addr, true)?;
            // Accepted sockets are born with these, which saves the calls for each of them.
            socket.set_tcp_nodelay(true)?;
            set_liveness(&SockRef::from(&socket), inherited.keepalive, inherited.user_timeout)?;
            // A port that the kernel chose for the first is everybody's.
            addr = socket.local_addr()?.as_socket().unwrap_or(addr);
            shards.push(socket);
        }
        // Listening begins when all are bound: a connection that comes in between would go to a group of one.
        for socket in &shards {
            socket.listen(BACKLOG)?;
        }
        let shards = shards.into_iter().map(|socket| Shard::Tcp(socket.into())).collect();
        Ok(Self { address: Bind::Inet(addr), shards })
    }

    /// As for TCP, but that what comes before all are bound goes to those that are.
    fn open_udp(addr: SocketAddr, workers: usize) -> io::Result<Self> {
        if addr.port() != 0 {
            bind_udp(addr, false)?;
        }
        let mut addr = addr;
        let mut shards = Vec::with_capacity(workers);
        for _ in 0..workers {
            let socket = bind_udp(addr, true)?;
            // A port that the kernel chose for the first is everybody's.
            addr = socket.local_addr()?;
            shards.push(Shard::Udp(socket));
        }
        Ok(Self { address: Bind::Udp(addr), shards })
    }

    fn open_path(address: &Bind, first: Shard, workers: usize) -> io::Result<Self> {
        let others: io::Result<Vec<Shard>> = (1..workers).map(|_| first.try_clone()).collect();
        let shards = others?.into_iter().chain([first]).collect();
        Ok(Self { address: address.clone(), shards })
    }

    /// The address with the port that it really has.
    pub(crate) fn address(&self) -> &Bind {
        &self.address
    }

    /// A handle for each worker.
    pub(crate) fn shards(&self) -> io::Result<Vec<Shard>> {
        self.shards.iter().map(Shard::try_clone).collect()
    }

    /// Changes what connections accepted from now on inherit.
    pub(crate) fn inherit(&self, inherited: Inherited) -> io::Result<()> {
        self.shards.iter().try_for_each(|shard| match shard {
            Shard::Tcp(socket) => set_liveness(&SockRef::from(socket), inherited.keepalive, inherited.user_timeout),
            Shard::Unix(_) | Shard::Udp(_) | Shard::Datagram(_) => Ok(()),
        })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Bind::Unix(path) | Bind::Datagram(path) = &self.address {
            // Somebody may have removed it already, which was the aim.
            let _removed = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), None)?;
    if addr.is_ipv6() {
        // Said out loud, so that `[::]` means the same whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // Allows a restart while old connections are in TIME_WAIT; never a second listener.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Opens a unix stream socket, non-blocking, in place of one that a process left which is gone.
///
/// *Errors*: the path is in use, by a process or by another kind of file.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path, UnixStream::connect(path).map(drop))?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The same for a unix datagram socket.
fn bind_datagram(path: &Path) -> io::Result<UnixDatagram> {
    remove_stale(path, UnixDatagram::unbound()?.connect(path))?;
    let socket = UnixDatagram::bind(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes the socket file that a process which is gone has left, as connecting to it has `found`; one that answers is
/// in use.
fn remove_stale(path: &Path, found: io::Result<()>) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => match found {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connections that may wait for accept(2); the kernel cuts it down to `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const INHERITED: Inherited =
        Inherited { keepalive: Duration::from_secs(60), user_timeout: Duration::from_secs(30) };

    #[test]
    fn port_zero_gives_one_port_to_all_workers_and_a_second_instance_is_refused_it() {
        let any = Bind::Inet("127.0.0.1:0".parse().unwrap());
        let bound = Bound::open(&any, 3, INHERITED).unwrap();
        assert_eq!(bound.shards.len(), 3);
        let Bind::Inet(addr) = bound.address() else { panic!("an inet address stays one") };
        assert_ne!(addr.port(), 0);
        let second = Bound::open(bound.address(), 1, INHERITED).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_udp_port_is_shared_by_the_workers_and_by_nobody_else() {
        let bound = Bound::open(&Bind::Udp("127.0.0.1:0".parse().unwrap()), 3, INHERITED).unwrap();
        let Bind::Udp(addr) = *bound.address() else { panic!("a UDP address stays one") };
        assert_ne!(addr.port(), 0);
        for shard in bound.shards().unwrap() {
            let Shard::Udp(socket) = shard else { panic!("UDP has UDP sockets") };
            assert_eq!(socket.local_addr().unwrap(), addr);
            assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        let second = Bound::open(bound.address(), 1, INHERITED).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(Bound::open(&Bind::Inet(addr), 1, INHERITED).is_ok(), "TCP has ports of its own");
    }

    #[test]
    fn a_stale_unix_path_is_taken_over_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("dislocate-bind-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("x.sock");
        for (bind, other) in [(Bind::Unix as fn(_) -> _, Bind::Datagram as fn(_) -> _), (Bind::Datagram, Bind::Unix)] {
            drop(UnixListener::bind(&path).unwrap());
            let bound = Bound::open(&bind(path.clone()), 2, INHERITED).unwrap();
            for second in [bind(path.clone()), other(path.clone())] {
                let refused = Bound::open(&second, 2, INHERITED).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{second} is taken");
            }
            drop(bound);
            assert!(!path.exists(), "the path goes with the listener");
        }
        std::fs::write(&path, "a file").unwrap();
        assert!(Bound::open(&Bind::Unix(path), 1, INHERITED).is_err(), "a file is nobody's socket");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
