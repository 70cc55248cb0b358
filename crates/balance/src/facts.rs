//! What is known about a backend from outside of its own traffic, and what follows from it.
//!
//! Three facts stay apart, because three parties own them and one must never overwrite another's: the operator, the
//! registry, the health check. The fourth, what real connections felt, is not a fact of the snapshot; it is the
//! [`passive`](crate::BackendState) state that the proxy feeds.

/// What the operator said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Administrative {
    /// Takes sessions.
    #[default]
    Enabled,
    /// Takes no new sessions; those it has go on.
    Draining,
}

/// What the source of the endpoint says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reported {
    /// In service.
    #[default]
    Ready,
    /// Known, and said to be out of service.
    NotReady,
}

/// What the health check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Active {
    /// Not checked, or not long enough to know. Counts as up, as in HAProxy: a check that has not run is no evidence,
    /// and a start must not wait for one.
    #[default]
    Unknown,
    /// Passed.
    Up,
    /// Failed.
    Down,
}

impl Active {
    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The facts of one backend in one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The operator's word.
    pub administrative: Administrative,
    /// The registry's word.
    pub reported: Reported,
    /// The health check's word.
    pub active: Active,
    /// No source names it any more, which is doubted. It serves while it answers; it is gone with the first connection
    /// that it refuses, and a session that another backend has failed is not sent to it.
    pub is_orphan: bool,
}

/// What the facts allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Availability {
    /// New sessions are welcome.
    Up,
    /// Believed to be broken: picked only when its zone is in panic.
    Down,
    /// Never picked, not even in panic: somebody asked for that.
    Draining,
}

impl Facts {
    /// Combines the facts with the weight, of which 0 means draining. The operator wins over the registry, and both
    /// over the check.
    pub fn availability(self, weight: u32) -> Availability {
        match self {
            _ if weight == 0 => Availability::Draining,
            Self { administrative: Administrative::Draining, .. } => Availability::Draining,
            Self { reported: Reported::NotReady, .. } => Availability::Down,
            Self { active: Active::Down, .. } => Availability::Down,
            Self { active: Active::Up | Active::Unknown, .. } => Availability::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_wins_over_the_registry_and_both_over_the_check() {
        use Availability::{Down, Draining, Up};
        let cases = [
            (Administrative::Enabled, Reported::Ready, Active::Unknown, 1, Up),
            (Administrative::Enabled, Reported::Ready, Active::Up, 1, Up),
            (Administrative::Enabled, Reported::Ready, Active::Down, 1, Down),
            (Administrative::Enabled, Reported::NotReady, Active::Up, 1, Down),
            (Administrative::Draining, Reported::Ready, Active::Up, 1, Draining),
            (Administrative::Draining, Reported::NotReady, Active::Down, 1, Draining),
            (Administrative::Enabled, Reported::Ready, Active::Up, 0, Draining),
        ];
        for (administrative, reported, active, weight, expected) in cases {
            let facts = Facts { administrative, reported, active, is_orphan: false };
            assert_eq!(facts.availability(weight), expected, "{facts:?}, weight {weight}");
        }
    }
}
