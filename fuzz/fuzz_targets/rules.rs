//! See `streamgate_fuzz::rules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamgate_fuzz::rules(data));
