//! The places of a listener's connections.
//!
//! A listener has a fixed number of places, so that memory and file descriptors are bounded. One
//! that has none left makes room for a newcomer: the connection that has waited longest for its
//! peer is closed. One address (of IPv6: a /64) that has more than half of the places gives way
//! first, even with connections that are not idle, to one that has less. A single address may have
//! them all.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};
use tracing::warn;

use crate::{
    books::{Books, Ingest},
    memory::Peer,
};

/// How often a newcomer looks again whether there is somebody to make room.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A newcomer that has found no place for so long is refused.
const REFUSE_AFTER: Duration = Duration::from_secs(1);

/// Shortest time between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub struct Slots {
    listener: &'static str,
    most: usize,
    /// A connection that has waited for a shorter time than this is not idle.
    idle_after: Duration,
    /// Where closed and refused connections are booked.
    books: Option<(Arc<Books>, Ingest)>,
    started: Instant,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    slots: HashMap<u64, Arc<State>>,
    of_peers: HashMap<Peer, usize>,
    next: u64,
    /// How many were told to go and are still there.
    leaving: usize,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct State {
    peer: Peer,
    /// What the connection does, and since when: milliseconds since the listener was made, times
    /// four, and a [`Phase`].
    phase: AtomicU64,
    leaves: Notify,
    /// Whether it was told to go. Written under the lock of [`Slots::taken`].
    told: AtomicBool,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It waits for its peer, which owes it nothing: it is in the head of a request or between two,
    /// or in no line.
    Idle = 0,
    /// It waits for the rest of what its peer has begun.
    Receiving = 1,
    /// It works.
    Busy = 2,
}

/// The place of one connection; free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
    state: Arc<State>,
}

/// Notes what the connection of a place does.
#[derive(Debug, Clone)]
pub struct Phases {
    state: Arc<State>,
    started: Instant,
}

enum Attempt {
    Taken(Slot),
    Wait,
}

impl Slots {
    /// Makes that many places, at least one.
    pub fn new(
        listener: &'static str,
        most: usize,
        idle_after: Duration,
        books: Option<(Arc<Books>, Ingest)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            listener,
            most: most.max(1),
            idle_after,
            books,
            started: Instant::now(),
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Takes a place for a newcomer, for which another connection may have to go. `None` if none
    /// has become free in time.
    pub async fn take(self: &Arc<Self>, peer: Peer) -> Option<Slot> {
        let until = Instant::now() + REFUSE_AFTER;
        loop {
            let freed = self.freed.notified();
            if let Attempt::Taken(slot) = self.try_take(peer) {
                return Some(slot);
            }
            if Instant::now() >= until {
                if let Some((books, ingest)) = &self.books {
                    books.refused_connection(*ingest);
                }
                return None;
            }
            let _ = timeout(LOOK_EVERY, freed).await;
        }
    }

    fn try_take(self: &Arc<Self>, peer: Peer) -> Attempt {
        let mut taken = self.taken.lock();
        let number = taken.next;
        if taken.slots.len() < self.most {
            let state = Arc::new(State {
                peer,
                phase: AtomicU64::new(phase_at(self.started, Phase::Idle)),
                leaves: Notify::new(),
                told: false.into(),
            });
            taken.next += 1;
            taken.slots.insert(number, Arc::clone(&state));
            *taken.of_peers.entry(peer).or_default() += 1;
            return Attempt::Taken(Slot {
                slots: Arc::clone(self),
                number,
                state,
            });
        }
        if taken.leaving == 0 {
            let leaver = self.leaver(&taken, peer);
            if let Some(state) = &leaver {
                state.told.store(true, Ordering::Relaxed);
                taken.leaving += 1;
                state.leaves.notify_one();
            }
            let now = Instant::now();
            let log = taken.logged.is_none_or(|last| now - last >= LOG_EVERY);
            if log {
                taken.logged = Some(now);
            }
            drop(taken);
            if let (Some(_), Some((books, ingest))) = (&leaver, &self.books) {
                books.closed_connection(*ingest);
            }
            if log {
                let (listener, connections) = (self.listener, self.most);
                warn!(
                    listener,
                    connections, "all connections are taken; idle ones are closed for new ones"
                );
            }
        }
        Attempt::Wait
    }

    /// Chooses who has to go for a newcomer.
    fn leaver(&self, taken: &Taken, newcomer: Peer) -> Option<Arc<State>> {
        let share = (self.most / 2).max(1);
        let has = |peer: &Peer| taken.of_peers.get(peer).copied().unwrap_or_default();
        let above = taken.of_peers.iter().find(|(_, count)| **count > share);
        let above = above.map(|(peer, _)| *peer);
        // Who has its share makes room itself.
        let only = match has(&newcomer) >= share {
            true => Some(newcomer),
            false => above,
        };
        let forced = only.is_some_and(|peer| peer != newcomer);
        let now = millis(self.started);
        let idle_after = u64::try_from(self.idle_after.as_millis()).unwrap_or(u64::MAX);
        let candidates = taken.slots.values().filter_map(|state| {
            if only.is_some_and(|peer| peer != state.peer) {
                return None;
            }
            let packed = state.phase.load(Ordering::Relaxed);
            let (phase, since) = (packed & 3, packed >> 2);
            let idle = phase < Phase::Busy as u64 && now.saturating_sub(since) >= idle_after;
            (idle || forced).then_some(((!idle, phase, since), state))
        });
        let chosen = candidates.min_by_key(|(rank, _)| *rank);
        chosen.map(|(_, state)| Arc::clone(state))
    }
}

impl Slot {
    /// Returns what notes the phases of the connection.
    pub fn phases(&self) -> Phases {
        Phases {
            state: Arc::clone(&self.state),
            started: self.slots.started,
        }
    }

