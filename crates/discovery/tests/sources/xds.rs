//! Endpoints from a control plane: a server of this test that gives every answer one has been seen to give, in the types
//! that are generated from Envoy's definitions.

use std::sync::Arc;
use std::time::Duration;

use balance::Reported;
use discovery::Event;
use discovery::sources::{XdsSettings, XdsSource};

use crate::support::{PATIENCE, Run, soon};
use crate::xds_server::{ControlPlane, Talk};
use crate::xds_types::{
    ASSIGNMENT, CLUSTER, Cluster, DeltaDiscoveryRequest, DiscoveryType, HealthStatus, assignment, assignments, cluster,
    clusters, eds, endpoint, endpoints, locality, resource, response, with_health,
};

pub fn settings(plane: &ControlPlane) -> XdsSettings {
    XdsSettings { node_id: "edge-1".into(), timeout: PATIENCE, ..XdsSettings::new("web", vec![plane.url()]) }
}

/// With little patience, for what never comes.
pub fn hasty(plane: &ControlPlane) -> XdsSettings {
    XdsSettings { timeout: Duration::from_millis(300), ..settings(plane) }
}

pub fn source(settings: XdsSettings) -> Arc<XdsSource> {
    Arc::new(XdsSource::new(settings).expect("good settings"))
}

impl Talk {
    /// The next message of the client, which is still there.
    pub async fn heard(&mut self) -> DeltaDiscoveryRequest {
        soon(self.request()).await.expect("the client is there")
    }

    /// Asserts that the answer of this nonce is accepted.
    pub async fn accepted(&mut self, nonce: &str) {
        let reply = self.heard().await;
        assert_eq!((reply.response_nonce.as_str(), reply.error_detail), (nonce, None));
    }

    /// Why the answer of this nonce is refused.
    async fn refused(&mut self, nonce: &str) -> String {
        let reply = self.heard().await;
        assert_eq!(reply.response_nonce, nonce);
        reply.error_detail.expect("it is refused").message
    }

    /// Answers the first questions with a cluster of type EDS and its endpoints.
    async fn introduces(&mut self, addresses: &[&str]) {
        let question = self.heard().await;
        assert_eq!(
            (question.type_url.as_str(), &question.resource_names_subscribe[..]),
            (CLUSTER, &["web".into()][..])
        );
        self.send(&clusters("c", "c1", &eds("web", "")));
        self.accepted("c").await;
        let question = self.heard().await;
        assert_eq!(
            (question.type_url.as_str(), &question.resource_names_subscribe[..]),
            (ASSIGNMENT, &["web".into()][..])
        );
        self.send(&assignments("a", "a1", &endpoints("web", addresses)));
        self.accepted("a").await;
    }
}

