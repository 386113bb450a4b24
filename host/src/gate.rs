//! The running gate, as the control plane sees it: prepare a revision, make it live, ask how it is.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::watch;
use tracing::info;
use utoipa::ToSchema;

use crate::{
    books::Stats,
    buffer::WorkQueue,
    manifest::{Invalid, Manifest, Output, Pipeline, check_pipeline},
    memory::Memory,
    outputs::{Launcher, OutputHandle, OutputPolicy, OutputSettings, OutputStatus},
    pipeline::{BuildError, CompiledChain, ModuleSource, Parts, Revision, RuleStatus, Shared},
    shutdown::Shutdown,
    wasm::Wasm,
};

pub use crate::{outputs::check_output, pipeline::check_rule};

/// The id of the console output that stands in when none is configured.
const CONSOLE_ID: &str = "console";

/// A handle to the running gate. Cheap to copy.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    started: Instant,
    shared: Arc<Shared>,
    queues: Vec<Arc<WorkQueue>>,
    memory: Arc<Memory>,
    launcher: Launcher,
    wasm: Wasm,
    /// Held from before a revision is built until it is live, so that they come one after the
    /// other.
    changing: Mutex<()>,
    /// Held while a revision is made live, so that two of them cannot mix their outputs. True once
    /// the outputs were let go of: what is made live then starts none that the end would wait for.
    applying: Mutex<bool>,
    /// Whether what runs is what the config store has, or what it had last.
    knows_config: watch::Sender<bool>,
}

/// A compiled revision that is not live yet.
#[derive(Debug)]
pub struct Prepared {
    number: u64,
    chain: CompiledChain,
    outputs: Vec<(String, OutputSettings)>,
    batch_size: u32,
}

/// The right to make the next revision live; nobody else has it meanwhile.
#[derive(Debug)]
pub struct Change<'a> {
    gate: &'a Gate,
    _turn: MutexGuard<'a, ()>,
}

impl Change<'_> {
    /// Checks a manifest and compiles it, as [`Gate::prepare`] does.
    ///
    /// # Errors
    /// [`BuildError::Invalid`] for what cannot be right; its pointer starts at the pipeline.
    pub fn prepare(
        &self,
        manifest: &Manifest,
        modules: ModuleSource<'_>,
    ) -> Result<Prepared, BuildError> {
        self.gate.prepare(manifest, modules)
    }

    /// Makes a prepared revision live: every batch that a worker takes from now on is processed by
    /// it. Outputs that did not change go on as they are. Returns how long it took.
    pub fn apply(&self, prepared: Prepared) -> Duration {
        self.gate.apply(prepared)
    }
}

/// The gate's state, as `GET /status` answers it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Status {
    /// Name of this gate.
    pub gate: String,
    /// Version of the program.
    pub version: String,
    /// Time since it was started, in seconds.
    pub uptime_seconds: u64,
    /// The revision that is live.
    pub revision: u64,
    /// Threads that run the chain.
    pub workers: usize,
    /// Whether rules that may be bypassed under overload are being bypassed now.
    pub overloaded: bool,
    /// How often that began.
    pub overloads: u64,
    /// The memory that events may take and take, in bytes.
    pub memory: MemoryStatus,
    /// The rules that run, in order.
    pub rules: Vec<RuleStatus>,
    /// The outputs.
    pub outputs: Vec<OutputStatus>,
}

/// The memory budget.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MemoryStatus {
    /// The most that events may take, in bytes.
    pub budget_bytes: usize,
    /// What they take now, in bytes.
    pub used_bytes: usize,
    /// Of it, what waits for a worker, in bytes.
    pub waiting_bytes: usize,
}

impl Gate {
    /// Wraps what was started. The live revision must be one that [`first_revision`] made.
    pub fn new(
        id: String,
        shared: Arc<Shared>,
        queues: Vec<Arc<WorkQueue>>,
        memory: Arc<Memory>,
        launcher: Launcher,
        wasm: Wasm,
        knows_config: bool,
    ) -> Self {
        let started = Instant::now();
        let applying = Mutex::new(false);
        Self {
            inner: Arc::new(Inner {
                id,
                started,
                shared,
                queues,
                memory,
                launcher,
                wasm,
                changing: Mutex::new(()),
                applying,
                knows_config: watch::Sender::new(knows_config),
            }),
        }
    }

    /// Notes that what runs is what the config store has.
    pub fn note_config_known(&self) {
        self.inner
            .knows_config
            .send_if_modified(|known| !mem::replace(known, true));
    }

