//! A stream of gRPC messages in both directions, over one connection of HTTP/2.
//!
//! *Source*: "gRPC over HTTP2" in the documentation of gRPC's core; RFC 9113.

use std::borrow::Cow;
use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::client::{Builder, ResponseFuture};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::{Method, Request, Response};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::frames::Frames;
use crate::probe::chain;
use crate::source::{Closed, SourceError};
use crate::sources::fetch::{AGENT, Client};
use crate::sources::records::shortened;

mod frames;

/// The stream. Dropping it closes its connection.
pub(super) struct Stream {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) pinger: Pinger,
    driver: AbortOnDropHandle<Result<(), h2::Error>>,
}

/// What bounds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) message_max_bytes: usize,
    /// How long one step may take: a message from its first byte to its last, or room for one of ours.
    pub(super) patience: Duration,
}

impl Stream {
    /// Connects, and begins a call of `path`. Nothing is heard yet: servers send even the head of their answer only when
    /// they have something to say.
    pub(super) async fn open(
        client: &Client<'_>,
        path: &str,
        token: Option<HeaderValue>,
        limits: Limits,
    ) -> Result<Self, StreamError> {
        let io = client.open().await?;
        let mut builder = Builder::new();
        builder.enable_push(false).max_header_list_size(HEAD_MAX_BYTES);
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (sender, mut connection) = builder.handshake::<_, Bytes>(io).await?;
        let ping_pong = connection.ping_pong().ok_or_else(|| StreamError::other("HTTP/2 without pings"))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut sender = sender.ready().await?;
        let (response, stream) = sender.send_request(request(client, path, token)?, false)?;
        Ok(Self {
            sender: Sender { stream, limits },
            receiver: Receiver { state: State::Head(response), frames: Frames::new(limits.message_max_bytes), limits },
            pinger: Pinger { ping_pong, sent: None },
            driver,
        })
    }

    /// Whether it ended because we have asked too often whether anybody is there. That is told to the connection, and the
    /// stream may have heard no more than that it is closed, or a status.
    pub(super) async fn had_too_many_pings(self, error: &StreamError) -> bool {
        let is_calm_wanted = |error: &h2::Error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
        };
        if matches!(error, StreamError::Http(error) if is_calm_wanted(error)) {
            return true;
        }
        match timeout(FAREWELL, self.driver).await {
            Ok(Ok(Err(error))) => is_calm_wanted(&error),
            // It lives on, and only the stream has ended.
            _ => false,
        }
    }
}

fn request(client: &Client<'_>, path: &str, token: Option<HeaderValue>) -> Result<Request<()>, StreamError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = client.uri(path)?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token);
    }
    Ok(request)
}

/// Our direction.
pub(super) struct Sender {
    stream: SendStream<Bytes>,
    limits: Limits,
}

impl Sender {
    /// Sends a message. It waits for room, so that a peer who reads nothing does not make us keep it all.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), StreamError> {
        let late = |_| StreamError::other("the control plane reads nothing");
        timeout(self.limits.patience, self.put(frames::framed(message))).await.map_err(late)?
    }

    async fn put(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while bytes.has_remaining() {
            self.stream.reserve_capacity(bytes.len());
            while self.stream.capacity() == 0 {
                match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                    Some(room) => drop(room?),
                    None => return Err(StreamError::other("the control plane ended the stream")),
                }
            }
            let piece = bytes.split_to(self.stream.capacity().min(bytes.len()));
            self.stream.send_data(piece, false)?;
        }
        Ok(())
    }
}

/// Their direction.
pub(super) struct Receiver {
    state: State,
    frames: Frames,
    limits: Limits,
}

enum State {
    Head(ResponseFuture),
    Body {
        stream: RecvStream,
        /// When the message must be whole that has begun.
        due: Option<Instant>,
    },
}

