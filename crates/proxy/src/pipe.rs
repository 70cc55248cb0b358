//! Pipes for splice(2), and the pool they are borrowed from.
//!
//! An unprivileged user may hold 64 MiB of pipe buffers in all (`fs.pipe-user-pages-soft`). Beyond that the kernel
//! does not refuse: it hands out pipes of two slots, which are slower than copying. So the pool is bounded, reads the
//! size of each new pipe back, and says "copy" when it is too small.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use balance::{Hold, Ledger, Use};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// A pipe on loan. Dropping it closes it, which is right whenever bytes may be left inside: a pipe that went back dirty
/// would give one session's bytes to another. An empty one goes back by [`PipePool::give_back`].
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    counters: Arc<PipeCounters>,
    _descriptors: Hold,
}

impl Pipe {
    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(crate) fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Relaxed);
    }
}

/// Pipes of the process, for the metrics.
#[derive(Debug, Default)]
pub struct PipeCounters {
    open: AtomicU32,
    idle: AtomicU32,
    refused: AtomicU64,
}

impl PipeCounters {
    /// Pipes with a session.
    pub fn busy(&self) -> u32 {
        self.open.load(Relaxed).saturating_sub(self.idle())
    }

    /// Pipes that wait for one.
    pub fn idle(&self) -> u32 {
        self.idle.load(Relaxed)
    }

    /// Times that a transfer was copied because no pipe of a useful size was to be had.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// The pipes of one worker.
#[derive(Debug)]
pub(crate) struct PipePool {
    idle: RefCell<Vec<Pipe>>,
    ledger: Arc<Ledger>,
    counters: Arc<PipeCounters>,
}

impl PipePool {
    pub(crate) fn new(ledger: Arc<Ledger>, counters: Arc<PipeCounters>) -> Self {
        Self { idle: RefCell::default(), ledger, counters }
    }

    /// An empty pipe, or nothing when all are out or the kernel gives no useful one.
    pub(crate) fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            self.counters.idle.fetch_sub(1, Relaxed);
            return Some(pipe);
        }
        let pipe = self.open();
        if pipe.is_none() {
            self.counters.refused.fetch_add(1, Relaxed);
        }
        pipe
    }

    /// Takes back a pipe that the caller knows to be empty.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        self.counters.idle.fetch_add(1, Relaxed);
        self.idle.borrow_mut().push(pipe);
    }

    /// Closes half of what lies idle; called now and then, so that the pipes of a busy hour do not stay.
    pub(crate) fn trim(&self) {
        let mut idle = self.idle.borrow_mut();
        let keep = idle.len() / 2;
        self.counters.idle.fetch_sub((idle.len() - keep) as u32, Relaxed);
        idle.truncate(keep);
    }

    fn open(&self) -> Option<Pipe> {
        let room = |open: u32| (open < PIPES_OF_PROCESS).then_some(open + 1);
        self.counters.open.fetch_update(Relaxed, Relaxed, room).ok()?;
        let pipe = self.create();
        if pipe.is_none() {
            self.counters.open.fetch_sub(1, Relaxed);
        }
        pipe
    }

    fn create(&self) -> Option<Pipe> {
        let descriptors = self.ledger.take(Use::Pipes, 2)?;
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let grown = SIZES.iter().any(|&size| fcntl_setpipe_size(&write, size).is_ok());
        let useful = grown || fcntl_getpipe_size(&write).is_ok_and(|size| size >= SMALLEST_BYTES);
        let counters = Arc::clone(&self.counters);
        useful.then_some(Pipe { read, write, counters, _descriptors: descriptors })
    }
}

/// Sizes to ask for. A pipe counts slots, and a slot holds one fragment: about 32 KiB on loopback, one packet from a
/// network card. 1 MiB (256 slots) moves a third more per call than 256 KiB and is the most that the kernel gives
/// unasked (`fs.pipe-max-size`).
const SIZES: [usize; 3] = [1024 * 1024, 256 * 1024, 64 * 1024];
/// A pipe below this is slower than copying.
const SMALLEST_BYTES: usize = 64 * 1024;
/// Pipes of the process: at the size that a user without privileges gets past the first 64, half of the quota.
const PIPES_OF_PROCESS: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(descriptors: u32) -> PipePool {
        PipePool::new(Ledger::new(descriptors), Arc::default())
    }

    #[test]
    fn pipes_are_made_when_asked_for_counted_and_used_again() {
        let pool = pool(100);
        assert_eq!(pool.ledger.used(Use::Pipes), 0, "nothing is open before the first bulk");
        let pipe = pool.take().expect("there is room for a pipe");
        assert_eq!((pool.counters.busy(), pool.counters.idle(), pool.ledger.used(Use::Pipes)), (1, 0, 2));
        pool.give_back(pipe);
        assert_eq!((pool.counters.busy(), pool.counters.idle(), pool.ledger.used(Use::Pipes)), (0, 1, 2));
        let again = pool.take();
        assert_eq!(pool.ledger.used(Use::Pipes), 2, "the idle pipe is taken before a new one");
        drop(again);
        assert_eq!((pool.counters.busy(), pool.counters.idle(), pool.ledger.used(Use::Pipes)), (0, 0, 0));
    }

    #[test]
    fn idle_pipes_go_by_halves() {
        let pool = pool(100);
        let pipes: Vec<Pipe> = std::iter::from_fn(|| pool.take()).take(8).collect();
        pipes.into_iter().for_each(|pipe| pool.give_back(pipe));
        for left in [4, 2, 1, 0] {
            pool.trim();
            assert_eq!((pool.counters.idle(), pool.ledger.used(Use::Pipes)), (left, 2 * left));
        }
    }

    #[test]
    fn without_descriptors_there_is_no_pipe_and_it_is_counted() {
        let pool = pool(2);
        let first = pool.take();
        assert!(first.is_some() && pool.take().is_none());
        assert_eq!((pool.counters.refused(), pool.counters.busy()), (1, 1));
        drop(first);
        assert!(pool.take().is_some(), "there is one again when there are descriptors");
    }
}
