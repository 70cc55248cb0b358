//! Any datagram has a PROXY header or is refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| proxy::fuzzing::proxy_header(datagram));
