//! The shared vocabulary of dislocate, and every decision that needs no I/O.
//!
//! Two crates meet here without knowing each other: `discovery` writes live backend sets and `proxy` reads them.
//! Nothing in this crate opens a socket, reads a clock or draws a random number of its own: the time (`now_ms`,
//! milliseconds since an epoch that the program picks at start) and a seeded [`Rng`] come in as arguments, so every
//! decision can be replayed from a table or a seed.
//!
//! ```text
//!   discovery ── EndpointSpec[] ──▶ Publisher ──▶ ArcSwap<BackendSet> ──▶ Reader ── pick ──▶ Lease ──▶ proxy
//!                                                        ▲                                   │
//!                                                        └───── BackendState (atomics) ◀─────┘ outcomes
//! ```
//!
//! A shell that carries a session does this, in this order:
//!
//! ```text
//!   set.retry_budget().deposit, set.pick(now_ms, source, tried, rng)
//!     ├ Backend(lease)  connect; on success lease.connected(now_ms, took, rng), on failure set.connect_failed(lease, …)
//!     │                 Turns::new(now_us, lease.base_us()), and then for every wake-up that moved bytes
//!     │                   to the backend:   if turns.client_bytes(now_us) { lease.turn_began(now_ms) }
//!     │                   from the backend: if let Some(it) = turns.server_bytes(now_us) { lease.turn_ended(it, now_ms) }
//!     │                 the backend ended its side first: lease.server_finished; it reset: lease.server_reset;
//!     │                   the client left: lease.client_gone
//!     │                 the session is over, however: drop(lease); and if set.turnstile().is_awaited(), wake whom
//!     │                   queue.freed() names
//!     ├ Wait            stand in the service's Queue
//!     └ Refuse          close
//! ```
//!
//! One that carries flows of datagrams does the same with these differences:
//!
//! ```text
//!   the socket exists               lease.opened(now_ms), Turns::new(now_us, lease.base_us())
//!   it was refused (ICMP)           set.connect_failed(lease, now_ms, failure, rng), however long it had worked
//!   no reply for reply_timeout      turns.gave_up(), lease.silent(now_ms, rng)
//!   a new set, or set.changes()     set.keeps(lease.backend(), now_ms): whether the flow may go on
//!   a connection id names a server  set.by_server_id(id), set.take(backend, now_ms) in place of a pick
//! ```
//!
//! [`BackendSet::explain`] says what a pick would do and why, [`BackendSet::candidate`] and [`BackendSet::zones`] what
//! metrics show of it.
#![forbid(unsafe_code)]

mod address;
mod affinity;
mod backend;
mod blame;
mod budget;
mod epoch;
mod estimate;
mod explain;
mod facts;
mod flow;
#[cfg(test)]
mod flow_tests;
mod hash;
mod histogram;
mod latency;
#[cfg(test)]
mod latency_tests;
mod lease;
mod ledger;
mod live;
#[cfg(test)]
mod orphan_tests;
mod passive;
mod pick;
#[cfg(test)]
mod pick_tests;
mod policy;
mod pool;
mod queue;
mod review;
mod rng;
mod round_robin;
mod set;
mod turns;

pub use address::{Address, ParseAddressError, Zone};
pub use affinity::Keep;
pub use backend::{Backend, BackendState, ConnectFailure, Endpoint, Standing};
pub use blame::SoFar;
pub use budget::RetryBudget;
pub use epoch::Epoch;
pub use explain::{Candidate, Explanation, ZoneView};
pub use facts::{Active, Administrative, Availability, Facts, Reported};
pub use hash::source_key;
pub use histogram::{Histogram, HistogramSnapshot};
pub use latency::{Terms, ZoneGate};
pub use lease::{Lease, PickReason};
pub use ledger::{Hold, Ledger, Use};
pub use live::{Publisher, Reader, live};
pub use passive::Outcome;
pub use pick::{Admission, Pick};
pub use policy::{ParsePolicyError, Policy};
pub use queue::{Entered, Queue, Ticket, Turnstile};
pub use rng::Rng;
pub use set::{BackendSet, Settings, Zones};
pub use turns::{Sample, TurnClass, Turns};
