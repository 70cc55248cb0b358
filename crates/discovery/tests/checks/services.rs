//! Services that start, change and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::{Active, Address, Ledger, Use};
use discovery::{HealthConfig, ServiceConfig};
use tokio::runtime::Handle;

use crate::support::{
    Refusing, SERVICE, TCP, checked, exec, health, listener, service, services, states, until, until_next_result,
    until_state,
};

#[tokio::test]
async fn a_set_can_be_read_as_soon_as_it_is_applied() {
    let refusing = Refusing::new();
    let address = refusing.address();
    let services = checked(TCP, std::slice::from_ref(&address));
    assert_eq!(states(&services), [Active::Unknown]);
    assert_eq!(services.iter().map(|(name, _)| name).collect::<Vec<_>>(), [SERVICE]);
    assert!(services.reader("other").is_none() && services.checks("other").is_none());
}

#[tokio::test]
async fn a_reload_keeps_states_and_readers_of_what_stays_and_drops_the_rest() {
    let (_listener, good) = listener().await;
    let refusing = Refusing::new();
    let (good, bad): (Address, Address) = (good.into(), refusing.address());
    let both = [good.clone(), bad.clone()];
    let mut services = services(&Ledger::new(1_000));
    let other = service("other", TCP, &both);
    services.apply(vec![service(SERVICE, TCP, &both), other.clone()]);
    let reader = services.reader(SERVICE).unwrap();
    let state = |address: &Address| {
        let set = reader.load();
        let found = set.backends().iter().find(|backend| backend.address() == address);
        found.map(|backend| backend.endpoint().facts.active)
    };
    until(|| state(&good) == Some(Active::Up) && state(&bad) == Some(Active::Down)).await;

    services.apply(vec![service(SERVICE, TCP, &both), other]);
    assert_eq!((state(&good), state(&bad)), (Some(Active::Up), Some(Active::Down)), "nothing changed");

    let new = refusing.address_on([127, 0, 0, 2]);
    services.apply(vec![service(SERVICE, TCP, &[bad.clone(), new.clone()])]);
    assert_eq!((state(&good), state(&bad), state(&new)), (None, Some(Active::Down), Some(Active::Unknown)));
    assert!(services.reader("other").is_none());

    services.apply(vec![ServiceConfig { health: None, ..service(SERVICE, TCP, std::slice::from_ref(&bad)) }]);
    assert_eq!(state(&bad), Some(Active::Unknown), "what is not checked is not known");
    assert_eq!(services.checks(SERVICE), Some(Vec::new()));
}

#[tokio::test]
async fn checks_go_on_with_the_new_question_after_a_reload() {
    let refusing = Refusing::new();
    let address = refusing.address();
    let mut services = checked(TCP, std::slice::from_ref(&address));
    until_state(&services, Active::Down).await;
    services.apply(vec![service(SERVICE, exec(&["true"]), &[address])]);
    assert_eq!(states(&services), [Active::Down], "a reload alone brings nothing back");
    until_state(&services, Active::Up).await;
}

#[tokio::test]
async fn tasks_and_descriptors_end_with_their_service() {
    let ledger = Ledger::new(1_000);
    let address: Address = "127.0.0.1:9".parse().unwrap();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut services = services(&ledger);
    services.apply(vec![service("a", exec(&["sleep", "1000"]), std::slice::from_ref(&address))]);
    until(|| ledger.used(Use::Probes) > 0).await;
    services.apply(vec![service("b", exec(&["sleep", "1000"]), &[address])]);
    until(|| ledger.used(Use::Probes) > 0).await;
    drop(services);
    until(|| ledger.used(Use::Probes) == 0 && tasks() == before).await;
}

#[tokio::test]
async fn without_a_descriptor_nobody_is_judged() {
    let (ledger, refusing) = (Ledger::new(0), Refusing::new());
    let mut services = services(&ledger);
    services.apply(vec![service(SERVICE, TCP, &[refusing.address()])]);
    for _ in 0..5 {
        assert_eq!(until_next_result(&services).await.text, "no descriptor is left for it");
    }
    assert_eq!(states(&services), [Active::Unknown]);
}

#[tokio::test]
async fn checks_begin_when_descriptors_come_back() {
    let (ledger, refusing) = (Ledger::new(1), Refusing::new());
    let hold = ledger.take(Use::Sessions, 1);
    let mut services = services(&ledger);
    services.apply(vec![service(SERVICE, TCP, &[refusing.address()])]);
    until_next_result(&services).await;
    drop(hold);
    until_state(&services, Active::Down).await;
}

#[tokio::test]
async fn two_thousand_dead_backends_are_asked_a_few_at_a_time_and_make_few_sets() {
    let refusing = Refusing::new();
    let backend = |n: u16| refusing.address_on([127, 9, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    let backends: Vec<Address> = (0..2_000).map(backend).collect();
    let ledger = Ledger::new(10_000);
    let mut services = services(&ledger);
    let slow = HealthConfig { interval: Duration::from_secs(1), ..health(TCP) };
    services.apply(vec![ServiceConfig { health: Some(slow), ..service(SERVICE, TCP, &backends) }]);
    let reader = services.reader(SERVICE).unwrap();

    // Kept, so that no set can take the place of another in memory.
    let mut seen = vec![Arc::clone(&reader.load())];
    let mut used = BTreeSet::new();
    let started = Instant::now();
    while states(&services).iter().any(|&state| state != Active::Down) {
        assert!(started.elapsed().as_secs() < 60, "some backends were never asked");
        let set = Arc::clone(&reader.load());
        if !Arc::ptr_eq(&set, &seen[seen.len() - 1]) {
            seen.push(set);
        }
        used.insert(ledger.used(Use::Probes));
        tokio::task::yield_now().await;
    }
    let most_sets = 2 + started.elapsed().as_millis() as usize / 25;
    assert!(seen.len() <= most_sets, "sets are published at most each 25 ms: {} > {most_sets}", seen.len());
    assert!(*used.last().unwrap() <= 128, "more probes than slots ran at once: {used:?}");
}
