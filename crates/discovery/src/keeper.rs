//! Writes the snapshot now and then.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Overview;
use crate::snapshot::Remembered;
use crate::store::Store;

/// The snapshots of all services in one directory.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Store,
    overview: Overview,
    /// Which generation was written last, and when. One writes at a time.
    last: Mutex<Option<(u64, Instant)>>,
}

impl Keeper {
    /// Reads what there is. *Cost*: blocks for the time of reading a file.
    pub(crate) fn open(dir: &Path, overview: Overview) -> (Arc<Self>, Remembered) {
        let store = Store::new(dir);
        let remembered = store.load(SystemTime::now());
        (Arc::new(Self { store, overview, last: Mutex::new(None) }), remembered)
    }

    /// Writes every 30 s what has changed. *Cancel safety*: a write that began is finished.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut is_failing = false;
        loop {
            tokio::time::sleep(EVERY).await;
            match self.save(false).await {
                Ok(()) => is_failing = false,
                Err(error) if !is_failing => {
                    tracing::warn!(%error, "a snapshot of backends cannot be written");
                    is_failing = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Writes a snapshot unless the last one says the same; `is_final` writes it then too, so that its time is right.
    pub(crate) async fn save(&self, is_final: bool) -> io::Result<()> {
        let mut last = self.last.lock().await;
        // Asked first: what changes in between is written once more.
        let generation = self.overview.generation();
        let is_fresh = |(old, at): &(u64, Instant)| *old == generation && at.elapsed() < RENEW;
        if !is_final && last.as_ref().is_some_and(is_fresh) {
            return Ok(());
        }
        let (store, remembered, now) = (self.store.clone(), self.overview.save(), Instant::now());
        let write = move || store.save(&remembered);
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
        *last = Some((generation, now));
        Ok(())
    }
}

/// What is lost at most when the machine fails.
const EVERY: Duration = Duration::from_secs(30);
/// So that the time of the file tells when it was true.
const RENEW: Duration = Duration::from_secs(3_600);
