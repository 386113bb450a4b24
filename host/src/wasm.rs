//! The WASM host: all that the gate uses of wasmtime, and nothing more.
//!
//! Bytes become a [`Module`] (`compile`, `module`), a module and a rule's parameters become a
//! [`WasmRule`] (`rule`), and each worker runs its own [`Runner`] of it, around one `instance`.
//! Promises that whatever a module is or does, the process lives, its memory stays bounded, and a
//! worker gets its batch back in time. Nothing of this is started before the first module is
//! loaded: a gate without WASM rules pays nothing for it.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use crate::digest::Digest;

use self::{code_cache::CodeCache, compile::Artifact};

pub use self::{
    compile::{CompileLimits, SUBCOMMAND, child},
    engine::Stack,
    instance::Reason,
    module::Module,
    record::{Activity, LastFailure},
    rule::{Failures, Outcome, Params, Ran, Runner, WasmRule, WasmStatus},
};

mod breaker;
mod code_cache;
mod compile;
mod engine;
mod hostcalls;
mod instance;
mod limits;
mod module;
mod quarantine;
mod record;
mod rule;
mod staging;

/// A handle to the WASM host of this process; clones are the same host.
#[derive(Debug, Clone)]
pub struct Wasm {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workers: usize,
    compiler: Compiler,
    /// Where compiled code is kept for the next start.
    cache: OnceLock<Option<CodeCache>>,
    cache_directory: Option<PathBuf>,
    /// By the number of the stack's size.
    runtimes: [OnceLock<engine::Runtime>; Stack::SIZES],
    /// Held while a module is compiled: one at a time, so that the data path keeps its processors.
    compiling: Mutex<()>,
    /// What is compiled and still held by somebody.
    modules: Mutex<BTreeMap<(Digest, Stack), Weak<Module>>>,
    /// The newest ones, which nobody may hold yet: they are published right after they were
    /// uploaded.
    newest: Mutex<VecDeque<Arc<Module>>>,
}

/// How many modules are kept compiled although no rule runs them.
const MAX_NEWEST: usize = 4;

/// Largest module that is taken, in bytes. A JavaScript interpreter with its program has 12 MB.
pub const MAX_MODULE_BYTES: usize = 32 * 1024 * 1024;

/// Where modules are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// In a child process with limits. Needs a `main` that calls [`child`] for [`SUBCOMMAND`].
    Child(CompileLimits),
    /// In this process, without limits: for the user's own modules, and for tests.
    Here,
}

/// What a module is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModuleInfo {
    /// `component`, or `core`: a core module that carries its world, made into a component by the
    /// gate.
    pub kind: String,
    /// What it asks for, as `interface#function`, sorted.
    pub imports: Vec<String>,
    /// What it offers, sorted.
    pub exports: Vec<String>,
}

/// Why bytes are no module that this gate runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModuleError {
    /// Stable, for programs: one of [`CODES`].
    pub code: &'static str,
    /// What was found, what was expected, and the remedy.
    pub message: String,
}

/// The codes of a [`ModuleError`].
pub const CODES: [&str; 14] = [
    "compile_memory",
    "compile_time",
    "compiler_crashed",
    "compiler_failed",
    "engine_failed",
    "invalid_module",
    "missing_export",
    "module_too_large",
    "native_code",
    "no_world",
    "not_wasm",
    "precompiled_module",
    "unknown_import",
    "unsupported_component",
];

impl ModuleError {
    fn new(code: &str, message: impl Into<String>) -> Self {
        let known = CODES.iter().find(|known| **known == code);
        Self {
            code: known.copied().unwrap_or("invalid_module"),
            message: message.into(),
        }
    }
}

impl Wasm {
    /// Makes the host for a gate with that many workers. Starts nothing. Compiled code is kept in
    /// `cache_directory`, if there is one.
    pub fn new(workers: usize, compiler: Compiler, cache_directory: Option<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Inner {
                workers,
                compiler,
                cache: OnceLock::new(),
                cache_directory,
                runtimes: Default::default(),
                compiling: Mutex::new(()),
                modules: Mutex::new(BTreeMap::new()),
                newest: Mutex::default(),
            }),
        }
    }

    /// Returns how many workers there are.
    pub fn workers(&self) -> usize {
        self.inner.workers
    }

    /// Checks and compiles a module for that stack, or returns the one that is compiled already.
    /// Takes up to some seconds, and blocks.
    ///
    /// # Errors
    /// [`ModuleError`] for bytes that are no processor, or cost too much to compile.
    pub fn load(
        &self,
        digest: Digest,
        bytes: &[u8],
        stack: Stack,
    ) -> Result<Arc<Module>, ModuleError> {
        if let Some(module) = self.loaded(digest, stack) {
            return Ok(module);
        }
        let _turn = self.inner.compiling.lock();
        // Somebody else may have wanted the same one.
        if let Some(module) = self.loaded(digest, stack) {
            return Ok(module);
        }
        let begun = Instant::now();
        let runtime = self.runtime(stack)?;
        let kept = self.cache().and_then(|cache| cache.read(digest));
        let kept = kept.and_then(|artifact| Module::load(digest, artifact, runtime).ok());
        let from_cache = kept.is_some();
        let module = match kept {
            Some(module) => module,
            None => Module::load(digest, self.compile(digest, bytes)?, runtime)?,
        };
        let module = Arc::new(module);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        info!(
            digest = %digest,
            from_cache,
            took_ms = millis(begun.elapsed()),
            "loaded a module"
        );
        let mut modules = self.inner.modules.lock();
        modules.retain(|_, module| module.strong_count() > 0);
        modules.insert((digest, stack), Arc::downgrade(&module));
        let mut newest = self.inner.newest.lock();
        newest.truncate(MAX_NEWEST - 1);
        newest.push_front(Arc::clone(&module));
        Ok(module)
    }

    fn cache(&self) -> Option<&CodeCache> {
        let directory = self.inner.cache_directory.as_deref();
        let cache = self.inner.cache.get_or_init(|| CodeCache::open(directory?));
        cache.as_ref()
    }

    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<Artifact, ModuleError> {
        let artifact = match self.inner.compiler {
            Compiler::Child(limits) => compile::in_child(bytes, limits)?,
            Compiler::Here => compile::compile(bytes)?,
        };
        if let Some(cache) = self.cache() {
            cache.write(digest, &artifact);
        }
        Ok(artifact)
    }

    fn loaded(&self, digest: Digest, stack: Stack) -> Option<Arc<Module>> {
        self.inner.modules.lock().get(&(digest, stack))?.upgrade()
    }

    fn runtime(&self, stack: Stack) -> Result<&engine::Runtime, ModuleError> {
        let runtime = &self.inner.runtimes[stack.number()];
        if let Some(runtime) = runtime.get() {
            return Ok(runtime);
        }
        let started = engine::Runtime::start(self.inner.workers, stack).map_err(|error| {
            ModuleError::new(
                "engine_failed",
                format!("the WASM engine cannot be started: {error:#}"),
            )
        })?;
        Ok(runtime.get_or_init(|| started))
    }
}
