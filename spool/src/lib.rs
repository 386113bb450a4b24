//! A bounded queue of records on disk, which survives `kill -9` and damage.
//!
//! A [`Spool`] is a folder of *segments* ([`record`] and [`segment`] have the format), a file that
//! says how far they are acknowledged ([`checkpoint`]), one that says which gave way
//! ([`given_up`]), one that says what else was known when it was closed ([`closed`]), one that says
//! which format they have ([`format`](mod@format)), and a lock that keeps other processes out
//! ([`lock`]). Records are appended in order, read in order, and
//! acknowledged in any order; a segment is deleted when all of its records are acknowledged.
//!
//! What it promises:
//! - It always opens, unless the folder cannot be used at all, another process has it, or a newer
//!   version wrote it. What is damaged or missing is passed over, counted, and never keeps anything
//!   else back.
//! - The files never take more than `max_bytes`. [`WhenFull`] says what gives way.
//! - What [`Spool::sync`] returned for is on the disk. Everything appended survives the end of the
//!   process, however it comes; without `sync` a loss of power can take the newest records.
//! - A record that was not acknowledged is read again after a restart: at least once, never not at
//!   all. After a clean close that is exactly what was not acknowledged, down to the event.
//! - If its folder is removed or renamed while it is open, [`Spool::sync`] fails and the folder is
//!   made again, with the segment that was being written. What was in other segments is counted as
//!   damaged.
//! - An error of the disk is returned, the segment is cut back to its last whole record, and the
//!   next append tries again. After an `fsync` that failed the segment is left and a new one is
//!   begun: the system may have dropped what it could not write, and says so only once.
//!
//! Why not a storage library: the embedded databases that are well kept (redb, fjall, LMDB) are
//! ordered maps. As a queue they write every record twice or more, give space back by compaction or
//! not at all, so that a bound in bytes cannot be kept, and refuse to open on damage that they
//! cannot repair.

#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, IoSlice, Read as _, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

mod checkpoint;
mod closed;
mod format;
mod given_up;
mod lock;
mod record;
mod segment;
mod shown;

pub use lock::{FolderLock, Holder, LockError};
pub use record::MAX_PAYLOAD_BYTES;

use checkpoint::{Checkpoint, Mark};
use closed::Closed;
use given_up::GivenUp;
use record::{HEADER_BYTES, Header};
use segment::{Scanner, Segment};
use shown::ShownIndex;

/// The least `max_bytes`.
pub const MIN_BYTES: u64 = 1024 * 1024;

/// The largest segment, unless a single record is larger.
const MAX_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// So many segments fit into `max_bytes`: what is given up at once when the oldest has to go.
const SEGMENTS: u64 = 8;

/// What the other files of the folder may take.
const OVERHEAD_BYTES: u64 = 4 * 1024;

/// How long it is told at least that the folder vanished.
const VANISHED_SHOWN: Duration = Duration::from_secs(10);

/// How a spool behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes of the files, at least [`MIN_BYTES`].
    pub max_bytes: u64,
    /// What gives way when they are used up.
    pub when_full: WhenFull,
    /// When appended records are forced to the disk without being asked.
    pub fsync: Fsync,
}

/// What gives way when a spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Nothing: what is appended is refused until there is room.
    Block,
    /// The oldest segment that is not being read.
    DropOldest,
    /// What is appended.
    DropNewest,
}

/// When appended records are forced to the disk without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// When the system likes.
    Never,
    /// As soon as the last time was so long ago.
    Interval(Duration),
    /// At every append.
    Always,
}

/// An append, and what it cost.
#[derive(Debug)]
pub struct Append {
    /// What became of the record.
    pub outcome: Appended,
    /// What gave way, whatever became of it.
    pub dropped: Dropped,
}

/// What became of an append.
#[derive(Debug)]
pub enum Appended {
    /// It is in the spool, at this position, which is for [`Spool::sync`].
    At(u64),
    /// There is no room, and nothing may give way.
    Full,
    /// There is no room, and it gave way itself; or there never will be, since it is larger than
    /// the spool.
    Refused,
    /// It is not in the spool; the disk said this. Trying again is right.
    Failed(io::Error),
}

/// Events that were given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// For [`Spool::acknowledge`].
    pub position: u64,
    /// How many events it holds.
    pub events: u32,
    /// How many of them, from the first on, were done with before ([`Spool::acknowledge_part`]).
    pub done: u32,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// What reading found.
#[derive(Debug)]
pub struct Read {
    /// The next record, unless there is none.
    pub record: Option<Record>,
    /// Events before it that are lost, since their records are damaged or missing.
    pub lost_events: u64,
    /// Where damage was found, once for each file.
    pub damage: Vec<Damage>,
}

/// Damage of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file. If it is missing, records with the position in its name and higher are: it was
    /// removed, or the file before it was cut off.
    pub path: PathBuf,
    /// Whether there is no such file.
    pub missing: bool,
    /// Events that were lost, as far as it is known: format 1 does not say how many were in records
    /// that are missing.
    pub events: u64,
    /// Bytes that were passed over.
    pub bytes: u64,
}

