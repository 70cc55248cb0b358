//! Our policies: the production code, fed as the relay feeds it.

use std::sync::Arc;
use std::time::Duration;

use balance::{Backend, BackendSet, ConnectFailure, Endpoint, Facts, Lease, Pick, Rng, Settings, SoFar, Turns, Zone};

use crate::router::Router;
use crate::scenario::Scenario;
use crate::server::Server;

/// A proxy of ours.
#[derive(Debug)]
pub(crate) struct Ours {
    set: BackendSet,
    endpoints: Vec<Endpoint>,
    absent: Vec<bool>,
    /// Server → index in the set, and back.
    at: Vec<usize>,
    conns: Vec<Option<Conn>>,
}

/// One connection as its proxy sees it.
#[derive(Debug)]
struct Conn {
    lease: Lease,
    turns: Turns,
    /// When a byte last moved.
    moved: u64,
}

impl Ours {
    pub(crate) fn new(policy: balance::Policy, scenario: &Scenario, zone: usize) -> Self {
        let endpoint = |(n, spec): (usize, &crate::scenario::ServerSpec)| Endpoint {
            address: format!("10.0.{}.{}:80", n >> 8, n & 255).parse().expect("an address"),
            weight: spec.weight,
            zone: zone_name(spec.zone),
            priority: 0,
            facts: Facts::default(),
            server_id: None,
        };
        let endpoints: Vec<Endpoint> = scenario.servers.iter().enumerate().map(endpoint).collect();
        let absent: Vec<bool> = scenario.servers.iter().map(|spec| spec.joins).collect();
        let settings = Settings { policy, home: zone_name(zone), ..Settings::new("simulated") };
        let set = BackendSet::new(settings, present(&endpoints, &absent));
        let mut ours = Self { set, endpoints, absent, at: Vec::new(), conns: Vec::new() };
        ours.index();
        ours
    }

    fn index(&mut self) {
        let server = |backend: &Arc<Backend>| {
            self.endpoints.iter().position(|endpoint| endpoint.address == *backend.address()).expect("one of ours")
        };
        self.at = self.set.backends().iter().map(server).collect();
    }

    fn backend(&self, server: usize) -> Option<&Arc<Backend>> {
        self.at.iter().position(|&at| at == server).map(|at| &self.set.backends()[at])
    }
}

impl Router for Ours {
    fn pick(&mut self, now: u64, conn: usize, tried: &[usize], _servers: &[Server], rng: &mut Rng) -> Option<usize> {
        let tried: Vec<Arc<Backend>> =
            tried.iter().filter_map(|&server| self.backend(server).map(Arc::clone)).collect();
        let Pick::Backend(lease) = self.set.pick(millis(now), conn as u64, &tried, rng) else { return None };
        let at = self.set.backends().iter().position(|backend| backend.is(lease.backend())).expect("of this set");
        if self.conns.len() <= conn {
            self.conns.resize_with(conn + 1, || None);
        }
        self.conns[conn] = Some(Conn { lease, turns: Turns::new(now, 0), moved: now });
        Some(self.at[at])
    }

    fn connected(&mut self, now: u64, conn: usize, took: u64, rng: &mut Rng) {
        let Some(Conn { lease, turns, moved }) = &mut self.conns[conn] else { return };
        *moved = now;
        lease.connected(millis(now), Duration::from_micros(took), rng);
        *turns = Turns::new(now, lease.base_us());
    }

    fn opened(&mut self, now: u64, conn: usize, _rng: &mut Rng) {
        let Some(Conn { lease, turns, .. }) = &mut self.conns[conn] else { return };
        lease.opened(millis(now));
        *turns = Turns::new(now, lease.base_us());
    }

    fn connect_failed(&mut self, now: u64, conn: usize, _took: u64, rng: &mut Rng) {
        let Some(Conn { lease, .. }) = self.conns[conn].take() else { return };
        self.set.connect_failed(lease, millis(now), ConnectFailure::Refused, rng);
    }

    fn turn_began(&mut self, now: u64, conn: usize) {
        let Some(Conn { lease, turns, moved }) = &mut self.conns[conn] else { return };
        *moved = now;
        if turns.client_bytes(now) {
            lease.turn_began(millis(now));
        }
    }

    fn turn_ended(&mut self, now: u64, conn: usize) {
        let Some(Conn { lease, turns, moved }) = &mut self.conns[conn] else { return };
        *moved = now;
        if let Some(sample) = turns.server_bytes(now) {
            lease.turn_ended(sample, millis(now));
        }
    }

    fn server_gone(&mut self, now: u64, conn: usize, rng: &mut Rng) {
        let Some(Conn { lease, .. }) = &mut self.conns[conn] else { return };
        // A client that waits is all that counts here: requests are small.
        let so_far = SoFar { received_bytes: 1, sent_bytes: 1, half_closed: false, lasted: Duration::ZERO };
        lease.server_reset(so_far, millis(now), rng);
    }

    fn client_gone(&mut self, now: u64, conn: usize, rng: &mut Rng) {
        let Some(Conn { lease, moved, .. }) = &mut self.conns[conn] else { return };
        lease.client_gone((now - *moved) / 1_000, millis(now), rng);
    }

    fn silent(&mut self, now: u64, conn: usize, rng: &mut Rng) {
        let Some(Conn { lease, turns, .. }) = &mut self.conns[conn] else { return };
        turns.gave_up();
        lease.silent(millis(now), rng);
    }

    fn closed(&mut self, _now: u64, conn: usize) {
        self.conns[conn] = None;
    }

    fn probed(&mut self, now: u64, server: usize, took: u64) {
        let Some(backend) = self.backend(server) else { return };
        backend.state().probe_connected(Duration::from_micros(took));
        backend.state().probe_succeeded(millis(now));
    }

    fn join(&mut self, server: usize) {
        self.absent[server] = false;
        self.set = self.set.next(self.set.settings().clone(), present(&self.endpoints, &self.absent));
        self.index();
    }

    fn gate_flips(&self) -> u64 {
        self.set.zones(0).iter().filter(|zone| zone.home).map(|zone| zone.gate_flips).sum()
    }
}

fn present(endpoints: &[Endpoint], absent: &[bool]) -> Vec<Endpoint> {
    endpoints.iter().zip(absent).filter(|&(_, &absent)| !absent).map(|(endpoint, _)| endpoint.clone()).collect()
}

fn zone_name(zone: usize) -> Zone {
    Zone::new(&format!("z{zone}")).expect("a zone's name")
}

/// The program counts from a second before its start.
fn millis(now: u64) -> u64 {
    1_000 + now / 1_000
}
