//! Health checks: what they take a backend out for, how soon, and what happens when nobody is left.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::harness::{Backend, Config, Conn, Named, Proxy, TempDir, eventually, who};

#[test]
fn a_tcp_check_takes_a_backend_out_and_brings_it_back() {
    // given
    let (mut flaky, alive) = (Named::start("flaky"), Named::start("alive"));
    let config = Config::to([flaky.address(), alive.address()]).health(&quick("kind = \"tcp\""));
    let proxy = config.service("balance = \"round_robin\"").start();
    proxy.expect_trouble_with_backends();

    // when
    flaky.stop();

    // then
    becomes(&proxy, flaky.address(), "down");
    for _ in 0..10 {
        assert_eq!(who(&proxy.main()), "alive", "a backend that is down gets nobody");
    }
    assert_eq!(proxy.metrics().sum("retries_total"), 0.0, "no client has to find out by itself");

    // when
    flaky.start_again();

    // then
    becomes(&proxy, flaky.address(), "up");
    eventually("a backend that is up gets sessions", || who(&proxy.main()) == "flaky");
    proxy.finish();
}

#[test]
fn an_http_check_asks_for_its_path_and_heeds_the_status() {
    // given
    let answer = Arc::new(AtomicU16::new(200));
    let backend = http_backend({
        let answer = answer.clone();
        move |path| if path == "/ready" { answer.load(Ordering::Relaxed) } else { 404 }
    });
    let health = quick("kind = \"http\", path = \"/ready\", expect = 200");
    let proxy = Config::to([backend.address()]).health(&health).start();
    proxy.expect_trouble_with_backends();
    becomes(&proxy, backend.address(), "up");

    for (status, state) in [(503, "down"), (200, "up"), (404, "down")] {
        // when
        answer.store(status, Ordering::Relaxed);

        // then
        becomes(&proxy, backend.address(), state);
    }
    proxy.finish();
}

#[test]
fn an_exec_check_heeds_the_exit_code_of_its_command() {
    // given: healthy while a file is there
    let folder = TempDir::new();
    let (script, flag) = (folder.join("check"), folder.join("healthy"));
    fs::write(&script, format!("#!/bin/sh\ntest -e {}\n", flag.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&flag, "").unwrap();
    let backend = Backend::echo();
    let health = quick(&format!("kind = \"exec\", command = [\"{}\"]", script.display()));
    let proxy = Config::to([backend.address()]).health(&health).start();
    proxy.expect_trouble_with_backends();
    becomes(&proxy, backend.address(), "up");

    // when
    fs::remove_file(&flag).unwrap();

    // then
    becomes(&proxy, backend.address(), "down");

    // when
    fs::write(&flag, "").unwrap();

    // then
    becomes(&proxy, backend.address(), "up");
    proxy.finish();
}

#[test]
fn a_single_failed_check_changes_nothing() {
    // given: every other answer is bad, and two in a row are asked for
    let asked = Arc::new(AtomicU64::new(0));
    let backend = http_backend({
        let asked = asked.clone();
        move |_| if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 200 } else { 500 }
    });
    let proxy = Config::to([backend.address()]).health(&quick("kind = \"http\", path = \"/\"")).start();

    // when
    eventually("a dozen checks are made", || {
        // then
        assert_ne!(proxy.state(backend.address()), "down", "one bad answer is not yet a failure");
        asked.load(Ordering::Relaxed) >= 12
    });
    proxy.finish();
}

#[test]
fn a_backend_that_flaps_while_it_is_down_stays_down() {
    // given
    let asked = Arc::new(AtomicU64::new(0));
    let flapping = Arc::new(AtomicU64::new(0));
    let backend = http_backend({
        let (asked, flapping) = (asked.clone(), flapping.clone());
        move |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            if flapping.load(Ordering::Relaxed) == 1 && number.is_multiple_of(2) { 200 } else { 500 }
        }
    });
    let proxy = Config::to([backend.address()]).health(&quick("kind = \"http\", path = \"/\"")).start();
    proxy.expect_trouble_with_backends();
    becomes(&proxy, backend.address(), "down");

    // when
    flapping.store(1, Ordering::Relaxed);
    let before = asked.load(Ordering::Relaxed);

    // then
    eventually("a dozen checks are made", || {
        assert_eq!(proxy.state(backend.address()), "down", "one good answer is not yet a recovery");
        asked.load(Ordering::Relaxed) >= before + 12
    });
    proxy.finish();
}

