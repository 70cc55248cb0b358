//! What flows of datagrams may expect, on virtual time.

use std::sync::Arc;

use crate::lease::Grant;
use crate::{
    Active, Administrative, Backend, BackendSet, ConnectFailure, Endpoint, Facts, Keep, Lease, Pick, PickReason,
    Reported, Rng, Sample, Settings, Standing, TurnClass, Zone,
};

fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        address: format!("10.0.0.{n}:53").parse().unwrap(),
        weight: 1,
        zone: Zone::default(),
        priority: 0,
        facts: Facts::default(),
        server_id: None,
    }
}

fn set_of(count: u8) -> BackendSet {
    BackendSet::new(Settings::new("dns"), (1..=count).map(endpoint).collect())
}

/// A flow on this backend, whatever a pick would say.
fn flow(backend: &Arc<Backend>, now_ms: u64) -> Lease {
    let mut lease =
        Lease::new(backend, Grant { reason: PickReason::Local, score: 0.0, on_trial: false, capacity: 0 }).unwrap();
    lease.opened(now_ms);
    lease
}

fn pick(set: &BackendSet, now_ms: u64) -> Lease {
    match set.pick(now_ms, 0, &[], &mut Rng::new(now_ms)) {
        Pick::Backend(lease) => lease,
        other => panic!("nothing was picked though a backend is there: {other:?}"),
    }
}

fn answer(lease: &mut Lease, took_us: u32, now_ms: u64) {
    lease.turn_began(now_ms);
    lease.turn_ended(Sample { class: TurnClass::Later, took_us }, now_ms);
}

/// Each backend answers `count` flows.
fn answered(set: &BackendSet, count: u64, now_ms: u64) {
    for (n, backend) in (0..count).flat_map(|n| set.backends().iter().map(move |backend| (n, backend))) {
        answer(&mut flow(backend, now_ms + n), 1_000, now_ms + n);
    }
    set.judge(now_ms + count);
}

/// A flow whose first question waits from `began_ms` on without an answer.
fn silent_flow(backend: &Arc<Backend>, began_ms: u64) -> bool {
    let mut lease = flow(backend, began_ms);
    lease.turn_began(began_ms);
    lease.silent(began_ms + TIMEOUT_MS, &mut Rng::new(began_ms))
}

const TIMEOUT_MS: u64 = 5_000;

/// Five such flows, which eject it.
fn fall_silent(backend: &Arc<Backend>) {
    assert_eq!((0..5).filter(|n| silent_flow(backend, 2_000 + n)).count(), 1);
}

#[test]
fn an_open_flow_is_established_and_knows_no_distance_until_it_is_answered() {
    let set = set_of(1);
    let state = set.backends()[0].state();
    let mut lease = pick(&set, 1_000);
    assert_eq!((state.sessions(), state.connecting()), (1, 1));
    lease.opened(1_000);
    assert_eq!((state.sessions(), state.connecting(), state.base_rtt_seconds()), (1, 0, None));
    answer(&mut lease, 3_000, 1_003);
    assert_eq!(state.base_rtt_seconds().map(|it| (it * 1e6).round()), Some(1_500.0));
    assert_eq!(lease.base_us(), 0, "no answer comes too soon for what was learned from answers");
    drop(lease);
    assert_eq!((state.sessions(), state.connecting(), state.turns()), (0, 0, 0));
}

#[test]
fn machines_that_always_take_equally_long_still_differ() {
    let set = set_of(2);
    for n in 0..100 {
        for (backend, took_us) in set.backends().iter().zip([5_000, 20_000]) {
            answer(&mut flow(backend, 1_000 + n), took_us, 1_000 + n);
        }
    }
    let times: Vec<f64> = set.backends().iter().map(|it| it.state().server_seconds().unwrap()).collect();
    let ratio = times[1] / times[0];
    assert!((3.8..4.2).contains(&ratio), "four times as slow, and nothing in the times varies: {ratio}");
}

