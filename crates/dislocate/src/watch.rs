//! Noticing that the configuration file has changed.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Watches a file by its folder: editors and ConfigMaps put a new file (or a new symlink) in its place, and a watch on
/// the old one would hear nothing.
pub struct FileWatch {
    events: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Begins to watch.
    ///
    /// *Errors*: no inotify instance is to be had, or the folder cannot be read.
    pub fn new(file: &Path) -> notify::Result<Self> {
        let (happened, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let read_only = event.is_ok_and(|event| event.kind.is_access());
            if !read_only {
                // Full means that somebody will look anyway.
                let _pending = happened.try_send(());
            }
        })?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(Self { events, _watcher: watcher })
    }

    /// Waits until something has happened in the folder and then nothing for a moment, so that a file that is being
    /// written is not read half. A folder that never rests is looked at every second.
    ///
    /// *Cancel safety*: an event may be forgotten only if it was the last one before the drop and another follows.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        let rest = async { while tokio::time::timeout(REST, self.events.recv()).await.is_ok() {} };
        let _never_rests = tokio::time::timeout(AT_MOST, rest).await;
    }
}

/// A writer that pauses for longer than this is taken to have finished.
const REST: Duration = Duration::from_millis(50);
const AT_MOST: Duration = Duration::from_secs(1);
