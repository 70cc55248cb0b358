//! The table `health` of a service.

use std::ops::RangeInclusive;

use super::super::checked::{Health, Probe};
use super::super::limits::{Bounded, HEALTH_FALL, HEALTH_INTERVAL, HEALTH_RISE, HEALTH_STATUSES, HEALTH_TIMEOUT};
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Octets, Span, Texts};
use super::super::units;
use super::duration;
use super::octets::octets;

/// The checks of a service.
pub fn health(raw: raw::Health, problems: &mut Problems) -> Health {
    let interval = duration("interval", &raw.interval, HEALTH_INTERVAL, problems);
    // An interval below the default timeout shortens the timeout, and is no mistake.
    let bounds = Bounded { default: HEALTH_TIMEOUT.default.min(interval), ..HEALTH_TIMEOUT };
    let timeout = duration("timeout", &raw.timeout, bounds, problems);
    if let Some(span) = raw.timeout.span().filter(|_| timeout > interval) {
        let (timeout, interval) = (units::text(timeout), units::text(interval));
        let message = format!("a check may take {timeout} but the next one begins after {interval}");
        problems.push(Problem::new(Code::Contradiction, span, message).help("let `timeout` be at most `interval`"));
    }
    Health {
        interval,
        timeout,
        rise: raw.rise.or(HEALTH_RISE.default),
        fall: raw.fall.or(HEALTH_FALL.default),
        probe: probe(raw, problems),
    }
}

fn probe(raw: raw::Health, problems: &mut Problems) -> Probe {
    let kind = raw.kind.value().map_or(raw::PROBES[0], String::as_str);
    let keys: [(_, _, &[&str]); 6] = [
        ("port", raw.port.span(), &["tcp", "http", "udp"]),
        ("path", raw.path.span(), &["http"]),
        ("host", raw.host.span(), &["http"]),
        ("send", raw.send.span(), &["udp"]),
        ("expect", raw.expect.span(), &["http", "udp"]),
        ("command", raw.command.span(), &["exec"]),
    ];
    for (key, span, of) in keys {
        if let Some(span) = span.filter(|_| !of.contains(&kind)) {
            problems.push(foreign_key(key, kind, of, span, raw.kind.span()));
        }
    }
    let port = raw.port.value().copied();
    match kind {
        "none" => Probe::None,
        "http" => Probe::Http {
            port,
            path: path(raw.path, problems),
            host: host(raw.host, problems),
            expect: statuses(raw.expect, problems),
        },
        "udp" => Probe::Udp {
            port,
            send: send(raw.send, raw.kind.span(), problems),
            expect: octets("expect", raw.expect, problems).unwrap_or_default(),
        },
        "exec" => Probe::Exec { command: command(raw.command, raw.kind.span(), problems) },
        _ => Probe::Tcp { port },
    }
}

fn foreign_key(key: &str, kind: &str, of: &[&str], span: Span, kind_span: Option<Span>) -> Problem {
    let message = format!("`{key}` has no meaning for checks of kind `{kind}`");
    let kinds: Vec<_> = of.iter().map(|of| format!("`kind = \"{of}\"`")).collect();
    let help = format!("write {}, or remove it", kinds.join(" or "));
    let problem = Problem::new(Code::Contradiction, span, message).help(help);
    match kind_span {
        Some(kind_span) => problem.related(kind_span, "the kind"),
        None => problem,
    }
}

fn send(field: Field<Octets>, kind: Option<Span>, problems: &mut Problems) -> Vec<u8> {
    let help = "write what a backend replies to, as a text or as { hex = \"…\" }";
    let Some(span) = field.span() else {
        let problem = Problem::new(Code::MissingKey, kind, "`send` is missing: there is nothing to send");
        problems.push(problem.help(help));
        return Vec::new();
    };
    let bytes = octets("send", field, problems);
    if bytes.as_ref().is_some_and(Vec::is_empty) {
        let problem = Problem::new(Code::InvalidValue, span, "`send` is empty, which no backend replies to");
        problems.push(problem.help(help));
    }
    bytes.unwrap_or_default()
}

fn path(field: Field<String>, problems: &mut Problems) -> String {
    let Some(At { span, value }) = field.0 else { return "/".into() };
    if value.starts_with('/') && is_token(&value) {
        return value;
    }
    let message = format!("{} is not a path to ask for", quoted(&value));
    problems.push(Problem::new(Code::InvalidValue, span, message).help("it begins with `/` and has no spaces"));
    "/".into()
}

fn host(field: Field<String>, problems: &mut Problems) -> Option<String> {
    let At { span, value } = field.0?;
    if is_token(&value) {
        return Some(value);
    }
    let message = format!("{} is not a host", quoted(&value));
    problems.push(Problem::new(Code::InvalidValue, span, message).help("write a name, with a port if it needs one"));
    None
}

/// Whether a text can stand in a request line or header without ending it (RFC 9112 section 3).
fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn statuses(field: Field<Octets>, problems: &mut Problems) -> Vec<RangeInclusive<u16>> {
    let (low, high) = HEALTH_STATUSES;
    match field.0 {
        None => vec![low..=high],
        Some(At { value: Octets::Texts(Texts(texts)), .. }) => {
            texts.iter().filter_map(|at| problems.keep(status(at))).collect()
        }
        Some(At { value: Octets::Hex(_), span }) => {
            let problem = Problem::new(Code::InvalidValue, span, "bytes are no HTTP status");
            problems.push(problem.help("write statuses, or `kind = \"udp\"` to expect bytes"));
            Vec::new()
        }
    }
}

fn status(at: &At<String>) -> Result<RangeInclusive<u16>, Problem> {
    let (first, last) = at.value.split_once('-').unwrap_or((&at.value, &at.value));
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => {
            let message = format!("{} is no HTTP status", quoted(&at.value));
            let help = "write a number such as 204 or a range such as \"200-299\", within 100 to 599";
            Err(Problem::new(Code::InvalidValue, at.span.clone(), message).help(help))
        }
    }
}

fn command(field: Field<Vec<At<String>>>, kind: Option<Span>, problems: &mut Problems) -> Vec<String> {
    let Some(At { span, value: words }) = field.0 else {
        let problem = Problem::new(Code::MissingKey, kind, "`command` is missing: there is nothing to execute");
        problems
            .push(problem.help("write the program and its arguments, such as command = [\"/usr/local/bin/check\"]"));
        return Vec::new();
    };
    let words: Vec<String> = words.into_iter().map(|at| at.value).collect();
    let absolute = words.first().is_some_and(|program| program.starts_with('/'));
    if !absolute || words.iter().any(|word| word.contains('\0')) {
        let message = "the first word of `command` is not the path of a program";
        problems.push(Problem::new(Code::InvalidValue, span, message).help("write its absolute path"));
    }
    words
}

/// The longest path or host that is sent.
const MAX_TOKEN_BYTES: usize = 1024;
