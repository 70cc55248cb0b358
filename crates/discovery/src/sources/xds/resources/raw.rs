//! Clusters and endpoints as they are written, before anything is made of them.

use std::net::{IpAddr, SocketAddr};

use balance::{Address, Zone};

use super::super::wire::{Fields, Malformed, Value};
use crate::sources::records::shortened;

/// A `Cluster`.
#[derive(Debug, Default)]
pub(super) struct RawCluster<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    pub(super) service_name: &'a str,
    /// Whether the source of its endpoints is a path.
    pub(super) reads_file: bool,
    /// Whether it has a `locality_weighted_lb_config`.
    pub(super) goes_by_locality: bool,
    /// `load_assignment`; more than one are parts of one.
    pub(super) assignments: Vec<&'a [u8]>,
}

/// Where it has its endpoints from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Kind {
    /// From itself: `STATIC`, and names that may be addresses.
    #[default]
    Fixed,
    /// `EDS`.
    Assigned,
    OriginalDst,
    Other(u32),
    Custom,
}

impl<'a> RawCluster<'a> {
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut raw = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => raw.name = value.text()?,
                (2, value) => {
                    raw.kind = match value.uint32()? {
                        STATIC | STRICT_DNS | LOGICAL_DNS => Kind::Fixed,
                        EDS => Kind::Assigned,
                        ORIGINAL_DST => Kind::OriginalDst,
                        other => Kind::Other(other),
                    }
                }
                (38, value) => {
                    value.bytes()?;
                    raw.kind = Kind::Custom;
                }
                (3, value) => raw.read_source(value.bytes()?)?,
                (27, value) => raw.read_common(value.bytes()?)?,
                (33, value) if raw.assignments.len() < PARTS_MAX => raw.assignments.push(value.bytes()?),
                (33, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(raw)
    }

    /// A `CommonLbConfig`, of which one of two may be there.
    fn read_common(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (2, _) => self.goes_by_locality = false,
                (3, _) => self.goes_by_locality = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// An `EdsClusterConfig`. Endpoints are asked for where the cluster was, whichever server it names.
    fn read_source(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (1, value) => {
                    for field in Fields::of(value.bytes()?) {
                        match field? {
                            (1 | 8, _) => self.reads_file = true,
                            (2 | 3 | 5, _) => self.reads_file = false,
                            _ => {}
                        }
                    }
                }
                (2, value) => self.service_name = value.text()?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a `LocalityLbEndpoints` says of all its endpoints.
#[derive(Debug, Default)]
pub(super) struct Group<'a> {
    pub(super) locality: Locality<'a>,
    pub(super) priority: u32,
    /// How much of the traffic it is to have, if anybody asks.
    pub(super) weight: Option<u32>,
}

impl<'a> Group<'a> {
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, String> {
        let mut group = Self::default();
        for field in Fields::of(message) {
            match field.map_err(in_words)? {
                (1, value) => group.locality.read(value.bytes().map_err(in_words)?).map_err(in_words)?,
                (3, value) => group.weight = Some(wrapped(value).map_err(in_words)?),
                (5, value) => group.priority = value.uint32().map_err(in_words)?,
                (8, _) => return Err("a locality has its endpoints elsewhere (LEDS), which is not followed".into()),
                _ => {}
            }
        }
        Ok(group)
    }
}

/// A `Locality`, without the part below the zone.
#[derive(Debug, Default)]
pub(super) struct Locality<'a> {
    region: &'a str,
    zone: &'a str,
}

impl<'a> Locality<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (1, value) => self.region = value.text()?,
                (2, value) => self.zone = value.text()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `region/zone`, or in a data centre of ours. Names that cannot be those of zones are none.
    pub(super) fn zone(&self, ours: Option<&Zone>) -> Option<Zone> {
        let zone = (!self.zone.contains('/')).then_some(self.zone).filter(|zone| !zone.is_empty());
        match (ours, zone) {
            (None, Some(zone)) if !self.region.is_empty() => Zone::new(&format!("{}/{zone}", self.region)),
            (None, Some(zone)) => Zone::new(zone),
            (None, None) => Zone::new(self.region).filter(|_| !self.region.contains('/')),
            (Some(ours), Some(zone)) if !ours.as_str().contains('/') => {
                Zone::new(&format!("{ours}/{zone}")).or_else(|| Some(ours.clone()))
            }
            (Some(ours), _) => Some(ours.clone()),
        }
    }
}

