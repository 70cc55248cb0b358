//! The backends of the UDP loads: an echo on one thread, for as many addresses as wanted.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::args::{Args, wrong};
use crate::net::{self, EventFlags, Poller};
use crate::udp::{self, Inbox, Outbox};

/// Serves until standard input closes, then prints what each address has answered (trains of segments count once).
pub fn run(args: &Args) -> io::Result<()> {
    let addresses: Vec<SocketAddr> = args.list("addresses")?;
    let segment: Option<u16> = args.optional("segment")?;
    let sockets = addresses
        .iter()
        .map(|address| udp::bound(*address, segment).map_err(|error| wrong(format!("cannot bind {address}: {error}"))))
        .collect::<io::Result<Vec<_>>>()?;
    let answered: Arc<Vec<AtomicU64>> = Arc::new(addresses.iter().map(|_| AtomicU64::new(0)).collect());
    let counts = Arc::clone(&answered);
    std::thread::spawn(move || {
        if let Err(error) = serve(&sockets, segment.is_some(), &counts) {
            // A backend that dies quietly would be measured as a proxy's failure.
            eprintln!("load: backend stopped: {error}");
            std::process::exit(1);
        }
    });
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let counts: Vec<String> = addresses
        .iter()
        .zip(answered.iter())
        .map(|(address, count)| format!("\"{address}\":{}", count.load(Ordering::Relaxed)))
        .collect();
    println!("{{{}}}", counts.join(","));
    Ok(())
}

fn serve(sockets: &[OwnedFd], trains: bool, answered: &[AtomicU64]) -> io::Result<()> {
    let poller = Poller::new()?;
    for (place, socket) in sockets.iter().enumerate() {
        poller.add(socket, place, EventFlags::IN)?;
    }
    let (mut inbox, mut outbox) = (Inbox::new(trains), Outbox::new());
    let mut events = Vec::with_capacity(64);
    let mut senders = Vec::with_capacity(udp::BATCH);
    loop {
        poller.wait(&mut events, None)?;
        for place in events.iter().map(net::token) {
            if inbox.receive(&sockets[place])? == 0 {
                continue;
            }
            senders.clear();
            senders.extend(inbox.senders());
            let sent = outbox.send(&sockets[place], inbox.datagrams(), &senders)?;
            answered[place].fetch_add(sent as u64, Ordering::Relaxed);
        }
    }
}
