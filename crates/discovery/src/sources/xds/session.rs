//! One stream to a control plane, as a conversation. Pure: messages and times go in, messages come out.
//!
//! ```text
//!   subscribe cluster ──▶ cluster of type EDS ──▶ subscribe its assignment ──▶ endpoints
//!                    └──▶ cluster with endpoints of its own ───────────────────┘
//! ```
//!
//! Every answer is replied to by its nonce: accepted, or refused with the reason. What was known before an answer that
//! is refused stands, and so does what was known while nothing is answered; only what is told to be gone is gone.

use std::sync::Arc;

use balance::Zone;

use super::messages::{Node, Request, Resource, Response};
use super::resources::{self, Assignment, Cluster};
use crate::source::{Found, SourceError};
use crate::sources::records::shortened;

/// What is asked for, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) cluster: String,
    pub(super) node: Node,
    /// A data centre in which the zones of endpoints are, or the zone of all.
    pub(super) zone: Option<Zone>,
    /// How long an answer may take.
    pub(super) patience_ms: u64,
}

/// What has been said, which outlives a stream.
///
/// *Cost*: a copy shares the endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    cluster: Word<Cluster>,
    /// The endpoints, and the name that the cluster has for them.
    assignment: Option<(String, Word<Assignment>)>,
}

/// What has been said of one resource.
#[derive(Clone, Debug, Default)]
enum Word<T> {
    /// Nothing.
    #[default]
    Unknown,
    /// That it is not there.
    Absent,
    There {
        version: String,
        value: T,
    },
}

impl<T> Word<T> {
    fn value(&self) -> Option<&T> {
        if let Self::There { value, .. } = self { Some(value) } else { None }
    }

    fn version(&self) -> Option<&str> {
        if let Self::There { version, .. } = self { Some(version) } else { None }
    }
}

impl Known {
    /// The endpoints; none while they are unknown.
    pub(super) fn list(&self) -> Option<Assignment> {
        match (&self.cluster, &self.assignment) {
            (Word::Unknown, _) => None,
            (Word::Absent, _) => Some(Assignment::default()),
            (Word::There { value: Cluster::Fixed(assignment), .. }, _) => Some(assignment.clone()),
            (
                Word::There { value: Cluster::Assigned { by_locality: true, .. }, .. },
                Some((_, Word::There { value, .. })),
            ) => Some(value.clone().by_locality()),
            (Word::There { .. }, Some((_, Word::There { value, .. }))) => Some(value.clone()),
            (Word::There { .. }, Some((_, Word::Absent))) => Some(Assignment::default()),
            (Word::There { .. }, _) => None,
        }
    }
}

/// The conversation.
#[derive(Debug)]
pub(super) struct Session {
    question: Question,
    known: Known,
    /// Why what was said last is refused.
    refused: Refused,
    /// Since when an answer is missing.
    waits_since_ms: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Refused {
    cluster: Option<String>,
    assignment: Option<String>,
}

/// What comes of an answer.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// To be sent.
    pub(super) requests: Vec<Request>,
    /// Who drained, and was taken away after that.
    pub(super) ended: Vec<Box<str>>,
    /// Whether something else is known now than before.
    pub(super) is_news: bool,
    /// Why the answer was refused.
    pub(super) refusal: Option<String>,
}

impl Session {
    /// A conversation for a stream that begins now, and what to say first. Of what is `known`, only what has changed
    /// since is to be said.
    pub(super) fn begin(question: Question, known: Known, now_ms: u64) -> (Self, Vec<Request>) {
        let subscribe = |type_url: &str, name: &str, version: Option<&str>| Request {
            type_url: type_url.into(),
            subscribe: vec![name.into()],
            known: version.filter(|it| !it.is_empty()).map(|it| (name.into(), it.into())).into_iter().collect(),
            ..Request::default()
        };
        let mut first = subscribe(CLUSTER, &question.cluster, known.cluster.version());
        first.node = Some(question.node.clone());
        let second = known.assignment.iter().map(|(name, word)| subscribe(ASSIGNMENT, name, word.version()));
        let requests = [first].into_iter().chain(second).collect();
        let mut session = Self { question, known, refused: Refused::default(), waits_since_ms: None };
        session.note_waiting(now_ms);
        (session, requests)
    }

    /// Takes an answer.
    ///
    /// *Errors*: it is none, so that it cannot even be refused.
    pub(super) fn hear(&mut self, message: &[u8], now_ms: u64) -> Result<Step, SourceError> {
        let unreadable = |_| SourceError::new("an answer that cannot be decoded");
        let response = Response::decode(message).map_err(unreadable)?;
        if response.nonce.len() > NONCE_MAX_BYTES || response.type_url.len() > NONCE_MAX_BYTES {
            return Err(SourceError::new("an answer with a nonce or a type of absurd length"));
        }
        let mut step = match response.type_url {
            CLUSTER => self.hear_cluster(&response),
            ASSIGNMENT => self.hear_assignment(&response),
            other => Err(format!("nobody asked for resources of type {}", shortened(other))),
        }
        .unwrap_or_else(|why| Step { refusal: Some(why), ..Step::default() });
        let reply = Request {
            type_url: response.type_url.into(),
            nonce: response.nonce.into(),
            error: step.refusal.clone(),
            ..Request::default()
        };
        step.requests.insert(0, reply);
        self.note_waiting(now_ms);
        Ok(step)
    }

