//! Runs a source for ever, and again after a pause whenever it fails.

use std::sync::Arc;
use std::time::Duration;

use balance::Rng;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::{Backoff, at_least};
use crate::desk::Start;
use crate::service::Service;
use crate::{Sink, SourceError};

/// Starts the source, hears what it says, and starts it again when it ends.
///
/// *Cancel safety*: dropping it ends the source; what it said before stands.
pub(crate) async fn supervise(service: Arc<Service>, start: Start, mut rng: Rng) {
    let (mut backoff, name) = (Backoff::default(), Arc::clone(service.name()));
    loop {
        let begun_ms = service.now_ms();
        let (error, was_good) = run(&service, &start).await;
        let now_ms = service.now_ms();
        let pause_ms = backoff.next(now_ms.saturating_sub(begun_ms), was_good, &mut rng);
        let pause = Duration::from_millis(at_least(pause_ms, error.retry_after(), &mut rng));
        let (source, is_news) = (&*start.name, service.with_desk(|desk| desk.failed(start.run, &error, now_ms)));
        if is_news {
            tracing::warn!(service = &*name, source, %error, ?pause, "source failed; what it said before stands");
        } else {
            tracing::debug!(service = &*name, source, %error, ?pause, "source failed again");
        }
        tokio::time::sleep(pause).await;
    }
}

/// One run. Returns why it ended, and whether anything was heard.
async fn run(service: &Service, start: &Start) -> (SourceError, bool) {
    service.with_desk(|desk| desk.begin_run(start.run));
    let (sink, mut events) = Sink::channel();
    let source = Arc::clone(&start.source);
    // A task of its own: a source that panics ends its run and nothing else.
    let task = AbortOnDropHandle::new(tokio::spawn(async move { source.run(&sink).await }));
    let mut was_good = false;
    // The sink is dropped with the run, which ends the events.
    while let Some(event) = events.recv().await {
        let now_ms = service.now_ms();
        if service.with_desk(|desk| desk.hear(start.run, event, now_ms)) {
            tracing::info!(service = &**service.name(), source = &*start.name, "source works again");
        }
        was_good = true;
    }
    match task.await {
        Ok(error) => (error, was_good),
        Err(error) => {
            tracing::error!(service = &**service.name(), source = &*start.name, %error, "a source ended by a bug");
            (SourceError::new("the source ended by a bug"), false)
        }
    }
}
