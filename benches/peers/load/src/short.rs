//! Short connections: connect, 64 bytes there, 64 bytes back, close.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::net::{self, EventFlags, MESSAGE_BYTES, Poller, Step};
use crate::outcome::Outcome;

/// Runs the clients and prints what they saw.
pub fn run(args: &Args) -> io::Result<()> {
    let concurrency: usize = args.need("concurrency")?;
    let rate: Option<f64> = args.optional("rate")?;
    let clients = Clients {
        poller: Poller::new()?,
        targets: args.list("targets")?,
        sources: args.list("sources")?,
        attempts: (0..concurrency).map(|_| None).collect(),
        free: (0..concurrency).collect(),
        started: 0,
        limit: args.optional("count")?.unwrap_or(u64::MAX),
        gap: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
        outcome: Outcome::with_latencies(),
    };
    clients.run(args.seconds("seconds")?)?.print();
    Ok(())
}

/// A connection between its first and its last packet.
struct Attempt {
    socket: OwnedFd,
    /// When it began, or at a fixed rate was meant to begin.
    start: Instant,
    sent: bool,
    missing: usize,
}

struct Clients {
    poller: Poller,
    /// Taken in turn, like the sources: one pair of addresses would run out of ports.
    targets: Vec<SocketAddr>,
    sources: Vec<IpAddr>,
    attempts: Vec<Option<Attempt>>,
    /// Places in `attempts` that are empty.
    free: Vec<usize>,
    started: u64,
    limit: u64,
    /// Between two starts; `None`: as soon as a place is free.
    gap: Option<Duration>,
    outcome: Outcome,
}

impl Clients {
    fn run(mut self, duration: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let end = start + duration;
        let mut events = Vec::with_capacity(256);
        while Instant::now() < end && !self.done() {
            let next = self.start_due(start).min(end);
            self.poller.wait(&mut events, Some(next.saturating_duration_since(Instant::now())))?;
            self.advance(&events);
        }
        let deadline = Instant::now() + LAST_ANSWERS;
        while self.open() > 0 && Instant::now() < deadline {
            self.poller.wait(&mut events, Some(Duration::from_millis(50)))?;
            self.advance(&events);
        }
        self.outcome.errors += self.open() as u64;
        self.outcome.elapsed = start.elapsed();
        Ok(self.outcome)
    }

    /// Starts what is due and there is room for; when to come back.
    fn start_due(&mut self, start: Instant) -> Instant {
        loop {
            let now = Instant::now();
            let planned = match self.gap {
                Some(gap) => start + gap * u32::try_from(self.started).unwrap_or(u32::MAX),
                None => now,
            };
            if planned > now {
                return planned;
            }
            if self.started == self.limit {
                return now + Duration::from_millis(100);
            }
            let Some(place) = self.free.pop() else { return now + Duration::from_millis(100) };
            self.begin(place, planned);
        }
    }

    fn begin(&mut self, place: usize, start: Instant) {
        let turn = usize::try_from(self.started).unwrap_or(0);
        self.started += 1;
        let source = self.sources[turn % self.sources.len()];
        let opened = net::connect(self.targets[turn % self.targets.len()], Some(source)).and_then(|socket| {
            // On loopback the handshake is usually over by now, which saves waiting for it.
            let sent = match net::send(&socket, &[0x2a; MESSAGE_BYTES]) {
                Step::Moved(MESSAGE_BYTES) => true,
                Step::Blocked => false,
                _ => return Err(io::ErrorKind::ConnectionReset.into()),
            };
            self.poller.add(&socket, place, if sent { EventFlags::IN } else { EventFlags::OUT })?;
            Ok(Attempt { socket, start, sent, missing: MESSAGE_BYTES })
        });
        match opened {
            Ok(attempt) => self.attempts[place] = Some(attempt),
            Err(_) => self.end(place, false),
        }
    }

    fn advance(&mut self, events: &[net::Event]) {
        for event in events {
            let place = net::token(event);
            if let Some(worked) = self.step(place) {
                self.end(place, worked);
            }
        }
    }

    /// One step of an attempt: `Some` when it is over, with whether it worked.
    fn step(&mut self, place: usize) -> Option<bool> {
        let attempt = self.attempts[place].as_mut()?;
        if !attempt.sent {
            attempt.sent = true;
            let sent = matches!(net::send(&attempt.socket, &[0x2a; MESSAGE_BYTES]), Step::Moved(MESSAGE_BYTES));
            let watched = self.poller.modify(&attempt.socket, place, EventFlags::IN).is_ok();
            return if sent && watched { None } else { Some(false) };
        }
        match net::receive(&attempt.socket, &mut [0; MESSAGE_BYTES]) {
            Step::Moved(count) if count <= attempt.missing => attempt.missing -= count,
            Step::Blocked => return None,
            _ => return Some(false),
        }
        (attempt.missing == 0).then_some(true)
    }

    /// Closes an attempt and counts it.
    fn end(&mut self, place: usize, worked: bool) {
        let attempt = self.attempts[place].take();
        self.free.push(place);
        match attempt {
            Some(attempt) if worked => {
                self.outcome.completed(attempt.start, Instant::now());
                self.outcome.bytes += MESSAGE_BYTES as u64;
            }
            _ => self.outcome.errors += 1,
        }
    }

    fn open(&self) -> usize {
        self.attempts.len() - self.free.len()
    }

    fn done(&self) -> bool {
        self.started == self.limit && self.open() == 0
    }
}

/// A second is an age on loopback.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
