//! The only writer of live backend sets.
//!
//! A service has the endpoints of the configuration and those that its sources find, and, if asked for, an active health
//! check of each. What the checks find is laid over the endpoints and published as one snapshot, which `proxy` reads
//! through a [`balance::Reader`].
//!
//! ```text
//!   ServiceConfig ──▶ Services::apply ──┐ publishes before it returns
//!                                       ▼
//!   Source ── Event ──▶ Feed ──▶ Merger ── due ──▶ Roster ── due ──▶ Publisher ──▶ live set
//!     ▲                  (guard, damping, debounce) │ ▲ (schedule, rise and fall)
//!     └ supervisor                                  ▼ │
//!                                              job ─ probes ─ finding
//! ```
//!
//! Decisions are apart from doing. Who belongs to a service: `feed` keeps what a source said, `guard` judges what is lost,
//! `merge` joins all. Who of them is well: `check` judges, `schedule` says when, `roster` joins the two. All of them take
//! the time and random numbers as arguments. `desk` holds them for one service; `service` and `probe` run its probes,
//! `supervisor` its sources, `keeper` remembers them on disk, and [`Services`] is the handle that the program owns.
#![forbid(unsafe_code)]

mod backoff;
mod check;
mod config;
mod damping;
mod debounce;
mod desk;
mod feed;
mod guard;
mod keeper;
mod member;
mod merge;
#[cfg(test)]
mod merge_tests;
mod overview;
mod probe;
mod reach;
mod roster;
#[cfg(test)]
mod roster_tests;
mod schedule;
mod service;
mod services;
#[cfg(test)]
mod simulation;
mod snapshot;
mod source;
pub mod sources;
mod status;
mod store;
mod supervisor;
mod watch;

pub use config::{HealthConfig, MAX_ENDPOINTS, Membership, Probe, ServiceConfig, SourceConfig};
pub use merge::Merge;
pub use overview::Overview;
pub use reach::{Cidr, ParseCidrError, Reach, Refusal};
pub use roster::{CheckReport, LastResult};
pub use services::Services;
pub use source::{Closed, ERROR_MAX_BYTES, Event, Found, ID_MAX_BYTES, Sink, Source, SourceError};
pub use status::{MemberReport, SourceReport, SourceState, Update};
pub use watch::FileWatch;
