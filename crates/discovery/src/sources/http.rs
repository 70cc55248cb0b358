//! Endpoints from a JSON page that is asked for again and again.
//!
//! The format is that of files. A page that has an `ETag` is asked for with `If-None-Match`, so that a list that did not
//! change costs a head.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::Duration;

use balance::Rng;
use hyper::header::{ETAG, HeaderValue, IF_NONE_MATCH};

use super::fetch::{Client, Question, Server, check_tls, within};
use super::records;
use super::tell::{Teller, ended};
use super::tls::TlsSettings;
use crate::source::{Event, Found, Sink, Source, SourceError};

/// What an HTTP source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where the page is: `http://HOST[:PORT]/PATH`, or `https`.
    pub url: String,
    /// How the server of an `https` URL is known.
    pub tls: TlsSettings,
    /// The time between two questions; a tenth more or less is drawn each time.
    pub interval: Duration,
    /// How long a question may take, to the last byte of the answer.
    pub timeout: Duration,
    /// Longest answer.
    pub body_max_bytes: usize,
}

impl HttpSettings {
    /// The defaults, for this page.
    pub fn new(url: impl Into<String>) -> Self {
        let tls = TlsSettings::default();
        Self { url: url.into(), tls, interval: INTERVAL, timeout: TIMEOUT, body_max_bytes: BODY_MAX_BYTES }
    }
}

/// Asks for a page again and again.
#[derive(Debug)]
pub struct HttpSource {
    settings: HttpSettings,
    server: Server,
    path: String,
}

impl HttpSource {
    /// A source with these settings.
    ///
    /// *Errors*: the URL is not one, or there are settings for TLS that it does not use.
    pub fn new(settings: HttpSettings) -> Result<Self, SourceError> {
        let (server, path) = Server::parse(&settings.url)?;
        check_tls(&settings.tls, std::iter::once(&server))?;
        Ok(Self { settings, server, path })
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        let mut rng = Rng::new(RandomState::new().hash_one(()));
        let mut teller = Teller::default();
        let mut tag = None;
        let client = self.server.client(&self.settings.tls).await?;
        loop {
            match within(self.settings.timeout, self.ask(&client, tag.clone())).await? {
                Page::Unchanged => sink.send(Event::Alive).await?,
                Page::List(list, new) => {
                    teller.tell(sink, list).await?;
                    tag = new;
                }
            }
            let pause = rng.jitter(self.settings.interval.as_millis() as u64, JITTER);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn ask(&self, client: &Client<'_>, tag: Option<HeaderValue>) -> Result<Page, SourceError> {
        let mut question = Question::get(&self.path);
        let conditional = tag.is_some();
        question.headers.extend(tag.map(|tag| (IF_NONE_MATCH, tag)));
        let reply = client.ask(question).await?;
        match reply.status() {
            200 => {
                let tag = reply.header(&ETAG).filter(|tag| tag.len() <= TAG_MAX_BYTES);
                let tag = tag.and_then(|tag| HeaderValue::from_str(tag).ok());
                let list = records::in_order(records::json_list(&reply.whole(self.settings.body_max_bytes).await?)?)?;
                Ok(Page::List(list, tag))
            }
            304 if conditional => Ok(Page::Unchanged),
            304 => Err(SourceError::new("status 304, though nothing was known before")),
            _ => Err(reply.refusal().await),
        }
    }
}

impl Source for HttpSource {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// What was found.
enum Page {
    /// What we have is still right.
    Unchanged,
    /// A list, and its tag.
    List(Vec<Found>, Option<HeaderValue>),
}

/// Quick enough for a deployment to be followed, and a tenth of a question a second for the server.
const INTERVAL: Duration = Duration::from_secs(10);
/// A page that takes longer will be late again next time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A hundred thousand endpoints with all keys.
const BODY_MAX_BYTES: usize = 16 << 20;
/// Longer tags are not repeated.
const TAG_MAX_BYTES: usize = 1024;
const JITTER: f64 = 0.1;
