//! The life of an output, and the register of all that run.
//!
//! Every task of an output watches one [`Phase`], which only ever goes forward:
//!
//! ```text
//!            removed
//! Running ─────────────▶ Retired ──────────┐ no time left: what is not on a disk is given up
//!    │ │                  │   │            ▼
//!    │ └── replaced ──────┼───┼──▶ HandingOver ──▶ (ended: the successor has the backlog)
//!    │                    │   └────────▲   │
//!    └── process ends ────┴▶ Draining ─┘   │
//!                               │          │
//!                               └──────────┴──▶ Aborted(reason) ──▶ (ended: the backlog is counted)
//! ```
//!
//! - `Running`, `Draining` and `Retired` send. The latter two end when all is sent; their time is
//!   limited by the grace period of the process, and by the limits of `runner.rs`.
//! - `HandingOver` begins no attempt to send. What is on the disk stays there, and what is in
//!   memory goes to the newest output with the same id. At the end of the process an output with a
//!   spool hands over to the next process.
//! - `Aborted` drops the attempts that are under way.
//!
//! An output is in the [`Registry`] until its last task has ended. It is taken out, and its backlog
//! is handed on, under the lock of the registry, so that a backlog cannot go to an output that
//! ends.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    dead_letters::DeadLetters,
    queue::{Group, OutputQueue},
};
use crate::books::{DiscardReason, NamedOutput};

/// Where an output is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It takes events and sends them.
    Running,
    /// It was removed, and sends what it has.
    Retired,
    /// The process ends, and it sends what it has.
    Draining,
    /// Another takes over what it has.
    HandingOver,
    /// It gives up what it has in memory, and this is why.
    Aborted(DiscardReason),
}

impl Phase {
    /// Whether no attempt to send may begin any more.
    pub(super) fn lets_go(self) -> bool {
        matches!(self, Self::HandingOver | Self::Aborted(_))
    }

    fn may_become(self, next: Self) -> bool {
        let rank = |phase| match phase {
            Self::Running => 0,
            Self::Retired => 1,
            Self::Draining => 2,
            Self::HandingOver => 3,
            Self::Aborted(_) => 4,
        };
        rank(next) > rank(self)
    }
}

/// The phase of one output.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: watch::Sender<Phase>,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Running),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Enters a later phase; an earlier one is ignored.
    pub(super) fn advance(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let moves = phase.may_become(next);
            if moves {
                *phase = next;
            }
            moves
        });
    }

    /// Waits for a phase.
    pub(super) async fn reached(&self, wanted: impl FnMut(&Phase) -> bool) {
        // The sender is in `self`, so there is no error.
        let _ = self.phase.subscribe().wait_for(wanted).await;
    }

    /// Waits until no attempt to send may begin any more.
    pub(super) async fn lets_go(&self) {
        self.reached(|phase| phase.lets_go()).await;
    }
}

/// All outputs that have tasks, those of earlier revisions too.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
    /// How many there are.
    running: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    ending: bool,
    last_serial: u64,
    /// In the order in which they were started.
    entries: Vec<Arc<Entry>>,
    /// What outputs that ended left behind at the end of the process, by id.
    left: Vec<(String, u64)>,
    /// The dead letters of outputs that run, by id.
    dead_letters: HashMap<String, Weak<DeadLetters>>,
}

/// An output that runs.
#[derive(Debug)]
pub(super) struct Entry {
    serial: u64,
    pub(super) name: NamedOutput,
    pub(super) life: Lifecycle,
    pub(super) queue: Arc<OutputQueue>,
    pub(super) dead_letters: Option<Arc<DeadLetters>>,
    /// Whether it has a spool, of its own or one that it empties.
    pub(super) spooled: bool,
}

/// What an output that starts finds of those with the same id.
#[derive(Debug, Default)]
pub(super) struct Before {
    pub(super) spooled: bool,
}

impl Registry {
    /// Begins the end of the process.
    pub fn begin_end(&self) {
        let mut state = self.state.lock();
        state.ending = true;
        for entry in &state.entries {
            entry.life.advance(Phase::Draining);
        }
    }

    /// Returns whether the end of the process has begun.
    pub fn is_ending(&self) -> bool {
        self.state.lock().ending
    }

    /// Has all outputs give up what they have.
    pub fn abort(&self) {
        for entry in &self.state.lock().entries {
            entry.life.advance(Phase::Aborted(DiscardReason::Shutdown));
        }
    }

    /// Waits until no output runs.
    pub async fn ended(&self) {
        let _ = self
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
            .await;
    }

