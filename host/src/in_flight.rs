//! How far senders over TCP may be ahead of the outputs.
//!
//! Events that wait between a socket and an output cost more the more they are: beyond the size of
//! the processor's cache the kernel copies them from cold memory. So a socket is not read while
//! more than a small target is in flight, as long as the outputs drain that much within
//! [`LONGEST_PAUSE`]: the sender does not notice, as the kernel buffers more than comes in such a
//! pause.
//!
//! A slower output is a wait to be absorbed: the pauses end for [`ABSORB_TIME`], and what the
//! memory budget has is used. No application is slowed down to the pace of its vendor while there
//! is room.
//!
//! A batch is in flight from when it was read until the first of its outputs takes it: the others,
//! and requests that are under way, hold memory of the budget, but are not waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout_at};

/// Bytes in flight for each worker above which sockets are not read.
const TARGET_BYTES_PER_WORKER: usize = 4 * 1024 * 1024;

/// The longest that one read is put off.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// How long nothing is put off after outputs did not drain the target within a pause.
const ABSORB_TIME: Duration = Duration::from_secs(1);

/// What is in flight.
#[derive(Debug)]
pub struct InFlight {
    target_bytes: usize,
    bytes: AtomicUsize,
    /// Bytes that left, since the start.
    drained_bytes: AtomicU64,
    drained: Notify,
    started: Instant,
    /// Milliseconds from `started` until when reads are not put off.
    absorbing_until_ms: AtomicU64,
}

/// The share of one batch. Dropping it takes the batch out of flight.
#[derive(Debug)]
pub struct InFlightBatch {
    of: Arc<InFlight>,
    bytes: AtomicUsize,
}

impl InFlight {
    /// Makes the account for that many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Self::with_target(workers.max(1) * TARGET_BYTES_PER_WORKER)
    }

    fn with_target(target_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            target_bytes,
            bytes: AtomicUsize::new(0),
            drained_bytes: AtomicU64::new(0),
            drained: Notify::new(),
            started: Instant::now(),
            absorbing_until_ms: AtomicU64::new(0),
        })
    }

    /// Returns the bytes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds a batch.
    pub fn enter(self: &Arc<Self>, bytes: usize) -> InFlightBatch {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        InFlightBatch {
            of: Arc::clone(self),
            bytes: AtomicUsize::new(bytes),
        }
    }

    /// Waits until a socket should be read, [`LONGEST_PAUSE`] at most.
    pub async fn room(&self) {
        if self.has_room() {
            return;
        }
        let begun = self.drained_bytes.load(Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + LONGEST_PAUSE;
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.has_room() {
                return;
            }
            if timeout_at(deadline, drained).await.is_err() {
                break;
            }
        }
        // Other connections may have been quicker to fill what was drained.
        let drained = self.drained_bytes.load(Ordering::Relaxed) - begun;
        if drained < self.target_bytes as u64 {
            let until = self.now_ms() + millis(ABSORB_TIME);
            self.absorbing_until_ms.store(until, Ordering::Relaxed);
            self.drained.notify_waiters();
        }
    }

    fn has_room(&self) -> bool {
        self.bytes() < self.target_bytes
            || self.now_ms() < self.absorbing_until_ms.load(Ordering::Relaxed)
    }

    fn leave(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.drained_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        if before >= self.target_bytes && before - bytes < self.target_bytes {
            self.drained.notify_waiters();
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

impl InFlightBatch {
    /// Takes the batch out of flight. Does nothing the next time.
    pub fn leave(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            self.of.leave(bytes);
        }
    }
}

impl Drop for InFlightBatch {
    fn drop(&mut self) {
        self.leave();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: usize = 1000;

    /// Whether a socket would be read at once.
    async fn has_room_now(flight: &InFlight) -> bool {
        let room = timeout_at(tokio::time::Instant::now(), flight.room());
        room.await.is_ok()
    }

    #[tokio::test]
    async fn reads_wait_until_the_target_is_drained() {
        let flight = InFlight::with_target(TARGET);
        let below = flight.enter(TARGET - 1);
        assert!(has_room_now(&flight).await);
        let above = flight.enter(1);
        assert!(!has_room_now(&flight).await);
        let waiting = Arc::clone(&flight);
        let waiting = tokio::spawn(async move { waiting.room().await });
        tokio::task::yield_now().await;
        above.leave();
        waiting.await.expect("it does not panic");
        assert_eq!(flight.bytes(), TARGET - 1);
        // It was drained in time, or it was not and is absorbed; in both cases the next read is not
        // put off.
        drop(below);
        assert!(has_room_now(&flight).await);
    }

    #[tokio::test]
    async fn slow_outputs_are_absorbed() {
        let flight = InFlight::with_target(TARGET);
        let _held = flight.enter(TARGET);
        flight.room().await;
        assert_eq!(flight.bytes(), TARGET, "nothing was drained");
        // No other read is put off now, on this or another connection.
        assert!(has_room_now(&flight).await);
    }

    #[test]
    fn a_batch_leaves_once() {
        let flight = InFlight::with_target(TARGET);
        let batch = flight.enter(600);
        assert_eq!(flight.bytes(), 600);
        batch.leave();
        batch.leave();
        drop(batch);
        assert_eq!(flight.bytes(), 0);
    }
}
