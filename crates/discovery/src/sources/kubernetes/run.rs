//! One run of a source: lists, watches, and what they tell.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use balance::Rng;
use hyper::header::AUTHORIZATION;
use tokio::time::{Instant, timeout_at};

use super::access::Token;
use super::slices::{self, GONE, Said};
use super::table::Table;
use super::{KubernetesSettings, KubernetesSource};
use crate::source::{Event, Sink, SourceError};
use crate::sources::escaped::Escaped;
use crate::sources::fetch::{Client, Question, Reply, within};
use crate::sources::lines::Lines;
use crate::sources::tell::send_list;

/// Why a watch ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchEnd {
    /// It was time for a new one.
    Due,
    /// The server ended it sooner.
    Early,
    /// What it asked for is no longer known, or was never.
    Expired,
}

/// What is known in one run.
pub(super) struct Run<'a> {
    source: &'a KubernetesSource,
    question: Asking<'a>,
    table: Table,
    /// Where the next watch begins.
    version: String,
    /// When to tell that endpoints are missing which nobody took away.
    missing_until: Option<Instant>,
    pub(super) rng: Rng,
    /// Whether the latest watch told anything.
    pub(super) has_heard: bool,
    /// What was reported last.
    left_out: Option<(usize, String)>,
}

impl<'a> Run<'a> {
    pub(super) fn new(source: &'a KubernetesSource, question: Asking<'a>) -> Self {
        Self {
            source,
            question,
            table: Table::default(),
            version: String::new(),
            missing_until: None,
            rng: Rng::new(RandomState::new().hash_one(())),
            has_heard: false,
            left_out: None,
        }
    }

    fn settings(&self) -> &KubernetesSettings {
        &self.source.settings
    }

    /// Reads all slices and tells them.
    pub(super) async fn read_all(&mut self, sink: &Sink) -> Result<(), SourceError> {
        if !self.read_pages(Some(self.settings().page)).await? && !self.read_pages(None).await? {
            return Err(SourceError::new("a list was too old before it was read"));
        }
        self.source.check_age(&self.version)?;
        self.report_left_out();
        self.tell_list(sink).await
    }

    /// Reads all slices, so many at a time. Returns whether that came to its end: pages may be asked for too late.
    async fn read_pages(&mut self, limit: Option<usize>) -> Result<bool, SourceError> {
        self.table.clear();
        let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
        let mut more = String::new();
        for _ in 0..PAGES_MAX {
            let path = format!("{}{limit}{more}", self.question.path);
            let max = self.settings().body_max_bytes;
            let body = within(self.settings().timeout, self.question.page(&path, max)).await?;
            let Some(body) = body else { return if more.is_empty() { Err(too_old()) } else { Ok(false) } };
            let page = slices::page(&body, &self.source.choice)?;
            page.slices.into_iter().try_for_each(|slice| self.table.put(slice))?;
            self.version = page.version;
            match page.more {
                None => return Ok(true),
                Some(token) => more = format!("&continue={}", Escaped(&token)),
            }
        }
        Err(SourceError::new(format!("a list of more than {PAGES_MAX} pages")))
    }

    /// Watches for about as long as a watch may last, and tells what it hears.
    pub(super) async fn watch(&mut self, sink: &Sink) -> Result<WatchEnd, SourceError> {
        self.has_heard = false;
        let begun = Instant::now();
        let lasts = Duration::from_millis(self.rng.jitter(self.settings().renew.as_millis() as u64, JITTER));
        // Time for the server to end it, and for that to arrive.
        let due = begun + lasts + self.settings().timeout;
        let seconds = lasts.as_secs().max(1);
        let path = format!(
            "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.question.path,
            Escaped(&self.version)
        );
        let Some(mut reply) = within(self.settings().timeout, self.question.ask(&path)).await? else {
            return Ok(WatchEnd::Expired);
        };
        sink.send(Event::Alive).await?;
        let mut lines = Lines::default();
        loop {
            let until = self.missing_until.unwrap_or(due).min(due);
            match timeout_at(until, reply.piece()).await {
                Ok(piece) => match piece? {
                    Some(piece) => lines.push(&piece, self.settings().line_max_bytes)?,
                    None if !lines.is_empty() => return Err(SourceError::new("the watch broke off within a line")),
                    None if begun.elapsed() < lasts / 2 => return Ok(WatchEnd::Early),
                    None => return Ok(WatchEnd::Due),
                },
                Err(_) if until < due => self.tell_list(sink).await?,
                Err(_) => return Ok(WatchEnd::Due),
            }
            if !self.hear(&mut lines, sink).await? {
                return Ok(WatchEnd::Expired);
            }
        }
    }

