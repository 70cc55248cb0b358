//! Servers of datagrams in this process, which answer, keep silent or take their time, as the test says.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::datagrams::{Datagrams, LARGEST};
use super::loopback;
use super::wait::eventually;

/// What asks a backend who it is and whom it sees; its answer is a [`Served`].
const WHO: &[u8] = b"\0who";

/// What a datagram begins with that no backend answers.
pub const QUIET: &str = "quiet";

/// Datagrams that are kept for the test to look at; those after them are only counted.
const KEPT: usize = 20_000;

/// What a socket may hold that nobody reads; the kernel cuts it to what it allows.
const BUFFER: usize = 8 << 20;

/// A server of one socket that echoes what comes, and says who it is when asked by [`who_serves`].
#[derive(Debug)]
pub struct DatagramBackend {
    shared: Arc<Shared>,
    address: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    socket: Arc<Bound>,
    stopping: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    behaviour: Mutex<Behaviour>,
    count: AtomicU64,
    kept: Mutex<Vec<Arrived>>,
}

/// What a backend does with what it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    #[default]
    Answers,
    IsSilent,
    /// Answers after this long.
    Delays(Duration),
    /// Answers so many times.
    Repeats(usize),
}

/// A datagram as a backend saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Where it seems to come from; a unix peer is its path.
    pub from: String,
    pub bytes: Vec<u8>,
}

/// Who answered, and where the asking seemed to come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    pub by: String,
    pub from: String,
}

impl DatagramBackend {
    /// On a loopback address of its own.
    pub fn start(name: &str) -> DatagramBackend {
        DatagramBackend::start_on(name, &format!("{}:0", loopback()))
    }

    /// On `HOST:PORT` or `unix:PATH`.
    pub fn start_on(name: &str, address: &str) -> DatagramBackend {
        let shared = Shared {
            name: name.to_owned(),
            behaviour: Mutex::default(),
            count: AtomicU64::new(0),
            kept: Mutex::default(),
        };
        let mut backend = DatagramBackend { shared: Arc::new(shared), address: address.to_owned(), running: None };
        backend.start_again();
        backend
    }

    /// Several, each under its name.
    pub fn each<const N: usize>(names: [&str; N]) -> [DatagramBackend; N] {
        names.map(DatagramBackend::start)
    }

    /// `HOST:PORT` or `unix:PATH`, as a configuration has it.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn behaves(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// Datagrams that came so far.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// The first of them.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.shared.kept.lock().unwrap().clone()
    }

    /// Sends on its own account, from the address that it serves on.
    pub fn send_to(&self, address: &str, bytes: &[u8]) {
        let running = self.running.as_ref().expect("a backend that sends is running");
        running.socket.send_to(bytes, &Peer::Inet(address.parse().unwrap())).unwrap();
    }

    /// Ends as a process does: its socket is closed, and the kernel reports whoever still sends there.
    ///
    /// A program that another test starts at this moment may have the socket until it is executed.
    pub fn stop(&mut self) {
        self.end();
        if let Ok(address) = self.address.parse::<SocketAddr>() {
            eventually("a backend's socket is gone", || is_refused(address));
        }
    }

    fn end(&mut self) {
        let Some(Running { socket, stopping, reader }) = self.running.take() else { return };
        stopping.store(true, Ordering::Relaxed);
        socket.wake();
        reader.join().expect("a backend does not panic");
        if let Some(path) = self.address.strip_prefix("unix:") {
            // Otherwise nobody could listen there again.
            let _ = std::fs::remove_file(path);
        }
    }

    pub fn start_again(&mut self) {
        let socket = Arc::new(Bound::to(&self.address));
        self.address = socket.address();
        socket.look_up_every(Duration::from_secs(1));
        let stopping = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (socket, stopping, shared) = (socket.clone(), stopping.clone(), self.shared.clone());
            move || serve(&socket, &stopping, &shared)
        });
        self.running = Some(Running { socket, stopping, reader });
    }
}

