//! Where services find their backends, as `discovery` wants to know it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use discovery::sources::{ConsulSource, DnsSource, EtcdSource, FileSource, HttpSource, KubernetesSource, XdsSource};
use discovery::{HealthConfig, Membership, Probe, Reach, Source, SourceConfig};
use nix::ifaddrs::getifaddrs;
use proxy::Bind;

use crate::config::{self, AdminAddress, Config, SourceKind};

/// What there is beside the backends of the configuration. `health` is the service's own check.
pub fn membership(service: &config::Service, config: &Config, health: Option<&HealthConfig>) -> Membership {
    if service.sources.is_empty() {
        return Membership::default();
    }
    let own: Arc<[SocketAddr]> = own(service, config).into();
    Membership {
        sources: service.sources.iter().map(|it| source(it, &own)).collect(),
        merge: service.merge,
        orphan_probe: orphan_probe(service, config, health),
        orphan_ttl: service.orphan_ttl,
    }
}

/// Descriptors that the sources of a configuration may have open at once.
pub fn descriptors(config: &Config) -> usize {
    let needs = |source: &config::Source| match source.kind {
        // Questions for the targets of an SRV record.
        SourceKind::Dns(_) => 16,
        // A watch and a file; a connection and a token.
        SourceKind::File(_)
        | SourceKind::Http(_)
        | SourceKind::Consul(_)
        | SourceKind::Etcd(_)
        | SourceKind::Kubernetes(_)
        | SourceKind::Xds(_) => 2,
    };
    config.services.iter().flat_map(|service| &service.sources).map(needs).sum()
}

fn source(source: &config::Source, own: &Arc<[SocketAddr]>) -> SourceConfig {
    let reach = match source.kind {
        SourceKind::File(_) => Reach::Any,
        _ => Reach::Network { allowed: source.allowed.as_slice().into(), own: Arc::clone(own) },
    };
    SourceConfig {
        name: source.label.as_str().into(),
        // Names files with secrets, and no secret.
        identity: format!("{:?}", source.kind).into(),
        source: made(&source.kind),
        reach,
        max_endpoints: source.max_endpoints,
    }
}

fn made(kind: &SourceKind) -> Arc<dyn Source> {
    const CHECKED: &str = "a checked configuration has settings of which a source can be made";
    match kind {
        SourceKind::File(settings) => Arc::new(FileSource::new(settings.clone())),
        SourceKind::Dns(settings) => Arc::new(DnsSource::new(settings.clone()).expect(CHECKED)),
        SourceKind::Http(settings) => Arc::new(HttpSource::new(settings.clone()).expect(CHECKED)),
        SourceKind::Consul(settings) => Arc::new(ConsulSource::new(settings.clone()).expect(CHECKED)),
        SourceKind::Etcd(settings) => Arc::new(EtcdSource::new(settings.clone()).expect(CHECKED)),
        SourceKind::Kubernetes(settings) => Arc::new(KubernetesSource::new(settings.clone()).expect(CHECKED)),
        SourceKind::Xds(settings) => Arc::new(XdsSource::new(settings.clone()).expect(CHECKED)),
    }
}

/// Whoever takes connections can be asked by one. Of datagrams only the service's own check knows what is answered.
fn orphan_probe(service: &config::Service, config: &Config, health: Option<&HealthConfig>) -> Option<Probe> {
    let mut listeners = config.listeners.iter().filter(|listener| listener.service == service.name).peekable();
    let only_datagrams = listeners.peek().is_some() && listeners.all(|listener| listener.udp.is_some());
    match (only_datagrams, health.map(|health| &health.probe)) {
        (false, _) => Some(Probe::Tcp { port: None }),
        (true, Some(probe @ Probe::Udp { .. })) => Some(probe.clone()),
        (true, _) => None,
    }
}

/// What this node listens on, as far as backends of the service could be taken for it. A wildcard is every address that
/// the machine has now; which it gets later, the next reload sees.
fn own(service: &config::Service, config: &Config) -> Vec<SocketAddr> {
    let listeners = config.listeners.iter().filter(|listener| listener.service == service.name);
    let (datagrams, connections): (Vec<_>, Vec<_>) = listeners.partition(|listener| listener.udp.is_some());
    let all = config.listeners.iter().flat_map(|listener| &listener.binds);
    let mut own: Vec<SocketAddr> = all
        .filter_map(|bind| match bind {
            Bind::Inet(addr) if !connections.is_empty() => Some(*addr),
            Bind::Udp(addr) if !datagrams.is_empty() => Some(*addr),
            _ => None,
        })
        .collect();
    if let AdminAddress::Tcp(addr) = config.admin.listen {
        own.push(addr);
    }
    // Any free port is not known yet, and nobody can have registered it.
    own.retain(|addr| addr.port() != 0);
    spread(own, &interfaces())
}

