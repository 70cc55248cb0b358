//! The second pass: from what was written to checked values, one table at a time.
//!
//! A value that is wrong is reported and replaced by its default, so that the rest can be looked at; the configuration
//! as a whole is refused then. What the first pass took out looks like a key that was left out.

mod health;
mod kubernetes;
mod listen;
mod listener;
mod node;
mod octets;
mod quic;
mod service;
mod source;
mod udp;
mod xds;

use std::path::PathBuf;
use std::time::Duration;

use super::limits::Bounded;
use super::names::{is_name, nearest};
use super::problem::{Code, Problem, Problems, quoted};
use super::raw::{Field, Span};
use super::units;

pub use listener::{ListenerDraft, listener};
pub use node::{admin, node};
pub use service::{ServiceDraft, service};

/// A duration within its bounds, or the default.
fn duration(key: &str, field: &Field<String>, bounds: Bounded<Duration>, problems: &mut Problems) -> Duration {
    let Some(at) = &field.0 else { return bounds.default };
    let read = read_duration(key, &at.value, bounds).map_err(|p| Problem { span: Some(at.span.clone()), ..p });
    problems.keep(read).unwrap_or(bounds.default)
}

fn read_duration(key: &str, text: &str, bounds: Bounded<Duration>) -> Result<Duration, Problem> {
    let Some(duration) = units::duration(text) else {
        let message = format!("`{key}` cannot be {}, which is not a duration", quoted(text));
        let help = format!("write a whole number and ms, s, m, h or d, such as \"{}\"", units::text(bounds.default));
        return Err(Problem::new(Code::InvalidDuration, None, message).help(help));
    };
    if (bounds.min..=bounds.max).contains(&duration) {
        return Ok(duration);
    }
    let message = format!("`{key}` cannot be {}", quoted(text));
    let help = format!("it takes {} to {}", units::text(bounds.min), units::text(bounds.max));
    Err(Problem::new(Code::OutOfRange, None, message).help(help))
}

/// A name and its place, or nothing when it is missing or was reported.
fn name(field: Field<String>, problems: &mut Problems) -> Option<(String, Span)> {
    let at = field.0?;
    if is_name(&at.value) {
        return Some((at.value, at.span));
    }
    let message = format!("{} cannot be a name", quoted(&at.value));
    let help = "a name has 1 to 63 letters, digits, `-`, `_` and `.`";
    problems.push(Problem::new(Code::InvalidName, at.span, message).help(help));
    None
}

/// A zone, or nothing when it is missing or was reported.
fn zone(field: &Field<String>, problems: &mut Problems) -> Option<balance::Zone> {
    let at = field.0.as_ref()?;
    let zone = balance::Zone::new(&at.value);
    if zone.is_none() {
        let message = format!("{} cannot be a zone", quoted(&at.value));
        let help = "a zone is `dc` or `dc/zone`, each part of letters, digits, `-`, `_` and `.`";
        problems.push(Problem::new(Code::InvalidName, at.span.clone(), message).help(help));
    }
    zone
}

/// The path of something on this machine, or nothing when it is missing or was reported.
fn absolute_path(key: &str, field: Field<String>, problems: &mut Problems) -> Option<PathBuf> {
    let at = field.0?;
    if at.value.starts_with('/') && !at.value.contains('\0') {
        return Some(at.value.into());
    }
    let message = format!("{} is not a path for `{key}`", quoted(&at.value));
    problems.push(Problem::new(Code::InvalidValue, at.span, message).help("write its absolute path"));
    None
}

/// Help for a word that is near to one that is known.
fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(given, known).map(|meant| format!("did you mean `{meant}`?"))
}
