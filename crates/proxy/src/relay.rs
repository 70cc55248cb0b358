//! Moves the bytes of one session both ways until both ends are through, and keeps nothing while they are silent.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::flow::{Flow, Step};
use crate::leg::Leg;
use crate::pipe::{Pipe, PipePool};

/// Which end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// The side whose socket failed, and how.
pub(crate) type Failure = (Side, io::Error);

/// What a relay needs from its worker.
#[derive(Clone, Copy)]
pub(crate) struct Tools<'a> {
    pub(crate) scratch: &'a RefCell<Box<[u8]>>,
    pub(crate) pipes: &'a PipePool,
}

/// How a relay begins.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Bytes for the backend before the client's: a header, or what was read of the client to choose a route.
    pub(crate) to_backend: Vec<u8>,
    /// Bytes for the client before the backend's.
    pub(crate) to_client: Vec<u8>,
    /// Whether bulk may be spliced.
    pub(crate) splice: bool,
}

/// What the world sees of a relay while it runs.
pub(crate) trait Progress {
    /// Called after every turn that moved something, with the totals of both directions.
    fn moved(&self, up: (u64, u64), down: (u64, u64));
    /// Called once, before the first call of `moved`, with the first byte of the client if it spoke first.
    fn began(&self, first: u8);
    /// Called once, when the first direction has ended. `by_backend` is whether the backend ended it with nothing of it
    /// still on its way to the client.
    fn half_closed(&self, by_backend: bool);
}

/// The two directions between two legs. A future: it ends when both streams are forwarded to their ends, or with the
/// side that failed.
///
/// *Cancel safety*: dropping it loses the bytes that it holds; the legs then close by reset, so no peer can take a part
/// for the whole.
pub(crate) struct Relay<'a, P> {
    client: &'a Leg,
    backend: &'a Leg,
    tools: Tools<'a>,
    progress: &'a P,
    up: Direction,
    down: Direction,
    half_closed: bool,
}

/// One direction with what it holds.
struct Direction {
    /// The side it reads from.
    side: Side,
    flow: Flow,
    /// What the sink did not take at once; as large as that, and empty otherwise.
    pending: Vec<u8>,
    pipe: Option<Pipe>,
    /// The first byte, until it has been told.
    first: Option<u8>,
}

/// How a turn of one direction ended.
enum Turn {
    /// It waits for the source or the sink.
    Waiting,
    /// It did its share and would go on.
    Yielded,
    Done,
}

impl<'a, P: Progress> Relay<'a, P> {
    /// A relay that sends the bytes of `opening` before what it reads.
    pub(crate) fn new(client: &'a Leg, backend: &'a Leg, tools: Tools<'a>, progress: &'a P, opening: Opening) -> Self {
        let up = Direction::new(Side::Client, opening.to_backend, opening.splice);
        let down = Direction::new(Side::Backend, opening.to_client, opening.splice);
        Self { client, backend, tools, progress, up, down, half_closed: false }
    }

    /// One turn of both directions. The backend's goes first: a backend that answers and closes without reading on is
    /// heard before writing to it fails.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let before = (self.up.flow.totals(), self.down.flow.totals());
        let down = self.down.run(cx, self.tools, self.backend, self.client, self.up.flow.is_done());
        let up = self.up.run(cx, self.tools, self.client, self.backend, self.down.flow.is_done());
        let after = (self.up.flow.totals(), self.down.flow.totals());
        if after != before {
            self.up.first.take().into_iter().for_each(|first| self.progress.began(first));
            self.progress.moved(after.0, after.1);
        }
        if !self.half_closed && (self.up.flow.has_ended() || self.down.flow.has_ended()) {
            self.half_closed = true;
            self.progress.half_closed(!self.up.flow.has_ended() && self.down.flow.held() == 0);
        }
        match (down?, up?) {
            // A direction that ended first saw the other one open; by now both may be through.
            (Turn::Done, Turn::Done) => Poll::Ready(Ok(())),
            (Turn::Yielded, _) | (_, Turn::Yielded) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Turn::Waiting | Turn::Done, _) => Poll::Pending,
        }
    }
}

impl<P: Progress> Future for Relay<'_, P> {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.turn(cx)
    }
}

impl Direction {
    fn new(side: Side, initial: Vec<u8>, splice: bool) -> Self {
        Self { side, flow: Flow::new(initial.len(), splice), pending: initial, pipe: None, first: None }
    }

