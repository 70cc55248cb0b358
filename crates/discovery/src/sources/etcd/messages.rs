//! What etcd's JSON gateway is asked and answers.
//!
//! Numbers of 64 bits are texts there, what is zero or empty is left out, and keys and values are in base64.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::sources::base64;
use crate::sources::records::{self, Bounded, Object, shortened};

/// Asks for a page of the keys from `key` to `range_end`, as they were at `revision`; 0 is now.
#[derive(Debug, Serialize)]
pub(super) struct RangeRequest {
    pub(super) key: String,
    pub(super) range_end: String,
    pub(super) limit: usize,
    pub(super) revision: u64,
}

/// A page of keys.
#[derive(Debug, Deserialize)]
pub(super) struct RangeReply {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Bounded<Object<KeyValue>>,
    #[serde(default)]
    pub(super) more: bool,
}

/// Where the server is. In a line of a watch it may be left out.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) revision: Int,
}

/// A key and what it holds.
#[derive(Debug, Deserialize)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    #[serde(default)]
    pub(super) value: Bytes,
    #[serde(default)]
    pub(super) mod_revision: Int,
    /// Not 0 when the key goes away by itself.
    #[serde(default)]
    pub(super) lease: Int,
}

/// Asks to be told of changes of the keys from `key` to `range_end`.
#[derive(Debug, Serialize)]
pub(super) struct WatchRequest {
    pub(super) create_request: WatchCreate,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchCreate {
    pub(super) key: String,
    pub(super) range_end: String,
    pub(super) start_revision: u64,
}

/// One line of a watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct WatchReply {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) created: bool,
    #[serde(default)]
    pub(super) canceled: bool,
    /// Not 0 when what was asked for is no longer known.
    #[serde(default)]
    pub(super) compact_revision: Int,
    #[serde(default)]
    pub(super) cancel_reason: String,
    #[serde(default)]
    pub(super) events: Bounded<Object<Change>>,
}

/// A change of one key.
#[derive(Debug, Deserialize)]
pub(super) struct Change {
    #[serde(default, rename = "type")]
    pub(super) kind: ChangeKind,
    pub(super) kv: Object<KeyValue>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum ChangeKind {
    #[default]
    Put,
    Delete,
}

/// Asks for a token.
#[derive(Serialize)]
pub(super) struct AuthenticateRequest<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

#[derive(Deserialize)]
pub(super) struct AuthenticateReply {
    pub(super) token: String,
}

/// Reads a line of a watch.
pub(super) fn watch_line(line: &[u8]) -> Result<WatchReply, SourceError> {
    #[derive(Deserialize)]
    struct Line {
        result: Option<Object<WatchReply>>,
        error: Option<Object<Failure>>,
    }
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        message: String,
    }
    let Object(line) = records::json::<Object<Line>>(line)?;
    match (line.result, line.error) {
        (_, Some(Object(failure))) => {
            Err(SourceError::new(format!("the watch failed: {}", shortened(&failure.message))))
        }
        (Some(Object(reply)), None) => Ok(reply),
        (None, None) => Err(SourceError::new("a line of the watch that says nothing")),
    }
}

/// A number of 64 bits, which is never negative here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Int(pub(super) u64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntVisitor;
        impl Visitor<'_> for IntVisitor {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number as text")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Int, E> {
                Ok(Int(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Int, E> {
                text.parse().map(Int).map_err(|_| E::custom("not a number as text"))
            }
        }
        deserializer.deserialize_any(IntVisitor)
    }
}

/// Any bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                base64::decode(text).map(Bytes).ok_or_else(|| E::custom("not base64"))
            }
        }
        deserializer.deserialize_str(BytesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_are_texts() {
        let reply: RangeReply = records::json(
            br#"{"header": {"cluster_id": "1", "revision": "9223372036854775807"}, "count": "1",
            "kvs": [{"key": "YQ==", "mod_revision": 7, "lease": "5", "version": "1"}], "more": true}"#,
        )
        .unwrap();
        let kv = &reply.kvs.0[0].0;
        assert_eq!(
            (reply.header.revision.0, reply.more, &*kv.key.0, &*kv.value.0),
            (i64::MAX as u64, true, &b"a"[..], &b""[..])
        );
        assert_eq!((kv.mod_revision, kv.lease), (Int(7), Int(5)));
        for bad in [
            r#"{}"#,
            r#"{"header": {"revision": "-1"}}"#,
            r#"{"header": {"revision": 1.5}}"#,
            r#"{"header": {"revision": "1"}, "kvs": [{}]}"#,
            r#"{"header": {"revision": "1"}, "kvs": [[]]}"#,
            r#"{"header": {"revision": "1"}, "kvs": [{"key": "a"}]}"#,
            r#"{"header": {"revision": "1"}, "kvs": [{"key": 1}]}"#,
            r#"{"header": {"revision": "1"}, "kvs": {}}"#,
        ] {
            assert!(records::json::<RangeReply>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_of_a_watch_is_a_result_or_an_error() {
        let read = |line: &str| watch_line(line.as_bytes());
        let created = read(r#"{"result": {"header": {"revision": "5"}, "created": true}}"#).unwrap();
        assert!(created.created && created.events.0.is_empty());
        let events = read(
            r#"{"result": {"events": [{"kv": {"key": "YQ==", "value": "Yg=="}}, {"type": "DELETE", "kv": {"key": "YQ=="}}]}}"#,
        );
        let kinds: Vec<_> = events.unwrap().events.0.iter().map(|change| change.0.kind).collect();
        assert_eq!(kinds, [ChangeKind::Put, ChangeKind::Delete]);
        let canceled =
            read(r#"{"result": {"canceled": true, "compact_revision": "7", "cancel_reason": "x"}}"#).unwrap();
        assert!(canceled.canceled && canceled.compact_revision == Int(7));
        for (line, expected) in [
            (r#"{"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}"#, "etcdserver: no leader"),
            ("{}", "says nothing"),
            ("", "empty"),
            ("[]", "expected an object"),
            (r#"{"result": []}"#, "expected an object"),
            (r#"{"result": {"events": [{}]}}"#, "missing field `kv`"),
            (r#"{"result": {"events": [{"type": "MOVE", "kv": {"key": "YQ=="}}]}}"#, "unknown variant"),
        ] {
            let said = read(line).expect_err(line);
            assert!(said.text().contains(expected), "{line}: {said}");
        }
    }
}
