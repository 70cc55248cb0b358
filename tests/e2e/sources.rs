//! Backends that are found: what a change brings, and what a registry on its worst day does not take away.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::harness::{
    Backend, Config, Conn, Dns, Named, Proxy, Registry, Server, TempDir, eventually, list, loopback, run_to_exit, who,
};

/// Puts a file in place as deployment tools do.
pub fn place(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

fn file(path: &Path) -> String {
    format!("kind = \"file\"\npath = \"{}\"", path.display())
}

/// A source that asks a page all the time, and may name loopback.
fn page(registry: &Registry) -> String {
    format!("kind = \"http\"\nurl = \"{}/app\"\ninterval = \"100ms\"\nallowed_cidrs = \"127.0.0.0/8\"", registry.url())
}

pub fn start(config: &Config) -> Proxy {
    let proxy = config.start();
    // A watch and a file, or connections of questions.
    proxy.sources_may_open(6);
    proxy
}

pub fn orphans(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("orphans{service=\"app\"}")
}

pub fn updates(proxy: &Proxy, result: &str) -> f64 {
    proxy.metrics().sum(&format!("source_updates_total{{result=\"{result}\"}}"))
}

#[test]
fn a_change_of_a_file_reaches_the_listener_without_a_reload() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let folder = TempDir::new();
    let path = folder.join("app.json");
    place(&path, &list([one.address()]));
    let proxy = start(&Config::to([]).source(&file(&path)));
    proxy.expect_backends([one.address()]);
    assert_eq!(who(&proxy.main()), "one");
    let (mut held, name) = named_session(&proxy);
    assert_eq!(name, "one");

    // when
    place(&path, &list([two.address()]));
    proxy.expect_backends([two.address()]);

    // then
    assert_eq!(who(&proxy.main()), "two");
    held.echoes("an established session stays with its backend");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("config_reloads_total"), 0.0, "nothing was reloaded");
    assert_eq!(metrics.sum("source_endpoints{source=\"file\"}"), 1.0);
    assert_eq!(proxy.backend(two.address())["source"], "file");
    drop(held);
    proxy.finish();
}

pub fn named_session(proxy: &Proxy) -> (Conn, String) {
    let mut conn = Conn::open(proxy.main());
    let name = conn.name();
    (conn, name)
}

#[test]
fn a_link_that_is_swapped_is_read_anew() {
    // given: a folder as ConfigMaps are mounted
    let (one, two) = (Named::start("one"), Named::start("two"));
    let folder = TempDir::new();
    for (version, backend) in [("..1", &one), ("..2", &two)] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("app.json"), list([backend.address()])).unwrap();
    }
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/app.json", folder.join("app.json")).unwrap();
    let proxy = start(&Config::to([]).source(&file(folder.path())));
    proxy.expect_backends([one.address()]);

    // when
    symlink("..2", folder.join("..next")).unwrap();
    fs::rename(folder.join("..next"), folder.join("..data")).unwrap();

    // then
    proxy.expect_backends([two.address()]);
    assert_eq!(who(&proxy.main()), "two");
    proxy.finish();
}

#[test]
fn a_file_that_is_deleted_or_emptied_keeps_the_backends_that_answer() {
    // given
    let (one, mut two) = (Named::start("one"), Named::start("two"));
    let folder = TempDir::new();
    let path = folder.join("app.json");
    place(&path, &list([one.address(), two.address()]));
    let proxy = start(&Config::to([]).source(&file(&path)));
    proxy.expect_backends([one.address(), two.address()]);
    proxy.expect_log("source failed");
    proxy.expect_trouble_with_backends();

    // when: deleted
    fs::remove_file(&path).unwrap();
    proxy.expect_source("file", "failing");

    // then
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(orphans(&proxy), 0.0, "an error is no claim");
    assert!(proxy.source("file")["last_error"].as_str().unwrap().contains("app.json"), "the error names the file");

    // when: emptied
    place(&path, &list([]));
    eventually("an empty list is doubted", || orphans(&proxy) == 2.0);

    // then: who answers stays, who does not leaves
    assert_eq!(proxy.backend(one.address())["orphan"], true);
    let shown = run_to_exit(&["explain", "main", "--admin", &proxy.admin()]).stdout;
    assert!(shown.contains("2 of 2 backends are named by no source any more"), "{shown}");
    let is_told = |line: &String| line.contains("no source names any more");
    eventually("the log tells of it", || proxy.log_lines().iter().any(is_told));
    two.stop();
    proxy.expect_backends([one.address()]);
    assert_eq!(who(&proxy.main()), "one");

    // when: somebody says that it is right
    let told = run_to_exit(&["accept-empty", "app", "--admin", &proxy.admin()]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);

    // then
    proxy.expect_backends([]);
    assert_eq!(orphans(&proxy), 0.0);
    proxy.finish();
}

