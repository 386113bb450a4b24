//! Ingest: where events come in, and the way from there to the workers.
//!
//! Each transport reads into a [`Block`] that was charged to the memory budget first, marks where
//! whole events end (`framing`), and sends the block down a [`Lane`]. A connection keeps its lane,
//! and so its worker, for life: that is what keeps its events in order all the way to every output.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    books::{Books, Ingest},
    buffer::{Work, WorkQueue},
    in_flight::InFlight,
    memory::{Block, Memory},
    receipt::Claim,
};

pub mod framing;
pub mod http;
pub mod tcp;
pub mod udp;

/// Bounds of what is taken in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest event in bytes, terminator not counted; a longer one is counted, and cut and marked
    /// when the rules have seen it.
    pub max_event_bytes: usize,
    /// Longest datagram in bytes; of a longer one the rest is lost, its last event is marked and
    /// counted.
    pub max_datagram_bytes: usize,
    /// Longest body of a request in bytes, after decompression; a longer one is refused whole.
    pub max_body_bytes: usize,
    /// Most TCP connections at a time; further ones wait to be accepted.
    pub max_connections: usize,
}

/// The entrance that all transports share.
#[derive(Debug)]
pub struct Intake {
    /// The budget that blocks are drawn on.
    pub memory: Arc<Memory>,
    /// What was read and no output has taken yet.
    pub in_flight: Arc<InFlight>,
    /// The accounts.
    pub books: Arc<Books>,
    /// Bounds of what is taken in.
    pub limits: Limits,
    /// Whether senders over HTTP are answered only when their events are safe.
    pub durable: bool,
    /// Connections over TCP that may keep a block while they wait for the rest of a line.
    waiting_blocks: Semaphore,
    queues: Vec<Arc<WorkQueue>>,
    next_lane: AtomicUsize,
}

/// The way to one worker.
#[derive(Debug, Clone)]
pub struct Lane {
    queue: Arc<WorkQueue>,
    books: Arc<Books>,
    ingest: Ingest,
}

impl Intake {
    /// Makes the entrance to these workers, at least one.
    pub fn new(
        memory: Arc<Memory>,
        books: Arc<Books>,
        limits: Limits,
        durable: bool,
        queues: Vec<Arc<WorkQueue>>,
    ) -> Arc<Self> {
        assert!(!queues.is_empty(), "there is at least one worker");
        Arc::new(Self {
            memory,
            in_flight: InFlight::new(queues.len()),
            books,
            limits,
            durable,
            waiting_blocks: Semaphore::new(tcp::WAITING_BLOCKS),
            queues,
            next_lane: AtomicUsize::new(0),
        })
    }

    /// Returns the lane for the next connection: each worker in turn.
    pub fn lane(&self, ingest: Ingest) -> Lane {
        self.lane_of(ingest, self.next_lane.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the lane of that number, the same for the same number.
    pub fn lane_of(&self, ingest: Ingest, number: usize) -> Lane {
        let queue = Arc::clone(&self.queues[number % self.queues.len()]);
        Lane {
            queue,
            books: Arc::clone(&self.books),
            ingest,
        }
    }
}

impl Lane {
    /// Books the events of a block and hands it to the worker. Never waits.
    pub fn send(&self, block: Block, window: Option<OwnedSemaphorePermit>) {
        self.send_claimed(block, window, None);
    }

    /// Does the same for a sender that waits until its events are safe.
    pub fn send_claimed(
        &self,
        block: Block,
        window: Option<OwnedSemaphorePermit>,
        claim: Option<Claim>,
    ) {
        if block.is_empty() {
            if let Some(claim) = claim {
                claim.settle();
            }
            return;
        }
        self.books
            .received(self.ingest, block.events(), block.byte_len());
        self.queue.push(Work {
            block,
            window,
            claim,
        });
    }

    /// Books events that were cut.
    pub fn note_truncated(&self, events: u64) {
        self.books.truncated(self.ingest, events);
    }
}
