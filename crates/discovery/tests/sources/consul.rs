//! Endpoints from an agent that gives every answer Consul has been seen to give.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balance::Reported;
use discovery::sources::{Consistency, ConsulSettings, ConsulSource};

use crate::http_server::{Asked, Reply, WebServer};
use crate::support::{PATIENCE, Run, Scratch, soon};

fn settings(server: &WebServer) -> ConsulSettings {
    ConsulSettings { url: server.url(""), timeout: PATIENCE, ..ConsulSettings::new("web") }
}

fn run(server: &WebServer) -> Run {
    Run::of(ConsulSource::new(settings(server)).expect("good settings"))
}

/// A list of instances on these ports, all of which pass their checks.
fn instances(ports: &[u16]) -> String {
    let entries: Vec<_> = ports.iter().map(|port| instance(*port, "passing")).collect();
    format!("[{}]", entries.join(","))
}

fn instance(port: u16, status: &str) -> String {
    format!(
        r#"{{"Node": {{"Node": "n1", "Address": "10.0.0.1", "Datacenter": "ams"}},
        "Service": {{"ID": "web-{port}", "Address": "", "Port": {port}, "Tags": ["a"], "Weights": {{"Passing": 1, "Warning": 1}}}},
        "Checks": [{{"Status": "{status}"}}]}}"#
    )
}

fn answer(index: u64, body: &str) -> Reply {
    let headers = format!("x-consul-index: {index}\r\nx-consul-knownleader: true\r\nx-consul-lastcontact: 0\r\n");
    Reply::page("200 OK", &headers, body)
}

/// Answers in this order; the last one does not come.
fn in_turn(answers: Vec<Reply>) -> impl FnMut(&Asked) -> Reply {
    let mut answers = answers.into_iter();
    move |_| answers.next().unwrap_or(Reply::Hanging(Vec::new()))
}

#[tokio::test]
async fn a_service_is_listed_and_then_waited_for() {
    let server = WebServer::start(in_turn(vec![
        answer(5, &instances(&[80, 81])),
        answer(7, &format!("[{}, {}]", instance(80, "critical"), instance(81, "passing"))),
        answer(7, &format!("[{}, {}]", instance(81, "passing"), instance(80, "critical"))),
        answer(9, "[]"),
    ]))
    .await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["ams/n1/web-80", "ams/n1/web-81"]);
    let second = run.list().await;
    let reported: Vec<_> = second.iter().map(|found| found.reported).collect();
    assert_eq!(reported, [Reported::NotReady, Reported::Ready], "one that fails a check is not gone");
    run.alive().await;
    assert_eq!(run.list().await, [], "an empty list is given on; the guard judges it");

    let asked = server.asked();
    assert_eq!(asked[0].line, "GET /v1/health/service/web?");
    let indices: Vec<_> = asked.iter().map(|asked| asked.parameter("index")).collect();
    assert_eq!(indices[..4], [None, Some("5"), Some("7"), Some("7")]);
    for asked in &asked[1..4] {
        let wait: u64 = asked.parameter("wait").unwrap().strip_suffix("ms").unwrap().parse().unwrap();
        assert!((54_000..=66_000).contains(&wait), "a minute, more or less: {wait}");
    }
    assert!(asked.iter().all(|asked| asked.header("x-consul-token").is_none()));
}

#[tokio::test]
async fn an_index_that_goes_back_is_asked_again_without_it() {
    let server = WebServer::start(in_turn(vec![
        answer(900, &instances(&[80])),
        // Restored from a backup, and not to be believed at once.
        answer(3, "[]"),
        answer(4, &instances(&[80, 81])),
        answer(0, &instances(&[6])),
        answer(0, &instances(&[80])),
    ]))
    .await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["ams/n1/web-80"]);
    assert_eq!(run.ids().await, ["ams/n1/web-80", "ams/n1/web-81"]);
    assert_eq!(run.ids().await, ["ams/n1/web-80"]);
    let indices = async {
        loop {
            let asked = server.asked();
            if asked.len() == 6 {
                return asked.iter().map(|asked| asked.parameter("index").map(str::to_owned)).collect::<Vec<_>>();
            }
            tokio::task::yield_now().await;
        }
    };
    let indices = soon(indices).await;
    let indices: Vec<_> = indices.iter().map(Option::as_deref).collect();
    assert_eq!(indices, [None, Some("900"), None, Some("4"), None, Some("1")], "never 0, with which nothing waits");
}

