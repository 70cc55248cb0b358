//! One question over HTTP, for the sources that speak it.
//!
//! Each question has a connection of its own: a registry that was replaced, or a load balancer that changed its mind, is
//! found at the next question, and nothing is to be kept alive. Redirects are not followed and nothing is decompressed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, RETRY_AFTER, USER_AGENT};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::records::shortened;
use super::tls::{Tls, TlsSettings};
use crate::probe::chain;
use crate::source::SourceError;

/// A server, from a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Whether it speaks TLS.
    pub(super) secure: bool,
    /// A name or an IP address, without brackets.
    host: String,
    port: u16,
    /// What the header `Host` says.
    authority: HeaderValue,
}

impl Server {
    /// Reads `http://HOST[:PORT][/PATH]`, or the same with `https`; returns the path and what follows it as well, which begin with `/`.
    ///
    /// *Errors*: it is something else. User names and passwords are not taken: URLs end up in logs.
    pub(super) fn parse(url: &str) -> Result<(Self, String), SourceError> {
        let wrong = |why: &str| SourceError::new(format!("`{}` {why}", shortened(url)));
        let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if authority.as_str().contains('@') || host.is_empty() {
            return Err(wrong(if host.is_empty() { "names no host" } else { "has a user name in it" }));
        }
        let port = match authority.port_u16() {
            Some(0) => return Err(wrong("has port 0")),
            Some(port) => port,
            None if !has_port(authority.as_str()) => [80, 443][usize::from(secure)],
            None => return Err(wrong("has no port that can be")),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("is not a URL"))?;
        Ok((Self { secure, host, port, authority: value }, path.to_owned()))
    }

    /// What a run needs to ask this server.
    pub(super) async fn client(&self, tls: &TlsSettings) -> Result<Client<'_>, SourceError> {
        let tls = if self.secure { Some(Tls::load(tls, &self.host).await?) } else { None };
        Ok(Client { server: self, tls })
    }

    /// The same with what was read elsewhere; nothing for a server without TLS.
    pub(super) fn client_with(&self, tls: Option<Tls>) -> Client<'_> {
        Client { server: self, tls }
    }

    /// The host: a name or an IP address, without brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Tries each address of the host in turn.
    async fn connect(&self) -> Result<TcpStream, SourceError> {
        let failed = |error: io::Error| SourceError::new(format!("{}: {error}", shortened(&self.host)));
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let addresses: Vec<SocketAddr> = lookup_host((&*self.host, self.port)).await.map_err(failed)?.collect();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(SourceError::new(format!("connect to {}, port {}: {last}", shortened(&self.host), self.port)))
    }
}

/// Refuses settings for TLS that no server would use: whoever wrote them believes in TLS.
pub(super) fn check_tls<'a>(
    tls: &TlsSettings,
    mut servers: impl Iterator<Item = &'a Server>,
) -> Result<(), SourceError> {
    match *tls == TlsSettings::default() || servers.any(|server| server.secure) {
        true => Ok(()),
        false => Err(SourceError::new("there are settings for TLS, and no URL begins with https://")),
    }
}

/// Asks one server, in one run.
pub(super) struct Client<'a> {
    server: &'a Server,
    tls: Option<Tls>,
}

impl Client<'_> {
    /// Asks, and reads the head of the answer.
    ///
    /// *Cancel safety*: dropping it closes the connection.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Reply, SourceError> {
        let stream = self.open().await?;
        let theirs = |error: hyper::Error| SourceError::new(format!("http: {}", chain(&error)));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX_BYTES);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(theirs)?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = hyper::Request::new(Full::new(question.body));
        *request.method_mut() = question.method;
        *request.uri_mut() =
            question.path.parse().map_err(|_| SourceError::new("no request can be made of the path"))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.server.authority.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.extend(question.headers);
        let response = sender.send_request(request).await.map_err(theirs)?;
        Ok(Reply { response, _driver: driver })
    }

    /// What agrees on HTTP/2 where that is agreed on, with TLS; without, it is taken for granted.
    pub(super) fn speaking_h2(self) -> Self {
        Self { tls: self.tls.map(|tls| tls.speaking(b"h2")), ..self }
    }

    /// The address of a page.
    pub(super) fn uri(&self, path: &str) -> Result<Uri, SourceError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(self.server.authority.as_bytes()).path_and_query(path);
        uri.build().map_err(|_| SourceError::new("no request can be made of the path"))
    }

    /// Connects.
    pub(super) async fn open(&self) -> Result<Box<dyn Stream>, SourceError> {
        let stream = self.server.connect().await?;
        let failed = |error| SourceError::new(format!("TLS with {}: {error}", shortened(&self.server.host)));
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => Ok(Box::new(tls.wrap(stream).await.map_err(failed)?)),
        }
    }
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

