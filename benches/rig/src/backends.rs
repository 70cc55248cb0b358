//! Backends: each a pool of workers before one queue, that sleeps for the work it is asked for, and fails on command.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::command::{Change, Command};
use crate::frame::{self, FRAME_BYTES, Frame};
use crate::netns;
use crate::reactor::{EventFlags, Reactor, Timers};
use crate::sockets::{self, Step};

/// One backend, as asked for.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What its answers say.
    pub name: String,
    /// Where it listens; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Requests worked on at once; more wait, first come, first served.
    pub workers: usize,
    /// Work takes `1 / speed` of its time.
    pub speed: f64,
}

/// Running backends, all on one thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Backends {
    addresses: Vec<SocketAddr>,
    answered: Arc<Vec<AtomicU64>>,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Backends {
    /// Starts backends, inside the network namespace of the file `netns` if there is one.
    ///
    /// # Errors
    ///
    /// An address that cannot be listened on, or a namespace that cannot be entered.
    pub fn start(specs: &[Spec], netns: Option<&Path>) -> io::Result<Backends> {
        let begin = || Backends::start_here(specs);
        match netns {
            Some(file) => netns::enter(file, begin),
            None => begin(),
        }
    }

    /// Where each listens, in the order of the specs.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers each has given, in the order of the specs.
    pub fn answered(&self) -> Vec<u64> {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Changes backends, at once for all practical purposes.
    pub fn command(&self, command: Command) {
        // The thread ends only with this value.
        self.commands.send(command).expect("the backends are running");
        self.wake();
    }

    fn start_here(specs: &[Spec]) -> io::Result<Backends> {
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let answered: Arc<Vec<AtomicU64>> = Arc::new(specs.iter().map(|_| AtomicU64::new(0)).collect());
        let (commands, received) = channel();
        let mut server = Server::new(specs, Arc::clone(&answered), received, Arc::clone(&wake))?;
        let addresses = server.backends.iter().map(|backend| backend.address).collect();
        let serve = move || server.serve().expect("backends go on while the machine has descriptors");
        let thread = std::thread::Builder::new().name("backends".into()).spawn(serve)?;
        Ok(Backends { addresses, answered, commands, wake, thread: Some(thread) })
    }

    fn wake(&self) {
        // An eventfd that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.commands = channel().0;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It has said what went wrong if it panicked.
            let _ = thread.join();
        }
    }
}

struct Server {
    reactor: Reactor,
    timers: Timers<Timer>,
    backends: Vec<Backend>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    answered: Arc<Vec<AtomicU64>>,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
}

enum Timer {
    /// The job of this worker of this backend may be done.
    Done { backend: usize, worker: usize },
    /// A stall may be over.
    Thaw { backend: usize },
    /// A connection that is to be reset.
    Reset { connection: u64 },
}

struct Backend {
    name: String,
    answer: Frame,
    address: SocketAddr,
    listener: Option<OwnedFd>,
    mode: Mode,
    speed: Speed,
    /// Nothing moves before then.
    frozen_until: Instant,
    queue: VecDeque<Job>,
    workers: Vec<Option<Running>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Serving,
    Refusing,
    Resetting,
    Silent,
}

enum Speed {
    Steady(f64),
    Ramp { from: f64, over: Duration, since: Option<Instant> },
}

struct Connection {
    socket: OwnedFd,
    backend: usize,
    frame: Frame,
    received: usize,
}

struct Job {
    connection: u64,
    work: Duration,
}

struct Running {
    connection: u64,
    done: Instant,
}

impl Server {
    fn new(
        specs: &[Spec],
        answered: Arc<Vec<AtomicU64>>,
        commands: Receiver<Command>,
        wake: Arc<OwnedFd>,
    ) -> io::Result<Server> {
        let mut server = Server {
            reactor: Reactor::new()?,
            timers: Timers::new(),
            backends: specs.iter().map(Backend::new).collect(),
            connections: HashMap::new(),
            next_connection: FIRST_CONNECTION,
            answered,
            commands,
            wake,
        };
        server.reactor.add(&server.wake, WAKE, EventFlags::IN)?;
        (0..specs.len()).try_for_each(|backend| server.listen(backend))?;
        Ok(server)
    }

    /// Serves until the sender of commands is gone.
    fn serve(&mut self) -> io::Result<()> {
        crate::reactor::sharp_timers();
        loop {
            for token in self.reactor.wait(self.timers.next())? {
                match token {
                    WAKE => {
                        if !self.obey()? {
                            return Ok(());
                        }
                    }
                    FIRST_CONNECTION.. => self.read(token),
                    listener => self.accept(listener as usize - 1)?,
                }
            }
            let now = Instant::now();
            while let Some(timer) = self.timers.due(now) {
                self.fire(timer, now);
            }
        }
    }