impl Drop for DatagramBackend {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether the kernel says that nobody receives there.
fn is_refused(address: SocketAddr) -> bool {
    let socket = UdpSocket::bind((address.ip(), 0)).unwrap();
    socket.connect(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    // On loopback the answer of the kernel is there when the call returns.
    let sent = socket.send(&[]);
    sent.and_then(|_| socket.recv(&mut [0])).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Asks through `client` who serves it; panics when nobody answers.
pub fn who_serves(client: &Datagrams) -> Served {
    parse(&client.ask(WHO))
}

/// As [`who_serves`], where the answer may be lost.
pub fn who_serves_within(limit: Duration, client: &Datagrams) -> Option<Served> {
    client.ask_within(limit, WHO).map(|answer| parse(&answer))
}

fn parse(answer: &[u8]) -> Served {
    let text = std::str::from_utf8(answer).ok().and_then(|text| text.split_once(' '));
    let (by, from) = text.unwrap_or_else(|| panic!("{answer:?} does not say who serves"));
    Served { by: by.to_owned(), from: from.to_owned() }
}

fn serve(socket: &Arc<Bound>, stopping: &AtomicBool, shared: &Shared) {
    let mut buffer = vec![0; LARGEST + 1];
    let mut late: Option<Sender<(Instant, Peer, Vec<u8>)>> = None;
    while !stopping.load(Ordering::Relaxed) {
        // An error is what the network says of an earlier answer, or that nothing came for a second.
        let Ok((length, peer)) = socket.receive(&mut buffer) else { continue };
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let bytes = &buffer[..length];
        shared.note(&peer, bytes);
        let answer = if bytes == WHO { format!("{} {peer}", shared.name).into_bytes() } else { bytes.to_owned() };
        let behaviour = *shared.behaviour.lock().unwrap();
        match behaviour {
            _ if bytes.starts_with(QUIET.as_bytes()) => {}
            Behaviour::IsSilent => {}
            Behaviour::Answers => socket.answer(&answer, &peer),
            Behaviour::Repeats(times) => (0..times).for_each(|_| socket.answer(&answer, &peer)),
            Behaviour::Delays(delay) => {
                let late = late.get_or_insert_with(|| sender_of_late_answers(socket.clone()));
                late.send((Instant::now() + delay, peer, answer)).expect("late answers are sent while there are some");
            }
        }
    }
}

/// Sends each answer when its time has come; the delay is the same for all, so that they come in order.
fn sender_of_late_answers(socket: Arc<Bound>) -> Sender<(Instant, Peer, Vec<u8>)> {
    let (sender, answers) = mpsc::channel::<(Instant, Peer, Vec<u8>)>();
    thread::spawn(move || {
        for (due, peer, answer) in answers {
            super::wait::observe(due.saturating_duration_since(Instant::now()));
            socket.answer(&answer, &peer);
        }
    });
    sender
}

impl Shared {
    fn note(&self, peer: &Peer, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap();
        if kept.len() < KEPT {
            kept.push(Arrived { from: peer.to_string(), bytes: bytes.to_owned() });
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bound socket of either family.
#[derive(Debug)]
enum Bound {
    Inet(UdpSocket),
    Unix(UnixDatagram),
}

/// Who sent a datagram.
#[derive(Debug)]
enum Peer {
    Inet(SocketAddr),
    Unix(UnixAddr),
}

impl Bound {
    fn to(address: &str) -> Bound {
        let bound = match address.strip_prefix("unix:") {
            Some(path) => UnixDatagram::bind(path).map(Bound::Unix),
            None => inet(address).map(Bound::Inet),
        };
        bound.unwrap_or_else(|error| panic!("a backend takes datagrams on {address}: {error}"))
    }

    fn address(&self) -> String {
        match self {
            Bound::Inet(socket) => socket.local_addr().unwrap().to_string(),
            Bound::Unix(socket) => format!("unix:{}", socket.local_addr().unwrap().as_pathname().unwrap().display()),
        }
    }

    /// Readers look up so often, should a filter swallow what is to wake them.
    fn look_up_every(&self, time: Duration) {
        match self {
            Bound::Inet(socket) => socket.set_read_timeout(Some(time)),
            Bound::Unix(socket) => socket.set_read_timeout(Some(time)),
        }
        .unwrap();
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Peer)> {
        match self {
            Bound::Inet(socket) => socket.recv_from(buffer).map(|(length, peer)| (length, Peer::Inet(peer))),
            Bound::Unix(socket) => socket.recv_from(buffer).map(|(length, peer)| (length, Peer::Unix(peer))),
        }
    }

    fn send_to(&self, bytes: &[u8], peer: &Peer) -> io::Result<usize> {
        match (self, peer) {
            (Bound::Inet(socket), Peer::Inet(peer)) => socket.send_to(bytes, peer),
            (Bound::Unix(socket), Peer::Unix(peer)) => match peer.as_pathname() {
                Some(path) => socket.send_to(bytes, path),
                None => socket.send_to_addr(bytes, peer),
            },
            _ => panic!("a peer is of its socket's family"),
        }
    }

    /// Whoever asked may have gone.
    fn answer(&self, bytes: &[u8], peer: &Peer) {
        let _ = self.send_to(bytes, peer);
    }

    /// Ends a `receive` that waits, by a datagram to itself.
    fn wake(&self) {
        let sent = match self {
            Bound::Inet(socket) => socket.send_to(&[], socket.local_addr().unwrap()),
            Bound::Unix(socket) => socket.send_to(&[], socket.local_addr().unwrap().as_pathname().unwrap()),
        };
        sent.expect("a socket reaches itself");
    }
}

fn inet(address: &str) -> io::Result<UdpSocket> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl std::fmt::Display for Peer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Inet(peer) => write!(out, "{peer}"),
            Peer::Unix(peer) => write!(out, "{peer:?}"),
        }
    }
}
