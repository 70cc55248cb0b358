//! The merger in virtual time.

use std::collections::HashSet;

use balance::{Active, Address, Endpoint, Facts, Reported, Zone};

use crate::feed::Rules;
use crate::member::Standing;
use crate::merge::{FeedId, Merge, Merger};
use crate::reach::Reach;
use crate::{Event, Found};

const TTL_MS: u64 = 600_000;
const MOST: usize = 100;

pub(crate) fn address(n: usize) -> Address {
    std::net::SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250 + 1) as u8], 80)).into()
}

pub(crate) fn found(n: usize) -> Found {
    let address = address(n);
    Found { id: format!("b{n}").into(), address, weight: 1, zone: None, priority: 0, reported: Reported::Ready }
}

pub(crate) fn endpoint(n: usize) -> Endpoint {
    Endpoint {
        address: address(n),
        weight: 1,
        zone: Zone::default(),
        priority: 0,
        facts: Facts::default(),
        server_id: None,
    }
}

fn ids(backends: impl IntoIterator<Item = usize>) -> Vec<Box<str>> {
    backends.into_iter().map(|n| found(n).id).collect()
}

pub(crate) fn rules() -> Rules {
    Rules { reach: Reach::Any, most: MOST, home: Zone::default() }
}

/// A service of some sources whose publications are taken as they are due.
struct Rig {
    merger: Merger,
    feeds: Vec<FeedId>,
    now_ms: u64,
    published: Vec<Endpoint>,
    publications: usize,
    probed: Vec<Endpoint>,
    down: HashSet<Address>,
}

impl Rig {
    fn new(merge: Merge, sources: usize) -> Self {
        let mut merger = Merger::new(merge, TTL_MS);
        let feeds = (0..sources).map(|_| merger.add(rules())).collect();
        let (published, probed) = (Vec::new(), Vec::new());
        Self { merger, feeds, now_ms: 1_000, published, publications: 0, probed, down: HashSet::new() }
    }

    /// One source that has told of these, long ago.
    fn with(backends: impl IntoIterator<Item = usize>) -> Self {
        let mut rig = Self::new(Merge::Union, 1);
        rig.list(0, backends);
        rig.run(60_000);
        rig
    }

    fn say(&mut self, source: usize, event: Event) {
        self.merger.handle(self.feeds[source], event, self.now_ms);
        self.run(0);
    }

    fn list(&mut self, source: usize, backends: impl IntoIterator<Item = usize>) {
        self.say(source, Event::Begin);
        self.say(source, Event::Upsert(backends.into_iter().map(found).collect()));
        self.say(source, Event::End);
    }

    /// Lets time pass.
    fn run(&mut self, millis: u64) {
        let end_ms = self.now_ms + millis;
        loop {
            let down = &self.down;
            let active = |address: &Address| if down.contains(address) { Active::Down } else { Active::Unknown };
            let settled = self.merger.settle(self.now_ms, active);
            if let Some(endpoints) = settled.endpoints {
                (self.published, self.publications) = (endpoints, self.publications + 1);
            }
            self.probed = settled.orphans.unwrap_or_else(|| std::mem::take(&mut self.probed));
            match self.merger.wake_ms() {
                Some(wake_ms) if wake_ms <= end_ms => self.now_ms = self.now_ms.max(wake_ms),
                _ => break self.now_ms = end_ms,
            }
        }
    }

    fn dead(&mut self, n: usize) {
        self.merger.found_dead(&address(n), self.now_ms);
        self.run(100);
    }

    fn backends(&self) -> Vec<usize> {
        numbers(&self.published)
    }

    fn orphans(&self) -> Vec<usize> {
        numbers(&self.probed)
    }
}

fn numbers(endpoints: &[Endpoint]) -> Vec<usize> {
    endpoints.iter().map(|it| (0..300).find(|&n| address(n) == it.address).unwrap()).collect()
}

#[test]
fn a_backend_is_there_for_as_long_as_any_source_reports_it_and_the_first_describes_it() {
    let mut rig = Rig::new(Merge::Union, 2);
    rig.list(1, [0, 1]);
    rig.say(0, Event::Upsert(vec![Found { weight: 7, ..found(1) }, found(2)]));
    rig.run(2_000);
    assert_eq!(rig.backends(), [0, 1, 2]);
    assert_eq!(rig.published[1].weight, 7, "the first source has the word");
    rig.say(0, Event::Remove(ids([1])));
    assert_eq!((rig.backends(), rig.published[1].weight), (vec![0, 1, 2], 1), "the second one still reports it");
    rig.say(1, Event::Remove(ids([1])));
    rig.run(100);
    assert_eq!(rig.backends(), [0, 2]);
}

