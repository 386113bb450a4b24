//! What a spool knew when it was closed and its other files do not say.
//!
//! The file `closed` has lines of numbers, each with the CRC-32 of what is before it in hexadecimal:
//!
//! ```text
//! end POSITION NUMBER     the next record, and the number of its first event
//! done POSITION EVENTS    so many events at the beginning of a record behind the mark of
//!                         `acknowledged` are done with; maybe all of them
//! ```
//!
//! All of it stays true whatever happens later, since positions are never used twice: after a crash
//! the file of the close before it counts. A line that is damaged is left out: then something is
//! sent twice, or records that are missing at the end are not counted.

use std::{
    collections::BTreeMap,
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

/// What was known at the last close.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// What comes behind the last record.
    pub(crate) end: Option<Mark>,
    /// Events at the beginning of records that are done with, by position.
    pub(crate) done: BTreeMap<u64, u32>,
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
                _ if a >= from => {
                    closed.done.insert(a, u32::try_from(b).unwrap_or(0));
                }
                _ => {}
            }
        }
        closed
    }

    /// Returns how many events of a record are not done with.
    pub(crate) fn left(&self, position: u64, events: u32) -> u64 {
        let done = self.done.get(&position).copied().unwrap_or(0);
        u64::from(events.saturating_sub(done))
    }

    /// Returns how many events of the records between two positions are done with.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        let done = self.done.range(from..to);
        done.map(|(_, events)| u64::from(*events)).sum()
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
        let done = self.done.iter().take(MAX_LINES - 1);
        lines.extend(done.map(|(position, events)| line("done", *position, u64::from(*events))));
        let temporary = folder.join(".closed.tmp");
        File::create(&temporary)?.write_all(lines.as_bytes())?;
        fs::rename(temporary, folder.join(NAME))
    }
}

fn line(kind: &str, a: u64, b: u64) -> String {
    let said = format!("{kind} {a} {b}");
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}

fn parse(text: &str) -> Option<(&str, u64, u64)> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let (a, b) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let whole = matches!(kind, "end" | "done")
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
            done: BTreeMap::from([(3, 17), (4, 20), (7, 1)]),
        };
        closed.write(folder.path()).unwrap();
        assert_eq!(Closed::read(folder.path(), 1), closed);
        let later = Closed::read(folder.path(), 4);
        assert_eq!(later.done, BTreeMap::from([(4, 20), (7, 1)]));
        assert_eq!(
            (closed.left(3, 20), closed.left(4, 20), closed.left(8, 20)),
            (3, 0, 20)
        );
        assert_eq!(
            (
                closed.between(3, 7),
                closed.between(4, 8),
                closed.between(7, 7)
            ),
            (37, 21, 0)
        );
        let path = folder.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("done 4 20", "done 4 21")).unwrap();
        let damaged = Closed::read(folder.path(), 1);
        assert_eq!(damaged.done, BTreeMap::from([(3, 17), (7, 1)]));
        assert_eq!(damaged.end, closed.end);
    }
}
