//! One side of a session: a connected stream socket and what the event loop knows of it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{SpliceFlags, splice};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::pipe::Pipe;
use crate::tcp_info::{TcpInfo, tcp_info};

/// What carries the bytes of a leg. TLS will be a third kind, with its own reads and writes.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The calls of tokio's streams that a leg is made of, which the two kinds have in common.
impl Stream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, call),
            Self::Unix(stream) => stream.try_io(interest, call),
        }
    }

    /// Forgets that the socket was ready, without asking it. Workers are single-threaded: an event that the kernel has
    /// queued meanwhile is delivered later and sets the readiness again.
    fn forget_ready(&self, interest: Interest) {
        let _always_would_block: io::Result<()> = self.try_io(interest, || Err(io::ErrorKind::WouldBlock.into()));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connected socket. Dropping it sends a reset unless [`Leg::release`] was called before: a FIN is a statement that
/// the stream is complete, and only the other leg's FIN entitles us to make it.
#[derive(Debug)]
pub(crate) struct Leg {
    stream: Stream,
    /// The readiness was thrown away to hear of the next event; the next read has to ask the kernel.
    unasked: Cell<bool>,
    released: Cell<bool>,
    /// Whether Nagle's algorithm has still to be switched off, and when.
    nagle: Cell<Nagle>,
}

/// Nagle's algorithm never holds the first segment of a connection, so switching it off can wait for the second write,
/// which a session of one request never makes. That saves a system call for each short session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nagle {
    /// Off already: inherited from the listening socket, or not TCP.
    Off,
    /// Nothing was written.
    Fresh,
    /// Written once.
    Used,
}

impl Leg {
    /// The leg of an accepted connection, which inherited its options from the listening socket.
    pub(crate) fn accepted(stream: Stream) -> Self {
        Self::new(stream, Nagle::Off)
    }

    /// The leg of a socket on which connect(2) was begun.
    pub(crate) fn connecting(stream: Stream) -> Self {
        let nagle = match stream {
            Stream::Tcp(_) => Nagle::Fresh,
            Stream::Unix(_) => Nagle::Off,
        };
        Self::new(stream, nagle)
    }

    fn new(stream: Stream, nagle: Nagle) -> Self {
        Self { stream, unasked: Cell::new(false), released: Cell::new(false), nagle: Cell::new(nagle) }
    }

