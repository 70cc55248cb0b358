//! Endpoints from a control plane that speaks xDS: one cluster and its endpoints, by incremental requests on an
//! aggregated stream.
//!
//! ```text
//!   connect ──▶ ask for what is new since ──▶ answers, signs of life … ──▶ the stream ends ──▶ pause ─┐
//!      ▲   └──▶ ask for everything                            └──▶ ten minutes are over               │
//!      └─────────────────────────────────────────────────────────┴─────────────────────────────────────┘
//! ```
//!
//! A control plane may have nothing to say for days, and whoever is connected to one that has died hears as little.
//! Pings of HTTP/2 tell the two apart. They do not tell that the process behind the connection still follows its own
//! sources; so every ten minutes everything is asked for anew, which must be answered.
//!
//! An answer that cannot be used is refused, which tells the control plane why. It is told here too if nothing better
//! follows: the run ends then, and until the next one the source is failing. What was known stands.
//!
//! *Source*: "xDS REST and gRPC protocol" in the documentation of Envoy, its incremental aggregated variant.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use balance::{Rng, Zone};
use tokio::time::Instant;

use self::messages::Node;
use self::run::{Run, StreamEnd};
use self::session::{Known, Question, Session};
use super::fetch::{Server, check_tls, within};
use super::records::shortened;
use super::tell::{Teller, ended};
use super::tls::TlsSettings;
use crate::backoff::Backoff;
use crate::source::{Found, Sink, Source, SourceError};

mod messages;
mod resources;
mod run;
mod session;
mod stream;
#[cfg(test)]
#[path = "../../tests/sources/xds_types.rs"]
#[allow(dead_code, reason = "shared with the tests of the source as a whole")]
pub(super) mod types;
mod wire;

/// What an xDS source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdsSettings {
    /// The name of the cluster.
    pub cluster: String,
    /// The control planes: `http://HOST[:PORT]`, or `https`. After an error the next one is asked.
    pub urls: Vec<String>,
    /// How servers of `https` URLs are known.
    pub tls: TlsSettings,
    /// A file with a token that is shown to them.
    pub token_file: Option<PathBuf>,
    /// Who we are. Control planes decide by it what they answer.
    pub node_id: String,
    /// What we belong to, if they want to know.
    pub node_cluster: Option<String>,
    /// The data centre in which the zones of the endpoints are; or, as `dc/zone`, the zone of all. None leaves their
    /// localities as they are: `region/zone`.
    pub zone: Option<Zone>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How often it is asked whether the control plane is there. It is asked more rarely where that is too often.
    pub ping: Duration,
    /// How long after a connection was made anew it is asked first, when nothing else is heard.
    pub settle: Duration,
    /// How long a stream lasts before everything is asked for anew.
    pub resync: Duration,
    /// Longest message.
    pub message_max_bytes: usize,
}

impl XdsSettings {
    /// The defaults, for this cluster.
    pub fn new(cluster: impl Into<String>, urls: Vec<String>) -> Self {
        Self {
            cluster: cluster.into(),
            urls,
            tls: TlsSettings::default(),
            token_file: None,
            node_id: NODE_ID.into(),
            node_cluster: None,
            zone: None,
            timeout: TIMEOUT,
            ping: PING,
            settle: SETTLE,
            resync: RESYNC,
            message_max_bytes: MESSAGE_MAX_BYTES,
        }
    }
}

/// Follows a cluster.
#[derive(Debug)]
pub struct XdsSource {
    settings: XdsSettings,
    servers: Vec<Server>,
    /// The one to ask next.
    next: AtomicUsize,
    /// What was said, so that after an error only what has changed since is to be said.
    known: Mutex<Known>,
    /// Time between pings, which grows where they are not liked.
    ping_ms: AtomicU64,
}

impl XdsSource {
    /// A source with these settings.
    ///
    /// *Errors*: a URL is not one, there is none, there are settings for TLS that no URL uses, or the cluster can have
    /// no such name.
    pub fn new(settings: XdsSettings) -> Result<Self, SourceError> {
        if settings.cluster.is_empty() || settings.cluster.len() > resources::NAME_MAX_BYTES {
            return Err(SourceError::new("no cluster can have such a name"));
        }
        let servers = settings.urls.iter().map(|url| match Server::parse(url)? {
            (server, path) if path == "/" => Ok(server),
            _ => Err(SourceError::new(format!("`{}` has a path, which gRPC has no use for", shortened(url)))),
        });
        let servers = servers.collect::<Result<Vec<_>, SourceError>>()?;
        if servers.is_empty() {
            return Err(SourceError::new("no server is given"));
        }
        check_tls(&settings.tls, servers.iter())?;
        let ping_ms = AtomicU64::new(settings.ping.as_millis() as u64);
        Ok(Self { settings, servers, next: AtomicUsize::new(0), known: Mutex::default(), ping_ms })
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.servers.len();
        let client = within(self.settings.timeout, self.servers[next].client(&self.settings.tls)).await?.speaking_h2();
        let (mut teller, mut backoff) = (Teller::default(), Backoff::default());
        let (mut rng, mut left_out) = (Rng::new(RandomState::new().hash_one(())), 0);
        let mut known = self.recall();
        loop {
            let begun = Instant::now();
            let mut run = Run {
                source: self,
                sink,
                teller: &mut teller,
                rng: &mut rng,
                left_out: &mut left_out,
                has_heard: false,
            };
            let end = run.stream(&client, known).await?;
            known = match end {
                StreamEnd::Due => Known::default(),
                StreamEnd::Ended => {
                    let lasted_ms = begun.elapsed().as_millis() as u64;
                    let pause = Duration::from_millis(backoff.next(lasted_ms, true, &mut rng));
                    tracing::debug!(cluster = self.settings.cluster, ?pause, "the control plane ended the stream");
                    tokio::time::sleep(pause).await;
                    self.recall()
                }
            };
        }
    }

