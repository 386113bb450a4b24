//! What the guests of one rule did and said, over all workers and revisions.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{debug, error, info, warn};
use utoipa::ToSchema;

use super::{
    hostcalls::Level,
    instance::{CallError, Reason},
};

/// Most counters of one rule.
const MAX_COUNTERS: usize = 32;

/// Longest name of a counter, in bytes.
const MAX_COUNTER_NAME: usize = 64;

/// A failing rule says so once in this time.
const LOG_FAILURES_EVERY: Duration = Duration::from_secs(10);

/// The record of one rule.
#[derive(Debug)]
pub(super) struct Record {
    rule: String,
    /// Whether the guest's words at run time are kept to ourselves: those of a privacy rule may
    /// hold what it hides.
    silent: bool,
    calls: AtomicU64,
    busy_nanos: AtomicU64,
    instances: AtomicU64,
    started: AtomicU64,
    memory_bytes: AtomicU64,
    log_lines: AtomicU64,
    log_suppressed: AtomicU64,
    counts_left_out: AtomicU64,
    counters: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    last: Option<LastFailure>,
    at: Option<Instant>,
    logged: Option<Instant>,
    since_logged: u64,
}

/// The newest failure of a rule.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LastFailure {
    /// `trap`, `deadline`, `memory`, `stack`, `bad_answer` or `error`.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
    /// How long ago, in seconds.
    pub seconds_ago: u64,
}

/// What the guests of a rule took, said and counted.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Activity {
    /// Calls of `process`.
    pub calls: u64,
    /// Time they took, in milliseconds.
    pub busy_ms: u64,
    /// Instances there are now: one for each worker.
    pub instances: u64,
    /// Instances that were ever started.
    pub instances_started: u64,
    /// Linear memory of all instances, in bytes.
    pub memory_bytes: u64,
    /// Lines that the guests logged.
    pub log_lines: u64,
    /// Lines above the limit, left out.
    pub log_suppressed: u64,
    /// What the guests counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// Counts that were left out, for their name or for its being one too many.
    pub counts_left_out: u64,
    /// The newest failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

impl Record {
    pub(super) fn new(rule: String, silent: bool) -> Self {
        Self {
            rule,
            silent,
            calls: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
            instances: AtomicU64::new(0),
            started: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
            log_lines: AtomicU64::new(0),
            log_suppressed: AtomicU64::new(0),
            counts_left_out: AtomicU64::new(0),
            counters: Mutex::new(BTreeMap::new()),
            failures: Mutex::new(Failing::default()),
        }
    }

    /// Whether it is one for a rule whose words may be repeated as this one's.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    pub(super) fn started(&self, memory_bytes: usize) {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.instances.fetch_add(1, Ordering::Relaxed);
        self.memory_bytes
            .fetch_add(memory_bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self, memory_bytes: usize) {
        self.instances.fetch_sub(1, Ordering::Relaxed);
        self.memory_bytes
            .fetch_sub(memory_bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn called(&self, took: Duration, grown_bytes: usize) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        if grown_bytes > 0 {
            self.memory_bytes
                .fetch_add(grown_bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn suppressed_line(&self) {
        self.log_suppressed.fetch_add(1, Ordering::Relaxed);
    }

    /// Logs what a guest said. `message` is fit to be shown.
    pub(super) fn log(&self, level: Level, message: &str) {
        self.log_lines.fetch_add(1, Ordering::Relaxed);
        let rule = &self.rule;
        if self.silent {
            debug!(rule, level = ?level, "a privacy rule logged; its words are not repeated");
            return;
        }
        match level {
            Level::Debug => debug!(rule, said = message, "guest"),
            Level::Info => info!(rule, said = message, "guest"),
            Level::Warn => warn!(rule, said = message, "guest"),
            Level::Error => error!(rule, said = message, "guest"),
        }
    }

    pub(super) fn count(&self, name: &str, by: u64) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_name = (1..=MAX_COUNTER_NAME).contains(&name.len()) && name.bytes().all(allowed);
        let mut counters = self.counters.lock();
        if let Some(counter) = counters.get_mut(name) {
            *counter = counter.saturating_add(by);
        } else if is_name && counters.len() < MAX_COUNTERS {
            counters.insert(name.to_owned(), by);
        } else {
            self.counts_left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes a failure, and logs it if none was logged for a while.
    pub(super) fn failed(&self, failure: &CallError) {
        let words_are_ours = !matches!(failure.reason, Reason::Error);
        let message = match self.silent && !words_are_ours {
            true => "its words are not repeated, for it is a privacy rule".to_owned(),
            false => failure.message.clone(),
        };
        let mut failures = self.failures.lock();
        failures.at = Some(Instant::now());
        failures.since_logged += 1;
        if failures
            .logged
            .is_none_or(|logged| logged.elapsed() >= LOG_FAILURES_EVERY)
        {
            warn!(
                rule = self.rule,
                reason = failure.reason.name(),
                error = message,
                failures = failures.since_logged,
                "a WASM rule failed"
            );
            (failures.logged, failures.since_logged) = (Some(Instant::now()), 0);
        }
        failures.last = Some(LastFailure {
            reason: failure.reason.name(),
            message,
            seconds_ago: 0,
        });
    }

    pub(super) fn activity(&self) -> Activity {
        let figure = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let failures = self.failures.lock();
        let last_failure = failures.last.clone().map(|last| LastFailure {
            seconds_ago: failures.at.map_or(0, |at| at.elapsed().as_secs()),
            ..last
        });
        Activity {
            calls: figure(&self.calls),
            busy_ms: figure(&self.busy_nanos) / 1_000_000,
            instances: figure(&self.instances),
            instances_started: figure(&self.started),
            memory_bytes: figure(&self.memory_bytes),
            log_lines: figure(&self.log_lines),
            log_suppressed: figure(&self.log_suppressed),
            counters: self.counters.lock().clone(),
            counts_left_out: figure(&self.counts_left_out),
            last_failure,
        }
    }
}
