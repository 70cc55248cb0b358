//! The doorway between the one writer of a service's set and its many readers.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::{BackendSet, Endpoint, Settings};

/// Makes the two ends for a service.
pub fn live(settings: Settings, endpoints: Vec<Endpoint>) -> (Publisher, Reader) {
    let cell = Arc::new(ArcSwap::from_pointee(BackendSet::new(settings, endpoints)));
    (Publisher { cell: Arc::clone(&cell) }, Reader { cell })
}

/// The writing end. Not `Clone`: a second writer could publish over the first one's change.
#[derive(Debug)]
pub struct Publisher {
    cell: Arc<ArcSwap<BackendSet>>,
}

impl Publisher {
    /// Replaces the set by the one that follows it. Readers see all of the change or none of it.
    pub fn publish(&mut self, settings: Settings, endpoints: Vec<Endpoint>) {
        let next = self.cell.load().next(settings, endpoints);
        self.cell.store(Arc::new(next));
    }

    /// A reading end.
    pub fn reader(&self) -> Reader {
        Reader { cell: Arc::clone(&self.cell) }
    }
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct Reader {
    cell: Arc<ArcSwap<BackendSet>>,
}

impl Reader {
    /// The set as it is now. *Cost*: a few nanoseconds; the guard is for short use, not for keeping.
    pub fn load(&self) -> Guard<Arc<BackendSet>> {
        self.cell.load()
    }
}
