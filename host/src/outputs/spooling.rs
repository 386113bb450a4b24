//! The disk between an output's queue and its receiver.
//!
//! Of an output with a spool everything that it is handed goes to the disk first, by a thread of
//! its own (`fill`), which gives the memory back at once; another one (`drain`) reads it back for
//! the lanes. What they are done with is acknowledged, the rest is there after a restart. While the
//! disk fails events go from memory to the lanes, past the spool, so that an output that works is
//! not held up by its disk.
//!
//! An output without a spool empties the one that an earlier output with its id left behind, and
//! sends what comes from its queue then: that is `drain` without `fill`.
//!
//! When the output hands over ([`Phase::HandingOver`]), `drain` ends at once, and `fill` when it
//! has put the rest of the queue on the disk. What it cannot put there goes back to the queue,
//! whose rest is handed on in memory. [`Spooling::close`] waits for both and lets go of the
//! folder's lock, for which the `fill` of the successor waits.
//!
//! A record is 17 bytes, numbers little-endian, and then the events, each with its line feed: the
//! revision (u64), milliseconds since 1970 at which the first of them left the chain (u64), and 1
//! if a rule let some of them pass untouched (u8).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use streamgate_spool::{Append, Appended, Holder, OpenError, Record, Settings, Spool, Stats};
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, mpsc},
    task::block_in_place,
    time::timeout,
};
use tracing::{error, info, warn};

use super::{
    OutputState,
    lifecycle::{Entry, Phase},
    queue::{Filling, Group, Lines, Origin},
};
use crate::books::DiscardReason;

const PREFIX_BYTES: usize = 17;

/// Most time between the events of a record, which has one time for all of them.
const MAX_TIME_APART: Duration = Duration::from_millis(500);

/// How long a thread waits before it looks again whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long an output that ends waits for the threads of its spool; they may hang in a call of the
/// disk.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long events go past a spool that cannot be opened until that is tried again.
const OPEN_INTERVAL: Duration = Duration::from_secs(10);

/// Most bytes of events that are read for the lanes at once.
const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// Where a spool is, and how it behaves.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) settings: Settings,
    /// Whether it is only emptied, and what comes is not put into it.
    pub(super) leftover: bool,
    /// What is read for the lanes at once.
    pub(super) filling: Filling,
}

/// What a lane takes from the disk.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) group: Group,
    /// The records it is made of; none if it came past the spool.
    records: Vec<Taken>,
    /// How many of them are acknowledged.
    acknowledged: AtomicUsize,
}

/// A record that a lane has.
#[derive(Debug, Clone, Copy)]
struct Taken {
    position: u64,
    /// How many of its events are not in the group, since they were done with before.
    done: u32,
    /// Where it ends in the group.
    end: usize,
}

/// An output's spool, with the threads that fill and empty it.
#[derive(Debug)]
pub(super) struct Spooling {
    entry: Arc<Entry>,
    state: Arc<OutputState>,
    leftover: bool,
    /// Set while it is open.
    spool: Mutex<Option<Arc<Spool>>>,
    ready: AsyncMutex<mpsc::Receiver<Spooled>>,
    /// All that came is on the disk, and nothing more will come.
    filled: AtomicBool,
    runtime: Handle,
}

impl Spooling {
    /// Starts the threads. An error says that the system has none to give.
    pub(super) fn start(
        place: Place,
        entry: Arc<Entry>,
        state: Arc<OutputState>,
        runtime: Handle,
    ) -> std::io::Result<Arc<Self>> {
        let (sender, ready) = mpsc::channel(1);
        let spooling = Arc::new(Self {
            entry,
            state,
            leftover: place.leftover,
            spool: Mutex::new(None),
            ready: AsyncMutex::new(ready),
            filled: AtomicBool::new(false),
            runtime,
        });
        let filler = Arc::clone(&spooling);
        thread::Builder::new()
            .name("spool-fill".to_owned())
            .spawn(move || filler.run(&place, &sender))?;
        Ok(spooling)
    }

    /// Takes what is next; `None` at the end.
    pub(super) async fn take(&self) -> Option<Spooled> {
        self.ready.lock().await.recv().await
    }

