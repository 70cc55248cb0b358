//! A server: a pool of workers with one line before it, or a processor that all its requests share.

use std::collections::{BTreeMap, VecDeque};

/// What a server does with connections and requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Serves.
    Normal,
    /// Refuses connections.
    Refuse,
    /// Accepts, and resets 0.2 ms after a request.
    Reset,
    /// Accepts, and never answers.
    Silent,
}

/// A request at a server: whose it is, and its work in microseconds at speed 1.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub conn: usize,
    pub generation: u64,
    pub work_us: f64,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    pub speed: f64,
    pub mode: Mode,
    workers: usize,
    shared: bool,
    waiting: VecDeque<Job>,
    /// End time → job; under sharing, virtual end time → job. The second part keeps keys apart.
    running: BTreeMap<(u64, u64), Job>,
    frozen_until: u64,
    /// Work that each sharing request has had, and when that was true.
    attained: f64,
    attained_us: u64,
    next_key: u64,
}

impl Server {
    pub fn new(speed: f64, workers: usize, shared: bool) -> Self {
        Self {
            speed,
            mode: Mode::Normal,
            workers,
            shared,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            frozen_until: 0,
            attained: 0.0,
            attained_us: 0,
            next_key: 0,
        }
    }

    /// Requests here.
    pub fn load(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    pub fn arrive(&mut self, now: u64, job: Job) {
        if self.shared {
            self.advance(now);
            let end = self.attained + job.work_us;
            self.run((end * 1e3) as u64, job);
        } else {
            self.waiting.push_back(job);
            self.dispatch(now);
        }
    }

    /// Takes what is finished by `now`.
    pub fn finished(&mut self, now: u64) -> Vec<Job> {
        let mut done = Vec::new();
        if self.shared {
            self.advance(now);
            let limit = (self.attained * 1e3) as u64 + 1_000;
            while let Some(entry) = self.running.first_entry().filter(|entry| entry.key().0 <= limit) {
                done.push(entry.remove());
            }
            return done;
        }
        if now < self.frozen_until {
            return done;
        }
        while let Some(entry) = self.running.first_entry().filter(|entry| entry.key().0 <= now) {
            done.push(entry.remove());
        }
        self.dispatch(now);
        done
    }

    /// When to look again.
    pub fn next_us(&self, now: u64) -> Option<u64> {
        let first = self.running.keys().next();
        if self.shared {
            let left = (first?.0 as f64 / 1e3 - self.attained).max(0.0);
            return Some(now + (left / self.rate()).ceil() as u64);
        }
        match first {
            Some(&(end, _)) => Some(end.max(self.frozen_until)),
            None if !self.waiting.is_empty() => Some(self.frozen_until),
            None => None,
        }
    }

    pub fn set_speed(&mut self, now: u64, speed: f64) {
        self.advance(now);
        self.speed = speed;
    }

    /// Stops for `length` microseconds.
    pub fn freeze(&mut self, now: u64, length: u64) {
        let later = std::mem::take(&mut self.running);
        self.running = later.into_iter().map(|((end, key), job)| ((end + length, key), job)).collect();
        self.frozen_until = now + length;
    }

    fn dispatch(&mut self, now: u64) {
        while now >= self.frozen_until && self.running.len() < self.workers {
            let Some(job) = self.waiting.pop_front() else { return };
            self.run(now + (job.work_us / self.speed) as u64 + 1, job);
        }
    }

    fn run(&mut self, end: u64, job: Job) {
        self.next_key += 1;
        self.running.insert((end, self.next_key), job);
    }

    fn rate(&self) -> f64 {
        self.speed * (self.workers as f64 / self.running.len().max(1) as f64).min(1.0)
    }

    fn advance(&mut self, now: u64) {
        self.attained += self.rate() * (now - self.attained_us) as f64;
        self.attained_us = now;
    }
}