    /// Waits until the config is known, or the end begins.
    pub async fn config_known(&self, end: &Shutdown) {
        let mut known = self.inner.knows_config.subscribe();
        tokio::select! {
            _ = known.wait_for(|known| *known) => {}
            () = end.begun() => {}
        }
    }

    /// Returns the name of this gate.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Returns the host of its WASM modules.
    pub fn wasm(&self) -> &Wasm {
        &self.inner.wasm
    }

    /// Returns an output of the live revision.
    pub fn output(&self, id: &str) -> Option<Arc<OutputHandle>> {
        let live = self.inner.shared.revision.load();
        let found = live.outputs.iter().find(|output| output.name().id == id);
        found.map(Arc::clone)
    }

    /// Returns the budget that events draw on.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.inner.memory
    }

    /// Returns what outputs may do.
    pub fn output_policy(&self) -> &OutputPolicy {
        &self.inner.launcher.policy
    }

    /// Returns the number of the revision that events go through.
    pub fn revision(&self) -> u64 {
        self.inner.shared.revision.load().number
    }

    /// Returns whether events are taken: as soon as the config is known, until the end begins.
    pub fn is_ready(&self) -> bool {
        *self.inner.knows_config.borrow() && !self.inner.launcher.registry.is_ending()
    }

    /// Notes that the end has begun.
    pub fn begin_end(&self) {
        self.inner.launcher.registry.begin_end();
    }

    /// Checks a manifest and compiles it; nothing changes. Takes processor time, and blocks.
    ///
    /// # Errors
    /// [`BuildError::Invalid`] for what cannot be right; its pointer starts at the pipeline.
    pub fn prepare(
        &self,
        manifest: &Manifest,
        modules: ModuleSource<'_>,
    ) -> Result<Prepared, BuildError> {
        let Inner {
            shared,
            wasm,
            launcher,
            ..
        } = &*self.inner;
        let parts = Parts {
            books: &shared.books,
            wasm,
            modules,
        };
        let live = shared.revision.load();
        prepare(manifest, parts, &launcher.policy, Some(&live.chain))
    }

    /// Waits for the right to make the next revision live.
    pub fn begin_change(&self) -> Change<'_> {
        Change {
            gate: self,
            _turn: self.inner.changing.lock(),
        }
    }

    fn apply(&self, prepared: Prepared) -> Duration {
        let Inner {
            shared,
            queues,
            memory,
            launcher,
            applying,
            ..
        } = &*self.inner;
        let begun = Instant::now();
        let retired = applying.lock();
        if *retired {
            return begun.elapsed();
        }
        let live = shared.revision.load_full();
        let revision = launch(prepared, launcher, memory, &live.outputs);
        let (number, rules) = (revision.number, revision.chain.rules().len());
        let outputs = revision.outputs.len();
        shared.revision.store(Arc::new(revision));
        drop(live);
        for queue in queues {
            queue.nudge();
        }
        let took = begun.elapsed();
        info!(
            revision = number,
            rules,
            outputs,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "revision is live"
        );
        self.note_config_known();
        took
    }

    /// Returns the books.
    pub fn stats(&self) -> Stats {
        let Inner { shared, .. } = &*self.inner;
        let revision = shared.revision.load();
        let outputs: Vec<_> = revision
            .outputs
            .iter()
            .map(|output| output.name().clone())
            .collect();
        shared
            .books
            .stats(revision.number, &revision.chain.rules(), &outputs)
    }

    /// Says how the gate is.
    pub fn status(&self) -> Status {
        let Inner {
            id,
            started,
            shared,
            queues,
            memory,
            ..
        } = &*self.inner;
        let revision = shared.revision.load();
        let overloaded = shared.overload.is_active();
        let rules = revision.chain.statuses(overloaded);
        Status {
            gate: id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: started.elapsed().as_secs(),
            revision: revision.number,
            workers: queues.len(),
            overloaded,
            overloads: shared.overload.entered(),
            memory: MemoryStatus {
                budget_bytes: memory.budget_bytes(),
                used_bytes: memory.used_bytes(),
                waiting_bytes: shared.backlog.bytes(),
            },
            rules,
            outputs: revision
                .outputs
                .iter()
                .map(|output| output.status())
                .collect(),
        }
    }

    /// Lets go of all outputs, so that they send what they have and end.
    pub fn retire(&self) {
        let Inner {
            shared,
            queues,
            applying,
            ..
        } = &*self.inner;
        let mut retired = applying.lock();
        *retired = true;
        let live = shared.revision.load_full();
        shared.revision.store(Arc::new(Revision {
            number: live.number,
            chain: CompiledChain::empty(),
            outputs: Vec::new(),
        }));
        for queue in queues {
            queue.nudge();
        }
    }
}

