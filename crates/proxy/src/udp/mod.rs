//! Datagrams: flows between clients and backends over UDP and unix datagram sockets.
//!
//! A datagram's way through the files: `engine` has `batch` receive what is there, `table` says whose flow it is or
//! whether a new one is admitted, a new one is given a backend and a socket by `flow`, and `batch` sends it on. Replies
//! come the same way back. What ends a flow is decided by `table` (silence, enough requests and replies) and by the
//! live set (its backend is gone).
// Until the engine uses all of it.
#![allow(dead_code)]

mod batch;
pub(crate) mod proxy_header;
pub(crate) mod quic;
mod send;
mod settings;
mod socket;
mod table;
mod train;

pub use quic::{ConnectionId, ConnectionIds, InvalidQuicLb, LearnedIds, QuicLb, ServerId};
pub use settings::{Draining, Networks, SendProxy, UdpSettings, Unproven};
pub(crate) use socket::bind_udp;
