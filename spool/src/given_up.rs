//! Which records gave way for newer ones, so that they are not taken for lost.
//!
//! The file `given-up` has one line for each range of records that is missing since it gave way:
//! the position of its first record, the position behind its last, its events, and the CRC-32 of
//! these in hexadecimal. A line that is damaged is left out: its records count as damaged then.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

const NAME: &str = "given-up";

/// Most ranges. Ranges that touch are one, so that there are fewer than segments.
const MAX_RANGES: usize = 64;

/// Records that gave way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    end: u64,
    events: u64,
}

/// All that gave way and is not yet passed by.
#[derive(Debug, Default)]
pub(crate) struct GivenUp {
    /// In order.
    ranges: Vec<Range>,
}

impl GivenUp {
    pub(crate) fn read(folder: &Path) -> Self {
        let mut text = String::new();
        let path = folder.join(NAME);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file())
            && let Ok(file) = File::open(path)
        {
            // What cannot be read is as good as missing.
            let _ = file.take(MAX_RANGES as u64 * 80).read_to_string(&mut text);
        }
        let mut ranges: Vec<Range> = text.lines().filter_map(parse).collect();
        ranges.sort_unstable_by_key(|range| range.first);
        ranges.truncate(MAX_RANGES);
        Self { ranges }
    }

    /// Adds the records of a segment.
    pub(crate) fn add(&mut self, first: u64, end: u64, events: u64) {
        match self.ranges.last_mut() {
            Some(last) if last.end == first => {
                last.end = end;
                last.events = last.events.saturating_add(events);
            }
            _ => self.ranges.push(Range { first, end, events }),
        }
        if self.ranges.len() > MAX_RANGES {
            self.ranges.remove(0);
        }
    }

    /// Returns how many events between two positions gave way.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        let inside = |range: &&Range| range.first >= from && range.end <= to;
        let ranges = self.ranges.iter().filter(inside);
        ranges.fold(0, |events, range| events.saturating_add(range.events))
    }

    /// Writes all that is not before a position, with `sync` to the disk.
    pub(crate) fn write(&mut self, folder: &Path, before: u64, sync: bool) -> io::Result<()> {
        self.ranges.retain(|range| range.end > before);
        let temporary = folder.join(".given-up.tmp");
        let mut file = File::create(&temporary)?;
        let lines: String = self.ranges.iter().map(line).collect();
        file.write_all(lines.as_bytes())?;
        if sync {
            file.sync_data()?;
        }
        fs::rename(temporary, folder.join(NAME))
    }
}

fn line(range: &Range) -> String {
    let said = format!("{} {} {}", range.first, range.end, range.events);
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}

fn parse(text: &str) -> Option<Range> {
    let mut numbers = text.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let range = Range {
        first: next()?,
        end: next()?,
        events: next()?,
    };
    let whole = range.first < range.end && line(&range).trim_end() == text;
    whole.then_some(range)
}
