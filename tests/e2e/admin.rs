//! The admin interface: what it answers, in which shape, and what it refuses.

use serde_json::Value;

use crate::harness::{Acceptor, Backend, Config, eventually};

#[test]
fn services_are_listed_with_their_backends() {
    // given
    let (home, away) = (Backend::echo(), Backend::echo());
    let entry = format!("{{ address = \"{}\", weight = 2, zone = \"ams\", backup = true }}", away.address());
    let proxy = Config::to([home.address(), &entry]).start();

    // when
    let services = proxy.json("/v1/services");

    // then
    let service = &services[0];
    assert_eq!(service["name"], "app");
    assert_eq!(service["balance"], "latency");
    let expected = [(home.address(), 1, "local", 0), (away.address(), 2, "ams", 1)];
    for (address, weight, zone, priority) in expected {
        let backend = proxy.backend(address);
        assert_eq!(backend["weight"], weight, "{address} has its weight");
        assert_eq!(backend["zone"], zone, "{address} has its zone");
        assert_eq!(backend["priority"], priority, "a backup is a backend of the next priority");
        assert_eq!(backend["state"], "up");
        assert_eq!(backend["sessions"], 0);
        assert!(backend.get("check").is_some(), "{address} tells of its checks");
        assert_eq!(backend["warming"], true, "{address} has answered nobody yet");
        assert_eq!(backend["answer_ms"], Value::Null, "what is unknown is no number");
        assert!(backend["score_ms"].is_number(), "{address} has a score all the same");
        assert_eq!(backend["turns"], 0);
    }
    let zones = service["zones"].as_array().unwrap();
    let homes = zones.iter().map(|zone| (zone["zone"].as_str().unwrap(), zone["home"] == true));
    assert_eq!(homes.collect::<Vec<_>>(), [("local", true), ("ams", false)], "zones are told apart");
    assert!(zones.iter().all(|zone| zone["gate_open"] == false && zone["panic"] == false), "all is well");
    proxy.finish();
}

#[test]
fn listeners_are_listed_with_their_addresses() {
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();
    let held = backend.session(&proxy.main());
    let listeners = proxy.json("/v1/listeners");
    let main = listeners.as_array().unwrap().iter().find(|listener| listener["name"] == "main").unwrap();
    assert_eq!(main["protocol"], "tcp");
    assert_eq!(main["service"], "app");
    assert_eq!(main["active"], 1);
    assert_eq!(main["addresses"], Value::from(vec![proxy.main()]));
    drop(held);
    proxy.finish();
}

#[test]
fn sessions_are_listed_while_they_last() {
    // given
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();
    assert_eq!(proxy.json("/v1/sessions"), Value::Array(Vec::new()), "nobody is there at first");

    // when
    let (mut client, mut server) = backend.session(&proxy.main());
    client.send("four");
    assert_eq!(server.receive(4), b"four");
    server.send("seven..");
    assert_eq!(client.receive(7), b"seven..");

    // then
    let session = || proxy.json("/v1/sessions")[0].clone();
    eventually("the bytes of a living session are shown", || {
        session()["received_bytes"] == 4 && session()["sent_bytes"] == 7
    });
    let shown = session();
    assert_eq!(shown["listener"], "main");
    assert_eq!(shown["client"], client.local().to_string());
    assert_eq!(shown["backend"], backend.address());
    assert_eq!(shown["zone"], "local");
    assert!(shown["age_ms"].is_u64() && shown["idle_ms"].is_u64(), "times are whole milliseconds");
    assert!(!shown["session"].is_null(), "a session has an id");
    assert_eq!(proxy.backend(backend.address())["sessions"], 1);

    // when
    let id = shown["session"].clone();
    drop((client, server));

    // then
    eventually("a session that is over is not listed", || proxy.json("/v1/sessions") == Value::Array(Vec::new()));
    assert_eq!(proxy.record("closed")["session"], id, "the record bears the same id");
    proxy.finish();
}

#[test]
fn health_and_readiness_are_answered() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    assert_eq!(proxy.get("/healthz").0, 200);
    assert_eq!(proxy.get("/readyz").0, 200);
    proxy.finish();
}

#[test]
fn what_is_not_there_is_not_found_and_what_is_only_read_is_not_written() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    for path in ["/", "/v1", "/v1/nothing", "/metrics/..", "/%2e%2e/etc/passwd"] {
        assert_eq!(proxy.get(path).0, 404, "{path} is not there");
    }
    for path in ["/metrics", "/healthz", "/readyz", "/v1/services", "/v1/listeners", "/v1/sessions", "/v1/explain/main"]
    {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert_eq!(proxy.request(method, path).0, 405, "{path} is only read");
        }
    }
    proxy.finish();
}

#[test]
fn gauges_of_the_process_tell_what_the_kernel_tells() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    let metrics = proxy.metrics();
    let open = proxy.descriptors().total() as f64;
    assert!((metrics.sum("process_open_fds") - open).abs() <= 4.0, "open descriptors are told");
    let resident = proxy.resident_bytes() as f64;
    assert!((metrics.sum("process_resident_memory_bytes") / resident - 1.0).abs() < 0.5, "memory is told in bytes");
    assert!(metrics.sum("process_threads") >= 2.0, "threads are told");
    assert!(metrics.sum("process_max_fds") > open, "the descriptor limit is told");
    assert!(metrics.has("build_info"), "the build is told");
    assert_eq!(metrics.untyped(), Vec::<&str>::new(), "every sample has a type");
    proxy.finish();
}
