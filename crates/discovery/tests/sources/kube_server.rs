//! An API server of this test: lists and watches of EndpointSlices, as real ones answer and as they should not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::http_server::{Asked, Reply, WebServer};

pub const LIST: &str = "GET /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

/// What is answered: lists and watches each in their order. What nobody thought of is answered by silence.
#[derive(Clone, Default)]
pub struct Script {
    lists: Arc<Mutex<VecDeque<Reply>>>,
    watches: Arc<Mutex<VecDeque<Reply>>>,
}

impl Script {
    pub fn list(self, reply: Reply) -> Self {
        self.lists.lock().unwrap().push_back(reply);
        self
    }

    pub fn watch(self, reply: Reply) -> Self {
        self.watches.lock().unwrap().push_back(reply);
        self
    }

    pub async fn start(self) -> WebServer {
        WebServer::start(move |asked| {
            let queue = if is_watch(asked) { &self.watches } else { &self.lists };
            queue.lock().unwrap().pop_front().unwrap_or(Reply::Hanging(Vec::new()))
        })
        .await
    }
}

pub fn is_watch(asked: &Asked) -> bool {
    asked.parameter("watch") == Some("true")
}

/// The questions for lists, or for watches, so far.
pub fn questions(server: &WebServer, watches: bool) -> Vec<Asked> {
    server.asked().into_iter().filter(|asked| is_watch(asked) == watches).collect()
}

/// An endpoint by its last octet, with the word that a pod's life gives it.
pub fn endpoint(octet: u8, state: &str) -> Value {
    let (ready, serving, terminating) = match state {
        "ready" => (true, true, false),
        "ending" => (false, true, true),
        "ended" => (false, false, true),
        _ => (false, false, false),
    };
    json!({
        "addresses": [format!("10.0.0.{octet}")],
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "nodeName": "node-1",
        "zone": "eu-1a",
        "targetRef": { "kind": "Pod", "name": format!("web-{octet}"), "namespace": "shop", "uid": "x" },
    })
}

pub fn slice(name: &str, endpoints: &[(u8, &str)]) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|&(octet, state)| endpoint(octet, state)).collect();
    json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}

/// A whole list as of a version.
pub fn list(version: u64, slices: &[Value]) -> Reply {
    page(version, slices, "")
}

/// A page of a list, with a token for the next.
pub fn page(version: u64, slices: &[Value], more: &str) -> Reply {
    let body = json!({
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": { "resourceVersion": version.to_string(), "continue": more },
        "items": slices,
    });
    Reply::ok(&body.to_string())
}

/// A line of a watch.
pub fn event(kind: &str, version: u64, slice: &Value) -> String {
    let mut object = slice.clone();
    object["kind"] = "EndpointSlice".into();
    object["apiVersion"] = "discovery.k8s.io/v1".into();
    object["metadata"]["resourceVersion"] = version.to_string().into();
    format!("{}\n", json!({ "type": kind, "object": object }))
}

pub fn bookmark(version: u64) -> String {
    event("BOOKMARK", version, &json!({ "metadata": { "annotations": {} } }))
}

/// A line that says that the watch failed.
pub fn failure(code: u16, message: &str) -> String {
    format!("{}\n", json!({ "type": "ERROR", "object": status(code, message) }))
}

/// What the API server answers when it refuses.
pub fn refusal(code: u16, message: &str) -> Reply {
    Reply::page(&format!("{code} so"), "content-type: application/json\r\n", &status(code, message).to_string())
}

fn status(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code })
}

/// A watch that says these lines and stays open.
pub fn watch(lines: &[String]) -> Reply {
    Reply::Hanging(chunked(&lines.concat()).into_bytes())
}

/// A watch that says these lines and then ends as it should.
pub fn ended(lines: &[String]) -> Reply {
    Reply::Bytes(format!("{}0\r\n\r\n", chunked(&lines.concat())).into_bytes())
}

/// A watch that breaks off.
pub fn broken(text: &str) -> Reply {
    Reply::Bytes(chunked(text).into_bytes())
}

fn chunked(body: &str) -> String {
    let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")
}
