//! StreamGate: the log governance gate.

pub mod manifest;
