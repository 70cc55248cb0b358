//! A rig for trying a load balancer on real sockets: backends whose speed and faults are on command, clients that keep
//! a timetable whatever the answers do, and links with delay between network namespaces.
//!
//! Requests carry the work they ask for, drawn from the client's seed, so that every proxy under test sees the same
//! arrivals with the same work. Each part is one thread on readiness events with timers to the microsecond: on a small
//! machine the rig shares the cores with what it measures.

pub mod backends;
pub mod command;
pub mod draw;
pub mod frame;
pub mod link;
pub mod load;
pub mod netns;
pub mod outcome;

mod reactor;
mod relay;
mod sockets;
