//! Builds `redact` rules and runs them on events, for the tests of what they hide.

use serde_json::Value;
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, OnError, Redact, RuleError};

/// The key that hashes are made with.
pub(crate) const KEY: &str = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/testdata/key.txt");

/// Builds a rule. A failure withholds the event.
pub(crate) fn build(params: &Value) -> Result<Redact, RuleError> {
    let params = params.as_object().expect("parameters are an object");
    match Builtin::build("redact", params, OnError::Mask)? {
        Builtin::Redact(redact) => Ok(redact),
        other => panic!("{other:?} is no redact rule"),
    }
}

/// Runs a rule on lines, each of them an event.
pub(crate) fn run(redact: &mut Redact, lines: &[u8]) -> Vec<u8> {
    let mut batch = Batch::from_lines(lines);
    redact.process(&mut batch);
    batch.slices().collect::<Vec<_>>().concat()
}
