//! Endpoints from etcd: a gateway of this test that gives every answer one has been seen to give.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use discovery::Event;
use discovery::sources::{Access, EtcdSettings, EtcdSource};

use crate::http_server::{Asked, Reply, WebServer};
use crate::support::{PATIENCE, Run, Scratch};

const RANGE: &str = "POST /v3/kv/range";
const WATCH: &str = "POST /v3/watch";
const CREATED: &str = "{\"result\":{\"header\":{\"revision\":\"90\"},\"created\":true}}\n";

fn settings(server: &WebServer) -> EtcdSettings {
    EtcdSettings { urls: vec![server.url("")], timeout: PATIENCE, ..EtcdSettings::new("/web/") }
}

fn run(server: &WebServer) -> Run {
    Run::of(EtcdSource::new(settings(server)).expect("good settings"))
}

/// `/web/` and one letter, in base64.
fn key(letter: char) -> String {
    base64(format!("/web/{letter}").as_bytes())
}

pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let digit = |chunk: &[u8]| {
        let text = format!("{:0<6}", std::str::from_utf8(chunk).unwrap());
        char::from(DIGITS[usize::from_str_radix(&text, 2).unwrap()])
    };
    let coded: String = bits.as_bytes().chunks(6).map(digit).collect();
    let length = coded.len().next_multiple_of(4);
    format!("{coded:=<length$}")
}

fn kv(letter: char, port: u16, more: &str) -> String {
    let value = base64(format!("{{\"address\": \"10.0.0.1:{port}\"}}").as_bytes());
    format!("{{\"key\":\"{}\",\"value\":\"{value}\"{more}}}", key(letter))
}

fn range(revision: u64, kvs: &[String]) -> String {
    format!("{{\"header\":{{\"revision\":\"{revision}\"}},\"kvs\":[{}],\"count\":\"{}\"}}", kvs.join(","), kvs.len())
}

fn events(events: &[String]) -> String {
    format!("{{\"result\":{{\"header\":{{\"revision\":\"99\"}},\"events\":[{}]}}}}\n", events.join(","))
}

fn put(letter: char, port: u16, revision: u64) -> String {
    format!("{{\"kv\":{}}}", kv(letter, port, &format!(",\"mod_revision\":\"{revision}\"")))
}

fn delete(letter: char, revision: u64) -> String {
    format!("{{\"type\":\"DELETE\",\"kv\":{{\"key\":\"{}\",\"mod_revision\":\"{revision}\"}}}}", key(letter))
}

/// A watch that says these lines and stays open.
fn watch(lines: &[&str]) -> Reply {
    let body: String = lines.concat();
    Reply::Hanging(
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len()).into_bytes(),
    )
}

/// Answers questions for keys and watches, each in this order.
fn in_turn(ranges: Vec<Reply>, watches: Vec<Reply>) -> impl FnMut(&Asked) -> Reply {
    let (mut ranges, mut watches) = (ranges.into_iter(), watches.into_iter());
    move |asked| {
        let next = if asked.line == RANGE { ranges.next() } else { watches.next() };
        next.unwrap_or(Reply::Hanging(Vec::new()))
    }
}

fn asked(server: &WebServer, line: &str) -> Vec<serde_json::Value> {
    let asked = server.asked().into_iter().filter(|asked| asked.line == line);
    asked.map(|asked| serde_json::from_str(&asked.body).expect("questions are JSON")).collect()
}

#[tokio::test]
async fn keys_are_read_and_then_watched() {
    let lines = [CREATED, &events(&[put('c', 3, 12)]), &events(&[delete('a', 13), put('b', 9, 14)])];
    let all = range(11, &[kv('a', 1, ""), kv('b', 2, ",\"lease\":\"77\"")]);
    let server = WebServer::start(in_turn(vec![Reply::ok(&all)], vec![watch(&lines)])).await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["/web/a", "/web/b"]);
    run.alive().await;
    let Event::Upsert(found) = run.event().await else { panic!("a change is told by itself") };
    assert_eq!((&*found[0].id, found[0].address.to_string()), ("/web/c", "10.0.0.1:3".into()));
    let Event::Upsert(found) = run.event().await else { panic!("what is there before what is gone") };
    assert_eq!((&*found[0].id, found[0].address.to_string()), ("/web/b", "10.0.0.1:9".into()));
    assert_eq!(run.event().await, Event::Remove(vec!["/web/a".into()]));

    let range = asked(&server, RANGE).remove(0);
    assert_eq!((&range["key"], &range["range_end"]), (&"L3dlYi8=".into(), &"L3dlYjA=".into()));
    let watch = &asked(&server, WATCH)[0]["create_request"];
    assert_eq!(
        (&watch["key"], &watch["range_end"], &watch["start_revision"]),
        (&"L3dlYi8=".into(), &"L3dlYjA=".into(), &12.into())
    );
    assert!(server.asked().iter().all(|asked| asked.header("grpc-metadata-hasleader") == Some("true")));
}

