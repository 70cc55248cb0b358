//! How datagrams that are to be sent become messages of the kernel: pure.
//!
//! The kernel takes datagrams of one size to one place, of which the last may be shorter, as one message and cuts it
//! late, at best in the network card (UDP_SEGMENT): a train of 64 costs little more than a datagram.

use std::io::IoSlice;
use std::ops::Range;

use super::batch::{Local, Source};
use super::send::Message;
use super::socket::Family;

/// What is sent as one message: a datagram, or several of one size to one place.
#[derive(Clone, Debug)]
pub(super) struct Train<'a> {
    /// Where its bytes are, among those of all.
    slices: Range<usize>,
    pub(super) to: Option<&'a Source>,
    from: Option<Local>,
    ecn: u8,
    /// The length of its datagrams, and of the last of them, with their headers.
    size: usize,
    last: usize,
    pub(super) datagrams: usize,
    /// How much of each datagram is header.
    header: usize,
    /// The first message in it.
    pub(super) message: usize,
}

/// What the kernel must be told beside the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) from: Option<Local>,
    pub(super) ecn: u8,
    /// The length of each datagram of a train; 0 for one alone.
    pub(super) segment: usize,
    /// Whether it goes out by IPv4, which an IPv6 socket has to be told in its terms.
    pub(super) v4: bool,
}

/// All that is sent by one call.
#[derive(Debug, Default)]
pub(super) struct Trains<'a> {
    pub(super) trains: Vec<Train<'a>>,
    slices: Vec<IoSlice<'a>>,
}

/// A part of a message: datagrams of one size without a header, or one with.
struct Piece<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    size: usize,
    last: usize,
    datagrams: usize,
}

impl Control {
    /// Whether there is nothing to tell.
    pub(super) fn is_nothing(&self) -> bool {
        self.from.is_none() && self.ecn == 0 && self.segment == 0
    }
}

impl<'a> Train<'a> {
    pub(super) fn bytes(&self) -> usize {
        self.length() - self.header * self.datagrams
    }

    fn length(&self) -> usize {
        self.size * (self.datagrams - 1) + self.last
    }

    pub(super) fn control(&self, family: Family) -> Control {
        let v4 = match self.to {
            Some(to) => to.inet().is_some_and(|addr| addr.is_ipv4()),
            None => family == Family::V4,
        };
        let segment = if self.datagrams > 1 { self.size } else { 0 };
        Control { from: self.from, ecn: self.ecn, segment, v4 }
    }

    fn takes(&self, piece: &Piece<'a>, longest: usize) -> bool {
        let shorter_end = piece.datagrams == 1 && piece.size < self.size;
        self.last == self.size
            && self.header == piece.header.len()
            && self.size <= longest
            && piece.size > 0
            && (piece.size == self.size || shorter_end)
            && self.datagrams + piece.datagrams <= MAX_DATAGRAMS
            && self.length() + piece.length() <= MAX_BYTES
    }
}

impl Piece<'_> {
    fn length(&self) -> usize {
        self.size * (self.datagrams - 1) + self.last
    }
}

impl<'a> Trains<'a> {
    /// Lays out `messages`; without `offload` each datagram goes alone.
    pub(super) fn new(family: Family, offload: bool, messages: impl IntoIterator<Item = Message<'a>>) -> Self {
        let mut all = Self::default();
        let longest = match family {
            Family::V4 => ETHERNET_BYTES - 20 - 8,
            Family::V6 => ETHERNET_BYTES - 40 - 8,
            Family::Unix => 0,
        };
        let offload = offload && longest > 0;
        for (index, message) in messages.into_iter().enumerate() {
            for piece in pieces(&message, offload) {
                all.add(index, &message, &piece, if offload { longest } else { 0 });
            }
        }
        all
    }

