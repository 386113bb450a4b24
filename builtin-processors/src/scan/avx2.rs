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
        _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256,
        _mm256_testz_si256,
    },
    ops::ControlFlow,
};

use super::{FIRST, Group, WINDOW, lines::BLOCK};

/// Positions that one vector is about.
const VECTOR: usize = 32;

/// Bytes that the answer for one vector depends on, rounded up.
const SPAN: usize = VECTOR + WINDOW;

/// Positions looked at in one step.
const STEP: usize = 2 * VECTOR;

/// Shows at which positions, from `at` on, which buckets of which group may have a window. The
/// processor must have AVX2, and `G` must be the number of groups.
pub(super) fn scan<const G: usize, B>(
    groups: &[Group],
    haystack: &[u8],
    at: usize,
    visit: impl FnMut(usize, usize, u8) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let groups: &[Group; G] = groups.try_into().expect("`G` is the number of groups");
    // SAFETY: `Gate::scan` comes here only if AVX2 was detected.
    unsafe { scan_with_avx2(groups, haystack, at, visit) }
}

#[target_feature(enable = "avx2")]
fn scan_with_avx2<const G: usize, B>(
    groups: &[Group; G],
    haystack: &[u8],
    at: usize,
    mut visit: impl FnMut(usize, usize, u8) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let tables: [[Tables; FIRST]; G] = std::array::from_fn(|group| {
        std::array::from_fn(|place| Tables::of(groups[group].tables[place]))
    });
    let mut start = at;
    while let Some(bytes) = haystack.get(start..start + VECTOR + SPAN) {
        let bytes: &[u8; VECTOR + SPAN] = bytes.try_into().expect("is as long");
        let low = first_places(&tables, bytes, 0);
        let high = first_places(&tables, bytes, VECTOR);
        let mut any = _mm256_setzero_si256();
        for group in 0..G {
            any = _mm256_or_si256(any, _mm256_or_si256(low[group], high[group]));
        }
        if _mm256_testz_si256(any, any) == 0 {
            for (offset, left) in [(0, &low), (VECTOR, &high)] {
                let mut each = |group, at, bits| visit(group, start + offset + at, bits);
                last_places(groups, left, &bytes[offset..], &mut each)?;
            }
        }
        start += STEP;
    }
    // What is left is shorter than a step and its span. It is looked at in a copy with zeros behind
    // it; windows that reach into those are told apart by whoever compares the rows.
    let rest = haystack.get(start..).unwrap_or_default();
    let mut copy = [0; 2 * (VECTOR + SPAN)];
    copy[..rest.len()].copy_from_slice(rest);
    let mut offset = 0;
    while offset < rest.len() {
        let bytes: &[u8; VECTOR + SPAN] = copy[offset..offset + VECTOR + SPAN]
            .try_into()
            .expect("is as long");
        let left = first_places(&tables, bytes, 0);
        let behind = rest.len() - offset;
        let mut each = |group, at, bits| match at < behind {
            true => visit(group, start + offset + at, bits),
            false => ControlFlow::Continue(()),
        };
        last_places(groups, &left, bytes, &mut each)?;
        offset += VECTOR;
    }
    ControlFlow::Continue(())
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

/// Looks up the first places of the window for the vector at `at`.
#[inline]
#[target_feature(enable = "avx2")]
fn first_places<const G: usize>(
    tables: &[[Tables; FIRST]; G],
    bytes: &[u8; VECTOR + SPAN],
    at: usize,
) -> [__m256i; G] {
    let mut left = [_mm256_set1_epi8(-1); G];
    for place in 0..FIRST {
        let halves = Halves::of(&bytes[at + place..]);
        for group in 0..G {
            let found = tables[group][place].look_up(&halves);
            left[group] = _mm256_and_si256(left[group], found);
        }
    }
    left
}

/// Looks up the other places for what the first ones left, and shows what is left then.
#[inline]
#[target_feature(enable = "avx2")]
fn last_places<const G: usize, B>(
    groups: &[Group; G],
    left: &[__m256i; G],
    bytes: &[u8],
    visit: &mut impl FnMut(usize, usize, u8) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let mut found = [[0_u8; VECTOR]; G];
    let mut positions = 0_u32;
    'groups: for group in 0..G {
        let mut left = left[group];
        if _mm256_testz_si256(left, left) != 0 {
            continue;
        }
        for stage in (FIRST..WINDOW).step_by(FIRST) {
            for place in stage..stage + FIRST {
                let halves = Halves::of(&bytes[place..]);
                let found = Tables::of(groups[group].tables[place]).look_up(&halves);
                left = _mm256_and_si256(left, found);
            }
            if _mm256_testz_si256(left, left) != 0 {
                continue 'groups;
            }
        }
        positions |= any_bits(left);
        store(left, &mut found[group]);
    }
    while positions != 0 {
        let at = positions.trailing_zeros() as usize;
        for (group, found) in found.iter().enumerate() {
            if found[at] != 0 {
                visit(group, at, found[at])?;
            }
        }
        positions &= positions - 1;
    }
    ControlFlow::Continue(())
}

/// The low and the high halves of 32 bytes.
struct Halves {
    low: __m256i,
    high: __m256i,
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of(bytes: &[u8]) -> Self {
        let half = _mm256_set1_epi8(15);
        let bytes = load(bytes);
        Self {
            low: _mm256_and_si256(bytes, half),
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

#[inline]
#[target_feature(enable = "avx2")]
fn store(vector: __m256i, bytes: &mut [u8; VECTOR]) {
    // SAFETY: 32 bytes are written of 32, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

/// Which of the bytes are not zero, a bit each.
#[inline]
#[target_feature(enable = "avx2")]
fn any_bits(vector: __m256i) -> u32 {
    let zero = _mm256_cmpeq_epi8(vector, _mm256_setzero_si256());
    !_mm256_movemask_epi8(zero).cast_unsigned()
}

/// The 16 bytes in both halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(bytes: [u8; 16]) -> __m256i {
    // SAFETY: 16 bytes are read of 16, and the load needs no alignment.
    let half = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_broadcastsi128_si256(half)
}
