//! QUIC, by an implementation that people use: transfers, clients whose address changes, and connection IDs that lead to
//! the same backend all the same.

use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ReadExactError,
    RecvStream, ServerConfig, TokioRuntime, TransportConfig,
};
use rustix::event::{PollFd, PollFlags, poll};
use sha2::{Digest as _, Sha256};
use socket2::SockRef;
use tokio::runtime::Runtime;

use crate::harness::{Config, LONG, TempDir, counts, loopback, pattern};

const MEGABYTE: usize = 1_000_000;

/// Silence after which either side gives a connection up: more than a busy machine is silent for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same where a connection is lost on purpose.
const LITTLE_PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn fifty_megabytes_pass_each_way_unchanged() {
    // given
    let world = World::new(&[None, None, None], PATIENCE);
    let proxy = Config::datagrams(world.addresses(), LONG).service("balance = \"round_robin\"").start();

    // when: three at a time
    let served = world.runtime.block_on(async {
        let mut transfers = Vec::new();
        for length in [50 * MEGABYTE, 5 * MEGABYTE, MEGABYTE] {
            let client = world.client();
            let connection = world.connect(&client, &proxy.main()).await.unwrap();
            transfers.push(tokio::spawn(async move {
                let _client = client;
                transfer(&connection, length).await.unwrap()
            }));
        }
        let mut served = Vec::new();
        for transfer in transfers {
            served.push(transfer.await.unwrap());
        }
        served
    });

    // then
    assert_eq!(counts(served).len(), 3, "each server has one of the connections");
    world.close();
    proxy.finish();
}

#[test]
fn a_connection_goes_on_through_a_rebinding_with_learned_ids_and_not_without() {
    for learned in [true, false] {
        // given: six clients, each behind an address translator of its own
        let patience = if learned { PATIENCE } else { LITTLE_PATIENCE };
        let world = World::new(&[None, None, None], patience);
        let config = Config::datagrams(world.addresses(), LONG).service("balance = \"round_robin\"");
        let config = if learned { config.service("connection_ids = \"learned\"") } else { config };
        let proxy = config.start();
        let main = proxy.main().parse().unwrap();
        let translators = [(); 6].map(|()| Translator::before(main));

        let survived = world.runtime.block_on(async {
            let client = world.client();
            let mut connections = Vec::new();
            for translator in &translators {
                let connection = world.connect(&client, &translator.address().to_string()).await.unwrap();
                let server = transfer(&connection, 10_000).await.unwrap();
                connections.push((translator, connection, server));
            }

            // when
            let mut survived = 0;
            for (translator, connection, server) in connections {
                for _ in 0..3 {
                    translator.rebind();
                    let Ok(later) = transfer(&connection, MEGABYTE / 2).await else { break };

                    // then
                    assert_eq!(later, server, "a connection that goes on does so with its server");
                    survived += 1;
                }
                connection.close(0_u32.into(), b"done");
                if survived == 0 {
                    // Without what is tested it takes the connection's whole patience to see that one is lost.
                    break;
                }
            }
            survived
        });
        match learned {
            true => assert_eq!(survived, 18, "every connection outlives every rebinding"),
            false => assert!(survived < 18, "by addresses alone a connection is lost"),
        }
        world.close();
        proxy.finish();
    }
}

#[test]
fn a_connection_migrates_where_servers_encode_themselves_in_its_ids() {
    for key in [None, Some([0x8f; 16])] {
        // given: servers that know their number, as QUIC-LB has it
        let ids = [[0x01, 0xaa], [0x02, 0xbb], [0x03, 0xcc]];
        let world = World::new(&ids.map(|id| Some((id, key))), PATIENCE);
        let folder = TempDir::new();
        let key_file = key.map_or(String::new(), |key| {
            let path = folder.join("key");
            fs::write(&path, key.map(|byte| format!("{byte:02x}")).concat()).unwrap();
            format!(", key_file = \"{}\"", path.display())
        });
        let entry = |(server, id): (&Server, [u8; 2])| {
            format!("{{ address = \"{}\", server_id = \"{:02x}{:02x}\" }}", server.address, id[0], id[1])
        };
        let entries: Vec<String> = world.servers.iter().zip(ids).map(entry).collect();
        let encoding = format!("{{ config_id = 1, server_id_length = 2, nonce_length = 6{key_file} }}");
        let config = Config::datagrams(entries.iter().map(String::as_str), LONG);
        let config = config.service("balance = \"round_robin\"");
        let proxy = config.service(&format!("connection_ids = [{encoding}]")).start();

        world.runtime.block_on(async {
            for _ in 0..4 {
                let client = world.client();
                let connection = world.connect(&client, &proxy.main()).await.unwrap();
                let server = transfer(&connection, 10_000).await.unwrap();
                for _ in 0..4 {
                    // when: the client knows that it moves, and takes an ID that nobody has seen
                    client.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
                    let later = transfer(&connection, MEGABYTE / 2).await.expect("a connection outlives a migration");

                    // then
                    assert_eq!(later, server, "a migration does not change the server");
                }
                connection.close(0_u32.into(), b"done");
            }
        });
        let flows = proxy.metrics().sum("udp_flows_created_total");
        assert!(flows >= 20.0, "each address of a client is a flow: {flows}");
        world.close();
        proxy.finish();
    }
}