    fn question(&self) -> Question {
        let XdsSettings { cluster, node_id, node_cluster, zone, timeout, .. } = &self.settings;
        Question {
            cluster: cluster.clone(),
            node: Node { id: node_id.clone(), cluster: node_cluster.clone().unwrap_or_default() },
            zone: zone.clone(),
            patience_ms: timeout.as_millis() as u64,
        }
    }

    fn recall(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Asks more rarely from now on, unless it is asked as rarely as can be.
    fn calm_down(&self) -> bool {
        let before = self.ping_ms.load(Ordering::Relaxed);
        let ping_ms = before.saturating_mul(PING_GROWTH).min(PING_MAX.as_millis() as u64);
        self.ping_ms.store(ping_ms.max(before), Ordering::Relaxed);
        tracing::info!(cluster = self.settings.cluster, ping_ms, "the control plane wants fewer pings");
        ping_ms > before
    }
}

impl Source for XdsSource {
    fn kind(&self) -> &'static str {
        "xds"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// Reads any bytes as an answer, once about the cluster and once about its endpoints, and as either of these. For fuzzing.
pub(super) fn any_answer(message: &[u8]) -> Result<Vec<Found>, SourceError> {
    let settings = XdsSettings::new("web", vec!["http://127.0.0.1".into()]);
    let question = XdsSource::new(settings)?.question();
    let (mut session, _) = Session::begin(question, Known::default(), 0);
    let zone = Zone::new("fra");
    if let Ok(assignment) = resources::assignment("web", message, zone.as_ref()) {
        return Ok(assignment.found.to_vec());
    }
    match resources::cluster("web", message, None) {
        Ok(resources::Cluster::Fixed(assignment)) => return Ok(assignment.found.to_vec()),
        Ok(resources::Cluster::Assigned { .. }) | Err(_) => {}
    }
    for now_ms in 0..2 {
        let step = session.hear(message, now_ms)?;
        // Replies can be written, whatever was said.
        step.requests.iter().for_each(|request| drop(request.encode()));
    }
    Ok(session.known().list().map(|assignment| assignment.found.to_vec()).unwrap_or_default())
}

/// Who we are where nobody says so.
const NODE_ID: &str = "dislocate";
/// As long as Envoy itself waits for a first answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A link that died is noticed within a minute.
const PING: Duration = Duration::from_secs(30);
/// What servers do not like is asked for a quarter as often.
const PING_GROWTH: u64 = 4;
/// More than the five minutes that servers written with gRPC for Go want unless they are told otherwise.
const PING_MAX: Duration = Duration::from_secs(480);
/// Longer than an error takes that follows upon a connection.
const SETTLE: Duration = Duration::from_secs(1);
/// For what was missed on either side, at the price of a list.
const RESYNC: Duration = Duration::from_secs(600);
/// Some send every cluster that they have, whatever is asked for: 10,000 of three kilobytes.
const MESSAGE_MAX_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let new = |cluster: &str, urls: &[&str], tls: TlsSettings| {
            let urls = urls.iter().map(ToString::to_string).collect();
            XdsSource::new(XdsSettings { tls, ..XdsSettings::new(cluster, urls) }).is_ok()
        };
        let tls = || TlsSettings { ca_file: Some("/ca".into()), ..TlsSettings::default() };
        assert!(new("web", &["http://10.0.0.1:18000", "https://xds.example/"], tls()));
        assert!(new("outbound|80||web.shop.svc.cluster.local", &["http://10.0.0.1:15010"], TlsSettings::default()));
        assert!(!new("", &["http://10.0.0.1:18000"], TlsSettings::default()));
        assert!(!new(&"a".repeat(1_025), &["http://10.0.0.1:18000"], TlsSettings::default()));
        assert!(!new("web", &[], TlsSettings::default()));
        assert!(!new("web", &["10.0.0.1:18000"], TlsSettings::default()));
        assert!(!new("web", &["http://10.0.0.1:18000/v3"], TlsSettings::default()));
        assert!(!new("web", &["http://10.0.0.1:18000"], tls()));
    }

    #[test]
    fn pings_that_are_not_liked_become_rare() {
        let source = XdsSource::new(XdsSettings::new("web", vec!["http://10.0.0.1".into()])).unwrap();
        let pings: Vec<(bool, u64)> =
            (0..3).map(|_| (source.calm_down(), source.ping_ms.load(Ordering::Relaxed))).collect();
        assert_eq!(pings, [(true, 120_000), (true, 480_000), (false, 480_000)], "and in the end it is an error");
    }
}
