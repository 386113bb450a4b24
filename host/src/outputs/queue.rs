//! The queue before one output, and what travels in it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use streamgate_guest::count_events;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::Room;
use crate::{memory::Block, receipt::Claim};

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
    origin: Origin,
    /// One for each output, of a sender that waits until its events are safe.
    claims: Mutex<Vec<Claim>>,
}

/// Where events come from, for what is sent along with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The revision whose rules they passed; 0 if that is not known.
    pub revision: u64,
    /// Whether a rule let some of them pass untouched because the gate was overloaded or the rule
    /// broken.
    pub bypassed: bool,
    /// When they left the chain.
    pub at: SystemTime,
}

impl Origin {
    pub(super) const UNKNOWN: Self = Self {
        revision: 0,
        bypassed: false,
        at: SystemTime::UNIX_EPOCH,
    };
}

impl Delivery {
    /// Wraps what a chain left of a batch.
    pub fn new(block: Block, origin: Origin, claims: Vec<Claim>) -> Self {
        let (events, bytes) = (block.events() as u64, block.byte_len());
        let footprint = block.footprint();
        Self {
            block,
            events,
            bytes,
            footprint,
            origin,
            claims: Mutex::new(claims),
        }
    }

    /// Says that one output has the events safe.
    pub(super) fn settle(&self) {
        if let Some(claim) = self.claims.lock().pop() {
            claim.settle();
        }
    }

    /// Says that one output has lost some of them.
    pub(super) fn lose(&self) {
        drop(self.claims.lock().pop());
    }

    /// Returns the number of events.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// Events that an output is sending, in order: what was taken from its queue, or copies.
#[derive(Debug)]
pub(super) struct Group {
    serial: u64,
    parts: Parts,
    events: u64,
    bytes: usize,
    origin: Origin,
}

#[derive(Debug)]
enum Parts {
    Shared(Vec<Arc<Delivery>>),
    Lines(Box<Lines>),
}

/// Whole events of a group's own, each with a line feed.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// When the events came, each time with where the events of that time end; ascending.
    times: Vec<(usize, SystemTime)>,
}

impl Lines {
    /// Appends whole events that came at that time.
    pub(super) fn push(&mut self, events: &[u8], at: SystemTime) {
        self.bytes.extend_from_slice(events);
        self.end_at(at);
    }

