//! The PROXY header, version 2, over datagrams.
//!
//! Header and payload are one datagram: what follows the header is what the client sent. A header is never guessed:
//! where one must be, a datagram without it is refused, and every refusal has a name. Version 1 is text for
//! connections (its protocols are TCP4, TCP6 and UNKNOWN) and is refused.
//!
//! *Source*: haproxy, `doc/proxy-protocol.txt`, section 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that [`encode`] writes: what a datagram may grow by on its way to a backend.
pub(crate) const LONGEST: usize = FIXED + INET6_ADDRESSES;

/// What the header before a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// On whose behalf the datagram comes.
    pub(crate) command: Command,
    /// Bytes of the header; the payload is the rest of the datagram, and may be empty.
    pub(crate) length: usize,
}

/// On whose behalf a datagram comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// On that of whoever sent the datagram: its own addresses are the true ones. The sender says so (LOCAL), or knows
    /// no IP address of its client (UNSPEC, or a unix client), for which the specification asks the same.
    Local,
    /// On that of a client. IPv4 addresses in IPv6 form are given as IPv4.
    Proxy {
        /// Where the client sent it from.
        client: SocketAddr,
        /// Where the client sent it to.
        local: SocketAddr,
    },
}

/// Why a datagram does not begin with a header. Whoever sends it is misconfigured or hostile; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub(crate) enum Malformed {
    /// The datagram begins with something else.
    Absent,
    /// The text form, which is not for datagrams.
    Version1,
    /// The datagram ends within the fixed part.
    Cut,
    /// Neither version 1 nor 2.
    Version,
    /// A command that is not assigned.
    Command,
    /// An address family that is not assigned.
    Family,
    /// A transport that is not assigned.
    Transport,
    /// The header ends behind the datagram.
    BeyondDatagram,
    /// The header ends within the addresses that it announces.
    AddressesCut,
    /// What follows the addresses is not a sequence of whole TLVs.
    TlvCut,
}

impl Malformed {
    /// The reason in words, of a closed set.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Absent => "no PROXY header",
            Self::Version1 => "a PROXY header of version 1, which is not for datagrams",
            Self::Cut => "the datagram ends within the PROXY header",
            Self::Version => "a PROXY header of an unknown version",
            Self::Command => "a PROXY header with an unknown command",
            Self::Family => "a PROXY header with an unknown address family",
            Self::Transport => "a PROXY header with an unknown transport",
            Self::BeyondDatagram => "a PROXY header that is longer than its datagram",
            Self::AddressesCut => "a PROXY header that is too short for its addresses",
            Self::TlvCut => "a PROXY header with a TLV that overruns it",
        }
    }
}

/// Appends a header that says that `client` sent the datagram to `local`: 28 bytes for IPv4, 52 for IPv6. IPv4 in IPv6
/// form is written as IPv4, unless the other address is truly IPv6. Flow labels and scopes have no place in it.
pub(crate) fn encode(client: SocketAddr, local: SocketAddr, into: &mut Vec<u8>) {
    match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            fixed(INET | DGRAM, INET_ADDRESSES, into);
            into.extend_from_slice(&from.octets());
            into.extend_from_slice(&to.octets());
        }
        (from, to) => {
            fixed(INET6 | DGRAM, INET6_ADDRESSES, into);
            into.extend_from_slice(&mapped(from).octets());
            into.extend_from_slice(&mapped(to).octets());
        }
    }
    into.extend_from_slice(&client.port().to_be_bytes());
    into.extend_from_slice(&local.port().to_be_bytes());
}

/// Appends a header for a client that has no IP address, which unix datagram sockets bring: relayed, of an unspecified
/// family, 16 bytes. Not LOCAL, which says that nothing is relayed.
pub(crate) fn encode_unknown(into: &mut Vec<u8>) {
    fixed(UNSPEC, 0, into);
}

