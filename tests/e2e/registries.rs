//! Services whose backends are found in real registries, which change, die and come back while clients are served.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{
    Config, Named, Proxy, Server, TempDir, eventually, needs_tools, path_of, wants_tool, who, within,
};

fn start(source: &str) -> Proxy {
    let proxy = Config::to([]).source(&format!("{source}\nallowed_cidrs = \"127.0.0.0/8\"")).start();
    proxy.sources_may_open(6);
    proxy
}

fn orphans(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("orphans{service=\"app\"}")
}

/// The registry is gone: the source fails, and everything stays as it is.
fn expect_nothing_lost(proxy: &Proxy, label: &str, backends: &[&Named]) {
    proxy.expect_log("source failed");
    proxy.expect_source(label, "failing");
    proxy.expect_backends(backends.iter().map(|backend| backend.address()));
    assert_eq!(orphans(proxy), 0.0, "a registry that is gone claims nothing");
    who(&proxy.main());
}

#[test]
fn keys_of_a_real_etcd_are_followed_through_its_death_and_return() {
    if !needs_tools(&["etcd", "etcdctl"]) {
        return;
    }
    // given
    let (one, two, three) = (Named::start("one"), Named::start("two"), Named::start("three"));
    let mut etcd = Etcd::start();
    etcd.put("one", one.address(), &[]);
    etcd.put("two", two.address(), &[]);
    let proxy = start(&format!("kind = \"etcd\"\nprefix = \"/services/app/\"\nurls = [\"{}\"]", etcd.url));
    proxy.expect_backends([one.address(), two.address()]);

    // when, then: a key is deleted, and the registry dies
    etcd.ctl(&["del", "/services/app/two"]);
    proxy.expect_backends([one.address()]);
    assert_eq!(who(&proxy.main()), "one");
    etcd.stop();
    expect_nothing_lost(&proxy, "etcd", &[&one]);

    // when, then: it returns with another backend, under a lease
    etcd.start_again();
    let granted = etcd.ctl(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).expect("a lease has an id");
    etcd.put("three", three.address(), &["--lease", lease]);
    proxy.expect_backends([one.address(), three.address()]);
    proxy.expect_source("etcd", "live");

    // when: the last one's lease ends
    proxy.expect_trouble_with_backends();
    etcd.ctl(&["del", "/services/app/one"]);
    proxy.expect_backends([three.address()]);
    etcd.ctl(&["lease", "revoke", lease]);

    // then
    eventually("the end of the last lease is doubted", || orphans(&proxy) == 1.0);
    assert_eq!(who(&proxy.main()), "three");
    proxy.finish();
}

#[test]
fn records_of_a_real_knot_are_followed_through_its_death_and_return() {
    if !needs_tools(&["knotd", "knsupdate"]) {
        return;
    }
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let mut knot = Knot::start(&format!("_app._tcp SRV 0 1 {} a\na A {}\n", port(&one), ip(&one)));
    let proxy = start(&format!(
        "kind = \"dns\"\nname = \"_app._tcp.app.example\"\nservers = [\"{}\"]\nttl_min = \"100ms\"\ntimeout = \"500ms\"",
        knot.address
    ));
    proxy.expect_backends([one.address()]);

    // when, then: records come, and one goes
    knot.update(&format!("add b A {}\nadd _app._tcp SRV 0 1 {} b", ip(&two), port(&two)));
    proxy.expect_backends([one.address(), two.address()]);
    knot.update(&format!("del _app._tcp SRV 0 1 {} a.app.example.", port(&one)));
    proxy.expect_backends([two.address()]);
    assert_eq!(who(&proxy.main()), "two");

    // when, then: the server dies and returns with the zone as it was at first
    knot.stop();
    expect_nothing_lost(&proxy, "dns", &[&two]);
    knot.start_again();
    proxy.expect_backends([one.address()]);

    // when, then: no such name any more
    proxy.expect_trouble_with_backends();
    knot.update("del _app._tcp");
    eventually("that there is no such name is doubted", || orphans(&proxy) == 1.0);
    assert_eq!(who(&proxy.main()), "one");
    proxy.finish();
}