#[tokio::test]
async fn a_lease_that_ran_out_is_left_to_the_guard() {
    let all = range(11, &[kv('a', 1, ",\"lease\":\"77\""), kv('b', 2, "")]);
    let server =
        WebServer::start(in_turn(vec![Reply::ok(&all)], vec![watch(&[CREATED, &events(&[delete('a', 12)])])])).await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["/web/a", "/web/b"]);
    assert_eq!(run.ids().await, ["/web/b"], "a list, and no removal");
}

#[tokio::test]
async fn a_watch_is_made_anew_where_the_last_one_stopped() {
    let renewed = |lines: &[&str]| watch(lines);
    let watches = vec![
        renewed(&[CREATED, &events(&[put('b', 2, 15)]), "{\"result\": {\"ev"]),
        renewed(&[CREATED]),
        renewed(&[CREATED, &events(&[put('c', 3, 21)])]),
    ];
    let server = WebServer::start(in_turn(vec![Reply::ok(&range(11, &[kv('a', 1, "")]))], watches)).await;
    let renew = Duration::from_millis(30);
    let mut run = Run::of(
        EtcdSource::new(EtcdSettings { renew, timeout: Duration::from_secs(30), ..settings(&server) }).unwrap(),
    );
    assert_eq!(run.ids().await, ["/web/a"]);
    let mut upserts = Vec::new();
    while upserts.len() < 2 {
        match run.event().await {
            Event::Upsert(found) => upserts.push(found[0].id.clone()),
            event => assert_eq!(event, Event::Alive, "a watch that ends loses nothing"),
        }
    }
    assert_eq!(upserts, ["/web/b".into(), Box::<str>::from("/web/c")]);
    let starts: Vec<_> =
        asked(&server, WATCH).iter().map(|watch| watch["create_request"]["start_revision"].as_u64()).collect();
    assert_eq!(starts[..3], [Some(12), Some(16), Some(16)]);
    assert_eq!(asked(&server, RANGE).len(), 1);
}

#[tokio::test]
async fn after_a_compaction_all_keys_are_read_anew() {
    let canceled = "{\"result\":{\"created\":true,\"canceled\":true,\"compact_revision\":\"50\"}}\n";
    let later = "{\"result\":{\"canceled\":true,\"compact_revision\":\"70\",\"cancel_reason\":\"compacted\"}}\n";
    let ranges = [range(11, &[kv('a', 1, "")]), range(60, &[kv('b', 2, "")]), range(80, &[kv('b', 2, "")])];
    let watches = vec![watch(&[canceled]), watch(&[CREATED, later]), watch(&[CREATED])];
    let server = WebServer::start(in_turn(ranges.iter().map(|range| Reply::ok(range)).collect(), watches)).await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["/web/a"]);
    assert_eq!(run.ids().await, ["/web/b"]);
    assert_eq!(run.ids().await, ["/web/b"]);
    run.alive().await;
    let starts: Vec<_> =
        asked(&server, WATCH).iter().map(|watch| watch["create_request"]["start_revision"].as_u64()).collect();
    assert_eq!(starts, [Some(12), Some(61), Some(81)]);
}

