//! The handle on the data plane: starts workers, applies listeners, drains, stops.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use balance::{Epoch, Ledger, Zone};
use tokio::sync::{mpsc, oneshot};

use crate::bind::{Bind, BindError, Bound, Inherited, Shard};
use crate::limits::Gauge;
use crate::listener::{Listener, ListenerSettings};
use crate::pipe::PipeCounters;
use crate::record::{Reason, RecordSink};
use crate::session::SessionView;
use crate::stats::CrossZone;
use crate::udp::WhatOfFlows;
use crate::worker::{Command, Shared, WorkerHandle};

/// What the data plane is started with. None of it changes while it runs, except through [`Proxy`].
pub struct Options {
    /// Threads.
    pub workers: usize,
    /// The time line.
    pub epoch: Epoch,
    /// The account of descriptors.
    pub ledger: Arc<Ledger>,
    /// The zone of this node.
    pub zone: Zone,
    /// Where session records go, if anywhere.
    pub sink: Option<RecordSink>,
    /// Sessions of the process; 0 is no limit but the descriptors.
    pub max_connections: u32,
    /// For the generators of the workers.
    pub seed: u64,
}

/// What a listener needs of the kernel.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub binds: Vec<Bind>,
    /// Silence after which the kernel asks whether a peer is still there.
    pub keepalive: Duration,
    /// Time for which sent data may stay unacknowledged (TCP_USER_TIMEOUT).
    pub user_timeout: Duration,
}

impl Wanted {
    fn inherited(&self) -> Inherited {
        Inherited { keepalive: self.keepalive, user_timeout: self.user_timeout }
    }
}

/// A listener as it should be.
#[derive(Clone, Debug)]
pub struct ListenerSpec {
    /// Its name and sockets.
    pub wanted: Wanted,
    /// What is in force for its sessions.
    pub settings: ListenerSettings,
}

/// Addresses that are open for a configuration that is not applied yet.
#[must_use = "dropping it closes the addresses again"]
pub struct Prepared {
    fresh: HashMap<Key, Ready>,
}

/// An open address and its sockets for the workers.
struct Ready {
    bound: Bound,
    shards: Vec<Shard>,
}

/// A listener as it is.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// The listener.
    pub listener: Arc<Listener>,
    /// Its addresses, with the ports that they really have.
    pub addresses: Vec<Bind>,
}

/// The running data plane.
pub struct Proxy {
    workers: Vec<WorkerHandle>,
    shared: Shared,
    ledger: Arc<Ledger>,
    sessions: Arc<Gauge>,
    pipes: Arc<PipeCounters>,
    listeners: BTreeMap<String, Arc<Listener>>,
    /// In the order of the configuration.
    open: Vec<Open>,
    issued_numbers: u64,
}

/// An open address and who listens on it.
struct Open {
    key: Key,
    listener: Arc<Listener>,
    bound: Bound,
    inherited: Inherited,
    /// Under which the workers know it.
    number: u64,
}

impl Open {
    /// Whether this is the address that `key` asks for: the same wish, or the port that a wish was given, named.
    fn serves(&self, key: &Key) -> bool {
        self.key == *key || *self.bound.address() == key.bind
    }
}

/// What makes an address of a new configuration the same as one that is open. Port 0 is a wish, not an address, so it
/// belongs to the listener and the place in its list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    bind: Bind,
    wish: Option<(String, usize)>,
}

