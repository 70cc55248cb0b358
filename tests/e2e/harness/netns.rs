//! Network namespaces of a test's own, joined by cables that can be cut.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::tools::path_of;

/// A namespace, deleted when its last handle goes.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Name>);

#[derive(Debug)]
struct Name(String);

/// Two namespaces with a cable between them.
#[derive(Debug)]
pub struct Link {
    pub near: Netns,
    pub far: Netns,
    pub near_address: String,
    pub far_address: String,
    device: String,
}

impl Netns {
    pub fn new() -> Netns {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dislocate-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name], "");
        let netns = Netns(Arc::new(Name(name)));
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// The file that stands for it.
    pub fn file(&self) -> PathBuf {
        PathBuf::from(format!("/var/run/netns/{}", self.0.0))
    }

    /// Runs `act` inside, on a thread of its own; sockets made there stay inside, threads and processes begun there too.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.file()).unwrap();
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.0.0], arguments].concat(), "");
    }

    /// Replaces all packet filter rules by one chain on what arrives, holding `rules`, one a line.
    pub fn filter_input(&self, rules: &str) {
        let chain = "type filter hook input priority 0";
        let chain = format!("flush ruleset\ntable inet t {{\nchain c {{\n{chain}\n{rules}\n}}\n}}\n");
        self.enter(|| run("nft", &["-f", "-"], &chain));
    }

    /// Sets a kernel parameter below `/proc/sys/net` that belongs to the namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
    }
}

impl Link {
    pub fn new() -> Link {
        Link::between(Netns::new(), Netns::new())
    }

    /// A cable with a /24 of its own and an address at each end.
    pub fn between(near: Netns, far: Netns) -> Link {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let device = format!("cable{number}");
        let address = |end: u8| format!("10.{}.{}.{end}", number / 250, number % 250);
        let (near_address, far_address) = (address(1), address(2));
        let (inside, outside) = (&near.0.0, &far.0.0);
        run(
            "ip",
            &["link", "add", &device, "netns", inside, "type", "veth", "peer", "name", &device, "netns", outside],
            "",
        );
        for (netns, address) in [(&near, &near_address), (&far, &far_address)] {
            netns.ip(&["address", "add", &format!("{address}/24"), "dev", &device]);
            netns.ip(&["link", "set", &device, "up"]);
        }
        Link { near, far, near_address, far_address, device }
    }

    /// Lets both ends carry packets of so many bytes at most.
    pub fn set_mtu(&self, bytes: u32) {
        for netns in [&self.near, &self.far] {
            netns.ip(&["link", "set", &self.device, "mtu", &bytes.to_string()]);
        }
    }

    /// Sends everything that the near end has no other way for to the far end.
    pub fn route_near_through_far(&self) {
        self.near.ip(&["route", "add", "default", "via", &self.far_address]);
    }

    /// Takes the far end down: whoever is there is gone without a word.
    pub fn cut_far_end(&self) {
        self.far.ip(&["link", "set", &self.device, "down"]);
    }

    /// Takes the near end down, and with it the route.
    pub fn cut_near_end(&self) {
        self.near.ip(&["link", "set", &self.device, "down"]);
    }

    /// What arrives at the far end is dropped from here on, for connections old and new.
    pub fn swallow(&self) {
        self.far.filter_input("drop");
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // A namespace that stays behind is visible by its name and harms nobody.
        let _ = Command::new(path_of("ip").unwrap()).args(["netns", "delete", &self.0]).status();
    }
}

/// Runs a tool with `input` on its standard input; its failure fails the test.
fn run(tool: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(path_of(tool).expect("the test has asked for its tools"));
    let mut child = command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?} {input}: {said}");
}
