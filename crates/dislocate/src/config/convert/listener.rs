//! A table `[[listener]]`.

use proxy::Bind;

use super::super::checked::Listener;
use super::super::limits::*;
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Span};
use super::listen::addresses;
use super::{duration, name, udp};

/// A listener and where its parts were written, for the checks that look across tables.
pub struct ListenerDraft {
    /// The listener.
    pub listener: Listener,
    /// Where its name is.
    pub name: Span,
    /// Where its service is named; nothing when that was missing or reported.
    pub service: Option<Span>,
    /// Where each of its addresses is.
    pub binds: Vec<Span>,
}

/// A listener whose own keys are right or reported; nothing when it has no name. Whether a protocol of some listener was
/// reported decides whether keys can be held against it.
pub fn listener(raw: raw::Listener, protocols_lost: bool, problems: &mut Problems) -> Option<ListenerDraft> {
    if raw.protocol.0.is_some() || !protocols_lost {
        udp::foreign_keys(&raw, problems);
    }
    let udp = udp::listener(&raw, problems);
    let (binds, bind_spans) = binds(raw.listen, &raw.protocol, problems);
    let idle_bounds = if udp.is_some() { UDP_IDLE_TIMEOUT } else { IDLE_TIMEOUT };
    let idle_timeout = duration("idle_timeout", &raw.idle_timeout, idle_bounds, problems);
    let half_close_timeout = duration("half_close_timeout", &raw.half_close_timeout, HALF_CLOSE_TIMEOUT, problems);
    let keepalive = duration("keepalive", &raw.keepalive, KEEPALIVE, problems);
    let user_timeout = duration("user_timeout", &raw.user_timeout, USER_TIMEOUT, problems);
    let connect_timeout = duration("connect_timeout", &raw.connect_timeout, CONNECT_TIMEOUT, problems);
    let (name, name_span) = name(raw.name, problems)?;
    let service_span = raw.service.span();
    let listener = Listener {
        name,
        binds,
        service: raw.service.0.map(|at| at.value).unwrap_or_default(),
        idle_timeout,
        half_close_timeout,
        keepalive,
        user_timeout,
        connect_timeout,
        retries: raw.retries.or(RETRIES.default),
        max_connections: raw.max_connections.or(MAX_CONNECTIONS.default),
        max_connections_per_source: raw.max_connections_per_source.or(MAX_CONNECTIONS_PER_SOURCE.default),
        splice: raw.splice.or(true),
        udp,
    };
    Some(ListenerDraft { listener, name: name_span, service: service_span, binds: bind_spans })
}

fn binds(listen: Field<raw::Texts>, protocol: &Field<String>, problems: &mut Problems) -> (Vec<Bind>, Vec<Span>) {
    let Some(At { span, value: texts }) = listen.0 else { return Default::default() };
    let (mut binds, mut spans) = (Vec::new(), Vec::new());
    for at in &texts.0 {
        let read = addresses(at).and_then(|found| over(protocol, found, at));
        let Some(found) = problems.keep(read) else { continue };
        spans.extend(found.iter().map(|_| at.span.clone()));
        binds.extend(found);
        if binds.len() > MAX_PORTS_PER_LISTENER {
            let message = format!("this listener has more than {MAX_PORTS_PER_LISTENER} addresses");
            problems.push(Problem::new(Code::OutOfRange, span, message).help("spread them over several listeners"));
            break;
        }
    }
    (binds, spans)
}

/// The addresses for the protocol that was written, if it goes with them.
fn over(protocol: &Field<String>, found: Vec<Bind>, at: &At<String>) -> Result<Vec<Bind>, Problem> {
    let Some(At { span, value: protocol }) = &protocol.0 else { return Ok(found) };
    let bind = |bind| match (bind, protocol.as_str()) {
        (bind @ Bind::Inet(_), "tcp") | (bind @ Bind::Unix(_), "stream") => Some(bind),
        (Bind::Inet(addr), "udp") => Some(Bind::Udp(addr)),
        (Bind::Unix(path), "datagram") => Some(Bind::Datagram(path)),
        _ => None,
    };
    found.into_iter().map(bind).collect::<Option<_>>().ok_or_else(|| {
        let message = format!("protocol {} does not go with {}", quoted(protocol), quoted(&at.value));
        let help = "tcp and udp go with IP addresses, stream and datagram with unix paths; left out, it is tcp or stream, \
                    whichever fits the address";
        let problem = Problem::new(Code::Contradiction, span.clone(), message).help(help);
        problem.related(at.span.clone(), "this address")
    })
}
