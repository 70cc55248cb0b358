//! Servers in this process, one thread a connection.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::bytes::Digest;
use super::conn::Conn;
use super::loopback;

/// A server that stops when dropped; connections it has accepted end on their own.
#[derive(Debug)]
pub struct Backend {
    address: String,
    listening: Arc<Listening>,
    acceptor: Option<JoinHandle<()>>,
    accepted: Arc<AtomicU64>,
}

impl Backend {
    /// Listens on a loopback address of its own and hands every connection to `handle` on a thread of its own.
    pub fn serve(handle: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
        Backend::serve_on(&format!("{}:0", loopback()), handle)
    }

    /// As [`Backend::serve`], on `HOST:PORT` or `unix:PATH`.
    pub fn serve_on(address: &str, handle: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
        let listening = Arc::new(Listening::bind(address));
        let accepted = Arc::new(AtomicU64::new(0));
        let address = listening.address();
        let acceptor = thread::spawn({
            let (listening, accepted, handle) = (listening.clone(), accepted.clone(), Arc::new(handle));
            move || {
                // An error other than a stop would show in the test as a connection that nobody serves.
                while let Ok(conn) = listening.accept() {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    let handle = handle.clone();
                    thread::spawn(move || handle(conn));
                }
            }
        });
        Backend { address, listening, acceptor: Some(acceptor), accepted }
    }

    /// Sends everything back, and its FIN after the client's.
    pub fn echo() -> Backend {
        Backend::serve(echo)
    }

    pub fn echo_on(address: &str) -> Backend {
        Backend::serve_on(address, echo)
    }

    /// Answers, after the client's FIN, with length and SHA-256 of what came.
    pub fn hash_sink() -> Backend {
        Backend::serve(hash_sink)
    }

    pub fn hash_sink_on(address: &str) -> Backend {
        Backend::serve_on(address, hash_sink)
    }

    /// Sends `length` bytes of the pattern and FIN, then waits for the client's.
    pub fn source(length: u64) -> Backend {
        Backend::serve(move |conn| source(conn, length))
    }

    pub fn source_on(address: &str, length: u64) -> Backend {
        Backend::serve_on(address, move |conn| source(conn, length))
    }

    /// Sends `length` bytes of the pattern while it hashes what comes; then the hash as a line, and FIN.
    pub fn duplex(length: u64) -> Backend {
        Backend::serve(move |mut conn| {
            let mut reader = conn.clone();
            let hashing = thread::spawn(move || reader.rest().0);
            // A client that leaves early shows in what it received; nobody is left to tell here.
            if conn.try_send_pattern(length).is_ok() {
                let _ = conn.write_all(hashing.join().unwrap().line().as_bytes());
            }
        })
    }

    /// Speaks first, then echoes.
    pub fn banner(text: &'static str) -> Backend {
        Backend::serve(move |mut conn| {
            if conn.write_all(text.as_bytes()).is_ok() {
                echo(conn);
            }
        })
    }

    /// Sends `length` bytes of the pattern, then resets.
    pub fn reset_after(length: u64) -> Backend {
        Backend::serve(move |mut conn| {
            if conn.try_send_pattern(length).is_ok() {
                conn.reset();
            }
        })
    }

    /// `HOST:PORT` or `unix:PATH`, as a configuration has it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connections accepted so far, health checks among them.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.listening.stop();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("accepting does not panic");
        }
    }
}

/// A listening socket of either family, whose `accept` another thread can end.
#[derive(Debug)]
pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    pub fn bind(address: &str) -> Listening {
        let bound = match address.strip_prefix("unix:") {
            Some(path) => UnixListener::bind(path).map(Listening::Unix),
            None => TcpListener::bind(address).map(Listening::Tcp),
        };
        bound.unwrap_or_else(|error| panic!("a backend listens on {address}: {error}"))
    }

    pub fn address(&self) -> String {
        match self {
            Listening::Tcp(listener) => listener.local_addr().unwrap().to_string(),
            Listening::Unix(listener) => {
                format!("unix:{}", listener.local_addr().unwrap().as_pathname().unwrap().display())
            }
        }
    }

    pub fn accept(&self) -> io::Result<Conn> {
        match self {
            Listening::Tcp(listener) => Conn::Tcp(listener.accept()?.0),
            Listening::Unix(listener) => Conn::Unix(listener.accept()?.0),
        }
        .ready()
    }

    /// Ends every `accept`, now and later.
    pub fn stop(&self) {
        let socket = match self {
            Listening::Tcp(listener) => SockRef::from(listener),
            Listening::Unix(listener) => SockRef::from(listener),
        };
        socket.shutdown(Shutdown::Both).expect("a listening socket can be shut down");
    }

    /// Whether a connection waits to be accepted within `limit`.
    pub fn waits_for_accept(&self, limit: Duration) -> bool {
        let descriptor = match self {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        };
        let mut wanted = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
        let limit = limit.try_into().unwrap();
        rustix::event::poll(&mut wanted, Some(&limit)).unwrap() > 0
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)
    }
}

/// Sends back what comes until it ends; either end of it may go away at any time.
pub fn echo(mut conn: Conn) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = conn.read(&mut buffer) {
        if conn.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn hash_sink(mut conn: Conn) {
    let (digest, error) = Digest::of_rest(&mut conn);
    if error.is_none() {
        // A client that has gone does not read it; the test that cares reads.
        let _ = conn.write_all(digest.line().as_bytes());
    }
}

fn source(mut conn: Conn, length: u64) {
    if conn.try_send_pattern(length).is_ok() {
        // A client that has gone already needs neither the FIN nor a reader.
        let _ = conn.half_close();
        let _ = Digest::of_rest(&mut conn);
    }
}
