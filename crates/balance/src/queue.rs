//! Who waits for a place at a full backend, and who is next.
//!
//! Sessions that find every backend full wait in line, oldest first, up to a bound, each as long as it likes. The shell
//! keeps one [`Queue`] a service behind a lock that only waiters, and finishers while somebody waits, take.
//!
//! ```text
//!   newcomer: waiting? ──no──▶ seen = turnstile.passed() ──▶ pick ──▶ a backend
//!                │ yes            ▲                            │ Wait
//!                ▼                │ Again                      ▼
//!             enter(seen) ◀───────┴──────────────────────── enter(seen) ──▶ Waiting(ticket) … woken ──▶ pick ──▶ settled
//!
//!   finisher: lease dropped (counts at the turnstile) ──▶ waiting? ──yes──▶ lock, freed() ──▶ wake that ticket
//! ```
//!
//! The known trap is the last finisher that looks at the queue just before a waiter enters it, and nobody ever wakes
//! that one (HAProxy had it three times). Here a waiter brings along what the turnstile showed *before* its pick; if it
//! shows something else by the time it enters, a place was freed in between and it picks again. And a wake-up is a
//! thing that somebody holds: who leaves without having used it passes it on.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// Counts freed places of a service, and those who wait for one. Its order with the queue's lock is what makes wake-ups
/// certain, so every access is sequentially consistent; leases touch it only where backends have a limit.
#[derive(Debug, Default)]
pub struct Turnstile {
    passed: AtomicU64,
    waiting: AtomicU32,
}

impl Turnstile {
    /// How often a place was freed. Read it before the pick whose [`Pick::Wait`](crate::Pick::Wait) leads to the queue.
    pub fn passed(&self) -> u64 {
        self.passed.load(SeqCst)
    }

    /// Whether anybody waits: a newcomer then waits behind them, and a finisher wakes the first of them.
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// A place was freed. Leases call it; so does the writer of a set, whose change may bring places.
    pub(crate) fn freed(&self) {
        self.passed.fetch_add(1, SeqCst);
    }
}

/// A place in the line. Lower is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What came of entering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Wait until this ticket is woken, or leave.
    Waiting(Ticket),
    /// A place was freed since the pick: pick again at once.
    Again,
    /// Too many wait already: refuse.
    Full,
}

/// The line of one service.
#[derive(Debug)]
pub struct Queue {
    most: usize,
    next: u64,
    /// Asleep. Each keeps its deadline itself.
    asleep: BTreeSet<Ticket>,
    /// Woken, on their way to a pick.
    awake: BTreeSet<Ticket>,
}

impl Queue {
    /// A line of at most `most`.
    pub fn new(most: usize) -> Self {
        Self { most, next: 0, asleep: BTreeSet::new(), awake: BTreeSet::new() }
    }

    /// Changes the bound. Those who wait already stay.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Whether nobody older waits.
    pub fn is_next(&self, ticket: Ticket) -> bool {
        let oldest = [self.asleep.first(), self.awake.first()].into_iter().flatten().min();
        oldest == Some(&ticket)
    }

    /// A newcomer: `seen` is what it saw at the turnstile before the pick that said to wait, or nothing if it did not
    /// pick since others wait already.
    pub fn enter(&mut self, turnstile: &Turnstile, seen: Option<u64>) -> Entered {
        if self.asleep.len() + self.awake.len() >= self.most {
            return Entered::Full;
        }
        let ticket = Ticket(self.next);
        // Announced before the look at the turnstile: a finisher either sees us waiting or was seen by us.
        turnstile.waiting.fetch_add(1, SeqCst);
        let nobody_before = self.asleep.is_empty() && self.awake.is_empty();
        if nobody_before && seen != Some(turnstile.passed()) {
            turnstile.waiting.fetch_sub(1, SeqCst);
            return Entered::Again;
        }
        self.next += 1;
        self.asleep.insert(ticket);
        Entered::Waiting(ticket)
    }

    /// A place was freed: who is to be woken for it.
    pub fn freed(&mut self) -> Option<Ticket> {
        let ticket = self.asleep.pop_first()?;
        self.awake.insert(ticket);
        Some(ticket)
    }