/// Builds and starts the revision that a gate begins with. Blocks.
///
/// # Errors
/// [`BuildError::Invalid`] for what cannot be right; its pointer starts at the pipeline.
pub fn first_revision(
    manifest: &Manifest,
    launcher: &Launcher,
    memory: &Memory,
    wasm: &Wasm,
    modules: ModuleSource<'_>,
) -> Result<Revision, BuildError> {
    let parts = Parts {
        books: &launcher.books,
        wasm,
        modules,
    };
    Ok(launch(
        prepare(manifest, parts, &launcher.policy, None)?,
        launcher,
        memory,
        &[],
    ))
}

fn prepare(
    manifest: &Manifest,
    parts: Parts<'_>,
    policy: &OutputPolicy,
    previous: Option<&CompiledChain>,
) -> Result<Prepared, BuildError> {
    let pipeline: &Pipeline = manifest.pipeline();
    check_pipeline(pipeline)?;
    let chain = CompiledChain::build(&pipeline.processors, parts, previous)?;
    let mut policy = policy.clone();
    // Revisions from before there were folders of secrets have no digest.
    policy.secrets.confined = manifest.digest.is_some();
    let outputs = pipeline
        .outputs
        .iter()
        .enumerate()
        .map(|(at, output)| settings(at, output, &policy));
    let mut outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    if outputs.is_empty() {
        outputs.push((CONSOLE_ID.to_owned(), OutputSettings::console()));
    }
    Ok(Prepared {
        number: manifest.revision,
        chain,
        outputs,
        batch_size: pipeline.batch_size,
    })
}

fn settings(
    at: usize,
    output: &Output,
    policy: &OutputPolicy,
) -> Result<(String, OutputSettings), Invalid> {
    let settings = OutputSettings::parse(output, policy)
        .map_err(|fault| fault.under(&format!("/outputs/{at}")))?;
    Ok((output.id.clone(), settings))
}

fn launch(
    prepared: Prepared,
    launcher: &Launcher,
    memory: &Memory,
    running: &[Arc<OutputHandle>],
) -> Revision {
    let Prepared {
        number,
        chain,
        outputs,
        batch_size,
    } = prepared;
    // Half of the memory is for outputs, in equal parts; the other half is always there for what
    // comes in, whatever the outputs do.
    let limit_bytes = memory.budget_bytes() / 2 / outputs.len().max(1);
    let outputs = outputs
        .into_iter()
        .map(|(id, settings)| {
            let kept = running
                .iter()
                .find(|output| output.name().id == id && *output.settings() == settings);
            match kept {
                Some(output) => {
                    output.set_limits(batch_size, limit_bytes);
                    Arc::clone(output)
                }
                None => launcher.launch(&id, settings, batch_size, limit_bytes),
            }
        })
        .collect();
    Revision {
        number,
        chain,
        outputs,
    }
}

#[cfg(test)]
impl Gate {
    /// Makes a gate that nothing comes into: no listeners, no workers.
    pub(crate) fn without_doors() -> Self {
        use arc_swap::ArcSwap;
        use tokio::runtime::Handle;

        use crate::{
            books::Books,
            buffer::Backlog,
            memory::MIN_BUDGET_BYTES,
            outputs::{FanOut, Room},
            pipeline::Overload,
            wasm::Compiler,
        };

        let (books, room) = (Arc::new(Books::default()), Arc::new(Room::default()));
        let memory = Memory::new(MIN_BUDGET_BYTES);
        let launcher = Launcher {
            runtime: Handle::current(),
            policy: OutputPolicy::default(),
            books: Arc::clone(&books),
            room: Arc::clone(&room),
            registry: Arc::default(),
        };
        let wasm = Wasm::new(1, Compiler::Here, None);
        let revision = first_revision(&Manifest::empty(), &launcher, &memory, &wasm, &|_| Ok(None));
        let shared = Shared {
            revision: ArcSwap::from_pointee(revision.expect("the empty manifest builds")),
            books,
            backlog: Arc::new(Backlog::default()),
            fan_out: FanOut { room },
            overload: Overload::new(memory.budget_bytes() / 2),
            max_event_bytes: 256 << 10,
        };
        Self::new(
            "test".to_owned(),
            Arc::new(shared),
            Vec::new(),
            memory,
            launcher,
            wasm,
            true,
        )
    }
}