    /// Takes steps until it has to wait, has done its share, or is done. `other_done` is whether the opposite
    /// direction is over, so that closing the sockets will say what a shutdown would.
    fn run(
        &mut self,
        cx: &mut Context<'_>,
        tools: Tools<'_>,
        source: &Leg,
        sink: &Leg,
        other_done: bool,
    ) -> Result<Turn, Failure> {
        for _ in 0..STEPS_PER_TURN {
            self.flow.choose_carrier();
            let result = match self.flow.next() {
                Step::Read => {
                    // Back to copying: the pipe is empty, and others may need it.
                    self.pipe.take().into_iter().for_each(|pipe| tools.pipes.give_back(pipe));
                    self.read(cx, tools.scratch, source, sink)
                }
                Step::Fill => self.fill(cx, tools.pipes, source),
                Step::Flush => self.flush(cx, sink),
                Step::Drain => self.drain(cx, sink),
                Step::Finish => Poll::Ready(self.finish(tools.pipes, sink, other_done)),
                Step::Done => return Ok(Turn::Done),
            };
            match result {
                Poll::Ready(done) => done?,
                Poll::Pending => return self.wait(cx, source),
            }
        }
        Ok(Turn::Yielded)
    }

    /// Reads into the worker's scratch buffer and writes at once; what the sink does not take is kept.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &RefCell<Box<[u8]>>,
        source: &Leg,
        sink: &Leg,
    ) -> Poll<Result<(), Failure>> {
        let mut scratch = scratch.borrow_mut();
        let taken = ready!(source.poll_recv(cx, &mut scratch)).map_err(|error| (self.side, error))?;
        if self.flow.is_fresh() {
            self.first = scratch[..taken].first().copied();
        }
        self.flow.took(taken);
        if taken == 0 {
            return Poll::Ready(Ok(()));
        }
        let given = match sink.poll_send(cx, &scratch[..taken]) {
            Poll::Ready(given) => given.map_err(|error| (self.side.other(), error))?,
            Poll::Pending => 0,
        };
        self.flow.gave(given);
        self.pending.extend_from_slice(&scratch[given..taken]);
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>, sink: &Leg) -> Poll<Result<(), Failure>> {
        let from = self.pending.len() - self.flow.held();
        let given = ready!(sink.poll_send(cx, &self.pending[from..])).map_err(|error| (self.side.other(), error))?;
        self.flow.gave(given);
        if self.flow.held() == 0 {
            self.pending = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Fills a pipe that is empty, borrowed for as long as there is something to put into it.
    fn fill(&mut self, cx: &mut Context<'_>, pipes: &PipePool, source: &Leg) -> Poll<Result<(), Failure>> {
        let Some(pipe) = self.pipe.take().or_else(|| pipes.take()) else {
            self.flow.copy();
            return Poll::Ready(Ok(()));
        };
        match source.poll_fill(cx, &pipe, FILL_BYTES) {
            Poll::Ready(Ok(taken @ 1..)) => {
                self.flow.took(taken);
                self.pipe = Some(pipe);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(_end)) => self.flow.took(0),
            // A kernel or a sandbox that does not let this socket splice.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => self.flow.never_splice(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err((self.side, error))),
            Poll::Pending => {
                pipes.give_back(pipe);
                return Poll::Pending;
            }
        }
        pipes.give_back(pipe);
        Poll::Ready(Ok(()))
    }

    fn drain(&mut self, cx: &mut Context<'_>, sink: &Leg) -> Poll<Result<(), Failure>> {
        let pipe = self.pipe.as_ref().expect("bytes are held in the pipe that is drained");
        let given = ready!(sink.poll_drain(cx, pipe, self.flow.held())).map_err(|error| (self.side.other(), error))?;
        self.flow.gave(given);
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, pipes: &PipePool, sink: &Leg, other_done: bool) -> Result<(), Failure> {
        self.flow.finished();
        self.pipe.take().into_iter().for_each(|pipe| pipes.give_back(pipe));
        if other_done { Ok(()) } else { sink.finish().map_err(|error| (self.side.other(), error)) }
    }

    /// While the sink takes nothing, the source is not read. It is still listened to: a client that gives up must not
    /// stay a session until a timeout.
    fn wait(&self, cx: &mut Context<'_>, source: &Leg) -> Result<Turn, Failure> {
        if self.flow.held() == 0 || self.flow.has_ended() {
            return Ok(Turn::Waiting);
        }
        match source.poll_reset(cx) {
            Poll::Ready(error) => Err((self.side, error)),
            Poll::Pending => Ok(Turn::Waiting),
        }
    }
}

/// Transfers of one direction in one turn, so that a fast session leaves room for the others of its worker.
const STEPS_PER_TURN: u32 = 16;

/// Asked of one splice; the pipe's slots end it sooner. (Larger than any int is refused by the kernel.)
const FILL_BYTES: usize = 1024 * 1024;
