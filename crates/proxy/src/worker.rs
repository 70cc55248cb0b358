//! A data-plane thread: one event loop, its sessions, and the commands it takes.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use balance::{Epoch, Rng, Zone};
use slab::Slab;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::accept::{self, Acceptor, Reserve};
use crate::bind::Shard;
use crate::leg::scratch;
use crate::listener::Listener;
use crate::pipe::PipePool;
use crate::record::{Reason, RecordSink};
use crate::relay::Tools;
use crate::session::{Session, SessionView};
use crate::stats::CrossZone;
use crate::udp::{self, Engine, WhatOfFlows};

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) epoch: Epoch,
    pub(crate) zone: Zone,
    pub(crate) sink: Option<RecordSink>,
    pub(crate) cross_zone: Arc<CrossZone>,
    /// `max_connections` of the process; 0 is no limit but the descriptors.
    pub(crate) max_connections: Arc<AtomicU32>,
    /// Where datagrams are listened for, which are not taken from there.
    pub(crate) own: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// Shortest timeout of all listeners in milliseconds: how often to look for sessions past theirs.
    pub(crate) shortest_timeout_ms: Arc<AtomicU64>,
}

/// An order to a worker.
pub(crate) enum Command {
    /// Accept for `listener` on this socket, under this number.
    Start { number: u64, listener: Arc<Listener>, shard: Shard },
    /// Take what is queued on the socket of that number, and close it. Its sessions go on; of flows, which cannot do
    /// without it, `flows` says what they do.
    Stop { number: u64, flows: WhatOfFlows },
    /// Describe up to `limit` sessions.
    Sessions { limit: usize, reply: oneshot::Sender<Vec<SessionView>> },
    /// End all sessions for this reason.
    Cut { reason: Reason },
    /// Leave the event loop.
    Exit,
}

/// A worker as the rest of the program holds it.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts a worker's thread.
    pub(crate) fn spawn(index: usize, seed: u64, pipes: PipePoolParts, shared: Shared) -> io::Result<Self> {
        let (commands, orders) = mpsc::channel(COMMANDS);
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let built = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match built {
                Ok(runtime) => runtime.block_on(serve(Rc::new(Worker::new(index, seed, pipes, shared)), orders)),
                Err(error) => tracing::error!(index, %error, "cannot start a worker's event loop"),
            }
        })?;
        Ok(Self { commands, thread })
    }

    /// Gives an order. A worker that is gone has nothing left to do it to.
    pub(crate) async fn order(&self, command: Command) {
        let _gone = self.commands.send(command).await;
    }

    /// A sender of orders for whoever must not hold the handle.
    pub(crate) fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Waits for the thread.
    pub(crate) fn join(self) {
        drop(self.commands);
        if self.thread.join().is_err() {
            tracing::error!("a worker's thread panicked");
        }
    }
}

/// What a worker makes its pipe pool of.
pub(crate) type PipePoolParts = (Arc<balance::Ledger>, Arc<crate::pipe::PipeCounters>);

/// The state of a worker that its tasks share.
pub(crate) struct Worker {
    index: usize,
    shared: Shared,
    rng: RefCell<Rng>,
    scratch: RefCell<Box<[u8]>>,
    pipes: PipePool,
    sessions: RefCell<Slab<Entry>>,
    reserve: Reserve,
    /// By the numbers of their sockets.
    engines: RefCell<BTreeMap<u64, Rc<Engine>>>,
    /// Made with the first engine.
    datagrams: RefCell<Option<Box<udp::Tools>>>,
    issued_ids: Cell<u64>,
    complained: Cell<Option<Instant>>,
}

/// A session in the registry. The handle is missing for the moment between registering and spawning.
#[derive(Debug)]
struct Entry {
    session: Rc<Session>,
    task: Option<AbortHandle>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Worker {
    fn new(index: usize, seed: u64, (ledger, counters): PipePoolParts, shared: Shared) -> Self {
        Self {
            index,
            shared,
            rng: RefCell::new(Rng::new(seed)),
            scratch: RefCell::new(scratch()),
            pipes: PipePool::new(ledger, counters),
            sessions: RefCell::default(),
            reserve: Reserve::new(),
            engines: RefCell::default(),
            datagrams: RefCell::default(),
            issued_ids: Cell::new(0),
            complained: Cell::new(None),
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.shared.epoch.millis(Instant::now())
    }

    pub(crate) fn rng(&self) -> RefMut<'_, Rng> {
        self.rng.borrow_mut()
    }

    pub(crate) fn zone(&self) -> &Zone {
        &self.shared.zone
    }

    pub(crate) fn sink(&self) -> Option<&RecordSink> {
        self.shared.sink.as_ref()
    }

    pub(crate) fn cross_zone(&self) -> &CrossZone {
        &self.shared.cross_zone
    }

    pub(crate) fn max_connections(&self) -> u32 {
        self.shared.max_connections.load(Relaxed)
    }

    pub(crate) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    pub(crate) fn tools(&self) -> Tools<'_> {
        Tools { scratch: &self.scratch, pipes: &self.pipes }
    }

