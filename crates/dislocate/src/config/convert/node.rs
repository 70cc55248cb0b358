//! The tables `[node]` and `[admin]`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use proxy::Bind;

use super::super::checked::{Admin, AdminAddress, LogTarget, Node};
use super::super::limits::{ADMIN_LISTEN, DRAIN_TIMEOUT, NODE_MAX_CONNECTIONS, WORKERS};
use super::super::names::is_name;
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Span};
use super::listen::one_address;
use super::{absolute_path, did_you_mean, duration, name, zone};

/// The node, with what the host knows about itself filled in.
pub fn node(raw: raw::Node, problems: &mut Problems) -> Node {
    let workers = match raw.workers.or(WORKERS.default) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers as usize,
    };
    Node {
        name: name(raw.name, problems).map_or_else(host_name, |(name, _)| name),
        zone: zone(&raw.zone, problems).unwrap_or_default(),
        workers,
        max_connections: NonZeroU32::new(raw.max_connections.or(NODE_MAX_CONNECTIONS.default)),
        state_dir: absolute_path("state_dir", raw.state_dir, problems),
        drain_timeout: duration("drain_timeout", &raw.drain_timeout, DRAIN_TIMEOUT, problems),
        log: log_target(raw.log, problems),
    }
}

/// The admin API, and the place where its address was written.
pub fn admin(raw: raw::Admin, problems: &mut Problems) -> (Admin, Option<Span>) {
    let span = raw.listen.span();
    let written = raw.listen.0.unwrap_or_else(|| At { span: 0..0, value: ADMIN_LISTEN.into() });
    let listen = problems.keep(admin_address(&written)).unwrap_or(AdminAddress::Tcp(DEFAULT));
    (Admin { listen }, span)
}

fn admin_address(at: &At<String>) -> Result<AdminAddress, Problem> {
    match one_address(at)? {
        Bind::Unix(path) | Bind::Datagram(path) => Ok(AdminAddress::Unix(path)),
        Bind::Inet(addr) | Bind::Udp(addr) if addr.ip().is_loopback() => Ok(AdminAddress::Tcp(addr)),
        Bind::Inet(addr) | Bind::Udp(addr) => {
            let message = format!(
                "the admin API cannot listen on {addr}: tokens, which it needs off loopback, are not built yet"
            );
            let help =
                format!("let it listen on {ADMIN_LISTEN} or on a unix path, and reach it through ssh or a proxy");
            Err(Problem::new(Code::NotBuilt, at.span.clone(), message).help(help))
        }
    }
}

fn log_target(field: Field<String>, problems: &mut Problems) -> LogTarget {
    let Some(At { span, value }) = field.0 else { return LogTarget::Stderr };
    match value.as_str() {
        "stderr" => LogTarget::Stderr,
        "none" => LogTarget::None,
        path if path.contains('/') && !path.ends_with('/') && !path.contains('\0') => {
            LogTarget::File(PathBuf::from(path))
        }
        other => {
            let message = format!("`log` cannot be {}", quoted(other));
            let help = did_you_mean(other, ["stderr", "none"]);
            let help = help.unwrap_or_else(|| "it takes stderr, none, or a path with a `/` in it".into());
            problems.push(Problem::new(Code::InvalidValue, span, message).help(help));
            LogTarget::Stderr
        }
    }
}

/// What uname(2) says, where that can be a name.
fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_str().ok().filter(|name| is_name(name)).unwrap_or("localhost").into()
}

/// [`ADMIN_LISTEN`], where the one that was written is refused.
const DEFAULT: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);
