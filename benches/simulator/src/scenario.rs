//! The scenarios. Shares of capacity: a server's capacity is workers × speed over the mean work.

use crate::server::Mode;

/// A server in a scenario.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Where it is.
    pub zone: usize,
    /// How fast.
    pub speed: f64,
    /// What proxies are told of it.
    pub weight: u32,
    /// Whether it is absent until a script lets it join.
    pub joins: bool,
}

/// What happens at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Speed(usize, f64),
    Mode(usize, Mode),
    /// Stops it for so many microseconds.
    Freeze(usize, u64),
    /// Demand of a zone as a share of its capacity.
    Demand(usize, f64),
    Join(usize),
}

/// What a connection does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// One request.
    Short,
    /// So many requests with so much thinking (µs) between; kept for so long (µs) after the last.
    Several { requests: u32, think_us: u64, linger_us: u64 },
    /// Pareto(1.3) between 20 and 3,000 requests, 50 ms of thinking.
    Long,
    /// A handshake of 1 ms work and then one request or, every tenth time, fifty.
    Tls,
    /// As `Several`, but every fifth connection is a stream of bytes both ways for as long.
    Streams,
}

/// How much work requests are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Log-normal, mean 5 ms, sigma 1.
    LogNormal,
    /// 4 ms, and 2 % of them 60 ms.
    HeavyTail,
    /// 5 ms, all of them.
    Constant,
}

/// A scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    pub(crate) servers: Vec<ServerSpec>,
    pub(crate) zones: usize,
    /// Proxies in each zone.
    pub(crate) proxies: usize,
    /// Demand of each zone at start.
    pub(crate) demand: Vec<f64>,
    /// Round trips in µs: within a zone, and between.
    near_us: f64,
    far_us: fn(usize, usize) -> f64,
    pub(crate) shape: Shape,
    pub(crate) work: Work,
    /// What all work is multiplied with.
    pub(crate) scale: f64,
    pub(crate) timeout_us: u64,
    pub(crate) script: Vec<(u64, Action)>,
    /// When the thing happens that the scenario is about.
    pub event_us: Option<u64>,
    /// The server that it is about.
    pub subject: Option<usize>,
    /// How long it lasts; the first sixth is not counted.
    pub length_us: u64,
    /// Whether servers share their processor instead of queueing.
    pub(crate) shared: bool,
    /// Whether backends are checked every 5 s.
    pub(crate) probes: bool,
    /// Whether connections are flows of datagrams: without a connect, and with clients that go without a word.
    pub(crate) udp: bool,
}

impl Scenario {
    pub(crate) fn rtt(&self, from: usize, to: usize) -> f64 {
        if from == to { self.near_us } else { (self.far_us)(from.min(to), from.max(to)) }
    }

    pub(crate) fn is_long_lived(&self) -> bool {
        !matches!(self.shape, Shape::Short)
    }

    pub(crate) fn mean_us(&self) -> f64 {
        let mean = match self.work {
            Work::LogNormal | Work::Constant => 5_000.0,
            Work::HeavyTail => 5_120.0,
        };
        mean * self.scale
    }

    /// Mean work of a connection.
    pub(crate) fn conn_work_us(&self) -> f64 {
        let mean = self.mean_us();
        match self.shape {
            Shape::Short => mean,
            Shape::Several { requests, .. } => mean * f64::from(requests),
            Shape::Long => mean * pareto_mean(),
            Shape::Tls => 1_000.0 + mean * 5.9,
            Shape::Streams => mean * 8.0,
        }
    }

    /// Work per second and µs that a zone can do at the speeds of the start.
    pub(crate) fn capacity(&self, zone: usize) -> f64 {
        let there = self.servers.iter().filter(|spec| spec.zone == zone && !spec.joins);
        there.map(|spec| spec.speed * WORKERS as f64 * 1e6).sum()
    }

    fn with(mut self, script: Vec<(u64, Action)>) -> Self {
        self.script = script;
        self
    }

    fn about(mut self, at_us: u64, subject: Option<usize>) -> Self {
        (self.event_us, self.subject) = (Some(at_us), subject);
        self
    }

    fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    fn proxies(mut self, proxies: usize) -> Self {
        self.proxies = proxies;
        self
    }

    fn timeout(mut self, us: u64) -> Self {
        self.timeout_us = us;
        self
    }
}

pub(crate) const WORKERS: usize = 4;
const SECOND: u64 = 1_000_000;

/// Mean of the bounded Pareto of [`Shape::Long`].
fn pareto_mean() -> f64 {
    let (a, low, high) = PARETO;
    low.powf(a) / (1.0 - (low / high).powf(a)) * a / (a - 1.0) * (low.powf(1.0 - a) - high.powf(1.0 - a))
}

