//! When an output may try: one place decides for all of its requests.
//!
//! While the receiver takes events, up to `max_in_flight` requests are under way, as many as it
//! bears (more while answers stay quick, fewer when they slow down). After a failure one attempt at
//! a time is made, with pauses of full jitter; after [`BREAKER_AFTER`] failures in a row, or when
//! the credentials are refused, the breaker opens: a probe now and then, until one succeeds.
//! However often the receiver comes and goes, retries stay within a budget.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The first pause is drawn from zero to this.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause is drawn from more than this, so that an output that is back is noticed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Failures in a row that open the breaker; with pauses that double that is after some 6 s.
const BREAKER_AFTER: u32 = 7;

/// With the breaker open a probe is made after a pause drawn from half of this to all of it.
const PROBE_PAUSE: Duration = Duration::from_secs(10);

/// Retries that are always granted, a second.
///
/// Source of this budget: Finagle, "Retry Budgets" (2016): 20 % of the requests and 10 a second.
const RETRIES_PER_SECOND: f64 = 10.0;

/// Retries that each success grants on top.
const RETRIES_PER_SUCCESS: f64 = 0.2;

/// Most retries that can be saved up.
const MOST_RETRIES_SAVED: f64 = 20.0;

/// An answer that takes so many times longer than usual says that the receiver bears no more.
const SLOW_ANSWER: f64 = 2.0;

/// Weight of the newest answer in what is usual.
const NEWEST_WEIGHT: f64 = 0.1;

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The receiver was not reached, or said nothing.
    Unreachable,
    /// The receiver is there, and fails on these events or is too busy.
    Answered,
    /// The receiver does not accept the credentials.
    Denied,
}

/// Decides when the next attempt may be made.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    changed: Notify,
    most_in_flight: usize,
}

#[derive(Debug)]
struct State {
    in_flight: usize,
    /// How many may be; its fraction is what successes have added so far.
    bearable: f64,
    /// Seconds that an answer usually takes, once there was one.
    usual_seconds: Option<f64>,
    /// The next pause is drawn from zero to this.
    pause: Duration,
    not_before: Option<Instant>,
    failures: u32,
    denied: bool,
    retries: f64,
    retries_at: Instant,
}

/// The right to make one attempt, given back when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pace: &'a Pace,
    began: Instant,
}

impl Pace {
    pub(super) fn new(most_in_flight: usize) -> Self {
        let state = State {
            in_flight: 0,
            bearable: 1.0,
            usual_seconds: None,
            pause: FIRST_PAUSE,
            not_before: None,
            failures: 0,
            denied: false,
            retries: MOST_RETRIES_SAVED,
            retries_at: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            most_in_flight,
        }
    }

    /// Waits until an attempt may be made.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.state.lock();
                let now = Instant::now();
                let pause = state
                    .not_before
                    .map(|at| at.saturating_duration_since(now))
                    .filter(|pause| !pause.is_zero());
                if pause.is_none() && state.in_flight < self.allowed(&state) {
                    state.in_flight += 1;
                    return Turn {
                        pace: self,
                        began: now,
                    };
                }
                pause
            };
            match wait {
                Some(pause) => tokio::time::sleep(pause).await,
                None => changed.await,
            }
        }
    }

    /// Whether so much failed that only probes are made.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().is_open()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and `most_in_flight`"
    )]
    fn allowed(&self, state: &State) -> usize {
        match state.failures {
            0 => (state.bearable as usize).clamp(1, self.most_in_flight),
            _ => 1,
        }
    }
}

impl State {
    fn is_open(&self) -> bool {
        // Asking often with credentials that are refused can lock an account.
        self.denied || self.failures >= BREAKER_AFTER
    }
}

