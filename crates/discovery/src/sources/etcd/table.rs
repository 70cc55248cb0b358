//! The keys below a prefix as far as we have heard, and what to say of a change. Without I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::{Change, ChangeKind, KeyValue};
use crate::source::{Event, Found, ID_MAX_BYTES, SourceError};
use crate::sources::records::{self, ENDPOINTS_MAX, Object, shortened};

/// The keys, and the revision up to which they are known.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Vec<u8>, Entry>,
    revision: u64,
    /// The first value that could not be read since this was last asked for, and what was answered then.
    unreadable: Option<String>,
    reported: Option<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// None when the value never could be read.
    found: Option<Found>,
    /// Whether the key goes away when its owner falls silent, so that its end may not be the owner's word.
    leased: bool,
}

/// What to say of changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    /// To be said at once.
    pub(super) events: Vec<Event>,
    /// Whether the whole list is to be sent after that: something ended that had a lease. The owner may be gone or etcd
    /// may have been out of reach for it, which is for the guard to judge.
    pub(super) list: bool,
}

impl Table {
    /// The revision up to which the keys are known.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision from which to watch.
    pub(super) fn next_revision(&self) -> u64 {
        self.revision.saturating_add(1)
    }

    /// The usable endpoints, in order.
    pub(super) fn list(&self) -> Vec<Found> {
        self.entries.values().filter_map(|entry| entry.found.clone()).collect()
    }

    /// What was wrong with the first value that could not be read since the last call, unless it is what was told last:
    /// a registrar may renew its mistake each second.
    pub(super) fn take_unreadable(&mut self) -> Option<String> {
        let why = self.unreadable.take().filter(|why| self.reported.as_ref() != Some(why))?;
        self.reported = Some(why.clone());
        Some(why)
    }

    /// Takes all keys as of a revision. A value that cannot be read leaves its key as it was.
    ///
    /// *Errors*: there are too many.
    pub(super) fn replace(&mut self, all: Vec<Object<KeyValue>>, revision: u64) -> Result<(), SourceError> {
        let mut before = std::mem::take(&mut self.entries);
        self.revision = revision;
        for Object(kv) in all {
            let known = before.remove(&kv.key.0);
            self.put(kv, known)?;
        }
        Ok(())
    }

    /// Takes the changes of one answer of a watch.
    ///
    /// *Errors*: there are too many keys.
    pub(super) fn change(&mut self, changes: Vec<Object<Change>>) -> Result<News, SourceError> {
        // Only the state after all of them counts.
        let mut before: BTreeMap<Vec<u8>, Option<Entry>> = BTreeMap::new();
        for Object(change) in changes {
            let Object(kv) = change.kv;
            self.revision = self.revision.max(kv.mod_revision.0);
            let known = self.entries.remove(&kv.key.0);
            before.entry(kv.key.0.clone()).or_insert_with(|| known.clone());
            match change.kind {
                ChangeKind::Put => self.put(kv, known)?,
                ChangeKind::Delete => {}
            }
        }
        Ok(self.news(before))
    }

    fn news(&self, before: BTreeMap<Vec<u8>, Option<Entry>>) -> News {
        let (mut upserts, mut removals, mut list) = (Vec::new(), BTreeSet::new(), false);
        for (key, before) in before {
            let leased = before.as_ref().is_some_and(|entry| entry.leased);
            let before = before.and_then(|entry| entry.found);
            let now = self.entries.get(&key).and_then(|entry| entry.found.clone());
            match (before, now) {
                (before, Some(now)) if before.as_ref() != Some(&now) => upserts.push(now),
                (Some(_), None) if leased => list = true,
                (Some(before), None) => {
                    removals.insert(before.id);
                }
                _ => {}
            }
        }
        let upsert = (!upserts.is_empty()).then_some(Event::Upsert(upserts));
        let remove = (!removals.is_empty()).then(|| Event::Remove(removals.into_iter().collect()));
        News { events: upsert.into_iter().chain(remove).collect(), list }
    }

    /// Puts a key in place of what was known of it.
    fn put(&mut self, kv: KeyValue, known: Option<Entry>) -> Result<(), SourceError> {
        if self.entries.len() == ENDPOINTS_MAX {
            return Err(SourceError::new(format!("more than {ENDPOINTS_MAX} keys below the prefix")));
        }
        let leased = kv.lease.0 != 0;
        let found = match read(&kv) {
            Ok(found) => Some(found),
            Err(why) => {
                self.unreadable.get_or_insert(why);
                known.and_then(|entry| entry.found)
            }
        };
        self.entries.insert(kv.key.0, Entry { found, leased });
        Ok(())
    }
}

/// The endpoint of a key, whose id is the key.
fn read(kv: &KeyValue) -> Result<Found, String> {
    let id = kv.key.0.escape_ascii().to_string();
    let about = |why: &str| format!("{}: {why}", shortened(&id));
    let found = records::json_record(&kv.value.0).map_err(|error| about(error.text()))?;
    match id.len() > ID_MAX_BYTES {
        true => Err(about("the key is too long")),
        false => Ok(Found { id: id.into(), ..found }),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
