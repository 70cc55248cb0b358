//! How long to wait before a source is started again. Pure.

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

/// A connection that was cut is made again before anybody notices.
const PAUSE_LEAST_MS: u64 = 200;
/// A registry that was away for long is found again within this time.
pub(crate) const PAUSE_MAX_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

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
