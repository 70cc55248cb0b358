//! What the API server says of EndpointSlices, and what of it we use.
//!
//! Of each endpoint the first address counts, as the API says; its port is the one that was asked for. Node names and
//! hints are passed over: hints vanish when a service is spread unevenly, and zones are weighed here by what they cost.
//! Unknown keys are passed over, since each version adds some. *Source*: `discovery.k8s.io/v1` of the Kubernetes API.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use balance::Zone;
use serde::{Deserialize, Deserializer};

use crate::source::SourceError;
use crate::sources::dns::Family;
use crate::sources::records::{self, Bounded, Object, shortened};

/// Which port of the pods, as their slices have it. That is not always the port of the Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlicePort {
    /// The only one. Several are an error.
    #[default]
    Only,
    /// The one of this name.
    Name(String),
    /// The one of this number. Slices without ports, as headless Services may have them, are taken as they are.
    Number(u16),
}

/// What is wanted of a slice.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) port: SlicePort,
    pub(super) family: Family,
    /// A data centre in which the zones of the cluster are, or the zone of all endpoints.
    pub(super) zone: Option<Zone>,
}

/// A slice, as far as it is of use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: Box<str>,
    pub(super) entries: Vec<(SocketAddr, Entry)>,
    /// How many endpoints were left out, and why the first was.
    pub(super) left_out: Option<(usize, String)>,
    /// What the slice has instead of the port that is wanted, if it has endpoints and not the port.
    pub(super) other_ports: Option<String>,
    /// Several ports, of which one must be chosen.
    pub(super) is_ambiguous: bool,
}

/// An endpoint in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) zone: Option<Zone>,
    pub(super) state: State,
    /// Whether it is being taken away by its owner.
    pub(super) is_terminating: bool,
}

/// How an endpoint is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    NotReady,
    /// It is ending and still serves.
    Ending,
    Ready,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) slices: Vec<Slice>,
    /// The version of the whole list.
    pub(super) version: String,
    /// What to ask for the next page with; none at the end.
    pub(super) more: Option<String>,
}

/// A line of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A slice is new or other, as of a version.
    Put(Slice, String),
    /// A slice is gone, as of a version.
    Gone(Box<str>, String),
    /// Everything up to this version was told.
    Bookmark(String),
    /// What was asked for is no longer known.
    Expired,
}

/// Reads a page.
pub(super) fn page(text: &[u8], choice: &Choice) -> Result<Page, SourceError> {
    let Object(list): Object<RawList> = records::json(text)?;
    if (&*list.kind, &*list.api_version) != ("EndpointSliceList", API_VERSION) {
        let kind = shortened(&list.kind);
        return Err(SourceError::new(format!("a `{kind}`, which is no list of EndpointSlices")));
    }
    let Object(meta) = list.metadata;
    let slices = list.items.0.into_iter().map(|Object(raw)| slice(raw, choice)).collect::<Result<_, _>>()?;
    let more = Some(meta.more).filter(|more| !more.is_empty());
    if more.as_ref().is_some_and(|more| more.len() > CONTINUE_MAX_BYTES) {
        return Err(SourceError::new("a continue token that is too long to be asked with"));
    }
    Ok(Page { slices, version: version(meta.version)?, more })
}

/// Reads a line of a watch.
pub(super) fn said(line: &[u8], choice: &Choice) -> Result<Said, SourceError> {
    let Object(event): Object<RawEvent> = records::json(line)?;
    let Object(raw) = event.object;
    match &*event.kind {
        "ADDED" | "MODIFIED" | "DELETED" => {}
        "BOOKMARK" => return Ok(Said::Bookmark(version(raw.metadata.0.version)?)),
        "ERROR" if raw.code == Some(GONE) => return Ok(Said::Expired),
        "ERROR" => return Err(SourceError::new(format!("the watch failed: {}", raw.words()))),
        other => {
            return Err(SourceError::new(format!("an event of the unknown type `{}`", shortened(other))));
        }
    }
    if (&*raw.kind, &*raw.api_version) != ("EndpointSlice", API_VERSION) {
        return Err(SourceError::new(format!("an event about a `{}`", shortened(&raw.kind))));
    }
    let version = version(raw.metadata.0.version.clone())?;
    let slice = slice(raw, choice)?;
    Ok(if &*event.kind == "DELETED" { Said::Gone(slice.name, version) } else { Said::Put(slice, version) })
}

