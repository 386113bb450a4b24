//! The memory that events may take: one budget in bytes, and the pool of buffers drawn on it.
//!
//! A [`Block`] is a batch with its share of the budget. It is taken *before* a socket is read and
//! given back when the last output is done with the events, so that nothing behind the gate can
//! make it grow. Buffers come in a few sizes ([`BlockSize`]) and are handed out last in, first out,
//! so that the one that is still in the processor's cache is written to next.
//!
//! What is held while a peer is waited for is on the list of [`Holders`]. Whoever waits for room
//! longer than [`EVICT_AFTER`] has the oldest of them let go.

use std::{
    ops::{Deref, DerefMut},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use streamgate_guest::Batch;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

pub use self::holders::{Holder, Holders, Peer};

mod holders;

use crate::in_flight::{InFlight, InFlightBatch};

/// One permit of the budget, in bytes. The semaphore counts in 32 bits, which this makes 4 TiB.
const UNIT_BYTES: usize = 1024;

/// Least budget, in bytes: some blocks of the largest size must fit.
pub const MIN_BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// Buffers of each pooled size that are kept for reuse; at most 11 MiB in all.
const KEPT_BUFFERS: usize = 32;

/// A copy out of a block that is no longer than this always takes part of the block's charge with
/// it: that costs no turn at the budget, and a connection that is busy has one with nearly every
/// read.
const UNCHARGED_COPY_BYTES: usize = 2048;

/// Whoever has waited for room so long has idle holders let go, and again each time it passes.
const EVICT_AFTER: Duration = Duration::from_millis(100);

/// A part of the budget that requests over HTTP do not get. Those who are refused come again at
/// once, and would otherwise always be there first.
const RESERVED_DIVISOR: usize = 8;

/// What somebody may take of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    All,
    /// Of requests over HTTP, together: all but what is reserved for the other transports.
    Http,
}

