//! Every source that speaks HTTP, on each of the worst days of its registry.
//!
//! What a registry gives at its worst comes as the answer to the first question of a run, and to the one after a list.
//! Either way the run ends with an error, nothing is said, nothing grows, and the next good answer is a whole list that
//! takes the place of the one before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use discovery::Source;
use discovery::sources::{Cluster, ConsulSettings, ConsulSource, EtcdSettings, EtcdSource};
use discovery::sources::{HttpSettings, HttpSource, KubernetesSettings, KubernetesSource, TlsSettings};
use tokio::task::JoinSet;

use crate::http_server::{Asked, Reply, WebServer};
use crate::kube_server;
use crate::support::{PATIENCE, Run, ids};

/// A source, and what its registry answers on a good day.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    /// A source that gives an answer so much time.
    source: fn(&WebServer, Duration) -> Arc<dyn Source>,
    /// The answer that names these, by the last octets of their addresses.
    list: fn(&[u8]) -> Reply,
    /// What is said to who has the list already: nothing yet.
    wait: fn(&Asked) -> Option<Reply>,
}

const KINDS: [Kind; 4] = [
    Kind { name: "http", source: http, list: page, wait: |_| None },
    Kind {
        name: "consul",
        source: consul,
        list: instances,
        wait: |asked| asked.parameter("index").map(|_| Reply::Hanging(Vec::new())),
    },
    Kind {
        name: "etcd",
        source: etcd,
        list: keys,
        wait: |asked| asked.line.ends_with("watch").then(|| chunks("{\"result\":{\"created\":true}}\n")),
    },
    Kind {
        name: "kubernetes",
        source: kubernetes,
        list: |octets| kube_server::list(11, &slices(octets)),
        wait: |asked| kube_server::is_watch(asked).then(|| chunks("")),
    },
];

fn http(server: &WebServer, timeout: Duration) -> Arc<dyn Source> {
    let settings = HttpSettings {
        timeout,
        interval: Duration::from_millis(5),
        body_max_bytes: MAX_BYTES,
        ..HttpSettings::new(server.url("/"))
    };
    Arc::new(HttpSource::new(settings).unwrap())
}

fn consul(server: &WebServer, timeout: Duration) -> Arc<dyn Source> {
    let settings = ConsulSettings {
        timeout,
        wait: Duration::from_millis(20),
        body_max_bytes: MAX_BYTES,
        url: server.url(""),
        ..ConsulSettings::new("web")
    };
    Arc::new(ConsulSource::new(settings).unwrap())
}

fn etcd(server: &WebServer, timeout: Duration) -> Arc<dyn Source> {
    let urls = vec![server.url("")];
    let settings = EtcdSettings { timeout, urls, body_max_bytes: MAX_BYTES, ..EtcdSettings::new("/web/") };
    Arc::new(EtcdSource::new(settings).unwrap())
}

fn kubernetes(server: &WebServer, timeout: Duration) -> Arc<dyn Source> {
    let cluster = Cluster::Server { url: server.url(""), tls: TlsSettings::default(), token_file: None };
    let settings = KubernetesSettings {
        timeout,
        cluster,
        namespace: Some("shop".into()),
        body_max_bytes: MAX_BYTES,
        line_max_bytes: MAX_BYTES,
        ..KubernetesSettings::new("web")
    };
    Arc::new(KubernetesSource::new(settings).unwrap())
}

fn page(octets: &[u8]) -> Reply {
    let all: Vec<_> = octets.iter().map(|octet| format!("{{\"address\": \"10.0.0.{octet}:80\"}}")).collect();
    Reply::ok(&format!("{{\"endpoints\": [{}]}}", all.join(",")))
}

fn instances(octets: &[u8]) -> Reply {
    let instance = |octet: &u8| {
        format!(
            "{{\"Node\": {{\"Node\": \"n\", \"Address\": \"10.0.0.{octet}\", \"Datacenter\": \"d\"}}, \
             \"Service\": {{\"ID\": \"{octet}\", \"Port\": 80}}, \"Checks\": []}}"
        )
    };
    let all: Vec<_> = octets.iter().map(instance).collect();
    Reply::page("200 OK", INDEX, &format!("[{}]", all.join(",")))
}

