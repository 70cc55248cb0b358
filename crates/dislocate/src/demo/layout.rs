//! Where the parts of the demonstration are: zones, backends, addresses, and the configuration that says so.

use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context;

/// A backend of the demonstration.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What the story calls it.
    pub name: &'static str,
    /// Where it stands.
    pub zone: &'static str,
    /// Its own address of the loopback interface, so that no outgoing connection ever takes its port while it is dead.
    pub ip: Ipv4Addr,
    /// How far away it pretends to be: the time for a connection, and again for every answer.
    pub distance: Duration,
}

/// All backends, zone by zone, the nearest first.
pub const PLACES: [Place; 6] = [
    place("home-1", "home", [127, 0, 1, 1], 1),
    place("home-2", "home", [127, 0, 1, 2], 1),
    place("near-1", "near", [127, 0, 2, 1], 12),
    place("near-2", "near", [127, 0, 2, 2], 12),
    place("far-1", "far", [127, 0, 3, 1], 40),
    place("far-2", "far", [127, 0, 3, 2], 40),
];

/// How many backends there are.
pub const BACKENDS: usize = PLACES.len();

const fn place(name: &'static str, zone: &'static str, [a, b, c, d]: [u8; 4], distance_ms: u64) -> Place {
    Place { name, zone, ip: Ipv4Addr::new(a, b, c, d), distance: Duration::from_millis(distance_ms) }
}

/// The ports of one demonstration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    port: u16,
}

/// The ports that are taken when nobody else has them, and that the documentation names.
impl Default for Layout {
    fn default() -> Self {
        Self { port: FIRST_PORT }
    }
}

impl Layout {
    /// Where clients arrive.
    pub fn listener(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Where metrics and state are served.
    pub fn admin(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + 1))
    }

    /// Where a backend listens.
    pub fn backend(self, index: usize) -> SocketAddr {
        SocketAddr::from((PLACES[index].ip, self.port + 2))
    }

    /// The configuration file, with comments for whoever keeps it.
    pub fn toml(self) -> String {
        let mut backends = String::new();
        for (index, place) in PLACES.iter().enumerate() {
            let entry = format!("{{ address = \"{}\", zone = \"{}\" }},", self.backend(index), place.zone);
            // Writing to a string cannot fail.
            let _infallible = writeln!(backends, "    {entry:<52} # {}", describe(place));
        }
        TEMPLATE
            .replace("LISTENER", &self.listener().to_string())
            .replace("ADMIN", &self.admin().to_string())
            .replace("BACKENDS\n", &backends)
    }

    /// Takes the first ports that are free, and the backends' sockets with them: they are opened for nobody else, so
    /// two demonstrations never share a port.
    ///
    /// *Errors*: the loopback addresses cannot be had, or no ports are free.
    pub fn open() -> anyhow::Result<(Self, Vec<TcpListener>)> {
        let candidates = (0..CANDIDATES).map(|step| Self { port: FIRST_PORT + step * STEP });
        let mut last = None;
        for layout in candidates {
            match layout.try_open() {
                Ok(sockets) => return Ok((layout, sockets)),
                Err((_, error)) if error.kind() == ErrorKind::AddrInUse => last = Some(error),
                Err((addr, error)) => return Err(error).with_context(|| format!("cannot listen on {addr}")),
            }
        }
        let end = FIRST_PORT + CANDIDATES * STEP;
        let error = last.unwrap_or_else(|| ErrorKind::AddrInUse.into());
        Err(error).context(format!("cannot find free ports for the demo between {FIRST_PORT} and {end}"))
    }

    fn try_open(self) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
        let open = |addr: SocketAddr| TcpListener::bind(addr).map_err(|error| (addr, error));
        let backends = (0..BACKENDS).map(|index| open(self.backend(index))).collect::<Result<_, _>>()?;
        // Only to see whether they are free; the program opens them itself.
        open(self.listener())?;
        open(self.admin())?;
        Ok(backends)
    }
}

fn describe(place: &Place) -> String {
    format!("{}, {} ms away", place.name, place.distance.as_millis())
}

const TEMPLATE: &str = r#"# What `dislocate demo` runs. Its backends live inside the demo and end with it: put the addresses
# of your own services in their place, then
#
#     dislocate check -c dislocate.toml
#     dislocate run -c dislocate.toml
#
# The demo takes these ports when they are free and the next free ones otherwise.
# `dislocate config default` explains every key.

[node]
name = "demo"
zone = "home"                      # where this node is; zones are plain names
log = "none"                       # no record of each session; "stderr" or a path writes them

[admin]
listen = "ADMIN"          # curl http://ADMIN/metrics, /v1/services, /v1/sessions

[[listener]]
name = "echo"
listen = "LISTENER"          # where clients arrive
service = "echo"
connect_timeout = "1s"             # for each try to reach a backend
retries = 2                        # other backends tried before a client is refused

[[service]]
name = "echo"                      # `balance` is left out: the default is what the demo shows
backends = [
BACKENDS
]
# The default interval is 5s; the demo is in a hurry.
health = { kind = "tcp", interval = "500ms", timeout = "500ms", rise = 2, fall = 3 }
"#;

/// Below the ports that Linux gives to outgoing connections (32768 and up), and away from the usual services.
const FIRST_PORT: u16 = 7700;
/// From the ports of one demonstration to those of the next.
const STEP: u16 = 10;
/// Demonstrations that fit beside each other.
const CANDIDATES: u16 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, AdminAddress};

    #[test]
    fn the_configuration_says_what_the_layout_says() {
        let layout = Layout { port: 7_710 };

        let text = layout.toml();
        let config = config::parse("dislocate.toml", &text).unwrap_or_else(|report| panic!("{}", report.render(false)));

        assert_eq!(config.warnings.problems(), [], "the demo's own file is beyond reproach");
        assert_eq!(config.admin.listen, AdminAddress::Tcp(layout.admin()));
        assert_eq!(config.listeners[0].binds, [proxy::Bind::Inet(layout.listener())]);
        assert_eq!(config.node.zone.as_str(), PLACES[0].zone, "the node stands beside the first backends");
        let backends = config.services[0].backends.iter().map(|backend| backend.address.clone());
        let expected = (0..BACKENDS).map(|index| balance::Address::from(layout.backend(index)));
        assert_eq!(backends.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert!(!text.contains("\nbalance"), "the policy is the default, whatever that is");
    }

    #[test]
    fn two_demonstrations_get_different_ports() {
        let (one, _sockets) = Layout::open().expect("there are free ports");
        let (other, _other_sockets) = Layout::open().expect("there are more free ports");
        assert_ne!(one, other, "a port has one owner");
    }
}