    /// Takes all lines that are whole, and tells what comes of them together. Returns whether the watch may go on.
    async fn hear(&mut self, lines: &mut Lines, sink: &Sink) -> Result<bool, SourceError> {
        let (mut is_any, mut is_changed) = (false, false);
        while let Some(line) = lines.next() {
            is_any = true;
            let version = match slices::said(&line, &self.source.choice)? {
                Said::Expired => return Ok(false),
                Said::Bookmark(version) => version,
                Said::Put(slice, version) => {
                    self.table.put(slice)?;
                    is_changed = true;
                    version
                }
                Said::Gone(name, version) => {
                    self.table.remove(&name);
                    is_changed = true;
                    version
                }
            };
            if let (Ok(now), Ok(before)) = (version.parse::<u64>(), self.version.parse::<u64>()) {
                if now < before {
                    return Ok(false);
                }
                self.source.newest.saw(now);
            }
            self.version = version;
            self.has_heard = true;
        }
        match (is_any, is_changed) {
            (_, true) => self.tell_news(sink).await?,
            (true, false) => sink.send(Event::Alive).await?,
            (false, false) => {}
        }
        Ok(true)
    }

    async fn tell_list(&mut self, sink: &Sink) -> Result<(), SourceError> {
        self.missing_until = None;
        match self.table.list()? {
            Some(list) => send_list(sink, list).await?,
            None => sink.send(Event::Alive).await?,
        }
        Ok(())
    }

    async fn tell_news(&mut self, sink: &Sink) -> Result<(), SourceError> {
        let begun = Instant::now();
        self.report_left_out();
        let news = self.table.news()?;
        if news.upserts.is_empty() && news.removals.is_empty() {
            sink.send(Event::Alive).await?;
        }
        if !news.upserts.is_empty() {
            sink.send(Event::Upsert(news.upserts)).await?;
        }
        if !news.removals.is_empty() {
            sink.send(Event::Remove(news.removals)).await?;
        }
        let settled = Instant::now() + self.settings().settle;
        self.missing_until = news.has_losses.then(|| self.missing_until.unwrap_or(settled));
        // In a storm of a large Service most of the time is not spent here: what comes meanwhile waits in the socket,
        // and is told together.
        let took = begun.elapsed();
        if took >= NOTICEABLE {
            tokio::time::sleep(took * REST).await;
        }
        Ok(())
    }

    fn report_left_out(&mut self) {
        let left_out = self.table.left_out().map(|(count, why)| (count, why.to_owned()));
        if left_out == self.left_out {
            return;
        }
        if let Some((count, first)) = &left_out {
            tracing::warn!(service = self.settings().service, count, first, "endpoints of Kubernetes are left out");
        }
        self.left_out = left_out;
    }
}

/// Asks one server about one Service.
pub(super) struct Asking<'a> {
    pub(super) client: Client<'a>,
    pub(super) token: &'a Token,
    /// The question without parameters of its own.
    pub(super) path: String,
}

impl Asking<'_> {
    /// A page; nothing when what it asks for is no longer known.
    async fn page(&self, path: &str, max: usize) -> Result<Option<Vec<u8>>, SourceError> {
        match self.ask(path).await? {
            Some(reply) => reply.whole(max).await.map(Some),
            None => Ok(None),
        }
    }

    /// The head of an answer of status 200; nothing when what it asks for is no longer known.
    async fn ask(&self, path: &str) -> Result<Option<Reply>, SourceError> {
        let mut question = Question::get(path);
        question.headers.extend(self.token.header().await?.map(|value| (AUTHORIZATION, value)));
        let reply = self.client.ask(question).await?;
        match i64::from(reply.status()) {
            200 => Ok(Some(reply)),
            GONE => Ok(None),
            _ => Err(refused(reply).await),
        }
    }
}

/// An error for a status, with the words of the API server if it gives some.
async fn refused(reply: Reply) -> SourceError {
    let status = reply.status();
    if (300..400).contains(&status) {
        return reply.refusal().await;
    }
    let retry_after = reply.retry_after();
    let body = within(WORDS_TIMEOUT, reply.whole(WORDS_MAX_BYTES)).await;
    let words = body.ok().and_then(|body| slices::refusal(&body)).map(|words| format!(": {words}"));
    SourceError::new(format!("status {status}{}", words.unwrap_or_default())).with_retry_after(retry_after)
}

fn too_old() -> SourceError {
    SourceError::new("status 410, though nothing old was asked for")
}

/// Of full pages, twice as many as there can be slices; the API server may leave out any of a page.
const PAGES_MAX: usize = 4_000;
/// How long to wait for the words of a refusal.
const WORDS_TIMEOUT: Duration = Duration::from_secs(1);
const WORDS_MAX_BYTES: usize = 16 * 1024;
/// Of a storm, at most a fifth of the time is spent on telling.
const REST: u32 = 4;
const NOTICEABLE: Duration = Duration::from_millis(2);
/// Nodes that began together do not stay together.
pub(super) const JITTER: f64 = 0.1;
