//! Written in the types that are generated from Envoy's definitions.

use prost::Message;
use xds_api::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
};
use xds_api::pb::envoy::config::cluster::v3::cluster::{CommonLbConfig, CustomClusterType};
use xds_api::pb::envoy::config::core::v3 as core_v3;
use xds_api::pb::envoy::config::endpoint::v3::locality_lb_endpoints::{LbConfig, LbEndpointList};
use xds_api::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LedsClusterLocalityConfig};
use xds_api::pb::google::protobuf::UInt32Value;

use super::super::types::{self, ClusterDiscoveryType, ConfigSourceSpecifier, DiscoveryType, HealthStatus};
use super::super::types::{HostIdentifier, Place, PortSpecifier, SocketAddress};
use super::*;

type Row = (String, u32, Option<String>, u8, Reported);

fn read(it: &ClusterLoadAssignment, ours: Option<&str>) -> Result<Vec<Row>, String> {
    let ours = ours.map(|name| Zone::new(name).expect("a zone"));
    Ok(rows(&assignment("web", &it.encode_to_vec(), ours.as_ref())?))
}

fn rows(assignment: &Assignment) -> Vec<Row> {
    let zone = |it: &Found| it.zone.as_ref().map(ToString::to_string);
    let row = |it: &Found| (it.address.to_string(), it.weight, zone(it), it.priority, it.reported);
    assignment.found.iter().inspect(|it| assert_eq!(*it.id, *it.address.to_string())).map(row).collect()
}

/// One locality without a name.
fn of(endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
    types::assignment("web", vec![types::locality("", "", 0, endpoints)])
}

#[test]
fn an_endpoint_has_what_its_locality_and_it_itself_say() {
    let it = types::assignment(
        "web",
        vec![
            types::locality("eu", "eu-1a", 0, vec![types::endpoint("10.0.0.2:80"), types::endpoint("[::1]:81")]),
            types::locality("us", "", 1, vec![types::with_weight(7, types::endpoint("[::ffff:10.0.0.1]:80"))]),
        ],
    );
    let expected = [
        ("10.0.0.1:80".to_owned(), 7, Some("us".to_owned()), 1, Reported::Ready),
        ("10.0.0.2:80".to_owned(), 1, Some("eu/eu-1a".to_owned()), 0, Reported::Ready),
        ("[::1]:81".to_owned(), 1, Some("eu/eu-1a".to_owned()), 0, Reported::Ready),
    ];
    assert_eq!(read(&it, None), Ok(expected.into()));
    assert_eq!(read(&types::assignment("web", vec![]), None), Ok(vec![]), "nobody is an answer");
}

#[test]
fn a_locality_is_a_zone_as_far_as_its_names_can_be() {
    let cases = [
        ("eu", "eu-1a", None, Some("eu/eu-1a")),
        ("", "eu-1a", None, Some("eu-1a")),
        ("eu", "", None, Some("eu")),
        ("", "", None, None),
        ("e u", "a", None, None),
        ("eu/x", "", None, None),
        ("eu/x", "a", None, None),
        ("eu", "a/b", None, Some("eu")),
        ("eu", "eu-1a", Some("fra"), Some("fra/eu-1a")),
        ("eu", "", Some("fra"), Some("fra")),
        ("", "", Some("fra"), Some("fra")),
        ("eu", "a b", Some("fra"), Some("fra")),
        ("eu", "eu-1a", Some("fra/x"), Some("fra/x")),
    ];
    for (region, zone, ours, expected) in cases {
        let it = types::assignment("web", vec![types::locality(region, zone, 0, vec![types::endpoint("10.0.0.1:80")])]);
        let read = read(&it, ours).expect("it can be read");
        assert_eq!(read[0].2.as_deref(), expected, "{region:?} {zone:?} in {ours:?}");
    }
}

#[test]
fn health_decides_who_gets_new_sessions() {
    let cases = [
        (HealthStatus::Unknown, (5, 0, Reported::Ready)),
        (HealthStatus::Healthy, (5, 0, Reported::Ready)),
        (HealthStatus::Unhealthy, (5, 0, Reported::NotReady)),
        (HealthStatus::Draining, (0, 0, Reported::Ready)),
        (HealthStatus::Timeout, (5, 0, Reported::NotReady)),
        (HealthStatus::Degraded, (5, 1, Reported::Ready)),
    ];
    for (health, expected) in cases {
        let it = of(vec![types::with_health(health, types::with_weight(5, types::endpoint("10.0.0.1:80")))]);
        let read = read(&it, None).expect("it can be read");
        assert_eq!((read[0].1, read[0].3, read[0].4), expected, "{health:?}");
    }
    let unheard_of = LbEndpoint { health_status: 17, ..types::endpoint("10.0.0.1:80") };
    assert_eq!(read(&of(vec![unheard_of]), None).unwrap()[0].4, Reported::NotReady);
}

