//! Finds any of many words, at a cost that hardly grows with their number.
//!
//! In a word of `n` bytes, `n - g + 1` runs of `g` bytes begin, side by side. So only every so many positions
//! are looked at (the *stride*): the run there is hashed into a bitmap of all runs that the words have
//! at as many places. Nearly always its bits are not set. Where they are, the words that have this run
//! are told apart by length and offset, and looked up by a hash of all their bytes. Runs are four
//! bytes if the shortest word is short, and up to eight otherwise: few lines have those by chance.
//!
//! In the manner of Wu and Manber, "A fast algorithm for multi-pattern searching", 1994.
//!
//! Where words have something in common that is rare in logs (`acct-`, `_`, `.test`), there is a faster
//! way: of each word one run of four bytes, its *anchor*, is chosen such that all anchors together go into
//! eight buckets that rarely answer. A [`Gate`] looks for the buckets, 64 positions at a time, and
//! the word around a hit is looked up as above. Which way it is, a sample of log lines tells.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Gate, anchors};

/// Shortest word that this is for.
pub(crate) const SHORTEST_WORD: usize = 4;

/// Bytes of a run, at least and at most.
const MIN_RUN: usize = 4;
const MAX_RUN: usize = 8;

/// Longest stride, and longest for very many words. A longer one would save little, fill the bitmap
/// and take memory: about 100 bytes for each run of each word.
const MAX_STRIDE: usize = 8;
const MAX_STRIDE_OF_MANY: usize = 2;
const MANY: usize = 10_000;

/// Bits in the bitmap for each run, and for all of them at least and at most: 1 KiB to 2 MiB.
/// Two bits are set for each.
const BITS_FOR_RUN: usize = 16;
const MIN_BITS: usize = 1 << 13;
const MAX_BITS: usize = 1 << 24;

/// Positions that are looked at between two branches.
const LANES: usize = 4;

/// Finds any of some words.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    /// Makes upper and lower case alike: a bit that is set in each byte of a run.
    fold: u64,
    /// How long runs are, and the mask that cuts eight bytes to that.
    run: usize,
    mask: u64,
    stride: usize,
    bitmap: Vec<u64>,
    /// How far a hash is shifted to be an index of a bit.
    shift: u32,
    /// Looks for the anchors, if that is the faster way; then all runs are anchors.
    anchors: Option<Box<Gate>>,
    /// For each run, where in which words it stands: the offset and the length.
    shapes: HashMap<u64, Box<[(usize, usize)]>>,
    /// The hash of each word. Two words of the same hash do not occur in practice; if they did, both are
    /// compared.
    words: HashMap<u64, Vec<Box<[u8]>>>,
}

