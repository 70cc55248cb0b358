//! The roster in virtual time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use balance::{Active, Address, BackendSet, Pick, Policy, Reader, Rng, Settings};
use proptest::prelude::*;

use crate::merge_tests::{address, endpoint};
use crate::probe::{Detail, Finding, Trouble};
use crate::roster::{Agenda, Event, Roster};
use crate::{HealthConfig, Probe, ServiceConfig};

const SUCCESS: Finding = Ok(Detail::Borrowed("fine"));
const FAILURE: Finding = Err(Trouble::Theirs(Detail::Borrowed("refused")));
const OURS: Finding = Err(Trouble::Ours(Detail::Borrowed("no descriptor")));

fn config(backends: impl IntoIterator<Item = usize>) -> ServiceConfig {
    ServiceConfig {
        settings: Settings { policy: Policy::LeastConn, ..Settings::new("web") },
        endpoints: backends.into_iter().map(endpoint).collect(),
        health: Some(HealthConfig::default()),
        membership: crate::Membership::default(),
    }
}

/// A roster with its set, as the service's task has them.
struct Rig {
    roster: Roster,
    reader: Reader,
    publisher: balance::Publisher,
    now_ms: u64,
    published: usize,
}

impl Rig {
    fn new(config: ServiceConfig) -> Self {
        let (publisher, reader) = balance::live(config.settings.clone(), config.endpoints.clone());
        let roster = Roster::new(config, &reader.load(), 1_000, Rng::new(1));
        Self { roster, reader, publisher, now_ms: 1_000, published: 0 }
    }

    fn apply(&mut self, config: ServiceConfig) {
        self.publisher.publish(config.settings.clone(), self.roster.overlay(&config));
        self.roster.adopt(config, &self.reader.load(), self.now_ms);
    }

    /// Lets time pass, answering each probe at once.
    fn run(&mut self, millis: u64, answer: impl Fn(&Address) -> Finding) -> Vec<(Address, Event)> {
        let (end_ms, mut events) = (self.now_ms + millis, Vec::new());
        loop {
            self.publish();
            while let Some(job) = self.roster.take_due(self.now_ms) {
                let event = self.roster.conclude(&job.address, &answer(&job.address), self.now_ms);
                events.extend(event.map(|event| (job.address, event)));
            }
            match self.roster.agenda(self.now_ms) {
                Agenda { wake_ms: Some(wake_ms), .. } if wake_ms <= end_ms => self.now_ms = wake_ms,
                _ => break self.now_ms = end_ms,
            }
        }
        events
    }

    fn publish(&mut self) {
        if let Some(endpoints) = self.roster.take_publication(self.now_ms) {
            let settings = self.roster.config().settings.clone();
            self.publisher.publish(settings, endpoints);
            self.published += 1;
        }
    }

    fn set(&self) -> Arc<BackendSet> {
        Arc::clone(&self.reader.load())
    }

    fn active(&self) -> Vec<Active> {
        self.set().backends().iter().map(|backend| backend.endpoint().facts.active).collect()
    }
}

#[test]
fn backends_are_judged_apart_and_published() {
    let mut rig = Rig::new(config(0..3));
    rig.run(10_000, |backend| if *backend == address(1) { FAILURE } else { SUCCESS });
    assert_eq!(rig.active(), [Active::Up, Active::Down, Active::Up]);
    rig.run(10_000, |_| SUCCESS);
    assert_eq!(rig.active(), [Active::Up; 3]);
}

#[test]
fn a_dead_backend_is_down_within_one_interval_and_two_fast_ones() {
    let mut rig = Rig::new(config([0]));
    rig.run(20_000, |_| SUCCESS);
    rig.run(8_500, |_| FAILURE);
    assert_eq!(rig.active(), [Active::Down], "6 s + 2 × 1.2 s is the latest with an interval of 5 s ± 20 %");
}

#[test]
fn probes_that_cannot_be_made_change_nothing_and_are_told_once_a_minute() {
    let mut rig = Rig::new(config(0..10));
    rig.run(10_000, |_| SUCCESS);
    let events = rig.run(150_000, |_| OURS);
    assert_eq!(rig.active(), [Active::Up; 10]);
    assert!(events.iter().all(|(_, event)| *event == Event::Hindered));
    assert_eq!(events.len(), 3, "at once, and after one and two minutes");
}

