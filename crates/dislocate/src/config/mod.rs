//! The configuration file: three layers, three types, and every mistake in one report.
//!
//! ```text
//!  text ─ toml ─▶ document ─ shape ─▶ raw::File ─ convert ─▶ drafts ─ across ─▶ Config
//!           │                  │                     │                  │
//!           └──────────────────┴──── Problems ───────┴──────────────────┴─────▶ Report
//! ```
//!
//! `shape` holds the document against the schema, `convert` reads each table's texts into values, `across` compares
//! the tables, after `transports` has settled what the listeners of a service mean for it. Each takes out what it reports, so the next can go on with the rest.

mod checked;
pub mod limits;
mod names;
mod problem;
mod raw;
mod report;
mod schema;
mod units;

mod across;
mod convert;
mod shape;
mod transports;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use across::Drafts;
use limits::MAX_FILE_BYTES;
use problem::Problems;

pub use checked::{
    Admin, AdminAddress, Config, Endpoint, Health, Listener, LogTarget, Node, Probe, Service, Source, SourceKind,
    UdpListener, UdpService,
};
pub use problem::{Code, Problem, Severity};
pub use report::{Place, Report};
pub use schema::schema;

/// A file with every key at its default, explained.
pub const DEFAULT: &str = include_str!("default.toml");

/// Reads and checks a file.
///
/// *Errors*: everything that is wrong with it. A file that is written while it is read is mostly refused, as it ends
/// in the middle; only renaming a finished file into place is safe.
///
/// *Cost*: blocks on the file system.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => parse(&name, &text),
        Err(problem) => {
            let mut problems = Problems::default();
            problems.push(problem);
            Err(Report::new(&name, "", problems))
        }
    }
}

/// Checks a text. `name` is what the report calls it.
///
/// *Errors*: everything that is wrong with it. *Cost*: linear in the text.
pub fn parse(name: &str, text: &str) -> Result<Config, Report> {
    let mut problems = Problems::default();
    let checked = check(text, &mut problems).filter(|_| !problems.failed);
    let report = Report::new(name, text, problems);
    match checked {
        Some(config) => Ok(Config { warnings: report, ..config }),
        None => Err(report),
    }
}

fn check(text: &str, problems: &mut Problems) -> Option<Config> {
    let (mut document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What the parser made of the rest is a guess, which would only bring up mistakes that are none.
        for error in errors {
            problems.push(Problem::new(Code::Syntax, error.span(), error.message()));
        }
        return None;
    }
    let services_written = entries(document.get_ref(), "service");
    let protocols_written = protocols(document.get_ref());
    shape::check(schema(), &mut document, problems);
    let raw = raw::File::deserialize(toml::de::Deserializer::from(document));
    let raw = problems.keep(raw.map_err(|error| Problem::new(Code::WrongType, error.span(), error.message())))?;
    let (node, mut drafts) = drafts(raw, protocols_written, problems);
    drafts.services_lost = drafts.services.len() < services_written;
    transports::settle(&mut drafts, problems);
    across::check(&drafts, problems);
    let Drafts { admin: (admin, _), listeners, services, .. } = drafts;
    let listen_lines = listeners.iter().map(|draft| lines(text, &draft.binds)).collect();
    let hash = hash(text, &services);
    Some(Config {
        node,
        admin,
        listen_lines,
        listeners: listeners.into_iter().map(|draft| draft.listener).collect(),
        services: services.into_iter().map(|draft| draft.service).collect(),
        hash,
        warnings: Report::default(),
    })
}

fn drafts(raw: raw::File, protocols_written: usize, problems: &mut Problems) -> (Node, Drafts) {
    let node = convert::node(raw.node.0.map(|at| at.value).unwrap_or_default(), problems);
    let admin = convert::admin(raw.admin.0.map(|at| at.value).unwrap_or_default(), problems);
    let listeners = raw.listener.0.map(|at| at.value).unwrap_or_default();
    let protocols_left = listeners.iter().filter(|at| at.value.protocol.0.is_some()).count();
    let protocols_lost = protocols_left < protocols_written;
    let listeners = listeners.into_iter();
    let listeners = listeners.filter_map(|at| convert::listener(at.value, protocols_lost, problems)).collect();
    let services = raw.service.0.into_iter().flat_map(|at| at.value);
    let services = services.filter_map(|at| convert::service(at.value, &node, problems)).collect();
    (node, Drafts { admin, listeners, services, services_lost: false, protocols_lost })
}

/// How many entries a list of tables has as written, whatever they are.
fn entries(document: &DeTable<'_>, key: &str) -> usize {
    match document.get(key).map(|value| value.get_ref()) {
        Some(DeValue::Array(items)) => items.len(),
        Some(_) => 1,
        None => 0,
    }
}

/// How many listeners say a protocol, whatever it is.
fn protocols(document: &DeTable<'_>) -> usize {
    let Some(DeValue::Array(listeners)) = document.get("listener").map(|value| value.get_ref()) else { return 0 };
    let says = |value: &DeValue<'_>| matches!(value, DeValue::Table(table) if table.contains_key("protocol"));
    listeners.iter().filter(|listener| says(listener.get_ref())).count()
}

fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: &dyn std::fmt::Display| {
        let message = format!("cannot read {}: {error}", path.display());
        let help = "name the file with -c FILE; `dislocate config default` prints one to begin with";
        Problem::new(Code::Unreadable, None, message).help(help)
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    // One byte more than is taken, so that a file which grows meanwhile, or has no end, is noticed too.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("{} has more than {MAX_FILE_BYTES} bytes", path.display());
        return Err(Problem::new(Code::TooLarge, None, message).help("remove what is not configuration"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("{} is not UTF-8: {}", path.display(), error.utf8_error());
        Problem::new(Code::Syntax, None, message).help("save it as UTF-8")
    })
}

/// The lines, counted from 1, on which the spans begin. A listener has few of them on few lines.
fn lines(text: &str, spans: &[raw::Span]) -> Vec<usize> {
    let line = |span: &raw::Span| text.as_bytes()[..span.start].iter().filter(|&&byte| byte == b'\n').count() + 1;
    let mut last: Option<(usize, usize)> = None;
    let mut counted = |span: &raw::Span| match last {
        // A range of ports is one text with many addresses.
        Some((start, line)) if start == span.start => line,
        Some(_) | None => last.insert((span.start, line(span))).1,
    };
    spans.iter().map(&mut counted).collect()
}

/// Of the text, and of the keys that it names, which are files of their own.
fn hash(text: &str, services: &[convert::ServiceDraft]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    services.iter().for_each(|draft| draft.keys.hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests;
