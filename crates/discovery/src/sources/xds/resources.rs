//! Clusters and their endpoints, read from what a control plane sends.
//!
//! *Source*: `Cluster` of `envoy/config/cluster/v3/cluster.proto`, `ClusterLoadAssignment` of
//! `envoy/config/endpoint/v3/endpoint.proto` with its components, and `envoy/config/core/v3/address.proto`.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use balance::{Reported, Zone};

use self::raw::{Group, Health, Kind, RawCluster, RawEndpoint, in_words, quoted};
use super::wire::Fields;
use crate::source::Found;
use crate::sources::records::{ENDPOINTS_MAX, PRIORITY_MAX};

mod raw;

/// What a cluster says of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// They are the assignment of this name.
    Assigned {
        name: String,
        /// Whether each locality has the share of the traffic that its own weight gives it.
        by_locality: bool,
    },
    /// These.
    Fixed(Assignment),
}

/// The endpoints of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Assignment {
    /// *Shape*: by id, each once.
    pub(super) found: Arc<[Found]>,
    /// Their weights where a cluster goes by those of its localities; none while no locality has one.
    shares: Option<Arc<[u32]>>,
    /// How many were left out, because they are inside the process of an Envoy or at no path that can be.
    pub(super) left_out: usize,
}

impl Assignment {
    /// The same, as a cluster has it that goes by the weights of its localities.
    pub(super) fn by_locality(self) -> Self {
        let Some(shares) = &self.shares else { return self };
        let weighted = self.found.iter().zip(&shares[..]).map(|(it, &weight)| Found { weight, ..it.clone() });
        Self { found: weighted.collect(), ..self }
    }
}

/// Reads the cluster `name`. `ours` is as for [`assignment`].
///
/// *Errors*: why it cannot be used.
pub(super) fn cluster(name: &str, message: &[u8], ours: Option<&Zone>) -> Result<Cluster, String> {
    let raw = RawCluster::decode(message).map_err(|error| format!("cluster {}: {error}", quoted(name)))?;
    let about = |what: String| format!("cluster {} {what}", quoted(name));
    if raw.name != name {
        return Err(about(format!("comes under the name {}", quoted(raw.name))));
    }
    match raw.kind {
        Kind::Assigned if raw.reads_file => Err(about("has its endpoints in a file of another machine".into())),
        Kind::Assigned if raw.service_name.len() > NAME_MAX_BYTES => Err(about("names its endpoints at length".into())),
        Kind::Assigned => {
            let assigned = if raw.service_name.is_empty() { name } else { raw.service_name };
            Ok(Cluster::Assigned { name: assigned.into(), by_locality: raw.goes_by_locality })
        }
        Kind::Fixed => {
            let mut gathering = Gathering::new(ours);
            let read = raw.assignments.iter().try_for_each(|message| gathering.read(message));
            let all = read.map(|()| gathering.finish()).map_err(|why| about(format!("cannot be used: {why}")))?;
            Ok(Cluster::Fixed(if raw.goes_by_locality { all.by_locality() } else { all }))
        }
        Kind::OriginalDst => Err(about("has no endpoints (it is of type ORIGINAL_DST)".into())),
        Kind::Other(number) => Err(about(format!("is of type {number}, which nobody knows"))),
        Kind::Custom => Err(about("is of a type of its own, which is not understood here".into())),
    }
}

/// Reads the assignment `name`. `ours` is a data centre in which its zones are, or the zone of all of it.
///
/// *Errors*: why it cannot be used.
pub(super) fn assignment(name: &str, message: &[u8], ours: Option<&Zone>) -> Result<Assignment, String> {
    let mut gathering = Gathering::new(ours);
    let read = gathering.read(message).and_then(|()| match gathering.name == name {
        true => Ok(gathering.finish()),
        false => Err(format!("they come under the name {}", quoted(gathering.name))),
    });
    read.map_err(|why| format!("the endpoints of {}: {why}", quoted(name)))
}

/// A `ClusterLoadAssignment` as it is read.
struct Gathering<'a> {
    ours: Option<&'a Zone>,
    name: &'a str,
    /// Each with the number of its group.
    found: Vec<(Found, usize)>,
    /// The priority and the weight of each group that has endpoints.
    groups: Vec<(u32, Option<u32>)>,
    left_out: usize,
}

impl<'a> Gathering<'a> {
    fn new(ours: Option<&'a Zone>) -> Self {
        Self { ours, name: "", found: Vec::new(), groups: Vec::new(), left_out: 0 }
    }

