//! New flows: one datagram there, one back, from a source nobody used before.
//!
//! All sources share one socket and one port; the address is given with each datagram, out of the sixteen million that
//! loopback has. To the proxy each is another client.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::net::{EventFlags, MESSAGE_BYTES, Poller};
use crate::on_the_way::{LOST_AFTER, OnTheWay};
use crate::outcome::Outcome;
use crate::udp::{self, Inbox};

/// Opens flows, prints the outcome and, where asked to, holds them until standard input closes.
pub fn run(args: &Args) -> io::Result<()> {
    let targets = args.list("targets")?.into_iter().map(udp::v4).collect::<io::Result<Vec<_>>>()?;
    let socket = udp::bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), None)?;
    let poller = Poller::new()?;
    poller.add(&socket, 0, EventFlags::IN)?;
    let mut flows = Flows {
        poller,
        socket,
        targets,
        concurrency: args.need("concurrency")?,
        left: args.optional("count")?.unwrap_or(u64::MAX),
        next: 0,
        way: OnTheWay::default(),
        inbox: Inbox::new(false),
        outcome: Outcome::with_latencies(),
    };
    flows.run(args.seconds("seconds")?)?;
    std::mem::take(&mut flows.outcome).print();
    if args.optional::<String>("hold")?.is_some() {
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

struct Flows {
    poller: Poller,
    socket: OwnedFd,
    /// Taken in turn.
    targets: Vec<SocketAddrV4>,
    /// Flows without an answer at a time.
    concurrency: u64,
    /// Flows to begin at most.
    left: u64,
    /// Number of the next flow, from which its source follows.
    next: u64,
    way: OnTheWay,
    inbox: Inbox,
    outcome: Outcome,
}

impl Flows {
    fn run(&mut self, duration: Duration) -> io::Result<()> {
        let start = Instant::now();
        let end = start + duration;
        let mut events = Vec::with_capacity(1);
        let mut last_answer = start;
        loop {
            let now = Instant::now();
            let over = now >= end || self.left == 0;
            if over && (self.way.datagrams() == 0 || now >= end + LOST_AFTER) {
                break;
            }
            self.outcome.lost += now.checked_sub(LOST_AFTER).map_or(0, |before| self.way.give_up(before));
            while !over && self.left > 0 && self.way.datagrams() < self.concurrency {
                self.begin();
            }
            self.poller.wait(&mut events, Some(Duration::from_millis(20)))?;
            if self.receive() > 0 {
                last_answer = Instant::now();
            }
        }
        self.outcome.lost += self.way.datagrams();
        self.outcome.elapsed = last_answer - start;
        Ok(())
    }

    fn begin(&mut self) {
        let mut datagram = [0x2a; MESSAGE_BYTES];
        datagram[..size_of::<u64>()].copy_from_slice(&self.next.to_le_bytes());
        let turn = usize::try_from(self.next).unwrap_or(0) % self.targets.len();
        match udp::send_from(&self.socket, source(self.next), self.targets[turn], &datagram) {
            Ok(()) => self.way.add(self.next, Instant::now(), 1),
            Err(_) => self.outcome.errors += 1,
        }
        self.next += 1;
        self.left -= 1;
    }

    /// Takes in one call's answers; how many there were.
    fn receive(&mut self) -> usize {
        let Ok(received) = self.inbox.receive(&self.socket) else {
            self.outcome.errors += 1;
            return 0;
        };
        let now = Instant::now();
        for datagram in self.inbox.datagrams() {
            match datagram.first_chunk().map(|number| u64::from_le_bytes(*number)) {
                Some(number) if datagram.len() == MESSAGE_BYTES => {
                    if let Some(sent) = self.way.answered(number) {
                        self.outcome.completed(sent, now);
                        self.outcome.bytes += MESSAGE_BYTES as u64;
                    }
                }
                _ => self.outcome.errors += 1,
            }
        }
        received
    }
}

/// The address of a flow: any of 127.0.0.0/8 but the first and the last, which are no hosts.
fn source(flow: u64) -> Ipv4Addr {
    let host = u32::try_from(flow % (HOSTS - 2)).unwrap_or(0) + 1;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + host)
}

const HOSTS: u64 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_loopback_hosts_and_repeat_as_late_as_they_can() {
        let cases = [
            (0, [127, 0, 0, 1]),
            (255, [127, 0, 1, 0]),
            (HOSTS - 3, [127, 255, 255, 254]),
            (HOSTS - 2, [127, 0, 0, 1]),
        ];
        for (flow, address) in cases {
            assert_eq!(source(flow), Ipv4Addr::from(address), "source of flow {flow}");
        }
    }
}
