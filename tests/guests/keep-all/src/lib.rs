//! Keeps every event: what is left to measure is the way in and out of a guest.

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Tally, export};

/// Keeps every event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepAll {
    /// Whether each event is decided on, or the batch is not looked at.
    #[serde(default)]
    each: bool,
}

impl Processor for KeepAll {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        if self.each {
            batch.retain(|_| true);
        }
        Tally::default()
    }
}

export!(KeepAll);

#[cfg(test)]
mod tests {
    use streamgate_guest::testing::Harness;

    use super::*;

    #[test]
    fn keeps_every_event() {
        for config in ["{}", r#"{"each": true}"#] {
            let mut harness = Harness::<KeepAll>::configure(config).unwrap();
            assert_eq!(harness.survivors(["a", ""]), ["a", ""]);
        }
    }
}