#[test]
fn weights_keep_their_proportions() {
    let weights = |weights: &[u32]| {
        let of_one = |(n, &weight)| types::with_weight(weight, types::endpoint(&format!("10.0.0.{n}:80")));
        let read = read(&of(weights.iter().enumerate().map(of_one).collect()), None).expect("weights are not refused");
        read.iter().map(|row| row.1).collect::<Vec<_>>()
    };
    assert_eq!(weights(&[1, 65_535, 0]), [1, 65_535, 0]);
    assert_eq!(weights(&[1, 1 << 20, 1 << 19, 0]), [1, 65_535, 32_767, 0], "nobody but who has none loses all");
    assert_eq!(weights(&[u32::MAX, u32::MAX]), [65_535, 65_535]);
}

#[test]
fn localities_have_their_shares_where_the_cluster_says_so() {
    // The priority and the weight of each locality, and the weights of its endpoints.
    type Groups<'a> = &'a [(u32, Option<u32>, &'a [u32])];
    let read = |groups: Groups<'_>, by_locality| {
        let mut n = 0;
        let mut group = |&(priority, weight, endpoints): &(u32, Option<u32>, &[u32])| {
            let endpoints = endpoints.iter().map(|&weight| {
                n += 1;
                types::with_weight(weight, types::endpoint(&format!("10.0.0.{n}:80")))
            });
            let mut group = types::locality("", "", priority, endpoints.collect());
            group.load_balancing_weight = weight.map(|value| UInt32Value { value });
            group
        };
        let it = types::assignment("web", groups.iter().map(&mut group).collect());
        let it = assignment("web", &it.encode_to_vec(), None).expect("it can be read");
        let it = if by_locality { it.by_locality() } else { it };
        it.found.iter().map(|found| found.weight).collect::<Vec<_>>()
    };
    let groups: Groups<'_> = &[(0, Some(2), &[1, 1]), (0, Some(1), &[1]), (0, None, &[5])];
    assert_eq!(read(groups, false), [1, 1, 1, 5], "unless it says so, they are weighed as they are");
    assert_eq!(read(groups, true), [65_535, 65_535, 65_535, 0], "two and one third, and nothing without a weight");
    let groups: Groups<'_> = &[(0, Some(3), &[1, 2]), (0, Some(1), &[7, 0]), (1, None, &[1, 1])];
    assert_eq!(
        read(groups, true),
        [32_767, 65_535, 32_767, 0, 32_767, 32_767],
        "a level without weights has none lost"
    );
    assert_eq!(read(&[(0, None, &[1, 2])], true), [1, 2]);
    assert_eq!(read(&[(0, Some(0), &[1]), (0, Some(u32::MAX), &[u32::MAX, 1])], true), [0, 65_535, 1]);
}

#[test]
fn a_cluster_goes_by_its_localities_if_it_says_so_last() {
    let with = |specifier| {
        let common = CommonLbConfig { locality_config_specifier: specifier, ..Default::default() };
        types::Cluster { common_lb_config: Some(common), ..types::eds("web", "") }.encode_to_vec()
    };
    let weighted = with(Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})));
    let aware = with(Some(LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig::default())));
    let cases = [
        (weighted.clone(), true),
        (aware.clone(), false),
        (with(None), false),
        ([aware.clone(), weighted.clone()].concat(), true),
        ([weighted, aware].concat(), false),
    ];
    for (message, expected) in cases {
        let read = cluster("web", &message, None);
        assert_eq!(read, Ok(Cluster::Assigned { name: "web".into(), by_locality: expected }));
    }
    // One that has its endpoints itself.
    let group = |weight, address: &str| {
        let mut group = types::locality("", "", 0, vec![types::endpoint(address)]);
        group.load_balancing_weight = Some(UInt32Value { value: weight });
        group
    };
    let load_assignment = Some(types::assignment("", vec![group(1, "10.0.0.1:80"), group(3, "10.0.0.2:80")]));
    let specifier = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
    let common = CommonLbConfig { locality_config_specifier: Some(specifier), ..Default::default() };
    let common_lb_config = Some(common);
    let it = types::Cluster { load_assignment, common_lb_config, ..types::cluster("web", DiscoveryType::Static) };
    let Ok(Cluster::Fixed(it)) = cluster("web", &it.encode_to_vec(), None) else { panic!("it is of use") };
    assert_eq!(it.found.iter().map(|found| found.weight).collect::<Vec<_>>(), [21_845, 65_535]);
}

