//! From answers to endpoints: aliases, the two steps of SRV, times. Without I/O.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use balance::{Address, Reported, Rng, Zone};

use super::wire::{Answer, FORMAT_ERROR, Kind, NO_ERROR, NO_NAME, NOT_IMPLEMENTED, Name, REFUSED, Record};
use super::wire::{SERVER_FAILURE, Service, Value};
use crate::source::{Found, SourceError};
use crate::sources::records::{ENDPOINTS_MAX, PRIORITY_MAX};

/// What one server's answer comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The name is there, with these records.
    Records(Vec<Record>),
    /// There is no such name, or it has no such records: both are an empty list. *Units*: seconds that this holds for.
    Nothing(u32),
    /// It does not fit into a datagram, or what came of it cannot be read.
    Cut,
    /// The server may be too old for EDNS.
    Plainer,
    /// This server does not help.
    Trouble(&'static str),
}

/// Judges an answer.
pub(super) fn judge(answer: Answer) -> Verdict {
    let negative = |answer: &Answer| {
        Verdict::Nothing(answer.body.as_ref().and_then(|body| body.negative).unwrap_or(NEGATIVE_SECONDS))
    };
    match answer.code {
        NO_ERROR | NO_NAME if answer.truncated => Verdict::Cut,
        NO_NAME => negative(&answer),
        NO_ERROR => match answer.body {
            None => Verdict::Cut,
            Some(body) if body.referral => Verdict::Trouble("names other servers instead of an answer"),
            Some(body) if !body.records.is_empty() => Verdict::Records(body.records),
            Some(_) => negative(&answer),
        },
        FORMAT_ERROR | NOT_IMPLEMENTED => Verdict::Plainer,
        SERVER_FAILURE => Verdict::Trouble("failed (SERVFAIL)"),
        REFUSED => Verdict::Trouble("refused"),
        _ => Verdict::Trouble("answered with an unusual error"),
    }
}

/// A name that is looked for, through aliases and over several questions.
#[derive(Debug)]
pub(super) struct Search {
    name: Name,
    kind: Kind,
    aliases: u32,
    ttl: u32,
}

/// What was found, and for how many seconds it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) values: Vec<Value>,
    pub(super) ttl: u32,
}

impl Search {
    pub(super) fn new(name: Name, kind: Kind) -> Self {
        Self { name, kind, aliases: 0, ttl: u32::MAX }
    }

    /// What is to be asked now.
    pub(super) fn question(&self) -> (&Name, Kind) {
        (&self.name, self.kind)
    }

    /// Takes a "no".
    pub(super) fn nothing(&self, ttl: u32) -> Hit {
        Hit { values: Vec::new(), ttl: self.ttl.min(ttl) }
    }

    /// Takes the records of an answer. None when the next question is to be asked: the answer ended with an alias.
    ///
    /// *Errors*: the aliases are too many, or lead round in a circle.
    pub(super) fn records(&mut self, records: &[Record]) -> Result<Option<Hit>, SourceError> {
        let asked = self.name.clone();
        loop {
            let ours = |record: &&Record| record.name == self.name;
            let right = records.iter().filter(ours).filter(|record| self.is_wanted(&record.value));
            let values: Vec<Value> = right.clone().map(|record| record.value.clone()).collect();
            if !values.is_empty() {
                let ttl = right.map(|record| record.ttl).fold(self.ttl, u32::min);
                return Ok(Some(Hit { values, ttl }));
            }
            let alias = records.iter().filter(ours).find_map(|record| match &record.value {
                Value::Alias(to) => Some((to.clone(), record.ttl)),
                _ => None,
            });
            match alias {
                Some((to, ttl)) => {
                    self.aliases += 1;
                    if self.aliases > ALIASES_MAX {
                        return Err(SourceError::new(format!("more than {ALIASES_MAX} aliases, the last is {to}")));
                    }
                    (self.name, self.ttl) = (to, self.ttl.min(ttl));
                }
                None if self.name == asked => return Ok(Some(self.nothing(NEGATIVE_SECONDS))),
                None => return Ok(None),
            }
        }
    }

