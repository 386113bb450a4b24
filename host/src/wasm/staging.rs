//! Lays a batch out for a guest: its events end to end, and where each of them ends.
//!
//! A batch that lies in one piece and well is handed over as it is. Promises to allocate nothing in
//! the steady state, and to give back what a large batch took.

use streamgate_guest::Batch;
use streamgate_processors::find_line_ends;

/// From so many bytes on a copy may be slow; see [`Staging`].
const SLOW_COPY_BYTES: usize = 4096;

/// What is kept between two batches, in bytes.
const RESTING_BYTES: usize = 1024 * 1024;

/// Where a copy begins, within a page: far from where a guest's allocator puts things.
const PAGE: usize = 4096;

/// The events of a batch, at an address that they are copied from quickly.
///
/// For 4 KiB and more, glibc before 2.39 copies with `rep movsb`, which on AMD Zen 3 is twenty times
/// slower if the target lies 1 to 31 bytes behind the source, modulo 4,096 (its bug 30994). A batch
/// begins at a page, and what a guest's allocator gives out a few bytes behind one: the worst case, and
/// the usual one. One more copy, to the middle of a page, costs 5 ns for an event of 200 bytes and saves
/// 60 to 110 there (`streamgate-bench guests`, 2026-11-23); elsewhere it is only the 5 ns.
#[derive(Debug, Default)]
pub(super) struct Staging {
    ends: Vec<u32>,
    buffer: Vec<u8>,
    /// What of `buffer` is the copy; empty if the batch needs none.
    start: usize,
    end: usize,
}

impl Staging {
    /// Lays out `batch`.
    pub(super) fn lay_out(&mut self, batch: &Batch) {
        self.ends.clear();
        (self.start, self.end) = (0, 0);
        let mut bytes = 0;
        for slice in batch.slices() {
            find_line_ends(slice, bytes, &mut self.ends);
            bytes += slice.len();
        }
        if batch.slices().len() != 1 || bytes >= SLOW_COPY_BYTES {
            self.copy(batch.slices(), bytes);
        }
    }

    /// Sees to it that the events are here, where no batch is at hand.
    pub(super) fn keep(&mut self, batch: &Batch) {
        if self.start == self.end {
            self.copy(batch.slices(), batch.byte_len());
        }
    }

    /// Returns the events of the batch that was laid out last, end to end. Without the batch they must
    /// have been kept.
    pub(super) fn bytes<'a>(&'a self, batch: Option<&'a Batch>) -> &'a [u8] {
        match batch.filter(|_| self.start == self.end) {
            Some(batch) => batch.slices().next().unwrap_or_default(),
            None => &self.buffer[self.start..self.end],
        }
    }

    /// Returns where each of them ends, behind its `\n`.
    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Copies `slices`, which have that many bytes together.
    fn copy<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>, bytes: usize) {
        let needed = bytes + PAGE;
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
        let in_page = self.buffer.as_ptr().addr() % PAGE;
        self.start = (PAGE + PAGE / 2 - in_page) % PAGE;
        self.end = self.start;
        for slice in slices {
            self.buffer[self.end..self.end + slice.len()].copy_from_slice(slice);
            self.end += slice.len();
        }
    }

    /// Gives back what a large batch took.
    pub(super) fn rest(&mut self) {
        self.ends.clear();
        self.ends.shrink_to(RESTING_BYTES / size_of::<u32>());
        (self.start, self.end) = (0, 0);
        if self.buffer.len() > RESTING_BYTES {
            self.buffer.truncate(RESTING_BYTES);
            self.buffer.shrink_to(RESTING_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_are_handed_over_as_they_lie() {
        let mut staging = Staging::default();
        let batch = Batch::from_lines("one\ntwo\n");
        staging.lay_out(&batch);
        assert_eq!(staging.bytes(Some(&batch)), b"one\ntwo\n");
        assert_eq!(staging.ends(), [4, 8]);
        assert!(staging.buffer.is_empty());
    }

    #[test]
    fn large_batches_are_copied_to_the_middle_of_a_page_and_given_back() {
        let mut staging = Staging::default();
        let text = b"0123456789abcde\n".repeat(RESTING_BYTES / 8);
        let batch = Batch::from_lines(text.clone());
        staging.lay_out(&batch);
        assert_eq!(staging.bytes(Some(&batch)), text);
        assert_eq!(staging.ends().len(), text.len() / 16);
        assert_eq!(staging.bytes(Some(&batch)).as_ptr().addr() % PAGE, PAGE / 2);
        staging.rest();
        assert!(staging.buffer.capacity() <= 2 * RESTING_BYTES);
    }
}
