//! The claim of a gate on the folder of its spools and dead letters.
//!
//! It is made before anything starts: with two gates on one folder each would wait for the locks of
//! the other, or send what the other has on the disk.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use streamgate_spool::{FolderLock, Holder, LockError, OpenError, Spool};

/// Why a folder cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process has it, or a folder in it.
    #[error(
        "the spool folder `{}` is in use by another gate ({holder}); stop that one or give this \
         one its own folder with `--spool`", path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// A newer version wrote a spool in it.
    #[error("{0}")]
    Newer(OpenError),
}

/// Locks the folder, and looks whether all that is in it is free and can be read. None if there is
/// no way to lock it: then outputs have no spools, and say why.
///
/// # Errors
/// [`ClaimError`].
pub fn claim(folder: &Path) -> Result<Option<FolderLock>, ClaimError> {
    // What cannot be made is told by the outputs that need it.
    let _ = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    let lock = match FolderLock::take(folder) {
        Ok(lock) => Some(lock),
        Err(LockError::Held(holder)) => {
            return Err(ClaimError::InUse {
                path: folder.to_owned(),
                holder,
            });
        }
        Err(LockError::Io(_)) => None,
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        for inner in ["spool", "dead_letters"] {
            let inner = entry.path().join(inner);
            if !inner.is_dir() {
                continue;
            }
            // Let go of at once: its output takes it.
            match Spool::claim(&inner) {
                Err(OpenError::InUse { path, holder }) => {
                    return Err(ClaimError::InUse { path, holder });
                }
                Err(newer @ OpenError::Newer { .. }) => return Err(ClaimError::Newer(newer)),
                Ok(_) | Err(OpenError::Unusable { .. }) => {}
            }
        }
    }
    Ok(lock)
}
