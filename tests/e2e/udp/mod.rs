//! Datagrams: flows between clients and backends over UDP and unix sockets.

mod addresses;
mod changes;
mod failing;
mod flows;
mod game;
mod limits;
mod paths;
mod programs;
mod proxy_headers;
mod quic;
