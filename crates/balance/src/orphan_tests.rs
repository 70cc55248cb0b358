//! Backends that no source names any more.

use std::sync::Arc;

use crate::{Backend, BackendSet, ConnectFailure, Endpoint, Facts, Lease, Pick, PickReason, Policy, Rng, Settings};
use crate::{Standing, Zone};

/// Backends 1 to `count`, of which those up to `orphans` are orphans.
fn set(policy: Policy, orphans: u8, count: u8) -> BackendSet {
    let endpoint = |n: u8| Endpoint {
        address: format!("10.0.0.{n}:80").parse().unwrap(),
        weight: 1,
        zone: Zone::default(),
        priority: 0,
        facts: Facts { is_orphan: n <= orphans, ..Facts::default() },
        server_id: None,
    };
    BackendSet::new(Settings { policy, ..Settings::new("test") }, (1..=count).map(endpoint).collect())
}

fn pick(set: &BackendSet, tried: &[Arc<Backend>], rng: &mut Rng) -> Lease {
    match set.pick(1_000, 7, tried, rng) {
        Pick::Backend(lease) => lease,
        other => panic!("nothing was picked though a backend is there: {other:?}"),
    }
}

#[test]
fn orphans_that_end_all_at_once_cost_no_session() {
    for policy in Policy::ALL {
        let (set, mut rng) = (set(policy, 200, 240), Rng::new(1));
        let (mut refused, mut served) = ([0u32; 256], [0u32; 2]);
        for client in 0..20_000u64 {
            let (mut tried, mut retried) = (Vec::new(), false);
            loop {
                let Pick::Backend(lease) = set.pick(1_000, client, &tried, &mut rng) else { panic!("nobody is left") };
                let backend = Arc::clone(lease.backend());
                if !backend.is_orphan() {
                    served[usize::from(retried)] += 1;
                    break;
                }
                assert!(!retried, "{policy:?}: a retry goes to one that a source names");
                retried = true;
                let at = set.backends().iter().position(|it| Arc::ptr_eq(it, &backend)).unwrap();
                refused[at] += 1;
                set.connect_failed(lease, 1_000, ConnectFailure::Refused, &mut rng);
                let granted = set.may_retry(1_000, &backend, Some(ConnectFailure::Refused));
                assert!(granted, "{policy:?}: they are more than the budget has, and it does not matter");
                tried.push(backend);
            }
        }
        assert!(refused.iter().all(|&times| times <= 1), "{policy:?}: once is enough of each: {refused:?}");
        assert!(served[1] > 0 && served[0] > 0, "{policy:?}: {served:?}");
        assert!(set.retry_budget().withdraw(1_000), "{policy:?}: the budget is untouched");
    }
}

#[test]
fn only_a_refusal_tells_that_an_orphan_is_gone() {
    let (set, mut rng) = (set(Policy::RoundRobin, 1, 1), Rng::new(1));
    let backend = Arc::clone(&set.backends()[0]);
    for failure in [ConnectFailure::Timeout, ConnectFailure::Unreachable, ConnectFailure::Reset, ConnectFailure::Other]
    {
        assert!(!set.connect_failed(pick(&set, &[], &mut rng), 1_000, failure, &mut rng), "{failure:?}");
        while set.retry_budget().withdraw(1_000) {}
        assert!(!set.may_retry(1_000, &backend, Some(failure)), "{failure:?} is paid for");
    }
    assert!(set.connect_failed(pick(&set, &[], &mut rng), 1_000, ConnectFailure::Refused, &mut rng));
    assert_eq!(backend.standing(1_000), Standing::Ejected);
    assert!(!set.may_retry(1_000, &backend, None), "a want of our own is paid for");
    // One that is named needs more than that.
    let set = self::set(Policy::RoundRobin, 0, 1);
    assert!(!set.connect_failed(pick(&set, &[], &mut rng), 1_000, ConnectFailure::Refused, &mut rng));
}

#[test]
fn a_retry_goes_to_an_orphan_that_answers_when_nobody_else_is_left() {
    for policy in Policy::ALL {
        let (set, mut rng) = (set(policy, 4, 6), Rng::new(1));
        let mut tried = set.backends()[4..].to_vec();
        for left in (1..=4).rev() {
            let lease = pick(&set, &tried, &mut rng);
            assert_eq!(lease.reason(), PickReason::Retry, "{policy:?}: {left} are left");
            tried.push(Arc::clone(lease.backend()));
        }
        assert!(matches!(set.pick(1_000, 7, &tried, &mut rng), Pick::Refuse));
    }
}

#[test]
fn orphans_that_are_gone_are_no_reason_for_panic() {
    let (set, mut rng) = (set(Policy::RoundRobin, 8, 10), Rng::new(1));
    for n in 0..200 {
        let lease = pick(&set, &[], &mut rng);
        assert_ne!(lease.reason(), PickReason::Panic, "pick {n}");
        if lease.backend().is_orphan() {
            set.connect_failed(lease, 1_000, ConnectFailure::Refused, &mut rng);
        }
    }
}
