//! The event loop.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use balance::Rng;

use crate::Outcome;
use crate::outcome::Collected;
use crate::router::{Policy, Router, router};
use crate::scenario::{Action, PARETO, Scenario, Shape, WORKERS, Work};
use crate::server::{Job, Mode, Server};

/// What happens next. Connections are slots, and a generation tells one user of a slot from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive { proxy: usize },
    Connected { conn: usize, generation: u64 },
    Refused { conn: usize, generation: u64 },
    AtServer { conn: usize, generation: u64 },
    Look { server: usize },
    Answer { conn: usize, generation: u64 },
    Gone { conn: usize, generation: u64 },
    Next { conn: usize, generation: u64 },
    GiveUp { conn: usize, generation: u64, request: u32 },
    Silent { conn: usize, generation: u64, request: u32 },
    Close { conn: usize, generation: u64 },
    Script { at: usize },
    Probe { proxy: usize, server: usize },
    Stream { conn: usize, generation: u64, left: u32 },
}

#[derive(Debug, Default)]
struct Conn {
    generation: u64,
    proxy: usize,
    server: usize,
    tried: Vec<usize>,
    /// The client's own draws, the same under every policy.
    draws: Option<Rng>,
    request: u32,
    requests: u32,
    /// Whether the first request is a handshake.
    tls: bool,
    stream: bool,
    /// When the request began for its client, and when connecting began.
    begun: u64,
    connecting: u64,
    rtt: u64,
    work_us: f64,
    waiting: bool,
    /// Whether its client has gone, of which nobody tells the proxy of a flow of datagrams.
    abandoned: bool,
}

struct Engine<'a> {
    scenario: &'a Scenario,
    udp: bool,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    servers: Vec<Server>,
    looks: Vec<u64>,
    routers: Vec<Box<dyn Router>>,
    rngs: Vec<Rng>,
    arrivals: Vec<Rng>,
    demand: Vec<f64>,
    seed: u64,
    conns: Vec<Conn>,
    free: Vec<usize>,
    generation: u64,
    collected: Collected,
}

/// Runs `scenario` under `policy`.
pub fn run(scenario: &Scenario, policy: Policy, seed: u64) -> Outcome {
    let proxies = scenario.zones * scenario.proxies;
    let stream = |kind: u64, n: usize| Rng::new(Rng::new(seed << 20 ^ kind << 16 ^ n as u64).next_u64());
    let mut engine = Engine {
        scenario,
        udp: scenario.udp,
        now: 0,
        events: BinaryHeap::new(),
        order: 0,
        servers: scenario.servers.iter().map(|spec| Server::new(spec.speed, WORKERS, scenario.shared)).collect(),
        looks: vec![u64::MAX; scenario.servers.len()],
        routers: (0..proxies).map(|proxy| router(policy, scenario, proxy / scenario.proxies)).collect(),
        rngs: (0..proxies).map(|proxy| stream(1, proxy)).collect(),
        arrivals: (0..proxies).map(|proxy| stream(2, proxy)).collect(),
        demand: scenario.demand.clone(),
        seed: stream(3, 0).next_u64(),
        conns: Vec::new(),
        free: Vec::new(),
        generation: 0,
        collected: Collected::new(
            scenario.length_us / 6,
            scenario.event_us,
            scenario.servers.len(),
            scenario.length_us,
        ),
    };
    engine.start(stream(4, 0));
    engine.run();
    let home = engine.routers[..scenario.proxies].iter().map(|router| router.gate_flips() as f64);
    let flips = home.sum::<f64>() / scenario.proxies as f64;
    engine.collected.outcome(proxies, flips)
}

