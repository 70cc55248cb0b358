//! Which backend gets a session, seen from outside: by the name that greets the client.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::harness::{Config, Conn, Named, Proxy, eventually, who, who_from};

/// One worker, where an order is asserted that workers keep each for themselves.
const ONE_WORKER: &str = "workers = 1";

#[test]
fn round_robin_keeps_the_weights_exactly() {
    // given
    let (heavy, light) = (Named::start("heavy"), Named::start("light"));
    let backends = [weighted(&heavy, 3), weighted(&light, 1)];
    let proxy = balanced("round_robin", &backends).node(ONE_WORKER).start();

    // when
    let served = (0..40).map(|_| who(&proxy.main())).collect::<Vec<_>>();

    // then
    assert_eq!(count(&served), counts([("heavy", 30), ("light", 10)]), "shares follow the weights");
    for window in served.windows(4) {
        assert_eq!(count(window), counts([("heavy", 3), ("light", 1)]), "the lighter one is spread evenly between");
    }
    let picks = |backend: &Named| {
        proxy.metrics().sum(&format!("picks_total{{backend=\"{}\",reason=\"local\"}}", backend.address()))
    };
    assert_eq!((picks(&heavy), picks(&light)), (30.0, 10.0), "picks are counted by backend");
    proxy.finish();
}

#[test]
fn least_conn_fills_the_gaps() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let proxy = balanced("least_conn", &[weighted(&one, 1), weighted(&two, 1)]).start();

    // when
    let mut held = hold(&proxy, 10);

    // then
    assert_eq!(names(&held), counts([("one", 5), ("two", 5)]), "held sessions are spread evenly");

    // when
    held.retain(|(name, _)| name == "two");
    eventually("the ended sessions are no load any more", || proxy.metrics().sum("connections_active") == 5.0);
    let more = hold(&proxy, 5);

    // then
    assert_eq!(names(&more), counts([("one", 5)]), "new sessions go where fewer are");
    drop((held, more));
    proxy.finish();
}

#[test]
fn least_conn_keeps_the_weights() {
    let (heavy, light) = (Named::start("heavy"), Named::start("light"));
    let proxy = balanced("least_conn", &[weighted(&heavy, 3), weighted(&light, 1)]).start();
    let held = hold(&proxy, 16);
    assert_eq!(names(&held), counts([("heavy", 12), ("light", 4)]), "held sessions follow the weights");
    drop(held);
    proxy.finish();
}

#[test]
fn latency_is_the_default() {
    let (one, two) = (Named::start("one"), Named::start("two"));
    let proxy = Config::to([one.address(), two.address()]).start();
    assert_eq!(proxy.json("/v1/services")[0]["balance"], "latency");
    let held = hold(&proxy, 8);
    assert_eq!(names(&held).len(), 2, "neither of two equal backends is left out");
    drop(held);
    proxy.finish();
}

#[test]
fn source_hash_keeps_a_source_on_its_backend_when_another_backend_leaves() {
    keeps_sources("source_hash", 0);
}

#[test]
fn maglev_keeps_nearly_every_source_on_its_backend_when_another_backend_leaves() {
    // The table is filled anew: a small part of the others may move.
    keeps_sources("maglev", 6);
}

/// Maps sources to four backends, removes one, and counts who moved without need.
fn keeps_sources(balance: &str, may_move: usize) {
    // given
    let backends = ["a", "b", "c", "d"].map(Named::start);
    let entries = backends.each_ref().map(|backend| weighted(backend, 1));
    let proxy = balanced(balance, &entries).start();
    let sources = (1..=60).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect::<Vec<_>>();
    let map = || sources.iter().map(|source| who_from(*source, &proxy.main())).collect::<Vec<_>>();

    // when
    let (first, second) = (map(), map());

    // then
    assert_eq!(first, second, "a source always meets the same backend");
    assert_eq!(count(&first).len(), 4, "sources are spread over all backends");

    // when
    let listen = proxy.main();
    proxy.reload(&balanced(balance, &entries[..3]).listen(&listen).toml());
    let third = map();

    // then
    let stayed = first.iter().zip(&third).filter(|(before, _)| *before != "d");
    let moved = stayed.filter(|(before, after)| before != after).count();
    assert!(moved <= may_move, "sources of the backends that stay, stay: {moved} moved");
    assert!(!third.contains(&"d".to_owned()), "a backend that left gets nobody");
    proxy.finish();
}

#[test]
fn random_two_spreads_over_all_backends() {
    let backends = ["a", "b", "c", "d"].map(Named::start);
    let proxy = balanced("random_two", &backends.each_ref().map(|backend| weighted(backend, 1))).start();
    let served = (0..200).map(|_| who(&proxy.main())).collect::<Vec<_>>();
    let shares = count(&served);
    assert!(shares.len() == 4 && shares.values().all(|share| *share >= 20), "nobody is left out: {shares:?}");
    proxy.finish();
}

#[test]
fn backups_serve_only_while_no_primary_does() {
    // given
    let (mut primary, backup) = (Named::start("primary"), Named::start("backup"));
    let reserve = format!("{{ address = \"{}\", backup = true }}", backup.address());
    let config = Config::to([primary.address(), &reserve]);
    let proxy = config.health("{ kind = \"tcp\", interval = \"300ms\", rise = 2, fall = 2 }").start();
    proxy.expect_trouble_with_backends();
    for _ in 0..20 {
        assert_eq!(who(&proxy.main()), "primary", "a backup rests while a primary serves");
    }

    // when
    primary.stop();

    // then
    eventually("a primary that is gone is seen to be", || {
        assert_eq!(who(&proxy.main()), "backup", "the backup stands in, from the first client on");
        proxy.state(primary.address()) == "down"
    });
    assert_eq!(who(&proxy.main()), "backup");
    assert!(proxy.metrics().sum("picks_total{reason=\"backup\"}") >= 1.0, "standing in is counted as such");

    // when
    primary.start_again();

    // then
    eventually("the primary takes over again", || who(&proxy.main()) == "primary");
    proxy.finish();
}

#[test]
fn a_backend_of_weight_zero_gets_nobody() {
    for balance in ["latency", "round_robin", "least_conn", "random_two", "source_hash", "maglev"] {
        let (serving, resting) = (Named::start("serving"), Named::start("resting"));
        let proxy = balanced(balance, &[weighted(&serving, 1), weighted(&resting, 0)]).start();
        for last in 1..=20 {
            let name = who_from(Ipv4Addr::new(127, 0, 0, last), &proxy.main());
            assert_eq!(name, "serving", "{balance}: weight zero means nobody");
        }
        proxy.finish();
    }
}

fn weighted(backend: &Named, weight: u32) -> String {
    format!("{{ address = \"{}\", weight = {weight} }}", backend.address())
}

fn balanced(policy: &str, backends: &[String]) -> Config {
    Config::to(backends.iter().map(String::as_str)).service(&format!("balance = \"{policy}\""))
}

/// Opens sessions one after the other and keeps them, each with the name of its backend.
fn hold(proxy: &Proxy, number: usize) -> Vec<(String, Conn)> {
    let address = proxy.main();
    let open = |_| {
        let mut conn = Conn::open(&address);
        (conn.name(), conn)
    };
    (0..number).map(open).collect()
}

fn names(held: &[(String, Conn)]) -> BTreeMap<String, usize> {
    count(&held.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
}

fn count(names: &[String]) -> BTreeMap<String, usize> {
    names.iter().fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name.clone()).or_default() += 1;
        counts
    })
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(name, number)| (name.to_owned(), number)).collect()
}