#[test]
fn probes_that_cannot_be_made_do_not_break_a_row_of_failures() {
    let mut rig = Rig::new(config([0]));
    let take = |rig: &mut Rig, finding: &Finding| {
        while !rig.roster.agenda(rig.now_ms).is_probe_due {
            rig.now_ms += 1;
        }
        let job = rig.roster.take_due(rig.now_ms).unwrap();
        rig.roster.conclude(&job.address, finding, rig.now_ms)
    };
    for finding in [&FAILURE, &FAILURE, &OURS] {
        assert!(!matches!(take(&mut rig, finding), Some(Event::Turned { .. })));
    }
    assert_eq!(take(&mut rig, &FAILURE), Some(Event::Turned { from: Active::Unknown, to: Active::Down }));
}

#[test]
fn thousands_that_turn_at_once_make_a_few_sets() {
    let mut rig = Rig::new(config(0..2_000));
    rig.run(60_000, |_| FAILURE);
    assert!(rig.active().iter().all(|&active| active == Active::Down));
    assert!(rig.published <= 80, "at most one set each 25 ms of the two seconds it takes: {}", rig.published);
}

#[test]
fn an_unchanged_backend_keeps_its_state_and_its_count() {
    let mut rig = Rig::new(config(0..2));
    rig.run(20_000, |backend| if *backend == address(0) { FAILURE } else { SUCCESS });
    let before = rig.roster.reports();
    rig.apply(config(0..3));
    assert_eq!(rig.active(), [Active::Down, Active::Up, Active::Unknown]);
    assert_eq!(rig.roster.reports()[..2], before[..]);
    rig.apply(config([1, 2]));
    assert_eq!(rig.active(), [Active::Up, Active::Unknown]);
    rig.apply(config(0..3));
    assert_eq!(rig.active(), [Active::Unknown, Active::Up, Active::Unknown], "what left and came back is new");
}

#[test]
fn a_changed_check_leaves_the_state_and_asks_again_soon() {
    let mut rig = Rig::new(config([0]));
    rig.run(20_000, |_| FAILURE);
    let mut changed = config([0]);
    changed.health = Some(HealthConfig { interval: Duration::from_secs(3_600), ..HealthConfig::default() });
    rig.apply(changed);
    assert_eq!(rig.active(), [Active::Down]);
    assert!(rig.roster.agenda(rig.now_ms).wake_ms.unwrap() <= rig.now_ms + 1_000);
}

#[test]
fn without_a_check_every_backend_is_unknown() {
    let mut rig = Rig::new(config([0]));
    rig.run(20_000, |_| FAILURE);
    rig.apply(ServiceConfig { health: None, ..config([0]) });
    assert_eq!(rig.active(), [Active::Unknown]);
    assert_eq!(rig.roster.agenda(rig.now_ms), Agenda { is_probe_due: false, wake_ms: None });
    assert!(rig.roster.reports().is_empty());
}

#[test]
fn the_answer_to_an_old_question_is_not_counted() {
    let mut rig = Rig::new(config([0]));
    rig.now_ms += 1_000;
    let job = rig.roster.take_due(rig.now_ms).unwrap();
    let mut changed = config([0]);
    changed.health = Some(HealthConfig { probe: Probe::Exec { command: vec!["true".into()] }, ..Default::default() });
    rig.apply(changed);
    assert_eq!(rig.roster.conclude(&job.address, &SUCCESS, rig.now_ms), None);
    assert_eq!(rig.roster.reports()[0].active, Active::Unknown);
    assert!(rig.roster.agenda(rig.now_ms).wake_ms.unwrap() <= rig.now_ms + 1_000, "the new question is asked soon");
}

#[test]
fn a_backend_that_left_and_came_back_is_not_asked_twice_at_once() {
    let mut rig = Rig::new(config([0]));
    rig.now_ms += 1_000;
    let job = rig.roster.take_due(rig.now_ms).unwrap();
    rig.apply(config([]));
    rig.apply(config([0]));
    rig.now_ms += 60_000;
    assert!(rig.roster.take_due(rig.now_ms).is_none(), "its old probe still runs");
    assert_eq!(rig.roster.conclude(&job.address, &SUCCESS, rig.now_ms), None, "the old probe asked an old backend");
    rig.now_ms += 1_000;
    assert!(rig.roster.take_due(rig.now_ms).is_some());
}

#[test]
fn what_ran_when_its_task_was_lost_is_asked_again() {
    let mut rig = Rig::new(config([0]));
    rig.now_ms += 1_000;
    assert!(rig.roster.take_due(rig.now_ms).is_some());
    rig.roster.abandon_running();
    assert!(rig.roster.take_due(rig.now_ms).is_some());
}

