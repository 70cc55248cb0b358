//! Finding a backend for a flow, for the first time or again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use balance::{Backend, ConnectFailure, Lease, Pick};
use rustix::io::Errno;

use super::engine::{Engine, State, Turn};
use super::flow::{Chosen, Flow, Upstream, affinity_of};
use super::quic::{ConnectionIds, Header};
use super::socket::Equipment;
use super::stats::{Dropped, Moved};
use super::table::FlowId;
use crate::limits::{Limit, Permit};
use crate::record::{Peer, Reason};

/// A backend, and a socket that is connected to it.
pub(super) struct Reached {
    pub(super) lease: Lease,
    pub(super) upstream: Upstream,
    /// Backends tried.
    pub(super) attempts: u32,
}

/// Why there is no socket to a backend.
enum NoSocket {
    /// By its doing, or its network's.
    Backend(ConnectFailure),
    /// By ours.
    Local(Dropped),
}

impl Engine {
    /// A permit for another flow. When there is no room, the oldest flow that never had a reply makes some.
    pub(super) fn permit(&self, state: &mut State, client: Peer) -> Result<Permit, Dropped> {
        let settings = self.listener.settings();
        let limits = self.listener.limits(&settings, self.worker.max_connections());
        let ip = match client {
            Peer::Inet(addr) => Some(addr.ip()),
            Peer::Unix => None,
        };
        let limit = match Permit::for_flow(self.listener.accounts(), limits, ip) {
            Ok(permit) => return Ok(permit),
            Err(limit) => limit,
        };
        if limit != Limit::Source
            && let Some(victim) = state.table.oldest_unanswered()
        {
            self.end(state, victim, Reason::Evicted);
            if let Ok(permit) = Permit::for_flow(self.listener.accounts(), limits, ip) {
                return Ok(permit);
            }
        }
        self.listener.stats(self.worker.index()).count_refused(limit);
        Err(reason_of_limit(limit))
    }

    /// Picks a backend and connects a socket to it; `known` is the one that the client's connection id names.
    pub(super) fn reach(
        &self,
        client: Peer,
        known: Option<Arc<Backend>>,
        tried: &mut Vec<Arc<Backend>>,
        is_short: bool,
        turn: &Turn<'_>,
    ) -> Result<Reached, Dropped> {
        let equipment = if is_short { Equipment::Lean } else { Equipment::Full };
        let mut known = known;
        let mut attempts = 0;
        loop {
            let named = known.take().and_then(|backend| turn.set.take(&backend, turn.ms));
            let mut lease = match named {
                Some(lease) => lease,
                None => match turn.set.pick(turn.ms, affinity_of(client), tried, &mut self.worker.rng()) {
                    Pick::Backend(lease) => lease,
                    Pick::Wait => return Err(Dropped::BackendsFull),
                    Pick::Refuse => return Err(Dropped::NoBackend),
                },
            };
            attempts += 1;
            let failure = match Upstream::connect(lease.backend().address(), equipment) {
                Ok(upstream) => {
                    lease.opened(turn.ms);
                    return Ok(Reached { lease, upstream, attempts });
                }
                Err(error) => no_socket(&error),
            };
            match failure {
                NoSocket::Local(reason) => return Err(reason),
                NoSocket::Backend(failure) => {
                    let backend = Arc::clone(lease.backend());
                    tried.push(Arc::clone(&backend));
                    self.blame(lease, failure, turn);
                    self.listener.stats(self.worker.index()).count_retry(Some(failure));
                    if attempts > turn.settings.retries || !turn.set.may_retry(turn.ms, &backend, Some(failure)) {
                        return Err(Dropped::Unreachable);
                    }
                }
            }
        }
    }

    /// Gives a flow another backend.
    pub(super) fn move_flow(&self, flow: &mut Flow, id: FlowId, why: Moved, turn: &Turn<'_>) -> Result<(), Dropped> {
        // One that is gone or drains is not picked anyway, and a retry is less choosy than a first pick.
        let refused = (why == Moved::Refused).then(|| Arc::clone(flow.backend()));
        let mut tried: Vec<Arc<Backend>> = refused.into_iter().collect();
        let refused_by = flow.backend();
        if why == Moved::Refused && !turn.set.may_retry(turn.ms, refused_by, Some(ConnectFailure::Refused)) {
            return Err(Dropped::BackendRefused);
        }
        flow.lease = None;
        let is_short = !flow.is_equipped;
        let reached = match self.reach(flow.client, None, &mut tried, is_short, turn) {
            // Nobody else is there, and it may have come back: a process that starts again refuses for a moment only.
            Err(Dropped::NoBackend) if why == Moved::Refused => {
                self.reach(flow.client, None, &mut Vec::new(), is_short, turn)?
            }
            reached => reached?,
        };
        flow.attempts += reached.attempts;
        flow.upstream = reached.upstream;
        flow.last = Chosen::of(&reached.lease);
        flow.turns = balance::Turns::new(turn.us, reached.lease.base_us());
        flow.lease = Some(reached.lease);
        (flow.broken, flow.is_announced, flow.checked) = (None, false, turn.version);
        self.watch(flow, id).map_err(|_no_memory| Dropped::LocalError)?;
        self.listener.stats(self.worker.index()).udp().count_moved(why);
        Ok(())
    }

