//! The words that keys take, and the schemas of what no type alone describes.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::super::limits::*;
use super::QuicLb;

/// The kinds of check, the default first.
pub const PROBES: [&str; 5] = ["tcp", "http", "udp", "exec", "none"];

/// The protocols.
pub const PROTOCOLS: [&str; 4] = ["tcp", "stream", "udp", "datagram"];

/// What may become of flows whose backend drains, the default first.
pub const DRAINS: [&str; 2] = ["keep_flows", "move_now"];

/// The versions of the PROXY protocol that are built.
pub const SEND_PROXY: [&str; 1] = ["v2"];

/// Which datagrams of a flow may begin with a PROXY header, the default first.
pub const SEND_PROXY_DATAGRAMS: [&str; 2] = ["first", "every"];

/// A server ID, as a regular expression for the schema.
pub const SERVER_ID_PATTERN: &str = "^([0-9A-Fa-f]{2}){1,15}$";

/// The kinds of source.
pub const SOURCES: [&str; 7] = ["file", "dns", "http", "consul", "etcd", "kubernetes", "xds"];

/// How the words of several sources make one, the default first.
pub const MERGES: [&str; 2] = ["union", "priority"];

/// Which addresses a source asks for, the default first.
pub const FAMILIES: [&str; 3] = ["any", "ipv4", "ipv6"];

/// Which of Consul's servers may answer, the default first.
pub const CONSISTENCIES: [&str; 3] = ["default", "stale", "consistent"];

pub fn text_or_texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MAX_PORTS_PER_LISTENER },
    ]})
}

/// One network, or a list of them.
pub fn networks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MAX_NETWORKS },
    ]})
}

/// Bytes.
pub fn octets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "string" }, hex()] })
}

/// What `expect` may be, whatever the kind of check.
pub fn statuses_or_octets(_: &mut SchemaGenerator) -> Schema {
    let (low, high) = HEALTH_STATUSES;
    json_schema!({
        "anyOf": [status(), { "type": "string" }, list_of_statuses(), hex()],
        "default": format!("{low}-{high}"),
    })
}

/// The condition for checks by datagrams.
pub fn is_udp() -> Value {
    json!({ "properties": { "kind": { "const": "udp" } }, "required": ["kind"] })
}

/// What `expect` is for all other checks.
pub fn expects_statuses() -> Value {
    json!({ "properties": { "expect": { "anyOf": [status(), range_of_statuses(), list_of_statuses()] } } })
}

fn status() -> Value {
    json!({ "type": "integer", "minimum": 100, "maximum": 599 })
}

fn range_of_statuses() -> Value {
    json!({ "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" })
}

fn list_of_statuses() -> Value {
    let items = json!({ "anyOf": [status(), range_of_statuses()] });
    json!({ "type": "array", "items": items, "minItems": 1, "maxItems": MAX_STATUSES })
}

fn hex() -> Value {
    json!({
        "type": "object",
        "properties": { "hex": { "type": "string", "pattern": "^([0-9A-Fa-f]{2})*$" } },
        "additionalProperties": false,
        "required": ["hex"],
    })
}

/// `learned`, or a list of QUIC-LB configurations.
pub fn connection_ids(generator: &mut SchemaGenerator) -> Schema {
    let items = QuicLb::json_schema(generator);
    json_schema!({ "anyOf": [
        { "type": "string", "enum": ["learned"] },
        { "type": "array", "items": items, "minItems": 1, "maxItems": MAX_QUIC_LB },
    ]})
}

pub fn drains(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": DRAINS, "default": DRAINS[0] })
}

pub fn send_proxy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": SEND_PROXY })
}

pub fn send_proxy_datagrams(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": SEND_PROXY_DATAGRAMS, "default": SEND_PROXY_DATAGRAMS[0] })
}

pub fn sources(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": SOURCES })
}

pub fn merges(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": MERGES, "default": MERGES[0] })
}

pub fn families(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": FAMILIES, "default": FAMILIES[0] })
}

pub fn consistencies(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": CONSISTENCIES, "default": CONSISTENCIES[0] })
}

/// A list of texts that go into questions.
pub fn words(_: &mut SchemaGenerator) -> Schema {
    let items = json!({ "type": "string", "minLength": 1, "maxLength": MAX_SOURCE_TEXT });
    json_schema!({ "type": "array", "items": items, "minItems": 1, "maxItems": MAX_SOURCE_WORDS })
}

/// The keys that each kind of source needs.
pub fn needs_of_sources() -> Value {
    let of = |kind: &str, keys: &[&str]| {
        json!({
            "if": { "properties": { "kind": { "const": kind } }, "required": ["kind"] },
            "then": { "required": keys },
        })
    };
    let needs = [
        of("file", &["path"]),
        of("dns", &["name"]),
        of("http", &["url"]),
        of("consul", &["service"]),
        of("etcd", &["prefix"]),
        of("kubernetes", &["service"]),
        of("xds", &["cluster", "urls"]),
    ];
    needs.into()
}

/// The condition under which a service needs no backends of its own.
pub fn has_source() -> Value {
    json!({ "required": ["source"] })
}

/// What a service needs otherwise.
pub fn needs_backends() -> Value {
    json!({ "required": ["backends"] })
}

pub fn protocols(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": PROTOCOLS })
}

pub fn probes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": PROBES, "default": PROBES[0] })
}

pub fn zones(_: &mut SchemaGenerator) -> Schema {
    let names = balance::Zones::ALL.map(balance::Zones::as_str);
    json_schema!({ "type": "string", "enum": names, "default": balance::Zones::default().as_str() })
}

pub fn policies(_: &mut SchemaGenerator) -> Schema {
    let names = balance::Policy::ALL.map(balance::Policy::as_str);
    json_schema!({ "type": "string", "enum": names, "default": balance::Policy::default().as_str() })
}
