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
#![forbid(unsafe_code)]

mod address;
mod backend;
mod budget;
mod epoch;
mod facts;
mod hash;
mod histogram;
mod lease;
mod ledger;
mod live;
mod passive;
mod pick;
#[cfg(test)]
mod pick_tests;
mod policy;
mod review;
mod rng;
mod round_robin;
mod set;

pub use address::{Address, ParseAddressError, Zone};
pub use backend::{Backend, BackendState, ConnectFailure, Endpoint, Standing};
pub use budget::RetryBudget;
pub use epoch::Epoch;
pub use facts::{Active, Administrative, Availability, Facts, Reported};
pub use hash::source_key;
pub use histogram::{Histogram, HistogramSnapshot};
pub use lease::{Lease, PickReason};
pub use ledger::{Hold, Ledger, Use};
pub use live::{Publisher, Reader, live};
pub use passive::Outcome;
pub use pick::Pick;
pub use policy::{ParsePolicyError, Policy};
pub use rng::Rng;
pub use set::{BackendSet, Settings};
