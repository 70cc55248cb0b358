//! One direction of a session as a pure state machine: what to do next, and what was done.
//!
//! ```text
//!             took n                    gave n, held = 0
//!   ┌─▶ Read ─────────▶ held > 0: Flush ─────────────────┐
//!   │   (copy)                                           │        took 0              held = 0
//!   └────────────────────────────────────────────────────┴─────▶ ended ─▶ … ─▶ Finish ─▶ Done
//!   ┌────────────────────────────────────────────────────┐        ▲
//!   │   (splice)                                         │        │
//!   └─▶ Fill ─────────▶ held > 0: Drain ─────────────────┴────────┘
//! ```
//!
//! A direction begins by copying, which is cheaper for small messages (two calls, no pipe). After two reads in a row
//! that a large buffer could not have taken much more of, it moves on to splice; after eight small transfers it goes
//! back. What is held is always given before more is taken: so a pipe is empty whenever it is filled, back-pressure
//! needs no further rule, and the end of the stream is forwarded after its last byte.

/// What the shell has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read from the source into the scratch buffer.
    Read,
    /// Write what is held in memory to the sink.
    Flush,
    /// Splice from the source into the pipe.
    Fill,
    /// Splice from the pipe to the sink.
    Drain,
    /// Forward the end of the stream.
    Finish,
    /// Nothing; this direction is over.
    Done,
}

/// What carries the bytes of this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Copy,
    Splice,
}

/// The state of one direction.
#[derive(Debug)]
pub(crate) struct Flow {
    carrier: Carrier,
    may_splice: bool,
    /// Taken from the source and not yet given to the sink. A pipe may hold more than its nominal size, since its slots
    /// refer to fragments of any size; nothing here depends on it.
    held: usize,
    ended: bool,
    finished: bool,
    /// Transfers in a row that speak for the other carrier.
    streak: u8,
    given: u64,
    spliced: u64,
}

impl Flow {
    /// A direction that begins with `held` bytes in memory: a header to send first, or what was read to choose a route.
    pub(crate) fn new(held: usize, may_splice: bool) -> Self {
        let (ended, finished) = (false, false);
        Self { carrier: Carrier::Copy, may_splice, held, ended, finished, streak: 0, given: 0, spliced: 0 }
    }

    pub(crate) fn next(&self) -> Step {
        match self.carrier {
            _ if self.finished => Step::Done,
            Carrier::Copy if self.held > 0 => Step::Flush,
            Carrier::Splice if self.held > 0 => Step::Drain,
            _ if self.ended => Step::Finish,
            Carrier::Copy => Step::Read,
            Carrier::Splice => Step::Fill,
        }
    }

    /// The source gave `count` bytes, 0 being its end.
    pub(crate) fn took(&mut self, count: usize) {
        self.held += count;
        self.ended |= count == 0;
        let speaks_for_other = match self.carrier {
            Carrier::Copy => count >= BULK_BYTES,
            Carrier::Splice => count < SMALL_BYTES,
        };
        self.streak = if speaks_for_other { self.streak.saturating_add(1) } else { 0 };
    }

    /// The sink took `count` of the bytes held.
    pub(crate) fn gave(&mut self, count: usize) {
        debug_assert!(count <= self.held, "a sink takes no more than there is");
        self.held -= count;
        self.given += count as u64;
        self.spliced += if self.carrier == Carrier::Splice { count as u64 } else { 0 };
    }

    /// The end was forwarded, or need not be since the other direction ended first and the sockets are about to close.
    pub(crate) fn finished(&mut self) {
        self.finished = true;
    }

    /// Changes the carrier if the last transfers speak for it; only between transfers, since bytes in a pipe can only
    /// be spliced out.
    pub(crate) fn choose_carrier(&mut self) {
        if self.held > 0 {
            return;
        }
        match self.carrier {
            Carrier::Copy if self.may_splice && self.streak >= BULK_STREAK => self.carry_by(Carrier::Splice),
            Carrier::Splice if self.streak >= SMALL_STREAK => self.carry_by(Carrier::Copy),
            Carrier::Copy | Carrier::Splice => {}
        }
    }

    /// There was no pipe to fill: copy for a while.
    pub(crate) fn copy(&mut self) {
        self.carry_by(Carrier::Copy);
    }

    /// The source cannot be spliced at all.
    pub(crate) fn never_splice(&mut self) {
        self.may_splice = false;
        self.carry_by(Carrier::Copy);
    }

    fn carry_by(&mut self, carrier: Carrier) {
        debug_assert!(self.held == 0, "the carrier changes between transfers");
        self.carrier = carrier;
        self.streak = 0;
    }

    /// Whether nothing was ever taken.
    pub(crate) fn is_fresh(&self) -> bool {
        self.held == 0 && self.given == 0
    }