/// Exponent and bounds.
pub(crate) const PARETO: (f64, f64, f64) = (1.3, 20.0, 3_000.0);

fn zone(name: &'static str, speeds: &[f64], demand: f64, length_s: u64) -> Scenario {
    let server = |&speed: &f64| ServerSpec { zone: 0, speed, weight: 1, joins: false };
    Scenario {
        name,
        servers: speeds.iter().map(server).collect(),
        zones: 1,
        proxies: 4,
        demand: vec![demand],
        near_us: 500.0,
        far_us: |_, _| 0.0,
        shape: Shape::Short,
        work: Work::LogNormal,
        scale: 1.0,
        timeout_us: 5 * SECOND,
        script: Vec::new(),
        event_us: None,
        subject: None,
        length_us: length_s * SECOND,
        shared: false,
        probes: true,
        udp: false,
    }
}

fn weighted(mut scenario: Scenario, weight: fn(f64) -> f64) -> Scenario {
    scenario.servers.iter_mut().for_each(|spec| spec.weight = weight(spec.speed) as u32);
    scenario
}

fn three(name: &'static str, home: f64, others: (f64, f64), length_s: u64) -> Scenario {
    let servers = (0..18).map(|n| ServerSpec { zone: n / 6, speed: 1.0, weight: 1, joins: false });
    Scenario {
        servers: servers.collect(),
        zones: 3,
        demand: vec![home, others.0, others.1],
        far_us: |from, to| match (from, to) {
            (0, 1) => 20_000.0,
            (0, 2) => 80_000.0,
            _ => 60_000.0,
        },
        ..zone(name, &[], home, length_s)
    }
}

/// All scenarios, each of about `length_s` seconds; those of long connections last twice as long.
pub fn scenarios(length_s: u64) -> Vec<Scenario> {
    let event = length_s * SECOND / 3;
    let (l, third) = (length_s, length_s * SECOND / 3);
    let ten = [1.0; 10];
    let mixed = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 0.5];
    let mut all = vec![
        zone("homog", &ten, 0.75, l),
        Scenario { work: Work::HeavyTail, ..zone("homog_heavytail", &ten, 0.7, l) },
        Scenario { shared: true, ..zone("homog_shared", &ten, 0.75, l) },
        zone("hetero", &mixed, 0.7, l),
        Scenario { shared: true, ..zone("hetero_shared", &mixed, 0.7, l) },
        weighted(zone("hetero_weighted", &mixed, 0.7, l), |speed| speed * 2.0),
        weighted(zone("hetero_badweights", &mixed, 0.7, l), |speed| 4.0 / speed),
        weighted(zone("hetero30_weighted", &mixed.repeat(3), 0.7, l), |speed| speed * 2.0),
        weighted(zone("hetero30_badweights", &mixed.repeat(3), 0.7, l), |speed| 4.0 / speed),
        zone("slow10x", &ten, 0.65, l).with(vec![(event, Action::Speed(3, 0.1))]).about(event, Some(3)),
        zone("stall", &ten, 0.65, l).with(stalls(l)),
        zone("antagonist", &ten, 0.6, l).with(antagonists(l, 10)),
    ];
    for (name, mode) in [("blackhole_fast", Mode::Reset), ("blackhole_silent", Mode::Silent), ("refuse", Mode::Refuse)]
    {
        let script = vec![(event, Action::Mode(3, mode))];
        all.push(zone(name, &ten, 0.65, l).timeout(2 * SECOND).with(script).about(event, Some(3)));
    }
    all.push(joining(zone("cold_join", &ten, 0.7, l), 3, event, third));
    all.push(zone("herd32", &ten, 0.8, l).proxies(32));
    all.push(zone("herd100x30", &[1.0; 30], 0.8, l / 2).proxies(100));
    all.push(joining(zone("herd100_join", &[1.0; 30], 0.7, l / 2).proxies(100), 3, event / 2, third / 2));
    for (name, home, others) in [
        ("dc3_light", 0.5, (0.5, 0.5)),
        ("dc3_85", 0.85, (0.5, 0.5)),
        ("dc3_95", 0.95, (0.5, 0.5)),
        ("dc3_110", 1.1, (0.5, 0.5)),
        ("dc3_140", 1.4, (0.5, 0.5)),
        ("dc3_200", 2.0, (0.3, 0.6)),
    ] {
        all.push(three(name, home, others, l));
    }
    let step = vec![(third, Action::Demand(0, 1.4)), (2 * third, Action::Demand(0, 0.6))];
    all.push(three("dc3_step", 0.6, (0.5, 0.5), l).with(step).about(third, None));
    let outage =
        (0..6).flat_map(|n| [(third, Action::Mode(n, Mode::Refuse)), (2 * third, Action::Mode(n, Mode::Normal))]);
    all.push(three("dc3_outage", 0.6, (0.4, 0.4), l).with(outage.collect()).about(third, None));
    let half =
        (0..4).flat_map(|n| [(third, Action::Mode(n, Mode::Refuse)), (2 * third, Action::Mode(n, Mode::Normal))]);
    all.push(three("dc3_panic", 0.6, (0.4, 0.4), l).with(half.collect()).about(third, None));
    all.push(Scenario { near_us: 300.0, far_us: |_, _| 1_000.0, ..three("az3_near", 0.7, (0.7, 0.7), l) });
    all.push(zone("longlived_homog", &ten, 0.65, 2 * l).shape(Shape::Long));
    all.push(zone("longlived_hetero", &mixed, 0.6, 2 * l).shape(Shape::Long));
    let slow = vec![(2 * event, Action::Speed(3, 0.25))];
    all.push(zone("longlived_slow", &ten, 0.55, 2 * l).shape(Shape::Long).with(slow.clone()).about(2 * event, Some(3)));
    // As benches/scenarios runs them on real sockets.
    let of_20_ms = |scenario: Scenario| Scenario { scale: 4.0, ..scenario.shape(Shape::Long).proxies(2) };
    all.push(of_20_ms(zone("longlived20_hetero", &mixed, 0.6, 2 * l)));
    all.push(of_20_ms(zone("longlived20_slow", &ten, 0.55, 2 * l).with(slow).about(2 * event, Some(3))));
    let flow = Shape::Several { requests: 5, think_us: 100_000, linger_us: 10 * SECOND };
    let mut uneven = ten;
    (uneven[3], uneven[4]) = (0.25, 2.0);
    all.push(Scenario { udp: true, ..zone("udp_slow", &uneven, 0.6, l).shape(flow) });
    all.push(Scenario { udp: true, work: Work::Constant, ..zone("udp_constant", &uneven, 0.6, l).shape(flow) });
    let silent = vec![(event, Action::Mode(3, Mode::Silent))];
    let silent_udp = zone("udp_silent", &ten, 0.6, l).shape(flow).timeout(2 * SECOND);
    all.push(Scenario { udp: true, ..silent_udp.with(silent).about(event, Some(3)) });
    all.push(idle_swap(l));
    all.push(zone("lowrate_hetero", &mixed, 0.05, 2 * l).proxies(1));
    all.push(zone("tls_mix", &mixed, 0.65, l).shape(Shape::Tls));
    all.push(zone("streams", &mixed, 0.6, l).shape(Shape::Streams));
    all.push(zone("overload105", &ten, 1.02, l / 2));
    all
}

