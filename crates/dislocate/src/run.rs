//! `dislocate run`.

use std::path::Path;
use std::process::ExitCode;

use crate::cli;

/// Serves as the file says, until a signal ends it.
pub fn run(config: &Path) -> ExitCode {
    match cli::load(config) {
        Ok(_) => cli::fail("this build checks configurations but does not serve yet"),
        Err(code) => code,
    }
}
