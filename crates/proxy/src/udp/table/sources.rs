//! What sources that have not proven themselves have used of their rates.

use std::hash::{BuildHasher, RandomState};

/// Sources by their recent use, in bounded memory.
///
/// *Shape*: sets of eight entries; a keyed hash says which set a source is in. An entry that tells nothing more than
/// no entry does (unproven, nothing owed: at the latest a second after its last use) is free for another. When a set
/// has none, the number of sets doubles, up to [`MAX_ENTRIES`]; then the entry that was seen least recently makes
/// room, and its source begins anew.
///
/// *Cost*: 40 bytes an entry, none where no rate is limited. A look-up is a hash and at most five cache lines; to
/// double costs a hash an entry, a millisecond at the most.
#[derive(Debug)]
pub(super) struct Sources {
    hashing: RandomState,
    sets: Vec<Set>,
}

/// What a source may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Everything: it has proven itself.
    Proven,
    /// What was asked for, which is used now; or there is no limit.
    Within,
    /// Not what was asked for, and nothing is used.
    Over,
}

type Set = [Entry; WAYS];

/// All zeros is an entry that tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Entry {
    source: u64,
    seen_ms: u64,
    /// When all datagrams are paid for.
    datagrams_ns: u64,
    /// When all bytes of replies are paid for.
    bytes_ns: u64,
    proven: bool,
}

const WAYS: usize = 8;
/// 2.5 MiB for each worker of a listener that is flooded; more sources than a listener has clients that are active
/// and not proven at the same time.
const MAX_ENTRIES: usize = 65_536;
const FIRST_ENTRIES: usize = 128;
/// What a source that was silent may do at once: what it may do in a second.
const BURST_NS: u64 = 1_000_000_000;

impl Sources {
    pub(super) fn new() -> Self {
        Self { hashing: RandomState::new(), sets: Vec::new() }
    }

    /// Whether a source may send `datagrams` more, of which it may `per_second` (0: any).
    pub(super) fn datagrams(&mut self, source: u64, datagrams: u32, per_second: u32, now_ms: u64) -> Standing {
        self.using(source, datagrams.into(), per_second.into(), now_ms, |entry| &mut entry.datagrams_ns)
    }

    /// Whether a source may be sent `bytes` more, of which it may `per_second` (0: any).
    pub(super) fn reply_bytes(&mut self, source: u64, bytes: u64, per_second: u64, now_ms: u64) -> Standing {
        self.using(source, bytes, per_second, now_ms, |entry| &mut entry.bytes_ns)
    }

    /// A source has shown that it receives what is sent to it: that holds as long as its entry does.
    pub(super) fn prove(&mut self, source: u64, now_ms: u64) {
        self.entry(source, now_ms).proven = true;
    }

    fn using(
        &mut self,
        source: u64,
        amount: u64,
        per_second: u64,
        now_ms: u64,
        owed: impl Fn(&mut Entry) -> &mut u64,
    ) -> Standing {
        if per_second == 0 {
            return Standing::Within;
        }
        let entry = self.entry(source, now_ms);
        if entry.proven {
            return Standing::Proven;
        }
        let cost_ns = amount.saturating_mul(BURST_NS) / per_second;
        if pay(owed(entry), cost_ns, nanoseconds(now_ms)) { Standing::Within } else { Standing::Over }
    }

    /// The source's entry, which is made if there is none.
    fn entry(&mut self, source: u64, now_ms: u64) -> &mut Entry {
        let now_ns = nanoseconds(now_ms);
        loop {
            let set = self.set_of(source);
            if let Some(way) = self.sets.get(set).and_then(|set| way(set, source, now_ns)) {
                return self.seen(set, way, source, now_ms);
            }
            if self.sets.len() * WAYS < MAX_ENTRIES {
                self.grow();
                continue;
            }
            let stalest = (0..WAYS).min_by_key(|&way| self.sets[set][way].seen_ms).unwrap_or(0);
            return self.seen(set, stalest, source, now_ms);
        }
    }

    /// The entry at a place, which becomes the source's.
    fn seen(&mut self, set: usize, way: usize, source: u64, now_ms: u64) -> &mut Entry {
        let entry = &mut self.sets[set][way];
        if entry.source != source {
            *entry = Entry { source, ..Entry::default() };
        }
        entry.seen_ms = now_ms;
        entry
    }

    fn set_of(&self, source: u64) -> usize {
        self.hashing.hash_one(source) as usize & self.sets.len().wrapping_sub(1)
    }

    /// Doubles the sets. Each is divided over two, so all entries have room.
    fn grow(&mut self) {
        let sets = (self.sets.len() * 2).max(FIRST_ENTRIES / WAYS);
        let before = std::mem::replace(&mut self.sets, vec![Set::default(); sets]);
        for entry in before.into_iter().flatten() {
            let set = self.set_of(entry.source);
            if let Some(free) = self.sets[set].iter_mut().find(|free| **free == Entry::default()) {
                *free = entry;
            }
        }
    }
}

