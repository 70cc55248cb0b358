//! The first header of a datagram of QUIC, as far as it is in the clear.
//!
//! ```text
//! long:   1.......  version (4)  length (1)  destination id  length (1)  source id  …
//! short:  0.......  destination id, of a length that only who chose it knows  …
//! ```
//!
//! *Source*: RFC 8999 section 5 for what holds in every version, RFC 9000 section 17.2 and RFC 9369 section 3.2 for the
//! kinds of packets of versions 1 and 2. The bit that both fix to 1 is not looked at: RFC 9287 lets endpoints clear it.

use super::CONNECTION_ID_MOST;

/// The header of the first packet of a datagram. Packets that share a datagram have the same destination
/// (RFC 9000 section 12.2), and a server has one source id while it uses long headers, so the first says all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header<'a> {
    /// Of the handshake, with both ids.
    Long {
        /// 1, 2 as `0x6b3343cf`, 0 in a version negotiation, or one that we do not know.
        version: u32,
        /// Where it goes to: chosen by the receiver, at first by the client at random.
        dcid: &'a [u8],
        /// Where it comes from: chosen by the sender.
        scid: &'a [u8],
        /// What it is.
        kind: Kind,
    },
    /// After the handshake.
    Short {
        /// All that follows the first byte. It begins with the destination id.
        after_first: &'a [u8],
    },
}

/// What a packet with a long header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The beginning, in either direction.
    Initial,
    /// A client's data before the handshake is done.
    ZeroRtt,
    /// The handshake behind its first flight.
    Handshake,
    /// A server asks for proof of the client's address.
    Retry,
    /// A server lists its versions. Both ids are echoes.
    Negotiation,
    /// Of a version other than 1 and 2.
    Unknown,
}

impl<'a> Header<'a> {
    /// The header at the start of `datagram`. `None` where it ends early, and for ids above 20 bytes in versions 1 and 2,
    /// whose endpoints drop such packets. Any datagram that begins with a byte below 128 has the form of a short header.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&first, rest) = datagram.split_first()?;
        if first & LONG_FORM == 0 {
            return Some(Self::Short { after_first: rest });
        }
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (dcid, rest) = id(rest)?;
        let (scid, _) = id(rest)?;
        let version = u32::from_be_bytes(*version);
        let kind = kind(first, version);
        let bounded = !matches!(kind, Kind::Unknown | Kind::Negotiation);
        if bounded && dcid.len().max(scid.len()) > CONNECTION_ID_MOST {
            return None;
        }
        Some(Self::Long { version, dcid, scid, kind })
    }

    /// Of a client's packet: the bytes that begin with a connection id that the server chose. `None` for Initial and
    /// 0-RTT packets, whose ids may be the client's random choice, for what only servers send, and for versions that we
    /// cannot tell these in.
    pub(crate) fn routable(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Short { after_first } => Some(after_first),
            Self::Long { dcid, kind: Kind::Handshake, .. } => Some(dcid),
            Self::Long { .. } => None,
        }
    }

    /// Of a server's packet: the connection id that it chose and the client will use. `None` for a Retry, whose id
    /// only reaches the next Initial, and for a version negotiation, which echoes the client's choice.
    pub(crate) fn learnable(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Long { scid, kind: Kind::Initial | Kind::Handshake | Kind::Unknown, .. } => Some(scid),
            Self::Long { .. } | Self::Short { .. } => None,
        }
    }
}

/// A connection id behind its length, and what follows.
fn id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

fn kind(first: u8, version: u32) -> Kind {
    let kinds = match version {
        NEGOTIATION => return Kind::Negotiation,
        VERSION_1 => [Kind::Initial, Kind::ZeroRtt, Kind::Handshake, Kind::Retry],
        VERSION_2 => [Kind::Retry, Kind::Initial, Kind::ZeroRtt, Kind::Handshake],
        _ => return Kind::Unknown,
    };
    kinds[usize::from(first >> 4 & 0b11)]
}