    fn read(&mut self, message: &'a [u8]) -> Result<(), String> {
        for field in Fields::of(message) {
            match field.map_err(in_words)? {
                (1, value) => self.name = value.text().map_err(in_words)?,
                (2, value) => self.read_locality(value.bytes().map_err(in_words)?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A `LocalityLbEndpoints`. What holds for all of it may stand behind its endpoints.
    fn read_locality(&mut self, message: &'a [u8]) -> Result<(), String> {
        let group = Group::decode(message)?;
        let zone = group.locality.zone(self.ours);
        if group.priority > u32::from(PRIORITY_MAX) {
            return Err(format!("priority {} is above {PRIORITY_MAX}", group.priority));
        }
        for field in Fields::of(message) {
            match field.map_err(in_words)? {
                (2, value) => self.add(value.bytes().map_err(in_words)?, &group, zone.as_ref())?,
                (7, value) => {
                    for field in Fields::of(value.bytes().map_err(in_words)?) {
                        if let (1, value) = field.map_err(in_words)? {
                            self.add(value.bytes().map_err(in_words)?, &group, zone.as_ref())?;
                        }
                    }
                }
                _ => {}
            }
        }
        if self.found.last().is_some_and(|&(_, number)| number == self.groups.len()) {
            self.groups.push((group.priority, group.weight));
        }
        Ok(())
    }

    fn add(&mut self, message: &'a [u8], group: &Group<'_>, zone: Option<&Zone>) -> Result<(), String> {
        if self.found.len() + self.left_out >= ENDPOINTS_MAX {
            return Err(format!("more than {ENDPOINTS_MAX} endpoints"));
        }
        let raw = RawEndpoint::decode(message).map_err(in_words)?;
        let Some(address) = raw.host.ok_or("an endpoint without an address")?.address()? else {
            self.left_out += 1;
            return Ok(());
        };
        let (reported, weight, step) = match raw.health {
            Health::Up => (Reported::Ready, raw.weight, 0),
            Health::Draining => (Reported::Ready, 0, 0),
            // Used when those of its level are not enough, as those of the next level are.
            Health::Degraded => (Reported::Ready, raw.weight, 1),
            Health::Down => (Reported::NotReady, raw.weight, 0),
        };
        let priority = (group.priority as u8 + step).min(PRIORITY_MAX);
        let id = address.to_string().into();
        let found = Found { id, address, weight, zone: zone.cloned(), priority, reported };
        self.found.push((found, self.groups.len()));
        Ok(())
    }

    /// An address that is there twice, in two localities or levels, is one endpoint: that of the first level, and there
    /// the better one.
    fn finish(mut self) -> Assignment {
        let rank = |it: &Found| (it.priority, it.reported != Reported::Ready, Reverse(it.weight));
        self.found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id).then_with(|| rank(a).cmp(&rank(b))));
        self.found.dedup_by(|(next, _), (kept, _)| next.id == kept.id);
        let shares = self.shares();
        let weights: Vec<u128> = self.found.iter().map(|(it, _)| it.weight.into()).collect();
        let found = self.found.into_iter().zip(scaled(&weights));
        let found = found.map(|((it, _), weight)| Found { weight, ..it }).collect();
        Assignment { found, shares, left_out: self.left_out }
    }

    /// What each endpoint has of the share of its locality, whoever else of that can be used. On a level where some
    /// localities have a weight, the others have no share.
    fn shares(&self) -> Option<Arc<[u32]>> {
        let weighted: HashSet<u32> =
            self.groups.iter().filter(|(_, weight)| weight.is_some()).map(|&(level, _)| level).collect();
        if weighted.is_empty() {
            return None;
        }
        let mut sums = vec![0_u128; self.groups.len()];
        for (it, number) in &self.found {
            sums[*number] += u128::from(it.weight);
        }
        let share = |(it, number): &(Found, usize)| {
            let (level, weight) = self.groups[*number];
            let whole = if weighted.contains(&level) { weight.unwrap_or(0).into() } else { sums[*number] };
            // In parts of 2^32, as what comes of the division is small.
            ((u128::from(it.weight) * whole) << 32) / sums[*number].max(1)
        };
        Some(scaled(&self.found.iter().map(share).collect::<Vec<_>>()).into())
    }
}

/// Weights have 32 bits there, and 16 here. What matters is how they relate, and that nobody but who has none has none.
fn scaled(weights: &[u128]) -> Vec<u32> {
    let most = weights.iter().copied().max().unwrap_or(0);
    let scale = |&weight: &u128| match (weight, most > WEIGHT_MAX) {
        (0, _) => 0,
        (weight, false) => weight as u32,
        (weight, true) => (weight * WEIGHT_MAX / most).max(1) as u32,
    };
    weights.iter().map(scale).collect()
}

/// The greatest weight here.
const WEIGHT_MAX: u128 = 65_535;
/// Longest name that we ask for; those of clusters have some 100 bytes.
pub(super) const NAME_MAX_BYTES: usize = 1_024;
#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