    /// Bytes taken and not yet given.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Whether the source has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether this direction is over.
    pub(crate) fn is_done(&self) -> bool {
        self.finished
    }

    /// Bytes given to the sink, and how many of them by splice.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.given, self.spliced)
    }
}

/// A read of this much of a 64 KiB buffer is bulk.
const BULK_BYTES: usize = 32 * 1024;
/// Two, so that one large message among small ones does not cost a pipe.
const BULK_STREAK: u8 = 2;
/// Below a page or so splice(2) costs more than copying.
const SMALL_BYTES: usize = 4 * 1024;
const SMALL_STREAK: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn took_and_gave(flow: &mut Flow, count: usize) {
        flow.took(count);
        flow.gave(count);
    }

    #[test]
    fn the_end_is_forwarded_after_the_last_byte() {
        let mut flow = Flow::new(0, true);
        flow.took(10);
        flow.gave(4);
        assert_eq!(flow.next(), Step::Flush);
        flow.gave(6);
        assert_eq!(flow.next(), Step::Read);
        flow.took(0);
        assert_eq!(flow.next(), Step::Finish);
        flow.finished();
        assert_eq!(flow.next(), Step::Done);
    }

    #[test]
    fn initial_bytes_go_out_before_anything_is_read() {
        let mut flow = Flow::new(28, true);
        assert_eq!(flow.next(), Step::Flush);
        flow.gave(28);
        assert_eq!(flow.next(), Step::Read);
    }

    #[test]
    fn two_bulk_reads_in_a_row_ask_for_a_pipe_and_eight_small_transfers_give_it_up() {
        let mut flow = Flow::new(0, true);
        took_and_gave(&mut flow, BULK_BYTES);
        took_and_gave(&mut flow, 100);
        took_and_gave(&mut flow, BULK_BYTES);
        flow.choose_carrier();
        assert_eq!(flow.next(), Step::Read, "they were not in a row");
        took_and_gave(&mut flow, BULK_BYTES);
        flow.choose_carrier();
        assert_eq!(flow.next(), Step::Fill);
        (0..7).for_each(|_| took_and_gave(&mut flow, 64));
        flow.choose_carrier();
        assert_eq!(flow.next(), Step::Fill, "seven small transfers are not eight");
        took_and_gave(&mut flow, 64);
        flow.choose_carrier();
        assert_eq!(flow.next(), Step::Read);
        assert_eq!(flow.totals(), (3 * BULK_BYTES as u64 + 100 + 8 * 64, 8 * 64));
    }

    #[test]
    fn without_a_pipe_it_copies_for_a_while_and_without_splice_for_good() {
        let mut flow = Flow::new(0, true);
        let bulk = |flow: &mut Flow| {
            (0..2).for_each(|_| took_and_gave(flow, BULK_BYTES));
            flow.choose_carrier();
        };
        bulk(&mut flow);
        flow.copy();
        assert_eq!(flow.next(), Step::Read);
        bulk(&mut flow);
        assert_eq!(flow.next(), Step::Fill, "a pipe is asked for again");
        flow.never_splice();
        bulk(&mut flow);
        assert_eq!(flow.next(), Step::Read, "a source that refused splice(2) is not asked again");
    }

    /// A source and a sink with plans of their own, driven by the machine: what arrives is what was sent, in order,
    /// and the end comes after all of it.
    fn run(source: &[u8], reads: &[usize], writes: &[usize], pipes: &[bool]) -> (Vec<u8>, bool) {
        let (mut flow, mut at, mut held, mut out) = (Flow::new(0, true), 0, Vec::new(), Vec::new());
        let mut turn = 0;
        loop {
            turn += 1;
            let pick = |plan: &[usize]| plan[turn % plan.len()];
            flow.choose_carrier();
            match flow.next() {
                Step::Fill if !pipes[turn % pipes.len()] => flow.copy(),
                Step::Read | Step::Fill => {
                    let count = pick(reads).min(source.len() - at);
                    held.extend_from_slice(&source[at..at + count]);
                    at += count;
                    flow.took(count);
                }
                Step::Flush | Step::Drain => {
                    let count = pick(writes).min(held.len());
                    out.extend(held.drain(..count));
                    flow.gave(count);
                }
                Step::Finish => flow.finished(),
                Step::Done => return (out, at == source.len()),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_arrives_is_what_was_sent(
            source in proptest::collection::vec(any::<u8>(), 0..120_000),
            reads in proptest::collection::vec(prop_oneof![100usize..4_000, 32_000usize..70_000], 1..10),
            writes in proptest::collection::vec(100usize..70_000, 1..10),
            pipes in proptest::collection::vec(any::<bool>(), 1..4),
        ) {
            let (out, whole) = run(&source, &reads, &writes, &pipes);
            prop_assert!(out == source, "bytes were lost, added or moved");
            prop_assert!(whole);
        }
    }
}
