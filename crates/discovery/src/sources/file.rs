//! Endpoints from a file, or from every file of a folder.
//!
//! A file whose name ends in `.toml` is TOML, any other JSON. Of a folder, the files ending in `.json` and `.toml` are
//! read, in it and not below, and their lists are joined; names that begin with a dot are passed over, which is how
//! ConfigMaps hide what their links point to. The whole is one list: a file that cannot be read or understood spoils it,
//! and nothing changes until it is mended. So does a folder without any file, which is what a lost mount looks like;
//! who means "no backends" writes an empty list.
//!
//! A file is best put in place by a rename. One that is written in place is read when nothing was written for a moment.

use std::convert::Infallible;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::records;
use super::tell::{Teller, ended};
use crate::source::{Found, Sink, Source, SourceError};
use crate::watch::FileWatch;

/// What a file source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The file, or the folder of files.
    pub path: PathBuf,
    /// The file is read this often even when nothing was noticed: links that change far away, and network mounts, are
    /// not noticed. Lower values see such changes sooner, at the price of a read each.
    pub poll: Duration,
}

impl FileSettings {
    /// The defaults, for this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), poll: POLL }
    }
}

/// Reads endpoints from files.
#[derive(Debug)]
pub struct FileSource {
    settings: FileSettings,
    /// One reader at a time, so that a file system that hangs takes one thread and not one a try.
    reader: Arc<Semaphore>,
}

impl FileSource {
    /// A source with these settings.
    pub fn new(settings: FileSettings) -> Self {
        Self { settings, reader: Arc::new(Semaphore::new(1)) }
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        // Before the first look, so that no change falls between the two.
        let path = &self.settings.path;
        let watch = if path.is_dir() { FileWatch::folder(path) } else { FileWatch::new(path) };
        let mut teller = Teller::default();
        teller.tell(sink, self.read().await?).await?;
        // Without a watch the poll has to do.
        let told = |error| tracing::warn!(path = %path.display(), %error, "a file source is not watched, only polled");
        let mut watch = watch.map_err(told).ok();
        loop {
            let noticed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            // Both ends of it mean a look.
            let _noticed_or_due = timeout(self.settings.poll, noticed).await;
            teller.tell(sink, self.read().await?).await?;
        }
    }

    /// *Cancel safety*: a read that hangs goes on by itself, and the next waits for it.
    async fn read(&self) -> Result<Vec<Found>, SourceError> {
        let path = self.settings.path.clone();
        let reader = Arc::clone(&self.reader);
        let read = async {
            let turn = reader.acquire_owned().await;
            let task = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                list(&path)
            });
            task.await.unwrap_or_else(|error| Err(SourceError::new(format!("the reader ended by a bug: {error}"))))
        };
        timeout(READ_TIMEOUT, read)
            .await
            .unwrap_or_else(|_| Err(SourceError::new(format!("reading took longer than {} s", READ_TIMEOUT.as_secs()))))
    }
}

impl Source for FileSource {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// Reads the whole list. *Cost*: blocks.
fn list(path: &Path) -> Result<Vec<Found>, SourceError> {
    let kind = fs::metadata(path).map_err(|error| about(path, &error))?;
    let mut left = BYTES_MAX;
    let all = match kind.is_dir() {
        true => {
            let mut all = Vec::new();
            for file in files(path)? {
                all.append(&mut one(&file, &mut left)?);
            }
            all
        }
        false => one(path, &mut left)?,
    };
    records::in_order(all)
}

/// The files of a folder that hold endpoints, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let failed = |error: io::Error| about(folder, &error);
    let mut files = Vec::new();
    for (n, entry) in fs::read_dir(folder).map_err(failed)?.enumerate() {
        let path = entry.map_err(failed)?.path();
        if n == ENTRIES_MAX {
            return Err(SourceError::new(format!("more than {ENTRIES_MAX} files in the folder")));
        }
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|end| end == "json" || end == "toml") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(SourceError::new("no file that ends in .json or .toml is in the folder"));
    }
    files.sort();
    Ok(files)
}

/// Reads one file; `left` is how much may still be read.
fn one(path: &Path, left: &mut u64) -> Result<Vec<Found>, SourceError> {
    let failed = |error: io::Error| about(path, &error);
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(about(path, &"neither a file nor a folder"));
    }
    let mut text = Vec::new();
    let read = File::open(path).map_err(failed)?.take(*left + 1).read_to_end(&mut text).map_err(failed)?;
    *left = left
        .checked_sub(read as u64)
        .ok_or_else(|| about(path, &format_args!("more than {} MiB in all", BYTES_MAX >> 20)))?;
    let list = match path.extension().is_some_and(|end| end == "toml") {
        true => records::toml_list(&text),
        false => records::json_list(&text),
    };
    list.map_err(|error| about(path, &error))
}

fn about(path: &Path, why: &dyn std::fmt::Display) -> SourceError {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    SourceError::new(format!("{}: {why}", records::shortened(&name)))
}

/// As often as the kubelet renews mounted ConfigMaps.
const POLL: Duration = Duration::from_secs(30);
/// A disk that takes longer is a network that is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read at most, over all files: a hundred thousand endpoints with all keys.
const BYTES_MAX: u64 = 16 << 20;
/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 10_000;
