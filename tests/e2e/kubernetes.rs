//! Backends that are found in Kubernetes: what their conditions bring, and what a control plane on its worst day does
//! not take away.

use crate::harness::{Config, Kube, Named, Proxy, TempDir, eventually, loopback, who};
use crate::sources::{named_session, orphans, place, start, updates};

/// A proxy with a source that asks this API server with the token in the folder, and may name loopback.
fn follow(kube: &Kube, config: &Config) -> (Proxy, TempDir) {
    let folder = TempDir::new();
    let token = folder.join("token");
    place(&token, "t0ken");
    let source = format!(
        "kind = \"kubernetes\"\nservice = \"web\"\nnamespace = \"shop\"\nurl = \"{}\"\ntoken_file = \"{}\"\n\
         allowed_cidrs = \"127.0.0.0/8\"",
        kube.url(),
        token.display()
    );
    (start(&config.clone().source(&source)), folder)
}

#[test]
fn endpoints_drain_move_and_vanish() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let kube = Kube::of(&[("a", one.address(), "ready"), ("b", two.address(), "ready")]);
    let (proxy, _folder) = follow(&kube, &Config::to([]));
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(proxy.backend(one.address())["zone"], "eu-1a");
    let mut held = loop {
        let (conn, name) = named_session(&proxy);
        if name == "one" {
            break conn;
        }
    };

    // when: a pod ends
    kube.has(&[("a", one.address(), "ending"), ("b", two.address(), "ready")]);

    // then: it drains, and leaves at once when it is gone
    eventually("it drains", || proxy.state(one.address()) == "draining");
    assert!((0..10).all(|_| who(&proxy.main()) == "two"));
    held.echoes("an established session stays with its backend");
    kube.has(&[("b", two.address(), "ready")]);
    proxy.expect_backends([two.address()]);
    assert_eq!(orphans(&proxy), 0.0, "its owner took it away");
    held.echoes("it stays there even then");

    // when: nobody is ready, and another pod is not yet
    kube.has(&[("a", one.address(), "unready"), ("b", two.address(), "ending")]);

    // then: who ends serves
    proxy.expect_backends([one.address(), two.address()]);
    eventually("one is down", || proxy.state(one.address()) == "down");
    assert_eq!((who(&proxy.main()), proxy.state(two.address())), ("two".into(), "up".into()));

    // when: an endpoint is moved from one slice to another, and is in both for a while
    kube.has(&[("a", one.address(), "ready"), ("b", two.address(), "ready")]);
    kube.has(&[("a", one.address(), "ready"), ("b", two.address(), "ready"), ("c", two.address(), "unready")]);
    kube.has(&[("a", one.address(), "ready"), ("c", two.address(), "ready")]);
    // A third pod, so that it is known when all of that was heard.
    let three = Named::start("three");
    kube.has(&[("a", one.address(), "ready"), ("c", two.address(), "ready"), ("d", three.address(), "ready")]);

    // then
    proxy.expect_backends([one.address(), two.address(), three.address()]);
    assert_eq!((proxy.state(two.address()), orphans(&proxy)), ("up".into(), 0.0));
    assert_eq!(proxy.metrics().sum("config_reloads_total"), 0.0, "nothing was reloaded");
    drop(held);
    proxy.finish();
}

#[test]
fn backends_outlive_the_control_plane() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let kube = Kube::of(&[("a", one.address(), "ready"), ("b", two.address(), "ready")]);
    let (proxy, folder) = follow(&kube, &Config::to([]));
    proxy.expect_backends([one.address(), two.address()]);
    proxy.expect_log("source failed");

    // when, then: few errors, since the pauses after them grow
    for (status, body) in [(500, "{\"kind\":\"Status\",\"message\":\"etcdserver: no leader\"}"), (200, "{}")] {
        let failed = updates(&proxy, "failed");
        kube.answers(Some((status, body)));
        eventually("the answer is an error", || updates(&proxy, "failed") > failed);
        assert_eq!(proxy.backends().len(), 2, "{status} {body:?} takes nothing away");
        assert_eq!(orphans(&proxy), 0.0, "{status} {body:?} is no claim");
    }
    kube.answers(None);
    proxy.expect_source("kubernetes", "live");

    // when: the token was rotated
    kube.wants("n3w");
    proxy.expect_source("kubernetes", "failing");
    let error = proxy.source("kubernetes")["last_error"].to_string();
    assert!(error.contains("status 401: Unauthorized"), "{error}");
    assert_eq!((proxy.backends().len(), orphans(&proxy)), (2, 0.0));
    place(&folder.join("token"), "n3w");
    proxy.expect_source("kubernetes", "live");
    proxy.finish();
}

#[test]
fn a_cluster_that_forgot_is_listed_again_and_doubted() {
    // given
    let (one, mut two) = (Named::start("one"), Named::start("two"));
    let (first, second) = (one.address().to_owned(), two.address().to_owned());
    let both = [("a", &*first, "ready"), ("b", &*second, "ready")];
    let kube = Kube::of(&both);
    let (proxy, _folder) = follow(&kube, &Config::to([]));
    proxy.expect_backends([&*first, &*second]);
    proxy.expect_log("source failed");
    proxy.expect_trouble_with_backends();

    // when: the watch fell behind, and much happened meanwhile
    let three = Named::start("three");
    kube.is_compacted_with(&[both[0], both[1], ("c", three.address(), "ready")]);
    proxy.expect_backends([&*first, &*second, three.address()]);
    assert_eq!(updates(&proxy, "failed"), 0.0, "that is no failure");

    // when: an empty list
    kube.has(&[]);
    eventually("an empty list is doubted", || orphans(&proxy) == 3.0);
    who(&proxy.main());

    // when: a cluster that was restored from long ago, with other pods
    let four = Named::start("four");
    two.stop();
    kube.is_restored_with(&[("d", four.address(), "ready")]);

    // then: who does not answer leaves, who does serves for its time
    proxy.expect_backends([&*first, three.address(), four.address()]);
    assert_eq!(proxy.backend(four.address())["orphan"], false);
    assert_eq!(proxy.request("POST", "/v1/services/app/accept-empty").0, 200);
    proxy.expect_backends([four.address()]);
    assert_eq!(who(&proxy.main()), "four");
    proxy.finish();
}

#[test]
fn slices_cannot_lead_clients_here_or_to_places_that_are_not_allowed() {
    // given
    let backend = Named::start("one");
    let own = format!("{}:5432", loopback());
    let kube = Kube::of(&[
        ("a", backend.address(), "ready"),
        ("b", &own, "ready"),
        ("c", "169.254.169.254:80", "ready"),
        ("d", "10.1.2.3:80", "ready"),
    ]);

    // when
    let (proxy, _folder) = follow(&kube, &Config::to([]).listen(&own));

    // then
    proxy.expect_backends([backend.address()]);
    let refused = &proxy.source("kubernetes")["refused"];
    for (reason, count) in [("own_listener", 1), ("not_allowed", 2)] {
        assert!(refused[reason].as_u64().unwrap_or_default() >= count, "{reason} is counted: {refused}");
    }
    assert_eq!(who(&own), "one");
    proxy.finish();
}
