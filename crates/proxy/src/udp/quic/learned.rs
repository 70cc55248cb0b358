//! Connection ids that servers were seen to choose: the one thing that the workers of a service share about datagrams.
//!
//! A client whose address changed under it (a NAT forgot it, or gave it another port) goes on with the connection id
//! that it has. Its datagrams arrive from an address without a flow, perhaps at another worker, and this map says where
//! they belong. Its limits:
//!
//! * A client that *moves* (RFC 9000 section 9) uses a new connection id, which it was given in an encrypted
//!   NEW_CONNECTION_ID frame. Nobody between the endpoints has seen it, and only ids with the server's name in them
//!   ([`QuicLb`](super::QuicLb)) lead on. The same holds for a server that replaces its first id by such frames.
//! * A short header has no length. The lengths that servers ever used are tried, longest first; ids below four bytes are
//!   not learned, as they say too little: others would begin with them by chance.
//! * The memory is bounded. A server's ids are seen during the handshake only, so a flood of new connections has old
//!   ones forgotten. Who is forgotten loses nothing until its address changes.
//! * A restart forgets all.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use balance::Backend;

use super::{CONNECTION_ID_MOST, ConnectionId};

/// Which backend chose which connection id. One for a service, shared by its workers.
///
/// *Shape*: 16 parts behind a lock each; in each two generations, of which the older is forgotten as a whole when the
/// younger is full. 65,536 ids are kept at most, and about the last 32,768 at least. *Cost*: a lock held for a look into
/// two maps. An id allocates nothing of its own; the maps grow as they fill, to some 5 MiB.
pub struct LearnedIds {
    parts: [Mutex<Generations>; PARTS],
    /// Keyed at random, so that nobody can choose ids that collide.
    hasher: RandomState,
    /// Bit `n` is set when an id of `n` bytes was ever learned.
    lengths: AtomicU32,
    forgotten: AtomicU64,
}

/// What one part knows.
#[derive(Default)]
struct Generations {
    young: HashMap<ConnectionId, Arc<Backend>, RandomState>,
    old: HashMap<ConnectionId, Arc<Backend>, RandomState>,
    /// Most ids of a generation.
    most: usize,
}

impl LearnedIds {
    /// An empty one, which costs no memory to speak of until ids are learned.
    pub fn new() -> Self {
        Self::bounded(MOST)
    }

    /// Of at most `most` ids.
    pub(crate) fn bounded(most: usize) -> Self {
        let hasher = RandomState::new();
        let part = |_| {
            let map = || HashMap::with_hasher(hasher.clone());
            Mutex::new(Generations { young: map(), old: map(), most: (most / PARTS / 2).max(1) })
        };
        Self {
            parts: std::array::from_fn(part),
            hasher,
            lengths: AtomicU32::default(),
            forgotten: AtomicU64::default(),
        }
    }

    /// `backend` chose `cid`: for the source id of a packet with a long header that it sends to a client. Ids below 4 and
    /// above 20 bytes are left alone. The last backend that chose an id has it.
    pub fn learn(&self, cid: &[u8], backend: &Arc<Backend>) {
        let Some(cid) = ConnectionId::new(cid).filter(|_| cid.len() >= LEAST_BYTES) else { return };
        self.lengths.fetch_or(1 << cid.length, Relaxed);
        let forgotten = self.part(&cid).insert(cid, backend);
        self.forgotten.fetch_add(forgotten, Relaxed);
    }

    /// The backend that chose the id with which `short_after_first` begins: what follows the first byte of a short header.
    ///
    /// It is the backend as of the set in which it was learned: the caller looks for its address in the set of now.
    pub fn find(&self, short_after_first: &[u8]) -> Option<Arc<Backend>> {
        let lengths = self.lengths.load(Relaxed);
        (LEAST_BYTES..=CONNECTION_ID_MOST)
            .rev()
            .filter(|length| lengths & (1 << length) != 0)
            .filter_map(|length| ConnectionId::new(short_after_first.get(..length)?))
            .find_map(|cid| self.known(cid))
    }

    /// How many ids are known.
    pub fn len(&self) -> usize {
        let ids = |part: &Mutex<Generations>| lock(part).len();
        self.parts.iter().map(ids).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many ids were forgotten for newer ones.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }

    /// Whoever is looked for is in use, and is remembered as if it were new.
    fn known(&self, cid: ConnectionId) -> Option<Arc<Backend>> {
        let mut part = self.part(&cid);
        if let Some(backend) = part.young.get(&cid) {
            return Some(Arc::clone(backend));
        }
        let backend = part.old.get(&cid).cloned()?;
        let forgotten = part.insert(cid, &backend);
        self.forgotten.fetch_add(forgotten, Relaxed);
        Some(backend)
    }

    fn part(&self, cid: &ConnectionId) -> MutexGuard<'_, Generations> {
        // The maps place by the lowest and the highest bits of the same hash.
        let part = self.hasher.hash_one(cid) >> 32;
        lock(&self.parts[part as usize % PARTS])
    }
}

