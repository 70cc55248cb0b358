//! The tables `[[service.source]]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::limits::*;
use super::super::names::{NAME_PATTERN, ZONE_PATTERN};
use super::super::units::{DURATION_PATTERN, text};
use super::field::{At, Field, Texts};
use super::forms;

/// A registry in which a service finds backends. Which keys it takes depends on its kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["kind"], "allOf" = forms::needs_of_sources()))]
pub struct Source {
    /// What is asked.
    #[schemars(schema_with = "forms::sources")]
    pub kind: Field<String>,
    /// Its name in metrics, logs and the snapshot. Left out: its kind.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub label: Field<String>,
    /// With `file`: the file, or a folder of files, by its absolute path.
    pub path: Field<String>,
    /// With `dns`: the complete name. SRV records are asked for when it begins with `_`.
    pub name: Field<String>,
    /// With `dns`: the port of the backends, where the records are addresses. With `kubernetes`: the port of the pods, by its number.
    #[schemars(range(min = 1))]
    pub port: Field<u16>,
    /// With `dns`: the servers, each an IP address with or without a port. Left out: those of the system.
    #[schemars(schema_with = "forms::words")]
    pub servers: Field<Vec<At<String>>>,
    /// With `dns`: which addresses are asked for. With `kubernetes`: which are taken.
    #[schemars(schema_with = "forms::families")]
    pub family: Field<String>,
    /// With `dns`: the least time between two resolutions, whatever the records say.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(TTL_MIN.default)))]
    pub ttl_min: Field<String>,
    /// With `dns`: the longest time between two resolutions, whatever the records say.
    #[schemars(regex(pattern = DURATION_PATTERN), extend("default" = text(TTL_MAX.default)))]
    pub ttl_max: Field<String>,
    /// With `http`: the page. With `consul`: the agent. With `kubernetes`: the API server.
    pub url: Field<String>,
    /// With `etcd`: the members of the cluster. With `xds`: the control planes. After an error the next one is asked.
    #[schemars(schema_with = "forms::words")]
    pub urls: Field<Vec<At<String>>>,
    /// With `consul` and `kubernetes`: the name of the service there.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub service: Field<String>,
    /// With `consul`: the data centres to ask, each by itself. Left out: the agent's own.
    #[schemars(schema_with = "forms::words")]
    pub datacenters: Field<Vec<At<String>>>,
    /// With `consul`: tags that an instance must have, all of them.
    #[schemars(schema_with = "forms::words")]
    pub tags: Field<Vec<At<String>>>,
    /// With `consul`: which servers may answer.
    #[schemars(schema_with = "forms::consistencies")]
    pub consistency: Field<String>,
    /// With `kubernetes`: the namespace of the Service. Left out: that of the pod or of the context, or else `default`.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub namespace: Field<String>,
    /// With `kubernetes`: the port of the pods, by its name.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub port_name: Field<String>,
    /// With `kubernetes`: a kubeconfig file, by its absolute path. Left out, and without `url`: the cluster that this is a pod of.
    pub kubeconfig: Field<String>,
    /// With `kubeconfig`: the context. Left out: the file's current one.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub context: Field<String>,
    /// With `xds`: the name of the cluster.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub cluster: Field<String>,
    /// With `xds`: who we are to the control plane. Left out: `node.name`.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub node_id: Field<String>,
    /// With `xds`: what we belong to, for the control plane.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub node_cluster: Field<String>,
    /// With `etcd`: what the keys begin with. It ends with `/`.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub prefix: Field<String>,
    /// With `consul`, `etcd`, `xds` and a `kubernetes` URL: a file with the token, by its absolute path.
    pub token_file: Field<String>,
    /// With `etcd`: the name of a user.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub username: Field<String>,
    /// With `username`: a file with the password, by its absolute path.
    pub password_file: Field<String>,
    /// With `https` URLs: a file with the certificates of the authorities that may vouch for the server, in PEM. Left out: those of the system.
    pub ca_file: Field<String>,
    /// With `https` URLs: a file with the certificate that is shown to a server which asks for one, in PEM.
    pub cert_file: Field<String>,
    /// With `cert_file`: a file with its key, in PEM.
    pub key_file: Field<String>,
    /// With `https` URLs: the name that the server's certificate must have. Left out: the host of the URL.
    #[schemars(length(min = 1, max = MAX_SOURCE_TEXT))]
    pub server_name: Field<String>,
    /// With `http`: the time between two questions. With `file`: how often it is read even when no change was noticed.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub interval: Field<String>,
    /// With all but `file`: how long an answer may take.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub timeout: Field<String>,
    /// With `dns` and `consul`: where the backends are. Left out: in the node's zone, and with `datacenters` in the zone of that name. With `kubernetes` and `xds`: the data centre in which the zones of the endpoints are.
    #[schemars(regex(pattern = ZONE_PATTERN))]
    pub zone: Field<String>,
    /// With all but `file`: the networks that backends may be in. Left out: all but loopback, link-local and our own listeners.
    #[schemars(schema_with = "forms::networks")]
    pub allowed_cidrs: Field<Texts>,
    /// The most endpoints that it may name; a longer list is refused.
    #[schemars(range(min = SOURCE_ENDPOINTS.min, max = SOURCE_ENDPOINTS.max), extend("default" = SOURCE_ENDPOINTS.default))]
    pub max_endpoints: Field<u32>,
}
