//! The disk between an output's queue and its receiver.
//!
//! Of an output with a spool everything that it is handed goes to the disk first, by a thread of its
//! own, which gives the memory back at once; another thread reads it back for the lanes. What they are
//! done with is acknowledged, the rest is there after a restart. While the disk fails events go from
//! memory to the lanes, past the spool, so that an output that works is not held up by its disk.
//!
//! A record is 17 bytes, numbers little-endian, and then the events, each with its line feed: the
//! revision (u64), milliseconds since 1970 at which they left the chain (u64), and 1 if a rule let
//! some of them pass untouched (u8).

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use streamgate_spool::{Append, Appended, OpenError, Record, Settings, Spool, Stats};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tracing::{error, info, warn};

use super::{
    OutputState,
    queue::{Filling, Group, Origin, OutputQueue},
};
use crate::books::{DiscardReason, NamedOutput};

const PREFIX_BYTES: usize = 17;

/// How long a thread waits before it looks again whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long events go past a spool that cannot be opened until that is tried again.
const OPEN_INTERVAL: Duration = Duration::from_secs(10);

/// For so long the spool is read on at the end of the process; what is left is sent by the next.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Most bytes of events that are read for the lanes at once.
const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// Where a spool is, and how it behaves.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) settings: Settings,
    /// What is read for the lanes at once.
    pub(super) filling: Filling,
}

/// What a lane takes from the disk.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) group: Group,
    /// The records it is made of, each with where it ends in the group; none if it came past the spool.
    records: Vec<(u64, usize)>,
    /// How many of them are acknowledged.
    acknowledged: AtomicUsize,
}

/// An output's spool, with the threads that fill and empty it.
#[derive(Debug)]
pub(super) struct Spooling {
    name: NamedOutput,
    queue: Arc<OutputQueue>,
    state: Arc<OutputState>,
    /// Set once it is open.
    spool: Mutex<Option<Arc<Spool>>>,
    ready: AsyncMutex<mpsc::Receiver<Spooled>>,
    /// All that came is on the disk, and nothing more will come.
    filled: AtomicBool,
    /// Turns true when the lanes are to end; what is on the disk stays there.
    stop: watch::Sender<bool>,
    abort: watch::Receiver<bool>,
    abandoned: watch::Receiver<bool>,
    /// Says to whoever may stop it that it is still there.
    _stopped: watch::Receiver<bool>,
    /// Turns true when the process begins to end.
    ending: Arc<AtomicBool>,
}

impl Spooling {
    /// Starts the threads. An error says that the system has none to give.
    pub(super) fn start(
        place: Place,
        name: NamedOutput,
        (queue, state): (Arc<OutputQueue>, Arc<OutputState>),
        (stop, abort): (watch::Sender<bool>, watch::Receiver<bool>),
        ending: Arc<AtomicBool>,
        runtime: tokio::runtime::Handle,
    ) -> std::io::Result<Arc<Self>> {
        let (sender, ready) = mpsc::channel(1);
        let queue_abandoned = queue.abandoned();
        let spooling = Arc::new(Self {
            name,
            queue,
            state,
            spool: Mutex::new(None),
            abandoned: queue_abandoned,
            _stopped: stop.subscribe(),
            ending,
            ready: AsyncMutex::new(ready),
            filled: AtomicBool::new(false),
            stop,
            abort,
        });
        let filler = Arc::clone(&spooling);
        thread::Builder::new()
            .name("spool-fill".to_owned())
            .spawn(move || filler.run(&place, &sender, &runtime))?;
        Ok(spooling)
    }

