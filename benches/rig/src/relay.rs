//! One direction of a link.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tun_rs::SyncDevice;

use crate::link::{Conditions, Counts, LOCK, MTU};
use crate::reactor::{Timers, sharp_timers, wait_any};

/// What the owner of the link and its thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) conditions: Mutex<Conditions>,
    pub(crate) counts: Mutex<Counts>,
    /// Readable once the link is to end.
    pub(crate) stop: OwnedFd,
}

pub(crate) struct Relay {
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    shared: Arc<Shared>,
    rng: Rng,
    queue: Timers<Vec<u8>>,
    queued_bytes: usize,
    /// When the line has sent what it was given.
    line_free: Instant,
    /// No packet without jitter is due before this, so that a shorter delay lets none overtake.
    last_due: Instant,
    /// Buffers of delivered packets, to be used again.
    spare: Vec<Vec<u8>>,
    counts: Counts,
}

impl Relay {
    pub(crate) fn new(from: Arc<SyncDevice>, to: Arc<SyncDevice>, shared: Arc<Shared>, seed: u64) -> Relay {
        let now = Instant::now();
        Relay {
            from,
            to,
            shared,
            rng: Rng::with_seed(seed),
            queue: Timers::new(),
            queued_bytes: 0,
            line_free: now,
            last_due: now,
            spare: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Carries packets until told to stop.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        sharp_timers();
        loop {
            let stopped = {
                let mut stop = [PollFd::new(&self.shared.stop, PollFlags::IN)];
                rustix::event::poll(&mut stop, Some(&rustix::event::Timespec::default()))? > 0
            };
            if stopped {
                return Ok(());
            }
            self.take_in()?;
            self.deliver()?;
            *self.shared.counts.lock().expect(LOCK) = self.counts;
            let watched = [PollFd::new(&*self.from, PollFlags::IN), PollFd::new(&self.shared.stop, PollFlags::IN)];
            wait_any(watched, self.queue.next())?;
        }
    }

    /// Reads what has come, up to a batch, so that due packets do not wait for a flood to end.
    fn take_in(&mut self) -> io::Result<()> {
        let conditions = *self.shared.conditions.lock().expect(LOCK);
        for _ in 0..BATCH {
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(MTU, 0);
            match rustix::io::read(&*self.from, &mut packet) {
                Ok(length) => packet.truncate(length),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            self.enqueue(packet, &conditions);
        }
        Ok(())
    }

    fn enqueue(&mut self, packet: Vec<u8>, conditions: &Conditions) {
        if self.queued_bytes + packet.len() > conditions.queue_bytes {
            self.counts.overflowed += 1;
            return;
        }
        if self.rng.f64() < conditions.loss {
            self.counts.lost += 1;
            return;
        }
        let due = self.due(packet.len(), conditions);
        self.queued_bytes += packet.len();
        self.queue.add(due, packet);
    }

    fn due(&mut self, bytes: usize, conditions: &Conditions) -> Instant {
        let sending = conditions
            .bits_per_second
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 * 8.0 / rate.max(1) as f64));
        self.line_free = self.line_free.max(Instant::now()) + sending;
        let due = self.line_free + conditions.delay;
        if !conditions.jitter.is_zero() {
            let late = conditions.jitter.mul_f64(2.0 * self.rng.f64());
            return (due + late).checked_sub(conditions.jitter).unwrap_or(due);
        }
        self.last_due = self.last_due.max(due);
        self.last_due
    }

    fn deliver(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while let Some(packet) = self.queue.due(now) {
            self.queued_bytes -= packet.len();
            match rustix::io::write(&*self.to, &packet) {
                Ok(_) => self.counts.delivered += 1,
                // The far end has no room, or is down: lost, as on any line.
                Err(Errno::AGAIN | Errno::INTR | Errno::IO | Errno::NOBUFS | Errno::INVAL) => {
                    self.counts.overflowed += 1
                }
                Err(error) => return Err(error.into()),
            }
            if self.spare.len() < SPARE {
                self.spare.push(packet);
            }
        }
        Ok(())
    }
}

const BATCH: usize = 64;
const SPARE: usize = 4096;
