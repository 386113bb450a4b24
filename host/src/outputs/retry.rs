//! When to try again: full jitter, and at most one attempt at a time.

use std::time::Duration;

/// The first delay is drawn from zero to this.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// No delay is drawn from more than this, so an output that is back is noticed soon; with one
/// attempt at a time it also bounds what a dead receiver is asked, to about one attempt in 5 s.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// A receiver may ask for a pause with `Retry-After`; it is not given more than this.
pub(super) const LONGEST_ASKED_DELAY: Duration = Duration::from_secs(60);

/// A receiver that answers, but keeps failing on the same events, is given up on them after so long
/// (the time that the OpenTelemetry Collector retries). A receiver that cannot be reached is not.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// Delays between attempts: uniformly from zero to a bound that doubles.
///
/// Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: "full
/// jitter".
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { bound: FIRST_DELAY }
    }

    /// Starts over, after a success.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Draws the next delay.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = self.bound.mul_f64(fastrand::f64());
        self.bound = (self.bound * 2).min(LONGEST_DELAY);
        delay
    }
}
