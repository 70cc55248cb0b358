//! The handle on the data plane: starts workers, applies listeners, drains, stops.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use balance::{Epoch, Ledger, Zone};
use tokio::sync::oneshot;

use crate::bind::{Bind, BindError, Bound, Inherited};
use crate::limits::Gauge;
use crate::listener::{Listener, ListenerSettings};
use crate::pipe::PipeCounters;
use crate::record::{Reason, RecordSink};
use crate::session::SessionView;
use crate::stats::CrossZone;
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

/// A listener as it should be.
#[derive(Clone, Debug)]
pub struct ListenerSpec {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub binds: Vec<Bind>,
    /// What is in force for it.
    pub settings: ListenerSettings,
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
    listener: String,
    bound: Bound,
    inherited: Inherited,
    /// Under which the workers know it.
    number: u64,
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

    /// Makes the listeners what `specs` says: all of it, or on an error nothing. Established sessions go on in any
    /// case, and an address that stays open loses no connection.
    ///
    /// *Errors*: an address cannot be opened. *Cancel safety*: none; run it to its end.
    pub async fn apply(&mut self, specs: Vec<ListenerSpec>) -> Result<(), BindError> {
        let mut fresh = self.open_missing(&specs)?;
        let shortest = specs.iter().flat_map(|spec| [spec.settings.idle_timeout, spec.settings.half_close_timeout]);
        let shortest_ms = shortest.min().map_or(u64::MAX, |timeout| timeout.as_millis() as u64);
        self.shared.shortest_timeout_ms.store(shortest_ms, Relaxed);

        let mut before: HashMap<Key, Open> = self.open.drain(..).map(|open| (open.key.clone(), open)).collect();
        let mut listeners = BTreeMap::new();
        for spec in specs {
            let listener = self.listener(&spec);
            for key in keys(&spec) {
                match before.remove(&key) {
                    Some(open) => self.keep(open, &spec, &listener).await,
                    None => {
                        let bound = fresh.remove(&key).expect("every missing address was opened before");
                        self.begin(key, bound, &spec, &listener).await?;
                    }
                }
            }
            listeners.insert(spec.name, listener);
        }
        self.listeners = listeners;
        for open in before.into_values() {
            self.end(open).await;
        }
        Ok(())
    }

    /// Opens what `specs` asks for and is not open. Nothing else has happened when that fails.
    fn open_missing(&self, specs: &[ListenerSpec]) -> Result<HashMap<Key, Bound>, BindError> {
        let mut fresh = HashMap::new();
        for spec in specs {
            for key in keys(spec) {
                if self.open.iter().any(|open| open.key == key) {
                    continue;
                }
                let bound = Bound::open(&key.bind, self.workers.len(), inherited(&spec.settings));
                let bound = bound.map_err(|source| bind_error(spec, &key.bind, source))?;
                fresh.insert(key, bound);
            }
        }
        Ok(fresh)
    }

    /// The listener of that name, which keeps its counts, with the settings of now.
    fn listener(&self, spec: &ListenerSpec) -> Arc<Listener> {
        if let Some(listener) = self.listeners.get(&spec.name) {
            listener.replace(spec.settings.clone());
            return Arc::clone(listener);
        }
        let (process, ledger) = (Arc::clone(&self.sessions), Arc::clone(&self.ledger));
        let name = spec.name.as_str().into();
        Arc::new(Listener::new(name, spec.settings.clone(), self.workers.len(), process, ledger))
    }

    /// Goes on with an open address, perhaps for another listener.
    async fn keep(&mut self, mut open: Open, spec: &ListenerSpec, listener: &Arc<Listener>) {
        let inherited = inherited(&spec.settings);
        if open.inherited != inherited {
            match open.bound.inherit(inherited) {
                Ok(()) => open.inherited = inherited,
                Err(error) => tracing::warn!(listener = spec.name, %error, "cannot change keepalive of a socket"),
            }
        }
        if open.listener == spec.name {
            self.open.push(open);
            return;
        }
        // Both acceptors have the same sockets, so nothing is lost between them.
        let stopped = open.number;
        let (key, bound) = (open.key, open.bound);
        if let Err(error) = self.begin(key, bound, spec, listener).await {
            tracing::error!(listener = spec.name, error = %error.source, "cannot hand an address over");
        }
        self.order_all(|| Command::Stop { number: stopped }).await;
    }

    /// Has all workers accept on an address.
    async fn begin(
        &mut self,
        key: Key,
        bound: Bound,
        spec: &ListenerSpec,
        listener: &Arc<Listener>,
    ) -> Result<(), BindError> {
        self.issued_numbers += 1;
        let number = self.issued_numbers;
        let shards = bound.shards().map_err(|source| bind_error(spec, &key.bind, source))?;
        for (worker, shard) in self.workers.iter().zip(shards) {
            worker.order(Command::Start { number, listener: Arc::clone(listener), shard }).await;
        }
        let inherited = inherited(&spec.settings);
        self.open.push(Open { key, listener: spec.name.clone(), bound, inherited, number });
        Ok(())
    }

    /// Closes an address. The workers take what is queued first.
    async fn end(&self, open: Open) {
        let number = open.number;
        drop(open);
        self.order_all(|| Command::Stop { number }).await;
    }

    /// Closes all addresses; sessions go on.
    pub async fn stop_accepting(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.end(open).await;
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

    /// Up to `limit` sessions of each worker.
    pub fn sessions(&self, limit: usize) -> impl Future<Output = Vec<SessionView>> + Send + use<> {
        let commands: Vec<_> = self.workers.iter().map(WorkerHandle::commands).collect();
        async move {
            let mut views = Vec::new();
            for commands in commands {
                let (reply, answer) = oneshot::channel();
                // A worker that is gone has no sessions.
                let _gone = commands.send(Command::Sessions { limit, reply }).await;
                views.extend(answer.await.unwrap_or_default());
            }
            views
        }
    }

    /// The listeners, by name.
    pub fn listeners(&self) -> Vec<ListenerView> {
        let addresses = |name: &str| {
            let own = self.open.iter().filter(|open| open.listener == name);
            own.map(|open| open.bound.address().clone()).collect()
        };
        let views = self.listeners.values();
        views
            .map(|listener| ListenerView { listener: Arc::clone(listener), addresses: addresses(listener.name()) })
            .collect()
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

fn keys(spec: &ListenerSpec) -> impl Iterator<Item = Key> {
    let wish = |at: usize, bind: &Bind| match bind {
        Bind::Inet(addr) if addr.port() == 0 => Some((spec.name.clone(), at)),
        Bind::Inet(_) | Bind::Unix(_) => None,
    };
    spec.binds.iter().enumerate().map(move |(at, bind)| Key { bind: bind.clone(), wish: wish(at, bind) })
}

fn inherited(settings: &ListenerSettings) -> Inherited {
    Inherited { keepalive: settings.keepalive, user_timeout: settings.user_timeout }
}

fn bind_error(spec: &ListenerSpec, address: &Bind, source: io::Error) -> BindError {
    BindError { listener: spec.name.clone(), address: address.clone(), source }
}
