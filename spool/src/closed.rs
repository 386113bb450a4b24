//! What a spool knew when it was closed and its other files do not say.
//!
//! The file `closed` has lines of numbers, each with the CRC-32 of what is before it in hexadecimal:
//!
//! ```text
//! end POSITION NUMBER     the next record, and the number of its first event
//! done FIRST END          records behind the mark of `acknowledged` that are done with
//! part POSITION EVENTS    so many events at the beginning of a record are done with
//! ```
//!
//! All of it stays true whatever happens later, since positions are never used twice: after a crash
//! the file of the close before it counts. A line that is damaged is left out: then something is
//! sent twice, or records that are missing at the end are not counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use crate::{checkpoint::Mark, record::MAX_POSITION};

const NAME: &str = "closed";

/// Most lines that are written or read.
const MAX_LINES: usize = 100_000;

/// Most bytes of a line.
const MAX_LINE_BYTES: u64 = 64;

/// Most records that are remembered as done with.
const MAX_DONE: usize = 1_000_000;

/// What was known at the last close.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// What comes behind the last record.
    pub(crate) end: Option<Mark>,
    /// Records that are done with, by position.
    pub(crate) done: BTreeSet<u64>,
    /// Events at the beginning of records that are done with, by position.
    pub(crate) parts: BTreeMap<u64, u32>,
}

impl Closed {
    /// Reads the file in a folder; what counts begins at a position.
    pub(crate) fn read(folder: &Path, from: u64) -> Self {
        let mut text = String::new();
        let path = folder.join(NAME);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file())
            && let Ok(file) = File::open(path)
        {
            // What cannot be read is as good as missing.
            let _ = file
                .take(MAX_LINES as u64 * MAX_LINE_BYTES)
                .read_to_string(&mut text);
        }
        let mut closed = Self::default();
        for (kind, a, b) in text.lines().take(MAX_LINES).filter_map(parse) {
            match kind {
                "end" => {
                    closed.end = Some(Mark {
                        position: a,
                        number: Some(b),
                    });
                }
                "done" => {
                    let room = MAX_DONE - closed.done.len();
                    closed.done.extend((a.max(from)..b).take(room));
                }
                _ if a >= from => {
                    closed.parts.insert(a, u32::try_from(b).unwrap_or(0));
                }
                _ => {}
            }
        }
        closed
    }

    /// Returns how many events of a record are not done with.
    pub(crate) fn left(&self, position: u64, events: u32) -> u64 {
        match self.parts.get(&position) {
            _ if self.done.contains(&position) => 0,
            Some(done) => u64::from(events.saturating_sub(*done)),
            None => u64::from(events),
        }
    }

    /// Writes the file. It reaches the disk when the system likes.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut lines = String::new();
        if let Some(Mark {
            position,
            number: Some(number),
        }) = self.end
        {
            lines.push_str(&line("end", position, number));
        }
        let parts = self.parts.iter();
        let parts = parts.map(|(position, events)| line("part", *position, u64::from(*events)));
        let ranges = ranges(&self.done).map(|(first, end)| line("done", first, end));
        lines.extend(parts.chain(ranges).take(MAX_LINES - 1));
        let temporary = folder.join(".closed.tmp");
        File::create(&temporary)?.write_all(lines.as_bytes())?;
        fs::rename(temporary, folder.join(NAME))
    }
}

/// The ranges that positions make, each up to what is behind it.
fn ranges(positions: &BTreeSet<u64>) -> impl Iterator<Item = (u64, u64)> {
    let mut positions = positions.iter().copied().peekable();
    std::iter::from_fn(move || {
        let first = positions.next()?;
        let mut end = first + 1;
        while positions.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some((first, end))
    })
}

fn line(kind: &str, a: u64, b: u64) -> String {
    let said = format!("{kind} {a} {b}");
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}

fn parse(text: &str) -> Option<(&str, u64, u64)> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let (a, b) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let whole = matches!(kind, "end" | "done" | "part")
        && a <= MAX_POSITION
        && b <= MAX_POSITION
        && line(kind, a, b).trim_end() == text;
    whole.then_some((kind, a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_costs_its_line() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Closed::read(folder.path(), 1), Closed::default());
        let closed = Closed {
            end: Some(Mark {
                position: 30,
                number: Some(900),
            }),
            done: BTreeSet::from([4, 5, 6, 9, 20]),
            parts: BTreeMap::from([(3, 17), (7, 1)]),
        };
        closed.write(folder.path()).unwrap();
        assert_eq!(Closed::read(folder.path(), 1), closed);
        let later = Closed::read(folder.path(), 6);
        assert_eq!(later.done, BTreeSet::from([6, 9, 20]));
        assert_eq!(later.parts, BTreeMap::from([(7, 1)]));
        assert_eq!(
            (closed.left(3, 20), closed.left(4, 20), closed.left(8, 20)),
            (3, 0, 20)
        );
        let path = folder.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("done 4 7", "done 4 8")).unwrap();
        let damaged = Closed::read(folder.path(), 1);
        assert_eq!(damaged.done, BTreeSet::from([9, 20]));
        assert_eq!((damaged.end, damaged.parts), (closed.end, closed.parts));
    }
}
