//! Taking connections from a listening socket, whatever goes wrong with one of them.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::bind::Shard;
use crate::leg::{Leg, Stream};
use crate::limits::Permit;
use crate::listener::Listener;
use crate::record::Peer;
use crate::session;
use crate::worker::Worker;

/// Errors of accept(2); the `errno` label of `dislocate_accept_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// No descriptor left for the process.
    Emfile,
    /// None left for the machine.
    Enfile,
    /// No memory for a socket.
    Enobufs,
    /// No memory.
    Enomem,
    /// The client was gone before it was accepted.
    Econnaborted,
    /// Anything else.
    Other,
}

/// What to do after an error of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    /// It concerned one connection: take the next.
    GoOn,
    /// Wait a little, since the next try would fail as well.
    BackOff,
    /// The same, after refusing one client with the reserve descriptor: it is told, rather than left to hang.
    ShedAndBackOff,
}

impl AcceptError {
    /// Every error, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Emfile, Self::Enfile, Self::Enobufs, Self::Enomem, Self::Econnaborted, Self::Other];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emfile => "EMFILE",
            Self::Enfile => "ENFILE",
            Self::Enobufs => "ENOBUFS",
            Self::Enomem => "ENOMEM",
            Self::Econnaborted => "ECONNABORTED",
            Self::Other => "other",
        }
    }

    fn of(error: &io::Error) -> (Self, Reaction) {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE) => (Self::Emfile, Reaction::ShedAndBackOff),
            Some(Errno::NFILE) => (Self::Enfile, Reaction::ShedAndBackOff),
            Some(Errno::NOBUFS) => (Self::Enobufs, Reaction::BackOff),
            Some(Errno::NOMEM) => (Self::Enomem, Reaction::BackOff),
            Some(Errno::CONNABORTED) => (Self::Econnaborted, Reaction::GoOn),
            // accept(2) passes pending errors of the new socket on; they are that connection's, not the listener's.
            Some(
                Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM
                | Errno::INTR
                | Errno::CONNRESET,
            ) => (Self::Other, Reaction::GoOn),
            Some(_) | None => (Self::Other, Reaction::BackOff),
        }
    }
}

/// A listening socket on this worker's event loop.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    pub(crate) fn new(shard: Shard) -> io::Result<Self> {
        Ok(match shard {
            Shard::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Shard::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
            // Nobody connects to these: they are an engine's.
            Shard::Udp(_) | Shard::Datagram(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        Poll::Ready(Ok(match self {
            Self::Tcp(listener) => {
                let (stream, addr) = ready!(listener.poll_accept(cx))?;
                (Stream::Tcp(stream), Peer::Inet(addr))
            }
            Self::Unix(listener) => {
                let (stream, _unnamed) = ready!(listener.poll_accept(cx))?;
                (Stream::Unix(stream), Peer::Unix)
            }
        }))
    }
}

/// Accepts until `stop`, then takes what is still queued: closing a SO_REUSEPORT socket resets its queue.
pub(crate) async fn run(worker: Rc<Worker>, listener: Arc<Listener>, acceptor: Acceptor, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = std::future::poll_fn(|cx| acceptor.poll_accept(cx)) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&worker, &listener, stream, peer),
            Err(error) => recover(&worker, &listener, &acceptor, &error).await,
        }
    }
    // Bounded: who connects all the time must not keep a listener that is to close.
    for _ in 0..QUEUED_MOST {
        match queued(&acceptor).await {
            Some(Ok((stream, peer))) => admit(&worker, &listener, stream, peer),
            Some(Err(error)) if AcceptError::of(&error).1 == Reaction::GoOn => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// A connection that is queued now, if there is one.
async fn queued(acceptor: &Acceptor) -> Option<io::Result<(Stream, Peer)>> {
    // Without the event loop's budget, at whose end everything looks empty.
    tokio::task::coop::unconstrained(std::future::poll_fn(|cx| match acceptor.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    }))
    .await
}

/// Counts a connection and starts its session, or refuses it by a reset.
fn admit(worker: &Rc<Worker>, listener: &Arc<Listener>, stream: Stream, peer: Peer) {
    let settings = listener.settings();
    let ip = match peer {
        Peer::Inet(addr) => Some(addr.ip()),
        Peer::Unix => None,
    };
    let limits = listener.limits(&settings, worker.max_connections());
    let permit = Permit::take(listener.accounts(), limits, ip);
    session::start(worker, listener, settings, Leg::accepted(stream), peer, permit);
}

async fn recover(worker: &Worker, listener: &Listener, acceptor: &Acceptor, error: &io::Error) {
    let (kind, reaction) = AcceptError::of(error);
    listener.stats(worker.index()).count_accept_error(kind);
    match reaction {
        Reaction::GoOn => return,
        Reaction::BackOff => {}
        Reaction::ShedAndBackOff => worker.reserve().shed(acceptor),
    }
    worker.complain(|| {
        tracing::warn!(listener = listener.name(), %error, "cannot accept connections, trying again in 100 ms");
    });
    tokio::time::sleep(BACK_OFF).await;
}

/// One descriptor kept aside, to be able to accept and refuse a client when there is none.
#[derive(Debug)]
pub(crate) struct Reserve(RefCell<Option<OwnedFd>>);

impl Reserve {
    pub(crate) fn new() -> Self {
        Self(RefCell::new(open_reserve()))
    }

    /// Resets the client that is first in the queue. Sessions that end in the meantime may take the descriptor; then
    /// the reserve is filled by a later call.
    fn shed(&self, acceptor: &Acceptor) {
        let mut held = self.0.borrow_mut();
        if held.take().is_some() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            if let Poll::Ready(Ok((stream, _))) = acceptor.poll_accept(&mut cx) {
                drop(Leg::accepted(stream));
            }
        }
        *held = open_reserve();
    }
}

fn open_reserve() -> Option<OwnedFd> {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok()
}

/// Taken from the queue of a listener that closes: all that a backlog of ours holds, and some that come meanwhile.
const QUEUED_MOST: usize = 2 * crate::bind::BACKLOG as usize;

/// Ten tries a second: soon enough to recover unnoticed, too few to be felt.
const BACK_OFF: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_one_connection_never_stops_the_listener_and_a_shortage_never_spins() {
        let cases = [
            (Errno::CONNABORTED, AcceptError::Econnaborted, Reaction::GoOn),
            (Errno::PROTO, AcceptError::Other, Reaction::GoOn),
            (Errno::PERM, AcceptError::Other, Reaction::GoOn),
            (Errno::NETUNREACH, AcceptError::Other, Reaction::GoOn),
            (Errno::MFILE, AcceptError::Emfile, Reaction::ShedAndBackOff),
            (Errno::NFILE, AcceptError::Enfile, Reaction::ShedAndBackOff),
            (Errno::NOBUFS, AcceptError::Enobufs, Reaction::BackOff),
            (Errno::NOMEM, AcceptError::Enomem, Reaction::BackOff),
            (Errno::INVAL, AcceptError::Other, Reaction::BackOff),
        ];
        for (errno, kind, reaction) in cases {
            assert_eq!(AcceptError::of(&io::Error::from_raw_os_error(errno.raw_os_error())), (kind, reaction));
        }
    }
}
