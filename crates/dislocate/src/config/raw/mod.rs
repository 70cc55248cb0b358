//! What the user wrote, key by key. The JSON Schema is derived from these types, and with it the first pass over a
//! file; so the doc comments here are what an editor shows.

mod datagram;
mod field;
mod forms;
mod source;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::limits::*;
use super::names::{NAME_PATTERN, ZONE_PATTERN};
use super::units::{BYTE_RATE_PATTERN, DURATION_PATTERN, RATE_PATTERN, byte_rate_text, text};

pub use datagram::{ConnectionIds, Octets, QuicLb};
pub use field::{At, Field, Span, Texts};
pub use forms::{CONSISTENCIES, DRAINS, FAMILIES, MERGES, PROBES, SEND_PROXY_DATAGRAMS};
pub use source::Source;

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
    /// A folder in which the backends that sources found are remembered. Left out: nothing is kept on disk.
    pub state_dir: Field<String>,
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
    #[schemars(schema_with = "forms::text_or_texts")]
    pub listen: Field<Texts>,
    /// `tcp` or `udp`; on a unix path `stream` or `datagram`. Left out: `tcp` or `stream`, whichever fits the address.
    #[schemars(schema_with = "forms::protocols")]
    pub protocol: Field<String>,
    /// The name of the service behind it.
    pub service: Field<String>,
    /// Silence in both directions after which a session is ended. With `udp` and `datagram` the default is 30s.
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
    /// With `udp` and `datagram`: datagrams of the client that one flow takes; 0 is no limit.
    #[schemars(range(max = REQUESTS.max), extend("default" = REQUESTS.default))]
    pub requests: Field<u32>,
    /// With `udp` and `datagram`: replies to each of them, after which the flow may end; 0 is no limit.
    #[schemars(range(max = REPLIES.max), extend("default" = REPLIES.default))]
    pub replies: Field<u32>,
    /// With `udp`: the networks that must say by a PROXY header on whose behalf they send.
    #[schemars(schema_with = "forms::networks")]
    pub accept_proxy: Field<Texts>,
    /// With `udp`: datagrams of a source that has not shown that it gets the replies; "0/s" is no limit.
    #[schemars(regex(pattern = RATE_PATTERN), extend("default" = format!("{}/s", UNPROVEN_DATAGRAMS.default)))]
    pub unproven_datagrams: Field<String>,
    /// With `udp`: bytes of replies to such a source; "0B/s" is no limit.
    #[schemars(regex(pattern = BYTE_RATE_PATTERN), extend("default" = byte_rate_text(UNPROVEN_REPLY_BYTES.default)))]
    pub unproven_reply_bytes: Field<String>,
}

/// A table `[[service]]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"], "if" = forms::has_source(), "else" = forms::needs_backends()))]
pub struct Service {
    /// The name that listeners use, and the one in logs and metrics.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: Field<String>,
    /// How a backend is chosen for a new session.
    #[schemars(schema_with = "forms::policies")]
    pub balance: Field<String>,
    /// What zones mean to `balance = "latency"`.
    #[schemars(schema_with = "forms::zones")]
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
    /// Of datagrams: what becomes of flows whose backend drains.
    #[schemars(schema_with = "forms::drains")]
    pub drain: Field<String>,
    /// Of datagrams: how long one may wait for a reply before the backend is blamed, where backends reply at all.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(REPLY_TIMEOUT.default)))]
    pub reply_timeout: Field<String>,
    /// Of datagrams: the PROXY header that tells backends the client. Left out: none.
    #[schemars(schema_with = "forms::send_proxy")]
    pub send_proxy: Field<String>,
    /// With `send_proxy`: which datagrams of a flow begin with the header.
    #[schemars(schema_with = "forms::send_proxy_datagrams")]
    pub send_proxy_datagrams: Field<String>,
    /// Of QUIC: how connection IDs lead to backends, so that clients may change their address.
    #[schemars(schema_with = "forms::connection_ids")]
    pub connection_ids: Field<ConnectionIds>,
    /// Where else its backends are found.
    #[schemars(length(min = 1, max = MAX_SOURCES))]
    pub source: Field<Vec<At<Source>>>,
    /// With `source`: how the words of several make one.
    #[schemars(schema_with = "forms::merges")]
    pub merge: Field<String>,
    /// With `source`: how long a backend serves on that no source names any more, while it answers.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(ORPHAN_TTL.default)))]
    pub orphan_ttl: Field<String>,
    /// The addresses that serve it. May be left out where there is a `source`.
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
    /// With `connection_ids`: the server ID in the connection IDs that it issues, in hexadecimal.
    #[schemars(regex(pattern = forms::SERVER_ID_PATTERN))]
    pub server_id: Field<String>,
}

/// The table `health` of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("if" = forms::is_udp(), "else" = forms::expects_statuses()))]
pub struct Health {
    /// What is tried: a connection, a request, a datagram, a command, or nothing.
    #[schemars(schema_with = "forms::probes")]
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
    /// With `tcp`, `http` and `udp`: another port of the backend's address to ask.
    #[schemars(range(min = 1))]
    pub port: Field<u16>,
    /// With `http`: what is asked for.
    #[schemars(extend("default" = "/"))]
    pub path: Field<String>,
    /// With `http`: the Host header. Left out: the backend's address.
    pub host: Field<String>,
    /// With `udp`: what is sent, as a text or as `{ hex = "…" }`.
    #[schemars(schema_with = "forms::octets")]
    pub send: Field<Octets>,
    /// With `http`: the statuses that count as good, each a number or a range such as "200-299". With `udp`: what the
    /// reply begins with, as a text or as `{ hex = "…" }`; left out, any reply is good.
    #[schemars(schema_with = "forms::statuses_or_octets")]
    pub expect: Field<Octets>,
    /// With `exec`: the program, by its absolute path, and its arguments.
    #[schemars(length(max = MAX_COMMAND_WORDS))]
    pub command: Field<Vec<At<String>>>,
}