    /// Whether it is only emptied.
    pub(super) fn is_leftover(&self) -> bool {
        self.leftover
    }

    /// Whether what comes is on the disk.
    pub(super) fn is_open(&self) -> bool {
        self.spool.lock().is_some()
    }

    /// Lets go of the spool when its threads have ended, and returns how many events are in it.
    /// What they had for the lanes and is not on the disk goes back to the queue.
    pub(super) async fn close(&self) -> u64 {
        // Each thread has a sender.
        let mut ready = self.ready.lock().await;
        let threads_end = async {
            while let Some(spooled) = ready.recv().await {
                if !Self::keeps(&spooled) {
                    self.entry.queue.give_back(spooled.group);
                }
            }
        };
        if timeout(CLOSE_LIMIT, threads_end).await.is_err() {
            error!(output = %self.entry.name.id, "the disk of the spool does not answer");
        }
        let Some(spool) = self.spool.lock().take() else {
            return 0;
        };
        let events = spool.stats().events;
        // Closing it deletes files.
        let closed = self.runtime.spawn_blocking(move || drop(spool));
        if timeout(CLOSE_LIMIT, closed).await.is_err() {
            error!(output = %self.entry.name.id, "the disk of the spool does not answer");
        }
        events
    }

    /// Says that the events are sent, or given up and counted.
    pub(super) fn done(&self, spooled: Spooled) {
        match Self::keeps(&spooled) {
            true => self.advanced(&spooled, spooled.group.bytes()),
            false => self.entry.queue.done(spooled.group),
        }
    }

    /// Says that the first `bytes` of events are sent, or given up and counted: only what is behind
    /// them is sent again if the process is killed now.
    pub(super) fn advanced(&self, spooled: &Spooled, bytes: usize) {
        let from = spooled.acknowledged.load(Ordering::Relaxed);
        let behind = &spooled.records[from..];
        let done = behind.partition_point(|record| record.end <= bytes);
        let begin = match (from + done).checked_sub(1) {
            Some(last) => spooled.records[last].end,
            None => 0,
        };
        let part = behind.get(done).filter(|_| bytes > begin);
        if done == 0 && part.is_none() {
            return;
        }
        spooled.acknowledged.store(from + done, Ordering::Relaxed);
        // Not with the lock, for which those wait that ask how it is.
        let Some(spool) = self.spool.lock().clone() else {
            return;
        };
        let positions = behind[..done].iter().map(|record| record.position);
        // It writes how far it is, and deletes files.
        block_in_place(|| {
            if done > 0 {
                spool.acknowledge(positions);
            }
            if let Some(record) = part {
                let events = spooled.group.events_in(begin, bytes - begin);
                let events = u32::try_from(events).unwrap_or(u32::MAX);
                spool.acknowledge_part(record.position, record.done.saturating_add(events));
            }
        });
    }

    /// Whether what a lane has in hand stays on the disk if the lane lets go of it.
    pub(super) fn keeps(spooled: &Spooled) -> bool {
        !spooled.records.is_empty()
    }

