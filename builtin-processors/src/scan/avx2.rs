//! 64 positions at a time, with AVX2.
//!
//! A class becomes a mask of 64 bits for each block, by two table look-ups a byte (the high and the low
//! half of it), as in Hyperscan's "shufti". The masks of a block and the one behind it are shifted right
//! by each place of the class in the row; what is left of all of them are the positions where the row
//! lies. The rarest class goes first, and mostly nothing is left of it alone.
//!
//! Measured with `streamgate-bench chain`; see `bench/results`.

#![expect(
    unsafe_code,
    reason = "vector instructions; every block says why it is sound"
)]

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8,
    _mm256_set1_epi8, _mm256_setr_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srli_epi16,
};

use super::{RowClass, Shape};

/// Positions looked at in one step.
const BLOCK: usize = 64;

/// See [`super::scalar::find`]. The processor must have AVX2.
pub(super) fn find(shape: &Shape, haystack: &[u8], at: usize) -> Option<usize> {
    // SAFETY: `Shape::find` comes here only if AVX2 was detected.
    unsafe { find_with_avx2(shape, haystack, at) }
}

#[target_feature(enable = "avx2")]
fn find_with_avx2(shape: &Shape, haystack: &[u8], at: usize) -> Option<usize> {
    let scanner = Scanner::new(shape);
    let mut start = at;
    // A row may reach into the block behind the one it begins in, which must be there too.
    if let Some(first) = haystack.get(start..start + 2 * BLOCK) {
        let mut rarest = scanner.rarest.mask(&Block::load(first, 0));
        while let Some(bytes) = haystack.get(start..start + 2 * BLOCK) {
            let rarest_behind = scanner.rarest.mask(&Block::load(bytes, BLOCK));
            let found = scanner.rows(bytes, rarest, rarest_behind) | scanner.beyond(bytes);
            if found != 0 {
                return Some(start + found.trailing_zeros() as usize);
            }
            rarest = rarest_behind;
            start += BLOCK;
        }
    }
    // What is left is shorter than two blocks. It is looked at in a copy with zeros behind it; rows
    // that reach into those are none.
    let rest = &haystack[start..];
    let mut copy = [0; 3 * BLOCK];
    copy[..rest.len()].copy_from_slice(rest);
    for offset in [0, BLOCK] {
        let bytes = &copy[offset..offset + 2 * BLOCK];
        let rarest = scanner.rarest.mask(&Block::load(bytes, 0));
        let rarest_behind = scanner.rarest.mask(&Block::load(bytes, BLOCK));
        let inside = (rest.len() + 1).saturating_sub(shape.length + offset);
        let rows = scanner.rows(bytes, rarest, rarest_behind) & lowest_bits(inside);
        let found = rows | scanner.beyond(bytes);
        if found != 0 {
            return Some(start + offset + found.trailing_zeros() as usize);
        }
    }
    None
}

/// A shape, ready to be looked for.
struct Scanner<'a> {
    shape: &'a Shape,
    rarest: Table,
    looks_beyond: bool,
}

impl<'a> Scanner<'a> {
    #[target_feature(enable = "avx2")]
    fn new(shape: &'a Shape) -> Self {
        let rarest = Table::of(&shape.classes[0]);
        Self {
            shape,
            rarest,
            looks_beyond: !shape.beyond.is_empty(),
        }
    }

    /// Where in the first of two blocks rows begin, given the masks of the rarest class in both.
    #[target_feature(enable = "avx2")]
    fn rows(&self, bytes: &[u8], rarest: u64, rarest_behind: u64) -> u64 {
        let mut left = shifted(rarest, rarest_behind, &self.shape.classes[0].places);
        if left == 0 {
            return 0;
        }
        let (block, behind) = (Block::load(bytes, 0), Block::load(bytes, BLOCK));
        for class in &self.shape.classes[1..] {
            let table = Table::of(class);
            left &= shifted(table.mask(&block), table.mask(&behind), &class.places);
            if left == 0 {
                break;
            }
        }
        left
    }

    /// The first position in the first block that holds the first byte of a character beyond ASCII
    /// that could be part of a match.
    #[target_feature(enable = "avx2")]
    fn beyond(&self, bytes: &[u8]) -> u64 {
        if !self.looks_beyond {
            return 0;
        }
        let mut high = Block::load(bytes, 0).beyond_ascii();
        while high != 0 {
            let position = high.trailing_zeros();
            if self.shape.beyond.contains(bytes[position as usize]) {
                return 1 << position;
            }
            high &= high - 1;
        }
        0
    }
}

/// Keeps the positions from which the class stands at all of its places.
fn shifted(mask: u64, mask_behind: u64, places: &[u8]) -> u64 {
    places.iter().fold(u64::MAX, |left, &place| {
        // Places are below 64. In two steps, as a shift by all 64 bits has no result.
        left & (mask >> place | mask_behind << 1 << (63 - place))
    })
}

fn lowest_bits(count: usize) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// 64 bytes.
struct Block {
    low: __m256i,
    high: __m256i,
}

impl Block {
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8], at: usize) -> Self {
        let bytes: &[u8; BLOCK] = bytes[at..at + BLOCK].try_into().expect("is as long");
        let half: *const __m256i = bytes.as_ptr().cast();
        // SAFETY: both halves of 32 bytes lie inside the 64, and the load needs no alignment.
        unsafe {
            Self {
                low: _mm256_loadu_si256(half),
                high: _mm256_loadu_si256(half.add(1)),
            }
        }
    }

    #[target_feature(enable = "avx2")]
    fn beyond_ascii(&self) -> u64 {
        join(
            _mm256_movemask_epi8(self.low),
            _mm256_movemask_epi8(self.high),
        )
    }
}

/// A class, as tables: a byte is in it if the entry of its low half has the bit of its high half.
struct Table {
    of_low_half: __m256i,
    of_high_half: __m256i,
}

impl Table {
    #[target_feature(enable = "avx2")]
    fn of(class: &RowClass) -> Self {
        // Bytes beyond ASCII have a high half of 8 or more, and no bit.
        const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0];
        Self {
            of_low_half: twice(class.high_halves),
            of_high_half: twice(BITS),
        }
    }

    #[target_feature(enable = "avx2")]
    fn mask(&self, block: &Block) -> u64 {
        join(self.mask_of_half(block.low), self.mask_of_half(block.high))
    }

    #[target_feature(enable = "avx2")]
    fn mask_of_half(&self, bytes: __m256i) -> i32 {
        let half = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(self.of_low_half, _mm256_and_si256(bytes, half));
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half);
        let high = _mm256_shuffle_epi8(self.of_high_half, high);
        let outside = _mm256_cmpeq_epi8(_mm256_and_si256(low, high), _mm256_setzero_si256());
        !_mm256_movemask_epi8(outside)
    }
}

/// The 16 bytes in both halves of a vector, as look-ups want them.
#[target_feature(enable = "avx2")]
fn twice(t: [u8; 16]) -> __m256i {
    let t = t.map(u8::cast_signed);
    _mm256_setr_epi8(
        t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11], t[12], t[13],
        t[14], t[15], t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11],
        t[12], t[13], t[14], t[15],
    )
}

fn join(low: i32, high: i32) -> u64 {
    u64::from(low.cast_unsigned()) | u64::from(high.cast_unsigned()) << 32
}
