//! The one time line of all decisions.

use std::time::Instant;

/// The moment that milliseconds are counted from. The program makes one at start and hands it to every part, so that
/// their times compare. It converts instants; it never reads the clock itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(Instant);

impl Epoch {
    /// Counts from one second before `start`, so that 0 is before everything and can mean "never".
    pub fn starting(start: Instant) -> Self {
        Self(start.checked_sub(std::time::Duration::from_secs(1)).unwrap_or(start))
    }

    /// The moment that is `millis` after the start.
    pub fn at(self, millis: u64) -> Instant {
        self.0 + std::time::Duration::from_millis(millis)
    }

    /// Milliseconds from the epoch to `at`; 0 for an instant before it.
    pub fn millis(self, at: Instant) -> u64 {
        at.saturating_duration_since(self.0).as_millis() as u64
    }

    /// Microseconds from the epoch to `at`; 0 for an instant before it.
    pub fn micros(self, at: Instant) -> u64 {
        at.saturating_duration_since(self.0).as_micros() as u64
    }
}
