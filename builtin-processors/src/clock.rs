//! The time, as a worker is told it.

use std::{fmt, sync::Arc, time::Duration};

/// Tells the processors of a worker the time, once a batch.
///
/// What it tells is the time since an instant of its maker's choice, the same one for all workers: they
/// share what dedupe, throttle and dynamic sampling remember. It should not go backwards; if it does,
/// the time stands still for the processors until it has caught up. A processor that was given none
/// is in a moment that does not pass.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// Makes a clock of a function that tells the time.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Tells the time in nanoseconds; its end is after 584 years.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from((self.0)().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(|| Duration::ZERO)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&(self.0)()).finish()
    }
}

/// Turns seconds that were checked to be neither negative nor endless into nanoseconds.
pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and the cast saturates"
    )]
    let nanoseconds = (seconds * 1e9).ceil() as u64;
    nanoseconds
}

#[cfg(test)]
pub(crate) mod testing {
    //! A clock that is set by hand.

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Clone, Default)]
    pub(crate) struct Hand(Arc<AtomicU64>);

    impl Hand {
        pub(crate) fn clock(&self) -> Clock {
            let hand = Arc::clone(&self.0);
            Clock::new(move || Duration::from_nanos(hand.load(Ordering::Relaxed)))
        }

        pub(crate) fn pass(&self, seconds: f64) {
            self.0.fetch_add(nanoseconds(seconds), Ordering::Relaxed);
        }
    }
}
