//! What only listeners of datagrams have.

use std::net::IpAddr;

use proxy::{Networks, Unproven};

use super::super::checked::UdpListener;
use super::super::limits::{Bounded, REPLIES, REQUESTS, UNPROVEN_DATAGRAMS, UNPROVEN_REPLY_BYTES};
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field};
use super::super::units;

/// What a listener of datagrams has beside; nothing for one that takes connections.
pub fn listener(raw: &raw::Listener, problems: &mut Problems) -> Option<UdpListener> {
    protocol_of_datagrams(raw)?;
    let (datagrams, bytes) = (&raw.unproven_datagrams, &raw.unproven_reply_bytes);
    let bounds = Bounded {
        default: UNPROVEN_DATAGRAMS.default.into(),
        min: UNPROVEN_DATAGRAMS.min.into(),
        max: UNPROVEN_DATAGRAMS.max.into(),
    };
    let datagrams = rate(Rate::Datagrams, "unproven_datagrams", datagrams, bounds, problems);
    let bytes = rate(Rate::Bytes, "unproven_reply_bytes", bytes, UNPROVEN_REPLY_BYTES, problems);
    let unproven = Unproven {
        datagrams_per_second: u32::try_from(datagrams).unwrap_or(UNPROVEN_DATAGRAMS.default),
        reply_bytes_per_second: bytes,
    };
    Some(UdpListener {
        requests: raw.requests.or(REQUESTS.default),
        replies: raw.replies.or(REPLIES.default),
        accept_proxy: networks(&raw.accept_proxy, problems),
        unproven,
    })
}

/// Reports the keys that have no meaning for the listener's protocol.
pub fn foreign_keys(raw: &raw::Listener, problems: &mut Problems) {
    let of_connections = [
        ("half_close_timeout", raw.half_close_timeout.span()),
        ("keepalive", raw.keepalive.span()),
        ("user_timeout", raw.user_timeout.span()),
        ("connect_timeout", raw.connect_timeout.span()),
        ("splice", raw.splice.span()),
    ];
    let of_datagrams = [
        ("requests", raw.requests.span()),
        ("replies", raw.replies.span()),
        ("unproven_datagrams", raw.unproven_datagrams.span()),
        ("unproven_reply_bytes", raw.unproven_reply_bytes.span()),
    ];
    let over = protocol_of_datagrams(raw);
    match over {
        Some(At { value: protocol, span: protocol_span }) => {
            for (key, span) in of_connections.into_iter().filter_map(|(key, span)| span.map(|span| (key, span))) {
                let message = format!("`{key}` has no meaning for protocol `{protocol}`, which knows no connections");
                let problem = Problem::new(Code::Contradiction, span, message).help("remove it");
                problems.push(problem.related(protocol_span.clone(), "the protocol"));
            }
        }
        None => {
            for (key, span) in of_datagrams.into_iter().filter_map(|(key, span)| span.map(|span| (key, span))) {
                let message = format!("`{key}` is about datagrams, and this listener takes connections");
                let help = "write `protocol = \"udp\"`, or `protocol = \"datagram\"` for a unix path, or remove it";
                problems.push(Problem::new(Code::Contradiction, span, message).help(help));
            }
        }
    }
    accept_proxy(raw, over, problems);
}

/// Whether PROXY headers can be taken at all.
fn accept_proxy(raw: &raw::Listener, over: Option<&At<String>>, problems: &mut Problems) {
    let Some(span) = raw.accept_proxy.span() else { return };
    problems.push(match over {
        Some(At { value, .. }) if value == "udp" => return,
        Some(_) => Problem::new(Code::Contradiction, span, "`accept_proxy` names networks, and a unix socket has none")
            .help("remove it: clients of unix sockets cannot send for others"),
        None => Problem::new(Code::NotBuilt, span, "`accept_proxy` is not built yet where clients connect")
            .help("leave it out, and no PROXY header is taken; with `protocol = \"udp\"` it is built"),
    });
}

/// The protocol as it was written, if it is one of datagrams.
fn protocol_of_datagrams(raw: &raw::Listener) -> Option<&At<String>> {
    raw.protocol.0.as_ref().filter(|at| matches!(at.value.as_str(), "udp" | "datagram"))
}

#[derive(Clone, Copy)]
enum Rate {
    Datagrams,
    Bytes,
}

impl Rate {
    fn read(self, text: &str) -> Option<u64> {
        match self {
            Self::Datagrams => units::rate(text),
            Self::Bytes => units::byte_rate(text),
        }
    }

    fn text(self, per_second: u64) -> String {
        match self {
            Self::Datagrams => format!("{per_second}/s"),
            Self::Bytes => units::byte_rate_text(per_second),
        }
    }
}

/// A rate within its bounds, or the default.
fn rate(kind: Rate, key: &str, field: &Field<String>, bounds: Bounded<u64>, problems: &mut Problems) -> u64 {
    let Some(At { span, value }) = &field.0 else { return bounds.default };
    let read = match kind.read(value) {
        Some(rate) if (bounds.min..=bounds.max).contains(&rate) => Ok(rate),
        Some(_) => {
            let help = format!("it takes {} to {}", kind.text(bounds.min), kind.text(bounds.max));
            let message = format!("`{key}` cannot be {}", quoted(value));
            Err(Problem::new(Code::OutOfRange, span.clone(), message).help(help))
        }
        None => {
            let (usual, none) = (kind.text(bounds.default), kind.text(0));
            let help = format!("write how much a second, such as \"{usual}\"; \"{none}\" is no limit");
            let message = format!("`{key}` cannot be {}, which is not a rate", quoted(value));
            Err(Problem::new(Code::InvalidValue, span.clone(), message).help(help))
        }
    };
    problems.keep(read).unwrap_or(bounds.default)
}

fn networks(field: &Field<raw::Texts>, problems: &mut Problems) -> Networks {
    let texts = field.value().map(|texts| texts.0.as_slice()).unwrap_or_default();
    let read = |at: &At<String>| {
        network(&at.value).map_err(|help| {
            let message = format!("{} is not a network", quoted(&at.value));
            Problem::new(Code::InvalidAddress, at.span.clone(), message).help(help)
        })
    };
    Networks::new(texts.iter().filter_map(|at| problems.keep(read(at))).collect())
}

/// A network as `IP/LENGTH`, or one address; or else what to write instead.
pub fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let form = || "write IP/LENGTH, such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one address".to_owned();
    let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
    let ip: IpAddr = ip.parse().map_err(|_| form())?;
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let digits = |text: &str| text.parse::<u8>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let length = length.map_or(Some(width), digits).filter(|length| *length <= width).ok_or_else(form)?;
    let (network, network_length) = match ip.to_canonical() {
        // An IPv4-mapped network is the IPv4 network.
        IpAddr::V4(v4) if ip.is_ipv6() && length >= 96 => (first(v4.into(), length - 96), length - 96),
        _ => (first(ip, length), length),
    };
    let written = if ip.is_ipv6() && network.is_ipv4() { ip.to_canonical() } else { ip };
    match network == written {
        true => Ok((network, network_length)),
        false => Err(format!("the network that {ip} is in is {network}/{network_length}")),
    }
}

/// The first address of the network that `ip` is in.
fn first(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}
