//! Endpoints from etcd: the keys below a prefix, each with a record in JSON as its value.
//!
//! ```text
//!   range: all keys, revision r ──▶ watch from r + 1 ──▶ changes, revision r' ──▶ watch from r' + 1 ──▶ …
//!              ▲                                                                       │ compacted
//!              └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It speaks to the JSON gateway that is part of every etcd, over HTTP, so that no stack for gRPC is needed. A
//! watch over a dead link is as silent as one with nothing to tell; therefore each ends after a minute and the next
//! goes on where it stopped, which costs no list. Of a cluster that was restored, a revision of before is in the future,
//! and a watch from there is silent for ever: the revision at which a watch begins tells it. A list that is older than
//! what was known is refused once, as a member may be behind.
//!
//! A deleted key leaves at once, since its owner said so. A key with a lease may as well have run out while etcd was
//! out of its owner's reach: those leave as the rest of a list does, with the guard's consent.
//!
//! A value that cannot be read is passed over, and leaves what was known of its key: one bad registration must not stop
//! all others.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balance::Rng;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use self::messages::{AuthenticateReply, AuthenticateRequest, RangeReply, RangeRequest};
use self::messages::{WatchCreate, WatchReply, WatchRequest, watch_line};
use self::table::Table;
use super::base64;
use super::fetch::{Client, Question, Reply, Server, check_tls, within};
use super::lines::Lines;
use super::newest::Newest;
use super::records::{self, ENDPOINTS_MAX};
use super::secret;
use super::tell::{Teller, ended, send_list};
use super::tls::TlsSettings;
use crate::source::{Event, Found, Sink, Source, SourceError};

mod messages;
mod table;

/// What an etcd source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// What the keys begin with. It ends with `/`, since `/web` is also the beginning of `/web2`.
    pub prefix: String,
    /// The servers: `http://HOST[:PORT]`, or `https`. After an error the next one is asked.
    pub urls: Vec<String>,
    /// How servers of `https` URLs are known.
    pub tls: TlsSettings,
    /// How to say who we are.
    pub access: Access,
    /// How long a question may take; of a watch, its first answer.
    pub timeout: Duration,
    /// How long a watch lasts before it is made anew; also how long a lost connection may go unnoticed.
    pub renew: Duration,
    /// Keys of a page, when all are read.
    pub page: usize,
    /// Longest page, and longest message of a watch.
    pub body_max_bytes: usize,
}

impl EtcdSettings {
    /// The defaults, for this prefix.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            urls: vec![URL.into()],
            tls: TlsSettings::default(),
            access: Access::default(),
            timeout: TIMEOUT,
            renew: RENEW,
            page: PAGE,
            body_max_bytes: BODY_MAX_BYTES,
        }
    }
}

/// How to say who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Not at all.
    #[default]
    Open,
    /// By a token, which this file holds.
    Token(PathBuf),
    /// By a name, and a password which this file holds. They are changed for a token when a run begins.
    Password {
        /// The name.
        username: String,
        /// The file.
        password_file: PathBuf,
    },
}

/// Follows the keys below a prefix.
#[derive(Debug)]
pub struct EtcdSource {
    settings: EtcdSettings,
    /// Servers, each with the path before the gateway's own.
    servers: Vec<(Server, String)>,
    /// The one to ask next.
    next: AtomicUsize,
    newest: Newest,
}

impl EtcdSource {
    /// A source with these settings.
    ///
    /// *Errors*: a URL is not one, there is none, the prefix does not end with `/`, or there are settings for TLS that no
    /// URL uses.
    pub fn new(settings: EtcdSettings) -> Result<Self, SourceError> {
        if !settings.prefix.ends_with('/') {
            return Err(SourceError::new(
                "the prefix does not end with /, so that it would match longer names as well",
            ));
        }
        let servers = settings.urls.iter().map(|url| {
            let (server, base) = Server::parse(url)?;
            Ok((server, base.trim_end_matches('/').to_owned()))
        });
        let servers = servers.collect::<Result<Vec<_>, SourceError>>()?;
        if servers.is_empty() {
            return Err(SourceError::new("no server is given"));
        }
        check_tls(&settings.tls, servers.iter().map(|(server, _)| server))?;
        Ok(Self { settings, servers, next: AtomicUsize::new(0), newest: Newest::default() })
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.servers.len();
        let (server, base) = &self.servers[next];
        let client = server.client(&self.settings.tls).await?;
        let mut session = Session { settings: &self.settings, newest: &self.newest, client, base, token: None };
        session.authenticate().await?;
        let mut rng = Rng::new(RandomState::new().hash_one(()));
        let (mut table, mut teller) = (Table::default(), Teller::default());
        loop {
            session.read_all(&mut table).await?;
            self.newest.check(table.revision())?;
            report_unreadable(&mut table);
            teller.tell(sink, table.list()).await?;
            while session.watch(&mut table, sink, &mut rng).await? == WatchEnd::Due {}
            tracing::debug!(prefix = self.settings.prefix, "etcd has compacted what was to be watched; reading anew");
            // Single changes were told since.
            teller = Teller::default();
        }
    }
}

