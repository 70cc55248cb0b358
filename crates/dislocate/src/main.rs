//! The `dislocate` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dislocate::cli::{self, Cli};

fn main() -> ExitCode {
    cli::dispatch(Cli::parse())
}
