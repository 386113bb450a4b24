//! A rule that fails after a long time runs at the lowest priority for a while.
//!
//! A guest that spins until its deadline takes a processor from everybody else: from other workers,
//! from the sockets, from whatever else runs on the machine. Its calls then go to a thread of their own
//! with the lowest priority (`nice(2)`), for which the worker waits: the events of its own connections
//! come later, and nobody else's do. A priority once lowered cannot be raised again without
//! privileges, therefore the other thread. Starting it costs some ten microseconds a batch, and only
//! while the rule is in quarantine.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::nice;

/// A failed call that took this long is one too many.
const LONG: Duration = Duration::from_millis(1);

/// How long a quarantine is. Poison comes in stretches; who behaves for that long is well again.
const LENGTH: Duration = Duration::from_secs(60);

/// `nice(2)`: 19 gets 15 shares of a processor where 0 gets 1,024.
const NICE: i32 = 19;

/// Stack of the thread: as much as a worker has.
const THREAD_STACK_BYTES: usize = 2 * 1024 * 1024;

/// Whether a rule is in quarantine; shared by its workers.
#[derive(Debug)]
pub(super) struct Quarantine {
    made: Instant,
    /// Milliseconds after `made` at which it ends; 0 if there was none.
    ends_ms: AtomicU64,
}

impl Quarantine {
    pub(super) fn new() -> Self {
        Self {
            made: Instant::now(),
            ends_ms: AtomicU64::new(0),
        }
    }

    /// Notes that a call failed, and how long it took.
    pub(super) fn failed(&self, took: Duration) {
        if took >= LONG {
            let ends = millis(self.made.elapsed() + LENGTH);
            self.ends_ms.fetch_max(ends, Ordering::Relaxed);
        }
    }

    /// Whether the rule is in quarantine. Costs one load if it never was.
    pub(super) fn is_on(&self) -> bool {
        match self.ends_ms.load(Ordering::Relaxed) {
            0 => false,
            ends => millis(self.made.elapsed()) < ends,
        }
    }

    /// Does the work here, or at the lowest priority while the rule is in quarantine.
    pub(super) fn run(&self, work: impl FnOnce() + Send) {
        match self.is_on() {
            true => at_lowest_priority(work),
            false => work(),
        }
    }
}

/// Does the work at the lowest priority and waits for it; here and as usual if there is no thread.
fn at_lowest_priority(work: impl FnOnce() + Send) {
    let mut work = Some(work);
    let started = thread::scope(|scope| {
        let work = &mut work;
        let quarantined = thread::Builder::new()
            .name("quarantine".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn_scoped(scope, move || {
                // Where it is forbidden, the work is done nevertheless.
                let _refused = nice(NICE);
                if let Some(work) = work.take() {
                    work();
                }
            });
        match quarantined {
            Ok(thread) => thread.join(),
            Err(_) => Ok(()),
        }
    });
    if let Err(panic) = started {
        resume_unwind(panic);
    }
    if let Some(work) = work {
        work();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn long_failures_begin_it_and_short_ones_do_not() {
        let quarantine = Quarantine::new();
        quarantine.failed(LONG / 2);
        assert!(!quarantine.is_on());
        quarantine.failed(LONG);
        assert!(quarantine.is_on());
        quarantine.ends_ms.store(1, Ordering::Relaxed);
        while quarantine.is_on() {
            thread::yield_now();
        }
    }

    #[test]
    fn work_is_done_at_the_lowest_priority_and_the_caller_keeps_its_own() {
        let own = getpriority_process(None).unwrap();
        let mut found = None;
        at_lowest_priority(|| found = getpriority_process(None).ok());
        assert_eq!(found, Some(NICE));
        assert_eq!(getpriority_process(None).unwrap(), own);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            at_lowest_priority(|| panic!("a bug"));
        }));
        let panic = caught.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug"));
    }
}
