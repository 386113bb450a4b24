//! What rules remember of keys: bounded, shared by all workers, locked once a shard and not once an
//! event.
//!
//! A key is 128 bits of a hash; its text is not kept. Each shard holds so many keys and no more. When
//! one more comes, a key that has nothing left to say makes room, or else one that was not asked for
//! lately (second chance: the hand passes over those that were, and forgets that they were).
//!
//! Cost: 16 bytes of a key, its value and a mark, and 8 to 16 bytes of index; a vector that doubles has
//! room to spare for a while. Nothing is allocated once a shard has grown to what it needs.
//!
//! Measured 2026-11-23, 2 cores, batches of 1,200 JSON events of 160 bytes, release: dedupe by a key takes
//! 240 to 260 ns of processor time an event with one worker, 250 with two, 230 to 280 with four, of
//! which most is the search for the field; throttle and sample by a target are alike. So the lock is
//! not what limits, and no worker needs a share of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Mutex, PoisonError},
};

use streamgate_guest::{Batch, Event};

use crate::RuleError;

/// Keys are read, and then looked up, so many at once: the scratch space does not grow with the batch.
const KEYS_AT_ONCE: usize = 4096;

/// Fewer keys than this are not worth a shard of their own.
const KEYS_PER_SHARD: usize = 1024;

const MAX_SHARDS: usize = 16;

/// A new key looks at so many slots for one to take over; only if it must take one over.
const MOST_STEPS: usize = 16;

/// Events of one batch whose key may fail to be read, each by itself.
const MOST_FAULTS: usize = 64;

/// Keys that are remembered unless a rule says otherwise.
const DEFAULT_KEYS: usize = 100_000;

/// Most keys that a rule may ask for.
const MAX_KEYS: usize = 1_000_000;

/// Reads the parameter `max_keys`.
///
/// # Errors
/// [`RuleError`] if it is out of bounds.
pub(crate) fn max_keys(max_keys: Option<usize>) -> Result<usize, RuleError> {
    match max_keys.unwrap_or(DEFAULT_KEYS) {
        max_keys @ 1..=MAX_KEYS => Ok(max_keys),
        other => Err(RuleError::new(
            "invalid_number",
            "/params/max_keys",
            format!("`max_keys` is {other}; expected 1 to {MAX_KEYS}"),
        )),
    }
}

/// Values by key.
#[derive(Debug)]
pub(crate) struct Memory<V> {
    shards: Box<[Mutex<Shard<V>>]>,
}

/// A part of the keys.
#[derive(Debug)]
pub(crate) struct Shard<V> {
    /// Numbers of slots plus 1, by the low bits of the key, then linearly; 0 is free. A power of two
    /// long, and at most half of it taken.
    index: Vec<u32>,
    slots: Vec<Slot<V>>,
    max_slots: usize,
    hand: usize,
}

#[derive(Debug)]
struct Slot<V> {
    key: u128,
    value: V,
    asked_for: bool,
}

/// What a value must tell, so that its key can be forgotten in time.
pub(crate) trait Spent {
    /// Whether it says no more than a key that was never seen.
    fn is_spent(&self, now_ns: u64) -> bool;
}

impl<V: Spent + Default> Memory<V> {
    /// Makes a memory for that many keys; they fill as they come.
    pub(crate) fn new(max_keys: usize) -> Self {
        let shards = (max_keys / KEYS_PER_SHARD).clamp(1, MAX_SHARDS);
        let shard = || {
            Mutex::new(Shard {
                index: Vec::new(),
                slots: Vec::new(),
                max_slots: max_keys.div_ceil(shards),
                hand: 0,
            })
        };
        Self {
            shards: std::iter::repeat_with(shard).take(shards).collect(),
        }
    }

    fn shard_of(&self, key: u128) -> usize {
        // Other bits than those that the index uses.
        usize::try_from(key >> 96).unwrap_or(0) % self.shards.len()
    }
}

/// One worker's scratch space: what is decided on each event of a batch.
///
/// What is remembered changes when a decision is made, so each event has one and no more: also if its
/// key cannot be read for a panic, or if a panic interrupts whoever does what was decided.
#[derive(Debug)]
pub(crate) struct Plan<D> {
    by_shard: Vec<Vec<(u32, u128)>>,
    decisions: Vec<D>,
    /// How many of them were told.
    told: usize,
    /// The numbers of events on which nothing could be decided, the first one last.
    faults: Vec<u32>,
    /// Whether the rest of the decisions is for the next batch.
    goes_on: bool,
}

