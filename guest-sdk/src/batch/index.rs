//! Where the events of a batch end, for a guest: what came as columns leaves as changes.
//!
//! The gate knows where events end and tells the guest, so nothing here looks for line feeds. An
//! event keeps its number, whatever is done to it, so that a batch which was edited any number of
//! times can still be told as what became of each event.

use super::Run;
use crate::{Event, changes::Changes};

/// Where the events of a batch end in its two buffers.
///
/// **Shape**: `ends` is as it came. `overflow_ends` ascends, as the overflow only grows; `owners` says which
/// event of `ends` each of them is a new form of, and the latest form of an event counts.
#[derive(Debug, Default)]
pub(super) struct Index {
    ends: Vec<u32>,
    overflow_ends: Vec<u32>,
    owners: Vec<u32>,
}

impl Index {
    pub(super) fn new(ends: Vec<u32>) -> Self {
        debug_assert!(ends.is_sorted_by(|a, b| a < b), "ends ascend strictly");
        Self {
            ends,
            ..Self::default()
        }
    }

    pub(super) fn footprint(&self) -> usize {
        (self.ends.capacity() + self.overflow_ends.capacity() + self.owners.capacity())
            * size_of::<u32>()
    }

    /// Returns the number of the first event of `run` in its buffer; it is `from` or a later one.
    pub(super) fn number_of(&self, run: Run, from: usize) -> usize {
        first_behind(self.buffer(run), from, run.start)
    }

    /// Returns the number behind the last event of `run`, one of whose events is `number`, or that.
    pub(super) fn number_behind(&self, run: Run, number: usize) -> usize {
        // An event that ends at `run.end` is the last one.
        first_behind(self.buffer(run), number, run.end)
    }

    /// Returns the number of the event that the byte at `hit` from the start of `run` belongs to; it
    /// is `from` or a later one.
    #[inline]
    pub(super) fn number_at(&self, run: Run, from: usize, hit: usize) -> usize {
        let ends = self.buffer(run);
        let hit = run.start + offset(hit);
        // Most guests look at each event in turn.
        match ends[from] > hit {
            true => from,
            false => first_behind(ends, from + 1, hit),
        }
    }

    /// Returns where the event begins and ends, from the start of `run`.
    #[inline]
    pub(super) fn bounds(&self, run: Run, number: usize) -> (usize, usize) {
        let (start, end) = bounds(self.buffer(run), number);
        (start - run.start as usize, end - run.start as usize)
    }

    /// Returns where each event of `run` ends in its buffer.
    pub(super) fn ends_of(&self, run: Run) -> &[u32] {
        let first = self.number_of(run, 0);
        &self.buffer(run)[first..self.number_behind(run, first)]
    }

    /// Notes that event `number` of the buffer of `run` has a new form, which ends at `end` in the
    /// overflow.
    pub(super) fn overflow(&mut self, run: Run, number: usize, end: usize) {
        let owner = if run.overflowed {
            self.owners[number]
        } else {
            offset(number)
        };
        self.owners.push(owner);
        self.overflow_ends.push(offset(end));
    }

    /// Tells what became of the events. `runs` are the survivors, `events` of them.
    pub(super) fn changes(
        &self,
        runs: &[Run],
        events: usize,
        bytes: &[u8],
        overflow: &[u8],
    ) -> Changes {
        let mut changes = Changes {
            dropped: Vec::with_capacity(self.ends.len() - events),
            ..Changes::default()
        };
        // The first event whose fate is not told yet.
        let mut next = 0;
        for run in runs {
            if !run.overflowed {
                let first = self.number_of(*run, next as usize);
                changes.dropped.extend(next..offset(first));
                next = offset(self.number_behind(*run, first));
                continue;
            }
            let first = self.number_of(*run, 0);
            let mut start = run.start as usize;
            for number in first..self.number_behind(*run, first) {
                let owner = self.owners[number];
                changes.dropped.extend(next..owner);
                let end = self.overflow_ends[number] as usize;
                // The terminator that it came with is what the gate will put behind the body: a
                // body that ends in `\r` only looks as if it had brought a longer one.
                let (came_from, came_to) = bounds(&self.ends, owner as usize);
                let terminator = Event::new(&bytes[came_from..came_to]).terminator();
                changes.replace(owner, &overflow[start..end - terminator.len()]);
                start = end;
                next = owner + 1;
            }
        }
        changes.dropped.extend(next..offset(self.ends.len()));
        changes
    }

    fn buffer(&self, run: Run) -> &[u32] {
        if run.overflowed {
            &self.overflow_ends
        } else {
            &self.ends
        }
    }
}

/// Returns where event `number` begins and ends in the buffer.
fn bounds(ends: &[u32], number: usize) -> (usize, usize) {
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    (start as usize, ends[number] as usize)
}

/// Returns the number of the first of `ends`, from `from` on, that is greater than `offset`.
///
/// It is near in most cases, so the steps begin with one and double.
fn first_behind(ends: &[u32], from: usize, offset: u32) -> usize {
    let ends = &ends[from..];
    let mut width = 1;
    while width < ends.len() && ends[width - 1] <= offset {
        width *= 2;
    }
    let near = width / 2;
    let far = width.min(ends.len());
    from + near + ends[near..far].partition_point(|&end| end <= offset)
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("buffers are bounded far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_behind_an_offset_is_found_from_anywhere() {
        let ends: Vec<u32> = (1..=40).map(|n| n * n).collect();
        for from in 0..=ends.len() {
            for at in 0..1700 {
                let expected = (from..ends.len())
                    .find(|&number| ends[number] > at)
                    .unwrap_or(ends.len());
                assert_eq!(first_behind(&ends, from, at), expected, "{from} {at}");
            }
        }
    }
}
