//! How far records are acknowledged, kept beside them.
//!
//! The file `acknowledged` has two slots of 32 bytes from byte 64 on, written in turn: the position
//! (u64) up to which all records are done with, the number (u64) of the event that comes next, the
//! CRC-32 of both twice (u32), and zeros. The larger one that is whole counts, so that a write that
//! is torn loses one step. What is lost is sent again, never skipped.
//!
//! Format 1 (StreamGate 0.1) has two slots of 16 bytes from byte 0 on, without the number; they are
//! read and not written.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::record::MAX_POSITION;

const SLOT_BYTES: usize = 32;
const FIRST_SLOT: u64 = 64;
const SLOT_BYTES_1: usize = 16;

/// A place in a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// The position of the record.
    pub(crate) position: u64,
    /// The number of its first event, if it is known.
    pub(crate) number: Option<u64>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// None if there is no way to have it: then all is sent again after a restart.
    file: Option<File>,
    next_slot: u64,
}

impl Checkpoint {
    /// Opens the file in a folder, and returns what is in it, if anything is.
    pub(crate) fn open(folder: &Path) -> (Self, Option<Mark>) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(folder.join("acknowledged")).ok();
        let read = |slot: u64| {
            let mut bytes = [0; SLOT_BYTES];
            let at = FIRST_SLOT + slot * SLOT_BYTES as u64;
            file.as_ref()?.read_exact_at(&mut bytes, at).ok()?;
            decode(&bytes)
        };
        let read_1 = |slot: u64| {
            let mut bytes = [0; SLOT_BYTES_1];
            let at = slot * SLOT_BYTES_1 as u64;
            file.as_ref()?.read_exact_at(&mut bytes, at).ok()?;
            decode_1(&bytes)
        };
        let slots = [read(0), read(1)];
        let newest = slots[0].max(slots[1]);
        // The next write goes over the other one.
        let next_slot = u64::from(newest.is_some() && newest == slots[0]);
        let newest = newest.max(read_1(0)).max(read_1(1));
        (Self { file, next_slot }, newest)
    }

    /// Writes a mark. It reaches the disk when the system likes.
    pub(crate) fn write(&mut self, mark: Mark) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let slot = self.next_slot;
        self.next_slot = 1 - slot;
        file.write_all_at(&encode(mark), FIRST_SLOT + slot * SLOT_BYTES as u64)
    }

    /// Has what was written on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

fn encode(mark: Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&mark.position.to_le_bytes());
    let number = mark.number.unwrap_or(u64::MAX);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]).to_le_bytes();
    bytes[16..20].copy_from_slice(&crc);
    bytes[20..24].copy_from_slice(&crc);
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Mark> {
    let position = u64::from_le_bytes(*bytes.first_chunk()?);
    let number = u64::from_le_bytes(*bytes[8..].first_chunk()?);
    let number = (number <= MAX_POSITION).then_some(number);
    let mark = Mark { position, number };
    let whole = encode(mark) == *bytes && position <= MAX_POSITION;
    whole.then_some(mark)
}

fn decode_1(bytes: &[u8; SLOT_BYTES_1]) -> Option<Mark> {
    let position = u64::from_le_bytes(*bytes.first_chunk()?);
    let crc = crc32fast::hash(&bytes[..8]).to_le_bytes();
    let whole = bytes[8..12] == crc && bytes[12..] == crc && (1..=MAX_POSITION).contains(&position);
    whole.then_some(Mark {
        position,
        number: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_write_loses_one_step_only() {
        let folder = tempfile::tempdir().unwrap();
        let (mut checkpoint, found) = Checkpoint::open(folder.path());
        assert_eq!(found, None);
        let mark = |position| Mark {
            position,
            number: Some(position * 3),
        };
        for position in 1..=9 {
            checkpoint.write(mark(position)).unwrap();
            let found = Checkpoint::open(folder.path()).1;
            assert_eq!(found, Some(mark(position)));
        }
        let path = folder.path().join("acknowledged");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            let found = Checkpoint::open(folder.path()).1;
            assert!([Some(mark(8)), Some(mark(9))].contains(&found), "{at}");
        }
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Checkpoint::open(folder.path()).1, None);
    }

    #[test]
    fn position_of_format_1_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let position = 7_u64.to_le_bytes();
        let crc = crc32fast::hash(&position).to_le_bytes();
        let slot = [&position[..], &crc, &crc].concat();
        std::fs::write(folder.path().join("acknowledged"), slot).unwrap();
        let found = Checkpoint::open(folder.path()).1;
        assert_eq!(
            found,
            Some(Mark {
                position: 7,
                number: None
            })
        );
    }
}
