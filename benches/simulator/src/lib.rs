//! A discrete-event simulator of layer-4 balancing, and the test harness of the production policy code.
//!
//! Clients, networks and servers are simulated; our policies are not: every proxy of the simulation holds a real
//! [`balance::BackendSet`], picks with it and reports to its leases what a proxy of flesh would. Peers are written anew
//! from what is known of them. A run is a function of (scenario, policy, seed); all policies see the same clients and
//! the same work at the same time, since arrivals, work and the policies' own draws come from separate streams.
#![forbid(unsafe_code)]

mod engine;
mod ours;
mod outcome;
mod peers;
mod router;
mod scenario;
mod server;
mod table;

pub use engine::run;
pub use outcome::Outcome;
pub use router::Policy;
pub use scenario::{Scenario, scenarios};
pub use table::{Table, interval};
