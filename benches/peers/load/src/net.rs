//! Sockets and readiness, as thin as the measurement needs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use rustix::event::epoll::{Event, EventFlags};

/// What one request and one answer carry.
pub const MESSAGE_BYTES: usize = 64;

/// An epoll instance. Level-triggered throughout: the loops here do one bounded step per event.
pub struct Poller(OwnedFd);

impl Poller {
    /// A new, empty instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd`; its events carry `token`. Closing the descriptor ends it.
    pub fn add(&self, fd: impl AsFd, token: usize, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, epoll::EventData::new_u64(token as u64), interest)?)
    }

    /// Changes what `fd` is watched for.
    pub fn modify(&self, fd: impl AsFd, token: usize, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, epoll::EventData::new_u64(token as u64), interest)?)
    }

    /// Replaces the contents of `events` by what is ready now, waiting at most `timeout` (`None`: for ever).
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        events.clear();
        match epoll::wait(&self.0, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The token of an event, as given to [`Poller::add`].
pub fn token(event: &Event) -> usize {
    let data = event.data;
    usize::try_from(data.u64()).expect("tokens are made from usize")
}

/// A slot number for `fd`: descriptors are small and dense, so they index a plain vector.
pub fn slot(fd: &OwnedFd) -> usize {
    usize::try_from(fd.as_raw_fd()).expect("open descriptors are not negative")
}

/// A listening socket.
pub fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Inherited by what it accepts, which saves a call per connection.
    sockopt::set_tcp_nodelay(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, 4096)?;
    Ok(socket)
}

/// Accepts one connection, or `None` when none is waiting.
pub fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Starts connecting, from `source` if one is given. On loopback the handshake is usually over when this returns.
pub fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let socket = stream_socket(target)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = source {
        net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    match net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// What a send or receive came to.
pub enum Step {
    /// This many bytes were moved; never zero.
    Moved(usize),
    /// Nothing to do before the next event.
    Blocked,
    /// The other side has finished (receiving only).
    Finished,
    /// The connection is broken.
    Broken,
}

/// Sends once.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> Step {
    match net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => Step::Moved(sent),
        Err(Errno::AGAIN | Errno::INTR) => Step::Blocked,
        Err(_) => Step::Broken,
    }
}

/// Receives once into `buffer`.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Step {
    received(net::recv(socket, buffer, RecvFlags::empty()).map(|(_, count)| count))
}

/// Takes up to `buffer.len()` bytes off the receive queue without copying them out of the kernel, so that the receiver
/// costs next to nothing. The contents of `buffer` do not change.
pub fn discard(socket: &OwnedFd, buffer: &mut [u8]) -> Step {
    received(net::recv(socket, buffer, RecvFlags::TRUNC).map(|(_, count)| count))
}

/// Ends this side's sending, leaving the other direction open.
pub fn finish(socket: &OwnedFd) -> io::Result<()> {
    Ok(net::shutdown(socket, net::Shutdown::Write)?)
}

/// Raises the descriptor limit to the hard limit. Best effort: a shortage shows up as a counted error later.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it was, which is all that can be done about it here.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

fn received(result: Result<usize, Errno>) -> Step {
    match result {
        Ok(0) => Step::Finished,
        Ok(count) => Step::Moved(count),
        Err(Errno::AGAIN | Errno::INTR) => Step::Blocked,
        Err(_) => Step::Broken,
    }
}