#[test]
fn a_check_that_connects_knows_the_distance_better_than_answers() {
    let set = set_of(1);
    let backend = &set.backends()[0];
    backend.state().probe_connected(std::time::Duration::from_micros(400));
    let mut lease = flow(backend, 1_000);
    (0..1_000).for_each(|n| answer(&mut lease, 9_000, 1_000 + n));
    assert_eq!((lease.base_us(), backend.state().base_rtt_seconds().map(|it| (it * 1e6).round())), (400, Some(400.0)));
    assert!((backend.state().server_seconds().unwrap() - 0.0086).abs() < 1e-5);
}

/// (what it is about, whether others were answered meanwhile, whether the flow was answered before, silences of the flow
/// as (from, to) in milliseconds, how many of them are the backend's failures)
type Silence = (&'static str, bool, bool, &'static [(u64, u64)], u64);

#[test]
fn silence_is_held_against_a_backend_only_where_it_says_something() {
    let cases: [Silence; 7] = [
        ("never answered, and nobody else", false, false, &[(2_000, 7_000)], 1),
        ("never answered, while others are", true, false, &[(2_000, 7_000)], 0),
        ("answered, and the last datagram is not", false, true, &[(2_000, 7_000)], 0),
        ("answered, and then the client asks in vain", false, true, &[(2_000, 7_000), (7_500, 12_500)], 1),
        ("the same while others are answered", true, true, &[(2_000, 7_000), (7_500, 12_500)], 0),
        ("answered, and then a keepalive now and then", false, true, &[(2_000, 7_000), (27_000, 32_000)], 0),
        ("never answered, and goes on asking", false, false, &[(2_000, 7_000), (7_500, 12_500)], 2),
    ];
    for (about, others, before, silences, failures) in cases {
        let set = set_of(2);
        answered(&set, 20, 1_000);
        let backend = &set.backends()[0];
        let mut lease = flow(backend, 1_900);
        if before {
            answer(&mut lease, 1_000, 1_950);
        }
        for &(from_ms, to_ms) in silences {
            lease.turn_began(from_ms);
            if others {
                answer(&mut flow(backend, to_ms - 1), 1_000, to_ms - 1);
            }
            assert!(!lease.silent(to_ms, &mut Rng::new(1)), "{about}");
            assert!(!lease.silent(to_ms, &mut Rng::new(1)), "{about}: nothing waits any more");
        }
        assert_eq!(backend.state().unanswered_total(), failures, "{about}");
        assert_eq!(backend.state().turns(), 0, "{about}");
    }
}

#[test]
fn an_answer_begins_the_count_of_a_flow_anew() {
    let set = set_of(2);
    answered(&set, 20, 1_000);
    let backend = &set.backends()[0];
    let mut lease = flow(backend, 2_000);
    for round in 0..20 {
        let now_ms = 2_000 + round * 10_000;
        answer(&mut lease, 1_000, now_ms);
        lease.turn_began(now_ms + 1);
        assert!(!lease.silent(now_ms + 1 + TIMEOUT_MS, &mut Rng::new(1)));
    }
    assert_eq!(backend.state().unanswered_total(), 0);
}