impl Turn<'_> {
    /// Notes that the receiver took events, or refused them for good.
    pub(super) fn succeeded(self) {
        let seconds = self.began.elapsed().as_secs_f64();
        let mut state = self.pace.state.lock();
        let usual = state.usual_seconds.unwrap_or(seconds);
        state.usual_seconds = Some(usual + NEWEST_WEIGHT * (seconds - usual));
        if seconds > SLOW_ANSWER * usual {
            state.bearable *= 0.9;
        } else {
            state.bearable += 1.0 / state.bearable;
        }
        let most = self.pace.most_in_flight as f64;
        state.bearable = state.bearable.clamp(1.0, most);
        state.pause = FIRST_PAUSE;
        state.not_before = None;
        (state.failures, state.denied) = (0, false);
        state.retries = (state.retries + RETRIES_PER_SUCCESS).min(MOST_RETRIES_SAVED);
    }

    /// Notes a failure; no attempt is made before the pause that follows from it.
    pub(super) fn failed(self, cause: Cause, asked: Option<Duration>) {
        let mut state = self.pace.state.lock();
        let now = Instant::now();
        state.failures = state.failures.saturating_add(1);
        state.denied = cause == Cause::Denied;
        state.bearable = (state.bearable / 2.0).max(1.0);
        let jittered = |from: Duration, to: Duration| from + (to - from).mul_f64(fastrand::f64());
        let mut pause = match () {
            () if state.is_open() => jittered(PROBE_PAUSE / 2, PROBE_PAUSE),
            () => jittered(Duration::ZERO, state.pause),
        };
        state.pause = (state.pause * 2).min(LONGEST_PAUSE);
        let earned = now.duration_since(state.retries_at).as_secs_f64() * RETRIES_PER_SECOND;
        state.retries = (state.retries + earned).min(MOST_RETRIES_SAVED);
        state.retries_at = now;
        state.retries -= 1.0;
        if state.retries < 0.0 {
            pause = pause.max(Duration::from_secs_f64(-state.retries / RETRIES_PER_SECOND));
        }
        let until = now + pause.max(asked.unwrap_or_default());
        // A pause that was asked for by an answer to another request holds too.
        state.not_before = Some(state.not_before.map_or(until, |at| at.max(until)));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.state.lock().in_flight -= 1;
        self.pace.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn_now(pace: &Pace) -> Option<Turn<'_>> {
        use futures_util::FutureExt;
        // In a runtime of its own, since a pause makes a timer.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        pace.turn().now_or_never()
    }

    #[test]
    fn requests_in_flight_grow_with_quick_answers_up_to_the_most() {
        let pace = Pace::new(4);
        let first = turn_now(&pace).unwrap();
        assert!(turn_now(&pace).is_none(), "begins with one");
        first.succeeded();
        for _ in 0..50 {
            let mut turns = Vec::new();
            while let Some(turn) = turn_now(&pace) {
                turns.push(turn);
            }
            assert!((1..=4).contains(&turns.len()), "{}", turns.len());
            turns.pop().unwrap().succeeded();
        }
        let turns: Vec<_> = std::iter::from_fn(|| turn_now(&pace)).collect();
        assert!(turns.len() > 1);
    }

    #[test]
    fn failure_leaves_one_attempt_after_a_pause() {
        let pace = Pace::new(8);
        turn_now(&pace)
            .unwrap()
            .failed(Cause::Answered, Some(Duration::from_secs(60)));
        assert!(turn_now(&pace).is_none());
        assert!(!pace.is_open());
        let not_before = pace.state.lock().not_before.unwrap();
        assert!(not_before - Instant::now() > Duration::from_secs(59));
    }

    #[test]
    fn breaker_opens_after_failures_in_a_row_and_a_success_closes_it() {
        let pace = Pace::new(1);
        let fail = |cause| {
            pace.state.lock().not_before = None;
            turn_now(&pace).unwrap().failed(cause, None);
        };
        for failures in 1..=BREAKER_AFTER {
            fail(Cause::Unreachable);
            assert_eq!(pace.is_open(), failures == BREAKER_AFTER);
        }
        let pause = pace.state.lock().not_before.unwrap() - Instant::now();
        assert!(pause > PROBE_PAUSE / 3, "{pause:?}");
        pace.state.lock().not_before = None;
        turn_now(&pace).unwrap().succeeded();
        assert!(!pace.is_open());
        fail(Cause::Denied);
        assert!(pace.is_open());
    }

    #[test]
    fn flapping_receiver_is_asked_within_the_budget() {
        let pace = Pace::new(1);
        let mut paused = Duration::ZERO;
        // A success after every failure resets the pauses, so only the budget slows it down.
        for _ in 0..500 {
            let now = Instant::now();
            turn_now(&pace).unwrap().failed(Cause::Unreachable, None);
            let until = pace.state.lock().not_before.take().unwrap();
            paused += until.saturating_duration_since(now);
            turn_now(&pace).unwrap().succeeded();
        }
        // 500 retries, of which 20 were saved and 100 came with the successes, at 10 a second.
        assert!(paused > Duration::from_secs(35), "{paused:?}");
    }
}
