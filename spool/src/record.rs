//! How a record lies in a segment, and how records are found in bytes that may be damaged.
//!
//! Numbers are little-endian:
//!
//! | bytes | field | means |
//! | --- | --- | --- |
//! | 4 | magic | `SGr2` |
//! | 4 | crc | CRC-32 (IEEE 802.3) of all that follows, payload included |
//! | 4 | length | bytes of the payload, 1 to [`MAX_PAYLOAD_BYTES`] |
//! | 4 | events | how many events the payload holds, at least 1 |
//! | 8 | position | of the record in the spool, from 1, one more each |
//! | 8 | number | of the first event, from 0: how many events all records before it hold |
//!
//! The checksum covers the length, so that a torn length is seen. Positions say which records are
//! missing, and numbers how many events those held. Records of format 1 (`SGr1`, StreamGate 0.1)
//! have no number; they are read and not written.

use std::ops::Range;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;

/// Bytes before the payload in format 1.
const HEADER_BYTES_1: usize = 24;

/// The largest payload. Larger batches are appended as several records.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;

/// The last position and number that there is; a larger one comes from damage.
pub(crate) const MAX_POSITION: u64 = 1 << 62;

const MAGIC: [u8; 4] = *b"SGr2";
const MAGIC_1: [u8; 4] = *b"SGr1";

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) events: u32,
    pub(crate) position: u64,
    /// None in format 1.
    pub(crate) number: Option<u64>,
}

impl Header {
    /// Returns the bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> usize {
        let header = match self.number {
            Some(_) => HEADER_BYTES,
            None => HEADER_BYTES_1,
        };
        header + self.length as usize
    }

    /// Writes the header of a payload that comes in slices.
    pub(crate) fn encode(&self, payload: &[&[u8]]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.events.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.unwrap_or(0).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[8..]);
        for slice in payload {
            crc.update(slice);
        }
        bytes[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes
    }
}

/// What lies at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole record; its payload lies here.
    Record(Header, Range<usize>),
    /// A record may begin here, of which so many bytes are needed in all.
    Partial(usize),
    /// No record begins here.
    Nothing,
}

/// Looks at the beginning of `bytes`.
pub(crate) fn look(bytes: &[u8]) -> Found {
    let begins = |magic: &[u8; 4]| bytes.starts_with(&magic[..bytes.len().min(4)]);
    let header_bytes = match () {
        () if begins(&MAGIC) => HEADER_BYTES,
        () if begins(&MAGIC_1) => HEADER_BYTES_1,
        () => return Found::Nothing,
    };
    let Some(header) = bytes.get(..header_bytes) else {
        return Found::Partial(header_bytes);
    };
    let u32_at = |at: usize| u32::from_le_bytes(array(header, at));
    let found = Header {
        length: u32_at(8),
        events: u32_at(12),
        position: u64::from_le_bytes(array(header, 16)),
        number: (header_bytes == HEADER_BYTES).then(|| u64::from_le_bytes(array(header, 24))),
    };
    let length = found.length as usize;
    let is_position = (1..=MAX_POSITION).contains(&found.position)
        && found.number.is_none_or(|number| number <= MAX_POSITION);
    if length == 0 || length > MAX_PAYLOAD_BYTES || found.events == 0 || !is_position {
        return Found::Nothing;
    }
    let Some(record) = bytes.get(..header_bytes + length) else {
        return Found::Partial(header_bytes + length);
    };
    match crc32fast::hash(&record[8..]) == u32_at(4) {
        true => Found::Record(found, header_bytes..record.len()),
        false => Found::Nothing,
    }
}

fn array<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&header[at..at + N]);
    array
}

/// Returns where in `bytes`, behind the first, a record may begin again.
pub(crate) fn next_candidate(bytes: &[u8]) -> usize {
    let found = memchr::memmem::find(&bytes[1..], &MAGIC[..3]);
    found.map_or(bytes.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let header = Header {
            length: u32::try_from(payload.len()).unwrap(),
            events: 2,
            position: 7,
            number: Some(9),
        };
        [&header.encode(&[payload])[..], payload].concat()
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_seen() {
        let whole = record(b"one\ntwo\n");
        assert!(matches!(look(&whole), Found::Record(header, _) if header.position == 7));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(!matches!(look(&changed), Found::Record(..)), "byte {at}");
            assert!(
                !matches!(look(&whole[..at]), Found::Record(..)),
                "cut at {at}"
            );
        }
    }
}