#[test]
fn with_priorities_the_first_source_that_has_any_counts_and_there_is_no_gap_between_them() {
    let mut rig = Rig::new(Merge::Priority, 2);
    rig.list(1, [5, 6]);
    assert_eq!(rig.backends(), [5, 6], "nothing better is there");
    rig.run(60_000);
    rig.list(0, [0, 1]);
    assert_eq!(rig.backends(), [0, 1], "the second stands by again, and nobody doubts that");
    rig.run(60_000);
    rig.list(0, []);
    assert_eq!((rig.backends(), rig.orphans()), (vec![0, 1], vec![0, 1]), "they may well serve");
    rig.dead(0);
    rig.dead(1);
    assert_eq!(rig.backends(), [5, 6], "nobody is left of the first");
    rig.run(60_000);
    rig.list(0, [0]);
    rig.run(60_000);
    rig.say(0, Event::Remove(ids([0])));
    assert_eq!(rig.backends(), [5, 6], "taken back by its registrar");
    rig.run(60_000);
    rig.list(0, [2]);
    rig.run(60_000);
    rig.list(0, []);
    rig.run(TTL_MS - 1);
    assert_eq!(rig.backends(), [2]);
    rig.run(1_100);
    assert_eq!(rig.backends(), [5, 6], "an orphan gives way when its time is over");
}

#[test]
fn with_priorities_nobody_but_its_own_source_can_take_an_orphan_back() {
    let mut rig = Rig::new(Merge::Priority, 3);
    let floor = rig.feeds[2];
    rig.merger.dictate(floor, &[endpoint(0)], rig.now_ms);
    rig.list(0, [0, 1]);
    rig.list(1, [0, 1]);
    rig.run(60_000);
    rig.list(0, []);
    rig.say(1, Event::Remove(ids([0])));
    rig.run(1_000);
    assert_eq!(rig.backends(), [0, 1], "by a source that does not count");
    rig.merger.dictate(floor, &[endpoint(7)], rig.now_ms);
    rig.run(1_000);
    assert_eq!(rig.backends(), [0, 1], "by the operator, who changed what counts last");
    rig.merger.arrange(&[rig.feeds[0], floor], rig.now_ms);
    rig.run(1_000);
    assert_eq!(rig.backends(), [0, 1], "with a source that did not count");
    rig.say(0, Event::Remove(ids([0])));
    rig.run(1_000);
    assert_eq!(rig.backends(), [1], "by its own");
    rig.merger.arrange(&[floor], rig.now_ms);
    rig.run(1_000);
    assert_eq!(rig.backends(), [7], "with its own source it goes");
}

#[test]
fn what_breaks_off_or_is_too_long_changes_nothing() {
    let mut rig = Rig::with(0..5);
    rig.say(0, Event::Begin);
    rig.say(0, Event::Upsert(vec![found(9)]));
    rig.merger.restart(rig.feeds[0]);
    rig.say(0, Event::End);
    rig.run(60_000);
    assert_eq!(rig.backends(), [0, 1, 2, 3, 4], "a list that broke off");
    rig.list(0, 100..=100 + MOST);
    rig.run(60_000);
    assert_eq!(rig.backends(), [0, 1, 2, 3, 4], "a list beyond the limit");
    let feed = rig.merger.feed(rig.feeds[0]).unwrap();
    assert_eq!((feed.tally().refused_lists, feed.tally().lists), (1, 1));
    rig.list(0, 100..100 + MOST);
    rig.say(0, Event::Upsert(vec![found(0)]));
    assert_eq!(rig.merger.feed(rig.feeds[0]).unwrap().len(), MOST, "single ones are bounded too");
}

#[test]
fn what_its_registrar_takes_back_leaves_at_once_even_the_last() {
    let mut rig = Rig::with(0..5);
    rig.say(0, Event::Remove(ids([0, 1, 2, 3])));
    assert_eq!(rig.backends(), [4]);
    rig.run(60_000);
    rig.say(0, Event::Remove(ids([4])));
    assert_eq!((rig.backends(), rig.orphans()), (vec![], vec![]));
}

