//! A table `[[service]]`.

use std::collections::HashMap;

use balance::{Address, Zone, Zones};

use super::super::checked::{Endpoint, Service};
use super::super::limits::{
    MAX_CONNECTIONS_PER_BACKEND, PANIC_THRESHOLD, PRIORITY, QUEUE_LENGTH, QUEUE_TIMEOUT, WEIGHT, ZONE_MARGIN,
};
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Span};
use super::health::health;
use super::{duration, name, zone};

/// A service and where its parts were written, for the checks that look across tables.
pub struct ServiceDraft {
    /// The service.
    pub service: Service,
    /// Where its name is.
    pub name: Span,
    /// Where each of its backends is.
    pub backends: Vec<Span>,
}

/// A service whose own keys are right or reported; nothing when it has no name.
pub fn service(raw: raw::Service, home: &Zone, problems: &mut Problems) -> Option<ServiceDraft> {
    let health = health(raw.health.0.map(|at| at.value).unwrap_or_default(), problems);
    let (backends, spans) = backends(raw.backends.0.map(|at| at.value).unwrap_or_default(), home, problems);
    // The first pass has refused every other word.
    let balance = raw.balance.value().and_then(|word| word.parse().ok()).unwrap_or_default();
    let zones = raw.zones.value().and_then(|word| Zones::ALL.into_iter().find(|it| it.as_str() == word));
    let zones = zones.unwrap_or_default();
    let zone_margin = duration("zone_margin", &raw.zone_margin, ZONE_MARGIN, problems);
    let queue_timeout = duration("queue_timeout", &raw.queue_timeout, QUEUE_TIMEOUT, problems);
    let (name, name_span) = name(raw.name, problems)?;
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
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
        backends,
        health,
    };
    Some(ServiceDraft { service, name: name_span, backends: spans })
}

fn backends(raw: Vec<At<raw::Endpoint>>, home: &Zone, problems: &mut Problems) -> (Vec<Endpoint>, Vec<Span>) {
    let mut seen: HashMap<Address, Span> = HashMap::new();
    let (mut backends, mut spans) = (Vec::new(), Vec::new());
    for At { value: raw::Endpoint(table), .. } in raw {
        let Some((endpoint, span)) = endpoint(table, home, problems) else { continue };
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

fn endpoint(raw: raw::EndpointTable, home: &Zone, problems: &mut Problems) -> Option<(Endpoint, Span)> {
    let zone = zone(&raw.zone, problems).unwrap_or_else(|| home.clone());
    let priority = priority(&raw, problems);
    let at = raw.address.0?;
    let address = problems.keep(address(&at))?;
    Some((Endpoint { address, weight: raw.weight.or(WEIGHT.default), zone, priority }, at.span))
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
