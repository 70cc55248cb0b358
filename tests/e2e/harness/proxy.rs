//! The program under test, as a process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::Value;

use super::config::Config;
use super::metrics::Metrics;
use super::netns::Netns;
use super::output::Output;
use super::process::{self, Descriptors};
use super::temp::TempDir;
use super::{admin, wait};

/// A running `dislocate run`. Every test ends with [`Proxy::finish`] or one of its kin.
#[derive(Debug)]
pub struct Proxy {
    pub(super) child: Child,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) baseline: Descriptors,
    pub(super) expected: Mutex<Vec<String>>,
    pub(super) records_elsewhere: AtomicBool,
    pub(super) for_sources: AtomicUsize,
    pub(super) finished: bool,
    /// What it was started with, where that is known as more than text.
    pub(super) origin: Option<Config>,
    netns: Option<Netns>,
    config: PathBuf,
    _folder: TempDir,
}

/// How a program is started, where that is not the usual way.
#[derive(Debug, Default)]
pub struct Options {
    /// The namespace it lives in.
    pub netns: Option<Netns>,
    /// Soft and hard limit of descriptors it starts with.
    pub descriptors: Option<u64>,
    /// The file it is told to read, if it lies elsewhere than the harness would put it.
    pub config: Option<PathBuf>,
    /// Nobody reads its standard error until the test says so.
    pub stalled_stderr: bool,
    /// Further environment.
    pub env: BTreeMap<String, String>,
}

/// A program that ended by itself.
#[derive(Debug)]
pub struct Exited {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Config {
    pub fn start(&self) -> Proxy {
        self.start_with(Options::default())
    }

    pub fn start_with(&self, options: Options) -> Proxy {
        let mut proxy = Proxy::start_with(&self.toml(), options);
        proxy.origin = Some(self.clone());
        proxy
    }
}

impl Proxy {
    pub fn start(toml: &str) -> Proxy {
        Proxy::start_with(toml, Options::default())
    }

    pub fn start_with(toml: &str, options: Options) -> Proxy {
        Proxy::try_start(toml, options)
            .unwrap_or_else(|exited| panic!("the program did not start: {exited:#?}\n{toml}"))
    }

    /// Starts it and waits until it is ready, or has ended.
    pub fn try_start(toml: &str, options: Options) -> Result<Proxy, Exited> {
        let folder = TempDir::new();
        let config = options.config.clone().unwrap_or_else(|| folder.join("dislocate.toml"));
        if options.config.is_none() {
            fs::write(&config, toml).unwrap();
        }
        let mut command = command(&options);
        command.args(["run", "-c"]).arg(&config).envs(&options.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match &options.netns {
            Some(netns) => netns.enter(|| command.spawn()),
            None => command.spawn(),
        }
        .unwrap();
        let stdout = Output::of(child.stdout.take().unwrap(), false);
        let stderr = Output::of(child.stderr.take().unwrap(), options.stalled_stderr);
        let proxy = Proxy {
            child,
            stdout,
            stderr,
            baseline: Descriptors::default(),
            expected: Mutex::default(),
            records_elsewhere: AtomicBool::new(false),
            for_sources: AtomicUsize::new(0),
            finished: false,
            origin: None,
            netns: options.netns,
            config,
            _folder: folder,
        };
        proxy.wait_until_ready()
    }

    fn wait_until_ready(mut self) -> Result<Proxy, Exited> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if self.stdout.count(|line| line == "ready") > 0 {
                self.baseline = Descriptors::of(self.pid());
                return Ok(self);
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                self.finished = true;
                self.stdout.wait_for_end();
                self.stderr.wait_for_end();
                let text = |output: &Output| output.lines().join("\n");
                return Err(Exited { code: status.code(), stdout: text(&self.stdout), stderr: text(&self.stderr) });
            }
            assert!(Instant::now() < deadline, "the program is ready within ten seconds");
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the listener accepts, or the first place of several, as told at start.
    pub fn address(&self, listener: &str) -> String {
        let all = self.addresses(listener);
        all.first().unwrap_or_else(|| panic!("no line says where {listener} listens")).clone()
    }

    /// Everywhere the listener accepts, as told at start.
    pub fn addresses(&self, listener: &str) -> Vec<String> {
        let lines = self.stdout.lines();
        let words = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        let of_listener = |words: Vec<&str>| match words[..] {
            ["listening", name, _, address] if name == listener => Some(address.to_owned()),
            _ => None,
        };
        words.filter_map(of_listener).collect()
    }

    /// What the line at start says that the listener speaks.
    pub fn protocol_of(&self, listener: &str) -> String {
        let lines = self.stdout.lines();
        let start = format!("listening {listener} ");
        let line = lines.iter().find_map(|line| line.strip_prefix(&start));
        line.and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("no line about {listener}")).to_owned()
    }

