//! StreamGate: the log governance gate.

pub mod books;
pub mod config_store;
pub mod control;
pub mod gate;
pub mod http_server;
pub mod manifest;
