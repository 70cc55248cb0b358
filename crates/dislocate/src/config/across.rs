//! The third pass: what no table can know alone. Names that are there twice or not at all, addresses that collide,
//! backends that lead back here.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use balance::Address;
use proxy::Bind;

use super::checked::{Admin, AdminAddress};
use super::convert::{ListenerDraft, ServiceDraft};
use super::limits::MAX_BINDS;
use super::names::nearest;
use super::problem::{Code, Problem, Problems, quoted};
use super::raw::Span;

/// Everything that one file defines, with the places where it does.
pub struct Drafts {
    /// The admin API and where its address was written, if it was.
    pub admin: (Admin, Option<Span>),
    /// The listeners that have a name.
    pub listeners: Vec<ListenerDraft>,
    /// The services that have a name.
    pub services: Vec<ServiceDraft>,
    /// Whether a service could not be read so far as to know its name.
    pub services_lost: bool,
}

/// Adds what is wrong between the parts.
pub fn check(drafts: &Drafts, problems: &mut Problems) {
    unique_names(drafts.listeners.iter().map(|d| (d.listener.name.as_str(), &d.name)), "listener", problems);
    unique_names(drafts.services.iter().map(|d| (d.service.name.as_str(), &d.name)), "service", problems);
    references(drafts, problems);
    let binds = all_binds(drafts);
    if binds.len() > MAX_BINDS {
        let message = format!("all listeners together have {} addresses", binds.len());
        problems.push(Problem::new(Code::OutOfRange, None, message).help(format!("at most {MAX_BINDS} are taken")));
        return;
    }
    conflicts(&binds, problems);
    loops(drafts, &binds, problems);
}

fn unique_names<'a>(names: impl Iterator<Item = (&'a str, &'a Span)>, what: &str, problems: &mut Problems) {
    let mut seen: HashMap<&str, &Span> = HashMap::new();
    for (name, span) in names {
        match seen.get(name) {
            Some(first) => {
                let problem =
                    Problem::new(Code::Duplicate, span.clone(), format!("two {what}s are named {}", quoted(name)));
                problems.push(problem.help("give each its own name").related((*first).clone(), "the first"));
            }
            None => {
                seen.insert(name, span);
            }
        }
    }
}

/// Every listener's service is there, and every service is some listener's.
fn references(drafts: &Drafts, problems: &mut Problems) {
    let known: HashSet<&str> = drafts.services.iter().map(|d| d.service.name.as_str()).collect();
    let used: HashSet<&str> = drafts.listeners.iter().map(|d| d.listener.service.as_str()).collect();
    for draft in &drafts.listeners {
        let (name, wanted) = (quoted(&draft.listener.name), draft.listener.service.as_str());
        let Some(span) = draft.service.clone().filter(|_| !known.contains(wanted) && !drafts.services_lost) else {
            continue;
        };
        let message = format!("listener {name} leads to service {}, which is not defined", quoted(wanted));
        let services = drafts.services.iter().map(|d| d.service.name.as_str()).filter(|_| !problems.are_many());
        let help = match nearest(wanted, services) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add a [[service]] with `name = \"{}\"`", wanted.escape_debug()),
        };
        problems.push(Problem::new(Code::UnknownService, span, message).help(help));
    }
    for draft in drafts.services.iter().filter(|d| !used.contains(d.service.name.as_str())) {
        let message = format!("no listener leads to service {}", quoted(&draft.service.name));
        let problem = Problem::new(Code::UnusedService, draft.name.clone(), message);
        problems
            .push(problem.help("its backends are checked but get no sessions; remove it, or name it in a listener"));
    }
}

/// One address of this process: who has it, and where that was written.
struct Taken<'a> {
    bind: Bind,
    /// The listener's name; nothing for the admin API.
    owner: Option<&'a str>,
    span: Option<Span>,
}

impl Taken<'_> {
    fn owner(&self) -> String {
        match self.owner {
            None => "the admin API".into(),
            Some(name) => format!("listener {}", quoted(name)),
        }
    }
}

fn all_binds(drafts: &Drafts) -> Vec<Taken<'_>> {
    let (admin, span) = &drafts.admin;
    let bind = match &admin.listen {
        AdminAddress::Tcp(addr) => Bind::Inet(*addr),
        AdminAddress::Unix(path) => Bind::Unix(path.clone()),
    };
    let mut taken = vec![Taken { bind, owner: None, span: span.clone() }];
    for draft in &drafts.listeners {
        let places = draft.listener.binds.iter().zip(&draft.binds);
        taken.extend(places.map(|(bind, span)| Taken {
            bind: bind.clone(),
            owner: Some(&draft.listener.name),
            span: Some(span.clone()),
        }));
    }
    taken
}

