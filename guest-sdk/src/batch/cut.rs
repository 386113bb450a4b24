//! Cutting bodies that are too long, in place.

use std::mem;

use super::{Batch, Kept};
use crate::Event;

impl Batch {
    /// Cuts every body above `most` bytes and puts `mark` at its end, so that it has `most` bytes, or up
    /// to three fewer where a character of UTF-8 would be divided. It ends with `\n` alone then. Returns
    /// how many were cut.
    ///
    /// Looks at the bytes of a slice only if it is longer than `most`, and then at few of them.
    ///
    /// # Panics
    /// If `mark` is longer than `most`, or the batch was made with an index.
    pub fn cut_bodies(&mut self, most: usize, mark: &[u8]) -> u64 {
        assert!(mark.len() <= most, "the mark fits");
        assert!(self.index.is_none(), "what has an index stays as it came");
        // A body of `most` bytes has one for its line feed.
        if self.runs.iter().all(|run| run.len() <= most + 1) {
            return 0;
        }
        let mut kept = Kept {
            runs: mem::take(&mut self.next_runs),
        };
        kept.runs.clear();
        let mut cut = 0;
        for run in &self.runs {
            let base = run.start as usize;
            let buffer = match run.overflowed {
                true => &mut self.overflow,
                false => &mut self.bytes,
            };
            let slice = &mut buffer[base..run.end as usize];
            let (mut keep_from, mut at) = (0, 0);
            while slice.len() - at > most + 1 {
                // No event that ends in there is too long.
                if let Some(last) = memchr::memrchr(b'\n', &slice[at..=at + most]) {
                    at += last + 1;
                    continue;
                }
                let end = memchr::memchr(b'\n', &slice[at..]).map_or(slice.len(), |i| at + i + 1);
                let body = Event::new(&slice[at..end]).body();
                if body.len() > most {
                    let cut_at = at + floor_char(body, most - mark.len());
                    let cut_to = cut_at + mark.len() + 1;
                    slice[cut_at..cut_to - 1].copy_from_slice(mark);
                    slice[cut_to - 1] = b'\n';
                    kept.push(base + keep_from, base + cut_to, run.overflowed);
                    keep_from = end;
                    cut += 1;
                    if run.overflowed {
                        self.live_bytes -= end - cut_to;
                    }
                }
                at = end;
            }
            kept.push(base + keep_from, run.end as usize, run.overflowed);
        }
        self.next_runs = mem::replace(&mut self.runs, kept.runs);
        cut
    }
}

/// Returns the greatest offset, `at` or up to three before, that does not divide a character of UTF-8
/// in `text`. Where the bytes are no UTF-8, it is `at`.
pub fn floor_char(text: &[u8], at: usize) -> usize {
    let is_continuation = |byte: &u8| byte & 0xC0 == 0x80;
    if !text.get(at).is_some_and(is_continuation) {
        return at;
    }
    for back in 1..=at.min(3) {
        let byte = text[at - back];
        let length = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return at,
        };
        return if length > back { at - back } else { at };
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Scratch, Verdict};

    const MARK: &[u8] = b"[cut]";
    const MOST: usize = 10;

    fn slowly(event: &[u8]) -> Vec<u8> {
        let body = Event::new(event).body();
        match body.len() > MOST {
            true => {
                let text = std::str::from_utf8(body).expect("it is text");
                let kept = text.floor_char_boundary(MOST - MARK.len());
                [&body[..kept], MARK, b"\n"].concat()
            }
            false => event.to_vec(),
        }
    }

    #[test]
    fn characters_stay_whole() {
        let text = "aä€𐍈b";
        for at in 0..=text.len() {
            assert_eq!(
                floor_char(text.as_bytes(), at),
                text.floor_char_boundary(at),
                "{at}"
            );
        }
        for (bytes, at) in [
            (&b"\x80\x80\x80\x80\x80"[..], 4),
            (b"ab\x80", 2),
            (b"\xC3\xA4\x80", 2),
        ] {
            assert_eq!(floor_char(bytes, at), at);
        }
    }

    proptest! {
        #[test]
        fn bodies_are_cut_as_one_by_one(
            lines in prop::collection::vec("[a-cä€]{0,14}\r?\n", 0..20),
            rewritten in any::<u8>(),
        ) {
            let mut batch = Batch::from_lines(lines.concat());
            batch.edit_each(|event, rewrite| match event.body().len() % 3 {
                0 if rewritten > 100 => rewrite.replace(&[event.body(), b"zz"].concat()),
                1 if rewritten > 200 => Verdict::Drop,
                _ => Verdict::Keep,
            });
            let before: Vec<Vec<u8>> = batch.iter().map(|event| event.bytes().to_vec()).collect();
            let expected: Vec<Vec<u8>> = before.iter().map(|event| slowly(event)).collect();
            let cut = batch.cut_bodies(MOST, MARK);
            let found: Vec<Vec<u8>> = batch.iter().map(|event| event.bytes().to_vec()).collect();
            prop_assert_eq!(&found, &expected);
            let long = before.iter().filter(|event| Event::new(event).body().len() > MOST);
            prop_assert_eq!(cut, long.count() as u64);
            prop_assert_eq!(batch.events(), before.len());
            batch.settle(&mut Scratch::default());
            let settled: Vec<Vec<u8>> = batch.iter().map(|event| event.bytes().to_vec()).collect();
            prop_assert_eq!(settled, expected);
        }
    }
}
