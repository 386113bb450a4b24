//! How far records are acknowledged, kept beside them.
//!
//! The file `acknowledged` has two slots of 16 bytes, written in turn: the position (u64) up to which
//! all records are done with, and its CRC-32 twice (u32). The larger one that is whole counts, so that
//! a write that is torn loses one step. What is lost is sent again, never skipped.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::record::MAX_POSITION;

const SLOT_BYTES: usize = 16;

/// The open file.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// None if there is no way to have it: then all is sent again after a restart.
    file: Option<File>,
    next_slot: u64,
}

impl Checkpoint {
    /// Opens the file in a folder, and returns the position in it; 0 if there is none.
    pub(crate) fn open(folder: &Path) -> (Self, u64) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(folder.join("acknowledged")).ok();
        let read = |slot: u64| {
            let mut bytes = [0; SLOT_BYTES];
            file.as_ref()?
                .read_exact_at(&mut bytes, slot * SLOT_BYTES as u64)
                .ok()?;
            decode(&bytes)
        };
        let slots = [read(0), read(1)];
        let newest = slots[0].max(slots[1]);
        // The next write goes over the other one.
        let next_slot = u64::from(newest.is_some() && newest == slots[0]);
        (Self { file, next_slot }, newest.unwrap_or(0))
    }

    /// Writes a position. It reaches the disk when the system likes.
    pub(crate) fn write(&mut self, position: u64) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let slot = self.next_slot;
        self.next_slot = 1 - slot;
        file.write_all_at(&encode(position), slot * SLOT_BYTES as u64)
    }
}

fn encode(position: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&position.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]).to_le_bytes();
    bytes[8..12].copy_from_slice(&crc);
    bytes[12..].copy_from_slice(&crc);
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let position = u64::from_le_bytes(*bytes.first_chunk()?);
    let whole = encode(position) == *bytes && position <= MAX_POSITION;
    whole.then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_write_loses_one_step_only() {
        let folder = tempfile::tempdir().unwrap();
        let (mut checkpoint, position) = Checkpoint::open(folder.path());
        assert_eq!(position, 0);
        for position in 1..=9 {
            checkpoint.write(position).unwrap();
            assert_eq!(Checkpoint::open(folder.path()).1, position);
        }
        let path = folder.path().join("acknowledged");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!([8, 9].contains(&Checkpoint::open(folder.path()).1));
        }
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Checkpoint::open(folder.path()).1, 0);
    }
}
