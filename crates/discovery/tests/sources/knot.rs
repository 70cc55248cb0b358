//! Endpoints from a real name server, whose zone is changed while it runs.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use discovery::sources::{DnsSettings, DnsSource, Family};

use crate::support::{PATIENCE, Run, Scratch, ids, needs_tools};

/// A running Knot DNS with a zone `db.example`.
struct Knot {
    process: Child,
    address: SocketAddr,
    _folder: Scratch,
}

impl Knot {
    fn start() -> Self {
        let folder = Scratch::new("knot");
        let address = free_address();
        let path = folder.0.display();
        let (ip, port) = (address.ip(), address.port());
        let config = format!(
            "server:\n  listen: {ip}@{port}\n  rundir: {path}\n  user: root:root\ndatabase:\n  storage: {path}\n\
             acl:\n  - id: all\n    address: 127.0.0.1\n    action: update\n\
             zone:\n  - domain: db.example\n    file: {path}/zone\n    acl: all\n    journal-content: none\n"
        );
        let zone = "$ORIGIN db.example.\n$TTL 0\n@ SOA ns hostmaster 1 60 60 60 0\n@ NS ns\nns A 127.0.0.1\n\
                    _pg._tcp SRV 10 5 5432 a\na A 10.0.0.1\na AAAA fd00::1\nweb CNAME a\n";
        fs::write(folder.join("knot.conf"), config).unwrap();
        fs::write(folder.join("zone"), zone).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let program = if fs::exists("/usr/sbin/knotd").unwrap() { "/usr/sbin/knotd" } else { "knotd" };
        let process = Command::new(program)
            .arg("-c")
            .arg(folder.join("knot.conf"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("it starts");
        Self { process, address, _folder: folder }
    }

    /// Sends an update of RFC 2136, until the server takes it.
    fn update(&self, commands: &str) {
        let text = format!(
            "server 127.0.0.1 {}\nzone db.example.\norigin db.example.\nttl 0\n{commands}\nsend\n",
            self.address.port()
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut update = Command::new("knsupdate")
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            update.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = update.wait_with_output().unwrap();
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _waited = self.process.wait();
    }
}

/// A port that is free over both protocols.
fn free_address() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

fn run(name: &str, family: Family, knot: &Knot) -> Run {
    let settings = DnsSettings {
        port: (!name.starts_with('_')).then_some(80),
        servers: vec![knot.address],
        family,
        timeout: PATIENCE,
        ttl_min: Duration::from_millis(20),
        ..DnsSettings::new(name)
    };
    Run::of(DnsSource::new(settings).expect("good settings"))
}

/// A run on a server that has just been started: the first answer may take some tries.
async fn first(name: &str, knot: &Knot) -> (Run, Vec<String>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut run = run(name, Family::Any, knot);
        if run.begun().await {
            let ids = ids(&run.rest_of_list().await);
            return (run, ids);
        }
        assert!(Instant::now() < deadline, "the server answers");
    }
}

#[tokio::test]
async fn a_zone_that_changes_is_followed() {
    if !needs_tools(&["knotd", "knsupdate"]) {
        return;
    }
    // given
    let knot = Knot::start();
    let (mut services, ids) = first("_pg._tcp.db.example", &knot).await;
    assert_eq!(ids, ["10.0.0.1:5432", "[fd00::1]:5432"]);
    let mut web = run("web.db.example.", Family::V4, &knot);
    assert_eq!(web.ids().await, ["10.0.0.1:80"], "through an alias");

    // when, then
    knot.update("add _pg._tcp SRV 20 0 5433 b\nadd b A 10.0.0.2");
    let list = services.list().await;
    let added = list.iter().find(|found| &*found.id == "10.0.0.2:5433").expect("it is there");
    assert_eq!((list.len(), added.weight, added.priority), (3, 1, 1));

    let many: Vec<_> = (0..300).map(|n| format!("add a A 10.1.{}.{}", n / 250, n % 250 + 1)).collect();
    knot.update(&many.join("\n"));
    assert_eq!(web.list().await.len(), 301, "too many for a datagram");
    assert_eq!(services.list().await.len(), 303);

    knot.update("del a\ndel _pg._tcp");
    assert_eq!(services.list().await, [], "no such records");
    assert_eq!(web.list().await, []);
    knot.update("del web");
    web.alive().await;
    let refused = run("web.elsewhere.example", Family::V4, &knot).error().await;
    assert!(refused.contains("refused"), "{refused}");
}
