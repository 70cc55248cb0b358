//! How long to wait before a source is started again. Pure.

use std::time::Duration;

use balance::Rng;

/// Decorrelated jitter (Brooker, Exponential Backoff And Jitter, AWS Architecture Blog): each pause is drawn between the
/// least and three times the one before, so that nodes which lost a registry together do not return together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    pause_ms: u64,
}

impl Backoff {
    /// The pause after a run that lasted `ran_ms` and, if `was_good`, heard something from its registry.
    pub(crate) fn next(&mut self, ran_ms: u64, was_good: bool, rng: &mut Rng) -> u64 {
        if was_good && ran_ms >= PAUSE_MAX_MS {
            self.pause_ms = 0;
        }
        let most_ms = (self.pause_ms * 3).clamp(PAUSE_LEAST_MS * 2, PAUSE_MAX_MS);
        self.pause_ms = PAUSE_LEAST_MS + rng.below(most_ms - PAUSE_LEAST_MS + 1);
        self.pause_ms
    }
}

/// A pause that is at least as long as a registry asked for, within bounds, and somewhat longer, so that those whom it
/// turned away together do not return together.
pub(crate) fn at_least(pause_ms: u64, asked: Option<Duration>, rng: &mut Rng) -> u64 {
    let Some(asked) = asked else { return pause_ms };
    let asked_ms = asked.min(ASKED_MAX).as_millis() as u64;
    pause_ms.max(asked_ms + rng.below(asked_ms / 4 + 1))
}

/// A connection that was cut is made again before anybody notices.
const PAUSE_LEAST_MS: u64 = 200;
/// A registry that was away for long is found again within this time.
pub(crate) const PAUSE_MAX_MS: u64 = 30_000;
/// A registry that wants more is asked again all the same: it may have meant another unit, or be no registry.
const ASKED_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_left_alone_for_as_long_as_it_asks_but_no_longer_than_a_minute() {
        let mut rng = Rng::new(2);
        let cases = [
            (None, 300..=300),
            (Some(Duration::ZERO), 300..=300),
            (Some(Duration::from_millis(200)), 300..=300),
            (Some(Duration::from_secs(5)), 5_000..=6_250),
            (Some(Duration::from_secs(u64::MAX)), 60_000..=75_000),
        ];
        for (asked, expected) in cases {
            let pauses: Vec<u64> = (0..100).map(|_| at_least(300, asked, &mut rng)).collect();
            assert!(pauses.iter().all(|pause_ms| expected.contains(pause_ms)), "{asked:?}: {pauses:?}");
            let is_drawn = pauses.iter().any(|pause_ms| *pause_ms != pauses[0]);
            assert_eq!(is_drawn, expected.start() != expected.end(), "those who were turned away do not stay together");
        }
    }

    #[test]
    fn pauses_grow_to_half_a_minute_and_begin_anew_after_a_good_run() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(1));
        let pauses: Vec<u64> = (0..1_000).map(|_| backoff.next(10, true, &mut rng)).collect();
        assert!(pauses[0] <= 2 * PAUSE_LEAST_MS);
        assert!(pauses.iter().all(|pause_ms| (PAUSE_LEAST_MS..=PAUSE_MAX_MS).contains(pause_ms)));
        assert!(pauses[900..].iter().max() > Some(&20_000), "they grow, since none of the runs was long");
        while backoff.pause_ms < 10_000 {
            backoff.next(PAUSE_MAX_MS, false, &mut rng);
        }
        assert!(backoff.next(PAUSE_MAX_MS, true, &mut rng) <= 2 * PAUSE_LEAST_MS);
    }
}
