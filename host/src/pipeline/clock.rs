//! The time of native rules: since the process first asked for it, whatever the wall clock does.

use std::{sync::LazyLock, time::Instant};

use streamgate_processors::Clock;

/// One for all workers and revisions: rules share what they remember, and when that was.
pub(super) static CLOCK: LazyLock<Clock> = LazyLock::new(|| {
    let start = Instant::now();
    Clock::new(move || start.elapsed())
});
