//! The messages of the stream: what we ask, and what is answered.
//!
//! *Source*: `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse` of `envoy/service/discovery/v3/discovery.proto`.

use super::wire::{Fields, Malformed, Value, Writer};

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) cluster: String,
}

/// Something that we say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// In the first request of a stream.
    pub(super) node: Option<Node>,
    pub(super) type_url: String,
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    /// What is known from before: names, and their versions.
    pub(super) known: Vec<(String, String)>,
    /// The answer that this is a reply to; empty for none.
    pub(super) nonce: String,
    /// Why that answer is refused.
    pub(super) error: Option<String>,
}

impl Request {
    /// The message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut message = Writer::default();
        if let Some(node) = &self.node {
            message.message(1, &node.encode());
        }
        message.text(2, &self.type_url).texts(3, &self.subscribe).texts(4, &self.unsubscribe);
        for (name, version) in &self.known {
            let mut entry = Writer::default();
            entry.text(1, name).text(2, version);
            message.message(5, &entry);
        }
        message.text(6, &self.nonce);
        if let Some(error) = &self.error {
            let mut status = Writer::default();
            status.number(1, INVALID_ARGUMENT).text(2, error);
            message.message(7, &status);
        }
        message.finish()
    }
}

impl Node {
    fn encode(&self) -> Writer {
        let mut node = Writer::default();
        node.text(1, &self.id).text(2, &self.cluster).text(6, "dislocate").text(7, env!("CARGO_PKG_VERSION"));
        node
    }
}

/// An answer, of which only what concerns one name is looked at: a control plane may send thousands of others.
#[derive(Clone, Debug)]
pub(super) struct Response<'a> {
    pub(super) type_url: &'a str,
    pub(super) nonce: &'a str,
    message: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads an answer, to its end.
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Self { type_url: "", nonce: "", message };
        for field in Fields::of(message) {
            match field? {
                (4, value) => response.type_url = value.text()?,
                (5, value) => response.nonce = value.text()?,
                (RESOURCES | REMOVED, value) => drop(value.bytes()?),
                _ => {}
            }
        }
        Ok(response)
    }

    /// What it says of the resource of this name.
    ///
    /// *Errors*: a resource cannot be read, whichever it is, since it could be this one.
    pub(super) fn about(&self, name: &str) -> Result<About<'a>, Malformed> {
        let mut about = About { resource: None, times: 0, is_removed: false };
        for field in Fields::of(self.message) {
            match field? {
                (RESOURCES, Value::Bytes(bytes)) => {
                    let resource = Resource::decode(bytes)?;
                    if resource.name == name {
                        about.times += 1;
                        about.resource = Some(resource);
                    }
                }
                (REMOVED, Value::Bytes(bytes)) => about.is_removed |= bytes == name.as_bytes(),
                _ => {}
            }
        }
        Ok(about)
    }
}

/// What an answer says of one resource.
#[derive(Clone, Debug)]
pub(super) struct About<'a> {
    /// The last resource of this name.
    pub(super) resource: Option<Resource<'a>>,
    /// How many there are of this name.
    pub(super) times: usize,
    /// Whether it is told to be gone.
    pub(super) is_removed: bool,
}

/// A resource in its envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resource<'a> {
    name: &'a str,
    pub(super) version: &'a str,
    /// Its type and its bytes. None in a sign of life.
    pub(super) body: Option<(&'a str, &'a [u8])>,
}

impl<'a> Resource<'a> {
    fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut resource = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => resource.version = value.text()?,
                (2, value) => {
                    let (mut type_url, mut bytes) = resource.body.unwrap_or_default();
                    for field in Fields::of(value.bytes()?) {
                        match field? {
                            (1, value) => type_url = value.text()?,
                            (2, value) => bytes = value.bytes()?,
                            _ => {}
                        }
                    }
                    resource.body = Some((type_url, bytes));
                }
                (3, value) => resource.name = value.text()?,
                _ => {}
            }
        }
        Ok(resource)
    }
}

/// The fields of an answer that may be there many times.
const RESOURCES: u32 = 2;
const REMOVED: u32 = 6;
/// The code of gRPC for what cannot be used.
const INVALID_ARGUMENT: u64 = 3;
