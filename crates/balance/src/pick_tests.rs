//! What a session may expect of a pick, on virtual time and with seeds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::lease::Grant;
use crate::{
    Active, Backend, BackendSet, ConnectFailure, Endpoint, Facts, Lease, Pick, PickReason, Policy, Rng, Settings,
    Standing, Zone, source_key,
};

fn settings(policy: Policy) -> Settings {
    Settings { policy, ..Settings::new("test") }
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        address: format!("10.0.0.{n}:80").parse().unwrap(),
        weight: 1,
        zone: Zone::default(),
        priority: 0,
        facts: Facts::default(),
        server_id: None,
    }
}

fn down(endpoint: Endpoint) -> Endpoint {
    Endpoint { facts: Facts { active: Active::Down, ..Facts::default() }, ..endpoint }
}

fn set_of(policy: Policy, count: u8) -> BackendSet {
    BackendSet::new(settings(policy), (1..=count).map(endpoint).collect())
}

fn picked(pick: Pick) -> Lease {
    match pick {
        Pick::Backend(lease) => lease,
        Pick::Refuse | Pick::Wait => panic!("nothing was picked though a backend is there"),
    }
}

fn last_octet(backend: &Backend) -> u8 {
    backend.address().to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap()
}

/// Picks `count` times, letting go at once, and counts by last octet.
fn shares(set: &BackendSet, count: usize, source: impl Fn(usize) -> u64) -> HashMap<u8, usize> {
    let mut rng = Rng::new(7);
    let mut shares = HashMap::new();
    for n in 0..count {
        *shares.entry(last_octet(picked(set.pick(1_000, source(n), &[], &mut rng)).backend())).or_default() += 1;
    }
    shares
}

fn eject(set: &BackendSet, now_ms: u64, octet: u8) {
    let mut rng = Rng::new(3);
    let backend = set.backends().iter().find(|backend| last_octet(backend) == octet).unwrap();
    for _ in 0..5 {
        set.connect_failed(
            Lease::new(backend, Grant { reason: PickReason::Local, score: 0.0, on_trial: false, capacity: 0 }).unwrap(),
            now_ms,
            ConnectFailure::Refused,
            &mut rng,
        );
    }
    assert_ne!(backend.standing(now_ms), Standing::Up);
}

#[test]
fn round_robin_takes_turns_and_spreads_unequal_weights() {
    let set = set_of(Policy::RoundRobin, 3);
    let mut rng = Rng::new(1);
    let order: Vec<u8> = (0..6).map(|_| last_octet(picked(set.pick(0, 0, &[], &mut rng)).backend())).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3]);

    let weighted = vec![Endpoint { weight: 3, ..endpoint(1) }, endpoint(2)];
    let set = BackendSet::new(settings(Policy::RoundRobin), weighted);
    let order: Vec<u8> = (0..8).map(|_| last_octet(picked(set.pick(0, 0, &[], &mut rng)).backend())).collect();
    assert_eq!(order.iter().filter(|&&n| n == 1).count(), 6, "weight 3 of 4 is three turns in four: {order:?}");
    assert!(!order.windows(2).any(|pair| pair == [2, 2]), "weight 1 never gets two turns in a row: {order:?}");
}

#[test]
fn round_robin_gives_a_returning_backend_its_share_and_no_burst() {
    let set = set_of(Policy::RoundRobin, 2);
    shares(&set, 10, |_| 0);
    let without = set.next(settings(Policy::RoundRobin), vec![endpoint(1), down(endpoint(2))]);
    shares(&without, 1_000, |_| 0);
    let again = without.next(settings(Policy::RoundRobin), vec![endpoint(1), endpoint(2)]);
    let after = shares(&again, 10, |_| 0);
    assert_eq!(after[&2], 5, "the turns that it missed are not made up for: {after:?}");
}

#[test]
fn least_conn_counts_sessions_from_the_pick_on_and_by_weight() {
    let set = BackendSet::new(settings(Policy::LeastConn), vec![Endpoint { weight: 3, ..endpoint(1) }, endpoint(2)]);
    let mut rng = Rng::new(1);
    let held: Vec<Lease> = (0..40).map(|_| picked(set.pick(0, 0, &[], &mut rng))).collect();
    let heavy = held.iter().filter(|lease| last_octet(lease.backend()) == 1).count();
    assert_eq!(heavy, 30, "none of the 40 has connected, and all count");
}

#[test]
fn random_two_spreads_and_prefers_the_less_loaded() {
    let set = set_of(Policy::RandomTwo, 4);
    let mut rng = Rng::new(5);
    let held: Vec<Lease> = (0..400).map(|_| picked(set.pick(0, 0, &[], &mut rng))).collect();
    for backend in set.backends() {
        let sessions = backend.state().sessions();
        assert!((90..=110).contains(&sessions), "two choices keep loads within a few of each other: {sessions}");
    }
    drop(held);
}