#[test]
fn instances_of_a_real_consul_are_followed_and_outlive_its_loss_of_memory() {
    if !wants_tool("consul") {
        return;
    }
    // given
    let (one, two) = (Named::start("one"), Named::start("two"));
    let mut consul = Consul::start();
    consul.register(&one);
    consul.register(&two);
    let proxy = start(&format!("kind = \"consul\"\nservice = \"app\"\nurl = \"http://{}\"", consul.address));
    proxy.expect_backends([one.address(), two.address()]);

    // when, then: one is taken out of service, and put back
    let id = format!("-service={}", one.address());
    consul.ctl(&["maint", "-enable", &id]);
    eventually("it gets no new sessions", || (0..10).all(|_| who(&proxy.main()) == "two"));
    consul.ctl(&["maint", "-disable", &id]);
    eventually("it serves again", || proxy.state(one.address()) == "up");

    // when: the agent dies, and returns without a memory, so that it knows nobody and says 200
    consul.stop();
    expect_nothing_lost(&proxy, "consul", &[&one, &two]);
    proxy.expect_trouble_with_backends();
    consul.start_again();

    // then
    eventually("its empty list is doubted", || orphans(&proxy) == 2.0);
    who(&proxy.main());
    consul.register(&two);
    eventually("who is named again is no orphan", || orphans(&proxy) == 1.0);
    assert_eq!(proxy.backend(two.address())["orphan"], false);
    proxy.finish();
}

#[test]
fn data_centres_of_a_real_consul_fail_and_return_each_by_itself() {
    if !wants_tool("consul") {
        return;
    }
    // given
    let backends = ["one", "two", "three", "four", "five"].map(Named::start);
    let [one, two, three, four, five] = &backends;
    let near = Consul::of("near", &[]);
    let mut far = Consul::of("far", &[format!("-retry-join-wan={}", near.host())]);
    near.register(one);
    far.register(two);
    far.register(three);
    // The one has heard of the other.
    near.ctl(&["catalog", "services", "-datacenter=far"]);
    let proxy = start(&format!(
        "kind = \"consul\"\nservice = \"app\"\nurl = \"http://{}\"\ndatacenters = [\"near\", \"far\"]\ntimeout = \"5s\"",
        near.address
    ));
    proxy.expect_backends([one, two, three].map(Named::address));
    for (backend, zone) in [(one, "near"), (two, "far"), (three, "far")] {
        let shown = proxy.backend(backend.address());
        assert_eq!((&shown["zone"], &shown["source"]), (&zone.into(), &format!("consul/{zone}").into()));
    }

    // when: the servers of one data centre die
    far.stop();
    expect_nothing_lost(&proxy, "consul/far", &[one, two, three]);

    // then: what changes in the other still acts
    near.register(four);
    proxy.expect_backends([one, two, three, four].map(Named::address));
    near.deregister(one);
    proxy.expect_backends([two, three, four].map(Named::address));
    proxy.expect_source("consul/near", "live");
    proxy.expect_source("consul/far", "failing");
    let mut served = HashSet::new();
    eventually("all of them serve", || {
        served.insert(who(&proxy.main()));
        served.len() == 3
    });
    assert!(!served.contains("one"));

    // when, then: they return, and what changes there acts again
    far.start_again();
    far.register(five);
    far.deregister(two);
    within(PATIENCE * 2, "the source works again", || proxy.source("consul/far")["state"] == "live");
    proxy.expect_backends([three, four, five].map(Named::address));
    assert_eq!(orphans(&proxy), 0.0);
    proxy.finish();
}

fn ip(backend: &Named) -> &str {
    backend.address().rsplit_once(':').unwrap().0
}

fn port(backend: &Named) -> &str {
    backend.address().rsplit_once(':').unwrap().1
}

struct Etcd {
    process: Option<Server>,
    url: String,
    peer: String,
    folder: TempDir,
}

impl Etcd {
    fn start() -> Self {
        let url = || {
            let (host, port) = Server::free_address();
            format!("http://{host}:{port}")
        };
        let mut etcd = Self { process: None, url: url(), peer: url(), folder: TempDir::new() };
        etcd.start_again();
        etcd
    }

    fn start_again(&mut self) {
        let mut command = Command::new("etcd");
        command.args(["--name", "t", "--data-dir"]).arg(self.folder.join("data"));
        command.args(["--listen-client-urls", &self.url, "--advertise-client-urls", &self.url]);
        command.args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer]);
        command.args(["--initial-cluster", &format!("t={}", self.peer)]);
        self.process = Some(Server::start(&mut command, self.url.trim_start_matches("http://"), &self.folder));
    }

    fn stop(&mut self) {
        self.process = None;
    }

    /// What its own client prints, once the server takes the command.
    fn ctl(&self, arguments: &[&str]) -> String {
        let mut ctl = Command::new("etcdctl");
        ctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.url, "--dial-timeout=2s"]).args(arguments);
        eventually_succeeds(&mut ctl)
    }

    fn put(&self, name: &str, address: &str, more: &[&str]) {
        let (key, value) = (format!("/services/app/{name}"), format!("{{\"address\": \"{address}\"}}"));
        self.ctl(&[&["put", key.as_str(), value.as_str()], more].concat());
    }
}

/// A Knot DNS with the zone `app.example`.
struct Knot {
    process: Option<Server>,
    address: String,
    folder: TempDir,
}

