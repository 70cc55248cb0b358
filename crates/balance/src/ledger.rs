//! One account of file descriptors, which everything that opens one draws on.
//!
//! Running out of descriptors inside accept(2) or connect(2) is the worst place to learn of it. So each use asks here
//! first, and is refused while there are still some left for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What a descriptor is for; the `use` label of `dislocate_descriptors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The two sockets of a session.
    Sessions,
    /// The two ends of a pipe that carries bulk.
    Pipes,
    /// A health check on its way.
    Probes,
    /// A connection to the admin listener.
    Admin,
}

impl Use {
    /// Whether it serves clients. Their share leaves a reserve, so that an overload can be looked at and backends can
    /// still be checked.
    fn is_traffic(self) -> bool {
        match self {
            Self::Sessions | Self::Pipes => true,
            Self::Probes | Self::Admin => false,
        }
    }
}

impl Use {
    /// Every use, in the order of the label's documentation.
    pub const ALL: [Self; 4] = [Self::Sessions, Self::Pipes, Self::Probes, Self::Admin];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Pipes => "pipes",
            Self::Probes => "probes",
            Self::Admin => "admin",
        }
    }
}

/// The account. *Cost*: a withdrawal is one compare-and-swap and one addition, shared by all workers.
#[derive(Debug)]
pub struct Ledger {
    limit: u32,
    total: AtomicU32,
    used: [AtomicU32; Use::ALL.len()],
}

impl Ledger {
    /// An account of `limit` descriptors: what the process may open, less what it holds for itself (listeners, epoll,
    /// logs, a reserve).
    pub fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self { limit, total: AtomicU32::new(0), used: Default::default() })
    }

    /// Takes `count` descriptors for `purpose` until the hold is dropped, or nothing when fewer are left.
    pub fn take(self: &Arc<Self>, purpose: Use, count: u32) -> Option<Hold> {
        let limit = if purpose.is_traffic() { self.limit - self.control_reserve() } else { self.limit };
        let within = |total: u32| total.checked_add(count).filter(|&next| next <= limit);
        self.total.fetch_update(Relaxed, Relaxed, within).ok()?;
        self.used[purpose as usize].fetch_add(count, Relaxed);
        Some(Hold { ledger: Arc::clone(self), purpose, count })
    }

    /// Descriptors out for `purpose` now.
    pub fn used(&self, purpose: Use) -> u32 {
        self.used[purpose as usize].load(Relaxed)
    }

    /// What traffic must leave to probes and admin connections.
    fn control_reserve(&self) -> u32 {
        (self.limit / CONTROL_SHARE).min(CONTROL_MOST)
    }

    /// All that may be out at once.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// Descriptors that are out; dropping it books them back.
#[derive(Debug)]
pub struct Hold {
    ledger: Arc<Ledger>,
    purpose: Use,
    count: u32,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ledger.used[self.purpose as usize].fetch_sub(self.count, Relaxed);
        self.ledger.total.fetch_sub(self.count, Relaxed);
    }
}

/// An eighth of a small account, and of a large one as many as 128 probes need.
const CONTROL_SHARE: u32 = 8;
const CONTROL_MOST: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_leaves_a_reserve_for_probes_and_admin() {
        let ledger = Ledger::new(64);
        let sessions: Vec<Hold> = std::iter::from_fn(|| ledger.take(Use::Sessions, 2)).collect();
        assert_eq!(sessions.len(), 28);
        assert!(ledger.take(Use::Pipes, 2).is_none());
        let control: Vec<Hold> = std::iter::from_fn(|| ledger.take(Use::Admin, 1)).collect();
        assert_eq!(control.len(), 8);
    }

    #[test]
    fn what_is_out_for_one_use_is_not_there_for_another() {
        let ledger = Ledger::new(5);
        let session = ledger.take(Use::Sessions, 2);
        let pipe = ledger.take(Use::Pipes, 2);
        assert!(session.is_some() && pipe.is_some());
        assert!(ledger.take(Use::Probes, 2).is_none(), "one is left, two are asked for");
        assert_eq!(ledger.used(Use::Sessions), 2);
        drop(session);
        assert!(ledger.take(Use::Probes, 2).is_some());
        assert_eq!(ledger.used(Use::Sessions), 0);
    }
}
