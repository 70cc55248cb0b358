//! Datagrams there and back on lasting flows, in a closed loop or at a fixed rate.
//!
//! A message is one datagram, or a train of segments that leaves as one (UDP_SEGMENT) and comes back whole or in
//! pieces. Every datagram begins with the number of its message. As with requests, a fixed rate is a timetable, and
//! latency counts from when a message was meant to leave.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::args::{Args, wrong};
use crate::net::{self, EventFlags, Poller};
use crate::on_the_way::{LOST_AFTER, OnTheWay};
use crate::outcome::Outcome;
use crate::udp::{self, Inbox, Outbox};

/// Runs the client and prints what it saw.
pub fn run(args: &Args) -> io::Result<()> {
    let targets: Vec<SocketAddr> = args.list("targets")?;
    let flows: usize = args.need("flows")?;
    let bytes: u16 = args.need("bytes")?;
    let segments: u16 = args.optional("segments")?.unwrap_or(1);
    let pace = match (args.optional::<u64>("window")?, args.optional::<f64>("rate")?) {
        (Some(window), None) => Pace::Window(window),
        (None, Some(rate)) if rate > 0.0 => Pace::Gap(Duration::from_secs_f64(1.0 / rate)),
        _ => return Err(wrong("either --window or --rate, more than nothing")),
    };
    if usize::from(bytes) < NUMBER_BYTES || segments == 0 || u32::from(bytes) * u32::from(segments) > LONGEST_TRAIN {
        return Err(wrong("a datagram holds 8 bytes or more, and a train of them no more than an IP packet"));
    }
    // The default slack of 50 us is as long as what is measured here.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000))?;
    let segment = (segments > 1).then_some(bytes);
    let poller = Poller::new()?;
    let flows = (0..flows)
        .map(|index| {
            let socket = udp::connected(targets[index % targets.len()], segment)?;
            poller.add(&socket, index, EventFlags::IN)?;
            Ok(Flow { socket, way: OnTheWay::default() })
        })
        .collect::<io::Result<Vec<_>>>()?;
    let exchange = Exchange {
        poller,
        flows,
        pace,
        inbox: Inbox::new(segment.is_some()),
        outbox: Outbox::new(),
        messages: vec![0x2a; usize::from(bytes) * usize::from(segments) * udp::BATCH],
        bytes: usize::from(bytes),
        segments: u64::from(segments),
        number: 0,
        left: args.optional("count")?.unwrap_or(u64::MAX),
        last_answer: Instant::now(),
        outcome: Outcome::with_latencies(),
    };
    exchange.run(args.seconds("seconds")?)?.print();
    Ok(())
}

/// When messages leave.
#[derive(Clone, Copy)]
enum Pace {
    /// As soon as fewer than so many messages of the flow are on the way.
    Window(u64),
    /// One every so often, on the flows in turn.
    Gap(Duration),
}

struct Flow {
    socket: OwnedFd,
    way: OnTheWay,
}

struct Exchange {
    poller: Poller,
    flows: Vec<Flow>,
    pace: Pace,
    inbox: Inbox,
    outbox: Outbox,
    /// Room for one call's messages, side by side; only their numbers change.
    messages: Vec<u8>,
    /// Of one datagram.
    bytes: usize,
    segments: u64,
    /// Of the next message.
    number: u64,
    /// Messages to send at most.
    left: u64,
    last_answer: Instant,
    outcome: Outcome,
}

impl Exchange {
    fn run(mut self, duration: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let end = start + duration;
        let mut events = Vec::with_capacity(256);
        let mut tick = 0;
        let mut next_look = start;
        loop {
            let now = Instant::now();
            if now >= end || self.left == 0 && self.waiting() == 0 {
                break;
            }
            if now >= next_look {
                self.give_up(now.checked_sub(LOST_AFTER));
                self.refill_all();
                next_look = now + LOOK;
            }
            let next = self.send_due(start, &mut tick, now).min(next_look).min(end);
            self.poller.wait(&mut events, Some(next.saturating_duration_since(Instant::now())))?;
            for index in events.iter().map(net::token) {
                if self.receive(index) {
                    self.refill(index);
                }
            }
        }
        self.collect_last(&mut events)?;
        self.outcome.elapsed = self.last_answer.saturating_duration_since(start);
        Ok(self.outcome)
    }

