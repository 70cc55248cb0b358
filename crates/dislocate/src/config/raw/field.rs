//! The leaves of what the user wrote: values that know where they stand in the text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::Endpoint;

/// A place in the text, in bytes.
pub type Span = Range<usize>;

/// A value and where it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct At<T> {
    /// Where.
    pub span: Span,
    /// What.
    pub value: T,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), value: spanned.into_inner() })
    }
}

/// A key that may be left out. Its own type and not an `Option`, because schemars takes an `Option` for something that
/// may be null, which TOML does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Field<T>(pub Option<At<T>>);

impl<T> Field<T> {
    /// The value, if it was written.
    pub fn value(&self) -> Option<&T> {
        self.0.as_ref().map(|at| &at.value)
    }

    /// The value, or else this one.
    pub fn or(&self, default: T) -> T
    where
        T: Copy,
    {
        self.value().copied().unwrap_or(default)
    }

    /// Where it was written, if it was.
    pub fn span(&self) -> Option<Span> {
        self.0.as_ref().map(|at| at.span.clone())
    }
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        At::deserialize(deserializer).map(|at| Self(Some(at)))
    }
}

/// Both wrappers look like what they wrap.
macro_rules! schema_of_content {
    ($($wrapper:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }

            fn inline_schema() -> bool {
                true
            }
        }
    )*};
}

schema_of_content!(At, Field);

/// One text, or a list of them. Numbers are taken as their text, so that HTTP statuses may be written bare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts(pub Vec<At<String>>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = At::<OneOrMany>::deserialize(deserializer)?;
        Ok(Self(match whole.value {
            OneOrMany::One(value) => vec![At { span: whole.span, value }],
            OneOrMany::Many(texts) => {
                texts.into_iter().map(|at| At { span: at.span, value: at.value.into_text() }).collect()
            }
        }))
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = At::<TextOrTable>::deserialize(deserializer)?;
        let table = match whole.value {
            TextOrTable::Text(value) => {
                super::EndpointTable { address: Field(Some(At { span: whole.span, value })), ..Default::default() }
            }
            TextOrTable::Table(table) => *table,
        };
        Ok(Self(table))
    }
}

enum OneOrMany {
    One(String),
    Many(Vec<At<OneOrMany>>),
}

impl OneOrMany {
    /// The text; of a list in a list, which the shape pass refuses, nothing.
    fn into_text(self) -> String {
        match self {
            Self::One(text) => text,
            Self::Many(_) => String::new(),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(number.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany::Many(texts))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

enum TextOrTable {
    Text(String),
    Table(Box<super::EndpointTable>),
}

impl<'de> Deserialize<'de> for TextOrTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = TextOrTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a table with one")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextOrTable, E> {
                Ok(TextOrTable::Text(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOrTable, A::Error> {
                super::EndpointTable::deserialize(MapAccessDeserializer::new(map)).map(|t| TextOrTable::Table(t.into()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
