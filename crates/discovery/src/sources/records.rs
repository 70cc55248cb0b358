//! The format of files, of JSON pages, and of values in etcd.
//!
//! ```json
//! {"endpoints": [{"address": "10.0.0.1:80", "weight": 1, "zone": "ams", "priority": 0, "labels": {"rack": "7"}}]}
//! ```
//!
//! Only `address` is required. An unknown key is an error, as in the configuration: a `wieght` that is passed over
//! gives a backend a share that nobody asked for. So is a value of another type, and null. Labels are read and checked,
//! and nothing uses them yet.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use balance::{Address, ParseAddressError, Reported, Zone};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::source::{Found, SourceError};

/// Reads a list in JSON.
pub(super) fn json_list(text: &[u8]) -> Result<Vec<Found>, SourceError> {
    let list: Object<RawList> = json(text)?;
    list.0.endpoints.0.into_iter().enumerate().map(|(n, raw)| raw.0.check().map_err(|why| at(n, &why))).collect()
}

/// Reads a list in TOML: tables `[[endpoints]]`.
pub(super) fn toml_list(text: &[u8]) -> Result<Vec<Found>, SourceError> {
    let text = std::str::from_utf8(text).map_err(|error| SourceError::new(format!("not TOML: {error}")))?;
    let list: Object<RawList> = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text.as_bytes()[..span.start].split(|&b| b == b'\n').count());
        SourceError::new(format!("line {line}: {}", error.message()))
    })?;
    list.0.endpoints.0.into_iter().enumerate().map(|(n, raw)| raw.0.check().map_err(|why| at(n, &why))).collect()
}

/// Reads one record in JSON.
pub(super) fn json_record(text: &[u8]) -> Result<Found, SourceError> {
    json::<Object<RawEndpoint>>(text)?.0.check().map_err(|why| SourceError::new(why.to_string()))
}

/// Sorts a list by id. What is in it twice in the same words is kept once, and contradictions are an error.
pub(super) fn in_order(mut list: Vec<Found>) -> Result<Vec<Found>, SourceError> {
    list.sort_by(|a, b| a.id.cmp(&b.id));
    list.dedup();
    match list.windows(2).find(|pair| pair[0].id == pair[1].id) {
        Some(pair) => Err(SourceError::new(format!("{} is there twice, with different properties", pair[0].id))),
        None => Ok(list),
    }
}

/// Reads any JSON text, to its end.
pub(super) fn json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, SourceError> {
    if text.is_empty() {
        return Err(SourceError::new("empty"));
    }
    serde_json::from_slice(text).map_err(|error| SourceError::new(format!("not as expected: {error}")))
}

fn at(n: usize, why: &dyn fmt::Display) -> SourceError {
    SourceError::new(format!("endpoint {}: {why}", n + 1))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"endpoints\": […]}")]
struct RawList {
    endpoints: Bounded<Object<RawEndpoint>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an endpoint")]
struct RawEndpoint {
    address: String,
    #[serde(default = "one")]
    weight: u16,
    #[serde(default, deserialize_with = "there")]
    zone: Option<String>,
    #[serde(default)]
    priority: u8,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
}

fn one() -> u16 {
    1
}

/// Unlike serde's own way with options, takes no null.
fn there<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl RawEndpoint {
    fn check(self) -> Result<Found, Mistake> {
        let address: Address = match self.address.parse() {
            Ok(address) => address,
            Err(why) => return Err(Mistake::Address(self.address, why)),
        };
        let zone = match self.zone {
            Some(name) => Some(Zone::new(&name).ok_or(Mistake::Zone(name))?),
            None => None,
        };
        if self.priority > PRIORITY_MAX {
            return Err(Mistake::Priority(self.priority));
        }
        let id = address.to_string().into();
        let (weight, priority) = (u32::from(self.weight), self.priority);
        Ok(Found { id, address, weight, zone, priority, reported: Reported::Ready })
    }
}

/// What is wrong with an endpoint.
enum Mistake {
    Address(String, ParseAddressError),
    Zone(String),
    Priority(u8),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text, why) => write!(f, "`{}`: {why}", shortened(text)),
            Self::Zone(text) => write!(f, "`{}` is not the name of a zone", shortened(text)),
            Self::Priority(given) => write!(f, "priority {given} is above {PRIORITY_MAX}"),
        }
    }
}

/// The beginning of a foreign text, for messages in which more is to follow.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    match text.floor_char_boundary(SHOWN_MAX_BYTES) {
        end if end < text.len() => Cow::Owned(format!("{}…", &text[..end])),
        _ => Cow::Borrowed(text),
    }
}