impl<D> Default for Plan<D> {
    fn default() -> Self {
        Self {
            by_shard: Vec::new(),
            decisions: Vec::new(),
            told: 0,
            faults: Vec::new(),
            goes_on: false,
        }
    }
}

impl<D> Clone for Plan<D> {
    /// Scratch space is nobody else's.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<D: Copy + PartialEq> Plan<D> {
    /// Decides on every event of the batch: `keyless` on an event for which `key` is `None`, else what
    /// `decide` says, called in order for each key. After a [`go_on_from`](Self::go_on_from), all that
    /// was decided already.
    ///
    /// # Panics
    /// If `key` panics for many events; for few of them, [`next`](Self::next) does.
    pub(crate) fn make<V: Spent + Default>(
        &mut self,
        batch: &Batch,
        memory: &Memory<V>,
        now_ns: u64,
        keyless: D,
        mut key: impl FnMut(Event<'_>) -> Option<u128>,
        mut decide: impl FnMut(&mut V) -> D,
    ) {
        /// What a worker keeps for the next batch.
        const RESTING_DECISIONS: usize = 64 * 1024;
        if std::mem::take(&mut self.goes_on) && self.decisions.len() - self.told == batch.events() {
            return;
        }
        self.by_shard.resize_with(memory.shards.len(), Vec::new);
        self.decisions.clear();
        self.decisions.shrink_to(RESTING_DECISIONS);
        self.faults.clear();
        self.told = 0;
        let mut waiting = 0;
        let mut events = batch.iter();
        loop {
            // Once a batch, and once more for each event that it catches.
            let read = catch_unwind(AssertUnwindSafe(|| {
                for event in &mut events {
                    let number = u32::try_from(self.decisions.len()).expect("offsets have 32 bits");
                    self.decisions.push(keyless);
                    if let Some(key) = key(event) {
                        self.by_shard[memory.shard_of(key)].push((number, key));
                        waiting += 1;
                    }
                    if waiting == KEYS_AT_ONCE {
                        self.look_up(memory, now_ns, &mut decide);
                        waiting = 0;
                    }
                }
            }));
            match read {
                Ok(()) => break,
                Err(panic) if self.faults.len() == MOST_FAULTS => resume_unwind(panic),
                Err(_) => {
                    let number = self.decisions.len().saturating_sub(1);
                    self.faults
                        .push(u32::try_from(number).expect("offsets have 32 bits"));
                }
            }
        }
        self.faults.reverse();
        self.look_up(memory, now_ns, &mut decide);
    }

    /// Whether `decision` is what was decided on each event.
    pub(crate) fn is_all(&self, decision: D) -> bool {
        let rest = &self.decisions[self.told..];
        self.faults.is_empty() && rest.iter().all(|&other| other == decision)
    }

    /// Tells what was decided on the next event, in their order.
    ///
    /// # Panics
    /// If its key could not be read: so an edit is interrupted at the event that it is about.
    #[inline]
    pub(crate) fn next(&mut self) -> D {
        let number = self.told;
        self.told += 1;
        if !self.faults.is_empty() {
            self.meet_fault(number);
        }
        self.decisions[number]
    }

    #[cold]
    fn meet_fault(&mut self, number: usize) {
        if self
            .faults
            .pop_if(|&mut fault| fault as usize == number)
            .is_some()
        {
            // The panic was reported when it was caught.
            resume_unwind(Box::new("the key of an event cannot be read"));
        }
    }

    /// Takes over what was decided and not told yet, for a batch that has just these events.
    pub(crate) fn go_on_from(&mut self, interrupted: &mut Self) {
        *self = std::mem::take(interrupted);
        self.goes_on = true;
    }

    fn look_up<V: Spent + Default>(
        &mut self,
        memory: &Memory<V>,
        now_ns: u64,
        decide: &mut impl FnMut(&mut V) -> D,
    ) {
        for (keys, shard) in self.by_shard.iter_mut().zip(&memory.shards) {
            if keys.is_empty() {
                continue;
            }
            // A worker that panicked here left whole values behind.
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (number, key) in keys.drain(..) {
                self.decisions[number as usize] = decide(shard.value(key, now_ns));
            }
        }
    }
}

impl<V: Spent + Default> Shard<V> {
    /// Returns the value of the key; a new key's is the default.
    fn value(&mut self, key: u128, now_ns: u64) -> &mut V {
        let number = match self.find(key) {
            Some(number) => number,
            None => self.insert(key, now_ns),
        };
        let slot = &mut self.slots[number];
        slot.asked_for = true;
        &mut slot.value
    }

