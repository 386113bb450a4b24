//! A worker: takes a batch, runs the chain of the live revision, hands the rest to the outputs.
//!
//! Workers are threads of their own and not tasks of the async runtime: a slow pattern must never
//! hold up a socket. A worker looks at the live [`Revision`] once a batch, so each event is
//! processed by exactly one revision; between two batches it may be another one.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use streamgate_guest::Scratch;
use tracing::{error, info};

use crate::{
    books::Books,
    buffer::{Backlog, Work, WorkQueue},
    ingest::framing::cut_processed,
    outputs::{Delivery, FanOut, Origin, OutputHandle},
};

use panics::PanicLog;

pub use chain::{BuildError, Chain, CompiledChain, ModuleSource, Parts, RuleStatus, check_rule};

mod chain;
mod clock;
mod panics;

/// Overload begins when this share of the room before the workers is taken, in percent ...
const OVERLOAD_BEGINS_PERCENT: usize = 80;

/// ... and ends when no more than this share is.
const OVERLOAD_ENDS_PERCENT: usize = 50;

/// One published configuration, compiled: what a batch is processed by.
#[derive(Debug)]
pub struct Revision {
    /// Its number.
    pub number: u64,
    /// The rules.
    pub chain: CompiledChain,
    /// Where survivors go, at least one.
    pub outputs: Vec<Arc<OutputHandle>>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The live revision.
    pub revision: ArcSwap<Revision>,
    /// The accounts.
    pub books: Arc<Books>,
    /// What waits before the workers.
    pub backlog: Arc<Backlog>,
    /// Hands batches to outputs.
    pub fan_out: FanOut,
    /// Whether rules that may be bypassed are.
    pub overload: Overload,
    /// What is longer when the rules are done with it is cut, in bytes.
    pub max_event_bytes: usize,
}

/// Whether the workers cannot keep up.
#[derive(Debug)]
pub struct Overload {
    active: AtomicBool,
    entered: AtomicU64,
    room_bytes: usize,
}

impl Overload {
    /// Makes the state for a room of that many bytes before the workers.
    pub fn new(room_bytes: usize) -> Self {
        Self {
            active: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            room_bytes,
        }
    }

    /// Returns whether the gate is overloaded now.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Returns how often it was.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }

    /// Looks at what waits. If it is the outputs that hold the workers up, skipping rules would
    /// only send them more: that is no overload.
    fn update(&self, waiting_bytes: usize, outputs_are_slow: bool) -> bool {
        let share_is_above = |percent| waiting_bytes * 100 > self.room_bytes * percent;
        let was = self.is_active();
        let is = match was {
            true => share_is_above(OVERLOAD_ENDS_PERCENT),
            false => share_is_above(OVERLOAD_BEGINS_PERCENT) && !outputs_are_slow,
        };
        // Only the worker that flips the state says so; transitions are as rare as the distance
        // between the two marks makes them.
        if is != was && self.active.swap(is, Ordering::Relaxed) != is {
            if is {
                self.entered.fetch_add(1, Ordering::Relaxed);
            }
            info!(
                active = is,
                waiting_bytes, "overload changed; rules that may be bypassed are"
            );
        }
        is
    }
}

/// One worker thread's own state.
#[derive(Debug)]
struct Worker {
    shared: Arc<Shared>,
    queue: Arc<WorkQueue>,
    revision: Arc<Revision>,
    chain: Chain,
    outputs_are_slow: bool,
    /// Lent to one batch after the other.
    scratch: Scratch,
    panic_log: PanicLog,
}

/// Starts a worker; it ends when its queue is closed and empty.
///
/// # Errors
/// If the operating system has no thread to give.
pub fn spawn_worker(
    number: usize,
    shared: Arc<Shared>,
    queue: Arc<WorkQueue>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let revision = shared.revision.load_full();
    let chain = revision.chain.for_worker(Chain::default());
    let worker = Worker {
        shared,
        queue,
        revision,
        chain,
        outputs_are_slow: false,
        scratch: Scratch::default(),
        panic_log: PanicLog::default(),
    };
    panics::report_seldom();
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || worker.run())
}