impl Generations {
    /// Returns how many ids were forgotten for it.
    fn insert(&mut self, cid: ConnectionId, backend: &Arc<Backend>) -> u64 {
        if let Some(known) = self.young.get_mut(&cid) {
            *known = Arc::clone(backend);
            return 0;
        }
        self.old.remove(&cid);
        let mut forgotten = 0;
        if self.young.len() >= self.most {
            forgotten = self.old.len() as u64;
            self.old.clear();
            mem::swap(&mut self.young, &mut self.old);
        }
        self.young.insert(cid, Arc::clone(backend));
        forgotten
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

impl Default for LearnedIds {
    fn default() -> Self {
        Self::new()
    }
}

/// Ids are not printed: who has one can send into its connection's path.
impl fmt::Debug for LearnedIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LearnedIds").field("len", &self.len()).field("forgotten", &self.forgotten()).finish()
    }
}

/// Nothing panics while a part is locked, and a map is whole after every step.
fn lock(part: &Mutex<Generations>) -> MutexGuard<'_, Generations> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many workers seldom meet at one lock.
const PARTS: usize = 16;
/// Most ids. Ten thousand handshakes a second are remembered for some five seconds, a hundred for some ten minutes.
const MOST: usize = 65_536;
/// Three bytes would be met by chance: with 65,536 ids known, by one unknown id in 256.
const LEAST_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use balance::Rng;

    use super::*;
    use crate::fuzzing::backends;

    fn known(ids: &LearnedIds, short: &[u8]) -> Option<String> {
        ids.find(short).map(|backend| backend.address().to_string())
    }

    #[test]
    fn a_short_header_that_begins_with_a_learned_id_leads_to_its_backend() {
        let (ids, backends) = (LearnedIds::new(), backends(3));
        assert_eq!(known(&ids, b"anything"), None);
        ids.learn(b"abcdefgh", &backends[0]);
        ids.learn(b"ABCDEFGHIJKLMNOPQRST", &backends[1]);
        ids.learn(b"1234", &backends[2]);
        for (short, backend) in [
            (b"abcdefgh and what is encrypted".as_slice(), Some(0)),
            (b"abcdefgh", Some(0)),
            (b"abcdefg", None),
            (b"ABCDEFGHIJKLMNOPQRST...", Some(1)),
            (b"ABCDEFGHIJKLMNOPQRSX...", None),
            (b"12345678", Some(2)),
            (b"", None),
        ] {
            let expected = backend.map(|index: usize| backends[index].address().to_string());
            assert_eq!(known(&ids, short), expected, "{short:?}");
        }
    }

    #[test]
    fn of_ids_that_begin_with_one_another_the_longest_is_taken() {
        let (ids, backends) = (LearnedIds::new(), backends(2));
        ids.learn(b"1234", &backends[0]);
        ids.learn(b"12345678", &backends[1]);
        assert_eq!(known(&ids, b"12345678...").unwrap(), backends[1].address().to_string());
        assert_eq!(known(&ids, b"12345677...").unwrap(), backends[0].address().to_string());
    }

    #[test]
    fn ids_that_say_too_little_or_fit_no_version_are_not_learned() {
        let (ids, backends) = (LearnedIds::new(), backends(1));
        for length in [0, 1, 3, 21, 255] {
            ids.learn(&vec![7; length], &backends[0]);
        }
        assert!(ids.is_empty());
        assert_eq!(known(&ids, &[7; 64]), None);
    }

    #[test]
    fn the_last_backend_that_chose_an_id_has_it() {
        let (ids, backends) = (LearnedIds::new(), backends(2));
        ids.learn(b"12345678", &backends[0]);
        ids.learn(b"12345678", &backends[1]);
        assert_eq!(known(&ids, b"12345678").unwrap(), backends[1].address().to_string());
        assert_eq!((ids.len(), ids.forgotten()), (1, 0));
    }

    #[test]
    fn the_oldest_ids_are_forgotten_and_those_in_use_are_not() {
        let (ids, backends) = (LearnedIds::bounded(1_024), backends(1));
        let mut learned = 0;
        ids.learn(b"in use", &backends[0]);
        for number in 0..10_000u64 {
            ids.learn(&number.to_be_bytes(), &backends[0]);
            assert!(ids.find(b"in use, still").is_some(), "an id in use was forgotten after {number}");
            learned += 1;
            assert!(ids.len() <= 1_024, "more ids are kept than may be");
            assert_eq!(ids.len() as u64 + ids.forgotten(), learned + 1, "an id is neither known nor forgotten");
        }
        // A part keeps its last 32 ids at least, and sees one id in 16.
        let kept = |number: u64| ids.find(&number.to_be_bytes()).is_some();
        assert!((9_900..10_000).all(kept), "young ids were forgotten");
        assert!(!(0..5_000).any(kept), "old ids were not");
    }

    #[test]
    fn workers_that_learn_and_find_at_once_agree() {
        let (ids, backends) = (LearnedIds::new(), backends(4));
        std::thread::scope(|scope| {
            for (worker, backend) in backends.iter().enumerate() {
                let ids = &ids;
                scope.spawn(move || {
                    let mut rng = Rng::new(worker as u64);
                    for _ in 0..2_000 {
                        let id = [&[worker as u8], rng.next_u64().to_be_bytes().as_slice()].concat();
                        ids.learn(&id, backend);
                        let found = ids.find(&id).expect("it was learned");
                        assert!(Arc::ptr_eq(&found, backend), "an id leads to a backend that did not choose it");
                    }
                });
            }
        });
        assert_eq!(ids.len(), 8_000);
    }
}
