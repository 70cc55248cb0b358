//! What the user wrote, key by key. The JSON Schema is derived from these types, and with it the first pass over a
//! file; so the doc comments here are what an editor shows.

mod field;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::limits::*;
use super::names::{NAME_PATTERN, ZONE_PATTERN};
use super::units::{DURATION_PATTERN, text};

pub use field::{At, Field, Span, Texts};

/// The configuration of dislocate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["listener"]))]
pub struct File {
    /// This process and the machine it runs on.
    pub node: Field<Node>,
    /// Metrics, health and state over HTTP.
    pub admin: Field<Admin>,
    /// Where clients arrive.
    #[schemars(length(min = 1, max = MAX_LISTENERS))]
    pub listener: Field<Vec<At<Listener>>>,
    /// What clients ask for.
    #[schemars(length(max = MAX_SERVICES))]
    pub service: Field<Vec<At<Service>>>,
}

/// The table `[node]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The name of this node in `dislocate_build_info`. Left out: the host's name.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: Field<String>,
    /// Where this node is: a data centre, optionally `/` and an availability zone.
    #[schemars(regex(pattern = ZONE_PATTERN), extend("default" = "local"))]
    pub zone: Field<String>,
    /// Threads that carry traffic; 0 is one a core.
    #[schemars(range(min = WORKERS.min, max = WORKERS.max), extend("default" = WORKERS.default))]
    pub workers: Field<u32>,
    /// Sessions of the whole process; 0 is what the limit on open files allows.
    #[schemars(range(max = NODE_MAX_CONNECTIONS.max), extend("default" = NODE_MAX_CONNECTIONS.default))]
    pub max_connections: Field<u32>,
    /// How long sessions may go on after SIGTERM.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(DRAIN_TIMEOUT.default)))]
    pub drain_timeout: Field<String>,
    /// Where each session's record goes: `stderr`, `none`, or the path of a file.
    #[schemars(extend("default" = "stderr"))]
    pub log: Field<String>,
}

/// The table `[admin]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// A loopback address with its port, or `unix:` and a path.
    #[schemars(extend("default" = ADMIN_LISTEN))]
    pub listen: Field<String>,
}

/// A table `[[listener]]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "listen", "service"]))]
pub struct Listener {
    /// The name in logs and metrics.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: Field<String>,
    /// An address, a range of ports, a unix path, or a list of these. `[::]` takes IPv4 too.
    #[schemars(schema_with = "text_or_texts")]
    pub listen: Field<Texts>,
    /// `tcp`, or `stream` on a unix path. Left out: whichever fits the address.
    #[schemars(schema_with = "protocols")]
    pub protocol: Field<String>,
    /// The name of the service behind it.
    pub service: Field<String>,
    /// Silence in both directions after which a session is ended.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(IDLE_TIMEOUT.default)))]
    pub idle_timeout: Field<String>,
    /// Silence after one side has finished after which a session is ended.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(HALF_CLOSE_TIMEOUT.default)))]
    pub half_close_timeout: Field<String>,
    /// Silence after which TCP asks whether the peer is still there.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(KEEPALIVE.default)))]
    pub keepalive: Field<String>,
    /// How long sent data may stay unacknowledged before the peer is taken for dead.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(USER_TIMEOUT.default)))]
    pub user_timeout: Field<String>,
    /// How long one try to reach a backend may take.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(CONNECT_TIMEOUT.default)))]
    pub connect_timeout: Field<String>,
    /// Other backends tried before the client is refused.
    #[schemars(range(min = RETRIES.min, max = RETRIES.max), extend("default" = RETRIES.default))]
    pub retries: Field<u32>,
    /// Sessions of this listener.
    #[schemars(range(min = MAX_CONNECTIONS.min, max = MAX_CONNECTIONS.max), extend("default" = MAX_CONNECTIONS.default))]
    pub max_connections: Field<u32>,
    /// Sessions of one source address; 0 is no limit.
    #[schemars(
        range(max = MAX_CONNECTIONS_PER_SOURCE.max),
        extend("default" = MAX_CONNECTIONS_PER_SOURCE.default)
    )]
    pub max_connections_per_source: Field<u32>,
    /// Whether bulk data moves inside the kernel, by splice(2).
    #[schemars(extend("default" = true))]
    pub splice: Field<bool>,
}

