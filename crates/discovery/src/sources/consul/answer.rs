//! What Consul says of a service.
//!
//! Unlike in our own format, unknown keys are passed over, since Consul adds some in each version; and an instance that
//! we cannot use is left out alone, since each was registered by somebody else.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use balance::{Address, Reported, Zone};
use serde::{Deserialize, Deserializer};

use crate::source::{Found, SourceError};
use crate::sources::records::{self, Bounded, Object, shortened};

/// The instances of a service, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instances {
    pub(super) list: Vec<Found>,
    /// How many were left out, and why the first was.
    pub(super) left_out: Option<(usize, String)>,
}

/// Reads the answer of `/v1/health/service`: the instances that have all of `tags`.
pub(super) fn read(text: &[u8], tags: &[String], zone: Option<&Zone>) -> Result<Instances, SourceError> {
    // Go writes an empty list as null now and then.
    let entries: Option<Bounded<Object<Entry>>> = records::json(text)?;
    let mut list = Vec::new();
    let mut left_out = None;
    for Object(entry) in entries.unwrap_or_default().0 {
        if !tags.iter().all(|tag| entry.service.tags.contains(tag)) {
            continue;
        }
        match entry.found(zone) {
            Ok(found) => list.push(found),
            Err(why) => left_out.get_or_insert_with(|| (0, why.to_string())).0 += 1,
        }
    }
    list.sort_by(|a: &Found, b| a.id.cmp(&b.id));
    list.dedup_by(|later, first| later.id == first.id);
    Ok(Instances { list, left_out })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Instance,
    #[serde(default, deserialize_with = "nullable")]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: String,
    #[serde(default)]
    datacenter: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default, deserialize_with = "nullable")]
    tags: Vec<String>,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

fn nullable<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Entry {
    /// The endpoint. Ids of services are unique on a node alone.
    fn found(self, zone: Option<&Zone>) -> Result<Found, Unusable> {
        let named = if self.service.address.is_empty() { &self.node.address } else { &self.service.address };
        let id = format!("{}/{}/{}", self.node.datacenter, self.node.node, self.service.id);
        let ip: Result<IpAddr, _> = named.trim_matches(['[', ']']).parse();
        let Ok(ip) = ip else {
            return Err(Unusable { id, why: "its address is a name or nothing", what: named.clone() });
        };
        let port = match u16::try_from(self.service.port) {
            Ok(port) if port > 0 => port,
            _ => return Err(Unusable { id, why: "it has no port to connect to", what: self.service.port.to_string() }),
        };
        let address = Address::from(SocketAddr::new(ip, port));
        let health = self.health();
        let weight = match (self.service.weights, health) {
            (None, _) => 1,
            (Some(weights), Health::Warning) => weights.warning,
            (Some(weights), Health::Passing | Health::Critical) => weights.passing,
        };
        let reported = if health == Health::Critical { Reported::NotReady } else { Reported::Ready };
        let weight = weight.clamp(0, WEIGHT_MAX) as u32;
        Ok(Found { id: id.into(), address, weight, zone: zone.cloned(), priority: 0, reported })
    }

    /// The worst check counts. Maintenance is a check that is critical; a word that we do not know is no good sign.
    fn health(&self) -> Health {
        let of = |check: &Check| match &*check.status {
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            _ => Health::Critical,
        };
        self.checks.iter().map(of).max().unwrap_or(Health::Passing)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
}

/// Why an instance is left out.
struct Unusable {
    id: String,
    why: &'static str,
    what: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: `{}`", shortened(&self.id), self.why, shortened(&self.what))
    }
}