/// A run that has told of two endpoints, and its stream.
pub async fn settled(source: &Arc<XdsSource>, plane: &mut ControlPlane) -> (Run, Talk) {
    let mut run = Run::again(source);
    let mut talk = soon(plane.talk()).await;
    talk.introduces(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"]);
    (run, talk)
}

#[tokio::test]
async fn a_cluster_and_its_endpoints_are_followed_on_one_stream() {
    let mut plane = ControlPlane::start().await;
    let (mut run, mut talk) = settled(&source(settings(&plane)), &mut plane).await;
    assert_eq!(talk.head.uri.path(), "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
    assert_eq!((talk.head.method.as_str(), talk.head.uri.scheme_str()), ("POST", Some("http")));
    assert_eq!(talk.head.headers["content-type"], "application/grpc");
    assert_eq!(talk.head.headers["te"], "trailers");
    assert!(!talk.head.headers.contains_key("authorization"));

    // Everything that an endpoint can have.
    let up = locality("eu", "eu-1a", 0, vec![endpoint("10.0.0.1:80")]);
    let rest = vec![
        with_health(HealthStatus::Unhealthy, endpoint("10.0.0.3:80")),
        with_health(HealthStatus::Draining, endpoint("10.0.0.4:80")),
    ];
    talk.send(&assignments("2", "a2", &assignment("web", vec![up, locality("us", "us-2b", 1, rest)])));
    talk.accepted("2").await;
    let rows: Vec<_> =
        run.list().await.into_iter().map(|it| (it.id, it.weight, it.zone, it.priority, it.reported)).collect();
    let (eu, us) = (balance::Zone::new("eu/eu-1a"), balance::Zone::new("us/us-2b"));
    let expected = [
        ("10.0.0.1:80".into(), 1, eu, 0, Reported::Ready),
        ("10.0.0.3:80".into(), 1, us.clone(), 1, Reported::NotReady),
        ("10.0.0.4:80".into(), 0, us, 1, Reported::Ready),
    ];
    assert_eq!(rows, expected);

    // Who drained is taken away; who did not is lost to a list.
    talk.send(&assignments("3", "a3", &endpoints("web", &["10.0.0.3:80"])));
    talk.accepted("3").await;
    assert_eq!(run.event().await, Event::Remove(vec!["10.0.0.4:80".into()]));
    assert_eq!(run.ids().await, ["10.0.0.3:80"]);

    // The same again, others, and nothing at all are signs of life.
    talk.send(&assignments("4", "a4", &endpoints("web", &["10.0.0.3:80"])));
    talk.send(&assignments("5", "x1", &endpoints("other", &["10.9.9.9:80"])));
    talk.send(&response(CLUSTER, "6", vec![], &[]));
    for nonce in ["4", "5", "6"] {
        talk.accepted(nonce).await;
        run.alive().await;
    }
    assert!(plane.is_idle(), "all of it is one stream");
}

#[tokio::test]
async fn nothing_is_told_before_all_is_known_and_silence_is_an_error() {
    let mut plane = ControlPlane::start().await;
    let source = source(hasty(&plane));
    // Silence from the beginning, and after the cluster.
    let run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    talk.heard().await;
    assert_eq!(run.error().await, "no answer about cluster `web` in 300 ms");

    let run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    talk.heard().await;
    talk.send(&clusters("1", "c1", &eds("web", "web/v2")));
    talk.accepted("1").await;
    talk.heard().await;
    // Words about others are no answer.
    talk.send(&assignments("2", "x1", &endpoints("web", &["10.9.9.9:80"])));
    talk.accepted("2").await;
    assert_eq!(run.error().await, "no answer about `web/v2`, the endpoints of cluster `web` in 300 ms");
}

#[tokio::test]
async fn an_empty_assignment_and_a_removal_are_lists_for_the_guard() {
    let mut plane = ControlPlane::start().await;
    let (mut run, mut talk) = settled(&source(settings(&plane)), &mut plane).await;
    talk.send(&assignments("1", "a2", &endpoints("web", &[])));
    talk.accepted("1").await;
    assert_eq!(run.ids().await, [""; 0], "a list, and no removal one by one");
    talk.send(&assignments("2", "a3", &endpoints("web", &["10.0.0.1:80"])));
    talk.accepted("2").await;
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);

    talk.send(&response(ASSIGNMENT, "3", vec![], &["web"]));
    talk.accepted("3").await;
    assert_eq!(run.ids().await, [""; 0]);
    talk.send(&assignments("4", "a3", &endpoints("web", &["10.0.0.2:80"])));
    talk.accepted("4").await;
    assert_eq!(run.ids().await, ["10.0.0.2:80"], "it came back");

    talk.send(&response(CLUSTER, "5", vec![], &["web"]));
    talk.accepted("5").await;
    assert_eq!(talk.heard().await.resource_names_unsubscribe, ["web"]);
    assert_eq!(run.ids().await, [""; 0]);
    talk.send(&clusters("6", "c1", &eds("web", "green")));
    talk.accepted("6").await;
    assert_eq!(talk.heard().await.resource_names_subscribe, ["green"]);
    talk.send(&assignments("7", "g1", &endpoints("green", &["10.0.0.3:80"])));
    talk.accepted("7").await;
    assert_eq!(run.ids().await, ["10.0.0.3:80"]);
}

#[tokio::test]
async fn a_first_answer_that_there_is_no_such_cluster_is_an_empty_list() {
    let mut plane = ControlPlane::start().await;
    let mut run = Run::again(&source(settings(&plane)));
    let mut talk = soon(plane.talk()).await;
    talk.heard().await;
    talk.send(&response(CLUSTER, "1", vec![], &["web"]));
    talk.accepted("1").await;
    assert_eq!(run.ids().await, [""; 0]);
}

#[tokio::test]
async fn a_cluster_may_have_its_endpoints_itself_but_no_names() {
    let mut plane = ControlPlane::start().await;
    let source = source(hasty(&plane));
    let mut run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    talk.heard().await;
    let with =
        |kind, address: &str| Cluster { load_assignment: Some(endpoints("web", &[address])), ..cluster("web", kind) };
    talk.send(&clusters("1", "c1", &with(DiscoveryType::Static, "10.0.0.1:80")));
    talk.accepted("1").await;
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    talk.send(&clusters("2", "c2", &with(DiscoveryType::StrictDns, "10.0.0.2:80")));
    talk.accepted("2").await;
    assert_eq!(run.ids().await, ["10.0.0.2:80"]);

    talk.send(&clusters("3", "c3", &with(DiscoveryType::StrictDns, "db.example:80")));
    let why = talk.refused("3").await;
    let error = run.error().await;
    assert_eq!(error, format!("refused: {why}"), "the control plane and the operator are told the same");
    assert!(error.contains("`db.example` is not an IP address; for names there are sources of kind dns"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_and_mended_on_the_same_stream() {
    let mut plane = ControlPlane::start().await;
    let (mut run, mut talk) = settled(&source(settings(&plane)), &mut plane).await;
    let good = endpoints("web", &["10.0.0.3:80"]);
    let mut broken = resource("web", "a2", ASSIGNMENT, &good);
    broken.resource.as_mut().unwrap().value = b"\x12\x7f\x00".to_vec();
    let cases = [
        (vec![broken], "cannot be decoded"),
        (vec![resource("web", "a2", CLUSTER, &good)], "is of type"),
        (vec![resource("web", "a2", ASSIGNMENT, &endpoints("web", &["nowhere:80"]))], "not an IP address"),
        (vec![resource("web", "a2", ASSIGNMENT, &endpoints("other", &["10.0.0.9:80"]))], "under the name `other`"),
    ];
    for (number, (resources, expected)) in cases.into_iter().enumerate() {
        talk.send(&response(ASSIGNMENT, &number.to_string(), resources, &[]));
        let why = talk.refused(&number.to_string()).await;
        assert!(why.contains(expected), "{why}");
    }
    talk.send(&response("type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "r", vec![], &[]));
    assert!(talk.refused("r").await.contains("nobody asked"));
    talk.send(&assignments("9", "a3", &good));
    talk.accepted("9").await;
    assert_eq!(run.ids().await, ["10.0.0.3:80"], "nothing was told meanwhile, and the source has not failed");
}

#[tokio::test]
async fn what_stays_refused_fails_the_source_and_goes_on_being_followed() {
    let mut plane = ControlPlane::start().await;
    let source = source(hasty(&plane));
    let (run, mut talk) = settled(&source, &mut plane).await;
    talk.send(&clusters("1", "c2", &cluster("web", DiscoveryType::OriginalDst)));
    let why = talk.refused("1").await;
    assert_eq!(run.error().await, format!("refused: {why}"));

    // The next stream says the version that was accepted, so the other is told again.
    let mut run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    assert_eq!(talk.heard().await.initial_resource_versions["web"], "c1");
    assert_eq!(talk.heard().await.initial_resource_versions["web"], "a1");
    talk.send(&clusters("1", "c2", &cluster("web", DiscoveryType::OriginalDst)));
    talk.refused("1").await;
    talk.send(&assignments("2", "a2", &endpoints("web", &["10.0.0.3:80"])));
    talk.accepted("2").await;
    assert_eq!(run.ids().await, ["10.0.0.3:80"], "the endpoints of the old cluster go on");
    assert_eq!(run.error().await, format!("refused: {why}"));
}

#[tokio::test]
async fn a_long_list_among_thousands_of_others_is_taken_whole() {
    let mut plane = ControlPlane::start().await;
    let mut run = Run::again(&source(settings(&plane)));
    let mut talk = soon(plane.talk()).await;
    talk.heard().await;
    // As by those who send every cluster, whatever is asked for.
    let mut all: Vec<_> = (0..3_000).map(|n| resource(&format!("other-{n}"), "1", CLUSTER, &eds("x", "y"))).collect();
    all.insert(1_500, resource("web", "c1", CLUSTER, &eds("web", "")));
    talk.send(&response(CLUSTER, "1", all, &[]));
    talk.accepted("1").await;
    talk.heard().await;
    let addresses: Vec<String> = (0..20_000).map(|n| format!("10.1.{}.{}:80", n / 250, n % 250 + 1)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    talk.send(&assignments("2", "a1", &endpoints("web", &addresses)));
    talk.accepted("2").await;
    assert_eq!(run.ids().await.len(), 20_000);
}
