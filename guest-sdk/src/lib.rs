//! The contract of a StreamGate processor: batches of events in, batches of events out.
//!
//! A complete processor:
//!
//! ```
//! use streamgate_guest::{Batch, Processor, Tally};
//!
//! struct DropDebug;
//!
//! impl Processor for DropDebug {
//!     fn process(&mut self, batch: &mut Batch) -> Tally {
//!         Tally::dropped(batch.retain(|event| !event.body().starts_with(b"DEBUG")))
//!     }
//! }
//!
//! let mut batch = Batch::from_lines("INFO: ready\nDEBUG: tick\n");
//! assert_eq!(DropDebug.process(&mut batch).dropped, 1);
//! assert_eq!(batch.slices().collect::<Vec<_>>(), [b"INFO: ready\n"]);
//! ```
//!
//! This crate knows nobody else in the workspace and nearly nobody outside it, so that it builds
//! natively and for `wasm32-unknown-unknown` alike.

pub use batch::{
    Batch, Edited, NoRoom, REWRITE_ALLOWANCE, REWRITE_FACTOR, Rest, Rewrite, Verdict, WITHHELD,
    count_events, every_event,
};
pub use event::Event;
pub use processor::{Processor, Tally};

mod batch;
mod event;
mod processor;
