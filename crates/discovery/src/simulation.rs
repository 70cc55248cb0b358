//! Sources that lie, break off, flap and restart, against a merger that must lose nobody who answers and keep nobody
//! who does not. What is expected comes from a model that only knows sets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use balance::{Active, Backend, Publisher, Reader, Reported, Rng, Settings};

use crate::merge::{FeedId, Merge, Merger};
use crate::merge_tests::{address, found, rules};
use crate::{Event, Found};

const BACKENDS: usize = 24;
/// Short, so that orphans live to its end between two lists.
const TTL_MS: u64 = 6_000;
/// A probe within a second, and a publication within another.
const DEAD_WITHIN_MS: u64 = 2_100;
const STEPS: u32 = 1_000;
/// Lines to explain a failure by.
const LOG: usize = 12;

/// One source as the model sees it: what its last whole list and the single changes since come to.
#[derive(Clone, Debug, Default)]
struct Said {
    weights: BTreeMap<usize, u32>,
}

struct World {
    rng: Rng,
    now_ms: u64,
    merger: Merger,
    feeds: Vec<FeedId>,
    publisher: Publisher,
    reader: Reader,
    said: Vec<Said>,
    /// What is truly registered at each source.
    registered: Vec<BTreeSet<usize>>,
    version: u32,
    /// Who said each version, in the order of versions.
    authors: Vec<usize>,
    answers: [bool; BACKENDS],
    /// Since when a backend answers or not.
    since_ms: [u64; BACKENDS],
    /// Since when nobody reports it.
    unreported_ms: [u64; BACKENDS],
    /// The same, but for one that was reported so shortly in between that nobody need have noticed.
    orphaned_ms: [u64; BACKENDS],
    /// Who was taken back since nobody reports it, and when.
    taken_back_ms: [Option<u64>; BACKENDS],
    /// Which source reported each last: only its registrar's word must be heard.
    reporter: [usize; BACKENDS],
    /// Who was taken back by that one.
    must_leave_ms: [Option<u64>; BACKENDS],
    /// How often each came back lately.
    returns: [VecDeque<u64>; BACKENDS],
    /// When an answering backend was given up though nobody took it back.
    given_up: VecDeque<u64>,
    /// What was said last, the newest first.
    log: VecDeque<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut merger = Merger::new(Merge::Union, TTL_MS);
        let feeds: Vec<FeedId> = (0..2).map(|_| merger.add(rules())).collect();
        let (publisher, reader) = balance::live(Settings::new("web"), Vec::new());
        Self {
            rng: Rng::new(seed),
            now_ms: 1_000,
            merger,
            said: vec![Said::default(); feeds.len()],
            registered: vec![BTreeSet::new(); feeds.len()],
            feeds,
            publisher,
            reader,
            version: 1,
            authors: vec![0, 0],
            answers: [true; BACKENDS],
            since_ms: [0; BACKENDS],
            unreported_ms: [0; BACKENDS],
            orphaned_ms: [0; BACKENDS],
            taken_back_ms: [None; BACKENDS],
            reporter: [0; BACKENDS],
            must_leave_ms: [None; BACKENDS],
            returns: Default::default(),
            given_up: VecDeque::new(),
            log: VecDeque::new(),
        }
    }

    fn step(&mut self) {
        let feed = self.rng.below(self.feeds.len() as u64) as usize;
        match self.rng.below(20) {
            0..3 => self.register(feed),
            3 => self.take_back(feed),
            4 => drop(self.registered[feed].pop_last()),
            5..10 => self.true_list(feed),
            10 => self.whole_list(feed, &[]),
            11 => self.half_a_list(feed),
            12 => self.cut_list(feed),
            13 => self.long_list(feed),
            14 => self.merger.restart(self.feeds[feed]),
            15 => self.say(feed, Event::Alive),
            16 => self.say(feed, Event::End),
            17..19 => self.toggle(),
            _ => {}
        }
        let pause_ms = [1, 20, 300, 3_000][self.rng.below(4) as usize];
        self.pass(pause_ms);
    }

    fn say(&mut self, feed: usize, event: Event) {
        let said = match &event {
            Event::Upsert(found) if found.len() > BACKENDS => format!("{} endpoints", found.len()),
            Event::Upsert(found) => format!("{:?}", found.iter().map(|it| (&it.id, it.weight)).collect::<Vec<_>>()),
            event => format!("{event:?}"),
        };
        self.log.push_front(format!("{} source {feed}: {said}", self.now_ms));
        self.log.truncate(LOG);
        self.merger.handle(self.feeds[feed], event, self.now_ms);
    }

    fn found(&self, n: usize) -> Found {
        Found { weight: self.version, reported: Reported::Ready, ..found(n) }
    }

    /// A version that is newer than all so far, in the mouth of `feed`.
    fn renew(&mut self, feed: usize) {
        self.version += 1;
        self.authors.push(feed);
    }

    fn register(&mut self, feed: usize) {
        let n = self.rng.below(BACKENDS as u64) as usize;
        self.renew(feed);
        self.registered[feed].insert(n);
        self.note_reported(&[n]);
        self.said[feed].weights.insert(n, self.version);
        self.say(feed, Event::Upsert(vec![self.found(n)]));
    }

    fn take_back(&mut self, feed: usize) {
        let n = self.rng.below(BACKENDS as u64) as usize;
        self.registered[feed].remove(&n);
        if self.said[feed].weights.remove(&n).is_some() {
            (self.reporter[n], self.unreported_ms[n]) = (feed, self.now_ms);
        }
        if !self.is_reported(n) {
            self.taken_back_ms[n] = Some(self.now_ms);
            self.must_leave_ms[n] = self.must_leave_ms[n].or((self.reporter[n] == feed).then_some(self.now_ms));
        }
        self.say(feed, Event::Remove(vec![found(n).id]));
    }

    fn true_list(&mut self, feed: usize) {
        let all: Vec<usize> = self.registered[feed].iter().copied().collect();
        self.whole_list(feed, &all);
    }

    fn half_a_list(&mut self, feed: usize) {
        let half: Vec<usize> = self.registered[feed].iter().copied().step_by(2).collect();
        self.whole_list(feed, &half);
    }

    fn whole_list(&mut self, feed: usize, backends: &[usize]) {
        self.renew(feed);
        self.say(feed, Event::Begin);
        self.say(feed, Event::Upsert(backends.iter().map(|&n| self.found(n)).collect()));
        self.note_reported(backends);
        self.note_lost(feed, backends);
        self.said[feed].weights = backends.iter().map(|&n| (n, self.version)).collect();
        self.say(feed, Event::End);
    }

    fn cut_list(&mut self, feed: usize) {
        self.say(feed, Event::Begin);
        self.say(feed, Event::Upsert(vec![Found { weight: 999_999, ..found(0) }]));
        self.merger.restart(self.feeds[feed]);
    }

    fn long_list(&mut self, feed: usize) {
        self.say(feed, Event::Begin);
        self.say(feed, Event::Upsert((0..300).map(found).collect()));
        self.say(feed, Event::End);
    }

    fn toggle(&mut self) {
        let n = self.rng.below(BACKENDS as u64) as usize;
        self.answers[n] = !self.answers[n];
        self.since_ms[n] = self.now_ms;
    }

    fn note_reported(&mut self, backends: &[usize]) {
        for &n in backends {
            if !self.is_reported(n) {
                self.returns[n].push_back(self.now_ms);
                (self.taken_back_ms[n], self.must_leave_ms[n]) = (None, None);
            }
        }
    }

    fn note_lost(&mut self, feed: usize, backends: &[usize]) {
        let lost: Vec<usize> = self.said[feed].weights.keys().copied().filter(|n| !backends.contains(n)).collect();
        for n in lost {
            (self.reporter[n], self.unreported_ms[n]) = (feed, self.now_ms);
            if self.returns[n].back().is_none_or(|at_ms| self.now_ms > at_ms + 1_100) {
                self.orphaned_ms[n] = self.now_ms;
            }
        }
    }

    fn is_reported(&self, n: usize) -> bool {
        self.said.iter().any(|said| said.weights.contains_key(&n))
    }

    /// Lets time pass in steps of at most 100 ms, as the service's task would.
    fn pass(&mut self, millis: u64) {
        let end_ms = self.now_ms + millis;
        loop {
            self.probe();
            let before = self.backends();
            let settled = self.merger.settle(self.now_ms, |_| Active::Unknown);
            if let Some(endpoints) = settled.endpoints {
                self.publisher.publish(Settings::new("web"), endpoints);
            }
            self.judge(&before);
            if self.now_ms == end_ms {
                break;
            }
            self.now_ms = (self.now_ms + 100).min(end_ms);
        }
    }

    /// Probes find the dead among the orphans within a second.
    fn probe(&mut self) {
        for n in 0..BACKENDS {
            let dead_ms = self.since_ms[n].max(self.unreported_ms[n]) + 1_000;
            if !self.answers[n] && !self.is_reported(n) && self.now_ms >= dead_ms {
                self.merger.found_dead(&address(n), self.now_ms);
            }
        }
    }

    fn backends(&self) -> BTreeMap<usize, Arc<Backend>> {
        let number = |backend: &Arc<Backend>| (0..BACKENDS).find(|&n| address(n) == *backend.address());
        let set = self.reader.load();
        let known = set.backends().iter().map(|it| (number(it).expect("nobody ever named it"), Arc::clone(it)));
        known.collect()
    }

    fn judge(&mut self, before: &BTreeMap<usize, Arc<Backend>>) {
        let after = self.backends();
        let is_settled = self.merger.wake_ms().is_none_or(|wake_ms| wake_ms > self.now_ms + 1_000);
        self.given_up.retain(|at_ms| at_ms + 10_000 > self.now_ms);
        for n in 0..BACKENDS {
            match (before.get(&n), after.get(&n)) {
                (Some(old), Some(new)) => self.judge_stay(n, old, new),
                (Some(_), None) => self.judge_loss(n, before, &after),
                (None, None) if is_settled && self.is_reported(n) => {
                    self.returns[n].retain(|at_ms| at_ms + 300_000 > self.now_ms);
                    self.check(self.returns[n].len() >= 4, n, "one that is reported and does not flap is there");
                }
                _ => {}
            }
        }
        for (&n, backend) in &after {
            self.judge_presence(n, backend, &after, is_settled);
        }
    }

    fn judge_stay(&self, n: usize, old: &Backend, new: &Backend) {
        self.check(old.is(new), n, "a backend that stays keeps its state");
        let versions = [old, new].map(|backend| backend.endpoint().weight);
        let [before, after] = versions.map(|version| self.authors.get(version as usize));
        self.check(after.is_some(), n, "what was never said whole is never published");
        self.check(before != after || versions[0] <= versions[1], n, "no older word of a source follows a newer one");
    }

    fn judge_loss(&mut self, n: usize, before: &BTreeMap<usize, Arc<Backend>>, after: &BTreeMap<usize, Arc<Backend>>) {
        self.check(!self.is_reported(n), n, "one that is reported does not leave");
        let is_over = self.now_ms >= self.orphaned_ms[n] + TTL_MS && !after.is_empty();
        if self.taken_back_ms[n].is_some() || !self.answers[n] || is_over {
            return;
        }
        self.given_up.push_back(self.now_ms);
        let answering = before.keys().filter(|&&n| self.answers[n]).count() + self.given_up.len() - 1;
        let most = (answering.max(before.len()) * 30 / 100).max(2) + 1;
        self.check(self.given_up.len() <= most, n, "few of those that answer are given up within ten seconds");
        self.check(!after.is_empty(), n, "the last one that answers is not given up");
    }

    fn judge_presence(&self, n: usize, backend: &Backend, after: &BTreeMap<usize, Arc<Backend>>, is_settled: bool) {
        if self.is_reported(n) {
            let said = self.said.iter().find_map(|said| said.weights.get(&n));
            let is_latest = said == Some(&backend.endpoint().weight);
            self.check(!is_settled || is_latest, n, "what is published is what was said last");
            return;
        }
        let since_ms = self.unreported_ms[n].max(self.since_ms[n]);
        let is_dead = !self.answers[n] && self.now_ms > since_ms + DEAD_WITHIN_MS;
        self.check(!is_dead, n, "one that nobody reports and that does not answer leaves");
        let is_taken = self.must_leave_ms[n].is_some_and(|at_ms| self.now_ms > at_ms + 100);
        self.check(!is_taken, n, "one that was taken back leaves at once");
        let is_over = self.now_ms > self.unreported_ms[n] + TTL_MS + 2_200;
        let others = after.keys().any(|&n| self.is_reported(n));
        self.check(!(is_over && others), n, "an orphan leaves when its time is over");
    }

    #[track_caller]
    fn check(&self, holds: bool, n: usize, rule: &str) {
        let tail: Vec<&str> = self.log.iter().rev().map(|line| &**line).collect();
        let state = (self.answers[n], self.since_ms[n], self.unreported_ms[n], self.taken_back_ms[n]);
        assert!(holds, "{rule}: b{n} {state:?} at {}\n{}", self.now_ms, tail.join("\n"));
    }
}

#[test]
fn nobody_who_answers_is_lost_and_nobody_who_does_not_is_kept() {
    for seed in 0..6 {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        assert!(world.version > STEPS / 3, "seed {seed}: hardly anything happened");
    }
}
