//! The schema and the parser give one verdict on the shape of a document.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::super::{DEFAULT, Report, parse, schema};
use super::{BACKENDS, LISTEN, with};

/// What the schema says of a TOML text.
pub fn fits(validator: &jsonschema::Validator, text: &str) -> bool {
    let document: Value = toml::from_str(text).expect("the tests write TOML");
    validator.is_valid(&document)
}

/// Whether a report speaks of the shape, and not of what a text or several keys together mean.
fn about_shape(report: &Report) -> bool {
    let codes = ["unknown-key", "missing-key", "wrong-type", "unknown-value", "out-of-range"];
    report.problems().iter().any(|problem| codes.contains(&problem.code.as_str()))
}

pub fn validator() -> &'static jsonschema::Validator {
    static VALIDATOR: LazyLock<jsonschema::Validator> =
        LazyLock::new(|| jsonschema::validator_for(schema()).expect("the schema is one"));
    &VALIDATOR
}

#[test]
fn good_documents_fit_both() {
    let validator = validator();
    let health = |table: &str| with(LISTEN, &format!("{BACKENDS}\nhealth = {table}"));
    let texts = [
        DEFAULT.to_owned(),
        with(LISTEN, BACKENDS),
        with("listen = [\"[::]:80\", \"unix:/x\"]", "backends = [{ address = \"10.0.0.1:80\", backup = true }]"),
        health("{ kind = \"http\", expect = [204, \"200-299\"] }"),
        health("{ kind = \"http\", expect = 204 }"),
        health("{ kind = \"udp\", send = \"ping\", expect = \"pong\", port = 7 }"),
        health("{ kind = \"udp\", send = { hex = \"00fF\" }, expect = { hex = \"\" } }"),
        with(
            UDP,
            "backends = [{ address = \"10.0.0.1:80\", server_id = \"0a\" }]\nconnection_ids = [{ config_id = 6, server_id_length = 1, nonce_length = 18 }]",
        ),
        with(
            UDP,
            "backends = [\"10.0.0.1:80\"]\ndrain = \"move_now\"\nsend_proxy = \"v2\"\nconnection_ids = \"learned\"",
        ),
        with(
            &format!("{UDP}\naccept_proxy = \"::/0\"\nunproven_datagrams = \"0/s\"\nunproven_reply_bytes = \"5KiB/s\""),
            BACKENDS,
        ),
        health("{ kind = \"exec\", command = [\"/bin/true\"], interval = \"1d\" }"),
        format!("node = {{ state_dir = \"/x\" }}\n{}", with(LISTEN, "source = [{ kind = \"file\", path = \"/x\" }]")),
        with(
            LISTEN,
            "source = [{ kind = \"dns\", name = \"_a._tcp.x\", servers = [\"10.0.0.1\"] }]\nmerge = \"priority\"",
        ),
        with(LISTEN, "source = [{ kind = \"consul\", service = \"x\", datacenters = [\"fra\", \"ams\"] }]"),
        with(LISTEN, "source = [{ kind = \"kubernetes\", service = \"x\", namespace = \"y\", port_name = \"http\" }]"),
    ];
    for text in texts {
        assert!(fits(validator, &text), "the schema refuses a good document:\n{text}");
        super::good(&text);
    }
}