fn conflicts(binds: &[Taken<'_>], problems: &mut Problems) {
    let mut by_port: HashMap<Option<u16>, Vec<&Taken<'_>>> = HashMap::new();
    // Two ranges that overlap do so on many ports, and are one mistake.
    let mut reported: HashSet<(Option<&Span>, Option<&Span>)> = HashSet::new();
    for bind in binds {
        let port = match &bind.bind {
            Bind::Inet(addr) | Bind::Udp(addr) => Some(addr.port()),
            Bind::Unix(_) | Bind::Datagram(_) => None,
        };
        let earlier = by_port.entry(port).or_default();
        if let Some(other) = earlier.iter().find(|other| collide(&other.bind, &bind.bind))
            && reported.insert((other.span.as_ref(), bind.span.as_ref()))
        {
            problems.push(conflict(other, bind));
        }
        earlier.push(bind);
    }
}

fn conflict(first: &Taken<'_>, second: &Taken<'_>) -> Problem {
    let message = format!("{} of {} collides with {} of {}", second.bind, second.owner(), first.bind, first.owner());
    let dual = [&first.bind, &second.bind]
        .into_iter()
        .any(|bind| matches!(bind, Bind::Inet(SocketAddr::V6(v6)) if v6.ip().is_unspecified()));
    let help = match first.bind == second.bind {
        false if dual => "`[::]` takes IPv4 too; leave the other out, or name the addresses one by one",
        false => "the wildcard takes every address; leave one of them out, or name the addresses one by one",
        true => "give each its own address or port",
    };
    let problem = Problem::new(Code::AddressConflict, second.span.clone(), message).help(help);
    match &first.span {
        Some(span) => problem.related(span.clone(), "the first"),
        None => problem,
    }
}

/// Whether a connection could belong to either.
fn collide(a: &Bind, b: &Bind) -> bool {
    match (a, b) {
        (Bind::Inet(a), Bind::Inet(b)) => {
            a.port() != 0 && a.port() == b.port() && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()) || a == b)
        }
        (Bind::Unix(a), Bind::Unix(b)) => a == b,
        _ => false,
    }
}

/// Whether a listener on one address gets what is sent to another.
fn covers(wide: IpAddr, narrow: IpAddr) -> bool {
    match wide {
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    }
}

/// Backends that are listeners of this process. Seen are exact addresses, and loopback ones behind a wildcard; which
/// other addresses are this machine's, a file does not tell.
fn loops(drafts: &Drafts, binds: &[Taken<'_>], problems: &mut Problems) {
    let exact: HashMap<&Bind, &Taken<'_>> = binds.iter().map(|taken| (&taken.bind, taken)).collect();
    let wildcard = |bind: &Bind| matches!(bind, Bind::Inet(addr) if addr.ip().is_unspecified());
    let wide: HashMap<u16, &Taken<'_>> = binds
        .iter()
        .filter(|taken| wildcard(&taken.bind))
        .filter_map(|taken| port(&taken.bind).zip(Some(taken)))
        .collect();
    for draft in &drafts.services {
        for (backend, span) in draft.service.backends.iter().zip(&draft.backends) {
            let (bind, loopback) = match &backend.address {
                Address::Inet(addr) => (Bind::Inet(*addr), addr.ip().is_loopback()),
                Address::Unix(path) => (Bind::Unix(path.to_path_buf()), false),
            };
            let behind =
                || port(&bind).filter(|_| loopback).and_then(|port| wide.get(&port)).filter(|t| reaches(t, &bind));
            let Some(owner) = exact.get(&bind).or_else(behind) else { continue };
            let message = format!("backend {bind} is {} of this very process", owner.owner());
            let problem =
                Problem::new(Code::ProxyLoop, span.clone(), message).help("write the address of what really serves it");
            problems.push(match &owner.span {
                Some(at) => problem.related(at.clone(), "it listens here"),
                None => problem,
            });
        }
    }
}

fn reaches(taken: &Taken<'_>, backend: &Bind) -> bool {
    matches!((&taken.bind, backend), (Bind::Inet(wide), Bind::Inet(narrow)) if covers(wide.ip(), narrow.ip()))
}

fn port(bind: &Bind) -> Option<u16> {
    match bind {
        Bind::Inet(addr) | Bind::Udp(addr) => Some(addr.port()),
        Bind::Unix(_) | Bind::Datagram(_) => None,
    }
}