#[test]
fn a_failing_check_that_takes_everything_out_is_ignored_and_says_so() {
    // given: backends that serve, and checks that do not believe it
    let healthy = Arc::new(AtomicU16::new(200));
    let [one, two] = [(); 2].map(|()| {
        let healthy = healthy.clone();
        http_backend(move |_| healthy.load(Ordering::Relaxed))
    });
    let proxy = Config::to([one.address(), two.address()]).health(&quick("kind = \"http\", path = \"/\"")).start();
    proxy.expect_trouble_with_backends();
    proxy.expect_log("panic");
    becomes(&proxy, one.address(), "up");
    becomes(&proxy, two.address(), "up");
    assert_eq!(panic_of(&proxy), 0.0, "no panic while all is well");

    // when
    healthy.store(500, Ordering::Relaxed);
    becomes(&proxy, one.address(), "down");
    becomes(&proxy, two.address(), "down");

    // then
    assert_eq!(fetch(&proxy.main()), 500, "with nobody left in health, everybody is tried");
    assert_eq!(panic_of(&proxy), 1.0, "ignoring the checks is visible");
    assert!(proxy.metrics().sum("picks_total{reason=\"panic\"}") >= 1.0, "such a pick is counted as such");
    let told = |text: &str| proxy.log_lines().iter().any(|line| line.contains(text) && line.contains("\"local\""));
    eventually("the log tells of it, with its zone", || told("panic: too few backends"));

    // when
    healthy.store(200, Ordering::Relaxed);

    // then
    eventually("the panic ends with its cause", || panic_of(&proxy) == 0.0);
    assert_eq!(fetch(&proxy.main()), 200);
    eventually("the log tells of its end", || told("the panic is over"));
    proxy.finish();
}

#[test]
fn checks_stop_when_their_backend_leaves() {
    // given
    let (leaving, staying) = (Backend::echo(), Backend::echo());
    let config = |backends: &[&Backend]| {
        let config = Config::to(backends.iter().map(|backend| backend.address()));
        config.health(&quick("kind = \"tcp\""))
    };
    let proxy = config(&[&leaving, &staying]).start();
    eventually("both are checked", || leaving.accepted() > 1 && staying.accepted() > 1);

    // when
    proxy.reload(&config(&[&staying]).listen(&proxy.main()).toml());

    // then
    let (before, others) = (leaving.accepted(), staying.accepted());
    eventually("the other one is still checked", || staying.accepted() > others + 5);
    assert!(leaving.accepted() <= before + 1, "a backend that left is not checked, but for a check on its way");
    let series = format!("backend_state{{backend=\"{}\"}}", leaving.address());
    assert!(!proxy.metrics().has(&series), "the series of a backend leave with it");
    proxy.finish();
}

/// A check with the given kind that comes to its verdict within a second.
fn quick(kind: &str) -> String {
    format!("{{ {kind}, interval = \"300ms\", rise = 2, fall = 2 }}")
}

fn becomes(proxy: &Proxy, address: &str, state: &str) {
    eventually(&format!("the backend becomes {state}"), || proxy.state(address) == state);
    let shown = format!("backend_state{{backend=\"{address}\",state=\"{state}\"}}");
    eventually("metrics and admin interface agree", || proxy.metrics().sum(&shown) == 1.0);
}

fn panic_of(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("panic{service=\"app\",zone=\"local\"}")
}

/// A web server whose status for a path the test decides.
fn http_backend(status: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Backend {
    Backend::serve(move |conn| {
        let mut reader = BufReader::new(conn);
        let mut request = String::new();
        while reader.read_line(&mut request).is_ok_and(|read| read > 0) && !request.ends_with("\r\n\r\n") {}
        let Some(path) = request.split(' ').nth(1) else { return };
        let status = status(path);
        // Whoever asked may have gone; there is nobody else to tell.
        let _ = write!(reader.get_mut(), "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    })
}

/// The status of a request through the proxy.
fn fetch(address: &str) -> u16 {
    let mut conn = Conn::open(address);
    conn.send("GET /page HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let answer = conn.text();
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status line: {answer}"))
}