impl Source for EtcdSource {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// Why a watch ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchEnd {
    /// It was time for a new one.
    Due,
    /// What it asked for is no longer known.
    Compacted,
}

/// One server, for one run.
struct Session<'a> {
    settings: &'a EtcdSettings,
    newest: &'a Newest,
    client: Client<'a>,
    base: &'a str,
    /// What was got for a password.
    token: Option<HeaderValue>,
}

impl Session<'_> {
    async fn authenticate(&mut self) -> Result<(), SourceError> {
        let Access::Password { username, password_file } = &self.settings.access else { return Ok(()) };
        let password = within(self.settings.timeout, secret::text(password_file)).await?;
        let request = AuthenticateRequest { name: username, password: &password };
        let reply: AuthenticateReply = self.ask("/v3/auth/authenticate", &request).await?;
        let token = HeaderValue::from_str(&reply.token);
        let mut token = token.map_err(|_| SourceError::new("etcd gave a token that is no text for a header"))?;
        token.set_sensitive(true);
        self.token = Some(token);
        Ok(())
    }

    /// Reads all keys, page by page, as of the revision of the first page.
    async fn read_all(&self, table: &mut Table) -> Result<(), SourceError> {
        let range_end = base64::encode(&after(self.settings.prefix.as_bytes()));
        let (mut key, mut revision) = (self.settings.prefix.clone().into_bytes(), 0);
        let mut all = Vec::new();
        loop {
            let limit = self.settings.page;
            let request = RangeRequest { key: base64::encode(&key), range_end: range_end.clone(), limit, revision };
            let reply: RangeReply = self.ask("/v3/kv/range", &request).await?;
            if revision == 0 {
                revision = reply.header.revision.0;
            }
            let mut page = reply.kvs.0;
            let last = page.last().map(|last| last.0.key.0.clone());
            all.append(&mut page);
            if all.len() > ENDPOINTS_MAX {
                return Err(SourceError::new(format!("more than {ENDPOINTS_MAX} keys below the prefix")));
            }
            match (reply.more, last) {
                (false, _) => return table.replace(all, revision),
                // The next page begins right after the last key; one that does not go on would be asked for for ever.
                (true, Some(last)) if last >= key => key = [&last[..], &[0]].concat(),
                (true, _) => return Err(SourceError::new("etcd says that there is more, and gives nothing")),
            }
        }
    }

    /// Watches for about as long as a watch may last, and tells what it hears.
    async fn watch(&self, table: &mut Table, sink: &Sink, rng: &mut Rng) -> Result<WatchEnd, SourceError> {
        let lasts = Duration::from_millis(rng.jitter(self.settings.renew.as_millis() as u64, JITTER));
        let due = Instant::now() + lasts;
        let request = WatchRequest {
            create_request: WatchCreate {
                key: base64::encode(self.settings.prefix.as_bytes()),
                range_end: base64::encode(&after(self.settings.prefix.as_bytes())),
                start_revision: table.next_revision(),
            },
        };
        let mut lines = Lines::default();
        let begun = async {
            let mut reply = self.send("/v3/watch", &request).await?;
            let first = self.line(&mut reply, &mut lines).await?;
            Ok((reply, first))
        };
        let (mut reply, mut said) = within(self.settings.timeout, begun).await?;
        if !said.created && !said.canceled {
            return Err(SourceError::new("a watch that does not begin at its beginning"));
        }
        let (known, now) = (table.revision(), said.header.revision.0);
        if said.created && !said.canceled && (1..known).contains(&now) {
            return Err(SourceError::new(format!("etcd is at revision {now}, and {known} was known; asking again")));
        }
        sink.send(Event::Alive).await?;
        loop {
            if said.canceled {
                return match said.compact_revision.0 {
                    0 => Err(SourceError::new(format!(
                        "etcd ended the watch: {}",
                        records::shortened(&said.cancel_reason)
                    ))),
                    _ => Ok(WatchEnd::Compacted),
                };
            }
            self.tell(table, said, sink).await?;
            said = match timeout_at(due, self.line(&mut reply, &mut lines)).await {
                Ok(line) => line?,
                // What was read of a line goes with it; the next watch brings it again.
                Err(_) => return Ok(WatchEnd::Due),
            };
        }
    }

    async fn tell(&self, table: &mut Table, said: WatchReply, sink: &Sink) -> Result<(), SourceError> {
        let news = table.change(said.events.0)?;
        self.newest.saw(table.revision());
        report_unreadable(table);
        for event in news.events {
            sink.send(event).await?;
        }
        if news.list {
            send_list(sink, table.list()).await?;
        }
        Ok(())
    }

    /// The next line of a watch. *Cancel safety*: what was read of it stays in `lines`.
    async fn line(&self, reply: &mut Reply, lines: &mut Lines) -> Result<WatchReply, SourceError> {
        loop {
            if let Some(line) = lines.next() {
                return watch_line(&line);
            }
            let piece = reply.piece().await?.ok_or_else(|| SourceError::new("etcd ended the watch without a word"))?;
            lines.push(&piece, self.settings.body_max_bytes)?;
        }
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, SourceError> {
        within(self.settings.timeout, async {
            let reply = self.send(path, request).await?;
            records::json(&reply.whole(self.settings.body_max_bytes).await?)
        })
        .await
    }

    /// Asks, and takes nothing but a status of 200.
    async fn send(&self, path: &str, request: &impl Serialize) -> Result<Reply, SourceError> {
        let body = serde_json::to_vec(request).map_err(|error| SourceError::new(format!("no request: {error}")))?;
        let path = format!("{}{path}", self.base);
        let mut headers = vec![
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            // A member without a leader would let a watch wait for ever.
            (NEEDS_LEADER, HeaderValue::from_static("true")),
        ];
        match (&self.settings.access, &self.token) {
            (Access::Token(file), _) => headers.push((AUTHORIZATION, secret::header(file).await?)),
            (_, Some(token)) => headers.push((AUTHORIZATION, token.clone())),
            _ => {}
        }
        let reply = self.client.ask(Question { method: Method::POST, path: &path, headers, body: body.into() }).await?;
        match reply.status() {
            200 => Ok(reply),
            _ => Err(reply.refusal().await),
        }
    }
}

