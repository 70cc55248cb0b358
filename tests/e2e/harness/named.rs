//! Backends that say their name, so that a client knows who served it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;

use super::backend::Backend;
use super::conn::Conn;
use super::held::Acceptor;

/// A backend that greets with its name, echoes, and can be stopped and started on its address.
#[derive(Debug)]
pub struct Named {
    name: &'static str,
    address: String,
    running: Option<Backend>,
}

impl Named {
    pub fn start(name: &'static str) -> Named {
        let running = Backend::serve(greeting(name));
        Named { name, address: running.address().to_owned(), running: Some(running) }
    }

    /// On this address instead of one of its own.
    pub fn start_on(name: &'static str, address: &str) -> Named {
        let running = Backend::serve_on(address, greeting(name));
        Named { name, address: running.address().to_owned(), running: Some(running) }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// New connections are refused from here on; accepted ones go on.
    pub fn stop(&mut self) {
        self.running = None;
    }

    pub fn start_again(&mut self) {
        self.running = Some(Backend::serve_on(&self.address, greeting(self.name)));
    }
}

fn greeting(name: &'static str) -> impl Fn(Conn) + Send + Sync {
    move |mut conn| {
        if writeln!(conn, "{name}").is_ok() {
            super::backend::echo(conn);
        }
    }
}

/// The name of the backend that serves a connection through `address`; the connection is closed on return.
pub fn who(address: &str) -> String {
    name_of(Conn::open(address))
}

/// As [`who`], from another source address.
pub fn who_from(source: Ipv4Addr, address: &str) -> String {
    name_of(Conn::open_from(source, address))
}

fn name_of(conn: Conn) -> String {
    let mut reader = BufReader::new(conn);
    let mut name = String::new();
    reader.read_line(&mut name).expect("a backend greets with its name");
    reader.get_ref().finish_sending();
    reader.read_to_end(&mut Vec::new()).expect("the session ends with FIN");
    name.trim_end().to_owned()
}

impl Conn {
    /// Reads the greeting of a [`Named`] backend and leaves the connection open.
    pub fn name(&mut self) -> String {
        let mut name = String::new();
        let mut byte = [0];
        loop {
            self.read_exact(&mut byte).expect("a backend greets with its name");
            match byte[0] {
                b'\n' => return name,
                letter => name.push(char::from(letter)),
            }
        }
    }
}

impl Acceptor {
    /// Accepts the two ends of one session: `client` connects through `address`, this is its backend.
    pub fn session(&self, address: &str) -> (Conn, Conn) {
        let client = Conn::open(address);
        (client, self.accept())
    }
}
