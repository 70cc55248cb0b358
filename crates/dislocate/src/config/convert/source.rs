//! The tables `[[service.source]]`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use discovery::sources::{
    Access, Consistency, ConsulSettings, ConsulSource, DnsSettings, DnsSource, EtcdSettings, EtcdSource, Family,
    FileSettings, HttpSettings, HttpSource, TlsIdentity, TlsSettings,
};
use discovery::{Cidr, SourceError};

use super::super::checked::{Source, SourceKind};
use super::super::limits::{
    CONSUL_TIMEOUT, DNS_PORT, DNS_TIMEOUT, ETCD_TIMEOUT, FILE_INTERVAL, HTTP_INTERVAL, HTTP_TIMEOUT, MAX_SOURCE_TEXT,
    SOURCE_ENDPOINTS, TTL_MAX, TTL_MIN,
};
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Span, Texts};
use super::super::units;
use super::kubernetes::kubernetes;
use super::udp::network;
use super::xds::xds;
use super::{absolute_path, duration, name, zone};

/// The sources of a service, on the node of this name. Consul's data centres are a source each.
pub fn sources(raw: Vec<At<raw::Source>>, node: &str, problems: &mut Problems) -> Vec<Source> {
    let mut seen: HashMap<String, Span> = HashMap::new();
    let mut sources = Vec::new();
    for At { span, value } in raw {
        let place = value.label.span().or(value.kind.span()).unwrap_or(span);
        let labelled = source(value, node, problems);
        // Those of one table differ, or were reported as such.
        for label in labelled.iter().map(|source| &source.label) {
            let Some(first) = seen.get(label) else { continue };
            let message = format!("two sources of this service are called {}", quoted(label));
            let problem = Problem::new(Code::Duplicate, place.clone(), message).help("give each its own `label`");
            problems.push(problem.related(first.clone(), "the first"));
            break;
        }
        seen.extend(labelled.iter().map(|source| (source.label.clone(), place.clone())));
        sources.extend(labelled);
    }
    sources
}

/// The sources of one table: none when something was reported without which there is none.
fn source(raw: raw::Source, node: &str, problems: &mut Problems) -> Vec<Source> {
    // Without a kind nothing can be said of the other keys.
    let Some(At { span: kind_span, value: kind }) = raw.kind.0.clone() else { return Vec::new() };
    foreign_keys(&raw, &kind, &kind_span, problems);
    let written = name(raw.label.clone(), problems);
    let label = written.map_or_else(|| kind.clone(), |(label, _)| label);
    let allowed = allowed(&raw.allowed_cidrs, problems);
    let max_endpoints = raw.max_endpoints.or(SOURCE_ENDPOINTS.default) as usize;
    let kinds: Vec<(Option<String>, SourceKind)> = match kind.as_str() {
        "file" => file(raw, problems).into_iter().map(|kind| (None, kind)).collect(),
        "dns" => dns(raw, problems).into_iter().map(|kind| (None, kind)).collect(),
        "http" => http(raw, problems).into_iter().map(|kind| (None, kind)).collect(),
        "consul" => consul(raw, problems),
        "kubernetes" => kubernetes(raw, problems).into_iter().map(|kind| (None, kind)).collect(),
        "xds" => xds(raw, node, problems).into_iter().map(|kind| (None, kind)).collect(),
        _ => etcd(raw, problems).into_iter().map(|kind| (None, kind)).collect(),
    };
    let source = |(part, kind): (Option<String>, SourceKind)| Source {
        label: part.map_or_else(|| label.clone(), |part| format!("{label}/{part}")),
        kind,
        allowed: allowed.clone(),
        max_endpoints,
    };
    kinds.into_iter().map(source).collect()
}

fn file(raw: raw::Source, problems: &mut Problems) -> Option<SourceKind> {
    let poll = duration("interval", &raw.interval, FILE_INTERVAL, problems);
    let path = absolute_path("path", raw.path, problems)?;
    Some(SourceKind::File(FileSettings { poll, ..FileSettings::new(path) }))
}

