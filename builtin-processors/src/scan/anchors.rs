//! Chooses an anchor in each of many words: four bytes by which the word is looked for.
//!
//! An anchor goes into one of eight buckets, which answers wherever each of four bytes is one that
//! some anchor in it has at that place, or has the half bytes of two such. So anchors are chosen
//! together: the one of a word that makes its bucket answer to the least more text.

use super::{BUCKETS, ByteSet, Gate, WINDOW};

/// Bytes of an anchor.
pub(super) const BYTES: usize = 4;

/// More words than this have too little in common, or take too long to choose in: 40 ms for so many.
const MOST_WORDS: usize = 4_000;

/// Places in a word that are considered.
const MOST_OFFSETS: usize = 24;

/// What anchors may cost, in nanoseconds for 64 positions. Runs at every other position cost more.
const MOST_COST: f64 = 20.0;

/// The anchors of some words.
pub(super) struct Anchors {
    /// Looks for the buckets.
    pub(super) gate: Gate,
    /// Where in each word its anchor begins.
    pub(super) offsets: Vec<usize>,
}

/// What a bucket has at one place: the low and the high halves of bytes, a bit each.
#[derive(Clone, Copy, Default)]
struct Halves {
    low: u16,
    high: u16,
}

type Bucket = [Halves; BYTES];

/// Chooses anchors, if that makes a search that is worth it. Each word has at least [`BYTES`].
pub(super) fn choose(words: &[&str], ignore_case: bool) -> Option<Anchors> {
    if words.len() > MOST_WORDS {
        return None;
    }
    let frequencies = Frequencies::new();
    let mut buckets = [Bucket::default(); BUCKETS];
    let mut offsets = Vec::with_capacity(words.len());
    for word in words {
        let (bucket, offset) = cheapest(word, &buckets, &frequencies, ignore_case);
        add(
            &mut buckets[bucket],
            &word.as_bytes()[offset..],
            ignore_case,
        );
        offsets.push(offset);
    }
    let windows = buckets.map(|bucket| window(&bucket));
    let gate = Gate::of_buckets(&windows);
    (gate.cost() <= MOST_COST).then_some(Anchors { gate, offsets })
}

/// Returns the bucket and the anchor of a word that make it answer to the least more text.
fn cheapest(
    word: &str,
    buckets: &[Bucket; BUCKETS],
    frequencies: &Frequencies,
    ignore_case: bool,
) -> (usize, usize) {
    let mut best = (f64::INFINITY, 0, 0);
    let alone: [f64; BUCKETS] = std::array::from_fn(|at| frequencies.of(&buckets[at]));
    for (offset, anchor) in word
        .as_bytes()
        .windows(BYTES)
        .take(MOST_OFFSETS)
        .enumerate()
    {
        let mut tried_empty = false;
        for (number, bucket) in buckets.iter().enumerate() {
            // Empty buckets are alike.
            let is_empty = bucket[0].low == 0;
            if is_empty && std::mem::replace(&mut tried_empty, true) {
                continue;
            }
            let mut with = *bucket;
            add(&mut with, anchor, ignore_case);
            let more = frequencies.of(&with) - alone[number];
            if more < best.0 {
                best = (more, number, offset);
            }
        }
    }
    (best.1, best.2)
}

/// Adds the anchor that bytes begin with.
fn add(bucket: &mut Bucket, bytes: &[u8], ignore_case: bool) {
    for (halves, &byte) in bucket.iter_mut().zip(bytes) {
        let both = [byte.to_ascii_lowercase(), byte.to_ascii_uppercase()];
        for byte in if ignore_case { both } else { [byte; 2] } {
            halves.low |= 1 << (byte & 15);
            halves.high |= 1 << (byte >> 4);
        }
    }
}

/// The window that a bucket stands for.
fn window(bucket: &Bucket) -> [ByteSet; WINDOW] {
    // Behind the anchor stands anything.
    let mut window = [ByteSet::ALL; WINDOW];
    for (set, halves) in window.iter_mut().zip(bucket) {
        *set = ByteSet::default();
        for byte in (0..=u8::MAX).filter(|byte| halves.has(*byte)) {
            set.insert(byte);
        }
    }
    window
}

impl Halves {
    fn has(self, byte: u8) -> bool {
        self.low >> (byte & 15) & self.high >> (byte >> 4) & 1 != 0
    }
}

/// How common bytes are in log text, by their high and their low half.
struct Frequencies([[f64; 16]; 16]);

impl Frequencies {
    fn new() -> Self {
        Self(std::array::from_fn(|high| {
            std::array::from_fn(|low| {
                let byte = u8::try_from(high << 4 | low).expect("two halves are a byte");
                ByteSet::single(byte).frequency(false)
            })
        }))
    }

    /// At which share of positions a bucket answers, if bytes stood side by side by chance.
    fn of(&self, bucket: &Bucket) -> f64 {
        let of_place = |halves: &Halves| {
            let mut share = 0.0;
            for (high, by_low) in self.0.iter().enumerate() {
                if halves.high >> high & 1 != 0 {
                    let low = |(low, share): (usize, &f64)| {
                        if halves.low >> low & 1 == 0 {
                            0.0
                        } else {
                            *share
                        }
                    };
                    share += by_low.iter().enumerate().map(low).sum::<f64>();
                }
            }
            share
        };
        bucket.iter().map(of_place).product()
    }
}
