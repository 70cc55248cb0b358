//! The `dislocate` program.
#![forbid(unsafe_code)]

fn main() {}