#[test]
fn one_address_under_two_ids_is_one_backend_until_both_are_gone() {
    let mut rig = Rig::with([]);
    let twin = Found { id: "twin".into(), ..found(0) };
    rig.say(0, Event::Upsert(vec![found(0), twin]));
    rig.say(0, Event::Remove(ids([0])));
    rig.run(1_000);
    assert_eq!(rig.backends(), [0]);
    rig.say(0, Event::Remove(vec!["twin".into()]));
    rig.run(1_000);
    assert_eq!(rig.backends(), [0usize; 0]);
}

#[test]
fn an_id_that_moves_takes_its_old_address_away() {
    let mut rig = Rig::with(0..4);
    let moved = |n| Found { address: address(n + 10), ..found(n) };
    rig.say(0, Event::Upsert((0..4).map(moved).collect()));
    assert_eq!((rig.backends(), rig.orphans()), (vec![10, 11, 12, 13], vec![]));
}

#[test]
fn a_small_loss_is_believed_and_a_large_one_doubted() {
    let mut rig = Rig::with(0..10);
    rig.list(0, 0..8);
    assert_eq!((rig.backends(), rig.orphans()), ((0..8).collect(), vec![]));
    rig.run(9_000);
    rig.list(0, 0..6);
    rig.run(1_000);
    assert_eq!((rig.backends(), rig.orphans()), ((0..8).collect(), vec![6, 7]), "four of ten within ten seconds");
    rig.list(0, 0..7);
    rig.run(1_000);
    assert_eq!((rig.backends(), rig.orphans()), ((0..8).collect(), vec![7]), "one is reported again");
    rig.dead(7);
    assert_eq!((rig.backends(), rig.orphans()), ((0..7).collect(), vec![]), "one is not there");
}

#[test]
fn orphans_serve_for_their_time_and_the_last_ones_for_as_long_as_they_answer() {
    let mut rig = Rig::with(0..4);
    rig.list(0, []);
    rig.run(10 * TTL_MS);
    assert_eq!(rig.backends(), [0, 1, 2, 3], "nothing else is left");
    rig.dead(2);
    assert_eq!(rig.backends(), [0, 1, 3]);
    rig.list(0, [9]);
    assert_eq!(rig.backends(), [9], "their time is over, and there is another");
    let mut rig = Rig::with(0..10);
    rig.list(0, [0]);
    rig.run(TTL_MS - 1);
    assert_eq!(rig.backends().len(), 10);
    rig.run(1_001);
    assert_eq!(rig.backends(), [0]);
}

#[test]
fn those_that_are_out_of_service_leave_without_a_question_and_count_for_nothing() {
    let mut rig = Rig::with(0..10);
    rig.down.extend((4..8).map(address));
    rig.say(
        0,
        Event::Upsert(vec![Found { weight: 0, ..found(8) }, Found { reported: Reported::NotReady, ..found(9) }]),
    );
    rig.run(1_000);
    rig.list(0, 0..3);
    assert_eq!((rig.backends(), rig.orphans()), (vec![0, 1, 2], vec![]), "one of four");
}

#[test]
fn the_operator_can_say_that_an_empty_list_is_right() {
    let mut rig = Rig::with(0..10);
    rig.list(0, []);
    rig.run(1_000);
    assert_eq!(rig.orphans().len(), 10);
    rig.merger.accept_empty(rig.now_ms);
    rig.run(1_000);
    assert_eq!((rig.backends(), rig.orphans()), (vec![], vec![]));
}

#[test]
fn the_registrar_can_take_an_orphan_back() {
    let mut rig = Rig::with(0..10);
    rig.list(0, [0]);
    rig.run(1_000);
    rig.say(0, Event::Remove(ids([5])));
    rig.run(1_000);
    assert_eq!(rig.orphans(), [1, 2, 3, 4, 6, 7, 8, 9]);
}

#[test]
fn one_that_flaps_is_kept_out_until_it_holds_still_unless_it_is_all_there_is() {
    let flap = |rig: &mut Rig| {
        for _ in 0..4 {
            rig.say(0, Event::Remove(ids([0])));
            rig.run(2_000);
            rig.say(0, Event::Upsert(vec![found(0)]));
            rig.run(2_000);
        }
    };
    let mut rig = Rig::with([0, 1]);
    flap(&mut rig);
    assert_eq!(rig.backends(), [1]);
    rig.run(10_000);
    assert_eq!(rig.backends(), [0, 1]);
    let mut alone = Rig::with([0]);
    flap(&mut alone);
    assert_eq!(alone.backends(), [0]);
}

