//! What the fuzz targets of `fuzz/` call, and the seeded tests with them: any bytes go in, and rules that must hold for
//! all of them are asserted. Not for anything else.

use std::collections::HashSet;

use super::{consul, dns, etcd, kubernetes, records, xds};
use crate::source::{ERROR_MAX_BYTES, Found, SourceError};

/// A message of a name server is an answer to a question or is passed over.
///
/// # Panics
/// When a rule is broken.
pub fn dns_answer(message: &[u8]) {
    dns::any_answer(message);
}

/// What any registry sends is a list, or an error in a few words.
///
/// # Panics
/// When a rule is broken.
pub fn registry_answer(text: &[u8]) {
    check(records::json_list(text).and_then(records::in_order));
    check(records::toml_list(text).and_then(records::in_order));
    check(consul::any_answer(text));
    check(etcd::any_answer(text));
    check(kubernetes::any_answer(text));
    check(xds::any_answer(text));
}

fn check(list: Result<Vec<Found>, SourceError>) {
    match list {
        Ok(list) => {
            let ids: HashSet<_> = list.iter().map(|found| &found.id).collect();
            assert_eq!(ids.len(), list.len(), "an id is there twice");
            assert!(
                list.iter().all(|found| found.weight <= 65_535 && found.priority <= 127),
                "a number is out of range"
            );
        }
        Err(error) => assert!(error.text().len() <= ERROR_MAX_BYTES, "an error is too long"),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::xds::types::{self, HealthStatus};
    use super::*;

    /// Calls `target` with `sample` after a few changes, again and again.
    fn disturb(sample: &[u8], seed: u64, rounds: u32, target: fn(&[u8])) {
        let mut rng = balance::Rng::new(seed);
        for _ in 0..rounds {
            let mut bytes = sample.to_vec();
            for _ in 0..rng.below(4) {
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(3) {
                    0 => bytes[at] = rng.below(256) as u8,
                    1 => bytes[at] = sample[rng.below(sample.len() as u64) as usize],
                    _ => drop(bytes.remove(at)),
                }
            }
            bytes.truncate(rng.below(4 * sample.len() as u64) as usize);
            target(&bytes);
        }
    }

    #[test]
    fn any_answer_of_a_registry_is_a_list_or_an_error() {
        let samples = [
            r#"{"endpoints": [{"address": "10.0.0.1:80", "weight": 1, "zone": "ams"}, {"address": "10.0.0.2:80"}]}"#,
            "[[endpoints]]\naddress = \"10.0.0.1:80\"\nweight = 3\nlabels = { a = \"b\" }\n",
            r#"[{"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"ID": "w", "Port": 80}, "Checks": [{"Status": "passing"}]}]"#,
            r#"{"result": {"events": [{"kv": {"key": "YQ==", "value": "eyJhZGRyZXNzIjogIjEwLjAuMC4xOjEifQ=="}}]}}"#,
            r#"{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "zone": "a"}], "ports": [{"port": 80}]}]}"#,
            r#"{"type": "ADDED", "object": {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"name": "a", "resourceVersion": "7"}, "addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}], "ports": [{"port": 80}]}}"#,
            "current-context: a\ncontexts: [{name: a, context: {cluster: b, user: c}}]\nclusters:\n- name: b\n  cluster: {server: 'https://h'}\nusers:\n- name: c\n  user: &x {token: y}\n",
            r#"{"header": {"revision": "7"}, "kvs": [{"key": "YQ==", "value": "eyJhZGRyZXNzIjogIjEwLjAuMC4xOjEifQ=="}]}"#,
        ];
        for (seed, sample) in samples.iter().enumerate() {
            disturb(sample.as_bytes(), seed as u64, 2_000, registry_answer);
        }
    }

    #[test]
    fn any_answer_of_a_control_plane_is_a_list_or_an_error() {
        let up = types::with_health(HealthStatus::Degraded, types::with_weight(70_000, types::endpoint("10.0.0.1:80")));
        let groups =
            vec![types::locality("eu", "a", 1, vec![up]), types::locality("", "", 0, vec![types::endpoint("[::1]:8")])];
        let assignment = types::assignment("web", groups);
        let fixed = types::Cluster {
            load_assignment: Some(assignment.clone()),
            ..types::cluster("web", types::DiscoveryType::Static)
        };
        let samples = [
            assignment.encode_to_vec(),
            fixed.encode_to_vec(),
            types::clusters("1", "2", &fixed).encode_to_vec(),
            types::clusters("1", "2", &types::eds("web", "green")).encode_to_vec(),
            types::assignments("1", "2", &assignment).encode_to_vec(),
            types::response(types::CLUSTER, "1", vec![], &["web"]).encode_to_vec(),
        ];
        let empty = registry_list(&samples[5]);
        assert_eq!((registry_list(&samples[0]).len(), registry_list(&samples[2]).len(), empty.len()), (2, 2, 0));
        for (seed, sample) in samples.iter().enumerate() {
            disturb(sample, seed as u64, 2_000, registry_answer);
        }
    }

    fn registry_list(sample: &[u8]) -> Vec<Found> {
        xds::any_answer(sample).expect("an undisturbed sample is a list")
    }

    #[test]
    fn any_message_of_a_name_server_is_an_answer_or_is_passed_over() {
        let sample = b"\0\0\x81\x80\0\x01\0\x03\0\x01\0\0\x04_web\x04_tcp\0\0\x21\0\x01\
            \xc0\x0c\0\x21\0\x01\0\0\0\x05\0\x09\0\x01\0\x02\0\x50\x01a\0\
            \xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x04\x01b\xc0\x11\
            \x01a\0\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01\
            \0\0\x06\0\x01\0\0\0\x05\0\x16\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x1e";
        disturb(sample, 53, 30_000, dns_answer);
    }
}
