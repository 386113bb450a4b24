//! The one engine of the process: its settings with their reasons, its pool, its clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

/// Time between two ticks of the clock that deadlines are counted in.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// After this many ticks at which no guest ran the clock stops until the next call.
const IDLE_TICKS: u32 = 200;

/// Stack that a guest's calls may take in a worker's own stack, in bytes, if the rule does not say.
///
/// wasmtime's default. (Rust guests keep most of their locals in linear memory, under the memory
/// limit.)
pub(super) const STACK_BYTES: usize = 512 * 1024;

/// Least and most stack of a rule, in bytes. Threads that run guests have 2 MiB; what is left is for
/// the gate's own frames.
pub(super) const LEAST_STACK_BYTES: usize = 64 * 1024;
pub(super) const MOST_STACK_BYTES: usize = 1024 * 1024;

/// How much stack guests have: it belongs to an engine, so there is an engine for each size in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stack(usize);

impl Stack {
    /// How many sizes there are.
    pub(super) const SIZES: usize = 5;

    /// The smallest size that has so many bytes: a power of two from 64 KiB to 1 MiB.
    pub(super) fn of(bytes: usize) -> Self {
        Self(
            bytes
                .clamp(LEAST_STACK_BYTES, MOST_STACK_BYTES)
                .next_power_of_two(),
        )
    }

    /// The number of the size, below [`Self::SIZES`].
    pub(super) fn number(self) -> usize {
        (self.0 / LEAST_STACK_BYTES).trailing_zeros() as usize
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self(STACK_BYTES)
    }
}

/// Most memory that a rule may be given, in bytes: the size of a slot in the pool.
pub(super) const MAX_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// Most elements of a guest's table of functions. An interpreter has some thousands.
pub(super) const MAX_TABLE_ELEMENTS: usize = 20_000;

/// Core instances that one component may be made of: its module, adapters, and the glue between.
pub(super) const MAX_CORE_INSTANCES: u32 = 16;

/// Most slots in the pool, whatever the number of workers: 8,192 slots of 4 GiB of address space
/// are a quarter of what a process has.
const MAX_SLOTS: u32 = 8_192;

/// Rules that can have instances in every worker, twice over: a new revision is warmed while the old
/// one runs.
const RULES: u32 = 64;

/// What guests run on; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    engine: Engine,
    clock: Arc<Clock>,
}

/// Moves the engine's epoch while guests run.
#[derive(Debug)]
struct Clock {
    /// Calls that are under way.
    calls: AtomicUsize,
    stopped: AtomicBool,
    ticker: Thread,
}

impl Runtime {
    /// Starts an engine with instances for `workers` workers. Reserves address space, not memory; and
    /// that only for the stack that nearly all rules have: instances with another one cost some
    /// microseconds more to make.
    ///
    /// # Errors
    /// If the operating system refuses the address space, or a thread.
    pub(super) fn start(workers: usize, stack: Stack) -> wasmtime::Result<Self> {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let slots = workers
            .saturating_mul(RULES * 2)
            .saturating_add(RULES)
            .min(MAX_SLOTS);
        let mut config = settings();
        config.max_wasm_stack(stack.0);
        config.allocation_strategy(match stack == Stack::default() {
            true => InstanceAllocationStrategy::Pooling(pool(slots)),
            false => InstanceAllocationStrategy::OnDemand,
        });
        let engine = Engine::new(&config)?;
        let clock = Clock::start(engine.clone())?;
        Ok(Self { engine, clock })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Sees to it that the clock runs until the answer is dropped. To be held during each call of
    /// a guest.
    pub(super) fn ticking(&self) -> Ticking<'_> {
        self.clock.calls.fetch_add(1, Ordering::SeqCst);
        if self.clock.stopped.load(Ordering::SeqCst) {
            self.clock.ticker.unpark();
        }
        Ticking { clock: &self.clock }
    }
}

/// A call is under way.
#[derive(Debug)]
pub(super) struct Ticking<'a> {
    clock: &'a Clock,
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.clock.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes an engine that only compiles, with the same settings: what it compiles runs on a
/// [`Runtime`].
pub(super) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&settings())
}

/// The settings that compiled code depends on.
fn settings() -> Config {
    let mut config = Config::new();
    // Deadlines. Costs about a tenth of the guest's speed; fuel would cost two to three times.
    config.epoch_interruption(true);
    config.cranelift_opt_level(OptLevel::Speed);
    // Proposals that no rule needs, and that most of the year's advisories were about.
    config.wasm_gc(false);
    config.gc_support(false);
    config.wasm_function_references(false);
    config.wasm_exceptions(false);
    config.wasm_threads(false);
    config.wasm_multi_memory(false);
    config.wasm_memory64(false);
    config.wasm_tail_call(false);
    config.wasm_stack_switching(false);
    // The same bytes give the same answer on every processor.
    config.wasm_relaxed_simd(true);
    config.relaxed_simd_deterministic(true);
    config.concurrency_support(false);
    config
}

fn pool(slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots);
    pool.total_core_instances(slots.saturating_mul(4));
    pool.total_memories(slots);
    pool.total_tables(slots.saturating_mul(2));
    pool.max_core_instances_per_component(MAX_CORE_INSTANCES);
    pool.max_memories_per_component(1);
    pool.max_tables_per_component(4);
    pool.max_memory_size(MAX_MEMORY_BYTES);
    pool.table_elements(MAX_TABLE_ELEMENTS);
    // Slots that are done are used again first, so that memory stays flat over many revisions.
    pool.max_unused_warm_slots(slots.min(16));
    // Resetting a little memory costs less than giving it back and faulting it in again.
    pool.linear_memory_keep_resident(256 * 1024);
    pool.table_keep_resident(16 * 1024);
    pool.decommit_batch_size(8);
    pool
}

impl Clock {
    fn start(engine: Engine) -> wasmtime::Result<Arc<Self>> {
        let (to_ticker, from_starter) = std::sync::mpsc::sync_channel::<Arc<Self>>(1);
        let ticker = thread::Builder::new()
            .name("wasm-clock".to_owned())
            .spawn(move || {
                if let Ok(clock) = from_starter.recv() {
                    clock.run(&engine);
                }
            })?;
        let clock = Arc::new(Self {
            calls: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            ticker: ticker.thread().clone(),
        });
        to_ticker
            .send(Arc::clone(&clock))
            .map_err(|_| wasmtime::format_err!("the clock of the WASM engine did not start"))?;
        Ok(clock)
    }

    /// Ticks for as long as guests are called. Never ends: the engine lives as long as the process.
    fn run(&self, engine: &Engine) -> ! {
        let mut idle = 0;
        loop {
            thread::sleep(TICK);
            engine.increment_epoch();
            idle = match self.calls.load(Ordering::SeqCst) {
                0 => idle + 1,
                _ => 0,
            };
            if idle < IDLE_TICKS {
                continue;
            }
            // A call that begins from here on sees that the clock stopped, or is seen here.
            self.stopped.store(true, Ordering::SeqCst);
            if self.calls.load(Ordering::SeqCst) == 0 {
                thread::park();
            }
            self.stopped.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}
