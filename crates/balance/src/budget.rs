//! The retry budget: how much of a service's load may be second tries.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lets retries be at most a fifth of new sessions, plus a floor a second, plus a reserve for bursts, so that retries
/// cannot double the load on a service that is already failing (the retry storms of Twilio 2013 and Slack 2022).
///
/// One word packs the tokens (thousandths) and the time of the last refill, so the whole state moves in one
/// compare-and-swap and nobody waits.
#[derive(Debug)]
pub struct RetryBudget {
    /// High 40 bits: milliseconds of the last refill. Low 24 bits: tokens in thousandths.
    packed: AtomicU64,
}

impl RetryBudget {
    /// Earns the share of a retry that a new session brings.
    pub fn deposit(&self, now_ms: u64) {
        self.update(now_ms, |tokens| Some(tokens + DEPOSIT));
    }

    /// Takes one retry out of the budget; `false` when there is none left.
    pub fn withdraw(&self, now_ms: u64) -> bool {
        self.update(now_ms, |tokens| tokens.checked_sub(RETRY))
    }

    fn update(&self, now_ms: u64, change: impl Fn(u64) -> Option<u64>) -> bool {
        let next = |packed: u64| {
            let (then_ms, tokens) = (packed >> TOKEN_BITS, packed & TOKEN_MASK);
            let elapsed_ms = now_ms.saturating_sub(then_ms).min(FULL_AFTER_MS);
            let refilled = (tokens + elapsed_ms * FLOOR_PER_MS).min(CAPACITY);
            let changed = change(refilled)?.min(CAPACITY);
            Some((now_ms.max(then_ms) << TOKEN_BITS) | changed)
        };
        self.packed.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// Starts full: a backend that is dead when the proxy starts must not cost the first clients their session.
impl Default for RetryBudget {
    fn default() -> Self {
        Self { packed: AtomicU64::new(CAPACITY) }
    }
}

const TOKEN_BITS: u32 = 24;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;
/// One retry, in thousandths.
const RETRY: u64 = 1_000;
/// A new session earns a fifth of a retry.
const DEPOSIT: u64 = RETRY / 5;
/// Ten retries a second whatever the load, so that a quiet service can retry at all: 10 thousandths a millisecond.
const FLOOR_PER_MS: u64 = 10;
/// 500 retries at once: what 3,000 sessions a second bring to one dead backend of ten before it is ejected, and more.
const CAPACITY: u64 = 500 * RETRY;
/// Time in which the floor alone fills the budget; longer gaps need not be counted.
const FULL_AFTER_MS: u64 = CAPACITY / FLOOR_PER_MS;

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(now_ms: u64) -> RetryBudget {
        let budget = RetryBudget::default();
        while budget.withdraw(now_ms) {}
        budget
    }

    #[test]
    fn a_burst_of_five_hundred_is_free_and_then_it_ends() {
        let budget = RetryBudget::default();
        assert_eq!((0..1_000).filter(|_| budget.withdraw(0)).count(), 500);
    }

    #[test]
    fn five_sessions_earn_one_retry() {
        let budget = drained(7);
        (0..4).for_each(|_| budget.deposit(7));
        assert!(!budget.withdraw(7), "four sessions are not enough");
        budget.deposit(7);
        assert!(budget.withdraw(7));
        assert!(!budget.withdraw(7));
    }

    #[test]
    fn a_quiet_service_may_retry_ten_times_a_second() {
        let budget = drained(0);
        assert_eq!((0..100).filter(|_| budget.withdraw(1_000)).count(), 10);
    }

    #[test]
    fn time_that_stands_still_or_jumps_far_is_harmless() {
        let budget = drained(1_000);
        assert!(!budget.withdraw(500), "time that went back earns nothing");
        assert_eq!((0..1_000).filter(|_| budget.withdraw(1 << 39)).count(), 500);
    }
}
