//! A table `[[listener]]`.

use proxy::Bind;

use super::super::checked::Listener;
use super::super::limits::*;
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Span};
use super::listen::addresses;
use super::{duration, name};

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

/// A listener whose own keys are right or reported; nothing when it has no name.
pub fn listener(raw: raw::Listener, problems: &mut Problems) -> Option<ListenerDraft> {
    let (binds, bind_spans) = binds(raw.listen, &raw.protocol, problems);
    let idle_timeout = duration("idle_timeout", &raw.idle_timeout, IDLE_TIMEOUT, problems);
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
    };
    Some(ListenerDraft { listener, name: name_span, service: service_span, binds: bind_spans })
}

fn binds(listen: Field<raw::Texts>, protocol: &Field<String>, problems: &mut Problems) -> (Vec<Bind>, Vec<Span>) {
    let Some(At { span, value: texts }) = listen.0 else { return Default::default() };
    let (mut binds, mut spans) = (Vec::new(), Vec::new());
    for at in &texts.0 {
        let read = addresses(at).and_then(|found| fits(protocol, &found, at).map(|()| found));
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

/// Whether a protocol that was written goes with an address.
fn fits(protocol: &Field<String>, found: &[Bind], at: &At<String>) -> Result<(), Problem> {
    let Some(At { span, value: protocol }) = &protocol.0 else { return Ok(()) };
    let fitting = if matches!(found.first(), Some(Bind::Unix(_))) { "stream" } else { "tcp" };
    if protocol == fitting {
        return Ok(());
    }
    let message = format!("protocol {} does not go with {}", quoted(protocol), quoted(&at.value));
    let help = "tcp goes with IP addresses and stream with unix paths; left out, it follows the address";
    Err(Problem::new(Code::Contradiction, span.clone(), message).help(help).related(at.span.clone(), "this address"))
}