fn joining(mut scenario: Scenario, server: usize, at: u64, warms_us: u64) -> Scenario {
    scenario.servers[server].joins = true;
    scenario.servers[server].speed = 0.1;
    let warm = (1..=20).map(|n| (at + warms_us * n / 20, Action::Speed(server, 0.1 + 0.045 * n as f64)));
    let script = [(at, Action::Join(server))].into_iter().chain(warm).collect();
    scenario.with(script).about(at, Some(server))
}

fn stalls(length_s: u64) -> Vec<(u64, Action)> {
    let every = |server, length, step: u64| {
        (1..length_s.div_ceil(step)).map(move |n| (n * step * SECOND, Action::Freeze(server, length)))
    };
    every(2, 500_000, 5).chain(every(5, 300_000, 7)).collect()
}

/// Every server alternates between normal and 0.3, by a stream of its own that is the same in every run.
fn antagonists(length_s: u64, count: usize) -> Vec<(u64, Action)> {
    let mut rng = balance::Rng::new(77);
    let mut script = Vec::new();
    for server in 0..count {
        let (mut at, mut slow) = (0.0, false);
        while at < (length_s * SECOND) as f64 {
            at += -(1.0 - rng.unit()).ln() * if slow { 2e6 } else { 8e6 };
            slow = !slow;
            script.push((at as u64, Action::Speed(server, if slow { 0.3 } else { 1.0 })));
        }
    }
    script
}

fn idle_swap(length_s: u64) -> Scenario {
    let speeds = [0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0];
    let (quarter, half) = (length_s * SECOND / 4, length_s * SECOND / 2);
    let mut script = vec![(quarter, Action::Demand(0, 0.002)), (half + quarter, Action::Demand(0, 0.7))];
    script.extend((0..10).map(|n| (half, Action::Speed(n, if n < 5 { 1.0 } else { 0.5 }))));
    zone("idle_swap", &speeds, 0.7, length_s).with(script).about(half + quarter, None)
}