/// Servers of one certificate, clients that trust it, and the runtime that drives both.
struct World {
    runtime: Runtime,
    servers: Vec<Server>,
    trusted: ClientConfig,
}

struct Server {
    endpoint: Endpoint,
    address: String,
}

/// The ID of a server and the key under which it is hidden.
type Identity = ([u8; 2], Option<[u8; 16]>);

impl World {
    /// One server for each of `identities`; those without one choose connection IDs as they like.
    fn new(identities: &[Option<Identity>], patience: Duration) -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = made.signing_key.serialize_der();
        let guard = runtime.enter();
        let servers = identities.iter().enumerate().map(|(number, identity)| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            let mut config = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
            config.transport_config(transport(patience));
            Server::start(&format!("server{number}"), *identity, config)
        });
        let servers = servers.collect();
        drop(guard);
        World { runtime, servers, trusted: trusting(certificate, patience) }
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.address.as_str())
    }

    fn client(&self) -> Endpoint {
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(self.trusted.clone());
        endpoint
    }

    async fn connect(&self, client: &Endpoint, address: &str) -> io::Result<Connection> {
        let connecting = client.connect(address.parse().unwrap(), "localhost").map_err(io::Error::other)?;
        Ok(connecting.await?)
    }

    /// Ends all servers, so that nothing of theirs keeps a flow alive.
    fn close(self) {
        for server in &self.servers {
            server.endpoint.close(0_u32.into(), b"done");
        }
        self.runtime.shutdown_background();
    }
}

impl Server {
    fn start(name: &str, identity: Option<Identity>, config: ServerConfig) -> Server {
        let mut endpoint = EndpointConfig::default();
        if let Some((id, key)) = identity {
            let nonces = Arc::new(AtomicU64::new(0x9e37_79b9_7f4a));
            let lb = proxy::QuicLb::new(1, 2, 6, key).unwrap();
            endpoint.cid_generator(move || Box::new(Encoded { lb: lb.clone(), id, nonces: nonces.clone() }));
        }
        let socket = UdpSocket::bind((loopback(), 0)).unwrap();
        let endpoint = Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime)).unwrap();
        let address = endpoint.local_addr().unwrap().to_string();
        tokio::spawn(serve(name.to_owned(), endpoint.clone()));
        Server { endpoint, address }
    }
}

/// Connection IDs as QUIC-LB has them, under configuration 1.
struct Encoded {
    lb: proxy::QuicLb,
    id: [u8; 2],
    nonces: Arc<AtomicU64>,
}

impl ConnectionIdGenerator for Encoded {
    fn generate_cid(&mut self) -> ConnectionId {
        // Any nonce serves that was not used before; an odd step visits all of them.
        let nonce = self.nonces.fetch_add(0x5851_f42d_4c95_7f2d, Ordering::Relaxed);
        let id = self.lb.encode(&self.id, &nonce.to_be_bytes()[..6]).expect("the lengths are those configured");
        ConnectionId::new(id.as_bytes())
    }

    fn cid_len(&self) -> usize {
        1 + 2 + 6
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Answers every stream with its name, the hash of what came, and as many bytes as came.
async fn serve(name: String, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let name = name.clone();
        tokio::spawn(async move {
            // A connection that fails shows at its client.
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let name = name.clone();
                tokio::spawn(async move {
                    let Ok((length, hash)) = hash_of(&mut receive).await else { return };
                    let head = format!("{name} {hash}\n");
                    let answer = [head.as_bytes(), &pattern(length)].concat();
                    if send.write_all(&answer).await.is_ok() {
                        let _ = send.finish();
                    }
                });
            }
        });
    }
}