/// Adds to each wildcard what it stands for.
fn spread(own: Vec<SocketAddr>, interfaces: &[IpAddr]) -> Vec<SocketAddr> {
    let stands_for = |wide: IpAddr, ip: &IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    let mut all: Vec<SocketAddr> = own
        .iter()
        .flat_map(|addr| {
            let named = interfaces.iter().filter(|ip| stands_for(addr.ip(), ip));
            named.map(|ip| SocketAddr::new(*ip, addr.port())).chain([*addr])
        })
        .collect();
    // The same on every reload, so that sources which stay are not disturbed.
    all.sort();
    all.dedup();
    all
}

/// The addresses of this machine; none when the kernel does not say.
fn interfaces() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let ip = |address: nix::sys::socket::SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        (None, None) => None,
    };
    all.filter_map(|interface| interface.address.and_then(ip)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(protocol: &str, health: &str) -> Config {
        let text = format!(
            r#"
            [[listener]]
            name = "a"
            listen = "0.0.0.0:53"
            protocol = "{protocol}"
            service = "s"
            [[listener]]
            name = "b"
            listen = "127.0.0.1:54"
            service = "t"
            [[service]]
            name = "s"
            {health}
            source = [{{ kind = "dns", name = "x.example", port = 53, allowed_cidrs = "10.0.0.0/8" }}]
            [[service]]
            name = "t"
            source = [{{ kind = "file", path = "/x", label = "y", max_endpoints = 7 }}]
            "#
        );
        config::parse("test.toml", &text).unwrap_or_else(|report| panic!("{}", report.render(false)))
    }

    #[test]
    fn a_wildcard_stands_for_every_address_of_the_machine() {
        let interfaces: Vec<IpAddr> = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse().unwrap()).into();
        let spread = |own: &str| {
            let all = super::spread(vec![own.parse().unwrap()], &interfaces);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(spread("0.0.0.0:53"), ["0.0.0.0:53", "10.0.0.5:53"]);
        assert_eq!(spread("[::]:53"), ["10.0.0.5:53", "[::]:53", "[fd00::5]:53"]);
        assert_eq!(spread("10.0.0.7:53"), ["10.0.0.7:53"]);
        assert!(super::interfaces().contains(&IpAddr::from([127, 0, 0, 1])), "loopback is an interface");
    }

    #[test]
    fn a_service_of_datagrams_is_not_refused_what_listens_for_connections() {
        let config = config("udp", "");
        let own = own(&config.services[0], &config);
        assert!(own.contains(&"0.0.0.0:53".parse().unwrap()), "{own:?}");
        assert!(!own.contains(&"127.0.0.1:54".parse().unwrap()), "{own:?}");
        assert!(own.contains(&"127.0.0.1:9901".parse().unwrap()), "{own:?}");
    }

    #[test]
    fn an_orphan_is_asked_by_what_it_can_answer() {
        let cases = [
            ("tcp", "", Some("tcp")),
            ("udp", "", None),
            ("udp", "health = { kind = \"udp\", send = \"x\" }", Some("udp")),
            ("udp", "health = { kind = \"http\", port = 80 }", None),
        ];
        for (protocol, health, expected) in cases {
            let config = config(protocol, health);
            let service = &config.services[0];
            let check = crate::program::health(&service.health);
            let probe = membership(service, &config, check.as_ref()).orphan_probe;
            assert_eq!(probe.map(|probe| probe.to_string()).as_deref(), expected, "{protocol} {health}");
        }
    }

    #[test]
    fn a_source_is_the_same_until_it_asks_something_else() {
        let sources = |config: &Config| membership(&config.services[0], config, None).sources;
        let (one, other) = (config("tcp", ""), config("tcp", "queue_length = 5"));
        assert_eq!(sources(&one), sources(&other));
        let file = membership(&one.services[1], &one, None).sources.remove(0);
        assert_eq!((&*file.name, file.max_endpoints, file.reach), ("y", 7, Reach::Any));
    }
}
