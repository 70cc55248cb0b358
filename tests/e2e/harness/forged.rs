//! Datagrams whose source address is a lie.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// A raw socket that sends UDP over IPv4 from whatever address it is told to. Needs root.
#[derive(Debug)]
pub struct Forger {
    socket: Socket,
    target: SocketAddrV4,
}

impl Forger {
    /// Towards `HOST:PORT`.
    pub fn towards(target: &str) -> Forger {
        // IPPROTO_RAW: what is sent begins with its IP header.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        Forger { socket, target: target.parse().unwrap() }
    }

    pub fn send(&self, source: SocketAddrV4, payload: &[u8]) {
        let packet = packet(source, self.target, payload);
        self.socket.send_to(&packet, &SocketAddr::from(self.target).into()).unwrap();
    }
}

/// An address and port of 20/8 that differ for each `number`, scattered over the networks of the block.
pub fn stranger(number: u32) -> SocketAddrV4 {
    let scattered = number.wrapping_mul(0x9e37_79b1);
    let [_, a, b, c] = scattered.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(20, a, b, c), 1_024 + (number % 60_000) as u16)
}

/// IPv4 and UDP headers before a payload. The kernel fills in length, identification and checksum of the former; the
/// checksum of the latter may be left out (RFC 768).
fn packet(source: SocketAddrV4, target: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
    const TTL: u8 = 64;
    const UDP: u8 = 17;
    let udp_length = 8 + payload.len() as u16;
    let mut packet = vec![IPV4_WITHOUT_OPTIONS, 0];
    packet.extend((20 + udp_length).to_be_bytes());
    packet.extend([0, 0, 0, 0, TTL, UDP, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(target.ip().octets());
    packet.extend(source.port().to_be_bytes());
    packet.extend(target.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
