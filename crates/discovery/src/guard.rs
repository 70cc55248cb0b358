//! Whether to believe that backends are gone. Pure.
//!
//! Registries answer empty lists around elections, after a token is revoked, while they restart; a list that lost
//! backends is only a claim. A small loss is believed at once, because a backend that was taken out must stop getting
//! clients. A large one is doubted: the backends become *orphans*, which are probed and serve on while they answer. So a
//! real scale-down follows the processes as they stop listening, and a registry that lies costs nothing.

use std::collections::VecDeque;

/// What the guard thinks of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Believed,
    Doubted,
}

/// A loss that nobody announced. Backends that are out of service anyway (draining, down) are in none of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// How many are gone.
    pub(crate) lost: usize,
    /// How many were reported before.
    pub(crate) before: usize,
    /// How many are reported now, new ones included.
    pub(crate) after: usize,
}

/// The memory of one service's losses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// When, and how many; of the last [`WINDOW_MS`].
    recent: VecDeque<(u64, usize)>,
}

impl Guard {
    /// Judges a loss together with those of the last 10 s: a list that shrinks step by step is a list that shrank.
    pub(crate) fn judge(&mut self, loss: Loss, now_ms: u64) -> Verdict {
        self.recent.retain(|(at_ms, _)| at_ms + WINDOW_MS > now_ms);
        if loss.lost == 0 {
            return Verdict::Believed;
        }
        let earlier: usize = self.recent.iter().map(|(_, lost)| lost).sum();
        let (lost, before) = (loss.lost + earlier, loss.before + earlier);
        self.recent.push_back((now_ms, loss.lost));
        let is_mass = lost >= MASS_LEAST && lost * 100 > before * MASS_PERCENT;
        if is_mass || loss.after == 0 { Verdict::Doubted } else { Verdict::Believed }
    }

    /// Forgets the losses so far: somebody says that they are right.
    pub(crate) fn forget(&mut self) {
        self.recent.clear();
    }
}

/// How long losses add up.
const WINDOW_MS: u64 = 10_000;
/// Losing more than this share at once is rarely meant: rolling restarts take a quarter at most by default.
const MASS_PERCENT: usize = 30;
/// In a service of three, one that leaves is a third and still an everyday event.
const MASS_LEAST: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_loss_and_the_last_backend_are_doubted() {
        use Verdict::{Believed, Doubted};
        let cases = [
            // (lost, before, after, verdict)
            (0, 0, 0, Believed),
            (1, 10, 9, Believed),
            (3, 10, 7, Believed),
            (4, 10, 6, Doubted),
            (2, 3, 1, Believed),
            (3, 4, 1, Doubted),
            (1, 1, 0, Doubted),
            (2, 2, 0, Doubted),
            (1, 1, 1, Believed),
            (2, 2, 5, Believed),
            (10, 10, 10, Doubted),
            (30_000, 100_000, 70_000, Believed),
            (30_001, 100_000, 69_999, Doubted),
        ];
        for (lost, before, after, expected) in cases {
            let verdict = Guard::default().judge(Loss { lost, before, after }, 5);
            assert_eq!(verdict, expected, "{lost} of {before}, {after} left");
        }
    }

    #[test]
    fn losses_add_up_for_ten_seconds() {
        let step = |guard: &mut Guard, before, now_ms| {
            guard.judge(Loss { lost: 1, before, after: before - 1 }, now_ms) == Verdict::Believed
        };
        let mut guard = Guard::default();
        let believed: Vec<_> = (0..5u64).map(|n| step(&mut guard, 10 - n as usize, n * 1_000)).collect();
        assert_eq!(believed, [true, true, true, false, false], "three of ten are the most");
        let mut slow = Guard::default();
        assert!((0..5u64).all(|n| step(&mut slow, 10 - n as usize, n * 5_000)), "a slow scale-down is believed");
        let mut told = Guard::default();
        (0..3u64).for_each(|n| assert!(step(&mut told, 10 - n as usize, n)));
        told.forget();
        assert!(step(&mut told, 7, 4), "somebody said that it is right");
    }
}
