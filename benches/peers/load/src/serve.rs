//! The backends: an echo, a sink and a source.
//!
//! Every thread has its own addresses and its own connections, so threads share nothing; with fewer addresses than
//! threads the extra threads are not started.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::args::{Args, wrong};
use crate::net::{self, Event, EventFlags, Poller, Step};

/// What a backend does with a connection.
#[derive(Clone, Copy)]
enum Kind {
    /// Sends back what it receives; meant for messages that fit a socket buffer.
    Echo,
    /// Takes everything and answers nothing until the client finishes.
    Sink,
    /// Sends for as long as the client is there.
    Source,
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "echo" => Ok(Self::Echo),
            "sink" => Ok(Self::Sink),
            "source" => Ok(Self::Source),
            _ => Err(()),
        }
    }
}

/// Serves until standard input closes, so that a driver that dies takes its backends with it.
pub fn run(args: &Args) -> io::Result<()> {
    let kind: Kind = args.need("kind")?;
    let addresses: Vec<SocketAddr> = args.list("addresses")?;
    let threads = args.optional("threads")?.unwrap_or(1_usize).clamp(1, addresses.len());
    let accepted: Arc<Vec<AtomicU64>> = Arc::new(addresses.iter().map(|_| AtomicU64::new(0)).collect());
    let mut shares: Vec<Vec<(usize, OwnedFd)>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, address) in addresses.iter().enumerate() {
        let listener = net::listen(*address).map_err(|error| wrong(format!("cannot listen on {address}: {error}")))?;
        shares[index % threads].push((index, listener));
    }
    for listeners in shares {
        let accepted = Arc::clone(&accepted);
        std::thread::spawn(move || {
            if let Err(error) = (Server { kind, listeners, accepted, connections: Vec::new() }).serve() {
                // A backend that dies quietly would be measured as a proxy's failure.
                eprintln!("load: backend stopped: {error}");
                std::process::exit(1);
            }
        });
    }
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let counts: Vec<String> = addresses
        .iter()
        .zip(accepted.iter())
        .map(|(address, count)| format!("\"{address}\":{}", count.load(Ordering::Relaxed)))
        .collect();
    println!("{{{}}}", counts.join(","));
    Ok(())
}

/// One thread's listeners and connections.
struct Server {
    kind: Kind,
    /// With the place of each in `accepted`.
    listeners: Vec<(usize, OwnedFd)>,
    accepted: Arc<Vec<AtomicU64>>,
    /// By descriptor number; listeners keep their places empty.
    connections: Vec<Option<OwnedFd>>,
}

impl Server {
    fn serve(&mut self) -> io::Result<()> {
        let poller = Poller::new()?;
        for (_, listener) in &self.listeners {
            poller.add(listener, net::slot(listener), EventFlags::IN)?;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut events = Vec::with_capacity(256);
        loop {
            poller.wait(&mut events, None)?;
            for event in &events {
                let slot = net::token(event);
                if let Some(place) = self.listeners.iter().position(|(_, listener)| net::slot(listener) == slot) {
                    self.accept(&poller, place)?;
                } else if !self.step(event, slot, &mut buffer) {
                    self.connections[slot] = None;
                }
            }
        }
    }

    fn accept(&mut self, poller: &Poller, place: usize) -> io::Result<()> {
        let (index, listener) = &self.listeners[place];
        while let Some(socket) = net::accept(listener)? {
            self.accepted[*index].fetch_add(1, Ordering::Relaxed);
            let slot = net::slot(&socket);
            let interest = match self.kind {
                Kind::Echo | Kind::Sink => EventFlags::IN,
                Kind::Source => EventFlags::OUT | EventFlags::RDHUP,
            };
            poller.add(&socket, slot, interest)?;
            if self.connections.len() <= slot {
                self.connections.resize_with(slot + 1, || None);
            }
            self.connections[slot] = Some(socket);
        }
        Ok(())
    }

    /// Does one bounded piece of work; false when the connection is over.
    fn step(&self, event: &Event, slot: usize, buffer: &mut [u8]) -> bool {
        let Some(Some(socket)) = self.connections.get(slot) else { return false };
        let flags = event.flags;
        match self.kind {
            Kind::Echo => match net::receive(socket, buffer) {
                Step::Moved(count) => matches!(net::send(socket, &buffer[..count]), Step::Moved(sent) if sent == count),
                Step::Blocked => true,
                Step::Finished | Step::Broken => false,
            },
            Kind::Sink => matches!(net::discard(socket, buffer), Step::Moved(_) | Step::Blocked),
            Kind::Source if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) => false,
            Kind::Source => matches!(net::send(socket, buffer), Step::Moved(_) | Step::Blocked),
        }
    }
}

/// Large enough that the cost per call disappears, small enough to stay in a second-level cache.
const BUFFER_BYTES: usize = 256 * 1024;
