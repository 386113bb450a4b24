//! The contract of a StreamGate processor.
