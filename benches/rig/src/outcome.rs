//! What the clients of a run saw.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it was meant to leave, from the start of the run.
    pub at: Duration,
    /// From then to its answer, or to its failure.
    pub latency: Duration,
    /// The place of the backend in [`Outcome::names`], or how it failed.
    pub result: Result<u16, Failure>,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No connection came about.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended without an answer.
    Closed,
    /// No answer in time.
    Timeout,
}

/// All requests of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the order in which they ended.
    pub records: Vec<Record>,
    /// The backends that answered.
    pub names: Vec<String>,
}

/// What a span of a run comes to. Latencies in milliseconds, of answered requests only.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// All requests meant to leave in the span.
    pub requests: usize,
    /// Those that failed.
    pub errors: usize,
    /// The same by kind.
    pub failures: BTreeMap<Failure, usize>,
    /// The arithmetic mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The largest.
    pub max: f64,
    /// Answers by backend.
    pub answers: BTreeMap<String, usize>,
}

impl Outcome {
    /// The requests meant to leave from `from` on and before `to`.
    pub fn summary(&self, from: Duration, to: Duration) -> Summary {
        let mut summary = Summary::default();
        let mut latencies = Vec::new();
        for record in self.records.iter().filter(|record| (from..to).contains(&record.at)) {
            summary.requests += 1;
            match record.result {
                Ok(backend) => {
                    latencies.push(record.latency.as_secs_f64() * 1000.0);
                    *summary.answers.entry(self.names[usize::from(backend)].clone()).or_default() += 1;
                }
                Err(failure) => {
                    summary.errors += 1;
                    *summary.failures.entry(failure).or_default() += 1;
                }
            }
        }
        latencies.sort_by(f64::total_cmp);
        let quantile = |part: f64| {
            let place = (latencies.len() as f64 * part) as usize;
            latencies.get(place.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        summary.mean = latencies.iter().sum::<f64>() / latencies.len().max(1) as f64;
        (summary.p50, summary.p99, summary.p999, summary.max) =
            (quantile(0.5), quantile(0.99), quantile(0.999), quantile(1.0));
        summary
    }

    /// Answers by backend for each second of the run.
    pub fn seconds(&self, length: Duration) -> Vec<BTreeMap<&str, usize>> {
        let mut seconds = vec![BTreeMap::new(); length.as_secs_f64().ceil() as usize];
        for record in &self.records {
            if let (Ok(backend), Some(second)) = (record.result, seconds.get_mut(record.at.as_secs() as usize)) {
                *second.entry(self.names[usize::from(backend)].as_str()).or_default() += 1;
            }
        }
        seconds
    }
}

impl Summary {
    /// The part of all answers that came from backends whose names begin so.
    pub fn share(&self, beginning: &str) -> f64 {
        let of = self.answers.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, count)| count);
        of.sum::<usize>() as f64 / self.answers.values().sum::<usize>().max(1) as f64
    }

    /// The part of all requests that failed.
    pub fn error_share(&self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_counts_what_was_meant_to_leave_in_it() {
        let millis = Duration::from_millis;
        let record = |at, latency, result| Record { at: millis(at), latency: millis(latency), result };
        let records =
            vec![record(5, 1, Ok(0)), record(15, 30, Ok(0)), record(16, 10, Ok(1)), record(19, 2, Err(Failure::Reset))];
        let outcome = Outcome { records, names: vec!["home-0".into(), "far-0".into()] };
        let summary = outcome.summary(millis(10), millis(20));
        assert_eq!((summary.requests, summary.errors), (3, 1));
        assert_eq!((summary.mean, summary.max), (20.0, 30.0), "failures have no latency");
        assert_eq!(summary.share("home"), 0.5);
    }
}
