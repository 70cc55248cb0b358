//! A name server that answers what a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

/// A question as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: [u8; 2],
    /// The question section.
    pub question: Vec<u8>,
    pub name: String,
    pub kind: u16,
    pub edns: bool,
    pub tcp: bool,
}

impl Asked {
    fn read(message: &[u8], tcp: bool) -> Self {
        let mut at = 12;
        let mut labels = Vec::new();
        while message[at] != 0 {
            let length = usize::from(message[at]);
            labels.push(String::from_utf8(message[at + 1..=at + length].to_vec()).expect("names are text"));
            at += length + 1;
        }
        let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
        let (id, question) = ([message[0], message[1]], message[12..at + 5].to_vec());
        Self { id, question, name: labels.join("."), kind, edns: message[11] == 1, tcp }
    }

    /// An answer with these records, all of which are in the answer section.
    pub fn answer(&self, records: &[Record]) -> Vec<u8> {
        self.reply(0, records, &[])
    }

    /// An answer with this code, and these records in the sections "answer" and "authority".
    pub fn reply(&self, code: u8, answers: &[Record], authorities: &[Record]) -> Vec<u8> {
        let mut out = self.id.to_vec();
        out.extend([0x81, 0x80 | code]);
        for count in [1, answers.len(), authorities.len(), 0] {
            out.extend((count as u16).to_be_bytes());
        }
        out.extend(&self.question);
        for record in answers.iter().chain(authorities) {
            out.extend(&record.0);
        }
        out
    }

    /// An answer that says that it was cut.
    pub fn cut(&self) -> Vec<u8> {
        let mut out = self.reply(0, &[], &[]);
        out[2] |= 2;
        out
    }
}

/// A record on the wire.
#[derive(Clone)]
pub struct Record(Vec<u8>);

impl Record {
    fn new(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Self {
        let mut out = name(owner);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
        Self(out)
    }

    pub fn a(owner: &str, ip: [u8; 4]) -> Self {
        Self::new(owner, 1, 0, &ip)
    }

    pub fn a_for(owner: &str, ttl: u32, ip: [u8; 4]) -> Self {
        Self::new(owner, 1, ttl, &ip)
    }

    pub fn aaaa(owner: &str, ip: &str) -> Self {
        Self::new(owner, 28, 0, &ip.parse::<std::net::Ipv6Addr>().expect("an address").octets())
    }

    pub fn cname(owner: &str, to: &str) -> Self {
        Self::new(owner, 5, 0, &name(to))
    }

    pub fn srv(owner: &str, priority: u8, weight: u8, port: u16, target: &str) -> Self {
        let head = [0, priority, 0, weight, (port >> 8) as u8, port as u8];
        Self::new(owner, 33, 0, &[&head[..], &name(target)].concat())
    }

    pub fn ns(owner: &str) -> Self {
        Self::new(owner, 2, 60, &name("ns.example"))
    }
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat()).collect();
    out.push(0);
    out
}

/// Says what to send for a question; over TCP at most one message.
pub type Answers = Box<dyn FnMut(&Asked) -> Vec<Vec<u8>> + Send>;

/// A server over UDP and TCP.
pub struct NameServer {
    pub address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// What is said over TCP in place of an answer, after which the connection stays open.
    over_tcp: Arc<Mutex<Option<Vec<u8>>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl NameServer {
    pub async fn start(answers: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port left");
            // The port may be somebody's over UDP.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("it is bound")).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("it is bound");
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let over_udp = tokio::spawn(serve_udp(udp, Arc::clone(&answers), Arc::clone(&asked)));
        let over_tcp = Arc::new(Mutex::new(None));
        let serving = serve_tcp(tcp, Arc::clone(&answers), Arc::clone(&asked), Arc::clone(&over_tcp));
        let _tasks = [over_udp, tokio::spawn(serving)].map(AbortOnDropHandle::new);
        Self { address, answers, asked, over_tcp, _tasks }
    }

    /// Answers in another way from now on.
    pub fn change(&self, answers: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) {
        *self.answers.lock().expect("no answer panics") = Box::new(answers);
    }

    /// Says these bytes over TCP from now on, and then nothing.
    pub fn says_over_tcp(&self, bytes: &[u8]) {
        *self.over_tcp.lock().expect("no answer panics") = Some(bytes.to_vec());
    }

    /// The questions so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no answer panics").clone()
    }
}

fn answer(message: &[u8], tcp: bool, answers: &Mutex<Answers>, asked: &Mutex<Vec<Asked>>) -> Vec<Vec<u8>> {
    let question = Asked::read(message, tcp);
    asked.lock().expect("no answer panics").push(question.clone());
    (answers.lock().expect("no answer panics"))(&question)
}

async fn serve_udp(socket: UdpSocket, answers: Arc<Mutex<Answers>>, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut buffer = [0; 1024];
    loop {
        // Errors come from sockets of ours that are closed by now.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        for message in answer(&buffer[..length], false, &answers, &asked) {
            let _sent = socket.send_to(&message, from).await;
        }
    }
}

async fn serve_tcp(
    listener: TcpListener,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    instead: Arc<Mutex<Option<Vec<u8>>>>,
) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let Ok(length) = stream.read_u16().await else { continue };
        let mut message = vec![0; usize::from(length)];
        if stream.read_exact(&mut message).await.is_err() {
            continue;
        }
        let said = instead.lock().expect("no answer panics").clone();
        if let Some(said) = said {
            let _sent = stream.write_all(&said).await;
            let _left = stream.read(&mut [0; 16]).await;
            continue;
        }
        for message in answer(&message, true, &answers, &asked) {
            let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
            let _sent = stream.write_all(&framed).await;
        }
    }
}