/// What is in a spool, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events that are not acknowledged.
    pub events: u64,
    /// Bytes of the files.
    pub disk_bytes: u64,
    /// Bytes that were passed over since it was opened, since they are damaged.
    pub damaged_bytes: u64,
    /// Events that were in it when it was opened, or came later, and were lost with them.
    pub lost_events: u64,
    /// What the disk said last, if the last append, `fsync` or reading failed.
    pub error: Option<String>,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it.
    #[error("the spool `{}` is in use by {holder}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// A newer version wrote it. It was not changed.
    #[error(
        "the spool `{}` has format {found}, and this version knows formats 1 to {}; use the version \
         that wrote it, or move the folder away",
        path.display(), format::FORMAT
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The folder cannot be used.
    #[error("the spool `{}` cannot be used: {source}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A queue of records on disk. All methods may block on the disk, but for [`Spool::stats`].
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    settings: Settings,
    /// The limit of the settings, which may be changed.
    max_bytes: AtomicU64,
    index: ShownIndex,
    /// Signalled when records were appended or room was made, or at the end.
    changed: Condvar,
    writer: Mutex<Writer>,
    reader: Mutex<Option<Scanner>>,
    /// The position up to which all is on the disk.
    synced: Mutex<u64>,
    /// Held for as long as the spool is open.
    lock: Mutex<FolderLock>,
}

#[derive(Debug)]
struct Index {
    /// In order; the last one is written to if `writing`.
    segments: VecDeque<Segment>,
    writing: bool,
    /// The next record to be written.
    end: u64,
    /// The number of its first event.
    end_number: u64,
    /// The next record to be read.
    next_read: u64,
    /// The number of its first event, if it is known.
    next_number: Option<u64>,
    /// The segment that is read, by its first position.
    reading: u64,
    /// All records before this one are done with.
    acknowledged: u64,
    /// Records behind it that are too, and their events.
    acknowledged_too: BTreeMap<u64, u32>,
    /// Events at the beginning of records that were not read yet which are done with.
    done_before: BTreeMap<u64, u32>,
    checkpoint: Checkpoint,
    /// Whether the checkpoint is on the disk before segments are deleted.
    sync_checkpoint: bool,
    given_up: GivenUp,
    /// Damage that was found and not yet told.
    damage: Vec<Damage>,
    /// Records that were read and are not acknowledged, by their positions.
    in_hand: BTreeMap<u64, InHand>,
    /// The events in them.
    in_hand_events: u64,
    closed: bool,
    damaged_bytes: u64,
    lost_events: u64,
    error: Option<String>,
    /// When the folder vanished, if it did.
    vanished: Option<Instant>,
}

#[derive(Debug)]
struct InHand {
    events: u32,
    /// How many of them, from the first on, are done with.
    done: u32,
    number: Option<u64>,
    /// The segment it is in, by its first position.
    segment: u64,
}

#[derive(Debug)]
struct Writer {
    /// The last segment, open.
    file: Option<File>,
    synced_at: Instant,
    /// Records before this one that are not on the disk may never get there.
    unsure_until: u64,
}

