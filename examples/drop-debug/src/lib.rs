//! The smallest useful processor: drops the events that contain a word.
//!
//! It runs natively here, in its test. What is shown is the whole of what an author writes.

use streamgate_guest::{Batch, Processor, Tally};

/// Drops every event whose body contains `DEBUG`.
#[derive(Debug, Default)]
pub struct DropDebug;

impl Processor for DropDebug {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let is_debug = |body: &[u8]| body.windows(5).any(|word| word == b"DEBUG");
        Tally::dropped(batch.retain(|event| !is_debug(event.body())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_debug_and_nothing_else() {
        let mut batch = Batch::from_lines("INFO ready\nDEBUG tick\nWARN disk\n");
        assert_eq!(DropDebug.process(&mut batch).dropped, 1);
        let left: Vec<_> = batch.iter().map(|event| event.body()).collect();
        assert_eq!(left, [&b"INFO ready"[..], b"WARN disk"]);
    }
}
