//! Events that a receiver will never take, kept on disk with the reason.
//!
//! They lie in a spool of their own, `dead_letters` in the output's folder, whose oldest give way
//! when it is full. Each is one JSON object on a line:
//!
//! | field | means |
//! | --- | --- |
//! | `time` | when it was given up, in seconds since 1970 |
//! | `reason` | why |
//! | `event` | the event without its line ending, as text; or |
//! | `event_bytes` | the event as an array of bytes, if it is not UTF-8 |

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use streamgate_spool::{Appended, Dropped, Fsync, Record, Settings, Spool, WhenFull};
use tracing::warn;
use utoipa::ToSchema;

use crate::ingest::framing::line_ending;

/// Most bytes of letters that are taken out at once.
const MAX_TAKEN_BYTES: usize = 4 * 1024 * 1024;

/// How long it takes at least until a spool is tried again that could not be opened.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 300;

/// A letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// When the event was given up, in seconds since 1970.
    pub time: f64,
    /// Why.
    pub reason: String,
    /// The event, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The event, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_bytes: Option<Vec<u8>>,
}

/// The dead letters of one output id. All outputs of the process with that id share them, one after
/// the other, so that none waits for another to let go of the folder.
///
/// Their spool is opened when it is needed, since most outputs have none. Everything but
/// [`DeadLetters::count`], [`DeadLetters::take_lost`] and [`DeadLetters::set_max_bytes`] may block
/// on the disk.
#[derive(Debug)]
pub(super) struct DeadLetters {
    folder: PathBuf,
    max_bytes: AtomicU64,
    /// Held while the spool is opened.
    spool: Mutex<State>,
    /// The spool once it is open, for those who must not wait.
    open: ArcSwapOption<Spool>,
    /// Whether it is known how many there are.
    counted: AtomicBool,
    /// The last letter that was kept and not yet forced to the disk.
    unsynced: Mutex<Option<u64>>,
    /// Held by whoever reads, since who puts letters back puts all back.
    reading: Mutex<()>,
    /// Held while a letter is appended, and from the reading of letters until they are done with or
    /// put back. A segment that is being read cannot give way: a letter that is kept meanwhile
    /// would find no room in a full spool.
    moving: Mutex<()>,
    /// Letters that were found to be damaged or missing, and are not booked yet.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    opened: Option<Arc<Spool>>,
    /// When opening failed last, and why.
    failed: Option<(Instant, String)>,
}

/// Letters that were taken out; put back unless [`Taken::done`] is called.
pub(super) struct Taken<'a> {
    spool: Arc<Spool>,
    _moving: MutexGuard<'a, ()>,
    positions: Vec<u64>,
    /// The events, each with a line feed.
    pub(super) lines: Vec<u8>,
    pub(super) events: u64,
    /// A newer letter was read, which stays.
    read_beyond: bool,
}

