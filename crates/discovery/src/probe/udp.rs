//! Sends a datagram, and waits for the reply.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balance::Address;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Detail, Finding, Trouble, blame, within};
/// What to send to whom, and what the reply begins with.
pub(super) struct Question<'a> {
    pub(super) to: Address,
    pub(super) send: &'a [u8],
    pub(super) expect: &'a [u8],
}

/// A socket of its own for each question: a late reply to the last one finds it closed. How far away the backend is, it
/// does not say: a reply takes as long as it is made, not only as it travels.
pub(super) async fn probe(question: &Question<'_>, deadline: Instant) -> Finding {
    let theirs = |error: io::Error| blame("udp", &error, &question.to);
    let socket = open(question).await?;
    let begun = Instant::now();
    within(deadline, ask(&socket, question), "udp").await?;
    let halfway = begun + deadline.saturating_duration_since(begun) / 2;
    // As much as is compared; the kernel cuts off the rest.
    let mut reply = vec![0; question.expect.len().max(1)];
    let length = match timeout_at(halfway, socket.recv(&mut reply)).await {
        Ok(received) => received.map_err(theirs)?,
        // A lost datagram is no failure.
        Err(_) => {
            within(deadline, ask(&socket, question), "udp").await?;
            within(deadline, async { socket.recv(&mut reply).await.map_err(theirs) }, "udp").await?
        }
    };
    match reply[..length].starts_with(question.expect) {
        true => Ok(Detail::Borrowed("reply")),
        false => Err(Trouble::Theirs("udp: the reply does not begin with what is expected".into())),
    }
}

/// A socket that is connected, so that it takes datagrams of nobody else and is told when nobody listens.
async fn open(question: &Question<'_>) -> Result<UdpSocket, Trouble> {
    let Address::Inet(to) = question.to else {
        return Err(Trouble::Ours("udp: a unix datagram socket cannot be asked".into()));
    };
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let connected = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(to).await?;
        Ok(socket)
    };
    connected.await.map_err(|error| blame("udp", &error, &question.to))
}

async fn ask(socket: &UdpSocket, question: &Question<'_>) -> Result<(), Trouble> {
    socket.send(question.send).await.map(|_| ()).map_err(|error| blame("udp", &error, &question.to))
}