#[test]
fn bad_documents_fit_neither() {
    let validator = validator();
    let listener = |line: &str| with(&format!("{LISTEN}\n{line}"), BACKENDS);
    let service = |line: &str| with(LISTEN, line);
    let texts = [
        "".into(),
        "listener = []".into(),
        "listener = {}".into(),
        listener("foo = 1"),
        listener("retries = 11"),
        listener("retries = \"2\""),
        listener("max_connections = 0"),
        listener("idle_timeout = \"1 hour\""),
        listener("idle_timeout = \"1h30m\""),
        listener("protocol = \"upd\""),
        listener("requests = \"1\""),
        with(&format!("{UDP}\nunproven_datagrams = \"5\""), BACKENDS),
        with(&format!("{UDP}\nunproven_datagrams = 0"), BACKENDS),
        with(&format!("{UDP}\nunproven_reply_bytes = \"5/s\""), BACKENDS),
        with(&format!("{UDP}\naccept_proxy = []"), BACKENDS),
        with(UDP, "backends = [\"10.0.0.1:80\"]\nsend_proxy = \"v1\""),
        with(UDP, "backends = [\"10.0.0.1:80\"]\nconnection_ids = \"encoded\""),
        with(
            UDP,
            "backends = [\"10.0.0.1:80\"]\nconnection_ids = [{ config_id = 7, server_id_length = 1, nonce_length = 4 }]",
        ),
        with(UDP, "backends = [\"10.0.0.1:80\"]\nconnection_ids = [{ config_id = 0, server_id_length = 1 }]"),
        with(UDP, "backends = [{ address = \"10.0.0.1:80\", server_id = \"abc\" }]"),
        service("backends = [\"10.0.0.1:80\"]\nhealth = { kind = \"udp\", send = { hex = \"abc\" } }"),
        service("backends = [\"10.0.0.1:80\"]\nhealth = { kind = \"udp\", send = { text = \"abc\" } }"),
        service("backends = [\"10.0.0.1:80\"]\nhealth = { kind = \"http\", expect = { hex = \"ab\" } }"),
        listener("splice = \"yes\""),
        with("listen = []", BACKENDS),
        with("listen = 80", BACKENDS),
        service(""),
        service("backends = []"),
        service("backends = [5]"),
        service("backends = [{ weight = 1 }]"),
        service("backends = [{ address = \"10.0.0.1:80\", weight = 65536 }]"),
        service("backends = [{ address = \"10.0.0.1:80\", zone = \"a b\" }]"),
        service("backends = [\"10.0.0.1:80\"]\nbalance = \"fastest\""),
        service("backends = [\"10.0.0.1:80\"]\nhealth = { kind = \"http\", expect = 99 }"),
        service("backends = [\"10.0.0.1:80\"]\nhealth = { kind = \"http\", expect = \"2xx\" }"),
        service("backends = [\"10.0.0.1:80\"]\nhealth = \"none\""),
        format!("node = {{ name = \"a b\" }}\n{}", with(LISTEN, BACKENDS)),
        with(LISTEN, "source = []"),
        with(LISTEN, "source = [{ path = \"/x\" }]"),
        with(LISTEN, "source = [{ kind = \"file\" }]"),
        with(LISTEN, "source = [{ kind = \"dns\", port = 80 }]"),
        with(LISTEN, "source = [{ kind = \"http\" }]"),
        with(LISTEN, "source = [{ kind = \"consul\", tags = [\"a\"] }]"),
        with(LISTEN, "source = [{ kind = \"etcd\" }]"),
        with(LISTEN, "source = [{ kind = \"kubernetes\", namespace = \"x\" }]"),
        with(LISTEN, "source = [{ kind = \"kubernetes\", service = \"x\", port_name = \"\" }]"),
        with(LISTEN, "source = [{ kind = \"mesh\" }]"),
        with(LISTEN, "source = [{ kind = \"consul\", service = \"\" }]"),
        with(LISTEN, "source = [{ kind = \"file\", path = \"/x\", max_endpoints = 0 }]"),
        with(LISTEN, "source = [{ kind = \"file\", path = \"/x\" }]\nmerge = \"both\""),
    ];
    for text in texts {
        assert!(!fits(validator, &text), "the schema takes a bad document:\n{text}");
        super::bad(&text);
    }
}

const UDP: &str = "listen = \"127.0.0.1:80\"\nprotocol = \"udp\"";

/// A value of any TOML type that JSON has too, as TOML text.
fn any_value() -> impl Strategy<Value = String> {
    let words = [
        "tcp",
        "file",
        "consul",
        "/x",
        "stream",
        "udp",
        "learned",
        "9/s",
        "00",
        "5s",
        "10.0.0.1:80",
        "200-299",
        "web",
        "local",
        "none",
        "",
    ];
    let leaf = prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(|word| format!("\"{word}\"")),
        (-2i64..70_000).prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        Just("1.5".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let keys = ["address", "kind", "expect", "send", "hex", "weight", "name", "rise", "path", "service", "x"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map(prop::sample::select(keys.to_vec()), inner, 0..3).prop_map(|table| {
                let entries: Vec<_> = table.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", entries.join(", "))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_gets_one_verdict(
        key in prop::sample::select(vec!["node", "admin", "listener", "service"]),
        inner in prop::sample::select(vec!["name", "listen", "retries", "splice", "backends", "health", "source", "protocol", "connection_ids", "workers", "x"]),
        value in any_value(),
        whole in any::<bool>(),
    ) {
        let text = match (whole, key) {
            (true, _) => format!("{key} = {value}"),
            (false, "listener" | "service") => format!("[[{key}]]\n{inner} = {value}"),
            (false, _) => format!("{key}.{inner} = {value}"),
        };
        let listener = format!("\n{}", with(LISTEN, BACKENDS));
        let text = if key == "node" || key == "admin" { text + &listener } else { text };
        let by_schema = fits(validator(), &text);
        let by_parser = match parse("test.toml", &text) {
            Ok(_) => true,
            // What only the patterns of the schema see, the parser calls invalid.
            Err(report) => !about_shape(&report) && !report.to_string().contains("[invalid-"),
        };
        prop_assert!(by_schema || !by_parser, "the parser takes what the schema refuses:\n{}", text);
        let shape_is_good = parse("test.toml", &text).err().is_none_or(|report| !about_shape(&report));
        prop_assert!(!by_schema || shape_is_good, "the schema takes what the parser refuses:\n{}", text);
    }
}
