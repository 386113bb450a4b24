//! One running copy of a module, in one worker: columns in, a call, columns out.
//!
//! An instance belongs to one thread at a time. After a trap, a deadline or a refused limit it is
//! not to be called again: whoever has it drops it, and with it everything it had.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use fastrand::Rng;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{
    Store, StoreContextMut, Trap, UpdateDeadline, WasmBacktrace,
    component::{ComponentType, Func, Lift, Lower},
};

use super::{
    engine::{Runtime, TICK},
    hostcalls::Level,
    limits::{Limits, Meter, WALL_FACTOR},
    module::Module,
    record::Record,
};

/// Longest text of a guest that is repeated, in bytes.
pub(super) const MAX_WORDS: usize = 1_024;

/// A call uses an eighth of its time before its processor time is looked at for the first time: so
/// a call that is done by then, as nearly all are, costs no system call.
const FIRST_LOOK: u32 = 8;

/// A guest that runs.
pub(super) struct Instance {
    store: Store<State>,
    process: Func,
    runtime: Runtime,
    batch_time: Duration,
    record: Arc<Record>,
}

/// What the host keeps for an instance.
#[derive(Debug)]
pub(super) struct State {
    pub(super) meter: Meter,
    pub(super) random: Rng,
    /// The time that the guest sees, in milliseconds since 1970.
    pub(super) now_ms: u64,
    /// Handles that the guest was given.
    pub(super) handles: u32,
    deadline: Deadline,
    log: LogBudget,
    record: Arc<Record>,
}

/// How long a call may go on.
#[derive(Debug)]
struct Deadline {
    limit: Duration,
    begun: Instant,
    /// The thread's processor time when the call began, if it has a low priority.
    begun_at: Option<Duration>,
    /// And at the first look.
    first_look: Option<Duration>,
}

/// How many more lines may be logged in this second.
#[derive(Debug)]
struct LogBudget {
    per_second: u32,
    left: u32,
    since: Instant,
}

/// The events of a batch, as they go in.
#[derive(Debug, ComponentType, Lower)]
#[component(record)]
struct Columns<'a> {
    bytes: &'a [u8],
    ends: &'a [u32],
}

/// What a guest wants to become of the events; not to be believed before it is checked.
#[derive(Debug, Default, ComponentType, Lift)]
#[component(record)]
pub(super) struct Changes {
    pub(super) dropped: Vec<u32>,
    pub(super) replaced: Vec<u32>,
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<u32>,
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The guest trapped: a panic, a division by zero, an access beyond its memory.
    Trap,
    /// It took longer than `limits.batch_ms`.
    Deadline,
    /// It was refused memory, and trapped.
    Memory,
    /// Its calls went too deep.
    Stack,
    /// Its answer breaks the contract or a limit.
    Answer,
    /// It answered with an error.
    Error,
    /// The rule's breaker is open, and its events must not go on as they are.
    Breaker,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::Stack,
        Self::Answer,
        Self::Error,
        Self::Breaker,
    ];

    /// Its name in `/stats` and `/metrics`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Answer => "bad_answer",
            Self::Error => "error",
            Self::Breaker => "breaker",
        }
    }
}

/// A call that failed.
#[derive(Debug)]
pub(super) struct CallError {
    pub(super) reason: Reason,
    /// In words, some of which may be the guest's.
    pub(super) message: String,
    /// How long it took, without what it waited for a processor if that was long.
    pub(super) took: Duration,
}

impl CallError {
    /// Whether the instance must not be called again.
    pub(super) fn is_fatal(&self) -> bool {
        self.reason != Reason::Error
    }
}