impl Engine<'_> {
    fn start(&mut self, mut probes: Rng) {
        for proxy in 0..self.routers.len() {
            self.plan_arrival(proxy);
            for server in (0..self.servers.len()).filter(|_| self.scenario.probes) {
                self.plan(probes.below(5_000_000), Event::Probe { proxy, server });
            }
        }
        for (at, &(when, _)) in self.scenario.script.iter().enumerate() {
            self.plan(when, Event::Script { at });
        }
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.scenario.length_us {
                return;
            }
            self.now = at;
            self.handle(event);
        }
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { proxy } => self.arrive(proxy),
            Event::Connected { conn, generation } if self.lives(conn, generation) => self.connected(conn),
            Event::Refused { conn, generation } if self.lives(conn, generation) => self.refused(conn),
            Event::AtServer { conn, generation } => self.at_server(conn, generation),
            Event::Look { server } => self.look(server),
            Event::Answer { conn, generation } if self.lives(conn, generation) => self.answered(conn),
            Event::Gone { conn, generation } if self.lives(conn, generation) => self.server_gone(conn),
            Event::Next { conn, generation } if self.lives(conn, generation) => self.request(conn),
            Event::GiveUp { conn, generation, request } if self.lives(conn, generation) => self.give_up(conn, request),
            Event::Silent { conn, generation, request } if self.lives(conn, generation) => self.silent(conn, request),
            Event::Close { conn, generation } if self.lives(conn, generation) => self.close(conn),
            Event::Stream { conn, generation, left } if self.lives(conn, generation) => self.stream(conn, left),
            Event::Script { at } => self.act(self.scenario.script[at].1),
            Event::Probe { proxy, server } => self.probe(proxy, server),
            _ => {}
        }
    }

    fn lives(&self, conn: usize, generation: u64) -> bool {
        self.conns[conn].generation == generation
    }

    fn zone(&self, proxy: usize) -> usize {
        proxy / self.scenario.proxies
    }

    fn plan_arrival(&mut self, proxy: usize) {
        let zone = self.zone(proxy);
        let capacity = self.scenario.capacity(zone);
        let per_us = self.demand[zone] * capacity / self.scenario.conn_work_us() / 1e6 / self.scenario.proxies as f64;
        let gap = -(1.0 - self.arrivals[proxy].unit()).ln() / per_us;
        self.plan(self.now + gap as u64, Event::Arrive { proxy });
    }

    fn arrive(&mut self, proxy: usize) {
        self.plan_arrival(proxy);
        let word = self.arrivals[proxy].next_u64();
        let mut draws = Rng::new(word ^ self.seed);
        let (requests, tls, stream) = match self.scenario.shape {
            Shape::Short => (1, false, false),
            Shape::Several { requests, .. } => (requests, false, false),
            Shape::Long => (pareto(&mut draws), false, false),
            Shape::Tls => (if draws.below(10) == 0 { 51 } else { 2 }, true, false),
            Shape::Streams => (10, false, draws.below(5) == 0),
        };
        let conn = self.free.pop().unwrap_or_else(|| {
            self.conns.push(Conn::default());
            self.conns.len() - 1
        });
        self.generation += 1;
        let (generation, begun) = (self.generation, self.now);
        self.conns[conn] =
            Conn { generation, proxy, draws: Some(draws), requests, tls, stream, begun, ..Conn::default() };
        self.plan(self.now + self.scenario.timeout_us, Event::GiveUp { conn, generation, request: 0 });
        self.try_one(conn);
    }

    fn try_one(&mut self, conn: usize) {
        let proxy = self.conns[conn].proxy;
        let tried = std::mem::take(&mut self.conns[conn].tried);
        let picked = self.routers[proxy].pick(self.now, conn, &tried, &self.servers, &mut self.rngs[proxy]);
        self.conns[conn].tried = tried;
        let Some(server) = picked else { return self.fail(conn, false) };
        self.count_pick(proxy, server);
        let base = self.scenario.rtt(self.zone(proxy), self.scenario.servers[server].zone);
        let generation = self.conns[conn].generation;
        let jitter = 0.9 + 0.2 * Rng::new(generation ^ self.seed).unit();
        let it = &mut self.conns[conn];
        (it.server, it.connecting, it.rtt) = (server, self.now, (base * jitter) as u64);
        let rtt = if self.udp { 0 } else { it.rtt };
        let refused = self.servers[server].mode == Mode::Refuse;
        let event = if refused { Event::Refused { conn, generation } } else { Event::Connected { conn, generation } };
        self.plan(self.now + rtt, event);
    }

    fn count_pick(&mut self, proxy: usize, server: usize) {
        let (from, to) = (self.zone(proxy), self.scenario.servers[server].zone);
        let second = (self.now / 1_000_000) as usize;
        let counts = &mut self.collected.seconds[second];
        counts[0] += u32::from(from == 0);
        counts[1] += u32::from(from == 0 && to != 0);
        counts[2] += 1;
        counts[3] += u32::from(from != to);
        counts[4] += u32::from(from == 0 && to == 2);
        self.collected.shares[second][server] += 1;
        if self.scenario.event_us.is_some_and(|event| self.now >= event + 2_000_000) {
            self.collected.subject.0 += u32::from(self.scenario.subject == Some(server));
            self.collected.subject.1 += 1;
        }
    }

    fn connected(&mut self, conn: usize) {
        let (proxy, took) = (self.conns[conn].proxy, self.now - self.conns[conn].connecting);
        match self.udp {
            true => self.routers[proxy].opened(self.now, conn, &mut self.rngs[proxy]),
            false => self.routers[proxy].connected(self.now, conn, took, &mut self.rngs[proxy]),
        }
        if self.conns[conn].stream {
            return self.stream(conn, 500);
        }
        self.send(conn);
    }

    fn refused(&mut self, conn: usize) {
        let (proxy, took) = (self.conns[conn].proxy, self.now - self.conns[conn].connecting);
        self.routers[proxy].connect_failed(self.now, conn, took, &mut self.rngs[proxy]);
        let it = &mut self.conns[conn];
        it.tried.push(it.server);
        if it.tried.len() > RETRIES { self.fail(conn, false) } else { self.try_one(conn) }
    }

    /// The client has its next request.
    fn request(&mut self, conn: usize) {
        let it = &mut self.conns[conn];
        it.begun = self.now;
        let (generation, request) = (it.generation, it.request);
        self.plan(self.now + self.scenario.timeout_us, Event::GiveUp { conn, generation, request });
        self.send(conn);
    }

    fn send(&mut self, conn: usize) {
        let (work, scale) = (self.scenario.work, self.scenario.scale);
        let it = &mut self.conns[conn];
        let draws = it.draws.as_mut().expect("a client draws");
        it.work_us = work_us(work, draws) * scale;
        if it.tls && it.request == 0 {
            it.work_us *= 0.2;
        }
        it.waiting = true;
        let (proxy, generation, half, request) = (it.proxy, it.generation, it.rtt / 2, it.request);
        self.routers[proxy].turn_began(self.now, conn);
        if self.udp {
            self.plan(self.now + REPLY_TIMEOUT_US, Event::Silent { conn, generation, request });
        }
        self.plan(self.now + half, Event::AtServer { conn, generation });
    }

    fn at_server(&mut self, conn: usize, generation: u64) {
        if !self.lives(conn, generation) {
            return;
        }
        let (server, work_us, half) = (self.conns[conn].server, self.conns[conn].work_us, self.conns[conn].rtt / 2);
        match self.servers[server].mode {
            Mode::Silent => {}
            Mode::Reset | Mode::Refuse => self.plan(self.now + half + 200, Event::Gone { conn, generation }),
            Mode::Normal => {
                self.servers[server].arrive(self.now, Job { conn, generation, work_us });
                self.plan_look(server);
            }
        }
    }

    fn plan_look(&mut self, server: usize) {
        let Some(at) = self.servers[server].next_us(self.now) else { return };
        // Under sharing a look planned before may be too early or too late; a needless one does no harm.
        if at != self.looks[server] {
            self.looks[server] = at;
            self.plan(at, Event::Look { server });
        }
    }

    fn look(&mut self, server: usize) {
        if self.looks[server] == self.now {
            self.looks[server] = u64::MAX;
        }
        for Job { conn, generation, .. } in self.servers[server].finished(self.now) {
            if self.lives(conn, generation) {
                let half = self.conns[conn].rtt / 2;
                self.plan(self.now + half, Event::Answer { conn, generation });
            }
        }
        self.plan_look(server);
    }

    fn answered(&mut self, conn: usize) {
        let it = &mut self.conns[conn];
        it.waiting = false;
        it.request += 1;
        let (proxy, begun, generation) = (it.proxy, it.begun, it.generation);
        let (more, handshake) = (it.request < it.requests, it.tls && it.request == 1);
        let abandoned = it.abandoned;
        self.routers[proxy].turn_ended(self.now, conn);
        if abandoned {
            return;
        }
        if !handshake {
            self.collected.answered(begun, self.now);
        }
        if more {
            let think = match self.scenario.shape {
                _ if handshake => 0,
                Shape::Several { think_us, .. } => think_us,
                Shape::Long | Shape::Tls | Shape::Streams => 50_000,
                Shape::Short => 0,
            };
            return self.plan(self.now + think + 100, Event::Next { conn, generation });
        }
        match self.scenario.shape {
            Shape::Several { linger_us, .. } => self.plan(self.now + linger_us, Event::Close { conn, generation }),
            _ => self.close(conn),
        }
    }

    /// Bytes both ways at once, with no cause in each other.
    fn stream(&mut self, conn: usize, left: u32) {
        let (proxy, generation) = (self.conns[conn].proxy, self.conns[conn].generation);
        self.routers[proxy].turn_began(self.now, conn);
        self.routers[proxy].turn_ended(self.now, conn);
        match left {
            0 => self.close(conn),
            _ => self.plan(self.now + 1_000, Event::Stream { conn, generation, left: left - 1 }),
        }
    }

    fn server_gone(&mut self, conn: usize) {
        let proxy = self.conns[conn].proxy;
        self.routers[proxy].server_gone(self.now, conn, &mut self.rngs[proxy]);
        self.fail(conn, true);
    }

    fn give_up(&mut self, conn: usize, request: u32) {
        if self.conns[conn].request != request || self.conns[conn].stream {
            return;
        }
        if let (true, Shape::Several { linger_us, .. }) = (self.udp, self.scenario.shape) {
            let (begun, generation) = (self.conns[conn].begun, self.conns[conn].generation);
            self.collected.failed(begun);
            self.conns[conn].abandoned = true;
            return self.plan(begun + linger_us, Event::Close { conn, generation });
        }
        let proxy = self.conns[conn].proxy;
        self.routers[proxy].client_gone(self.now, conn, &mut self.rngs[proxy]);
        self.fail(conn, true);
    }

    /// A datagram has waited for long.
    fn silent(&mut self, conn: usize, request: u32) {
        let (proxy, waits) = (self.conns[conn].proxy, self.conns[conn].waiting && self.conns[conn].request == request);
        if waits {
            self.routers[proxy].silent(self.now, conn, &mut self.rngs[proxy]);
        }
    }

    /// The client gets no answer. `held` is whether a backend is held.
    fn fail(&mut self, conn: usize, held: bool) {
        self.collected.failed(self.conns[conn].begun);
        if held { self.close(conn) } else { self.release(conn) }
    }

    fn close(&mut self, conn: usize) {
        let proxy = self.conns[conn].proxy;
        self.routers[proxy].closed(self.now, conn);
        self.release(conn);
    }

    fn release(&mut self, conn: usize) {
        self.conns[conn].generation = 0;
        self.free.push(conn);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Speed(server, speed) => {
                self.servers[server].set_speed(self.now, speed);
                self.plan_look(server);
            }
            Action::Mode(server, mode) => self.servers[server].mode = mode,
            Action::Freeze(server, length) => {
                self.servers[server].freeze(self.now, length);
                self.plan_look(server);
            }
            Action::Demand(zone, demand) => {
                self.demand[zone] = demand;
                // Near silence, the next arrival may be far away.
                for proxy in (0..self.routers.len()).filter(|proxy| proxy / self.scenario.proxies == zone) {
                    let others = std::mem::take(&mut self.events).into_iter();
                    self.events = others.filter(|it| it.0.2 != Event::Arrive { proxy }).collect();
                    self.plan_arrival(proxy);
                }
            }
            Action::Join(server) => self.routers.iter_mut().for_each(|router| router.join(server)),
        }
    }

    fn probe(&mut self, proxy: usize, server: usize) {
        let rng = &mut self.rngs[proxy];
        let gap = rng.jitter(5_000_000, 0.2);
        let rtt = self.scenario.rtt(proxy / self.scenario.proxies, self.scenario.servers[server].zone) as u64;
        if self.servers[server].mode != Mode::Refuse && !self.udp {
            self.routers[proxy].probed(self.now, server, rtt);
        }
        self.plan(self.now + gap, Event::Probe { proxy, server });
    }
}

fn pareto(draws: &mut Rng) -> u32 {
    let (a, low, high) = PARETO;
    let u = draws.unit();
    let (l, h) = (low.powf(a), high.powf(a));
    (-(u * h - u * l - h) / (h * l)).powf(-1.0 / a) as u32
}

fn work_us(work: Work, draws: &mut Rng) -> f64 {
    match work {
        Work::LogNormal => {
            let (u, v) = (1.0 - draws.unit(), draws.unit());
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            5_000.0 * (normal - 0.5).exp()
        }
        Work::Constant => 5_000.0,
        Work::HeavyTail => match draws.below(50) {
            0 => 60_000.0,
            _ => 4_000.0,
        },
    }
}

/// How long a proxy lets datagrams wait for a reply before it doubts the backend.
const REPLY_TIMEOUT_US: u64 = 2_000_000;
/// Other backends tried after a refusal.
const RETRIES: usize = 2;
