//! The probe that asks for a page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use balance::{Active, Address};
use discovery::Probe;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::support::{Scratch, checked, http, listener, until, until_state};

/// Reads the head of a request.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("a request is plain text")
}

/// Answers one request and closes.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: &[u8]) {
    head(&mut stream).await;
    // The check may leave before it has heard all.
    let _written = stream.write_all(reply).await;
}

/// A server that answers every request with `reply`.
async fn server(reply: &'static [u8]) -> Address {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, reply).await;
        }
    });
    address.into()
}

#[tokio::test]
async fn the_answer_decides() {
    let cases: [(&[u8], Active, &str); 8] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Active::Up, "status 200"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", Active::Up, "status 200"),
        (b"HTTP/1.0 204 No Content\r\n\r\n", Active::Up, "status 204"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Active::Down, "status 404, which is not expected"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", Active::Down, "status 301, which is"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Active::Down, "http: "),
        (b"\0\xff\x80garbage\n\n\n", Active::Down, "http: "),
        (b"", Active::Down, "http: "),
    ];
    for (reply, state, text) in cases {
        let services = checked(http("/health", 200..=299), &[server(reply).await]);
        let result = until_state(&services, state).await;
        assert!(result.text.starts_with(text), "{:?}: {}", String::from_utf8_lossy(reply), result.text);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_in_time_is_down() {
    let (listener, address) = listener().await;
    let services = checked(http("/", 200..=200), &[address.into()]);
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let result = until_state(&services, Active::Down).await;
    assert_eq!(result.text, "http: timed out");
    held.abort();
}

/// A server that begins with `start` and then repeats `more` until nobody listens; returns its address and how much
/// the latest client took.
async fn endless(start: &'static [u8], more: &'static [u8]) -> (Address, Arc<AtomicU64>) {
    let (listener, address) = listener().await;
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            let (mut sent, mut next) = (0, start);
            while stream.write_all(next).await.is_ok() {
                sent += next.len() as u64;
                next = more;
            }
            count.store(sent, Relaxed);
        }
    });
    (address.into(), taken)
}

#[tokio::test]
async fn an_endless_head_is_given_up() {
    let (address, taken) = endless(b"HTTP/1.1 200 OK\r\n", b"X-More: more\r\n").await;
    let services = checked(http("/", 200..=200), &[address]);
    let result = until_state(&services, Active::Down).await;
    assert!(result.text.starts_with("http: "), "{}", result.text);
    assert!(taken.load(Relaxed) < BUFFERS_BYTES, "what is read is bounded: {}", taken.load(Relaxed));
}

#[tokio::test]
async fn an_endless_body_is_left_unread() {
    let (address, taken) = endless(b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096]).await;
    let services = checked(http("/", 200..=200), &[address]);
    assert_eq!(until_state(&services, Active::Up).await.text, "status 200");
    until(|| taken.load(Relaxed) > 0).await;
    assert!(taken.load(Relaxed) < BUFFERS_BYTES, "what is read is bounded: {}", taken.load(Relaxed));
}

#[tokio::test]
async fn a_request_names_itself_and_its_host_and_has_a_connection_of_its_own() {
    let (listener, address) = listener().await;
    for (host, expected) in [(None, address.to_string()), (Some("db.example.com".to_owned()), "db.example.com".into())]
    {
        let probe = Probe::Http { port: None, path: "/health?deep=1".into(), host, expect: vec![200..=200] };
        let services = checked(probe, &[address.into()]);
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await.to_ascii_lowercase();
            assert!(head.starts_with("get /health?deep=1 http/1.1\r\n"), "{head}");
            for line in [&format!("host: {expected}"), "user-agent: dislocate-check", "connection: close"] {
                assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {head}");
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "the check closes and asks nothing more");
        }
        drop(services);
        // A probe that was on its way when the services ended must not be taken for one of the next round.
        while tokio::time::timeout(QUIET, listener.accept()).await.is_ok() {}
    }
}

#[tokio::test]
async fn a_path_that_makes_no_request_is_nobodys_failure() {
    let accepted = Arc::new(AtomicU32::new(0));
    let (listener, address) = listener().await;
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Relaxed);
        }
    });
    let services = checked(http("/with space", 200..=200), &[address.into()]);
    for _ in 0..5 {
        let result = crate::support::until_next_result(&services).await;
        assert!(result.text.starts_with("no request can be made"), "{}", result.text);
    }
    assert_eq!(crate::support::states(&services), [Active::Unknown]);
    assert_eq!(accepted.load(Relaxed), 0, "nothing is connected to without a question");
}

#[tokio::test]
async fn a_unix_backend_is_asked_over_its_socket() {
    let scratch = Scratch::new("http");
    let path = scratch.0.join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let services = checked(http("/", 200..=200), &[Address::Unix(path.into())]);
    until_state(&services, Active::Up).await;
}

/// More than the buffers of both sockets and ours hold, far less than a server sends to one who reads on.
const BUFFERS_BYTES: u64 = 16 << 20;
/// Longer than a connection takes to arrive on loopback.
const QUIET: std::time::Duration = std::time::Duration::from_millis(100);
