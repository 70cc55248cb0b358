//! A new configuration takes over without a process, a session or a connection being lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Backend, Config, Conn, Named, Options, Proxy, TempDir, eventually, loopback, observe, who};

#[test]
fn a_changed_file_is_loaded_by_itself() {
    // given
    let (old, new) = (Named::start("old"), Named::start("new"));
    let proxy = Config::to([old.address()]).start();
    let mut established = Conn::open(proxy.main());
    assert_eq!(established.name(), "old");

    // when
    proxy.rewrite(&Config::to([new.address()]).listen(&proxy.main()).toml());

    // then
    eventually("new sessions follow the new configuration", || who(&proxy.main()) == "new");
    established.echoes("a session outlives its configuration");
    let metrics = proxy.metrics();
    assert!(metrics.sum("config_reloads_total{result=\"ok\"}") >= 1.0, "a reload is counted");
    assert_eq!(metrics.sum("config_last_reload_successful"), 1.0);
    drop(established);
    proxy.finish();
}

#[test]
fn a_file_written_in_place_is_loaded_by_itself() {
    let (old, new) = (Named::start("old"), Named::start("new"));
    let proxy = Config::to([old.address()]).start();
    // A reader may meet the file half written, and refuse that half.
    proxy.expect_log("config");
    fs::write(proxy.config_path(), Config::to([new.address()]).listen(&proxy.main()).toml()).unwrap();
    eventually("new sessions follow the new configuration", || who(&proxy.main()) == "new");
    proxy.finish();
}

#[test]
fn a_hangup_loads_the_file_even_if_it_is_the_same() {
    let backend = Backend::echo();
    let config = Config::to([backend.address()]).listen(&format!("{}:4000", loopback()));
    let proxy = config.start();
    proxy.signal(Signal::HUP);
    eventually("a reload that changes nothing is counted as such", || {
        proxy.metrics().sum("config_reloads_total{result=\"unchanged\"}") == 1.0
    });
    proxy.finish();
}

#[test]
fn a_swapped_link_is_loaded_by_itself() {
    // given: the layout of mounted configuration maps, where the file is a link through a link to a folder
    let (old, new) = (Named::start("old"), Named::start("new"));
    let folder = TempDir::new();
    let listen = format!("{}:4000", loopback());
    for (version, backend) in [("..v1", &old), ("..v2", &new)] {
        fs::create_dir(folder.join(version)).unwrap();
        let toml = Config::to([backend.address()]).listen(&listen).toml();
        fs::write(folder.join(version).join("dislocate.toml"), toml).unwrap();
    }
    symlink("..v1", folder.join("..data")).unwrap();
    let path = folder.join("dislocate.toml");
    symlink("..data/dislocate.toml", &path).unwrap();
    let proxy = Proxy::start_with("", Options { config: Some(path), ..Options::default() });
    assert_eq!(who(&listen), "old");

    // when
    symlink("..v2", folder.join("..next")).unwrap();
    fs::rename(folder.join("..next"), folder.join("..data")).unwrap();

    // then
    eventually("new sessions follow the new link", || who(&listen) == "new");
    proxy.finish();
}

#[test]
fn listeners_come_and_go_while_sessions_live() {
    // given
    let backend = Named::start("backend");
    let proxy = Config::to([backend.address()]).start();
    let main = proxy.main();
    let extra = format!("{}:4000", loopback());
    let one = Config::to([backend.address()]).listen(&main);
    let two = one.clone().more(&second_listener(&extra));

    // when
    proxy.reload(&two.toml());

    // then
    assert_eq!(who(&extra), "backend", "an added listener serves");
    assert_eq!(proxy.addresses_now("extra"), std::slice::from_ref(&extra), "an added listener is shown");
    let mut established = Conn::open(&extra);
    assert_eq!(established.name(), "backend");

    // when
    proxy.reload(&one.toml());

    // then
    eventually("a removed listener accepts nobody", || Conn::try_open(&extra).is_err());
    assert!(proxy.addresses_now("extra").is_empty(), "a removed listener is not shown");
    established.echoes("a session outlives its listener");
    assert_eq!(who(&main), "backend", "the other listener goes on");

    // when
    drop(established);
    proxy.reload(&two.toml());

    // then
    assert_eq!(who(&extra), "backend", "a listener may come back");
    proxy.finish();
}

