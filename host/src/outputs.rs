//! Outputs: where survivors go, and the fan-out that hands batches to them.
//!
//! A batch is shared by all outputs, not copied. Each output has its own queue, bounded in bytes,
//! and a task (a thread, for `console` and `file`) that empties it: a slow or dead output never slows
//! another. An output that is idle sends at once; batches gather only while one is in flight.
//!
//! The gate goes at the pace of its fastest output: a worker waits for room only when *no* output
//! has any, and only while one of them is getting on; a batch that does not fit an output's queue
//! when another took it is discarded there and counted. So neither a dead output nor all of them
//! together ever block what is before them for longer than [`STALLED_AFTER`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::{
    books::{Books, DiscardReason, NamedOutput, OutputAccount},
    manifest::{Invalid, Output},
    memory::{BlockSize, Memory},
};

pub use dead_letters::DeadLetter;
pub use destination::OutputPolicy;
pub use queue::{Delivery, Origin};
pub use settings::{OutputSettings, Target};

mod console;
mod dead_letters;
mod destination;
mod exchange;
mod file;
mod format;
mod http;
mod pace;
mod queue;
mod runner;
mod secret;
mod settings;
mod spooling;
mod tcp;
mod timestamp;
mod tls;

use queue::OutputQueue;

/// An output whose queue is full and that has sent nothing for so long is not waited for. It bounds
/// how long a sender of TCP can be held up by outputs that hang.
pub const STALLED_AFTER: Duration = Duration::from_secs(1);

/// An output that runs. When the last holder is gone it sends what it has and ends.
#[derive(Debug)]
pub struct OutputHandle {
    name: NamedOutput,
    settings: OutputSettings,
    queue: Arc<OutputQueue>,
    state: Arc<OutputState>,
    files: runner::Files,
    runtime: tokio::runtime::Handle,
    ending: Arc<AtomicBool>,
}

/// How an output is doing.
#[derive(Debug)]
pub struct OutputState {
    started: Instant,
    /// Milliseconds from `started` to the last time that bytes were taken off its hands.
    progress_ms: AtomicUsize,
    /// The last attempt failed, and another one is to come.
    failing: AtomicBool,
    /// So many failed that only a probe is made now and then.
    open: AtomicBool,
    /// What the disk of its spool said last, if it fails.
    disk_error: Mutex<Option<String>>,
    /// Whether it has a spool: then its queue empties whatever the receiver does.
    spooled: bool,
    last_error: Mutex<Option<String>>,
}

/// What `GET /status` says of an output.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OutputStatus {
    /// The output's id.
    pub id: String,
    /// The output's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `ok`, `failing` (the last attempt failed and is being repeated), `open` (so many failed that
    /// only a probe is made every few seconds) or `stalled` (its queue is full and nothing was sent
    /// for a second).
    pub state: String,
    /// Events that wait or are being sent.
    pub queued_events: u64,
    /// Bytes of memory that they hold.
    pub queued_bytes: usize,
    /// The most that they may hold; beyond it events are discarded and counted.
    pub queue_limit_bytes: usize,
    /// What went wrong last, if anything did since the last success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Its spool, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolStatus>,
    /// Events in its dead letters, if it keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
}

/// What `GET /status` says of a spool.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SpoolStatus {
    /// Events on the disk that were not sent yet.
    pub events: u64,
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes that were passed over since the output was made, since they are damaged.
    pub damaged_bytes: u64,
    /// What the disk said last, if it fails: events go past the spool then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Starts outputs.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// Runs their tasks.
    pub runtime: tokio::runtime::Handle,
    /// What outputs may do.
    pub policy: OutputPolicy,
    /// The accounts.
    pub books: Arc<Books>,
    /// Where workers wait for room.
    pub room: Arc<Room>,
    /// Counts the outputs that still run, for the drain.
    pub running: tokio::sync::watch::Sender<usize>,
    /// Turns true when what is queued must be given up.
    pub abort: tokio::sync::watch::Receiver<bool>,
    /// Turns true when the end of the process begins.
    pub ending: Arc<AtomicBool>,
    /// How outputs with a spool are told to let go of it, by id.
    pub spooled: SpoolOwners,
}

/// How outputs with a spool are told to let go of it, by id.
pub type SpoolOwners = Arc<Mutex<HashMap<String, tokio::sync::watch::Sender<bool>>>>;

/// Hands batches to outputs.
#[derive(Debug)]
pub struct FanOut {
    /// Where workers wait for room.
    pub room: Arc<Room>,
}

/// Wakes workers that wait for an output to have room.
#[derive(Debug, Default)]
pub struct Room {
    waiting: AtomicUsize,
    lock: Mutex<()>,
    made: Condvar,
}