#[test]
fn names_follow_the_dns_and_outlive_its_failures() {
    // given: two backends of one port
    let one = Named::start("one");
    let (ip, port) = one.address().rsplit_once(':').unwrap();
    let (first, second): (Ipv4Addr, Ipv4Addr) = (ip.parse().unwrap(), loopback());
    let two = Named::start_on("two", &format!("{second}:{port}"));
    let dns = Dns::of(&[first]);
    let source = format!(
        "kind = \"dns\"\nname = \"app.example\"\nport = {port}\nservers = [\"{}\"]\nttl_min = \"100ms\"\n\
         timeout = \"300ms\"\nallowed_cidrs = \"127.0.0.0/8\"\nzone = \"ams\"",
        dns.address()
    );
    let proxy = start(&Config::to([]).source(&source));
    proxy.expect_backends([one.address()]);
    assert_eq!(proxy.backend(one.address())["zone"], "ams");

    // when, then
    dns.has(&[second]);
    proxy.expect_backends([two.address()]);
    assert_eq!(who(&proxy.main()), "two");

    // when: SERVFAIL
    proxy.expect_log("source failed");
    dns.answers(2);
    proxy.expect_source("dns", "failing");
    assert_eq!(proxy.backends(), [two.address()]);
    assert_eq!(orphans(&proxy), 0.0, "an error is no claim");

    // when: NXDOMAIN
    proxy.expect_trouble_with_backends();
    dns.answers(3);
    eventually("that there is no such name is doubted", || orphans(&proxy) == 1.0);
    assert_eq!(who(&proxy.main()), "two");

    // when: it comes to itself
    dns.has(&[first, second]);
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(orphans(&proxy), 0.0);
    proxy.finish();
}

#[test]
fn a_page_that_errs_breaks_off_or_empties_takes_nothing_away() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let registry = Registry::of([one.address(), two.address()]);
    let proxy = start(&Config::to([]).source(&page(&registry)));
    proxy.expect_backends([one.address(), two.address()]);
    proxy.expect_log("source failed");
    proxy.expect_trouble_with_backends();

    // when, then
    for (status, body) in [(503, "[]"), (200, "{\"endpoints\": ["), (200, ""), (404, "{\"endpoints\": []}")] {
        let failed = updates(&proxy, "failed");
        registry.answers(status, body);
        eventually("the answer is an error", || updates(&proxy, "failed") > failed);
        assert_eq!(proxy.backends().len(), 2, "{status} {body:?} takes nothing away");
        assert_eq!(orphans(&proxy), 0.0, "{status} {body:?} is no claim");
    }
    registry.lists([]);
    eventually("an empty list is doubted", || orphans(&proxy) == 2.0);
    who(&proxy.main());
    registry.lists([two.address()]);
    eventually("who is named again is no orphan", || orphans(&proxy) == 1.0);
    assert_eq!(proxy.backend(two.address())["orphan"], false);
    registry.lists([one.address(), two.address()]);
    eventually("all is as it was", || orphans(&proxy) == 0.0);
    assert_eq!(proxy.source("http")["state"], "live");
    proxy.finish();
}

