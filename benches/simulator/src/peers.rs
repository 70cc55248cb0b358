//! Peers, from what their documentation and source say; none of their code.

use std::collections::VecDeque;

use balance::Rng;

use crate::router::Router;
use crate::scenario::Scenario;
use crate::server::{Mode, Server};

/// What a peer counts for each of its connections.
#[derive(Clone, Copy, Debug, Default)]
struct Conn {
    server: usize,
    since: u64,
    pending: bool,
    open: bool,
}

/// Connections and who is there: what all peers need.
#[derive(Debug)]
struct Book {
    conns: Vec<Conn>,
    open: Vec<u32>,
    pending: Vec<u32>,
    present: Vec<bool>,
}

impl Book {
    fn new(scenario: &Scenario) -> Self {
        let count = scenario.servers.len();
        let present = scenario.servers.iter().map(|spec| !spec.joins).collect();
        Self { conns: Vec::new(), open: vec![0; count], pending: vec![0; count], present }
    }

    fn start(&mut self, conn: usize, server: usize, now: u64, pending: bool) {
        if self.conns.len() <= conn {
            self.conns.resize(conn + 1, Conn::default());
        }
        self.open[server] += 1;
        self.pending[server] += u32::from(pending);
        self.conns[conn] = Conn { server, since: now, pending, open: true };
    }

    fn begin(&mut self, conn: usize, now: u64) {
        let it = &mut self.conns[conn];
        if !it.pending {
            self.pending[it.server] += 1;
        }
        (it.pending, it.since) = (true, now);
    }

    fn end(&mut self, conn: usize) -> Conn {
        let it = &mut self.conns[conn];
        let was = *it;
        if std::mem::take(&mut it.pending) {
            self.pending[it.server] -= 1;
        }
        was
    }

    fn close(&mut self, conn: usize) {
        self.end(conn);
        let it = &mut self.conns[conn];
        if std::mem::take(&mut it.open) {
            self.open[it.server] -= 1;
        }
    }

    /// Present servers that were not tried.
    fn candidates(&self, tried: &[usize]) -> Vec<usize> {
        (0..self.open.len()).filter(|at| self.present[*at] && !tried.contains(at)).collect()
    }
}

fn two(candidates: &[usize], rng: &mut Rng) -> Option<(usize, usize)> {
    let count = candidates.len() as u64;
    let first = rng.below(count) as usize;
    let second = if count > 1 { (first + 1 + rng.below(count - 1) as usize) % candidates.len() } else { first };
    Some((*candidates.get(first)?, candidates[second]))
}

/// Peak-EWMA with two choices: an estimate that jumps to any longer sample and decays with 10 s, moved by reads as well.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    book: Book,
    cost: Vec<(f64, u64)>,
    connects: bool,
}

impl PeakEwma {
    pub(crate) fn new(scenario: &Scenario, connects: bool) -> Self {
        Self { book: Book::new(scenario), cost: vec![(30_000.0, 0); scenario.servers.len()], connects }
    }

    fn update(&mut self, server: usize, sample: f64, now: u64) {
        let (cost, since) = self.cost[server];
        let next = if sample > cost {
            sample
        } else {
            let keep = (-((now - since) as f64) / 10e6).exp();
            cost * keep + sample * (1.0 - keep)
        };
        self.cost[server] = (next, now);
    }

    fn load(&mut self, server: usize, now: u64) -> f64 {
        self.update(server, 0.0, now);
        self.cost[server].0 * f64::from(self.book.pending[server] + 1)
    }
}

impl Router for PeakEwma {
    fn pick(&mut self, now: u64, conn: usize, tried: &[usize], _servers: &[Server], rng: &mut Rng) -> Option<usize> {
        let (a, b) = two(&self.book.candidates(tried), rng)?;
        let server = if self.load(a, now) <= self.load(b, now) { a } else { b };
        self.book.start(conn, server, now, true);
        Some(server)
    }

    fn connected(&mut self, now: u64, conn: usize, took: u64, _rng: &mut Rng) {
        let was = self.book.end(conn);
        if self.connects {
            self.update(was.server, took as f64, now);
        }
    }