const LONG_FORM: u8 = 0x80;
const NEGOTIATION: u32 = 0;
const VERSION_1: u32 = 1;
/// RFC 9369 section 3.1.
const VERSION_2: u32 = 0x6b33_43cf;

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: u8, version: u32, dcid: &[u8], scid: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        bytes.extend(version.to_be_bytes());
        for id in [dcid, scid] {
            bytes.push(id.len() as u8);
            bytes.extend(id);
        }
        bytes
    }

    #[test]
    fn long_headers_have_a_version_both_ids_and_a_kind() {
        let cases = [
            (0xc3, VERSION_1, Kind::Initial),
            (0xd0, VERSION_1, Kind::ZeroRtt),
            (0xe0, VERSION_1, Kind::Handshake),
            (0xf0, VERSION_1, Kind::Retry),
            (0xc3, VERSION_2, Kind::Retry),
            (0xd0, VERSION_2, Kind::Initial),
            (0xe0, VERSION_2, Kind::ZeroRtt),
            (0xf0, VERSION_2, Kind::Handshake),
            // Without the fixed bit (RFC 9287).
            (0xa0, VERSION_1, Kind::Handshake),
            (0xc0, 0, Kind::Negotiation),
            (0xe0, 0x1a2a_3a4a, Kind::Unknown),
        ];
        for (first, version, kind) in cases {
            let mut bytes = long(first, version, b"destination", b"source");
            bytes.extend(b"and what only the endpoints read");
            let expected = Header::Long { version, dcid: b"destination", scid: b"source", kind };
            assert_eq!(Header::parse(&bytes), Some(expected), "{first:#x} of version {version:#x}");
        }
    }

    #[test]
    fn ids_above_20_bytes_are_none_of_versions_1_and_2() {
        for version in [VERSION_1, VERSION_2] {
            for (dcid, scid, known) in [(0, 0, true), (20, 20, true), (21, 0, false), (0, 21, false)] {
                let bytes = long(0xc0, version, &vec![1; dcid], &vec![2; scid]);
                assert_eq!(Header::parse(&bytes).is_some(), known, "{dcid} and {scid}");
            }
        }
        for version in [0, 0x1a2a_3a4a] {
            let bytes = long(0xc0, version, &[1; 255], &[2; 255]);
            assert!(Header::parse(&bytes).is_some(), "other versions may have longer ones");
        }
    }

    #[test]
    fn a_long_header_that_is_cut_anywhere_is_none() {
        let bytes = long(0xc0, VERSION_1, &[1; 8], &[2; 20]);
        for length in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..length]), None, "cut after {length}");
        }
        assert!(Header::parse(&bytes).is_some());
        assert_eq!(Header::parse(&[0x40]), Some(Header::Short { after_first: &[] }));
    }

    #[test]
    fn only_ids_that_a_server_chose_lead_to_it() {
        let (client, server) = (b"client".as_slice(), b"server".as_slice());
        let short = [b"\x40".as_slice(), server, b"encrypted"].concat();
        assert_eq!(Header::parse(&short).unwrap().routable(), Some(&short[1..]));
        assert_eq!(Header::parse(&short).unwrap().learnable(), None);
        let cases = [
            (0xc0, VERSION_1, None, Some(client)),
            (0xd0, VERSION_1, None, None),
            (0xe0, VERSION_1, Some(server), Some(client)),
            (0xf0, VERSION_1, None, None),
            (0xf0, VERSION_2, Some(server), Some(client)),
            (0xc0, 0, None, None),
            (0xe0, 0x1a2a_3a4a, None, Some(client)),
        ];
        for (first, version, routable, learnable) in cases {
            let bytes = long(first, version, server, client);
            let header = Header::parse(&bytes).unwrap();
            assert_eq!(header.routable(), routable, "{header:?}");
            assert_eq!(header.learnable(), learnable, "{header:?}");
        }
    }
}