impl Receiver {
    /// The next message; none when the stream has ended well.
    ///
    /// *Cancel safety*: nothing is lost.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            let (stream, due) = match &mut self.state {
                State::Body { stream, due } => (stream, due),
                State::Head(response) => {
                    let response = response.await?;
                    check_head(&response)?;
                    self.state = State::Body { stream: response.into_body(), due: None };
                    continue;
                }
            };
            if let Some(message) = self.frames.next()? {
                *due = None;
                return Ok(Some(message));
            }
            let data = match (self.frames.is_within(), &due) {
                (false, _) => stream.data().await,
                (true, None) => {
                    *due = Some(Instant::now() + self.limits.patience);
                    continue;
                }
                (true, Some(due)) => {
                    let slow = |_| StreamError::other("a message that does not end");
                    timeout_at(*due, stream.data()).await.map_err(slow)?
                }
            };
            match data {
                Some(data) => {
                    let data = data?;
                    stream.flow_control().release_capacity(data.len())?;
                    self.frames.push(&data);
                }
                None => {
                    let trailers = stream.trailers().await?;
                    let ended = trailers.as_ref().map_or_else(no_status, check_status);
                    return match (ended, self.frames.is_within()) {
                        (Ok(()), true) => Err(StreamError::other("half a message")),
                        (ended, _) => ended.map(|()| None),
                    };
                }
            }
        }
    }
}

/// Our questions whether anybody is there.
pub(super) struct Pinger {
    ping_pong: PingPong,
    sent: Option<Instant>,
}

impl Pinger {
    pub(super) fn ping(&mut self) -> Result<(), StreamError> {
        self.ping_pong.send_ping(Ping::opaque())?;
        self.sent = Some(Instant::now());
        Ok(())
    }

    /// When the last question was asked that is not answered.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.sent
    }

    /// Waits for the answer. *Cancel safety*: nothing is lost.
    pub(super) async fn pong(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.ping_pong.poll_pong(cx)).await?;
        self.sent = None;
        Ok(())
    }
}

/// Why a stream ended badly.
#[derive(Debug)]
pub(super) enum StreamError {
    Http(h2::Error),
    Other(SourceError),
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        Self::Http(error)
    }
}

impl From<SourceError> for StreamError {
    fn from(error: SourceError) -> Self {
        Self::Other(error)
    }
}

impl From<Closed> for StreamError {
    fn from(closed: Closed) -> Self {
        Self::Other(closed.into())
    }
}

impl From<StreamError> for SourceError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Http(error) => Self::new(format!("http: {}", chain(&error))),
            StreamError::Other(error) => error,
        }
    }
}

impl StreamError {
    fn other<'t>(text: impl Into<Cow<'t, str>>) -> Self {
        Self::Other(SourceError::new(text))
    }
}

fn check_head<T>(response: &Response<T>) -> Result<(), StreamError> {
    let status = response.status().as_u16();
    if status != 200 {
        return Err(StreamError::other(format!("status {status}: it does not serve this by gRPC")));
    }
    // A refusal may come in the head alone.
    if response.headers().contains_key(GRPC_STATUS) {
        check_status(response.headers())?;
    }
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content_type.starts_with("application/grpc") {
        true => Ok(()),
        false => Err(StreamError::other(format!("no gRPC, but `{}`", shortened(content_type)))),
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), StreamError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let message = text(GRPC_MESSAGE).map(frames::unescaped).unwrap_or_default();
    match text(GRPC_STATUS) {
        None => no_status(),
        Some("0") => Ok(()),
        Some(status) => {
            let words = if message.is_empty() { String::new() } else { format!(": {}", shortened(&message)) };
            Err(StreamError::other(format!(
                "the control plane ended the stream with status {}{words}",
                shortened(status)
            )))
        }
    }
}

fn no_status() -> Result<(), StreamError> {
    Err(StreamError::other("the control plane ended the stream without a status"))
}

const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
/// Longest head or trailers; those of gRPC have some 100 bytes.
const HEAD_MAX_BYTES: u32 = 16 * 1024;
/// How long to wait for the last words of a connection.
const FAREWELL: Duration = Duration::from_millis(100);
/// What may be on its way to us: at 100 ms, 10 MB/s.
const WINDOW_BYTES: u32 = 1 << 20;