    fn add(&mut self, index: usize, message: &Message<'a>, piece: &Piece<'a>, longest: usize) {
        let start = self.slices.len();
        if !piece.header.is_empty() {
            self.slices.push(IoSlice::new(piece.header));
        }
        self.slices.push(IoSlice::new(piece.payload));
        let Message { to, from, ecn, .. } = *message;
        if let Some(train) = self.trains.last_mut()
            && train.takes(piece, longest)
            && (train.from, train.ecn) == (from, ecn)
            && train.to == to
        {
            train.slices.end = self.slices.len();
            train.datagrams += piece.datagrams;
            train.last = piece.last;
        } else {
            let &Piece { header, size, last, datagrams, .. } = piece;
            let slices = start..self.slices.len();
            self.trains.push(Train {
                slices,
                to,
                from,
                ecn,
                size,
                last,
                datagrams,
                header: header.len(),
                message: index,
            });
        }
    }

    /// The bytes of `train`.
    pub(super) fn slices(&self, train: &Train<'a>) -> &[IoSlice<'a>] {
        &self.slices[train.slices.clone()]
    }

    /// The datagrams of `train`, each alone.
    pub(super) fn apart(&self, train: &Train<'a>) -> Trains<'_> {
        let mut all = Trains::default();
        let mut left = self.slices(train).iter().map(|slice| &slice[..]);
        let mut rest: &[u8] = &[];
        for n in 0..train.datagrams {
            let size = if n + 1 < train.datagrams { train.size } else { train.last };
            let start = all.slices.len();
            let mut missing = size;
            while missing > 0 {
                if rest.is_empty() {
                    let Some(next) = left.next() else { break };
                    rest = next;
                }
                let (now, later) = rest.split_at(missing.min(rest.len()));
                all.slices.push(IoSlice::new(now));
                missing -= now.len();
                rest = later;
            }
            let slices = start..all.slices.len();
            all.trains.push(Train { slices, size, last: size, datagrams: 1, ..train.clone() });
        }
        all
    }
}

/// Cuts a message into what may go as one: as many datagrams as the kernel takes, or one where each has a header.
fn pieces<'a>(message: &Message<'a>, offload: bool) -> impl Iterator<Item = Piece<'a>> + use<'a> {
    let Message { header, payload, segment, .. } = *message;
    let segment = if segment == 0 { payload.len() } else { segment.min(payload.len()) };
    let together =
        if offload && header.is_empty() && segment > 0 { (MAX_BYTES / segment).clamp(1, MAX_DATAGRAMS) } else { 1 };
    // An empty datagram is one too.
    let step = (segment * together).max(1);
    (0..payload.len().div_ceil(step).max(1)).map(move |n| {
        let payload = &payload[n * step..payload.len().min((n + 1) * step)];
        let datagrams = payload.len().div_ceil(segment.max(1)).max(1);
        let last = header.len() + payload.len() - segment * (datagrams - 1);
        let size = if datagrams > 1 { segment } else { last };
        Piece { header, payload, size, last, datagrams }
    })
}

/// Whether trains may be sent whole, as the kernel has taken them so far.
///
/// It refuses one where a network card cannot help (EIO), or where a datagram does not fit the way's MTU (EINVAL,
/// EMSGSIZE). What is refused goes singly, and the next calls do not try: after each refusal twice as many as before.
/// So a socket whose trains are never taken pays for one refusal in [`MAX_PAUSE`] calls, and one destination with a
/// narrow way does not cost the others their trains for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offload {
    refusals: u32,
    pause: u32,
}

impl Offload {
    /// Whether the next call may try.
    pub(super) fn allows(&mut self) -> bool {
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0
    }

    pub(super) fn refused(&mut self) {
        self.refusals = (self.refusals + 1).min(MAX_PAUSE.ilog2());
        self.pause = 1 << self.refusals;
    }

    pub(super) fn taken(&mut self) {
        *self = Self::default();
    }
}

/// The kernel's limit before Linux 6.9 (UDP_MAX_SEGMENTS).
const MAX_DATAGRAMS: usize = 64;

/// Below what IPv4 and IPv6 can say of a packet's length, 65,507 bytes of payload and 65,527.
const MAX_BYTES: usize = 65_000;

/// Datagrams that are longer than an Ethernet frame holds are not made trains: their ways' MTU is not known.
const ETHERNET_BYTES: usize = 1500;