#[tokio::test]
async fn a_revision_that_goes_back_is_refused_once() {
    // A cluster that was restored from a backup, once noticed by a watch and once by a list.
    let early = "{\"result\":{\"header\":{\"revision\":\"7\"},\"created\":true}}\n";
    let later = events(&[put('b', 2, 40)]);
    let ranges = [(11, 'a'), (7, 'c'), (7, 'c'), (8, 'd'), (8, 'd')].map(|(revision, letter)| {
        let all = range(revision, &[kv(letter, 1, "")]);
        Reply::ok(&all)
    });
    let watches = vec![watch(&[early]), Reply::page("200 OK", "", &format!("{}{later}", CREATED))];
    let server = WebServer::start(in_turn(ranges.to_vec(), watches)).await;
    let source = Arc::new(EtcdSource::new(settings(&server)).unwrap());
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["/web/a"]);
    assert_eq!(run.error().await, "etcd is at revision 7, and 11 was known; asking again");
    assert_eq!(Run::again(&source).error().await, "the list is of version 7, and 11 was known; asking again");
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["/web/c"], "who says it again is believed");
    run.alive().await;
    assert!(matches!(run.event().await, Event::Upsert(_)));
    assert!(run.error().await.contains("ended the watch"));
    assert_eq!(Run::again(&source).error().await, "the list is of version 8, and 40 was known; asking again");
    assert_eq!(Run::again(&source).ids().await, ["/web/d"]);
}