    fn insert(&mut self, key: u128, now_ns: u64) -> usize {
        let slot = Slot {
            key,
            value: V::default(),
            asked_for: false,
        };
        let number = match self.slot_to_take_over(now_ns) {
            Some(number) => {
                let old = self.slots[number].key;
                self.unlink(old);
                self.slots[number] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                if self.slots.len() * 2 > self.index.len() {
                    self.grow_index();
                }
                self.slots.len() - 1
            }
        };
        let free = self.place_of(key).1;
        self.index[free] = u32::try_from(number + 1).expect("keys are bounded");
        number
    }

    /// Chooses the slot that a new key takes over; `None` if it gets one more.
    fn slot_to_take_over(&mut self, now_ns: u64) -> Option<usize> {
        let full = self.slots.len() >= self.max_slots;
        // Two steps for each new key find what is spent before the slots have doubled.
        let steps = if full { MOST_STEPS } else { 2 };
        for _ in 0..steps.min(self.slots.len()) {
            let at = self.step();
            let slot = &mut self.slots[at];
            if slot.value.is_spent(now_ns) || (full && !slot.asked_for) {
                return Some(at);
            }
            slot.asked_for &= !full;
        }
        full.then(|| self.step())
    }

    fn step(&mut self) -> usize {
        let at = self.hand % self.slots.len();
        self.hand = at + 1;
        at
    }

    fn find(&self, key: u128) -> Option<usize> {
        if self.index.is_empty() {
            return None;
        }
        self.place_of(key).0
    }

