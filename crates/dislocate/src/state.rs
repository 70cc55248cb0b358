//! What runs, as everybody who asks about it sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use balance::{Epoch, Ledger, Reader};
use discovery::Overview;
use proxy::{CrossZone, ListenerView, PipeCounters, SessionList};

use crate::log::Dropped;

/// Shared by the program, its admin listener and its metrics. Nothing in it is ever waited for.
pub struct State {
    /// The time line.
    pub epoch: Epoch,
    /// The account of descriptors.
    pub ledger: Arc<Ledger>,
    /// Pipes of the data plane.
    pub pipes: Arc<PipeCounters>,
    /// Bytes between zones.
    pub cross_zone: Arc<CrossZone>,
    /// Asks the workers for their sessions.
    pub sessions: SessionList,
    /// Log lines that were thrown away.
    pub log_dropped: Dropped,
    /// The sources of all services, and what came of them.
    pub sources: Overview,
    /// What the last configuration made; replaced as a whole.
    pub running: ArcSwap<Running>,
    /// Set when the process is about to end: `/readyz` says so, and no listener accepts.
    pub draining: AtomicBool,
    /// How reloads went.
    pub reloads: Reloads,
    /// By the wall clock.
    pub started: SystemTime,
}

/// Listeners and services of one configuration.
#[derive(Default)]
pub struct Running {
    /// The node's name.
    pub node: String,
    /// By name.
    pub listeners: Vec<ListenerView>,
    /// In the order of the configuration.
    pub services: Vec<(String, Reader)>,
}

/// Counts of reloads by result.
#[derive(Default)]
pub struct Reloads {
    /// Applied.
    pub ok: AtomicU64,
    /// Refused; the configuration before went on.
    pub refused: AtomicU64,
    /// The file said what it said before.
    pub unchanged: AtomicU64,
    /// Whether the last one was refused.
    pub last_refused: AtomicBool,
}

impl State {
    /// Now, on the time line of all decisions.
    pub fn now_ms(&self) -> u64 {
        self.epoch.millis(Instant::now())
    }

    /// When it was, by the wall clock, at a point of the time line.
    pub fn wall(&self, at_ms: u64) -> SystemTime {
        self.started + Duration::from_millis(at_ms)
    }

    /// Whether new sessions are welcome.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Relaxed) && !self.running.load().listeners.is_empty()
    }
}

/// Panics of this process's tasks. Counted by the panic hook, which has no other way to the state.
pub static PANICS: AtomicU64 = AtomicU64::new(0);
