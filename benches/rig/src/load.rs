//! Clients on a timetable: connections begin at the times of a Poisson process, whatever the answers do.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::draw::{Requests, Work, exponential};
use crate::frame::{self, FRAME_BYTES, Frame};
use crate::outcome::{Failure, Outcome, Record};
use crate::reactor::{EventFlags, Reactor, Timers};
use crate::sockets::{self, Step};

/// A load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where clients connect, each in turn.
    pub targets: Vec<SocketAddr>,
    /// From when on how many connections begin a second; in order, the first at zero.
    pub rates: Vec<(Duration, f64)>,
    /// No connection begins, and no request leaves, after this.
    pub length: Duration,
    /// How long a client waits for one answer.
    pub timeout: Duration,
    /// Requests of a connection.
    pub requests: Requests,
    /// Mean pause between an answer and the next request of a connection.
    pub think: Duration,
    /// What a request asks for.
    pub work: Work,
    /// The same seed makes the same arrivals with the same work.
    pub seed: u64,
}

/// Puts the load on and waits for the last answers.
///
/// # Errors
///
/// Those of the event loop; what happens to connections is in the outcome.
pub fn run(plan: &Plan) -> io::Result<Outcome> {
    Clients::new(plan)?.run()
}

struct Clients<'a> {
    plan: &'a Plan,
    reactor: Reactor,
    timers: Timers<Timer>,
    start: Instant,
    arrivals: Rng,
    /// When the next connection is meant to begin.
    next: Instant,
    connections: HashMap<u64, Connection>,
    begun: u64,
    places: HashMap<Frame, u16>,
    outcome: Outcome,
}

enum Timer {
    /// The pause of this connection is over.
    Think(u64),
    /// The answer to this connection's request, of which so many are left, is late.
    Late(u64, u32),
}

struct Connection {
    socket: OwnedFd,
    connected: bool,
    /// Of this connection alone, so that its requests ask for the same whatever happens to the others.
    rng: Rng,
    /// When the present request was meant to leave.
    planned: Instant,
    /// Requests to come, the present one included.
    left: u32,
    waiting: bool,
    answer: Frame,
    received: usize,
}