fn dns(raw: raw::Source, problems: &mut Problems) -> Option<SourceKind> {
    let (ttl_min, ttl_max) =
        (duration("ttl_min", &raw.ttl_min, TTL_MIN, problems), duration("ttl_max", &raw.ttl_max, TTL_MAX, problems));
    if let Some(span) = raw.ttl_max.span().or(raw.ttl_min.span()).filter(|_| ttl_min > ttl_max) {
        let (min, max) = (units::text(ttl_min), units::text(ttl_max));
        let message = format!("`ttl_min` is {min} and `ttl_max` is {max}");
        problems.push(Problem::new(Code::Contradiction, span, message).help("let `ttl_min` be at most `ttl_max`"));
    }
    let family = family(&raw.family);
    let timeout = duration("timeout", &raw.timeout, DNS_TIMEOUT, problems);
    let servers = raw.servers.0.map(|at| at.value).unwrap_or_default();
    let servers = servers.iter().filter_map(|at| problems.keep(server(at))).collect();
    let (zone, port) = (zone(&raw.zone, problems), raw.port.value().copied());
    let At { span, value } = raw.name.0?;
    // A port that was reported is not missing.
    if port.is_none() && !value.starts_with('_') && problems.failed {
        return None;
    }
    // Which of the two keys is wrong depends on the name.
    let span = raw.port.span().filter(|_| value.starts_with('_')).unwrap_or(span);
    let settings = DnsSettings { port, servers, family, timeout, ttl_min, ttl_max, zone, ..DnsSettings::new(value) };
    problems.keep(checked(DnsSource::new(settings.clone()), span))?;
    Some(SourceKind::Dns(settings))
}

/// Which addresses are taken.
pub fn family(field: &Field<String>) -> Family {
    match field.value() {
        Some(word) if word == raw::FAMILIES[1] => Family::V4,
        Some(word) if word == raw::FAMILIES[2] => Family::V6,
        Some(_) | None => Family::Any,
    }
}

/// A DNS server, with the usual port where none is named.
fn server(at: &At<String>) -> Result<SocketAddr, Problem> {
    let alone = || at.value.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
    let server = at.value.parse().ok().or_else(alone);
    server.filter(|server| server.port() > 0 && !server.ip().is_unspecified()).ok_or_else(|| {
        let message = format!("{} is not a DNS server", quoted(&at.value));
        let help = "write its IP address, with a port if it is not 53: \"10.0.0.53\", \"[fd00::53]:5353\"";
        Problem::new(Code::InvalidAddress, at.span.clone(), message).help(help)
    })
}

fn http(raw: raw::Source, problems: &mut Problems) -> Option<SourceKind> {
    let interval = duration("interval", &raw.interval, HTTP_INTERVAL, problems);
    let timeout = duration("timeout", &raw.timeout, HTTP_TIMEOUT, problems);
    let tls = tls(&raw, problems);
    let At { span, value } = raw.url.0?;
    let settings = HttpSettings { tls, interval, timeout, ..HttpSettings::new(value) };
    problems.keep(checked(HttpSource::new(settings.clone()), span))?;
    Some(SourceKind::Http(settings))
}

/// The sources of a service in Consul, each with its data centre where some are named.
fn consul(raw: raw::Source, problems: &mut Problems) -> Vec<(Option<String>, SourceKind)> {
    let (zone_span, zone) = (raw.zone.span(), zone(&raw.zone, problems));
    let timeout = duration("timeout", &raw.timeout, CONSUL_TIMEOUT, problems);
    let tls = tls(&raw, problems);
    let token_file = absolute_path("token_file", raw.token_file, problems);
    let consistency = match raw.consistency.value() {
        Some(word) if word == raw::CONSISTENCIES[1] => Consistency::Stale,
        Some(word) if word == raw::CONSISTENCIES[2] => Consistency::Consistent,
        Some(_) | None => Consistency::Default,
    };
    let url_span = raw.url.span();
    let Some(At { span, value: service }) = text(raw.service, problems) else { return Vec::new() };
    let tags = texts(raw.tags, problems).into_iter().map(|at| at.value).collect();
    let mut all = ConsulSettings { tls, zone, timeout, token_file, consistency, tags, ..ConsulSettings::new(service) };
    all.url = raw.url.0.map_or(all.url, |at| at.value);
    if problems.keep(checked(ConsulSource::new(all.clone()), url_span.unwrap_or(span))).is_none() {
        return Vec::new();
    }
    let Some(At { value: datacenters, .. }) = raw.datacenters.0 else { return vec![(None, SourceKind::Consul(all))] };
    if let Some(span) = zone_span {
        let message = "`zone` contradicts `datacenters`: each of them is a zone of its own";
        problems.push(Problem::new(Code::Contradiction, span, message).help("remove one of the two"));
    }
    let mut sources: Vec<(Option<String>, SourceKind)> = Vec::new();
    for At { span, value } in datacenters {
        match super::name(Field(Some(At { span: span.clone(), value })), problems) {
            Some((name, _)) if sources.iter().any(|(known, _)| known.as_ref() == Some(&name)) => {
                let message = format!("data centre {} is there twice", quoted(&name));
                problems.push(Problem::new(Code::Duplicate, span, message).help("remove one"));
            }
            Some((name, _)) => {
                let settings = all.in_datacenter(&name);
                sources.push((Some(name), SourceKind::Consul(settings)));
            }
            None => {}
        }
    }
    sources
}

