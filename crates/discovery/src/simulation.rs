//! Sources that lie, break off, flap and restart, against a merger that must lose nobody who answers and keep nobody
//! who does not. What is expected comes from models that only know sets: one for each way to merge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use balance::{Active, Backend, Publisher, Reader, Reported, Rng, Settings};

use self::priority::Priority;
use self::union::Union;
use crate::merge::{FeedId, Merge, Merger};
use crate::merge_tests::{address, found, rules};
use crate::{Event, Found};

mod priority;
mod union;

const BACKENDS: usize = 24;
/// Short, so that orphans live to its end between two lists.
const TTL_MS: u64 = 6_000;
/// A probe within a second, and a publication within another.
const DEAD_WITHIN_MS: u64 = 2_100;
/// What is said and unsaid within this time need not be noticed.
const UNNOTICED_MS: u64 = 1_100;
const STEPS: u32 = 1_000;
/// Lines to explain a failure by.
const LOG: usize = 12;

/// What must hold for one way to merge.
trait Judge: Default {
    const MERGE: Merge;
    const SOURCES: usize;

    /// A source is about to report these, in a list or by themselves.
    fn reported(&mut self, stage: &Stage, feed: usize, backends: &[usize]);

    /// A source is about to leave this one out of a list.
    fn left_out(&mut self, stage: &Stage, feed: usize, n: usize);

    /// A source has taken this one back; `was_there` when it had reported it.
    fn taken_back(&mut self, stage: &Stage, feed: usize, n: usize, was_there: bool);

    /// Since when nobody who counts reports this one, if so: it may be probed.
    fn unreported_ms(&self, stage: &Stage, n: usize) -> Option<u64>;

    /// Compares what was published before a look and after it.
    fn judge(&mut self, stage: &Stage, before: &Published, after: &Published);
}

type Published = BTreeMap<usize, Arc<Backend>>;

/// What happened so far, and what is true.
struct Stage {
    now_ms: u64,
    /// What the last whole list of each source and the single changes since come to: the version of each backend.
    said: Vec<BTreeMap<usize, u32>>,
    version: u32,
    /// Who said each version, in the order of versions.
    authors: Vec<usize>,
    answers: [bool; BACKENDS],
    /// Since when a backend answers or not.
    since_ms: [u64; BACKENDS],
    /// Whether nothing is due within the next second.
    is_settled: bool,
    /// What was said last, the newest first.
    log: VecDeque<String>,
}

impl Stage {
    #[track_caller]
    fn check(&self, holds: bool, n: usize, rule: &str) {
        let tail: Vec<&str> = self.log.iter().rev().map(|line| &**line).collect();
        let state = (self.answers[n], self.since_ms[n]);
        assert!(holds, "{rule}: b{n} {state:?} at {}\n{}", self.now_ms, tail.join("\n"));
    }

    /// The rules for one that stays, however words are merged.
    fn check_stay(&self, n: usize, old: &Backend, new: &Backend) {
        self.check(old.is(new), n, "a backend that stays keeps its state");
        let versions = [old, new].map(|backend| backend.endpoint().weight);
        let [before, after] = versions.map(|version| self.authors.get(version as usize));
        self.check(after.is_some(), n, "what was never said whole is never published");
        self.check(before != after || versions[0] <= versions[1], n, "no older word of a source follows a newer one");
    }
}

struct World<J> {
    rng: Rng,
    merger: Merger,
    feeds: Vec<FeedId>,
    publisher: Publisher,
    reader: Reader,
    /// What is truly registered at each source.
    registered: Vec<BTreeSet<usize>>,
    stage: Stage,
    judge: J,
}

impl<J: Judge> World<J> {
    fn new(seed: u64) -> Self {
        let mut merger = Merger::new(J::MERGE, TTL_MS);
        let feeds: Vec<FeedId> = (0..J::SOURCES).map(|_| merger.add(rules())).collect();
        let (publisher, reader) = balance::live(Settings::new("web"), Vec::new());
        let stage = Stage {
            now_ms: 1_000,
            said: vec![BTreeMap::new(); J::SOURCES],
            version: 1,
            authors: vec![0, 0],
            answers: [true; BACKENDS],
            since_ms: [0; BACKENDS],
            is_settled: true,
            log: VecDeque::new(),
        };
        let registered = vec![BTreeSet::new(); J::SOURCES];
        Self { rng: Rng::new(seed), merger, feeds, publisher, reader, registered, stage, judge: J::default() }
    }