    /// Returns the number of the key's slot, and its place in the index or the free one it would get.
    fn place_of(&self, key: u128) -> (Option<usize>, usize) {
        let mask = self.index.len() - 1;
        let mut at = home_of(key) & mask;
        loop {
            match self.index[at] {
                0 => return (None, at),
                number => {
                    let number = number as usize - 1;
                    if self.slots[number].key == key {
                        return (Some(number), at);
                    }
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Takes a key out of the index and closes the gap. Source: Knuth, "The Art of Computer
    /// Programming" 3, 6.4, algorithm R.
    fn unlink(&mut self, key: u128) {
        let mask = self.index.len() - 1;
        let (_, mut gap) = self.place_of(key);
        let mut at = gap;
        loop {
            self.index[gap] = 0;
            loop {
                at = (at + 1) & mask;
                let number = self.index[at];
                if number == 0 {
                    return;
                }
                let home = home_of(self.slots[number as usize - 1].key) & mask;
                // It may move to the gap unless its home lies behind the gap, up to where it is.
                if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                    break;
                }
            }
            self.index[gap] = self.index[at];
            gap = at;
        }
    }

    fn grow_index(&mut self) {
        let len = (self.slots.len() * 4).next_power_of_two().max(16);
        self.index.clear();
        self.index.resize(len, 0);
        // The last slot is entered by whoever pushed it.
        for number in 1..self.slots.len() {
            let free = self.place_of(self.slots[number - 1].key).1;
            self.index[free] = u32::try_from(number).expect("keys are bounded");
        }
    }
}

fn home_of(key: u128) -> usize {
    usize::try_from(key & u128::from(u32::MAX)).expect("32 bits are asked for")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Count(u32, bool);

    impl Spent for Count {
        fn is_spent(&self, _: u64) -> bool {
            self.1
        }
    }

    fn shard(max_slots: usize) -> Shard<Count> {
        Shard {
            index: Vec::new(),
            slots: Vec::new(),
            max_slots,
            hand: 0,
        }
    }

    #[test]
    fn no_more_keys_are_held_than_allowed() {
        let mut shard = shard(100);
        for key in 0..10_000 {
            shard.value(key, 0).0 += 1;
        }
        assert_eq!(shard.slots.len(), 100);
        assert!(shard.index.len() <= 512, "{}", shard.index.len());
    }

    #[test]
    fn a_key_that_is_asked_for_outlives_those_that_are_not() {
        let mut shard = shard(100);
        for key in 0..10_000 {
            shard.value(u128::MAX, 0).0 += 1;
            shard.value(key, 0).0 += 1;
        }
        assert_eq!(shard.value(u128::MAX, 0).0, 10_000);
    }

    #[test]
    fn spent_keys_make_room_before_others_do() {
        let mut shard = shard(1_000);
        for key in 0..10_000 {
            let value = shard.value(key, 0);
            value.1 = true;
        }
        assert!(shard.slots.len() < 10, "{}", shard.slots.len());
    }

    /// Does with a batch what the gate does when a rule panics: a fresh copy goes on. Returns what was
    /// decided on each event, `None` where it panicked.
    fn decide_to_the_end(memory: &Memory<Count>, lines: &str, torn: &[usize]) -> Vec<Option<u32>> {
        let mut plan = Plan::default();
        let mut batch = Batch::from_lines(lines);
        let mut decided = Vec::new();
        loop {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                let key = |event: Event<'_>| match event.body() {
                    b"fault" => resume_unwind(Box::new("on purpose")),
                    b"" => None,
                    body => Some(u128::from(body[0])),
                };
                plan.make(&batch, memory, 0, 0, key, |count| {
                    count.0 += 1;
                    count.0
                });
                batch.retain(|_| {
                    let decision = plan.next();
                    // Whoever does what was decided may panic too.
                    if torn.contains(&decided.len()) {
                        resume_unwind(Box::new("on purpose"));
                    }
                    decided.push(Some(decision));
                    true
                });
            }));
            if ended.is_ok() {
                batch.rejoin();
                assert_eq!(batch.events(), decided.len());
                return decided;
            }
            let interrupted = batch.isolate_interrupted().expect("it was an edit");
            assert!(interrupted.at_event);
            decided.push(None);
            batch.go_on();
            if batch.is_empty() {
                batch.rejoin();
                return decided;
            }
            let mut fresh = Plan::default();
            fresh.go_on_from(&mut plan);
            plan = fresh;
        }
    }

    #[test]
    fn each_event_is_decided_on_once_whatever_panics() {
        let memory = Memory::new(100);
        let lines = "a\nfault\na\nb\n\nfault\na\nb\n";
        assert_eq!(
            decide_to_the_end(&memory, lines, &[3]),
            [
                Some(1),
                None,
                Some(2),
                None,
                Some(0),
                None,
                Some(3),
                Some(2)
            ]
        );
        // The next batch is decided on anew.
        let none: &[usize] = &[];
        assert_eq!(decide_to_the_end(&memory, "a\n", none), [Some(4)]);
        assert_eq!(decide_to_the_end(&memory, "fault\n", none), [None]);
        assert_eq!(decide_to_the_end(&memory, "b\n", &[0]), [None]);
        assert_eq!(decide_to_the_end(&memory, "b\n", none), [Some(4)]);
    }

    proptest! {
        #[test]
        fn it_is_a_map_while_there_is_room(keys in prop::collection::vec(0..64_u128, 0..300)) {
            let (mut shard, mut model) = (shard(64), HashMap::new());
            for key in keys {
                // Many share a home.
                let key = (key << 64) | (key % 3);
                shard.value(key, 0).0 += 1;
                *model.entry(key).or_insert(0) += 1;
            }
            for (key, count) in model {
                prop_assert_eq!(shard.value(key, 0).0, count);
            }
        }

        #[test]
        fn forgetting_keys_breaks_no_others(keys in prop::collection::vec(0..40_u128, 0..400)) {
            let mut shard = shard(8);
            for key in keys {
                let key = (key << 64) | (key % 5);
                shard.value(key, 0).0 += 1;
                prop_assert!(shard.slots.len() <= 8);
                for number in 0..shard.slots.len() {
                    let key = shard.slots[number].key;
                    prop_assert_eq!(shard.find(key), Some(number));
                }
                let linked = shard.index.iter().filter(|&&number| number != 0).count();
                prop_assert_eq!(linked, shard.slots.len());
            }
        }
    }
}