/// What the header at the start of `datagram` says.
///
/// Clients of TCP are accepted as well: the transport is that of the client's way to the sender, and a DNS proxy asks
/// over UDP for who asked it over TCP. TLVs must fit and are otherwise ignored, a checksum among them, as the
/// specification leaves to the receiver: UDP has its own. What a LOCAL or UNSPEC header carries is skipped unread.
///
/// *Errors*: every way of not being one has its variant.
pub(crate) fn parse(datagram: &[u8]) -> Result<Header, Malformed> {
    let Some((fixed, rest)) = datagram.split_first_chunk::<FIXED>() else { return Err(short(datagram)) };
    let &[.., version_command, family_transport, high, low] = fixed;
    if !fixed.starts_with(&SIGNATURE) {
        return Err(short(datagram));
    }
    if version_command >> 4 != VERSION {
        return Err(Malformed::Version);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let body = rest.get(..length).ok_or(Malformed::BeyondDatagram)?;
    let command = match version_command & 0x0f {
        LOCAL => Command::Local,
        PROXY => relayed(family_transport, body)?,
        _ => return Err(Malformed::Command),
    };
    Ok(Header { command, length: FIXED + length })
}

/// Why something that is no header, or less than one, is not.
fn short(datagram: &[u8]) -> Malformed {
    if datagram.starts_with(b"PROXY ") {
        Malformed::Version1
    } else if !datagram.is_empty() && (datagram.starts_with(&SIGNATURE) || SIGNATURE.starts_with(datagram)) {
        Malformed::Cut
    } else {
        Malformed::Absent
    }
}

/// What the addresses and TLVs of a relayed datagram say.
fn relayed(family_transport: u8, body: &[u8]) -> Result<Command, Malformed> {
    let (family, transport) = (family_transport & 0xf0, family_transport & 0x0f);
    if family > UNIX {
        return Err(Malformed::Family);
    }
    if transport > DGRAM {
        return Err(Malformed::Transport);
    }
    if family == UNSPEC || transport == UNSPEC {
        return Ok(Command::Local);
    }
    let (command, rest) = match family {
        INET => inet(body),
        INET6 => inet6(body),
        _ => body.split_at_checked(UNIX_ADDRESSES).map(|(_, rest)| (Command::Local, rest)),
    }
    .ok_or(Malformed::AddressesCut)?;
    tlvs(rest).map(|()| command)
}

fn inet(body: &[u8]) -> Option<(Command, &[u8])> {
    let (from, rest) = body.split_first_chunk::<4>()?;
    let (to, rest) = rest.split_first_chunk::<4>()?;
    ports(Ipv4Addr::from(*from).into(), Ipv4Addr::from(*to).into(), rest)
}

fn inet6(body: &[u8]) -> Option<(Command, &[u8])> {
    let (from, rest) = body.split_first_chunk::<16>()?;
    let (to, rest) = rest.split_first_chunk::<16>()?;
    ports(Ipv6Addr::from(*from).into(), Ipv6Addr::from(*to).into(), rest)
}

fn ports(from: IpAddr, to: IpAddr, rest: &[u8]) -> Option<(Command, &[u8])> {
    let (&[from_high, from_low, to_high, to_low], rest) = rest.split_first_chunk::<4>()?;
    let client = SocketAddr::new(from.to_canonical(), u16::from_be_bytes([from_high, from_low]));
    let local = SocketAddr::new(to.to_canonical(), u16::from_be_bytes([to_high, to_low]));
    Some((Command::Proxy { client, local }, rest))
}

/// Walks the TLVs: a type, a length of two bytes, and a value of that length, until nothing is left.
fn tlvs(mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let (&[_, high, low], value) = rest.split_first_chunk::<3>().ok_or(Malformed::TlvCut)?;
        rest = value.get(usize::from(u16::from_be_bytes([high, low]))..).ok_or(Malformed::TlvCut)?;
    }
    Ok(())
}

