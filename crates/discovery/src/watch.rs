//! Noticing that a file has changed, or any file of a folder.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Watches a file by its folder: editors and ConfigMaps put a new file (or a new symlink) in its place, and a watch on
/// the old one would hear nothing.
#[derive(Debug)]
pub struct FileWatch {
    events: mpsc::Receiver<()>,
    /// Something has happened that [`FileWatch::changed`] has not told yet.
    pending: bool,
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Begins to watch a file.
    ///
    /// *Errors*: no inotify instance is to be had, or the folder cannot be read.
    pub fn new(file: &Path) -> notify::Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A path without a name is a folder.
        Self::begin(folder, file.file_name().map_or(Ours::Any, |name| Ours::Named(name.to_owned())))
    }

    /// Begins to watch every file of a folder.
    ///
    /// *Errors*: as of [`FileWatch::new`].
    pub fn folder(folder: &Path) -> notify::Result<Self> {
        Self::begin(folder, Ours::Any)
    }

    fn begin(folder: &Path, ours: Ours) -> notify::Result<Self> {
        let (happened, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may hide anything, so it counts as a change.
            if !event.is_ok_and(|event| ours.ignores(&event)) {
                // Full means that somebody will look anyway.
                let _pending = happened.try_send(());
            }
        })?;
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(Self { events, pending: false, _watcher: watcher })
    }

    /// Waits until something has happened in the folder and then nothing for a moment, so that a file that is being
    /// written is not read half. A folder that never rests is looked at every second.
    ///
    /// *Cancel safety*: dropping it forgets nothing; the next call tells what this one would have.
    pub async fn changed(&mut self) {
        if !self.pending && self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        self.pending = true;
        let rest = async { while tokio::time::timeout(REST, self.events.recv()).await.is_ok() {} };
        let _never_rests = tokio::time::timeout(AT_MOST, rest).await;
        self.pending = false;
    }
}

/// Which files of a folder are watched.
enum Ours {
    Named(OsString),
    Any,
}

impl Ours {
    /// Whether an event says nothing about what is watched: somebody reads, or writes into another file of the folder,
    /// such as a log. Names that come and go always matter, since one may be a link on the way to ours.
    fn ignores(&self, event: &Event) -> bool {
        match (event.kind, self) {
            (EventKind::Access(_), _) => true,
            (EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)), Self::Named(name)) => {
                event.paths.iter().all(|path| path.file_name() != Some(OsStr::new(name)))
            }
            _ => false,
        }
    }
}

/// A writer that pauses for longer than this is taken to have finished.
const REST: Duration = Duration::from_millis(50);
const AT_MOST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, DataChange, RenameMode};

    use super::*;

    #[test]
    fn only_what_may_change_our_file_is_heard() {
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let cases = [
            (written, "/etc/d/d.toml", false),
            (written, "/etc/d/sessions.log", true),
            (EventKind::Access(AccessKind::Any), "/etc/d/d.toml", true),
            (EventKind::Create(CreateKind::File), "/etc/d/..data", false),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/etc/d/..data", false),
        ];
        for (kind, path, others) in cases {
            let event = Event::new(kind).add_path(path.into());
            assert_eq!(Ours::Named("d.toml".into()).ignores(&event), others, "{kind:?} of {path}");
            assert_eq!(Ours::Any.ignores(&event), matches!(kind, EventKind::Access(_)), "{kind:?} of {path}");
        }
    }
}