/// Sends `length` bytes and takes as many back; the name of the server when all arrived unchanged both ways.
async fn transfer(connection: &Connection, length: usize) -> io::Result<String> {
    let (mut send, mut receive) = connection.open_bi().await?;
    let sent = pattern(length);
    send.write_all(&sent).await?;
    send.finish()?;
    let mut head = Vec::new();
    while head.last() != Some(&b'\n') {
        let mut byte = [0];
        receive.read_exact(&mut byte).await.map_err(|error| match error {
            ReadExactError::FinishedEarly(_) => io::Error::from(io::ErrorKind::UnexpectedEof),
            ReadExactError::ReadError(error) => error.into(),
        })?;
        head.push(byte[0]);
    }
    let expected = hex(Sha256::digest(&sent));
    let (answered, hash) = hash_of(&mut receive).await?;
    assert!(answered == length && hash == expected, "{length} bytes of an answer arrive unchanged");
    let head = String::from_utf8(head).unwrap();
    let (name, hash) = head.trim_end().split_once(' ').unwrap();
    assert_eq!(hash, expected, "{length} bytes of a question arrive unchanged");
    Ok(name.to_owned())
}

/// Length and hash of the rest of a stream.
async fn hash_of(stream: &mut RecvStream) -> io::Result<(usize, String)> {
    let (mut length, mut hash) = (0, Sha256::new());
    while let Some(chunk) = stream.read_chunk(1 << 16, true).await? {
        length += chunk.bytes.len();
        hash.update(&chunk.bytes);
    }
    Ok((length, hex(hash.finalize())))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn trusting(certificate: CertificateDer<'static>, patience: Duration) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    config.transport_config(transport(patience));
    config
}

fn transport(patience: Duration) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(patience.try_into().unwrap()));
    Arc::new(transport)
}

/// A translator of addresses between one client and its server, which forgets what it has translated when it is told to:
/// the client does not notice, and the server sees it come from another port.
struct Translator {
    front: SocketAddr,
    rebind: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Translator {
    fn before(server: SocketAddr) -> Translator {
        let front = big(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = front.local_addr().unwrap();
        let [rebind, done] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let carrier = thread::spawn({
            let (rebind, done) = (rebind.clone(), done.clone());
            move || carry(&front, server, &rebind, &done)
        });
        Translator { front: address, rebind, done, carrier: Some(carrier) }
    }

    fn address(&self) -> SocketAddr {
        self.front
    }

    /// What the client sends from here on comes from another port.
    fn rebind(&self) {
        self.rebind.store(true, Ordering::Relaxed);
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.carrier.take().unwrap().join().expect("a translator does not panic");
    }
}

fn carry(front: &UdpSocket, server: SocketAddr, rebind: &AtomicBool, done: &AtomicBool) {
    let towards = || {
        let back = big(UdpSocket::bind("127.0.0.1:0").unwrap());
        back.connect(server).unwrap();
        back
    };
    let (mut back, mut forgotten) = (towards(), Vec::new());
    let (mut client, mut buffer) = (None, vec![0; 1 << 16]);
    while !done.load(Ordering::Relaxed) {
        if rebind.swap(false, Ordering::Relaxed) {
            // Kept open, since a translator that has forgotten is silent: it reports no closed port.
            forgotten.push(std::mem::replace(&mut back, towards()));
        }
        let mut wanted = [PollFd::new(front, PollFlags::IN), PollFd::new(&back, PollFlags::IN)];
        poll(&mut wanted, Some(&Duration::from_millis(5).try_into().unwrap())).unwrap();
        while let Ok((length, from)) = front.recv_from(&mut buffer) {
            client = Some(from);
            // What a full buffer refuses is lost, as on any network.
            let _ = back.send(&buffer[..length]);
        }
        while let (Ok(length), Some(client)) = (back.recv(&mut buffer), client) {
            let _ = front.send_to(&buffer[..length], client);
        }
    }
}

/// With room for a burst, and never waiting.
fn big(socket: UdpSocket) -> UdpSocket {
    SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    SockRef::from(&socket).set_send_buffer_size(4 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}