fn report_unreadable(table: &mut Table) {
    if let Some(why) = table.take_unreadable() {
        tracing::warn!(why, "a record in etcd cannot be read and is passed over");
    }
}

/// The first key behind all that begin with `prefix`.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // There is none: to the end of all keys.
    vec![0]
}

/// Reads any bytes as a page of keys, or else as a line of a watch. For fuzzing.
pub(super) fn any_answer(text: &[u8]) -> Result<Vec<Found>, SourceError> {
    let mut table = Table::default();
    match records::json::<RangeReply>(text) {
        Ok(page) => table.replace(page.kvs.0, page.header.revision.0)?,
        Err(_) => drop(table.change(watch_line(text)?.events.0)?),
    }
    Ok(table.list())
}

/// Turned into gRPC's `hasleader` by the gateway.
const NEEDS_LEADER: HeaderName = HeaderName::from_static("grpc-metadata-hasleader");
/// Where etcd listens by default.
const URL: &str = "http://127.0.0.1:2379";
/// etcd itself gives up after five seconds.
const TIMEOUT: Duration = Duration::from_secs(6);
/// A link that died is noticed within a minute, at the price of a small question.
const RENEW: Duration = Duration::from_secs(60);
/// A megabyte of records.
const PAGE: usize = 5_000;
/// Values can have 1.5 MiB each; records have a few hundred bytes.
const BODY_MAX_BYTES: usize = 16 << 20;
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_right_behind_the_prefix() {
        assert_eq!(after(b"/web/"), b"/web0");
        assert_eq!(after(b"a\xff"), b"b");
        assert_eq!(after(b"\xff\xff"), b"\0");
        assert_eq!(after(b""), b"\0");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let new = |prefix: &str, urls: &[&str]| {
            let urls = urls.iter().map(ToString::to_string).collect();
            EtcdSource::new(EtcdSettings { urls, ..EtcdSettings::new(prefix) }).map(drop)
        };
        assert_eq!(new("/web/", &["http://10.0.0.1:2379", "http://10.0.0.2:2379/base/"]), Ok(()));
        assert!(new("/web", &["http://10.0.0.1:2379"]).is_err());
        assert!(new("/web/", &[]).is_err());
        assert!(new("/web/", &["http://10.0.0.1:2379", "10.0.0.2"]).is_err());
    }
}
