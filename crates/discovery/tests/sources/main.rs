//! The sources against servers of this test that give every answer a registry has been seen to give, and against real
//! ones.
#![allow(clippy::unwrap_used)]

mod certificates;
mod consul;
mod dns;
mod dns_server;
mod etcd;
mod etcd_real;
mod file;
mod http;
mod http_server;
mod knot;
mod kube_server;
mod kubernetes;
mod pod;
mod support;
mod tls;
mod worst_days;
mod xds;
mod xds_server;
mod xds_streams;
#[allow(dead_code, reason = "shared with the tests of its parts")]
mod xds_types;
