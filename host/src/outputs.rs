//! Outputs: where survivors go, and the fan-out that hands batches to them.
//!
//! A batch is shared by all outputs, not copied. Each output has its own queue, bounded in bytes,
//! and a task (a thread, for `console` and `file`) that empties it: a slow or dead output never
//! slows another. An output that is idle sends at once; batches gather only while one is in flight.
//!
//! The gate goes at the pace of its fastest output: a worker waits for room only when *no* output
//! has any, and only while one of them is getting on; a batch that does not fit an output's queue
//! when another took it is discarded there and counted. So neither a dead output nor all of them
//! together ever block what is before them for longer than [`STALLED_AFTER`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tracing::{error, info, warn};
use utoipa::ToSchema;

use crate::{
    books::{Books, DiscardReason, NamedOutput, OutputAccount},
    manifest::{Invalid, Output},
    memory::{BlockSize, Memory},
};

pub use claim::{ClaimError, claim};
pub use dead_letters::DeadLetter;
pub use destination::{OutputPolicy, OwnListeners};
pub use lifecycle::Registry;
pub use queue::{Delivery, Origin};
pub use secret::{SecretSources, read_again as read_secrets_again};
pub use settings::{OutputSettings, Target};

mod claim;
mod console;
mod dead_letters;
mod destination;
mod exchange;
mod file;
mod format;
mod http;
mod lifecycle;
mod pace;
mod queue;
mod runner;
mod secret;
mod settings;
mod shown;
mod spooling;
mod tcp;
mod tls;

use lifecycle::Phase;
use queue::OutputQueue;
use shown::one_line;

/// Most characters of an error in `GET /status` and in the log; what a receiver says in it is
/// shorter, see [`shown::MOST_CHARS`].
const MOST_ERROR_CHARS: usize = 800;

/// An output whose queue is full and that has sent nothing for so long is not waited for. It bounds
/// how long a sender of TCP can be held up by outputs that hang.
pub const STALLED_AFTER: Duration = Duration::from_secs(1);

/// An output that runs. When the last holder is gone it sends what it has and ends.
#[derive(Debug)]
pub struct OutputHandle {
    settings: OutputSettings,
    state: Arc<OutputState>,
    entry: Arc<lifecycle::Entry>,
    spooling: Option<Arc<spooling::Spooling>>,
    /// Dropped with the handle, which says that nothing more will come.
    _released: tokio::sync::oneshot::Sender<()>,
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
    /// The receiver answers, and has taken nothing since it refused events for good.
    refusing: AtomicBool,
    /// How often a task ended that should not have.
    task_failures: AtomicU64,
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
    /// only a probe is made every few seconds), `degraded` (the receiver refuses what it is sent,
    /// and has taken nothing since; or the disk of the spool fails) or `stalled` (its queue is full
    /// and nothing was sent for a second).
    pub state: String,
    /// How often a task of the output panicked and was started again.
    pub task_failures: u64,
    /// Events that wait or are being sent.
    pub queued_events: u64,
    /// Bytes of memory that they hold.
    pub queued_bytes: usize,
    /// The most that they may hold; beyond it events are discarded and counted.
    pub queue_limit_bytes: usize,
    /// What publishing this output again would be refused for; it runs because it was live before
    /// the gate asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What went wrong last, if anything did since the last success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Its spool, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolStatus>,
    /// Events in its dead letters, if it keeps them; left out until those are counted that an
    /// earlier process left.
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
    /// Events that were lost since the output was made, since their records are damaged or missing.
    pub damaged_events: u64,
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
    /// All outputs that run.
    pub registry: Arc<Registry>,
}

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
        for warning in &settings.warnings {
            warn!(output = %id, warning, "an output runs that could not be published again");
        }
        let account = self.books.open_output();
        let name = NamedOutput {
            id: id.to_owned(),
            kind: settings.kind().to_owned(),
            account,
        };
        runner::spawn(self, settings, name, queue)
    }
}

impl OutputHandle {
    /// Returns the output's names and account.
    pub fn name(&self) -> &NamedOutput {
        &self.entry.name
    }