impl Spool {
    /// Opens a spool, and makes its folder if it is missing. What is there is read through once, to
    /// count it.
    ///
    /// # Errors
    /// [`OpenError`]; damage is none.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Unusable {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = Self::claim(folder)?;
        format::write(folder).map_err(unusable)?;
        // The folder's own name is on the disk before anything in it is said to be.
        for above in folder.ancestors().skip(1).take(3) {
            if let Ok(above) = File::open(above) {
                let _ = above.sync_all();
            }
        }
        let mut index = Index::read(folder).map_err(unusable)?;
        index.sync_checkpoint = settings.fsync != Fsync::Never;
        let synced = index.end - 1;
        let spool = Self {
            folder: folder.to_owned(),
            settings,
            max_bytes: AtomicU64::new(settings.max_bytes.max(MIN_BYTES)),
            index: ShownIndex::new(index),
            changed: Condvar::new(),
            writer: Mutex::new(Writer {
                file: None,
                synced_at: Instant::now(),
                unsure_until: 0,
            }),
            reader: Mutex::new(None),
            synced: Mutex::new(synced),
            lock: Mutex::new(lock),
        };
        spool.index.lock().delete_acknowledged();
        Ok(spool)
    }

    /// Locks a spool that is there, and checks that this version can read it; changes nothing else
    /// in it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn claim(folder: &Path) -> Result<FolderLock, OpenError> {
        if let Some(found) = format::read(folder).filter(|found| *found > format::FORMAT) {
            return Err(OpenError::Newer {
                path: folder.to_owned(),
                found,
            });
        }
        FolderLock::take(folder).map_err(|error| match error {
            LockError::Held(holder) => OpenError::InUse {
                path: folder.to_owned(),
                holder,
            },
            LockError::Io(source) => OpenError::Unusable {
                path: folder.to_owned(),
                source,
            },
        })
    }

    /// Appends a record. What an `fsync` said that was due is in [`Stats::error`], and
    /// [`Self::sync`] returns it: the record is in the spool all the same.
    ///
    /// One without events, without bytes or with more than [`MAX_PAYLOAD_BYTES`] is refused.
    pub fn append(&self, events: u32, payload: &[&[u8]]) -> Append {
        let length: usize = payload.iter().map(|slice| slice.len()).sum();
        let mut dropped = Dropped::default();
        if !(1..=MAX_PAYLOAD_BYTES).contains(&length) || events == 0 {
            return Append {
                outcome: Appended::Refused,
                dropped,
            };
        }
        let outcome = match self.place(events, length, payload, &mut dropped) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.index.lock().error = Some(error.to_string());
                Appended::Failed(error)
            }
        };
        if let Appended::At(position) = outcome {
            let due = match self.settings.fsync {
                Fsync::Never => false,
                Fsync::Always => true,
                Fsync::Interval(interval) => self.writer.lock().synced_at.elapsed() >= interval,
            };
            if due {
                // It is told in the stats.
                let _ = self.sync(position);
            }
        }
        Append { outcome, dropped }
    }

    fn place(
        &self,
        events: u32,
        length: usize,
        payload: &[&[u8]],
        dropped: &mut Dropped,
    ) -> io::Result<Appended> {
        let record_bytes = (HEADER_BYTES + length) as u64;
        if record_bytes + OVERHEAD_BYTES > self.max_bytes() {
            return Ok(Appended::Refused);
        }
        let mut writer = self.writer.lock();
        // With `sync` it is noticed before anybody is told that records are safe; here, soon.
        if !self.is_in_place(&writer) {
            self.restore(&mut writer)?;
        }
        if !self.make_room(&mut writer, record_bytes, dropped)? {
            return Ok(match self.settings.when_full {
                WhenFull::Block => Appended::Full,
                _ => Appended::Refused,
            });
        }
        let position = self.write(&mut writer, events, length, payload)?;
        self.index.lock().recovered();
        self.changed.notify_all();
        Ok(Appended::At(position))
    }

    /// Has all records up to that position on the disk. Those who ask at the same time share one
    /// `fsync`.
    ///
    /// # Errors
    /// What the disk said; whether they are on it is not known then, and never will be.
    pub fn sync(&self, position: u64) -> io::Result<()> {
        let unsure = || io::Error::other("an earlier `fsync` failed");
        let mut synced = self.synced.lock();
        let (file, end) = {
            let mut writer = self.writer.lock();
            if position < writer.unsure_until {
                return Err(unsure());
            }
            if *synced >= position {
                return match self.is_in_place(&writer) {
                    true => Ok(()),
                    false => Err(self.vanished(&mut writer)),
                };
            }
            writer.synced_at = Instant::now();
            let file = writer.file.as_ref().map(File::try_clone).transpose()?;
            (file, self.index.lock().end)
        };
        let result = file.as_ref().map_or(Ok(()), File::sync_data);
        let mut writer = self.writer.lock();
        if let Err(error) = &result {
            let mut index = self.index.lock();
            writer.file = None;
            writer.unsure_until = index.end;
            index.writing = false;
            index.error = Some(error.to_string());
        } else if position < writer.unsure_until {
            // Whoever left the segment meanwhile was told of the fault, which is told once.
            return Err(unsure());
        } else if !self.is_in_place(&writer) {
            return Err(self.vanished(&mut writer));
        } else {
            *synced = end - 1;
        }
        result
    }

    /// Whether the files that are open still have their names.
    fn is_in_place(&self, writer: &Writer) -> bool {
        let last = self
            .index
            .lock()
            .segments
            .back()
            .map(|last| last.path.clone());
        let written = match (&writer.file, last) {
            (Some(file), Some(path)) => lock::is_at(file, &path),
            _ => true,
        };
        written && self.lock.lock().is_in_place()
    }

    /// Makes the folder again, and returns what is to be told to those who wait for the disk.
    fn vanished(&self, writer: &mut Writer) -> io::Error {
        if let Err(error) = self.restore(writer) {
            self.index.lock().error = Some(error.to_string());
            return error;
        }
        io::Error::other(self.vanished_text())
    }

    fn vanished_text(&self) -> String {
        format!(
            "the spool `{}` was removed or renamed while it was in use; it was made again",
            self.folder.display()
        )
    }

    /// Makes the folder again after it vanished, with the segment that was being written: the
    /// system has kept that one as long as it is open. It is left, so that the next append begins a
    /// new one.
    fn restore(&self, writer: &mut Writer) -> io::Result<()> {
        let mut index = self.index.lock();
        writer.unsure_until = index.end;
        fs::create_dir_all(&self.folder)?;
        let mut lock = self.lock.lock();
        if !lock.is_in_place() {
            *lock = Self::claim(&self.folder).map_err(io::Error::other)?;
        }
        drop(lock);
        format::write(&self.folder)?;
        index.checkpoint = Checkpoint::open(&self.folder).0;
        index.note_acknowledged();
        let before = index.acknowledged;
        let sync = index.sync_checkpoint;
        index.given_up.write(&self.folder, before, sync)?;
        let kept = writer.file.take();
        let last = index.segments.back().filter(|_| index.writing);
        let copied = match (kept, last) {
            (Some(from), Some(last)) if !lock::is_at(&from, &last.path) => copy(from, last),
            _ => Ok(()),
        };
        index.writing = false;
        if copied.is_ok() {
            File::open(&self.folder)?.sync_all()?;
        }
        // What could not be copied is found to be missing when it is read.
        index.error = Some(self.vanished_text());
        index.vanished = Some(Instant::now());
        Ok(())
    }

    /// Forces to the disk what is due by [`Fsync::Interval`]; to be called now and then by whoever
    /// appends.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn sync_if_due(&self) -> io::Result<()> {
        let Fsync::Interval(interval) = self.settings.fsync else {
            return Ok(());
        };
        if self.writer.lock().synced_at.elapsed() < interval {
            return Ok(());
        }
        let last = self.index.lock().end - 1;
        self.sync(last)
    }

    /// Waits until something was acknowledged or appended, at most so long.
    pub fn wait(&self, limit: Duration) {
        let mut index = self.index.lock();
        if !index.closed {
            self.changed.wait_for(&mut index.inner, limit);
        }
    }

    /// Reads the next record; waits for one at most so long. What cannot be read is passed over.
    pub fn read(&self, limit: Duration) -> Read {
        let deadline = Instant::now() + limit;
        let mut lost_events = 0;
        let take_damage = || std::mem::take(&mut self.index.lock().damage);
        loop {
            let mut reader = self.reader.lock();
            let record = self.read_now(&mut reader, &mut lost_events);
            drop(reader);
            if record.is_some() {
                return Read {
                    record,
                    lost_events,
                    damage: take_damage(),
                };
            }
            let mut index = self.index.lock();
            // What is there and could not be read is tried again by the next call.
            let fails = index.segment_to_read().is_some();
            let closed = index.closed;
            if closed
                || self
                    .changed
                    .wait_until(&mut index.inner, deadline)
                    .timed_out()
                || fails
            {
                return Read {
                    record: None,
                    lost_events,
                    damage: std::mem::take(&mut index.damage),
                };
            }
        }
    }

    /// Says that records are done with. How far they all are is written down once, at the end.
    pub fn acknowledge(&self, positions: impl IntoIterator<Item = u64>) {
        let mut index = self.index.lock();
        for position in positions {
            if let Some(held) = index.in_hand.remove(&position) {
                index.in_hand_events -= held.left();
                index.acknowledged_too.insert(position, held.events);
            }
        }
        index.advance();
        index.delete_acknowledged();
        drop(index);
        self.changed.notify_all();
    }

    /// Says that the first `events` events of a record are done with. Only a clean close writes that
    /// down: after a crash the whole record is read again.
    pub fn acknowledge_part(&self, position: u64, events: u32) {
        let mut index = self.index.lock();
        let Some(held) = index.in_hand.get_mut(&position) else {
            return;
        };
        let before = held.left();
        held.done = held.done.max(events.min(held.events));
        let done = before - held.left();
        index.in_hand_events -= done;
    }

    /// Reads all records again that were read and are not acknowledged.
    pub fn rewind(&self) {
        let mut reader = self.reader.lock();
        let mut index = self.index.lock();
        *reader = None;
        index.reading = 0;
        index.in_hand_events = 0;
        for (position, held) in std::mem::take(&mut index.in_hand) {
            if position < index.next_read {
                (index.next_read, index.next_number) = (position, held.number);
            }
            if let Some(segment) = index.segment_mut(held.segment) {
                segment.unread += held.left();
            }
            if held.done > 0 {
                index.done_before.insert(position, held.done);
            }
        }
        drop(index);
        self.changed.notify_all();
    }

    /// Returns the position that the next record gets.
    pub fn end(&self) -> u64 {
        self.index.lock().end
    }

    /// Says what is in it, as of the last change that is complete. Never waits for the disk.
    pub fn stats(&self) -> Stats {
        self.index.stats()
    }

    /// Changes the most bytes of the files. What is beyond it gives way at the next append.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.max_bytes
            .store(max_bytes.max(MIN_BYTES), Ordering::Relaxed);
    }

    fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Wakes everybody who waits; reading no longer does.
    pub fn close(&self) {
        self.index.lock().closed = true;
        self.changed.notify_all();
    }

    /// Has room for a record; false if there cannot be any. Nothing is given up in vain, unless the
    /// disk fails.
    fn make_room(
        &self,
        writer: &mut Writer,
        record_bytes: u64,
        dropped: &mut Dropped,
    ) -> io::Result<bool> {
        let last_bytes = self.index.lock().segments.back().map(|last| last.bytes);
        if last_bytes.is_some_and(|bytes| bytes + record_bytes > self.segment_bytes()) {
            self.leave_segment(writer);
        }
        let mut index = self.index.lock();
        index.delete_acknowledged();
        let after = index.disk_bytes() + record_bytes;
        let over = after.saturating_sub(self.max_bytes());
        if over == 0 {
            return Ok(true);
        }
        let room: u64 = index.droppable().map(|at| index.segments[at].bytes).sum();
        if self.settings.when_full != WhenFull::DropOldest || room < over {
            return Ok(false);
        }
        let mut made = 0;
        while made < over {
            let Some(oldest) = index.droppable().next() else {
                return Ok(false);
            };
            // One that stayed would come back after a restart, and take more than there is.
            match fs::remove_file(&index.segments[oldest].path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if let Some(segment) = index.segments.remove(oldest) {
                index
                    .given_up
                    .add(segment.first, segment.end, segment.unread);
                made += segment.bytes;
                dropped.events += segment.unread;
                dropped.bytes += segment.bytes;
            }
        }
        let (before, sync) = (index.acknowledged, index.sync_checkpoint);
        // Without it they are counted as damaged too, after a restart.
        let _ = index.given_up.write(&self.folder, before, sync);
        Ok(true)
    }

    /// Returns the most bytes of a payload that leave room for several records in a segment.
    pub fn handy_payload_bytes(&self) -> usize {
        usize::try_from(self.segment_bytes() / 4).unwrap_or(usize::MAX)
    }

    fn segment_bytes(&self) -> u64 {
        (self.max_bytes() / SEGMENTS).min(MAX_SEGMENT_BYTES)
    }

    /// Closes the last segment, with all that is in it on the disk if that is wanted.
    fn leave_segment(&self, writer: &mut Writer) {
        let Some(file) = writer.file.take() else {
            return;
        };
        let synced = match self.settings.fsync {
            Fsync::Never => None,
            _ => Some(file.sync_data()),
        };
        let mut index = self.index.lock();
        index.writing = false;
        if !matches!(synced, Some(Ok(()))) {
            writer.unsure_until = index.end;
        }
        if let Some(Err(error)) = synced {
            index.error = Some(error.to_string());
        }
    }

    fn write(
        &self,
        writer: &mut Writer,
        events: u32,
        length: usize,
        payload: &[&[u8]],
    ) -> io::Result<u64> {
        let (position, number) = {
            let index = self.index.lock();
            (index.end, index.end_number)
        };
        let file = match &mut writer.file {
            Some(file) => file,
            none => {
                let path = segment::path_of(&self.folder, position);
                let file = segment::create(&path)?;
                File::open(&self.folder)?.sync_all()?;
                let mut index = self.index.lock();
                index.writing = true;
                index.segments.push_back(Segment {
                    path,
                    first: position,
                    end: position,
                    bytes: 0,
                    unread: 0,
                    end_number: None,
                    torn: false,
                    missing: false,
                    told_bytes: 0,
                });
                none.insert(file)
            }
        };
        let header = Header {
            length: u32::try_from(length).expect("at most MAX_PAYLOAD_BYTES"),
            events,
            position,
            number: Some(number),
        };
        let head = header.encode(payload);
        let mut slices = vec![IoSlice::new(&head)];
        slices.extend(payload.iter().map(|slice| IoSlice::new(slice)));
        let written = write_all(file, &mut slices);
        let mut index = self.index.lock();
        let last = index.segments.back_mut().expect("it was just there");
        if let Err(error) = written {
            // Without what was written in part. What cannot be cut off is passed over by readers.
            let is_empty = last.bytes == 0;
            let cut = file
                .set_len(last.bytes)
                .and_then(|()| file.seek(SeekFrom::Start(last.bytes)));
            if is_empty || cut.is_err() {
                writer.file = None;
                index.writing = false;
            }
            if is_empty {
                index.segments.pop_back().iter().for_each(delete);
            }
            return Err(error);
        }
        last.bytes += header.record_bytes() as u64;
        last.end = position + 1;
        last.unread += u64::from(events);
        last.end_number = Some(number + u64::from(events));
        index.end = position + 1;
        index.end_number = number + u64::from(events);
        Ok(position)
    }

    fn read_now(&self, reader: &mut Option<Scanner>, lost: &mut u64) -> Option<Record> {
        loop {
            let (segment, from) = {
                let mut index = self.index.lock();
                let segment = index.segment_to_read()?.clone();
                if index.reading != segment.first {
                    index.reading = segment.first;
                    *reader = None;
                }
                (segment, index.next_read)
            };
            if segment.missing {
                *lost += self.index.lock().finish_reading(&segment, 0);
                continue;
            }
            if reader.is_none() {
                match Scanner::open(&segment.path) {
                    Ok(scanner) => *reader = Some(scanner),
                    Err(error) => {
                        let mut index = self.index.lock();
                        index.error = Some(format!("`{}`: {error}", segment.path.display()));
                        if is_passing(&error) {
                            return None;
                        }
                        *lost += index.finish_reading(&segment, segment.bytes);
                        continue;
                    }
                }
            }
            let scanner = reader.as_mut().expect("was just opened");
            let found = loop {
                match scanner.next(segment.bytes) {
                    // Was read before; or comes from bytes that only look right.
                    Ok(Some((header, _))) if !(from..segment.end).contains(&header.position) => {}
                    Ok(Some((header, payload))) => break Ok(Some((header, payload.to_vec()))),
                    Ok(None) => break Ok(None),
                    Err(error) => break Err(error),
                }
            };
            let damaged = scanner.damaged_bytes();
            let mut index = self.index.lock();
            match found {
                Ok(Some((header, payload))) => {
                    let events = header.events;
                    index.next_read = header.position + 1;
                    index.next_number = header.number.map(|number| number + u64::from(events));
                    let known = index.acknowledged_too.contains_key(&header.position);
                    let done = index.done_before.remove(&header.position).unwrap_or(0);
                    let held = InHand {
                        events,
                        done: done.min(events),
                        number: header.number,
                        segment: segment.first,
                    };
                    if let Some(segment) = index.segment_mut(segment.first) {
                        let read = if known { 0 } else { held.left() };
                        segment.unread = segment.unread.saturating_sub(read);
                        // Behind the last record nothing can be to come.
                        if segment.end == header.position + 1 {
                            *lost += index.lose_unread(header.position + 1, damaged);
                        }
                    }
                    if known || held.left() == 0 {
                        index.acknowledged_too.insert(header.position, events);
                        index.advance();
                        continue;
                    }
                    index.in_hand_events += held.left();
                    let done = held.done;
                    if let Some(before) = index.in_hand.insert(header.position, held) {
                        index.in_hand_events -= before.left();
                    }
                    return Some(Record {
                        position: header.position,
                        events,
                        done,
                        payload,
                    });
                }
                Ok(None) => *lost += index.finish_reading(&segment, damaged),
                Err(error) => {
                    index.error = Some(format!("`{}`: {error}", segment.path.display()));
                    *reader = None;
                    if is_passing(&error) {
                        return None;
                    }
                    *lost += index.finish_reading(&segment, segment.bytes);
                }
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let index = self.index.get_mut();
        index.writing = false;
        index.delete_acknowledged();
        // Without it something is sent twice.
        let _ = index.closing().write(&self.folder);
    }
}

impl InHand {
    /// Events that are not done with.
    fn left(&self) -> u64 {
        u64::from(self.events - self.done)
    }
}

impl Index {
    /// Reads what is in a folder.
    fn read(folder: &Path) -> io::Result<Self> {
        let (checkpoint, acknowledged) = Checkpoint::open(folder);
        let start = Mark {
            position: acknowledged.map_or(1, |mark| mark.position.max(1)),
            number: acknowledged.and_then(|mark| mark.number),
        };
        let closed = Closed::read(folder, start.position);
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(name) = name.to_str().and_then(segment::first_of) {
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                found.push(FoundFile::read(entry.path(), name, bytes, start, &closed)?);
            }
        }
        // By what they hold: a file may have the name of another.
        found.sort_by_key(|file| {
            (
                file.first.map_or(file.name, |first| first.position),
                file.name,
            )
        });
        let mut index = Self {
            segments: VecDeque::new(),
            writing: false,
            end: start.position,
            end_number: start.number.unwrap_or(0),
            next_read: start.position,
            next_number: start.number,
            reading: 0,
            acknowledged: start.position,
            acknowledged_too: BTreeMap::new(),
            done_before: BTreeMap::new(),
            checkpoint,
            sync_checkpoint: false,
            given_up: GivenUp::read(folder),
            damage: Vec::new(),
            in_hand: BTreeMap::new(),
            in_hand_events: 0,
            closed: false,
            damaged_bytes: 0,
            lost_events: 0,
            error: None,
            vanished: None,
        };
        // Nothing is known to be missing before the first record if it is not known where that was.
        let mut known = acknowledged.map(|_| start);
        for file in found {
            index.take_in(folder, file, &mut known, &closed)?;
        }
        if let Some(end) = closed.end {
            index.take_end(folder, end, known, &closed);
        }
        if index.segments.is_empty() {
            index.next_number = Some(index.end_number);
        }
        index.done_before = closed.done;
        // From now on it is known where the first one was.
        index.note_acknowledged();
        Ok(index)
    }

    /// Takes a segment in, behind those with lower positions. `known` is what comes behind the last
    /// record before it. One that cannot be read is passed over when its turn comes; an error is
    /// none of the file's.
    fn take_in(
        &mut self,
        folder: &Path,
        mut file: FoundFile,
        known: &mut Option<Mark>,
        closed: &Closed,
    ) -> io::Result<()> {
        let behind = known.map_or(0, |mark| mark.position);
        if !self.segments.is_empty() && file.first.is_some_and(|first| first.position < behind) {
            // It has records that another file has too.
            let least = known.filter(|mark| mark.position >= self.acknowledged);
            let least = least.unwrap_or(Mark {
                position: self.acknowledged,
                number: None,
            });
            file = FoundFile::read(file.path, file.name, file.bytes, least, closed)?;
            file.first = file.first_unread;
            match file.first {
                // What is missing before it is counted with its events.
                Some(_) => *known = None,
                None => file.torn = true,
            }
        }
        let last_end = self.segments.back().map_or(0, |last| last.end);
        let mut segment = Segment {
            path: file.path,
            first: file.name.max(last_end),
            end: 0,
            bytes: file.bytes,
            unread: file.events,
            end_number: None,
            torn: file.torn,
            missing: false,
            told_bytes: 0,
        };
        let Some(first) = file.first else {
            // Even one without a whole record has its place, so that no other gets its name.
            segment.end = segment.first + 1;
            self.end = self.end.max(segment.end);
            self.segments.push_back(segment);
            return Ok(());
        };
        segment.first = first.position;
        segment.end = file.end.position;
        segment.end_number = file.end.number;
        let before = known.replace(file.end);
        let missing = before.filter(|before| before.position < first.position);
        if let Some(before) = missing
            && let Some(lost) = self.lost_between(before, first, closed)
        {
            let own = file.name <= before.position;
            let last = self.segments.back_mut();
            match last.filter(|last| last.torn) {
                _ if own => {
                    segment.first = before.position;
                    segment.unread += lost;
                }
                // Without a whole record, or what is left of it.
                Some(last) if last.first < first.position => {
                    last.end = first.position;
                    last.end_number = first.number;
                    last.unread += lost;
                }
                _ => self.segments.push_back(Segment {
                    path: segment::path_of(folder, before.position),
                    first: before.position,
                    end: first.position,
                    bytes: 0,
                    unread: lost,
                    end_number: first.number,
                    torn: false,
                    missing: true,
                    told_bytes: 0,
                }),
            }
        }
        // Those without a whole record, which took this one's place by their names.
        while let Some(last) = self.segments.back_mut() {
            if last.end <= segment.first {
                break;
            }
            if last.first < segment.first {
                last.end = segment.first;
                break;
            }
            self.damaged_bytes += last.bytes;
            self.segments.pop_back().iter().for_each(delete);
        }
        self.end = self.end.max(segment.end);
        self.end_number = self.end_number.max(file.end.number.unwrap_or(0));
        self.segments.push_back(segment);
        Ok(())
    }

    /// Takes in where the spool ended when it was closed: what is missing before that is counted, and
    /// no position is used twice. `known` is what comes behind the last record that is there.
    fn take_end(&mut self, folder: &Path, end: Mark, known: Option<Mark>, closed: &Closed) {
        if let Some(before) = known.filter(|known| known.position < end.position)
            && let Some(lost) = self.lost_between(before, end, closed)
        {
            match self.segments.back_mut().filter(|last| last.torn) {
                // What is left of it, if anything is.
                Some(last) => {
                    last.end = last.end.max(end.position);
                    last.end_number = end.number;
                    last.unread += lost;
                }
                None => self.segments.push_back(Segment {
                    path: segment::path_of(folder, before.position),
                    first: before.position,
                    end: end.position,
                    bytes: 0,
                    unread: lost,
                    end_number: end.number,
                    torn: false,
                    missing: true,
                    told_bytes: 0,
                }),
            }
        }
        self.end = self.end.max(end.position);
        self.end_number = self.end_number.max(end.number.unwrap_or(0));
    }

    /// What is to be known at the next opening.
    fn closing(&mut self) -> Closed {
        let mut done = std::mem::take(&mut self.done_before);
        let in_hand = self.in_hand.iter();
        done.extend(in_hand.map(|(position, held)| (*position, held.done)));
        done.extend(std::mem::take(&mut self.acknowledged_too));
        done.retain(|_, events| *events > 0);
        Closed {
            end: Some(Mark {
                position: self.end,
                number: Some(self.end_number),
            }),
            done,
        }
    }

    /// Returns how many events were in records that are missing between two that are there, or
    /// `None` if none is: what gave way is not missing. Of records of format 1 it is not known.
    fn lost_between(&self, from: Mark, to: Mark, closed: &Closed) -> Option<u64> {
        let between = to.number?.checked_sub(from.number?)?;
        let given_up = self.given_up.between(from.position, to.position);
        let done = closed.between(from.position, to.position);
        Some(between.saturating_sub(given_up + done)).filter(|lost| *lost > 0)
    }

    fn stats(&self) -> Stats {
        Stats {
            events: self.events(),
            disk_bytes: self.disk_bytes(),
            damaged_bytes: self.damaged_bytes,
            lost_events: self.lost_events,
            error: self.error.clone(),
        }
    }

    fn disk_bytes(&self) -> u64 {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        bytes + OVERHEAD_BYTES
    }

    fn events(&self) -> u64 {
        let unread = self.segments.iter().map(|segment| segment.unread);
        let unread = unread.fold(0_u64, u64::saturating_add);
        unread.saturating_add(self.in_hand_events)
    }

    fn segment_to_read(&self) -> Option<&Segment> {
        let mut segments = self.segments.iter();
        segments.find(|segment| segment.end > self.next_read)
    }

    fn segment_mut(&mut self, first: u64) -> Option<&mut Segment> {
        let mut segments = self.segments.iter_mut();
        segments.find(|segment| segment.first == first)
    }

    /// Iterates over the segments of which nothing was read, and that are not written to, the
    /// oldest first.
    fn droppable(&self) -> impl Iterator<Item = usize> {
        let closed = self.segments.len() - usize::from(self.writing);
        (0..closed).filter(|at| {
            let segment = &self.segments[*at];
            segment.first >= self.next_read && segment.first != self.reading
        })
    }

    /// Notes that nothing more comes from what was read of a segment, and returns how many events
    /// should have.
    fn finish_reading(&mut self, read: &Segment, damaged_bytes: u64) -> u64 {
        let Some(segment) = self.segment_mut(read.first) else {
            return 0;
        };
        if segment.end != read.end {
            // More was appended meanwhile.
            return 0;
        }
        let lost = self.lose_unread(read.end, damaged_bytes);
        if read.end > self.next_read {
            (self.next_read, self.next_number) = (read.end, read.end_number);
        }
        self.advance();
        self.delete_acknowledged();
        lost
    }

    /// Counts what was not read of the segment that ends there as lost.
    fn lose_unread(&mut self, end: u64, damaged_bytes: u64) -> u64 {
        let mut segments = self.segments.iter_mut();
        let Some(segment) = segments.find(|segment| segment.end == end) else {
            return 0;
        };
        let events = std::mem::take(&mut segment.unread);
        // It may be read again.
        let bytes = damaged_bytes.saturating_sub(segment.told_bytes);
        segment.told_bytes += bytes;
        if events > 0 || bytes > 0 {
            self.damage.push(Damage {
                path: segment.path.clone(),
                missing: segment.missing,
                events,
                bytes,
            });
        }
        self.damaged_bytes += bytes;
        self.lost_events += events;
        events
    }

    /// Notes that the disk works.
    fn recovered(&mut self) {
        if self.vanished.is_none_or(|at| at.elapsed() > VANISHED_SHOWN) {
            self.vanished = None;
            self.error = None;
        }
    }

    /// Writes down how far all is acknowledged. Losing it means that something is sent twice.
    fn note_acknowledged(&mut self) {
        let number = match self.in_hand.get(&self.acknowledged) {
            Some(held) => held.number,
            None if self.acknowledged == self.next_read => self.next_number,
            None => None,
        };
        let position = self.acknowledged;
        let _ = self.checkpoint.write(Mark { position, number });
    }

    /// Moves the mark behind all that is done with.
    fn advance(&mut self) {
        let in_hand = self.in_hand.first_key_value();
        let bound = in_hand.map_or(self.next_read, |(first, _)| (*first).min(self.next_read));
        if bound > self.acknowledged {
            self.acknowledged = bound;
            self.acknowledged_too = self.acknowledged_too.split_off(&bound);
            self.note_acknowledged();
        }
    }

    /// Deletes the segments of which all records are done with.
    fn delete_acknowledged(&mut self) {
        let closed = self.segments.len() - usize::from(self.writing);
        let done = |segment: &&Segment| segment.end <= self.acknowledged;
        let done = self.segments.iter().take(closed).take_while(done).count();
        // After a loss of power the records would be missing, and not be known as acknowledged.
        if done > 0 && self.sync_checkpoint && self.checkpoint.sync().is_err() {
            return;
        }
        for segment in self.segments.drain(..done) {
            delete(&segment);
        }
    }
}

/// What a segment's file holds.
#[derive(Debug)]
struct FoundFile {
    path: PathBuf,
    /// The position in its name.
    name: u64,
    bytes: u64,
    /// Its first record.
    first: Option<Mark>,
    /// Its first record that counts.
    first_unread: Option<Mark>,
    /// What comes behind its last one.
    end: Mark,
    /// Events of those that count, and of those that are missing between them.
    events: u64,
    /// Something follows the last one, or there is none.
    torn: bool,
}

impl FoundFile {
    /// Reads a segment; records before `least` do not count.
    fn read(
        path: PathBuf,
        name: u64,
        bytes: u64,
        least: Mark,
        closed: &Closed,
    ) -> io::Result<Self> {
        let mut found = Self {
            path,
            name,
            bytes,
            first: None,
            first_unread: None,
            end: Mark {
                position: 0,
                number: None,
            },
            events: 0,
            torn: true,
        };
        let counted = found.count(least, closed);
        // Any other is found, and told, when it is read.
        if let Err(error) = counted
            && is_passing(&error)
        {
            return Err(error);
        }
        Ok(found)
    }

    fn count(&mut self, least: Mark, closed: &Closed) -> io::Result<()> {
        let mut scanner = Scanner::open(&self.path)?;
        let mut damaged_bytes = 0;
        while let Some((header, _)) = scanner.next(self.bytes)? {
            damaged_bytes = scanner.damaged_bytes();
            let mark = Mark {
                position: header.position,
                number: header.number,
            };
            // Bytes that only look right have positions out of order.
            if mark.position < self.end.position {
                continue;
            }
            let events = u64::from(header.events);
            if mark.position >= least.position {
                // Those between this one and the one before are missing.
                let last = self.end.max(least);
                let before = last.number.filter(|_| self.first.is_some());
                let done = closed.between(last.position, mark.position);
                let missing = mark
                    .number
                    .zip(before)
                    .map_or(0, |(at, before)| at.saturating_sub(before + done));
                let left = closed.left(mark.position, header.events);
                self.events = self.events.saturating_add(left + missing);
                self.first_unread.get_or_insert(mark);
            }
            self.first.get_or_insert(mark);
            self.end = Mark {
                position: mark.position + 1,
                number: mark.number.map(|number| number + events),
            };
        }
        self.torn = self.first.is_none() || scanner.damaged_bytes() > damaged_bytes;
        Ok(())
    }
}

fn delete(segment: &Segment) {
    if segment.missing {
        return;
    }
    // A file that somebody else has deleted is as good; one that cannot be is found again by the
    // next process, and known there as acknowledged.
    let _ = fs::remove_file(&segment.path);
}

/// Copies a segment that has lost its name into a new file of that name.
fn copy(mut from: File, segment: &Segment) -> io::Result<()> {
    let mut to = segment::create(&segment.path)?;
    from.seek(SeekFrom::Start(0))?;
    io::copy(&mut from.take(segment.bytes), &mut to)?;
    to.sync_data()
}

/// Writes slices one after the other, in as few calls as the system lets.
fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether an error says nothing about the file: the process or the system is short of something.
fn is_passing(error: &io::Error) -> bool {
    let numbers = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}