/// A `UInt32Value`. An empty one is a zero.
fn wrapped(value: Value<'_>) -> Result<u32, Malformed> {
    let mut number = 0;
    for field in Fields::of(value.bytes()?) {
        if let (1, value) = field? {
            number = value.uint32()?;
        }
    }
    Ok(number)
}

/// What is said of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// `HEALTHY`, or nothing.
    Up,
    Draining,
    Degraded,
    /// `UNHEALTHY`, `TIMEOUT`, and what nobody knows.
    Down,
}

impl Health {
    fn of(number: u32) -> Self {
        match number {
            UNKNOWN | HEALTHY => Self::Up,
            DRAINING => Self::Draining,
            DEGRADED => Self::Degraded,
            _ => Self::Down,
        }
    }
}

/// An `LbEndpoint`.
#[derive(Debug)]
pub(super) struct RawEndpoint<'a> {
    pub(super) host: Option<Host<'a>>,
    pub(super) health: Health,
    pub(super) weight: u32,
}

impl<'a> RawEndpoint<'a> {
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut raw = Self { host: None, health: Health::Up, weight: 1 };
        for field in Fields::of(message) {
            match field? {
                (1, value) => raw.read_endpoint(value.bytes()?)?,
                (2, value) => raw.health = Health::of(value.uint32()?),
                (4, value) => raw.weight = wrapped(value)?,
                _ => {}
            }
        }
        Ok(raw)
    }

    /// An `Endpoint`. Its further addresses are other ways to the same place.
    fn read_endpoint(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            let (1, value) = field? else { continue };
            for field in Fields::of(value.bytes()?) {
                match field? {
                    (1, value) => self.read_socket(value.bytes()?)?,
                    (2, value) => {
                        let mut path = "";
                        for field in Fields::of(value.bytes()?) {
                            if let (1, value) = field? {
                                path = value.text()?;
                            }
                        }
                        self.host = Some(Host::Pipe(path));
                    }
                    (3, _) => self.host = Some(Host::Internal),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A `SocketAddress`. Its protocol is that of the listener, whatever it says.
    fn read_socket(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let (mut host, mut port) = match self.host {
            Some(Host::Socket(host, port)) => (host, port),
            _ => ("", Port::Number(0)),
        };
        for field in Fields::of(message) {
            match field? {
                (2, value) => host = value.text()?,
                (3, value) => port = Port::Number(value.uint32()?),
                (4, value) => port = Port::Named(value.text()?),
                _ => {}
            }
        }
        self.host = Some(Host::Socket(host, port));
        Ok(())
    }
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Host<'a> {
    Socket(&'a str, Port<'a>),
    Pipe(&'a str),
    /// A listener inside of an Envoy.
    Internal,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Port<'a> {
    Number(u32),
    Named(&'a str),
}

impl Host<'_> {
    /// The address; none for what is left out. A port 0 is for the rules of the source to refuse, as a path is.
    pub(super) fn address(self) -> Result<Option<Address>, String> {
        let (host, port) = match self {
            Self::Internal => return Ok(None),
            Self::Pipe(path) => return Ok(format!("unix:{path}").parse().ok()),
            Self::Socket(host, port) => (host, port),
        };
        let ip: IpAddr = host.parse().map_err(|_| match host.is_empty() {
            true => "an endpoint without an address".to_owned(),
            false => format!("{} is not an IP address; for names there are sources of kind dns", quoted(host)),
        })?;
        match port {
            Port::Named(name) => Err(format!("port {} of {host} is a name, which is not resolved", quoted(name))),
            Port::Number(number) => {
                let port = u16::try_from(number).map_err(|_| format!("{host} has port {number}"))?;
                Ok(Some(SocketAddr::new(ip.to_canonical(), port).into()))
            }
        }
    }
}

pub(super) fn in_words(error: Malformed) -> String {
    error.to_string()
}

pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", shortened(name))
}

/// The types of clusters.
const STATIC: u32 = 0;
const STRICT_DNS: u32 = 1;
const LOGICAL_DNS: u32 = 2;
const EDS: u32 = 3;
const ORIGINAL_DST: u32 = 4;
/// The states of endpoints.
const UNKNOWN: u32 = 0;
const HEALTHY: u32 = 1;
const DRAINING: u32 = 3;
const DEGRADED: u32 = 5;
/// In how many parts a message may be sent that is there once.
const PARTS_MAX: usize = 16;