impl Share {
    /// Whether what `other` has is a part of this share.
    fn covers(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

/// A part of the budget.
#[derive(Debug)]
struct Permit {
    budget: OwnedSemaphorePermit,
    /// The same part of the share of HTTP.
    http: Option<OwnedSemaphorePermit>,
}

impl Permit {
    fn units(&self) -> usize {
        self.budget.num_permits()
    }

    /// Takes so many units out of it, if it has them.
    fn split(&mut self, units: usize) -> Option<Self> {
        let budget = self.budget.split(units)?;
        let http = self.http.as_mut().and_then(|http| http.split(units));
        Some(Self { budget, http })
    }

    fn merge(&mut self, other: Self) {
        self.budget.merge(other.budget);
        match (&mut self.http, other.http) {
            (Some(http), Some(other)) => http.merge(other),
            (http, other) => *http = http.take().or(other),
        }
    }
}

/// The size of a block's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize(u8);

impl BlockSize {
    /// 16 KiB: what a quiet connection needs.
    pub const SMALL: Self = Self(0);
    /// 64 KiB: some datagrams.
    pub const MEDIUM: Self = Self(1);
    /// 256 KiB: what a busy connection reads at once.
    pub const LARGE: Self = Self(2);
    /// 16 MiB: only for single events of that size.
    pub const LARGEST: Self = Self(5);

    /// Returns the buffer size in bytes: 16 KiB times a power of four.
    pub const fn bytes(self) -> usize {
        (16 * 1024) << (2 * self.0)
    }

    /// Returns the next larger size, if there is one.
    pub fn larger(self) -> Option<Self> {
        (self < Self::LARGEST).then(|| Self(self.0 + 1))
    }

    /// Returns the next smaller size, if there is one.
    pub fn smaller(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// Returns the least size with room for that many bytes, if there is one.
    pub fn fitting(bytes: usize) -> Option<Self> {
        (0..=Self::LARGEST.0)
            .map(Self)
            .find(|size| size.bytes() >= bytes)
    }

    fn units(self) -> u32 {
        units(self.bytes())
    }
}

/// The budget and the pool.
#[derive(Debug)]
pub struct Memory {
    budget: Arc<Semaphore>,
    /// What requests over HTTP have left of their share.
    http: Arc<Semaphore>,
    budget_bytes: usize,
    /// Those who hold part of the budget while they wait for a peer.
    pub holders: Arc<Holders>,
    /// Buffers that wait for their next use, by size, up to [`BlockSize::LARGE`].
    idle: [Mutex<Vec<Batch>>; BlockSize::LARGE.0 as usize + 1],
}

/// A batch and its share of the budget.
#[derive(Debug)]
pub struct Block {
    batch: Batch,
    permit: Permit,
    memory: Arc<Memory>,
    /// Whether an event was cut before any rule could see it.
    has_cut_events: bool,
    /// Its events, as far as they are in flight.
    in_flight: Option<InFlightBatch>,
}

/// Bytes outside a block that are still charged to the budget.
#[derive(Debug)]
pub struct Charge {
    permit: Permit,
}

impl Memory {
    /// Makes a budget of that many bytes, at least [`MIN_BUDGET_BYTES`].
    pub fn new(budget_bytes: usize) -> Arc<Self> {
        let budget_bytes = budget_bytes.max(MIN_BUDGET_BYTES);
        let permits = (budget_bytes / UNIT_BYTES).min(u32::MAX as usize);
        Arc::new(Self {
            budget: Arc::new(Semaphore::new(permits)),
            http: Arc::new(Semaphore::new(permits - permits / RESERVED_DIVISOR)),
            budget_bytes,
            holders: Arc::default(),
            idle: Default::default(),
        })
    }

    /// Returns the whole budget in bytes.
    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Returns how much of the budget is taken, in bytes.
    pub fn used_bytes(&self) -> usize {
        self.budget_bytes
            .saturating_sub(self.budget.available_permits() * UNIT_BYTES)
    }

    /// Takes a block, waiting for room in the budget. Waiters are served in their order.
    pub async fn acquire(self: &Arc<Self>, size: BlockSize) -> Block {
        match self.try_acquire(size) {
            Some(block) => block,
            None => self.block(size, self.wait_for(Share::All, size.bytes()).await),
        }
    }

    /// Does the same for a share, but waits no longer than that.
    pub async fn acquire_within(
        self: &Arc<Self>,
        share: Share,
        size: BlockSize,
        patience: Duration,
    ) -> Option<Block> {
        let permit = self.permit_within(share, size.bytes(), patience).await?;
        Some(self.block(size, permit))
    }

    /// Takes a block if there is room in the budget now.
    pub fn try_acquire(self: &Arc<Self>, size: BlockSize) -> Option<Block> {
        Some(self.block(size, self.try_permit(Share::All, size.bytes())?))
    }

    /// Takes a block that is paid with a part of a charge, if that is enough, or else if there is
    /// room.
    pub fn try_acquire_from(
        self: &Arc<Self>,
        charge: &mut Charge,
        size: BlockSize,
    ) -> Option<Block> {
        let paid = charge.permit.split(size.units() as usize);
        let permit = paid.or_else(|| self.try_permit(Share::Http, size.bytes()))?;
        Some(self.block(size, permit))
    }

    /// Charges bytes that are held outside a block, and waits for room no longer than that.
    pub async fn charge_within(
        &self,
        share: Share,
        bytes: usize,
        patience: Duration,
    ) -> Option<Charge> {
        let permit = self.permit_within(share, bytes, patience).await?;
        Some(Charge { permit })
    }

    /// Charges bytes that are held outside a block, if there is room in the budget now.
    pub fn try_charge(&self, share: Share, bytes: usize) -> Option<Charge> {
        let permit = self.try_permit(share, bytes)?;
        Some(Charge { permit })
    }

    fn try_permit(&self, share: Share, bytes: usize) -> Option<Permit> {
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_many_owned(units(bytes)).ok();
        let http = match share {
            Share::All => None,
            Share::Http => Some(take(&self.http)?),
        };
        let budget = take(&self.budget)?;
        Some(Permit { budget, http })
    }

    async fn permit_within(
        &self,
        share: Share,
        bytes: usize,
        patience: Duration,
    ) -> Option<Permit> {
        if let Some(permit) = self.try_permit(share, bytes) {
            return Some(permit);
        }
        if bytes > self.budget_bytes {
            return None;
        }
        timeout(patience, self.wait_for(share, bytes)).await.ok()
    }

    /// Waits for room; those who hold some and do not use it let go meanwhile.
    async fn wait_for(&self, share: Share, bytes: usize) -> Permit {
        let http = match share {
            Share::All => None,
            Share::Http => Some(self.wait_at(&self.http, share, bytes).await),
        };
        let budget = self.wait_at(&self.budget, Share::All, bytes).await;
        Permit { budget, http }
    }

    async fn wait_at(
        &self,
        semaphore: &Arc<Semaphore>,
        share: Share,
        bytes: usize,
    ) -> OwnedSemaphorePermit {
        let mut acquiring = pin!(Arc::clone(semaphore).acquire_many_owned(units(bytes)));
        loop {
            match timeout(EVICT_AFTER, &mut acquiring).await {
                Ok(permit) => return permit.expect("the budget is never closed"),
                Err(_) => {
                    self.holders.evict(share, bytes);
                }
            }
        }
    }

    fn block(self: &Arc<Self>, size: BlockSize, permit: Permit) -> Block {
        let pooled = self
            .idle
            .get(size.0 as usize)
            .and_then(|idle| idle.lock().pop());
        let batch = pooled.unwrap_or_else(|| Batch::new(vec![0; size.bytes()]));
        Block {
            batch,
            permit,
            memory: Arc::clone(self),
            has_cut_events: false,
            in_flight: None,
        }
    }

    fn take_back(&self, mut batch: Batch) {
        let fits = |size: &BlockSize| size.bytes() == batch.capacity();
        let Some(size) = (0..=BlockSize::LARGE.0).map(BlockSize).find(fits) else {
            return;
        };
        batch.clear();
        let mut idle = self.idle[size.0 as usize].lock();
        if idle.len() < KEPT_BUFFERS {
            idle.push(batch);
        }
    }
}

impl Block {
    /// Copies bytes out of this block's buffer, and charges them by their length, rounded up to 1
    /// KiB.
    ///
    /// If the budget has no room for them, they take part of this block's charge with them, and are
    /// charged in its place until the block is dropped.
    pub fn split_off(&mut self, range: std::ops::Range<usize>) -> (Vec<u8>, Charge) {
        let copy = self.batch.buffer_mut()[range].to_vec();
        if copy.len() > UNCHARGED_COPY_BYTES
            && let Some(charge) = self.memory.try_charge(self.share(), copy.len())
        {
            return (copy, charge);
        }
        let wanted = units(copy.len()).min(units(self.batch.capacity())) as usize;
        let wanted = wanted.min(self.permit.units());
        let permit = self
            .permit
            .split(wanted)
            .expect("no more than the permit has");
        (copy, Charge { permit })
    }

    /// The share that it is charged to.
    fn share(&self) -> Share {
        match self.permit.http {
            Some(_) => Share::Http,
            None => Share::All,
        }
    }

    /// Makes a block of bytes that are charged already.
    pub fn from_charged(bytes: Vec<u8>, charge: Charge, memory: &Arc<Memory>) -> Self {
        Self {
            batch: Batch::new(bytes),
            permit: charge.permit,
            memory: Arc::clone(memory),
            has_cut_events: false,
            in_flight: None,
        }
    }

    /// Notes whether an event of it, or another one, was cut before any rule could see it.
    pub fn note_cut(&mut self, cut: bool) {
        self.has_cut_events |= cut;
    }

    /// Returns whether an event of it was cut before any rule could see it.
    pub fn has_cut_events(&self) -> bool {
        self.has_cut_events
    }

    /// Counts its events as in flight, until the first output takes them or the block is dropped.
    pub fn enter_flight(&mut self, flight: &Arc<InFlight>) {
        self.in_flight = Some(flight.enter(self.batch.byte_len()));
    }

    /// Says that an output has taken its events.
    pub fn leave_flight(&self) {
        if let Some(batch) = &self.in_flight {
            batch.leave();
        }
    }

    /// Returns the memory this block holds, in bytes.
    pub fn footprint(&self) -> usize {
        self.batch.footprint()
    }
}

impl Deref for Block {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.memory.take_back(std::mem::take(&mut self.batch));
    }
}

impl Charge {
    /// Gives back all but that many bytes of it.
    pub fn shrink_to(&mut self, bytes: usize) {
        let all = self.permit.units();
        drop(self.permit.split(all - (units(bytes) as usize).min(all)));
    }

    /// Adds another one to it.
    pub fn merge(&mut self, other: Self) {
        self.permit.merge(other.permit);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_obeyed_and_given_back() {
        let memory = Memory::new(MIN_BUDGET_BYTES);
        let fitting = MIN_BUDGET_BYTES / BlockSize::LARGE.bytes();
        let blocks: Vec<Block> = (0..fitting)
            .map(|_| memory.try_acquire(BlockSize::LARGE).expect("room"))
            .collect();
        assert!(memory.try_acquire(BlockSize::SMALL).is_none());
        assert_eq!(memory.used_bytes(), MIN_BUDGET_BYTES);
        drop(blocks);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn split_bytes_stay_charged_after_the_block_is_gone() {
        let memory = Memory::new(MIN_BUDGET_BYTES);
        let mut block = memory.try_acquire(BlockSize::SMALL).expect("room");
        let (bytes, charge) = block.split_off(0..3000);
        drop(block);
        assert_eq!((bytes.len(), memory.used_bytes()), (3000, 3 * UNIT_BYTES));
        drop(Block::from_charged(bytes, charge, &memory));
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn the_last_buffer_given_back_is_the_next_one_out() {
        let memory = Memory::new(MIN_BUDGET_BYTES);
        let mut first = memory.try_acquire(BlockSize::LARGE).expect("room");
        let second = memory.try_acquire(BlockSize::LARGE).expect("room");
        let address = first.buffer_mut().as_ptr();
        drop(second);
        drop(first);
        let mut again = memory.try_acquire(BlockSize::LARGE).expect("room");
        assert_eq!(again.buffer_mut().as_ptr(), address);
    }
}
