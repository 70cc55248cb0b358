//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long the machine may take over something that should happen at once; generous, since it is shared.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; panics with `what` when it does not in time.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(AT_ONCE, what, condition);
}

/// As [`eventually`], with a deadline of the caller's.
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Lets `span` pass where the passing is itself what is tested: a peer that is slow, or a time in which nothing may happen.
pub fn observe(span: Duration) {
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
