//! What a processor is: one step of a chain, native or WASM.

use std::ops::AddAssign;

use crate::{Batch, Edited};

/// A rule, compiled: takes a batch and says which events go on, and how.
///
/// A processor has no clock and does no I/O. It may keep state, and it is called by one thread at a
/// time; every worker has its own copy.
pub trait Processor {
    /// Applies the rule to every event of the batch.
    ///
    /// The batch is edited in place through [`Batch::edit`] or [`Batch::retain`]; what is not
    /// touched goes on as it is. Returns what was done, for the books: the events that the batch
    /// lost must be exactly `dropped + failed_dropped`.
    fn process(&mut self, batch: &mut Batch) -> Tally;
}

/// What a processor did to one batch, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Dropped because the rule says so.
    pub dropped: u64,
    /// Gone on with another body because the rule says so.
    pub changed: u64,
    /// Events that the rule failed on and passed on, untouched or withheld.
    pub failed: u64,
    /// Events that the rule failed on and dropped.
    pub failed_dropped: u64,
}

impl Tally {
    /// A tally of events dropped by the rule, and nothing else.
    pub fn dropped(dropped: u64) -> Self {
        Self {
            dropped,
            ..Self::default()
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.dropped += more.dropped;
        self.changed += more.changed;
        self.failed += more.failed;
        self.failed_dropped += more.failed_dropped;
    }
}

impl From<Edited> for Tally {
    fn from(edited: Edited) -> Self {
        Self {
            dropped: edited.dropped,
            changed: edited.changed,
            ..Self::default()
        }
    }
}
