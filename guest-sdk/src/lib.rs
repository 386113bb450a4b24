//! The contract of a StreamGate processor: batches of events in, batches of events out.
//!
//! A complete processor:
//!
//! ```
//! use serde::Deserialize;
//! use streamgate_guest::{Batch, Processor, Tally, export};
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct DropKeyword {
//!     keyword: String,
//! }
//!
//! impl Processor for DropKeyword {
//!     fn process(&mut self, batch: &mut Batch) -> Tally {
//!         Tally::dropped(batch.retain(|event| !event.contains(&self.keyword)))
//!     }
//! }
//!
//! export!(DropKeyword);
//!
//! let mut batch = Batch::from_lines("INFO: ready\nDEBUG: tick\n");
//! let mut processor = DropKeyword { keyword: "DEBUG".to_owned() };
//! assert_eq!(processor.process(&mut batch).dropped, 1);
//! assert_eq!(batch.slices().collect::<Vec<_>>(), [b"INFO: ready\n"]);
//! ```
//!
//! Its fields are the config that a rule gives it; [`Configure`] is there for the ones that need more
//! than that. `cargo build --release --target wasm32-unknown-unknown` of a `cdylib` makes the module,
//! [`testing`] tries it without one, [`host`] is what it may ask the gate for.
//!
//! This crate knows nobody else in the workspace and few outside it, so that it builds natively and
//! for `wasm32-unknown-unknown` alike.

pub use batch::{
    Batch, Edited, Interrupted, MAX_REWRITTEN_BYTES, NoRoom, REWRITE_ALLOWANCE, REWRITE_FACTOR,
    Rest, Rewrite, Scratch, Verdict, WITHHELD, count_events, every_event, floor_char,
    rewrite_limit,
};
pub use configure::{Configure, parse_config};
pub use editor::Editor;
pub use event::Event;
pub use processor::{Processor, Tally};

mod batch;
mod changes;
mod configure;
mod editor;
mod event;
#[doc(hidden)]
pub mod export;
pub mod host;
mod processor;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
