//! A table `[[service]]`.

use std::collections::HashMap;

use balance::{Address, Zone, Zones};
use discovery::Merge;
use proxy::{Draining, SendProxy};

use super::super::checked::{Endpoint, Node, Service, UdpService};
use super::super::limits::{
    MAX_CONNECTIONS_PER_BACKEND, ORPHAN_TTL, PANIC_THRESHOLD, PRIORITY, QUEUE_LENGTH, QUEUE_TIMEOUT, REPLY_TIMEOUT,
    WEIGHT, ZONE_MARGIN,
};
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Span};
use super::health::health;
use super::quic::{ServerIds, connection_ids};
use super::source::sources;
use super::{duration, name, zone};

/// A service and where its parts were written, for the checks that look across tables.
pub struct ServiceDraft {
    /// The service.
    pub service: Service,
    /// Where its name is.
    pub name: Span,
    /// Where each of its backends is.
    pub backends: Vec<Span>,
    /// The keys that only datagrams need, as far as they were written.
    pub of_datagrams: Vec<(&'static str, Span)>,
    /// What the files of keys hold that it names.
    pub keys: Vec<[u8; 16]>,
    /// Where its check is, if it was written.
    pub health: Option<Span>,
    /// Where the kind and the port of its check are, if they were written.
    pub health_kind: Option<Span>,
    /// As `health_kind`.
    pub health_port: Option<Span>,
}

/// A service whose own keys are right or reported; nothing when it has no name.
pub fn service(raw: raw::Service, node: &Node, problems: &mut Problems) -> Option<ServiceDraft> {
    let of_datagrams = of_datagrams(&raw);
    let health_span = raw.health.span();
    let raw_health = raw.health.0.map(|at| at.value).unwrap_or_default();
    let (health_kind, health_port) = (raw_health.kind.span(), raw_health.port.span());
    let health = health(raw_health, problems);
    let udp = udp(&raw.drain, &raw.reply_timeout, (&raw.send_proxy, &raw.send_proxy_datagrams), problems);
    let mut keys = Vec::new();
    let connection_ids = connection_ids(raw.connection_ids, &mut keys, problems);
    let mut server_ids = ServerIds::new(connection_ids.as_ref());
    let raw_backends = raw.backends.0.map(|at| at.value).unwrap_or_default();
    let (backends, spans) = backends(raw_backends, &node.zone, &mut server_ids, problems);
    // The first pass has refused every other word.
    let balance = raw.balance.value().and_then(|word| word.parse().ok()).unwrap_or_default();
    let zones = raw.zones.value().and_then(|word| Zones::ALL.into_iter().find(|it| it.as_str() == word));
    let zones = zones.unwrap_or_default();
    let zone_margin = duration("zone_margin", &raw.zone_margin, ZONE_MARGIN, problems);
    let queue_timeout = duration("queue_timeout", &raw.queue_timeout, QUEUE_TIMEOUT, problems);
    let merge = merge(&raw.merge, raw.source.0.is_some(), problems);
    let orphan_ttl = duration("orphan_ttl", &raw.orphan_ttl, ORPHAN_TTL, problems);
    if let Some(span) = raw.orphan_ttl.span().filter(|_| raw.source.0.is_none()) {
        problems.push(without_source("orphan_ttl", span));
    }
    let sources = sources(raw.source.0.map(|at| at.value).unwrap_or_default(), &node.name, problems);
    let (name, name_span) = name(raw.name, problems)?;
    if sources.is_empty() && !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let message = format!("no backend of {} takes new sessions: all have weight 0", quoted(&name));
        problems.push(Problem::new(Code::NoWeight, name_span.clone(), message).help("give one of them a weight"));
    }
    let service = Service {
        name,
        balance,
        zones,
        zone_margin,
        max_connections_per_backend: raw.max_connections_per_backend.or(MAX_CONNECTIONS_PER_BACKEND.default),
        queue_timeout,
        queue_length: raw.queue_length.or(QUEUE_LENGTH.default),
        panic_threshold: raw.panic_threshold.or(PANIC_THRESHOLD.default),
        udp: UdpService { connection_ids, ..udp },
        sources,
        merge,
        orphan_ttl,
        backends,
        health,
    };
    Some(ServiceDraft {
        service,
        name: name_span,
        backends: spans,
        of_datagrams,
        keys,
        health: health_span,
        health_kind,
        health_port,
    })
}

/// The first pass has refused every other word.
fn merge(field: &Field<String>, has_source: bool, problems: &mut Problems) -> Merge {
    if let Some(span) = field.span().filter(|_| !has_source) {
        problems.push(without_source("merge", span));
    }
    let is_priority = field.value().is_some_and(|word| word == raw::MERGES[1]);
    if is_priority { Merge::Priority } else { Merge::Union }
}

