//! The rise-and-fall machine of one backend.
//!
//! ```text
//!              success                       fall failures in a row
//!   unknown ─────────────▶ up ─────────────────────────────────────────▶ down
//!      │                    ▲                                             │ ▲
//!      │                    └───────── rise successes in a row ───────────┘ │
//!      └───────────────────────────── fall failures in a row ───────────────┘
//! ```
//!
//! A probe that could not be made says nothing and never comes here.

use balance::{Active, Outcome};

/// How many results in a row turn a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Successes from down to up.
    pub(crate) rise: u32,
    /// Failures from unknown or up to down.
    pub(crate) fall: u32,
}

/// What the checks of one backend have found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Check {
    active: Active,
    /// Results in a row that contradict `active`.
    contrary: u32,
}

impl Check {
    /// Takes a result; returns the new state if it is another one.
    pub(crate) fn handle(&mut self, limits: Limits, result: Outcome) -> Option<Active> {
        let (next, needed) = match (self.active, result) {
            (Active::Up, Outcome::Success) | (Active::Down, Outcome::Failure) => {
                self.contrary = 0;
                return None;
            }
            (Active::Unknown, Outcome::Success) => (Active::Up, 1),
            (Active::Down, Outcome::Success) => (Active::Up, limits.rise),
            (Active::Unknown | Active::Up, Outcome::Failure) => (Active::Down, limits.fall),
        };
        self.contrary = self.contrary.saturating_add(1);
        if self.contrary < needed {
            return None;
        }
        *self = Self { active: next, contrary: 0 };
        Some(next)
    }

    /// The state as it is published.
    pub(crate) fn active(self) -> Active {
        self.active
    }

    /// Whether the last result contradicts the state, so that the next one is worth having soon.
    pub(crate) fn is_wavering(self) -> bool {
        self.contrary > 0
    }

    /// Forgets the results that did not turn the state yet, because the question has changed. The state stays until
    /// answers to the new question turn it: a reload alone must not bring a dead backend back.
    pub(crate) fn forget_contrary(&mut self) {
        self.contrary = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(success: bool) -> Outcome {
        if success { Outcome::Success } else { Outcome::Failure }
    }

    #[test]
    fn results_in_a_row_turn_the_state_and_a_contrary_one_starts_the_count_again() {
        let cases = [
            // (rise, fall, results, states after each of them)
            (2, 3, "+", "U"),
            (2, 3, "--+", "??U"),
            (2, 3, "---", "??D"),
            (2, 3, "+--+--", "UUUUUU"),
            (2, 3, "+---", "UUUD"),
            (2, 3, "---+-++", "??DDDDU"),
            (3, 1, "-+++-", "DDDUD"),
            (1, 1, "+-+-", "UDUD"),
            (0, 0, "+-+-", "UDUD"),
        ];
        for (rise, fall, results, expected) in cases {
            let mut check = Check::default();
            let states: String = results
                .chars()
                .map(|result| {
                    check.handle(Limits { rise, fall }, outcome(result == '+'));
                    match check.active() {
                        Active::Unknown => '?',
                        Active::Up => 'U',
                        Active::Down => 'D',
                    }
                })
                .collect();
            assert_eq!(states, expected, "rise {rise}, fall {fall}, results {results}");
        }
    }

    /// The definition read backwards from the whole history: the state is decided by the latest run that was long
    /// enough to decide.
    fn by_history(limits: Limits, history: &[bool]) -> Active {
        let mut active = Active::Unknown;
        for end in 1..=history.len() {
            let last = history[end - 1];
            let run = history[..end].iter().rev().take_while(|&&result| result == last).count() as u32;
            active = match (active, last) {
                (Active::Unknown, true) => Active::Up,
                (Active::Down, true) if run >= limits.rise => Active::Up,
                (Active::Unknown | Active::Up, false) if run >= limits.fall => Active::Down,
                (state, _) => state,
            };
        }
        active
    }

    proptest! {
        #[test]
        fn the_counter_says_what_the_whole_history_says(
            rise in 1u32..5,
            fall in 1u32..5,
            history in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let limits = Limits { rise, fall };
            let mut check = Check::default();
            for (at, &success) in history.iter().enumerate() {
                let before = check.active();
                let turned = check.handle(limits, outcome(success));
                prop_assert_eq!(check.active(), by_history(limits, &history[..=at]));
                prop_assert_eq!(turned, (before != check.active()).then_some(check.active()));
            }
        }
    }
}
