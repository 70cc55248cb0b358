//! A listener: its name, what is in force for it now, and what it counts.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use balance::{Ledger, Reader};

use crate::limits::{Accounts, Gauge, Limits};
use crate::line::Line;
use crate::stats::ListenerStats;
use crate::udp::{LearnedIds, UdpSettings};

/// What every accepted connection needs to know of its listener. Replaced as a whole on reload; a session keeps what it
/// began with.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The service's name.
    pub service: Arc<str>,
    /// Its live set.
    pub backends: Reader,
    /// Where sessions wait while all backends are full; one for each service.
    pub line: Arc<Line>,
    /// For how long; zero is not at all.
    pub queue_timeout: Duration,
    /// Silence after which a session is cut.
    pub idle_timeout: Duration,
    /// The same, once one side has finished.
    pub half_close_timeout: Duration,
    /// Silence after which the kernel asks whether a peer is still there.
    pub keepalive: Duration,
    /// Time for which sent data may stay unacknowledged (TCP_USER_TIMEOUT).
    pub user_timeout: Duration,
    /// For each connection to a backend.
    pub connect_timeout: Duration,
    /// Other backends tried when one cannot be reached.
    pub retries: u32,
    /// Sessions of this listener; 0 is no limit.
    pub max_connections: u32,
    /// Sessions of one client address; 0 is no limit.
    pub max_connections_per_source: u32,
    /// Whether bulk may be spliced.
    pub splice: bool,
    /// What flows need beside; nothing where clients connect.
    pub udp: Option<UdpSettings>,
    /// Connection ids that backends of the service chose; one for each service.
    pub learned_ids: Arc<LearnedIds>,
}

/// A listener, shared by the workers and by everybody who asks about it.
#[derive(Debug)]
pub struct Listener {
    name: Arc<str>,
    settings: ArcSwap<ListenerSettings>,
    accounts: Accounts,
    stats: Vec<ListenerStats>,
}

impl Listener {
    pub(crate) fn new(
        name: Arc<str>,
        settings: ListenerSettings,
        workers: usize,
        process: Arc<Gauge>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let accounts = Accounts { process, listener: Arc::default(), sources: Arc::default(), ledger };
        let stats = (0..workers).map(|_| ListenerStats::default()).collect();
        Self { name, settings: ArcSwap::from_pointee(settings), accounts, stats }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in force.
    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.settings.load_full()
    }

    /// Sessions now.
    pub fn active(&self) -> u32 {
        self.accounts.listener.value()
    }

    /// The counters of each worker.
    pub fn all_stats(&self) -> &[ListenerStats] {
        &self.stats
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(crate) fn replace(&self, settings: ListenerSettings) {
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    pub(crate) fn limits(&self, settings: &ListenerSettings, process: u32) -> Limits {
        Limits { process, listener: settings.max_connections, per_source: settings.max_connections_per_source }
    }

    pub(crate) fn stats(&self, worker: usize) -> &ListenerStats {
        &self.stats[worker]
    }
}