    /// Returns the output's account.
    pub fn account(&self) -> &OutputAccount {
        &self.entry.name.account
    }

    /// Returns what it was made from.
    pub fn settings(&self) -> &OutputSettings {
        &self.settings
    }

    /// Changes its limits while it runs.
    pub fn set_limits(&self, batch_size: u32, limit_bytes: usize) {
        self.entry.queue.set_limits(batch_size, limit_bytes);
    }

    /// Says how it is doing.
    pub fn status(&self) -> OutputStatus {
        let name = &self.entry.name;
        let (queued_bytes, queue_limit_bytes) = self.entry.queue.fill();
        let spool = self.spool_status();
        let dead_letters = self.entry.dead_letters.as_ref();
        let dead_letters = dead_letters.and_then(|letters| letters.count());
        self.book_lost_letters();
        let of_spool = || spool.as_ref().and_then(|spool| spool.error.clone());
        let state = match () {
            () if self.state.open.load(Ordering::Relaxed) => "open",
            () if self.state.failing.load(Ordering::Relaxed) => "failing",
            () if self.state.refusing.load(Ordering::Relaxed) => "degraded",
            () if spool.as_ref().is_some_and(|spool| spool.error.is_some()) => "degraded",
            () if self.entry.queue.is_full() && self.state.is_stalled() => "stalled",
            () => "ok",
        };
        OutputStatus {
            id: name.id.clone(),
            kind: name.kind.clone(),
            state: state.to_owned(),
            task_failures: self.state.task_failures.load(Ordering::Relaxed),
            queued_events: name.account.queued(),
            queued_bytes,
            queue_limit_bytes,
            warnings: self.settings.warnings.clone(),
            last_error: self.state.last_error.lock().clone().or_else(of_spool),
            spool,
            dead_letters,
        }
    }

    /// Books dead letters that were found to be damaged or missing.
    fn book_lost_letters(&self) {
        if let Some(letters) = &self.entry.dead_letters {
            self.account().dead_letters_dropped(letters.take_lost());
        }
    }

    fn spool_status(&self) -> Option<SpoolStatus> {
        let spooling = self.spooling.as_ref()?;
        let stats = spooling.stats().unwrap_or_default();
        // One that only empties what an earlier output left has none when that is done.
        let error = self.state.disk_error.lock().clone().or(stats.error);
        if self.settings.delivery.spool.is_none() && stats.events == 0 && error.is_none() {
            return None;
        }
        Some(SpoolStatus {
            events: stats.events,
            disk_bytes: stats.disk_bytes,
            damaged_bytes: stats.damaged_bytes,
            damaged_events: stats.lost_events,
            error,
        })
    }

    /// Returns some of the oldest dead letters; `None` if the output keeps none. Blocks on the
    /// disk.
    pub fn dead_letters(&self, most: usize) -> Option<Vec<DeadLetter>> {
        let letters = self.entry.dead_letters.as_ref()?;
        let shown = letters.show(most);
        self.book_lost_letters();
        Some(shown)
    }

    /// Takes dead letters out and queues them again, until none is left or the queue has no room.
    /// Returns how many; `None` if the output keeps none. Blocks on the disk.
    pub fn redrive(&self, memory: &Arc<Memory>) -> Option<u64> {
        let letters = self.entry.dead_letters.as_ref()?;
        let redriven = self.redrive_from(letters, memory);
        self.book_lost_letters();
        Some(redriven)
    }

    fn redrive_from(&self, letters: &dead_letters::DeadLetters, memory: &Arc<Memory>) -> u64 {
        let right = letters.reading();
        let mut redriven = 0;
        // What is refused again meanwhile is kept behind it, and is not taken again.
        let Some(end) = letters.end() else {
            return 0;
        };
        loop {
            let Some(taken) = letters.take(&right, end) else {
                return redriven;
            };
            if taken.events == 0 {
                taken.done();
                return redriven;
            }
            let block =
                BlockSize::fitting(taken.lines.len()).and_then(|size| memory.try_acquire(size));
            let Some(mut block) = block else {
                return redriven;
            };
            block.buffer_mut()[..taken.lines.len()].copy_from_slice(&taken.lines);
            block.set_filled(taken.lines.len());
            let origin = Origin {
                at: SystemTime::now(),
                ..Origin::UNKNOWN
            };
            let delivery = Arc::new(Delivery::new(block, origin, Vec::new()));
            self.account().redriven(taken.events);
            if !self.entry.queue.push(&delivery, || self.state.progressed()) {
                self.account().not_redriven(taken.events);
                return redriven;
            }
            redriven += taken.events;
            taken.done();
        }
    }
}

