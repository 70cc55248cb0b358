//! When to look at which slot: a hashed timing wheel (Varghese, Lauck: Hashed and hierarchical timing wheels, SOSP
//! 1987, scheme 6).
//!
//! It knows slots, not deadlines: a slot fires at or before the end of the tick that its deadline is in when it is
//! filed, and whoever holds the deadlines files it again if it was put off meanwhile. So a datagram only stores its
//! time, and what ends needs no removal: its slot fires once more, and if another flow has taken the slot, for that
//! one, too early.

/// *Shape*: a ring of ticks, each with a list of slots that runs through `next`.
#[derive(Debug)]
pub(super) struct Wheel {
    tick_ms: u64,
    /// The latest tick whose end is over: all that was filed in it has fired.
    done: u64,
    /// Which of `heads` are not empty.
    occupied: u64,
    heads: [u32; TICKS as usize],
    next: Vec<u32>,
}

/// As many as `occupied` has bits. A deadline is at most `PER_IDLE` + 1 ticks ahead, as long as the wheel is turned.
const TICKS: u64 = 64;
/// Ticks in the time that ends a silent flow: so it ends up to 1/32 too late. More would wake the engine more often.
const PER_IDLE: u64 = 32;
/// The end of a tick's list.
const END: u32 = u32::MAX;
/// In `next`: the slot is on no list.
const UNFILED: u32 = u32::MAX - 1;

impl Wheel {
    /// For deadlines up to `idle_ms` ahead.
    pub(super) fn new(idle_ms: u64, now_ms: u64) -> Self {
        let tick_ms = (idle_ms / PER_IDLE).max(1);
        Self { tick_ms, done: now_ms / tick_ms, occupied: 0, heads: [END; TICKS as usize], next: Vec::new() }
    }

    /// Has `slot` fire when `deadline_ms` is over: up to a tick later, and earlier where the deadline is further
    /// ahead than the wheel reaches. A slot that is filed already stays where it is: deadlines only ever move away.
    pub(super) fn file(&mut self, slot: u32, deadline_ms: u64) {
        let index = slot as usize;
        if index >= self.next.len() {
            self.next.resize(index + 1, UNFILED);
        }
        if self.next[index] != UNFILED {
            return;
        }
        let tick = deadline_ms.div_ceil(self.tick_ms).clamp(self.done + 1, self.done + TICKS - 1) % TICKS;
        self.next[index] = std::mem::replace(&mut self.heads[tick as usize], slot);
        self.occupied |= 1 << tick;
    }

    /// Takes off the slots that fire until `now_ms` and adds them to `fired`, tick by tick.
    pub(super) fn advance(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        let target = now_ms / self.tick_ms;
        if target <= self.done {
            return;
        }
        let steps = (target - self.done).min(TICKS);
        for tick in self.done + 1..=self.done + steps {
            self.take(tick % TICKS, fired);
        }
        self.done = target;
    }

    fn take(&mut self, tick: u64, fired: &mut Vec<u32>) {
        if self.occupied & (1 << tick) == 0 {
            return;
        }
        self.occupied &= !(1 << tick);
        let mut slot = std::mem::replace(&mut self.heads[tick as usize], END);
        while slot != END {
            fired.push(slot);
            slot = std::mem::replace(&mut self.next[slot as usize], UNFILED);
        }
    }

    /// The end of the latest tick that is over.
    pub(super) fn done_ms(&self) -> u64 {
        self.done.saturating_mul(self.tick_ms)
    }

    /// When the next slot fires.
    pub(super) fn next_ms(&self) -> Option<u64> {
        if self.occupied == 0 {
            return None;
        }
        let ahead = self.occupied.rotate_right(((self.done + 1) % TICKS) as u32).trailing_zeros();
        Some((self.done + 1 + u64::from(ahead)).saturating_mul(self.tick_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.advance(now_ms, &mut fired);
        fired
    }

    #[test]
    fn a_slot_fires_at_the_end_of_its_deadlines_tick() {
        // Ticks of 100 ms; (deadline, fires at).
        let cases = [(1_001, 1_100), (1_100, 1_100), (1_101, 1_200), (4_200, 4_200), (900, 1_100), (0, 1_100)];
        for (deadline, fires) in cases {
            let mut wheel = Wheel::new(3_200, 1_000);
            wheel.file(7, deadline);
            assert_eq!(wheel.next_ms(), Some(fires), "of {deadline}");
            assert_eq!(fired(&mut wheel, fires - 1), [], "before the end of the tick of {deadline}");
            assert_eq!(fired(&mut wheel, fires), [7], "at the end of the tick of {deadline}");
            assert_eq!((wheel.next_ms(), fired(&mut wheel, fires + 100_000)), (None, vec![]));
        }
    }

    #[test]
    fn beyond_its_reach_a_slot_fires_early_and_can_be_filed_again() {
        let mut wheel = Wheel::new(3_200, 0);
        wheel.file(0, 10_000);
        assert_eq!(wheel.next_ms(), Some(6_300));
        assert_eq!(fired(&mut wheel, 6_300), [0]);
        wheel.file(0, 10_000);
        assert_eq!(wheel.next_ms(), Some(10_000));
    }

    #[test]
    fn a_filed_slot_stays_where_it_is() {
        let mut wheel = Wheel::new(3_200, 0);
        wheel.file(3, 1_000);
        wheel.file(3, 2_000);
        assert_eq!(fired(&mut wheel, 5_000), [3]);
    }

    #[test]
    fn a_jump_over_many_turns_fires_everything_once() {
        let mut wheel = Wheel::new(3_200, 0);
        for slot in 0..200 {
            wheel.file(slot, u64::from(slot) * 16);
        }
        let mut all = fired(&mut wheel, 3_600_000);
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<_>>());
        assert_eq!((wheel.done_ms(), wheel.next_ms()), (3_600_000, None));
    }

    #[test]
    fn no_time_is_too_long_or_too_short() {
        for idle in [0, 1, 31, u64::MAX] {
            let mut wheel = Wheel::new(idle, 5);
            wheel.file(0, idle.saturating_add(5));
            assert!(wheel.next_ms().is_some_and(|at| at > 5), "of {idle}");
        }
    }
}
