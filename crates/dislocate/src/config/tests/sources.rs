//! What is said and meant about sources.

use std::time::Duration;

use discovery::sources::{
    Access, Cluster, Consistency, ConsulSettings, DnsSettings, EtcdSettings, Family, FileSettings, HttpSettings,
    KubernetesSettings, SlicePort, TlsIdentity, TlsSettings,
};
use discovery::{MAX_ENDPOINTS, Merge};

use super::super::{Service, Source, SourceKind};
use super::{BACKENDS, LISTEN, bad, codes, good, with};

/// A service with these sources and nothing else.
fn service(sources: &str) -> Service {
    good(&with(LISTEN, &format!("source = [{sources}]"))).services.remove(0)
}

pub fn source(source: &str) -> Source {
    let mut sources = service(source).sources;
    assert_eq!(sources.len(), 1, "one table is one source: {source}");
    sources.remove(0)
}

#[test]
fn a_source_that_is_wrong_is_told_where_and_how() {
    // The mistake stands between the bars.
    let cases = [
        ("{ kind = |\"dsn\"|, name = \"x\" }", "unknown-value", "did you mean \"dns\""),
        ("{ kind = |\"mesh\"| }", "not-built", "file, dns, http, consul, etcd, kubernetes, xds"),
        ("|{ path = \"/x\" }|", "missing-key", "`kind = …`"),
        ("|{ kind = \"file\" }|", "missing-key", "`path = …`"),
        ("|{ kind = \"dns\" }|", "missing-key", "`name = …`"),
        ("|{ kind = \"http\" }|", "missing-key", "`url = …`"),
        ("|{ kind = \"consul\" }|", "missing-key", "`service = …`"),
        ("|{ kind = \"etcd\" }|", "missing-key", "`prefix = …`"),
        ("|{ kind = \"kubernetes\" }|", "missing-key", "`service = …`"),
        ("{ kind = \"kubernetes\", service = |\"Web\"| }", "invalid-value", ""),
        ("{ kind = \"kubernetes\", service = |\"\"| }", "invalid-value", "1 to 1024"),
        ("{ kind = \"kubernetes\", service = \"x\", namespace = |\"a/b\"| }", "invalid-value", ""),
        (
            "{ kind = \"kubernetes\", service = \"x\", port = 80, port_name = |\"http\"| }",
            "contradiction",
            "one of the two",
        ),
        ("{ kind = \"kubernetes\", service = \"x\", port = |0| }", "out-of-range", "1 to 65535"),
        ("{ kind = \"kubernetes\", service = \"x\", context = |\"a\"| }", "contradiction", "add it"),
        ("{ kind = \"kubernetes\", service = \"x\", kubeconfig = |\"~/.kube/config\"| }", "invalid-value", "absolute"),
        (
            "{ kind = \"kubernetes\", service = \"x\", kubeconfig = \"/x\", url = |\"https://x\"| }",
            "contradiction",
            "one of the two",
        ),
        ("{ kind = \"kubernetes\", service = \"x\", url = |\"10.0.0.1:6443\"| }", "invalid-value", ""),
        ("{ kind = \"kubernetes\", service = \"x\", url = |\"http://x\"|, ca_file = \"/x\" }", "invalid-value", ""),
        ("{ kind = \"kubernetes\", service = \"x\", token_file = |\"/x\"| }", "contradiction", "have their own"),
        (
            "{ kind = \"kubernetes\", service = \"x\", kubeconfig = \"/x\", ca_file = |\"/x\"| }",
            "contradiction",
            "have their own",
        ),
        ("{ kind = \"kubernetes\", service = \"x\", tags = |[\"a\"]| }", "contradiction", "`consul`"),
        ("{ kind = \"kubernetes\", service = \"x\", interval = |\"1s\"| }", "contradiction", "`file`, `http`"),
        ("{ kind = \"consul\", service = \"x\", namespace = |\"a\"| }", "contradiction", "`kubernetes`"),
        ("{ kind = \"file\", |paht| = \"/x\" }", "unknown-key", "did you mean `path`"),
        ("{ kind = \"file\", path = |\"x.json\"| }", "invalid-value", "absolute"),
        ("{ kind = \"file\", path = \"/x\", interval = |\"1ms\"| }", "out-of-range", "100ms to 1d"),
        ("{ kind = \"file\", path = \"/x\", url = |\"http://x\"| }", "contradiction", "`http`, `consul`"),
        ("{ kind = \"file\", path = \"/x\", allowed_cidrs = |\"10.0.0.0/8\"| }", "contradiction", "remove it"),
        ("{ kind = \"file\", path = \"/x\", name = |\"y\"| }", "contradiction", "write `label`"),
        ("{ kind = \"file\", path = \"/x\", label = |\"a b\"| }", "invalid-name", "letters"),
        ("{ kind = \"file\", path = \"/x\", max_endpoints = |0| }", "out-of-range", "1 to 100000"),
        ("{ kind = \"dns\", name = |\"a..b\"|, port = 1 }", "invalid-value", ""),
        ("{ kind = \"dns\", name = |\"db.example\"| }", "invalid-value", ""),
        ("{ kind = \"dns\", name = \"_db._tcp.example\", port = |1| }", "invalid-value", ""),
        ("{ kind = \"dns\", name = \"x\", port = |0| }", "out-of-range", "1 to 65535"),
        ("{ kind = \"dns\", name = \"x\", port = 1, servers = [|\"ns.example\"|] }", "invalid-address", "10.0.0.53"),
        ("{ kind = \"dns\", name = \"x\", port = 1, servers = [|\"10.0.0.1:0\"|] }", "invalid-address", "port"),
        ("{ kind = \"dns\", name = \"x\", port = 1, servers = |[]| }", "out-of-range", "1 to 32"),
        ("{ kind = \"dns\", name = \"x\", port = 1, family = |\"ipv5\"| }", "unknown-value", "ipv6"),
        ("{ kind = \"dns\", name = \"x\", port = 1, ttl_min = |\"10m\"| }", "contradiction", "at most `ttl_max`"),
        ("{ kind = \"dns\", name = \"x\", port = 1, zone = |\"a/\"| }", "invalid-name", "dc/zone"),
        (
            "{ kind = \"dns\", name = \"x\", port = 1, allowed_cidrs = |\"10.0.0.1/8\"| }",
            "invalid-address",
            "10.0.0.0/8",
        ),
        ("{ kind = \"http\", url = |\"ftp://x/\"| }", "invalid-value", ""),
        ("{ kind = \"http\", url = |\"http://x/\"|, ca_file = \"/x\" }", "invalid-value", ""),
        ("{ kind = \"http\", url = \"https://x/\", cert_file = |\"/x\"| }", "contradiction", "with its key"),
        ("{ kind = \"http\", url = \"https://x/\", key_file = |\"/x\"| }", "contradiction", "with its key"),
        ("{ kind = \"http\", url = \"https://x/\", ca_file = |\"x\"| }", "invalid-value", "absolute"),
        ("{ kind = \"dns\", name = \"x\", port = 1, ca_file = |\"/x\"| }", "contradiction", "`http`, `consul`, `etcd`"),
        ("{ kind = \"http\", url = |\"http://me:secret@x/\"| }", "invalid-value", ""),
        ("{ kind = \"http\", url = \"http://x/\", timeout = |\"0s\"| }", "out-of-range", "10ms to 1h"),
        ("{ kind = \"http\", url = \"http://x/\", zone = |\"ams\"| }", "contradiction", "`dns`, `consul`"),
        ("{ kind = \"consul\", service = |\"\"| }", "invalid-value", "1 to 1024"),
        ("{ kind = \"consul\", service = \"x\", tags = [|\"\"|] }", "invalid-value", "1 to 1024"),
        ("{ kind = \"consul\", service = \"x\", url = |\"consul:8500\"| }", "invalid-value", ""),
        ("{ kind = \"consul\", service = \"x\", token_file = |\"token\"| }", "invalid-value", "absolute"),
        ("{ kind = \"consul\", service = \"x\", consistency = |\"eventual\"| }", "unknown-value", "stale"),
        ("{ kind = \"consul\", service = \"x\", datacenters = [\"a\", |\"a\"|] }", "duplicate", "remove one"),
        ("{ kind = \"consul\", service = \"x\", datacenters = [|\"a b\"|] }", "invalid-name", "letters"),
        (
            "{ kind = \"consul\", service = \"x\", datacenters = [\"a\"], zone = |\"b\"| }",
            "contradiction",
            "one of the two",
        ),
        ("{ kind = \"etcd\", prefix = |\"/x\"| }", "invalid-value", ""),
        ("{ kind = \"etcd\", prefix = \"/x/\", urls = |[\"10.0.0.1:2379\"]| }", "invalid-value", ""),
        ("{ kind = \"etcd\", prefix = \"/x/\", username = |\"me\"| }", "contradiction", "add it"),
        ("{ kind = \"etcd\", prefix = \"/x/\", password_file = |\"/x\"| }", "contradiction", "add it"),
        (
            "{ kind = \"etcd\", prefix = \"/x/\", token_file = \"/t\", username = |\"me\"|, password_file = \"/p\" }",
            "contradiction",
            "one of the two",
        ),
        ("{ kind = \"file\", path = \"/x\" }, { kind = |\"file\"|, path = \"/y\" }", "duplicate", "its own `label`"),
    ];
    told_where_and_how(&cases);
}