fn without_source(key: &str, span: Span) -> Problem {
    let message = format!("`{key}` has no meaning without a source");
    Problem::new(Code::Contradiction, span, message).help("add a [[service.source]], or remove it")
}

fn of_datagrams(raw: &raw::Service) -> Vec<(&'static str, Span)> {
    let keys = [
        ("drain", raw.drain.span()),
        ("reply_timeout", raw.reply_timeout.span()),
        ("send_proxy", raw.send_proxy.span()),
        ("connection_ids", raw.connection_ids.span()),
    ];
    keys.into_iter().filter_map(|(key, span)| span.map(|span| (key, span))).collect()
}

/// What the service has for datagrams, but for connection IDs. The first pass has refused every other word.
fn udp(
    drain: &Field<String>,
    reply_timeout: &Field<String>,
    (send_proxy, which): (&Field<String>, &Field<String>),
    problems: &mut Problems,
) -> UdpService {
    if let Some(span) = which.span().filter(|_| send_proxy.0.is_none()) {
        let message = "`send_proxy_datagrams` has no meaning without `send_proxy`";
        problems.push(Problem::new(Code::Contradiction, span, message).help("add `send_proxy = \"v2\"`, or remove it"));
    }
    let every = which.value().is_some_and(|word| word == raw::SEND_PROXY_DATAGRAMS[1]);
    let send_proxy = send_proxy.value().map(|_| if every { SendProxy::Every } else { SendProxy::First });
    let move_now = drain.value().is_some_and(|word| word == raw::DRAINS[1]);
    UdpService {
        draining: if move_now { Draining::MoveNow } else { Draining::KeepFlows },
        reply_timeout: duration("reply_timeout", reply_timeout, REPLY_TIMEOUT, problems),
        send_proxy,
        connection_ids: None,
    }
}

fn backends(
    raw: Vec<At<raw::Endpoint>>,
    home: &Zone,
    server_ids: &mut ServerIds<'_>,
    problems: &mut Problems,
) -> (Vec<Endpoint>, Vec<Span>) {
    let mut seen: HashMap<Address, Span> = HashMap::new();
    let (mut backends, mut spans) = (Vec::new(), Vec::new());
    for At { value: raw::Endpoint(table), .. } in raw {
        let Some((endpoint, span)) = endpoint(table, home, server_ids, problems) else { continue };
        match seen.get(&endpoint.address) {
            Some(first) => {
                let message = format!("backend {} is in this service twice", endpoint.address);
                let help = "remove one; for a larger share of the sessions, raise its weight";
                let problem = Problem::new(Code::Duplicate, span, message).help(help);
                problems.push(problem.related(first.clone(), "first here"));
            }
            None => {
                seen.insert(endpoint.address.clone(), span.clone());
                backends.push(endpoint);
                spans.push(span);
            }
        }
    }
    (backends, spans)
}

fn endpoint(
    raw: raw::EndpointTable,
    home: &Zone,
    server_ids: &mut ServerIds<'_>,
    problems: &mut Problems,
) -> Option<(Endpoint, Span)> {
    let zone = zone(&raw.zone, problems).unwrap_or_else(|| home.clone());
    let priority = priority(&raw, problems);
    let server_id = raw.server_id.0.and_then(|at| problems.keep(server_ids.take(&at)));
    let at = raw.address.0?;
    let address = problems.keep(address(&at))?;
    Some((Endpoint { address, weight: raw.weight.or(WEIGHT.default), zone, priority, server_id }, at.span))
}

fn address(at: &At<String>) -> Result<Address, Problem> {
    let invalid = |help: String| {
        let message = format!("{} is not a backend's address", quoted(&at.value));
        Problem::new(Code::InvalidAddress, at.span.clone(), message).help(help)
    };
    let address: Address = at.value.parse().map_err(|error: balance::ParseAddressError| invalid(error.to_string()))?;
    match address.inet().map(|addr| addr.ip()) {
        Some(ip) if ip.is_unspecified() => {
            Err(invalid("it is the wildcard, which names no machine; for this one, write 127.0.0.1 or [::1]".into()))
        }
        Some(ip) if ip.is_multicast() => Err(invalid("it is a multicast group, which takes no sessions".into())),
        _ => Ok(address),
    }
}

/// The priority, which `backup = true` is a shorthand for.
fn priority(raw: &raw::EndpointTable, problems: &mut Problems) -> u8 {
    let backup = raw.backup.or(false);
    match (&raw.priority.0, raw.backup.span()) {
        (Some(priority), Some(span)) if (priority.value > PRIORITY.default) != backup => {
            let message = format!("`backup = {backup}` contradicts `priority = {}`", priority.value);
            let problem = Problem::new(Code::Contradiction, span, message)
                .help("`backup = true` is `priority = 1`: write one of them");
            problems.push(problem.related(priority.span.clone(), "the priority"));
            PRIORITY.default
        }
        (Some(priority), _) => priority.value,
        (None, _) => u8::from(backup),
    }
}
