//! The queue before one output, and what travels in it.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use streamgate_guest::count_events;
use tokio::sync::{Notify, watch};

use super::Room;
use crate::memory::Block;

/// Most bytes of events that an output takes from its queue at once.
const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// Most batches that an output takes from its queue at once.
const MAX_GROUP_DELIVERIES: usize = 256;

/// A batch at the end of the chain, shared by the outputs; its memory goes back to the budget when
/// the last of them is done with it.
#[derive(Debug)]
pub struct Delivery {
    block: Block,
    events: u64,
    bytes: usize,
    footprint: usize,
}

impl Delivery {
    /// Wraps what a chain left of a batch.
    pub fn new(block: Block) -> Self {
        let (events, bytes) = (block.events() as u64, block.byte_len());
        let footprint = block.footprint();
        Self {
            block,
            events,
            bytes,
            footprint,
        }
    }

    /// Returns the number of events.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// Deliveries that an output is sending, in order.
#[derive(Debug, Default)]
pub(super) struct Group {
    deliveries: Vec<Arc<Delivery>>,
}

impl Group {
    pub(super) fn events(&self) -> u64 {
        self.deliveries.iter().map(|delivery| delivery.events).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.bytes).sum()
    }

    fn footprint(&self) -> usize {
        self.deliveries
            .iter()
            .map(|delivery| delivery.footprint)
            .sum()
    }

    /// Iterates over the events' bytes behind the first `skip`, as slices.
    pub(super) fn slices(&self, skip: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = skip;
        self.deliveries
            .iter()
            .flat_map(|delivery| delivery.block.slices())
            .filter_map(move |slice| {
                let skipped = skip.min(slice.len());
                skip -= skipped;
                (skipped < slice.len()).then(|| &slice[skipped..])
            })
    }

    /// Counts the events that lie whole in the first `bytes`.
    pub(super) fn events_within(&self, bytes: usize) -> u64 {
        let mut left = bytes;
        let mut events = 0;
        for slice in self.slices(0) {
            let within = left.min(slice.len());
            events += count_events(&slice[..within]) as u64;
            left -= within;
            if left == 0 {
                break;
            }
        }
        events
    }

    /// Returns where the event begins that the byte at `bytes` belongs to.
    pub(super) fn event_start(&self, bytes: usize) -> usize {
        let mut before = 0;
        for slice in self.slices(0) {
            if bytes < before + slice.len() {
                let within = &slice[..bytes - before];
                return before + memchr::memrchr(b'\n', within).map_or(0, |at| at + 1);
            }
            before += slice.len();
        }
        bytes
    }
}

/// A queue, bounded by the memory that what is in it holds.
#[derive(Debug)]
pub(super) struct OutputQueue {
    state: Mutex<State>,
    arrived: Notify,
    abandoned: watch::Sender<bool>,
    room: Arc<Room>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Arc<Delivery>>,
    /// What is waiting and what was taken and is not done, in bytes of memory.
    held_bytes: usize,
    limit_bytes: usize,
    /// The last delivery that was offered did not fit, and nothing was done since.
    full: bool,
    batch_size: u32,
    closed: bool,
}

impl OutputQueue {
    pub(super) fn new(batch_size: u32, limit_bytes: usize, room: Arc<Room>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            held_bytes: 0,
            limit_bytes,
            full: false,
            batch_size,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            abandoned: watch::Sender::new(false),
            room,
        }
    }

    /// Appends a delivery if there is room; an empty queue always has some. `was_idle` is called
    /// before it can be taken if the output had nothing to do.
    pub(super) fn push(&self, delivery: &Arc<Delivery>, was_idle: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        let after = state.held_bytes.saturating_add(delivery.footprint);
        if state.held_bytes > 0 && after > state.limit_bytes {
            state.full = true;
            return false;
        }
        if state.held_bytes == 0 {
            was_idle();
        }
        state.held_bytes = after;
        state.waiting.push_back(Arc::clone(delivery));
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// Takes what waits, up to a bound; waits until there is something. `None` at the end.
    pub(super) async fn take(&self) -> Option<Group> {
        loop {
            {
                let mut state = self.state.lock();
                let mut group = Group::default();
                let mut bytes = 0;
                while let Some(next) = state.waiting.front() {
                    bytes += next.bytes;
                    let full = group.deliveries.len() == MAX_GROUP_DELIVERIES;
                    if !group.deliveries.is_empty() && (full || bytes > MAX_GROUP_BYTES) {
                        break;
                    }
                    group.deliveries.extend(state.waiting.pop_front());
                }
                if !group.deliveries.is_empty() {
                    return Some(group);
                }
                if state.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Gives the memory of a group back.
    pub(super) fn done(&self, group: Group) {
        let footprint = group.footprint();
        // First the buffers, then the room for more of them.
        drop(group);
        let mut state = self.state.lock();
        state.held_bytes -= footprint;
        state.full = false;
        drop(state);
        self.room.announce();
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Returns whether nothing more will come and nothing is left.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.held_bytes == 0
    }

    /// Takes everything that waits, and tells whoever sends to give up what it has in hand.
    pub(super) fn abandon(&self) -> Group {
        let deliveries = self.state.lock().waiting.drain(..).collect();
        self.abandoned.send_replace(true);
        Group { deliveries }
    }

    /// Turns true when what was taken must be given up.
    pub(super) fn abandoned(&self) -> watch::Receiver<bool> {
        self.abandoned.subscribe()
    }

    pub(super) fn set_limits(&self, batch_size: u32, limit_bytes: usize) {
        let mut state = self.state.lock();
        (state.batch_size, state.limit_bytes) = (batch_size, limit_bytes);
    }

    /// Returns the most events in one send.
    pub(super) fn batch_size(&self) -> usize {
        self.state.lock().batch_size as usize
    }

    /// Returns whether the last delivery that was offered did not fit, and nothing was done since.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().full
    }

    /// Returns the bytes held and the most that may be.
    pub(super) fn fill(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.held_bytes, state.limit_bytes)
    }
}