    fn connect_failed(&mut self, now: u64, conn: usize, took: u64, _rng: &mut Rng) {
        let server = self.book.conns[conn].server;
        if self.connects {
            self.update(server, took as f64, now);
        }
        self.book.close(conn);
    }

    fn turn_began(&mut self, now: u64, conn: usize) {
        if !self.connects {
            self.book.begin(conn, now);
        }
    }

    fn turn_ended(&mut self, now: u64, conn: usize) {
        if !self.connects {
            let was = self.book.end(conn);
            self.update(was.server, (now - was.since) as f64, now);
        }
    }

    fn closed(&mut self, now: u64, conn: usize) {
        let was = self.book.conns[conn];
        if was.pending && !self.connects {
            self.update(was.server, (now - was.since) as f64, now);
        }
        self.book.close(conn);
    }

    fn join(&mut self, server: usize) {
        self.book.present[server] = true;
    }
}

/// Least average time of the first byte, in steps of 20 ms and with 5 % a sample, times connections; all are looked at.
#[derive(Debug)]
pub(crate) struct LeastTime {
    book: Book,
    average: Vec<f64>,
    weights: Vec<f64>,
}

impl LeastTime {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let weights = scenario.servers.iter().map(|spec| f64::from(spec.weight)).collect();
        Self { book: Book::new(scenario), average: vec![0.0; scenario.servers.len()], weights }
    }

    fn sample(&mut self, server: usize, took: u64) {
        let average = &mut self.average[server];
        *average = if *average == 0.0 { took as f64 } else { *average + 0.05 * (took as f64 - *average) };
    }
}

impl Router for LeastTime {
    fn pick(&mut self, now: u64, conn: usize, tried: &[usize], _servers: &[Server], rng: &mut Rng) -> Option<usize> {
        let candidates = self.book.candidates(tried);
        let cost = |server: usize| {
            let steps = (self.average[server] / 20_000.0).floor() + 1.0;
            steps * f64::from(self.book.open[server] + 1) / self.weights[server]
        };
        let start = rng.below(candidates.len() as u64) as usize;
        let order = candidates[start..].iter().chain(&candidates[..start]);
        let server = order.copied().min_by(|&a, &b| cost(a).total_cmp(&cost(b)))?;
        self.book.start(conn, server, now, false);
        Some(server)
    }

    fn connect_failed(&mut self, _now: u64, conn: usize, _took: u64, _rng: &mut Rng) {
        self.book.close(conn);
    }

    fn turn_began(&mut self, now: u64, conn: usize) {
        self.book.begin(conn, now);
    }

    fn turn_ended(&mut self, now: u64, conn: usize) {
        let was = self.book.end(conn);
        self.sample(was.server, now - was.since);
    }

    fn closed(&mut self, now: u64, conn: usize) {
        let was = self.book.conns[conn];
        if was.pending {
            self.sample(was.server, now - was.since);
        }
        self.book.close(conn);
    }

    fn join(&mut self, server: usize) {
        self.book.present[server] = true;
    }
}

/// A pool of probes, three for each pick, that carry the server's own requests in flight and its latency. Hot above the
/// 84th percentile of counts: the cold with the least latency, or when all are hot the one with the least count.
#[derive(Debug)]
pub(crate) struct Prequal {
    book: Book,
    probes: VecDeque<(usize, usize, f64, u64)>,
    counts: VecDeque<usize>,
    latency: Vec<f64>,
}

impl Prequal {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let latency = vec![1_000.0; scenario.servers.len()];
        Self { book: Book::new(scenario), probes: VecDeque::new(), counts: VecDeque::new(), latency }
    }

    fn probe(&mut self, now: u64, candidates: &[usize], servers: &[Server], rng: &mut Rng) {
        for _ in 0..3 {
            let server = candidates[rng.below(candidates.len() as u64) as usize];
            let count = servers[server].load();
            self.counts.push_back(count);
            if self.counts.len() > 128 {
                self.counts.pop_front();
            }
            self.probes.push_back((server, count, self.latency[server], now));
            if self.probes.len() > 16 {
                self.probes.pop_front();
            }
        }
    }
}

