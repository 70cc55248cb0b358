//! What every test stands on: the program under test, peers on both of its sides, and ways to look at it.

mod admin;
mod backend;
mod bytes;
mod config;
mod conn;
mod datagram_backend;
mod datagrams;
mod dns;
mod finish;
mod forged;
mod held;
mod kube;
mod metrics;
mod named;
mod netns;
mod output;
mod plane;
mod process;
mod proxy;
mod registry;
mod temp;
mod tools;
mod wait;
#[allow(dead_code, reason = "shared with the tests of the source by itself")]
#[path = "../../../crates/discovery/tests/sources/xds_server.rs"]
mod xds_server;
#[allow(dead_code, reason = "shared with the tests of the source by itself")]
#[path = "../../../crates/discovery/tests/sources/xds_types.rs"]
mod xds_types;

pub use self::backend::Backend;
pub use self::bytes::{Digest, for_each_chunk, pattern};
pub use self::config::{Config, LONG, line_of};
pub use self::conn::{Conn, End};
pub use self::datagram_backend::{Behaviour, DatagramBackend, QUIET, Served, who_serves, who_serves_within};
pub use self::datagrams::{Datagrams, LARGEST, counts};
pub use self::dns::Dns;
pub use self::forged::{Forger, stranger};
pub use self::held::{Acceptor, full_backlog, refusing};
pub use self::kube::Kube;
pub use self::metrics::Metrics;
pub use self::named::{Named, who, who_from};
pub use self::netns::{Link, Netns};
pub use self::plane::Plane;
pub use self::process::{Server, iperf3, succeeds};
pub use self::proxy::{Options, Proxy, run_to_exit};
pub use self::registry::{Registry, list};
pub use self::temp::TempDir;
pub use self::tools::{needs_root, needs_tools, path_of, wants_tool};
pub use self::wait::{eventually, observe, within};

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// An address of 127/8 that nothing else uses, so that a port on it stays ours when its socket is closed.
///
/// The kernel gives ports of 127.0.0.1 to whoever connects next; a backend that stops and returns would find its
/// port taken by a test beside it.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % (1 << 21);
    let [_, high, middle, low] = (number + 1).to_be_bytes();
    Ipv4Addr::new(127, 64 | high, middle, low)
}
