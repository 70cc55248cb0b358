//! How the sources of a service are, for people.

use std::collections::BTreeMap;
use std::sync::Arc;

use balance::Address;

use crate::feed::Change;
use crate::{Event, SourceError};

/// Whether a source works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceState {
    /// It has not said anything yet.
    #[default]
    Starting,
    /// It has spoken in this run.
    Live,
    /// Its last run failed; it waits to be started again, or has not spoken since. What it said before stands.
    Failing,
}

impl SourceState {
    /// Every state, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Live, Self::Failing];

    /// The word in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Failing => "failing",
        }
    }
}

/// What came of something that a source said; the `result` of `dislocate_source_updates_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Update {
    /// The source's endpoints are others now.
    Changed,
    /// They are the same.
    Unchanged,
    /// A list had more endpoints than the source may have.
    Refused,
    /// A run ended by an error.
    Failed,
}

impl Update {
    /// Every result, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Changed, Self::Unchanged, Self::Refused, Self::Failed];

    /// The word in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A source as metrics and the admin API show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Its service.
    pub service: Arc<str>,
    /// Its name, unique in the service.
    pub name: Arc<str>,
    /// The word for it in the configuration.
    pub kind: &'static str,
    /// Whether it works.
    pub state: SourceState,
    /// How many endpoints it reports.
    pub endpoints: usize,
    /// Whether it has said so itself; otherwise that is what a snapshot remembers.
    pub is_confirmed: bool,
    /// When it last proved that it is in touch with its registry, in milliseconds of the program's epoch.
    pub last_success_ms: Option<u64>,
    /// Why its last run failed, and when. Stays when it works again.
    pub last_error: Option<(Box<str>, u64)>,
    /// What came of what it said, in the order of [`Update::ALL`].
    pub updates: [(Update, u64); 4],
    /// Endpoints that were not taken, by [`Refusal`](crate::Refusal).
    pub refused: BTreeMap<&'static str, u64>,
}

/// A backend that a service has, as the admin API explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Where it is.
    pub address: Address,
    /// The source that describes it; nothing for the configuration itself.
    pub source: Option<Arc<str>>,
    /// For one that no source reports any more: until when it serves, if it answers, in milliseconds of the program's
    /// epoch. Past that time it is the last one.
    pub orphan_until_ms: Option<u64>,
}

impl MemberReport {
    /// Whether no source reports it any more.
    pub fn is_orphan(&self) -> bool {
        self.orphan_until_ms.is_some()
    }
}

/// What is kept of a source for reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) state: SourceState,
    pub(crate) last_success_ms: Option<u64>,
    pub(crate) last_error: Option<(Box<str>, u64)>,
    updates: [u64; Update::ALL.len()],
    is_in_list: bool,
}

impl Status {
    /// The source said `event`, which came to `change`. Returns whether it works again.
    pub(crate) fn heard(&mut self, event: &Event, change: Change, now_ms: u64) -> bool {
        match event {
            Event::Begin => self.is_in_list = true,
            // Half a list proves nothing.
            Event::Upsert(_) if self.is_in_list => {}
            Event::End if change.is_refused => self.is_in_list = false,
            _ => {
                self.is_in_list = false;
                self.last_success_ms = Some(now_ms);
                let count = match *event {
                    Event::Alive => None,
                    _ if change.is_any => Some(Update::Changed),
                    _ => Some(Update::Unchanged),
                };
                count.into_iter().for_each(|update| self.count(update));
                return std::mem::replace(&mut self.state, SourceState::Live) == SourceState::Failing;
            }
        }
        if change.is_refused {
            self.count(Update::Refused);
            self.last_error = Some(("a list of more endpoints than a source may have".into(), now_ms));
        }
        false
    }

    /// A run failed. Returns whether that is news.
    pub(crate) fn failed(&mut self, error: &SourceError, now_ms: u64) -> bool {
        self.count(Update::Failed);
        self.is_in_list = false;
        let before = std::mem::replace(&mut self.state, SourceState::Failing);
        let old = self.last_error.replace((error.text().into(), now_ms));
        before != SourceState::Failing || old.is_none_or(|(text, _)| *text != *error.text())
    }

    pub(crate) fn updates(&self) -> [(Update, u64); Update::ALL.len()] {
        Update::ALL.map(|update| (update, self.updates[update as usize]))
    }

    fn count(&mut self, update: Update) {
        self.updates[update as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_live_when_it_has_said_something_whole() {
        let mut status = Status::default();
        let changed = Change { is_any: true, ..Change::default() };
        let refused = Change { is_refused: true, ..Change::default() };
        assert!(!status.heard(&Event::Begin, Change::default(), 1));
        assert!(!status.heard(&Event::Upsert(Vec::new()), Change::default(), 1));
        assert_eq!((status.state, status.last_success_ms), (SourceState::Starting, None));
        assert!(!status.heard(&Event::End, changed, 2));
        assert_eq!((status.state, status.last_success_ms), (SourceState::Live, Some(2)));
        assert!(status.failed(&SourceError::new("refused"), 3), "news");
        assert!(!status.failed(&SourceError::new("refused"), 4), "the same again");
        assert!(status.failed(&SourceError::new("timed out"), 5), "another reason");
        status.heard(&Event::Begin, Change::default(), 6);
        assert!(!status.heard(&Event::End, refused, 6));
        assert_eq!((status.state, status.last_success_ms), (SourceState::Failing, Some(2)), "it said nothing usable");
        assert!(status.heard(&Event::Alive, Change::default(), 7), "it works again");
        assert!(!status.heard(&Event::Remove(Vec::new()), Change::default(), 8));
        assert_eq!(status.updates().map(|(_, n)| n), [1, 1, 1, 3]);
    }
}
