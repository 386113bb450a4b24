//! A guest that breaks what a guest can break, one sin at a time, to see that the gate stands it.
//!
//! Config: `{"sin": "loop", "on": "poison", "size": 1000}`. With `on`, a batch is sinned against only
//! if one of its events contains that text. `size` is what the sin needs to be told; each has its
//! default. The sins, and what they do, are in `sins.rs`.
//!
//! It speaks to wit-bindgen directly, as the SDK would not let it lie.

// There is nothing to sin against natively.
#[cfg(target_arch = "wasm32")]
mod sins;
