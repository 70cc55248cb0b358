//! The backends of a service, and why they are. Pure.

use balance::{Active, Address, Availability, Endpoint, Facts};

use crate::merge::FeedId;

/// A backend of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) endpoint: Endpoint,
    pub(crate) owner: FeedId,
    pub(crate) standing: Standing,
}

/// Why a backend is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A source in force reports it.
    Reported,
    /// None does any more, which is doubted.
    Orphan {
        /// Until then it needs no other reason.
        until_ms: u64,
        /// A probe has found nobody there.
        is_dead: bool,
    },
}

impl Member {
    pub(crate) fn orphaned(self, until_ms: u64) -> Self {
        let facts = Facts { is_orphan: true, ..self.endpoint.facts };
        let endpoint = Endpoint { facts, ..self.endpoint };
        Self { standing: Standing::Orphan { until_ms, is_dead: false }, endpoint, ..self }
    }

    pub(crate) fn until_ms(&self) -> Option<u64> {
        match self.standing {
            Standing::Orphan { until_ms, .. } => Some(until_ms),
            Standing::Reported => None,
        }
    }

    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms().is_some_and(|until_ms| until_ms <= now_ms)
    }
}

/// Whether new sessions go there, by all that is known here.
pub(crate) fn is_up(member: &Member, active: &dyn Fn(&Address) -> Active) -> bool {
    let endpoint = &member.endpoint;
    let facts = Facts { active: active(&endpoint.address), ..endpoint.facts };
    let is_dead = matches!(member.standing, Standing::Orphan { is_dead: true, .. });
    !is_dead && facts.availability(endpoint.weight) == Availability::Up
}

/// The member at this address, of members that are sorted by address.
pub(crate) fn find<'m>(members: &'m [Member], address: &Address) -> Option<&'m Member> {
    members.binary_search_by(|member| member.endpoint.address.cmp(address)).ok().map(|at| &members[at])
}

/// Whether one is at this address, of members that are sorted by address.
pub(crate) fn contains(members: &[Member], address: &Address) -> bool {
    find(members, address).is_some()
}

/// The endpoints of those that no source in force reports.
pub(crate) fn orphans(members: &[Member]) -> Vec<Endpoint> {
    let orphans = members.iter().filter(|member| member.standing != Standing::Reported);
    orphans.map(|member| member.endpoint.clone()).collect()
}
