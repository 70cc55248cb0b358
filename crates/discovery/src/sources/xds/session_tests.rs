//! Conversations, with answers in the types that are generated from Envoy's definitions.

use std::collections::HashMap;

use prost::Message;
use xds_api::pb::envoy::config::cluster::v3::cluster::CommonLbConfig;
use xds_api::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};

use super::super::types::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryType, HealthStatus};
use super::*;

/// A conversation, and what the other side has read of ours.
struct Talk {
    session: Session,
    said: Vec<DeltaDiscoveryRequest>,
    now_ms: u64,
}

impl Talk {
    fn new() -> Self {
        Self::knowing(Known::default())
    }

    fn knowing(known: Known) -> Self {
        let node = Node { id: "edge-1".into(), cluster: "edge".into() };
        let question = Question { cluster: "web".into(), node, zone: None, patience_ms: 1_000 };
        let (session, requests) = Session::begin(question, known, 0);
        Self { session, said: requests.iter().map(decoded).collect(), now_ms: 0 }
    }

    /// After the cluster and two endpoints.
    fn settled() -> Self {
        let mut talk = Self::new();
        talk.hears(&types::clusters("1", "c1", &types::eds("web", "")));
        talk.hears(&types::assignments("2", "a1", &types::endpoints("web", &["10.0.0.1:80", "10.0.0.2:80"])));
        assert!(talk.session.is_settled());
        talk.said.clear();
        talk
    }

    fn hears(&mut self, response: &DeltaDiscoveryResponse) -> Step {
        self.now_ms += 10;
        let step = self.session.hear(&response.encode_to_vec(), self.now_ms).expect("it is an answer");
        self.said.extend(step.requests.iter().map(decoded));
        step
    }

    /// What has been said since this was asked last.
    fn said(&mut self) -> Vec<DeltaDiscoveryRequest> {
        std::mem::take(&mut self.said)
    }

    /// Hears an answer that must be refused. Returns why.
    fn refuses(&mut self, response: &DeltaDiscoveryResponse) -> String {
        let (before, list) = (self.said.len(), self.list());
        let step = self.hears(response);
        let [reply] = &self.said[before..] else { panic!("a refusal is one reply") };
        assert_eq!((&reply.type_url, &reply.response_nonce), (&response.type_url, &response.nonce));
        let detail = reply.error_detail.as_ref().expect("it is refused");
        assert_eq!((detail.code, Some(&detail.message)), (3, step.refusal.as_ref()));
        assert!(!step.is_news && step.ended.is_empty());
        assert_eq!(self.list(), list, "what was known stands");
        detail.message.clone()
    }

    fn list(&self) -> Option<Vec<String>> {
        let ids = |it: Assignment| it.found.iter().map(|found| found.id.to_string()).collect();
        self.session.known().list().map(ids)
    }
}

fn decoded(request: &Request) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest::decode(&request.encode()[..]).expect("our requests can be read")
}

fn reply(type_url: &str, nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: type_url.into(), response_nonce: nonce.into(), ..Default::default() }
}

fn subscription(type_url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..Default::default()
    }
}

fn addresses(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(ToString::to_string).collect())
}

#[test]
fn the_cluster_is_asked_for_first_and_then_the_endpoints_that_it_names() {
    let mut talk = Talk::new();
    let said = talk.said();
    let [first] = &said[..] else { panic!("one request begins") };
    let node = first.node.clone().expect("the first says who asks");
    assert_eq!(
        (node.id.as_str(), node.cluster.as_str(), node.user_agent_name.as_str()),
        ("edge-1", "edge", "dislocate")
    );
    let without_node = DeltaDiscoveryRequest { node: None, ..first.clone() };
    assert_eq!(without_node, subscription(types::CLUSTER, &["web"], &[]));
    assert_eq!((talk.list(), talk.session.deadline_ms()), (None, Some(1_000)), "no answer is not an empty one");

    talk.hears(&types::clusters("1", "c1", &types::eds("web", "web/v2")));
    assert_eq!(talk.said(), [reply(types::CLUSTER, "1"), subscription(types::ASSIGNMENT, &["web/v2"], &[])]);
    assert_eq!((talk.list(), talk.session.deadline_ms()), (None, Some(1_000)), "nor is half of it");

    talk.hears(&types::assignments("2", "a1", &types::endpoints("web/v2", &["10.0.0.1:80"])));
    assert_eq!(talk.said(), [reply(types::ASSIGNMENT, "2")]);
    assert_eq!((talk.list(), talk.session.deadline_ms()), (addresses(&["10.0.0.1:80"]), None));
}

