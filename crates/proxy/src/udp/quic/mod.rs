//! What QUIC shows to whoever forwards it: versions and connection ids (RFC 8999).
//!
//! A connection outlives its client's address. When a datagram comes from an address without a flow, its connection id
//! may still say which backend it belongs to, in one of two ways ([`ConnectionIds`]): the id was seen before, or the
//! server's name is written in it. Either way the new address becomes a new flow, with its own socket, to the same
//! backend. The backend sees a path that changes, as it would without us, and validates it (RFC 9000 section 8.2) before
//! it sends much there: who copies somebody's connection id gets a flow of its own and can redirect nothing.

mod header;
mod lb;
mod learned;

pub(crate) use header::{Header, Kind};
pub use lb::{InvalidQuicLb, QuicLb, ServerId};
pub use learned::LearnedIds;

/// How connection ids lead to backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionIds {
    /// Those that servers were seen to choose lead to them ([`LearnedIds`]).
    Learned,
    /// Servers write their server ids into them ([`QuicLb`]). While configurations change several are in force, told
    /// apart by the config bits of the id.
    Encoded(Vec<QuicLb>),
}

impl ConnectionIds {
    /// The server id in what begins with a connection id that a server chose: see [`QuicLb::server_id`]. `None` for
    /// [`ConnectionIds::Learned`], and where no configuration has the config bits of the id.
    pub fn server_id(&self, cid: &[u8]) -> Option<ServerId> {
        match self {
            Self::Learned => None,
            Self::Encoded(configs) => configs.iter().find_map(|config| config.server_id(cid)),
        }
    }
}

/// A connection id of the versions that are in use: at most 20 bytes (RFC 9000 section 17.2), held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    length: u8,
    /// Zeros behind the id, so that equal ids are equal in all bytes.
    bytes: [u8; CONNECTION_ID_MOST],
}

impl ConnectionId {
    /// The id with these bytes; `None` above 20.
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; CONNECTION_ID_MOST];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { length: id.len() as u8, bytes })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Prints hexadecimal digits.
impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// RFC 9000 section 17.2, and the same in RFC 9369 for version 2.
const CONNECTION_ID_MOST: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_holds_up_to_20_bytes() {
        for length in 0..=20 {
            let bytes = vec![7; length];
            assert_eq!(ConnectionId::new(&bytes).unwrap().as_bytes(), bytes);
        }
        assert_eq!(ConnectionId::new(&[7; 21]), None);
        assert_ne!(ConnectionId::new(&[0; 4]), ConnectionId::new(&[0; 5]), "zeros at the end are part of an id");
    }

    #[test]
    fn the_config_bits_choose_among_the_configurations_in_force() {
        let old = QuicLb::new(1, 2, 4, None).unwrap();
        let new = QuicLb::new(2, 3, 5, Some([9; 16])).unwrap();
        let ids = ConnectionIds::Encoded(vec![old.clone(), new.clone()]);
        let by_old = old.encode(b"ab", b"1234").unwrap();
        let by_new = new.encode(b"abc", b"12345").unwrap();
        assert_eq!(ids.server_id(by_old.as_bytes()), ServerId::new(b"ab"));
        assert_eq!(ids.server_id(by_new.as_bytes()), ServerId::new(b"abc"));
        let retired = QuicLb::new(3, 2, 4, None).unwrap().encode(b"ab", b"1234").unwrap();
        assert_eq!(ids.server_id(retired.as_bytes()), None, "nothing is known of its configuration");
        assert_eq!(ConnectionIds::Learned.server_id(by_old.as_bytes()), None);
    }
}
