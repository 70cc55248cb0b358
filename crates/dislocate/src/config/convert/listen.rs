//! Addresses to listen on: `0.0.0.0:80`, `[::]:80`, `127.0.0.1:5000-5010`, `unix:/run/x.sock`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use balance::Address;

use super::super::limits::MAX_PORTS_PER_LISTENER;
use super::super::problem::{Code, Problem, quoted};
use super::super::raw::At;
use proxy::Bind;

/// Every address that one text names.
pub fn addresses(at: &At<String>) -> Result<Vec<Bind>, Problem> {
    let invalid = |help: &str| {
        let message = format!("{} is not an address to listen on", quoted(&at.value));
        Problem::new(Code::InvalidAddress, at.span.clone(), message).help(help)
    };
    if at.value.starts_with("unix:") {
        return match at.value.parse::<Address>() {
            Ok(Address::Unix(path)) => Ok(vec![Bind::Unix(PathBuf::from(&*path))]),
            Ok(Address::Inet(_)) => Err(invalid(FORM)),
            Err(error) => Err(invalid(&error.to_string())),
        };
    }
    let (first, last) = range(&at.value).map_err(|help| invalid(&help))?;
    let count = usize::from(last - first.port()) + 1;
    if count > MAX_PORTS_PER_LISTENER {
        let message = format!("{} names {count} ports", quoted(&at.value));
        let help = format!("a listener takes at most {MAX_PORTS_PER_LISTENER}");
        return Err(Problem::new(Code::OutOfRange, at.span.clone(), message).help(help));
    }
    // A scope id or a flow label stays; only the port differs.
    let on_port = |port| {
        let mut addr = first;
        addr.set_port(port);
        Bind::Inet(addr)
    };
    Ok((first.port()..=last).map(on_port).collect())
}

/// The one address that a text names.
pub fn one_address(at: &At<String>) -> Result<Bind, Problem> {
    let mut all = addresses(at)?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => {
            let message = format!("{} names several ports", quoted(&at.value));
            Err(Problem::new(Code::InvalidAddress, at.span.clone(), message).help("write one"))
        }
    }
}

/// The first address and the last port of `ADDRESS:PORT` or `ADDRESS:FIRST-LAST`, or what to write instead.
fn range(text: &str) -> Result<(SocketAddr, u16), String> {
    let (host, ports) = text.rsplit_once(':').ok_or(FORM)?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (Some(first), Some(last)) = (port(first), port(last)) else { return Err(FORM.into()) };
    if first > last || (first == 0 && ports.contains('-')) {
        return Err("a range of ports goes from the lower to the higher, and not from 0".into());
    }
    match format!("{host}:{first}").parse::<SocketAddr>() {
        Ok(addr) => Ok((canonical(addr), last)),
        Err(_) if matches!(host, "" | "*") => {
            Err(format!("for every address, write \"[::]:{ports}\", or \"0.0.0.0:{ports}\" for IPv4 alone"))
        }
        Err(_) if host == "localhost" => Err(format!("write \"127.0.0.1:{ports}\" or \"[::1]:{ports}\"")),
        Err(_) if host.parse::<std::net::Ipv6Addr>().is_ok() => Err(format!("write \"[{host}]:{ports}\"")),
        Err(_) => Err(FORM.into()),
    }
}

/// An IPv4-mapped address is the IPv4 address, so that one address has one name.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

const FORM: &str = "write IP:PORT, [IPV6]:PORT, IP:FIRST-LAST or unix:/PATH";