impl<'a> Clients<'a> {
    fn new(plan: &'a Plan) -> io::Result<Clients<'a>> {
        let start = Instant::now();
        let mut clients = Clients {
            plan,
            reactor: Reactor::new()?,
            timers: Timers::new(),
            start,
            arrivals: Rng::with_seed(plan.seed),
            next: start,
            connections: HashMap::new(),
            begun: 0,
            places: HashMap::new(),
            outcome: Outcome::default(),
        };
        clients.plan_next();
        Ok(clients)
    }

    fn run(mut self) -> io::Result<Outcome> {
        let end = self.start + self.plan.length;
        loop {
            let now = Instant::now();
            while self.next <= now && self.next < end {
                let planned = self.next;
                self.plan_next();
                self.begin(planned);
            }
            while let Some(timer) = self.timers.due(now) {
                self.fire(timer, end);
            }
            if now >= end {
                self.connections.retain(|_, connection| connection.waiting);
                if self.connections.is_empty() {
                    return Ok(self.outcome);
                }
            }
            let arrival = if self.next < end { self.next } else { end.max(now + LAST_LOOKS) };
            let until = self.timers.next().map_or(arrival, |timer| timer.min(arrival));
            for id in self.reactor.wait(Some(until))? {
                self.step(id);
            }
        }
    }

    /// Sets the time of the next arrival.
    fn plan_next(&mut self) {
        loop {
            let at = self.next - self.start;
            let rate = self.plan.rates.iter().take_while(|(from, _)| *from <= at).last().map_or(0.0, |(_, rate)| *rate);
            let gap = exponential(Duration::from_secs_f64(1.0 / rate.max(LEAST_RATE)), &mut self.arrivals);
            // The process has no memory: at a change of the rate it may as well begin anew.
            match self.plan.rates.iter().map(|(from, _)| *from).find(|from| *from > at) {
                Some(change) if at + gap > change => self.next = self.start + change,
                _ => {
                    self.next += gap;
                    return;
                }
            }
        }
    }

    fn begin(&mut self, planned: Instant) {
        let id = self.begun;
        self.begun += 1;
        let mut rng = Rng::with_seed(self.plan.seed ^ (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let left = self.plan.requests.draw(&mut rng);
        let target = self.plan.targets[id as usize % self.plan.targets.len()];
        let socket = match sockets::connect(target) {
            Ok(socket) => socket,
            Err(error) => return self.record(planned, Err(failure_of(error))),
        };
        if self.reactor.add(&socket, id, EventFlags::OUT).is_err() {
            return self.record(planned, Err(Failure::Refused));
        }
        let answer = [0; FRAME_BYTES];
        let connection =
            Connection { socket, connected: false, rng, planned, left, waiting: true, answer, received: 0 };
        self.timers.add(planned + self.plan.timeout, Timer::Late(id, left));
        self.connections.insert(id, connection);
    }

    fn fire(&mut self, timer: Timer, end: Instant) {
        match timer {
            Timer::Late(id, left) => {
                let present = self.connections.get(&id).is_some_and(|late| late.waiting && late.left == left);
                if present {
                    self.fail(id, Failure::Timeout);
                }
            }
            Timer::Think(id) => {
                let now = Instant::now();
                let Some(connection) = self.connections.get_mut(&id).filter(|_| now < end) else { return };
                (connection.planned, connection.waiting) = (now, true);
                self.timers.add(now + self.plan.timeout, Timer::Late(id, connection.left));
                self.send(id);
            }
        }
    }

    /// Goes on with a connection on which something happened.
    fn step(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.connected {
            return self.receive(id);
        }
        if let Ok(Err(error)) = sockopt::socket_error(&connection.socket) {
            return self.fail(id, failure_of(error));
        }
        connection.connected = true;
        if self.reactor.modify(&connection.socket, id, EventFlags::IN).is_err() {
            return self.fail(id, Failure::Refused);
        }
        self.send(id);
    }

    fn send(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let request = frame::request(self.plan.work.draw(&mut connection.rng));
        match sockets::send(&connection.socket, &request) {
            Step::Moved(FRAME_BYTES) => {}
            Step::Broken(error) => self.fail(id, failure_of(error)),
            _ => self.fail(id, Failure::Closed),
        }
    }

    fn receive(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match sockets::receive(&connection.socket, &mut connection.answer[connection.received..]) {
            Step::Moved(count) => connection.received += count,
            Step::Blocked => return,
            Step::Finished => return self.fail(id, Failure::Closed),
            Step::Broken(error) => return self.fail(id, failure_of(error)),
        }
        if connection.received == FRAME_BYTES {
            self.answered(id);
        }
    }

    fn answered(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        (connection.received, connection.waiting) = (0, false);
        connection.left -= 1;
        let (planned, answer, left) = (connection.planned, connection.answer, connection.left);
        if left == 0 {
            self.connections.remove(&id);
        } else {
            let pause = exponential(self.plan.think, &mut connection.rng);
            self.timers.add(Instant::now() + pause, Timer::Think(id));
        }
        let place = self.place_of(&answer);
        self.record(planned, Ok(place));
    }

    fn place_of(&mut self, answer: &Frame) -> u16 {
        if let Some(place) = self.places.get(answer) {
            return *place;
        }
        let place = u16::try_from(self.outcome.names.len()).expect("there are not that many backends");
        self.outcome.names.push(frame::name(answer));
        self.places.insert(*answer, place);
        place
    }

    /// Ends a connection. A failure between two requests is one too: the client has lost its connection.
    fn fail(&mut self, id: u64, failure: Failure) {
        if let Some(connection) = self.connections.remove(&id) {
            let planned = if connection.waiting { connection.planned } else { Instant::now() };
            self.record(planned, Err(failure));
        }
    }

    fn record(&mut self, planned: Instant, result: Result<u16, Failure>) {
        let (at, latency) = (planned.saturating_duration_since(self.start), planned.elapsed());
        self.outcome.records.push(Record { at, latency, result });
    }
}

fn failure_of(error: Errno) -> Failure {
    match error {
        Errno::CONNRESET | Errno::PIPE => Failure::Reset,
        _ => Failure::Refused,
    }
}

/// Instead of no rate at all.
const LEAST_RATE: f64 = 0.001;
/// How often the end is looked for once the time is up.
const LAST_LOOKS: Duration = Duration::from_millis(20);
