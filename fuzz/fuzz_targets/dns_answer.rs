//! Any message is an answer of a name server or is passed over.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| discovery::sources::fuzzing::dns_answer(bytes));