fn fixed(family_transport: u8, length: usize, into: &mut Vec<u8>) {
    into.reserve(FIXED + length);
    into.extend_from_slice(&SIGNATURE);
    // Lengths are those of two addresses and two ports: below 256.
    into.extend_from_slice(&[VERSION << 4 | PROXY, family_transport, 0, length as u8]);
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// What no common protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;
const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
/// Families stand in the high four bits, transports in the low ones: STREAM is 1.
const UNSPEC: u8 = 0x00;
const INET: u8 = 0x10;
const INET6: u8 = 0x20;
const UNIX: u8 = 0x30;
const DGRAM: u8 = 0x02;
/// Two addresses, and two ports where the family has them.
const INET_ADDRESSES: usize = 2 * 4 + 2 * 2;
const INET6_ADDRESSES: usize = 2 * 16 + 2 * 2;
const UNIX_ADDRESSES: usize = 2 * 108;

#[cfg(test)]
mod tests {
    use balance::Rng;

    use super::*;

    /// A header with this version and command, family and transport, announced length, and what follows.
    fn raw(version_command: u8, family_transport: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family_transport]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn encoded(client: &str, local: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(client.parse().unwrap(), local.parse().unwrap(), &mut bytes);
        bytes
    }

    fn proxy(client: &str, local: &str) -> Command {
        Command::Proxy { client: client.parse().unwrap(), local: local.parse().unwrap() }
    }

    #[test]
    fn a_header_is_the_bytes_of_the_specification() {
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x0c".to_vec();
        expected.extend([192, 0, 2, 1, 198, 51, 100, 2, 0xc3, 0x50, 0x00, 0x35]);
        assert_eq!(encoded("192.0.2.1:50000", "198.51.100.2:53"), expected);
        let six = encoded("[2001:db8::1]:50000", "[2001:db8::2]:53");
        assert_eq!(&six[12..20], b"\x21\x22\x00\x24\x20\x01\x0d\xb8");
        assert_eq!(six.len(), LONGEST);
        let mut unknown = Vec::new();
        encode_unknown(&mut unknown);
        assert_eq!(unknown, raw(0x21, 0x00, 0, b""));
    }

    #[test]
    fn what_is_written_is_read_and_the_payload_is_the_rest() {
        let cases = [
            ("192.0.2.1:1", "198.51.100.2:53", proxy("192.0.2.1:1", "198.51.100.2:53")),
            ("[2001:db8::1]:65535", "[::1]:0", proxy("[2001:db8::1]:65535", "[::1]:0")),
            ("[::ffff:192.0.2.1]:7", "[::ffff:10.0.0.1]:8", proxy("192.0.2.1:7", "10.0.0.1:8")),
            ("192.0.2.1:7", "[2001:db8::2]:8", proxy("192.0.2.1:7", "[2001:db8::2]:8")),
            ("[fe80::1%3]:7", "[fe80::2%3]:8", proxy("[fe80::1]:7", "[fe80::2]:8")),
        ];
        for (client, local, command) in cases {
            let mut bytes = encoded(client, local);
            let length = bytes.len();
            for payload in [b"".as_slice(), b"payload", &SIGNATURE] {
                bytes.truncate(length);
                bytes.extend(payload);
                assert_eq!(parse(&bytes), Ok(Header { command, length }), "{client} to {local}");
            }
        }
    }

    #[test]
    fn the_sender_s_own_addresses_hold_where_a_header_names_no_ip_address() {
        let tlv = b"\x04\x00\x02ab";
        let unix = [b"/run/a.sock".as_slice(), &[0; 205], tlv].concat();
        let cases = [
            (raw(0x20, 0x00, 0, b"payload"), 16),
            (raw(0x20, 0x12, 3, b"anypayload"), 19),
            (raw(0x20, 0xff, 0, b""), 16),
            (raw(0x21, 0x00, 5, b"12345payload"), 21),
            (raw(0x21, 0x10, 0, b""), 16),
            (raw(0x21, 0x02, 1, b"x"), 17),
            (raw(0x21, 0x31, 221, &unix), 237),
            (raw(0x21, 0x32, 216, &unix), 232),
        ];
        for (bytes, length) in cases {
            assert_eq!(parse(&bytes), Ok(Header { command: Command::Local, length }), "{bytes:02x?}");
        }
    }

    #[test]
    fn clients_of_tcp_and_tlvs_are_accepted() {
        let addresses = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10];
        let body = [addresses.as_slice(), b"\x04\x00\x00", b"\xe0\x00\x03abc", b"payload"].concat();
        for family_transport in [0x11, 0x12] {
            let header = parse(&raw(0x21, family_transport, 21, &body)).unwrap();
            assert_eq!(header, Header { command: proxy("1.2.3.4:9", "5.6.7.8:10"), length: 37 });
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_reason() {
        let v4 = [0; 12];
        let with_tlv = |tlv: &[u8]| raw(0x21, 0x12, 12 + tlv.len() as u16, &[v4.as_slice(), tlv].concat());
        let cases = [
            (b"".to_vec(), Malformed::Absent),
            (b"\x12\x34\x01\x00\x00\x01 an ordinary question".to_vec(), Malformed::Absent),
            (b"PROX".to_vec(), Malformed::Absent),
            (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\nx".to_vec(), Malformed::Version1),
            (b"PROXY TCP4".to_vec(), Malformed::Version1),
            (b"\r\n\r\n\0\r\nQUIT\r!\x12\0\0".to_vec(), Malformed::Absent),
            (b"\r\n\r\n".to_vec(), Malformed::Cut),
            (raw(0x21, 0x12, 12, b"")[..15].to_vec(), Malformed::Cut),
            (raw(0x11, 0x12, 12, &v4), Malformed::Version),
            (raw(0x31, 0x12, 12, &v4), Malformed::Version),
            (raw(0x22, 0x12, 12, &v4), Malformed::Command),
            (raw(0x2f, 0x12, 12, &v4), Malformed::Command),
            (raw(0x21, 0x42, 12, &v4), Malformed::Family),
            (raw(0x21, 0x13, 12, &v4), Malformed::Transport),
            (raw(0x21, 0x12, 13, &v4), Malformed::BeyondDatagram),
            (raw(0x21, 0x12, 65_535, &v4), Malformed::BeyondDatagram),
            (raw(0x20, 0x00, 1, b""), Malformed::BeyondDatagram),
            (raw(0x21, 0x12, 0, &v4), Malformed::AddressesCut),
            (raw(0x21, 0x12, 11, &v4), Malformed::AddressesCut),
            (raw(0x21, 0x22, 12, &v4), Malformed::AddressesCut),
            (raw(0x21, 0x32, 215, &[0; 216]), Malformed::AddressesCut),
            (with_tlv(b"\x04"), Malformed::TlvCut),
            (with_tlv(b"\x04\x00"), Malformed::TlvCut),
            (with_tlv(b"\x04\x00\x01"), Malformed::TlvCut),
            (with_tlv(b"\x04\x00\x01a\x04\xff\xffa"), Malformed::TlvCut),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(&bytes), Err(expected), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_header_that_is_cut_anywhere_is_no_header() {
        for bytes in [encoded("192.0.2.1:1", "198.51.100.2:53"), encoded("[2001:db8::1]:1", "[::1]:2")] {
            assert_eq!(parse(&bytes).map(|header| header.length), Ok(bytes.len()));
            assert_eq!(parse(&[]), Err(Malformed::Absent));
            for length in 1..bytes.len() {
                let expected = if length < FIXED { Malformed::Cut } else { Malformed::BeyondDatagram };
                assert_eq!(parse(&bytes[..length]), Err(expected), "cut after {length}");
            }
        }
    }

    #[test]
    fn any_addresses_are_read_as_they_were_written() {
        let mut rng = Rng::new(0x9107);
        for _ in 0..20_000 {
            let mut ip = || match rng.below(3) {
                0 => IpAddr::from((rng.next_u64() as u32).to_be_bytes()),
                1 => Ipv4Addr::from(rng.next_u64() as u32).to_ipv6_mapped().into(),
                _ => IpAddr::from((u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).to_be_bytes()),
            };
            let (client, local) = (SocketAddr::new(ip(), 50_000), SocketAddr::new(ip(), 53));
            let mut bytes = b"before".to_vec();
            encode(client, local, &mut bytes);
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            let command = Command::Proxy { client: canonical(client), local: canonical(local) };
            assert_eq!(parse(&bytes[6..]), Ok(Header { command, length: bytes.len() - 6 }));
        }
    }
}
