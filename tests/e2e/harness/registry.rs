//! A registry over HTTP: a page that a test changes, or a Consul as far as its questions go.

use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::backend::Backend;
use super::conn::Conn;

/// A server with one answer for everybody. Dropped, it answers nobody.
#[derive(Debug)]
pub struct Registry {
    says: Arc<Says>,
    server: Backend,
}

#[derive(Debug)]
struct Says {
    answer: Mutex<Answer>,
    changed: Condvar,
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    body: String,
    /// Counts changes; questions that have it already wait for the next, as they do at Consul.
    index: u64,
    is_gone: bool,
}

impl Registry {
    /// A page with these endpoints.
    pub fn of<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Registry {
        let registry = Registry::new();
        registry.lists(addresses);
        registry
    }

    /// A Consul with these instances.
    pub fn consul<'a>(instances: impl IntoIterator<Item = (&'a str, &'a str)>) -> Registry {
        let registry = Registry::new();
        registry.instances(instances);
        registry
    }

    fn new() -> Registry {
        let answer = Answer { status: 500, body: String::new(), index: 1, is_gone: false };
        let says = Arc::new(Says { answer: Mutex::new(answer), changed: Condvar::new() });
        let server = Backend::serve({
            let says = Arc::clone(&says);
            move |conn| says.serve(conn)
        });
        Registry { says, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// From now on it answers with this.
    pub fn answers(&self, status: u16, body: &str) {
        let mut answer = self.says.answer.lock().unwrap();
        *answer = Answer { status, body: body.to_owned(), index: answer.index + 1, is_gone: false };
        self.says.changed.notify_all();
    }

    /// From now on it lists these.
    pub fn lists<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        self.answers(200, &list(addresses));
    }

    /// From now on it has these instances, each an address and the status of its check.
    pub fn instances<'a>(&self, instances: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let instance = |(address, status): (&str, &str)| {
            let (ip, port) = address.rsplit_once(':').unwrap();
            json!({
                "Node": { "Node": "n", "Address": ip, "Datacenter": "dc" },
                "Service": { "ID": address, "Service": "app", "Address": ip, "Port": port.parse::<u16>().unwrap() },
                "Checks": [{ "Status": status }],
            })
        };
        self.answers(200, &Value::Array(instances.into_iter().map(instance).collect()).to_string());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.says.answer.lock().unwrap().is_gone = true;
        self.says.changed.notify_all();
    }
}

/// A list of endpoints as files and pages have it.
pub fn list<'a>(addresses: impl IntoIterator<Item = &'a str>) -> String {
    let endpoints: Vec<Value> = addresses.into_iter().map(|address| json!({ "address": address })).collect();
    json!({ "endpoints": endpoints }).to_string()
}

impl Says {
    fn serve(&self, mut conn: Conn) {
        let mut reader = BufReader::new(conn.clone());
        let mut first = String::new();
        // Who leaves in the middle of a question is not answered.
        let Ok(_) = reader.read_line(&mut first) else { return };
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        let known = first.split(['?', '&', ' ']).find_map(|word| word.strip_prefix("index="));
        let known = known.and_then(|index| index.parse().ok());
        let answer = self.answer.lock().unwrap();
        let wait =
            self.changed.wait_timeout_while(answer, PATIENCE, |answer| Some(answer.index) == known && !answer.is_gone);
        let answer = wait.unwrap().0.clone();
        if answer.is_gone {
            return;
        }
        let Answer { status, body, index, .. } = answer;
        let head = format!(
            "HTTP/1.1 {status} so\r\ncontent-length: {}\r\nx-consul-index: {index}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        // Nor is who leaves in the middle of an answer.
        let _left = conn.write_all((head + &body).as_bytes());
    }
}

/// Longer than any test.
const PATIENCE: Duration = Duration::from_secs(60);