    /// Whether all that came is on the disk, and nothing more will come.
    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::SeqCst)
    }

    /// Returns what is in the spool, once it is open. Never waits for the disk.
    pub(super) fn stats(&self) -> Option<Stats> {
        self.spool.lock().as_ref().map(|spool| spool.stats())
    }

    fn run(self: &Arc<Self>, place: &Place, ready: &mpsc::Sender<Spooled>) {
        let mut spool = self.begin(place, ready);
        let mut tried = Instant::now();
        loop {
            // What comes goes from the queue to the lanes.
            if self.leftover {
                break;
            }
            // With no disk to put it on, what waits is handed on in memory.
            let (life, queue) = (&self.entry.life, &self.entry.queue);
            let taken = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = life.lets_go(), if spool.is_none() => None,
                    () = life.reached(|phase| matches!(phase, Phase::Aborted(_))) => None,
                    taken = queue.take(Filling::default()) => taken,
                }
            });
            let Some(group) = taken else {
                break;
            };
            if spool.is_none() && tried.elapsed() > OPEN_INTERVAL {
                spool = self.begin(place, ready);
                tried = Instant::now();
            }
            let kept = self.fill(spool.as_deref(), group, ready);
            self.state.progressed();
            if !kept {
                break;
            }
        }
        if let Some(spool) = &spool {
            let _ = spool.sync_if_due();
        }
        self.filled.store(true, Ordering::SeqCst);
    }

    /// Opens the spool, and begins to empty it.
    fn begin(self: &Arc<Self>, place: &Place, ready: &mpsc::Sender<Spooled>) -> Option<Arc<Spool>> {
        let spool = self.open(place)?;
        let found = spool.stats().events;
        self.entry.name.account.recovered(found);
        if found > 0 {
            info!(output = %self.entry.name.id, events = found, "the spool has events from before");
        }
        *self.spool.lock() = Some(Arc::clone(&spool));
        // So much is in hand at once that most of the spool can still give way.
        let sixteenth = usize::try_from(place.settings.max_bytes / 16).unwrap_or(usize::MAX);
        let enough = match place.filling.bytes {
            0 => MAX_GROUP_BYTES,
            bytes => bytes.min(MAX_GROUP_BYTES),
        };
        let filling = Filling {
            bytes: enough.min(sixteenth),
            ..place.filling
        };
        let (emptier, emptied, ready) = (Arc::clone(self), Arc::clone(&spool), ready.clone());
        let empty = move || {
            // A panic costs the records that were read and not handed to a lane: they are read
            // again.
            while catch_unwind(AssertUnwindSafe(|| {
                emptier.empty(&emptied, filling, &ready)
            }))
            .is_err()
            {
                emptier
                    .state
                    .task_failed(&emptier.entry.name.id, "spool-drain");
                emptied.rewind();
                thread::sleep(LOOK_INTERVAL * 10);
            }
        };
        let begun = thread::Builder::new()
            .name("spool-drain".to_owned())
            .spawn(empty);
        if let Err(error) = begun {
            error!(output = %self.entry.name.id, %error, "cannot start a thread for the spool");
            self.state.failed(&error.to_string());
        }
        Some(spool)
    }

    /// Opens the spool; waits for an output that it replaces to let go of it. `None` if it cannot
    /// be used: then events go past it.
    fn open(&self, place: &Place) -> Option<Arc<Spool>> {
        loop {
            match Spool::open(&place.folder, place.settings) {
                Ok(spool) => return Some(Arc::new(spool)),
                Err(OpenError::InUse {
                    holder: Holder::ThisProcess,
                    ..
                }) if self.entry.life.phase().lets_go() => return None,
                Err(OpenError::InUse {
                    holder: Holder::ThisProcess,
                    ..
                }) if !self.entry.queue.is_closed() => thread::sleep(LOOK_INTERVAL),
                Err(error) => {
                    error!(output = %self.entry.name.id, %error, "the output has no spool");
                    self.state.note_disk(Some(error.to_string()));
                    return None;
                }
            }
        }
    }

    /// Deals with a group: it is on the disk then, or a lane has it. False if neither is possible,
    /// as the output lets go of it: then it is in the queue again.
    fn fill(&self, spool: Option<&Spool>, group: Group, ready: &mpsc::Sender<Spooled>) -> bool {
        let mut work = Filled::default();
        if let Some(spool) = spool {
            let written = AssertUnwindSafe(|| self.write(spool, &group, &mut work));
            if catch_unwind(written).is_err() {
                self.state.task_failed(&self.entry.name.id, "spool-fill");
                let left = group.events() - group.events_in(0, work.bytes);
                let account = &self.entry.name.account;
                account.discarded(DiscardReason::Internal, left);
                (work.bytes, work.lost) = (group.bytes(), true);
            }
        }
        if work.bytes < group.bytes() {
            return self.pass_by(&work, group, ready);
        }
        if group.is_awaited() {
            let synced = match (spool, work.last) {
                (Some(spool), Some(position)) => spool.sync(position),
                _ => Ok(()),
            };
            match synced {
                Ok(()) if !work.lost => group.settle(),
                _ => group.lose(),
            }
        }
        self.entry.queue.done(group);
        true
    }

    /// Puts as much of a group on the disk as it takes, and books what gave way.
    fn write(&self, spool: &Spool, group: &Group, work: &mut Filled) {
        let account = &self.entry.name.account;
        while work.bytes < group.bytes() {
            let record = next_record(group, work.bytes, spool.handy_payload_bytes());
            let appended = append(spool, group, &record);
            if appended.dropped.events > 0 {
                account.discarded(DiscardReason::SpoolFull, appended.dropped.events);
            }
            match appended.outcome {
                Appended::At(position) => {
                    self.state.note_disk(None);
                    work.last = Some(position);
                }
                Appended::Refused => {
                    account.discarded(DiscardReason::SpoolFull, record.events);
                    work.lost = true;
                }
                Appended::Full => {
                    if self.entry.life.phase().lets_go() {
                        return;
                    }
                    spool.wait(LOOK_INTERVAL);
                    continue;
                }
                Appended::Failed(error) => {
                    self.state.note_disk(Some(error.to_string()));
                    return;
                }
            }
            work.bytes += record.bytes;
        }
    }

    /// Hands to the lanes what is not on the disk.
    fn pass_by(&self, done: &Filled, group: Group, ready: &mpsc::Sender<Spooled>) -> bool {
        let (group, rest) = match done.bytes {
            0 => (group, None),
            bytes => {
                // What comes after what is on the disk is copied; it is at most a group.
                let rest = group.rest(bytes);
                group.lose();
                (rest, Some(group))
            }
        };
        if let Some(group) = rest {
            self.entry.queue.done(group);
        }
        let past = Spooled {
            group,
            records: Vec::new(),
            acknowledged: AtomicUsize::new(0),
        };
        let handed = self.hand(past, ready);
        handed
            .map_err(|kept| self.entry.queue.give_back(kept.group))
            .is_ok()
    }

    /// Hands events to a lane; an error has them back, as the output lets go of them.
    fn hand(&self, spooled: Spooled, ready: &mpsc::Sender<Spooled>) -> Result<(), Spooled> {
        let permit = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.entry.life.lets_go() => None,
                permit = ready.reserve() => permit.ok(),
            }
        });
        match permit {
            Some(permit) => {
                permit.send(spooled);
                Ok(())
            }
            None => Err(spooled),
        }
    }

    /// Reads the spool for the lanes, to the end of what will ever come.
    fn empty(&self, spool: &Spool, filling: Filling, ready: &mpsc::Sender<Spooled>) {
        while !self.entry.life.phase().lets_go() {
            let filled = self.filled.load(Ordering::SeqCst);
            match self.next(spool, filling) {
                Some(spooled) => {
                    if self.hand(spooled, ready).is_err() {
                        break;
                    }
                }
                None if filled => break,
                None => drop(spool.sync_if_due()),
            }
        }
        // Lanes that wait see the end when all senders are gone.
    }

    /// Reads records until there is enough to send.
    fn next(&self, spool: &Spool, filling: Filling) -> Option<Spooled> {
        let (mut lines, mut records, mut events) = (Lines::default(), Vec::new(), 0);
        let mut origin: Option<Origin> = None;
        let mut deadline = None;
        while lines.len() < filling.bytes {
            let wait = match deadline {
                None => LOOK_INTERVAL,
                Some(deadline) => Instant::now().max(deadline) - Instant::now(),
            };
            let read = spool.read(wait);
            for damage in &read.damage {
                warn!(
                    output = %self.entry.name.id,
                    file = %damage.path.display(),
                    missing = damage.missing,
                    events = damage.events,
                    bytes = damage.bytes,
                    "the spool is damaged"
                );
            }
            if read.lost_events > 0 {
                let account = &self.entry.name.account;
                account.discarded(DiscardReason::SpoolDamaged, read.lost_events);
            }
            let Some(record) = read.record else {
                break;
            };
            deadline.get_or_insert_with(|| Instant::now() + filling.linger);
            let Some((from, given)) = decode(&record) else {
                let account = &self.entry.name.account;
                let lost = u64::from(record.events - record.done);
                account.discarded(DiscardReason::SpoolDamaged, lost);
                spool.acknowledge([record.position]);
                continue;
            };
            lines.push(given, from.at);
            records.push(Taken {
                position: record.position,
                done: record.done,
                end: lines.len(),
            });
            events += u64::from(record.events - record.done);
            let bypassed = from.bypassed || origin.is_some_and(|origin| origin.bypassed);
            origin = Some(Origin { bypassed, ..from });
        }
        let group = Group::of_lines(lines, origin?);
        debug_assert_eq!(group.events(), events);
        Some(Spooled {
            group,
            records,
            acknowledged: AtomicUsize::new(0),
        })
    }
}