#[test]
fn one_that_fell_silent_is_ejected_by_the_fifth_flow_and_comes_back_by_an_answer() {
    let set = set_of(3);
    answered(&set, 30, 1_000);
    let backend = &set.backends()[0];
    let changes = set.changes();
    let ejected: Vec<bool> = (0..6).map(|n| silent_flow(backend, 2_000 + n)).collect();
    assert_eq!(ejected.iter().filter(|&&it| it).count(), 1, "{ejected:?}");
    assert_eq!(backend.standing(7_010), Standing::Ejected);
    assert_ne!(set.changes(), changes);

    let mut trials = Vec::new();
    for n in 0..5 {
        let now_ms = 14_000 + n * 1_100;
        let mut trial = pick(&set, now_ms);
        assert_eq!(trial.reason(), PickReason::Trial, "a silent trial keeps others from trying for a second");
        trial.opened(now_ms);
        trial.turn_began(now_ms);
        assert_eq!((backend.standing(now_ms + 999), set.keeps(backend, now_ms + 999)), (Standing::Trial, Keep::Yes));
        assert_ne!(pick(&set, now_ms + 999).reason(), PickReason::Trial);
        trials.push((trial, now_ms));
    }
    for (trial, began_ms) in &mut trials {
        trial.silent(*began_ms + TIMEOUT_MS, &mut Rng::new(1));
    }
    assert_eq!(backend.standing(29_000), Standing::Ejected);
    assert_eq!(backend.standing(30_500), Standing::Trial, "five trials at once are one failure: ten seconds");

    let mut trial = pick(&set, 30_600);
    trial.opened(30_600);
    assert_eq!(backend.standing(30_601), Standing::Trial, "a socket proves nothing");
    answer(&mut trial, 1_000, 30_610);
    assert_eq!(backend.standing(30_611), Standing::Up);
}

#[test]
fn one_client_that_asks_in_vain_ejects_nobody_who_answers_others() {
    let set = set_of(2);
    answered(&set, 20, 1_000);
    for n in 0..500u64 {
        let now_ms = 2_000 + n * 200;
        set.backends().iter().for_each(|backend| answer(&mut flow(backend, now_ms), 1_000, now_ms));
        for backend in set.backends() {
            assert!(!silent_flow(backend, now_ms.saturating_sub(TIMEOUT_MS)), "after {n} questions in vain");
        }
    }
    // Others ask less often than the client waits: any answer between five questions in vain will do.
    for n in 0..500u64 {
        let now_ms = 200_000 + n * 20_000;
        let backend = &set.backends()[0];
        answer(&mut flow(backend, now_ms), 1_000, now_ms);
        (1..=2).for_each(|k| assert!(!silent_flow(backend, now_ms + k * 6_000)));
    }
    assert_eq!(set.backends()[0].standing(10_300_000), Standing::Up);
}

#[test]
fn a_service_that_only_listens_is_never_blamed_for_it() {
    for answers_one_in in [u64::MAX, 5] {
        let set = set_of(2);
        let backend = &set.backends()[0];
        for n in 0..5_000 {
            let began_ms = 1_000 + n * 10_000;
            assert!(!silent_flow(backend, began_ms), "silence {n}");
            if n % answers_one_in == 3 {
                answer(&mut flow(backend, began_ms + 6_000), 1_000, began_ms + 6_000);
            }
        }
        assert_eq!((backend.state().unanswered_total(), backend.standing(60_000_000)), (0, Standing::Up));
    }
}

#[test]
fn refusals_eject_one_that_only_listens_and_datagrams_that_are_not_refused_bring_it_back() {
    let set = set_of(2);
    let backend = Arc::clone(&set.backends()[0]);
    let refused = |now_ms| {
        let mut lease = flow(&backend, now_ms);
        lease.turn_began(now_ms);
        set.connect_failed(lease, now_ms, ConnectFailure::Refused, &mut Rng::new(1))
    };
    for n in 0..100 {
        assert!(!refused(1_000 + n * 10_000), "now and then a refusal");
        silent_flow(&backend, 1_000 + n * 10_000);
    }
    assert_eq!((0..5).filter(|n| refused(2_000_000 + n)).count(), 1);
    assert_eq!((backend.state().turns(), backend.state().sessions()), (0, 0));
    assert_eq!(set.keeps(&backend, 2_000_010), Keep::Gone);

    let mut trial = pick(&set, 2_006_000);
    assert_eq!(trial.reason(), PickReason::Trial);
    trial.opened(2_006_000);
    trial.turn_began(2_006_000);
    assert!(!trial.silent(2_006_000 + TIMEOUT_MS, &mut Rng::new(1)));
    assert_eq!(backend.standing(2_006_000 + TIMEOUT_MS), Standing::Up, "nobody said that it is not there");
}

