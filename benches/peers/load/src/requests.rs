//! 64 bytes there and back on long-lived connections, in a closed loop or at a fixed rate.
//!
//! At a fixed rate the requests are laid out on a timetable before the run: request `n` is meant to leave at
//! `start + n / rate` on connection `n mod connections`. A connection that is still waiting for an answer sends late, and
//! its latency counts from the timetable, so a stall is charged to every request it held up.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::net::{self, EventFlags, MESSAGE_BYTES, Poller, Step};
use crate::outcome::{Outcome, on_threads};

/// Runs the clients and prints what they saw.
pub fn run(args: &Args) -> io::Result<()> {
    let targets: Vec<SocketAddr> = args.list("targets")?;
    let connections: usize = args.need("connections")?;
    let duration = args.seconds("seconds")?;
    let rate: Option<f64> = args.optional("rate")?;
    let count: u64 = args.optional("count")?.unwrap_or(u64::MAX);
    let threads = args.optional("threads")?.unwrap_or(1_usize).clamp(1, connections.max(1));
    let outcome = on_threads(threads, |thread| {
        // The default slack of 50 us is as long as what is measured here.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000))?;
        let sockets = (thread..connections)
            .step_by(threads)
            .map(|index| net::connect(targets[index % targets.len()], None))
            .collect::<io::Result<Vec<_>>>()?;
        let gap = rate.map(|rate| Duration::from_secs_f64(threads as f64 / rate));
        Exchange::new(sockets, gap, count.div_ceil(threads as u64))?.run(duration)
    })?;
    outcome.print();
    Ok(())
}

/// One connection and where it stands.
struct Flow {
    /// `None` once broken.
    socket: Option<OwnedFd>,
    /// When the request on its way, or else the next one, is meant to leave.
    due: Instant,
    /// Bytes of the answer still missing; zero while no request is on its way.
    missing: usize,
}

/// One thread's connections.
struct Exchange {
    poller: Poller,
    flows: Vec<Flow>,
    outcome: Outcome,
    /// Between two requests of this thread, over all its connections; `None` in a closed loop.
    gap: Option<Duration>,
    /// Requests to send at most.
    left: u64,
}

impl Exchange {
    fn new(sockets: Vec<OwnedFd>, gap: Option<Duration>, count: u64) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (index, socket) in sockets.iter().enumerate() {
            poller.add(socket, index, EventFlags::IN)?;
        }
        let due = Instant::now();
        let flows = sockets.into_iter().map(|socket| Flow { socket: Some(socket), due, missing: 0 }).collect();
        Ok(Self { poller, flows, outcome: Outcome::with_latencies(), gap, left: count })
    }

    fn run(mut self, duration: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let end = start + duration;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            flow.due = start + self.gap.unwrap_or_default() * u32::try_from(index).unwrap_or(u32::MAX);
        }
        let mut events = Vec::with_capacity(256);
        let mut tick = 0;
        loop {
            let now = Instant::now();
            if now >= end || self.left == 0 && self.waiting() == 0 || self.broken() {
                break;
            }
            let next = self.send_due(start, &mut tick, now);
            self.poller.wait(&mut events, Some(next.min(end).saturating_duration_since(Instant::now())))?;
            for event in &events {
                self.receive(net::token(event), Some(end));
            }
        }
        self.collect_last(&mut events)?;
        self.outcome.elapsed = start.elapsed();
        Ok(self.outcome)
    }

    /// Sends what the timetable has reached; when to come back. In a closed loop this only starts the connections.
    fn send_due(&mut self, start: Instant, tick: &mut u32, now: Instant) -> Instant {
        let flows = u32::try_from(self.flows.len()).unwrap_or(u32::MAX);
        let Some(gap) = self.gap else {
            while *tick < flows {
                self.send(*tick as usize);
                *tick += 1;
            }
            return now + Duration::from_millis(100);
        };
        loop {
            let planned = start + gap * *tick;
            if planned > now {
                return planned;
            }
            let index = (*tick % flows) as usize;
            if self.flows[index].missing == 0 && self.flows[index].due <= now {
                self.send(index);
            }
            *tick += 1;
        }
    }

    fn send(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        let Some(socket) = &flow.socket else { return };
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        match net::send(socket, &[0x2a; MESSAGE_BYTES]) {
            Step::Moved(MESSAGE_BYTES) => flow.missing = MESSAGE_BYTES,
            _ => self.break_flow(index),
        }
    }

    /// Takes what has arrived; a whole answer is counted and, before `end`, followed by the next request if that is due.
    fn receive(&mut self, index: usize, end: Option<Instant>) {
        let turn = u32::try_from(self.flows.len()).unwrap_or(u32::MAX);
        let flow = &mut self.flows[index];
        let Some(socket) = &flow.socket else { return };
        match net::receive(socket, &mut [0; MESSAGE_BYTES]) {
            Step::Moved(count) if count <= flow.missing => flow.missing -= count,
            Step::Blocked => return,
            _ => return self.break_flow(index),
        }
        if flow.missing > 0 {
            return;
        }
        let now = Instant::now();
        self.outcome.completed(flow.due, now);
        self.outcome.bytes += MESSAGE_BYTES as u64;
        flow.due = match self.gap {
            Some(gap) => flow.due + gap * turn,
            None => now,
        };
        if end.is_some_and(|end| now < end) && flow.due <= now {
            self.send(index);
        }
    }

    fn break_flow(&mut self, index: usize) {
        self.flows[index].socket = None;
        self.flows[index].missing = 0;
        self.outcome.errors += 1;
    }

    /// Gives the answers still on their way a moment; what does not come is an error.
    fn collect_last(&mut self, events: &mut Vec<net::Event>) -> io::Result<()> {
        let deadline = Instant::now() + LAST_ANSWERS;
        while self.waiting() > 0 && Instant::now() < deadline {
            self.poller.wait(events, Some(Duration::from_millis(50)))?;
            for event in events.iter() {
                self.receive(net::token(event), None);
            }
        }
        self.outcome.errors += self.waiting() as u64;
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.flows.iter().filter(|flow| flow.missing > 0).count()
    }

    fn broken(&self) -> bool {
        self.flows.iter().all(|flow| flow.socket.is_none())
    }
}

/// A second is an age on loopback.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
