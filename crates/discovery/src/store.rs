//! The snapshot on disk, from which services start while their registries are away.
//!
//! Two generations, `endpoints.snap` and `endpoints.snap.1`. Nothing here is fatal: without a snapshot a service starts
//! with what its sources say, and without a disk it goes on with what it has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::snapshot::Remembered;

/// A directory of snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// The newest snapshot that can be read, or nothing. A bad one is set aside as `NAME.bad`, for people to look at.
    pub(crate) fn load(&self, now: SystemTime) -> Remembered {
        for name in [CURRENT, PREVIOUS] {
            let path = self.dir.join(name);
            match read(&path, now) {
                Ok(remembered) => {
                    let endpoints = remembered.len();
                    tracing::info!(path = %path.display(), endpoints, "backends of the last run are remembered");
                    return remembered;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a snapshot of backends cannot be used");
                    if let Err(error) = fs::rename(&path, self.dir.join(format!("{name}.bad"))) {
                        tracing::warn!(path = %path.display(), %error, "nor can it be set aside");
                    }
                }
            }
        }
        Remembered::default()
    }

    /// Writes a new snapshot; the one before becomes the previous one. At every moment one of them is whole on disk.
    pub(crate) fn save(&self, remembered: &Remembered) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let (new, current) = (self.dir.join(NEW), self.dir.join(CURRENT));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(remembered.encode().as_bytes())?;
        file.sync_all()?;
        match fs::rename(&current, self.dir.join(PREVIOUS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::rename(&new, &current)?;
        // The names are on disk when the directory is.
        File::open(&self.dir)?.sync_all()
    }
}

fn read(path: &Path, now: SystemTime) -> io::Result<Remembered> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if now.duration_since(meta.modified()?).is_ok_and(|age| age > AGE_MAX) {
        return Err(io::Error::other("it is more than a week old"));
    }
    if meta.len() > SIZE_MAX_BYTES {
        return Err(io::Error::other("it is too large"));
    }
    let mut text = String::new();
    file.take(SIZE_MAX_BYTES).read_to_string(&mut text)?;
    Remembered::decode(&text).map_err(|unreadable| io::Error::other(unreadable.to_string()))
}

const CURRENT: &str = "endpoints.snap";
const PREVIOUS: &str = "endpoints.snap.1";
const NEW: &str = "endpoints.snap.new";
/// A snapshot is written once an hour at least. After a week away, addresses may belong to somebody else.
const AGE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Three million endpoints.
const SIZE_MAX_BYTES: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use balance::{Endpoint, Facts, Zone};

    use super::*;

    /// A directory that is gone with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dislocate-store-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn snapshot(port: u16) -> Remembered {
        let endpoint = Endpoint {
            address: std::net::SocketAddr::from(([10, 0, 0, 1], port)).into(),
            weight: 1,
            zone: Zone::default(),
            priority: 0,
            facts: Facts::default(),
            server_id: None,
        };
        let mut remembered = Remembered::default();
        remembered.add(&"web".into(), &"dns".into(), 1, endpoint);
        remembered
    }

    #[test]
    fn a_bad_snapshot_is_set_aside_and_the_one_before_is_used() {
        let dir = Dir::new("bad");
        let (store, now) = (Store::new(&dir.0.join("deep/er")), SystemTime::now());
        assert_eq!(store.load(now), Remembered::default(), "there is none yet");
        store.save(&snapshot(1)).unwrap();
        store.save(&snapshot(2)).unwrap();
        assert_eq!(store.load(now), snapshot(2));
        fs::write(store.dir.join(CURRENT), b"\xff\xfe\0").unwrap();
        assert_eq!(store.load(now), snapshot(1));
        assert!(store.dir.join("endpoints.snap.bad").exists() && !store.dir.join(CURRENT).exists());
        store.save(&snapshot(3)).unwrap();
        assert_eq!(store.load(now), snapshot(3), "it goes on as if nothing had happened");
    }

    #[test]
    fn a_snapshot_of_long_ago_is_not_used() {
        let dir = Dir::new("old");
        let (store, now) = (Store::new(&dir.0), SystemTime::now());
        store.save(&snapshot(1)).unwrap();
        assert_eq!(store.load(now + AGE_MAX / 2), snapshot(1));
        assert_eq!(store.load(now + AGE_MAX * 2), Remembered::default());
        assert!(dir.0.join("endpoints.snap.bad").exists());
    }

    #[test]
    fn a_disk_that_takes_nothing_is_an_error_and_no_more() {
        let dir = Dir::new("full");
        fs::write(dir.0.join("file"), "").unwrap();
        let store = Store::new(&dir.0.join("file"));
        assert!(store.save(&snapshot(1)).is_err());
        assert_eq!(store.load(SystemTime::now()), Remembered::default());
    }
}
