//! Backends that a test plays itself, step by step, and backends that cannot be reached.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::backend::Listening;
use super::conn::Conn;
use super::loopback;

/// A listening socket whose connections the test accepts when it wants to.
#[derive(Debug)]
pub struct Acceptor {
    listening: Listening,
    address: String,
}

impl Acceptor {
    pub fn new() -> Acceptor {
        Acceptor::on(&format!("{}:0", loopback()))
    }

    pub fn on(address: &str) -> Acceptor {
        let listening = Listening::bind(address);
        Acceptor { address: listening.address(), listening }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next connection, which must come within the time a shared machine needs.
    pub fn accept(&self) -> Conn {
        assert!(self.listening.waits_for_accept(Duration::from_secs(20)), "the proxy connects to its backend");
        self.listening.accept().unwrap()
    }
}

/// A bound port on which nobody listens: connecting is refused, and nobody else can take it.
#[derive(Debug)]
pub struct Refusing {
    _socket: Socket,
    address: String,
}

pub fn refusing() -> Refusing {
    let socket = tcp_socket();
    Refusing { address: bound(&socket), _socket: socket }
}

impl Refusing {
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// A listening socket whose queue is full: the kernel drops every further SYN, so that connecting hangs.
#[derive(Debug)]
pub struct FullBacklog {
    listener: Socket,
    address: String,
    fillers: Vec<TcpStream>,
}

pub fn full_backlog() -> FullBacklog {
    let listener = tcp_socket();
    let address = bound(&listener);
    listener.listen(0).unwrap();
    let target = address.parse::<SocketAddr>().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&target, Duration::from_millis(200)) {
        fillers.push(filler);
    }
    FullBacklog { listener, address, fillers }
}

impl FullBacklog {
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Makes room, and takes the connection that waited outside: it comes with the kernel's next SYN.
    pub fn open_and_accept(mut self) -> (Conn, Socket) {
        for _ in self.fillers.drain(..) {
            self.listener.accept().unwrap();
        }
        let (socket, _) = self.listener.accept().unwrap();
        (Conn::Tcp(socket.into()).ready().unwrap(), self.listener)
    }
}

fn tcp_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

/// Binds to a fresh loopback address and returns it.
fn bound(socket: &Socket) -> String {
    socket.bind(&SocketAddr::from((loopback(), 0)).into()).unwrap();
    socket.local_addr().unwrap().as_socket().unwrap().to_string()
}