impl DeadLetters {
    /// Says where they are, in the output's folder.
    pub(super) fn new(folder: &Path, max_bytes: u64) -> Self {
        Self {
            folder: folder.join("dead_letters"),
            max_bytes: AtomicU64::new(max_bytes),
            spool: Mutex::default(),
            open: ArcSwapOption::empty(),
            counted: AtomicBool::new(false),
            unsynced: Mutex::default(),
            reading: Mutex::default(),
            moving: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Changes the most bytes that they take.
    pub(super) fn set_max_bytes(&self, max_bytes: u64) {
        self.max_bytes.store(max_bytes, Ordering::SeqCst);
        if let Some(spool) = &*self.open.load() {
            spool.set_max_bytes(max_bytes);
        }
    }

    /// Returns the spool, and opens it if that was not done yet. After a failure it is tried again
    /// at most every [`OPEN_INTERVAL`].
    fn opened(&self) -> Result<Arc<Spool>, String> {
        if let Some(spool) = &*self.open.load() {
            return Ok(Arc::clone(spool));
        }
        let mut state = self.spool.lock();
        if let Some(spool) = &state.opened {
            return Ok(Arc::clone(spool));
        }
        if let Some((at, error)) = &state.failed
            && at.elapsed() < OPEN_INTERVAL
        {
            return Err(error.clone());
        }
        let settings = Settings {
            max_bytes: self.max_bytes.load(Ordering::SeqCst),
            when_full: WhenFull::DropOldest,
            fsync: Fsync::Interval(Duration::from_secs(1)),
        };
        match Spool::open(&self.folder, settings) {
            Ok(spool) => {
                let spool = Arc::new(spool);
                state.opened = Some(Arc::clone(&spool));
                self.open.store(Some(Arc::clone(&spool)));
                // It may have been changed meanwhile.
                spool.set_max_bytes(self.max_bytes.load(Ordering::SeqCst));
                self.counted.store(true, Ordering::Release);
                Ok(spool)
            }
            Err(error) => {
                let error = error.to_string();
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Returns the spool if there is one.
    fn existing(&self) -> Option<Arc<Spool>> {
        let exists = self.open.load().is_some() || self.folder.exists();
        exists.then(|| self.opened().ok()).flatten()
    }

    /// Counts the letters that an earlier process left.
    pub(super) fn begin(&self) {
        if !self.folder.exists() {
            self.counted.store(true, Ordering::Release);
            return;
        }
        if let Err(error) = self.opened() {
            warn!(folder = %self.folder.display(), error, "dead letters cannot be opened");
        }
    }

    /// Keeps an event. Returns what gave way for it; an error says that it was not kept.
    pub(super) fn keep(&self, event: &[u8], reason: &str) -> Result<Dropped, String> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let text = std::str::from_utf8(event);
        let letter = DeadLetter {
            time: time.unwrap_or_default().as_secs_f64(),
            reason: reason.chars().take(MAX_REASON_CHARS).collect(),
            event: text.ok().map(str::to_owned),
            event_bytes: text.is_err().then(|| event.to_vec()),
        };
        let mut line = serde_json::to_vec(&letter).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let spool = self.opened()?;
        let moving = self.moving.lock();
        let appended = spool.append(1, &[&line]);
        drop(moving);
        match appended.outcome {
            Appended::At(position) => {
                *self.unsynced.lock() = Some(position);
                Ok(appended.dropped)
            }
            Appended::Full | Appended::Refused => Err("there is no room".to_owned()),
            Appended::Failed(error) => Err(error.to_string()),
        }
    }

    /// Forces to the disk what was kept. Blocks on it.
    pub(super) fn sync(&self) -> Result<(), String> {
        let Some(position) = self.unsynced.lock().take() else {
            return Ok(());
        };
        let synced = self.opened()?.sync(position);
        synced.map_err(|error| error.to_string())
    }

    /// Has the right to take letters out.
    pub(super) fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock()
    }

    /// Returns the position that the next letter gets; `None` if there is no spool yet.
    pub(super) fn end(&self) -> Option<u64> {
        self.existing().map(|spool| spool.end())
    }

    /// Takes some of the oldest that were kept before position `end`; with the right to.
    pub(super) fn take(&self, _right: &MutexGuard<'_, ()>, end: u64) -> Option<Taken<'_>> {
        let spool = self.existing()?;
        let mut taken = Taken {
            spool: Arc::clone(&spool),
            _moving: self.moving.lock(),
            positions: Vec::new(),
            lines: Vec::new(),
            events: 0,
            read_beyond: false,
        };
        while taken.lines.len() < MAX_TAKEN_BYTES {
            let Some(record) = self.read(&spool) else {
                break;
            };
            if record.position >= end {
                taken.read_beyond = true;
                break;
            }
            taken.positions.push(record.position);
            // What is not a letter was not written here, and is let go of.
            let letter: Option<DeadLetter> = serde_json::from_slice(&record.payload).ok();
            let event = letter.and_then(|letter| match letter {
                DeadLetter {
                    event: Some(text), ..
                } => Some(text.into_bytes()),
                letter => letter.event_bytes,
            });
            if let Some(event) = event {
                taken.lines.extend_from_slice(&event);
                taken.lines.extend_from_slice(line_ending(&event));
                taken.events += 1;
            }
        }
        Some(taken)
    }

    /// Returns some of the oldest, and leaves them where they are.
    pub(super) fn show(&self, most: usize) -> Vec<DeadLetter> {
        let _right = self.reading();
        let mut letters = Vec::new();
        let Some(spool) = self.existing() else {
            return letters;
        };
        let _moving = self.moving.lock();
        while letters.len() < most {
            let Some(record) = self.read(&spool) else {
                break;
            };
            letters.extend(serde_json::from_slice(&record.payload).ok());
        }
        spool.rewind();
        letters
    }

    /// Reads the next letter, if there is one.
    fn read(&self, spool: &Spool) -> Option<Record> {
        let read = spool.read(Duration::ZERO);
        for damage in &read.damage {
            warn!(
                file = %damage.path.display(),
                missing = damage.missing,
                events = damage.events,
                bytes = damage.bytes,
                "dead letters are damaged"
            );
        }
        self.lost.fetch_add(read.lost_events, Ordering::Relaxed);
        read.record
    }

    /// Returns how many letters were found to be damaged or missing since this was last asked.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Returns how many there are; `None` until they are counted. Never waits.
    pub(super) fn count(&self) -> Option<u64> {
        match &*self.open.load() {
            Some(spool) => Some(spool.stats().events),
            None => self.counted.load(Ordering::Acquire).then_some(0),
        }
    }
}

impl Taken<'_> {
    /// Forgets the letters.
    pub(super) fn done(mut self) {
        self.spool.acknowledge(std::mem::take(&mut self.positions));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.positions.is_empty() || self.read_beyond {
            self.spool.rewind();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn letter_that_is_kept_while_all_are_taken_out_of_a_full_spool_finds_room() {
        let folder = tempfile::tempdir().unwrap();
        let letters = DeadLetters::new(folder.path(), streamgate_spool::MIN_BYTES);
        assert_eq!(letters.count(), None, "before they are counted");
        letters.begin();
        assert_eq!(letters.count(), Some(0));
        let event = vec![b'x'; 1000];
        while letters.keep(&event, "refused").unwrap().events == 0 {}
        let before = letters.count().unwrap();
        let right = letters.reading();
        let taken = letters.take(&right, letters.end().unwrap()).unwrap();
        assert_eq!(taken.events, before);
        thread::scope(|scope| {
            // More than what is free: without room made it is refused.
            let refused_again = scope.spawn(|| {
                let kept = |_| {
                    letters
                        .keep(&event, "refused")
                        .map(|dropped| dropped.events)
                };
                (0..before / 2).map(kept).sum::<Result<u64, _>>()
            });
            // Long enough to be refused, if it does not wait.
            let begun = Instant::now();
            while !refused_again.is_finished() && begun.elapsed() < Duration::from_millis(200) {
                thread::yield_now();
            }
            taken.done();
            assert_eq!(refused_again.join().unwrap(), Ok(0));
        });
        assert_eq!(letters.count(), Some(before / 2));
    }

    #[test]
    fn limit_is_changed_while_they_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let letters = DeadLetters::new(folder.path(), 16 * streamgate_spool::MIN_BYTES);
        let event = vec![b'x'; 100_000];
        for _ in 0..50 {
            assert_eq!(letters.keep(&event, "refused").unwrap().events, 0);
        }
        letters.set_max_bytes(streamgate_spool::MIN_BYTES);
        assert!(letters.keep(&event, "refused").unwrap().events > 0);
        let disk_bytes = letters.opened().unwrap().stats().disk_bytes;
        assert!(disk_bytes <= streamgate_spool::MIN_BYTES, "{disk_bytes}");
    }
}