impl Worker {
    fn run(mut self) {
        let mut taken = VecDeque::new();
        while self.queue.take(&mut taken) {
            // A nudge comes without work; the old revision is let go of at once, and with it the
            // outputs that only it had.
            self.follow_revision();
            while let Some(work) = taken.pop_front() {
                self.queue.started(&work.block);
                self.follow_revision();
                self.process(work);
            }
        }
    }

    fn follow_revision(&mut self) {
        let live = self.shared.revision.load();
        if !Arc::ptr_eq(&live, &self.revision) {
            self.revision = Arc::clone(&live);
            let previous = mem::take(&mut self.chain);
            self.chain = self.revision.chain.for_worker(previous);
        }
    }

    fn process(&mut self, work: Work) {
        let Work {
            mut block,
            window,
            claim,
        } = work;
        let waiting = self.shared.backlog.bytes();
        let overloaded = self.shared.overload.update(waiting, self.outputs_are_slow);

        let events = block.events() as u64;
        block.lend(&mut self.scratch);
        let (was_cut, rules) = (block.has_cut_events(), !self.chain.is_empty());
        let ran = panics::catch(|| {
            let compiled = &self.revision.chain;
            self.chain.run(compiled, &mut block, overloaded);
            cut_processed(&mut block, self.shared.max_event_bytes, was_cut, rules);
        });
        if ran.is_err() {
            // What a rule does is caught beside the rule. Neither side of "fail open, never leak" can be
            // told for what is left half-processed by anything else, so it is withheld.
            error!(
                revision = self.revision.number,
                events, "a worker panicked between two rules; its batch is lost"
            );
            self.shared
                .books
                .settle(|ledger| ledger.lost_to_a_panic(events));
            self.chain = self.revision.chain.for_worker(Chain::default());
            return;
        }
        self.log_panics();

        block.settle(&mut self.scratch);
        let survivors = block.events() as u64;
        let bytes = block.byte_len();
        let outputs = &self.revision.outputs;
        self.shared.books.settle(|ledger| {
            self.chain.book(ledger);
            ledger.delivered(survivors, bytes);
            if survivors > 0 {
                for output in outputs {
                    ledger.offered(output.account(), survivors);
                }
            }
        });
        drop(window);
        let claims = match &claim {
            Some(claim) if survivors > 0 => outputs.iter().map(|_| claim.another()).collect(),
            _ => Vec::new(),
        };
        if let Some(claim) = claim {
            claim.settle();
        }
        if survivors > 0 {
            let origin = Origin {
                revision: self.revision.number,
                bypassed: self.chain.bypassed(),
                at: SystemTime::now(),
            };
            self.outputs_are_slow = self
                .shared
                .fan_out
                .hand_over(Delivery::new(block, origin, claims), outputs);
        }
    }

    /// At most one line for each batch, about the first rule that panicked.
    fn log_panics(&mut self) {
        let Some((at, events)) = self.chain.panicked().next() else {
            return;
        };
        let rules = self.revision.chain.rules();
        let more: u64 = self.chain.panicked().skip(1).map(|(_, more)| more).sum();
        self.panic_log
            .note(self.revision.number, &rules[at].id, events + more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_begins_at_80_percent_and_ends_at_50() {
        let overload = Overload::new(1000);
        assert!(!overload.update(800, false));
        assert!(overload.update(801, false));
        assert!(overload.update(501, false));
        assert!(!overload.update(500, false));
        assert!(!overload.update(800, false));
        assert_eq!(overload.entered(), 1);
    }

    #[test]
    fn slow_outputs_are_no_overload() {
        let overload = Overload::new(1000);
        assert!(!overload.update(1000, true));
        assert!(overload.update(1000, false));
    }
}
