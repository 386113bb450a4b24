//! Panics of rules: caught at the event that they are about, and told in few words.
//!
//! A rule that panics on an event may do so on millions of them. The runtime writes a message, and a
//! backtrace if it is asked to, for each; so does a hook of ours once a second at most, while a rule
//! runs. Panics elsewhere are reported as ever.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::error;

/// Reports and log lines about panics of rules come no more often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

thread_local! {
    static RUNS_A_RULE: Cell<bool> = const { Cell::new(false) };
}

/// A rule panicked. The message was reported by the hook, if it was time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

/// Calls a part of a rule; whatever it holds is for the caller to distrust if it panics.
pub(super) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = RUNS_A_RULE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    RUNS_A_RULE.set(outer);
    result.map_err(|_| Panicked)
}

/// Makes the panics of rules be reported once a second at most.
pub(super) fn report_seldom() {
    static INSTALLED: Once = Once::new();
    static NEXT_NS: AtomicU64 = AtomicU64::new(0);
    INSTALLED.call_once(|| {
        let begun = Instant::now();
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if RUNS_A_RULE.get() {
                let nanoseconds =
                    |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                let now = nanoseconds(begun.elapsed());
                let next = NEXT_NS.load(Ordering::Relaxed);
                let later = now.saturating_add(nanoseconds(REPORT_INTERVAL));
                let mine =
                    NEXT_NS.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed);
                if now < next || mine.is_err() {
                    return;
                }
            }
            report(about);
        }));
    });
}

/// Logs which rules panicked, once a second at most.
#[derive(Debug, Default)]
pub(super) struct PanicLog {
    not_before: Option<Instant>,
    left_out: u64,
}

impl PanicLog {
    /// Logs that rule `rule` panicked in a batch, on `events` events that met its `on_error`.
    pub(super) fn note(&mut self, revision: u64, rule: &str, events: u64) {
        let now = Instant::now();
        if self.not_before.is_some_and(|time| now < time) {
            self.left_out += events;
            return;
        }
        self.not_before = Some(now + REPORT_INTERVAL);
        error!(
            revision,
            rule,
            events,
            events_not_logged = std::mem::take(&mut self.left_out),
            "a rule panicked; the events on which it did met its on_error"
        );
    }
}
