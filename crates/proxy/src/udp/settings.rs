//! What is in force for the flows of a listener.

use std::net::IpAddr;
use std::time::Duration;

use super::ConnectionIds;

/// What a listener of datagrams and its service need beside what every listener needs.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpSettings {
    /// Datagrams of the client that one flow takes: the next one begins another, with another pick. 0 is no limit.
    pub requests: u32,
    /// Replies to each datagram of the client, after which a flow has nothing to wait for and ends. 0 is no limit.
    pub replies: u32,
    /// What becomes of flows whose backend drains.
    pub draining: Draining,
    /// How long a client's datagram may wait for a reply until the backend is blamed, where backends reply at all.
    pub reply_timeout: Duration,
    /// Whether backends are told the client by a PROXY header.
    pub send_proxy: Option<SendProxy>,
    /// Who must say by a PROXY header on whose behalf they send; from others none is accepted.
    pub accept_proxy: Networks,
    /// Whether QUIC's connection ids lead to backends, and how; `None` where clients do not speak QUIC, or never change
    /// their address.
    pub connection_ids: Option<ConnectionIds>,
    /// What a source may do until it has shown that it receives what is sent to it.
    pub unproven: Unproven,
}

/// What becomes of flows whose backend drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draining {
    /// They go on until they end by themselves.
    KeepFlows,
    /// The client's next datagram goes to another backend.
    MoveNow,
}

/// Which datagrams begin with a PROXY header towards the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// The first of a flow.
    First,
    /// All of them.
    Every,
}

/// What a source that has not proven itself may do in a second, so that whoever forges addresses makes neither flows nor
/// replies for somebody else without bound. 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// Datagrams towards backends.
    pub datagrams_per_second: u32,
    /// Bytes of replies.
    pub reply_bytes_per_second: u64,
}

/// A list of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// Of addresses and the lengths of their prefixes.
    pub fn new(networks: Vec<(IpAddr, u8)>) -> Self {
        Self(networks)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `ip` is in one of them. An IPv4 address is the same in its IPv6 form.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|(network, length)| match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => same(network.to_bits().into(), ip.to_bits().into(), 32, *length),
            (IpAddr::V6(network), IpAddr::V6(ip)) => same(network.to_bits(), ip.to_bits(), 128, *length),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        })
    }
}

/// Whether the first `length` of `width` bits are the same.
fn same(a: u128, b: u128, width: u32, length: u8) -> bool {
    (a ^ b).checked_shr(width.saturating_sub(length.into())).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_their_prefix_says_in_either_form_of_ipv4() {
        let networks = |text: &[(&str, u8)]| {
            Networks::new(text.iter().map(|(ip, length)| (ip.parse().unwrap(), *length)).collect())
        };
        let cases = [
            (networks(&[("10.0.0.0", 8)]), "10.255.0.1", true),
            (networks(&[("10.0.0.0", 8)]), "11.0.0.1", false),
            (networks(&[("10.0.0.0", 8)]), "::ffff:10.1.2.3", true),
            (networks(&[("0.0.0.0", 0)]), "203.0.113.9", true),
            (networks(&[("0.0.0.0", 0)]), "2001:db8::1", false),
            (networks(&[("::", 0)]), "2001:db8::1", true),
            (networks(&[("192.0.2.7", 32)]), "192.0.2.7", true),
            (networks(&[("192.0.2.7", 32)]), "192.0.2.6", false),
            (networks(&[("192.0.2.0", 24), ("2001:db8::", 32)]), "2001:db8:ffff::1", true),
            (networks(&[]), "192.0.2.7", false),
        ];
        for (networks, ip, expected) in cases {
            assert_eq!(networks.contains(ip.parse().unwrap()), expected, "{ip} in {networks:?}");
        }
    }
}
