//! The room in front of a worker: a queue of batches.
//!
//! It is bounded in bytes by what the blocks in it hold of the memory budget, which they got before
//! they were read; so pushing never waits and never fails. [`Backlog`] sums the bytes that wait in
//! front of all workers, which is what overload is measured by.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::OwnedSemaphorePermit;

use crate::{memory::Block, receipt::Claim};

/// What a worker is handed.
#[derive(Debug)]
pub struct Work {
    /// The events.
    pub block: Block,
    /// The connection's right to have one more batch before the workers; given back as soon as the
    /// batch is on its way to the outputs.
    pub window: Option<OwnedSemaphorePermit>,
    /// Of a sender that waits until its events are safe.
    pub claim: Option<Claim>,
}

/// Bytes that wait in front of the workers.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicUsize,
}

impl Backlog {
    /// Returns the bytes that wait now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The queue in front of one worker.
#[derive(Debug)]
pub struct WorkQueue {
    state: Mutex<State>,
    arrived: Condvar,
    backlog: Arc<Backlog>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Work>,
    nudged: bool,
    closed: bool,
}

impl WorkQueue {
    /// Makes an empty queue.
    pub fn new(backlog: Arc<Backlog>) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            backlog,
        }
    }

    /// Appends work. It is taken in this order.
    pub fn push(&self, work: Work) {
        self.backlog
            .bytes
            .fetch_add(work.block.capacity(), Ordering::Relaxed);
        self.state.lock().waiting.push_back(work);
        self.arrived.notify_one();
    }

    /// Wakes the worker without work, so that it looks at the current revision.
    pub fn nudge(&self) {
        self.state.lock().nudged = true;
        self.arrived.notify_one();
    }

    /// Lets the worker end when the queue is empty.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Moves all waiting work to `taken`, waiting until there is some, a nudge (`taken` stays
    /// empty), or the end (returns false).
    pub fn take(&self, taken: &mut VecDeque<Work>) -> bool {
        let mut state = self.state.lock();
        loop {
            if !state.waiting.is_empty() {
                taken.append(&mut state.waiting);
                state.nudged = false;
                return true;
            }
            if std::mem::take(&mut state.nudged) {
                return true;
            }
            if state.closed {
                return false;
            }
            self.arrived.wait(&mut state);
        }
    }

    /// Says that taken work is no longer waiting.
    pub fn started(&self, block: &Block) {
        self.backlog
            .bytes
            .fetch_sub(block.capacity(), Ordering::Relaxed);
    }
}
