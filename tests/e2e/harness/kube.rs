//! An API server of Kubernetes that has the EndpointSlices of one Service, and can be in trouble.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Backend, Conn};

/// A slice: its name, the address of its one endpoint, and how that is: `ready`, `unready`, `ending`.
pub type Slice<'a> = (&'a str, &'a str, &'a str);

/// The server. The namespace is `shop`, the service `web`, and the token at first `t0ken`.
#[derive(Debug)]
pub struct Kube {
    says: Arc<Says>,
    server: Backend,
}

#[derive(Debug)]
struct Says {
    cluster: Mutex<Cluster>,
    changed: Condvar,
}

#[derive(Debug)]
struct Cluster {
    slices: BTreeMap<String, Value>,
    version: u64,
    /// The events that are remembered, each with its version.
    events: Vec<(u64, String)>,
    /// Versions before this are forgotten.
    oldest: u64,
    token: String,
    /// What is answered instead of anything else.
    trouble: Option<(u16, String)>,
    /// Counts what ends all watches.
    breaks: u64,
}

impl Kube {
    pub fn of(slices: &[Slice<'_>]) -> Kube {
        let cluster = Cluster {
            slices: named(slices),
            version: 1_000,
            events: Vec::new(),
            oldest: 1_000,
            token: "t0ken".into(),
            trouble: None,
            breaks: 0,
        };
        let says = Arc::new(Says { cluster: Mutex::new(cluster), changed: Condvar::new() });
        let server = Backend::serve({
            let says = Arc::clone(&says);
            move |conn| says.serve(conn)
        });
        Kube { says, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// From now on it has these, and watches hear of what changed.
    pub fn has(&self, slices: &[Slice<'_>]) {
        self.change(|cluster| {
            let before = std::mem::replace(&mut cluster.slices, named(slices));
            let now = cluster.slices.clone();
            for (name, slice) in &now {
                match before.get(name) {
                    Some(old) if old == slice => {}
                    Some(_) => cluster.happens("MODIFIED", slice),
                    None => cluster.happens("ADDED", slice),
                }
            }
            for (_, slice) in before.iter().filter(|(name, _)| !now.contains_key(*name)) {
                cluster.happens("DELETED", slice);
            }
        });
    }

    /// The same, but nobody hears of it: watches end, and what they ask for next is forgotten.
    pub fn is_compacted_with(&self, slices: &[Slice<'_>]) {
        self.change(|cluster| {
            cluster.slices = named(slices);
            cluster.version += 1_000;
            cluster.oldest = cluster.version;
            cluster.events.clear();
            cluster.breaks += 1;
        });
    }

    /// It has these, and versions of long ago.
    pub fn is_restored_with(&self, slices: &[Slice<'_>]) {
        self.change(|cluster| {
            cluster.slices = named(slices);
            (cluster.version, cluster.oldest) = (5, 5);
            cluster.events.clear();
            cluster.breaks += 1;
        });
    }

    /// Every question is answered with this, and watches end.
    pub fn answers(&self, trouble: Option<(u16, &str)>) {
        self.change(|cluster| {
            cluster.trouble = trouble.map(|(status, body)| (status, body.to_owned()));
            cluster.breaks += 1;
        });
    }

    /// No other token is taken, and watches end.
    pub fn wants(&self, token: &str) {
        self.change(|cluster| {
            cluster.token = token.to_owned();
            cluster.breaks += 1;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.says.cluster.lock().unwrap());
        self.says.changed.notify_all();
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        self.change(|cluster| cluster.breaks += 1);
    }
}

impl Cluster {
    fn happens(&mut self, kind: &str, slice: &Value) {
        self.version += 1;
        let mut object = slice.clone();
        object["kind"] = "EndpointSlice".into();
        object["apiVersion"] = API_VERSION.into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push((self.version, format!("{}\n", json!({ "type": kind, "object": object }))));
    }

    /// The answer to a question that is no watch that can be begun.
    fn answer(&self, token: &str, watched: Option<u64>) -> Option<(u16, String)> {
        if let Some(trouble) = &self.trouble {
            return Some(trouble.clone());
        }
        if token != format!("Bearer {}", self.token) {
            return Some((401, status(401, "Unauthorized")));
        }
        match watched {
            Some(version) if version < self.oldest => Some((410, status(410, "too old resource version"))),
            Some(_) => None,
            None => {
                let items: Vec<&Value> = self.slices.values().collect();
                let meta = json!({ "resourceVersion": self.version.to_string() });
                let list = json!({
                    "kind": "EndpointSliceList", "apiVersion": API_VERSION, "metadata": meta, "items": items,
                });
                Some((200, list.to_string()))
            }
        }
    }
}

impl Says {
    fn serve(&self, mut conn: Conn) {
        let mut reader = BufReader::new(conn.clone());
        let (mut first, mut token) = (String::new(), String::new());
        // Who leaves in the middle of a question is not answered.
        let Ok(_) = reader.read_line(&mut first) else { return };
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => {}
                Err(_) => return,
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                token = value.trim().to_owned();
            }
        }
        let parameter = |name: &str| first.split(['?', '&', ' ']).find_map(|word| word.strip_prefix(name));
        let version = parameter("resourceVersion=").and_then(|version| version.parse().ok());
        let watched = parameter("watch=true").and(version);
        let cluster = self.cluster.lock().unwrap();
        match cluster.answer(&token, watched) {
            Some((status, body)) => {
                drop(cluster);
                let length = body.len();
                let head = format!("HTTP/1.1 {status} so\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                // Nor is who leaves in the middle of an answer.
                let _left = conn.write_all((head + &body).as_bytes());
            }
            None => {
                let breaks = cluster.breaks;
                drop(cluster);
                self.watch(&mut conn, watched.unwrap_or_default(), breaks);
            }
        }
    }

    /// Tells what happens until all watches end, or this one has nobody who reads it.
    fn watch(&self, conn: &mut Conn, mut version: u64, breaks: u64) {
        let head = "HTTP/1.1 200 so\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        if conn.write_all(head.as_bytes()).is_err() {
            return;
        }
        let now = self.cluster.lock().unwrap().version;
        if version > now {
            // Nothing that happens will be told to this one, but where the cluster is.
            let object = json!({
                "kind": "EndpointSlice", "apiVersion": API_VERSION, "metadata": { "resourceVersion": now.to_string() },
            });
            let line = format!("{}\n", json!({ "type": "BOOKMARK", "object": object }));
            let _left = conn.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
        }
        loop {
            let cluster = self.cluster.lock().unwrap();
            let is_quiet = |cluster: &mut Cluster| cluster.breaks == breaks && cluster.version == version;
            let cluster = self.changed.wait_timeout_while(cluster, PATIENCE, is_quiet).unwrap().0;
            if cluster.breaks != breaks {
                break;
            }
            let news: String =
                cluster.events.iter().filter(|(at, _)| *at > version).map(|(_, line)| line.as_str()).collect();
            version = cluster.version;
            drop(cluster);
            let chunk = if news.is_empty() { String::new() } else { format!("{:x}\r\n{news}\r\n", news.len()) };
            if conn.write_all(chunk.as_bytes()).is_err() {
                return;
            }
        }
        let _left = conn.write_all(b"0\r\n\r\n");
    }
}

fn named(slices: &[Slice<'_>]) -> BTreeMap<String, Value> {
    slices.iter().map(|slice| (slice.0.to_owned(), described(*slice))).collect()
}

fn described((name, address, state): Slice<'_>) -> Value {
    let address: SocketAddr = address.parse().unwrap();
    let conditions = json!({
        "ready": state == "ready", "serving": state != "unready", "terminating": state == "ending",
    });
    json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address.ip()], "conditions": conditions, "zone": "eu-1a", "nodeName": "n" }],
        "ports": [{ "name": "http", "port": address.port(), "protocol": "TCP" }],
    })
}

fn status(code: u16, message: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "message": message, "code": code }).to_string()
}

const API_VERSION: &str = "discovery.k8s.io/v1";
/// Longer than any test.
const PATIENCE: Duration = Duration::from_secs(60);
