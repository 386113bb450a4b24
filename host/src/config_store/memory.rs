//! The memory store: a config store that ends with the process.
//!
//! For trying things out and for tests. Keeps the promises of the other stores within the life of
//! the process.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{MAX_REVISIONS, RevisionSummary, StoreError, check_next, encode};
use crate::manifest::{Manifest, Pipeline};

/// A config store in memory.
#[derive(Debug)]
pub struct Memory {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    draft: Option<Pipeline>,
    live: Manifest,
    /// At most `MAX_REVISIONS`.
    revisions: BTreeMap<u64, Manifest>,
}

impl Memory {
    /// Returns an empty store.
    #[expect(
        clippy::new_without_default,
        reason = "a store is opened on purpose, never by default"
    )]
    pub fn new() -> Self {
        let kept = Kept {
            draft: None,
            live: Manifest::empty(),
            revisions: BTreeMap::new(),
        };
        Self {
            kept: Mutex::new(kept),
        }
    }

    pub(super) fn draft(&self) -> Pipeline {
        let kept = self.kept.lock();
        kept.draft
            .as_ref()
            .unwrap_or_else(|| kept.live.pipeline())
            .clone()
    }

    pub(super) fn save_draft(&self, draft: &Pipeline) -> Result<(), StoreError> {
        // For its limit: what one store takes, all take.
        encode("the draft", draft)?;
        self.kept.lock().draft = Some(draft.clone());
        Ok(())
    }

    pub(super) fn live(&self) -> Manifest {
        self.kept.lock().live.clone()
    }

    pub(super) fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        encode("the manifest", manifest)?;
        let mut kept = self.kept.lock();
        check_next(&kept.live, manifest)?;
        kept.live = manifest.clone();
        kept.revisions.insert(manifest.revision, manifest.clone());
        while kept.revisions.len() > MAX_REVISIONS {
            kept.revisions.pop_first();
        }
        Ok(())
    }

    pub(super) fn revisions(&self) -> Vec<RevisionSummary> {
        self.kept
            .lock()
            .revisions
            .values()
            .map(RevisionSummary::of)
            .collect()
    }

    pub(super) fn revision(&self, number: u64) -> Option<Manifest> {
        self.kept.lock().revisions.get(&number).cloned()
    }
}