/// Reads these tables with one mistake each, which stands between the bars. Its code and words of its help are known.
pub fn told_where_and_how(cases: &[(&str, &str, &str)]) {
    for &(marked, code, help) in cases {
        let prefix = "source = [";
        let parts: Vec<&str> = marked.split('|').collect();
        let column = prefix.len() + parts[0].chars().count() + 1;
        let report = bad(&with(LISTEN, &format!("{prefix}{}]", parts.concat())));
        let [problem] = report.problems() else { panic!("one mistake is not one problem:\n{report}") };
        let place = report.place(problem);
        let expected = (code, 8, column, column + parts[1].chars().count() - 1);
        assert_eq!((problem.code.as_str(), place.line, place.column, place.end_column), expected, "\n{report}");
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "the help lacks {help:?}:\n{report}");
    }
}

#[test]
fn no_report_repeats_a_password() {
    let report = bad(&with(LISTEN, "source = [{ kind = \"etcd\", prefix = \"/x/\", password = \"sesame\" }]"));
    assert_eq!(codes(&report), ["unknown-key"], "\n{report}");
    assert!(!report.problems()[0].message.contains("sesame"), "\n{report}");
}

#[test]
fn what_needs_a_source_is_refused_without_one() {
    for line in ["merge = \"union\"", "orphan_ttl = \"1m\""] {
        let report = bad(&with(LISTEN, &format!("{BACKENDS}\n{line}")));
        assert_eq!(codes(&report), ["contradiction"], "\n{report}");
    }
}