/// What to ask.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// The path and what follows it.
    pub(super) path: &'a str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl<'a> Question<'a> {
    /// Asks for a page.
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, headers: Vec::new(), body: Bytes::new() }
    }
}

/// An answer whose body is still to be read. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Reply {
    response: Response<Incoming>,
    _driver: AbortOnDropHandle<Result<(), hyper::Error>>,
}

impl Reply {
    /// The status code.
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The value of a header, unless it is not text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Reads the whole body.
    ///
    /// *Errors*: it is cut short, longer than `max` bytes, or compressed.
    pub(super) async fn whole(mut self, max: usize) -> Result<Vec<u8>, SourceError> {
        let too_long = || SourceError::new(format!("an answer of more than {max} bytes"));
        if self.header(&CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > max as u64) {
            return Err(too_long());
        }
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            if whole.len() + piece.len() > max {
                return Err(too_long());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// Reads some more of the body; none at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.header(&CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(SourceError::new("the answer is compressed, which nobody asked for"));
        }
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(SourceError::new(format!("half an answer: {}", chain(&error)))),
                // Trailers are no data.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
            }
        }
    }

    /// An error for a status that is not what was hoped for, with the first words of the answer.
    pub(super) async fn refusal(mut self) -> SourceError {
        let status = self.status();
        let hint = match status {
            300..=399 => ": redirects are not followed",
            _ => "",
        };
        // Only what came with the head, or soon after; the words are a help, not the answer.
        let words = timeout(WORDS_TIMEOUT, self.piece()).await;
        let words = words.ok().and_then(Result::ok).flatten().unwrap_or_default();
        let words = String::from_utf8_lossy(&words[..words.len().min(WORDS_MAX_BYTES)]).trim().to_owned();
        let words = if words.is_empty() { words } else { format!(": {words}") };
        SourceError::new(format!("status {status}{hint}{words}")).with_retry_after(self.retry_after())
    }

    /// How long a server that is too busy asks to be left alone. *Source*: RFC 9110 section 10.2.3, of which dates are
    /// not read: they ask for the same clock on both sides, and registries send seconds.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self.status() {
            429 | 503 => self.header(&RETRY_AFTER)?.parse().ok().map(Duration::from_secs),
            _ => None,
        }
    }
}

/// Gives a step so much time.
pub(super) async fn within<T>(
    time: Duration,
    step: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    timeout(time, step).await.unwrap_or_else(|_| Err(SourceError::new(format!("no answer in {} ms", time.as_millis()))))
}

/// How sources name themselves.
pub(super) const AGENT: &str = "dislocate-source";
/// Time for one address of a host, so that one which swallows everything does not hide the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;
/// Longest head of an answer.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// How long to wait for the words of a refusal.
const WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of them is repeated.
const WORDS_MAX_BYTES: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_a_port_and_a_path() {
        let cases = [
            ("http://10.0.0.1:8500/v1?a=b", "10.0.0.1", 8500, "10.0.0.1:8500", "/v1?a=b"),
            ("http://registry.example", "registry.example", 80, "registry.example", "/"),
            ("http://[::1]:2379/x#y", "::1", 2379, "[::1]:2379", "/x"),
            ("http://[::1]/", "::1", 80, "[::1]", "/"),
            ("HTTP://h:1", "h", 1, "h:1", "/"),
            ("https://h", "h", 443, "h", "/"),
            ("https://h:80", "h", 80, "h:80", "/"),
        ];
        for (url, host, port, authority, path) in cases {
            let (server, rest) = Server::parse(url).expect(url);
            assert_eq!(server.secure, url.starts_with("https"));
            assert_eq!(
                (&*server.host, server.port, server.authority.to_str().unwrap(), &*rest),
                (host, port, authority, path)
            );
        }
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        let cases = [
            ("", "is not a URL"),
            ("10.0.0.1:8500", "does not begin with http://"),
            ("/v1", "does not begin with http://"),
            ("ftp://h/", "does not begin with http://"),
            ("http:///v1", "is not a URL"),
            ("http://u:p@h/", "has a user name"),
            ("http://h:0/", "port 0"),
            ("http://h:99999/", "no port that can be"),
            ("http://h:/", "no port that can be"),
            ("http://h\n/", "is not a URL"),
            ("http://h/ x", "is not a URL"),
        ];
        for (url, expected) in cases {
            let error = Server::parse(url).expect_err(url);
            assert!(error.text().contains(expected), "{url:?}: {error}");
        }
    }
}
