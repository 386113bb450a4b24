//! The memory store: a config store that ends with the process.
//!
//! For trying things out and for tests. Keeps the promises of the other stores within the life of
//! the process.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use super::{
    MAX_REVISIONS, ModuleEntry, RevisionSummary, StoreError, check_next, check_room, encode,
    with_entry,
};
use crate::{
    digest::Digest,
    manifest::{Manifest, Pipeline, pinned_digests},
};

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
    /// By name.
    entries: Vec<ModuleEntry>,
    /// What the entries, the draft and the manifests need.
    modules: BTreeMap<Digest, Vec<u8>>,
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
            entries: Vec::new(),
            modules: BTreeMap::new(),
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

    pub(super) fn save_draft(
        &self,
        draft: &Pipeline,
        replaces: &Pipeline,
    ) -> Result<(), StoreError> {
        // For its limit: what one store takes, all take.
        encode("the draft", draft)?;
        let mut kept = self.kept.lock();
        if kept.draft.as_ref().unwrap_or_else(|| kept.live.pipeline()) != replaces {
            return Err(StoreError::DraftChanged);
        }
        kept.draft = Some(draft.clone());
        kept.forget_modules();
        Ok(())
    }

    pub(super) fn live(&self) -> Manifest {
        self.kept.lock().live.clone()
    }

    pub(super) fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        encode("the manifest", manifest)?;
        let mut kept = self.kept.lock();
        check_next(&kept.live, manifest)?;
        let was_edited = kept
            .draft
            .as_ref()
            .is_some_and(|draft| !draft.is_published_as(kept.live.pipeline()));
        kept.live = manifest.clone();
        if manifest.rolled_back_to.is_some() && !was_edited {
            kept.draft = None;
        }
        kept.revisions.insert(manifest.revision, manifest.clone());
        while kept.revisions.len() > MAX_REVISIONS {
            kept.revisions.pop_first();
        }
        kept.forget_modules();
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

    pub(super) fn put_module(&self, entry: ModuleEntry, bytes: &[u8]) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        let stored = kept.modules.iter();
        let stored = stored
            .map(|(digest, bytes)| (*digest, bytes.len() as u64))
            .collect();
        check_room(&kept.entries, &stored, &entry)?;
        kept.modules.insert(entry.digest, bytes.to_vec());
        kept.entries = with_entry(&kept.entries, entry);
        kept.forget_modules();
        Ok(())
    }

    pub(super) fn delete_module(&self, name: &str) -> bool {
        let mut kept = self.kept.lock();
        let before = kept.entries.len();
        kept.entries.retain(|entry| entry.name != name);
        kept.forget_modules();
        kept.entries.len() < before
    }

    pub(super) fn modules(&self) -> Vec<ModuleEntry> {
        self.kept.lock().entries.clone()
    }

    pub(super) fn module_bytes(&self, digest: Digest) -> Option<Vec<u8>> {
        self.kept.lock().modules.get(&digest).cloned()
    }
}

impl Kept {
    /// Lets go of the modules that nothing needs any more.
    fn forget_modules(&mut self) {
        let pipelines = self.revisions.values().map(Manifest::pipeline);
        let pipelines = pipelines.chain(&self.draft).chain([self.live.pipeline()]);
        let mut needed: BTreeSet<Digest> = pipelines.flat_map(pinned_digests).collect();
        needed.extend(self.entries.iter().map(|entry| entry.digest));
        self.modules.retain(|digest, _| needed.contains(digest));
    }
}