#[test]
fn a_registry_that_returns_with_others_hands_over_as_the_old_ones_stop() {
    // given
    let mut old = ["a", "b", "c", "d"].map(Named::start);
    let new = ["e", "f", "g"].map(Named::start);
    let registry = Registry::of(old.each_ref().map(Named::address));
    let proxy = start(&Config::to([]).service("balance = \"round_robin\"").source(&page(&registry)));
    proxy.expect_backends(old.each_ref().map(Named::address));
    let (mut held, _) = named_session(&proxy);
    proxy.expect_log("source failed");
    proxy.expect_trouble_with_backends();

    // when: it was away, and all of its backends are others
    registry.answers(503, "");
    proxy.expect_source("http", "failing");
    registry.lists(new.each_ref().map(Named::address));

    // then: all serve, the new ones at once
    proxy.expect_backends(old.iter().chain(&new).map(Named::address));
    assert_eq!(orphans(&proxy), 4.0);
    eventually("a new one serves", || ["e", "f", "g"].contains(&who(&proxy.main()).as_str()));

    // when
    old.iter_mut().for_each(Named::stop);

    // then
    proxy.expect_backends(new.each_ref().map(Named::address));
    assert_eq!(orphans(&proxy), 0.0);
    held.echoes("a session that was there stays where it is");
    drop(held);
    proxy.finish();
}

#[test]
fn a_registry_cannot_lead_clients_here_or_to_places_that_are_not_allowed() {
    // given
    let backend = Named::start("one");
    let own = format!("{}:5432", loopback());
    let metadata = "169.254.169.254:80";
    let registry = Registry::of([backend.address(), &own, metadata, "10.1.2.3:80", "0.0.0.0:80"]);

    // when
    let proxy = start(&Config::to([]).listen(&own).source(&page(&registry)));

    // then
    proxy.expect_backends([backend.address()]);
    let refused = &proxy.source("http")["refused"];
    for (reason, count) in [("own_listener", 1), ("not_allowed", 2), ("no_address", 1)] {
        let there = refused[reason].as_u64().unwrap_or_default();
        assert!(there >= count, "{reason} is counted: {refused}");
    }
    let counted = proxy.metrics().sum("source_refused_endpoints_total{reason=\"own_listener\"}");
    assert!(counted >= 1.0, "the metrics tell it too");
    assert_eq!(who(&own), "one");
    proxy.finish();
}

#[test]
fn loopback_is_refused_to_registries_unless_it_is_allowed() {
    let backend = Backend::echo();
    let registry = Registry::of([backend.address()]);
    let source = format!("kind = \"http\"\nurl = \"{}/\"\ninterval = \"100ms\"", registry.url());
    let proxy = start(&Config::to([]).source(&source));
    eventually("it is counted", || proxy.source("http")["refused"]["loopback"].as_u64().unwrap_or_default() >= 1);
    assert_eq!(proxy.backends(), [""; 0]);
    proxy.finish();
}

#[test]
fn data_centres_of_consul_are_followed_each_by_itself() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let registry = Registry::consul([(one.address(), "passing"), (two.address(), "passing")]);
    let source = format!(
        "kind = \"consul\"\nservice = \"app\"\nurl = \"{}\"\ndatacenters = [\"fra\"]\nallowed_cidrs = \"127.0.0.0/8\"",
        registry.url()
    );
    let proxy = start(&Config::to([]).source(&source));
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(proxy.backend(one.address())["zone"], "fra");
    assert_eq!(proxy.backend(one.address())["source"], "consul/fra");

    // when: a check fails there
    registry.instances([(one.address(), "critical"), (two.address(), "passing")]);

    // then
    eventually("it gets no new sessions", || (0..10).all(|_| who(&proxy.main()) == "two"));

    // when: empty with a status of 200, as around elections
    registry.instances([(one.address(), "passing"), (two.address(), "passing")]);
    eventually("both serve again", || proxy.state(one.address()) == "up");
    proxy.expect_trouble_with_backends();
    registry.instances([]);

    // then
    eventually("an empty list is doubted", || orphans(&proxy) == 2.0);
    who(&proxy.main());
    proxy.finish();
}