    fn is_wanted(&self, value: &Value) -> bool {
        match value {
            Value::Address(ip) => self.kind == if ip.is_ipv4() { Kind::A } else { Kind::Aaaa },
            Value::Service(_) => self.kind == Kind::Srv,
            Value::Alias(_) => false,
        }
    }
}

/// The distinct targets of SRV records. One that is the root says that there is no such service.
///
/// *Errors*: there are too many.
pub(super) fn targets(services: &[Service]) -> Result<Vec<Name>, SourceError> {
    let mut targets: Vec<Name> = services.iter().map(|service| service.target.clone()).collect();
    targets.retain(|target| !target.is_root());
    targets.sort();
    targets.dedup();
    match targets.len() > TARGETS_MAX {
        true => Err(SourceError::new(format!("more than {TARGETS_MAX} SRV targets"))),
        false => Ok(targets),
    }
}

/// The endpoints of plain addresses.
pub(super) fn of_addresses(ips: &[IpAddr], port: u16, zone: Option<&Zone>) -> Result<Vec<Found>, SourceError> {
    in_order(ips.iter().map(|&ip| found(ip, port, 1, 0, zone)))
}

/// The endpoints of SRV records whose targets have these addresses.
///
/// The lowest priority becomes 0, the next 1, and so on. Weight 0 becomes 1: in SRV it means "hardly ever", here it
/// would mean "never".
pub(super) fn of_services(
    services: &[Service],
    addresses: &BTreeMap<Name, Vec<IpAddr>>,
    zone: Option<&Zone>,
) -> Result<Vec<Found>, SourceError> {
    let mut levels: Vec<u16> = services.iter().map(|service| service.priority).collect();
    levels.sort_unstable();
    levels.dedup();
    let level = |priority| levels.partition_point(|&below| below < priority).min(usize::from(PRIORITY_MAX)) as u8;
    in_order(services.iter().flat_map(|service| {
        let ips = addresses.get(&service.target).map_or(&[][..], Vec::as_slice);
        let (weight, priority) = (u32::from(service.weight.max(1)), level(service.priority));
        ips.iter().map(move |&ip| found(ip, service.port, weight, priority, zone))
    }))
}

fn found(ip: IpAddr, port: u16, weight: u32, priority: u8, zone: Option<&Zone>) -> Found {
    let address: Address = SocketAddr::new(ip, port).into();
    let id = address.to_string().into();
    Found { id, address, weight, zone: zone.cloned(), priority, reported: Reported::Ready }
}

/// Sorts, since servers shuffle their answers, and keeps of each address what makes it the most wanted.
fn in_order(all: impl Iterator<Item = Found>) -> Result<Vec<Found>, SourceError> {
    let mut list: Vec<Found> = all.take(ENDPOINTS_MAX + 1).collect();
    if list.len() > ENDPOINTS_MAX {
        return Err(SourceError::new(format!("more than {ENDPOINTS_MAX} endpoints")));
    }
    let by = |found: &Found| (found.priority, std::cmp::Reverse(found.weight));
    list.sort_by(|a, b| a.id.cmp(&b.id).then_with(|| by(a).cmp(&by(b))));
    list.dedup_by(|later, first| later.id == first.id);
    Ok(list)
}

/// How long to wait before asking again: as long as the answer holds, within bounds, and up to a tenth longer, so that
/// many that began at once do not stay together. Never less, since a cache on the way would only say the same again.
pub(super) fn pause(ttl: u32, least: Duration, most: Duration, rng: &mut Rng) -> Duration {
    let held = Duration::from_secs(ttl.into()).min(most).max(least);
    held + held.mul_f64(JITTER * rng.unit())
}

/// Aliases in a row that are followed; as many as common resolvers do.
const ALIASES_MAX: u32 = 8;
/// Names that one SRV answer may point to: each costs two questions.
const TARGETS_MAX: usize = 1_000;
/// How long a "no" holds that does not say so: short, because something is wrong.
const NEGATIVE_SECONDS: u32 = 5;
const JITTER: f64 = 0.1;

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
