//! 32 positions at a time, with AVX2.
//!
//! A byte is in the classes that eight buckets have at a place as the tables of its low and of its
//! high half agree on. The answers of all places of the window, each looked up as many bytes further
//! on, are combined with AND; what is left of a byte are the buckets whose window may lie there. The
//! rest of the window is looked up only for blocks where the first places left something.
//!
//! Measured with `cargo bench -p streamgate-processors`; see `bench/results`.

#![expect(
    unsafe_code,
    reason = "vector instructions; every block says why it is sound"
)]

use std::{
    arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8,
        _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
        _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
    },
    ops::Range,
};

use super::{FIRST, Group, WINDOW, lines::BLOCK};

/// Positions that one vector is about.
const VECTOR: usize = 32;

/// Bytes behind a vector that its answer depends on, rounded up to a power of two.
const BEHIND: usize = 16;
const _: () = assert!(WINDOW <= BEHIND);

/// Positions looked at in one step, and bytes that the answer depends on.
pub(super) const STEP: usize = 2 * VECTOR;
const SPAN: usize = STEP + BEHIND;

/// Most blocks of [`STEP`] positions that are looked at in one scan.
pub(super) const MOST_BLOCKS: usize = 32;

/// Where windows may lie.
pub(super) struct Answers {
    /// The first position of a block, and the positions in it, a bit each.
    blocks: [(usize, u64); MOST_BLOCKS],
    count: usize,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            blocks: [(0, 0); MOST_BLOCKS],
            count: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// The blocks in which there are answers, in order.
    pub(super) fn blocks(&self) -> &[(usize, u64)] {
        &self.blocks[..self.count]
    }

    /// Adds a block. There is no branch on whether there are answers in it.
    #[inline]
    fn push(&mut self, start: usize, positions: u64) {
        // The last place is written to again and again if there are too many, and there never are.
        self.blocks[self.count % MOST_BLOCKS] = (start, positions);
        self.count += usize::from(positions != 0);
    }
}

/// Finds the positions in `part` where a window may lie. The processor must have AVX2; `G` must be
/// the number of groups. The first `P` of `first` are the places that are looked up. `A` says that no bucket
/// has a byte beyond ASCII there.
///
/// # Panics
/// If `part` has more than [`MOST_BLOCKS`] blocks.
pub(super) fn scan<const G: usize, const P: usize, const A: bool>(
    groups: &[Group],
    first: &[usize; FIRST],
    haystack: &[u8],
    part: Range<usize>,
    answers: &mut Answers,
) {
    assert!(part.len() <= MOST_BLOCKS * STEP, "there is room for all");
    let groups: &[Group; G] = groups.try_into().expect("`G` is the number of groups");
    let first: &[usize; P] = first.first_chunk().expect("`P` is at most `FIRST`");
    // SAFETY: `Gate::answers` is called only if AVX2 was detected.
    unsafe { scan_with_avx2::<G, P, A>(groups, first, haystack, part, answers) }
}

#[target_feature(enable = "avx2")]
fn scan_with_avx2<const G: usize, const P: usize, const A: bool>(
    groups: &[Group; G],
    first: &[usize; P],
    haystack: &[u8],
    part: Range<usize>,
    answers: &mut Answers,
) {
    let tables: [[Tables; P]; G] = std::array::from_fn(|group| {
        std::array::from_fn(|place| Tables::of(groups[group].tables[first[place]]))
    });
    answers.clear();
    let mut start = part.start;
    while start + STEP <= part.end
        && let Some(bytes) = haystack[start..].first_chunk()
    {
        answers.push(start, positions::<G, P, A>(&tables, first, bytes));
        start += STEP;
    }
    // Zeros stand behind the end; windows that reach into those are told apart by whoever compares
    // the rows.
    while start < part.end {
        let mut copy = [0; SPAN];
        let rest = &haystack[start..];
        let rest = &rest[..rest.len().min(SPAN)];
        copy[..rest.len()].copy_from_slice(rest);
        let wanted = match part.end - start {
            few @ ..STEP => !(u64::MAX << few),
            _ => u64::MAX,
        };
        answers.push(start, positions::<G, P, A>(&tables, first, &copy) & wanted);
        start += STEP;
    }
}

