//! A control plane of this test: a server of gRPC whose every word a test chooses.

use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::xds_types::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// The server. It accepts streams, and says nothing by itself.
pub struct ControlPlane {
    pub address: SocketAddr,
    talks: UnboundedReceiver<Talk>,
    stop: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl ControlPlane {
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0", None).await
    }

    pub async fn with_tls(acceptor: TlsAcceptor) -> Self {
        Self::on("127.0.0.1:0", Some(acceptor)).await
    }

    pub async fn on(address: &str, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("loopback has a port left");
        let address = listener.local_addr().expect("it is bound");
        let (sender, talks) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let task = tokio::spawn(async move {
            let tracker = TaskTracker::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender, stopping) = (acceptor.clone(), sender.clone(), stopping.clone());
                let served = async move {
                    match acceptor {
                        None => serve(stream, sender).await,
                        Some(acceptor) => {
                            // Who cannot agree on keys is not served.
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, sender).await;
                            }
                        }
                    }
                };
                tracker.spawn(async move { stopping.run_until_cancelled_owned(served).await });
            }
        });
        Self { address, talks, stop, _task: AbortOnDropHandle::new(task) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next stream.
    pub async fn talk(&mut self) -> Talk {
        self.talks.recv().await.expect("the server accepts")
    }

    /// Whether nobody has begun a stream that was not taken.
    pub fn is_idle(&self) -> bool {
        self.talks.is_empty()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a connection is told to do.
#[derive(Clone, Copy, Debug)]
enum Order {
    GoAway(Reason),
    Freeze,
    Cut,
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, talks: UnboundedSender<Talk>) {
    let Ok(mut connection) = Builder::new().handshake::<_, Bytes>(io).await else { return };
    let (orders, mut ordered) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (head, body) = request.into_parts();
                let answering = Answering::Not(respond);
                let talk = Talk { head, body, heard: BytesMut::new(), answering, orders: orders.clone() };
                // The test may be over.
                drop(talks.send(talk));
            }
            Some(order) = ordered.recv() => match order {
                Order::GoAway(reason) => {
                    // What was said before is heard before.
                    poll_fn(|cx| {
                        let _nobody = connection.poll_accept(cx);
                        Poll::Ready(())
                    })
                    .await;
                    connection.abrupt_shutdown(reason);
                }
                Order::Freeze => pending().await,
                Order::Cut => return,
            }
        }
    }
}

/// A stream, as the test holds its end.
pub struct Talk {
    /// The head of the request.
    pub head: hyper::http::request::Parts,
    body: RecvStream,
    heard: BytesMut,
    answering: Answering,
    orders: UnboundedSender<Order>,
}

enum Answering {
    Not(SendResponse<Bytes>),
    Begun(SendStream<Bytes>),
}

impl Talk {
    /// The next message of the client; none when it has left.
    pub async fn request(&mut self) -> Option<DeltaDiscoveryRequest> {
        loop {
            if let Some((&[0, a, b, c, d], rest)) = self.heard.split_first_chunk() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if rest.len() >= length {
                    let message = self.heard.split_to(5 + length).split_off(5);
                    return Some(DeltaDiscoveryRequest::decode(message).expect("the client's messages can be read"));
                }
            }
            let data = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(data.len()).ok()?;
            self.heard.extend_from_slice(&data);
        }
    }

    /// Sends an answer.
    pub fn send(&mut self, response: &DeltaDiscoveryResponse) {
        self.send_bytes(&framed(&response.encode_to_vec()));
    }

    /// Sends bytes of any kind. Whoever has left does not hear them.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _sent = self.begun().map(|stream| stream.send_data(Bytes::copy_from_slice(bytes), false));
    }

    fn begun(&mut self) -> Option<&mut SendStream<Bytes>> {
        if let Answering::Not(respond) = &mut self.answering {
            let stream = respond.send_response(grpc(), false).ok()?;
            self.answering = Answering::Begun(stream);
        }
        if let Answering::Begun(stream) = &mut self.answering { Some(stream) } else { None }
    }

    /// Ends the stream as gRPC has it, by a status and words.
    pub fn end(mut self, status: &str, words: &str) {
        self.say_status(status, words);
    }

    /// Ends it so, and its connection with it.
    pub fn end_all(mut self, status: &str, words: &str, reason: Reason) {
        self.say_status(status, words);
        self.go_away(reason);
    }

    fn say_status(&mut self, status: &str, words: &str) {
        let trailers = grpc_status(status, words);
        let _sent = self.begun().map(|stream| stream.send_trailers(trailers));
    }

    /// Ends it with nothing but a head.
    pub fn refuse(mut self, response: Response<()>) {
        if let Answering::Not(respond) = &mut self.answering {
            let _sent = respond.send_response(response, true);
        }
    }

    /// Ends it without a status.
    pub fn hang_up(mut self) {
        let _sent = self.begun().map(|stream| stream.send_data(Bytes::new(), true));
    }

    /// Ends it in the middle of whatever is being said.
    pub fn reset(mut self, reason: Reason) {
        if let Some(stream) = self.begun() {
            stream.send_reset(reason);
        }
    }

    /// A connection that has ended takes no orders.
    fn order(&self, order: Order) {
        let _ended = self.orders.send(order);
    }

    /// Ends the connection by a word.
    pub fn go_away(&self, reason: Reason) {
        self.order(Order::GoAway(reason));
    }

    /// Ends the connection without a word.
    pub fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Lets the connection be, and answers nothing on it any more, not even pings.
    pub fn freeze(&self) {
        self.order(Order::Freeze);
    }
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().expect("messages of tests are short"));
    framed.put_slice(message);
    framed
}

pub fn grpc() -> Response<()> {
    head(200, &[("content-type", "application/grpc")])
}

pub fn head(status: u16, headers: &[(&'static str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().expect("a header"));
    }
    response
}

fn grpc_status(status: &str, words: &str) -> HeaderMap {
    head(200, &[("grpc-status", status), ("grpc-message", words)]).into_parts().0.headers
}
