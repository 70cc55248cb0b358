//! One datagram socket of a test, UDP or unix, on the client's side of the program.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::temp::TempDir;

/// A reply that has not come by then does not come; generous, since the machine is shared.
pub const LOST: Duration = Duration::from_secs(20);

/// The most that one datagram over IPv4 carries.
pub const LARGEST: usize = 65_507;

/// What a socket may hold that nobody reads; the kernel cuts it to what it allows.
const BUFFER: usize = 4 << 20;

/// A socket connected to one address, so that what comes from elsewhere is not received.
#[derive(Debug)]
pub enum Datagrams {
    Udp(UdpSocket),
    Unix(UnixDatagram, #[allow(dead_code, reason = "holds the folder of the socket's path")] TempDir),
}

impl Datagrams {
    /// Connects to `HOST:PORT` or `unix:PATH`.
    pub fn open(address: impl fmt::Display) -> Datagrams {
        let address = address.to_string();
        match address.strip_prefix("unix:") {
            Some(path) => Datagrams::open_unix(path),
            None => Datagrams::from_socket(Socket::new(domain(&address), Type::DGRAM, None).unwrap(), &address),
        }
    }

    /// From a source address of the caller's choice.
    pub fn open_from(source: impl Into<IpAddr>, address: &str) -> Datagrams {
        Datagrams::open_bound(SocketAddr::new(source.into(), 0), address)
    }

    /// From a source address and port of the caller's choice.
    pub fn open_bound(source: SocketAddr, address: &str) -> Datagrams {
        let socket = Socket::new(domain(address), Type::DGRAM, None).unwrap();
        socket.bind(&source.into()).unwrap_or_else(|error| panic!("binding to {source}: {error}"));
        Datagrams::from_socket(socket, address)
    }

    fn from_socket(socket: Socket, address: &str) -> Datagrams {
        socket.connect(&parse(address).into()).unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        socket.set_recv_buffer_size(BUFFER).unwrap();
        socket.set_send_buffer_size(BUFFER).unwrap();
        Datagrams::Udp(socket.into()).ready()
    }

    /// With a path of its own, since nobody can reply to a socket that has none.
    fn open_unix(path: &str) -> Datagrams {
        let folder = TempDir::new();
        let socket = UnixDatagram::bind(folder.join("client")).unwrap();
        socket.connect(path).unwrap_or_else(|error| panic!("connecting to {path}: {error}"));
        Datagrams::Unix(socket, folder).ready()
    }

    fn ready(self) -> Datagrams {
        self.socket().set_read_timeout(Some(LOST)).unwrap();
        self.socket().set_write_timeout(Some(LOST)).unwrap();
        self
    }

    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    /// As [`Datagrams::send`], where the kernel may have been told that nobody is there.
    pub fn try_send(&self, bytes: impl AsRef<[u8]>) -> io::Result<usize> {
        match self {
            Datagrams::Udp(socket) => socket.send(bytes.as_ref()),
            Datagrams::Unix(socket, _) => socket.send(bytes.as_ref()),
        }
    }

    /// The next datagram, which must come.
    pub fn receive(&self) -> Vec<u8> {
        self.try_receive().unwrap_or_else(|error| panic!("no datagram came within {LOST:?}: {error}"))
    }

    pub fn try_receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LARGEST + 1];
        let length = match self {
            Datagrams::Udp(socket) => socket.recv(&mut buffer)?,
            Datagrams::Unix(socket, _) => socket.recv(&mut buffer)?,
        };
        buffer.truncate(length);
        Ok(buffer)
    }

    /// The next datagram, if one comes within `limit`; an error that the network reports is no datagram.
    pub fn receive_within(&self, limit: Duration) -> Option<Vec<u8>> {
        self.socket().set_read_timeout(Some(limit.max(Duration::from_millis(1)))).unwrap();
        let received = self.try_receive();
        self.socket().set_read_timeout(Some(LOST)).unwrap();
        received.ok()
    }

    /// Sends `message` and returns the next datagram.
    pub fn ask(&self, message: impl AsRef<[u8]>) -> Vec<u8> {
        self.send(message);
        self.receive()
    }

    /// As [`Datagrams::ask`], where the answer may be lost.
    pub fn ask_within(&self, limit: Duration, message: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        self.try_send(message).ok()?;
        self.receive_within(limit)
    }

    /// Sends `message` and expects it back, as from an echo.
    pub fn echoes(&self, message: impl AsRef<[u8]>) {
        let message = message.as_ref();
        assert!(self.ask(message) == message, "an echo of {} bytes came back changed", message.len());
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Datagrams::Udp(socket) => socket.local_addr().unwrap(),
            Datagrams::Unix(..) => panic!("a unix socket has no socket address"),
        }
    }

    pub fn socket(&self) -> SockRef<'_> {
        match self {
            Datagrams::Udp(socket) => SockRef::from(socket),
            Datagrams::Unix(socket, _) => SockRef::from(socket),
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Datagrams::Udp(socket) => socket.as_fd(),
            Datagrams::Unix(socket, _) => socket.as_fd(),
        }
    }
}

/// How often each of them occurs.
pub fn counts<T: std::hash::Hash + Eq>(all: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    all.into_iter().fold(HashMap::new(), |mut counts, one| {
        *counts.entry(one).or_default() += 1;
        counts
    })
}

fn domain(address: &str) -> Domain {
    Domain::for_address(parse(address))
}

fn parse(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|_| panic!("{address} is no socket address"))
}
