//! What any registry sends is a list of endpoints or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| discovery::sources::fuzzing::registry_answer(bytes));