#[test]
fn a_flow_that_worked_and_is_refused_counts_against_its_backend_and_fails_its_trial() {
    let set = set_of(3);
    answered(&set, 30, 1_000);
    let backend = Arc::clone(&set.backends()[0]);
    let mut old: Vec<Lease> = (0..5).map(|_| flow(&backend, 2_000)).collect();
    old.iter_mut().for_each(|lease| answer(lease, 1_000, 2_001));
    let refuse = |lease, now_ms| set.connect_failed(lease, now_ms, ConnectFailure::Refused, &mut Rng::new(1));
    let ejections = old.drain(..).filter_map(|lease| refuse(lease, 3_000).then_some(())).count();
    assert_eq!((ejections, backend.standing(3_001)), (1, Standing::Ejected));
    assert_eq!(backend.state().failures(ConnectFailure::Refused), 5);

    let mut trial = pick(&set, 9_000);
    assert_eq!(trial.reason(), PickReason::Trial);
    trial.opened(9_000);
    assert!(refuse(trial, 9_001), "its socket exists, and still it is not there");
    assert_eq!(backend.standing(9_002), Standing::Ejected);
}

#[test]
fn a_trial_that_is_let_go_before_it_said_anything_decides_nothing() {
    let set = set_of(3);
    answered(&set, 30, 1_000);
    let backend = &set.backends()[0];
    fall_silent(backend);
    let mut trial = pick(&set, 14_000);
    trial.opened(14_000);
    drop(trial);
    assert_eq!((backend.standing(14_001), backend.standing(60_000)), (Standing::Trial, Standing::Trial));
    assert_eq!(pick(&set, 15_001).reason(), PickReason::Trial);
}

fn facts(administrative: Administrative, reported: Reported, active: Active) -> Facts {
    Facts { administrative, reported, active, is_orphan: false }
}

#[test]
fn flows_end_with_what_is_believed_to_be_broken_and_not_with_what_drains() {
    use Administrative::{Draining as Drains, Enabled};
    use Reported::{NotReady, Ready};
    let cases = [
        ("in service", facts(Enabled, Ready, Active::Up), 1, Keep::Yes),
        ("not checked", facts(Enabled, Ready, Active::Unknown), 1, Keep::Yes),
        ("down by its check", facts(Enabled, Ready, Active::Down), 1, Keep::Gone),
        ("out of service", facts(Enabled, NotReady, Active::Up), 1, Keep::Gone),
        ("drained by the operator", facts(Drains, Ready, Active::Up), 1, Keep::Draining),
        ("drained by weight", facts(Enabled, Ready, Active::Up), 0, Keep::Draining),
        ("drained, as its registry says as well", facts(Drains, NotReady, Active::Up), 1, Keep::Draining),
        ("drained, and then down", facts(Drains, Ready, Active::Down), 1, Keep::Gone),
    ];
    let before = set_of(3);
    let backend = &before.backends()[1];
    for (about, facts, weight, expected) in cases {
        let changed = Endpoint { facts, weight, ..endpoint(2) };
        let set = before.next(before.settings().clone(), vec![endpoint(1), changed, endpoint(3)]);
        assert_eq!(set.keeps(backend, 1_000), expected, "{about}");
        assert_eq!(set.take(backend, 1_000).is_some(), expected != Keep::Gone, "{about}");
        assert_eq!(set.keeps(&before.backends()[0], 1_000), Keep::Yes, "{about}: its neighbour");
    }
    let without = before.next(before.settings().clone(), vec![endpoint(1), endpoint(3)]);
    assert_eq!(without.keeps(backend, 1_000), Keep::Gone, "not in the set any more");
    assert!(without.take(backend, 1_000).is_none());
    let moved = Endpoint { priority: 3, ..endpoint(2) };
    let set = before.next(before.settings().clone(), vec![endpoint(1), moved, endpoint(3)]);
    assert_eq!(set.keeps(backend, 1_000), Keep::Yes, "a backup now, and still the same backend");
}

