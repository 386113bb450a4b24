//! What a spool shows of itself without waiting for the disk.
//!
//! The index of a spool is locked while files are deleted and the checkpoint is written. So its
//! figures are copied whenever that lock is released after a change, into a place that is locked
//! only for as long as they are copied.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

use super::{Index, Stats};

/// An index, and a copy of its figures.
#[derive(Debug)]
pub(super) struct ShownIndex {
    index: Mutex<Index>,
    shown: Mutex<Stats>,
}

/// The right to use the index; its figures are copied when it is given up.
pub(super) struct IndexGuard<'a> {
    pub(super) inner: MutexGuard<'a, Index>,
    shown: &'a Mutex<Stats>,
    changed: bool,
}

impl ShownIndex {
    pub(super) fn new(index: Index) -> Self {
        let shown = Mutex::new(index.stats());
        Self {
            index: Mutex::new(index),
            shown,
        }
    }

    /// Locks the index. May wait for the disk.
    pub(super) fn lock(&self) -> IndexGuard<'_> {
        IndexGuard {
            inner: self.index.lock(),
            shown: &self.shown,
            changed: false,
        }
    }

    /// Returns the index of a spool that nobody else uses.
    pub(super) fn get_mut(&mut self) -> &mut Index {
        self.index.get_mut()
    }

    /// Returns the figures. Never waits for the disk.
    pub(super) fn stats(&self) -> Stats {
        self.shown.lock().clone()
    }
}

impl Deref for IndexGuard<'_> {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.inner
    }
}

impl DerefMut for IndexGuard<'_> {
    fn deref_mut(&mut self) -> &mut Index {
        self.changed = true;
        &mut self.inner
    }
}

impl Drop for IndexGuard<'_> {
    fn drop(&mut self) {
        if self.changed {
            // The index is still locked here, so that an older copy cannot replace a newer one.
            let stats = self.inner.stats();
            *self.shown.lock() = stats;
        }
    }
}
