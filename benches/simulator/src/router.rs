//! What chooses in a simulated proxy.

use balance::Rng;

use crate::ours::Ours;
use crate::peers::{LeastTime, Oracle, PeakEwma, Prequal};
use crate::scenario::Scenario;
use crate::server::Server;

/// A choosing rule by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Ours, by production code.
    Ours(balance::Policy),
    /// Peak-EWMA of connect times times connects in progress, two choices, as linkerd balances opaque TCP.
    PeakEwmaConnect,
    /// Peak-EWMA of turns times turns in progress, two choices, as linkerd balances HTTP.
    PeakEwmaTurn,
    /// `least_time` as nginx 1.31 has it for streams.
    LeastTime,
    /// Probes with the servers' own counts, hot and cold.
    Prequal,
    /// Knows all queues, speeds and faults; greedy for each session.
    Oracle,
}

impl Policy {
    /// Every rule, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Ours(balance::Policy::Latency),
        Self::Ours(balance::Policy::LeastConn),
        Self::Ours(balance::Policy::RoundRobin),
        Self::Ours(balance::Policy::RandomTwo),
        Self::PeakEwmaConnect,
        Self::PeakEwmaTurn,
        Self::LeastTime,
        Self::Prequal,
        Self::Oracle,
    ];

    /// The name on the command line and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ours(policy) => policy.as_str(),
            Self::PeakEwmaConnect => "pewma_connect",
            Self::PeakEwmaTurn => "pewma_turn",
            Self::LeastTime => "least_time",
            Self::Prequal => "prequal",
            Self::Oracle => "oracle",
        }
    }
}

/// One proxy's choice. Times are microseconds; a connection is a slot that is used again after `closed`.
pub(crate) trait Router {
    fn pick(&mut self, now: u64, conn: usize, tried: &[usize], servers: &[Server], rng: &mut Rng) -> Option<usize>;
    fn connected(&mut self, _now: u64, _conn: usize, _took: u64, _rng: &mut Rng) {}
    /// A flow of datagrams has its socket.
    fn opened(&mut self, now: u64, conn: usize, rng: &mut Rng) {
        self.connected(now, conn, 0, rng);
    }
    fn connect_failed(&mut self, now: u64, conn: usize, took: u64, rng: &mut Rng);
    fn turn_began(&mut self, _now: u64, _conn: usize) {}
    fn turn_ended(&mut self, _now: u64, _conn: usize) {}
    fn server_gone(&mut self, _now: u64, _conn: usize, _rng: &mut Rng) {}
    fn client_gone(&mut self, _now: u64, _conn: usize, _rng: &mut Rng) {}
    /// Datagrams of a flow have waited for long.
    fn silent(&mut self, _now: u64, _conn: usize, _rng: &mut Rng) {}
    fn closed(&mut self, now: u64, conn: usize);
    fn probed(&mut self, _now: u64, _server: usize, _took: u64) {}
    fn join(&mut self, server: usize);
    /// How often the gate of the home zone moved.
    fn gate_flips(&self) -> u64 {
        0
    }
}

pub(crate) fn router(policy: Policy, scenario: &Scenario, zone: usize) -> Box<dyn Router> {
    match policy {
        Policy::Ours(policy) => Box::new(Ours::new(policy, scenario, zone)),
        Policy::PeakEwmaConnect => Box::new(PeakEwma::new(scenario, true)),
        Policy::PeakEwmaTurn => Box::new(PeakEwma::new(scenario, false)),
        Policy::LeastTime => Box::new(LeastTime::new(scenario)),
        Policy::Prequal => Box::new(Prequal::new(scenario)),
        Policy::Oracle => Box::new(Oracle::new(scenario, zone)),
    }
}
