//! The slices of a Service as far as we have heard, and what to say of a change. Without I/O.
//!
//! ```text
//!   slices ── union by address ──▶ endpoints ── against what was told ──▶ upserts, removals, losses
//! ```
//!
//! An endpoint may be in two slices while it is moved, with different conditions; the better one counts, since the
//! other is what the slice said before. One that its owner was taking away (it was terminating) and is gone leaves at
//! once. One that is suddenly missing may be on its way to another slice, or the control plane may be wrong: that is a
//! loss, to be told as a whole list, which the guard judges.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::net::SocketAddr;

use balance::{Address, Reported};

use super::slices::{Entry, Slice, State};
use crate::source::{Found, SourceError};
use crate::sources::records::ENDPOINTS_MAX;

/// The slices, and what was told of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    slices: BTreeMap<Box<str>, Slice>,
    /// Slices and what is in them, of which there are not too many.
    size: usize,
    told: Option<BTreeMap<SocketAddr, Told>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    found: Found,
    is_terminating: bool,
}

/// What to say of changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) upserts: Vec<Found>,
    pub(super) removals: Vec<Box<str>>,
    /// Whether anything is missing that nobody took away.
    pub(super) has_losses: bool,
}

impl Table {
    /// Forgets all slices, to take others.
    pub(super) fn clear(&mut self) {
        self.slices.clear();
        self.size = 0;
    }

    /// Takes a slice in place of one of the same name.
    ///
    /// *Errors*: there is too much.
    pub(super) fn put(&mut self, slice: Slice) -> Result<(), SourceError> {
        self.remove(&slice.name);
        self.size += size(&slice);
        if self.size > ENDPOINTS_MAX {
            return Err(SourceError::new(format!("more than {ENDPOINTS_MAX} endpoints in the slices")));
        }
        self.slices.insert(slice.name.clone(), slice);
        Ok(())
    }

    /// Takes a slice away.
    pub(super) fn remove(&mut self, name: &str) {
        self.size -= self.slices.remove(name).as_ref().map_or(0, size);
    }

    /// How many endpoints are left out of all slices, and why the first is.
    pub(super) fn left_out(&self) -> Option<(usize, &str)> {
        let mut all = self.slices.values().filter_map(|slice| slice.left_out.as_ref());
        let (count, why) = all.next()?;
        Some((count + all.map(|(count, _)| count).sum::<usize>(), why))
    }

    /// The whole list, in order of addresses; nothing if that was told already.
    ///
    /// *Errors*: the slices do not have the port that is wanted.
    pub(super) fn list(&mut self) -> Result<Option<Vec<Found>>, SourceError> {
        let now = self.endpoints()?;
        if self.told.as_ref() == Some(&now) {
            return Ok(None);
        }
        let list = now.values().map(|told| told.found.clone()).collect();
        self.told = Some(now);
        Ok(Some(list))
    }

    /// What to say after changes. Losses count as told until a list says otherwise.
    ///
    /// *Errors*: as of [`Table::list`]. *Cost*: of all endpoints, so that what came together is to be told together.
    pub(super) fn news(&mut self) -> Result<News, SourceError> {
        let mut now = self.endpoints()?;
        let mut news = News::default();
        let told = self.told.get_or_insert_default();
        told.retain(|address, before| match now.remove(address) {
            Some(after) => {
                if after.found != before.found {
                    news.upserts.push(after.found.clone());
                }
                *before = after;
                true
            }
            None if before.is_terminating => {
                news.removals.push(before.found.id.clone());
                false
            }
            None => {
                news.has_losses = true;
                true
            }
        });
        news.upserts.extend(now.values().map(|new| new.found.clone()));
        told.extend(now);
        Ok(news)
    }

    fn endpoints(&self) -> Result<BTreeMap<SocketAddr, Told>, SourceError> {
        let union = self.union()?;
        let has_ready = union.values().any(|entry| entry.state == State::Ready);
        let told = |(address, entry): (SocketAddr, &Entry)| {
            (address, Told { found: found(address, entry, has_ready), is_terminating: entry.is_terminating })
        };
        Ok(union.into_iter().map(told).collect())
    }

    /// Each address once, with its best word.
    fn union(&self) -> Result<BTreeMap<SocketAddr, &Entry>, SourceError> {
        let mut union: BTreeMap<SocketAddr, &Entry> = BTreeMap::new();
        for (address, entry) in self.slices.values().flat_map(|slice| &slice.entries) {
            match union.entry(*address) {
                Place::Vacant(place) => drop(place.insert(entry)),
                Place::Occupied(mut place) if place.get().state < entry.state => drop(place.insert(entry)),
                Place::Occupied(_) => {}
            }
        }
        let without_port = |slice: &&Slice| slice.is_ambiguous || (union.is_empty() && slice.other_ports.is_some());
        match self.slices.values().find(without_port) {
            None => Ok(union),
            Some(slice) => {
                let why =
                    if slice.is_ambiguous { "several ports, of which one is to be chosen" } else { "other ports" };
                let ports = slice.other_ports.as_deref().unwrap_or_default();
                Err(SourceError::new(format!("the pods have {why}: {ports}")))
            }
        }
    }
}

/// The endpoint as it is told. One that is ending gets new sessions only where nobody is ready, as with kube-proxy (KEP
/// 1669).
fn found(address: SocketAddr, entry: &Entry, has_ready: bool) -> Found {
    let (weight, reported) = match entry.state {
        State::Ready => (1, Reported::Ready),
        State::Ending => (u32::from(!has_ready), Reported::Ready),
        State::NotReady => (1, Reported::NotReady),
    };
    let address = Address::from(address);
    Found { id: address.to_string().into(), address, weight, zone: entry.zone.clone(), priority: 0, reported }
}

/// What a slice costs: itself and what is in it.
fn size(slice: &Slice) -> usize {
    1 + slice.entries.len()
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