/// How much of a group is dealt with.
#[derive(Debug, Default)]
struct Filled {
    bytes: usize,
    /// The position of the last record.
    last: Option<u64>,
    /// Something of it is not in the spool.
    lost: bool,
}

/// Whole events of a group, to become a record.
struct NextRecord<'a> {
    slices: Vec<&'a [u8]>,
    /// When the first of them came.
    at: Option<SystemTime>,
    bytes: usize,
    events: u64,
}

/// Returns as many whole events behind the first `done` bytes as fit and came at about the same
/// time, one at least.
fn next_record(group: &Group, done: usize, most: usize) -> NextRecord<'_> {
    let mut record = NextRecord {
        slices: Vec::new(),
        at: None,
        bytes: 0,
        events: 0,
    };
    for (slice, at) in group.timed_slices(done) {
        let first = *record.at.get_or_insert(at);
        let apart = at
            .duration_since(first)
            .unwrap_or_else(|error| error.duration());
        if apart > MAX_TIME_APART {
            break;
        }
        let room = most.saturating_sub(record.bytes);
        let whole = match slice.get(..room) {
            None => slice,
            Some(fits) => {
                let first = || memchr::memchr(b'\n', slice).filter(|_| record.bytes == 0);
                let end = memchr::memrchr(b'\n', fits).or_else(first);
                &slice[..end.map_or(0, |end| end + 1)]
            }
        };
        if !whole.is_empty() {
            record.slices.push(whole);
            record.bytes += whole.len();
            record.events += streamgate_guest::count_events(whole) as u64;
        }
        if whole.len() < slice.len() {
            break;
        }
    }
    record
}

