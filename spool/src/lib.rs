//! A bounded queue of records on disk, which survives `kill -9` and damage.
//!
//! A [`Spool`] is a folder of *segments* ([`record`] and [`segment`] have the format), a file that says
//! how far they are acknowledged ([`checkpoint`]), and a lock that keeps other processes out.
//! Records are appended in order, read in order, and acknowledged in any order; a segment is deleted
//! when all of its records are acknowledged.
//!
//! What it promises:
//! - It always opens, unless the folder cannot be used at all or another process has it. What is
//!   damaged is passed over, counted, and never keeps anything else back.
//! - The files never take more than `max_bytes`. [`WhenFull`] says what gives way.
//! - What [`Spool::sync`] returned for is on the disk. Everything appended survives the end of the
//!   process, however it comes; without `sync` a loss of power can take the newest records.
//! - A record that was not acknowledged is read again after a restart: at least once, never not at
//!   all.
//! - An error of the disk is returned, the segment is cut back to its last whole record, and the next
//!   append tries again. After an `fsync` that failed the segment is left and a new one is begun: the
//!   system may have dropped what it could not write, and says so only once.
//!
//! Why not a storage library: the embedded databases that are well kept (redb, fjall, LMDB) are ordered
//! maps. As a queue they write every record twice or more, give space back by compaction or not at
//! all, so that a bound in bytes cannot be kept, and refuse to open on damage that they cannot repair.

#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File},
    io::{self, IoSlice, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

mod checkpoint;
mod record;
mod segment;

pub use record::MAX_PAYLOAD_BYTES;

use checkpoint::Checkpoint;
use record::{HEADER_BYTES, Header};
use segment::{Scanner, Segment};

/// The least `max_bytes`.
pub const MIN_BYTES: u64 = 1024 * 1024;

/// The largest segment, unless a single record is larger.
const MAX_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// So many segments fit into `max_bytes`: what is given up at once when the oldest has to go.
const SEGMENTS: u64 = 8;

/// What the other files of the folder may take.
const OVERHEAD_BYTES: u64 = 4 * 1024;

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
    /// There is no room, and it gave way itself; or there never will be, since it is larger than the
    /// spool.
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
    /// What was appended.
    pub payload: Vec<u8>,
}

/// What reading found.
#[derive(Debug)]
pub struct Read {
    /// The next record, unless there is none.
    pub record: Option<Record>,
    /// Events before it that are lost, since their records are damaged.
    pub lost_events: u64,
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
    #[error("the spool `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("the spool `{}` cannot be used: {source}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A queue of records on disk. All methods may block on the disk.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    settings: Settings,
    index: Mutex<Index>,
    /// Signalled when records were appended or room was made, or at the end.
    changed: Condvar,
    writer: Mutex<Writer>,
    reader: Mutex<Option<Scanner>>,
    /// The position up to which all is on the disk.
    synced: Mutex<u64>,
    /// Locked for as long as the spool is open.
    _lock: File,
}

#[derive(Debug)]
struct Index {
    /// In order; the last one is written to if `writing`.
    segments: VecDeque<Segment>,
    writing: bool,
    /// The next record to be written.
    end: u64,
    /// The next record to be read.
    next_read: u64,
    /// The segment that is read, by its first position.
    reading: u64,
    /// All records before this one are done with.
    acknowledged: u64,
    /// Records behind it that are too.
    acknowledged_too: BTreeSet<u64>,
    checkpoint: Checkpoint,
    /// Records that were read and are not acknowledged, by their positions.
    in_hand: BTreeMap<u64, InHand>,
    closed: bool,
    damaged_bytes: u64,
    lost_events: u64,
    error: Option<String>,
}

