//! Counters of the data plane. Every worker has its own and no two write to one cache line; a scrape adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use balance::{Histogram, Zone};

use crate::Reason;
use crate::accept::AcceptError;
use crate::limits::Limit;
use crate::udp::UdpStats;

/// Counters of one listener on one worker.
///
/// *Cost*: a count is one uncontended addition.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerStats {
    opened: AtomicU64,
    closed: [AtomicU64; Reason::ALL.len()],
    refused: [AtomicU64; Limit::ALL.len()],
    accept_errors: [AtomicU64; AcceptError::ALL.len()],
    retries: [AtomicU64; balance::ConnectFailure::ALL.len() + 1],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    spliced_bytes: AtomicU64,
    duration: Histogram,
    udp: UdpStats,
}

impl ListenerStats {
    /// Connections accepted.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Sessions ended for this reason.
    pub fn closed(&self, reason: Reason) -> u64 {
        self.closed[reason as usize].load(Relaxed)
    }

    /// Connections refused by this limit.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused[limit as usize].load(Relaxed)
    }

    /// Failures of accept(2) with this error.
    pub fn accept_errors(&self, error: AcceptError) -> u64 {
        self.accept_errors[error as usize].load(Relaxed)
    }

    /// Further tries after this failure of the one before; `None` is a failure of our own.
    pub fn retries(&self, after: Option<balance::ConnectFailure>) -> u64 {
        self.retries[retry_slot(after)].load(Relaxed)
    }

    /// Bytes from clients to backends, bytes from backends to clients, and how many of them were spliced.
    pub fn bytes(&self) -> (u64, u64, u64) {
        (self.received_bytes.load(Relaxed), self.sent_bytes.load(Relaxed), self.spliced_bytes.load(Relaxed))
    }

    /// How long sessions lasted.
    pub fn duration(&self) -> &Histogram {
        &self.duration
    }

    /// Datagrams, where clients send these.
    pub fn udp(&self) -> &UdpStats {
        &self.udp
    }

    pub(crate) fn count_opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_closed(&self, reason: Reason, lasted: std::time::Duration) {
        self.closed[reason as usize].fetch_add(1, Relaxed);
        self.duration.observe(lasted);
    }

    pub(crate) fn count_refused(&self, limit: Limit) {
        self.refused[limit as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_accept_error(&self, error: AcceptError) {
        self.accept_errors[error as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_retry(&self, after: Option<balance::ConnectFailure>) {
        self.retries[retry_slot(after)].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_bytes(&self, received: u64, sent: u64, spliced: u64) {
        self.received_bytes.fetch_add(received, Relaxed);
        self.sent_bytes.fetch_add(sent, Relaxed);
        self.spliced_bytes.fetch_add(spliced, Relaxed);
    }
}

fn retry_slot(after: Option<balance::ConnectFailure>) -> usize {
    after.map_or(balance::ConnectFailure::ALL.len(), |failure| failure as usize)
}

/// Bytes that crossed from one zone to another, which is what operators pay for.
#[derive(Debug, Default)]
pub struct CrossZone {
    bytes: Mutex<BTreeMap<(Zone, Zone), u64>>,
}

impl CrossZone {
    /// All pairs (from, to) so far.
    pub fn totals(&self) -> BTreeMap<(Zone, Zone), u64> {
        self.lock().clone()
    }

    /// Called when a session reports its bytes, not for each transfer.
    pub(crate) fn add(&self, from: &Zone, to: &Zone, bytes: u64) {
        if bytes > 0 && from != to {
            *self.lock().entry((from.clone(), to.clone())).or_default() += bytes;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Zone, Zone), u64>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