/// The keys `/web/1` and so on.
fn keys(octets: &[u8]) -> Reply {
    let key = |octet: &u8| {
        let key = crate::etcd::base64(format!("/web/{octet}").as_bytes());
        let value = crate::etcd::base64(format!("{{\"address\": \"10.0.0.{octet}:80\"}}").as_bytes());
        format!("{{\"key\": \"{key}\", \"value\": \"{value}\"}}")
    };
    let all: Vec<_> = octets.iter().map(key).collect();
    Reply::ok(&format!("{{\"header\": {{\"revision\": \"11\"}}, \"kvs\": [{}]}}", all.join(",")))
}

fn slices(octets: &[u8]) -> Vec<serde_json::Value> {
    let all: Vec<_> = octets.iter().map(|&octet| (octet, "ready")).collect();
    vec![kube_server::slice("web-1", &all)]
}

/// Some of an answer whose rest does not come.
fn chunks(body: &str) -> Reply {
    let Reply::Hanging(bytes) = kube_server::watch(&[body.into()]) else { unreachable!("a watch stays open") };
    Reply::Hanging(bytes)
}

/// A day of a registry.
#[derive(Clone)]
struct Day {
    name: String,
    reply: Reply,
    /// Whether time alone ends it. To a watch of Kubernetes it is then like any other time without news.
    is_slow: bool,
}

fn days(kind: Kind) -> impl Iterator<Item = Day> {
    // Consul is in Go, where an empty list may be written like that.
    all_days().into_iter().filter(move |day| (kind.name, &*day.name) != ("consul", "the answer null"))
}

fn all_days() -> Vec<Day> {
    let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{INDEX}{headers}\r\n");
    let endless = |head: &str, piece: &str, pause| Reply::Endless { head: head.into(), piece: piece.into(), pause };
    let at_once = Duration::ZERO;
    let chunked = head("transfer-encoding: chunked\r\n");
    let chunk = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let slow = [
        ("silence", Reply::Hanging(Vec::new())),
        ("silence within the head", Reply::Hanging(head("").into_bytes()[..20].to_vec())),
        ("silence behind the head", Reply::Hanging(chunked.clone().into_bytes())),
        ("silence within the answer", Reply::Hanging((chunked.clone() + &chunk("{")).into_bytes())),
        ("a byte now and then", endless(&head("content-length: 9999\r\n"), " ", Duration::from_millis(50))),
        ("a head that is always about to come", endless("", "HTTP/1.1 100 Continue\r\n\r\n", at_once)),
        ("an answer of nothing", Reply::raw(head("content-length: 0\r\n"))),
    ];
    let quick = [
        ("an answer without end", endless(&chunked, &chunk(&" ".repeat(8_000)), at_once)),
        ("lines without end", endless(&chunked, &chunk(&"\n".repeat(8_000)), at_once)),
        ("a head without end", endless("HTTP/1.1 200 OK\r\n", &"x: y\r\n".repeat(200), at_once)),
        ("a header without end", endless("HTTP/1.1 200 OK\r\nx: ", &"y".repeat(1_000), at_once)),
        ("more than it may have", Reply::raw(head("content-length: 99999999999\r\n") + "\n")),
        ("more than there is", Reply::raw(head("content-length: 99999999999999999999999\r\n") + "\n")),
        ("less than it says", Reply::raw(head("content-length: 999\r\n") + "{")),
        ("the end within a chunk", Reply::raw(chunked.clone() + "5\r\n{")),
        ("the end between chunks", Reply::raw(chunked.clone() + &chunk("{"))),
        ("a chunk of no size", Reply::raw(chunked.clone() + "x\r\n{")),
        ("the end within the head", Reply::raw("HTTP/1.1 200 O")),
        ("the end at once", Reply::raw("")),
        ("a reset within the answer", Reply::Reset((head("content-length: 999\r\n") + "{").into_bytes())),
        ("a reset at once", Reply::Reset(Vec::new())),
        (
            "a page for people",
            Reply::page("200 OK", &format!("{INDEX}content-type: text/html\r\n"), "<html>Log in</html>"),
        ),
        ("a redirect", Reply::page("302 Found", &format!("{INDEX}location: http://169.254.169.254/\r\n"), "")),
        ("another protocol", Reply::page("101 Switching Protocols", "upgrade: h2c\r\nconnection: upgrade\r\n", "")),
        ("something compressed", Reply::page("200 OK", &format!("{INDEX}content-encoding: gzip\r\n"), "{}")),
        ("two lengths", Reply::raw(head("content-length: 1\r\ncontent-length: 2\r\n") + "{}")),
        ("no HTTP", Reply::raw("SSH-2.0-OpenSSH_9.2\r\n")),
        ("TLS where none was asked for", Reply::raw(b"\x15\x03\x01\0\x02\x02\x46".to_vec())),
    ];
    let statuses = ["204 No Content", "206 Partial Content", "400 Bad Request", "401 Unauthorized", "403 Forbidden"];
    let more = ["404 Not Found", "409 Conflict", "429 Too Many Requests", "500 Internal Server Error", "503 Busy"];
    let statuses = statuses.into_iter().chain(more).map(|status| (status.to_owned(), Reply::page(status, INDEX, "{}")));
    let deep = ["[", "{\"a\":", "{\"items\":["].map(|open| open.repeat(MAX_BYTES / 20));
    let wrong = ["null", "true", "1", "\"text\"", "[1]", "[[]]", "[null]", "{\"a\": 1}", "{\"endpoints\": {}}"];
    let more =
        ["{\"header\": [], \"kvs\": {}}", "{\"items\": [1], \"metadata\": 2}", "{\"result\": 1}", "{\"type\": 1}"];
    let wrong = wrong.into_iter().chain(more).map(str::to_owned).chain(deep).chain(["\u{feff}{}".to_owned()]);
    let wrong = wrong.map(|body| {
        let name = format!("the answer {}", &body[..body.floor_char_boundary(30)]);
        (name, Reply::page("200 OK", INDEX, &(body + "\n")))
    });
    let no_text = Reply::raw([head("content-length: 3\r\n").as_bytes(), b"\xff\xfe\n"].concat());
    let day = |is_slow| move |(name, reply): (String, Reply)| Day { name, reply, is_slow };
    let named = |(name, reply): (&str, Reply)| (name.to_owned(), reply);
    let quick = quick.into_iter().map(named).chain(statuses).chain(wrong).chain([("no text".to_owned(), no_text)]);
    slow.into_iter().map(named).map(day(true)).chain(quick.map(day(false))).collect()
}

