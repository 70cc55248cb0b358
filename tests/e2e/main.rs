//! End-to-end tests: the built program, as its users start it, between real clients and real backends.
//!
//! Every test starts its own program with ports and addresses of its own, so that all run side by side, and ends
//! with [`harness::Proxy::finish`], which asks what no single test would: that nothing leaked, that every session
//! left one record, that the log says nothing the test did not provoke.

// A test's failure is a panic, and what a helper unwraps is the machine under the test, not the program.
#![allow(clippy::unwrap_used)]

mod harness;

mod admin;
mod choosing;
mod closing;
mod demo;
mod draining;
mod early;
mod explain;
mod failing;
mod health;
mod keys;
mod kubernetes;
mod latency;
mod limits;
mod logging;
mod metrics_documented;
mod pressure;
mod queue;
mod real_clients;
mod registries;
mod reload;
mod reload_refused;
mod signals;
mod silence;
mod sources;
mod starting;
mod timeouts;
mod transfer;
mod udp;
mod xds;