impl Words {
    /// Makes a search for `words`, each of at least [`SHORTEST_WORD`] bytes and at least one of them.
    /// Without regard to case, words must be ASCII.
    pub(crate) fn new(words: &[&str], ignore_case: bool) -> Self {
        let shortest = words.iter().map(|word| word.len()).min().unwrap_or(MIN_RUN);
        let chosen = anchors::choose(words, ignore_case);
        // Longer runs tell more, longer strides cost less.
        let run = match chosen {
            Some(_) => anchors::BYTES,
            None => shortest.div_ceil(2).clamp(MIN_RUN, MAX_RUN),
        };
        let most = match words.len() > MANY {
            true => MAX_STRIDE_OF_MANY,
            false => MAX_STRIDE,
        };
        let stride = (shortest + 1).saturating_sub(run).clamp(1, most);
        let mask = u64::MAX >> (64 - 8 * run);
        let fold = if ignore_case {
            0x2020_2020_2020_2020 & mask
        } else {
            0
        };
        let mut shapes: HashMap<u64, HashSet<(usize, usize)>> = HashMap::new();
        let mut by_hash: HashMap<u64, Vec<Box<[u8]>>> = HashMap::new();
        for (number, word) in words.iter().enumerate() {
            let word = match ignore_case {
                true => word.to_ascii_lowercase(),
                false => (*word).to_owned(),
            };
            let offsets = match &chosen {
                Some(chosen) => chosen.offsets[number]..chosen.offsets[number] + 1,
                None => 0..stride,
            };
            for offset in offsets {
                let bytes = &word.as_bytes()[offset..offset + run];
                let bytes = padded(bytes) | fold;
                shapes
                    .entry(bytes)
                    .or_default()
                    .insert((offset, word.len()));
            }
            let word = word.into_bytes().into_boxed_slice();
            let alike = by_hash.entry(xxh3_64(&word)).or_default();
            if !alike.contains(&word) {
                alike.push(word);
            }
        }
        let bits = (shapes.len() * BITS_FOR_RUN)
            .next_power_of_two()
            .clamp(MIN_BITS, MAX_BITS);
        let mut made = Self {
            fold,
            run,
            mask,
            stride,
            anchors: chosen.map(|chosen| Box::new(chosen.gate)),
            bitmap: vec![0; bits / 64],
            shift: 64 - (bits / 64).trailing_zeros(),
            shapes: HashMap::new(),
            words: by_hash,
        };
        for &run in shapes.keys() {
            let (word, bits) = made.bits(run);
            made.bitmap[word] |= bits;
        }
        let shapes = shapes.into_iter();
        made.shapes = shapes
            .map(|(run, shapes)| (run, shapes.into_iter().collect()))
            .collect();
        made
    }

    /// Finds a word whose line is that of the first word at or after `at`; returns its first byte.
    /// No word reaches over a line feed.
    pub(crate) fn find(&self, haystack: &[u8], at: usize) -> Option<usize> {
        if let Some(gate) = &self.anchors {
            let word = |at_run| match self.word_at(haystack, at, at_run) {
                Some(start) => ControlFlow::Break(start),
                None => ControlFlow::Continue(()),
            };
            // A word that begins at or after `at` has its anchor there too.
            return gate.find_answer(haystack, at, word);
        }
        // A stride that the compiler knows saves a third of the instructions.
        match self.stride {
            1 => self.find_by::<1>(haystack, at),
            2 => self.find_by::<2>(haystack, at),
            3 => self.find_by::<3>(haystack, at),
            4 => self.find_by::<4>(haystack, at),
            5 => self.find_by::<5>(haystack, at),
            6 => self.find_by::<6>(haystack, at),
            7 => self.find_by::<7>(haystack, at),
            _ => self.find_by::<MAX_STRIDE>(haystack, at),
        }
    }

    fn find_by<const STRIDE: usize>(&self, haystack: &[u8], at: usize) -> Option<usize> {
        let mut position = at;
        while let Some(bytes) = haystack.get(position..position + LANES * STRIDE + MAX_RUN) {
            let mut any = false;
            for lane in 0..LANES {
                let run = bytes[lane * STRIDE..].first_chunk();
                any |= run.is_some_and(|run| self.has(u64::from_le_bytes(*run) & self.mask));
            }
            if any {
                for lane in 0..LANES {
                    let found = self.word_at(haystack, at, position + lane * STRIDE);
                    if found.is_some() {
                        return found;
                    }
                }
            }
            position += LANES * STRIDE;
        }
        while position < haystack.len() {
            let found = self.word_at(haystack, at, position);
            if found.is_some() {
                return found;
            }
            position += STRIDE;
        }
        None
    }

    /// Returns the start of a word, not before `least`, that has the run at `position`.
    fn word_at(&self, haystack: &[u8], least: usize, position: usize) -> Option<usize> {
        let run = padded(haystack.get(position..position + self.run)?);
        if !self.has(run) {
            return None;
        }
        let shapes = self.shapes.get(&(run | self.fold))?;
        let start_of_word = |&(offset, length): &(usize, usize)| {
            let start = position
                .checked_sub(offset)
                .filter(|&start| start >= least)?;
            let bytes = haystack.get(start..start + length)?;
            self.is_word(bytes).then_some(start)
        };
        shapes.iter().find_map(start_of_word)
    }

