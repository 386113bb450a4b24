//! The memory that compiled patterns take, bounded for the whole process.
//!
//! A pattern of some bytes may take megabytes when it is compiled (`\pL{1,100}` does), and as much
//! again for the states that it visits. Each compiled pattern is charged here while it exists: those
//! of the live rules, of rules that are being checked and of a revision that is being built.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use regex_automata::meta::Regex;

/// Most bytes of all compiled patterns, unless [`limit_compiled_patterns`] says otherwise.
const DEFAULT_LIMIT: usize = 512 * 1024 * 1024;

/// Most bytes that are charged for the caches that a worker needs for a pattern; below that, twice its
/// size, as was measured.
const MAX_CACHE_BYTES: usize = 1024 * 1024;

static LIMIT: AtomicUsize = AtomicUsize::new(DEFAULT_LIMIT);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Sets how many bytes all compiled patterns of the process may take together.
pub fn limit_compiled_patterns(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// The limit that is in force.
pub(crate) fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// The right of some compiled patterns to the memory that they take. Copies are the same right, as
/// copies of a compiled pattern are the same memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompiledMemory {
    charges: Vec<Arc<Charge>>,
}

#[derive(Debug)]
struct Charge(usize);

impl CompiledMemory {
    /// Charges a compiled pattern; false if all of them together would take too much.
    pub(crate) fn charge(&mut self, regex: &Regex) -> bool {
        let own = regex.memory_usage();
        let bytes = own + (2 * own).min(MAX_CACHE_BYTES);
        let limit = limit();
        // Relaxed: it is a bound on a sum, and orders nothing.
        let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            taken.checked_add(bytes).filter(|taken| *taken <= limit)
        });
        if taken.is_err() {
            return false;
        }
        self.charges.push(Arc::new(Charge(bytes)));
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}
