#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sockgate_fuzz::checks::peer_marks(bytes));
