//! A link with delay between two network namespaces: a TUN device at each end, and threads that carry packets across.
//!
//! ```text
//! near namespace                                          far namespace
//!   device ──read──► rate ──► loss ──► delay, jitter ──write──► device
//!   device ◄─write── delay, jitter ◄── loss ◄── rate ◄──read── device
//! ```
//!
//! IPv4 and IPv6 packets of any protocol pass. Making one needs root.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::netns;
use crate::relay::{Relay, Shared};

/// One end of a link.
#[derive(Clone, Debug)]
pub struct End {
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// The name its device gets.
    pub device: String,
    /// Its address with the length of the network, as `ip address add` has it.
    pub address: String,
}

/// What a direction of a link does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Every packet is this late.
    pub delay: Duration,
    /// And up to this much later or earlier, evenly. Packets overtake each other then, and only then.
    pub jitter: Duration,
    /// This part of all packets is lost, each by its own draw.
    pub loss: f64,
    /// The rate; `None` is as fast as the machine.
    pub bits_per_second: Option<u64>,
    /// Packets that would make more bytes than this wait are lost.
    pub queue_bytes: usize,
}

/// What a direction has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets delivered.
    pub delivered: u64,
    /// Packets lost by draw.
    pub lost: u64,
    /// Packets that found the queue full.
    pub overflowed: u64,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the near end to the far end.
    Out,
    /// From the far end to the near end.
    Back,
}

/// A link, which goes with its devices when this is dropped.
#[derive(Debug)]
pub struct Link {
    out: Carrier,
    back: Carrier,
}

#[derive(Debug)]
struct Carrier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Conditions {
    /// A delay, and nothing else that a good line does not do.
    pub fn delay(delay: Duration) -> Conditions {
        Conditions { delay, jitter: Duration::ZERO, loss: 0.0, bits_per_second: None, queue_bytes: QUEUE_BYTES }
    }
}

impl Link {
    /// Joins two namespaces, both directions under the same conditions.
    ///
    /// # Errors
    ///
    /// Without root; with a device name or an address that is taken; without `ip`.
    pub fn new(near: &End, far: &End, conditions: Conditions) -> io::Result<Link> {
        if !rustix::process::geteuid().is_root() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a link needs root"));
        }
        let (near, far) = (Arc::new(near.device()?), Arc::new(far.device()?));
        Ok(Link { out: Carrier::start(&near, &far, conditions, 1)?, back: Carrier::start(&far, &near, conditions, 2)? })
    }

    /// Changes a direction for the packets that come from now on.
    pub fn set(&self, direction: Direction, conditions: Conditions) {
        *self.carrier(direction).shared.conditions.lock().expect(LOCK) = conditions;
    }

    /// Changes both directions.
    pub fn set_both(&self, conditions: Conditions) {
        self.set(Direction::Out, conditions);
        self.set(Direction::Back, conditions);
    }

    /// What a direction has done so far.
    pub fn counts(&self, direction: Direction) -> Counts {
        *self.carrier(direction).shared.counts.lock().expect(LOCK)
    }

    fn carrier(&self, direction: Direction) -> &Carrier {
        match direction {
            Direction::Out => &self.out,
            Direction::Back => &self.back,
        }
    }
}

impl End {
    fn device(&self) -> io::Result<SyncDevice> {
        netns::enter(&self.netns, || {
            let device = DeviceBuilder::new().name(&self.device).enable(false).build_sync()?;
            device.set_nonblocking(true)?;
            let mtu = MTU.to_string();
            ip(&["address", "add", &self.address, "dev", &self.device])?;
            ip(&["link", "set", &self.device, "mtu", &mtu, "txqueuelen", "5000", "up"])?;
            Ok(device)
        })
    }
}

impl Carrier {
    fn start(from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, conditions: Conditions, seed: u64) -> io::Result<Carrier> {
        let shared = Arc::new(Shared {
            conditions: Mutex::new(conditions),
            counts: Mutex::default(),
            stop: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        });
        let mut relay = Relay::new(Arc::clone(from), Arc::clone(to), Arc::clone(&shared), seed);
        let carry = move || relay.run().expect("devices stay while the link does");
        let thread = std::thread::Builder::new().name("link".into()).spawn(carry)?;
        Ok(Carrier { shared, thread: Some(thread) })
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // An eventfd that is full wakes as well.
        let _ = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It has said what went wrong if it panicked.
            let _ = thread.join();
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), said.trim())))
}

pub(crate) const MTU: usize = 1500;
/// A quarter of a second at 1 Gbit/s and more.
const QUEUE_BYTES: usize = 32 << 20;
pub(crate) const LOCK: &str = "nobody panics while holding it";
