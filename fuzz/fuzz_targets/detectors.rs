//! See `streamgate_fuzz::detectors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamgate_fuzz::detectors(data));
