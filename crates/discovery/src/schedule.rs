//! When the next probe of a backend is due.

use std::time::Duration;

use balance::Rng;

/// The pace of one service's probes. Every time is counted from the last result and never from the last due time, so
/// that a node which stood still does not fire what it missed in one burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    interval_ms: u64,
}

impl Schedule {
    pub(crate) fn new(interval: Duration) -> Self {
        // A hundred million years are as good as never, and leave room for sums.
        Self { interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::MAX >> 2) }
    }

    /// The configured time between probes.
    pub(crate) fn interval_ms(self) -> u64 {
        self.interval_ms
    }

    /// When to ask a backend for the first time: soon, because nothing is known of it, but spread, because many may
    /// come at once.
    pub(crate) fn first(self, now_ms: u64, rng: &mut Rng) -> u64 {
        now_ms + rng.below(self.interval_ms.min(FIRST_WITHIN_MS))
    }

    /// When to ask again after a result. While the results contradict the state the pace is up to five times faster:
    /// one word here takes the notice of a dead backend from fall × interval (15 s by default) to about 7 s.
    pub(crate) fn next(self, now_ms: u64, is_wavering: bool, rng: &mut Rng) -> u64 {
        let fast_ms = (self.interval_ms / FAST_DIVISOR).max(FAST_AT_LEAST_MS);
        let pace_ms = if is_wavering { self.interval_ms.min(fast_ms) } else { self.interval_ms };
        now_ms + rng.jitter(pace_ms, JITTER).max(1)
    }
}

/// A new backend is asked within a second whatever the interval.
const FIRST_WITHIN_MS: u64 = 1_000;
/// Share by which intervals differ, so that probes which began together do not stay together.
const JITTER: f64 = 0.2;
/// The faster pace is a fifth of the interval, and never more than one probe a second unless the operator asked for it.
const FAST_DIVISOR: u64 = 5;
const FAST_AT_LEAST_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    #[test]
    fn a_wavering_backend_is_asked_sooner_but_not_more_often_than_each_second() {
        let cases = [
            // (interval, nominal when settled, nominal when wavering)
            (5_000, 5_000, 1_000),
            (30_000, 30_000, 6_000),
            (2_000, 2_000, 1_000),
            (200, 200, 200),
        ];
        let mut rng = Rng::new(1);
        for (interval_ms, settled, wavering) in cases {
            let schedule = Schedule::new(Duration::from_millis(interval_ms));
            for (is_wavering, nominal) in [(false, settled), (true, wavering)] {
                let delay = schedule.next(7, is_wavering, &mut rng) - 7;
                assert!(delay.abs_diff(nominal) <= nominal / 5, "{interval_ms} {is_wavering}: {delay}");
            }
        }
    }

    #[test]
    fn first_probes_are_spread_over_the_first_second() {
        let (schedule, mut rng) = (Schedule::new(Duration::from_secs(60)), Rng::new(3));
        let mut tenths = [0u32; 10];
        (0..10_000).for_each(|_| tenths[(schedule.first(0, &mut rng) / 100) as usize] += 1);
        assert!(tenths.iter().all(|&n| (800..1_200).contains(&n)), "the spread is uneven: {tenths:?}");
    }

    proptest! {
        #[test]
        fn no_interval_stalls_or_overflows(millis in any::<u64>(), now_ms in 0u64..1 << 50, wavering: bool, seed: u64) {
            let (schedule, mut rng) = (Schedule::new(Duration::from_millis(millis)), Rng::new(seed));
            prop_assert!(schedule.next(now_ms, wavering, &mut rng) > now_ms, "the next probe lies in the future");
            let first = schedule.first(now_ms, &mut rng);
            prop_assert!((now_ms..now_ms + FIRST_WITHIN_MS).contains(&first), "the first probe comes soon");
        }
    }
}
