//! Hashes that are frozen: the same key leads to the same backend in every release and on every node.

use std::net::IpAddr;

use crate::rng::mix64;
use crate::{Address, Backend};

/// The key of a client's address for `source_hash` and `maglev`. Ports do not count, and an IPv4-mapped address is the
/// IPv4 address, so that one client has one key on every listener.
pub fn source_key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => mix64(u64::from(u32::from(v4)) | 4 << 32),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            mix64(mix64((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// The key of a backend: FNV-1a over its printed address, mixed.
pub(crate) fn address_key(address: &Address) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix64(address.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// Weighted rendezvous hashing: every backend draws a number from its key and the client's, and the highest wins, so
/// that a backend that leaves moves only its own clients, and each to the same next one.
/// (Thaler, Ravishankar 1998; weights as in draft-ietf-bess-weighted-hrw: `-w / ln(u)`.)
///
/// *Cost*: about 15 ns a backend.
pub(crate) fn rendezvous<'a>(source: u64, candidates: impl Iterator<Item = (usize, &'a Backend)>) -> Option<usize> {
    let score = |backend: &Backend| {
        let draw = mix64(source ^ backend.key());
        let unit = (draw as f64 + 1.0) / (u64::MAX as f64 + 2.0);
        -f64::from(backend.endpoint().weight) / unit.ln()
    };
    let scored = candidates.map(|(at, backend)| (at, score(backend)));
    scored.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// A Maglev look-up table (Eisenbud et al., NSDI 2016, section 3.4) with weights.
///
/// *Shape*: slot → index into the level's backends, sorted by address. *Cost*: 130 KiB and about 2 ms to build up to 655
/// backends, ten times that above; a look-up is one load.
#[derive(Debug)]
pub(crate) struct Maglev {
    slots: Vec<u32>,
}

impl Maglev {
    /// A table over `members` as (key, weight); those of weight 0 get no slot. `None` when nobody has weight.
    pub(crate) fn build(members: &[(u64, u32)]) -> Option<Self> {
        let heaviest = members.iter().map(|&(_, weight)| weight).max().filter(|&weight| weight > 0)?;
        let size = if members.len() * SLOTS_PER_BACKEND <= SMALL { SMALL } else { LARGE };
        let mut slots = vec![FREE; size];
        let mut fillers: Vec<Filler> = members.iter().map(|&(key, weight)| Filler::new(key, weight, size)).collect();
        let mut left = size;
        for round in 1u64.. {
            for (at, filler) in fillers.iter_mut().enumerate() {
                if !filler.takes_turn(round, heaviest) {
                    continue;
                }
                let slot = filler.next_free(&slots);
                slots[slot] = at as u32;
                left -= 1;
                if left == 0 {
                    return Some(Self { slots });
                }
            }
        }
        None
    }

    /// The index for `source`; `attempt` above 0 gives further, unrelated indices for when the first may not be used.
    pub(crate) fn lookup(&self, source: u64, attempt: u64) -> usize {
        let word = if attempt == 0 { source } else { mix64(source.wrapping_add(attempt)) };
        self.slots[(word % self.slots.len() as u64) as usize] as usize
    }
}

/// One backend's permutation of the slots and how far it has come.
struct Filler {
    next: usize,
    skip: usize,
    size: usize,
    weight: u64,
    turns: u64,
}

impl Filler {
    fn new(key: u64, weight: u32, size: usize) -> Self {
        let next = (key % size as u64) as usize;
        let skip = (mix64(key) % (size as u64 - 1) + 1) as usize;
        Self { next, skip, size, weight: u64::from(weight), turns: 0 }
    }

    /// Whether its weight earned it a slot in this round; the heaviest gets one in every round.
    fn takes_turn(&mut self, round: u64, heaviest: u32) -> bool {
        let earned = round * self.weight / u64::from(heaviest);
        let takes = earned > self.turns;
        self.turns += u64::from(takes);
        takes
    }

    /// The next free slot of its permutation, which visits every slot since the size is prime. The caller stops when
    /// no slot is left, so there is one.
    fn next_free(&mut self, slots: &[u32]) -> usize {
        loop {
            let slot = self.next;
            self.next = (self.next + self.skip) % self.size;
            if slots[slot] == FREE {
                return slot;
            }
        }
    }
}

const FREE: u32 = u32::MAX;
/// Table sizes of the paper: primes, of which the small one serves until backends get fewer than 100 slots each
/// (with 100, shares differ by at most 1 %).
const SMALL: usize = 65_537;
const LARGE: usize = 655_373;
const SLOTS_PER_BACKEND: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u16) -> Vec<(u64, u32)> {
        let address = |n: u16| format!("10.0.{}.{}:80", n >> 8, n & 255).parse().unwrap();
        (0..count).map(|n| (address_key(&address(n)), 1)).collect()
    }

    #[test]
    fn keys_are_frozen() {
        // Golden values: a change here would move every client of every running installation at its next upgrade.
        assert_eq!(source_key("192.0.2.1".parse().unwrap()), source_key("::ffff:192.0.2.1".parse().unwrap()));
        let golden = [
            (source_key("192.0.2.1".parse().unwrap()), 14_207_849_170_202_569_253),
            (source_key("2001:db8::1".parse().unwrap()), 14_228_343_496_308_075_820),
            (address_key(&"10.0.0.1:80".parse().unwrap()), 15_833_689_265_622_162_035),
        ];
        for (key, frozen) in golden {
            assert_eq!(key, frozen);
        }
    }

    #[test]
    fn the_large_table_is_of_prime_size() {
        for size in [SMALL, LARGE] {
            assert!((2..size).take_while(|n| n * n <= size).all(|n| !size.is_multiple_of(n)), "{size}");
        }
    }

    #[test]
    fn maglev_shares_follow_the_weights() {
        let table = Maglev::build(&[(11, 1), (22, 3), (33, 0)]).unwrap();
        let of = |at| table.slots.iter().filter(|&&slot| slot == at).count() as f64 / SMALL as f64;
        assert!((of(0) - 0.25).abs() < 0.001 && (of(1) - 0.75).abs() < 0.001 && of(2) == 0.0);
        assert!(Maglev::build(&[(1, 0)]).is_none() && Maglev::build(&[]).is_none());
    }

    #[test]
    fn maglev_moves_few_slots_when_a_backend_leaves() {
        let before = members(50);
        let without: Vec<_> = before[..49].to_vec();
        let (old, new) = (Maglev::build(&before).unwrap(), Maglev::build(&without).unwrap());
        let moved = old.slots.iter().zip(&new.slots).filter(|(old, new)| **old != 49 && old != new).count();
        assert!(moved * 20 < SMALL, "{moved} of {SMALL} slots moved that need not have");
    }

    #[test]
    fn above_655_backends_the_large_table_serves() {
        let table = Maglev::build(&members(656)).unwrap();
        assert_eq!(table.slots.len(), LARGE);
    }
}
