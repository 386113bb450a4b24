//! StreamGate: the log governance gate.

pub mod config_store;
pub mod http_server;
pub mod manifest;
