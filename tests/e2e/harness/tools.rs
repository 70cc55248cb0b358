//! What a test needs of the machine, and what happens where it is not there: never silence.

use std::io::Write as _;
use std::path::Path;
use std::{env, io, thread};

/// Whether this test may use namespaces, packet filters and mounts. Where not, it says so, and fails in CI.
#[must_use]
pub fn needs_root() -> bool {
    rustix::process::geteuid().is_root() || not_run("root")
}

/// Whether every one of `tools` is there. Where not, the test says so, and fails in CI.
#[must_use]
pub fn needs_tools(tools: &[&str]) -> bool {
    tools.iter().all(|tool| path_of(tool).is_some() || not_run(tool))
}

/// As [`needs_tools`], for what cannot be had on every machine: where it is not there the test says so, also in CI, and
/// nothing fails.
#[must_use]
pub fn wants_tool(tool: &str) -> bool {
    path_of(tool).is_some() || {
        say_not_run(tool);
        false
    }
}

/// Where a program is, looked for in `PATH` and where administrators' tools live.
pub fn path_of(tool: &str) -> Option<String> {
    let path = env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| format!("{folder}/{tool}")).find(|path| Path::new(path).is_file())
}

fn say_not_run(needed: &str) -> String {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // Not by a macro: what those print in a test that passes is kept from the reader.
    writeln!(io::stderr(), "NOT RUN (needs {needed}): {name}").expect("standard error is writable");
    name
}

fn not_run(needed: &str) -> bool {
    let name = say_not_run(needed);
    assert!(env::var_os("CI").is_none(), "in CI every test runs: {name} needs {needed}");
    false
}
