//! Finds where lines end, all of a block at once: half of what starting anew behind each line costs.

/// Bytes that are looked at together; a bit of a `u64` for each.
pub(super) const BLOCK: usize = 64;

/// Appends where the lines of `bytes` end, behind their `\n`, each with `base` added to it.
///
/// # Panics
/// If such an end is 4 GiB or more.
pub fn find_line_ends(bytes: &[u8], base: usize, ends: &mut Vec<u32>) {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut at = base;
    let note = |mut newlines: u64| {
        while newlines != 0 {
            ends.push(offset(at + newlines.trailing_zeros() as usize + 1));
            newlines &= newlines - 1;
        }
        at += BLOCK;
    };
    #[cfg(target_arch = "x86_64")]
    match super::has_vectors() {
        true => super::avx2::newlines(blocks, note),
        false => newlines(blocks, note),
    }
    #[cfg(not(target_arch = "x86_64"))]
    newlines(blocks, note);
    let at = base + bytes.len() - rest.len();
    ends.extend(memchr::memchr_iter(b'\n', rest).map(|newline| offset(at + newline + 1)));
}

/// Shows of each block which of its bytes are newlines, a bit each.
fn newlines(blocks: &[[u8; BLOCK]], mut note: impl FnMut(u64)) {
    for block in blocks {
        let bits = block.iter().enumerate();
        note(bits.fold(0, |found, (at, &byte)| {
            found | (u64::from(byte == b'\n') << at)
        }));
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a batch is far smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn line_ends_are_where_the_newlines_are(
            bytes in prop::collection::vec(prop::sample::select(b"\n\x0b\x8aab".as_slice()), 0..400),
            base in 0..1_000_usize,
        ) {
            let mut ends = Vec::new();
            find_line_ends(&bytes, base, &mut ends);
            let all = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            let expected: Vec<u32> = all.map(|(at, _)| offset(base + at + 1)).collect();
            prop_assert_eq!(ends, expected);
        }

        #[cfg(target_arch = "x86_64")]
        #[test]
        fn vectors_agree_with_single_bytes(block in prop::array::uniform32(any::<[u8; 2]>())) {
            let mut bytes: [u8; BLOCK] = block.concat().try_into().expect("64 bytes");
            bytes[17] = b'\n';
            let (mut single, mut vectors) = (Vec::new(), Vec::new());
            newlines(&[bytes], |found| single.push(found));
            if super::super::has_vectors() {
                super::super::avx2::newlines(&[bytes], |found| vectors.push(found));
                prop_assert_eq!(single, vectors);
            }
        }
    }
}