    /// The next in line looks by itself, without a place that was freed for it. It counts as woken, so that it wakes
    /// others in turn if it finds one.
    pub fn looks(&mut self, ticket: Ticket) -> bool {
        let is_next = self.is_next(ticket);
        if is_next && self.asleep.remove(&ticket) {
            self.awake.insert(ticket);
        }
        is_next
    }

    /// A woken session cannot use what was freed, since it has tried that backend: who is to be woken in its stead.
    pub fn passed_on(&mut self, ticket: Ticket) -> Option<Ticket> {
        let &next = self.asleep.range((Excluded(ticket), Unbounded)).next()?;
        self.asleep.remove(&next);
        self.awake.insert(next);
        Some(next)
    }

    /// The pick of a woken session said to wait again; `seen` is what it saw at the turnstile before. It goes back to
    /// its old place, or picks again at once if this returns `true`.
    pub fn again(&mut self, turnstile: &Turnstile, ticket: Ticket, seen: u64) -> bool {
        if turnstile.passed() != seen {
            return true;
        }
        if self.awake.remove(&ticket) {
            self.asleep.insert(ticket);
        }
        false
    }

    /// A waiter is through: it has a backend, or it left, by deadline or because its client did. Returns who is
    /// to be woken next: in its stead if it held a wake-up that it did not use, and after it if it did, since where one
    /// place was free there may be two. (The chain ends with the first who finds none.)
    pub fn settled(&mut self, turnstile: &Turnstile, ticket: Ticket) -> Option<Ticket> {
        let was_awake = self.awake.remove(&ticket);
        if was_awake || self.asleep.remove(&ticket) {
            turnstile.waiting.fetch_sub(1, SeqCst);
        }
        if was_awake { self.freed() } else { None }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.asleep.len() + self.awake.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn waiting(queue: &mut Queue, turnstile: &Turnstile) -> Ticket {
        match queue.enter(turnstile, Some(turnstile.passed())) {
            Entered::Waiting(ticket) => ticket,
            other => panic!("should wait: {other:?}"),
        }
    }

    #[test]
    fn the_oldest_is_woken_first_and_keeps_its_place_when_it_finds_nothing() {
        let (mut queue, turnstile) = (Queue::new(10), Turnstile::default());
        let first = waiting(&mut queue, &turnstile);
        let second = waiting(&mut queue, &turnstile);
        turnstile.freed();
        assert_eq!(queue.freed(), Some(first));
        assert!(!queue.again(&turnstile, first, turnstile.passed()));
        turnstile.freed();
        assert_eq!(queue.freed(), Some(first), "its place is older than the second's");
        assert_eq!(queue.settled(&turnstile, first), Some(second), "there may be a place for it too");
    }

    #[test]
    fn who_looks_by_itself_and_finds_a_place_wakes_the_next() {
        let (mut queue, turnstile) = (Queue::new(10), Turnstile::default());
        let tickets: Vec<Ticket> = (0..3).map(|_| waiting(&mut queue, &turnstile)).collect();
        assert!(!queue.looks(tickets[1]), "only the oldest looks");
        assert!(queue.looks(tickets[0]));
        assert_eq!(queue.settled(&turnstile, tickets[0]), Some(tickets[1]), "where one place is there may be more");
        assert_eq!(queue.settled(&turnstile, tickets[1]), Some(tickets[2]));
    }

    #[test]
    fn a_place_that_the_oldest_cannot_use_goes_to_the_next() {
        let (mut queue, turnstile) = (Queue::new(10), Turnstile::default());
        let (first, second) = (waiting(&mut queue, &turnstile), waiting(&mut queue, &turnstile));
        turnstile.freed();
        assert_eq!(queue.freed(), Some(first));
        assert!(!queue.again(&turnstile, first, turnstile.passed()));
        assert_eq!(queue.passed_on(first), Some(second));
        assert_eq!(queue.passed_on(second), None, "nobody is left");
    }

    #[test]
    fn the_line_is_bounded_and_a_place_freed_before_entering_is_not_slept_through() {
        let (mut queue, turnstile) = (Queue::new(1), Turnstile::default());
        let seen = turnstile.passed();
        turnstile.freed();
        assert_eq!(queue.enter(&turnstile, Some(seen)), Entered::Again);
        assert_eq!(queue.enter(&turnstile, None), Entered::Again, "those it saw waiting have gone");
        assert!(!turnstile.is_awaited());
        waiting(&mut queue, &turnstile);
        assert_eq!(queue.enter(&turnstile, None), Entered::Full);
        assert_eq!(turnstile.waiting(), 1);
    }

    #[test]
    fn who_leaves_with_an_unused_wake_up_passes_it_on() {
        let (mut queue, turnstile) = (Queue::new(10), Turnstile::default());
        let first = waiting(&mut queue, &turnstile);
        let second = waiting(&mut queue, &turnstile);
        queue.freed();
        assert_eq!(queue.settled(&turnstile, first), Some(second));
        assert_eq!(queue.settled(&turnstile, second), None);
        assert!(!turnstile.is_awaited() && queue.is_empty());
    }

    #[test]
    fn a_sleeper_that_leaves_is_not_woken_and_wakes_nobody() {
        let (mut queue, turnstile) = (Queue::new(10), Turnstile::default());
        let (first, second) = (waiting(&mut queue, &turnstile), waiting(&mut queue, &turnstile));
        assert_eq!(queue.settled(&turnstile, first), None, "no place was freed for it");
        assert_eq!((queue.len(), turnstile.waiting()), (1, 1));
        assert_eq!(queue.freed(), Some(second));
    }

    /// What one actor does next. Every step is what a shell does without giving up the processor; between steps any
    /// other actor may run.
    #[derive(Clone, Copy, Debug)]
    enum Client {
        Look,
        Pick { seen: u64 },
        Enter { seen: Option<u64> },
        Asleep(Ticket),
        Woken(Ticket),
        WokenPick { ticket: Ticket, seen: u64 },
        WokenAgain { ticket: Ticket, seen: u64 },
        Holding,
        Freed,
        Done,
    }

    /// Sessions that share one place or two, in every order that the seed gives: each gets it, and nobody is left asleep.
    #[test]
    fn in_any_order_of_steps_nobody_is_left_waiting() {
        for seed in 0..20_000 {
            let (mut queue, turnstile, mut rng) = (Queue::new(100), Turnstile::default(), Rng::new(seed));
            let mut clients = [Client::Look; 5];
            let mut free = 1 + (seed % 2) as u32;
            let mut steps = 0;
            while !clients.iter().all(|client| matches!(client, Client::Done)) {
                steps += 1;
                assert!(steps < 5_000, "seed {seed}: somebody sleeps for ever: {clients:?}");
                let at = rng.below(5) as usize;
                let mut wake = None;
                clients[at] = match clients[at] {
                    Client::Look if turnstile.is_awaited() => Client::Enter { seen: None },
                    Client::Look => Client::Pick { seen: turnstile.passed() },
                    Client::Pick { .. } | Client::WokenPick { .. } if free > 0 => {
                        free -= 1;
                        if let Client::WokenPick { ticket, .. } = clients[at] {
                            wake = queue.settled(&turnstile, ticket);
                        }
                        Client::Holding
                    }
                    Client::Pick { seen } => Client::Enter { seen: Some(seen) },
                    Client::Enter { seen } => match queue.enter(&turnstile, seen) {
                        Entered::Waiting(ticket) => Client::Asleep(ticket),
                        Entered::Again => Client::Look,
                        Entered::Full => unreachable!("the line holds all"),
                    },
                    Client::Woken(ticket) => Client::WokenPick { ticket, seen: turnstile.passed() },
                    Client::WokenPick { ticket, seen } => Client::WokenAgain { ticket, seen },
                    Client::WokenAgain { ticket, seen } => match queue.again(&turnstile, ticket, seen) {
                        true => Client::Woken(ticket),
                        false => Client::Asleep(ticket),
                    },
                    Client::Holding => {
                        free += 1;
                        turnstile.freed();
                        Client::Freed
                    }
                    Client::Freed => {
                        wake = if turnstile.is_awaited() { queue.freed() } else { None };
                        Client::Done
                    }
                    same @ (Client::Asleep(_) | Client::Done) => same,
                };
                if let Some(ticket) = wake {
                    let sleeper = |client: &&mut Client| matches!(client, Client::Asleep(own) if *own == ticket);
                    *clients.iter_mut().find(sleeper).expect("who is woken sleeps") = Client::Woken(ticket);
                }
            }
            assert!(queue.is_empty() && !turnstile.is_awaited());
        }
    }
}
