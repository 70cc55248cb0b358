//! What the fuzz targets of `fuzz/` call, and the seeded tests with them: any bytes go in, and rules that must hold for
//! all of them are asserted. Not for anything else.

use std::sync::Arc;

use balance::{Backend, BackendSet, Endpoint, Facts, Settings, Zone};

use crate::udp::proxy_header::{self, Command, LONGEST};
use crate::udp::quic::{Header, Kind};
use crate::{ConnectionIds, LearnedIds, QuicLb};

/// A PROXY header is read or refused; what is read lies within the datagram, and reads the same when it is written anew.
///
/// # Panics
/// When that is not so.
pub fn proxy_header(datagram: &[u8]) {
    let Ok(header) = proxy_header::parse(datagram) else { return };
    assert!(header.length <= datagram.len(), "a header is longer than its datagram");
    for length in 0..header.length {
        assert!(proxy_header::parse(&datagram[..length]).is_err(), "a cut header is accepted");
    }
    if let Command::Proxy { client, local } = header.command {
        let mut again = Vec::new();
        proxy_header::encode(client, local, &mut again);
        assert!(again.len() <= LONGEST, "the longest header is longer");
        let expected = proxy_header::Header { command: header.command, length: again.len() };
        assert_eq!(proxy_header::parse(&again), Ok(expected), "a header reads otherwise than it was written");
    }
}

/// What looks for backends by the ids of a datagram of QUIC. It lives through many datagrams, as in a service.
pub struct Quic {
    learned: LearnedIds,
    encoded: Vec<QuicLb>,
    backends: Vec<Arc<Backend>>,
}

impl Quic {
    /// With room for few ids, so that they are soon forgotten, and a configuration of every kind.
    ///
    /// # Panics
    /// Never: the configurations are valid.
    pub fn new() -> Self {
        let lb = |config_id, server_id, nonce, key| {
            QuicLb::new(config_id, server_id, nonce, key).expect("lengths are those of the draft")
        };
        let key = Some(*b"sixteen byte key");
        let encoded = vec![lb(0, 3, 4, None), lb(1, 8, 8, key), lb(2, 10, 5, key), lb(3, 4, 6, key), lb(4, 15, 4, key)];
        Self { learned: LearnedIds::bounded(FEW), encoded, backends: backends(2) }
    }

    /// The datagram comes from a client, and from a server as well: an id leads to the backend that it was learned of,
    /// and a server id that is read is written into the same bytes again.
    ///
    /// # Panics
    /// When that is not so.
    pub fn datagram(&self, datagram: &[u8]) {
        let Some(header) = Header::parse(datagram) else { return };
        if let Header::Long { dcid, scid, kind, .. } = header {
            let known = !matches!(kind, Kind::Unknown | Kind::Negotiation);
            assert!(!known || dcid.len().max(scid.len()) <= 20, "an id is longer than any of its version");
        }
        if let Some(bytes) = header.routable() {
            self.learned.find(bytes);
            self.encoded_id(bytes);
        }
        if let Some(scid) = header.learnable() {
            let backend = &self.backends[scid.len() % 2];
            self.learned.learn(scid, backend);
            let found = self.learned.find(scid);
            let expected = (4..=20).contains(&scid.len()).then_some(backend);
            assert!(
                expected.is_none_or(|backend| found.is_some_and(|found| Arc::ptr_eq(&found, backend))),
                "an id does not lead to the backend that chose it"
            );
            assert!(self.learned.len() <= FEW, "more ids are kept than may be");
        }
    }

    fn encoded_id(&self, bytes: &[u8]) {
        let read = self.encoded.iter().find_map(|lb| Some((lb, lb.server_id(bytes)?)));
        let same = ConnectionIds::Encoded(self.encoded.clone()).server_id(bytes);
        assert_eq!(read.map(|(_, id)| id), same, "the configuration is chosen otherwise");
        let Some((lb, id)) = read else { return };
        let length = usize::from(lb.server_id_length());
        assert_eq!(id.as_bytes().len(), length, "a server id is of another length");
        let cid = lb.encode(id.as_bytes(), &vec![0; lb.nonce_length().into()]).expect("the lengths are its own");
        assert_eq!(lb.server_id(cid.as_bytes()), Some(id), "a server id reads otherwise than it was written");
    }
}

impl Default for Quic {
    fn default() -> Self {
        Self::new()
    }
}

const FEW: usize = 128;

/// That many backends of one service.
pub(crate) fn backends(count: u8) -> Vec<Arc<Backend>> {
    let endpoint = |number| Endpoint {
        server_id: None,
        address: std::net::SocketAddr::from(([192, 0, 2, number], 443)).into(),
        weight: 1,
        zone: Zone::default(),
        priority: 0,
        facts: Facts::default(),
    };
    BackendSet::new(Settings::new("quic"), (0..count).map(endpoint).collect()).backends().to_vec()
}

#[cfg(test)]
mod tests {
    use balance::Rng;

    use super::*;

    /// A datagram that is mostly noise behind a beginning that a parser wants to see, with some bytes changed.
    fn datagram(rng: &mut Rng, beginnings: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = beginnings[rng.below(beginnings.len() as u64) as usize].clone();
        let noise = rng.below(64);
        bytes.extend((0..noise).map(|_| rng.next_u64() as u8));
        for _ in 0..rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if rng.below(2) == 0 { rng.below(24) as u8 } else { rng.next_u64() as u8 };
            }
        }
        bytes.truncate(rng.below(2 * bytes.len() as u64 + 1) as usize);
        bytes
    }

    #[test]
    fn the_rules_of_proxy_headers_hold_for_seeded_datagrams() {
        let mut beginnings = vec![Vec::new(), b"PROXY TCP4 ".to_vec(), b"\r\n\r\n\0\r\nQUIT\n".to_vec()];
        for (family_transport, length) in [(0x12, 12), (0x22, 36), (0x11, 19), (0x32, 216), (0x00, 0)] {
            beginnings.push([b"\r\n\r\n\0\r\nQUIT\n\x21", [family_transport, 0, length].as_slice()].concat());
        }
        for (client, local) in [("192.0.2.1:1", "192.0.2.2:2"), ("[2001:db8::1]:1", "[::1]:2")] {
            let mut bytes = Vec::new();
            proxy_header::encode(client.parse().unwrap(), local.parse().unwrap(), &mut bytes);
            beginnings.push(bytes);
        }
        let (mut rng, mut accepted) = (Rng::new(0xda7a), 0);
        for _ in 0..100_000 {
            let bytes = datagram(&mut rng, &beginnings);
            accepted += u32::from(proxy_header::parse(&bytes).is_ok());
            proxy_header(&bytes);
        }
        assert!(accepted > 1_000, "the datagrams are too bad to show much: {accepted} were accepted");
    }

    #[test]
    fn the_rules_of_connection_ids_hold_for_seeded_datagrams() {
        let mut beginnings = vec![Vec::new()];
        for first in (0..=255u8).step_by(8) {
            beginnings.push(vec![first]);
            for version in [1u32, 0x6b33_43cf, 0, 0xff00_001d] {
                let ids = b"\x08abcdefgh\x08ABCDEFGH".as_slice();
                beginnings.push([&[first], version.to_be_bytes().as_slice(), ids].concat());
            }
        }
        let (quic, mut rng) = (Quic::new(), Rng::new(0x901c));
        for _ in 0..100_000 {
            quic.datagram(&datagram(&mut rng, &beginnings));
        }
        assert!(quic.learned.forgotten() > 100, "too few ids were learned to forget any");
    }
}
