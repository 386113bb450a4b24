//! Who holds part of the budget while it waits for its peer: half a line, or a body that has not
//! come.
//!
//! A peer can stop sending at any moment and keep what it has made us hold. Whoever may hold bytes
//! so is on a list, with how many and since when, and lets go when others need the room: the peer
//! that holds more than half of it first, then the oldest. The list is as long as there are
//! connections at most. What is held is noted without a lock; the lock is for coming, going, and
//! looking.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

use super::Share;

/// What is held for a shorter time is not taken away: nearly all of it is about to come.
const MIN_AGE: Duration = Duration::from_millis(250);

/// Shortest time between two looks for what to take away; what is asked for in between is added up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Shortest time between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// One sender as far as shares are concerned: an IPv4 address, or the /64 of an IPv6 address, which
/// is what one host has at its disposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(u64);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            // The first 64 bits of an address in use are never below 2^32.
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

/// The list of those who may hold bytes while they wait.
#[derive(Debug)]
pub struct Holders {
    started: Instant,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    held: HashMap<u64, Entry>,
    next: u64,
    /// What is asked for of each share.
    demands: [Demand; 2],
    logged: Option<Instant>,
    /// How many were told to let go since the last log line, and of how many bytes.
    unlogged: (u64, usize),
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    share: Share,
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Demand {
    /// What was asked for since the last look.
    bytes: usize,
    looked: Option<Instant>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    /// Since when, in microseconds from when the list was made; 0 if nothing is held.
    since: AtomicU64,
    /// The `since` of what has to be let go.
    told: AtomicU64,
    evicted: Notify,
}

/// One entry of the list; gone when it is dropped.
#[derive(Debug)]
pub struct Holder {
    holders: Arc<Holders>,
    number: u64,
    held: Arc<Held>,
}

impl Default for Holders {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            list: Mutex::default(),
        }
    }
}

impl Holders {
    /// Puts someone on the list who holds nothing yet.
    pub fn enter(self: &Arc<Self>, peer: Peer, share: Share) -> Holder {
        let held = Arc::new(Held::default());
        let mut list = self.list.lock();
        let number = list.next;
        list.next += 1;
        let entry = Entry {
            peer,
            share,
            held: Arc::clone(&held),
        };
        list.held.insert(number, entry);
        Holder {
            holders: Arc::clone(self),
            number,
            held,
        }
    }