/// A JSON object or TOML table. A derived struct alone takes an array of its fields as well, so that `[[]]` would be
/// the list of nothing.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// An array of at most [`ENDPOINTS_MAX`] things.
#[derive(Debug)]
pub(super) struct Bounded<T>(pub(super) Vec<T>);

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoundedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedVisitor<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(next) = seq.next_element()? {
                    if all.len() == ENDPOINTS_MAX {
                        return Err(A::Error::custom(format!("more than {ENDPOINTS_MAX} endpoints")));
                    }
                    all.push(next);
                }
                Ok(Bounded(all))
            }
        }
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

/// Endpoints that one answer of a registry may hold: as many as a service may have.
pub(super) const ENDPOINTS_MAX: usize = 100_000;
/// The last level that a backend can have, as in the configuration.
pub(super) const PRIORITY_MAX: u8 = 127;
/// How much of a text from outside is repeated in a message.
const SHOWN_MAX_BYTES: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// Both formats of one list of endpoints, each endpoint given as its fields in JSON.
    fn both(endpoint: &str, toml: &str) -> [Result<Vec<Found>, SourceError>; 2] {
        let json = json_list(format!("{{\"endpoints\": [{{{endpoint}}}]}}").as_bytes());
        [json, toml_list(format!("[[endpoints]]\n{toml}\n").as_bytes())]
    }

    fn words(result: Result<Vec<Found>, SourceError>) -> String {
        result.expect_err("it is refused").text().to_owned()
    }

    #[test]
    fn an_endpoint_needs_an_address_and_has_defaults_for_the_rest() {
        for list in both(r#""address": "10.0.0.1:80""#, r#"address = "10.0.0.1:80""#) {
            let address: Address = "10.0.0.1:80".parse().unwrap();
            let id = "10.0.0.1:80".into();
            let expected = Found { id, address, weight: 1, zone: None, priority: 0, reported: Reported::Ready };
            assert_eq!(list, Ok(vec![expected]));
        }
        let all = r#""address": "[::1]:5", "weight": 0, "zone": "fra/a", "priority": 2, "labels": {"rack": "7"}"#;
        let toml = "address = \"[::1]:5\"\nweight = 0\nzone = \"fra/a\"\npriority = 2\nlabels = { rack = \"7\" }";
        for list in both(all, toml) {
            let list = list.expect("every key is known");
            assert_eq!((list[0].weight, list[0].priority, &list[0].zone), (0, 2, &Zone::new("fra/a")));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_reason() {
        let cases = [
            (r#""weight": 2"#, "weight = 2", "missing field `address`"),
            (r#""address": "h:80""#, "address = \"h:80\"", "a host name is not taken"),
            (r#""address": "10.0.0.1""#, "address = \"10.0.0.1\"", "the port is missing"),
            (r#""address": "10.0.0.1:0""#, "address = \"10.0.0.1:0\"", "port 0"),
            (r#""address": 80"#, "address = 80", "invalid type: integer"),
            (
                r#""address": "10.0.0.1:80", "wieght": 2"#,
                "address = \"10.0.0.1:80\"\nwieght = 2",
                "unknown field `wieght`",
            ),
            (
                r#""address": "10.0.0.1:80", "weight": "2""#,
                "address = \"10.0.0.1:80\"\nweight = \"2\"",
                "invalid type: string",
            ),
            (
                r#""address": "10.0.0.1:80", "weight": 1.0"#,
                "address = \"10.0.0.1:80\"\nweight = 1.0",
                "invalid type: float",
            ),
            (
                r#""address": "10.0.0.1:80", "weight": -1"#,
                "address = \"10.0.0.1:80\"\nweight = -1",
                "invalid value: integer",
            ),
            (
                r#""address": "10.0.0.1:80", "weight": 65536"#,
                "address = \"10.0.0.1:80\"\nweight = 65536",
                "invalid value: integer",
            ),
            (
                r#""address": "10.0.0.1:80", "priority": 256"#,
                "address = \"10.0.0.1:80\"\npriority = 256",
                "invalid value: integer",
            ),
            (r#""address": "10.0.0.1:80", "priority": 128"#, "address = \"10.0.0.1:80\"\npriority = 128", "above 127"),
            (
                r#""address": "10.0.0.1:80", "zone": "a b""#,
                "address = \"10.0.0.1:80\"\nzone = \"a b\"",
                "not the name of a zone",
            ),
            (
                r#""address": "10.0.0.1:80", "labels": {"a": 1}"#,
                "address = \"10.0.0.1:80\"\nlabels = { a = 1 }",
                "invalid type: integer",
            ),
        ];
        for (json, toml, expected) in cases {
            for result in both(json, toml) {
                let said = words(result);
                assert!(said.contains(expected), "{json}: {said}");
            }
        }
    }

    #[test]
    fn only_a_whole_object_is_a_list() {
        let cases = [
            ("", "empty"),
            (" ", "EOF"),
            ("[[]]", "expected an object"),
            ("[]", "expected an object"),
            ("null", "expected an object"),
            ("{}", "missing field `endpoints`"),
            (r#"{"endpoints": null}"#, "expected an array"),
            (r#"{"endpoints": {}}"#, "expected an array"),
            (r#"{"endpoints": [["10.0.0.1:80"]]}"#, "expected an object"),
            (r#"{"endpoints": ["10.0.0.1:80"]}"#, "expected an object"),
            (r#"{"endpoints": [{"address": "10.0.0.1:80"}"#, "EOF"),
            (r#"{"endpoints": []} {"endpoints": []}"#, "trailing"),
            (r#"{"endpoints": [], "endpoints": []}"#, "duplicate field"),
            (r#"{"endpoints": [], "generation": 1}"#, "unknown field"),
            (r#"{"endpoints": [{"address": "10.0.0.1:80", "zone": null}]}"#, "invalid type: null"),
            ("<html>502 Bad Gateway</html>", "expected value"),
            ("\u{feff}{\"endpoints\": []}", "expected value"),
        ];
        for (text, expected) in cases {
            let said = words(json_list(text.as_bytes()));
            assert!(said.contains(expected), "{text}: {said}");
        }
        assert_eq!(json_list(br#"{"endpoints": []}"#), Ok(vec![]), "an empty list is a list");
        assert!(words(json_list(b"{\"endpoints\": [{\"address\": \"\xff\"}]}")).contains("invalid unicode"));
        assert!(words(toml_list(b"\xff")).contains("not TOML"));
        assert!(words(toml_list(b"")).contains("missing field `endpoints`"));
        assert!(words(toml_list(b"endpoints = []\n\nendpoints = 3")).starts_with("line 3"));
        let deep = format!("{{\"endpoints\": [{{\"labels\": {}", "[".repeat(1_000_000));
        assert!(words(json_list(deep.as_bytes())).contains("invalid type"), "depth costs no stack");
    }

    #[test]
    fn errors_repeat_little_of_what_was_read() {
        let long = format!(r#"{{"endpoints": [{{"address": "{}"}}]}}"#, "x\\n".repeat(100_000));
        let said = words(json_list(long.as_bytes()));
        assert!(said.len() < 250 && said.contains("a host name is not taken"), "{said}");
        assert!(!said.contains('\n'), "a text from outside begins no new line in a log");
    }

    #[test]
    fn a_list_is_bounded_in_number() {
        let of = |n| format!(r#"{{"endpoints": [{}]}}"#, vec![r#"{"address":"10.0.0.1:80"}"#; n].join(","));
        assert_eq!(json_list(of(ENDPOINTS_MAX).as_bytes()).map(|list| list.len()), Ok(ENDPOINTS_MAX));
        assert!(words(json_list(of(ENDPOINTS_MAX + 1).as_bytes())).contains("more than 100000"));
    }

    #[test]
    fn repetitions_are_folded_and_contradictions_refused() {
        let list = |text: &str| json_list(text.as_bytes()).and_then(in_order);
        let same = list(
            r#"{"endpoints": [{"address": "10.0.0.2:80"}, {"address": "10.0.0.1:80"},
            {"address": "[::ffff:10.0.0.2]:80", "weight": 1}]}"#,
        );
        let ids: Vec<_> = same.expect("it says one thing").into_iter().map(|found| found.id).collect();
        assert_eq!(ids, ["10.0.0.1:80".into(), Box::<str>::from("10.0.0.2:80")]);
        let other = list(r#"{"endpoints": [{"address": "10.0.0.2:80"}, {"address": "10.0.0.2:80", "weight": 2}]}"#);
        assert!(words(other).contains("10.0.0.2:80 is there twice"));
    }

    #[test]
    fn any_bytes_are_a_list_or_an_error() {
        let good = br#"{"endpoints": [{"address": "10.0.0.1:80", "weight": 1, "zone": "ams"}]}"#;
        let mut rng = balance::Rng::new(44);
        for _ in 0..5_000 {
            let mut text = good.to_vec();
            for _ in 0..=rng.below(3) {
                let at = rng.below(text.len() as u64) as usize;
                text[at] = rng.below(256) as u8;
            }
            text.truncate(rng.below(2 * good.len() as u64) as usize);
            for list in
                [json_list(&text), toml_list(&text), json_record(&text).map(|one| vec![one])].into_iter().flatten()
            {
                assert!(list.len() <= 1 && list.iter().all(|found| found.id.len() < 60));
            }
        }
    }
}
