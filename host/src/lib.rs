//! StreamGate: the log governance gate.

pub mod config_store;
pub mod manifest;