impl Drop for OutputHandle {
    fn drop(&mut self) {
        self.entry.life.advance(Phase::Retired);
    }
}

impl OutputState {
    fn new(spooled: bool) -> Self {
        Self {
            started: Instant::now(),
            progress_ms: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            open: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            task_failures: AtomicU64::new(0),
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
        let refusing = self.refusing.swap(false, Ordering::Relaxed);
        if self.failing.swap(false, Ordering::Relaxed) || refusing {
            *self.last_error.lock() = None;
            info!(output = %id, "the output works again");
        }
    }

    /// Notes that an attempt failed; `open` says that only probes follow.
    fn fails(&self, id: &str, error: &str, open: bool) {
        let error = one_line(error, MOST_ERROR_CHARS);
        *self.last_error.lock() = Some(error.clone());
        if !self.failing.swap(true, Ordering::Relaxed) {
            warn!(output = %id, error, "send failed, will try again");
        }
        if open && !self.open.swap(true, Ordering::Relaxed) {
            warn!(output = %id, error, "the output keeps failing; only probes are made");
        }
    }

    /// Notes that the receiver answers, and refuses events for good.
    fn refuses(&self, error: &str) {
        self.progressed();
        *self.last_error.lock() = Some(one_line(error, MOST_ERROR_CHARS));
        self.refusing.store(true, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
        self.open.store(false, Ordering::Relaxed);
    }

    /// Notes that a task ended that should not have.
    fn task_failed(&self, id: &str, task: &str) {
        error!(output = %id, task, "a task of the output panicked; it is started again");
        self.task_failures.fetch_add(1, Ordering::Relaxed);
        self.failed(&format!("the task `{task}` panicked"));
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

    fn failed(&self, error: &str) {
        *self.last_error.lock() = Some(one_line(error, MOST_ERROR_CHARS));
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
        let offer = |output: &Arc<OutputHandle>| {
            output
                .entry
                .queue
                .push(&delivery, || output.state.progressed())
        };
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

/// Hides secrets that are written into outputs anywhere in a document. Returns whether there were
/// any.
pub fn hide_literals(document: &mut serde_json::Value) -> bool {
    settings::hide(document)
}

/// Checks that outputs which somebody else published refer to no secrets but those that this gate lets
/// a config refer to. Those that are `known` here are passed over.
///
/// # Errors
/// [`Invalid`] names the field and the remedy.
pub fn check_secrets(
    outputs: &[Output],
    known: &[Output],
    policy: &OutputPolicy,
) -> Result<(), Invalid> {
    for (at, output) in outputs.iter().enumerate() {
        if known.contains(output) {
            continue;
        }
        let faults = settings::of_fields(output, policy).into_iter();
        let mut forbidden = faults.filter(|fault| fault.code == secret::FORBIDDEN);
        if let Some(fault) = forbidden.next() {
            return Err(fault.under(&format!("/outputs/{at}")));
        }
    }
    Ok(())
}

/// Checks an output that is edited or published; the pointer of a fault starts at the output. It is
/// asked for more than an output that is live already.
///
/// # Errors
/// [`Invalid`] names the field and the remedy.
pub fn check_output(output: &Output, policy: &OutputPolicy) -> Result<(), Invalid> {
    // First, so that a secret that may not be read is not looked for.
    let mut faults = settings::of_fields(output, policy).into_iter();
    faults.next().map_or(Ok(()), Err)?;
    let settings = OutputSettings::parse(output, policy)?;
    let mut faults = settings::faults(output, &settings, policy).into_iter();
    faults.next().map_or(Ok(()), Err)
}
