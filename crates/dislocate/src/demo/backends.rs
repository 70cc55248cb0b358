//! The backends: echo servers on a thread of their own, as far away, as slow and as dead as the story wants them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::layout::{BACKENDS, Layout, PLACES};

/// How a backend should behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Whether its port is open. A backend whose port is closed still answers the connections that it has.
    pub serving: bool,
    /// What a connection takes, and again every answer.
    pub delay: Duration,
}

impl Wish {
    /// As it is when nothing is wrong.
    pub fn well(index: usize) -> Self {
        Self { serving: true, delay: PLACES[index].distance }
    }
}

/// The running backends. Dropping it ends them.
pub struct Backends {
    sites: Vec<Site>,
    trouble: Arc<OnceLock<String>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Site {
    wish: watch::Sender<Wish>,
    /// Connections that got an answer.
    served: Arc<AtomicU64>,
}

impl Backends {
    /// Starts them on sockets that are open already, in the order of [`PLACES`].
    ///
    /// *Errors*: a thread or an event loop cannot be had.
    pub fn start(layout: Layout, sockets: Vec<std::net::TcpListener>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the event loop of the backends")?;
        let (stop, trouble) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let mut sites = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            let (wish, wished) = watch::channel(Wish::well(index));
            let served = Arc::new(AtomicU64::new(0));
            let server = Server { addr: layout.backend(index), wished, served: Arc::clone(&served) };
            let trouble = Arc::clone(&trouble);
            runtime.spawn(async move {
                let addr = server.addr;
                if let Err(error) = server.run(socket).await {
                    // The first trouble is the one to tell.
                    let _told = trouble.set(format!("cannot listen on {addr}, a backend of the demo: {error}"));
                }
            });
            sites.push(Site { wish, served });
        }
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("demo-backends".into());
        let thread = thread.spawn(move || runtime.block_on(stopped.cancelled()));
        Ok(Self { sites, trouble, stop, thread: Some(thread.context("cannot start the thread of the backends")?) })
    }

    /// Tells a backend how to behave from now on.
    pub fn wish(&self, index: usize, wish: Wish) {
        self.sites[index].wish.send_replace(wish);
    }

    /// How a backend was told to behave.
    pub fn wished(&self, index: usize) -> Wish {
        *self.sites[index].wish.borrow()
    }

    /// Connections that each has answered.
    pub fn served(&self) -> [u64; BACKENDS] {
        std::array::from_fn(|index| self.sites[index].served.load(Relaxed))
    }

    /// What keeps a backend from doing as it was told.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop.cancel();
        // Nothing on that thread blocks, so it ends at once; a panic in it was printed.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

struct Server {
    addr: SocketAddr,
    wished: watch::Receiver<Wish>,
    served: Arc<AtomicU64>,
}

impl Server {
    async fn run(mut self, socket: std::net::TcpListener) -> io::Result<()> {
        let mut open = Some(adopt(socket)?);
        loop {
            let changed = match &open {
                Some(listener) => tokio::select! {
                    accepted = listener.accept() => {
                        match accepted {
                            Ok((stream, _)) => self.answer(stream),
                            // Descriptors are short, or the client is gone already.
                            Err(_) => sleep(BACK_OFF).await,
                        }
                        continue;
                    }
                    changed = self.wished.changed() => changed,
                },
                None => self.wished.changed().await,
            };
            if changed.is_err() {
                return Ok(());
            }
            let wish = *self.wished.borrow_and_update();
            open = match open {
                None if wish.serving => Some(reopen(self.addr).await?),
                Some(listener) if !wish.serving => {
                    self.close(listener)?;
                    None
                }
                same => same,
            };
        }
    }

    /// Closes the port, after taking what is queued there: the kernel has told those clients that they are connected,
    /// and would reset them.
    fn close(&self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.answer(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn answer(&self, stream: TcpStream) {
        let (wished, served) = (self.wished.clone(), Arc::clone(&self.served));
        tokio::spawn(async move {
            // A client or a health check that goes away is no trouble.
            let _gone = echo(stream, &wished, &served).await;
        });
    }
}

fn adopt(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Opens the port again; somebody may have taken it for a moment.
async fn reopen(addr: SocketAddr) -> io::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(addr).await {
            Err(_) if tries < REOPEN_TRIES => tries += 1,
            outcome => return outcome,
        }
        sleep(BACK_OFF).await;
    }
}

async fn echo(mut stream: TcpStream, wished: &watch::Receiver<Wish>, served: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // On loopback a connection is there at once; this is its way to a place that is not here.
    far_away(wished).await;
    let (mut chunk, mut answered) = ([0; CHUNK_BYTES], false);
    loop {
        let count = timeout(IDLE_TIMEOUT, stream.read(&mut chunk)).await??;
        if count == 0 {
            return Ok(());
        }
        far_away(wished).await;
        // Counted first: whoever has the answer must find it counted.
        served.fetch_add(u64::from(!std::mem::replace(&mut answered, true)), Relaxed);
        stream.write_all(&chunk[..count]).await?;
    }
}

async fn far_away(wished: &watch::Receiver<Wish>) {
    let delay = wished.borrow().delay;
    sleep(delay.saturating_sub(ROUNDING)).await;
}

/// More than one request of the load.
const CHUNK_BYTES: usize = 4_096;
/// What the event loop adds to a sleep: its clock and its waiting both have whole milliseconds, and round up.
const ROUNDING: Duration = Duration::from_micros(900);
/// Connections of people who try the port by hand end some time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause after a failure to accept or to open.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Tries to open a port again, so many pauses long.
const REOPEN_TRIES: u32 = 40;