    /// Takes commands; false when there will be no more.
    fn obey(&mut self) -> io::Result<bool> {
        // What the counter says does not matter, only that it is lowered.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    for index in 0..self.backends.len() {
                        if command.is_for(&self.backends[index].name) {
                            self.change(index, command.change)?;
                        }
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(true),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    fn change(&mut self, index: usize, change: Change) -> io::Result<()> {
        let now = Instant::now();
        let backend = &mut self.backends[index];
        match change {
            Change::Speed(speed) => backend.speed = Speed::Steady(speed),
            Change::Ramp(from, over) => backend.speed = Speed::Ramp { from, over, since: None },
            Change::Stall(length) => {
                backend.freeze(now, length);
                self.timers.add(backend.frozen_until, Timer::Thaw { backend: index });
            }
            Change::Refuse => {
                // What has shaken hands is accepted; closing the listener would reset it.
                self.accept(index)?;
                self.backends[index].mode = Mode::Refusing;
                self.backends[index].listener = None;
            }
            Change::Reset | Change::Silent | Change::Heal => {
                backend.mode = match change {
                    Change::Reset => Mode::Resetting,
                    Change::Silent => Mode::Silent,
                    _ => Mode::Serving,
                };
                self.listen(index)?;
            }
        }
        Ok(())
    }

    fn listen(&mut self, index: usize) -> io::Result<()> {
        let backend = &mut self.backends[index];
        if backend.listener.is_none() {
            let listener = sockets::listen(backend.address)?;
            backend.address = sockets::local_address(&listener)?;
            self.reactor.add(&listener, index as u64 + 1, EventFlags::IN)?;
            backend.listener = Some(listener);
        }
        Ok(())
    }

    fn accept(&mut self, index: usize) -> io::Result<()> {
        while let Some(listener) = &self.backends[index].listener {
            let Some(socket) = sockets::accept(listener)? else { break };
            let id = self.next_connection;
            self.next_connection += 1;
            let resetting = self.backends[index].mode == Mode::Resetting;
            if resetting {
                self.timers.add(Instant::now() + BEFORE_RESET, Timer::Reset { connection: id });
            } else {
                self.reactor.add(&socket, id, EventFlags::IN)?;
            }
            self.connections.insert(id, Connection { socket, backend: index, frame: [0; FRAME_BYTES], received: 0 });
            if !resetting {
                self.read(id);
            }
        }
        Ok(())
    }

    /// Takes the requests that have come over a connection.
    fn read(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let backend = &mut self.backends[connection.backend];
        let mut over = false;
        loop {
            match sockets::receive(&connection.socket, &mut connection.frame[connection.received..]) {
                Step::Moved(count) => connection.received += count,
                Step::Blocked => break,
                Step::Finished | Step::Broken(_) => {
                    over = true;
                    break;
                }
            }
            if connection.received == FRAME_BYTES {
                connection.received = 0;
                if backend.mode != Mode::Silent && backend.queue.len() < LONGEST_QUEUE {
                    backend.queue.push_back(Job { connection: id, work: frame::work(&connection.frame) });
                }
            }
        }
        let backend = connection.backend;
        if over {
            // Its jobs stay: a worker does not see that nobody waits for the answer.
            self.connections.remove(&id);
        }
        self.dispatch(backend);
    }

    /// Gives waiting jobs to idle workers.
    fn dispatch(&mut self, index: usize) {
        let now = Instant::now();
        let backend = &mut self.backends[index];
        if backend.frozen_until > now {
            return;
        }
        while let Some(worker) = backend.workers.iter().position(Option::is_none) {
            let Some(job) = backend.queue.pop_front() else { break };
            let done = now + job.work.div_f64(backend.speed.at(now));
            backend.workers[worker] = Some(Running { connection: job.connection, done });
            self.timers.add(done, Timer::Done { backend: index, worker });
        }
    }

    fn fire(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Thaw { backend } => self.dispatch(backend),
            Timer::Reset { connection } => {
                if let Some(connection) = self.connections.remove(&connection) {
                    sockets::reset(connection.socket);
                }
            }
            Timer::Done { backend, worker } => {
                let Some(running) = self.backends[backend].workers[worker].take() else { return };
                if running.done > now {
                    // A stall has moved it.
                    self.timers.add(running.done, timer);
                    self.backends[backend].workers[worker] = Some(running);
                    return;
                }
                self.answer(backend, running.connection);
                self.dispatch(backend);
            }
        }
    }

    fn answer(&mut self, backend: usize, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        // An answer is far smaller than what a socket takes at once.
        match sockets::send(&connection.socket, &self.backends[backend].answer) {
            Step::Moved(FRAME_BYTES) => {
                self.answered[backend].fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                self.connections.remove(&id);
            }
        }
    }
}

impl Backend {
    fn new(spec: &Spec) -> Backend {
        Backend {
            name: spec.name.clone(),
            answer: frame::answer(&spec.name),
            address: spec.address,
            listener: None,
            mode: Mode::Serving,
            speed: Speed::Steady(spec.speed),
            frozen_until: Instant::now(),
            queue: VecDeque::new(),
            workers: (0..spec.workers.max(1)).map(|_| None).collect(),
        }
    }

    fn freeze(&mut self, now: Instant, length: Duration) {
        let until = (now + length).max(self.frozen_until);
        let further = until - self.frozen_until.max(now);
        self.frozen_until = until;
        for running in self.workers.iter_mut().flatten() {
            running.done += further;
        }
    }
}

impl Speed {
    fn at(&mut self, now: Instant) -> f64 {
        match self {
            Speed::Steady(speed) => *speed,
            Speed::Ramp { from, over, since } => {
                let age = now.saturating_duration_since(*since.get_or_insert(now));
                let part = (age.as_secs_f64() / over.as_secs_f64()).min(1.0);
                *from + (1.0 - *from) * part
            }
        }
    }
}

const WAKE: u64 = 0;
const FIRST_CONNECTION: u64 = 1 << 32;
/// A fault that answers faster than any server works.
const BEFORE_RESET: Duration = Duration::from_micros(200);
/// Requests beyond are dropped, as a server that is out of memory would.
const LONGEST_QUEUE: usize = 100_000;
