//! Tells a sink what changed from one whole answer to the next.

use std::convert::Infallible;

use crate::source::{Closed, Event, Found, Sink, SourceError};

/// The latest list of a run.
///
/// Registries wake us for changes of others, and polls mostly find nothing new; neither is worth a list.
#[derive(Default)]
pub(super) struct Teller {
    told: Option<Vec<Found>>,
}

impl Teller {
    /// Sends `list`, which is in order, unless it is the one that was sent last.
    pub(super) async fn tell(&mut self, sink: &Sink, list: Vec<Found>) -> Result<(), Closed> {
        if self.told.as_ref() == Some(&list) {
            return sink.send(Event::Alive).await;
        }
        send_list(sink, list.clone()).await?;
        self.told = Some(list);
        Ok(())
    }
}

/// Sends a whole list.
pub(super) async fn send_list(sink: &Sink, list: Vec<Found>) -> Result<(), Closed> {
    sink.send(Event::Begin).await?;
    if !list.is_empty() {
        sink.send(Event::Upsert(list)).await?;
    }
    sink.send(Event::End).await
}

/// What ended a run, of loops that end with errors alone.
pub(super) fn ended(result: Result<Infallible, SourceError>) -> SourceError {
    match result {
        Err(error) => error,
    }
}
