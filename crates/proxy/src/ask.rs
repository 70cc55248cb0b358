//! What the kernel is asked about connections to backends.

use std::time::Duration;

use balance::{Backend, Lease, Turns};

use crate::leg::Leg;
use crate::tcp_info::TcpInfo;

/// Sessions of a worker, one of which is asked about at its end: too few to cost anything, and chosen by nothing that
/// has to do with how they went.
const ASKED_OF: u64 = 64;

/// Keeps the round trips, for metrics.
pub(crate) fn for_metrics(leg: &Leg, backend: &Backend) -> Option<TcpInfo> {
    let info = leg.tcp_info()?;
    if info.rtt_us > 0 {
        backend.state().saw_kernel_rtt(info.rtt_us, info.min_rtt_us);
    }
    Some(info)
}

/// At the end of the session `id`: keeps what was sent again too.
pub(crate) fn at_end(leg: &Leg, backend: &Backend, id: u64) {
    if id.is_multiple_of(ASKED_OF)
        && let Some(info) = for_metrics(leg, backend)
    {
        backend.state().add_retransmits(info.retransmits);
    }
}

/// After the connect: how far the backend is. A worker that is busy sees the handshake's end late, and a distance that is
/// learned too long makes honest answers look impossible; the kernel saw it in time. Connects that are short enough to
/// do no harm are not asked about.
pub(crate) fn distance(leg: &Leg, lease: &Lease) {
    if lease.base_us() > Turns::BASE_IN_NOISE_US
        && let Some(info) = for_metrics(leg, lease.backend())
        && info.rtt_us > 0
    {
        lease.backend().state().probe_connected(Duration::from_micros(info.rtt_us.into()));
    }
}

#[cfg(test)]
mod tests {
    use balance::{BackendSet, Endpoint, Pick, Rng, Settings, Zone};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::leg::Stream;

    #[tokio::test]
    async fn a_connect_that_was_seen_late_does_not_make_a_backend_distant() {
        // given
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let leg = Leg::connecting(Stream::Tcp(TcpStream::connect(address).await.expect("a connection")));
        let endpoint = Endpoint {
            address: balance::Address::from(address),
            weight: 1,
            zone: Zone::new("here").expect("a name"),
            priority: 0,
            facts: balance::Facts::default(),
            server_id: None,
        };
        let set = BackendSet::new(Settings::new("test"), vec![endpoint]);
        let rng = &mut Rng::new(1);
        let Pick::Backend(mut lease) = set.pick(0, 0, &[], rng) else { panic!("there is one to pick") };

        // when
        lease.connected(0, Duration::from_secs(7), rng);
        assert_eq!(lease.base_us(), 7_000_000);
        distance(&leg, &lease);

        // then
        assert!(lease.base_us() < 1_000_000, "loopback is nearer than that: {}", lease.base_us());
    }
}