    /// Where `listener` accepts now, as the admin interface says: empty while there is none of that name.
    pub fn addresses_now(&self, listener: &str) -> Vec<String> {
        let listeners = self.json("/v1/listeners");
        let listeners = listeners.as_array().expect("listeners are a list");
        let of_listener = listeners.iter().find(|entry| entry["name"] == listener);
        let addresses = of_listener.and_then(|entry| entry["addresses"].as_array().cloned()).unwrap_or_default();
        addresses.iter().map(|address| address.as_str().expect("an address is text").to_owned()).collect()
    }

    pub fn main(&self) -> String {
        self.address("main")
    }

    pub fn admin(&self) -> String {
        self.address("admin")
    }

    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Replaces the configuration file in one step, as editors and deployment tools do.
    pub fn rewrite(&self, toml: &str) {
        let next = self.config.with_extension("next");
        fs::write(&next, toml).unwrap();
        fs::rename(next, &self.config).unwrap();
    }

    /// Replaces the configuration and waits until it is the running one.
    pub fn reload(&self, toml: &str) {
        let reloads = || self.metrics().sum("config_reloads_total{result=\"ok\"}");
        let before = reloads();
        self.rewrite(toml);
        wait::eventually("a good configuration is loaded", || reloads() > before);
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.rustix_pid(), signal).unwrap();
    }