#[test]
fn the_same_list_again_is_no_news() {
    let mut rig = Rig::with(0..5);
    assert_eq!(rig.publications, 1);
    rig.list(0, (0..5).rev());
    rig.say(0, Event::Alive);
    rig.run(60_000);
    assert_eq!((rig.publications, rig.merger.wake_ms()), (1, None));
}

#[test]
fn a_storm_makes_a_few_sets_and_a_drain_in_it_does_not_wait() {
    let mut rig = Rig::with(0..5);
    for n in 0..3_000 {
        rig.say(0, Event::Upsert(vec![Found { weight: n, ..found(4) }]));
        rig.run(1);
    }
    assert!(rig.publications < 12, "{} publications of 3,000 changes", rig.publications);
    rig.say(0, Event::Upsert(vec![Found { weight: 0, ..found(2) }]));
    rig.run(25);
    assert_eq!(rig.published[2].weight, 0);
}

#[test]
fn the_operators_word_is_not_doubted() {
    let mut rig = Rig::new(Merge::Union, 2);
    let floor = rig.feeds[0];
    rig.merger.dictate(floor, &(0..10).map(endpoint).collect::<Vec<_>>(), rig.now_ms);
    rig.list(1, 20..30);
    rig.run(60_000);
    rig.merger.dictate(floor, &[endpoint(3)], rig.now_ms);
    rig.run(100);
    assert_eq!((rig.backends(), rig.orphans()), (vec![3, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29], vec![]));
    rig.run(60_000);
    rig.list(1, []);
    rig.run(1_000);
    assert_eq!(rig.orphans().len(), 10);
    rig.merger.arrange(&[floor], rig.now_ms);
    rig.run(1_000);
    assert_eq!((rig.backends(), rig.orphans()), (vec![3], vec![]), "with a source all that it left goes");
}

#[test]
fn what_a_snapshot_remembers_serves_and_passes_the_guard_when_the_source_speaks() {
    let mut rig = Rig::new(Merge::Union, 1);
    rig.merger.remember(rig.feeds[0], (0..10).map(endpoint), false, rig.now_ms);
    rig.run(0);
    assert_eq!(rig.backends().len(), 10);
    assert!(!rig.merger.feed(rig.feeds[0]).unwrap().is_confirmed());
    rig.list(0, [0, 11]);
    rig.run(1_000);
    assert_eq!((rig.backends().len(), rig.orphans().len()), (11, 9));
    let reported = rig.merger.members().iter().filter(|member| member.standing == Standing::Reported);
    assert_eq!(reported.count(), 2);
}

#[test]
fn another_registry_in_the_place_of_one_takes_over_when_it_names_anybody() {
    let mut rig = Rig::with(0..10);
    rig.merger.replace(rig.feeds[0], rules(), true, rig.now_ms);
    rig.run(60_000);
    assert_eq!(rig.backends().len(), 10, "until it speaks, the old ones serve");
    rig.list(0, [20, 21]);
    rig.run(100);
    assert_eq!((rig.backends(), rig.orphans()), (vec![20, 21], vec![]));
    let mut rig = Rig::with(0..10);
    rig.merger.replace(rig.feeds[0], rules(), true, rig.now_ms);
    rig.list(0, []);
    rig.run(1_000);
    assert_eq!(rig.orphans().len(), 10, "one that names nobody is doubted like any other");
}

#[test]
fn tighter_rules_hold_for_what_was_said_before() {
    let mut rig = Rig::with(0..10);
    let allowed: std::sync::Arc<[crate::Cidr]> = ["10.0.0.0/30".parse().unwrap()].into();
    let reach = Reach::Network { allowed, own: [].into() };
    rig.merger.replace(rig.feeds[0], Rules { reach, ..rules() }, false, rig.now_ms);
    rig.run(100);
    assert_eq!((rig.backends(), rig.orphans()), (vec![0, 1, 2], vec![]));
    rig.say(0, Event::Upsert(vec![found(7)]));
    rig.run(2_000);
    assert_eq!(rig.backends(), [0, 1, 2]);
    let feed = rig.merger.feed(rig.feeds[0]).unwrap();
    assert_eq!(feed.tally().refused.iter().collect::<Vec<_>>(), [(&"not_allowed", &1)]);
}