#[test]
fn the_first_source_that_names_anybody_is_believed_alone() {
    // given
    let (first, second, last) = (Named::start("first"), Named::start("second"), Named::start("last"));
    let folder = TempDir::new();
    let (one, two) = (folder.join("one.json"), folder.join("two.json"));
    place(&one, &list([]));
    place(&two, &list([]));
    let config = Config::to([last.address()]).service("merge = \"priority\"");
    let config = config.source(&format!("{}\nlabel = \"one\"", file(&one)));
    let proxy = start(&config.source(&format!("{}\nlabel = \"two\"", file(&two))));
    proxy.expect_source("one", "live");

    // when, then
    proxy.expect_backends([last.address()]);
    place(&two, &list([second.address()]));
    proxy.expect_backends([second.address()]);
    place(&one, &list([first.address()]));
    proxy.expect_backends([first.address()]);
    assert_eq!(who(&proxy.main()), "first");
    proxy.finish();
}

#[test]
fn a_restart_serves_at_once_while_every_registry_is_away() {
    // given
    let backend = Named::start("one");
    let state = TempDir::new();
    let registry = Registry::of([backend.address()]);
    let config = Config::to([]).node(&format!("state_dir = \"{}\"", state.join("deep/er").display()));
    let config = config.source(&page(&registry));
    let before = start(&config);
    before.expect_backends([backend.address()]);
    before.finish();
    drop(registry);

    // when
    let proxy = start(&config);

    // then: without waiting for anything
    assert_eq!(who(&proxy.main()), "one");
    proxy.expect_log("source failed");
    proxy.expect_source("http", "failing");
    assert_eq!(proxy.source("http")["confirmed"], false);
    assert_eq!(proxy.source("http")["endpoints"], 1);
    assert_eq!(proxy.backends(), [backend.address()]);
    proxy.finish();
}

#[test]
fn a_reload_keeps_sources_that_stay_and_ends_those_that_go() {
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let registry = Registry::of([one.address()]);
    let folder = TempDir::new();
    let path = folder.join("app.json");
    place(&path, &list([two.address()]));
    // What it listens on stays the same, since sources may not name that.
    let (host, port) = Server::free_address();
    let config = Config::to([]).listen(&format!("{host}:{port}")).source(&page(&registry));
    let proxy = start(&config.clone().source(&file(&path)));
    proxy.expect_backends([one.address(), two.address()]);

    // when: another key of the listener, and one source less
    proxy.reload(&config.listener("idle_timeout = \"5m\"").toml());

    // then
    proxy.expect_backends([one.address()]);
    let counts = &proxy.source("http")["updates"];
    assert_eq!(
        (&counts["changed"], &counts["unchanged"]),
        (&json!(1), &json!(0)),
        "the page's source was not begun anew"
    );
    registry.lists([one.address(), two.address()]);
    proxy.expect_backends([one.address(), two.address()]);
    assert_eq!(proxy.metrics().sum("source_endpoints"), 2.0, "the series of the other are gone");
    proxy.finish();
}

#[test]
fn a_page_in_a_browser_cannot_accept_an_empty_list() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    let mut conn = Conn::open(proxy.admin());
    let head = "POST /v1/services/app/accept-empty HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n\
                content-length: 0\r\nconnection: close\r\n\r\n";
    conn.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    conn.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(proxy.request("POST", "/v1/services/nobody/accept-empty").0, 404);
    assert_eq!(proxy.request("GET", "/v1/services/app/accept-empty").0, 405);
    let told = run_to_exit(&["accept-empty", "nobody", "--admin", &proxy.admin()]);
    assert_eq!(told.code, Some(1));
    assert!(told.stderr.contains("there is no service \"nobody\""), "{}", told.stderr);
    proxy.finish();
}
