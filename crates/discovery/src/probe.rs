//! One probe of one backend. Opens sockets, decides nothing about the backend's state.

use std::borrow::Cow;
use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use balance::Address;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::Probe;
use crate::roster::Job;

mod exec;
mod http;
mod tcp;
mod udp;

/// What came, in a few words.
pub(crate) type Detail = Cow<'static, str>;

/// What a probe found: a success with what came, or the trouble.
pub(crate) type Finding = Result<Detail, Trouble>;

/// Why a probe did not succeed, and whose doing it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The backend's, or the network's between us: counts as a failure.
    Theirs(Detail),
    /// Ours (descriptors, ports, a command that cannot be run): says nothing about the backend and counts as nothing.
    Ours(Detail),
}

/// Makes the probe. Ends at the check's timeout at the latest.
///
/// *Cancel safety*: dropping it closes the socket, or kills the command with all of its children.
pub(crate) async fn run(job: &Job) -> Finding {
    let deadline = Instant::now() + job.health.timeout.min(TIMEOUT_MAX);
    match &job.health.probe {
        Probe::Tcp { port } => tcp::probe(&target(job, *port)?, job, deadline).await,
        Probe::Http { port, path, host, expect } => {
            let question = http::Question { to: target(job, *port)?, path, host: host.as_deref(), expect };
            http::probe(&question, job, deadline).await
        }
        Probe::Udp { port, send, expect } => {
            udp::probe(&udp::Question { to: target(job, *port)?, send, expect }, deadline).await
        }
        Probe::Exec { command } => exec::probe(command, job, deadline).await,
    }
}

/// File descriptors that a probe needs at once.
pub(crate) fn descriptors(probe: &Probe) -> u32 {
    match probe {
        Probe::Tcp { .. } | Probe::Http { .. } | Probe::Udp { .. } => 1,
        // Three times /dev/null while it starts, and the process itself.
        Probe::Exec { .. } => 4,
    }
}

/// Where the question goes: to the backend, or to another port of its address.
fn target(job: &Job, port: Option<u16>) -> Result<Address, Trouble> {
    match (&job.address, port) {
        (address, None) => Ok(address.clone()),
        (Address::Inet(addr), Some(port)) => {
            // A scope id stays.
            let mut addr = *addr;
            addr.set_port(port);
            Ok(addr.into())
        }
        (Address::Unix(_), Some(_)) => Err(Trouble::Ours("a unix path has no ports".into())),
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects, and tells the backend how far away it is: of one without traffic nobody else knows. *Cost*: one allocation
/// for the box, beside a few system calls.
async fn connect(to: &Address, job: &Job) -> Result<Box<dyn Stream>, Trouble> {
    let begun = Instant::now();
    let connected: io::Result<Box<dyn Stream>> = match to {
        Address::Inet(addr) => TcpStream::connect(addr).await.map(|stream| Box::new(stream) as _),
        Address::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
    };
    let stream = connected.map_err(|error| blame_connect(&error, to))?;
    job.backend.state().probe_connected(begun.elapsed());
    Ok(stream)
}

/// Whose doing an error of connect(2) is. Errors that say which of our own resources or rules stood in the way never
/// count against the backend: otherwise a node that runs out of ports takes all of its backends down.
fn blame_connect(error: &io::Error, address: &Address) -> Trouble {
    blame("connect", error, address)
}

/// The same for any step of talking to a backend.
fn blame(doing: &str, error: &io::Error, address: &Address) -> Trouble {
    let text = || Cow::Owned(format!("{doing}: {error}"));
    match Errno::from_io_error(error) {
        Some(
            Errno::MFILE
            | Errno::NFILE
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::ADDRNOTAVAIL
            | Errno::AFNOSUPPORT
            | Errno::ACCESS
            | Errno::PERM,
        ) => Trouble::Ours(text()),
        // A full accept queue for unix sockets, but a full routing cache of ours for the others: see connect(2).
        Some(Errno::AGAIN) if address.inet().is_some() => Trouble::Ours(text()),
        _ => Trouble::Theirs(text()),
    }
}

/// Waits for a step of a probe until `deadline`.
async fn within<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, Trouble>>,
    doing: &str,
) -> Result<T, Trouble> {
    timeout_at(deadline, step).await.unwrap_or_else(|_| Err(expired(doing, deadline.elapsed())))
}

/// The trouble of a deadline that was noticed `late`. When the notice itself took long, this node stood still
/// (stopped, starved of CPU), and the answer may well lie unread in our own queue.
fn expired(doing: &str, late: Duration) -> Trouble {
    match late {
        late if late > STANDSTILL => {
            Trouble::Ours(format!("{doing}: this node stood still for {} ms", late.as_millis()).into())
        }
        _ => Trouble::Theirs(format!("{doing}: timed out").into()),
    }
}

/// An error with its causes, since libraries print one level each.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// How long to wait for the other side to close after the verdict is known: a round trip between continents. Closing
/// with bytes unread would send a reset, which fills the logs of backends.
const FAREWELL: Duration = Duration::from_millis(300);
/// What is read and thrown away of an answer, at most.
const DISCARD_MAX_BYTES: usize = 64 * 1024;
/// A timer that is noticed this late tells of us and not of the backend. Timers are late by a few milliseconds even
/// on a busy machine.
const STANDSTILL: Duration = Duration::from_millis(250);
/// Keeps sums of times in range, whatever is configured.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_our_own_are_never_blamed_on_a_backend() {
        let inet: Address = "127.0.0.1:1".parse().unwrap();
        let unix: Address = "unix:/x".parse().unwrap();
        let cases = [
            (Errno::MFILE, true, true),
            (Errno::NFILE, true, true),
            (Errno::NOBUFS, true, true),
            (Errno::NOMEM, true, true),
            (Errno::ADDRNOTAVAIL, true, true),
            (Errno::ACCESS, true, true),
            (Errno::PERM, true, true),
            (Errno::AGAIN, true, false),
            (Errno::CONNREFUSED, false, false),
            (Errno::HOSTUNREACH, false, false),
            (Errno::NETUNREACH, false, false),
            (Errno::TIMEDOUT, false, false),
            (Errno::CONNRESET, false, false),
            (Errno::NOENT, false, false),
        ];
        for (errno, inet_ours, unix_ours) in cases {
            for (address, ours) in [(&inet, inet_ours), (&unix, unix_ours)] {
                let trouble = blame_connect(&io::Error::from(errno), address);
                assert_eq!(matches!(trouble, Trouble::Ours(_)), ours, "{errno:?} for {address}");
            }
        }
    }

    #[test]
    fn a_deadline_noticed_far_too_late_tells_of_this_node() {
        assert!(matches!(expired("connect", Duration::from_millis(5)), Trouble::Theirs(_)));
        assert!(matches!(expired("connect", Duration::from_secs(2)), Trouble::Ours(_)));
    }
}
