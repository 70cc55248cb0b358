//! Readiness and timers of one thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;

pub(crate) use rustix::event::epoll::EventFlags;

/// Watches descriptors, level-triggered. Closing a descriptor ends its being watched.
pub(crate) struct Reactor {
    epoll: OwnedFd,
}

/// Things to do at their times; equal times keep their order.
pub(crate) struct Timers<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    added: u64,
}

struct Entry<T> {
    at: Instant,
    number: u64,
    what: T,
}

impl Reactor {
    pub(crate) fn new() -> io::Result<Reactor> {
        sharp_timers();
        Ok(Reactor { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: u64, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), interest)?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: u64, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), interest)?)
    }

    /// The tokens of what is ready, waiting until `until` at the longest.
    pub(crate) fn wait(&self, until: Option<Instant>) -> io::Result<Vec<u64>> {
        // `epoll_wait` rounds to milliseconds, `ppoll` does not, and an epoll instance can itself be polled.
        wait_readable(&self.epoll, until)?;
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&Timespec::default())) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let token = |event: &epoll::Event| {
            let data = event.data;
            data.u64()
        };
        Ok(events.iter().map(token).collect())
    }
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Timers<T> {
        Timers { heap: BinaryHeap::new(), added: 0 }
    }

    pub(crate) fn add(&mut self, at: Instant, what: T) {
        self.added += 1;
        self.heap.push(Reverse(Entry { at, number: self.added, what }));
    }

    /// When the first one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes the first one if it is due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.what)
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

/// Waits until `fd` is readable, or `until`.
pub(crate) fn wait_readable(fd: impl AsFd, until: Option<Instant>) -> io::Result<()> {
    wait_any([PollFd::new(&fd, PollFlags::IN)], until)
}

/// Waits until one of `fds` is as it is watched for, or `until`.
pub(crate) fn wait_any<const N: usize>(mut fds: [PollFd<'_>; N], until: Option<Instant>) -> io::Result<()> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    match poll(&mut fds, left.map(timespec).as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Without this the kernel lets timers of this thread be 50 µs late, to save wake-ups.
pub(crate) fn sharp_timers() {
    // Later timers are all that a refusal would mean.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
}

fn timespec(left: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}
