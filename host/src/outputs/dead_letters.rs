//! Events that a receiver will never take, kept on disk with the reason.
//!
//! They lie in a spool of their own, `dead_letters` in the output's folder, whose oldest give way when
//! it is full. Each is one JSON object on a line:
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
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use streamgate_spool::{
    Appended, Dropped, Fsync, Holder, OpenError, Record, Settings, Spool, WhenFull,
};
use tracing::warn;
use utoipa::ToSchema;

use crate::ingest::framing::line_ending;

/// Most bytes of letters that are taken out at once.
const MAX_TAKEN_BYTES: usize = 4 * 1024 * 1024;

/// How long an output waits for the one that it replaces to let go of the letters.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);

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

/// The dead letters of one output. Their spool is opened when it is needed: most outputs have none.
#[derive(Debug)]
pub(super) struct DeadLetters {
    folder: PathBuf,
    max_bytes: u64,
    spool: Mutex<Option<Arc<Spool>>>,
    /// The last letter that was kept and not yet forced to the disk.
    unsynced: Mutex<Option<u64>>,
    /// Held by whoever reads, since who puts letters back puts all back.
    reading: Mutex<()>,
    /// Letters that were found to be damaged or missing, and are not booked yet.
    lost: AtomicU64,
}

/// Letters that were taken out; put back unless [`Taken::done`] is called.
pub(super) struct Taken {
    spool: Arc<Spool>,
    positions: Vec<u64>,
    /// The events, each with a line feed.
    pub(super) lines: Vec<u8>,
    pub(super) events: u64,
    /// A newer letter was read, which stays.
    read_beyond: bool,
}

impl DeadLetters {
    /// Returns the most bytes that they take.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Says where they are, in the output's folder.
    pub(super) fn new(folder: &Path, max_bytes: u64) -> Self {
        Self {
            folder: folder.join("dead_letters"),
            max_bytes,
            spool: Mutex::default(),
            unsynced: Mutex::default(),
            reading: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Returns the spool, and opens it if that was not done yet.
    fn opened(&self) -> Result<Arc<Spool>, String> {
        let mut spool = self.spool.lock();
        if let Some(spool) = &*spool {
            return Ok(Arc::clone(spool));
        }
        let settings = Settings {
            max_bytes: self.max_bytes,
            when_full: WhenFull::DropOldest,
            fsync: Fsync::Interval(Duration::from_secs(1)),
        };
        let begun = Instant::now();
        loop {
            match Spool::open(&self.folder, settings) {
                Ok(opened) => return Ok(Arc::clone(spool.insert(Arc::new(opened)))),
                // The output that this one replaces still has it.
                Err(OpenError::InUse {
                    holder: Holder::ThisProcess,
                    ..
                }) if begun.elapsed() < HANDOVER_LIMIT => {
                    thread::sleep(HANDOVER_LIMIT / 50);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Returns the spool if there is one.
    fn existing(&self) -> Option<Arc<Spool>> {
        let exists = self.spool.lock().is_some() || self.folder.exists();
        exists.then(|| self.opened().ok()).flatten()
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
        let appended = self.opened()?.append(1, &[&line]);
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
    pub(super) fn take(&self, _right: &MutexGuard<'_, ()>, end: u64) -> Option<Taken> {
        let spool = self.existing()?;
        let mut taken = Taken {
            spool: Arc::clone(&spool),
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

    /// Returns how many there are.
    pub(super) fn count(&self) -> u64 {
        self.existing().map_or(0, |spool| spool.stats().events)
    }
}

impl Taken {
    /// Forgets the letters.
    pub(super) fn done(mut self) {
        self.spool.acknowledge(std::mem::take(&mut self.positions));
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.positions.is_empty() || self.read_beyond {
            self.spool.rewind();
        }
    }
}