/// The heaviest that a backend can be; Consul has the same limit.
const WEIGHT_MAX: i64 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance with these fields of its service, and these checks.
    fn entry(service: &str, checks: &str) -> String {
        format!(
            r#"{{"Node": {{"ID": "x", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "ams", "Meta": null}},
            "Service": {{"ID": "web-1", "Service": "web", "Port": 80, {service} "Meta": null}}, "Checks": {checks}}}"#
        )
    }

    fn one(service: &str, checks: &str) -> Instances {
        read(format!("[{}]", entry(service, checks)).as_bytes(), &[], None).expect("it is well-formed")
    }

    fn refused(text: &str) -> String {
        read(text.as_bytes(), &[], None).expect_err("it is refused").text().to_owned()
    }

    #[test]
    fn an_instance_is_an_endpoint() {
        let zone = Zone::new("ams");
        let text = format!("[{}]", entry("", "[]"));
        let read = read(text.as_bytes(), &[], zone.as_ref()).unwrap();
        let address: Address = "10.0.0.1:80".parse().unwrap();
        let id = "ams/n1/web-1".into();
        let expected = Found { id, address, weight: 1, zone, priority: 0, reported: Reported::Ready };
        assert_eq!(read, Instances { list: vec![expected], left_out: None });
        let address = |service| one(service, "null").list[0].address.to_string();
        assert_eq!(address(r#""Address": "","#), "10.0.0.1:80");
        assert_eq!(address(r#""Address": "10.0.0.9","#), "10.0.0.9:80");
        assert_eq!(address(r#""Address": "fd00::1","#), "[fd00::1]:80");
        assert_eq!(address(r#""Address": "[fd00::1]","#), "[fd00::1]:80");
    }

    #[test]
    fn checks_become_the_word_of_the_registry_and_a_weight() {
        let weights = r#""Weights": {"Passing": 7, "Warning": 2},"#;
        let status = |status: &[&str]| {
            let checks: Vec<_> =
                status.iter().map(|status| format!(r#"{{"CheckID": "c", "Status": "{status}"}}"#)).collect();
            let found = one(weights, &format!("[{}]", checks.join(","))).list.remove(0);
            (found.reported, found.weight)
        };
        assert_eq!(status(&[]), (Reported::Ready, 7));
        assert_eq!(status(&["passing", "passing"]), (Reported::Ready, 7));
        assert_eq!(status(&["passing", "warning"]), (Reported::Ready, 2));
        assert_eq!(status(&["critical", "passing", "warning"]), (Reported::NotReady, 7));
        assert_eq!(status(&["maintenance"]), (Reported::NotReady, 7));
        assert_eq!(status(&["splendid"]), (Reported::NotReady, 7));
        let weight =
            |passing: i64| one(&format!(r#""Weights": {{"Passing": {passing}, "Warning": 1}},"#), "[]").list[0].weight;
        assert_eq!([weight(0), weight(-1), weight(65_535), weight(1 << 40)], [0, 0, 65_535, 65_535]);
        assert_eq!(one(r#""Weights": null,"#, "[]").list[0].weight, 1);
    }

    #[test]
    fn tags_choose_among_the_instances() {
        let tags = |tags: &[&str]| {
            let text = format!("[{}]", entry(r#""Tags": ["a", "b"],"#, "[]"));
            let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
            read(text.as_bytes(), &tags, None).unwrap().list.len()
        };
        assert_eq!([tags(&[]), tags(&["a"]), tags(&["b", "a"]), tags(&["a", "c"]), tags(&["A"])], [1, 1, 1, 0, 0]);
        let none = format!("[{}]", entry(r#""Tags": null,"#, "[]"));
        assert_eq!(read(none.as_bytes(), &["a".into()], None).unwrap().list, []);
    }

    #[test]
    fn an_instance_that_cannot_be_used_is_left_out_alone() {
        for (service, why) in [
            (r#""Address": "web.local","#, "ams/n1/web-1: its address is a name or nothing: `web.local`"),
            (r#""Address": "10.0.0.1:80","#, "its address is a name or nothing"),
            (r#""Address": "\n\u0000","#, "its address is a name or nothing"),
        ] {
            let text = format!("[{}, {}, {}]", entry(service, "[]"), entry("", "[]"), entry(service, "[]"));
            let read = read(text.as_bytes(), &[], None).unwrap();
            let (count, first) = read.left_out.expect("two are left out");
            assert!(read.list.len() == 1 && count == 2 && first.contains(why), "{why}: {first}");
        }
        for port in ["0", "-1", "65536", "4294967376"] {
            let text = entry("", "[]").replace("\"Port\": 80", &format!("\"Port\": {port}"));
            let read = read(format!("[{text}]").as_bytes(), &[], None).unwrap();
            assert!(read.list.is_empty() && read.left_out.unwrap().1.contains("no port"), "{port}");
        }
    }

    #[test]
    fn what_is_no_list_of_instances_is_refused() {
        for (text, expected) in [
            ("", "empty"),
            ("{}", "expected an array"),
            ("\"rpc error\"", "expected an array"),
            ("[[]]", "expected an object"),
            ("[null]", "expected an object"),
            ("[{}]", "missing field `Node`"),
            (r#"[{"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": null}]"#, "invalid type: null"),
            ("[", "EOF"),
            ("[]]", "trailing"),
            ("<html>", "expected value"),
        ] {
            let said = refused(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
        let typed = entry("", "[]").replace("\"Port\": 80", "\"Port\": \"80\"");
        assert!(refused(&format!("[{typed}]")).contains("invalid type: string"));
        for empty in ["[]", "null", " [ ] "] {
            assert_eq!(read(empty.as_bytes(), &[], None), Ok(Instances { list: vec![], left_out: None }));
        }
    }
}
