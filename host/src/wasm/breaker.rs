//! A rule that keeps failing is left alone for a while.
//!
//! Two things open the breaker: failures of single events one after the other, and time lost to
//! failures. A guest that traps on one event in a thousand trips neither; one that traps on all, or
//! runs into its deadline again and again, does so within milliseconds.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{info, warn};

/// Single events that fail in a row, with none that does not, open the breaker.
const FAILURES_IN_A_ROW: u32 = 16;

/// Time that failed calls may take ...
const MAX_LOST: Duration = Duration::from_millis(1_000);
/// ... in a window of this length, over all workers.
const LOST_WITHIN: Duration = Duration::from_secs(10);

/// How long the breaker stays open the first time; twice as long each time that a probe fails ...
const FIRST_REST: Duration = Duration::from_secs(1);
/// ... up to this.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// A rule that did not fail for this long begins from the first rest again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The breaker of one rule, shared by its workers.
#[derive(Debug)]
pub(super) struct Breaker {
    rule: String,
    open: AtomicBool,
    in_a_row: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lost: Duration,
    lost_since: Instant,
    rest: Duration,
    /// While it is open: when it may be probed. A worker that takes the probe moves it on.
    probe_at: Instant,
    /// When it was opened last.
    opened: Option<Instant>,
    times_opened: u64,
}

/// Whether a batch may be handed to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes.
    Closed,
    /// Its first event may, to see whether the guest is well again.
    Probe,
    /// No.
    Open,
}

/// What was handed to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// A batch.
    Batch,
    /// One event.
    Single,
    /// One event, while the breaker is open.
    Probe,
}

impl Breaker {
    pub(super) fn new(rule: String) -> Self {
        let now = Instant::now();
        let state = State {
            lost: Duration::ZERO,
            lost_since: now,
            rest: FIRST_REST,
            probe_at: now,
            opened: None,
            times_opened: 0,
        };
        Self {
            rule,
            open: AtomicBool::new(false),
            in_a_row: AtomicU32::new(0),
            state: Mutex::new(state),
        }
    }

    /// Asks for a batch. Costs one load while the breaker is closed.
    pub(super) fn admits(&self) -> Admission {
        if !self.is_open() {
            return Admission::Closed;
        }
        let mut state = self.state.lock();
        let now = Instant::now();
        if !self.is_open() {
            return Admission::Closed;
        }
        if now < state.probe_at {
            return Admission::Open;
        }
        // One probe at a time; if it is never heard of again, the next one comes a rest later.
        state.probe_at = now + state.rest;
        Admission::Probe
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn times_opened(&self) -> u64 {
        self.state.lock().times_opened
    }

    /// Notes that a call went well.
    pub(super) fn went_well(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Closes it after a probe that went well.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        self.in_a_row.store(0, Ordering::Relaxed);
        (state.lost, state.lost_since) = (Duration::ZERO, Instant::now());
        if self.open.swap(false, Ordering::Relaxed) {
            info!(
                rule = self.rule,
                "a WASM rule is well again; its breaker is closed"
            );
        }
    }

    /// Notes that a call failed, and how long it took. Returns whether the breaker is open now.
    pub(super) fn failed(&self, took: Duration, call: Call) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        if self.is_open() && call != Call::Probe {
            return true;
        }
        if now.duration_since(state.lost_since) > LOST_WITHIN {
            (state.lost, state.lost_since) = (Duration::ZERO, now);
        }
        state.lost += took;
        let in_a_row = match call {
            Call::Batch => self.in_a_row.load(Ordering::Relaxed),
            Call::Single | Call::Probe => self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let probe_failed = self.is_open();
        if !probe_failed && in_a_row < FAILURES_IN_A_ROW && state.lost < MAX_LOST {
            return false;
        }
        let forgotten = |opened: Instant| now.duration_since(opened) > FORGOTTEN_AFTER + state.rest;
        state.rest = match state.opened {
            Some(opened) if !forgotten(opened) => (state.rest * 2).min(LONGEST_REST),
            _ => FIRST_REST,
        };
        state.opened = Some(now);
        state.probe_at = now + state.rest;
        state.times_opened += u64::from(!probe_failed);
        (state.lost, state.lost_since) = (Duration::ZERO, now);
        self.in_a_row.store(0, Ordering::Relaxed);
        if !self.open.swap(true, Ordering::Relaxed) {
            warn!(
                rule = self.rule,
                rest_seconds = state.rest.as_secs(),
                "a WASM rule keeps failing; its breaker is open"
            );
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let breaker = Breaker::new("r".to_owned());
        for _ in 1..FAILURES_IN_A_ROW {
            assert!(!breaker.failed(Duration::ZERO, Call::Single));
        }
        breaker.went_well();
        assert!(!breaker.failed(Duration::ZERO, Call::Single));
        assert_eq!(breaker.admits(), Admission::Closed);
        for _ in 2..FAILURES_IN_A_ROW {
            assert!(!breaker.failed(Duration::ZERO, Call::Single));
        }
        assert!(breaker.failed(Duration::ZERO, Call::Single));
        assert_eq!(breaker.admits(), Admission::Open);
        breaker.close();
        assert_eq!(breaker.admits(), Admission::Closed);
        assert_eq!(breaker.times_opened(), 1);
    }

    #[test]
    fn lost_time_opens_it() {
        let breaker = Breaker::new("r".to_owned());
        assert!(!breaker.failed(MAX_LOST / 2, Call::Batch));
        assert!(breaker.failed(MAX_LOST / 2, Call::Single));
    }

    #[test]
    fn one_probe_is_let_through_at_a_time() {
        let breaker = Breaker::new("r".to_owned());
        assert!(breaker.failed(MAX_LOST, Call::Single));
        breaker.state.lock().probe_at = Instant::now();
        assert_eq!(breaker.admits(), Admission::Probe);
        assert_eq!(breaker.admits(), Admission::Open);
        let rest = breaker.state.lock().rest;
        assert!(
            breaker.failed(Duration::ZERO, Call::Single),
            "another worker is late"
        );
        assert_eq!(breaker.state.lock().rest, rest);
        assert!(breaker.failed(Duration::ZERO, Call::Probe));
        assert_eq!(breaker.state.lock().rest, rest * 2);
    }
}
