//! Where endpoints come from: the seam between a source and what is made of its word.
//!
//! A source talks to one registry about one service, and says what it hears as [`Event`]s. It decides nothing: whether
//! a backend leaves is the guard's affair. There are two ways to speak, and a source may use both:
//!
//! ```text
//!   the whole list:  Begin, Upsert…, End       believed at End as one, or not at all; what it lacks is gone
//!   single changes:  Upsert | Remove           believed at once
//!   neither:         Alive                     the registry was reached, and nothing is new
//! ```
//!
//! When anything at all is wrong (no answer, an error, half an answer, an index that went back), the source gives up
//! with a [`SourceError`]. Nothing is taken away for that; it is started again after a while, and begins with a list.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use balance::{Address, Reported, Zone};
use tokio::sync::mpsc;

/// One endpoint as a source reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The registrar's id of it, or else the address as text. Unique within the source; at most [`ID_MAX_BYTES`].
    pub id: Box<str>,
    /// Where it is.
    pub address: Address,
    /// Its share of the work; 0 means draining.
    pub weight: u32,
    /// Where it stands; nothing stands for the node's zone.
    pub zone: Option<Zone>,
    /// Its level, 0 first.
    pub priority: u8,
    /// Whether the registry thinks that it works.
    pub reported: Reported,
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole list begins. One that had begun and not ended is forgotten.
    Begin,
    /// These are there, with these properties. In a list they count when it ends.
    Upsert(Vec<Found>),
    /// The registrar itself took these ids back, one by one. They leave at once, without a question, so a source says
    /// this only when it was told, never because something is missing from an answer.
    Remove(Vec<Box<str>>),
    /// The list is whole: what it did not name is no longer reported, and the guard says what becomes of it.
    End,
    /// The registry was reached and nothing changed.
    Alive,
}

/// A registry that tells of the endpoints of one service.
pub trait Source: Send + Sync + 'static {
    /// The word for it in the configuration: `dns`, `consul`, …
    fn kind(&self) -> &'static str;

    /// Talks to the registry until that fails, and returns why. Dropping the future stops it, at any await.
    ///
    /// The first thing it says is a whole list. It retries nothing by itself: that is its supervisor's doing, with
    /// growing pauses.
    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>>;
}

/// Why a run of a source ended, in words of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    text: Box<str>,
    retry_after: Option<Duration>,
}

impl SourceError {
    /// An error of this text, of which the first [`ERROR_MAX_BYTES`] are kept. A registry's own words may be in it:
    /// control characters are replaced.
    pub fn new<'t>(text: impl Into<Cow<'t, str>>) -> Self {
        let text = text.into();
        let end = text.floor_char_boundary(ERROR_MAX_BYTES);
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        Self { text: text[..end].chars().map(printable).collect(), retry_after: None }
    }

    /// The same from a registry that asks to be left alone for so long, if it does.
    pub fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// How long the registry asks to be left alone. Its word, so that it may be anything.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SourceError {}

/// So that a run can end with `?` on a send.
impl From<Closed> for SourceError {
    fn from(closed: Closed) -> Self {
        Self::new(closed.to_string())
    }
}

/// Nobody listens to this source any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody listens to this source any more")
    }
}

impl std::error::Error for Closed {}

/// Where a source sends what it hears.
///
/// *Shape*: a short queue. It needs no merging of what waits in it: the table behind it holds one record a key, and how
/// often that is published is decided there.
#[derive(Debug)]
pub struct Sink {
    events: mpsc::Sender<Event>,
}

impl Sink {
    /// A sink and the other end of it. For supervisors, and for tests of sources.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        (Self { events }, receiver)
    }

    /// Sends `event`, and waits for as long as the other side lags behind. A large event goes in pieces.
    ///
    /// *Errors*: the source is being stopped. *Cancel safety*: what was not sent is lost, as the run is.
    pub async fn send(&self, event: Event) -> Result<(), Closed> {
        match event {
            Event::Upsert(found) if found.len() > PIECE => {
                let mut rest = found.into_iter();
                while rest.len() > 0 {
                    self.put(Event::Upsert(rest.by_ref().take(PIECE).collect())).await?;
                }
                Ok(())
            }
            event => self.put(event).await,
        }
    }

    async fn put(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }
}

/// Longest id of an endpoint; one with a longer id is not taken. Consul's ids, and names of Kubernetes, are at most 253.
pub const ID_MAX_BYTES: usize = 256;
/// Longest text of an error: enough for an address, a path and a reason.
pub const ERROR_MAX_BYTES: usize = 300;
/// Events that wait between a source and its service.
const EVENTS_MAX: usize = 4;
/// Endpoints that an event carries at most; with the line above, what bounds the memory of the queue.
const PIECE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(n: u16) -> Found {
        let address: Address = std::net::SocketAddr::from(([10, 0, 0, 1], n + 1)).into();
        let id = address.to_string().into();
        Found { id, address, weight: 1, zone: None, priority: 0, reported: Reported::Ready }
    }

    #[test]
    fn an_error_is_short_and_printable_whatever_a_registry_said() {
        let long = format!("line\r\n\u{1b}[31m{}", "ä".repeat(ERROR_MAX_BYTES));
        let error = SourceError::new(long);
        assert!(error.text().starts_with("line   [31mä") && error.text().len() <= ERROR_MAX_BYTES);
        assert!(!error.text().contains(char::is_control));
    }

    #[tokio::test]
    async fn a_large_event_arrives_whole_and_in_pieces_while_the_sender_waits() {
        let all: Vec<Found> = (0..10_500).map(found).collect();
        let (sink, mut receiver) = Sink::channel();
        let sent = all.clone();
        let sender = tokio::spawn(async move {
            sink.send(Event::Upsert(sent)).await?;
            sink.send(Event::Alive).await
        });
        let mut received = Vec::new();
        while let Some(Event::Upsert(mut piece)) = receiver.recv().await {
            assert!(piece.len() <= PIECE && receiver.len() <= EVENTS_MAX, "what waits is bounded");
            received.append(&mut piece);
        }
        assert_eq!(received, all);
        assert_eq!(sender.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_source_whose_listener_is_gone_learns_it() {
        let (sink, receiver) = Sink::channel();
        drop(receiver);
        assert_eq!(sink.send(Event::Alive).await, Err(Closed));
    }
}
