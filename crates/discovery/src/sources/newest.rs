//! Lists from the past.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::source::SourceError;

/// The newest version of a registry that a source has seen, over all of its runs.
///
/// A list that is older is refused once: the server that gave it may be behind. A registry that was restored says the
/// same again, and is believed then.
#[derive(Debug, Default)]
pub(super) struct Newest(AtomicU64);

impl Newest {
    /// Judges the version of a whole list.
    ///
    /// *Errors*: it is older than what was known.
    pub(super) fn check(&self, version: u64) -> Result<(), SourceError> {
        let before = self.0.swap(version, Ordering::Relaxed);
        match version < before {
            true => {
                Err(SourceError::new(format!("the list is of version {version}, and {before} was known; asking again")))
            }
            false => Ok(()),
        }
    }

    /// Notes the version of a change.
    pub(super) fn saw(&self, version: u64) {
        self.0.fetch_max(version, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_from_the_past_is_refused_once() {
        let newest = Newest::default();
        let is_good = |version| newest.check(version).is_ok();
        assert!(is_good(7) && is_good(7) && is_good(9));
        assert!(!is_good(8), "a server that is behind");
        assert!(is_good(9), "another that is not");
        assert!(!is_good(3) && is_good(3), "a registry that was restored");
        newest.saw(20);
        newest.saw(5);
        assert!(!is_good(19), "what changes said counts too");
    }
}
