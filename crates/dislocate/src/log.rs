//! Events and session records, written so that nobody who carries traffic ever waits for whoever reads them.
//!
//! Each destination has a bounded queue and a thread of its own. A reader that is slow, a disk that is full or a FIFO
//! that nobody reads costs lines, which are counted, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proxy::{Record, RecordSink};
use rustix::fs::OFlags;
use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A line on its way to a destination.
enum Line {
    /// Ready to be written.
    Text(Vec<u8>),
    /// A record, still to be put into words: that is not for the data path to do.
    Record(Box<Record>),
    /// Open the file anew: somebody has moved it away.
    Reopen,
    /// Say when all that came before is written.
    Flush(SyncSender<()>),
}

/// Lines that were thrown away, over all destinations.
pub type Dropped = Arc<AtomicU64>;

/// The queue of one destination.
#[derive(Clone)]
pub struct Queue {
    lines: SyncSender<Line>,
    dropped: Dropped,
}

impl Queue {
    /// A destination that writes to standard error.
    pub fn stderr(dropped: &Dropped) -> Self {
        Self::start(Target::Stderr, dropped)
    }

    /// A destination that appends to a file.
    ///
    /// *Errors*: the file cannot be opened.
    pub fn file(path: &Path, dropped: &Dropped) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self::start(Target::File { path: path.to_owned(), file: Some(file) }, dropped))
    }

    fn start(target: Target, dropped: &Dropped) -> Self {
        let (lines, queued) = sync_channel(QUEUE_LINES);
        let lost = Arc::clone(dropped);
        // Detached: a write may never return, and must not keep the process.
        std::thread::spawn(move || write_all(target, &queued, &lost));
        Self { lines, dropped: Arc::clone(dropped) }
    }

    /// A sink for session records.
    pub fn sink(&self) -> RecordSink {
        let queue = self.clone();
        Arc::new(move |record| queue.put(Line::Record(Box::new(record))))
    }

    /// Opens a file anew.
    pub fn reopen(&self) {
        self.put(Line::Reopen);
    }

    /// Waits until what is queued is written, or for `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        let deadline = Instant::now() + limit;
        while self.lines.try_send(Line::Flush(done.clone())).is_err() {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::park_timeout(FLUSH_LOOK);
        }
        // A destination that is stuck keeps its lines; the limit is what was promised.
        let _in_time = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn put(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// What tracing writes one event to.
pub struct EventWriter {
    queue: Queue,
    text: Vec<u8>,
}

impl Write for EventWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.queue.put(Line::Text(std::mem::take(&mut self.text)));
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = EventWriter;

    fn make_writer(&'a self) -> EventWriter {
        EventWriter { queue: self.clone(), text: Vec::new() }
    }
}

/// Sends events to `queue`: as text for a person at a terminal, as one JSON object a line otherwise. `RUST_LOG` chooses
/// what is told; information and worse unless it says otherwise.
pub fn init_events(queue: Queue, terminal: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue).with_target(false);
    // Fails when a subscriber is there already, as in a program that embeds this one; it knows better then.
    let _already_set = match terminal {
        true => events.try_init(),
        false => events.json().flatten_event(true).try_init(),
    };
}

enum Target {
    Stderr,
    File { path: PathBuf, file: Option<File> },
}

fn write_all(mut target: Target, queued: &Receiver<Line>, lost: &AtomicU64) {
    for line in queued {
        let text = match line {
            Line::Text(text) => text,
            Line::Record(record) => sentence(&record),
            Line::Reopen => {
                target.reopen();
                continue;
            }
            Line::Flush(done) => {
                // Whoever waited may have given up.
                let _waiter_gone = done.try_send(());
                continue;
            }
        };
        if target.write(&text).is_err() {
            lost.fetch_add(1, Relaxed);
        }
    }
}

impl Target {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(text),
            Self::File { file: Some(file), .. } => file.write_all(text),
            Self::File { file: None, .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn reopen(&mut self) {
        if let Self::File { path, file } = self {
            *file = open(path)
                .inspect_err(|error| tracing::error!(path = %path.display(), %error, "cannot reopen the session log"))
                .ok();
        }
    }
}

/// Opens a log for appending. A FIFO is opened for reading too, so that opening does not wait for a reader and writing
/// does not fail without one; and nothing is ever waited for.
fn open(path: &Path) -> io::Result<File> {
    let is_fifo = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().append(true).read(is_fifo).create(true).custom_flags(nonblocking).open(path)
}

/// A session's line.
fn sentence(record: &Record) -> Vec<u8> {
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let object = json!({
        "ts": timestamp(record.accepted),
        "event": "session",
        "session": record.session,
        "listener": &*record.listener,
        "protocol": record.protocol,
        "client": record.client.to_string(),
        "local": record.local.map(|addr| balance::Address::from(addr).to_string()),
        "service": &*record.service,
        "backend": record.backend.as_ref().map(ToString::to_string),
        "zone": record.zone.as_ref().map(|zone| zone.as_str()),
        "pick": record.pick.map(balance::PickReason::as_str),
        "score_ms": record.score_us.map(|micros| (f64::from(micros)).round() / 1e3),
        "queued_ms": millis(record.queued),
        "attempts": record.attempts,
        "connect_ms": record.connect.map(millis),
        "first_byte_ms": record.first_byte.map(millis),
        "duration_ms": millis(record.duration),
        "received_datagrams": record.received_datagrams,
        "sent_datagrams": record.sent_datagrams,
        "received_bytes": record.received_bytes,
        "sent_bytes": record.sent_bytes,
        "spliced_bytes": record.spliced_bytes,
        "reason": record.reason.as_str(),
    });
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar: years are counted from March, so that the leap
/// day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Lines that may wait: about 2 MiB of records, the load of a busy second.
const QUEUE_LINES: usize = 8_192;
/// How often a flush tries to get into a queue that is full.
const FLUSH_LOOK: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_what_date_prints() {
        // As GNU date says: date -u -d @SECONDS +%FT%TZ
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000Z"),
        ];
        for (seconds, printed) in cases {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), printed);
        }
    }
}
