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
mod policy;
mod rng;

pub use address::{Address, ParseAddressError, Zone};
pub use policy::{ParsePolicyError, Policy};
pub use rng::Rng;