/// What a refusal says in its own words, if it is a `Status`.
pub(super) fn refusal(body: &[u8]) -> Option<String> {
    let Object(raw): Object<RawObject> = records::json(body).ok()?;
    (&*raw.kind == "Status" && !raw.message.is_empty()).then_some(raw.message)
}

/// A version that can be asked with. The API promises nothing about it but that it is a text.
fn version(text: String) -> Result<String, SourceError> {
    match text.len() {
        0 => Err(SourceError::new("an answer without a resourceVersion")),
        1..=VERSION_MAX_BYTES => Ok(text),
        _ => Err(SourceError::new("a resourceVersion that is too long to be asked with")),
    }
}

/// What is of use of a slice.
fn slice(raw: RawObject, choice: &Choice) -> Result<Slice, SourceError> {
    let Object(meta) = raw.metadata;
    if meta.name.is_empty() || meta.name.len() > NAME_MAX_BYTES {
        return Err(SourceError::new("an EndpointSlice without a name that can be one"));
    }
    let endpoints = raw.endpoints.ok_or_else(|| SourceError::new("an EndpointSlice without endpoints"))?.0;
    let mut slice = Slice { name: meta.name.into(), ..Slice::default() };
    let is_v4 = match &*raw.address_type {
        "IPv4" => true,
        "IPv6" => false,
        // FQDN, or what is not thought of yet.
        other => {
            slice.leave_out(endpoints.len(), || format!("addresses of type `{}`", shortened(other)));
            return Ok(slice);
        }
    };
    if choice.family == if is_v4 { Family::V6 } else { Family::V4 } || endpoints.is_empty() {
        return Ok(slice);
    }
    let Some(port) = slice.port(&raw.ports.0, &choice.port) else { return Ok(slice) };
    for Object(endpoint) in endpoints {
        match endpoint.address(is_v4) {
            Ok(ip) => slice.entries.push((SocketAddr::new(ip, port), endpoint.entry(choice.zone.as_ref()))),
            Err(given) => slice.leave_out(1, || format!("`{}` is not an address", shortened(&given))),
        }
    }
    Ok(slice)
}

impl Slice {
    fn leave_out(&mut self, count: usize, why: impl FnOnce() -> String) {
        if count > 0 {
            let name = shortened(&self.name).into_owned();
            self.left_out.get_or_insert_with(|| (0, format!("{name}: {}", why()))).0 += count;
        }
    }

    /// The number of the port that is wanted. Without one, says what there is instead.
    fn port(&mut self, ports: &[Object<RawPort>], wanted: &SlicePort) -> Option<u16> {
        let number = |port: &RawPort| port.port.and_then(|n| u16::try_from(n).ok()).filter(|&n| n > 0);
        let usable = ports.iter().map(|Object(port)| port).filter(|port| port.protocol.as_deref() != Some("SCTP"));
        let found = match wanted {
            SlicePort::Only => {
                let numbers: BTreeSet<u16> = usable.filter_map(number).collect();
                self.is_ambiguous = numbers.len() > 1;
                numbers.first().copied().filter(|_| !self.is_ambiguous)
            }
            SlicePort::Name(name) => {
                let mut named = usable.filter(|port| port.name.as_deref().unwrap_or_default() == name);
                named.find_map(number)
            }
            // A port without a number stands for all.
            &SlicePort::Number(wanted) => {
                let is_any = ports.is_empty() || ports.iter().any(|Object(port)| port.port.is_none());
                (is_any || usable.filter_map(number).any(|n| n == wanted)).then_some(wanted)
            }
        };
        if found.is_none() {
            self.other_ports = Some(described(ports));
        }
        found
    }
}

