//! Endpoints from a real etcd, which is changed, compacted, stopped and started while it is watched.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use discovery::Event;
use discovery::sources::{EtcdSettings, EtcdSource};

use crate::support::{Run, Scratch, loopback, needs_tools};

struct Etcd {
    process: Child,
    url: String,
    peer: String,
    folder: Scratch,
}

impl Etcd {
    fn start(name: &str) -> Self {
        let folder = Scratch::new(name);
        let (url, peer) = (free_url(), free_url());
        let process = launch(&folder.0, &url, &peer);
        Self { process, url, peer, folder }
    }

    /// Kills it, and starts it with the same data.
    fn restart(&mut self) {
        self.stop();
        self.process = launch(&self.folder.0, &self.url, &self.peer);
    }

    fn stop(&mut self) {
        let _gone = self.process.kill();
        let _waited = self.process.wait();
    }

    /// Runs etcd's own client, until the server takes the command; what it prints.
    fn ctl(&self, arguments: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut ctl = Command::new("etcdctl");
            ctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.url, "--dial-timeout=2s"]).args(arguments);
            let output = ctl.output().expect("it runs");
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn put(&self, name: &str, port: u16) {
        self.ctl(&["put", &format!("/web/{name}"), &format!("{{\"address\": \"10.0.0.1:{port}\"}}")]);
    }

    fn settings(&self) -> EtcdSettings {
        EtcdSettings { urls: vec![self.url.clone()], timeout: Duration::from_secs(20), ..EtcdSettings::new("/web/") }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(folder: &Path, url: &str, peer: &str) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    let mut etcd = Command::new("etcd");
    etcd.args(["--name", "t", "--data-dir"]).arg(folder.join("data"));
    etcd.args(["--listen-client-urls", url, "--advertise-client-urls", url]);
    etcd.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
    etcd.args(["--initial-cluster", &format!("t={peer}")]);
    etcd.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("it starts")
}

fn free_url() -> String {
    format!("http://{}", TcpListener::bind((loopback(), 0)).unwrap().local_addr().unwrap())
}

/// The next event that says more than that all is well.
async fn news(run: &mut Run) -> Event {
    loop {
        match run.event().await {
            Event::Alive => {}
            event => return event,
        }
    }
}

#[tokio::test]
async fn keys_that_change_are_followed() {
    if !needs_tools(&["etcd", "etcdctl"]) {
        return;
    }
    // given
    let mut etcd = Etcd::start("etcd-keys");
    etcd.put("a", 1);
    etcd.put("b", 2);
    etcd.ctl(&["put", "/web2", "another"]);
    let source = Arc::new(EtcdSource::new(EtcdSettings { page: 1, ..etcd.settings() }).unwrap());
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["/web/a", "/web/b"]);

    // when, then
    etcd.put("c", 3);
    let Event::Upsert(found) = news(&mut run).await else { panic!("a key that was put is told") };
    assert_eq!((&*found[0].id, found[0].address.to_string()), ("/web/c", "10.0.0.1:3".into()));
    etcd.ctl(&["del", "/web/c"]);
    assert_eq!(news(&mut run).await, Event::Remove(vec!["/web/c".into()]));

    // A lease that ends takes its keys with it, and the guard is asked.
    let granted = etcd.ctl(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).expect("it has an id");
    etcd.ctl(&["put", "--lease", lease, "/web/d", r#"{"address": "10.0.0.1:4"}"#]);
    assert!(matches!(news(&mut run).await, Event::Upsert(_)));
    etcd.ctl(&["lease", "revoke", lease]);
    assert_eq!(run.ids().await, ["/web/a", "/web/b"]);

    // It dies and comes back.
    etcd.restart();
    let error = run.error().await;
    assert!(error.contains("half an answer") || error.contains("ended the watch"), "{error}");
    etcd.put("e", 5);
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["/web/a", "/web/b", "/web/e"]);
}

#[tokio::test]
async fn a_compaction_between_two_watches_is_survived() {
    if !needs_tools(&["etcd", "etcdctl"]) {
        return;
    }
    let etcd = Etcd::start("etcd-compaction");
    etcd.put("a", 1);
    let settings = EtcdSettings { renew: Duration::from_millis(100), ..etcd.settings() };
    let mut run = Run::of(EtcdSource::new(settings).unwrap());
    assert_eq!(run.ids().await, ["/web/a"]);
    // Ours stays at its revision while those of others go by and are forgotten.
    let mut revision = String::new();
    for n in 0..3 {
        etcd.ctl(&["put", "/other", &n.to_string()]);
        revision = etcd.ctl(&["get", "/other", "-w", "fields"]);
    }
    let revision =
        revision.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).expect("it says the revision");
    etcd.ctl(&["compact", revision]);
    assert_eq!(run.ids().await, ["/web/a"], "all keys are read anew");
    etcd.put("b", 2);
    loop {
        match news(&mut run).await {
            Event::Upsert(found) if &*found[0].id == "/web/b" => break,
            Event::Begin | Event::End | Event::Upsert(_) => {}
            event => panic!("{event:?}"),
        }
    }
}
