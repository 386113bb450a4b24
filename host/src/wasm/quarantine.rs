//! A rule that fails after a long time runs at a low priority for a while.
//!
//! A guest that spins until its deadline takes a processor from everybody else: from other workers,
//! from the sockets, from whatever else runs on the machine. Its calls then go to a thread of their own
//! with a low priority (`nice(2)`), for which the worker waits: the events of its own connections
//! come later, and nobody else's do. A priority once lowered cannot be raised again without
//! privileges, therefore the other thread. It lives as long as the quarantine.

use std::{
    fmt,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::nice;

/// A failed call that took this long is one too many.
const LONG: Duration = Duration::from_millis(1);

/// How long a quarantine is. Poison comes in stretches; who behaves for that long is well again.
const LENGTH: Duration = Duration::from_secs(60);

/// `nice(2)`: 10 gets 110 shares of a processor where 0 gets 1,024. At 19, on a machine that wants all its
/// processors, events that do no harm would wait until they are given up.
const NICE: i32 = 10;

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
}

/// A thread at a low priority, which does one thing to what it is lent.
pub(super) struct Aside<T> {
    to: SyncSender<Box<T>>,
    from: Receiver<Box<T>>,
}

impl<T: Send + 'static> Aside<T> {
    /// Starts the thread; `None` if the operating system has none to give.
    pub(super) fn start(work: fn(&mut T)) -> Option<Self> {
        let (to, lent) = sync_channel::<Box<T>>(1);
        let (back, from) = sync_channel(1);
        let run = move || {
            // Where it is forbidden, the work is done nevertheless.
            let _refused = nice(NICE);
            for mut lent in lent {
                work(&mut lent);
                if back.send(lent).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("quarantine".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(run)
            .ok()?;
        Some(Self { to, from })
    }

    /// Lends it something and waits until it is done; `None` if the work panicked.
    pub(super) fn run(&self, lent: Box<T>) -> Option<Box<T>> {
        self.to.send(lent).ok()?;
        self.from.recv().ok()
    }
}

impl<T> fmt::Debug for Aside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aside").finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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
    fn work_is_done_at_a_low_priority_and_the_caller_keeps_its_own() {
        let own = getpriority_process(None).unwrap();
        let aside = Aside::start(|found: &mut i32| *found = getpriority_process(None).unwrap());
        let aside = aside.unwrap();
        for _ in 0..3 {
            assert_eq!(aside.run(Box::new(own)), Some(Box::new(NICE)));
        }
        assert_eq!(getpriority_process(None).unwrap(), own);
    }

    #[test]
    fn a_panic_is_told() {
        let aside = Aside::start(|bug: &mut bool| assert!(!*bug, "a bug")).unwrap();
        assert_eq!(aside.run(Box::new(false)), Some(Box::new(false)));
        assert_eq!(aside.run(Box::new(true)), None);
        assert_eq!(aside.run(Box::new(false)), None);
    }
}