/// Answers the first questions as on good days, and all others with this.
async fn registry(kind: Kind) -> (WebServer, Arc<Mutex<(Vec<Reply>, Option<Reply>)>>) {
    let says = Arc::new(Mutex::new((Vec::new(), None)));
    let theirs = Arc::clone(&says);
    let server = WebServer::start(move |asked| {
        let (good, then): &mut (Vec<Reply>, Option<Reply>) = &mut theirs.lock().unwrap();
        match good.pop() {
            Some(reply) => reply,
            None => then.clone().or((kind.wait)(asked)).unwrap_or(Reply::Hanging(Vec::new())),
        }
    })
    .await;
    (server, says)
}

async fn live_through(kind: Kind, day: Day) {
    let cell = format!("{}: {}", kind.name, day.name);
    // Long enough for good answers on a busy machine.
    let timeout = if day.is_slow { Duration::from_secs(3) } else { PATIENCE };
    let (server, says) = registry(kind).await;
    let source = (kind.source)(&server, timeout);
    let octets = |found: &[discovery::Found]| -> Vec<String> {
        found.iter().map(|found| found.address.to_string().rsplit_once(':').unwrap().0.to_owned()).collect()
    };

    *says.lock().unwrap() = (vec![(kind.list)(&[1, 2])], Some(day.reply.clone()));
    let mut run = Run::again(&source);
    assert_eq!(octets(&run.list().await), ["10.0.0.1", "10.0.0.2"], "{cell}");
    // A watch that is silent, or ends without a word, is no failure.
    if !(day.is_slow && kind.name == "kubernetes") {
        let error = run.error().await;
        assert!(!error.is_empty() && error.len() <= discovery::ERROR_MAX_BYTES, "{cell}");
    }
    *says.lock().unwrap() = (Vec::new(), Some(day.reply));
    let error = Run::again(&source).error().await;
    assert!(!error.is_empty() && error.len() <= discovery::ERROR_MAX_BYTES, "{cell}");

    *says.lock().unwrap() = (vec![(kind.list)(&[3])], None);
    assert_eq!(octets(&Run::again(&source).list().await), ["10.0.0.3"], "{cell}: what was before is not in the list");
}