    /// Returns whose place it is.
    pub fn peer(&self) -> Peer {
        self.state.peer
    }

    /// Waits until the place is needed for another connection.
    pub async fn needed(&self) {
        self.state.leaves.notified().await;
    }
}

impl Phases {
    /// Notes what the connection does from now on.
    pub fn enter(&self, phase: Phase) {
        // Whoever works is not chosen by time, and so is spared the look at the clock.
        let packed = match phase {
            Phase::Busy => phase as u64,
            _ => phase_at(self.started, phase),
        };
        self.state.phase.store(packed, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        taken.slots.remove(&self.number);
        if self.state.told.load(Ordering::Relaxed) {
            taken.leaving -= 1;
        }
        if let Some(count) = taken.of_peers.get_mut(&self.state.peer) {
            *count -= 1;
            if *count == 0 {
                taken.of_peers.remove(&self.state.peer);
            }
        }
        drop(taken);
        // At most one newcomer of a listener waits at a time.
        self.slots.freed.notify_one();
    }
}

fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
}

fn phase_at(started: Instant, phase: Phase) -> u64 {
    millis(started) << 2 | phase as u64
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    fn peer(last: u8) -> Peer {
        Peer::from(IpAddr::from([127, 0, 0, last]))
    }

    fn slots(most: usize) -> Arc<Slots> {
        Slots::new("test", most, Duration::ZERO, None)
    }

    fn taken(slots: &Arc<Slots>, last: u8) -> Slot {
        match slots.try_take(peer(last)) {
            Attempt::Taken(slot) => slot,
            Attempt::Wait => panic!("there is a place"),
        }
    }

    fn is_needed(slot: &Slot) -> bool {
        slot.needed().now_or_never().is_some()
    }

    #[test]
    fn one_address_may_have_all_places() {
        let slots = slots(4);
        let all: Vec<Slot> = (0..4).map(|_| taken(&slots, 1)).collect();
        assert!(all.iter().all(|slot| !is_needed(slot)));
    }

    #[tokio::test]
    async fn the_one_that_is_idle_longest_goes_and_its_place_is_taken() {
        let slots = slots(2);
        let (busy, idle) = (taken(&slots, 1), taken(&slots, 1));
        busy.phases().enter(Phase::Busy);
        assert!(matches!(slots.try_take(peer(1)), Attempt::Wait));
        assert!(!is_needed(&busy) && is_needed(&idle));
        drop(idle);
        assert!(slots.take(peer(1)).await.is_some());
    }

    #[test]
    fn an_address_above_its_share_gives_way_though_it_is_busy() {
        let slots = slots(4);
        let greedy: Vec<Slot> = (0..3).map(|_| taken(&slots, 1)).collect();
        let other = taken(&slots, 2);
        greedy
            .iter()
            .for_each(|slot| slot.phases().enter(Phase::Busy));
        assert!(matches!(slots.try_take(peer(3)), Attempt::Wait));
        assert!(!is_needed(&other));
        assert_eq!(greedy.iter().filter(|slot| is_needed(slot)).count(), 1);
    }

    #[test]
    fn a_newcomer_above_its_share_does_not_drive_others_out() {
        let slots = slots(2);
        let (busy, idle) = (taken(&slots, 1), taken(&slots, 2));
        busy.phases().enter(Phase::Busy);
        assert!(matches!(slots.try_take(peer(1)), Attempt::Wait));
        assert!(!is_needed(&busy) && !is_needed(&idle));
    }
}