#[test]
fn every_answer_is_replied_to_by_its_own_nonce_in_whatever_order_they_count() {
    let mut talk = Talk::settled();
    for nonce in ["9", "3", "3", "", "x y"] {
        talk.hears(&types::assignments(nonce, nonce, &types::endpoints("web", &["10.0.0.7:80"])));
        assert_eq!(talk.said(), [reply(types::ASSIGNMENT, nonce)]);
        assert_eq!(talk.list(), addresses(&["10.0.0.7:80"]));
    }
}

#[test]
fn a_cluster_with_endpoints_of_its_own_needs_no_more() {
    let mut talk = Talk::settled();
    let load_assignment = Some(types::endpoints("", &["10.0.0.9:80"]));
    let fixed = types::Cluster { load_assignment, ..types::cluster("web", DiscoveryType::Static) };
    talk.hears(&types::clusters("3", "c2", &fixed));
    assert_eq!(talk.said(), [reply(types::CLUSTER, "3"), subscription(types::ASSIGNMENT, &[], &["web"])]);
    assert_eq!((talk.list(), talk.session.is_settled()), (addresses(&["10.0.0.9:80"]), true));

    let step = talk.hears(&types::assignments("4", "a2", &types::endpoints("web", &["10.0.0.1:80"])));
    assert_eq!((talk.said(), step.is_news), (vec![reply(types::ASSIGNMENT, "4")], false), "a late word is accepted");
    assert_eq!(talk.list(), addresses(&["10.0.0.9:80"]), "and not believed");
}

#[test]
fn a_cluster_that_names_other_endpoints_keeps_the_old_ones_until_they_are_known() {
    let mut talk = Talk::settled();
    talk.hears(&types::clusters("3", "c2", &types::eds("web", "green")));
    assert_eq!(talk.said(), [reply(types::CLUSTER, "3"), subscription(types::ASSIGNMENT, &["green"], &["web"])]);
    assert_eq!(talk.list(), None, "nothing is told");
    assert!(talk.session.waiting_for().unwrap().contains("`green`, the endpoints of cluster `web`"));
    let step = talk.hears(&types::assignments("4", "a1", &types::endpoints("web", &[])));
    assert_eq!((talk.list(), step.is_news), (None, false), "the old ones are no answer");
    talk.hears(&types::assignments("5", "g1", &types::endpoints("green", &["10.0.0.8:80"])));
    assert_eq!((talk.list(), talk.session.is_settled()), (addresses(&["10.0.0.8:80"]), true));
}

