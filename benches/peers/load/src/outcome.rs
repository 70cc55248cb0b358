//! What a client measured, and how it is printed.

use std::time::{Duration, Instant};

/// Counts and latencies of one run. Threads each fill their own and merge them at the end.
#[derive(Default)]
pub struct Outcome {
    /// Completed operations: requests or connections; streams for bulk.
    pub operations: u64,
    /// Bytes that reached the other end.
    pub bytes: u64,
    /// Operations that failed, and connections that broke.
    pub errors: u64,
    /// Datagrams that no answer came to; they are no errors.
    pub lost: u64,
    /// From the first connect to the last answer.
    pub elapsed: Duration,
    /// One per operation, in nanoseconds. Kept whole, so that the percentiles are exact.
    latencies: Vec<u64>,
}

impl Outcome {
    /// An empty outcome with room for a typical run, so that growing it does not disturb the measurement.
    pub fn with_latencies() -> Self {
        Self { latencies: Vec::with_capacity(1 << 20), ..Self::default() }
    }

    /// Counts one operation that began, or was meant to begin, at `start`.
    pub fn completed(&mut self, start: Instant, now: Instant) {
        self.operations += 1;
        self.latencies.push(u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds what another thread measured over the same time.
    pub fn merge(mut self, other: Self) -> Self {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.lost += other.lost;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latencies.extend(other.latencies);
        self
    }

    /// Prints one line of JSON.
    pub fn print(mut self) {
        self.latencies.sort_unstable();
        println!(
            "{{\"operations\":{},\"bytes\":{},\"errors\":{},\"lost\":{},\"seconds\":{:.6},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1}}}",
            self.operations,
            self.bytes,
            self.errors,
            self.lost,
            self.elapsed.as_secs_f64(),
            self.percentile_micros(0.5),
            self.percentile_micros(0.99),
            self.percentile_micros(0.999),
            self.percentile_micros(1.0),
        );
    }

    /// The nearest-rank percentile of sorted latencies; zero when there are none.
    fn percentile_micros(&self, share: f64) -> f64 {
        let rank = (self.latencies.len() as f64 * share).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    }
}

/// Runs `work` once per thread and merges what they measured; the first failure wins.
pub fn on_threads<F>(threads: usize, work: F) -> std::io::Result<Outcome>
where
    F: Fn(usize) -> std::io::Result<Outcome> + Sync,
{
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        running.into_iter().try_fold(Outcome::default(), |total, thread| {
            Ok(total.merge(thread.join().map_err(|_| std::io::Error::other("a load thread panicked"))??))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_latency_that_enough_operations_kept_to() {
        let cases = [(0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)];
        let outcome = Outcome { latencies: vec![1_000, 2_000, 3_000, 4_000], ..Outcome::default() };

        for (share, micros) in cases {
            assert_eq!(outcome.percentile_micros(share), micros, "nearest rank at {share}");
        }
    }

    #[test]
    fn threads_add_up_but_their_time_does_not() {
        let second = Duration::from_secs(1);
        let one = Outcome { operations: 3, bytes: 10, errors: 1, lost: 2, elapsed: second, latencies: vec![5] };
        let other = Outcome { operations: 4, bytes: 20, errors: 0, lost: 3, elapsed: second * 2, latencies: vec![6] };

        let both = one.merge(other);

        assert_eq!((both.operations, both.bytes, both.errors, both.lost), (7, 30, 1, 5), "counts add up");
        assert_eq!(both.elapsed, second * 2, "they ran at the same time");
        assert_eq!(both.latencies.len(), 2, "every latency is kept");
    }
}
