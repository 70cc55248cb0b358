//! dislocate, a layer-4 load balancer: the parts of the program, for its binary, its tests and its fuzz targets.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod demo;
pub mod run;
