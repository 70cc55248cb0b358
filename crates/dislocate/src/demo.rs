//! `dislocate demo`.

use std::process::ExitCode;

use crate::cli::{self, DemoArgs};

/// Shows what dislocate does, on this machine alone.
pub fn demo(_args: &DemoArgs) -> ExitCode {
    cli::fail("this build has no demo yet")
}