impl Room {
    fn announce(&self) {
        // Ordered after the queue's lock was released; a worker registers before it looks.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _held = self.lock.lock();
            self.made.notify_all();
        }
    }
}

impl Launcher {
    /// Starts an output whose queue may hold `limit_bytes`.
    pub fn launch(
        &self,
        id: &str,
        settings: OutputSettings,
        batch_size: u32,
        limit_bytes: usize,
    ) -> Arc<OutputHandle> {
        let queue = Arc::new(OutputQueue::new(
            batch_size,
            limit_bytes,
            Arc::clone(&self.room),
        ));
        let spooled = settings.delivery.spool.is_some();
        let state = Arc::new(OutputState::new(spooled));
        let account = self.books.open_output();
        let name = NamedOutput {
            id: id.to_owned(),
            kind: settings.kind().to_owned(),
            account,
        };
        let files = runner::spawn(self, &settings, &name, &queue, &state);
        Arc::new(OutputHandle {
            name,
            settings,
            queue,
            state,
            files,
            runtime: self.runtime.clone(),
            ending: Arc::clone(&self.ending),
        })
    }

    /// Has the output that was started before under this id let go of its files, and says how the new
    /// one is told to.
    fn take_over(&self, id: &str) -> tokio::sync::watch::Sender<bool> {
        let stop = tokio::sync::watch::Sender::new(false);
        let mut spooled = self.spooled.lock();
        // Those that have ended need not be remembered.
        spooled.retain(|_, stop| stop.receiver_count() > 0);
        if let Some(before) = spooled.insert(id.to_owned(), stop.clone()) {
            before.send_replace(true);
        }
        stop
    }
}

impl OutputHandle {
    /// Returns the output's names and account.
    pub fn name(&self) -> &NamedOutput {
        &self.name
    }

    /// Returns the output's account.
    pub fn account(&self) -> &OutputAccount {
        &self.name.account
    }

    /// Returns what it was made from.
    pub fn settings(&self) -> &OutputSettings {
        &self.settings
    }

    /// Changes its limits while it runs.
    pub fn set_limits(&self, batch_size: u32, limit_bytes: usize) {
        self.queue.set_limits(batch_size, limit_bytes);
    }

    /// Says how it is doing.
    pub fn status(&self) -> OutputStatus {
        let (queued_bytes, queue_limit_bytes) = self.queue.fill();
        let state = match () {
            () if self.state.open.load(Ordering::Relaxed) => "open",
            () if self.state.failing.load(Ordering::Relaxed) => "failing",
            () if self.queue.is_full() && self.state.is_stalled() => "stalled",
            () => "ok",
        };
        OutputStatus {
            id: self.name.id.clone(),
            kind: self.name.kind.clone(),
            state: state.to_owned(),
            queued_events: self.name.account.queued(),
            queued_bytes,
            queue_limit_bytes,
            last_error: self.state.last_error.lock().clone(),
            spool: self.spool_status(),
            dead_letters: self
                .files
                .dead_letters
                .as_ref()
                .map(|letters| letters.count()),
        }
    }

    fn spool_status(&self) -> Option<SpoolStatus> {
        self.settings.delivery.spool.as_ref()?;
        let stats = self
            .files
            .spooling
            .as_ref()
            .and_then(|spooling| spooling.stats());
        let stats = stats.unwrap_or_default();
        Some(SpoolStatus {
            events: stats.events,
            disk_bytes: stats.disk_bytes,
            damaged_bytes: stats.damaged_bytes,
            error: self.state.disk_error.lock().clone().or(stats.error),
        })
    }

    /// Returns some of the oldest dead letters; `None` if the output keeps none. Blocks on the disk.
    pub fn dead_letters(&self, most: usize) -> Option<Vec<DeadLetter>> {
        let letters = self.files.dead_letters.as_ref()?;
        Some(letters.show(most))
    }

    /// Takes dead letters out and queues them again, until none is left or the queue has no room.
    /// Returns how many; `None` if the output keeps none. Blocks on the disk.
    pub fn redrive(&self, memory: &Arc<Memory>) -> Option<u64> {
        let letters = self.files.dead_letters.as_ref()?;
        let right = letters.reading();
        let mut redriven = 0;
        loop {
            let Some(taken) = letters.take(&right) else {
                return Some(redriven);
            };
            if taken.events == 0 {
                taken.done();
                return Some(redriven);
            }
            let block =
                BlockSize::fitting(taken.lines.len()).and_then(|size| memory.try_acquire(size));
            let Some(mut block) = block else {
                return Some(redriven);
            };
            block.buffer_mut()[..taken.lines.len()].copy_from_slice(&taken.lines);
            block.set_filled(taken.lines.len());
            let origin = Origin {
                at: SystemTime::now(),
                ..Origin::UNKNOWN
            };
            let delivery = Arc::new(Delivery::new(block, origin, Vec::new()));
            self.account().redriven(taken.events);
            if !self.queue.push(&delivery, || self.state.progressed()) {
                self.account().not_redriven(taken.events);
                return Some(redriven);
            }
            redriven += taken.events;
            taken.done();
        }
    }
}