/// Where in a set a source is, or else could be.
fn way(set: &Set, source: u64, now_ns: u64) -> Option<usize> {
    let tells_nothing = |entry: &Entry| !entry.proven && entry.datagrams_ns.max(entry.bytes_ns) <= now_ns;
    set.iter().position(|entry| entry.source == source).or_else(|| set.iter().position(tells_nothing))
}

/// A token bucket as the time when it will be full again (the virtual scheduling of ITU-T I.371, annex A): no
/// refills, nothing lost by rounding. A full bucket pays for everything and owes the rest, so that a batch of more
/// than a second's worth is late, not stuck.
fn pay(owed_ns: &mut u64, cost_ns: u64, now_ns: u64) -> bool {
    let full = *owed_ns <= now_ns;
    let then_ns = (*owed_ns).max(now_ns).saturating_add(cost_ns);
    let pays = full || then_ns <= now_ns.saturating_add(BURST_NS);
    if pays {
        *owed_ns = then_ns;
    }
    pays
}

fn nanoseconds(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_seconds_worth_at_once_and_its_rate_after() {
        let mut sources = Sources::new();
        // (at, datagrams, what becomes of them), of 10 in a second
        let steps = [
            (5_000, 9, Standing::Within),
            (5_000, 1, Standing::Within),
            (5_000, 1, Standing::Over),
            (5_099, 1, Standing::Over),
            (5_100, 1, Standing::Within),
            (5_100, 1, Standing::Over),
            (5_500, 4, Standing::Within),
            (5_500, 1, Standing::Over),
            (9_000, 10, Standing::Within),
            (9_000, 1, Standing::Over),
            // More than a second's worth: from a full bucket, and owed.
            (20_000, 30, Standing::Within),
            (22_000, 1, Standing::Over),
            (22_099, 1, Standing::Over),
            (22_100, 1, Standing::Within),
        ];
        for (n, (at, datagrams, expected)) in steps.into_iter().enumerate() {
            assert_eq!(sources.datagrams(1, datagrams, 10, at), expected, "step {n}");
        }
        assert_eq!(sources.datagrams(2, 10, 10, 22_100), Standing::Within, "a source's use counts to another");
        assert_eq!(sources.reply_bytes(1, 10, 10, 22_100), Standing::Within, "replies count as datagrams");
    }

    #[test]
    fn without_limits_there_are_no_entries() {
        let mut sources = Sources::new();
        assert_eq!(sources.datagrams(1, u32::MAX, 0, 0), Standing::Within);
        assert_eq!(sources.reply_bytes(1, u64::MAX, 0, 0), Standing::Within);
        assert_eq!(sources.sets.len(), 0);
    }

    #[test]
    fn no_amount_overflows() {
        let mut sources = Sources::new();
        assert_eq!(sources.reply_bytes(1, u64::MAX, 1, u64::MAX), Standing::Within);
        assert_eq!(sources.datagrams(1, u32::MAX, 1, 0), Standing::Within);
        assert_eq!(sources.datagrams(1, 1, u32::MAX, 0), Standing::Over);
    }

    #[test]
    fn the_proven_are_not_counted() {
        let mut sources = Sources::new();
        sources.prove(1, 0);
        assert_eq!(sources.datagrams(1, 1_000_000, 1, 0), Standing::Proven);
        assert_eq!(sources.reply_bytes(1, 1_000_000, 1, 3_600_000), Standing::Proven);
    }

    #[test]
    fn who_owes_nothing_makes_room_without_growth() {
        let mut sources = Sources::new();
        for source in 0..100_000 {
            sources.datagrams(source, 1, 10, source * 100);
        }
        assert_eq!(sources.sets.len() * WAYS, FIRST_ENTRIES, "entries were kept that tell nothing");
    }

    #[test]
    fn growing_keeps_what_is_known() {
        let mut sources = Sources::new();
        sources.prove(1, 0);
        sources.datagrams(2, 10, 10, 0);
        for source in 3..10_000 {
            sources.datagrams(source, 10, 10, 0);
        }
        assert!(sources.sets.len() * WAYS > FIRST_ENTRIES);
        assert_eq!(sources.datagrams(1, 1, 10, 0), Standing::Proven);
        let over = (2..10_000).filter(|&source| sources.datagrams(source, 1, 10, 0) == Standing::Over).count();
        assert_eq!(over, 9_998, "sources that had used their second's worth were forgotten");
    }

    #[test]
    fn a_flood_of_sources_takes_bounded_memory_and_leaves_the_recently_seen() {
        let mut sources = Sources::new();
        sources.prove(0, 0);
        for source in 1..200_000 {
            sources.datagrams(source, 1, 1, 0);
            if source % 1_000 == 0 {
                assert_eq!(sources.datagrams(0, 1, 1, 1), Standing::Proven, "evicted after {source}, though just seen");
            }
        }
        assert_eq!(sources.sets.len() * WAYS, MAX_ENTRIES);
        assert_eq!(sources.sets.iter().flatten().filter(|entry| entry.seen_ms == 1).count(), 1);
        assert!(size_of::<Entry>() <= 40);
    }
}