impl Proxy {
    /// Starts the workers, without listeners.
    pub fn start(options: Options) -> io::Result<Self> {
        let pipes = Arc::new(PipeCounters::default());
        let shared = Shared {
            epoch: options.epoch,
            zone: options.zone,
            sink: options.sink,
            cross_zone: Arc::default(),
            max_connections: Arc::new(AtomicU32::new(options.max_connections)),
            own: Arc::default(),
            shortest_timeout_ms: Arc::new(AtomicU64::new(u64::MAX)),
        };
        let spawn = |index| {
            let parts = (Arc::clone(&options.ledger), Arc::clone(&pipes));
            WorkerHandle::spawn(index, options.seed.wrapping_add(index as u64), parts, shared.clone())
        };
        let workers = (0..options.workers.max(1)).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self {
            workers,
            shared,
            ledger: options.ledger,
            sessions: Arc::default(),
            pipes,
            listeners: BTreeMap::new(),
            open: Vec::new(),
            issued_numbers: 0,
        })
    }

    /// Opens the addresses that `wanted` asks for and that are not open yet. Nothing else happens, so dropping the
    /// result takes everything back.
    ///
    /// *Errors*: the first address that cannot be opened.
    pub fn prepare(&self, wanted: &[Wanted]) -> Result<Prepared, BindError> {
        let mut fresh = HashMap::new();
        // In the order of `apply`, which gives each open address to the first who asks for it.
        let mut left: Vec<&Open> = self.open.iter().collect();
        for listener in wanted {
            for key in keys(&listener.name, &listener.binds) {
                if let Some(at) = left.iter().position(|open| open.serves(&key)) {
                    left.remove(at);
                    continue;
                }
                let opened = Bound::open(&key.bind, self.workers.len(), listener.inherited());
                let shards = opened.and_then(|bound| Ok((bound.shards()?, bound)));
                let (shards, bound) = shards.map_err(|source| BindError {
                    listener: listener.name.clone(),
                    address: key.bind.clone(),
                    source,
                })?;
                fresh.insert(key, Ready { bound, shards });
            }
        }
        Ok(Prepared { fresh })
    }

    /// Makes the listeners what `specs` says, with the addresses prepared for them. Established sessions go on in any
    /// case, and an address that stays open loses no connection.
    ///
    /// *Panics*: `prepared` was made for other listeners. *Cancel safety*: none; run it to its end.
    pub async fn apply(&mut self, specs: Vec<ListenerSpec>, prepared: Prepared) {
        let mut fresh = prepared.fresh;
        let shortest = specs.iter().flat_map(|spec| [spec.settings.idle_timeout, spec.settings.half_close_timeout]);
        let shortest_ms = shortest.min().map_or(u64::MAX, |timeout| timeout.as_millis() as u64);
        self.shared.shortest_timeout_ms.store(shortest_ms, Relaxed);

        let mut before = std::mem::take(&mut self.open);
        let mut listeners = BTreeMap::new();
        for spec in specs {
            let listener = self.listener(&spec);
            for key in keys(&spec.wanted.name, &spec.wanted.binds) {
                match before.iter().position(|open| open.serves(&key)) {
                    Some(at) => {
                        let open = Open { key, ..before.remove(at) };
                        self.keep(open, &spec.wanted, &listener).await;
                    }
                    None => {
                        let ready = fresh.remove(&key).expect("every missing address was prepared");
                        self.begin(key, ready, &spec.wanted, &listener).await;
                    }
                }
            }
            listeners.insert(spec.wanted.name, listener);
        }
        self.listeners = listeners;
        for open in before {
            self.end(open, WhatOfFlows::End).await;
        }
        let udp = |open: &Open| match open.bound.address() {
            Bind::Udp(addr) => Some(*addr),
            Bind::Inet(_) | Bind::Unix(_) | Bind::Datagram(_) => None,
        };
        self.shared.own.store(Arc::new(self.open.iter().filter_map(udp).collect()));
    }

    /// The listener of that name, which keeps its counts, with the settings of now.
    fn listener(&self, spec: &ListenerSpec) -> Arc<Listener> {
        if let Some(listener) = self.listeners.get(&spec.wanted.name) {
            listener.replace(spec.settings.clone());
            return Arc::clone(listener);
        }
        let (process, ledger) = (Arc::clone(&self.sessions), Arc::clone(&self.ledger));
        let name = spec.wanted.name.as_str().into();
        Arc::new(Listener::new(name, spec.settings.clone(), self.workers.len(), process, ledger))
    }

    /// Goes on with an open address, perhaps for another listener.
    async fn keep(&mut self, mut open: Open, wanted: &Wanted, listener: &Arc<Listener>) {
        if open.inherited != wanted.inherited() {
            match open.bound.inherit(wanted.inherited()) {
                Ok(()) => open.inherited = wanted.inherited(),
                Err(error) => tracing::warn!(listener = wanted.name, %error, "cannot change keepalive of a socket"),
            }
        }
        if Arc::ptr_eq(&open.listener, listener) {
            self.open.push(open);
            return;
        }
        match open.bound.shards() {
            Ok(shards) => {
                // Both acceptors have the same sockets for a moment, so nothing is lost between them.
                let stopped = open.number;
                self.begin(open.key, Ready { bound: open.bound, shards }, wanted, listener).await;
                self.order_all(|| Command::Stop { number: stopped, flows: WhatOfFlows::End }).await;
            }
            Err(error) => {
                tracing::error!(listener = wanted.name, %error, "cannot hand an address over; its old listener keeps it");
                self.open.push(open);
            }
        }
    }

    /// Has all workers accept on an address.
    async fn begin(&mut self, key: Key, ready: Ready, wanted: &Wanted, listener: &Arc<Listener>) {
        self.issued_numbers += 1;
        let number = self.issued_numbers;
        // What comes on a unix datagram socket has no address that would bring a client to the same worker again.
        let most = if matches!(key.bind, Bind::Datagram(_)) { 1 } else { usize::MAX };
        for (worker, shard) in self.workers.iter().zip(ready.shards).take(most) {
            worker.order(Command::Start { number, listener: Arc::clone(listener), shard }).await;
        }
        let (listener, inherited) = (Arc::clone(listener), wanted.inherited());
        self.open.push(Open { key, listener, bound: ready.bound, inherited, number });
    }

    /// Closes an address. The workers take what is queued first.
    async fn end(&self, open: Open, flows: WhatOfFlows) {
        let number = open.number;
        drop(open);
        self.order_all(|| Command::Stop { number, flows }).await;
    }

    /// Closes all addresses; sessions go on, and flows with the socket that they need.
    pub async fn stop_accepting(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.end(open, WhatOfFlows::GoOn).await;
        }
    }

    /// Cuts all sessions, by reset.
    pub async fn cut(&self, reason: Reason) {
        self.order_all(|| Command::Cut { reason }).await;
    }

    /// Ends the workers. Sessions that are left are cut without a word, so [`Proxy::cut`] comes before.
    pub async fn exit(mut self) {
        self.order_all(|| Command::Exit).await;
        for worker in std::mem::take(&mut self.workers) {
            // A worker leaves within one turn of its event loop.
            worker.join();
        }
    }

    /// A handle for asking about sessions.
    pub fn session_list(&self) -> SessionList {
        SessionList { workers: self.workers.iter().map(WorkerHandle::commands).collect() }
    }

    /// The listeners, by name.
    pub fn listeners(&self) -> Vec<ListenerView> {
        let addresses = |listener: &Arc<Listener>| {
            let own = self.open.iter().filter(|open| Arc::ptr_eq(&open.listener, listener));
            own.map(|open| open.bound.address().clone()).collect()
        };
        let view = |listener| ListenerView { addresses: addresses(listener), listener: Arc::clone(listener) };
        self.listeners.values().map(view).collect()
    }

    /// Sessions of the process now.
    pub fn active(&self) -> u32 {
        self.sessions.value()
    }

    /// The process's pipes.
    pub fn pipes(&self) -> Arc<PipeCounters> {
        Arc::clone(&self.pipes)
    }

    /// Bytes between zones.
    pub fn cross_zone(&self) -> Arc<CrossZone> {
        Arc::clone(&self.shared.cross_zone)
    }

    /// Changes the limit of the process; 0 is none.
    pub fn set_max_connections(&self, limit: u32) {
        self.shared.max_connections.store(limit, Relaxed);
    }

    async fn order_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.order(command()).await;
        }
    }
}

/// Asks the workers about their sessions.
#[derive(Clone, Debug)]
pub struct SessionList {
    workers: Vec<mpsc::Sender<Command>>,
}

impl SessionList {
    /// Up to `limit` sessions of each worker.
    pub async fn list(&self, limit: usize) -> Vec<SessionView> {
        let mut views = Vec::new();
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            // A worker that is gone has no sessions.
            let _gone = worker.send(Command::Sessions { limit, reply }).await;
            views.extend(answer.await.unwrap_or_default());
        }
        views
    }
}

fn keys<'a>(name: &'a str, binds: &'a [Bind]) -> impl Iterator<Item = Key> + use<'a> {
    let wish = move |at: usize, bind: &Bind| match bind {
        Bind::Inet(addr) | Bind::Udp(addr) if addr.port() == 0 => Some((name.to_owned(), at)),
        Bind::Inet(_) | Bind::Udp(_) | Bind::Unix(_) | Bind::Datagram(_) => None,
    };
    binds.iter().enumerate().map(move |(at, bind)| Key { bind: bind.clone(), wish: wish(at, bind) })
}
