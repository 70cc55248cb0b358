//! The sources that endpoints come from.
//!
//! Each has a part that reads and decides (a table of nasty inputs tests it), and a thin shell around it that opens
//! files and sockets. What all of them promise:
//!
//! * every wait ends: each request has a deadline for all of it, to the last byte of the answer;
//! * memory is bounded: answers, records and lines have a size, above which they are an error;
//! * a list is sent when it differs from the one before, and [`Event::Alive`](crate::Event::Alive) otherwise;
//! * half an answer is no answer.

mod base64;
mod consul;
mod dns;
mod escaped;
mod etcd;
mod fetch;
mod file;
pub mod fuzzing;
mod http;
mod kubernetes;
mod lines;
mod newest;
mod records;
mod secret;
mod tell;
mod tls;
mod xds;

pub use consul::{Consistency, ConsulSettings, ConsulSource};
pub use dns::{DnsSettings, DnsSource, Family};
pub use etcd::{Access, EtcdSettings, EtcdSource};
pub use file::{FileSettings, FileSource};
pub use http::{HttpSettings, HttpSource};
pub use kubernetes::{Cluster, KubernetesSettings, KubernetesSource, SlicePort};
pub use tls::{TlsIdentity, TlsSettings};
pub use xds::{XdsSettings, XdsSource};