/// Calls without trains after many refusals.
const MAX_PAUSE: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages as (payload length, segment), and what they become as (datagrams, size, last).
    type Case<'a> = (&'a [(usize, usize)], &'a [(usize, usize, usize)]);

    fn laid_out(lengths: &[(usize, usize)], header: &[u8], offload: bool) -> Vec<(usize, usize, usize)> {
        let memory = vec![7; 1 << 16];
        let messages = lengths.iter().map(|&(length, segment)| Message {
            header,
            payload: &memory[..length],
            segment,
            to: None,
            from: None,
            ecn: 0,
        });
        let all = Trains::new(Family::V4, offload, messages);
        for train in &all.trains {
            let length: usize = all.slices(train).iter().map(|slice| slice.len()).sum();
            assert_eq!(length, train.length(), "a train is as long as its bytes");
            let apart = all.apart(train);
            assert_eq!(apart.trains.len(), train.datagrams, "apart it has the same datagrams");
            assert_eq!(apart.trains.iter().map(Train::bytes).sum::<usize>(), train.bytes());
            let joined = |all: &Trains<'_>| all.slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
            assert_eq!(joined(&apart).len(), length);
        }
        all.trains.iter().map(|train| (train.datagrams, train.size, train.last)).collect()
    }

    #[test]
    fn datagrams_of_one_size_become_a_train_whose_last_may_be_shorter() {
        let cases: &[Case<'_>] = &[
            (&[], &[]),
            (&[(0, 0)], &[(1, 0, 0)]),
            (&[(0, 0), (0, 0)], &[(1, 0, 0), (1, 0, 0)]),
            (&[(64, 0), (64, 64), (64, 0)], &[(3, 64, 64)]),
            (&[(64, 0), (10, 0), (64, 0)], &[(2, 64, 10), (1, 64, 64)]),
            (&[(10, 0), (64, 0)], &[(1, 10, 10), (1, 64, 64)]),
            (&[(64, 0), (0, 0)], &[(1, 64, 64), (1, 0, 0)]),
            (&[(1472, 0), (1472, 0)], &[(2, 1472, 1472)]),
            (&[(1473, 0), (1473, 0)], &[(1, 1473, 1473), (1, 1473, 1473)]),
            (&[(1000, 300)], &[(4, 300, 100)]),
            (&[(900, 300), (300, 0), (600, 300)], &[(6, 300, 300)]),
            (&[(900, 300), (1000, 300)], &[(7, 300, 100)]),
            (&[(1000, 300), (900, 300)], &[(4, 300, 100), (3, 300, 300)]),
            (&[(900, 300), (500, 250)], &[(3, 300, 300), (2, 250, 250)]),
            (&[(6500, 100)], &[(64, 100, 100), (1, 100, 100)]),
            (&[(65_507, 0)], &[(1, 65_507, 65_507)]),
            (&[(65_507, 9000)], &[(7, 9000, 9000), (1, 2507, 2507)]),
            (&[(65_507, 60_000)], &[(1, 60_000, 60_000), (1, 5507, 5507)]),
        ];
        for (lengths, expected) in cases {
            assert_eq!(laid_out(lengths, b"", true), *expected, "{lengths:?}");
        }
    }

    #[test]
    fn every_datagram_gets_the_header() {
        assert_eq!(laid_out(&[(1000, 300), (100, 0)], &[1; 28], true), [(4, 328, 128), (1, 128, 128)]);
        assert_eq!(laid_out(&[(0, 0)], &[1; 28], true), [(1, 28, 28)]);
        assert_eq!(laid_out(&[(600, 300)], &[1; 28], false), [(1, 328, 328), (1, 328, 328)]);
    }

    #[test]
    fn without_offload_each_goes_alone() {
        assert_eq!(laid_out(&[(64, 0), (150, 100)], b"", false), [(1, 64, 64), (1, 100, 100), (1, 50, 50)]);
    }

    #[test]
    fn refusals_pause_the_trains_for_longer_and_longer_and_a_train_taken_ends_it() {
        let mut offload = Offload::default();
        let mut tried = 0;
        for _ in 0..10_000 {
            if offload.allows() {
                tried += 1;
                offload.refused();
            }
        }
        assert!((10..=20).contains(&tried), "{tried} of 10,000 calls tried");
        offload.taken();
        assert!(offload.allows() && offload.allows());
    }
}
