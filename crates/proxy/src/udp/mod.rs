//! Datagrams: flows between clients and backends over UDP and unix datagram sockets.
//!
//! A datagram's way through the files: `engine` hears that there is something, `batch` receives it, `inbound` has `table`
//! say whose flow it is or whether a new one is admitted, `reach` gives a new one a backend and a socket, and `send` sends
//! it on. Replies come the same way back through `outbound`. What ends a flow is decided by `table` (silence, enough
//! requests and replies) and by the live set (its backend is gone); `flow` is what a flow has beside its place there.

mod batch;
mod engine;
mod flow;
mod inbound;
mod outbound;
pub(crate) mod proxy_header;
pub(crate) mod quic;
mod reach;
mod send;
mod settings;
mod socket;
mod stats;
mod table;
mod train;

#[cfg(test)]
mod loopback;

pub(crate) use engine::{Engine, Tools, WhatOfFlows};
pub use quic::{ConnectionId, ConnectionIds, InvalidQuicLb, LearnedIds, QuicLb, ServerId};
pub(crate) use reach::is_listening;
pub use settings::{Draining, Networks, SendProxy, UdpSettings, Unproven};
pub(crate) use socket::bind_udp;
pub use stats::{Dropped, Moved, UdpStats};