impl Instance {
    /// Makes an instance and has it configured.
    ///
    /// # Errors
    /// If there is no slot left, if the guest fails on its way up, or if it refuses `config`
    /// ([`Reason::Error`], with its words).
    pub(super) fn start(
        module: &Module,
        config: &str,
        limits: &Limits,
        record: &Arc<Record>,
    ) -> Result<Self, CallError> {
        let begun = Instant::now();
        let state = State {
            meter: Meter::new(limits.memory_bytes),
            random: Rng::new(),
            now_ms: now_ms(),
            handles: 0,
            deadline: Deadline {
                limit: Duration::ZERO,
                begun,
                begun_at: None,
                first_look: None,
            },
            log: LogBudget {
                per_second: limits.log_per_second,
                left: limits.log_per_second,
                since: begun,
            },
            record: Arc::clone(record),
        };
        let runtime = module.runtime().clone();
        let mut store = Store::new(runtime.engine(), state);
        store.limiter(|state| &mut state.meter);
        store.epoch_deadline_callback(look);
        begin(&mut store, limits.configure_time(), false);
        let configured = {
            let _ticking = runtime.ticking();
            configure(&mut store, module, config)
        };
        match configured {
            Ok(process) => {
                record.started(store.data().meter.memory_bytes);
                Ok(Self {
                    store,
                    process,
                    runtime,
                    batch_time: limits.batch_time(),
                    record: Arc::clone(record),
                })
            }
            Err(Refusal::Words(words)) => Err(CallError {
                reason: Reason::Error,
                message: shown(&words),
                took: begun.elapsed(),
            }),
            Err(Refusal::Failed(error)) => Err(failure(&store, &error, begun.elapsed())),
        }
    }

    /// Hands a batch to the guest and returns what it answers, unchecked.
    ///
    /// Copies the columns into the guest's memory and its answer out of it. What it answers takes
    /// no more memory than the guest has. At a low priority what it takes is measured in processor
    /// time, for a look at another clock.
    pub(super) fn process(
        &mut self,
        bytes: &[u8],
        ends: &[u32],
        low_priority: bool,
    ) -> Result<Changes, CallError> {
        begin(&mut self.store, self.batch_time, low_priority);
        let begun = self.store.data().deadline.begun;
        let before = self.store.data().meter.memory_bytes;
        let answer = {
            let _ticking = self.runtime.ticking();
            call(&self.process, &mut self.store, Columns { bytes, ends })
        };
        let took = begun.elapsed();
        let after = self.store.data().meter.memory_bytes;
        self.record.called(took, after.saturating_sub(before));
        match answer {
            Ok(Ok(changes)) => Ok(changes),
            Ok(Err(words)) => Err(CallError {
                reason: Reason::Error,
                message: shown(&words),
                took,
            }),
            Err(error) => Err(failure(&self.store, &error, self.used(took))),
        }
    }

    /// How long the call that just ended had a processor, if that is known; else how long it took. What
    /// it waited for a processor is not its fault.
    pub(super) fn used(&self, took: Duration) -> Duration {
        let deadline = &self.store.data().deadline;
        match (deadline.begun_at, deadline.first_look) {
            (Some(begun_at), _) => thread_time().saturating_sub(begun_at),
            (None, Some(first_look)) => {
                deadline.limit / FIRST_LOOK + thread_time().saturating_sub(first_look)
            }
            (None, None) => took,
        }
    }

    /// Returns the linear memory that the guest has, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().meter.memory_bytes
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.record.stopped(self.memory_bytes());
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").finish_non_exhaustive()
    }
}

impl State {
    /// Takes one line out of the budget; counts the line if there is none left.
    pub(super) fn may_log(&mut self) -> bool {
        let log = &mut self.log;
        if log.since.elapsed() >= Duration::from_secs(1) {
            (log.since, log.left) = (Instant::now(), log.per_second);
        }
        let may = log.left > 0;
        log.left -= u32::from(may);
        if !may {
            self.record.suppressed_line();
        }
        may
    }

    pub(super) fn log(&self, level: Level, message: &str) {
        self.record.log(level, &shown(message));
    }

    pub(super) fn count(&self, name: &str, by: u64) {
        self.record.count(name, by);
    }
}

enum Refusal {
    Words(String),
    Failed(wasmtime::Error),
}

