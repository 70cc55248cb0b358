//! Idle connections: one exchange on each, then silence.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::net::{self, EventFlags, MESSAGE_BYTES, Poller, Step};
use crate::outcome::Outcome;

/// Opens the connections, prints the outcome, and holds them until standard input closes.
pub fn run(args: &Args) -> io::Result<()> {
    let targets: Vec<SocketAddr> = args.list("targets")?;
    let sources: Vec<IpAddr> = args.list("sources")?;
    let connections: usize = args.need("connections")?;
    let mut held = Vec::with_capacity(connections);
    let mut outcome = Outcome::with_latencies();
    let begin = Instant::now();
    for index in 0..connections {
        let start = Instant::now();
        match exchange(targets[index % targets.len()], sources[index % sources.len()]) {
            Ok(socket) => {
                outcome.completed(start, Instant::now());
                held.push(socket);
            }
            Err(_) => outcome.errors += 1,
        }
    }
    outcome.elapsed = begin.elapsed();
    outcome.print();
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

fn exchange(target: SocketAddr, source: IpAddr) -> io::Result<OwnedFd> {
    let socket = net::connect(target, Some(source))?;
    let poller = Poller::new()?;
    poller.add(&socket, 0, EventFlags::OUT)?;
    wait(&poller)?;
    let Step::Moved(MESSAGE_BYTES) = net::send(&socket, &[0x2a; MESSAGE_BYTES]) else {
        return Err(io::ErrorKind::ConnectionReset.into());
    };
    poller.modify(&socket, 0, EventFlags::IN)?;
    let mut missing = MESSAGE_BYTES;
    while missing > 0 {
        wait(&poller)?;
        match net::receive(&socket, &mut [0; MESSAGE_BYTES]) {
            Step::Moved(count) if count <= missing => missing -= count,
            Step::Blocked => {}
            _ => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
    Ok(socket)
}

fn wait(poller: &Poller) -> io::Result<()> {
    let mut events = Vec::with_capacity(1);
    poller.wait(&mut events, Some(Duration::from_secs(2)))?;
    if events.is_empty() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}