    fn step(&mut self) {
        let feed = self.rng.below(self.feeds.len() as u64) as usize;
        match self.rng.below(20) {
            0..3 => self.register(feed),
            3 => {
                let n = self.rng.below(BACKENDS as u64) as usize;
                self.take_back(feed, n);
            }
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
            _ => (0..BACKENDS).for_each(|n| self.take_back(feed, n)),
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
        self.stage.log.push_front(format!("{} source {feed}: {said}", self.stage.now_ms));
        self.stage.log.truncate(LOG);
        self.merger.handle(self.feeds[feed], event, self.stage.now_ms);
    }

    fn found(&self, n: usize) -> Found {
        Found { weight: self.stage.version, reported: Reported::Ready, ..found(n) }
    }

    /// A version that is newer than all so far, in the mouth of `feed`.
    fn renew(&mut self, feed: usize) {
        self.stage.version += 1;
        self.stage.authors.push(feed);
    }

    fn register(&mut self, feed: usize) {
        let n = self.rng.below(BACKENDS as u64) as usize;
        self.renew(feed);
        self.registered[feed].insert(n);
        self.judge.reported(&self.stage, feed, &[n]);
        self.stage.said[feed].insert(n, self.stage.version);
        self.say(feed, Event::Upsert(vec![self.found(n)]));
    }

    fn take_back(&mut self, feed: usize, n: usize) {
        self.registered[feed].remove(&n);
        let was_there = self.stage.said[feed].remove(&n).is_some();
        self.judge.taken_back(&self.stage, feed, n, was_there);
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
        self.judge.reported(&self.stage, feed, backends);
        for n in self.stage.said[feed].keys().filter(|n| !backends.contains(n)) {
            self.judge.left_out(&self.stage, feed, *n);
        }
        self.stage.said[feed] = backends.iter().map(|&n| (n, self.stage.version)).collect();
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
        self.stage.answers[n] = !self.stage.answers[n];
        self.stage.since_ms[n] = self.stage.now_ms;
    }

    /// Lets time pass in steps of at most 100 ms, as the service's task would.
    fn pass(&mut self, millis: u64) {
        let end_ms = self.stage.now_ms + millis;
        loop {
            self.probe();
            let before = self.backends();
            let settled = self.merger.settle(self.stage.now_ms, |_| Active::Unknown);
            if let Some(endpoints) = settled.endpoints {
                self.publisher.publish(Settings::new("web"), endpoints);
            }
            self.stage.is_settled = self.merger.wake_ms().is_none_or(|wake_ms| wake_ms > self.stage.now_ms + 1_000);
            self.judge.judge(&self.stage, &before, &self.backends());
            if self.stage.now_ms == end_ms {
                break;
            }
            self.stage.now_ms = (self.stage.now_ms + 100).min(end_ms);
        }
    }

    /// Probes find the dead among the orphans within a second.
    fn probe(&mut self) {
        let now_ms = self.stage.now_ms;
        for n in (0..BACKENDS).filter(|&n| !self.stage.answers[n]) {
            let unreported_ms = self.judge.unreported_ms(&self.stage, n);
            if unreported_ms.is_some_and(|at_ms| now_ms >= at_ms.max(self.stage.since_ms[n]) + 1_000) {
                self.merger.found_dead(&address(n), now_ms);
            }
        }
    }

    fn backends(&self) -> Published {
        let number = |backend: &Arc<Backend>| (0..BACKENDS).find(|&n| address(n) == *backend.address());
        let set = self.reader.load();
        let known = set.backends().iter().map(|it| (number(it).expect("nobody ever named it"), Arc::clone(it)));
        known.collect()
    }
}

fn run<J: Judge>(seed: u64) -> J {
    let mut world = World::<J>::new(seed);
    (0..STEPS).for_each(|_| world.step());
    assert!(world.stage.version > STEPS / 3, "seed {seed}: hardly anything happened");
    world.judge
}

#[test]
fn nobody_who_answers_is_lost_and_nobody_who_does_not_is_kept() {
    (0..6).for_each(|seed| drop(run::<Union>(seed)));
}

#[test]
fn the_first_source_that_counts_loses_nobody_who_answers_and_gives_way_in_time() {
    let (mut taken, mut given) = (0, 0);
    for seed in 0..12 {
        let judge = run::<Priority>(seed);
        taken += judge.taken_over;
        given += judge.given_way;
    }
    assert!(taken >= 30 && given >= 30, "sources hardly follow each other: {taken}, {given}");
}
