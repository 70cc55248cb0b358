//! The only writer of live backend sets.
//!
//! A service is a fixed list of endpoints and, if asked for, an active health check of each. What the checks find is
//! laid over the endpoints and published as one snapshot, which `proxy` reads through a [`balance::Reader`].
//!
//! ```text
//!   ServiceConfig ──▶ Services::apply ─────┐ publishes before it returns
//!                                          ▼
//!   probes ── finding ──▶ Roster ── due ── Publisher ──▶ live set
//!     ▲                     │ (schedule, rise and fall: pure)
//!     └──────── job ────────┘
//! ```
//!
//! Decisions are apart from doing: `check` judges, `schedule` says when, `roster` joins the two for a service.
//! All of them take the time and random numbers as arguments. `probe` opens sockets, `service` runs probes, and [`Services`]
//! is the handle that the program owns.
#![forbid(unsafe_code)]

mod check;
mod config;
#[allow(dead_code)]
mod damping;
#[allow(dead_code)]
mod debounce;
#[allow(dead_code)]
mod feed;
#[allow(dead_code)]
mod guard;
#[allow(dead_code)]
mod merge;
#[cfg(test)]
mod merge_tests;
mod probe;
#[allow(dead_code)]
mod reach;
mod roster;
#[cfg(test)]
mod roster_tests;
mod schedule;
mod service;
mod services;
#[cfg(test)]
mod simulation;
#[allow(dead_code)]
mod snapshot;
mod source;
#[allow(dead_code)]
mod store;

pub use config::{HealthConfig, Probe, ServiceConfig};
pub use merge::Merge;
pub use reach::{Cidr, ParseCidrError, Reach, Refusal};
pub use roster::{CheckReport, LastResult};
pub use services::Services;
pub use source::{Closed, ERROR_MAX_BYTES, Event, Found, ID_MAX_BYTES, Sink, Source, SourceError};
