//! The line in which sessions wait while every backend is full: the lock and the wake-ups around `balance::Queue`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use balance::{Entered, Queue, Reader, Ticket};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The line of one service, shared by all listeners and workers that serve it.
///
/// *Cost*: the lock is taken by those who wait, and by a session that ends while somebody waits; nobody else sees it.
#[derive(Debug)]
pub struct Line(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    alarms: HashMap<Ticket, Arc<Notify>>,
}

/// A place in the line. Dropping it leaves, and passes on a wake-up that was not used.
#[derive(Debug)]
pub(crate) struct Waiting {
    line: Arc<Line>,
    backends: Reader,
    ticket: Ticket,
    alarm: Arc<Notify>,
}

/// Why a session cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWait {
    /// Something changed since its pick: pick again.
    Again,
    /// The line is as long as it may be.
    Full,
}

impl Line {
    /// A line of at most `most`.
    pub fn new(most: usize) -> Self {
        Self(Mutex::new(Inner { queue: Queue::new(most), alarms: HashMap::new() }))
    }

    /// Changes how many may wait; those who do already stay.
    pub fn set_most(&self, most: usize) {
        self.lock().queue.set_most(most);
    }

    /// Takes a place. `seen` is what the turnstile of `backends` showed before the pick that found all full, or nothing
    /// when there was none because others wait.
    pub(crate) fn enter(self: &Arc<Self>, backends: &Reader, seen: Option<u64>) -> Result<Waiting, NoWait> {
        let mut inner = self.lock();
        let ticket = match inner.queue.enter(backends.load().turnstile(), seen) {
            Entered::Waiting(ticket) => ticket,
            Entered::Again => return Err(NoWait::Again),
            Entered::Full => return Err(NoWait::Full),
        };
        let alarm = Arc::new(Notify::new());
        inner.alarms.insert(ticket, Arc::clone(&alarm));
        Ok(Waiting { line: Arc::clone(self), backends: backends.clone(), ticket, alarm })
    }

    /// A place at a backend was freed: wakes whoever is next.
    pub(crate) fn freed(&self) {
        let mut inner = self.lock();
        let next = inner.queue.freed();
        inner.wake(next);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&self, ticket: Option<Ticket>) {
        ticket.and_then(|ticket| self.alarms.get(&ticket)).into_iter().for_each(|alarm| alarm.notify_one());
    }
}

impl Waiting {
    /// Waits until it is worth to pick again. `false` when `deadline` came first.
    ///
    /// Freed places wake the next in line. A backend that came back, or a set that grew, wakes nobody; so whoever is
    /// next looks by itself now and then.
    pub(crate) async fn turn(&self, deadline: Instant) -> bool {
        loop {
            let look = deadline.min(Instant::now() + LOOK);
            let woken = timeout_at(look, self.alarm.notified()).await.is_ok();
            if woken {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            if self.line.lock().queue.looks(self.ticket) {
                return true;
            }
        }
    }

    /// The pick after its turn found nothing; `seen` is what the turnstile showed before. `true` when it should pick
    /// once more at once. `choosy` is whether it may not use all backends, so that the place may do for somebody else.
    pub(crate) fn again(&self, seen: u64, choosy: bool) -> bool {
        let mut inner = self.line.lock();
        let at_once = inner.queue.again(self.backends.load().turnstile(), self.ticket, seen);
        if choosy && !at_once {
            let next = inner.queue.passed_on(self.ticket);
            inner.wake(next);
        }
        at_once
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inner = self.line.lock();
        inner.alarms.remove(&self.ticket);
        let next = inner.queue.settled(self.backends.load().turnstile(), self.ticket);
        inner.wake(next);
    }
}

/// How often the next in line looks without being woken.
const LOOK: Duration = Duration::from_millis(100);
