//! What every test needs: a run of a source, and waiting for what it says.

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use discovery::{Event, Found, Sink, Source, SourceError};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

/// One run of a source, which nobody starts again.
pub struct Run {
    events: Receiver<Event>,
    task: JoinHandle<SourceError>,
}

impl Run {
    pub fn of(source: impl Source) -> Self {
        Self::again(&Arc::new(source))
    }

    /// Another run of the same source.
    pub fn again(source: &Arc<impl Source + ?Sized>) -> Self {
        let (sink, events) = Sink::channel();
        let source = Arc::clone(source);
        Self { events, task: tokio::spawn(async move { source.run(&sink).await }) }
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        match soon(self.events.recv()).await {
            Some(event) => event,
            None => panic!("the run ended: {}", soon(&mut self.task).await.expect("it does not panic")),
        }
    }

    /// The next whole list; says nothing of what came alive before it.
    pub async fn list(&mut self) -> Vec<Found> {
        let mut event = self.event().await;
        while event == Event::Alive {
            event = self.event().await;
        }
        assert_eq!(event, Event::Begin, "a list begins");
        self.rest_of_list().await
    }

    /// Whether a list begins before the run ends.
    pub async fn begun(&mut self) -> bool {
        self.events.recv().await == Some(Event::Begin)
    }

    /// What is left of a list that has begun.
    pub async fn rest_of_list(&mut self) -> Vec<Found> {
        let mut list = Vec::new();
        loop {
            match self.event().await {
                Event::Upsert(mut piece) => list.append(&mut piece),
                Event::End => return list,
                event => panic!("{event:?} in a list"),
            }
        }
    }

    /// The ids of the next whole list.
    pub async fn ids(&mut self) -> Vec<String> {
        ids(&self.list().await)
    }

    /// Asserts that the next event says that nothing changed.
    pub async fn alive(&mut self) {
        assert_eq!(self.event().await, Event::Alive);
    }

    /// Why the run ended, which it does without another word but that it lives.
    pub async fn error(self) -> String {
        self.failure().await.text().to_owned()
    }

    /// As [`Run::error`], with all that is known of it.
    pub async fn failure(mut self) -> SourceError {
        while let Some(event) = soon(self.events.recv()).await {
            assert_eq!(event, Event::Alive, "an error changes nothing");
        }
        soon(&mut self.task).await.expect("it does not panic")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn ids(list: &[Found]) -> Vec<String> {
    list.iter().map(|found| found.id.to_string()).collect()
}

/// Waits, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it comes in time")
}

/// A folder of its own that goes away with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dislocate-sources-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the folder for temporary files can be written");
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind harms no other test.
        let _kept = std::fs::remove_dir_all(&self.0);
    }
}

/// An address of 127/8 that nothing else uses, so that its ports are ours.
///
/// The kernel gives ports of 127.0.0.1 to whoever binds next; a server that is to listen on one that was free a moment
/// ago would find it taken by a test beside it.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 32 | (high & 31), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether the programs are there. Where the environment says CI, their absence is a failure.
pub fn needs_tools(tools: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let missing: Vec<_> =
        tools.iter().filter(|tool| !path.split(':').any(|folder| PathBuf::from(folder).join(tool).exists())).collect();
    if missing.is_empty() {
        return true;
    }
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none(), "{name} needs {missing:?}");
    std::io::Write::write_all(&mut std::io::stderr(), format!("NOT RUN (needs {missing:?}): {name}\n").as_bytes())
        .expect("standard error is writable");
    false
}

const DEADLINE: Duration = Duration::from_secs(60);

/// How long a server of a test may take that is to answer: longer than a busy machine stands still.
pub const PATIENCE: Duration = Duration::from_secs(30);
