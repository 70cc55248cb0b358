//! A web server that answers what a test tells it to, byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `GET /path?query`.
    pub line: String,
    /// In lower case, each `name: value`.
    pub headers: Vec<String>,
    pub body: String,
}

impl Asked {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| header.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The value of a parameter of the path.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.line.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What is sent for a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These bytes, and the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, and nothing more; the connection stays.
    Hanging(Vec<u8>),
    /// These bytes, and the connection is reset.
    Reset(Vec<u8>),
    /// These bytes, and then `piece` again and again, with a pause between two, for as long as anybody listens.
    Endless { head: Vec<u8>, piece: Vec<u8>, pause: Duration },
}

impl Reply {
    /// A page.
    pub fn page(status: &str, headers: &str, body: &str) -> Self {
        Self::Bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    pub fn ok(body: &str) -> Self {
        Self::page("200 OK", "", body)
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Says what to send for a request.
pub type Answers = Box<dyn FnMut(&Asked) -> Reply + Send>;

/// A server. Each connection serves one request.
pub struct WebServer {
    pub address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl WebServer {
    pub async fn start(answers: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port left");
        let address = listener.local_addr().expect("it is bound");
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let (serving, noting, stopping) = (Arc::clone(&answers), Arc::clone(&asked), stop.clone());
        let task = tokio::spawn(async move {
            let tracker = TaskTracker::new();
            while let Ok((stream, _)) = listener.accept().await {
                let served = serve(stream, Arc::clone(&serving), Arc::clone(&noting));
                let stopping = stopping.clone();
                tracker.spawn(async move { stopping.run_until_cancelled_owned(served).await });
            }
        });
        Self { address, answers, asked, stop, _task: AbortOnDropHandle::new(task) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers in another way from now on.
    pub fn change(&self, answers: impl FnMut(&Asked) -> Reply + Send + 'static) {
        *self.answers.lock().expect("no answer panics") = Box::new(answers);
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no answer panics").clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Mutex<Answers>>, noted: Arc<Mutex<Vec<Asked>>>) {
    let Some(asked) = read(&mut stream).await else { return };
    noted.lock().expect("no answer panics").push(asked.clone());
    let reply = (answers.lock().expect("no answer panics"))(&asked);
    // Whoever asked may have left.
    match reply {
        Reply::Bytes(bytes) => {
            let _sent = stream.write_all(&bytes).await;
            let _closed = stream.shutdown().await;
        }
        Reply::Hanging(bytes) => {
            let _sent = stream.write_all(&bytes).await;
            let _left = stream.read(&mut [0; 16]).await;
        }
        Reply::Reset(bytes) => {
            let _sent = stream.write_all(&bytes).await;
            let _reset = stream.set_zero_linger();
        }
        Reply::Endless { head, piece, pause } => {
            let mut sent = stream.write_all(&head).await;
            while sent.is_ok() {
                sent = stream.write_all(&piece).await;
                // Time is what a slow server is about.
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut text = Vec::new();
    let head = loop {
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
        if let Some(at) = text.windows(4).position(|end| end == b"\r\n\r\n") {
            break at;
        }
    };
    let mut lines = std::str::from_utf8(&text[..head]).expect("heads are text").split("\r\n");
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").expect("a header has a value");
        format!("{}: {value}", name.to_ascii_lowercase())
    });
    let mut asked = Asked { line, headers: headers.collect(), body: String::new() };
    let length = asked.header("content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = text.split_off(head + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    asked.body = String::from_utf8(body).expect("bodies are text");
    Some(asked)
}
