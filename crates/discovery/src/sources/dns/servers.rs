//! Which servers are asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::source::SourceError;

/// The servers of `/etc/resolv.conf`, read anew each time so that a change of it is not missed.
pub(super) async fn of_system() -> Result<Vec<SocketAddr>, SourceError> {
    let failed = |error| SourceError::new(format!("{RESOLV_CONF}: {error}"));
    let size = tokio::fs::metadata(Path::new(RESOLV_CONF)).await.map_err(failed)?.len();
    if size > RESOLV_CONF_MAX_BYTES {
        return Err(SourceError::new(format!("{RESOLV_CONF}: larger than {RESOLV_CONF_MAX_BYTES} bytes")));
    }
    Ok(listed(&tokio::fs::read_to_string(RESOLV_CONF).await.map_err(failed)?))
}

/// The first three servers that a `resolv.conf` names, or else the local machine: both as in resolv.conf(5). Search
/// lists and options are for people who type names; ours are complete. Servers with a scope (`fe80::1%eth0`) are passed
/// over.
fn listed(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    let servers: Vec<_> = named.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, PORT)).collect();
    if servers.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)] } else { servers }
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_MAX_BYTES: u64 = 1 << 20;
const SERVERS_MAX: usize = 3;
const PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_system_reads_them() {
        let cases = [
            ("", vec!["127.0.0.1:53"]),
            ("search a b\noptions ndots:5\n# nameserver 10.0.0.9\n;nameserver 10.0.0.9\n", vec!["127.0.0.1:53"]),
            ("nameserver 10.0.0.1\n\tnameserver\t10.0.0.2 # x\n", vec!["10.0.0.1:53", "10.0.0.2:53"]),
            ("nameserver fe80::1%eth0\nnameserver fd00::1\n", vec!["[fd00::1]:53"]),
            ("nameserver\nnameserver x\nnameserverx 10.0.0.1", vec!["127.0.0.1:53"]),
            (
                "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4",
                vec!["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"],
            ),
        ];
        for (text, expected) in cases {
            let servers: Vec<_> = listed(text).iter().map(ToString::to_string).collect();
            assert_eq!(servers, expected, "{text}");
        }
    }
}
