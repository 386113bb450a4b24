//! The modules of this repository are modules.

use std::fs;

use crate::support::guest;

#[test]
fn every_module_builds() {
    for name in [
        "drop-keyword",
        "keep-first",
        "mask-email",
        "trim-json",
        "builtin",
        "keep-all",
        "misbehave",
    ] {
        let bytes = fs::read(guest(name)).expect("the file is there");
        assert!(bytes.starts_with(b"\0asm"), "{name} is no WASM");
    }
}
