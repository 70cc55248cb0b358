//! Endpoints from Consul: one service in one data centre, by questions that wait for a change.
//!
//! ```text
//!   ask without an index ──▶ answer, index n ──▶ ask: what is new since n? ──▶ …
//!            ▲                                        │ the index went back
//!            └────────────────────────────────────────┘
//! ```
//!
//! All instances are asked for and their checks become the registry's word, so that one which fails a check is known
//! and not gone. Several data centres are several sources, each with its own loop: a silent one holds up nobody else.
//!
//! An error, a status other than 200, and a cluster without a leader change nothing. A list that is suddenly empty is
//! given on as it is: Consul says that around elections, and after a token was taken away, with a status of 200. The
//! guard is there for it.

use std::convert::Infallible;
use std::fmt::Write;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use balance::{Rng, Zone};
use hyper::header::HeaderName;
use tokio::time::Instant;

use self::answer::Instances;
use self::cursor::{Cursor, Pace, Worth};
use super::escaped::Escaped;
use super::fetch::{Client, Question, Reply, Server, check_tls, within};
use super::secret;
use super::tell::{Teller, ended};
use super::tls::TlsSettings;
use crate::source::{Found, Sink, Source, SourceError};

mod answer;
mod cursor;

/// What a Consul source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulSettings {
    /// The name of the service.
    pub service: String,
    /// The agent: `http://HOST[:PORT]`, or `https`.
    pub url: String,
    /// How the agent of an `https` URL is known.
    pub tls: TlsSettings,
    /// The data centre to ask for; none is the agent's own.
    pub datacenter: Option<String>,
    /// Where the endpoints stand; none is the zone of this node.
    pub zone: Option<Zone>,
    /// An instance needs all of these tags.
    pub tags: Vec<String>,
    /// A file that holds the token for `X-Consul-Token`. It is read for each question.
    pub token_file: Option<PathBuf>,
    /// Which servers may answer.
    pub consistency: Consistency,
    /// How long a question waits for a change. Longer asks less; it is also how long a lost connection may go unnoticed.
    pub wait: Duration,
    /// How long an answer may take beyond that, to its last byte.
    pub timeout: Duration,
    /// Longest answer.
    pub body_max_bytes: usize,
}

impl ConsulSettings {
    /// The defaults, for this service.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            url: URL.into(),
            tls: TlsSettings::default(),
            datacenter: None,
            zone: None,
            tags: Vec::new(),
            token_file: None,
            consistency: Consistency::default(),
            wait: WAIT,
            timeout: TIMEOUT,
            body_max_bytes: BODY_MAX_BYTES,
        }
    }

    /// The same for another data centre, whose name is also that of its zone, if zones can have such a name.
    pub fn in_datacenter(&self, name: &str) -> Self {
        Self { datacenter: Some(name.to_owned()), zone: Zone::new(name), ..self.clone() }
    }
}

/// Which of Consul's servers may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The leader, without asking the others whether it still is: Consul's own default.
    #[default]
    Default,
    /// Any server, even one that has not heard of the leader for a while (at most a minute): answers in a partition.
    Stale,
    /// The leader, after it asked the others.
    Consistent,
}

/// Follows a service in a data centre.
#[derive(Debug)]
pub struct ConsulSource {
    settings: ConsulSettings,
    server: Server,
    /// The question without an index.
    path: String,
    /// The index of the latest answer, over all runs.
    latest: AtomicU64,
}

impl ConsulSource {
    /// A source with these settings.
    ///
    /// *Errors*: the URL is not one, a name is empty, or there are settings for TLS that the URL does not use.
    pub fn new(settings: ConsulSettings) -> Result<Self, SourceError> {
        let (server, base) = Server::parse(&settings.url)?;
        check_tls(&settings.tls, std::iter::once(&server))?;
        if base.contains('?') {
            return Err(SourceError::new("the URL of Consul has a question mark in it"));
        }
        let empty = settings.service.is_empty() || settings.datacenter.as_deref() == Some("");
        if empty || settings.tags.iter().any(String::is_empty) {
            return Err(SourceError::new("the name of a service, a data centre or a tag is empty"));
        }
        let path = path(&settings, base.trim_end_matches('/'));
        Ok(Self { settings, server, path, latest: AtomicU64::new(0) })
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        let begun = Instant::now();
        let mut rng = Rng::new(RandomState::new().hash_one(()));
        let mut cursor = Cursor::after(self.latest.load(Ordering::Relaxed));
        let (mut pace, mut teller) = (Pace::new(), Teller::default());
        let mut left_out = None;
        let client = self.server.client(&self.settings.tls).await?;
        loop {
            tokio::time::sleep(pace.pause(begun.elapsed())).await;
            let (instances, worth) = self.ask(&client, &mut cursor, &mut rng).await?;
            self.latest.store(cursor.latest(), Ordering::Relaxed);
            if worth == Worth::WentBack {
                tracing::info!(service = self.settings.service, "the index of Consul went back; asking anew");
                continue;
            }
            if instances.left_out != left_out {
                left_out = instances.left_out;
                if let Some((count, first)) = &left_out {
                    tracing::warn!(service = self.settings.service, count, first, "instances of Consul are left out");
                }
            }
            teller.tell(sink, instances.list).await?;
        }
    }