    /// What moves datagrams.
    pub(crate) fn datagrams(&self) -> RefMut<'_, udp::Tools> {
        RefMut::map(self.datagrams.borrow_mut(), |tools| {
            &mut **tools.get_or_insert_with(|| Box::new(udp::Tools::new()))
        })
    }

    /// Whether a datagram from `addr` to `local` comes from ourselves.
    pub(crate) fn is_own(&self, addr: SocketAddr, local: Option<SocketAddr>) -> bool {
        udp::is_listening(&self.shared.own.load(), addr, local)
    }

    /// A number that no other session of this process has: the worker in the upper bits.
    pub(crate) fn next_id(&self) -> u64 {
        let id = self.issued_ids.get();
        self.issued_ids.set(id + 1);
        ((self.index as u64) << SESSION_BITS) | id
    }

    pub(crate) fn register(&self, session: &Rc<Session>) -> usize {
        self.sessions.borrow_mut().insert(Entry { session: Rc::clone(session), task: None })
    }

    pub(crate) fn attach(&self, key: usize, task: AbortHandle) {
        self.sessions.borrow_mut()[key].task = Some(task);
    }

    pub(crate) fn deregister(&self, key: usize) {
        self.sessions.borrow_mut().remove(key);
    }

    /// Logs what is likely to repeat with every connection, at most once a second.
    pub(crate) fn complain(&self, log: impl FnOnce()) {
        let now = Instant::now();
        if self.complained.get().is_none_or(|last| now - last >= Duration::from_secs(1)) {
            self.complained.set(Some(now));
            log();
        }
    }

    fn start_engine(self: &Rc<Self>, number: u64, listener: &Arc<Listener>, shard: Shard) -> io::Result<()> {
        let engine = Rc::new(Engine::new(self, listener, shard)?);
        self.engines.borrow_mut().insert(number, Rc::clone(&engine));
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            engine.run().await;
            worker.engines.borrow_mut().remove(&number);
        });
        Ok(())
    }

    fn cut_flows(&self, reason: Reason) {
        self.engines.borrow().values().for_each(|engine| engine.cut(reason));
    }

    /// Ends the sessions for which `verdict` gives a reason.
    fn cut(&self, verdict: impl Fn(&Session) -> Option<Reason>) {
        for (_, Entry { session, task }) in self.sessions.borrow().iter() {
            if let (Some(reason), Some(task)) = (verdict(session), task) {
                session.condemn(reason);
                // The task is dropped by the event loop, not here.
                task.abort();
            }
        }
    }

    fn views(&self, limit: usize) -> Vec<SessionView> {
        let now = Instant::now();
        let mut views: Vec<SessionView> =
            self.sessions.borrow().iter().take(limit).map(|(_, entry)| entry.session.view(now)).collect();
        for engine in self.engines.borrow().values() {
            views.extend(engine.views(limit - views.len()));
        }
        views
    }

    /// How long until the next look at all sessions: a quarter of the shortest timeout, so that one is at most that
    /// much late.
    fn tick(&self) -> Duration {
        let shortest = Duration::from_millis(self.shared.shortest_timeout_ms.load(Relaxed));
        (shortest / 4).clamp(TICK_LEAST, TICK_MOST)
    }
}

/// The life of a worker: sessions and acceptors run beside this as tasks of the same thread.
async fn serve(worker: Rc<Worker>, mut orders: mpsc::Receiver<Command>) {
    let mut stops: HashMap<u64, CancellationToken> = HashMap::new();
    let mut ticks = 0u64;
    // Kept over orders, which must not put off the next look, however many they are.
    let mut look = Instant::now() + worker.tick();
    loop {
        // A timeout that has become shorter is heeded at once.
        look = look.min(Instant::now() + worker.tick());
        let order = tokio::select! {
            biased;
            () = tokio::time::sleep_until(look.into()) => {
                ticks += 1;
                look_around(&worker, ticks);
                look = Instant::now() + worker.tick();
                continue;
            }
            order = orders.recv() => order,
        };
        match order {
            Some(Command::Start { number, listener, shard: shard @ (Shard::Udp(_) | Shard::Datagram(_)) }) => {
                if let Err(error) = worker.start_engine(number, &listener, shard) {
                    tracing::error!(listener = listener.name(), %error, "cannot watch a listening socket");
                }
            }
            Some(Command::Start { number, listener, shard }) => match Acceptor::new(shard) {
                Ok(acceptor) => {
                    let stop = CancellationToken::new();
                    stops.insert(number, stop.clone());
                    tokio::task::spawn_local(accept::run(Rc::clone(&worker), listener, acceptor, stop));
                }
                Err(error) => tracing::error!(listener = listener.name(), %error, "cannot watch a listening socket"),
            },
            Some(Command::Stop { number, flows }) => {
                stops.remove(&number).into_iter().for_each(|stop| stop.cancel());
                let engine = worker.engines.borrow().get(&number).map(Rc::clone);
                engine.into_iter().for_each(|engine| engine.stop(flows));
            }
            Some(Command::Sessions { limit, reply }) => {
                // Whoever asked may have left.
                let _asker_gone = reply.send(worker.views(limit));
            }
            Some(Command::Cut { reason }) => {
                worker.cut(|_| Some(reason));
                worker.cut_flows(reason);
            }
            Some(Command::Exit) | None => return,
        }
    }
}

fn look_around(worker: &Worker, ticks: u64) {
    let now_ms = worker.now_ms();
    worker.cut(|session| session.inspect(now_ms));
    if ticks.is_multiple_of(TRIM_TICKS) {
        worker.pipes.trim();
    }
}

/// Orders that may wait. They are few: one for each address at a reload, one for each question.
const COMMANDS: usize = 64;
/// Sessions of one worker before numbers repeat: 2^48.
const SESSION_BITS: u32 = 48;
/// A second is soon enough for the usual timeouts; the least bounds the cost of very short ones.
const TICK_MOST: Duration = Duration::from_secs(1);
const TICK_LEAST: Duration = Duration::from_millis(20);
/// Idle pipes halve every ten looks.
const TRIM_TICKS: u64 = 10;