fn etcd(raw: raw::Source, problems: &mut Problems) -> Option<SourceKind> {
    let timeout = duration("timeout", &raw.timeout, ETCD_TIMEOUT, problems);
    let (access, tls) = (access(&raw, problems), tls(&raw, problems));
    let At { span, value: prefix } = text(raw.prefix, problems)?;
    let span = raw.urls.span().filter(|_| prefix.ends_with('/')).unwrap_or(span);
    let mut settings = EtcdSettings { tls, timeout, access, ..EtcdSettings::new(prefix) };
    let urls = texts(raw.urls, problems);
    if !urls.is_empty() {
        settings.urls = urls.into_iter().map(|at| at.value).collect();
    }
    problems.keep(checked(EtcdSource::new(settings.clone()), span))?;
    Some(SourceKind::Etcd(settings))
}

fn access(raw: &raw::Source, problems: &mut Problems) -> Access {
    let token = absolute_path("token_file", raw.token_file.clone(), problems);
    let password_file = absolute_path("password_file", raw.password_file.clone(), problems);
    let username = text(raw.username.clone(), problems).map(|at| at.value);
    let mut wrong = |span: Option<Span>, message: &str, help: &str| {
        problems.push(Problem::new(Code::Contradiction, span, message).help(help));
    };
    match (raw.username.span(), raw.password_file.span()) {
        (Some(span), None) => {
            wrong(Some(span), "`username` has no meaning without `password_file`", "add it, or remove the name");
        }
        (None, Some(span)) => {
            wrong(Some(span), "`password_file` has no meaning without `username`", "add it, or remove the file");
        }
        (Some(span), Some(_)) if raw.token_file.0.is_some() => {
            wrong(Some(span), "`username` contradicts `token_file`", "write one of the two");
        }
        _ => {}
    }
    match (token, username, password_file) {
        (Some(token), _, _) => Access::Token(token),
        (None, Some(username), Some(password_file)) => Access::Password { username, password_file },
        (None, _, _) => Access::Open,
    }
}

pub fn tls(raw: &raw::Source, problems: &mut Problems) -> TlsSettings {
    let cert_file = absolute_path("cert_file", raw.cert_file.clone(), problems);
    let key_file = absolute_path("key_file", raw.key_file.clone(), problems);
    let mut alone = |span: Option<Span>, key: &str, other: &str| {
        let message = format!("`{key}` has no meaning without `{other}`");
        problems.push(Problem::new(Code::Contradiction, span, message).help("a certificate is shown with its key"));
    };
    match (raw.cert_file.span(), raw.key_file.span()) {
        (Some(span), None) => alone(Some(span), "cert_file", "key_file"),
        (None, Some(span)) => alone(Some(span), "key_file", "cert_file"),
        _ => {}
    }
    TlsSettings {
        ca_file: absolute_path("ca_file", raw.ca_file.clone(), problems),
        identity: cert_file.zip(key_file).map(|(cert_file, key_file)| TlsIdentity { cert_file, key_file }),
        server_name: text(raw.server_name.clone(), problems).map(|at| at.value),
    }
}

/// What a source says of its settings, as a problem at `span`.
pub fn checked<T>(made: Result<T, SourceError>, span: Span) -> Result<(), Problem> {
    made.map(drop).map_err(|error| Problem::new(Code::InvalidValue, span, error.text()))
}

/// A text that goes into a question, or nothing when it is missing or was reported.
pub fn text(field: Field<String>, problems: &mut Problems) -> Option<At<String>> {
    let at = field.0?;
    if (1..=MAX_SOURCE_TEXT as usize).contains(&at.value.chars().count()) {
        return Some(at);
    }
    let message = format!("{} is empty, or longer than anything that could be asked for", quoted(&at.value));
    let help = format!("write 1 to {MAX_SOURCE_TEXT} letters");
    problems.push(Problem::new(Code::InvalidValue, at.span, message).help(help));
    None
}

