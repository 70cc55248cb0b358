//! One stream: what is said and heard on it, and when it is time to ask or to give up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use balance::Rng;
use tokio::time::{Instant, sleep_until, timeout};

use super::XdsSource;
use super::session::{Known, Session};
use super::stream::{Limits, Stream, StreamError};
use crate::source::{Closed, Event, Sink, SourceError};
use crate::sources::fetch::Client;
use crate::sources::secret;
use crate::sources::tell::Teller;

/// Why a stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// It is time to ask for everything.
    Due,
    /// The control plane ended it, as they do now and then.
    Ended,
}

/// One stream of a source.
pub(super) struct Run<'a> {
    pub(super) source: &'a XdsSource,
    pub(super) sink: &'a Sink,
    pub(super) teller: &'a mut Teller,
    pub(super) rng: &'a mut Rng,
    /// How many endpoints were left out of the last list.
    pub(super) left_out: &'a mut usize,
    /// Whether the control plane has said anything.
    pub(super) has_heard: bool,
}

/// What happened next.
enum Happened {
    Message(Option<bytes::Bytes>),
    Pong,
    Time,
}

impl Run<'_> {
    /// From the connection to the end of the stream.
    pub(super) async fn stream(&mut self, client: &Client<'_>, known: Known) -> Result<StreamEnd, SourceError> {
        let settings = &self.source.settings;
        let opening = async {
            let token = match &settings.token_file {
                Some(path) => Some(secret::bearer(&secret::text(path).await?)?),
                None => None,
            };
            let limits = Limits { message_max_bytes: settings.message_max_bytes, patience: settings.timeout };
            Stream::open(client, PATH, token, limits).await
        };
        let late = |_| SourceError::new(format!("no connection in {} ms", settings.timeout.as_millis()));
        let mut stream = timeout(settings.timeout, opening).await.map_err(late)??;
        match self.talk(&mut stream, known, Instant::now()).await {
            Ok(end) => Ok(end),
            // That is no trouble of the endpoints.
            Err(error) if stream.had_too_many_pings(&error).await && self.source.calm_down() => Ok(StreamEnd::Ended),
            Err(error) => Err(error.into()),
        }
    }

    async fn talk(&mut self, stream: &mut Stream, known: Known, begun: Instant) -> Result<StreamEnd, StreamError> {
        let settings = &self.source.settings;
        let now_ms = || begun.elapsed().as_millis() as u64;
        let (mut session, requests) = Session::begin(self.source.question(), known, now_ms());
        for request in requests {
            stream.sender.send(&request.encode()).await?;
        }
        let resync = begun + self.jittered(settings.resync.as_millis() as u64);
        let mut ping_due = begun + settings.settle.min(settings.ping);
        loop {
            let due = match session.deadline_ms() {
                Some(deadline_ms) => begun + Duration::from_millis(deadline_ms),
                None => resync,
            };
            let ping_deadline = stream.pinger.sent().map_or(ping_due, |sent| sent + settings.timeout);
            let happened = tokio::select! {
                message = stream.receiver.message() => Happened::Message(message?),
                pong = stream.pinger.pong(), if stream.pinger.sent().is_some() => pong.map(|()| Happened::Pong)?,
                () = sleep_until(due.min(ping_deadline)) => Happened::Time,
            };
            match happened {
                Happened::Message(Some(message)) => {
                    if !self.has_heard {
                        // Words are a sign of life.
                        ping_due = Instant::now() + self.jittered(self.source.ping_ms.load(Ordering::Relaxed));
                    }
                    self.has_heard = true;
                    self.hear(stream, &mut session, &message, now_ms()).await?;
                }
                Happened::Message(None) if self.has_heard && session.is_settled() => return Ok(StreamEnd::Ended),
                Happened::Message(None) => {
                    let why = "the control plane ended the stream before it had said anything of use";
                    return Err(SourceError::new(why).into());
                }
                Happened::Pong => {
                    ping_due = Instant::now() + self.jittered(self.source.ping_ms.load(Ordering::Relaxed));
                    if session.is_settled() {
                        self.has_heard = true;
                        self.tell(&session).await?;
                    }
                }
                Happened::Time if session.deadline_ms().is_some_and(|deadline_ms| now_ms() >= deadline_ms) => {
                    return Err(self.too_late(&session).into());
                }
                Happened::Time if Instant::now() >= resync && session.is_settled() => return Ok(StreamEnd::Due),
                Happened::Time if Instant::now() < ping_deadline => {}
                Happened::Time if stream.pinger.sent().is_some() => {
                    return Err(SourceError::new("the control plane does not answer pings").into());
                }
                Happened::Time => stream.pinger.ping()?,
            }
        }
    }

    /// Takes an answer: replies to it, and tells what is new.
    async fn hear(
        &mut self,
        stream: &mut Stream,
        session: &mut Session,
        message: &[u8],
        now_ms: u64,
    ) -> Result<(), StreamError> {
        let step = session.hear(message, now_ms)?;
        if step.is_news {
            self.source.remember(session.known().clone());
        }
        if let Some(why) = &step.refusal {
            tracing::debug!(cluster = self.source.settings.cluster, why, "an answer of the control plane is refused");
        }
        for request in step.requests {
            stream.sender.send(&request.encode()).await?;
        }
        if !step.ended.is_empty() {
            self.sink.send(Event::Remove(step.ended)).await?;
        }
        // What is new is told even while something else is refused; but that would be no sign that all is well.
        match step.is_news || session.is_settled() {
            true => Ok(self.tell(session).await?),
            false => Ok(()),
        }
    }

    async fn tell(&mut self, session: &Session) -> Result<(), Closed> {
        let Some(assignment) = session.known().list() else { return Ok(()) };
        let left_out = assignment.left_out;
        if std::mem::replace(self.left_out, left_out) != left_out && left_out > 0 {
            let cluster = &self.source.settings.cluster;
            tracing::warn!(cluster, left_out, "endpoints have no address that can be used");
        }
        self.teller.tell(self.sink, assignment.found.to_vec()).await
    }

    /// An answer did not come.
    fn too_late(&self, session: &Session) -> SourceError {
        let what = session.waiting_for().unwrap_or_default();
        if session.has_refused() {
            return SourceError::new(what);
        }
        // Silence would be taken for agreement if we said again what we know.
        self.source.remember(Known::default());
        SourceError::new(format!("{what} in {} ms", self.source.settings.timeout.as_millis()))
    }

    fn jittered(&mut self, time_ms: u64) -> Duration {
        Duration::from_millis(self.rng.jitter(time_ms, JITTER))
    }
}

/// The call.
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const JITTER: f64 = 0.1;
