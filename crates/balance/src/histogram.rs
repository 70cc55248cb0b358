//! A lock-free histogram of durations.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts durations in fixed buckets. Shared by all workers; a scrape that runs beside a count may miss that count,
/// never more.
///
/// *Cost*: one search over 20 bounds and two relaxed additions a sample. 16 bytes until the first one, and 176 from then
/// on: most of a hundred thousand backends may never be used.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let slot = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        let counts = self.0.get_or_init(Box::default);
        counts.buckets[slot].fetch_add(1, Relaxed);
        counts.sum_micros.fetch_add(micros, Relaxed);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.0.get();
        let count = |slot: usize| counts.map_or(0, |counts| counts.buckets[slot].load(Relaxed));
        let mut cumulative = 0;
        let buckets = BOUNDS_MICROS.iter().enumerate().map(|(slot, &bound)| {
            cumulative += count(slot);
            (bound as f64 / 1e6, cumulative)
        });
        let buckets: Vec<_> = buckets.collect();
        let sum_micros = counts.map_or(0, |counts| counts.sum_micros.load(Relaxed));
        HistogramSnapshot {
            buckets,
            count: cumulative + count(BOUNDS_MICROS.len()),
            sum_seconds: sum_micros as f64 / 1e6,
        }
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