#[tokio::test]
async fn many_keys_come_in_pages_of_one_revision() {
    let page = |revision, kvs: &[String], more| {
        range(revision, kvs).replace("\"count\"", &format!("\"more\":{more},\"count\""))
    };
    let pages = [
        page(11, &[kv('a', 1, ""), kv('b', 2, "")], true),
        page(13, &[kv('c', 3, ""), kv('d', 4, "")], true),
        page(14, &[], false),
    ];
    let server =
        WebServer::start(in_turn(pages.iter().map(|page| Reply::ok(page)).collect(), vec![watch(&[CREATED])])).await;
    let mut run = Run::of(EtcdSource::new(EtcdSettings { page: 2, ..settings(&server) }).unwrap());
    assert_eq!(run.ids().await, ["/web/a", "/web/b", "/web/c", "/web/d"]);
    run.alive().await;
    let ranges = asked(&server, RANGE);
    let keys: Vec<_> =
        ranges.iter().map(|range| (range["key"].as_str().unwrap(), range["revision"].as_u64().unwrap())).collect();
    assert_eq!(keys, [("L3dlYi8=", 0), (&*base64(b"/web/b\0"), 11), (&*base64(b"/web/d\0"), 11)]);
    assert!(ranges.iter().all(|range| range["limit"] == 2));
    assert_eq!(asked(&server, WATCH)[0]["create_request"]["start_revision"], 12);

    // Pages that do not go on would never end.
    for second in [page(11, &[kv('a', 1, "")], true), page(11, &[], true)] {
        let pages = vec![Reply::ok(&pages[0]), Reply::ok(&second)];
        let server = WebServer::start(in_turn(pages, vec![])).await;
        assert!(self::run(&server).error().await.contains("says that there is more"));
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_no_other() {
    let bad = |letter: char| format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", key(letter), base64(b"{\"adress\": 1}"));
    let server = WebServer::start(in_turn(vec![Reply::ok(&range(11, &[bad('a'), kv('b', 2, "")]))], vec![])).await;
    assert_eq!(run(&server).ids().await, ["/web/b"]);
}

#[tokio::test]
async fn what_is_no_answer_of_etcd_is_an_error() {
    let good = || Reply::ok(&range(11, &[kv('a', 1, "")]));
    let ranges = [
        (
            Reply::page("503 Service Unavailable", "", "{\"error\":\"etcdserver: no leader\"}"),
            "status 503: {\"error\":\"etcdserver: no leader\"}",
        ),
        (Reply::page("401 Unauthorized", "", ""), "status 401"),
        (Reply::page("404 Not Found", "", "404 page not found"), "status 404"),
        (Reply::page("307 Temporary Redirect", "location: /\r\n", ""), "redirects are not followed"),
        (Reply::ok("{}"), "missing field `header`"),
        (Reply::ok("[]"), "not as expected"),
        (Reply::ok(&range(11, &["{\"key\":\"?\"}".into()])), "not base64"),
        (Reply::ok(&range(11, &[kv('a', 1, "")])[..60]), "EOF"),
        (Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 16777217\r\n\r\n"), "more than 16777216 bytes"),
    ];
    for (reply, expected) in ranges {
        let server = WebServer::start(in_turn(vec![reply], vec![])).await;
        let error = run(&server).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let ended = |body: &str| Reply::page("200 OK", "", body);
    let watches = [
        (Reply::page("503 Service Unavailable", "", ""), "status 503"),
        (ended(""), "ended the watch without a word"),
        (ended(CREATED), "ended the watch without a word"),
        (ended(&events(&[])), "does not begin at its beginning"),
        (
            ended("{\"error\":{\"grpc_code\":14,\"message\":\"etcdserver: no leader\"}}\n"),
            "the watch failed: etcdserver: no leader",
        ),
        (
            watch(&[CREATED, "{\"result\":{\"canceled\":true,\"cancel_reason\":\"no leader\"}}\n"]),
            "etcd ended the watch: no leader",
        ),
        (watch(&[CREATED, "nonsense\n"]), "not as expected"),
        (watch(&[CREATED, "{\"result\":{\"events\":[{\"kv\":{}}]}}\n"]), "missing field `key`"),
        (watch(&[CREATED, &" ".repeat(17 << 20)]), "a line of more than 16777216 bytes"),
        (Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{CREATED}")), "half an answer"),
    ];
    for (reply, expected) in watches {
        let server = WebServer::start(in_turn(vec![good()], vec![reply])).await;
        let mut run = run(&server);
        assert_eq!(run.ids().await, ["/web/a"]);
        let error = run.error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn silence_is_an_error() {
    let timeout = Duration::from_secs(2);
    for ranges in [vec![], vec![Reply::ok(&range(11, &[]))]] {
        let empty = !ranges.is_empty();
        let server = WebServer::start(in_turn(ranges, vec![Reply::Hanging(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())])).await;
        let mut run = Run::of(EtcdSource::new(EtcdSettings { timeout, ..settings(&server) }).unwrap());
        if empty {
            assert_eq!(run.list().await, []);
        }
        assert_eq!(run.error().await, "no answer in 2000 ms");
    }
}

#[tokio::test]
async fn a_link_that_died_is_noticed_when_the_watch_is_made_anew() {
    let server = WebServer::start(in_turn(vec![Reply::ok(&range(11, &[]))], vec![watch(&[CREATED])])).await;
    let (renew, timeout) = (Duration::from_millis(30), Duration::from_secs(2));
    let mut run = Run::of(EtcdSource::new(EtcdSettings { renew, timeout, ..settings(&server) }).unwrap());
    assert_eq!(run.list().await, []);
    assert_eq!(run.error().await, "no answer in 2000 ms");
    assert_eq!(asked(&server, WATCH).len(), 2);
}

#[tokio::test]
async fn after_an_error_the_next_server_is_asked() {
    let bad = WebServer::start(|_| Reply::page("503 Service Unavailable", "", "")).await;
    let good = WebServer::start(in_turn(vec![Reply::ok(&range(11, &[kv('a', 1, "")]))], vec![])).await;
    let urls = vec![bad.url(""), good.url("")];
    let source = Arc::new(EtcdSource::new(EtcdSettings { urls, ..settings(&good) }).unwrap());
    assert!(Run::again(&source).error().await.contains("status 503"));
    assert_eq!(Run::again(&source).ids().await, ["/web/a"]);
}

#[tokio::test]
async fn a_password_is_changed_for_a_token() {
    let folder = Scratch::new("etcd-access");
    let file = folder.join("secret");
    fs::write(&file, "s3cret\n").unwrap();
    let server = WebServer::start(|asked: &Asked| match &*asked.line {
        "POST /v3/auth/authenticate" => Reply::ok("{\"header\":{},\"token\":\"abc.1\"}"),
        RANGE => Reply::ok(&range(11, &[])),
        _ => watch(&[CREATED]),
    })
    .await;
    let password = Access::Password { username: "me".into(), password_file: file.clone() };
    for (access, expected, questions) in [(password, "abc.1", 3), (Access::Token(file), "s3cret", 2)] {
        let before = server.asked().len();
        let mut run = Run::of(EtcdSource::new(EtcdSettings { access, ..settings(&server) }).unwrap());
        assert_eq!(run.list().await, []);
        run.alive().await;
        let asked = server.asked().split_off(before);
        assert_eq!(asked.len(), questions);
        let (first, rest) = asked.split_at(questions - 2);
        assert!(first.iter().all(
            |asked| asked.body == r#"{"name":"me","password":"s3cret"}"# && asked.header("authorization").is_none()
        ));
        assert!(rest.iter().all(|asked| asked.header("authorization") == Some(expected)));
    }
}
