//! See `streamgate_fuzz::redact`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamgate_fuzz::redact(data));