pub fn texts(field: Field<Vec<At<String>>>, problems: &mut Problems) -> Vec<At<String>> {
    let all = field.0.map(|at| at.value).unwrap_or_default();
    all.into_iter().filter_map(|at| text(Field(Some(at)), problems)).collect()
}

fn allowed(field: &Field<Texts>, problems: &mut Problems) -> Vec<Cidr> {
    let texts = field.value().map(|texts| texts.0.as_slice()).unwrap_or_default();
    let read = |at: &At<String>| {
        let network = network(&at.value).map_err(|help| {
            let message = format!("{} is not a network", quoted(&at.value));
            Problem::new(Code::InvalidAddress, at.span.clone(), message).help(help)
        });
        network.map(|(address, prefix)| Cidr::new(address, prefix))
    };
    texts.iter().filter_map(|at| problems.keep(read(at)).flatten()).collect()
}

/// Reports keys that another kind has.
fn foreign_keys(raw: &raw::Source, kind: &str, kind_span: &Span, problems: &mut Problems) {
    let keys: [(&str, Option<Span>, &[&str]); 26] = [
        ("path", raw.path.span(), &["file"]),
        ("name", raw.name.span(), &["dns"]),
        ("port", raw.port.span(), &["dns", "kubernetes"]),
        ("servers", raw.servers.span(), &["dns"]),
        ("family", raw.family.span(), &["dns", "kubernetes"]),
        ("ttl_min", raw.ttl_min.span(), &["dns"]),
        ("ttl_max", raw.ttl_max.span(), &["dns"]),
        ("url", raw.url.span(), &["http", "consul", "kubernetes"]),
        ("urls", raw.urls.span(), &["etcd", "xds"]),
        ("service", raw.service.span(), &["consul", "kubernetes"]),
        ("datacenters", raw.datacenters.span(), &["consul"]),
        ("tags", raw.tags.span(), &["consul"]),
        ("consistency", raw.consistency.span(), &["consul"]),
        ("namespace", raw.namespace.span(), &["kubernetes"]),
        ("port_name", raw.port_name.span(), &["kubernetes"]),
        ("kubeconfig", raw.kubeconfig.span(), &["kubernetes"]),
        ("context", raw.context.span(), &["kubernetes"]),
        ("cluster", raw.cluster.span(), &["xds"]),
        ("node_id", raw.node_id.span(), &["xds"]),
        ("node_cluster", raw.node_cluster.span(), &["xds"]),
        ("prefix", raw.prefix.span(), &["etcd"]),
        ("token_file", raw.token_file.span(), &["consul", "etcd", "kubernetes", "xds"]),
        ("username", raw.username.span(), &["etcd"]),
        ("password_file", raw.password_file.span(), &["etcd"]),
        ("interval", raw.interval.span(), &["file", "http"]),
        ("timeout", raw.timeout.span(), NETWORK),
    ];
    let of_http: &[&str] = &["http", "consul", "etcd", "kubernetes", "xds"];
    let more = [
        ("ca_file", raw.ca_file.span(), of_http),
        ("cert_file", raw.cert_file.span(), of_http),
        ("key_file", raw.key_file.span(), of_http),
        ("server_name", raw.server_name.span(), of_http),
        ("zone", raw.zone.span(), &["dns", "consul", "kubernetes", "xds"][..]),
        ("allowed_cidrs", raw.allowed_cidrs.span(), NETWORK),
    ];
    for (key, span, of) in keys.into_iter().chain(more) {
        let Some(span) = span.filter(|_| !of.contains(&kind)) else { continue };
        let message = format!("`{key}` has no meaning for sources of kind `{kind}`");
        let kinds: Vec<_> = of.iter().map(|of| format!("`{of}`")).collect();
        let help = match key {
            // What others call a name.
            "name" => "it is a name in the DNS; to name the source itself, write `label`".to_owned(),
            _ => format!("it goes with {}; remove it", kinds.join(", ")),
        };
        let problem = Problem::new(Code::Contradiction, span, message).help(help);
        problems.push(problem.related(kind_span.clone(), "the kind"));
    }
}

/// The kinds that ask somebody over the network.
const NETWORK: &[&str] = &["dns", "http", "consul", "etcd", "kubernetes", "xds"];