fn configure(store: &mut Store<State>, module: &Module, config: &str) -> Result<Func, Refusal> {
    let up = || -> wasmtime::Result<(Func, Result<(), String>)> {
        let instance = module.linked().instantiate(&mut *store)?;
        let missing = |name| wasmtime::format_err!("the module has no export `{name}`");
        let process = instance
            .get_func(&mut *store, module.process())
            .ok_or_else(|| missing("process"))?;
        // Now, and not at the first batch, it comes to light if it has another type.
        process.typed::<(Columns<'_>,), (Result<Changes, String>,)>(&*store)?;
        let configure = instance
            .get_func(&mut *store, module.configure())
            .ok_or_else(|| missing("configure"))?
            .typed::<(&str,), (Result<(), String>,)>(&*store)?;
        let (configured,) = configure.call(&mut *store, (config,))?;
        Ok((process, configured))
    };
    let mut up = up;
    match up() {
        Ok((process, Ok(()))) => Ok(process),
        Ok((_, Err(words))) => Err(Refusal::Words(words)),
        Err(error) => Err(Refusal::Failed(error)),
    }
}

fn call(
    process: &Func,
    store: &mut Store<State>,
    columns: Columns<'_>,
) -> wasmtime::Result<Result<Changes, String>> {
    // The type names a lifetime that is another one at each call, so it is looked at each time;
    // that is some ten nanoseconds a batch.
    let process = process.typed::<(Columns<'_>,), (Result<Changes, String>,)>(&*store)?;
    let (answer,) = process.call(store, (columns,))?;
    Ok(answer)
}

/// Gives the next call its time.
fn begin(store: &mut Store<State>, limit: Duration, low_priority: bool) {
    let state = store.data_mut();
    state.now_ms = now_ms();
    state.meter.refused = false;
    state.deadline = Deadline {
        limit,
        begun: Instant::now(),
        begun_at: low_priority.then(thread_time),
        first_look: None,
    };
    store.set_epoch_deadline(ticks(limit / FIRST_LOOK));
}

/// Is called when the time that was given last is over: looks whether the guest had it.
fn look(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let deadline = &mut store.data_mut().deadline;
    let now = thread_time();
    let rest = deadline.limit - deadline.limit / FIRST_LOOK;
    let used = match deadline.first_look {
        None => {
            deadline.first_look = Some(now);
            Duration::ZERO
        }
        Some(first_look) => now.saturating_sub(first_look),
    };
    let waited_too_long = deadline.begun.elapsed() > deadline.limit * WALL_FACTOR;
    if used >= rest || waited_too_long {
        return Ok(UpdateDeadline::Interrupt);
    }
    Ok(UpdateDeadline::Continue(ticks(rest - used)))
}

/// As many ticks as take at least that long, and one.
fn ticks(duration: Duration) -> u64 {
    let ticks = duration.as_nanos().div_ceil(TICK.as_nanos());
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1)
}

/// Returns how long this thread has had a processor.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn failure(store: &Store<State>, error: &wasmtime::Error, took: Duration) -> CallError {
    let trap = error.downcast_ref::<Trap>();
    let place = error
        .downcast_ref::<WasmBacktrace>()
        .and_then(|trace| trace.frames().first());
    let reason = match trap {
        Some(Trap::Interrupt) => Reason::Deadline,
        Some(Trap::StackOverflow) => Reason::Stack,
        _ if store.data().meter.refused => Reason::Memory,
        Some(_) => Reason::Trap,
        // A call of the host refused it, in the middle of its work.
        None if place.is_some() => Reason::Trap,
        // It came back, and what it brought cannot be read.
        None => Reason::Answer,
    };
    let limit = store.data().deadline.limit;
    let message = match reason {
        Reason::Deadline => format!("it took longer than its limit of {} ms", limit.as_millis()),
        Reason::Stack => "its calls went deeper than its stack".to_owned(),
        _ => {
            let what = error.root_cause().to_string();
            let place = place.and_then(|frame| frame.func_name());
            let place = place.map_or(String::new(), |name| format!(" in `{name}`"));
            let refused = match reason {
                Reason::Memory => "it was refused more memory than its limit; ",
                _ => "",
            };
            shown(&format!("{refused}{what}{place}"))
        }
    };
    CallError {
        reason,
        message,
        took,
    }
}

/// Makes foreign text fit for a message: one line, no control characters, not too long.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() >= MAX_WORDS {
            shown.push_str("...");
            break;
        }
        match character {
            control if control.is_control() => shown.push(' '),
            other => shown.push(other),
        }
    }
    shown
}