    async fn ask(
        &self,
        client: &Client<'_>,
        cursor: &mut Cursor,
        rng: &mut Rng,
    ) -> Result<(Instances, Worth), SourceError> {
        let mut path = self.path.clone();
        let mut time = self.settings.timeout;
        if let Some(index) = cursor.index() {
            // Drawn, so that those that began at once do not stay together.
            let wait = Duration::from_millis(rng.jitter(self.settings.wait.as_millis() as u64, JITTER).max(1));
            // Writing to a text cannot fail.
            let _written = write!(path, "&index={index}&wait={}ms", wait.as_millis());
            // Consul adds up to a sixteenth itself.
            time += wait + wait / 16;
        }
        within(time, async {
            let mut question = Question::get(&path);
            if let Some(file) = &self.settings.token_file {
                question.headers.push((TOKEN, secret::header(file).await?));
            }
            let reply = client.ask(question).await?;
            if reply.status() != 200 {
                return Err(reply.refusal().await);
            }
            check_leader(&reply)?;
            let worth = cursor.answered(reply.header(&INDEX))?;
            let body = reply.whole(self.settings.body_max_bytes).await?;
            Ok((answer::read(&body, &self.settings.tags, self.settings.zone.as_ref())?, worth))
        })
        .await
    }
}

impl Source for ConsulSource {
    fn kind(&self) -> &'static str {
        "consul"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// An answer of a cluster that has no leader, or of a server that has not heard of it for long, tells of the past.
fn check_leader(reply: &Reply) -> Result<(), SourceError> {
    if reply.header(&KNOWN_LEADER) == Some("false") {
        return Err(SourceError::new("Consul has no leader"));
    }
    let silent: Option<u64> = reply.header(&LAST_CONTACT).and_then(|text| text.parse().ok());
    match silent {
        Some(ms) if ms > CONTACT_MAX_MS => {
            Err(SourceError::new(format!("the server has not heard of its leader for {} s", ms / 1_000)))
        }
        _ => Ok(()),
    }
}

/// The question without an index.
fn path(settings: &ConsulSettings, base: &str) -> String {
    let mut path = format!("{base}/v1/health/service/{}?", Escaped(&settings.service));
    let datacenter = settings.datacenter.iter().map(|name| format!("dc={}", Escaped(name)));
    let tags = settings.tags.iter().map(|tag| format!("tag={}", Escaped(tag)));
    let consistency = match settings.consistency {
        Consistency::Default => None,
        Consistency::Stale => Some("stale".to_owned()),
        Consistency::Consistent => Some("consistent".to_owned()),
    };
    let parts: Vec<_> = datacenter.chain(tags).chain(consistency).collect();
    path.push_str(&parts.join("&"));
    path
}

/// Reads any bytes as an answer. For fuzzing.
pub(super) fn any_answer(text: &[u8]) -> Result<Vec<Found>, SourceError> {
    answer::read(text, &[], None).map(|instances| instances.list)
}

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
/// The agent that runs on each node where Consul does.
const URL: &str = "http://127.0.0.1:8500";
/// A connection that was lost without a word is noticed within a minute.
const WAIT: Duration = Duration::from_secs(60);
/// Other data centres answer within a second, and servers in trouble after ten.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Fifty thousand instances with their checks.
const BODY_MAX_BYTES: usize = 64 << 20;
/// With questions that any server may answer: a server that is behind for longer is cut off.
const CONTACT_MAX_MS: u64 = 60_000;
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_change_the_question() {
        let settings = ConsulSettings {
            tags: vec!["a&b".into(), "ü".into()],
            consistency: Consistency::Stale,
            ..ConsulSettings::new("w/e b?#..").in_datacenter("ams=1")
        };
        let path = path(&settings, "/consul");
        assert_eq!(path, "/consul/v1/health/service/w%2Fe%20b%3F%23..?dc=ams%3D1&tag=a%26b&tag=%C3%BC&stale");
        assert_eq!(self::path(&ConsulSettings::new("web"), ""), "/v1/health/service/web?");
        assert_eq!(settings.zone, None, "no zone has such a name");
        assert_eq!(settings.in_datacenter("ams").zone, Zone::new("ams"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let new = |change: &dyn Fn(&mut ConsulSettings)| {
            let mut settings = ConsulSettings::new("web");
            change(&mut settings);
            ConsulSource::new(settings).is_ok()
        };
        assert!(new(&|_| ()));
        assert!(new(&|settings| settings.url = "http://consul.example/base/".into()));
        assert!(!new(&|settings| settings.url = "http://consul.example/?dc=x".into()));
        assert!(!new(&|settings| settings.url = "consul.example".into()));
        assert!(!new(&|settings| settings.service.clear()));
        assert!(!new(&|settings| settings.datacenter = Some(String::new())));
        assert!(!new(&|settings| settings.tags.push(String::new())));
    }
}
