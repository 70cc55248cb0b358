//! What is said and meant about sources of kind `xds`.

use std::time::Duration;

use discovery::sources::{TlsIdentity, TlsSettings, XdsSettings};

use super::super::{Source, SourceKind};
use super::schema::{fits, validator};
use super::sources::{source, told_where_and_how};
use super::{LISTEN, good, with};

const PLANE: &str = "urls = [\"http://10.0.0.1:18000\"]";

#[test]
fn a_cluster_that_is_wrong_is_told_where_and_how() {
    told_where_and_how(&[
        ("|{ kind = \"xds\", urls = [\"http://x\"] }|", "missing-key", "`cluster = …`"),
        ("|{ kind = \"xds\", cluster = \"x\" }|", "missing-key", "`urls = …`"),
        ("{ kind = \"xds\", cluster = |\"\"|, urls = [\"http://x\"] }", "invalid-value", "1 to 1024"),
        ("{ kind = \"xds\", cluster = \"x\", urls = |[]| }", "out-of-range", "1 to 32"),
        ("{ kind = \"xds\", cluster = \"x\", urls = |[\"10.0.0.1:18000\"]| }", "invalid-value", ""),
        ("{ kind = \"xds\", cluster = \"x\", urls = |[\"http://x/v3\"]| }", "invalid-value", ""),
        ("{ kind = \"xds\", cluster = \"x\", urls = |[\"http://x\"]|, ca_file = \"/x\" }", "invalid-value", ""),
        ("{ kind = \"xds\", cluster = \"x\", urls = [\"http://x\"], node_id = |\"\"| }", "invalid-value", "1 to 1024"),
        (
            "{ kind = \"xds\", cluster = \"x\", urls = [\"http://x\"], token_file = |\"t\"| }",
            "invalid-value",
            "absolute",
        ),
        (
            "{ kind = \"xds\", cluster = \"x\", urls = [\"http://x\"], timeout = |\"1ms\"| }",
            "out-of-range",
            "10ms to 1h",
        ),
        ("{ kind = \"xds\", cluster = \"x\", urls = [\"http://x\"], zone = |\"a b\"| }", "invalid-name", "`dc/zone`"),
        (
            "{ kind = \"xds\", cluster = \"x\", urls = [\"http://x\"], interval = |\"1s\"| }",
            "contradiction",
            "`file`, `http`",
        ),
        ("{ kind = \"xds\", cluster = \"x\", urls = [\"http://x\"], service = |\"x\"| }", "contradiction", "`consul`"),
        ("{ kind = \"consul\", service = \"x\", cluster = |\"x\"| }", "contradiction", "`xds`"),
        ("{ kind = \"file\", path = \"/x\", node_id = |\"x\"| }", "contradiction", "`xds`"),
    ]);
}

#[test]
fn what_is_left_out_has_its_default_and_we_are_the_node() {
    let it = source(&format!("{{ kind = \"xds\", cluster = \"x\", {PLANE} }}"));
    let SourceKind::Xds(settings) = &it.kind else { panic!("it is of kind xds") };
    let node_id = settings.node_id.clone();
    assert!(!node_id.is_empty() && it.label == "xds");
    assert_eq!(*settings, XdsSettings { node_id, ..XdsSettings::new("x", vec!["http://10.0.0.1:18000".into()]) });

    let text = with(LISTEN, &format!("source = [{{ kind = \"xds\", cluster = \"x\", {PLANE} }}]"));
    let config = good(&format!("node = {{ name = \"edge-1\" }}\n{text}"));
    let [Source { kind: SourceKind::Xds(settings), .. }] = &config.services[0].sources[..] else { panic!("it is one") };
    assert_eq!(settings.node_id, "edge-1");
}

#[test]
fn every_value_is_taken_as_it_is_written() {
    let table = r#"{
        kind = "xds",
        cluster = "outbound|80||web.shop.svc.cluster.local",
        urls = ["https://10.0.0.1:15012", "https://xds.example"],
        node_id = "sidecar~10.0.0.9~web.shop~shop.svc.cluster.local",
        node_cluster = "shop",
        token_file = "/etc/dislocate/xds.token",
        ca_file = "/etc/dislocate/ca.pem",
        cert_file = "/etc/dislocate/cert.pem",
        key_file = "/etc/dislocate/key.pem",
        server_name = "istiod",
        zone = "fra",
        timeout = "4s",
        allowed_cidrs = "10.0.0.0/8",
    }"#;
    let identity =
        TlsIdentity { cert_file: "/etc/dislocate/cert.pem".into(), key_file: "/etc/dislocate/key.pem".into() };
    let expected = XdsSettings {
        node_id: "sidecar~10.0.0.9~web.shop~shop.svc.cluster.local".into(),
        node_cluster: Some("shop".into()),
        token_file: Some("/etc/dislocate/xds.token".into()),
        tls: TlsSettings {
            ca_file: Some("/etc/dislocate/ca.pem".into()),
            identity: Some(identity),
            server_name: Some("istiod".into()),
        },
        zone: balance::Zone::new("fra"),
        timeout: Duration::from_secs(4),
        ..XdsSettings::new(
            "outbound|80||web.shop.svc.cluster.local",
            vec!["https://10.0.0.1:15012".into(), "https://xds.example".into()],
        )
    };
    let it = source(table);
    assert_eq!((it.kind, it.allowed.len()), (SourceKind::Xds(expected), 1));
}

#[test]
fn the_schema_agrees() {
    let of = |table: &str| with(LISTEN, &format!("source = [{table}]"));
    let table = |keys: &str| of(&format!("{{ kind = \"xds\", {keys} }}"));
    let good = [
        table("cluster = \"x\", urls = [\"http://x\"]"),
        table("cluster = \"x\", urls = [\"https://x\"], node_id = \"n\", node_cluster = \"c\", token_file = \"/t\""),
    ];
    for text in good {
        assert!(fits(validator(), &text), "the schema refuses a good document:\n{text}");
        super::good(&text);
    }
    let bad = [
        table("cluster = \"x\""),
        table("urls = [\"http://x\"]"),
        table("cluster = \"x\", urls = \"http://x\""),
        table("cluster = \"\", urls = [\"http://x\"]"),
        table("cluster = \"x\", urls = []"),
        table("cluster = \"x\", urls = [\"http://x\"], node_cluster = \"\""),
    ];
    for text in bad {
        assert!(!fits(validator(), &text), "the schema takes a bad document:\n{text}");
        super::bad(&text);
    }
}