    /// Tells those who hold at least that many bytes of a share to let go, as far as there are any.
    /// Returns how many were told.
    pub fn evict(&self, share: Share, bytes: usize) -> u64 {
        let mut list = self.list.lock();
        let now = Instant::now();
        let demand = &mut list.demands[share as usize];
        demand.bytes = demand.bytes.saturating_add(bytes);
        if demand.looked.is_some_and(|last| now - last < LOOK_EVERY) {
            return 0;
        }
        demand.looked = Some(now);
        let wanted = std::mem::take(&mut demand.bytes);
        let (told, bytes) = list.tell(share, wanted, self.now());
        list.unlogged.0 += told;
        list.unlogged.1 += bytes;
        if list.unlogged.0 == 0 || list.logged.is_some_and(|last| now - last < LOG_EVERY) {
            return told;
        }
        list.logged = Some(now);
        let (evicted, bytes) = std::mem::take(&mut list.unlogged);
        drop(list);
        warn!(
            evicted,
            bytes,
            "the memory budget is spent; half lines and bodies that do not go on are given up"
        );
        told
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl List {
    /// Tells holders to let go; returns how many, and of how many bytes.
    fn tell(&self, share: Share, wanted: usize, now: u64) -> (u64, usize) {
        let min_age = u64::try_from(MIN_AGE.as_micros()).unwrap_or(u64::MAX);
        let mut old: Vec<(u64, usize, Peer, &Held)> = Vec::new();
        let mut of_peers: HashMap<Peer, usize> = HashMap::new();
        let mut total = 0;
        for entry in self.held.values().filter(|entry| share.covers(entry.share)) {
            let (peer, held) = (entry.peer, &*entry.held);
            let since = held.since.load(Ordering::Acquire);
            if since == 0 {
                continue;
            }
            let bytes = held.bytes.load(Ordering::Relaxed);
            *of_peers.entry(peer).or_default() += bytes;
            total += bytes;
            let told = held.told.load(Ordering::Relaxed) == since;
            if !told && now.saturating_sub(since) >= min_age {
                old.push((since, bytes, peer, held));
            }
        }
        old.sort_unstable_by_key(|(since, ..)| *since);
        let heaviest = of_peers.iter().max_by_key(|(_, bytes)| **bytes);
        // While one has more than half, the others keep what they hold.
        let heaviest = heaviest.filter(|(_, bytes)| **bytes > total / 2);
        let (mut told, mut freed) = (0, 0);
        for (since, bytes, peer, held) in old {
            if freed >= wanted {
                break;
            }
            if heaviest.is_some_and(|(heaviest, _)| *heaviest != peer) {
                continue;
            }
            held.told.store(since, Ordering::Release);
            held.evicted.notify_one();
            told += 1;
            freed += bytes;
        }
        (told, freed)
    }
}

impl Holder {
    /// Notes that it holds so many bytes, since now if it held none.
    pub fn hold(&self, bytes: usize) {
        self.held.bytes.store(bytes, Ordering::Relaxed);
        if self.held.since.load(Ordering::Relaxed) == 0 {
            let now = self.holders.now().max(1);
            self.held.since.store(now, Ordering::Release);
        }
    }

    /// Notes that it holds nothing any more, or something new.
    pub fn let_go(&self) {
        if self.held.since.load(Ordering::Relaxed) != 0 {
            self.held.since.store(0, Ordering::Relaxed);
        }
    }

    /// Waits until it has to let go of what it holds.
    pub async fn evicted(&self) {
        loop {
            self.held.evicted.notified().await;
            let since = self.held.since.load(Ordering::Relaxed);
            // Otherwise this was about something that it holds no more.
            if since != 0 && self.held.told.load(Ordering::Acquire) == since {
                return;
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.holders.list.lock().held.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn holders() -> Arc<Holders> {
        let started = Instant::now() - Duration::from_secs(60);
        Arc::new(Holders {
            started,
            ..Holders::default()
        })
    }

    /// Someone who has held 1000 bytes for so many milliseconds.
    fn of(holders: &Arc<Holders>, last: u8, age: u64) -> Holder {
        let holder = holders.enter(Peer::from(IpAddr::from([127, 0, 0, last])), Share::All);
        holder.hold(1000);
        let since = holders.now() - age * 1000;
        holder.held.since.store(since, Ordering::Relaxed);
        holder
    }

    fn evicted(holder: &Holder) -> bool {
        holder.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_let_go_first_and_no_more_than_is_needed() {
        let holders = holders();
        let held = [(1, 0), (2, 1000), (3, 2000)].map(|(last, age)| of(&holders, last, age));
        assert_eq!(holders.evict(Share::All, 900), 1);
        assert_eq!(held.each_ref().map(evicted), [false, false, true]);
    }

    #[test]
    fn what_is_held_for_a_moment_is_left() {
        let holders = holders();
        let young = of(&holders, 1, 0);
        assert_eq!(holders.evict(Share::All, 1_000_000), 0);
        assert!(!evicted(&young));
    }

    #[test]
    fn the_peer_with_more_than_half_lets_go_before_older_ones() {
        let holders = holders();
        let oldest = of(&holders, 1, 9000);
        let greedy: Vec<Holder> = (0..5).map(|age| of(&holders, 2, 1000 + age)).collect();
        holders.evict(Share::All, 2000);
        assert!(!evicted(&oldest));
        assert_eq!(greedy.iter().filter(|holder| evicted(holder)).count(), 2);
    }

    #[test]
    fn what_was_let_go_in_between_is_not_evicted() {
        let holders = holders();
        let holder = of(&holders, 1, 1000);
        assert_eq!(holders.evict(Share::All, 1), 1);
        holder.let_go();
        holder.hold(10);
        assert!(!evicted(&holder));
    }

    #[test]
    fn addresses_of_one_64_are_one_peer() {
        let of = |text: &str| Peer::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("127.0.0.1"), of("::ffff:127.0.0.1"));
    }
}