#[test]
fn hashing_policies_keep_a_source_and_move_only_the_sources_of_who_left() {
    for policy in [Policy::SourceHash, Policy::Maglev] {
        let set = set_of(policy, 5);
        let less = set.next(settings(policy), (1..=4).map(endpoint).collect());
        let mut rng = Rng::new(1);
        let mut moved = 0;
        for n in 0..1_000u32 {
            let source = source_key(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
            let before = last_octet(picked(set.pick(0, source, &[], &mut rng)).backend());
            assert_eq!(before, last_octet(picked(set.pick(0, source, &[], &mut rng)).backend()));
            let after = last_octet(picked(less.pick(0, source, &[], &mut rng)).backend());
            moved += u32::from(before != 5 && before != after);
        }
        let most = if policy == Policy::SourceHash { 0 } else { 60 };
        assert!(moved <= most, "{policy}: {moved} of 1000 sources moved though their backend stayed");
    }
}

#[test]
fn an_ejected_backend_leaves_the_other_sources_where_they_are() {
    for policy in [Policy::SourceHash, Policy::Maglev] {
        let set = set_of(policy, 5);
        let sources: Vec<u64> = (0..500u32).map(|n| source_key(std::net::Ipv4Addr::from(n).into())).collect();
        let mut rng = Rng::new(1);
        let mut all = |now_ms| -> Vec<u8> {
            sources.iter().map(|&s| last_octet(picked(set.pick(now_ms, s, &[], &mut rng)).backend())).collect()
        };
        let before = all(1_000);
        eject(&set, 1_000, 3);
        for (before, after) in before.into_iter().zip(all(1_001)) {
            assert!(if before == 3 { after != 3 } else { after == before }, "{policy}: {before} became {after}");
        }
    }
}

#[test]
fn an_ejected_backend_gets_one_trial_at_a_time_and_comes_back_when_it_answers() {
    let set = set_of(Policy::LeastConn, 3);
    let mut rng = Rng::new(1);
    eject(&set, 1_000, 2);
    let held: Vec<Lease> = (0..12).map(|_| picked(set.pick(2_000, 0, &[], &mut rng))).collect();
    assert!(held.iter().all(|lease| last_octet(lease.backend()) != 2), "an ejected backend is not picked");

    let later: Vec<Lease> = (0..6).map(|_| picked(set.pick(8_000, 0, &[], &mut rng))).collect();
    let trials: Vec<&Lease> = later.iter().filter(|lease| last_octet(lease.backend()) == 2).collect();
    assert_eq!(trials.len(), 1, "one session tries it, though it has the fewest");
    assert_eq!(trials[0].reason(), PickReason::Trial);

    drop(later);
    let mut trial = picked(set.pick(8_001, 0, &[], &mut rng));
    assert_eq!(trial.reason(), PickReason::Trial, "a trial that was let go is there for the next");
    trial.connected(8_002, Duration::from_millis(1), &mut rng);
    assert_eq!(trial.backend().standing(8_003), Standing::Up);
}

#[test]
fn a_failed_trial_ejects_for_longer_and_a_passed_check_shortens() {
    let set = set_of(Policy::LeastConn, 3);
    let mut rng = Rng::new(1);
    eject(&set, 1_000, 2);
    let held: Vec<Lease> = (0..12).map(|_| picked(set.pick(2_000, 0, &[], &mut rng))).collect();
    let trial = picked(set.pick(7_000, 0, &[], &mut rng));
    let backend = Arc::clone(trial.backend());
    set.connect_failed(trial, 7_000, ConnectFailure::Timeout, &mut rng);
    assert_eq!(backend.standing(15_000), Standing::Ejected, "the second ejection lasts 10 s");
    backend.state().probe_succeeded(15_001);
    assert_eq!(backend.standing(15_001), Standing::Trial);
    drop(held);
}

#[test]
fn backups_serve_only_while_no_primary_may_be_picked() {
    let backup = Endpoint { priority: 1, ..endpoint(9) };
    let set = BackendSet::new(settings(Policy::RoundRobin), vec![endpoint(1), endpoint(2), backup.clone()]);
    assert_eq!(shares(&set, 100, |_| 0).get(&9), None);
    let set = set.next(settings(Policy::RoundRobin), vec![down(endpoint(1)), down(endpoint(2)), backup]);
    let lease = picked(set.pick(2_000, 0, &[], &mut Rng::new(1)));
    assert_eq!((last_octet(lease.backend()), lease.reason()), (9, PickReason::Backup));
}

#[test]
fn below_the_threshold_a_zone_is_in_panic_and_its_checks_are_ignored() {
    let set = BackendSet::new(settings(Policy::RoundRobin), vec![endpoint(1), down(endpoint(2)), down(endpoint(3))]);
    let shares = shares(&set, 30, |_| 0);
    assert_eq!((shares[&1], shares[&2], shares[&3]), (10, 10, 10));
    assert_eq!(set.panics(1_000), [(Zone::default(), true)]);
}

#[test]
fn a_zone_in_panic_is_left_alone_while_another_is_well() {
    let other = |n| Endpoint { zone: Zone::new("ams").unwrap(), ..endpoint(n) };
    let set =
        BackendSet::new(settings(Policy::LeastConn), vec![endpoint(1), down(endpoint(2)), down(endpoint(3)), other(4)]);
    assert_eq!(shares(&set, 20, |_| 0), HashMap::from([(4, 20)]));
}

#[test]
fn a_zone_that_was_ejected_as_a_whole_comes_back_by_trials_while_another_is_well() {
    let other = |n| Endpoint { zone: Zone::new("ams").unwrap(), ..endpoint(n) };
    for policy in [Policy::LeastConn, Policy::RoundRobin, Policy::RandomTwo] {
        let set = BackendSet::new(settings(policy), vec![endpoint(1), endpoint(2), other(3), other(4)]);
        let mut rng = Rng::new(1);
        [1, 2].into_iter().for_each(|octet| eject(&set, 1_000, octet));
        for now_ms in 8_000..8_200 {
            let mut lease = picked(set.pick(now_ms, 0, &[], &mut rng));
            lease.connected(now_ms, Duration::from_millis(1), &mut rng);
        }
        let standing = |backend: &Arc<Backend>| backend.standing(9_000);
        assert!(set.backends().iter().map(standing).all(|standing| standing == Standing::Up), "{policy}");
    }
}

#[test]
fn a_retry_in_panic_takes_the_backend_that_is_believed_to_work() {
    let all = (1..=9).map(|n| if n == 9 { endpoint(n) } else { down(endpoint(n)) });
    let set = BackendSet::new(settings(Policy::RoundRobin), all.collect());
    let mut rng = Rng::new(1);
    let first = Arc::clone(picked(set.pick(0, 0, &[], &mut rng)).backend());
    let second = picked(set.pick(0, 0, &[first], &mut rng));
    assert_eq!((last_octet(second.backend()), second.reason()), (9, PickReason::Retry));
}

#[test]
fn weight_zero_gets_nothing_and_alone_is_refused() {
    for policy in Policy::ALL {
        let set = BackendSet::new(settings(policy), vec![Endpoint { weight: 0, ..endpoint(1) }, endpoint(2)]);
        assert_eq!(shares(&set, 50, |n| n as u64), HashMap::from([(2, 50)]), "{policy}");
        for endpoints in [vec![Endpoint { weight: 0, ..endpoint(1) }], vec![]] {
            let set = BackendSet::new(settings(policy), endpoints);
            assert!(matches!(set.pick(0, 0, &[], &mut Rng::new(1)), Pick::Refuse), "{policy}");
        }
    }
}

#[test]
fn a_change_of_the_set_keeps_the_state_of_those_that_stay() {
    let set = set_of(Policy::LeastConn, 2);
    let mut rng = Rng::new(1);
    let held: Vec<Lease> = (0..10).map(|_| picked(set.pick(0, 0, &[], &mut rng))).collect();
    let moved = Endpoint { weight: 5, zone: Zone::new("ams").unwrap(), ..endpoint(1) };
    let next = set.next(settings(Policy::LeastConn), vec![moved, endpoint(3)]);
    assert_eq!(next.backends()[0].state().sessions(), 5);
    drop(held);
    assert_eq!(next.backends()[0].state().sessions(), 0, "old leases count down what the new set sees");
}

proptest! {
    /// Whatever the facts, ejections and tries: a pick ends, never repeats a try, never takes a draining backend, and
    /// finds one whenever there is one. Counters return to zero.
    #[test]
    fn a_pick_finds_what_there_is(
        policy in 0..Policy::ALL.len(),
        shape in proptest::collection::vec((0u32..3, 0u8..3, any::<bool>(), any::<bool>(), 0u8..2), 0..12),
        threshold in 0u8..=100,
        seed in any::<u64>(),
    ) {
        let endpoints = shape.iter().zip(1..).map(|(&(weight, priority, is_down, _, zone), n)| {
            let base = Endpoint { weight, priority, zone: Zone::new(["a", "b"][zone as usize]).unwrap(), ..endpoint(n) };
            if is_down { down(base) } else { base }
        });
        let settings = Settings { panic_threshold: threshold, ..settings(Policy::ALL[policy]) };
        let set = BackendSet::new(settings, endpoints.collect());
        for (&(_, _, _, ejected, _), n) in shape.iter().zip(1..) {
            if ejected { eject(&set, 1_000, n); }
        }
        let usable = shape.iter().filter(|&&(weight, ..)| weight > 0).count();
        let mut rng = Rng::new(seed);
        let mut tried: Vec<Arc<Backend>> = Vec::new();
        for now_ms in [1_001u64, 3_000, 9_000].into_iter().cycle() {
            match set.pick(now_ms, seed, &tried, &mut rng) {
                Pick::Refuse | Pick::Wait => break,
                Pick::Backend(lease) => {
                    prop_assert!(lease.backend().endpoint().weight > 0);
                    prop_assert!(!tried.iter().any(|other| other.is(lease.backend())));
                    tried.push(Arc::clone(lease.backend()));
                }
            }
        }
        prop_assert_eq!(tried.len(), usable);
        prop_assert!(set.backends().iter().all(|b| b.state().sessions() == 0 && b.state().connecting() == 0));
    }
}
