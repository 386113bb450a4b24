//! Whole-process benchmark.
fn main() {}
