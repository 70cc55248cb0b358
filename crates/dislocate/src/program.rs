//! The parts put together: what a checked configuration becomes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use balance::{Epoch, Facts, Ledger, Settings};
use discovery::{HealthConfig, ServiceConfig, Services};
use proxy::{
    Bind, BindError, LearnedIds, Line, ListenerSettings, ListenerSpec, Options, Proxy, Reason, RecordSink, UdpSettings,
    Wanted,
};
use tokio::time::timeout;

use crate::config::{self, Config};
use crate::descriptors;
use crate::log::Dropped;
use crate::membership::{self, membership};
use crate::state::{Reloads, Running, State};

/// A running dislocate: services, data plane, and what is said about them.
pub struct Program {
    proxy: Proxy,
    services: Services,
    /// Where sessions wait while all backends of a service are full, by its name.
    lines: HashMap<String, Arc<Line>>,
    /// The connection ids that backends of a service chose, by its name.
    learned_ids: HashMap<String, Arc<LearnedIds>>,
    state: Arc<State>,
}

impl Program {
    /// Starts the data plane without listeners; [`Program::apply`] brings them. Runs on the control runtime.
    ///
    /// *Errors*: threads or event loops cannot be had.
    pub fn start(config: &Config, sink: Option<RecordSink>, log_dropped: Dropped) -> anyhow::Result<Self> {
        let limit = descriptors::raise_limit().context("cannot raise the limit on open files")?;
        let (datagrams, connections): (Vec<&Bind>, Vec<&Bind>) = config
            .listeners
            .iter()
            .flat_map(|listener| &listener.binds)
            .partition(|bind| matches!(bind, Bind::Udp(_) | Bind::Datagram(_)));
        let listening = (connections.len(), datagrams.len());
        let own = descriptors::budget(limit, config.node.workers, listening, membership::descriptors(config));
        let ledger = Ledger::new(own);
        let epoch = Epoch::starting(Instant::now());
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = wall.as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        let proxy = Proxy::start(Options {
            workers: config.node.workers,
            epoch,
            ledger: Arc::clone(&ledger),
            zone: config.node.zone.clone(),
            sink,
            max_connections: 0,
            seed,
        })
        .context("cannot start the workers")?;
        let mut services = Services::new(epoch, Arc::clone(&ledger), seed);
        config.node.state_dir.iter().for_each(|dir| services.keep_state(dir));
        let state = Arc::new(State {
            epoch,
            ledger,
            pipes: proxy.pipes(),
            cross_zone: proxy.cross_zone(),
            sessions: proxy.session_list(),
            log_dropped,
            sources: services.overview().clone(),
            running: Default::default(),
            draining: Default::default(),
            reloads: Reloads::default(),
            started: SystemTime::now(),
        });
        Ok(Self { proxy, services, lines: HashMap::new(), learned_ids: HashMap::new(), state })
    }

    /// Makes everything what `config` says: all of it, or on an error nothing. Established sessions go on.
    ///
    /// *Errors*: an address cannot be opened. *Cancel safety*: none.
    pub async fn apply(&mut self, config: &Config) -> Result<(), BindError> {
        let wanted: Vec<Wanted> = config.listeners.iter().map(wanted).collect();
        // The only step that can fail comes first, and takes itself back.
        let prepared = self.proxy.prepare(&wanted)?;
        self.services.apply(config.services.iter().map(|it| service(it, config)).collect());
        self.lines = config.services.iter().map(|it| (it.name.clone(), self.line(it))).collect();
        self.learned_ids = config.services.iter().map(|it| (it.name.clone(), self.learned_ids(it))).collect();
        let specs =
            config.listeners.iter().zip(wanted).map(|(listener, wanted)| self.spec(config, listener, wanted)).collect();
        self.proxy.apply(specs, prepared).await;
        self.proxy.set_max_connections(config.node.max_connections.map_or(0, Into::into));
        let reader = |service: &config::Service| (service.name.clone(), self.reader(&service.name));
        let services = config.services.iter().map(reader).collect();
        let (node, listeners) = (config.node.name.clone(), self.proxy.listeners());
        self.state.running.store(Arc::new(Running { node, listeners, services }));
        Ok(())
    }

    /// What others may know.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Sessions now.
    pub fn active(&self) -> u32 {
        self.proxy.active()
    }

    /// Takes no new sessions any more, and says so.
    pub async fn drain(&mut self) {
        self.state.draining.store(true, Relaxed);
        self.proxy.stop_accepting().await;
    }

    /// Cuts what is left.
    pub async fn cut(&self, reason: Reason) {
        self.proxy.cut(reason).await;
    }

