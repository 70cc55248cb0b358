//! A lock-free histogram of durations.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts durations in fixed buckets. Shared by all workers; a scrape that runs beside a count may miss that count,
/// never more.
///
/// *Cost*: one search over 18 bounds and two relaxed additions a sample.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let slot = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[slot].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut cumulative = 0;
        let buckets = BOUNDS_MICROS.iter().zip(&self.buckets).map(|(&bound, count)| {
            cumulative += count.load(Relaxed);
            (bound as f64 / 1e6, cumulative)
        });
        let buckets: Vec<_> = buckets.collect();
        let count = cumulative + self.buckets[BOUNDS_MICROS.len()].load(Relaxed);
        HistogramSnapshot { buckets, count, sum_seconds: self.sum_micros.load(Relaxed) as f64 / 1e6 }
    }
}

/// The counts of a [`Histogram`] at one moment, in the form that Prometheus asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound in seconds (inclusive) and the number of samples up to it, ascending; `+Inf` is `count`.
    pub buckets: Vec<(f64, u64)>,
    /// All samples.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_seconds: f64,
}

impl HistogramSnapshot {
    /// Both together.
    pub fn merged(mut self, other: Self) -> Self {
        for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        Self { count: self.count + other.count, sum_seconds: self.sum_seconds + other.sum_seconds, ..self }
    }
}

/// Upper bounds: 50 µs, half of a loopback connect through a busy kernel, to an hour, a long session. Two to three
/// steps a decade where answers are, one where only durations are.
const BOUNDS_MICROS: [u64; 20] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_on_a_bound_counts_in_that_bucket_and_all_above() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(7_200));

        let snapshot = histogram.snapshot();

        assert_eq!(snapshot.count, 2);
        for (bound, count) in snapshot.buckets {
            assert_eq!(count, u64::from(bound >= 0.001), "bucket {bound}");
        }
        assert!((snapshot.sum_seconds - 7_200.001).abs() < 1e-9);
    }
}
