//! dislocate, a layer-4 load balancer: the parts of the program, for its binary, its tests and its fuzz targets.
//!
//! [`cli`] reads the command line, [`config`] the file; [`run`] starts a [`program`] from it and obeys signals, with
//! [`plan`] to say what a reload changes and `membership` to say where backends are found. [`admin`], [`metrics`],
//! [`explain`], [`views`] and [`panics`] tell what is in [`state`]; [`ask`] asks them from outside; [`log`] writes what
//! happened.
#![forbid(unsafe_code)]

pub mod admin;
pub mod ask;
pub mod cli;
pub mod config;
pub mod demo;
pub mod descriptors;
pub mod explain;
mod families;
pub mod log;
mod membership;
pub mod metrics;
pub mod panics;
pub mod plan;
mod process;
pub mod program;
pub mod run;
pub mod state;
pub mod views;