/// Says at which positions of a block the places answer for any bucket, a bit each.
#[inline]
#[target_feature(enable = "avx2")]
fn positions<const G: usize, const P: usize, const A: bool>(
    tables: &[[Tables; P]; G],
    first: &[usize; P],
    bytes: &[u8; SPAN],
) -> u64 {
    let low = look_up::<G, P, A>(tables, first, bytes, 0);
    let high = look_up::<G, P, A>(tables, first, bytes, VECTOR);
    u64::from(low) | u64::from(high) << VECTOR
}

/// Says at which positions of the vector at `at` the places answer for any bucket, a bit each.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up<const G: usize, const P: usize, const A: bool>(
    tables: &[[Tables; P]; G],
    first: &[usize; P],
    bytes: &[u8; SPAN],
    at: usize,
) -> u32 {
    let mut left = [_mm256_set1_epi8(-1); G];
    for place in 0..P {
        // All places are below 12; so said, no bound is checked here.
        let halves = Halves::of::<A>(&bytes[at + (first[place] & (BEHIND - 1))..]);
        for group in 0..G {
            let found = tables[group][place].look_up(&halves);
            left[group] = _mm256_and_si256(left[group], found);
        }
    }
    let any = left.into_iter().fold(_mm256_setzero_si256(), |any, left| {
        _mm256_or_si256(any, left)
    });
    let none = _mm256_cmpeq_epi8(any, _mm256_setzero_si256());
    !_mm256_movemask_epi8(none).cast_unsigned()
}

/// The low and the high halves of 32 bytes. With `A`, the low halves are not cut out: a byte beyond
/// ASCII is looked up as zero then, and the others by their low half all the same.
struct Halves {
    low: __m256i,
    high: __m256i,
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of<const A: bool>(bytes: &[u8]) -> Self {
        let half = _mm256_set1_epi8(15);
        let bytes = load(bytes);
        Self {
            low: match A {
                true => bytes,
                false => _mm256_and_si256(bytes, half),
            },
            high: _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half),
        }
    }
}

/// The tables of one place, as look-ups want them.
#[derive(Clone, Copy)]
struct Tables {
    of_low_half: __m256i,
    of_high_half: __m256i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of(table: super::Table) -> Self {
        Self {
            of_low_half: twice(table.of_low_half),
            of_high_half: twice(table.of_high_half),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up(&self, halves: &Halves) -> __m256i {
        _mm256_and_si256(
            _mm256_shuffle_epi8(self.of_low_half, halves.low),
            _mm256_shuffle_epi8(self.of_high_half, halves.high),
        )
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; VECTOR] = bytes[..VECTOR].try_into().expect("is as long");
    // SAFETY: 32 bytes are read of 32, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Shows of each block which of its bytes are newlines, a bit each. The processor must have AVX2.
pub(super) fn newlines(blocks: &[[u8; BLOCK]], note: impl FnMut(u64)) {
    // SAFETY: `find_line_ends` comes here only if AVX2 was detected.
    unsafe { newlines_with_avx2(blocks, note) }
}

#[target_feature(enable = "avx2")]
fn newlines_with_avx2(blocks: &[[u8; BLOCK]], mut note: impl FnMut(u64)) {
    let newline = _mm256_set1_epi8(b'\n'.cast_signed());
    for block in blocks {
        let equal = |at| {
            let equal = _mm256_cmpeq_epi8(load(&block[at..]), newline);
            u64::from(_mm256_movemask_epi8(equal).cast_unsigned())
        };
        note(equal(0) | equal(VECTOR) << VECTOR);
    }
}

/// The 16 bytes in both halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(bytes: [u8; 16]) -> __m256i {
    // SAFETY: 16 bytes are read of 16, and the load needs no alignment.
    let half = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_broadcastsi128_si256(half)
}
