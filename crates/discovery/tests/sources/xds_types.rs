//! Clusters and endpoints in the types that are generated from the definitions of Envoy, and not by us.

use prost::Message;
use xds_api::pb::envoy::config::cluster::v3 as cluster_v3;
use xds_api::pb::envoy::config::core::v3 as core_v3;
use xds_api::pb::envoy::config::endpoint::v3 as endpoint_v3;
use xds_api::pb::google::protobuf::{Any, UInt32Value};

pub use self::cluster_v3::Cluster;
pub use self::cluster_v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
pub use self::core_v3::address::Address as Place;
pub use self::core_v3::config_source::ConfigSourceSpecifier;
pub use self::core_v3::socket_address::PortSpecifier;
pub use self::core_v3::{HealthStatus, Locality, SocketAddress};
pub use self::endpoint_v3::lb_endpoint::HostIdentifier;
pub use self::endpoint_v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
pub use xds_api::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// An endpoint at any place.
pub fn at(place: Option<Place>) -> LbEndpoint {
    let address = place.map(|address| core_v3::Address { address: Some(address) });
    let endpoint = endpoint_v3::Endpoint { address, hostname: "pod-1".into(), ..Default::default() };
    LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
}

/// An endpoint at `HOST:PORT`, whatever the host is.
pub fn endpoint(address: &str) -> LbEndpoint {
    let (host, port) = address.rsplit_once(':').expect("a host and a port");
    let port = PortSpecifier::PortValue(port.parse().expect("a port"));
    let host = host.trim_matches(['[', ']']).to_owned();
    at(Some(Place::SocketAddress(SocketAddress { address: host, port_specifier: Some(port), ..Default::default() })))
}

pub fn with_health(health: HealthStatus, endpoint: LbEndpoint) -> LbEndpoint {
    LbEndpoint { health_status: health.into(), ..endpoint }
}

pub fn with_weight(weight: u32, endpoint: LbEndpoint) -> LbEndpoint {
    LbEndpoint { load_balancing_weight: Some(UInt32Value { value: weight }), ..endpoint }
}

pub fn locality(region: &str, zone: &str, priority: u32, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let locality = Locality { region: region.into(), zone: zone.into(), sub_zone: "rack-7".into() };
    let load_balancing_weight = Some(UInt32Value { value: 3 });
    LocalityLbEndpoints {
        locality: Some(locality),
        lb_endpoints,
        priority,
        load_balancing_weight,
        ..Default::default()
    }
}

pub fn assignment(name: &str, endpoints: Vec<LocalityLbEndpoints>) -> ClusterLoadAssignment {
    ClusterLoadAssignment { cluster_name: name.into(), endpoints, ..Default::default() }
}

/// An assignment of these addresses, in one place.
pub fn endpoints(name: &str, addresses: &[&str]) -> ClusterLoadAssignment {
    assignment(name, vec![locality("", "", 0, addresses.iter().map(|address| endpoint(address)).collect())])
}

/// A cluster whose endpoints are asked for by `service_name`.
pub fn eds(name: &str, service_name: &str) -> Cluster {
    let source = ConfigSourceSpecifier::Ads(core_v3::AggregatedConfigSource {});
    let eds_config = core_v3::ConfigSource {
        config_source_specifier: Some(source),
        resource_api_version: core_v3::ApiVersion::V3.into(),
        ..Default::default()
    };
    let config = EdsClusterConfig { eds_config: Some(eds_config), service_name: service_name.into() };
    Cluster { eds_cluster_config: Some(config), ..cluster(name, DiscoveryType::Eds) }
}

pub fn cluster(name: &str, kind: DiscoveryType) -> Cluster {
    Cluster {
        name: name.into(),
        alt_stat_name: "for people".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        ..Default::default()
    }
}

/// A resource in its envelope.
pub fn resource(name: &str, version: &str, type_url: &str, body: &impl Message) -> Resource {
    let body = Any { type_url: type_url.into(), value: body.encode_to_vec() };
    Resource { name: name.into(), version: version.into(), resource: Some(body), ..Default::default() }
}

/// An answer.
pub fn response(type_url: &str, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "of the whole".into(),
        resources,
        type_url: type_url.into(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        nonce: nonce.into(),
        control_plane: Some(core_v3::ControlPlane { identifier: "test".into() }),
        ..Default::default()
    }
}

/// An answer with this cluster.
pub fn clusters(nonce: &str, version: &str, cluster: &Cluster) -> DeltaDiscoveryResponse {
    response(CLUSTER, nonce, vec![resource(&cluster.name, version, CLUSTER, cluster)], &[])
}

/// An answer with this assignment.
pub fn assignments(nonce: &str, version: &str, assignment: &ClusterLoadAssignment) -> DeltaDiscoveryResponse {
    response(ASSIGNMENT, nonce, vec![resource(&assignment.cluster_name, version, ASSIGNMENT, assignment)], &[])
}
