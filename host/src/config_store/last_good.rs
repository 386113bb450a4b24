//! What a gate of a fleet ran last, on its own disk: it starts from it when Redis is away.
//!
//! ```text
//! lock                 held while it is in use; two gates cannot share a directory
//! last-good.json       the manifest that is in force, with the number it was given
//! modules/<hex>.wasm   the modules that it needs
//! ```
//!
//! Promises that a manifest is only written once its modules are. A disk that fails costs nothing
//! but this: the gate goes on and says so.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use streamgate_spool::FolderLock;
use tracing::warn;

use super::{
    StoreError,
    embedded::{
        list_modules, module_file, prepare_directory, read_file, read_manifest, remove_file,
        replace_file, sealed,
    },
};
use crate::{
    digest::Digest,
    manifest::{Manifest, pinned_digests},
};

const MANIFEST_REMEDY: &str = "remove it to start from what Redis has";
const MODULE_REMEDY: &str = "remove it; it is fetched from Redis again";

/// The last manifest that was in force, and its modules.
#[derive(Debug)]
pub(crate) struct LastGood {
    /// None keeps it in memory only.
    directory: Option<PathBuf>,
    manifest: ArcSwap<Manifest>,
    /// The lock on the directory ends when this is closed, also by a crash.
    _lock: Option<FolderLock>,
}

impl LastGood {
    /// Reads what is in `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// It belongs to another gate, cannot be made or read, or is damaged.
    pub(crate) fn open(directory: Option<&Path>) -> Result<Self, StoreError> {
        let Some(directory) = directory else {
            return Ok(Self {
                directory: None,
                manifest: ArcSwap::from_pointee(Manifest::empty()),
                _lock: None,
            });
        };
        let lock = prepare_directory(directory, &["modules"], "--cache")?;
        let manifest = read_manifest(&directory.join("last-good.json"), MANIFEST_REMEDY)?;
        Ok(Self {
            directory: Some(directory.to_owned()),
            manifest: ArcSwap::from_pointee(manifest.unwrap_or_else(Manifest::empty)),
            _lock: Some(lock),
        })
    }

    /// The manifest; revision 0 if there was none.
    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        self.manifest.load_full()
    }

    /// Notes that `manifest` is in force. Its modules were given to
    /// [`keep_module`](Self::keep_module).
    pub(crate) fn keep(&self, manifest: &Manifest) {
        self.manifest.store(Arc::new(manifest.clone()));
        let Some(directory) = &self.directory else {
            return;
        };
        let written = sealed("the manifest", manifest)
            .and_then(|bytes| replace_file(directory, "last-good.json", &bytes));
        match written {
            Ok(()) => self.forget_modules(directory, manifest),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "could not keep the manifest on disk; without Redis, a restart begins with an older one"
            ),
        }
    }

    /// Keeps the bytes of a module.
    pub(crate) fn keep_module(&self, digest: Digest, bytes: &[u8]) {
        let Some(directory) = &self.directory else {
            return;
        };
        let kept = replace_file(&directory.join("modules"), &module_file(digest), bytes);
        if let Err(error) = kept {
            warn!(
                error = &error as &dyn std::error::Error,
                "could not keep a module on disk; without Redis, a restart does without it"
            );
        }
    }

    /// Returns the bytes of a module, if they are here and are what they should be.
    pub(crate) fn module(&self, digest: Digest) -> Option<Vec<u8>> {
        let path = self.directory.as_ref()?;
        let path = path.join("modules").join(module_file(digest));
        let bytes = read_file(&path, MODULE_REMEDY).ok()??;
        (Digest::of(&bytes) == digest).then_some(bytes)
    }

    /// Removes the modules that `manifest` does not need.
    fn forget_modules(&self, directory: &Path, manifest: &Manifest) {
        let needed: BTreeSet<Digest> = pinned_digests(manifest.pipeline()).collect();
        let modules = directory.join("modules");
        let Ok(kept) = list_modules(&modules) else {
            return;
        };
        for digest in kept.keys().filter(|digest| !needed.contains(digest)) {
            // A file that cannot be removed only takes space.
            let _ = remove_file(&modules.join(module_file(*digest)));
        }
    }
}