#[test]
fn a_cluster_that_changes_otherwise_does_not_wait_for_endpoints_again() {
    let mut talk = Talk::settled();
    talk.hears(&types::clusters("3", "c2", &types::eds("web", "web")));
    assert_eq!(talk.said(), [reply(types::CLUSTER, "3")]);
    assert!(talk.session.is_settled());
    assert_eq!(talk.list(), addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
}

#[test]
fn endpoints_are_weighed_anew_when_the_cluster_does_it_otherwise() {
    let mut talk = Talk::settled();
    let mut light = types::locality("", "a", 0, vec![types::endpoint("10.0.0.1:80")]);
    light.load_balancing_weight = None;
    let heavy = types::locality("", "b", 0, vec![types::endpoint("10.0.0.2:80")]);
    talk.hears(&types::assignments("3", "a2", &types::assignment("web", vec![light, heavy])));
    let weights = |talk: &Talk| -> Vec<u32> {
        talk.session.known().list().expect("it is known").found.iter().map(|found| found.weight).collect()
    };
    assert_eq!(weights(&talk), [1, 1]);
    let specifier = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
    let common = CommonLbConfig { locality_config_specifier: Some(specifier), ..Default::default() };
    let weighed = types::Cluster { common_lb_config: Some(common), ..types::eds("web", "") };
    let step = talk.hears(&types::clusters("4", "c2", &weighed));
    assert_eq!((step.is_news, weights(&talk)), (true, vec![0, 65_535]));
    // Who has no share has not drained.
    let step = talk.hears(&types::assignments("5", "a3", &types::endpoints("web", &["10.0.0.2:80"])));
    assert!(step.ended.is_empty());
}

#[test]
fn what_is_told_to_be_gone_is_gone_and_comes_back() {
    let mut talk = Talk::settled();
    let step = talk.hears(&types::response(types::ASSIGNMENT, "3", vec![], &["other", "web"]));
    assert_eq!((step.is_news, talk.list(), talk.session.is_settled()), (true, addresses(&[]), true));
    talk.hears(&types::assignments("4", "a1", &types::endpoints("web", &["10.0.0.1:80"])));
    assert_eq!(talk.list(), addresses(&["10.0.0.1:80"]), "the same version is believed when it comes");
    talk.said();

    talk.hears(&types::response(types::CLUSTER, "5", vec![], &["web"]));
    assert_eq!(talk.said(), [reply(types::CLUSTER, "5"), subscription(types::ASSIGNMENT, &[], &["web"])]);
    assert_eq!((talk.list(), talk.session.is_settled()), (addresses(&[]), true));
    talk.hears(&types::clusters("6", "c1", &types::eds("web", "")));
    assert_eq!(talk.said(), [reply(types::CLUSTER, "6"), subscription(types::ASSIGNMENT, &["web"], &[])]);
    assert_eq!((talk.list(), talk.session.is_settled()), (None, false));
}

#[test]
fn what_is_said_of_others_changes_nothing() {
    let mut talk = Talk::settled();
    let others = vec![
        types::resource("a", "1", types::ASSIGNMENT, &types::endpoints("a", &["10.9.9.9:80"])),
        types::resource("b", "1", "type.googleapis.com/what.is.this", &types::endpoints("b", &[])),
        types::resource("", "1", types::ASSIGNMENT, &types::endpoints("web", &[])),
    ];
    let step = talk.hears(&types::response(types::ASSIGNMENT, "3", others, &["c"]));
    assert_eq!((talk.said(), step.is_news), (vec![reply(types::ASSIGNMENT, "3")], false));
    assert_eq!(talk.list(), addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
}

#[test]
fn an_answer_that_cannot_be_used_is_refused_and_what_was_known_stands() {
    let good = types::endpoints("web", &["10.0.0.5:80"]);
    let resource = |type_url: &str| types::resource("web", "a2", type_url, &good);
    let mut broken = resource(types::ASSIGNMENT);
    broken.resource.as_mut().unwrap().value = b"\x12\x7f".to_vec();
    let mut bare = resource(types::ASSIGNMENT);
    bare.resource = None;
    let cases = [
        (types::response(types::ASSIGNMENT, "3", vec![broken], &[]), "cannot be decoded"),
        (
            types::response(types::ASSIGNMENT, "3", vec![resource(types::CLUSTER)], &[]),
            "is of type type.googleapis.com",
        ),
        (types::response(types::ASSIGNMENT, "3", vec![resource("")], &[]), "is of type"),
        (types::response(types::ASSIGNMENT, "3", vec![bare], &[]), "`web` is empty"),
        (types::response(types::ASSIGNMENT, "3", vec![resource(types::ASSIGNMENT); 2], &[]), "`web` is there twice"),
        (types::response(types::ASSIGNMENT, "3", vec![resource(types::ASSIGNMENT)], &["web"]), "told to be gone"),
        (types::assignments("3", "a2", &types::endpoints("web", &["db.example:80"])), "db.example"),
        (types::clusters("3", "c2", &types::cluster("web", DiscoveryType::OriginalDst)), "ORIGINAL_DST"),
    ];
    for (answer, expected) in cases {
        let mut talk = Talk::settled();
        let why = talk.refuses(&answer);
        assert!(why.contains(expected), "{why}");
        // It is trouble until something better comes.
        assert_eq!(talk.session.waiting_for(), Some(format!("refused: {why}")));
        let deadline_ms = talk.session.deadline_ms().expect("patience is limited");
        talk.refuses(&answer);
        assert_eq!(talk.session.deadline_ms(), Some(deadline_ms), "and is not renewed by more of it");
        assert!(talk.session.has_refused());
        if answer.type_url == types::ASSIGNMENT {
            talk.hears(&types::clusters("4", "c2", &types::eds("web", "")));
            assert!(!talk.session.is_settled(), "the other kind of answer does not mend it");
            talk.hears(&types::assignments("5", "a3", &good));
        } else {
            let step = talk.hears(&types::assignments("4", "a3", &good));
            assert!(step.is_news && !talk.session.is_settled(), "endpoints go on all the same");
            talk.hears(&types::clusters("5", "c3", &types::eds("web", "")));
        }
        assert_eq!((talk.list(), talk.session.deadline_ms()), (addresses(&["10.0.0.5:80"]), None));
    }
}

#[test]
fn what_nobody_asked_for_is_refused_and_no_trouble() {
    let mut talk = Talk::settled();
    let why = talk.refuses(&types::response("type.googleapis.com/envoy.config.listener.v3.Listener", "3", vec![], &[]));
    assert!(why.contains("nobody asked"), "{why}");
    assert!(talk.session.is_settled());
}

#[test]
fn what_is_no_answer_ends_the_conversation() {
    let mut talk = Talk::settled();
    let long = types::response(types::ASSIGNMENT, &"9".repeat(NONCE_MAX_BYTES + 1), vec![], &[]);
    for bytes in [&b"\x22"[..], b"\x22\x02\xff\xff", b"\x10\x01", &long.encode_to_vec()] {
        assert!(talk.session.hear(bytes, 0).is_err(), "{bytes:?}");
    }
    assert_eq!(talk.list(), addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
}

#[test]
fn a_sign_of_life_of_what_is_known_is_accepted() {
    let mut talk = Talk::settled();
    let beat = |version: &str| {
        let mut beat = types::resource("web", version, types::ASSIGNMENT, &types::endpoints("web", &[]));
        beat.resource = None;
        types::response(types::ASSIGNMENT, "3", vec![beat], &[])
    };
    let step = talk.hears(&beat("a1"));
    assert!(!step.is_news && step.refusal.is_none());
    assert!(talk.refuses(&beat("a2")).contains("is empty"), "of what is not known it is none");
}

#[test]
fn a_new_stream_says_what_is_known_and_need_not_be_told_again() {
    let known = Talk::settled().session.known().clone();
    let mut talk = Talk::knowing(known.clone());
    let said = talk.said();
    let versions: Vec<_> = said.iter().map(|it| (it.type_url.as_str(), it.initial_resource_versions.clone())).collect();
    let expected = |version: &str| HashMap::from([("web".to_owned(), version.to_owned())]);
    assert_eq!(versions, [(types::CLUSTER, expected("c1")), (types::ASSIGNMENT, expected("a1"))]);
    assert!(said.iter().all(|it| it.resource_names_subscribe == ["web"]) && said[1].node.is_none());
    assert_eq!((talk.list(), talk.session.deadline_ms()), (addresses(&["10.0.0.1:80", "10.0.0.2:80"]), None));

    // Of what was gone, and of a version that cannot be repeated, nothing is said.
    let mut talk = Talk::knowing(known);
    talk.hears(&types::response(types::ASSIGNMENT, "1", vec![], &["web"]));
    talk.hears(&types::clusters("2", &"9".repeat(VERSION_MAX_BYTES + 1), &types::eds("web", "")));
    let said = Talk::knowing(talk.session.known().clone()).said();
    assert_eq!(said.len(), 2);
    assert!(said.iter().all(|it| it.initial_resource_versions.is_empty()));
}

#[test]
fn who_drained_and_is_gone_was_taken_away_and_nobody_else() {
    let mut talk = Talk::settled();
    let draining = |address: &str| types::with_health(HealthStatus::Draining, types::endpoint(address));
    let it = types::locality(
        "",
        "",
        0,
        vec![draining("10.0.0.1:80"), draining("10.0.0.2:80"), types::endpoint("10.0.0.3:80")],
    );
    let step = talk.hears(&types::assignments("3", "a2", &types::assignment("web", vec![it])));
    assert!(step.ended.is_empty());
    let step = talk.hears(&types::assignments("4", "a3", &types::endpoints("web", &["10.0.0.2:80"])));
    assert_eq!(step.ended, ["10.0.0.1:80".into()]);
    let it = types::locality("", "", 0, vec![draining("10.0.0.2:80")]);
    talk.hears(&types::assignments("5", "a4", &types::assignment("web", vec![it])));
    let step = talk.hears(&types::response(types::ASSIGNMENT, "6", vec![], &["web"]));
    assert!(step.ended.is_empty(), "that all of it is gone says nothing of each");
}

/// Whatever a control plane says, in whatever order: what is known changes only by answers that are accepted, each
/// answer has one reply, and somebody always either knows or waits.
#[test]
fn any_conversation_keeps_what_was_accepted_last() {
    for seed in 0..300 {
        let mut rng = balance::Rng::new(seed);
        let mut talk = Talk::new();
        let mut eds_name = None::<&str>;
        let mut fixed: Option<Vec<String>> = None;
        let mut assigned: Option<Vec<String>> = None;
        for step in 0..40 {
            let nonce = step.to_string();
            let address = format!("10.0.0.{}:80", rng.below(5) + 1);
            let name = ["web", "green"][rng.below(2) as usize];
            talk.said();
            match rng.below(8) {
                0 => {
                    talk.hears(&types::clusters(&nonce, &nonce, &types::eds("web", name)));
                    if eds_name != Some(name) {
                        assigned = None;
                    }
                    (eds_name, fixed) = (Some(name), None);
                }
                1 => {
                    let load_assignment = Some(types::endpoints("", &[&address]));
                    let it = types::Cluster { load_assignment, ..types::cluster("web", DiscoveryType::Static) };
                    talk.hears(&types::clusters(&nonce, &nonce, &it));
                    (eds_name, fixed, assigned) = (None, Some(vec![address]), None);
                }
                2 => {
                    talk.hears(&types::response(types::CLUSTER, &nonce, vec![], &["web"]));
                    (eds_name, fixed, assigned) = (None, Some(vec![]), None);
                }
                3 | 4 => {
                    talk.hears(&types::assignments(&nonce, &nonce, &types::endpoints(name, &[&address])));
                    if eds_name == Some(name) {
                        assigned = Some(vec![address]);
                    }
                }
                5 => {
                    talk.hears(&types::response(types::ASSIGNMENT, &nonce, vec![], &[name]));
                    if eds_name == Some(name) {
                        assigned = Some(vec![]);
                    }
                }
                6 => drop(talk.hears(&types::assignments(&nonce, &nonce, &types::endpoints(name, &["x:80"])))),
                _ => drop(talk.hears(&types::clusters(
                    &nonce,
                    &nonce,
                    &types::cluster("web", DiscoveryType::OriginalDst),
                ))),
            }
            let replies = talk.said.iter().filter(|it| it.response_nonce == nonce).count();
            assert_eq!(replies, 1, "seed {seed}, step {step}: an answer has one reply");
            let expected = fixed.clone().or_else(|| assigned.clone());
            assert_eq!(talk.list(), expected, "seed {seed}, step {step}");
            let (is_waiting, deadline_ms) = (!talk.session.is_settled(), talk.session.deadline_ms());
            assert_eq!(is_waiting, deadline_ms.is_some(), "seed {seed}, step {step}: who waits has an end");
            assert!(expected.is_some() || is_waiting, "seed {seed}, step {step}");
        }
    }
}
