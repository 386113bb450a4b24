//! Segments: files in which records lie one after the other, named by the position of the first.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::record::{Found, Header, MAX_POSITION, look, next_candidate};

/// Ends the names of segments.
const SUFFIX: &str = ".segment";

/// Most bytes of a file that are looked at in one piece, unless a single record is larger.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// What is known of a segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// Position of its first record, as its name says.
    pub(crate) first: u64,
    /// Position behind its last record.
    pub(crate) end: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Events in records that were not read yet, those that are known to be lost included.
    pub(crate) unread: u64,
    /// The number of the event behind its last one, if it is known.
    pub(crate) end_number: Option<u64>,
    /// Something follows its last whole record, or it has none.
    pub(crate) torn: bool,
    /// There is no file: it stands for records that are missing.
    pub(crate) missing: bool,
    /// Damaged bytes of it that were counted.
    pub(crate) told_bytes: u64,
}

/// Returns the path of the segment that begins with that record.
pub(crate) fn path_of(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}{SUFFIX}"))
}

/// Reads the position out of a segment's name; none if it is another file.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    let first = is_number.then(|| digits.parse().ok()).flatten()?;
    (1..=MAX_POSITION).contains(&first).then_some(first)
}

/// Makes a segment's file. One of its name can only be left over from a write that failed.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // It is read if its name is taken away.
    options.read(true).write(true).create(true);
    options.truncate(true).open(path)
}

/// Reads records from a segment, one after the other, passing over what is damaged.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: File,
    /// Where in the file `window` begins.
    begin: u64,
    window: Vec<u8>,
    /// Where in the window the next record should begin.
    at: usize,
    /// Bytes that were passed over.
    damaged_bytes: u64,
}

impl Scanner {
    /// Opens a segment, at its beginning.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            begin: 0,
            window: Vec::new(),
            at: 0,
            damaged_bytes: 0,
        })
    }

    /// Returns the next record before the byte `until`, with its payload.
    pub(crate) fn next(&mut self, until: u64) -> io::Result<Option<(Header, &[u8])>> {
        loop {
            if self.at == self.window.len() && !self.fill(1, until)? {
                return Ok(None);
            }
            match look(&self.window[self.at..]) {
                Found::Record(header, payload) => {
                    let payload = self.at + payload.start..self.at + payload.end;
                    self.at += header.record_bytes();
                    return Ok(Some((header, &self.window[payload])));
                }
                Found::Partial(needed) if self.fill(needed, until)? => {}
                // What is cut off at the end cannot be told from damage, and is passed over alike.
                Found::Partial(_) | Found::Nothing => {
                    let passed = next_candidate(&self.window[self.at..]);
                    self.at += passed;
                    self.damaged_bytes += passed as u64;
                }
            }
        }
    }

    /// Returns where in the file the next record should begin.
    pub(crate) fn offset(&self) -> u64 {
        self.begin + self.at as u64
    }

    /// Returns the bytes that were passed over so far.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Has at least `needed` bytes in the window from where it stands; false if the file has not so
    /// many before `until`.
    fn fill(&mut self, needed: usize, until: u64) -> io::Result<bool> {
        let left = usize::try_from(until.saturating_sub(self.offset())).unwrap_or(usize::MAX);
        let have = self.window.len() - self.at;
        if needed > left || needed <= have {
            return Ok(needed <= have);
        }
        let wanted = needed.max(WINDOW_BYTES).min(left);
        self.begin += self.at as u64;
        self.window.drain(..self.at);
        self.at = 0;
        self.window.resize(wanted.max(have), 0);
        let mut filled = have;
        while filled < wanted {
            let place = self.begin + filled as u64;
            match self.file.read_at(&mut self.window[filled..wanted], place) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.truncate(have);
                    return Err(error);
                }
            }
        }
        self.window.truncate(filled);
        Ok(filled >= needed)
    }
}
