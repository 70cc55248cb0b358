//! How many files this process may open, and what that means for sessions.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard one and returns it. Few programs need select(2) nowadays, and none
/// of this one's parts does, so the low soft limit protects nobody.
///
/// *Errors*: the kernel refuses; the old limit is still in force then.
pub fn raise_limit() -> io::Result<u32> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX)))
}

/// What of `limit` is left for sessions, pipes, probes and admin connections, when `workers` listen on so many addresses
/// for connections and for datagrams, and sources may have `sources` open.
pub fn budget(limit: u32, workers: usize, (connections, datagrams): (usize, usize), sources: usize) -> u32 {
    // Each address has a socket for each worker, and this side's copy of it for changes at a reload; where datagrams are
    // taken, an epoll instance too.
    let listening = workers * (2 * connections + 3 * datagrams);
    let own = listening + workers * PER_WORKER + sources + RESERVE;
    limit.saturating_sub(u32::try_from(own).unwrap_or(u32::MAX))
}

/// An event loop's epoll, its waker, and the reserve descriptor of accept.
const PER_WORKER: usize = 4;
/// Standard streams, logs, the snapshot, configuration, file watch, the control plane's own event loop, files read for a scrape, and
/// addresses and sources that a reload adds.
const RESERVE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_needs_itself_is_not_given_to_sessions() {
        assert_eq!(budget(1_024, 2, (3, 1), 16), 1_024 - 18 - 8 - 16 - 64);
        assert_eq!(budget(10, 64, (1_000, 0), 0), 0);
    }
}
