//! The native StreamGate processors.