#[tokio::test]
async fn no_source_takes_anything_but_a_whole_answer_for_one() {
    let mut failed = Vec::new();
    for kind in KINDS {
        let mut cells = JoinSet::new();
        let begin = |day: Day| (cells.spawn(live_through(kind, day.clone())).id(), day.name);
        let names: HashMap<_, _> = days(kind).map(begin).collect();
        assert!(names.len() >= 50, "{}: days are missing", kind.name);
        while let Some(cell) = cells.join_next().await {
            failed.extend(cell.err().map(|error| format!("{}: {}", kind.name, names[&error.id()])));
        }
    }
    assert!(failed.is_empty(), "the panics above: {failed:#?}");
}

#[tokio::test]
async fn a_registry_that_is_gone_is_an_error_and_nothing_else() {
    for kind in KINDS {
        let (server, says) = registry(kind).await;
        let source = (kind.source)(&server, PATIENCE);
        *says.lock().unwrap() = (vec![(kind.list)(&[1])], (kind.name == "http").then(|| (kind.list)(&[1])));
        let mut run = Run::again(&source);
        assert_eq!(run.list().await.len(), 1, "{}", kind.name);
        drop(server);
        assert!(!run.error().await.is_empty(), "{}", kind.name);
        let error = Run::again(&source).error().await;
        assert!(error.starts_with("connect to 127.0.0.1, port "), "{}: {error}", kind.name);
    }
}

#[tokio::test]
async fn empty_lists_and_lists_that_flap_are_told_as_they_are() {
    let lists: [&[u8]; 7] = [&[], &[1], &[], &[2, 3], &[1], &[1, 2, 3], &[]];
    for kind in KINDS {
        let (server, says) = registry(kind).await;
        let source = (kind.source)(&server, PATIENCE);
        // Each run begins with a list, whatever was said before.
        for octets in lists {
            *says.lock().unwrap() = (vec![(kind.list)(octets)], None);
            let found = Run::again(&source).list().await;
            assert_eq!(found.len(), octets.len(), "{}: {octets:?}: {:?}", kind.name, ids(&found));
        }
    }
}

#[tokio::test]
async fn a_registry_that_is_too_busy_says_when_to_come_back() {
    let seconds = |n| Some(Duration::from_secs(n));
    let cases = [
        ("429 Too Many Requests", "retry-after: 7\r\n", seconds(7)),
        ("503 Service Unavailable", "retry-after: 0\r\n", seconds(0)),
        ("503 Service Unavailable", "retry-after: 18446744073709551615\r\n", seconds(u64::MAX)),
        ("503 Service Unavailable", "retry-after: 18446744073709551616\r\n", None),
        ("503 Service Unavailable", "retry-after: Thu, 26 Nov 2026 07:00:00 GMT\r\n", None),
        ("429 Too Many Requests", "retry-after: -1\r\n", None),
        ("429 Too Many Requests", "", None),
        ("500 Internal Server Error", "retry-after: 7\r\n", None),
    ];
    for kind in KINDS {
        for (status, header, expected) in cases {
            let (server, says) = registry(kind).await;
            let source = (kind.source)(&server, PATIENCE);
            says.lock().unwrap().1 = Some(Reply::page(status, header, "{}"));
            let failure = Run::again(&source).failure().await;
            assert_eq!(failure.retry_after(), expected, "{}: {status}, {header}", kind.name);
            // To a question for changes as well.
            says.lock().unwrap().0 = vec![(kind.list)(&[1])];
            let mut run = Run::again(&source);
            assert_eq!(run.list().await.len(), 1);
            assert_eq!(run.failure().await.retry_after(), expected, "{}: {status}, {header}", kind.name);
        }
    }
}

/// Every answer has it, so that it is not for want of it that Consul's are refused.
const INDEX: &str = "x-consul-index: 7\r\n";
/// Longest answer and longest line.
const MAX_BYTES: usize = 64 << 10;