    /// Receives into `buffer`; 0 is the end of the stream. A short read empties the socket, so it is not asked again
    /// before the next event, which saves the call that would say so.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let whole = buffer.len();
        self.poll_take(cx, whole, |socket| Ok(rustix::net::recv(socket, &mut *buffer, RecvFlags::empty())?.0))
    }

    /// Moves up to `length` bytes from the socket into an empty pipe; 0 is the end of the stream.
    ///
    /// EAGAIN of splice(2) means that the socket is empty *or* that the pipe has no free slot. The pipe is empty here,
    /// so it can only be the socket, and its readiness may be cleared.
    pub(crate) fn poll_fill(&self, cx: &mut Context<'_>, pipe: &Pipe, length: usize) -> Poll<io::Result<usize>> {
        // A splice that took less than asked may have run out of slots: it never shows that the socket is empty.
        self.poll_take(cx, 0, |socket| Ok(splice(socket, None, pipe.write_end(), None, length, SPLICE)?))
    }

    /// Reads with `take` when the socket may have something. A result from 1 to below `whole` shows that it is empty.
    fn poll_take(
        &self,
        cx: &mut Context<'_>,
        whole: usize,
        mut take: impl FnMut(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let result = if self.unasked.get() {
                let result = take(&self.stream);
                // The event loop will not tell of what is left, so the next read has to ask as well.
                self.unasked.set(matches!(result, Ok(count) if count >= whole));
                result
            } else {
                ready!(self.stream.poll_read_ready(cx))?;
                self.stream.try_io(Interest::READABLE, || take(&self.stream))
            };
            if would_block(&result) {
                continue;
            }
            if matches!(result, Ok(count) if (1..whole).contains(&count)) {
                self.stream.forget_ready(Interest::READABLE);
            }
            return Poll::Ready(result);
        }
    }

    /// Sends what the socket takes of `bytes`.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_give(cx, bytes.len(), |socket| Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?))
    }

    /// Moves up to `length` bytes out of a pipe into the socket.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>, pipe: &Pipe, length: usize) -> Poll<io::Result<usize>> {
        // Never SPLICE_F_MORE: it corks, and a reply that ends here would wait 200 ms for more.
        self.poll_give(cx, length, |socket| Ok(splice(pipe.read_end(), None, socket, None, length, SPLICE)?))
    }

    fn poll_give(
        &self,
        cx: &mut Context<'_>,
        whole: usize,
        mut give: impl FnMut(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let result = self.stream.try_io(Interest::WRITABLE, || give(&self.stream));
            // A short write filled the socket's buffer: wait for room without asking first.
            if matches!(result, Ok(count) if (1..whole).contains(&count)) {
                self.stream.forget_ready(Interest::WRITABLE);
            }
            if !would_block(&result) {
                return Poll::Ready(result);
            }
        }
    }

    /// Waits until the peer resets, whatever else it sends; for when nothing may be read. After the peer's FIN the
    /// event loop tells no more, so a reset after a FIN is found by the next write or by a timeout.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Two turns: what is still ready after it was forgotten is ready forever, which is the peer's FIN.
        for _ in 0..2 {
            if let Err(error) = ready!(self.stream.poll_read_ready(cx)) {
                return Poll::Ready(error);
            }
            if let Some(error) = self.pending_error() {
                return Poll::Ready(error);
            }
            self.stream.forget_ready(Interest::READABLE);
            self.unasked.set(true);
        }
        Poll::Pending
    }

    /// Waits for the connect(2) that was begun on this socket.
    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_write_ready(cx))?;
        Poll::Ready(self.pending_error().map_or(Ok(()), Err))
    }

    /// The socket's error, asked of the kernel only when the event loop saw one.
    fn pending_error(&self) -> Option<io::Error> {
        let seen = self.stream.try_io(Interest::ERROR, || Ok(())).is_ok();
        if seen { self.socket().take_error().unwrap_or_else(Some) } else { None }
    }

    /// Forwards the end of a stream.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match self.socket().shutdown(std::net::Shutdown::Write) {
            // The peer reset meanwhile; the reading side will say so.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// From here on dropping the leg is a normal close.
    pub(crate) fn release(&self) {
        self.released.set(true);
    }

    fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.stream)
    }

    fn before_write(&self) {
        match self.nagle.get() {
            Nagle::Off => {}
            Nagle::Fresh => self.nagle.set(Nagle::Used),
            Nagle::Used => {
                self.nagle.set(Nagle::Off);
                // Fails only for a connection that is gone, which the write will say.
                let _gone = self.socket().set_tcp_nodelay(true);
            }
        }
    }

    /// Makes the kernel notice a peer that is gone without a word.
    pub(crate) fn set_liveness(&self, keepalive: Duration, user_timeout: Duration) {
        if let Stream::Tcp(_) = self.stream {
            // As above: the socket is connected, so this fails only when it is gone.
            let _gone = set_liveness(&self.socket(), keepalive, user_timeout);
        }
    }

    /// What the kernel knows of the connection; nothing of a unix socket.
    pub(crate) fn tcp_info(&self) -> Option<TcpInfo> {
        match &self.stream {
            Stream::Tcp(stream) => tcp_info(stream.as_fd()),
            Stream::Unix(_) => None,
        }
    }

    /// Whether both ends of this connection are one socket: a connect to a port from which nobody listens can meet
    /// itself when the kernel draws that port as the local one.
    pub(crate) fn is_own_peer(&self) -> bool {
        let socket = self.socket();
        matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
    }

    /// The address at which the client reached us.
    pub(crate) fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.socket().local_addr().ok()?.as_socket()
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.released.get() {
            // Fails only for a connection that is gone, which is what was wanted.
            let _gone = self.socket().set_linger(Some(Duration::ZERO));
        }
    }
}

/// Keepalive and TCP_USER_TIMEOUT (tcp(7)): an idle peer is asked after `keepalive`, then three times at a quarter of
/// that; data unacknowledged for `user_timeout` ends the connection.
pub(crate) fn set_liveness(socket: &SockRef<'_>, keepalive: Duration, user_timeout: Duration) -> io::Result<()> {
    let interval = (keepalive / KEEPALIVE_RETRIES).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new()
        .with_time(keepalive.max(Duration::from_secs(1)))
        .with_interval(interval)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(user_timeout))
}

fn would_block(result: &io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The buffer for copies, one a worker.
pub(crate) fn scratch() -> Box<[u8]> {
    vec![0; SCRATCH_BYTES].into_boxed_slice()
}

/// Bytes copied at once. 64 KiB is the most that one segment train of loopback or GRO carries; four times that brought
/// nothing.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

const SPLICE: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
const KEEPALIVE_RETRIES: u32 = 4;
