//! Where we are in Consul's history of a service, and how fast we may ask. Without I/O.

use std::time::Duration;

use crate::source::SourceError;

/// The index of the latest answer, with which the next question waits for a change.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    index: u64,
    /// The index of the latest answer of the run before, until there is one of this run.
    before: u64,
}

/// What an answer with an index is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// As much as any.
    Good,
    /// The index went back: the servers were restored, or another one answers that is behind. It is to be asked again,
    /// without waiting.
    WentBack,
}

impl Cursor {
    /// That of a run after another, whose latest answer had this index.
    pub(super) fn after(before: u64) -> Self {
        Self { index: 0, before }
    }

    /// The index of the latest answer, of whichever run.
    pub(super) fn latest(&self) -> u64 {
        self.index.max(self.before)
    }

    /// The index to wait from. None asks for the state now.
    pub(super) fn index(&self) -> Option<u64> {
        (self.index > 0).then_some(self.index)
    }

    /// Takes the header `X-Consul-Index` of an answer.
    ///
    /// *Errors*: it is missing, or no number: then it is not Consul that answers.
    pub(super) fn answered(&mut self, header: Option<&str>) -> Result<Worth, SourceError> {
        let said: Option<u64> = header.and_then(|text| text.parse().ok());
        let said = said.ok_or_else(|| SourceError::new("the answer has no X-Consul-Index"))?;
        // With 0 a question would not wait, and the loop would spin.
        let said = said.max(1);
        let latest = self.latest();
        self.before = 0;
        if said < latest {
            self.index = 0;
            return Ok(Worth::WentBack);
        }
        self.index = said;
        Ok(Worth::Good)
    }
}

/// Keeps questions from becoming a flood: of a service that does not exist, Consul wakes for every change of any other.
///
/// A few questions may follow each other at once; after that one comes every half second.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the questions so far would be over at the lasting rate. *Units*: time since the run began.
    due: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { due: Duration::ZERO }
    }

    /// How long to wait before a question that is ready at `now`.
    pub(super) fn pause(&mut self, now: Duration) -> Duration {
        self.due = self.due.max(now) + LASTING;
        self.due.saturating_sub(now + LASTING * AT_ONCE)
    }
}

/// The lasting distance of questions.
const LASTING: Duration = Duration::from_millis(500);
/// Questions that may follow each other without a pause.
const AT_ONCE: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_goes_forward_back_and_never_to_nought() {
        use Worth::{Good, WentBack};
        // What is said, what that is worth, and what is waited from then.
        let said = [
            ("7", Good, Some(7)),
            ("7", Good, Some(7)),
            ("9", Good, Some(9)),
            ("3", WentBack, None),
            ("3", Good, Some(3)),
            ("0", WentBack, None),
            ("0", Good, Some(1)),
            ("0", Good, Some(1)),
            ("18446744073709551615", Good, Some(u64::MAX)),
            ("1", WentBack, None),
        ];
        let mut cursor = Cursor::default();
        assert_eq!(cursor.index(), None, "the first question does not wait");
        for (header, worth, next) in said {
            assert_eq!((cursor.answered(Some(header)), cursor.index()), (Ok(worth), next), "{header}");
        }
    }

    #[test]
    fn a_run_begins_without_an_index_and_knows_that_of_the_last() {
        let mut cursor = Cursor::after(9);
        assert_eq!((cursor.index(), cursor.answered(Some("8"))), (None, Ok(Worth::WentBack)));
        assert_eq!((cursor.index(), cursor.answered(Some("8"))), (None, Ok(Worth::Good)), "it says so again");
        let mut cursor = Cursor::after(9);
        assert_eq!((cursor.answered(Some("9")), cursor.index(), cursor.latest()), (Ok(Worth::Good), Some(9), 9));
        assert_eq!(Cursor::after(9).latest(), 9, "a run that heard nothing changes nothing");
    }

    #[test]
    fn an_answer_without_an_index_is_not_consuls() {
        for header in [None, Some(""), Some("x"), Some("-1"), Some("1.0"), Some("18446744073709551616")] {
            assert!(Cursor::default().answered(header).is_err(), "{header:?}");
        }
    }

    #[test]
    fn a_few_questions_are_free_and_a_flood_is_not() {
        let mut pace = Pace::new();
        let mut now = Duration::from_secs(5);
        let free = (0..100).take_while(|_| pace.pause(now).is_zero()).count();
        assert_eq!(free, AT_ONCE as usize);
        // Answers that come at once, for a minute.
        let (begun, mut questions) = (now, 0);
        while now < begun + Duration::from_secs(60) {
            now += pace.pause(now) + Duration::from_millis(1);
            questions += 1;
        }
        assert!((115..=121).contains(&questions), "two a second: {questions}");
        // After a quiet minute a few are free again.
        now += Duration::from_secs(60);
        assert_eq!((0..100).take_while(|_| pace.pause(now).is_zero()).count(), AT_ONCE as usize);
    }
}
