//! Services against real sockets and processes of this machine.
#![forbid(unsafe_code)]

mod exec;
mod http;
mod services;
mod sources;
mod support;
mod tcp;
mod udp;
