//! What only datagrams need: bytes that may be no text, and connection IDs of QUIC.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::super::limits::{NONCE_LENGTH, QUIC_LB_CONFIG_ID, SERVER_ID_LENGTH};
use super::field::{At, Field, Texts};

/// Bytes, as a text or in hexadecimal; where statuses of HTTP may stand, these.
#[derive(Clone, Debug, PartialEq)]
pub enum Octets {
    /// A text, or numbers and texts.
    Texts(Texts),
    /// The table `{ hex = "…" }`; nothing when what it holds was reported.
    Hex(Option<At<String>>),
}

impl Default for Octets {
    fn default() -> Self {
        Self::Texts(Texts::default())
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let At { span, value } = At::<Form>::deserialize(deserializer)?;
        Ok(match value {
            Form::One(value) => Self::Texts(Texts(vec![At { span, value }])),
            Form::Many(texts) => Self::Texts(Texts(texts.into_iter().flat_map(|texts| texts.0).collect())),
            Form::Hex(hex) => Self::Hex(hex.hex.0),
        })
    }
}

enum Form {
    One(String),
    Many(Vec<Texts>),
    Hex(Hex),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Hex {
    hex: Field<String>,
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of texts, or a table with `hex`")
            }

            fn visit_str<E>(self, text: &str) -> Result<Form, E> {
                Ok(Form::One(text.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Form, E> {
                Ok(Form::One(number.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Form, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Form::Many(texts))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Form, A::Error> {
                Hex::deserialize(MapAccessDeserializer::new(map)).map(Form::Hex)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// How connection IDs of QUIC lead to backends.
#[derive(Clone, Debug, PartialEq)]
pub enum ConnectionIds {
    /// `learned`, the only word.
    Learned,
    /// By QUIC-LB.
    Encoded(Vec<At<QuicLb>>),
}

impl Default for ConnectionIds {
    fn default() -> Self {
        Self::Encoded(Vec::new())
    }
}

impl<'de> Deserialize<'de> for ConnectionIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ConnectionIds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"learned\" or a list of tables")
            }

            fn visit_str<E>(self, _: &str) -> Result<ConnectionIds, E> {
                Ok(ConnectionIds::Learned)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ConnectionIds, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(ConnectionIds::Encoded(all))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// One configuration of QUIC-LB, as the servers have it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["config_id", "server_id_length", "nonce_length"]))]
pub struct QuicLb {
    /// The number in the first bits of a connection ID.
    #[schemars(range(min = QUIC_LB_CONFIG_ID.0, max = QUIC_LB_CONFIG_ID.1))]
    pub config_id: Field<u8>,
    /// Bytes of a server ID.
    #[schemars(range(min = SERVER_ID_LENGTH.0, max = SERVER_ID_LENGTH.1))]
    pub server_id_length: Field<u8>,
    /// Bytes of a nonce.
    #[schemars(range(min = NONCE_LENGTH.0, max = NONCE_LENGTH.1))]
    pub nonce_length: Field<u8>,
    /// A file with the key: 32 hexadecimal digits. Left out: connection IDs are not encrypted.
    pub key_file: Field<String>,
}