/// A table `[[service]]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "backends"]))]
pub struct Service {
    /// The name that listeners use, and the one in logs and metrics.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: Field<String>,
    /// How a backend is chosen for a new session.
    #[schemars(schema_with = "policies")]
    pub balance: Field<String>,
    /// What zones mean to `balance = "latency"`.
    #[schemars(schema_with = "zones")]
    pub zones: Field<String>,
    /// How much sooner another zone must answer, beside 10 %.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(ZONE_MARGIN.default)))]
    pub zone_margin: Field<String>,
    /// Sessions of one backend; 0 is no limit.
    #[schemars(
        range(max = MAX_CONNECTIONS_PER_BACKEND.max),
        extend("default" = MAX_CONNECTIONS_PER_BACKEND.default)
    )]
    pub max_connections_per_backend: Field<u32>,
    /// How long a session may wait while all backends are full.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(QUEUE_TIMEOUT.default)))]
    pub queue_timeout: Field<String>,
    /// How many sessions may wait.
    #[schemars(range(max = QUEUE_LENGTH.max), extend("default" = QUEUE_LENGTH.default))]
    pub queue_length: Field<u32>,
    /// Percent of a zone's backends below which health is ignored.
    #[schemars(range(max = PANIC_THRESHOLD.max), extend("default" = PANIC_THRESHOLD.default))]
    pub panic_threshold: Field<u8>,
    /// The addresses that serve it.
    #[schemars(length(min = 1, max = MAX_BACKENDS))]
    pub backends: Field<Vec<At<Endpoint>>>,
    /// How backends are checked.
    pub health: Field<Health>,
}

/// A backend: its address alone, or a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint(pub EndpointTable);

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, EndpointTable::json_schema(generator)] })
    }
}

/// A backend written as a table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["address"]))]
pub struct EndpointTable {
    /// An IP address with its port, or `unix:` and a path.
    pub address: Field<String>,
    /// Its share of the sessions, in proportion to the others; 0 takes no new ones.
    #[schemars(range(min = WEIGHT.min, max = WEIGHT.max), extend("default" = WEIGHT.default))]
    pub weight: Field<u32>,
    /// Where it is. Left out: in the node's zone.
    #[schemars(regex(pattern = ZONE_PATTERN))]
    pub zone: Field<String>,
    /// Used only while no backend of a lower priority can be.
    #[schemars(range(min = PRIORITY.min, max = PRIORITY.max), extend("default" = PRIORITY.default))]
    pub priority: Field<u8>,
    /// `true` is `priority = 1`.
    #[schemars(extend("default" = false))]
    pub backup: Field<bool>,
}

/// The table `health` of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// What is tried: a connection, a request, a command, or nothing.
    #[schemars(schema_with = "probes")]
    pub kind: Field<String>,
    /// Time between two checks of one backend.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(HEALTH_INTERVAL.default)))]
    pub interval: Field<String>,
    /// How long one check may take; at most the interval.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(HEALTH_TIMEOUT.default)))]
    pub timeout: Field<String>,
    /// Good checks in a row that bring a backend back.
    #[schemars(range(min = HEALTH_RISE.min, max = HEALTH_RISE.max), extend("default" = HEALTH_RISE.default))]
    pub rise: Field<u32>,
    /// Bad checks in a row that take a backend out.
    #[schemars(range(min = HEALTH_FALL.min, max = HEALTH_FALL.max), extend("default" = HEALTH_FALL.default))]
    pub fall: Field<u32>,
    /// With `http`: what is asked for.
    #[schemars(extend("default" = "/"))]
    pub path: Field<String>,
    /// With `http`: the Host header. Left out: the backend's address.
    pub host: Field<String>,
    /// With `http`: the statuses that count as good, each a number or a range such as "200-299".
    #[schemars(schema_with = "statuses")]
    pub expect: Field<Texts>,
    /// With `exec`: the program, by its absolute path, and its arguments.
    #[schemars(length(max = MAX_COMMAND_WORDS))]
    pub command: Field<Vec<At<String>>>,
}

/// The kinds of check, the default first.
pub const PROBES: [&str; 4] = ["tcp", "http", "exec", "none"];

/// The protocols that are built.
pub const PROTOCOLS: [&str; 2] = ["tcp", "stream"];

fn text_or_texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MAX_PORTS_PER_LISTENER },
    ]})
}

fn statuses(_: &mut SchemaGenerator) -> Schema {
    let number = json_schema!({ "type": "integer", "minimum": 100, "maximum": 599 });
    let range = json_schema!({ "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" });
    let (low, high) = HEALTH_STATUSES;
    json_schema!({
        "anyOf": [
            number, range,
            { "type": "array", "items": { "anyOf": [number, range] }, "minItems": 1, "maxItems": MAX_STATUSES },
        ],
        "default": format!("{low}-{high}"),
    })
}

fn protocols(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": PROTOCOLS })
}

fn probes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": PROBES, "default": PROBES[0] })
}

fn zones(_: &mut SchemaGenerator) -> Schema {
    let names = balance::Zones::ALL.map(balance::Zones::as_str);
    json_schema!({ "type": "string", "enum": names, "default": balance::Zones::default().as_str() })
}

fn policies(_: &mut SchemaGenerator) -> Schema {
    let names = balance::Policy::ALL.map(balance::Policy::as_str);
    json_schema!({ "type": "string", "enum": names, "default": balance::Policy::default().as_str() })
}
