//! The memory that events may take: one budget in bytes, and the pool of buffers drawn on it.
//!
//! A [`Block`] is a batch with its share of the budget. It is taken *before* a socket is read and
//! given back when the last output is done with the events, so that nothing behind the gate can
//! make it grow. Buffers come in a few sizes ([`BlockSize`]) and are handed out last in, first out,
//! so that the one that is still in the processor's cache is written to next.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use parking_lot::Mutex;
use streamgate_guest::Batch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::in_flight::{InFlight, Share};

/// One permit of the budget, in bytes. The semaphore counts in 32 bits, which this makes 4 TiB.
const UNIT_BYTES: usize = 1024;

/// Least budget, in bytes: some blocks of the largest size must fit.
pub const MIN_BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// Buffers of each pooled size that are kept for reuse; at most 11 MiB in all.
const KEPT_BUFFERS: usize = 32;

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
    budget_bytes: usize,
    /// Buffers that wait for their next use, by size, up to [`BlockSize::LARGE`].
    idle: [Mutex<Vec<Batch>>; BlockSize::LARGE.0 as usize + 1],
}

/// A batch and its share of the budget.
#[derive(Debug)]
pub struct Block {
    batch: Batch,
    permit: OwnedSemaphorePermit,
    memory: Arc<Memory>,
    /// Whether an event was cut before any rule could see it.
    has_cut_events: bool,
    /// What it has in flight.
    share: Option<Share>,
}

/// Bytes outside a block that are still charged to the budget.
#[derive(Debug)]
pub struct Charge {
    permit: OwnedSemaphorePermit,
}

impl Memory {
    /// Makes a budget of that many bytes, at least [`MIN_BUDGET_BYTES`].
    pub fn new(budget_bytes: usize) -> Arc<Self> {
        let budget_bytes = budget_bytes.max(MIN_BUDGET_BYTES);
        let permits = (budget_bytes / UNIT_BYTES).min(u32::MAX as usize);
        Arc::new(Self {
            budget: Arc::new(Semaphore::new(permits)),
            budget_bytes,
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
        let permit = Arc::clone(&self.budget)
            .acquire_many_owned(size.units())
            .await;
        self.block(size, permit.expect("the budget is never closed"))
    }

    /// Takes a block if there is room in the budget now.
    pub fn try_acquire(self: &Arc<Self>, size: BlockSize) -> Option<Block> {
        let permit = Arc::clone(&self.budget)
            .try_acquire_many_owned(size.units())
            .ok()?;
        Some(self.block(size, permit))
    }

    /// Charges bytes that are held outside a block, if there is room in the budget now.
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let permit = Arc::clone(&self.budget)
            .try_acquire_many_owned(units(bytes))
            .ok()?;
        Some(Charge { permit })
    }

    fn block(self: &Arc<Self>, size: BlockSize, permit: OwnedSemaphorePermit) -> Block {
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
            share: None,
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
    /// Copies bytes out of this block's buffer and takes part of its charge with them.
    ///
    /// Until the block is dropped, the copy is charged in its place; that is at most the size of
    /// one block for each connection.
    pub fn split_off(&mut self, range: std::ops::Range<usize>) -> (Vec<u8>, Charge) {
        let copy = self.batch.buffer_mut()[range].to_vec();
        let wanted = units(copy.len()).min(units(self.batch.capacity())) as usize;
        let wanted = wanted.min(self.permit.num_permits());
        let permit = self
            .permit
            .split(wanted)
            .expect("no more than the permit has");
        (copy, Charge { permit })
    }

    /// Makes a block of bytes that are charged already.
    pub fn from_charged(bytes: Vec<u8>, charge: Charge, memory: &Arc<Memory>) -> Self {
        Self {
            batch: Batch::new(bytes),
            permit: charge.permit,
            memory: Arc::clone(memory),
            has_cut_events: false,
            share: None,
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
        self.share = Some(flight.enter(self.batch.byte_len()));
    }

    /// Says that an output has taken its events.
    pub fn leave_flight(&self) {
        if let Some(share) = &self.share {
            share.leave();
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