impl Router for Prequal {
    fn pick(&mut self, now: u64, conn: usize, tried: &[usize], servers: &[Server], rng: &mut Rng) -> Option<usize> {
        let candidates = self.book.candidates(tried);
        if candidates.is_empty() {
            return None;
        }
        self.probe(now, &candidates, servers, rng);
        self.probes.retain(|&(server, _, _, at)| now - at < 1_000_000 && !tried.contains(&server));
        let mut counts: Vec<usize> = self.counts.iter().copied().collect();
        counts.sort_unstable();
        let hot = counts[(counts.len() as f64 * 0.84) as usize % counts.len()];
        let cold = self.probes.iter().enumerate().filter(|(_, probe)| probe.1 <= hot);
        let best = cold
            .min_by(|a, b| a.1.2.total_cmp(&b.1.2))
            .or_else(|| self.probes.iter().enumerate().min_by_key(|(_, probe)| probe.1));
        let server = match best.map(|(at, _)| at) {
            Some(at) => self.probes.remove(at)?.0,
            None => candidates[rng.below(candidates.len() as u64) as usize],
        };
        self.book.start(conn, server, now, false);
        Some(server)
    }

    fn connect_failed(&mut self, _now: u64, conn: usize, _took: u64, _rng: &mut Rng) {
        self.book.close(conn);
    }

    fn turn_began(&mut self, now: u64, conn: usize) {
        self.book.begin(conn, now);
    }

    fn turn_ended(&mut self, now: u64, conn: usize) {
        let was = self.book.end(conn);
        let latency = &mut self.latency[was.server];
        *latency += 0.1 * ((now - was.since) as f64 - *latency);
    }

    fn closed(&mut self, _now: u64, conn: usize) {
        self.book.close(conn);
    }

    fn join(&mut self, server: usize) {
        self.book.present[server] = true;
    }
}

/// Knows every queue, speed, distance and fault, and takes the soonest answer for each session. Greedy: with several
/// zones it is selfish, and can be beaten.
#[derive(Debug)]
pub(crate) struct Oracle {
    book: Book,
    rtt: Vec<f64>,
    mean: f64,
    /// Connections that were sent to a server and have not reached it.
    held: Vec<bool>,
    long: bool,
}

impl Oracle {
    pub(crate) fn new(scenario: &Scenario, zone: usize) -> Self {
        let rtt = scenario.servers.iter().map(|spec| scenario.rtt(zone, spec.zone)).collect();
        let long = scenario.is_long_lived();
        Self { book: Book::new(scenario), rtt, mean: scenario.mean_us(), held: Vec::new(), long }
    }
}

impl Router for Oracle {
    fn pick(&mut self, now: u64, conn: usize, tried: &[usize], servers: &[Server], rng: &mut Rng) -> Option<usize> {
        let mut candidates = self.book.candidates(tried);
        candidates.retain(|&at| servers[at].mode == Mode::Normal);
        let cost = |at: usize| {
            let server = &servers[at];
            let coming = if self.long { self.book.open[at] } else { self.book.pending[at] } as f64;
            let load = if self.long { coming } else { server.load() as f64 + coming };
            let workers = server.workers() as f64;
            let wait = if self.long { load / workers } else { (load + 1.0 - workers).max(0.0) / workers };
            2.0 * self.rtt[at] + (wait + 1.0) * self.mean / server.speed
        };
        let start = rng.below(candidates.len() as u64) as usize;
        let order = candidates[start..].iter().chain(&candidates[..start]);
        let server = order.copied().min_by(|&a, &b| cost(a).total_cmp(&cost(b)))?;
        self.book.start(conn, server, now, true);
        if self.held.len() <= conn {
            self.held.resize(conn + 1, false);
        }
        Some(server)
    }

    fn connected(&mut self, _now: u64, conn: usize, _took: u64, _rng: &mut Rng) {
        self.book.end(conn);
    }

    fn connect_failed(&mut self, _now: u64, conn: usize, _took: u64, _rng: &mut Rng) {
        self.book.close(conn);
    }

    fn closed(&mut self, _now: u64, conn: usize) {
        self.book.close(conn);
    }

    fn join(&mut self, server: usize) {
        self.book.present[server] = true;
    }
}