    /// The machine of the flow's backend said that nobody receives there.
    pub(super) fn refused(&self, flow: &mut Flow, turn: &Turn<'_>) {
        flow.broken = Some(Moved::Refused);
        if let Some(lease) = flow.lease.take() {
            self.blame(lease, ConnectFailure::Refused, turn);
        }
    }

    fn blame(&self, lease: Lease, failure: ConnectFailure, turn: &Turn<'_>) {
        let backend = Arc::clone(lease.backend());
        if turn.set.connect_failed(lease, turn.ms, failure, &mut self.worker.rng()) {
            let (service, address, failure) = (&*turn.settings.service, backend.address(), failure.as_str());
            tracing::info!(service, backend = %address, failure, "ejected a backend that cannot be reached");
        }
    }

    /// The backend that the connection id of a QUIC packet names: a client whose address has changed.
    pub(super) fn backend_of_id(&self, payload: &[u8], turn: &Turn<'_>) -> Option<Arc<Backend>> {
        let ids = turn.udp.connection_ids.as_ref()?;
        let id = Header::parse(payload)?.routable()?;
        match ids {
            ConnectionIds::Learned => turn.settings.learned_ids.find(id),
            ConnectionIds::Encoded(_) => {
                let server = ids.server_id(id)?;
                turn.set.by_server_id(server.as_bytes()).map(Arc::clone)
            }
        }
    }

    /// Remembers the connection ids that a backend chooses, which its packets show until the connection is established.
    pub(super) fn learn_id(&self, payload: &[u8], backend: &Arc<Backend>, turn: &Turn<'_>) {
        if turn.udp.connection_ids == Some(ConnectionIds::Learned)
            && let Some(id) = Header::parse(payload).and_then(|header| header.learnable())
        {
            turn.settings.learned_ids.learn(id, backend);
        }
    }
}

/// Whether `addr` is one of the addresses where this process listens, on any of them for a wildcard. `local` is the
/// address that was written to.
pub(crate) fn is_listening(listening: &[SocketAddr], addr: SocketAddr, local: Option<SocketAddr>) -> bool {
    let ip = addr.ip().to_canonical();
    listening.iter().any(|own| {
        let own_ip = own.ip().to_canonical();
        let wildcard =
            own_ip.is_unspecified() && (ip.is_loopback() || local.is_some_and(|local| local.ip().to_canonical() == ip));
        own.port() == addr.port() && (own_ip == ip || wildcard)
    })
}

fn no_socket(error: &io::Error) -> NoSocket {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETDOWN) => {
            NoSocket::Backend(ConnectFailure::Unreachable)
        }
        // A unix path with nobody behind it.
        Some(Errno::CONNREFUSED | Errno::NOENT) => NoSocket::Backend(ConnectFailure::Refused),
        Some(Errno::MFILE | Errno::NFILE) => NoSocket::Local(Dropped::LimitDescriptors),
        Some(Errno::ADDRNOTAVAIL | Errno::AGAIN | Errno::ADDRINUSE) => NoSocket::Local(Dropped::NoLocalPort),
        Some(Errno::NOBUFS | Errno::NOMEM) => NoSocket::Local(Dropped::NoBuffers),
        Some(_) | None => NoSocket::Local(Dropped::LocalError),
    }
}

fn reason_of_limit(limit: Limit) -> Dropped {
    match limit {
        Limit::Process => Dropped::LimitProcess,
        Limit::Listener => Dropped::LimitListener,
        Limit::Source => Dropped::LimitSource,
        Limit::Descriptors => Dropped::LimitDescriptors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_recognised_behind_wildcards_and_in_either_form() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let cases = [
            ("192.0.2.1:53", "192.0.2.1:53", None, true),
            ("192.0.2.1:53", "192.0.2.1:54", None, false),
            ("192.0.2.1:53", "192.0.2.2:53", None, false),
            ("0.0.0.0:53", "127.0.0.9:53", None, true),
            ("0.0.0.0:53", "192.0.2.7:53", Some("192.0.2.7:53"), true),
            ("0.0.0.0:53", "192.0.2.8:53", Some("192.0.2.7:53"), false),
            ("[::]:53", "[::ffff:127.0.0.1]:53", None, true),
            ("[::]:53", "[2001:db8::1]:53", Some("[2001:db8::2]:53"), false),
        ];
        for (own, from, local, expected) in cases {
            assert_eq!(is_listening(&[addr(own)], addr(from), local.map(addr)), expected, "{from} to {own}");
        }
    }
}
