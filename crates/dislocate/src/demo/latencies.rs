//! Counts of durations from which percentiles can be read, however many there are.

use std::time::Duration;

/// Durations in buckets of at most 1/32 of their value, in microseconds.
///
/// *Shape*: below 64 µs a bucket for each microsecond, then 32 for each doubling.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// As long as the longest duration needs.
    buckets: Vec<u64>,
    count: u64,
}

impl Latencies {
    /// Counts one.
    pub fn note(&mut self, duration: Duration) {
        let at = bucket(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        if self.buckets.len() <= at {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] += 1;
        self.count += 1;
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, more)| *own += more);
        self.count += other.count;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration that this share of all keeps to, in milliseconds; nothing when there are none.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        let at = self.buckets.iter().position(|&count| {
            below += count;
            below >= rank
        })?;
        Some(largest(at) as f64 / 1e3)
    }
}

fn bucket(micros: u64) -> usize {
    // Doublings above the exact buckets; the value is shifted so that its six leading bits are left.
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(6);
    (u64::from(shift) * 32 + (micros >> shift)) as usize
}

/// The most microseconds that go into a bucket.
fn largest(bucket: usize) -> u64 {
    let shift = (bucket / 32).saturating_sub(1) as u32;
    let leading = bucket as u64 - u64::from(shift) * 32;
    ((leading + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(0.5), None, "nothing has no percentile");
        [10, 20, 30, 40].into_iter().for_each(|micros| latencies.note(Duration::from_micros(micros)));
        for (share, ms) in [(0.0, 0.01), (0.5, 0.02), (0.51, 0.03), (0.75, 0.03), (0.99, 0.04), (1.0, 0.04)] {
            assert_eq!(latencies.percentile_ms(share), Some(ms), "nearest rank at {share}");
        }
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_near(micros in 0u64..1 << 40) {
            let largest = largest(bucket(micros));
            prop_assert!(largest >= micros && largest - micros <= micros / 32, "{micros} is told as {largest}");
        }

        #[test]
        fn adding_is_counting_both(one in prop::collection::vec(0u64..1 << 30, 0..50), other in prop::collection::vec(0u64..1 << 30, 0..50)) {
            let of = |micros: &[u64]| {
                let mut latencies = Latencies::default();
                micros.iter().for_each(|&micros| latencies.note(Duration::from_micros(micros)));
                latencies
            };
            let mut sum = of(&one);
            sum.add(&of(&other));
            let both = of(&[one, other].concat());
            prop_assert_eq!(sum.count(), both.count());
            for share in [0.1, 0.5, 0.99] {
                prop_assert_eq!(sum.percentile_ms(share), both.percentile_ms(share));
            }
        }
    }
}