    /// Remembers the backends of now for the next start.
    pub async fn save(&self) {
        match timeout(SAVE_LIMIT, self.services.save_state()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the backends of now cannot be remembered"),
            Err(_elapsed) => tracing::warn!("the disk is too slow to remember the backends of now"),
        }
    }

    /// Ends all threads.
    pub async fn exit(self) {
        self.proxy.exit().await;
    }

    /// The line of a service, which outlives reloads as those who stand in it do.
    fn line(&self, service: &config::Service) -> Arc<Line> {
        let most = service.queue_length as usize;
        let line = self.lines.get(&service.name).map_or_else(|| Arc::new(Line::new(most)), Arc::clone);
        line.set_most(most);
        line
    }

    /// The connection ids of a service, which outlive reloads as its flows do.
    fn learned_ids(&self, service: &config::Service) -> Arc<LearnedIds> {
        self.learned_ids.get(&service.name).map(Arc::clone).unwrap_or_default()
    }

    fn spec(&self, config: &Config, listener: &config::Listener, wanted: Wanted) -> ListenerSpec {
        let service = config.services.iter().find(|service| service.name == listener.service);
        let service = service.expect("a checked configuration names services that it has");
        let settings = ListenerSettings {
            service: listener.service.as_str().into(),
            backends: self.reader(&listener.service),
            line: Arc::clone(&self.lines[&listener.service]),
            queue_timeout: service.queue_timeout,
            idle_timeout: listener.idle_timeout,
            half_close_timeout: listener.half_close_timeout,
            keepalive: listener.keepalive,
            user_timeout: listener.user_timeout,
            connect_timeout: listener.connect_timeout,
            retries: listener.retries,
            max_connections: listener.max_connections,
            max_connections_per_source: listener.max_connections_per_source,
            splice: listener.splice,
            udp: listener.udp.as_ref().map(|udp| udp_settings(udp, &service.udp)),
            learned_ids: Arc::clone(&self.learned_ids[&listener.service]),
        };
        ListenerSpec { wanted, settings }
    }

    fn reader(&self, service: &str) -> balance::Reader {
        self.services.reader(service).expect("a checked configuration names services that it has")
    }
}

/// A disk that takes longer must not keep the process.
const SAVE_LIMIT: Duration = Duration::from_secs(5);

fn wanted(listener: &config::Listener) -> Wanted {
    Wanted {
        name: listener.name.clone(),
        binds: listener.binds.clone(),
        keepalive: listener.keepalive,
        user_timeout: listener.user_timeout,
    }
}

fn udp_settings(listener: &config::UdpListener, service: &config::UdpService) -> UdpSettings {
    UdpSettings {
        requests: listener.requests,
        replies: listener.replies,
        draining: service.draining,
        reply_timeout: service.reply_timeout,
        send_proxy: service.send_proxy,
        accept_proxy: listener.accept_proxy.clone(),
        connection_ids: service.connection_ids.clone(),
        unproven: listener.unproven,
    }
}

fn service(service: &config::Service, config: &Config) -> ServiceConfig {
    let endpoint = |endpoint: &config::Endpoint| balance::Endpoint {
        address: endpoint.address.clone(),
        weight: endpoint.weight,
        zone: endpoint.zone.clone(),
        priority: endpoint.priority,
        facts: Facts::default(),
        server_id: endpoint.server_id.clone(),
    };
    let settings = Settings {
        policy: service.balance,
        panic_threshold: service.panic_threshold,
        home: config.node.zone.clone(),
        zones: service.zones,
        zone_margin: service.zone_margin,
        max_connections_per_backend: service.max_connections_per_backend,
        ..Settings::new(&service.name)
    };
    let health = health(&service.health);
    ServiceConfig {
        settings,
        endpoints: service.backends.iter().map(endpoint).collect(),
        membership: membership(service, config, health.as_ref()),
        health,
    }
}

/// The check of a service.
pub(crate) fn health(health: &config::Health) -> Option<HealthConfig> {
    let probe = match &health.probe {
        config::Probe::None => return None,
        config::Probe::Tcp { port } => discovery::Probe::Tcp { port: *port },
        config::Probe::Http { port, path, host, expect } => {
            discovery::Probe::Http { port: *port, path: path.clone(), host: host.clone(), expect: expect.clone() }
        }
        config::Probe::Udp { port, send, expect } => {
            discovery::Probe::Udp { port: *port, send: send.clone(), expect: expect.clone() }
        }
        config::Probe::Exec { command } => discovery::Probe::Exec { command: command.clone() },
    };
    Some(HealthConfig {
        probe,
        interval: health.interval,
        timeout: health.timeout,
        rise: health.rise,
        fall: health.fall,
    })
}