impl Knot {
    fn start(records: &str) -> Self {
        let (host, port) = Server::free_address();
        let folder = TempDir::new();
        let path = folder.path().display();
        let config = format!(
            "server:\n  listen: {host}@{port}\n  rundir: {path}\n  user: root:root\ndatabase:\n  storage: {path}\n\
             acl:\n  - id: all\n    address: 127.0.0.0/8\n    action: update\n\
             zone:\n  - domain: app.example\n    file: {path}/zone\n    acl: all\n    journal-content: none\n    \
             zonefile-sync: -1\n"
        );
        let head = "$ORIGIN app.example.\n$TTL 0\n@ SOA ns hostmaster 1 60 60 60 0\n@ NS ns\nns A 127.0.0.1\n";
        fs::write(folder.join("knot.conf"), config).unwrap();
        fs::write(folder.join("zone"), format!("{head}{records}")).unwrap();
        let mut knot = Self { process: None, address: format!("{host}:{port}"), folder };
        knot.start_again();
        knot
    }

    fn start_again(&mut self) {
        let mut command = Command::new(path_of("knotd").expect("the test has asked for it"));
        command.arg("-c").arg(self.folder.join("knot.conf"));
        self.process = Some(Server::start(&mut command, &self.address, &self.folder));
    }

    fn stop(&mut self) {
        self.process = None;
    }

    /// Changes the zone (RFC 2136), once the server takes that.
    fn update(&self, commands: &str) {
        let (host, port) = self.address.rsplit_once(':').unwrap();
        let text = format!("server {host} {port}\nzone app.example.\norigin app.example.\nttl 0\n{commands}\nsend\n");
        within(PATIENCE, &format!("knot takes {commands:?}"), || {
            let mut update = Command::new("knsupdate");
            update.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut update = update.spawn().unwrap();
            update.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            update.wait().unwrap().success()
        });
    }
}

/// An agent that is all the servers of a data centre.
struct Consul {
    process: Option<Server>,
    address: String,
    arguments: Vec<String>,
    folder: TempDir,
}

impl Consul {
    /// One that keeps nothing on disk.
    fn start() -> Self {
        Self::with(&["-dev".into()])
    }

    /// A data centre of this name, which knows after its return what it knew before.
    fn of(name: &str, more: &[String]) -> Self {
        let arguments = ["-server".into(), "-bootstrap-expect=1".into(), format!("-datacenter={name}")];
        Self::with(&[&arguments, more].concat())
    }

    fn with(arguments: &[String]) -> Self {
        let (host, port) = Server::free_address();
        let (address, folder) = (format!("{host}:{port}"), TempDir::new());
        let mut consul = Self { process: None, address, arguments: arguments.to_vec(), folder };
        consul.start_again();
        consul
    }

    fn host(&self) -> &str {
        self.address.rsplit_once(':').unwrap().0
    }

    fn start_again(&mut self) {
        // The other ports are the usual ones, on an address that nobody else uses.
        let (host, port) = self.address.rsplit_once(':').unwrap();
        let mut command = Command::new(path_of("consul").expect("the test has asked for it"));
        command.arg("agent").args(&self.arguments);
        command.args([&format!("-bind={host}"), &format!("-client={host}"), &format!("-http-port={port}")]);
        command.args(["-dns-port=-1", "-grpc-port=-1", &format!("-node={host}")]);
        if !self.arguments.contains(&"-dev".into()) {
            command.arg("-data-dir").arg(self.folder.join("data"));
        }
        self.process = Some(Server::start(&mut command, &self.address, &self.folder));
        // It has a leader then.
        self.ctl(&["catalog", "services"]);
    }

    fn stop(&mut self) {
        self.process = None;
    }

    fn register(&self, backend: &Named) {
        let words = [("id", backend.address()), ("name", "app"), ("address", ip(backend)), ("port", port(backend))];
        let words = words.map(|(key, value)| format!("-{key}={value}"));
        self.ctl(&[&["services", "register"][..], &words.each_ref().map(String::as_str)].concat());
    }

    fn deregister(&self, backend: &Named) {
        self.ctl(&["services", "deregister", &format!("-id={}", backend.address())]);
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let mut ctl = Command::new(path_of("consul").expect("the test has asked for it"));
        ctl.env("CONSUL_HTTP_ADDR", &self.address).args(arguments);
        eventually_succeeds(&mut ctl)
    }
}

/// What a client prints, once it is given what it asks for.
fn eventually_succeeds(command: &mut Command) -> String {
    let mut printed = String::new();
    within(PATIENCE, &format!("{command:?} succeeds"), || {
        let output = command.output().unwrap();
        printed = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success()
    });
    printed
}

/// For servers that have just been started.
const PATIENCE: Duration = Duration::from_secs(30);
