//! StreamGate: the log governance gate.
//!
//! The modules, in the order in which events meet them. `ARCHITECTURE.md` has the map.

pub mod access;

pub mod cli;

pub mod config;
pub mod server;
pub mod shutdown;

mod pem;

pub mod handshake;

pub mod ingest;

pub mod memory;

pub mod in_flight;

pub mod slots;

pub mod receipt;

pub mod buffer;

pub mod pipeline;

pub mod wasm;

pub mod outputs;

pub mod books;

pub mod metrics;

pub mod manifest;

pub mod nearest;

pub mod digest;

mod timestamp;

pub mod audit;

pub mod config_store;

pub mod fleet;

pub mod gate;

pub mod control;

pub mod http_server;

pub mod telemetry;