impl Drop for OutputHandle {
    fn drop(&mut self) {
        self.queue.close();
        if !self.queue.is_done() && !self.ending.load(Ordering::SeqCst) {
            let (queue, state) = (Arc::clone(&self.queue), Arc::clone(&self.state));
            let ending = Arc::clone(&self.ending);
            self.runtime
                .spawn(runner::retire(self.name.clone(), queue, state, ending));
        }
    }
}

impl OutputState {
    fn new(spooled: bool) -> Self {
        Self {
            started: Instant::now(),
            progress_ms: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            open: AtomicBool::new(false),
            disk_error: Mutex::new(None),
            spooled,
            last_error: Mutex::new(None),
        }
    }

    fn now_ms(&self) -> usize {
        usize::try_from(self.started.elapsed().as_millis()).unwrap_or(usize::MAX)
    }

    /// Notes that bytes were taken off the output's hands, or that it has none.
    fn progressed(&self) {
        self.progress_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Notes that the receiver takes events.
    fn works(&self, id: &str) {
        self.progressed();
        self.open.store(false, Ordering::Relaxed);
        if self.failing.swap(false, Ordering::Relaxed) {
            *self.last_error.lock() = None;
            info!(output = %id, "the output works again");
        }
    }

    /// Notes that an attempt failed; `open` says that only probes follow.
    fn fails(&self, id: &str, error: &str, open: bool) {
        *self.last_error.lock() = Some(error.to_owned());
        if !self.failing.swap(true, Ordering::Relaxed) {
            warn!(output = %id, error, "send failed, will try again");
        }
        if open && !self.open.swap(true, Ordering::Relaxed) {
            warn!(output = %id, error, "the output keeps failing; only probes are made");
        }
    }

    fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Notes what the disk of the spool said, if it fails.
    fn note_disk(&self, error: Option<String>) {
        let mut known = self.disk_error.lock();
        if known.is_none() != error.is_none() {
            match &error {
                Some(error) => warn!(error, "a spool fails; events go past it"),
                None => info!("the spool works again"),
            }
        }
        *known = error;
    }

    fn failed(&self, error: String) {
        *self.last_error.lock() = Some(error);
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether it is worth waiting for.
    fn gets_on(&self) -> bool {
        (self.spooled || !self.is_failing()) && !self.is_stalled()
    }

    fn is_stalled(&self) -> bool {
        let idle_ms = self
            .now_ms()
            .saturating_sub(self.progress_ms.load(Ordering::Relaxed));
        idle_ms as u128 >= STALLED_AFTER.as_millis()
    }
}

impl FanOut {
    /// Hands a batch, already booked as offered, to every output. Returns whether it had to wait.
    pub fn hand_over(&self, delivery: Delivery, outputs: &[Arc<OutputHandle>]) -> bool {
        let delivery = Arc::new(delivery);
        let mut refused: Vec<&Arc<OutputHandle>> = Vec::new();
        let offer =
            |output: &Arc<OutputHandle>| output.queue.push(&delivery, || output.state.progressed());
        for output in outputs {
            if !offer(output) {
                refused.push(output);
            }
        }
        if refused.is_empty() {
            return false;
        }
        let waits = refused.len() == outputs.len();
        if waits {
            self.room.waiting.fetch_add(1, Ordering::SeqCst);
            let mut held = self.room.lock.lock();
            loop {
                refused.retain(|output| !offer(output));
                let one_took_it = refused.len() < outputs.len();
                if one_took_it || !refused.iter().any(|output| output.state.gets_on()) {
                    break;
                }
                // The time limit only serves to look again whether anyone still gets on.
                self.room.made.wait_for(&mut held, STALLED_AFTER / 10);
            }
            drop(held);
            self.room.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        for output in refused {
            delivery.lose();
            output
                .account()
                .discarded(DiscardReason::QueueFull, delivery.events());
        }
        waits
    }
}

/// Builds an output's settings and throws them away; the pointer of a fault starts at the output.
///
/// # Errors
/// [`Invalid`] names the field and the remedy.
pub fn check_output(output: &Output, policy: &OutputPolicy) -> Result<(), Invalid> {
    OutputSettings::parse(output, policy).map(drop)
}
