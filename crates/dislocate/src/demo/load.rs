//! The clients: requests at a steady pace, each on a connection of its own, from a thread of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::latencies::Latencies;

/// What clients felt since they were asked last.
#[derive(Clone, Debug, Default)]
pub struct Felt {
    /// Connections that were established.
    pub connected: u64,
    /// How long the requests took that got the right answer, from before the connection to the last byte.
    pub answered: Latencies,
    /// Requests that got no answer.
    pub failed: u64,
    /// Requests that got another answer than they should.
    pub wrong: u64,
    /// What was wrong with the first request that failed.
    pub first_failure: Option<String>,
}

impl Felt {
    /// Adds what was felt later.
    pub fn add(&mut self, later: Self) {
        self.connected += later.connected;
        self.answered.add(&later.answered);
        self.failed += later.failed;
        self.wrong += later.wrong;
        self.first_failure = self.first_failure.take().or(later.first_failure);
    }

    /// Requests that did not get what they came for.
    pub fn errors(&self) -> u64 {
        self.failed + self.wrong
    }

    /// Requests that are over.
    pub fn requests(&self) -> u64 {
        self.answered.count() + self.errors()
    }
}

/// The running clients. Dropping it ends them.
pub struct Load {
    felt: Arc<Mutex<Felt>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts them.
    ///
    /// *Errors*: a thread or an event loop cannot be had.
    pub fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the event loop of the clients")?;
        let (felt, stop) = (Arc::<Mutex<Felt>>::default(), CancellationToken::new());
        let clients = Clients { target, felt: Arc::clone(&felt), room: Arc::new(Semaphore::new(AT_ONCE)) };
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("demo-clients".into());
        let thread = thread.spawn(move || runtime.block_on(clients.run(&stopped)));
        Ok(Self { felt, stop, thread: Some(thread.context("cannot start the thread of the clients")?) })
    }

    /// What was felt since the last call.
    pub fn take(&self) -> Felt {
        std::mem::take(&mut *lock(&self.felt))
    }

    /// Starts no requests any more.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether all requests are over, after [`Load::stop`].
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
        // Ends within the time that a request may take; a panic in it was printed.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

#[derive(Clone)]
struct Clients {
    target: SocketAddr,
    felt: Arc<Mutex<Felt>>,
    room: Arc<Semaphore>,
}

impl Clients {
    async fn run(self, stop: &CancellationToken) {
        let mut pace = interval(Duration::from_secs(1) / REQUESTS_PER_SECOND);
        // Requests come at their time whether or not those before are over, as those of strangers do.
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut number = 0;
        let next = async |pace: &mut Interval| {
            pace.tick().await;
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                return Ok(permit);
            }
            // A machine that cannot keep the pace gets a slower one, from then on.
            let permit = Arc::clone(&self.room).acquire_owned().await;
            pace.reset();
            permit
        };
        // The semaphore is never closed, so only being stopped ends this.
        while let Some(Ok(permit)) = stop.run_until_cancelled(next(&mut pace)).await {
            number += 1;
            let client = self.clone();
            tokio::spawn(async move {
                client.request(number).await;
                drop(permit);
            });
        }
        // All permits back is all requests over, each of which has its own time limit.
        let _all = self.room.acquire_many(AT_ONCE as u32).await;
    }

    async fn request(&self, number: u64) {
        let began = Instant::now();
        let outcome = timeout(PATIENCE, self.ask(&question(number))).await;
        let no_answer = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}")));
        let outcome = outcome.unwrap_or_else(no_answer);
        self.note(outcome.map(|right| right.then(|| began.elapsed())));
    }

    /// Asks on a connection of its own; whether the answer was right.
    async fn ask(&self, question: &[u8]) -> io::Result<bool> {
        let mut stream = TcpStream::connect(self.target).await?;
        lock(&self.felt).connected += 1;
        stream.set_nodelay(true)?;
        stream.write_all(question).await?;
        let mut answer = vec![0; question.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer == question)
    }

    fn note(&self, outcome: io::Result<Option<Duration>>) {
        let mut felt = lock(&self.felt);
        match outcome {
            Ok(Some(took)) => felt.answered.note(took),
            Ok(None) => felt.wrong += 1,
            Err(error) => {
                felt.failed += 1;
                felt.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

fn lock(felt: &Mutex<Felt>) -> MutexGuard<'_, Felt> {
    // Counts are whole after every statement, whoever panics.
    felt.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that no other request has, so that an answer to somebody else is noticed.
fn question(number: u64) -> Vec<u8> {
    let length = 64 + (number % 16) as usize * 48;
    number.to_le_bytes().into_iter().cycle().zip(0u8..=255).map(|(byte, at)| byte ^ at).cycle().take(length).collect()
}

/// Enough for percentiles within a second, and little enough for a small machine that has other work.
pub const REQUESTS_PER_SECOND: u32 = 400;
/// Requests at once: several times those that are under way while each takes as long as the farthest backend.
const AT_ONCE: usize = 128;
/// How long a client waits for its answer: five times the proxy's patience with a backend.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_requests_ask_the_same() {
        let questions: std::collections::HashSet<_> = (0..10_000).map(question).collect();
        assert_eq!(questions.len(), 10_000, "an answer belongs to one question");
    }

    #[test]
    fn what_is_felt_adds_up() {
        let mut felt = Felt { connected: 3, failed: 1, first_failure: Some("first".into()), ..Felt::default() };
        let mut later = Felt { connected: 2, wrong: 1, first_failure: Some("second".into()), ..Felt::default() };
        later.answered.note(Duration::from_millis(1));

        felt.add(later);

        assert_eq!((felt.connected, felt.errors(), felt.requests()), (5, 2, 3));
        assert_eq!(felt.first_failure.as_deref(), Some("first"), "the first failure is the one to tell");
    }
}
