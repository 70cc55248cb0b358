//! How much may be open at once, and the permit that every session holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use balance::{Hold, Ledger, Use};

/// What refused a connection; the `limit` label of `dislocate_limit_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_connections` of the process.
    Process,
    /// `max_connections` of the listener.
    Listener,
    /// `max_connections_per_source`.
    Source,
    /// The account of descriptors.
    Descriptors,
}

impl Limit {
    /// Every limit, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Process, Self::Listener, Self::Source, Self::Descriptors];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Listener => "listener",
            Self::Source => "source",
            Self::Descriptors => "descriptors",
        }
    }
}

/// A count with a limit that may change while it is held.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU32);

impl Gauge {
    pub(crate) fn value(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Counts one more unless `limit` (0: none) is reached.
    fn take(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        let room = |held: u32| (limit == 0 || held < limit).then_some(held + 1);
        self.0.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

/// One counted in a [`Gauge`] until it is dropped.
#[derive(Debug)]
struct Slot(Arc<Gauge>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Sessions by client address, for listeners that limit them. An IPv6 client counts by its /64, which is what one
/// client is given. Bounded by the number of sessions.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    held: Mutex<HashMap<IpAddr, u32>>,
}

impl Sources {
    fn take(self: &Arc<Self>, ip: IpAddr, limit: u32) -> Option<SourceSlot> {
        let prefix = match ip.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & SOURCE_PREFIX_V6).into(),
            v4 => v4,
        };
        let mut held = self.lock();
        let count = held.get(&prefix).copied().unwrap_or(0);
        if count >= limit {
            return None;
        }
        held.insert(prefix, count + 1);
        Some(SourceSlot { sources: Arc::clone(self), prefix })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct SourceSlot {
    sources: Arc<Sources>,
    prefix: IpAddr,
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.sources.lock().entry(self.prefix) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// The accounts that a listener's connections draw on.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) process: Arc<Gauge>,
    pub(crate) listener: Arc<Gauge>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) ledger: Arc<Ledger>,
}

/// The limits in force for one accept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) process: u32,
    pub(crate) listener: u32,
    pub(crate) per_source: u32,
}

/// The right of one session to exist. Dropping it frees all that it counted.
#[derive(Debug)]
pub(crate) struct Permit {
    _process: Slot,
    _listener: Slot,
    _source: Option<SourceSlot>,
    _descriptors: Hold,
}

impl Permit {
    /// A permit for a connection of a client at `ip`, or the limit that refuses it. What was counted before the refusal
    /// is freed.
    pub(crate) fn take(accounts: &Accounts, limits: Limits, ip: Option<IpAddr>) -> Result<Self, Limit> {
        Self::holding(2, accounts, limits, ip)
    }

    /// The same for a flow, which has one socket.
    pub(crate) fn for_flow(accounts: &Accounts, limits: Limits, ip: Option<IpAddr>) -> Result<Self, Limit> {
        Self::holding(1, accounts, limits, ip)
    }

    fn holding(descriptors: u32, accounts: &Accounts, limits: Limits, ip: Option<IpAddr>) -> Result<Self, Limit> {
        let process = accounts.process.take(limits.process).ok_or(Limit::Process)?;
        let listener = accounts.listener.take(limits.listener).ok_or(Limit::Listener)?;
        let source = match ip {
            Some(ip) if limits.per_source > 0 => {
                Some(accounts.sources.take(ip, limits.per_source).ok_or(Limit::Source)?)
            }
            Some(_) | None => None,
        };
        let descriptors = accounts.ledger.take(Use::Sessions, descriptors).ok_or(Limit::Descriptors)?;
        Ok(Self { _process: process, _listener: listener, _source: source, _descriptors: descriptors })
    }
}

/// The network half of an IPv6 address.
const SOURCE_PREFIX_V6: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(descriptors: u32) -> Accounts {
        let ledger = Ledger::new(descriptors);
        Accounts { process: Arc::default(), listener: Arc::default(), sources: Arc::default(), ledger }
    }

    #[test]
    fn each_limit_refuses_under_its_own_name_and_frees_what_was_counted_before() {
        let cases = [
            (Limits { process: 1, listener: 0, per_source: 0 }, 100, Limit::Process),
            (Limits { process: 0, listener: 1, per_source: 0 }, 100, Limit::Listener),
            (Limits { process: 0, listener: 0, per_source: 1 }, 100, Limit::Source),
            (Limits { process: 0, listener: 0, per_source: 0 }, 3, Limit::Descriptors),
        ];
        for (limits, descriptors, expected) in cases {
            let accounts = accounts(descriptors);
            let ip = Some(IpAddr::from([192, 0, 2, 1]));
            let first = Permit::take(&accounts, limits, ip).unwrap();
            assert_eq!(Permit::take(&accounts, limits, ip).unwrap_err(), expected);
            assert_eq!((accounts.process.value(), accounts.listener.value()), (1, 1));
            drop(first);
            assert_eq!((accounts.process.value(), accounts.listener.value()), (0, 0));
            assert!(accounts.sources.lock().is_empty());
            assert!(Permit::take(&accounts, limits, ip).is_ok());
        }
    }

    #[test]
    fn sources_are_told_apart_by_address_and_ipv6_by_its_network() {
        let accounts = accounts(100);
        let limits = Limits { process: 0, listener: 0, per_source: 1 };
        let mut held = Vec::new();
        let mut take = |ip: &str| match Permit::take(&accounts, limits, Some(ip.parse().unwrap())) {
            Ok(permit) => {
                held.push(permit);
                true
            }
            Err(_) => false,
        };
        assert!(take("192.0.2.1") && take("192.0.2.2") && !take("::ffff:192.0.2.1"));
        assert!(take("2001:db8:0:1::1") && !take("2001:db8:0:1::2") && take("2001:db8:0:2::1"));
    }
}
