//! `dislocate explain` and `/v1/explain`: what they say a pick would do is what picks do.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixListener;
use std::{fs, io, thread};

use serde_json::Value;

use crate::harness::{Backend, Config, Named, Proxy, TempDir, eventually, refusing, run_to_exit, who, who_from};

#[test]
fn the_backend_that_is_said_to_win_gets_the_session() {
    // given
    let (home, away) = (Named::start("home"), Named::start("away"));
    let proxy = Config::to([home.address(), &in_zone(&away, "ams")]).start();

    // when
    let told = proxy.json("/v1/explain/main");
    let shown = explained(&proxy, &[]);

    // then
    assert_eq!(told["service"], "app");
    assert_eq!(told["balance"], "latency");
    assert_eq!(told["gate"], "closed");
    assert_eq!(told["winner"]["address"], home.address());
    assert_eq!(told["winner"]["reason"], "local");
    let zones = told["zones"].as_array().unwrap().iter().map(|zone| (zone["zone"].as_str().unwrap(), &zone["home"]));
    assert_eq!(zones.collect::<Vec<_>>(), [("local", &Value::from(true)), ("ams", &Value::from(false))]);
    for candidate in told["candidates"].as_array().unwrap() {
        assert_eq!(candidate["admission"], "admitted");
        assert!(candidate["score_ms"].is_number(), "a candidate has a score");
        assert!(candidate["answer_ms"].is_null(), "what is unknown is not a number");
    }
    let line = shown.lines().find(|line| line.starts_with('>')).expect("the winner is marked");
    assert!(line.contains(home.address()), "the winner is the one that the admin listener names: {shown}");
    assert!(shown.contains("is the only backend of home zone local"), "it says why: {shown}");
    assert_eq!(proxy.metrics().sum("picks_total"), 0.0, "explaining is no pick");
    assert_eq!(who(&proxy.main()), "home");
    eventually("then the base round trip is known", || {
        proxy.json("/v1/explain/main")["candidates"][0]["base_ms"].is_number()
            && proxy.backend(home.address())["base_ms"].is_number()
    });
    proxy.finish();
}

#[test]
fn a_source_is_explained_as_its_sessions_go() {
    // given
    let backends = ["a", "b", "c", "d"].map(Named::start);
    for balance in ["source_hash", "maglev"] {
        let proxy = Config::to(backends.each_ref().map(Named::address));
        let proxy = proxy.service(&format!("balance = \"{balance}\"")).start();
        let name_of = |address: &Value| {
            let names = ["a", "b", "c", "d"].into_iter().zip(&backends);
            names.into_iter().find(|(_, backend)| address == backend.address()).expect("a winner is a backend").0
        };
        let mut winners = Vec::new();

        for last in 1..=16 {
            // when
            let source = Ipv4Addr::new(127, 0, 0, last);
            let told = proxy.json(&format!("/v1/explain/main?source={source}"));
            let served = who_from(source, &proxy.main());

            // then
            assert_eq!(name_of(&told["winner"]["address"]), served, "{balance} for {source}");
            winners.push(served);
        }
        winners.sort();
        winners.dedup();
        assert!(winners.len() > 1, "the sources do not all meet one backend");
        let shown = explained(&proxy, &["--source", "127.0.0.1"]);
        assert!(shown.contains("The hash of 127.0.0.1 leads to"), "it says why: {shown}");
        proxy.finish();
    }
}

#[test]
fn a_backend_that_is_down_is_shown_with_the_reason() {
    // given
    let (mut home, away) = (Named::start("home"), Named::start("away"));
    let config = Config::to([home.address(), &in_zone(&away, "ams")]);
    let proxy = config.health("{ kind = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }").start();
    proxy.expect_trouble_with_backends();

    // when
    home.stop();
    eventually("the check notices", || proxy.state(home.address()) == "down");

    // then
    let told = proxy.json("/v1/explain/main");
    assert_eq!(told["gate"], "nobody_home");
    assert_eq!((&told["winner"]["zone"], &told["winner"]["reason"]), (&"ams".into(), &"spill".into()));
    let loser = &told["candidates"][1];
    assert_eq!((&loser["address"], &loser["admission"]), (&home.address().into(), &"down".into()));
    let shown = explained(&proxy, &[]);
    assert!(shown.contains("down: fails its checks"), "the table says why not: {shown}");
    assert!(shown.contains("Nobody in the home zone local may be picked"), "the sentence says why: {shown}");
    assert_eq!(who(&proxy.main()), "away");
    let spilt = proxy.metrics().sum("spill_total{from=\"local\",to=\"ams\"}");
    assert!(spilt >= 1.0, "sessions that left the zone are counted");
    proxy.finish();
}

#[test]
fn what_cannot_be_explained_is_refused_with_the_reason() {
    // given
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();

    // then
    let (status, body) = proxy.get("/v1/explain/mian");
    assert_eq!((status, body.contains("main")), (404, true), "an unknown listener is told with those that there are");
    assert_eq!(proxy.get("/v1/explain/main?source=here").0, 400);
    let unknown = run_to_exit(&["explain", "mian", "--admin", &proxy.admin()]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("\"mian\"") && unknown.stderr.contains("main"), "{unknown:?}");
    for wrong in [["--source", "here"], ["--admin", "localhost"]] {
        assert_eq!(run_to_exit(&[&["explain", "main"], &wrong[..]].concat()).code, Some(2), "{wrong:?}");
    }
    let not_ours = run_to_exit(&["explain", "main", "--admin", backend.address()]);
    assert_eq!(not_ours.code, Some(1));
    assert!(not_ours.stderr.contains("does not answer as dislocate"), "{not_ours:?}");
    proxy.finish();
}

#[test]
fn a_program_that_does_not_run_cannot_be_asked() {
    let nobody = refusing();
    let output = run_to_exit(&["explain", "main", "--admin", nobody.address()]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    assert!(output.stderr.contains("is it running"), "{output:?}");
}

#[test]
fn the_configuration_says_where_to_ask_also_on_a_unix_path() {
    // given
    let backend = Backend::echo();
    let config = Config::to([backend.address()]);
    let proxy = config.start();
    let folder = TempDir::new();
    let (file, path) = (folder.join("dislocate.toml"), folder.join("admin.sock"));
    let admin = format!("[admin]\nlisten = \"unix:{}\"", path.display());
    fs::write(&file, config.toml().replace("[admin]\nlisten = \"127.0.0.1:0\"", &admin)).unwrap();
    let front = UnixListener::bind(&path).unwrap();
    let target = proxy.admin();
    let relay = thread::spawn(move || {
        let (mut client, _) = front.accept().unwrap();
        let mut server = TcpStream::connect(target).unwrap();
        let (mut asking, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut asking, &mut asked));
        // The asker may leave before the last byte; it has what it wanted.
        let _ = io::copy(&mut server, &mut client);
    });

    // when
    let output = run_to_exit(&["explain", "main", "--json", "-c", file.to_str().unwrap()]);

    // then
    assert_eq!(output.code, Some(0), "{output:?}");
    let told: Value = serde_json::from_str(&output.stdout).expect("scripts get JSON");
    assert_eq!(told["winner"]["address"], backend.address());
    relay.join().unwrap();
    proxy.finish();
}

fn in_zone(backend: &Named, zone: &str) -> String {
    format!("{{ address = \"{}\", zone = \"{zone}\" }}", backend.address())
}

/// What the command prints for a person.
fn explained(proxy: &Proxy, more: &[&str]) -> String {
    let admin = proxy.admin();
    let output = run_to_exit(&[&["explain", "main", "--admin", &admin], more].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout
}
