//! What every test needs: services with one clock, listeners, and waiting for conditions.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::{Active, Address, Endpoint, Epoch, Facts, Ledger, Policy, Settings, Zone};
use discovery::{HealthConfig, LastResult, Membership, Probe, ServiceConfig, Services};
use tokio::net::{TcpListener, TcpSocket};

pub const SERVICE: &str = "web";

/// Connects to the backend itself.
pub const TCP: Probe = Probe::Tcp { port: None };

pub fn services(ledger: &Arc<Ledger>) -> Services {
    Services::new(Epoch::starting(Instant::now()), Arc::clone(ledger), 1)
}

/// Services that consist of one with these backends and this probe.
pub fn checked(probe: Probe, backends: &[Address]) -> Services {
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![service(SERVICE, probe, backends)]);
    services
}

pub fn service(name: &str, probe: Probe, backends: &[Address]) -> ServiceConfig {
    ServiceConfig {
        settings: Settings { policy: Policy::LeastConn, ..Settings::new(name) },
        endpoints: backends.iter().cloned().map(endpoint).collect(),
        health: Some(health(probe)),
        membership: Membership::default(),
    }
}

/// Fast enough for a test; a timeout that only a backend which never answers runs into.
pub fn health(probe: Probe) -> HealthConfig {
    let (interval, timeout) = (Duration::from_millis(20), Duration::from_millis(700));
    HealthConfig { probe, interval, timeout, rise: 2, fall: 2 }
}

pub fn endpoint(address: Address) -> Endpoint {
    let zone = Zone::new("fra/a").expect("a zone's name");
    Endpoint { address, weight: 1, zone, priority: 0, facts: Facts::default(), server_id: None }
}

pub fn http(path: &str, expect: RangeInclusive<u16>) -> Probe {
    Probe::Http { port: None, path: path.into(), host: None, expect: vec![expect] }
}

pub fn udp(send: &[u8], expect: &[u8]) -> Probe {
    Probe::Udp { port: None, send: send.into(), expect: expect.into() }
}

pub fn exec(command: &[&str]) -> Probe {
    Probe::Exec { command: command.iter().map(|&word| word.into()).collect() }
}

/// The states of a service's backends as readers see them.
pub fn states(services: &Services) -> Vec<Active> {
    let reader = services.reader(SERVICE).expect("the service is there");
    let set = reader.load();
    set.backends().iter().map(|backend| backend.endpoint().facts.active).collect()
}

/// Waits until the service's only backend is in `state`; returns what was found last.
pub async fn until_state(services: &Services, state: Active) -> LastResult {
    until(|| states(services) == [state]).await;
    last(services).expect("a state comes from a result")
}

/// What the latest probe of the first backend came to.
pub fn last(services: &Services) -> Option<LastResult> {
    services.checks(SERVICE)?.first()?.last.clone()
}

/// Waits until another probe was concluded.
pub async fn until_next_result(services: &Services) -> LastResult {
    let before = last(services).map(|last| last.at_ms);
    until(|| last(services).map(|last| last.at_ms) != before).await;
    last(services).expect("there is a result")
}

/// Waits for a condition, looking again and again, and gives up loudly.
pub async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true in {DEADLINE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port left");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}

/// A port that refuses connections on every loopback address: kept by a socket that does not listen, so that nobody
/// else can open it, nor a probe connect to itself.
pub struct Refusing {
    port: u16,
    _socket: TcpSocket,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be opened");
        socket.bind(SocketAddr::from(([0, 0, 0, 0], 0))).expect("a port is left");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        Self { port, _socket: socket }
    }

    /// The port on `127.0.0.1`.
    pub fn address(&self) -> Address {
        self.address_on([127, 0, 0, 1])
    }

    pub fn address_on(&self, ip: [u8; 4]) -> Address {
        SocketAddr::from((ip, self.port)).into()
    }
}

/// A directory of its own that goes away with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dislocate-checks-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory for temporary files can be written");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind harms no other test.
        let _kept = std::fs::remove_dir_all(&self.0);
    }
}

const DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);