    /// Returns which outputs left events behind at the end of the process, and how many.
    pub fn left_behind(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let running = state.entries.iter().map(|entry| {
            let account = &entry.name.account;
            (
                entry.name.id.clone(),
                account.queued() + account.left_behind(),
            )
        });
        let mut left: Vec<(String, u64)> = Vec::new();
        for (id, events) in state.left.iter().cloned().chain(running) {
            match left.iter_mut().find(|(known, _)| *known == id) {
                Some((_, known)) => *known += events,
                None => left.push((id, events)),
            }
        }
        left.retain(|(_, events)| *events > 0);
        left
    }

    /// Returns what there is of an id, and has it hand over.
    pub(super) fn replace(&self, id: &str) -> Before {
        let mut before = Before::default();
        for entry in &self.state.lock().entries {
            if entry.name.id == id {
                entry.life.advance(Phase::HandingOver);
                before.spooled |= entry.spooled;
            }
        }
        before
    }

    /// Returns the dead letters of an id, which all outputs with that id share.
    pub(super) fn dead_letters(
        &self,
        id: &str,
        max_bytes: u64,
        make: impl FnOnce() -> DeadLetters,
    ) -> Arc<DeadLetters> {
        let mut state = self.state.lock();
        // Those of outputs that have ended.
        state
            .dead_letters
            .retain(|_, known| known.strong_count() > 0);
        let known = state.dead_letters.get(id).and_then(Weak::upgrade);
        if let Some(known) = known {
            known.set_max_bytes(max_bytes);
            return known;
        }
        let made = Arc::new(make());
        state
            .dead_letters
            .insert(id.to_owned(), Arc::downgrade(&made));
        made
    }

    /// Takes an output in.
    pub(super) fn add(
        &self,
        name: NamedOutput,
        queue: Arc<OutputQueue>,
        dead_letters: Option<Arc<DeadLetters>>,
        spooled: bool,
    ) -> Arc<Entry> {
        let mut state = self.state.lock();
        state.last_serial += 1;
        let entry = Arc::new(Entry {
            serial: state.last_serial,
            name,
            life: Lifecycle::new(),
            queue,
            dead_letters,
            spooled,
        });
        if state.ending {
            entry.life.advance(Phase::Draining);
        }
        state.entries.push(Arc::clone(&entry));
        drop(state);
        self.running.send_modify(|running| *running += 1);
        entry
    }

    /// Waits until all outputs with the same id have ended that were started before.
    pub(super) async fn succeeded_all(&self, entry: &Entry) {
        let is_last = |_: &usize| {
            let state = self.state.lock();
            let mut before = state.entries.iter();
            !before.any(|other| other.name.id == entry.name.id && other.serial < entry.serial)
        };
        let _ = self.running.subscribe().wait_for(is_last).await;
    }

    /// Takes an output out whose tasks have ended, and hands what is in its queue to the newest one
    /// with the same id; returns what nobody takes.
    pub(super) fn remove(&self, entry: &Entry) -> Vec<Group> {
        let mut state = self.state.lock();
        state.entries.retain(|other| other.serial != entry.serial);
        let groups = entry.queue.take_all();
        let successor = state.entries.iter().rev().find(|other| {
            let aborted = matches!(other.life.phase(), Phase::Aborted(_));
            other.name.id == entry.name.id && !aborted
        });
        let Some(successor) = successor else {
            return groups;
        };
        for group in groups {
            let events = group.events();
            successor.name.account.recovered(events);
            entry.name.account.handed_on(events);
            entry.queue.hand_on(group, &successor.queue);
        }
        Vec::new()
    }

    /// Notes that an output has ended, with all of its books written.
    pub(super) fn note_end(&self, entry: &Entry) {
        let mut state = self.state.lock();
        if state.ending {
            let left = entry.name.account.left_behind();
            state.left.push((entry.name.id.clone(), left));
        }
        drop(state);
        self.running.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_go_forward_only() {
        use Phase::{Aborted, Draining, HandingOver, Retired, Running};
        let aborted = Aborted(DiscardReason::Removed);
        let life = Lifecycle::new();
        for (next, then) in [
            (Running, Running),
            (Retired, Retired),
            (Draining, Draining),
            (Retired, Draining),
            (HandingOver, HandingOver),
            (Draining, HandingOver),
            (aborted, aborted),
            (HandingOver, aborted),
            (Aborted(DiscardReason::Shutdown), aborted),
        ] {
            life.advance(next);
            assert_eq!(life.phase(), then, "after {next:?}");
        }
    }
}