    /// Takes what is next; `None` at the end.
    pub(super) async fn take(&self) -> Option<Spooled> {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => None,
            taken = async { self.ready.lock().await.recv().await } => taken,
        }
    }

    /// Says that the events are sent, or given up and counted.
    pub(super) fn done(&self, spooled: Spooled) {
        match Self::keeps(&spooled) {
            true => self.advanced(&spooled, spooled.group.bytes()),
            false => self.queue.done(spooled.group),
        }
    }

    /// Says that the first `bytes` of events are sent, or given up and counted: only what is behind them
    /// is sent again if the process is killed now.
    pub(super) fn advanced(&self, spooled: &Spooled, bytes: usize) {
        let from = spooled.acknowledged.load(Ordering::Relaxed);
        let behind = &spooled.records[from..];
        let done = behind.partition_point(|(_, end)| *end <= bytes);
        if done == 0 {
            return;
        }
        spooled.acknowledged.store(from + done, Ordering::Relaxed);
        if let Some(spool) = &*self.spool.lock() {
            spool.acknowledge(behind[..done].iter().map(|(position, _)| *position));
        }
    }

    /// Whether what a lane has in hand stays on the disk if the lane lets go of it.
    pub(super) fn keeps(spooled: &Spooled) -> bool {
        !spooled.records.is_empty()
    }

    /// Whether all that came is on the disk, and nothing more will come.
    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::SeqCst)
    }

    /// Turns true when the lanes are to end.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Returns what is in the spool, once it is open.
    pub(super) fn stats(&self) -> Option<Stats> {
        self.spool.lock().as_ref().map(|spool| spool.stats())
    }

    fn run(
        self: &Arc<Self>,
        place: &Place,
        ready: &mpsc::Sender<Spooled>,
        runtime: &tokio::runtime::Handle,
    ) {
        let mut spool = self.begin(place, ready);
        let mut tried = Instant::now();
        while let Some(group) = runtime.block_on(self.queue.take(Filling::default())) {
            if spool.is_none() && tried.elapsed() > OPEN_INTERVAL {
                spool = self.begin(place, ready);
                tried = Instant::now();
            }
            self.fill(spool.as_deref(), group, ready);
            self.state.progressed();
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
        self.name.account.recovered(found);
        if found > 0 {
            info!(output = %self.name.id, events = found, "the spool has events from before");
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
        let begun = thread::Builder::new()
            .name("spool-drain".to_owned())
            .spawn(move || emptier.empty(&emptied, filling, &ready));
        if let Err(error) = begun {
            error!(output = %self.name.id, %error, "cannot start a thread for the spool");
            self.state.failed(error.to_string());
        }
        Some(spool)
    }

    /// Opens the spool; waits for an output that it replaces to let go of it. `None` if it cannot be
    /// used: then events go past it.
    fn open(&self, place: &Place) -> Option<Arc<Spool>> {
        loop {
            match Spool::open(&place.folder, place.settings) {
                Ok(spool) => return Some(Arc::new(spool)),
                Err(OpenError::InUse(_)) if !self.queue.is_closed() => {
                    thread::sleep(LOOK_INTERVAL);
                }
                Err(error) => {
                    error!(output = %self.name.id, %error, "the output has no spool");
                    self.state.note_disk(Some(error.to_string()));
                    return None;
                }
            }
        }
    }

    /// Puts events into the spool, and books what gave way.
    fn fill(&self, spool: Option<&Spool>, group: Group, ready: &mpsc::Sender<Spooled>) {
        let account = &self.name.account;
        let mut work = Filled::default();
        while let Some(spool) = spool
            && work.bytes < group.bytes()
        {
            let record = next_record(&group, work.bytes, spool.handy_payload_bytes());
            let appended = append(spool, &group, &record);
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
                    let reason = match () {
                        () if *self.abort.borrow() => DiscardReason::Shutdown,
                        () if *self.stop.borrow() || *self.abandoned.borrow() => {
                            DiscardReason::Removed
                        }
                        () => {
                            spool.wait(LOOK_INTERVAL);
                            continue;
                        }
                    };
                    account.discarded(reason, record.events);
                    work.lost = true;
                }
                Appended::Failed(error) => {
                    self.state.note_disk(Some(error.to_string()));
                    break;
                }
            }
            work.bytes += record.bytes;
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
        self.queue.done(group);
    }

    /// Hands to the lanes what is not on the disk.
    fn pass_by(&self, done: &Filled, group: Group, ready: &mpsc::Sender<Spooled>) {
        let (group, rest) = match done.bytes {
            0 => (group, None),
            bytes => {
                // What comes after what is on the disk is copied; it is at most a group.
                let rest = group.slices(bytes).flatten().copied().collect();
                let rest = Group::of_lines(rest, group.origin());
                group.lose();
                (rest, Some(group))
            }
        };
        let past = Spooled {
            group,
            records: Vec::new(),
            acknowledged: AtomicUsize::new(0),
        };
        // An error says that the lanes have ended, which is the end.
        if let Err(refused) = ready.blocking_send(past) {
            self.discard(DiscardReason::Shutdown, refused.0.group);
        }
        if let Some(group) = rest {
            self.queue.done(group);
        }
    }

    fn discard(&self, reason: DiscardReason, group: Group) {
        self.name.account.discarded(reason, group.events());
        group.lose();
        self.queue.done(group);
    }

    /// Reads the spool for the lanes, to the end of what will ever come.
    fn empty(&self, spool: &Spool, filling: Filling, ready: &mpsc::Sender<Spooled>) {
        let mut filled_at = None;
        loop {
            if *self.stop.borrow() || *self.abort.borrow() || ready.is_closed() {
                break;
            }
            let filled = self.filled.load(Ordering::SeqCst);
            // At the end a receiver that does not work is not waited for: the disk has it all.
            if filled && self.state.is_failing() {
                break;
            }
            let since = filled.then(|| *filled_at.get_or_insert_with(Instant::now));
            let ending = self.ending.load(Ordering::SeqCst);
            if ending && since.is_some_and(|since| since.elapsed() > END_LIMIT) {
                break;
            }
            match self.next(spool, filling) {
                Some(spooled) => {
                    if ready.blocking_send(spooled).is_err() {
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
        let (mut lines, mut records, mut events) = (Vec::new(), Vec::new(), 0);
        let mut origin: Option<Origin> = None;
        let mut deadline = None;
        while lines.len() < filling.bytes {
            let wait = match deadline {
                None => LOOK_INTERVAL,
                Some(deadline) => Instant::now().max(deadline) - Instant::now(),
            };
            let read = spool.read(wait);
            if read.lost_events > 0 {
                warn!(output = %self.name.id, events = read.lost_events, "the spool is damaged");
                let account = &self.name.account;
                account.discarded(DiscardReason::SpoolDamaged, read.lost_events);
            }
            let Some(record) = read.record else {
                break;
            };
            deadline.get_or_insert_with(|| Instant::now() + filling.linger);
            let Some((from, given)) = decode(&record) else {
                let account = &self.name.account;
                account.discarded(DiscardReason::SpoolDamaged, u64::from(record.events));
                spool.acknowledge([record.position]);
                continue;
            };
            lines.extend_from_slice(given);
            records.push((record.position, lines.len()));
            events += u64::from(record.events);
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

impl Drop for Spooling {
    fn drop(&mut self) {
        if self.spool.get_mut().is_some() {
            self.name.account.left_in_spool();
        }
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
    bytes: usize,
    events: u64,
}

/// Returns as many whole events behind the first `done` bytes as fit, one at least.
fn next_record(group: &Group, done: usize, most: usize) -> NextRecord<'_> {
    let mut record = NextRecord {
        slices: Vec::new(),
        bytes: 0,
        events: 0,
    };
    for slice in group.slices(done) {
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
    let at = origin.at.duration_since(SystemTime::UNIX_EPOCH);
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
    whole.then_some((
        Origin {
            revision: number(0),
            bypassed: prefix[16] == 1,
            at: SystemTime::UNIX_EPOCH.checked_add(at)?,
        },
        lines,
    ))
}
