//! One connection of a test, TCP or unix, on either side of the program.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::bytes::{self, Digest};

/// After this long a read or write that should have ended fails its test instead of hanging it.
const STUCK: Duration = Duration::from_secs(60);

/// A connected stream with deadlines on every read and write.
#[derive(Debug)]
pub enum Conn {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How the other side ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

impl Conn {
    /// Connects to `HOST:PORT` or `unix:PATH`.
    pub fn open(address: impl fmt::Display) -> Conn {
        let address = address.to_string();
        Conn::try_open(&address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    pub fn try_open(address: &str) -> io::Result<Conn> {
        let conn = match address.strip_prefix("unix:") {
            Some(path) => Conn::Unix(UnixStream::connect(path)?),
            None => Conn::Tcp(TcpStream::connect(address)?),
        };
        conn.ready()
    }

    /// Connects over TCP from a source address of the caller's choice.
    pub fn open_from(source: impl Into<IpAddr>, address: &str) -> Conn {
        Conn::try_open_from(source, address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    pub fn try_open_from(source: impl Into<IpAddr>, address: &str) -> io::Result<Conn> {
        let socket = Socket::new(Domain::for_address(parse(address)), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source.into(), 0).into())?;
        socket.connect(&parse(address).into())?;
        Conn::Tcp(socket.into()).ready()
    }

    /// Connects over TCP with buffers far below what the kernel would grow to, so that pressure shows soon.
    pub fn open_small(address: &str, buffer: usize) -> Conn {
        let socket = Socket::new(Domain::for_address(parse(address)), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        socket.set_send_buffer_size(buffer).unwrap();
        socket.connect(&parse(address).into()).unwrap();
        Conn::Tcp(socket.into()).ready().unwrap()
    }

    /// Sets what every connection of a test has: deadlines, and no waiting for more to send.
    pub fn ready(self) -> io::Result<Conn> {
        let socket = self.socket();
        socket.set_read_timeout(Some(STUCK))?;
        socket.set_write_timeout(Some(STUCK))?;
        if let Conn::Tcp(stream) = &self {
            stream.set_nodelay(true)?;
        }
        Ok(self)
    }

    pub fn clone(&self) -> Conn {
        match self {
            Conn::Tcp(stream) => Conn::Tcp(stream.try_clone().unwrap()),
            Conn::Unix(stream) => Conn::Unix(stream.try_clone().unwrap()),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends the first `length` bytes of the pattern.
    pub fn send_pattern(&mut self, length: u64) {
        self.try_send_pattern(length).unwrap();
    }

    pub fn try_send_pattern(&mut self, length: u64) -> io::Result<()> {
        bytes::for_each_chunk(length, |chunk| self.write_all(chunk))
    }

    pub fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends `message` and expects it back, as from an echo.
    pub fn echoes(&mut self, message: &str) {
        self.send(message);
        assert_eq!(String::from_utf8_lossy(&self.receive(message.len())), message, "an echo came back changed");
    }

    /// Whether an echo still comes back.
    pub fn still_echoes(&mut self) -> bool {
        let mut answer = [0; 4];
        self.write_all(b"ping").is_ok() && self.read_exact(&mut answer).is_ok() && &answer == b"ping"
    }

    /// Says that nothing more will come from here; the other direction stays open.
    pub fn finish_sending(&self) {
        self.half_close().unwrap();
    }

    /// As [`Conn::finish_sending`], for a peer that may be gone.
    pub fn half_close(&self) -> io::Result<()> {
        match self {
            Conn::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Conn::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Ends with RST. The last handle must be this one.
    pub fn reset(self) {
        self.socket().set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads to the end: what came, and how it ended.
    pub fn rest(&mut self) -> (Digest, End) {
        let (digest, error) = Digest::of_rest(self);
        (digest, error.map_or(End::Fin, |error| end_of(&error)))
    }

    /// Reads to the end and says how it came; what came before it does not matter.
    pub fn end(&mut self) -> End {
        self.rest().1
    }

    /// Reads the rest as text, to a FIN.
    pub fn text(&mut self) -> String {
        let mut text = String::new();
        self.read_to_string(&mut text).unwrap();
        text
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Conn::Tcp(stream) => stream.local_addr().unwrap(),
            Conn::Unix(_) => panic!("a unix connection has no socket address"),
        }
    }

    pub fn socket(&self) -> SockRef<'_> {
        match self {
            Conn::Tcp(stream) => SockRef::from(stream),
            Conn::Unix(stream) => SockRef::from(stream),
        }
    }
}

impl Read for Conn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Conn::Tcp(stream) => stream.read(buffer),
            Conn::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Conn::Tcp(stream) => stream.write(bytes),
            Conn::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parse(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|_| panic!("{address} is no socket address"))
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
        _ => panic!("a stream ended neither with FIN nor with RST: {error}"),
    }
}
