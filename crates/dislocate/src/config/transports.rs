//! What a service is held to depends on what its listeners take: connections, datagrams, or both.

use std::collections::HashMap;

use balance::Address;

use super::across::Drafts;
use super::checked::Probe;
use super::convert::{ListenerDraft, ServiceDraft};
use super::problem::{Code, Problem, Problems, quoted};
use super::raw::Span;

/// What the listeners of each service take.
pub struct Transports<'a>(HashMap<&'a str, Over>);

/// What the listeners of a service take. Of a service without a listener neither is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// TCP or unix streams.
    pub connections: bool,
    /// UDP or unix datagrams.
    pub datagrams: bool,
}

impl<'a> Transports<'a> {
    /// Of these listeners.
    pub fn of(listeners: &'a [ListenerDraft]) -> Self {
        let mut all: HashMap<&str, Over> = HashMap::new();
        for draft in listeners {
            let over = all.entry(draft.listener.service.as_str()).or_default();
            over.datagrams |= draft.listener.udp.is_some();
            over.connections |= draft.listener.udp.is_none();
        }
        Self(all)
    }

    /// What the listeners of this service take.
    pub fn over(&self, service: &str) -> Over {
        self.0.get(service).copied().unwrap_or_default()
    }
}

/// Fills in the checks that were left out, and adds what does not go with the listeners of a service.
pub fn settle(drafts: &mut Drafts, problems: &mut Problems) {
    // Whose protocol is not known, cannot be held against a service.
    if drafts.protocols_lost {
        return;
    }
    let transports = Transports::of(&drafts.listeners);
    for draft in &mut drafts.services {
        let over = transports.over(&draft.service.name);
        keys(draft, over, problems);
        default_health(draft, over, problems);
        unix_backends(draft, over, problems);
    }
}

/// Keys that only datagrams need, where there are none, or where they are not built for the others.
fn keys(draft: &ServiceDraft, over: Over, problems: &mut Problems) {
    let name = quoted(&draft.service.name);
    for (key, span) in draft.of_datagrams.iter().filter(|_| over.connections) {
        let problem = match *key {
            "send_proxy" => {
                let message = format!("`send_proxy` is not built yet for connections, which lead to service {name}");
                Problem::new(Code::NotBuilt, span.clone(), message)
                    .help("leave it out, or give the listeners of datagrams a service of their own")
            }
            _ if over.datagrams => continue,
            _ => {
                let message = format!("`{key}` is about datagrams, and no listener of them leads to service {name}");
                Problem::new(Code::Contradiction, span.clone(), message)
                    .help("remove it, or let a listener with `protocol = \"udp\"` lead to the service")
            }
        };
        problems.push(problem);
    }
}

/// Where all is datagrams nothing is checked by default: who serves datagrams need not take connections.
fn default_health(draft: &mut ServiceDraft, over: Over, problems: &mut Problems) {
    if over.connections || !over.datagrams || draft.health_kind.is_some() {
        return;
    }
    draft.service.health.probe = Probe::None;
    // A kind that was reported is not missing.
    if let Some(span) = draft.health.clone().filter(|_| !problems.failed) {
        let message = format!("`kind` is missing: datagrams lead to service {}", quoted(&draft.service.name));
        let help = "write `kind = \"udp\"` with what to `send`, or another kind with the `port` that it asks";
        problems.push(Problem::new(Code::MissingKey, span, message).help(help));
    }
}

/// A unix socket is of one kind and has no ports, and one of datagrams has no address to reply to.
fn unix_backends(draft: &ServiceDraft, over: Over, problems: &mut Problems) {
    let backends = draft.service.backends.iter().zip(&draft.backends);
    let Some((backend, span)) = backends.into_iter().find(|(it, _)| matches!(it.address, Address::Unix(_))) else {
        return;
    };
    let address = &backend.address;
    if over.connections && over.datagrams {
        let message = format!("backend {address} cannot take both connections and datagrams");
        let help = "give the listeners of datagrams a service of their own";
        problems.push(Problem::new(Code::Contradiction, span.clone(), message).help(help));
        return;
    }
    let (span, message): (Option<&Span>, _) = match &draft.service.health.probe {
        Probe::Tcp { port: Some(_) } | Probe::Http { port: Some(_), .. } | Probe::Udp { port: Some(_), .. } => {
            (draft.health_port.as_ref(), format!("backend {address} has no ports to check"))
        }
        Probe::Udp { .. } => (draft.health_kind.as_ref(), format!("backend {address} cannot be checked by a datagram")),
        Probe::Tcp { .. } | Probe::Http { .. } if over.datagrams => {
            (draft.health_kind.as_ref(), format!("backend {address} takes datagrams, and no connection to check it by"))
        }
        Probe::Tcp { .. } | Probe::Http { .. } | Probe::Exec { .. } | Probe::None => return,
    };
    let help = "write `kind = \"exec\"` with a command that checks it, or `kind = \"none\"`";
    problems.push(Problem::new(Code::Contradiction, span.cloned(), message).help(help));
}