fn append(spool: &Spool, group: &Group, record: &NextRecord<'_>) -> Append {
    let origin = group.origin();
    let at = record.at.unwrap_or(origin.at);
    let at = at.duration_since(SystemTime::UNIX_EPOCH);
    let at_ms = u64::try_from(at.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..8].copy_from_slice(&origin.revision.to_le_bytes());
    prefix[8..16].copy_from_slice(&at_ms.to_le_bytes());
    prefix[16] = u8::from(origin.bypassed);
    let mut slices = vec![&prefix[..]];
    slices.extend(&record.slices);
    // A group is bounded in bytes, and an event has at least one.
    let events = u32::try_from(record.events).unwrap_or(u32::MAX);
    spool.append(events, &slices)
}

/// Takes a record apart; `None` if it was not written here.
fn decode(record: &Record) -> Option<(Origin, &[u8])> {
    let (prefix, lines) = record.payload.split_first_chunk::<PREFIX_BYTES>()?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&prefix[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let whole = lines.last() == Some(&b'\n')
        && streamgate_guest::count_events(lines) == record.events as usize;
    let at = Duration::from_millis(number(8));
    let origin = Origin {
        revision: number(0),
        bypassed: prefix[16] == 1,
        at: SystemTime::UNIX_EPOCH.checked_add(at)?,
    };
    whole.then(|| (origin, &lines[end_of_events(lines, record.done)..]))
}

/// Returns where the first `events` events end.
fn end_of_events(lines: &[u8], events: u32) -> usize {
    let mut ends = memchr::memchr_iter(b'\n', lines);
    match (events as usize).checked_sub(1) {
        Some(last) => ends.nth(last).map_or(lines.len(), |at| at + 1),
        None => 0,
    }
}
