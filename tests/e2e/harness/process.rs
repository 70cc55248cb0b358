//! Other people's servers, and what the kernel knows of a process.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddrV4, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::conn::Conn;
use super::loopback;
use super::temp::TempDir;
use super::wait::{eventually, within};

/// A server process of a test's own, killed with it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// A `HOST:PORT` that is free, and stays so, since nothing else uses the host.
    pub fn free_address() -> (String, u16) {
        let host = loopback();
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        (host.to_string(), port)
    }

    /// Starts `command` and waits until it accepts on `address`; what it says goes to a file in `folder`.
    pub fn start(command: &mut Command, address: &str, folder: &TempDir) -> Server {
        Server::start_until(command, address, folder, |server| Conn::try_open(&server.address).is_ok())
    }

    /// As [`Server::start`], for a server that takes datagrams only.
    pub fn start_datagrams(command: &mut Command, address: &str, folder: &TempDir) -> Server {
        Server::start_until(command, address, folder, |server| takes_datagrams(&server.address))
    }

    fn start_until(command: &mut Command, address: &str, folder: &TempDir, ready: impl Fn(&Server) -> bool) -> Server {
        let said = folder.join("server-output");
        let log = fs::File::create(&said).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut server = Server { child: command.spawn().unwrap(), address: address.to_owned() };
        within(Duration::from_secs(30), &format!("{command:?} accepts on {address}"), || {
            let exited = server.child.try_wait().unwrap();
            assert!(exited.is_none(), "{command:?} ended: {}", fs::read_to_string(&said).unwrap());
            ready(&server)
        });
        server
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Whether a UDP socket is bound to an IPv4 address, as this process' namespace shows it.
fn takes_datagrams(address: &str) -> bool {
    let address: SocketAddrV4 = address.parse().unwrap();
    // As the kernel prints it: the address as a number of this machine's byte order.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/self/net/udp").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(local.as_str()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM first: servers with children of their own stop those; SIGKILL if that does not help.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let mut ended = || matches!(self.child.try_wait(), Ok(Some(_)));
        for _ in 0..200 {
            if ended() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client to its end and returns what it wrote; anything but success fails the test with what it said.
pub fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// What iperf3 measured, run by `client` with what makes up a test. Its server takes one test at a time, and turns away who
/// comes while it is busy with the last, which is no failure to the client.
pub fn iperf3(client: impl Fn() -> Command) -> Value {
    let mut result = Value::Null;
    eventually("the server takes a test", || {
        let output = client().arg("--json").output().unwrap();
        result = serde_json::from_slice(&output.stdout).unwrap_or_default();
        output.status.success() && result["error"].is_null()
    });
    result
}

/// Open descriptors of a process by kind; listening sockets apart, since reloads add and remove those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    pub listening: usize,
    pub sockets: usize,
    pub pipes: usize,
    pub others: usize,
}

impl Descriptors {
    pub fn of(pid: u32) -> Descriptors {
        let listening = listening_inodes(pid);
        let mut found = Descriptors::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            // A descriptor closed since the listing is none.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            match target.split_once(':') {
                Some(("socket", inode)) if listening.contains(inode) => found.listening += 1,
                Some(("socket", _)) => found.sockets += 1,
                Some(("pipe", _)) => found.pipes += 1,
                _ => found.others += 1,
            }
        }
        found
    }

    pub fn total(&self) -> usize {
        self.listening + self.sockets + self.pipes + self.others
    }
}

/// Inodes, in brackets as links show them, of the listening sockets in the namespace of a process.
fn listening_inodes(pid: u32) -> HashSet<String> {
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let column = |line: &str, number: usize| line.split_whitespace().nth(number).map(str::to_owned);
    let mut inodes = HashSet::new();
    for line in (table("tcp") + &table("tcp6")).lines() {
        if column(line, 3).as_deref() == Some("0A") {
            inodes.extend(column(line, 9));
        }
    }
    // Sockets of datagrams do not listen: those of listeners are the ones connected to nobody.
    for line in (table("udp") + &table("udp6")).lines() {
        if column(line, 3).as_deref() == Some("07") {
            inodes.extend(column(line, 9));
        }
    }
    for line in table("unix").lines() {
        if column(line, 3).as_deref() == Some("00010000") {
            inodes.extend(column(line, 6));
        }
    }
    inodes.into_iter().map(|inode| format!("[{inode}]")).collect()
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Processor time used so far, in clock ticks, of which a second has a hundred.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let field = |number: usize| after_name.split_whitespace().nth(number).unwrap().parse::<u64>().unwrap();
    field(11) + field(12)
}