    fn hear_cluster(&mut self, response: &Response<'_>) -> Result<Step, String> {
        let zone = self.question.zone.clone();
        let name = self.question.cluster.clone();
        let news = news(response, &name, CLUSTER, self.known.cluster.version(), |body| {
            resources::cluster(&name, body, zone.as_ref())
        });
        let news = news.inspect_err(|why| self.refused.cluster = Some(why.clone()))?;
        let Some(news) = news else { return Ok(Step::default()) };
        self.refused.cluster = None;
        let News::Is(word) = news else { return Ok(Step::default()) };
        self.known.cluster = word;
        Ok(Step { requests: self.follow(), is_news: true, ..Step::default() })
    }

    /// Subscribes to the assignment that the cluster names now, if that is another than before.
    fn follow(&mut self) -> Vec<Request> {
        let wanted = match self.known.cluster.value() {
            Some(Cluster::Assigned { name, .. }) => Some(name.clone()),
            Some(Cluster::Fixed(_)) | None => None,
        };
        let before = self.known.assignment.as_ref().map(|(name, _)| name.clone());
        if wanted == before {
            return Vec::new();
        }
        self.known.assignment = wanted.clone().map(|name| (name, Word::Unknown));
        self.refused.assignment = None;
        let (subscribe, unsubscribe) = (wanted.into_iter().collect(), before.into_iter().collect());
        vec![Request { type_url: ASSIGNMENT.into(), subscribe, unsubscribe, ..Request::default() }]
    }

    fn hear_assignment(&mut self, response: &Response<'_>) -> Result<Step, String> {
        // A late word of one that is no longer asked for.
        let Some((name, word)) = &mut self.known.assignment else { return Ok(Step::default()) };
        let zone = self.question.zone.as_ref();
        let news = news(response, name, ASSIGNMENT, word.version(), |body| resources::assignment(name, body, zone));
        let news = news.inspect_err(|why| self.refused.assignment = Some(why.clone()))?;
        let Some(news) = news else { return Ok(Step::default()) };
        self.refused.assignment = None;
        let News::Is(next) = news else { return Ok(Step::default()) };
        let ended = match (word.value(), next.value()) {
            (Some(before), Some(now)) => ended(&before.found, &now.found),
            _ => Vec::new(),
        };
        *word = next;
        Ok(Step { ended, is_news: true, ..Step::default() })
    }

    fn note_waiting(&mut self, now_ms: u64) {
        match (self.is_settled(), self.waits_since_ms) {
            (true, _) => self.waits_since_ms = None,
            (false, None) => self.waits_since_ms = Some(now_ms),
            (false, Some(_)) => {}
        }
    }

    /// Whether everything that should be known is, and the last word of it was accepted.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting_for().is_none()
    }

    /// What is missing, in words.
    pub(super) fn waiting_for(&self) -> Option<String> {
        let Refused { cluster, assignment } = &self.refused;
        if let Some(why) = cluster.as_ref().or(assignment.as_ref()) {
            return Some(format!("refused: {why}"));
        }
        let cluster = shortened(&self.question.cluster);
        if matches!(self.known.cluster, Word::Unknown) {
            return Some(format!("no answer about cluster `{cluster}`"));
        }
        match &self.known.assignment {
            Some((name, Word::Unknown)) => {
                Some(format!("no answer about `{}`, the endpoints of cluster `{cluster}`", shortened(name)))
            }
            _ => None,
        }
    }

    /// Whether it waits because of what it refused, and not in vain.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.cluster.is_some() || self.refused.assignment.is_some()
    }

    /// When it has waited for too long.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.waits_since_ms.map(|since| since.saturating_add(self.question.patience_ms))
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }
}

/// What an answer says of a resource.
enum News<T> {
    /// This.
    Is(Word<T>),
    /// That it is as it was.
    Same,
}

/// Reads what `response` says of `name`; none when it speaks of others.
///
/// *Errors*: why it is refused.
fn news<T>(
    response: &Response<'_>,
    name: &str,
    body_type: &str,
    known_version: Option<&str>,
    read: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Option<News<T>>, String> {
    let about = response.about(name).map_err(|error| format!("a resource {error}"))?;
    let quoted = format!("`{}`", shortened(name));
    match (about.resource, about.times, about.is_removed) {
        (None, ..) if about.is_removed => Ok(Some(News::Is(Word::Absent))),
        (None, ..) => Ok(None),
        (Some(_), 2.., _) => Err(format!("{quoted} is there twice")),
        (Some(_), _, true) => Err(format!("{quoted} is there, and told to be gone")),
        (Some(Resource { version, body: Some((type_url, body)), .. }), ..) if type_url == body_type => {
            // One that is too long is not worth remembering; everything is asked for instead.
            let version = if version.len() > VERSION_MAX_BYTES { "" } else { version }.to_owned();
            Ok(Some(News::Is(Word::There { version, value: read(body)? })))
        }
        (Some(Resource { body: Some((type_url, _)), .. }), ..) => {
            Err(format!("{quoted} is of type {}", shortened(type_url)))
        }
        // A sign of life.
        (Some(resource), ..) if known_version == Some(resource.version) => Ok(Some(News::Same)),
        (Some(_), ..) => Err(format!("{quoted} is empty")),
    }
}

/// Those who took no new sessions, and are gone now: whoever drained them has taken them away.
fn ended(before: &Arc<[Found]>, now: &Arc<[Found]>) -> Vec<Box<str>> {
    let is_gone = |it: &&Found| it.weight == 0 && now.binary_search_by(|other| other.id.cmp(&it.id)).is_err();
    before.iter().filter(is_gone).map(|it| it.id.clone()).collect()
}

/// The types of resources, of an answer and of what is in it.
pub(super) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(super) const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Control planes count, or draw a UUID.
const NONCE_MAX_BYTES: usize = 4 * 1024;
/// Counts, times and hashes.
const VERSION_MAX_BYTES: usize = 4 * 1024;

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
