//! Asks servers: over UDP, and over TCP where an answer does not fit.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::resolve::{Hit, Search, Verdict, judge};
use super::wire::{Answer, Kind, Name, Query, Record};
use crate::source::SourceError;

/// Servers, and how long each may take.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) servers: Arc<[SocketAddr]>,
    pub(super) timeout: Duration,
}

/// What a question came to.
enum Reply {
    Records(Vec<Record>),
    Nothing(u32),
}

impl Client {
    /// Looks for a name, through its aliases.
    ///
    /// *Errors*: no server has an answer; what each of them said.
    pub(super) async fn search(&self, name: Name, kind: Kind) -> Result<Hit, SourceError> {
        let mut search = Search::new(name, kind);
        loop {
            let (name, kind) = search.question();
            match self.ask(name, kind).await? {
                Reply::Nothing(ttl) => return Ok(search.nothing(ttl)),
                Reply::Records(records) => {
                    if let Some(hit) = search.records(&records)? {
                        return Ok(hit);
                    }
                }
            }
        }
    }

    /// Asks each server in turn, twice, until one has an answer. A server that says "no" has one.
    async fn ask(&self, name: &Name, kind: Kind) -> Result<Reply, SourceError> {
        let mut troubles = String::new();
        for round in 0..ROUNDS {
            for server in &*self.servers {
                let trouble = match self.ask_server(*server, name, kind).await {
                    Ok(reply) => return Ok(reply),
                    Err(trouble) => trouble,
                };
                if round + 1 == ROUNDS {
                    // Writing to a text cannot fail.
                    let _written = write!(troubles, "; {server}: {trouble}");
                }
            }
        }
        Err(SourceError::new(format!("{kind} of {name}{troubles}")))
    }

    async fn ask_server(&self, server: SocketAddr, name: &Name, kind: Kind) -> Result<Reply, String> {
        let mut edns = true;
        loop {
            let query = Query { id: unforeseen_id(), name: name.clone(), kind };
            let verdict = match self.within(over_udp(server, &query, edns)).await.map(judge)? {
                Verdict::Cut => match self.within(over_tcp(server, &query, edns)).await.map(judge) {
                    Ok(Verdict::Cut) => Err("the answer is cut, even over TCP".into()),
                    Ok(verdict) => Ok(verdict),
                    Err(trouble) => Err(format!("the answer is cut, and over TCP: {trouble}")),
                }?,
                verdict => verdict,
            };
            match verdict {
                Verdict::Records(records) => return Ok(Reply::Records(records)),
                Verdict::Nothing(ttl) => return Ok(Reply::Nothing(ttl)),
                Verdict::Plainer if edns => edns = false,
                Verdict::Plainer => return Err("does not understand the question".into()),
                Verdict::Trouble(trouble) => return Err(trouble.into()),
                Verdict::Cut => return Err("the answer is cut".into()),
            }
        }
    }

    async fn within(&self, step: impl Future<Output = io::Result<Answer>>) -> Result<Answer, String> {
        match timeout(self.timeout, step).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {} ms", self.timeout.as_millis())),
        }
    }
}

/// A socket of its own, with a port that the kernel draws, for each question. It is connected, so that what others than
/// the server send does not arrive; what arrives and is no answer to the question is passed over.
async fn over_udp(server: SocketAddr, query: &Query, edns: bool) -> io::Result<Answer> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query.message(edns)).await?;
    let mut buffer = [0; DATAGRAM_MAX];
    for _ in 0..STRANGE_MAX {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = query.answer(&buffer[..length]) {
            return Ok(answer);
        }
    }
    Err(io::Error::other("only answers to other questions came"))
}

/// *Source*: RFC 7766 section 8: each message has its length before it.
async fn over_tcp(server: SocketAddr, query: &Query, edns: bool) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let message = query.message(edns);
    // A question is a few hundred bytes at most. One write, since some servers read the length alone and give up.
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    query.answer(&answer).ok_or_else(|| io::Error::other("an answer to another question came"))
}

/// A number that nobody off the path can foresee: the kernel seeds the key of the hash.
fn unforeseen_id() -> u16 {
    RandomState::new().hash_one(()) as u16
}

/// How often each server is asked.
const ROUNDS: u32 = 2;
/// Longest datagram that is read whole; answers should not be longer than we said.
const DATAGRAM_MAX: usize = 4096;
/// Datagrams of others that are passed over for one question.
const STRANGE_MAX: usize = 100;
