//! Asking a running program, and telling it something, over its admin listener.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::config::AdminAddress;
use crate::explain::Explained;

/// What a person wants to know.
pub struct Question<'a> {
    /// Of which listener.
    pub listener: &'a str,
    /// For which client.
    pub source: Option<IpAddr>,
}

/// Asks the program at `admin`. Returns its JSON as it is and as we understand it.
///
/// *Errors*: nobody is there, or what answers is not dislocate, or there is no such listener.
pub fn explanation(admin: &AdminAddress, question: &Question<'_>) -> anyhow::Result<(String, Explained)> {
    let body = request(admin, Method::GET, &path(question))?;
    let told = serde_json::from_str(&body)
        .with_context(|| format!("what {admin} answers is no explanation; is another version running there?"))?;
    Ok((body, told))
}

/// Tells the program at `admin` that the sources of a service are right.
///
/// *Errors*: nobody is there, or what answers is not dislocate, or there is no such service.
pub fn accept_empty(admin: &AdminAddress, service: &str) -> anyhow::Result<()> {
    request(admin, Method::POST, &format!("/v1/services/{}/accept-empty", escaped(service))).map(drop)
}

/// The body of a good answer.
fn request(admin: &AdminAddress, method: Method, path: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin")?;
    let answer = async { tokio::time::timeout(PATIENCE, send(admin, method, path)).await };
    let (status, body) =
        runtime.block_on(answer).map_err(|_| anyhow!("no answer from {admin} within {PATIENCE:?}"))??;
    let body = String::from_utf8(body.into()).with_context(|| format!("what {admin} answers is not text"))?;
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND if body.trim().is_empty() => {
            bail!("what runs at {admin} does not know the question; is another version running there?")
        }
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => bail!("{}", printable(&body)),
        other => bail!("{admin} answers {other}: {}", printable(&body)),
    }
}

async fn send(admin: &AdminAddress, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let absent = || format!("cannot reach dislocate at {admin}; is it running, and is this its admin listener?");
    match admin {
        AdminAddress::Tcp(addr) => {
            let stream = TcpStream::connect(addr).await.with_context(absent)?;
            exchange(stream, admin, &addr.to_string(), method, path).await
        }
        AdminAddress::Unix(at) => {
            let stream = UnixStream::connect(at).await.with_context(absent)?;
            exchange(stream, admin, "localhost", method, path).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    admin: &AdminAddress,
    host: &str,
    method: Method,
    path: &str,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let spoilt = || format!("what listens at {admin} does not answer as dislocate's admin listener does");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(spoilt)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder().method(method).uri(path);
    let request = request.header(HOST, host).header(CONNECTION, "close").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(spoilt)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| anyhow!(error)).with_context(|| format!("cannot read all that {admin} answers"))?;
    Ok((status, body.to_bytes()))
}

fn path(question: &Question<'_>) -> String {
    let source = question.source.map_or_else(String::new, |source| format!("?source={source}"));
    format!("/v1/explain/{}{source}", escaped(question.listener))
}

/// As a segment of a path (RFC 3986).
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The first line, without what a terminal would obey.
fn printable(body: &str) -> String {
    let line = body.lines().next().unwrap_or_default();
    line.chars().filter(|letter| !letter.is_control()).take(LINE_LETTERS).collect()
}

impl FromStr for AdminAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text.strip_prefix("unix:"), text.parse()) {
            (Some(path), _) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            (None, Ok(addr)) => Ok(Self::Tcp(addr)),
            _ => Err("an admin address is IP:PORT, [IPV6]:PORT or unix:/PATH"),
        }
    }
}

/// For an answer that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of an answer: more than thirty thousand backends.
const ANSWER_BYTES: usize = 16 << 20;
/// Most of an error that is shown: the names of some hundred listeners.
const LINE_LETTERS: usize = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_listener_can_be_asked_for() {
        let path = |listener, source: Option<&str>| {
            path(&Question { listener, source: source.map(|source| source.parse().unwrap()) })
        };
        assert_eq!(path("main", None), "/v1/explain/main");
        assert_eq!(path("a/b c?", Some("::1")), "/v1/explain/a%2Fb%20c%3F?source=::1");
    }

    #[test]
    fn admin_addresses_are_written_as_in_the_configuration() {
        for text in ["127.0.0.1:9901", "[::1]:9901", "unix:/run/admin.sock"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        for text in ["localhost:9901", "127.0.0.1", "unix:admin.sock", ""] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }
}
