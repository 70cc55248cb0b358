//! Bulk transfer: a few streams that move as much as they can.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::net::{self, EventFlags, Poller, Step};
use crate::outcome::{Outcome, on_threads};

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Down,
    Up,
}

impl FromStr for Direction {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "down" => Ok(Self::Down),
            "up" => Ok(Self::Up),
            _ => Err(()),
        }
    }
}

/// Moves data for the given time. Downloads are cut off at the end; uploads are finished and waited for, so that every
/// byte counted has arrived.
pub fn run(args: &Args) -> io::Result<()> {
    let targets: Vec<SocketAddr> = args.list("targets")?;
    let direction: Direction = args.need("direction")?;
    let streams: usize = args.need("streams")?;
    let duration = args.seconds("seconds")?;
    let threads = args.optional("threads")?.unwrap_or(1_usize).clamp(1, streams.max(1));
    let outcome = on_threads(threads, |thread| {
        let sockets = (thread..streams)
            .step_by(threads)
            .map(|index| net::connect(targets[index % targets.len()], None))
            .collect::<io::Result<Vec<_>>>()?;
        Transfer::new(direction, sockets)?.run(duration)
    })?;
    outcome.print();
    Ok(())
}

/// One thread's streams.
struct Transfer {
    direction: Direction,
    poller: Poller,
    /// `None` once a stream is over.
    sockets: Vec<Option<OwnedFd>>,
    outcome: Outcome,
    buffer: Vec<u8>,
}

impl Transfer {
    fn new(direction: Direction, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let poller = Poller::new()?;
        let interest = if direction == Direction::Down { EventFlags::IN } else { EventFlags::OUT };
        for (index, socket) in sockets.iter().enumerate() {
            poller.add(socket, index, interest)?;
        }
        let sockets = sockets.into_iter().map(Some).collect();
        // Downloads discard, so a larger read costs nothing more.
        let buffer = vec![0; if direction == Direction::Down { 1 << 20 } else { 256 * 1024 }];
        Ok(Self { direction, poller, sockets, outcome: Outcome::default(), buffer })
    }

    fn run(mut self, duration: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let mut events = Vec::with_capacity(256);
        while start.elapsed() < duration && self.sockets.iter().any(Option::is_some) {
            self.poller.wait(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                self.step(net::token(event));
            }
        }
        if self.direction == Direction::Up {
            self.finish()?;
        }
        self.outcome.elapsed = start.elapsed();
        self.outcome.operations = self.sockets.len() as u64 - self.outcome.errors;
        Ok(self.outcome)
    }

    /// One send or receive. No stream ends by itself: one that does is an error.
    fn step(&mut self, index: usize) {
        let Some(socket) = &self.sockets[index] else { return };
        let step = match self.direction {
            Direction::Down => net::discard(socket, &mut self.buffer),
            Direction::Up => net::send(socket, &self.buffer),
        };
        match step {
            Step::Moved(count) => self.outcome.bytes += count as u64,
            Step::Blocked => {}
            Step::Finished | Step::Broken => {
                self.outcome.errors += 1;
                self.sockets[index] = None;
            }
        }
    }

    /// Half-closes every stream and waits until the sink has closed it in turn.
    fn finish(&mut self) -> io::Result<()> {
        for (index, socket) in self.sockets.iter().enumerate() {
            let Some(socket) = socket else { continue };
            net::finish(socket)?;
            self.poller.modify(socket, index, EventFlags::IN)?;
        }
        let deadline = Instant::now() + FINISH_TIMEOUT;
        let mut open = self.sockets.iter().flatten().count();
        let mut events = Vec::with_capacity(256);
        while open > 0 && Instant::now() < deadline {
            self.poller.wait(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                let index = net::token(event);
                let Some(socket) = &self.sockets[index] else { continue };
                match net::receive(socket, &mut self.buffer) {
                    Step::Finished => {}
                    Step::Moved(_) | Step::Blocked => continue,
                    Step::Broken => self.outcome.errors += 1,
                }
                self.sockets[index] = None;
                open -= 1;
            }
        }
        self.outcome.errors += open as u64;
        Ok(())
    }
}

/// Socket buffers hold a few megabytes a stream: what is still on the way after this is stuck.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
