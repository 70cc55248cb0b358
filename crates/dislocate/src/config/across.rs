//! The third pass: what no table can know alone. Names that are there twice or not at all, addresses that collide,
//! backends that lead back here.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use balance::Address;
use proxy::Bind;

use super::checked::{Admin, AdminAddress};
use super::convert::{ListenerDraft, ServiceDraft};
use super::limits::MAX_BINDS;
use super::names::nearest;
use super::problem::{Code, Problem, Problems, quoted};
use super::raw::Span;
use super::transports::Transports;

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
    /// Whether the protocol of a listener was no word that is known, and so is not known here.
    pub protocols_lost: bool,
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
        let earlier = by_port.entry(port(&bind.bind)).or_default();
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
        .any(|bind| matches!(bind, Bind::Inet(SocketAddr::V6(v6)) | Bind::Udp(SocketAddr::V6(v6)) if v6.ip().is_unspecified()));
    let same = first.bind == second.bind || path(&first.bind).is_some();
    let help = match same {
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

/// Whether a connection or datagram could belong to either. TCP and UDP share no ports; a path is one file, whatever kind
/// of socket it is.
fn collide(a: &Bind, b: &Bind) -> bool {
    match (a, b) {
        (Bind::Inet(a), Bind::Inet(b)) | (Bind::Udp(a), Bind::Udp(b)) => {
            a.port() != 0 && a.port() == b.port() && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()) || a == b)
        }
        _ => path(a).is_some() && path(a) == path(b),
    }
}

/// Whether a listener on one address gets what is sent to another.
fn covers(wide: IpAddr, narrow: IpAddr) -> bool {
    match wide {
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    }
}

/// Backends that are listeners of this process, of the kind that the service's own clients come by. Seen are exact
/// addresses, and loopback ones behind a wildcard; which other addresses are this machine's, a file does not tell.
fn loops(drafts: &Drafts, binds: &[Taken<'_>], problems: &mut Problems) {
    let exact: HashMap<&Bind, &Taken<'_>> = binds.iter().map(|taken| (&taken.bind, taken)).collect();
    let wide: HashMap<(bool, u16), &Taken<'_>> =
        binds.iter().filter_map(|taken| wildcard(&taken.bind).zip(Some(taken))).collect();
    let owner = |bind: &Bind| {
        let behind = || kind_and_port(bind).filter(|_| is_loopback(bind)).and_then(|key| wide.get(&key));
        exact.get(bind).or_else(|| behind().filter(|taken| reaches(taken, bind)))
    };
    let transports = Transports::of(&drafts.listeners);
    for draft in &drafts.services {
        for (backend, span) in draft.service.backends.iter().zip(&draft.backends) {
            let places = places(&backend.address, &transports, &draft.service.name);
            let Some((bind, owner)) = places.iter().find_map(|bind| Some(bind).zip(owner(bind))) else { continue };
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

/// Where clients' connections and datagrams to a backend arrive.
fn places(backend: &Address, transports: &Transports<'_>, service: &str) -> Vec<Bind> {
    match backend {
        // One file, whatever kind of socket it is.
        Address::Unix(path) => vec![Bind::Unix(path.to_path_buf()), Bind::Datagram(path.to_path_buf())],
        Address::Inet(addr) => {
            let over = transports.over(service);
            let by_connection = (over.connections || !over.datagrams).then_some(Bind::Inet(*addr));
            let by_datagram = over.datagrams.then_some(Bind::Udp(*addr));
            by_connection.into_iter().chain(by_datagram).collect()
        }
    }
}

fn reaches(taken: &Taken<'_>, backend: &Bind) -> bool {
    match (&taken.bind, backend) {
        (Bind::Inet(wide), Bind::Inet(narrow)) | (Bind::Udp(wide), Bind::Udp(narrow)) => covers(wide.ip(), narrow.ip()),
        _ => false,
    }
}

/// The port of a wildcard, and whether it is one of UDP.
fn wildcard(bind: &Bind) -> Option<(bool, u16)> {
    inet(bind).filter(|addr| addr.ip().is_unspecified()).and_then(|_| kind_and_port(bind))
}

fn is_loopback(bind: &Bind) -> bool {
    inet(bind).is_some_and(|addr| addr.ip().is_loopback())
}

fn kind_and_port(bind: &Bind) -> Option<(bool, u16)> {
    Some(matches!(bind, Bind::Udp(_))).zip(port(bind))
}

fn port(bind: &Bind) -> Option<u16> {
    inet(bind).map(SocketAddr::port)
}

fn inet(bind: &Bind) -> Option<&SocketAddr> {
    match bind {
        Bind::Inet(addr) | Bind::Udp(addr) => Some(addr),
        Bind::Unix(_) | Bind::Datagram(_) => None,
    }
}

fn path(bind: &Bind) -> Option<&Path> {
    match bind {
        Bind::Inet(_) | Bind::Udp(_) => None,
        Bind::Unix(path) | Bind::Datagram(path) => Some(path),
    }
}
