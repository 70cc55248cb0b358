//! Flows and backends that belong together: whether a flow may stay, and which backend a connection id names.

use std::sync::Arc;

use crate::backend::Gate;
use crate::lease::Grant;
use crate::review::Scope;
use crate::{Active, Availability, Backend, BackendSet, Lease, PickReason};

/// Whether a flow may go on with its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It may.
    Yes,
    /// Its backend takes nothing new; what it has may end there.
    Draining,
    /// Its backend is not in the set any more, or believed to be broken.
    Gone,
}

impl BackendSet {
    /// Whether a flow may go on with `backend`, of this set or of one before it. Where a pick would ignore checks and
    /// ejections, they do not end flows either. A backend on trial keeps the flows that it has: one of them is the trial.
    ///
    /// The answer changes with the set, and with [`changes`](Self::changes).
    ///
    /// *Cost*: O(log n), a comparison of addresses each; in panic every 100 ms a look at all.
    pub fn keeps(&self, backend: &Arc<Backend>, now_ms: u64) -> Keep {
        let Some(at) = self.position(backend) else { return Keep::Gone };
        let own = &self.backends()[at];
        let is_shut = own.state().gate(now_ms) == Gate::Shut;
        match own.availability() {
            Availability::Draining if is_shut || own.endpoint().facts.active == Active::Down => Keep::Gone,
            Availability::Draining => Keep::Draining,
            Availability::Up if !is_shut => Keep::Yes,
            Availability::Up | Availability::Down if self.ignores_health(at, now_ms) => Keep::Yes,
            Availability::Up | Availability::Down => Keep::Gone,
        }
    }

    /// A number that changes when a backend of the service is ejected or comes back, which makes no new set.
    pub fn changes(&self) -> u64 {
        self.shared().changes()
    }

    /// The backend with this server id; of several the first.
    ///
    /// *Cost*: O(log n) in those that have one.
    pub fn by_server_id(&self, id: &[u8]) -> Option<&Arc<Backend>> {
        let at = self.named().partition_point(|&at| server_id(&self.backends()[at as usize]) < Some(id));
        let backend = &self.backends()[*self.named().get(at)? as usize];
        (server_id(backend) == Some(id)).then_some(backend)
    }

    /// A lease on exactly `backend`, which a connection of the client is bound to, if that [may go on](Self::keeps) there
    /// and the backend is not full. A backend that drains is one where it may; a trial that is due is taken.
    pub fn take(&self, backend: &Arc<Backend>, now_ms: u64) -> Option<Lease> {
        if self.keeps(backend, now_ms) == Keep::Gone {
            return None;
        }
        let own = &self.backends()[self.position(backend)?];
        let on_trial = own.state().begin_trial(now_ms);
        let capacity = self.settings().max_connections_per_backend;
        let lease = Lease::new(own, Grant { reason: PickReason::Affinity, score: 0.0, on_trial, capacity })?;
        own.state().line.was_given(now_ms);
        Some(lease)
    }

    /// Where the backend of the same address stands.
    fn position(&self, backend: &Backend) -> Option<usize> {
        let within = |range: &std::ops::Range<usize>| {
            let found = self.backends()[range.clone()].binary_search_by(|it| it.address().cmp(backend.address()));
            found.ok().map(|nth| range.start + nth)
        };
        self.levels().iter().find_map(|level| within(&level.range))
    }

    /// Whether picks would use the backend at `at` whatever its health.
    fn ignores_health(&self, at: usize, now_ms: u64) -> bool {
        self.review().refresh(self, now_ms);
        match self.review().scope() {
            Scope::Reported { .. } | Scope::Calm { .. } => false,
            Scope::Panic { level } => self.levels()[level].range.contains(&at),
            Scope::Desperate => true,
        }
    }
}

/// The indices of those that have a server id, sorted by it.
pub(crate) fn named(backends: &[Arc<Backend>]) -> Vec<u32> {
    let mut named: Vec<u32> =
        (0..backends.len() as u32).filter(|&at| server_id(&backends[at as usize]).is_some()).collect();
    named.sort_by_key(|&at| server_id(&backends[at as usize]));
    named
}

fn server_id(backend: &Backend) -> Option<&[u8]> {
    backend.endpoint().server_id.as_deref()
}