    /// Appends an event without its line feed.
    pub(super) fn push_line(&mut self, line: &[u8], at: SystemTime) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.end_at(at);
    }

    fn end_at(&mut self, at: SystemTime) {
        let end = self.bytes.len();
        match self.times.last_mut() {
            Some((last_end, last)) if *last == at => *last_end = end,
            _ => self.times.push((end, at)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// An event, and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived<'a> {
    /// The line without its line feed; of a sender that ends lines with CRLF, with the CR.
    pub(super) line: &'a [u8],
    pub(super) at: SystemTime,
}

impl<'a> Arrived<'a> {
    /// Returns the event's text without its line ending, LF or CRLF.
    pub(super) fn text(self) -> &'a [u8] {
        self.line.strip_suffix(b"\r").unwrap_or(self.line)
    }
}

impl Group {
    /// Makes a group of events of its own.
    pub(super) fn of_lines(lines: Lines, origin: Origin) -> Self {
        let (events, bytes) = (count_events(&lines.bytes) as u64, lines.len());
        Self::new(Parts::Lines(Box::new(lines)), events, bytes, origin)
    }

    /// Copies what follows the first `bytes`, whole events.
    pub(super) fn rest(&self, bytes: usize) -> Self {
        let mut rest = Lines::default();
        self.copy_rest(bytes, &mut rest);
        Self::of_lines(rest, self.origin)
    }

    /// Appends what follows the first `bytes`, whole events, to `lines`.
    pub(super) fn copy_rest(&self, bytes: usize, lines: &mut Lines) {
        for (slice, at) in self.timed_slices(bytes) {
            lines.push(slice, at);
        }
    }

    fn of_deliveries(deliveries: Vec<Arc<Delivery>>) -> Self {
        let events = deliveries.iter().map(|delivery| delivery.events).sum();
        let bytes = deliveries.iter().map(|delivery| delivery.bytes).sum();
        let mut origin = deliveries
            .last()
            .map_or(Origin::UNKNOWN, |delivery| delivery.origin);
        origin.bypassed = deliveries.iter().any(|delivery| delivery.origin.bypassed);
        Self::new(Parts::Shared(deliveries), events, bytes, origin)
    }

    fn new(parts: Parts, events: u64, bytes: usize, origin: Origin) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            parts,
            events,
            bytes,
            origin,
        }
    }

    /// Says that the output has the events safe.
    pub(super) fn settle(&self) {
        if let Parts::Shared(deliveries) = &self.parts {
            deliveries.iter().for_each(|delivery| delivery.settle());
        }
    }

    /// Says that the output has lost some of them.
    pub(super) fn lose(&self) {
        if let Parts::Shared(deliveries) = &self.parts {
            deliveries.iter().for_each(|delivery| delivery.lose());
        }
    }

    /// Returns whether a sender waits until the events are safe.
    pub(super) fn is_awaited(&self) -> bool {
        let awaited = |delivery: &Arc<Delivery>| !delivery.claims.lock().is_empty();
        matches!(&self.parts, Parts::Shared(deliveries) if deliveries.iter().any(awaited))
    }

    /// Tells this group from any other.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns where the events come from; of several batches, the last one's.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    fn footprint(&self) -> usize {
        match &self.parts {
            Parts::Shared(deliveries) => deliveries.iter().map(|delivery| delivery.footprint).sum(),
            Parts::Lines(_) => 0,
        }
    }

    /// Iterates over the events' bytes behind the first `skip`, as slices of whole events.
    pub(super) fn slices(&self, skip: usize) -> impl Iterator<Item = &[u8]> {
        self.timed_slices(skip).map(|(slice, _)| slice)
    }

    /// As [`Self::slices`], each with when its events came.
    pub(super) fn timed_slices(&self, skip: usize) -> impl Iterator<Item = (&[u8], SystemTime)> {
        let (shared, lines) = match &self.parts {
            Parts::Shared(deliveries) => (&deliveries[..], None),
            Parts::Lines(lines) => (&[][..], Some(lines)),
        };
        let of_lines = lines.into_iter().flat_map(|lines| {
            let mut from = 0;
            lines.times.iter().map(move |(end, at)| {
                let slice = &lines.bytes[from..*end];
                from = *end;
                (slice, *at)
            })
        });
        let mut skip = skip;
        shared
            .iter()
            .flat_map(|delivery| {
                let at = delivery.origin.at;
                delivery.block.slices().map(move |slice| (slice, at))
            })
            .chain(of_lines)
            .filter_map(move |(slice, at)| {
                let skipped = skip.min(slice.len());
                skip -= skipped;
                (skipped < slice.len()).then(|| (&slice[skipped..], at))
            })
    }

    /// Iterates over the events behind the first `skip` bytes.
    pub(super) fn events_behind(&self, skip: usize) -> impl Iterator<Item = Arrived<'_>> {
        self.timed_slices(skip).flat_map(|(slice, at)| {
            let mut from = 0;
            memchr::memchr_iter(b'\n', slice).map(move |end| {
                let line = &slice[from..end];
                from = end + 1;
                Arrived { line, at }
            })
        })
    }

    /// Counts the events that end in the `bytes` behind the first `skip`.
    pub(super) fn events_in(&self, skip: usize, bytes: usize) -> u64 {
        if bytes == self.bytes {
            return self.events;
        }
        let mut left = bytes;
        let mut events = 0;
        for slice in self.slices(skip) {
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

/// How long an output waits for enough events to send at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filling {
    /// So many bytes are enough.
    pub(super) bytes: usize,
    /// After so long less is enough too.
    pub(super) linger: Duration,
}

/// A queue, bounded by the memory that what is in it holds.
#[derive(Debug)]
pub(super) struct OutputQueue {
    state: Mutex<State>,
    arrived: Notify,
    room: Arc<Room>,
}

#[derive(Debug)]
struct State {
    /// Taken and given back, or from the output that this one replaces; before all that waits.
    returned: VecDeque<Group>,
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
            returned: VecDeque::new(),
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

    /// Takes what waits, up to a bound; waits until there is something, and for as long as
    /// `filling` says until there is enough. `None` at the end.
    pub(super) async fn take(&self, filling: Filling) -> Option<Group> {
        let mut lingers = !filling.linger.is_zero();
        loop {
            if lingers && self.wait_until_filled(filling).await {
                lingers = false;
            }
            {
                let mut state = self.state.lock();
                if let Some(group) = state.returned.pop_front() {
                    self.arrived.notify_one();
                    return Some(group);
                }
                let mut taken = Vec::new();
                let mut bytes = 0;
                while let Some(next) = state.waiting.front() {
                    bytes += next.bytes;
                    let full = taken.len() == MAX_GROUP_DELIVERIES;
                    if !taken.is_empty() && (full || bytes > MAX_GROUP_BYTES) {
                        break;
                    }
                    taken.extend(state.waiting.pop_front());
                }
                // Whoever else takes from this queue has to see the rest, or the end.
                if !state.waiting.is_empty() || state.closed {
                    self.arrived.notify_one();
                }
                if !taken.is_empty() {
                    drop(state);
                    for delivery in &taken {
                        delivery.block.leave_flight();
                    }
                    return Some(Group::of_deliveries(taken));
                }
                if state.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Waits until there is something, and then until there is enough of it.
    async fn wait_until_filled(&self, filling: Filling) -> bool {
        let mut deadline = None;
        loop {
            {
                let state = self.state.lock();
                let bytes = state.waiting.iter().map(|delivery| delivery.bytes);
                let waiting: usize = bytes.take(MAX_GROUP_DELIVERIES).sum();
                let enough = filling.bytes.min(MAX_GROUP_BYTES);
                let filled = waiting >= enough || !state.returned.is_empty();
                if filled || state.full || state.closed {
                    return true;
                }
                if waiting > 0 {
                    deadline.get_or_insert_with(|| Instant::now() + filling.linger);
                }
            }
            let arrived = self.arrived.notified();
            match deadline {
                None => arrived.await,
                Some(deadline) => {
                    if timeout_at(deadline, arrived).await.is_err() {
                        return true;
                    }
                }
            }
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

    /// Returns whether nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes back what was taken and is not done; it is the next to be taken.
    pub(super) fn give_back(&self, group: Group) {
        self.state.lock().returned.push_front(group);
        self.arrived.notify_one();
    }

    /// Takes all that waits, in order.
    pub(super) fn take_all(&self) -> Vec<Group> {
        let mut state = self.state.lock();
        let mut groups: Vec<Group> = state.returned.drain(..).collect();
        let mut waiting = state.waiting.drain(..);
        loop {
            let some: Vec<_> = waiting.by_ref().take(1).collect();
            if some.is_empty() {
                break;
            }
            groups.push(Group::of_deliveries(some));
        }
        groups
    }

    /// Gives a group that was taken here to another queue, whose limit it may exceed: its memory is
    /// charged already.
    pub(super) fn hand_on(&self, group: Group, to: &Self) {
        let footprint = group.footprint();
        self.state.lock().held_bytes -= footprint;
        let mut state = to.state.lock();
        state.held_bytes += footprint;
        state.returned.push_back(group);
        drop(state);
        to.arrived.notify_one();
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
