//! Endpoints from a page.

use std::time::Duration;

use discovery::sources::{HttpSettings, HttpSource};

use crate::http_server::{Reply, WebServer};
use crate::support::{PATIENCE, Run};

const ONE: &str = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;
const TWO: &str = r#"{"endpoints": [{"address": "10.0.0.2:80"}]}"#;

/// Asks again at once.
fn run(server: &WebServer) -> Run {
    let (interval, timeout) = (Duration::from_millis(5), PATIENCE);
    let settings = HttpSettings { interval, timeout, ..HttpSettings::new(server.url("/list?of=web")) };
    Run::of(HttpSource::new(settings).expect("a good URL"))
}

#[tokio::test]
async fn a_page_is_asked_for_and_followed() {
    let server = WebServer::start(|_| Reply::ok(ONE)).await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    run.alive().await;
    server.change(|_| Reply::ok(TWO));
    assert_eq!(run.ids().await, ["10.0.0.2:80"]);
    server.change(|_| Reply::ok(r#"{"endpoints": []}"#));
    assert_eq!(run.list().await, []);
    let asked = server.asked().remove(0);
    assert_eq!(asked.line, "GET /list?of=web");
    assert_eq!(asked.header("host"), Some(&*server.address.to_string()));
    assert_eq!(asked.header("if-none-match"), None);
}

#[tokio::test]
async fn a_page_with_a_tag_is_asked_for_with_it() {
    let page = |tag: &str, body: &str| Reply::page("200 OK", &format!("etag: {tag}\r\n"), body);
    let server = WebServer::start(move |asked| match asked.header("if-none-match") {
        Some("W/\"1\"") => Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n"),
        _ => page("W/\"1\"", ONE),
    })
    .await;
    let mut run = run(&server);
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    run.alive().await;
    run.alive().await;
    assert_eq!(server.asked().iter().filter(|asked| asked.header("if-none-match").is_none()).count(), 1);
    server.change(move |_| page("\"2\"", TWO));
    assert_eq!(run.ids().await, ["10.0.0.2:80"]);
    // A page without a tag ends that, and so does one that is too long to be repeated.
    for headers in [String::new(), format!("etag: \"{}\"\r\n", "x".repeat(2_000))] {
        server.change(move |asked| match asked.header("if-none-match") {
            None => Reply::page("200 OK", &headers, ONE),
            Some(_) => Reply::page("200 OK", &headers, TWO),
        });
        assert_eq!(run.ids().await, ["10.0.0.1:80"]);
        server.change(move |_| page("\"2\"", TWO));
        assert_eq!(run.ids().await, ["10.0.0.2:80"]);
    }
}

#[tokio::test]
async fn what_is_no_list_is_an_error() {
    let length = |n: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n{ONE}");
    let chunked =
        |rest: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{ONE}\r\n{rest}", ONE.len());
    let cases = [
        (Reply::page("500 Internal Server Error", "", "no\nleader"), "status 500: no leader"),
        (Reply::page("401 Unauthorized", "", ""), "status 401"),
        (Reply::page("404 Not Found", "", ONE), "status 404"),
        (Reply::page("204 No Content", "", ""), "status 204"),
        (Reply::page("206 Partial Content", "", ONE), "status 206"),
        (Reply::page("302 Found", "location: http://127.0.0.1:1/\r\n", ""), "status 302: redirects are not followed"),
        (Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n"), "status 304, though nothing was known before"),
        (Reply::page("200 OK", "content-encoding: gzip\r\n", ONE), "the answer is compressed"),
        (Reply::page("200 OK", "content-type: text/html\r\n", "<html>Log in</html>"), "not as expected"),
        (Reply::ok(""), "empty"),
        (Reply::ok("{}"), "missing field `endpoints`"),
        (Reply::ok(&format!("{ONE}{ONE}")), "trailing characters"),
        (Reply::raw(length(ONE.len() + 1)), "half an answer"),
        (Reply::raw(chunked("")), "half an answer"),
        (Reply::raw(chunked("xyz\r\n")), "half an answer"),
        (Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{}", &ONE[..20])), "not as expected: EOF"),
        (Reply::raw(length(17 << 20)), "an answer of more than 16777216 bytes"),
        (
            Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(17 << 20))),
            "an answer of more than 16777216 bytes",
        ),
        (Reply::raw(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n{ONE}", "x".repeat(1 << 20))), "http: "),
        (Reply::raw("SSH-2.0-OpenSSH_9.2\r\n"), "http: "),
        (Reply::raw(""), "http: "),
    ];
    for (reply, expected) in cases {
        let server = WebServer::start(move |_| reply.clone()).await;
        let error = run(&server).error().await;
        assert!(error.contains(expected) && error.len() < 250, "{expected}: {error}");
    }
    let server = WebServer::start(|_| Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{ONE}"))).await;
    assert_eq!(run(&server).ids().await, ["10.0.0.1:80"], "a body that ends with the connection is whole");
}

#[tokio::test]
async fn silence_and_slowness_are_errors() {
    for said in [String::new(), "HTTP/1.1 200 OK\r\n".into(), format!("HTTP/1.1 200 OK\r\n\r\n{ONE}")] {
        let server = WebServer::start(move |_| Reply::Hanging(said.clone().into_bytes())).await;
        let settings = HttpSettings { timeout: Duration::from_millis(50), ..HttpSettings::new(server.url("/")) };
        let error = Run::of(HttpSource::new(settings).unwrap()).error().await;
        assert_eq!(error, "no answer in 50 ms");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let (port, _bound) = {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        (socket.local_addr().unwrap().port(), socket)
    };
    let error = Run::of(HttpSource::new(HttpSettings::new(format!("http://127.0.0.1:{port}/"))).unwrap()).error().await;
    assert!(error.starts_with(&format!("connect to 127.0.0.1, port {port}: Connection refused")), "{error}");
}
