//! Backends that a control plane names: what its answers bring, and what one that errs, dies or forgets does not take
//! away.

use crate::harness::{Config, Named, Plane, Proxy, eventually, loopback, who};
use crate::sources::{named_session, orphans, start, updates};

/// A proxy that follows the cluster of this control plane, which may name loopback.
fn follow(plane: &Plane, more: &str) -> Proxy {
    follow_by(plane, more, &Config::to([]))
}

fn follow_by(plane: &Plane, more: &str, config: &Config) -> Proxy {
    let source = format!(
        "kind = \"xds\"\ncluster = \"web\"\nurls = [\"{}\"]\nallowed_cidrs = \"127.0.0.0/8\"\n{more}",
        plane.url()
    );
    start(&config.clone().source(&source))
}

#[test]
fn endpoints_drain_move_and_vanish() {
    // given
    let (one, two, three) = (Named::start("one"), Named::start("two"), Named::start("three"));
    let plane = Plane::of(&[(one.address(), "up"), (two.address(), "up")]);
    let proxy = follow(&plane, "");
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(proxy.backend(one.address())["zone"], "eu/eu-1a");
    let mut held = loop {
        let (conn, name) = named_session(&proxy);
        if name == "one" {
            break conn;
        }
    };

    // when: one of them drains
    plane.has(&[(one.address(), "draining"), (two.address(), "up")]);

    // then: it gets no new sessions, and leaves at once when it is gone
    eventually("it drains", || proxy.state(one.address()) == "draining");
    assert!((0..10).all(|_| who(&proxy.main()) == "two"));
    held.echoes("an established session stays with its backend");
    plane.has(&[(two.address(), "up")]);
    proxy.expect_backends([two.address()]);
    assert_eq!(orphans(&proxy), 0.0, "its owner took it away");
    held.echoes("it stays there even then");

    // when: the cluster names other endpoints, of which nothing is said yet
    plane.names("green");
    plane.is_asked_for("green");

    // then: those that are known serve until there are others
    proxy.expect_backends([two.address()]);
    assert_eq!((who(&proxy.main()), orphans(&proxy)), ("two".into(), 0.0));
    plane.assigns("green", &[(two.address(), "down"), (three.address(), "up")]);
    proxy.expect_backends([two.address(), three.address()]);
    eventually("two is down", || proxy.state(two.address()) == "down");
    assert!((0..10).all(|_| who(&proxy.main()) == "three"));
    assert_eq!(proxy.metrics().sum("config_reloads_total"), 0.0, "nothing was reloaded");
    assert_eq!(updates(&proxy, "failed"), 0.0);
    drop(held);
    proxy.finish();
}

#[test]
fn backends_outlive_a_control_plane_that_dies_and_returns() {
    // given
    let (one, two, three) = (Named::start("one"), Named::start("two"), Named::start("three"));
    let mut plane = Plane::of(&[(one.address(), "up"), (two.address(), "up")]);
    let proxy = follow(&plane, "");
    proxy.expect_backends([one.address(), two.address()]);
    proxy.expect_log("source failed");

    // when
    plane.stop();

    // then
    proxy.expect_source("xds", "failing");
    eventually("the reason is told", || proxy.source("xds")["last_error"].to_string().contains("Connection refused"));
    assert_eq!((proxy.backends().len(), orphans(&proxy)), (2, 0.0));
    who(&proxy.main());

    // when: it returns and has nothing new to say
    plane.start_again();

    // then: that is asked for, and enough
    proxy.expect_source("xds", "live");
    assert_eq!(plane.began_with().keys().collect::<Vec<_>>(), ["web", "web/v1"]);
    assert_eq!((proxy.backends().len(), orphans(&proxy)), (2, 0.0));

    // when: much happens while it is away
    plane.stop();
    proxy.expect_source("xds", "failing");
    plane.has(&[(one.address(), "up"), (three.address(), "up")]);
    plane.start_again();

    // then
    proxy.expect_backends([one.address(), three.address()]);
    proxy.expect_source("xds", "live");
    assert_eq!(orphans(&proxy), 0.0, "one of two is believed");
    proxy.finish();
}

#[test]
fn what_cannot_be_used_is_refused_and_what_is_empty_is_doubted() {
    // given
    let (one, two, three) = (Named::start("one"), Named::start("two"), Named::start("three"));
    let plane = Plane::of(&[(one.address(), "up"), (two.address(), "up")]);
    let proxy = follow(&plane, "timeout = \"1s\"");
    proxy.expect_backends([one.address(), two.address()]);
    proxy.expect_log("source failed");
    proxy.expect_trouble_with_backends();

    // when
    plane.has(&[(three.address(), "up"), ("db.example:80", "up")]);

    // then: the control plane is told why, and so is the operator
    let why = plane.is_refused();
    assert!(why.contains("the endpoints of `web/v1`: `db.example` is not an IP address"), "{why}");
    proxy.expect_source("xds", "failing");
    let error = proxy.source("xds")["last_error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(error, format!("refused: {why}"));
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(orphans(&proxy), 0.0);

    // when: it is mended
    plane.has(&[(one.address(), "up"), (two.address(), "up"), (three.address(), "up")]);
    proxy.expect_backends([one.address(), two.address(), three.address()]);
    proxy.expect_source("xds", "live");

    // when: nobody is left, and then not even the cluster
    plane.has(&[]);
    eventually("an empty assignment is doubted", || orphans(&proxy) == 3.0);
    who(&proxy.main());
    plane.has(&[(one.address(), "up"), (two.address(), "up"), (three.address(), "up")]);
    eventually("it is taken back", || orphans(&proxy) == 0.0);
    plane.has_no_cluster();
    eventually("that there is no cluster is doubted", || orphans(&proxy) == 3.0);
    who(&proxy.main());

    // when: it is there again
    plane.names("web/v1");
    eventually("the cluster is back", || orphans(&proxy) == 0.0);
    assert_eq!(proxy.backends().len(), 3);
    proxy.finish();
}

#[test]
fn endpoints_cannot_lead_clients_here_or_to_places_that_are_not_allowed() {
    // given
    let backend = Named::start("one");
    let own = format!("{}:5432", loopback());
    let plane =
        Plane::of(&[(backend.address(), "up"), (&own, "up"), ("169.254.169.254:80", "up"), ("10.1.2.3:80", "up")]);

    // when
    let proxy = follow_by(&plane, "", &Config::to([]).listen(&own));

    // then
    proxy.expect_backends([backend.address()]);
    let refused = &proxy.source("xds")["refused"];
    for (reason, count) in [("own_listener", 1), ("not_allowed", 2)] {
        assert!(refused[reason].as_u64().unwrap_or_default() >= count, "{reason} is counted: {refused}");
    }
    assert_eq!(who(&own), "one");
    proxy.finish();
}
