//! Asks for a page.

use std::ops::RangeInclusive;

use balance::Address;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{DISCARD_MAX_BYTES, FAREWELL, Finding, Stream, Trouble, chain, connect, within};
use crate::roster::Job;

/// What to ask, and what to hear.
pub(super) struct Question<'a> {
    pub(super) to: Address,
    pub(super) path: &'a str,
    pub(super) host: Option<&'a str>,
    pub(super) expect: &'a [RangeInclusive<u16>],
}

/// A connection of its own for each question: on a kept one the answer may come from a process that no longer accepts.
pub(super) async fn probe(question: &Question<'_>, job: &Job, deadline: Instant) -> Finding {
    let request = request(question)?;
    let stream = within(deadline, connect(&question.to, job), "connect").await?;
    let (response, driver) = within(deadline, ask(stream, request), "http").await?;
    let status = response.status().as_u16();
    // The verdict is known; nothing that happens while we leave changes it.
    let _left_in_time = timeout_at(deadline.min(Instant::now() + FAREWELL), leave(response.into_body(), driver)).await;
    match question.expect.iter().any(|range| range.contains(&status)) {
        true => Ok(format!("status {status}").into()),
        false => Err(Trouble::Theirs(format!("status {status}, which is not expected").into())),
    }
}

fn request(question: &Question<'_>) -> Result<Request<Empty<Bytes>>, Trouble> {
    let host = match (question.host, &question.to) {
        (Some(host), _) => host.to_owned(),
        (None, Address::Inet(addr)) => addr.to_string(),
        (None, Address::Unix(_)) => "localhost".to_owned(),
    };
    Request::builder()
        .method(Method::GET)
        .uri(question.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Trouble::Ours(format!("no request can be made of path and host: {error}").into()))
}

/// What drives the connection while the answer is read; dropping it closes the connection.
type Driver = AbortOnDropHandle<Result<(), hyper::Error>>;

async fn ask(stream: Box<dyn Stream>, request: Request<Empty<Bytes>>) -> Result<(Response<Incoming>, Driver), Trouble> {
    let theirs = |error: hyper::Error| Trouble::Theirs(format!("http: {}", chain(&error)).into());
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(theirs)?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(theirs)?;
    Ok((response, driver))
}

/// Reads what is left, up to a bound, and waits for the connection to close.
async fn leave(mut body: Incoming, driver: Driver) {
    let mut left = DISCARD_MAX_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
    drop(body);
    // However the connection ended, it has ended.
    let _ended = driver.await;
}

/// How the probe names itself.
const AGENT: &str = "dislocate-check";
/// Longest head of an answer: eight times what common servers send at most.
const HEAD_MAX_BYTES: usize = 64 * 1024;
