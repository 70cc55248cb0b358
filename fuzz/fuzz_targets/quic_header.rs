//! Any datagram may pass between clients and servers of QUIC, in either direction, one after the other.
#![no_main]

use std::sync::LazyLock;

use proxy::fuzzing::Quic;

static QUIC: LazyLock<Quic> = LazyLock::new(Quic::new);

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| QUIC.datagram(datagram));