    fn is_word(&self, bytes: &[u8]) -> bool {
        let ignore_case = self.fold != 0;
        let hash = match ignore_case {
            false => xxh3_64(bytes),
            true => {
                let mut hash = Xxh3::new();
                for piece in bytes.chunks(64) {
                    let mut lower = [0; 64];
                    let lower = &mut lower[..piece.len()];
                    lower.copy_from_slice(piece);
                    lower.make_ascii_lowercase();
                    hash.update(lower);
                }
                hash.digest()
            }
        };
        let alike = self.words.get(&hash);
        alike.is_some_and(|alike| {
            alike.iter().any(|word| match ignore_case {
                true => word.eq_ignore_ascii_case(bytes),
                false => **word == *bytes,
            })
        })
    }

    #[inline]
    fn has(&self, run: u64) -> bool {
        let (word, bits) = self.bits(run | self.fold);
        self.bitmap
            .get(word)
            .is_some_and(|word| word & bits == bits)
    }

    /// Two bits in one word of the bitmap.
    #[inline]
    fn bits(&self, run: u64) -> (usize, u64) {
        // Multiplication by the golden ratio, as Knuth has it; the upper bits are the hash.
        let hash = run.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = usize::try_from(hash >> self.shift).unwrap_or_default();
        (word, 1 << (hash >> 20 & 63) | 1 << (hash >> 26 & 63))
    }
}

/// Up to eight bytes as a number.
fn padded(bytes: &[u8]) -> u64 {
    let mut eight = [0; MAX_RUN];
    eight[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find_slowly(words: &[&str], ignore_case: bool, line: &[u8]) -> bool {
        words.iter().any(|word| {
            line.windows(word.len()).any(|part| match ignore_case {
                true => part.eq_ignore_ascii_case(word.as_bytes()),
                false => part == word.as_bytes(),
            })
        })
    }

    #[test]
    fn words_with_something_rare_in_common_are_looked_for_by_that() {
        let accounts: Vec<String> = (0..1000).map(|n| format!("acct-{n:06}")).collect();
        let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
        assert!(Words::new(&accounts, false).anchors.is_some());
        assert!(Words::new(&accounts, true).anchors.is_some());
        let mut random = 1_u64;
        let mut letters = || {
            let mut letter = |_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                char::from(b'a' + u8::try_from((random >> 33) % 26).expect("is a letter"))
            };
            (0..8).map(&mut letter).collect::<String>()
        };
        let names: Vec<String> = (0..1000).map(|_| letters()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(Words::new(&names, false).anchors.is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn words_are_found_in_the_lines_that_have_one(
            words in prop::collection::vec("[abAB_]{4,20}", 1..30),
            lines in prop::collection::vec("[abAB_x]{0,90}", 1..10),
            planted in any::<prop::sample::Index>(),
            ignore_case in any::<bool>(),
            rare in any::<bool>(),
        ) {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            if rare {
                words.iter_mut().for_each(|word| *word = word.trim_start_matches('a'));
                words.retain(|word| word.len() >= SHORTEST_WORD && word.contains('_'));
                words.push("x_ab");
            }
            let search = Words::new(&words, ignore_case);
            let mut lines = lines;
            lines.push(format!("x{}x", planted.get(&words)));
            let text: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
            let mut start = 0;
            let mut expected = Vec::new();
            for line in &lines {
                if find_slowly(&words, ignore_case, line.as_bytes()) {
                    expected.push(start);
                }
                start += line.len() + 1;
            }
            let (mut found, mut at) = (Vec::new(), 0);
            while let Some(hit) = search.find(&text, at) {
                prop_assert!(hit >= at);
                let begin = memchr::memrchr(b'\n', &text[..hit]).map_or(0, |feed| feed + 1);
                found.push(begin);
                at = hit + memchr::memchr(b'\n', &text[hit..]).expect("ends a line") + 1;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