#[test]
fn ejection_ends_flows_at_once_and_panic_ends_none() {
    let set = set_of(4);
    answered(&set, 30, 1_000);
    let eject = |n: usize| fall_silent(&set.backends()[n]);
    eject(0);
    let keeps = || set.backends().iter().map(|it| set.keeps(it, 7_010)).collect::<Vec<Keep>>();
    assert_eq!(keeps(), [Keep::Gone, Keep::Yes, Keep::Yes, Keep::Yes]);
    eject(1);
    eject(2);
    assert_eq!(keeps(), [Keep::Yes; 4], "three of four are more likely to be judged wrongly");

    let facts = Facts { active: Active::Down, ..Facts::default() };
    let all_down = |drains: u32| {
        let endpoints = (1..=3).map(|n| Endpoint { facts, weight: u32::from(n != drains), ..endpoint(n as u8) });
        set.next(set.settings().clone(), endpoints.collect())
    };
    let set = all_down(0);
    assert!(set.backends().iter().all(|it| set.keeps(it, 7_020) == Keep::Yes), "nobody else is left");
    let set = all_down(2);
    let keeps: Vec<Keep> = set.backends().iter().map(|it| set.keeps(it, 7_030)).collect();
    assert_eq!(keeps, [Keep::Yes, Keep::Gone, Keep::Yes], "one that drains is no hope in panic either");
}

#[test]
fn a_connection_id_names_one_backend_whatever_the_policy_would_say() {
    let named = |n: u8, id: Option<&[u8]>| Endpoint { server_id: id.map(Into::into), ..endpoint(n) };
    let endpoints = vec![
        named(1, Some(&[7, 7])),
        named(2, None),
        named(3, Some(&[1])),
        Endpoint { priority: 1, ..named(4, Some(&[7])) },
        named(5, Some(&[7, 7])),
    ];
    let settings = Settings { max_connections_per_backend: 2, ..Settings::new("quic") };
    let set = BackendSet::new(settings, endpoints);
    let cases: [(&[u8], Option<usize>); 7] = [
        (&[7, 7], Some(0)),
        (&[1], Some(2)),
        (&[7], Some(4)),
        (&[], None),
        (&[0], None),
        (&[7, 8], None),
        (&[9], None),
    ];
    for (id, expected) in cases {
        let found = set.by_server_id(id).map(|found| set.backends().iter().position(|it| it.is(found)).unwrap());
        assert_eq!(found, expected, "{id:?}");
    }
    let backup = set.by_server_id(&[7]).unwrap();
    let leases: Vec<Lease> = (0..2).filter_map(|_| set.take(backup, 1_000)).collect();
    assert!(leases.iter().all(|lease| lease.backend().is(backup) && lease.reason() == PickReason::Affinity));
    assert_eq!((backup.state().sessions(), backup.state().picks(PickReason::Affinity)), (2, 2));
    assert!(set.take(backup, 1_000).is_none(), "it is full");
    drop(leases);
    assert!(set.take(backup, 1_000).is_some());
}

#[test]
fn a_trial_is_taken_by_affinity_too_and_one_under_way_does_not_turn_connections_away() {
    let set = set_of(3);
    answered(&set, 30, 1_000);
    let backend = &set.backends()[0];
    fall_silent(backend);
    assert!(set.take(backend, 7_010).is_none(), "ejected");
    let mut trial = set.take(backend, 14_000).unwrap();
    let other = set.take(backend, 14_000).unwrap();
    trial.opened(14_000);
    answer(&mut trial, 1_000, 14_001);
    drop(other);
    assert_eq!(backend.standing(14_002), Standing::Up);
}
