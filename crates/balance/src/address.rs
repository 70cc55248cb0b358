//! Where a backend is: its address and its zone.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Where a backend accepts connections. Also its identity within a service: two endpoints with one address are one
/// backend, and a backend keeps its state for as long as its address stays in the set.
///
/// *Cost*: cloning a unix address bumps a reference count; an inet one is a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port. IPv4-mapped IPv6 addresses are kept as IPv4, so that one machine has one name.
    Inet(SocketAddr),
    /// The path of a unix stream socket.
    Unix(Arc<Path>),
}

impl Address {
    /// The IP form of this address, or nothing for a unix path.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Inet(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }
}

/// Prints the form that [`FromStr`] reads: `10.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is not a backend's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseAddressError {
    /// Neither `IP:PORT` nor `unix:/PATH`. Host names are for sources, which resolve them again and again.
    NotAnAddress,
    /// An IP address without a port.
    NoPort,
    /// Port 0 names no place to connect to.
    PortZero,
    /// A unix path that is empty, relative, or longer than the 107 bytes of `sun_path` (unix(7)).
    BadPath,
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnAddress => "an address is IP:PORT, [IPV6]:PORT or unix:/PATH; a host name is not taken here",
            Self::NoPort => "the port is missing; write IP:PORT or [IPV6]:PORT",
            Self::PortZero => "port 0 is not a port to connect to",
            Self::BadPath => "a unix path is absolute and at most 107 bytes long",
        })
    }
}

impl std::error::Error for ParseAddressError {}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.starts_with('/') && path.len() <= SUN_PATH_MAX && !path.contains('\0');
            return fits.then(|| Self::Unix(Path::new(path).into())).ok_or(ParseAddressError::BadPath);
        }
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() == 0 => Err(ParseAddressError::PortZero),
            Ok(addr) => Ok(addr.into()),
            Err(_) if text.parse::<std::net::IpAddr>().is_ok() => Err(ParseAddressError::NoPort),
            Err(_) if text.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok() => Err(ParseAddressError::NoPort),
            Err(_) => Err(ParseAddressError::NotAnAddress),
        }
    }
}

/// A place with one latency to everywhere else: `dc` or `dc/zone`.
///
/// *Cost*: cloning bumps a reference count; comparing compares the names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(Arc<str>);

impl Zone {
    /// A zone of this name; `None` unless it is one or two non-empty parts of letters, digits, `-`, `_` and `.`,
    /// separated by one `/`. The restriction keeps names safe in metrics, logs and file paths.
    pub fn new(name: &str) -> Option<Self> {
        let part_ok = |part: &str| {
            !part.is_empty()
                && part.len() <= ZONE_PART_MAX
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let ok = match name.split_once('/') {
            Some((dc, zone)) => part_ok(dc) && part_ok(zone),
            None => part_ok(name),
        };
        ok.then(|| Self(name.into()))
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The zone of a node that was told none: `local`.
impl Default for Zone {
    fn default() -> Self {
        Self("local".into())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `sizeof(sun_path) - 1` on Linux (unix(7)): the kernel wants room for a terminating zero.
const SUN_PATH_MAX: usize = 107;

/// Longest part of a zone's name. A DNS label's limit (RFC 1035 section 2.3.4): long enough, and safe as a label.
const ZONE_PART_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_the_form_that_it_reads() {
        for text in ["10.0.0.1:80", "[::1]:5432", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        assert_eq!("[::ffff:10.0.0.1]:80".parse::<Address>(), "10.0.0.1:80".parse());
    }

    #[test]
    fn what_is_not_an_address_says_what_is_missing() {
        let long = format!("unix:/{}", "x".repeat(SUN_PATH_MAX));
        let cases = [
            ("db.example.com:5432", ParseAddressError::NotAnAddress),
            ("", ParseAddressError::NotAnAddress),
            ("10.0.0.1", ParseAddressError::NoPort),
            ("[::1]", ParseAddressError::NoPort),
            ("10.0.0.1:0", ParseAddressError::PortZero),
            ("unix:run/x.sock", ParseAddressError::BadPath),
            (&long, ParseAddressError::BadPath),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_zone_is_a_data_centre_and_perhaps_a_zone_in_it() {
        for good in ["fra", "fra/a", "eu-west_1.x/b"] {
            assert_eq!(Zone::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "fra/", "/a", "a/b/c", "a b", "ä", "a\n"] {
            assert_eq!(Zone::new(bad), None, "{bad:?}");
        }
    }
}