#[test]
fn an_address_that_changes_its_listener_loses_no_connection() {
    // given
    let backend = Named::start("backend");
    let config = Config::to([backend.address()]).listen(&format!("{}:4000", loopback()));
    let names = [config.toml(), config.toml().replace("name = \"main\"", "name = \"other\"")];
    let proxy = config.start();
    let address = proxy.main();
    let (done, served) = (AtomicBool::new(false), AtomicU64::new(0));

    thread::scope(|scope| {
        // when
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // then: connecting, the greeting and FIN all succeed, or this panics
                    who(&address);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for toml in names.iter().cycle().skip(1).take(20) {
            let before = served.load(Ordering::Relaxed);
            proxy.reload(toml);
            eventually("clients come", || served.load(Ordering::Relaxed) > before + 20);
        }
        done.store(true, Ordering::Relaxed);
    });

    // then
    assert_eq!(proxy.addresses_now("main"), [address], "the address is where it began");
    proxy.finish();
}

#[test]
fn a_session_outlives_its_backends_place_in_the_configuration() {
    let (leaving, staying) = (Named::start("leaving"), Named::start("staying"));
    let proxy = Config::to([leaving.address()]).start();
    let mut established = Conn::open(proxy.main());
    assert_eq!(established.name(), "leaving");
    proxy.reload(&Config::to([staying.address()]).listen(&proxy.main()).toml());
    assert_eq!(who(&proxy.main()), "staying");
    established.echoes("still with the one that left");
    drop(established);
    eventually("the series of a backend leave with it", || {
        !proxy.metrics().has(&format!("backend_sessions{{backend=\"{}\"}}", leaving.address()))
    });
    proxy.finish();
}

#[test]
fn changed_limits_and_timeouts_hold_for_new_sessions() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    let mut held = Conn::open(proxy.main());
    held.echoes("held");
    proxy.reload(&Config::to([backend.address()]).listen(&proxy.main()).listener("max_connections = 1").toml());
    assert!(!Conn::open(proxy.main()).still_echoes(), "a lowered limit counts those who are there");
    held.echoes("unhurt");
    drop(held);
    eventually("there is room for one", || Conn::open(proxy.main()).still_echoes());
    proxy.finish();
}

#[test]
fn ten_reloads_a_second_under_load_fail_no_connection() {
    // given
    let backends = ["a", "b", "c"].map(Named::start);
    let [main, extra] = [(); 2].map(|()| format!("{}:4000", loopback()));
    let version = |number: usize| {
        let weighted = |(at, backend): (usize, &Named)| {
            format!("{{ address = \"{}\", weight = {} }}", backend.address(), 1 + (number + at) % 3)
        };
        // Weights turn, one backend leaves every third time, one listener comes and goes, a setting changes.
        let entries = backends.iter().enumerate().filter(|(at, _)| *at != number % 3).map(weighted).collect::<Vec<_>>();
        let config = Config::to(entries.iter().map(String::as_str)).listen(&main);
        let config = config.listener(&format!("idle_timeout = \"{}s\"", 100 + number));
        if number.is_multiple_of(2) { config } else { config.more(&second_listener(&extra)) }
    };
    let proxy = version(0).start();
    let mut established = Conn::open(&main);
    established.name();
    let before = proxy.resident_bytes();
    let (done, served) = (AtomicBool::new(false), AtomicU64::new(0));

    thread::scope(|scope| {
        // when
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // then: connecting, the greeting and FIN all succeed, or this panics
                    who(&main);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        for number in 1..=60 {
            proxy.rewrite(&version(number).toml());
            established.echoes("through every reload");
            observe((start + Duration::from_millis(100) * number as u32).saturating_duration_since(Instant::now()));
        }
        done.store(true, Ordering::Relaxed);
    });

    // then
    assert!(served.load(Ordering::Relaxed) > 100, "there was load");
    let metrics = proxy.metrics();
    assert!(metrics.sum("config_reloads_total{result=\"ok\"}") >= 20.0, "reloads were made, though some at once");
    assert_eq!(metrics.sum("config_reloads_total{result=\"refused\"}"), 0.0, "no version was refused");
    let growth = proxy.resident_bytes().saturating_sub(before);
    assert!(growth < 32 << 20, "reloads leave no memory behind: {growth} bytes");
    eventually("the last version is the running one", || proxy.addresses_now("extra").is_empty());
    drop(established);
    proxy.finish();
}

fn second_listener(address: &str) -> String {
    format!("[[listener]]\nname = \"extra\"\nlisten = \"{address}\"\nservice = \"app\"\n")
}