#[derive(Debug)]
struct InHand {
    events: u32,
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
        let lock = File::create(folder.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(folder.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // The folder's own name is on the disk before anything in it is said to be.
        for above in folder.ancestors().skip(1).take(3) {
            if let Ok(above) = File::open(above) {
                let _ = above.sync_all();
            }
        }
        let (checkpoint, acknowledged) = Checkpoint::open(folder);
        let index = Index::read(folder, checkpoint, acknowledged).map_err(unusable)?;
        let synced = index.end - 1;
        let spool = Self {
            folder: folder.to_owned(),
            settings: Settings {
                max_bytes: settings.max_bytes.max(MIN_BYTES),
                ..settings
            },
            index: Mutex::new(index),
            changed: Condvar::new(),
            writer: Mutex::new(Writer {
                file: None,
                synced_at: Instant::now(),
                unsure_until: 0,
            }),
            reader: Mutex::new(None),
            synced: Mutex::new(synced),
            _lock: lock,
        };
        spool.index.lock().delete_acknowledged();
        Ok(spool)
    }

    /// Appends a record. What an `fsync` said that was due is in [`Stats::error`], and [`Self::sync`]
    /// returns it: the record is in the spool all the same.
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
        if record_bytes + OVERHEAD_BYTES > self.settings.max_bytes {
            return Ok(Appended::Refused);
        }
        let mut writer = self.writer.lock();
        if !self.make_room(&mut writer, record_bytes, dropped)? {
            return Ok(match self.settings.when_full {
                WhenFull::Block => Appended::Full,
                _ => Appended::Refused,
            });
        }
        let position = self.write(&mut writer, events, length, payload)?;
        self.index.lock().error = None;
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
                return Ok(());
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
        } else {
            *synced = end - 1;
        }
        result
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
            self.changed.wait_for(&mut index, limit);
        }
    }

    /// Reads the next record; waits for one at most so long. What cannot be read is passed over.
    pub fn read(&self, limit: Duration) -> Read {
        let deadline = Instant::now() + limit;
        let mut lost_events = 0;
        loop {
            let mut reader = self.reader.lock();
            let record = self.read_now(&mut reader, &mut lost_events);
            drop(reader);
            if record.is_some() {
                return Read {
                    record,
                    lost_events,
                };
            }
            let mut index = self.index.lock();
            // What is there and could not be read is tried again by the next call.
            let fails = index.segment_to_read().is_some();
            if index.closed || self.changed.wait_until(&mut index, deadline).timed_out() || fails {
                return Read {
                    record: None,
                    lost_events,
                };
            }
        }
    }

    /// Says that records are done with. How far they all are is written down once, at the end.
    pub fn acknowledge(&self, positions: impl IntoIterator<Item = u64>) {
        let mut index = self.index.lock();
        for position in positions {
            if index.in_hand.remove(&position).is_some() {
                index.acknowledged_too.insert(position);
            }
        }
        index.advance();
        index.delete_acknowledged();
        drop(index);
        self.changed.notify_all();
    }

    /// Reads all records again that were read and are not acknowledged.
    pub fn rewind(&self) {
        let mut reader = self.reader.lock();
        let mut index = self.index.lock();
        *reader = None;
        index.reading = 0;
        for (position, held) in std::mem::take(&mut index.in_hand) {
            index.next_read = index.next_read.min(position);
            if let Some(segment) = index.segment_mut(held.segment) {
                segment.unread += u64::from(held.events);
            }
        }
        drop(index);
        self.changed.notify_all();
    }

    /// Returns the position that the next record gets.
    pub fn end(&self) -> u64 {
        self.index.lock().end
    }

    /// Says what is in it.
    pub fn stats(&self) -> Stats {
        let index = self.index.lock();
        Stats {
            events: index.events(),
            disk_bytes: index.disk_bytes(),
            damaged_bytes: index.damaged_bytes,
            lost_events: index.lost_events,
            error: index.error.clone(),
        }
    }

    /// Wakes everybody who waits; reading no longer does.
    pub fn close(&self) {
        self.index.lock().closed = true;
        self.changed.notify_all();
    }

    /// Has room for a record; false if there cannot be any. Nothing is given up in vain, unless the disk
    /// fails.
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
        let over = after.saturating_sub(self.settings.max_bytes);
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
                made += segment.bytes;
                dropped.events += segment.unread;
                dropped.bytes += segment.bytes;
            }
        }
        Ok(true)
    }

    /// Returns the most bytes of a payload that leave room for several records in a segment.
    pub fn handy_payload_bytes(&self) -> usize {
        usize::try_from(self.segment_bytes() / 4).unwrap_or(usize::MAX)
    }

    fn segment_bytes(&self) -> u64 {
        (self.settings.max_bytes / SEGMENTS).min(MAX_SEGMENT_BYTES)
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
        let position = self.index.lock().end;
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
                });
                none.insert(file)
            }
        };
        let header = Header {
            length: u32::try_from(length).expect("at most MAX_PAYLOAD_BYTES"),
            events,
            position,
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
        index.end = position + 1;
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
            if reader.is_none() {
                match Scanner::open(&segment.path) {
                    Ok(scanner) => *reader = Some(scanner),
                    Err(error) => {
                        let mut index = self.index.lock();
                        index.error = Some(format!("`{}`: {error}", segment.path.display()));
                        if is_passing(&error) {
                            return None;
                        }
                        *lost += index.finish_reading(&segment);
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
            let damaged = scanner.take_damaged_bytes();
            let mut index = self.index.lock();
            index.damaged_bytes += damaged;
            match found {
                Ok(Some((header, payload))) => {
                    index.next_read = header.position + 1;
                    let events = header.events;
                    let known = index.acknowledged_too.contains(&header.position);
                    if let Some(segment) = index.segment_mut(segment.first) {
                        let read = if known { 0 } else { u64::from(events) };
                        segment.unread = segment.unread.saturating_sub(read);
                        // Behind the last record nothing can be to come.
                        if segment.end == header.position + 1 {
                            *lost += index.lose_unread(header.position + 1);
                        }
                    }
                    if known {
                        continue;
                    }
                    index.in_hand.insert(
                        header.position,
                        InHand {
                            events,
                            segment: segment.first,
                        },
                    );
                    return Some(Record {
                        position: header.position,
                        events,
                        payload,
                    });
                }
                Ok(None) => *lost += index.finish_reading(&segment),
                Err(error) => {
                    index.error = Some(format!("`{}`: {error}", segment.path.display()));
                    *reader = None;
                    if is_passing(&error) {
                        return None;
                    }
                    *lost += index.finish_reading(&segment);
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
    }
}

impl Index {
    /// Reads what is in a folder.
    fn read(folder: &Path, checkpoint: Checkpoint, acknowledged: u64) -> io::Result<Self> {
        let mut firsts = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            firsts.extend(name.to_str().and_then(segment::first_of));
        }
        firsts.sort_unstable();
        let acknowledged = acknowledged.max(1);
        let mut index = Self {
            segments: VecDeque::new(),
            writing: false,
            end: acknowledged,
            next_read: acknowledged,
            reading: 0,
            acknowledged,
            acknowledged_too: BTreeSet::new(),
            checkpoint,
            in_hand: BTreeMap::new(),
            closed: false,
            damaged_bytes: 0,
            lost_events: 0,
            error: None,
        };
        for first in firsts {
            index.read_segment(segment::path_of(folder, first), first)?;
        }
        Ok(index)
    }

    /// Counts what is in a segment. One that cannot be read is passed over when its turn comes; an
    /// error is none of the file's.
    fn read_segment(&mut self, path: PathBuf, first: u64) -> io::Result<()> {
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let mut segment = Segment {
            path,
            first,
            end: first,
            bytes,
            unread: 0,
        };
        let mut count = || -> io::Result<()> {
            let mut scanner = Scanner::open(&segment.path)?;
            while let Some((header, _)) = scanner.next(bytes)? {
                // Bytes that only look right have positions out of order.
                if header.position >= segment.end {
                    segment.end = header.position + 1;
                    if header.position >= self.acknowledged {
                        segment.unread += u64::from(header.events);
                    }
                }
            }
            Ok(())
        };
        // Any other is found, and told, when it is read.
        if let Err(error) = count()
            && is_passing(&error)
        {
            return Err(error);
        }
        // Even one without a whole record has its place, so that no other gets its name.
        segment.end = segment.end.max(first.saturating_add(1));
        self.end = self.end.max(segment.end);
        self.segments.push_back(segment);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        bytes + OVERHEAD_BYTES
    }

    fn events(&self) -> u64 {
        let unread: u64 = self.segments.iter().map(|segment| segment.unread).sum();
        let in_hand: u64 = self
            .in_hand
            .values()
            .map(|held| u64::from(held.events))
            .sum();
        unread + in_hand
    }

    fn segment_to_read(&self) -> Option<&Segment> {
        let mut segments = self.segments.iter();
        segments.find(|segment| segment.end > self.next_read)
    }

    fn segment_mut(&mut self, first: u64) -> Option<&mut Segment> {
        let mut segments = self.segments.iter_mut();
        segments.find(|segment| segment.first == first)
    }

    /// Iterates over the segments of which nothing was read, and that are not written to, the oldest
    /// first.
    fn droppable(&self) -> impl Iterator<Item = usize> {
        let closed = self.segments.len() - usize::from(self.writing);
        (0..closed).filter(|at| {
            let segment = &self.segments[*at];
            segment.first >= self.next_read && segment.first != self.reading
        })
    }

    /// Notes that nothing more comes from what was read of a segment, and returns how many events
    /// should have.
    fn finish_reading(&mut self, read: &Segment) -> u64 {
        let Some(segment) = self.segment_mut(read.first) else {
            return 0;
        };
        if segment.end != read.end {
            // More was appended meanwhile.
            return 0;
        }
        let lost = self.lose_unread(read.end);
        self.next_read = self.next_read.max(read.end);
        self.advance();
        self.delete_acknowledged();
        lost
    }

    /// Counts what was not read of the segment that ends there as lost.
    fn lose_unread(&mut self, end: u64) -> u64 {
        let mut segments = self.segments.iter_mut();
        let segment = segments.find(|segment| segment.end == end);
        let lost = segment.map_or(0, |segment| std::mem::take(&mut segment.unread));
        self.lost_events += lost;
        lost
    }

    /// Moves the mark behind all that is done with.
    fn advance(&mut self) {
        let in_hand = self.in_hand.first_key_value();
        let bound = in_hand.map_or(self.next_read, |(first, _)| (*first).min(self.next_read));
        if bound > self.acknowledged {
            self.acknowledged = bound;
            self.acknowledged_too = self.acknowledged_too.split_off(&bound);
            // Losing it means that something is sent twice.
            let _ = self.checkpoint.write(bound);
        }
    }

    /// Deletes the segments of which all records are done with.
    fn delete_acknowledged(&mut self) {
        let closed = self.segments.len() - usize::from(self.writing);
        for _ in 0..closed {
            if self.segments[0].end > self.acknowledged {
                break;
            }
            self.segments.pop_front().iter().for_each(delete);
        }
    }
}

fn delete(segment: &Segment) {
    // A file that somebody else has deleted is as good; one that cannot be is found again by the next
    // process, and known there as acknowledged.
    let _ = fs::remove_file(&segment.path);
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