    /// At a fixed rate, sends what the timetable has reached; when to come back.
    fn send_due(&mut self, start: Instant, tick: &mut u32, now: Instant) -> Instant {
        let Pace::Gap(gap) = self.pace else { return now + LOOK };
        loop {
            let planned = start + gap * *tick;
            if self.left == 0 {
                return now + LOOK;
            }
            if planned > now {
                return planned;
            }
            self.send(*tick as usize % self.flows.len(), 1, planned);
            *tick += 1;
        }
    }

    fn refill_all(&mut self) {
        for index in 0..self.flows.len() {
            self.refill(index);
        }
    }

    /// In a closed loop, sends what has become free of the window.
    fn refill(&mut self, index: usize) {
        let Pace::Window(window) = self.pace else { return };
        let free = window - self.flows[index].way.datagrams().div_ceil(self.segments);
        if free > 0 && self.left > 0 {
            self.send(index, free, Instant::now());
        }
    }

    /// Sends up to `count` messages of one flow, in calls of a batch each.
    fn send(&mut self, index: usize, count: u64, planned: Instant) {
        let count = usize::try_from(count.min(self.left)).unwrap_or(udp::BATCH).min(udp::BATCH);
        let train = self.messages.len() / udp::BATCH;
        let first = self.number;
        for message in self.messages.chunks_exact_mut(train).take(count) {
            for datagram in message.chunks_exact_mut(self.bytes) {
                datagram[..NUMBER_BYTES].copy_from_slice(&self.number.to_le_bytes());
            }
            self.number += 1;
        }
        let flow = &mut self.flows[index];
        let messages = self.messages.chunks_exact(train).take(count);
        match self.outbox.send(&flow.socket, messages, &[None; udp::BATCH]) {
            Ok(sent) => {
                for number in first..first + sent as u64 {
                    flow.way.add(number, planned, self.segments);
                }
                self.left -= sent as u64;
            }
            Err(_) => self.outcome.errors += 1,
        }
    }

    /// Takes in one call's answers; whether there were any.
    fn receive(&mut self, index: usize) -> bool {
        let flow = &mut self.flows[index];
        let Ok(received) = self.inbox.receive(&flow.socket) else {
            self.outcome.errors += 1;
            return false;
        };
        let now = Instant::now();
        for message in self.inbox.datagrams() {
            if message.is_empty() || message.len() % self.bytes != 0 {
                self.outcome.errors += 1;
            }
            for datagram in message.chunks_exact(self.bytes) {
                let mut number = [0; NUMBER_BYTES];
                number.copy_from_slice(&datagram[..NUMBER_BYTES]);
                if let Some(sent) = flow.way.answered(u64::from_le_bytes(number)) {
                    self.outcome.completed(sent, now);
                    self.outcome.bytes += self.bytes as u64;
                    self.last_answer = now;
                }
            }
        }
        received > 0
    }

    /// Counts what left before `before`, or else everything, as lost.
    fn give_up(&mut self, before: Option<Instant>) {
        let Some(before) = before else { return };
        for flow in &mut self.flows {
            self.outcome.lost += flow.way.give_up(before);
        }
    }

    /// Gives the answers still on their way a moment; what does not come is lost.
    fn collect_last(&mut self, events: &mut Vec<net::Event>) -> io::Result<()> {
        let deadline = Instant::now() + LOST_AFTER;
        while self.waiting() > 0 && Instant::now() < deadline {
            self.poller.wait(events, Some(Duration::from_millis(50)))?;
            for index in events.iter().map(net::token) {
                self.receive(index);
            }
        }
        self.outcome.lost += self.waiting();
        Ok(())
    }

    fn waiting(&self) -> u64 {
        self.flows.iter().map(|flow| flow.way.datagrams()).sum()
    }
}

const NUMBER_BYTES: usize = size_of::<u64>();
/// What UDP carries over IPv4.
const LONGEST_TRAIN: u32 = 65_507;
/// How often to look for what is lost.
const LOOK: Duration = Duration::from_millis(20);