#[tokio::test]
async fn a_run_that_begins_in_the_past_asks_again() {
    let server = WebServer::start(in_turn(vec![
        answer(900, &instances(&[80])),
        Reply::page("500 Internal Server Error", "", "No cluster leader"),
        // A server that has not heard of what came since.
        answer(3, "[]"),
        answer(900, &instances(&[80, 81])),
    ]))
    .await;
    let source = Arc::new(ConsulSource::new(settings(&server)).unwrap());
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["ams/n1/web-80"]);
    assert!(run.error().await.contains("No cluster leader"));
    assert_eq!(Run::again(&source).ids().await, ["ams/n1/web-80", "ams/n1/web-81"]);
    let asked = server.asked();
    let indices: Vec<_> = asked[..4].iter().map(|asked| asked.parameter("index")).collect();
    assert_eq!(indices, [None, Some("900"), None, None]);
}

#[tokio::test]
async fn wakes_without_end_do_not_become_a_flood() {
    let index = AtomicUsize::new(1);
    let server = WebServer::start(move |_| answer(index.fetch_add(1, Ordering::Relaxed) as u64, "[]")).await;
    let mut run = run(&server);
    assert_eq!(run.list().await, []);
    let begun = std::time::Instant::now();
    for _ in 0..9 {
        run.alive().await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(700), "after eight, one each half second");
}

#[tokio::test]
async fn what_is_no_answer_of_consul_is_an_error() {
    let with = |headers: &str| Reply::page("200 OK", headers, &instances(&[80]));
    let good = "x-consul-index: 5\r\n";
    let cases = [
        (Reply::page("500 Internal Server Error", "", "No cluster leader"), "status 500: No cluster leader"),
        (Reply::page("500 Internal Server Error", good, "[]"), "status 500"),
        (Reply::page("403 Forbidden", good, "Permission denied"), "status 403: Permission denied"),
        (Reply::page("404 Not Found", good, "[]"), "status 404"),
        (Reply::page("429 Too Many Requests", "", ""), "status 429"),
        (Reply::page("301 Moved Permanently", "location: /ui/\r\n", ""), "redirects are not followed"),
        (with(""), "no X-Consul-Index"),
        (with("x-consul-index: many\r\n"), "no X-Consul-Index"),
        (with(&format!("{good}x-consul-knownleader: false\r\n")), "Consul has no leader"),
        (with(&format!("{good}x-consul-lastcontact: 61000\r\n")), "has not heard of its leader for 61 s"),
        (answer(5, "<html>"), "not as expected"),
        (answer(5, "{\"error\": 1}"), "expected an array"),
        (answer(5, &instances(&[80])[..100]), "not as expected: EOF"),
        (Reply::raw(format!("HTTP/1.1 200 OK\r\n{good}content-length: 500\r\n\r\n[")), "half an answer"),
        (Reply::raw(format!("HTTP/1.1 200 OK\r\n{good}content-length: 99999999\r\n\r\n[")), "more than 67108864 bytes"),
    ];
    for (reply, expected) in cases {
        let server = WebServer::start(in_turn(vec![answer(4, &instances(&[80])), reply])).await;
        let mut run = run(&server);
        assert_eq!(run.ids().await, ["ams/n1/web-80"]);
        let error = run.error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_an_error_after_the_wait() {
    let server = WebServer::start(in_turn(vec![answer(4, &instances(&[80]))])).await;
    let (wait, timeout) = (Duration::from_millis(50), Duration::from_secs(2));
    let mut run = Run::of(ConsulSource::new(ConsulSettings { wait, timeout, ..settings(&server) }).unwrap());
    assert_eq!(run.ids().await, ["ams/n1/web-80"]);
    let begun = std::time::Instant::now();
    assert!(run.error().await.starts_with("no answer in 20"));
    assert!(begun.elapsed() >= timeout);
}

#[tokio::test]
async fn the_question_names_data_centre_tags_consistency_and_token() {
    let folder = Scratch::new("consul-token");
    let token_file = folder.join("token");
    fs::write(&token_file, "  s3cret\n").unwrap();
    let server = WebServer::start(in_turn(vec![answer(1, &instances(&[80])), answer(2, &instances(&[81]))])).await;
    let settings = ConsulSettings {
        tags: vec!["a".into()],
        consistency: Consistency::Consistent,
        token_file: Some(token_file.clone()),
        ..settings(&server)
    }
    .in_datacenter("fra");
    let source = Arc::new(ConsulSource::new(settings).unwrap());
    let mut run = Run::again(&source);
    assert!(run.list().await.iter().all(|found| found.zone.as_ref().unwrap().as_str() == "fra"));
    assert_eq!(run.list().await.len(), 1);
    drop(run);
    for asked in &server.asked()[..2] {
        assert!(asked.line.starts_with("GET /v1/health/service/web?dc=fra&tag=a&consistent"), "{}", asked.line);
        assert_eq!(asked.header("x-consul-token"), Some("s3cret"));
    }
    for (secret, expected) in
        [("", "token: is empty"), ("a\nb", "no text for a header"), (&*"x".repeat(10_000), "too long")]
    {
        fs::write(&token_file, secret).unwrap();
        let error = Run::again(&source).error().await;
        assert!(error.contains(expected) && !error.contains("xx"), "{expected}: {error}");
    }
}
