//! Tests of the whole way from text to configuration or report.

mod datagrams;
mod documents;
mod hostile;
mod mistakes;
mod rendering;
mod schema;
mod sources;
mod values;
mod xds;

use super::{Config, Report, parse};

/// The smallest configuration, with these lines added to its listener and its service.
fn with(listener: &str, service: &str) -> String {
    format!("[[listener]]\nname = \"web\"\nservice = \"web\"\n{listener}\n\n[[service]]\nname = \"web\"\n{service}\n")
}

const LISTEN: &str = "listen = \"127.0.0.1:80\"";
const BACKENDS: &str = "backends = [\"10.0.0.1:80\"]";

fn good(text: &str) -> Config {
    parse("test.toml", text).unwrap_or_else(|report| panic!("a good configuration is refused:\n{report}"))
}

fn bad(text: &str) -> Report {
    parse("test.toml", text).err().unwrap_or_else(|| panic!("a bad configuration is taken:\n{text}"))
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.problems().iter().map(|problem| problem.code.as_str()).collect()
}