#[test]
fn a_service_needs_backends_or_a_source() {
    let both = good(&with(LISTEN, &format!("{BACKENDS}\nsource = [{{ kind = \"file\", path = \"/x\" }}]")));
    assert_eq!((both.services[0].backends.len(), both.services[0].sources.len()), (1, 1));
    let report = bad(&with(LISTEN, "balance = \"maglev\""));
    assert_eq!(codes(&report), ["missing-key"], "\n{report}");
    let drained =
        "backends = [{ address = \"10.0.0.1:80\", weight = 0 }]\nsource = [{ kind = \"file\", path = \"/x\" }]";
    assert_eq!(codes(&good(&with(LISTEN, drained)).warnings), [""; 0], "the source may have others");
}

#[test]
fn a_key_that_is_left_out_has_its_default() {
    let made = |text: &str| source(text).kind;
    assert_eq!(made("{ kind = \"file\", path = \"/x\" }"), SourceKind::File(FileSettings::new("/x")));
    let dns = DnsSettings { port: Some(80), ..DnsSettings::new("x.example") };
    assert_eq!(made("{ kind = \"dns\", name = \"x.example\", port = 80 }"), SourceKind::Dns(dns));
    assert_eq!(made("{ kind = \"http\", url = \"http://x/\" }"), SourceKind::Http(HttpSettings::new("http://x/")));
    assert_eq!(made("{ kind = \"consul\", service = \"x\" }"), SourceKind::Consul(ConsulSettings::new("x")));
    assert_eq!(made("{ kind = \"etcd\", prefix = \"/x/\" }"), SourceKind::Etcd(EtcdSettings::new("/x/")));
    let kubernetes = SourceKind::Kubernetes(KubernetesSettings::new("x"));
    assert_eq!(made("{ kind = \"kubernetes\", service = \"x\" }"), kubernetes);
    let file = source("{ kind = \"file\", path = \"/x\" }");
    assert_eq!((file.label.as_str(), file.max_endpoints), ("file", MAX_ENDPOINTS));
    let service = service("{ kind = \"file\", path = \"/x\" }");
    assert_eq!((service.merge, service.backends.len()), (Merge::Union, 0));
    let membership = discovery::Membership::default();
    assert_eq!(service.orphan_ttl, membership.orphan_ttl, "the manual names what holds");
}