/// The ports of a slice for people: `http=8080, metrics=9100`.
fn described(ports: &[Object<RawPort>]) -> String {
    let mut text = String::new();
    for (n, Object(port)) in ports.iter().take(PORTS_SHOWN).enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        // Writing to a text cannot fail.
        let _written = write!(text, "{}{}=", if n > 0 { ", " } else { "" }, shortened(name));
        let _written = match port.port {
            Some(number) => write!(text, "{number}"),
            None => write!(text, "any"),
        };
    }
    if text.is_empty() { "no ports".into() } else { text }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawList {
    kind: String,
    api_version: String,
    metadata: Object<ListMeta>,
    #[serde(deserialize_with = "nullable")]
    items: Bounded<Object<RawObject>>,
}

#[derive(Deserialize)]
struct ListMeta {
    #[serde(default, rename = "resourceVersion")]
    version: String,
    #[serde(default, rename = "continue")]
    more: String,
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Object<RawObject>,
}

/// An EndpointSlice or a Status. In lists they lack their kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawObject {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default = "no_meta")]
    metadata: Object<Meta>,
    #[serde(default)]
    address_type: String,
    #[serde(default, deserialize_with = "there")]
    endpoints: Option<Bounded<Object<RawEndpoint>>>,
    #[serde(default, deserialize_with = "nullable")]
    ports: Bounded<Object<RawPort>>,
    #[serde(default)]
    code: Option<i64>,
    #[serde(default)]
    message: String,
}

impl RawObject {
    fn words(&self) -> String {
        let code = self.code.map(|code| format!("status {code}: ")).unwrap_or_default();
        format!("{code}{}", shortened(&self.message))
    }
}

#[derive(Default, Deserialize)]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "resourceVersion")]
    version: String,
}

fn no_meta() -> Object<Meta> {
    Object(Meta::default())
}

#[derive(Deserialize)]
struct RawEndpoint {
    #[serde(default, deserialize_with = "nullable")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Conditions,
    #[serde(default)]
    zone: Option<String>,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawPort {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

impl RawEndpoint {
    /// The first address, or what stands in its place.
    fn address(&self, is_v4: bool) -> Result<IpAddr, String> {
        let first = self.addresses.first().map(String::as_str).unwrap_or_default();
        let ip: Option<IpAddr> = first.parse().ok();
        let ip = ip.filter(|ip| ip.is_ipv4() == is_v4).map(|ip| ip.to_canonical());
        ip.ok_or_else(|| first.to_owned())
    }

    fn entry(&self, zone: Option<&Zone>) -> Entry {
        let state = self.conditions.state();
        Entry { zone: self.zone(zone), state, is_terminating: self.conditions.terminating == Some(true) }
    }

    /// In a data centre of ours, or by its own name. A name that cannot be one is none.
    fn zone(&self, ours: Option<&Zone>) -> Option<Zone> {
        let theirs = self.zone.as_deref().filter(|name| !name.contains('/'));
        match (ours, theirs) {
            (None, theirs) => theirs.and_then(Zone::new),
            (Some(ours), Some(theirs)) if !ours.as_str().contains('/') => {
                Zone::new(&format!("{ours}/{theirs}")).or_else(|| Some(ours.clone()))
            }
            (Some(ours), _) => Some(ours.clone()),
        }
    }
}

impl Conditions {
    /// What is not said of `ready` is true, and what is not said of `serving` is what is said of `ready`.
    fn state(&self) -> State {
        let ready = self.ready.unwrap_or(true);
        match (ready, self.serving.unwrap_or(ready), self.terminating.unwrap_or(false)) {
            // Pods that end are never ready, unless their Service publishes them all the same.
            (true, ..) => State::Ready,
            (false, true, true) => State::Ending,
            (false, ..) => State::NotReady,
        }
    }
}

fn nullable<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Tells what is null, which is empty, from what is missing.
fn there<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    nullable(deserializer).map(Some)
}

/// The status of what is no longer known.
pub(super) const GONE: i64 = 410;
const API_VERSION: &str = "discovery.k8s.io/v1";
/// Names of objects are DNS names, of which this is the limit.
const NAME_MAX_BYTES: usize = 253;
/// They are numbers of 64 bits today.
const VERSION_MAX_BYTES: usize = 256;
/// A key and a version in base64; keys of slices have some 350 bytes.
const CONTINUE_MAX_BYTES: usize = 8 * 1024;
/// How many ports a message names.
const PORTS_SHOWN: usize = 5;

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
