//! What came of a run.

/// The figures of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Requests that were counted.
    pub requests: usize,
    /// Percentiles and mean of the time from the client's request to the first byte of its answer, in ms.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The mean.
    pub mean: f64,
    /// Percent of requests without an answer.
    pub errors: f64,
    /// Percent of the first zone's connections that went to another zone; all zones' where each has its demand.
    pub cross: f64,
    /// Standard deviation of `cross` over seconds, in points.
    pub cross_sd: f64,
    /// Percent that went to the farthest zone.
    pub farthest: f64,
    /// 99th percentile before the event, and of the 5 s after it, in ms.
    pub before_p99: f64,
    /// After.
    pub event_p99: f64,
    /// Errors among the 5 s after the event, in percent.
    pub event_errors: f64,
    /// Requests that failed in the 5 s after the event, per proxy.
    pub event_lost: f64,
    /// Percent of connections that the subject got from 2 s after the event on.
    pub subject: f64,
    /// How often gates of the first zone moved, per proxy.
    pub flips: f64,
    /// Percent across zones, second by second, of the first zone.
    pub cross_by_second: Vec<f64>,
    /// Standard deviation of 1 s shares of servers over what chance would give.
    pub oscillation: f64,
}

/// What a run collects.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) from: u64,
    pub(crate) event: Option<u64>,
    pub(crate) times: Vec<u32>,
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
    pub(crate) errors: usize,
    pub(crate) after_errors: usize,
    /// (connections of the first zone, of these elsewhere, of all zones, of these elsewhere, farthest), by second.
    pub(crate) seconds: Vec<[u32; 5]>,
    /// Connections by second and server, of all proxies.
    pub(crate) shares: Vec<Vec<u32>>,
    pub(crate) subject: (u32, u32),
}

impl Collected {
    pub(crate) fn new(from: u64, event: Option<u64>, servers: usize, length: u64) -> Self {
        let seconds = (length / 1_000_000 + 2) as usize;
        Self {
            from,
            event,
            times: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            errors: 0,
            after_errors: 0,
            seconds: vec![[0; 5]; seconds],
            shares: vec![vec![0; servers]; seconds],
            subject: (0, 0),
        }
    }

    fn is_after(&self, begun: u64) -> bool {
        self.event.is_some_and(|event| (event..event + 5_000_000).contains(&begun))
    }

    pub(crate) fn answered(&mut self, begun: u64, now: u64) {
        if begun < self.from {
            return;
        }
        let took = (now - begun).min(u64::from(u32::MAX)) as u32;
        self.times.push(took);
        if self.event.is_some_and(|event| begun < event) {
            self.before.push(took);
        }
        if self.is_after(begun) {
            self.after.push(took);
        }
    }

    pub(crate) fn failed(&mut self, begun: u64) {
        if begun < self.from {
            return;
        }
        self.errors += 1;
        self.after_errors += usize::from(self.is_after(begun));
    }

    pub(crate) fn outcome(mut self, proxies: usize, flips: f64) -> Outcome {
        let first = (self.from / 1_000_000) as usize;
        let last = self.seconds.len().saturating_sub(2);
        let counted = &self.seconds[first.min(last)..last];
        let sum = |at: usize| counted.iter().map(|second| f64::from(second[at])).sum::<f64>();
        let by_second: Vec<f64> =
            self.seconds[..last].iter().map(|it| percent(f64::from(it[1]), f64::from(it[0]))).collect();
        let all_by_second = counted.iter().map(|it| percent(f64::from(it[3]), f64::from(it[2])));
        let requests = self.times.len() + self.errors;
        let after = self.after.len() + self.after_errors;
        Outcome {
            requests,
            p50: percentile(&mut self.times, 0.5),
            p99: percentile(&mut self.times, 0.99),
            p999: percentile(&mut self.times, 0.999),
            mean: self.times.iter().map(|&us| f64::from(us)).sum::<f64>() / 1e3 / self.times.len().max(1) as f64,
            errors: percent(self.errors as f64, requests as f64),
            cross: percent(sum(3), sum(2)),
            cross_sd: deviation(&all_by_second.collect::<Vec<f64>>()),
            farthest: percent(sum(4), sum(2)),
            before_p99: percentile(&mut self.before, 0.99),
            event_p99: percentile(&mut self.after, 0.99),
            event_errors: percent(self.after_errors as f64, after as f64),
            event_lost: self.after_errors as f64 / proxies as f64,
            subject: percent(f64::from(self.subject.0), f64::from(self.subject.1)),
            flips,
            oscillation: oscillation(&self.shares[first.min(last)..last]),
            cross_by_second: by_second,
        }
    }
}

fn oscillation(shares: &[Vec<u32>]) -> f64 {
    let Some(servers) = shares.first().map(Vec::len) else { return 0.0 };
    let mut ratios = Vec::new();
    for server in 0..servers {
        let pairs = shares.iter().map(|second| (f64::from(second[server]), f64::from(second.iter().sum::<u32>())));
        let pairs: Vec<(f64, f64)> = pairs.filter(|&(_, total)| total > 0.0).collect();
        let part: Vec<f64> = pairs.iter().map(|&(own, total)| own / total).collect();
        let mean = part.iter().sum::<f64>() / part.len().max(1) as f64;
        let per_second = pairs.iter().map(|&(_, total)| total).sum::<f64>() / pairs.len().max(1) as f64;
        let chance = (mean * (1.0 - mean) / per_second).sqrt();
        if chance > 0.0 {
            ratios.push(deviation(&part) / chance);
        }
    }
    ratios.iter().sum::<f64>() / ratios.len().max(1) as f64
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

fn percentile(times: &mut [u32], share: f64) -> f64 {
    if times.is_empty() {
        return 0.0;
    }
    let at = ((times.len() - 1) as f64 * share) as usize;
    f64::from(*times.select_nth_unstable(at).1) / 1e3
}

pub(crate) fn deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    if count < 2.0 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
}