#[test]
fn every_value_is_taken_as_it_is_written() {
    let text = r#"
        [node]
        state_dir = "/var/lib/dislocate"
        [[listener]]
        name = "web"
        listen = "127.0.0.1:80"
        service = "web"
        [[service]]
        name = "web"
        merge = "priority"
        orphan_ttl = "0s"
        [[service.source]]
        kind = "file"
        label = "by-hand"
        path = "/etc/dislocate/web.d"
        interval = "5s"
        max_endpoints = 10
        [[service.source]]
        kind = "dns"
        name = "db.example.com"
        port = 5432
        servers = ["10.0.0.53", "[fd00::53]:5353"]
        family = "ipv4"
        ttl_min = "5s"
        ttl_max = "1m"
        timeout = "500ms"
        zone = "ams"
        allowed_cidrs = ["10.0.0.0/8", "fd00::/8"]
        [[service.source]]
        kind = "http"
        url = "https://registry.example/web"
        ca_file = "/etc/dislocate/ca.pem"
        cert_file = "/etc/dislocate/cert.pem"
        key_file = "/etc/dislocate/key.pem"
        server_name = "registry"
        interval = "1s"
        timeout = "2s"
        [[service.source]]
        kind = "consul"
        service = "web"
        url = "http://10.0.0.1:8500"
        datacenters = ["fra", "ams"]
        tags = ["v2", "blue"]
        token_file = "/etc/dislocate/consul.token"
        consistency = "stale"
        timeout = "3s"
        [[service.source]]
        kind = "etcd"
        prefix = "/services/web/"
        urls = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
        username = "dislocate"
        password_file = "/etc/dislocate/etcd.password"
        [[service.source]]
        kind = "kubernetes"
        service = "web"
        namespace = "shop"
        url = "https://10.0.0.1:6443"
        token_file = "/etc/dislocate/kube.token"
        ca_file = "/etc/dislocate/kube.pem"
        server_name = "kubernetes"
        port_name = "http"
        family = "ipv6"
        zone = "fra"
        timeout = "4s"
        [[service.source]]
        kind = "kubernetes"
        label = "other"
        service = "web"
        kubeconfig = "/etc/dislocate/kubeconfig"
        context = "prod"
        port = 8080
    "#;
    let config = good(text);
    assert_eq!(config.node.state_dir.as_deref(), Some("/var/lib/dislocate".as_ref()));
    let service = &config.services[0];
    assert_eq!((service.merge, service.orphan_ttl), (Merge::Priority, Duration::ZERO));
    let labels: Vec<&str> = service.sources.iter().map(|source| source.label.as_str()).collect();
    assert_eq!(labels, ["by-hand", "dns", "http", "consul/fra", "consul/ams", "etcd", "kubernetes", "other"]);
    let file = FileSettings { poll: Duration::from_secs(5), ..FileSettings::new("/etc/dislocate/web.d") };
    assert_eq!((&service.sources[0].kind, service.sources[0].max_endpoints), (&SourceKind::File(file), 10));
    let dns = DnsSettings {
        port: Some(5432),
        servers: vec!["10.0.0.53:53".parse().unwrap(), "[fd00::53]:5353".parse().unwrap()],
        family: Family::V4,
        timeout: Duration::from_millis(500),
        ttl_min: Duration::from_secs(5),
        ttl_max: Duration::from_secs(60),
        zone: balance::Zone::new("ams"),
        ..DnsSettings::new("db.example.com")
    };
    assert_eq!(service.sources[1].kind, SourceKind::Dns(dns));
    let allowed: Vec<String> = service.sources[1].allowed.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "fd00::/8"]);
    let SourceKind::Http(http) = &service.sources[2].kind else { panic!("the third is a page") };
    let identity =
        TlsIdentity { cert_file: "/etc/dislocate/cert.pem".into(), key_file: "/etc/dislocate/key.pem".into() };
    assert_eq!((&http.tls.ca_file, &http.tls.identity), (&Some("/etc/dislocate/ca.pem".into()), &Some(identity)));
    assert_eq!(http.tls.server_name.as_deref(), Some("registry"));
    let SourceKind::Consul(consul) = &service.sources[3].kind else { panic!("the fourth is Consul's") };
    assert_eq!((consul.datacenter.as_deref(), &consul.zone), (Some("fra"), &balance::Zone::new("fra")));
    assert_eq!((&consul.tags[..], consul.consistency), (&["v2".to_owned(), "blue".to_owned()][..], Consistency::Stale));
    let SourceKind::Etcd(etcd) = &service.sources[5].kind else { panic!("the sixth is etcd's") };
    let password_file = "/etc/dislocate/etcd.password".into();
    assert_eq!(etcd.access, Access::Password { username: "dislocate".into(), password_file });
    assert_eq!(etcd.urls.len(), 2);
    let tls = TlsSettings {
        ca_file: Some("/etc/dislocate/kube.pem".into()),
        server_name: Some("kubernetes".into()),
        ..TlsSettings::default()
    };
    let token_file = Some("/etc/dislocate/kube.token".into());
    let kubernetes = KubernetesSettings {
        namespace: Some("shop".into()),
        cluster: Cluster::Server { url: "https://10.0.0.1:6443".into(), tls, token_file },
        port: SlicePort::Name("http".into()),
        family: Family::V6,
        zone: balance::Zone::new("fra"),
        timeout: Duration::from_secs(4),
        ..KubernetesSettings::new("web")
    };
    assert_eq!(service.sources[6].kind, SourceKind::Kubernetes(kubernetes));
    let kubernetes = KubernetesSettings {
        cluster: Cluster::File { path: "/etc/dislocate/kubeconfig".into(), context: Some("prod".into()) },
        port: SlicePort::Number(8080),
        ..KubernetesSettings::new("web")
    };
    assert_eq!(service.sources[7].kind, SourceKind::Kubernetes(kubernetes));
}
