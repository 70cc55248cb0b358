//! When changes are published: at once where it is quiet, gathered where it is not. Pure.

/// ```text
///   quiet for 1 s ── change ─▶ at once ── changes ─▶ after 50 ms ─▶ 100 ms ─▶ … ─▶ 1 s ─▶ 1 s
///         ▲                                                                            │
///         └──────────────────────── no publication for 1 s ◀───────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debounce {
    due_ms: Option<u64>,
    /// When it was published last; nothing before the first time.
    last_ms: Option<u64>,
    /// Least time to the publication after the last one.
    window_ms: u64,
}

impl Debounce {
    /// Something changed. What is `urgent` (a backend that is to get no new sessions) waits only behind another
    /// publication of this very moment.
    pub(crate) fn changed(&mut self, now_ms: u64, is_urgent: bool) {
        let window_ms = if is_urgent { URGENT_MS } else { self.window_ms };
        let earliest_ms = self.last_ms.map_or(0, |last_ms| last_ms + window_ms).max(now_ms);
        self.due_ms = Some(self.due_ms.map_or(earliest_ms, |due_ms| due_ms.min(earliest_ms)));
    }

    /// It was published out of turn, because the operator waits for it, which delays no change that follows.
    pub(crate) fn published(&mut self) {
        self.due_ms = None;
    }

    /// When the next publication is due, if one is.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// Whether to publish now; whoever asks does it, if the answer is yes.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        if self.due_ms.take_if(|due_ms| *due_ms <= now_ms).is_none() {
            return false;
        }
        let is_quiet = self.last_ms.is_none_or(|last_ms| now_ms >= last_ms + QUIET_MS + self.window_ms);
        self.window_ms = if is_quiet { WINDOW_FIRST_MS } else { (self.window_ms * 2).min(WINDOW_MAX_MS) };
        self.last_ms = Some(now_ms);
        true
    }
}

/// Publications are this far apart whatever is urgent: a registry that turns a backend off and on all the time must not
/// have a set built each time.
const URGENT_MS: u64 = 25;
/// After as much time beyond the window without a publication, a change goes out at once again.
const QUIET_MS: u64 = 1_000;
/// Long enough for the backends of one deployment step to come together.
const WINDOW_FIRST_MS: u64 = 50;
/// Under load a change is known after a second, and a set is built once a second.
const WINDOW_MAX_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// The times at which changes of all of 0..`end_ms` are published, one change a millisecond.
    fn storm(debounce: &mut Debounce, range: std::ops::Range<u64>) -> Vec<u64> {
        let step = |now_ms| {
            debounce.changed(now_ms, false);
            debounce.take(now_ms).then_some(now_ms)
        };
        range.filter_map(step).collect()
    }

    #[test]
    fn a_change_goes_out_at_once_and_a_storm_of_them_at_growing_distances() {
        let mut debounce = Debounce::default();
        assert_eq!(storm(&mut debounce, 0..5_000), [0, 50, 150, 350, 750, 1_550, 2_550, 3_550, 4_550]);
        assert!(debounce.take(5_550), "the last change of the storm is published too");
        debounce.changed(7_600, false);
        assert_eq!(debounce.due_ms(), Some(7_600), "quiet has returned");
        assert!(debounce.take(7_600));
        assert_eq!(storm(&mut debounce, 7_601..7_800), [7_650, 7_750]);
    }

    #[test]
    fn what_is_urgent_does_not_wait_in_a_storm_and_brings_the_rest_along() {
        let mut debounce = Debounce::default();
        storm(&mut debounce, 0..3_000);
        debounce.changed(3_001, true);
        assert!(debounce.take(3_001) && debounce.due_ms().is_none());
        for now_ms in 3_002..3_100 {
            debounce.changed(now_ms, true);
            assert_eq!(debounce.take(now_ms), (now_ms - 3_001) % URGENT_MS == 0, "at {now_ms}");
        }
    }

    #[test]
    fn nothing_is_published_without_a_change() {
        assert!(!Debounce::default().take(1 << 40));
    }
}
