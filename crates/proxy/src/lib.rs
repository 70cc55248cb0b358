//! The data plane of dislocate: listeners, and the sessions that they bring.
//!
//! A connection's way through the files: `accept` takes it, `limits` permits it, `session` picks a backend from
//! the live set (waiting in `line` while all are full) and has `connect` reach it, `relay` moves its bytes as `flow` says, and `record` tells the end.
//! Each worker (`worker`) does all of that on one thread with its own sockets; `proxy` is the handle that the
//! program holds.
// Not forbidden, because of one system call that no safe wrapper has: see `tcp_info`.
#![deny(unsafe_code)]

mod accept;
mod ask;
mod bind;
mod connect;
mod flow;
#[doc(hidden)]
pub mod fuzzing;
mod leg;
mod limits;
mod line;
mod listener;
mod pipe;
mod proxy;
mod record;
mod relay;
mod session;
mod stats;
mod tcp_info;
mod udp;
mod worker;

pub use accept::AcceptError;
pub use bind::{Bind, BindError, bind_unix};
pub use limits::Limit;
pub use line::Line;
pub use listener::{Listener, ListenerSettings};
pub use pipe::PipeCounters;
pub use proxy::{ListenerSpec, ListenerView, Options, Prepared, Proxy, SessionList, Wanted};
pub use record::{Peer, Reason, Record, RecordSink};
pub use session::SessionView;
pub use stats::{CrossZone, ListenerStats};
pub use udp::{
    ConnectionId, ConnectionIds, Draining, Dropped, InvalidQuicLb, LearnedIds, Moved, Networks, QuicLb, SendProxy,
    ServerId, UdpSettings, UdpStats, Unproven,
};
