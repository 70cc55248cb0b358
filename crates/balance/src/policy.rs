//! The balancing policies by name.

use std::fmt;
use std::str::FromStr;

/// How a service chooses among the backends that may be picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Where the answer will come soonest: answer time times work, the home zone first.
    #[default]
    Latency,
    /// Smooth weighted round robin.
    RoundRobin,
    /// The fewest sessions (connecting plus established) for its weight.
    LeastConn,
    /// The less loaded of two drawn at random by weight.
    RandomTwo,
    /// The same backend for the same source address, as long as it may be picked (weighted rendezvous hashing).
    SourceHash,
    /// As `SourceHash`, by one table look-up (Maglev), which other proxies with the same set agree on.
    Maglev,
}

impl Policy {
    /// Every policy, in the order in which the documentation lists them.
    pub const ALL: [Self; 6] =
        [Self::Latency, Self::LeastConn, Self::RoundRobin, Self::RandomTwo, Self::SourceHash, Self::Maglev];

    /// The name in the configuration and in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
            Self::RandomTwo => "random_two",
            Self::SourceHash => "source_hash",
            Self::Maglev => "maglev",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsePolicyError;

impl fmt::Display for ParsePolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a balancing policy")
    }
}

impl std::error::Error for ParsePolicyError {}

impl FromStr for Policy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or(ParsePolicyError)
    }
}