    /// Lowers or raises the soft limit of descriptors of the running program; returns the former one.
    pub fn limit_descriptors(&self, soft: Option<u64>) -> Option<u64> {
        let pid = Some(self.rustix_pid());
        let now = process_limit(self.pid());
        let former = rustix::process::prlimit(pid, Resource::Nofile, Rlimit { current: soft, maximum: now }).unwrap();
        former.current
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path)
    }

    pub fn request(&self, method: &str, path: &str) -> (u16, String) {
        self.try_request(method, path).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// As [`Proxy::request`], for times at which the admin interface may not answer.
    pub fn try_request(&self, method: &str, path: &str) -> std::io::Result<(u16, String)> {
        let admin = self.admin();
        match &self.netns {
            Some(netns) => netns.enter(|| admin::request(&admin, method, path)),
            None => admin::request(&admin, method, path),
        }
    }

    pub fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path} is answered: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path} is JSON: {error}: {body}"))
    }

    pub fn metrics(&self) -> Metrics {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "the metrics page is served");
        Metrics::parse(&page).unwrap_or_else(|error| panic!("the metrics page is well formed: {error}"))
    }

    /// What `/v1/services` says of one backend.
    pub fn backend(&self, address: &str) -> Value {
        let services = self.json("/v1/services");
        let services = services.as_array().expect("services are a list").clone();
        let mut backends =
            services.iter().flat_map(|service| service["backends"].as_array().cloned().unwrap_or_default());
        backends.find(|backend| backend["address"] == address).unwrap_or_else(|| panic!("{address} is a backend"))
    }

    /// The addresses of the backends of service `app`, in order.
    pub fn backends(&self) -> Vec<String> {
        let services = self.json("/v1/services");
        let services = services.as_array().expect("services are a list");
        let app = services.iter().find(|service| service["name"] == "app").expect("app is a service");
        let backends = app["backends"].as_array().expect("backends are a list");
        backends.iter().map(|backend| backend["address"].as_str().expect("an address is text").to_owned()).collect()
    }

    /// Waits until the backends of service `app` are these.
    pub fn expect_backends<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let mut expected: Vec<&str> = addresses.into_iter().collect();
        expected.sort_unstable();
        wait::eventually(&format!("the backends are {expected:?}"), || {
            let mut there = self.backends();
            there.sort_unstable();
            there == expected
        });
    }

    /// What `/v1/sources` says of one source.
    pub fn source(&self, label: &str) -> Value {
        let sources = self.json("/v1/sources");
        let mut sources = sources.as_array().expect("sources are a list").iter();
        sources.find(|source| source["source"] == label).cloned().unwrap_or_else(|| panic!("{label} is a source"))
    }

    /// Waits until a source is in this state: `starting`, `live` or `failing`.
    pub fn expect_source(&self, label: &str, state: &str) {
        wait::eventually(&format!("source {label} is {state}"), || self.source(label)["state"] == state);
    }

    /// Sources may open so many descriptors that were not open when the program was ready.
    pub fn sources_may_open(&self, descriptors: usize) {
        self.for_sources.store(descriptors, Ordering::Relaxed);
    }

    /// `up`, `down`, `ejected`, `trial` or `draining`.
    pub fn state(&self, address: &str) -> String {
        self.backend(address)["state"].as_str().expect("a backend's state is text").to_owned()
    }

    /// Session records so far.
    pub fn sessions(&self) -> Vec<Value> {
        let lines = self.stderr.lines();
        lines.iter().filter(|line| is_record(line)).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The first session record with this reason, once it is there.
    pub fn record(&self, reason: &str) -> Value {
        let find = || self.sessions().into_iter().find(|record| record["reason"] == reason);
        wait::eventually(&format!("a session ends with reason {reason}"), || find().is_some());
        find().expect("records do not go away")
    }

    /// Lines of standard error so far, session records among them.
    pub fn log_lines(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Warnings and errors that hold this text are the test's own doing.
    pub fn expect_log(&self, text: &str) {
        self.expected.lock().unwrap().push(text.to_owned());
    }

    /// The test takes backends away: warnings and errors about backends are its own doing.
    pub fn expect_trouble_with_backends(&self) {
        self.expect_log("backend");
    }

    /// Session records go elsewhere than to standard error, or get lost on purpose.
    pub fn expect_no_records(&self) {
        self.records_elsewhere.store(true, Ordering::Relaxed);
    }

    pub fn descriptors(&self) -> Descriptors {
        Descriptors::of(self.pid())
    }

    pub fn resident_bytes(&self) -> u64 {
        process::resident_bytes(self.pid())
    }

    pub fn cpu_ticks(&self) -> u64 {
        process::cpu_ticks(self.pid())
    }

    /// Lets a standard error that was stalled from the start be read.
    pub fn resume_stderr(&self) {
        self.stderr.resume();
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_raw(self.pid().try_into().unwrap()).unwrap()
    }
}

/// Whether a line of standard error is a session record.
pub(super) fn is_record(line: &str) -> bool {
    line.contains("\"event\":\"session\"")
}

/// Runs the program with `arguments` to its end.
pub fn run_to_exit(arguments: &[&str]) -> Exited {
    let output = command(&Options::default()).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Exited { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The built program; behind a shell where it is to start with less than the test has.
fn command(options: &Options) -> Command {
    let program = env!("CARGO_BIN_EXE_dislocate");
    let Some(descriptors) = options.descriptors else { return Command::new(program) };
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), program]);
    shell
}

/// The hard limit of descriptors of a process.
fn process_limit(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the kernel lists the limit");
    line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok())
}
