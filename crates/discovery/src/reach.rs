//! Which addresses a source may name. A registry that is wrong, or in the wrong hands, must not turn clients to this
//! node itself, to the metadata services of clouds (link-local), or to networks that the operator did not mean.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use balance::Address;

/// A network in CIDR notation (RFC 4632): `10.0.0.0/8`, `2001:db8::/32`; an address alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network of the first `prefix` bits of `address`; nothing when it has fewer bits, or others are set, which
    /// is mostly a slip.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let cidr = Self { network: address, prefix };
        (prefix <= bits && masked(address, prefix) == word(address)).then_some(cidr)
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.prefix) == word(self.network)
    }
}

/// The bits of an address, those of IPv4 at the top.
fn word(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn masked(address: IpAddr, prefix: u8) -> u128 {
    word(address) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseCidrError {
    /// Neither `ADDRESS/BITS` nor an address.
    NotANetwork,
    /// Bits behind the prefix are set, or there are more bits than an address has.
    BadPrefix,
}

impl fmt::Display for ParseCidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotANetwork => "a network is ADDRESS/BITS, as in 10.0.0.0/8",
            Self::BadPrefix => "the address has bits behind the prefix, or fewer bits than it says",
        })
    }
}

impl std::error::Error for ParseCidrError {}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ParseCidrError::NotANetwork)?;
        let prefix = match prefix {
            Some(bits) => bits.parse().map_err(|_| ParseCidrError::NotANetwork)?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, prefix).ok_or(ParseCidrError::BadPrefix)
    }
}

/// Which addresses a source may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Any that names a place: for what the operator of this node writes (the configuration, files).
    #[default]
    Any,
    /// For what others say.
    Network {
        /// The networks that it may name. None: all but loopback and link-local.
        allowed: Arc<[Cidr]>,
        /// What this node listens on, which is refused always. A wildcard address stands for loopback with its port;
        /// whoever knows more addresses of this node adds them.
        own: Arc<[SocketAddr]>,
    },
}

/// Why an endpoint is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Port 0, a wildcard or a multicast address: no place to connect to.
    Nowhere,
    /// This node.
    Loopback,
    /// An address that is valid on one link only, such as 169.254.169.254.
    LinkLocal,
    /// A listener of this node: it would connect to itself.
    Own,
    /// In none of the networks that the operator allows.
    NotAllowed,
    /// A unix path, named by somebody else than the operator.
    Unix,
    /// The id is longer than [`ID_MAX_BYTES`](crate::ID_MAX_BYTES).
    LongId,
    /// More endpoints than the source may have.
    TooMany,
}

impl Refusal {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Nowhere,
        Self::Loopback,
        Self::LinkLocal,
        Self::Own,
        Self::NotAllowed,
        Self::Unix,
        Self::LongId,
        Self::TooMany,
    ];

    /// The word in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nowhere => "no_address",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Own => "own_listener",
            Self::NotAllowed => "not_allowed",
            Self::Unix => "unix",
            Self::LongId => "long_id",
            Self::TooMany => "too_many",
        }
    }
}

impl Reach {
    pub(crate) fn check(&self, address: &Address) -> Result<(), Refusal> {
        let Some(addr) = address.inet() else {
            return if *self == Self::Any { Ok(()) } else { Err(Refusal::Unix) };
        };
        let ip = addr.ip();
        if addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(Refusal::Nowhere);
        }
        match self {
            Self::Any => Ok(()),
            Self::Network { allowed, own } => {
                if own.iter().any(|own| is_own(*own, addr)) {
                    return Err(Refusal::Own);
                }
                match (allowed.is_empty(), allowed.iter().any(|cidr| cidr.contains(ip))) {
                    (true, _) => by_default(ip),
                    (false, true) => Ok(()),
                    (false, false) => Err(Refusal::NotAllowed),
                }
            }
        }
    }
}

fn is_own(own: SocketAddr, addr: SocketAddr) -> bool {
    let (host, ip) = (own.ip().to_canonical(), addr.ip());
    own.port() == addr.port() && (host == ip || host.is_unspecified() && ip.is_loopback())
}

fn by_default(ip: IpAddr) -> Result<(), Refusal> {
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == EC2_METADATA_V6,
    };
    match is_link_local {
        true => Err(Refusal::LinkLocal),
        false if ip.is_loopback() || is_this_network(ip) => Err(Refusal::Loopback),
        false => Ok(()),
    }
}

/// `0.0.0.0/8`, which Linux takes for this node where it takes it at all (RFC 1122 section 3.2.1.3).
fn is_this_network(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0)
}

/// The metadata service of a large cloud has a unique local address beside its link-local one.
const EC2_METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use super::*;

    fn network(allowed: &[&str], own: &[&str]) -> Reach {
        Reach::Network {
            allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            own: own.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::a00:1", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
        ];
        for (cidr, ip, expected) in cases {
            let contains = cidr.parse::<Cidr>().unwrap().contains(ip.parse().unwrap());
            assert_eq!(contains, expected, "{ip} in {cidr}");
        }
        for bad in ["", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "::1/64", "example.com/8", "10.0.0.0/8/8", "/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_registry_turns_nobody_to_this_node_or_its_link() {
        let open = network(&[], &["0.0.0.0:80", "[::]:81", "192.0.2.1:82"]);
        let tight = network(&["127.0.0.0/8", "10.0.0.0/8"], &["0.0.0.0:80"]);
        let cases = [
            (&open, "10.0.0.1:80", None),
            (&open, "[2001:db8::1]:80", None),
            (&open, "127.0.0.1:80", Some(Refusal::Own)),
            (&open, "127.0.0.1:90", Some(Refusal::Loopback)),
            (&open, "[::1]:90", Some(Refusal::Loopback)),
            (&open, "[::ffff:127.0.0.1]:90", Some(Refusal::Loopback)),
            (&open, "0.1.2.3:90", Some(Refusal::Loopback)),
            (&open, "169.254.169.254:80", Some(Refusal::LinkLocal)),
            (&open, "[fe80::1]:80", Some(Refusal::LinkLocal)),
            (&open, "[fd00:ec2::254]:80", Some(Refusal::LinkLocal)),
            (&open, "192.0.2.1:82", Some(Refusal::Own)),
            (&open, "192.0.2.1:83", None),
            (&open, "0.0.0.0:90", Some(Refusal::Nowhere)),
            (&open, "255.255.255.255:90", Some(Refusal::Nowhere)),
            (&open, "224.0.0.1:90", Some(Refusal::Nowhere)),
            (&open, "unix:/run/x.sock", Some(Refusal::Unix)),
            (&tight, "10.0.0.1:80", None),
            (&tight, "127.0.0.1:90", None),
            (&tight, "127.0.0.1:80", Some(Refusal::Own)),
            (&tight, "192.0.2.1:80", Some(Refusal::NotAllowed)),
            (&Reach::Any, "127.0.0.1:80", None),
            (&Reach::Any, "unix:/run/x.sock", None),
            (&Reach::Any, "0.0.0.0:80", Some(Refusal::Nowhere)),
        ];
        for (reach, address, expected) in cases {
            assert_eq!(reach.check(&address.parse().unwrap()).err(), expected, "{address} by {reach:?}");
        }
        let port_zero = Address::from(SocketAddr::from(([10, 0, 0, 1], 0)));
        assert_eq!(Reach::Any.check(&port_zero), Err(Refusal::Nowhere));
    }
}