/// Makes a client's connection that succeeds.
fn connect(rig: &Rig, now_ms: u64) {
    let mut rng = Rng::new(1);
    let Pick::Backend(mut lease) = rig.set().pick(now_ms, 0, &[], &mut rng) else { panic!("there is a backend") };
    lease.connected(now_ms, Duration::from_millis(1), &mut rng);
}

#[test]
fn a_tcp_probe_is_left_out_while_connections_of_clients_succeed() {
    let mut rig = Rig::new(config([0]));
    rig.run(5_000, |_| SUCCESS);
    for _ in 0..30 {
        connect(&rig, rig.now_ms);
        rig.run(1_000, |backend| panic!("{backend} was asked though its traffic proves it healthy"));
    }
    assert_eq!(rig.roster.reports()[0].last.clone().unwrap().text, "connections of clients succeed");
    rig.run(30_000, |_| FAILURE);
    assert_eq!(rig.active(), [Active::Down], "without traffic it is asked again");
}

#[test]
fn traffic_proves_nothing_to_a_check_that_asks_for_more() {
    let mut config = config([0]);
    config.health = Some(HealthConfig { probe: Probe::Exec { command: vec!["true".into()] }, ..Default::default() });
    let mut rig = Rig::new(config);
    rig.run(5_000, |_| SUCCESS);
    for _ in 0..30 {
        connect(&rig, rig.now_ms);
        rig.run(1_000, |_| FAILURE);
    }
    assert_eq!(rig.active(), [Active::Down]);
}

#[test]
fn a_success_ends_an_ejection_early() {
    let mut rig = Rig::new(config([0]));
    rig.run(5_000, |_| SUCCESS);
    let (set, mut rng) = (rig.set(), Rng::new(1));
    for _ in 0..5 {
        let Pick::Backend(lease) = set.pick(rig.now_ms, 0, &[], &mut rng) else { panic!("there is a backend") };
        set.connect_failed(lease, rig.now_ms, balance::ConnectFailure::Refused, &mut rng);
    }
    let ejected_ms = rig.now_ms;
    assert_eq!(set.backends()[0].standing(rig.now_ms), balance::Standing::Ejected);
    while set.backends()[0].standing(rig.now_ms) == balance::Standing::Ejected {
        rig.run(100, |_| SUCCESS);
    }
    let next_probe_ms = rig.roster.reports()[0].last.clone().unwrap().at_ms;
    assert!(next_probe_ms > ejected_ms, "the probe that succeeded let the trial begin");
    assert!(rig.now_ms - next_probe_ms <= 100);
}

proptest! {
    /// Whatever happens in whatever order: no backend is asked twice at once, none is forgotten, and what is
    /// published is what the reports say.
    #[test]
    fn every_backend_is_asked_again_and_never_twice_at_once(
        steps in prop::collection::vec((0u8..6, 0usize..8, 0u64..3_000), 1..200),
    ) {
        let mut rig = Rig::new(config(0..4));
        let mut running: Vec<Address> = Vec::new();
        for (step, n, millis) in steps {
            match step {
                0 | 1 => {
                    while let Some(job) = rig.roster.take_due(rig.now_ms) {
                        prop_assert!(!running.contains(&job.address), "probes of one backend overlap");
                        running.push(job.address);
                    }
                }
                2 | 3 if !running.is_empty() => {
                    let backend = running.swap_remove(n % running.len());
                    let finding = [SUCCESS, FAILURE, OURS][(millis % 3) as usize].clone();
                    rig.roster.conclude(&backend, &finding, rig.now_ms);
                }
                4 => rig.apply(config(n..n + millis as usize % 6)),
                _ => {
                    rig.now_ms += millis;
                    rig.publish();
                }
            }
        }
        for backend in running.drain(..) {
            rig.roster.conclude(&backend, &SUCCESS, rig.now_ms);
        }
        rig.now_ms += 25;
        rig.publish();
        let reported: Vec<_> = rig.roster.reports().iter().map(|report| report.active).collect();
        prop_assert_eq!(rig.active(), reported);
        rig.now_ms += 10_000;
        let asked: HashSet<_> = std::iter::from_fn(|| rig.roster.take_due(rig.now_ms)).map(|job| job.address).collect();
        prop_assert_eq!(asked.len(), rig.set().backends().len(), "a backend was forgotten");
    }
}