#[test]
fn an_address_that_is_there_twice_is_one_endpoint() {
    let twice = |a: (u32, HealthStatus, u32), b: (u32, HealthStatus, u32)| {
        let at = |(priority, health, weight): (u32, HealthStatus, u32)| {
            let it = types::with_health(health, types::with_weight(weight, types::endpoint("10.0.0.1:80")));
            types::locality("", &format!("z{priority}{weight}"), priority, vec![it])
        };
        let read = read(&types::assignment("web", vec![at(a), at(b)]), None).expect("it is no mistake");
        assert_eq!(read.len(), 1);
        (u32::from(read[0].3), read[0].4, read[0].1)
    };
    let (up, down) = (HealthStatus::Healthy, HealthStatus::Unhealthy);
    assert_eq!(twice((1, up, 1), (0, down, 1)), (0, Reported::NotReady, 1), "the first level");
    assert_eq!(twice((0, down, 9), (0, up, 1)), (0, Reported::Ready, 1), "the better state");
    assert_eq!(twice((0, up, 1), (0, up, 9)), (0, Reported::Ready, 9), "the greater weight");
}

#[test]
fn what_no_socket_leads_to_is_left_out_or_left_to_the_rules() {
    let pipe = |path: &str| types::at(Some(Place::Pipe(core_v3::Pipe { path: path.into(), mode: 0 })));
    let inside = core_v3::EnvoyInternalAddress { endpoint_id: "10.0.0.9:80".into(), ..Default::default() };
    let it = of(vec![
        types::endpoint("10.0.0.1:0"),
        pipe("/run/web.sock"),
        pipe("@web"),
        types::at(Some(Place::EnvoyInternalAddress(inside))),
    ]);
    let read = assignment("web", &it.encode_to_vec(), None).expect("the others are of use");
    let addresses: Vec<String> = read.found.iter().map(|it| it.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:0", "unix:/run/web.sock"]);
    assert_eq!(read.left_out, 2);
}

#[test]
fn an_assignment_that_cannot_be_used_is_refused_with_the_reason() {
    let socket = |address: &str, port| {
        let socket = SocketAddress { address: address.into(), port_specifier: Some(port), ..Default::default() };
        of(vec![types::at(Some(Place::SocketAddress(socket)))])
    };
    let by_name = LbEndpoint { host_identifier: Some(HostIdentifier::EndpointName("x".into())), ..Default::default() };
    let mut elsewhere = types::locality("", "", 0, vec![]);
    elsewhere.lb_config = Some(LbConfig::LedsClusterLocalityConfig(LedsClusterLocalityConfig::default()));
    let deep = types::assignment("web", vec![types::locality("", "", 128, vec![])]);
    let cases = [
        (types::endpoints("other", &["10.0.0.1:80"]), "come under the name `other`"),
        (types::endpoints("web", &["db.example:80"]), "`db.example` is not an IP address; for names there are sources"),
        (types::endpoints("web", &["10.0.0.1:80", "10.0.0.300:80"]), "`10.0.0.300` is not"),
        (socket("10.0.0.1", PortSpecifier::PortValue(65_536)), "has port 65536"),
        (socket("10.0.0.1", PortSpecifier::NamedPort("http".into())), "port `http` of 10.0.0.1 is a name"),
        (socket("", PortSpecifier::PortValue(80)), "an endpoint without an address"),
        (of(vec![types::at(None)]), "an endpoint without an address"),
        (of(vec![by_name]), "an endpoint without an address"),
        (types::assignment("web", vec![elsewhere]), "LEDS"),
        (deep, "priority 128 is above 127"),
    ];
    for (it, expected) in cases {
        let why = read(&it, None).expect_err(expected);
        assert!(why.starts_with("the endpoints of `web`: ") && why.contains(expected), "{why}");
    }
    let long = types::endpoints("web", &[&format!("{}:80", "x".repeat(100_000))]);
    assert!(read(&long, None).expect_err("it is no address").len() < 300, "little is repeated");
    assert!(assignment("web", b"\x12\x05ab", None).expect_err("it is cut off").contains("cannot be decoded"));
}

#[test]
fn an_assignment_is_bounded_in_number() {
    let many = |n: usize| of(vec![types::endpoint("10.0.0.1:80"); n]).encode_to_vec();
    assert_eq!(assignment("web", &many(ENDPOINTS_MAX), None).map(|it| it.found.len()), Ok(1));
    assert!(assignment("web", &many(ENDPOINTS_MAX + 1), None).expect_err("too many").contains("more than 100000"));
    // Two bytes each, as many as there is room for.
    let empty = [&[0x12, 0xc0, 0x84, 0x3d][..], &[0x12, 0].repeat(500_000)].concat();
    assert!(assignment("web", &empty, None).is_err());
}

#[test]
fn endpoints_may_be_in_a_list_of_their_own() {
    let mut group = types::locality("eu", "a", 2, vec![]);
    let lb_endpoints = vec![types::endpoint("10.0.0.1:80")];
    group.lb_config = Some(LbConfig::LoadBalancerEndpoints(LbEndpointList { lb_endpoints }));
    let read = read(&types::assignment("web", vec![group]), None).expect("it can be read");
    assert_eq!(read, [("10.0.0.1:80".to_owned(), 1, Some("eu/a".to_owned()), 2, Reported::Ready)]);
}

#[test]
fn a_message_in_parts_is_one() {
    // Whatever is appended to an encoded message is merged with it.
    let (one, two) = (types::endpoints("web", &["10.0.0.1:80"]), of(vec![types::endpoint("10.0.0.2:80")]));
    let both = [one.encode_to_vec(), two.encode_to_vec()].concat();
    assert_eq!(ClusterLoadAssignment::decode(&both[..]).unwrap().endpoints.len(), 2, "so says the other decoder");
    assert_eq!(assignment("web", &both, None).map(|it| it.found.len()), Ok(2));
}

#[test]
fn a_cluster_names_its_endpoints_or_has_them() {
    let read = |it: &types::Cluster| cluster("web", &it.encode_to_vec(), None);
    let assigned = |name: &str| Ok(Cluster::Assigned { name: name.into(), by_locality: false });
    assert_eq!(read(&types::eds("web", "")), assigned("web"));
    assert_eq!(read(&types::eds("web", "web/v2")), assigned("web/v2"));
    let fixed = |kind, address: &str| {
        let load_assignment = Some(types::endpoints("any name", &[address]));
        types::Cluster { load_assignment, ..types::cluster("web", kind) }
    };
    for kind in [DiscoveryType::Static, DiscoveryType::StrictDns, DiscoveryType::LogicalDns] {
        let Ok(Cluster::Fixed(it)) = read(&fixed(kind, "10.0.0.1:80")) else { panic!("{kind:?} is of use") };
        assert_eq!(rows(&it), [("10.0.0.1:80".to_owned(), 1, None, 0, Reported::Ready)]);
        let why = read(&fixed(kind, "db.example:80")).expect_err("names are not resolved");
        assert!(why.contains("`db.example` is not an IP address; for names there are sources of kind dns"), "{why}");
    }
    let empty = types::cluster("web", DiscoveryType::Static);
    assert_eq!(read(&empty), Ok(Cluster::Fixed(Assignment::default())));
    assert_eq!(
        read(&types::Cluster { cluster_discovery_type: None, ..empty }),
        Ok(Cluster::Fixed(Assignment::default()))
    );
}

#[test]
fn a_cluster_that_cannot_be_used_is_refused_with_the_reason() {
    let read = |it: &types::Cluster| cluster("web", &it.encode_to_vec(), None);
    let custom = ClusterDiscoveryType::ClusterType(CustomClusterType::default());
    let mut from_file = types::eds("web", "");
    if let Some(source) = from_file.eds_cluster_config.as_mut().and_then(|config| config.eds_config.as_mut()) {
        source.config_source_specifier = Some(ConfigSourceSpecifier::Path("/etc/eds.json".into()));
    }
    let cases = [
        (types::eds("other", ""), "comes under the name `other`"),
        (types::cluster("web", DiscoveryType::OriginalDst), "ORIGINAL_DST"),
        (types::Cluster { cluster_discovery_type: Some(custom), ..types::eds("web", "") }, "a type of its own"),
        (
            types::Cluster { cluster_discovery_type: Some(ClusterDiscoveryType::Type(9)), ..types::eds("web", "") },
            "type 9",
        ),
        (types::eds("web", &"x".repeat(NAME_MAX_BYTES + 1)), "at length"),
        (from_file, "in a file of another machine"),
    ];
    for (it, expected) in cases {
        let why = read(&it).expect_err(expected);
        assert!(why.starts_with("cluster `web` ") && why.contains(expected), "{why}");
    }
    assert!(cluster("web", b"\x0a\x05ab", None).expect_err("it is cut off").contains("cannot be decoded"));
}
