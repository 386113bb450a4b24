//! The embedded store: plain JSON files in a directory that belongs to one gate.
//!
//! Promises that a `kill -9` or a power cut at any instant leaves the state before an edit or the
//! state after it. `live.json` is the commit point of a publish: its revision file is written
//! first, and one that is newer than `live.json` was never published and is removed on opening.
//!
//! ```text
//! lock                 held while the store is open; two gates cannot share a directory
//! draft.json           a pipeline, and the revision that was live when it was saved; missing until
//!                      the first edit. A rollback after that revision makes it void, so a
//!                      rollback that leaves it alone writes its own number there.
//! live.json            a manifest; missing until the first publish
//! revisions/<n>.json   the manifest of that revision, for the last hundred
//! modules.json         the modules that have a name; missing until the first upload
//! modules/<hex>.wasm   the module of that SHA-256, for as long as a name or a manifest needs it
//! ```
//!
//! Each JSON file ends in a line with the format and a checksum: `#streamgate-store 2 sha256:HEX`,
//! of all that is before it and of the format. Files of format 1 (StreamGate 0.1) have no such
//! line; they are read. A draft or an old revision that is damaged is renamed to
//! `<name>.damaged-<n>`, and the store goes on without it; for a damaged `live.json` the newest
//! revision takes its place.
//!
//! `modules.json` is the commit point of an upload: a module that nothing refers to was never
//! uploaded, or is not needed any more, and is removed on opening.
//!
//! A file is replaced by writing `.<name>.tmp` beside it, fsync, rename, fsync of the directory.
//! Files are for this user only (0600, directories 0700): outputs may hold credentials.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use streamgate_spool::{FolderLock, LockError};
use tracing::{error, info, warn};

use super::{
    MAX_FILE_BYTES, MAX_REVISIONS, ModuleEntry, RevisionSummary, SavedDraft, StoreError,
    check_next, check_room, encode, with_entry,
};
use crate::{
    digest::Digest,
    manifest::{Manifest, Pipeline, check_manifest, check_pipeline, pinned_digests},
};

/// The format that is written.
const FORMAT: u32 = 2;

/// Begins the last line of a file.
const SEAL: &[u8] = b"\n#streamgate-store ";

/// Most damaged files of one name that are kept.
const MAX_DAMAGED: usize = 4;

const DRAFT_REMEDY: &str = "remove it to go on with the live manifest as the draft";
const LIVE_REMEDY: &str = "put a copy of the newest file in `revisions/` in its place";
const REVISION_REMEDY: &str = "move it away to go on without this revision";
const MODULES_REMEDY: &str = "remove it, and upload the modules again";
const MODULE_REMEDY: &str = "remove it, and upload the module again";

/// A config store in a directory.
#[derive(Debug)]
pub struct Embedded {
    directory: PathBuf,
    /// What the files hold. Locked for a whole write, so that writes come one after the other.
    kept: Mutex<Kept>,
    /// The lock on the directory ends when this is closed, also by a crash.
    _lock: FolderLock,
}

#[derive(Debug)]
struct Kept {
    draft: Option<Pipeline>,
    live: Manifest,
    /// The files in `revisions/`, at most `MAX_REVISIONS`; the manifests themselves stay on disk.
    revisions: BTreeMap<u64, KeptRevision>,
    /// What `modules.json` holds, by name.
    entries: Vec<ModuleEntry>,
    /// The files in `modules/` and their sizes; the modules themselves stay on disk.
    modules: BTreeMap<Digest, u64>,
}

#[derive(Debug)]
struct KeptRevision {
    summary: RevisionSummary,
    /// The modules that it needs.
    modules: Vec<Digest>,
}

impl Embedded {
    /// Opens the store in `directory`, which is made if it is missing, and clears away what an
    /// unfinished edit left behind.
    ///
    /// # Errors
    /// See [`ConfigStore::open`](super::ConfigStore::open). All files are read and checked before
    /// any is removed.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let lock = prepare_directory(directory, &["revisions", "modules"], "--store")?;
        let mut aside = SetAside::default();
        let draft = read_draft(&directory.join("draft.json"));
        let draft = aside.unless_unusable(draft)?.flatten();
        let numbers = list_revisions(&directory.join("revisions"))?;
        let live = read_manifest(&directory.join("live.json"), LIVE_REMEDY);
        let mut was_missing = false;
        let live = match aside.unless_damaged(live)? {
            // The first publish was broken off, or the file was removed. Nobody was told that
            // nothing is published, and the rules of the one revision are better than none.
            Some(None) if numbers.iter().eq(&[1]) => {
                was_missing = true;
                Some(newest_revision(directory, &numbers, &mut aside)?)
            }
            Some(live) => live,
            None => Some(newest_revision(directory, &numbers, &mut aside)?),
        };
        let published = live.as_ref().map_or(0, |live| live.revision);
        // A crash may have come between the rollback and the removal of the draft.
        let is_rollback = live
            .as_ref()
            .is_some_and(|live| live.rolled_back_to.is_some());
        let draft = draft
            .filter(|draft| !is_rollback || draft.saved_at_revision >= published)
            .map(|draft| draft.pipeline);
        if numbers.iter().any(|&number| number > published + 1) && live.is_some() {
            return Err(StoreError::Unusable {
                path: directory.join("live.json"),
                found: format!("it holds revision {published}, and newer ones were published"),
                remedy: LIVE_REMEDY,
            });
        }
        if live.is_none() && numbers.iter().any(|&number| number > 1) {
            return Err(StoreError::Unusable {
                path: directory.join("live.json"),
                found: "it is missing, but there are published revisions".to_owned(),
                remedy: LIVE_REMEDY,
            });
        }
        let (kept, unpublished): (Vec<u64>, Vec<u64>) =
            numbers.into_iter().partition(|&number| number <= published);
        for number in &unpublished {
            warn!(
                revision = number,
                live = published,
                "removing a revision that was stored and not made live: publishing it was broken off"
            );
        }
        let mut revisions = BTreeMap::new();
        for number in kept {
            let manifest = aside.unless_unusable(read_revision(directory, number))?;
            let manifest = manifest.flatten();
            revisions.extend(manifest.map(|manifest| (number, KeptRevision::of(&manifest))));
        }
        let entries: Option<Vec<ModuleEntry>> =
            read_sealed(&directory.join("modules.json"), MODULES_REMEDY)?;
        let store = Self {
            directory: directory.to_owned(),
            kept: Mutex::new(Kept {
                draft,
                live: live.unwrap_or_else(Manifest::empty),
                revisions,
                entries: entries.unwrap_or_default(),
                modules: list_modules(&directory.join("modules"))?,
            }),
            _lock: lock,
        };
        // All files were read and checked.
        let live_was_damaged = aside.move_away(directory)?;
        if live_was_damaged || was_missing {
            let live = store.live();
            let bytes = sealed("the manifest", &live)?;
            replace_file(directory, "live.json", &bytes)?;
            error!(
                revision = live.revision,
                was_missing,
                "`live.json` was damaged or missing; the newest revision that can be read is live now"
            );
        }
        store.remove_leftovers(&unpublished)?;
        Ok(store)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
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
        let mut kept = self.kept.lock();
        if kept.draft.as_ref().unwrap_or_else(|| kept.live.pipeline()) != replaces {
            return Err(StoreError::DraftChanged);
        }
        let saved = SavedDraft {
            pipeline: draft.clone(),
            saved_at_revision: kept.live.revision,
        };
        let bytes = sealed("the draft", &saved)?;
        replace_file(&self.directory, "draft.json", &bytes)?;
        kept.draft = Some(draft.clone());
        self.forget_modules(&mut kept);
        Ok(())
    }

    pub(super) fn live(&self) -> Manifest {
        self.kept.lock().live.clone()
    }

    pub(super) fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let bytes = sealed("the manifest", manifest)?;
        let mut kept = self.kept.lock();
        check_next(&kept.live, manifest)?;
        let edited = kept
            .draft
            .as_ref()
            .filter(|draft| !draft.is_published_as(kept.live.pipeline()));
        if manifest.rolled_back_to.is_some()
            && let Some(draft) = edited
        {
            // Before the rollback, which makes drafts of an earlier time void.
            let saved = SavedDraft {
                pipeline: draft.clone(),
                saved_at_revision: manifest.revision,
            };
            let draft = sealed("the draft", &saved)?;
            replace_file(&self.directory, "draft.json", &draft)?;
        }
        let was_edited = edited.is_some();
        let revision_file = format!("{}.json", manifest.revision);
        replace_file(&self.directory.join("revisions"), &revision_file, &bytes)?;
        if let Err(err) = replace_file(&self.directory, "live.json", &bytes) {
            self.restore_live(&kept.live);
            return Err(err);
        }
        kept.live = manifest.clone();
        if manifest.rolled_back_to.is_some() && !was_edited {
            kept.draft = None;
            // It is void already.
            if let Err(err) = remove_file(&self.directory.join("draft.json")) {
                warn!(
                    error = &err as &dyn std::error::Error,
                    "could not remove the draft from before a rollback"
                );
            }
        }
        kept.revisions
            .insert(manifest.revision, KeptRevision::of(manifest));
        self.forget_oldest(&mut kept.revisions);
        self.forget_modules(&mut kept);
        Ok(())
    }

    pub(super) fn revisions(&self) -> Vec<RevisionSummary> {
        let kept = self.kept.lock();
        let summaries = kept.revisions.values();
        summaries.map(|revision| revision.summary.clone()).collect()
    }

    pub(super) fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        // Held while reading, so that the file is not forgotten in between.
        let kept = self.kept.lock();
        if !kept.revisions.contains_key(&number) {
            return Ok(None);
        }
        read_revision(&self.directory, number)
    }

    pub(super) fn put_module(&self, entry: ModuleEntry, bytes: &[u8]) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        check_room(&kept.entries, &kept.modules, &entry)?;
        let (digest, size_bytes) = (entry.digest, entry.size_bytes);
        let entries = with_entry(&kept.entries, entry);
        let json = sealed("the list of modules", &entries)?;
        // Also if it is there: that file may be damaged.
        replace_file(&self.directory.join("modules"), &module_file(digest), bytes)?;
        kept.modules.insert(digest, size_bytes);
        // If this fails after its rename, the list on disk names the module: so it stays until the
        // store is opened again, or something else changes.
        replace_file(&self.directory, "modules.json", &json)?;
        kept.entries = entries;
        self.forget_modules(&mut kept);
        Ok(())
    }

    pub(super) fn delete_module(&self, name: &str) -> Result<bool, StoreError> {
        let mut kept = self.kept.lock();
        let mut entries = kept.entries.clone();
        entries.retain(|entry| entry.name != name);
        if entries.len() == kept.entries.len() {
            return Ok(false);
        }
        let json = sealed("the list of modules", &entries)?;
        replace_file(&self.directory, "modules.json", &json)?;
        kept.entries = entries;
        self.forget_modules(&mut kept);
        Ok(true)
    }

    pub(super) fn modules(&self) -> Vec<ModuleEntry> {
        self.kept.lock().entries.clone()
    }

    pub(super) fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        // Held while reading, so that the file is not forgotten in between.
        let kept = self.kept.lock();
        if !kept.modules.contains_key(&digest) {
            return Ok(None);
        }
        let path = self.directory.join("modules").join(module_file(digest));
        let Some(bytes) = read_file(&path, MODULE_REMEDY)? else {
            return Ok(None);
        };
        if Digest::of(&bytes) != digest {
            let found = format!("it is damaged: its digest is {}", Digest::of(&bytes));
            return Err(unusable(&path, found, MODULE_REMEDY));
        }
        Ok(Some(bytes))
    }

    /// Removes the modules that nothing needs any more. What they were needed for is done by then:
    /// a file that cannot be removed is only worth a warning.
    fn forget_modules(&self, kept: &mut Kept) {
        let revisions = kept
            .revisions
            .values()
            .flat_map(|revision| revision.modules.iter().copied());
        let pipelines = kept.draft.iter().chain([kept.live.pipeline()]);
        let needed: BTreeSet<Digest> = pipelines
            .flat_map(pinned_digests)
            .chain(revisions)
            .chain(kept.entries.iter().map(|entry| entry.digest))
            .collect();
        kept.modules.retain(|digest, _| {
            if needed.contains(digest) {
                return true;
            }
            let path = self.directory.join("modules").join(module_file(*digest));
            let removed = remove_file(&path);
            if let Err(err) = &removed {
                warn!(
                    error = err as &dyn std::error::Error,
                    "could not remove a module that nothing needs"
                );
            }
            removed.is_err()
        });
    }

    /// Puts the previous `live.json` back after a write that failed, for the failure may have come
    /// after the rename. If this fails too, the disk is gone, and a restart decides what it holds.
    fn restore_live(&self, live: &Manifest) {
        let restored = match live.revision {
            0 => remove_file(&self.directory.join("live.json")),
            _ => sealed("the manifest", live)
                .and_then(|bytes| replace_file(&self.directory, "live.json", &bytes)),
        };
        if let Err(err) = restored {
            warn!(
                error = &err as &dyn std::error::Error,
                "could not put `live.json` back"
            );
        }
    }

    /// Removes the oldest revisions above the limit. The publish is done by then: a file that
    /// cannot be removed is only worth a warning, and is tried again when the store is opened.
    fn forget_oldest(&self, revisions: &mut BTreeMap<u64, KeptRevision>) {
        while revisions.len() > MAX_REVISIONS {
            let Some((number, _)) = revisions.pop_first() else {
                return;
            };
            let path = self
                .directory
                .join("revisions")
                .join(format!("{number}.json"));
            if let Err(err) = remove_file(&path) {
                warn!(
                    error = &err as &dyn std::error::Error,
                    "could not remove an old revision"
                );
            }
        }
    }

    /// Removes what an edit that was cut short left behind.
    fn remove_leftovers(&self, unpublished: &[u64]) -> Result<(), StoreError> {
        let revisions = self.directory.join("revisions");
        for &number in unpublished {
            info!(
                revision = number,
                "removing a revision whose publish was not finished"
            );
            remove_file(&revisions.join(format!("{number}.json")))?;
        }
        for directory in [&self.directory, &revisions, &self.directory.join("modules")] {
            for name in list_names(directory)? {
                let is_ours = name.ends_with(".json.tmp") || name.ends_with(".wasm.tmp");
                if name.starts_with('.') && is_ours {
                    remove_file(&directory.join(name))?;
                }
            }
        }
        let mut kept = self.kept.lock();
        self.forget_oldest(&mut kept.revisions);
        self.forget_modules(&mut kept);
        Ok(())
    }
}

/// Makes the directory and those `inner` to it, and takes the lock. `setting` is the flag that the
/// directory was given by.
pub(super) fn prepare_directory(
    directory: &Path,
    inner: &[&str],
    setting: &'static str,
) -> Result<FolderLock, StoreError> {
    let failed = |source| StoreError::Open {
        path: directory.to_owned(),
        setting,
        source,
    };
    for inner in inner {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join(inner))
            .map_err(failed)?;
    }
    sync_directory(directory).map_err(failed)?;
    // Makes a new directory itself outlast a power cut. Its parent may be one we cannot open, and
    // then somebody else made this one.
    if let Some(parent) = fs::canonicalize(directory).map_err(failed)?.parent() {
        let _ = sync_directory(parent);
    }
    FolderLock::take(directory).map_err(|error| match error {
        LockError::Held(holder) => StoreError::Locked {
            path: directory.to_owned(),
            holder,
            setting,
        },
        LockError::Io(source) => failed(source),
    })
}

fn read_draft(path: &Path) -> Result<Option<SavedDraft>, StoreError> {
    let draft: Option<SavedDraft> = read_sealed(path, DRAFT_REMEDY)?;
    if let Some(Err(fault)) = draft.as_ref().map(|draft| check_pipeline(&draft.pipeline)) {
        return Err(unusable(path, fault.to_string(), DRAFT_REMEDY));
    }
    Ok(draft)
}

fn read_revision(directory: &Path, number: u64) -> Result<Option<Manifest>, StoreError> {
    let path = directory.join("revisions").join(format!("{number}.json"));
    let manifest = read_manifest(&path, REVISION_REMEDY)?;
    match &manifest {
        Some(other) if other.revision != number => {
            let found = format!(
                "it holds revision {}, its name says {number}",
                other.revision
            );
            Err(unusable(&path, found, REVISION_REMEDY))
        }
        _ => Ok(manifest),
    }
}

pub(super) fn read_manifest(
    path: &Path,
    remedy: &'static str,
) -> Result<Option<Manifest>, StoreError> {
    let manifest: Option<Manifest> = read_sealed(path, remedy)?;
    if let Some(Err(fault)) = manifest.as_ref().map(check_manifest) {
        return Err(unusable(path, fault.to_string(), remedy));
    }
    Ok(manifest)
}

fn unusable(path: &Path, found: String, remedy: &'static str) -> StoreError {
    StoreError::Unusable {
        path: path.to_owned(),
        found,
        remedy,
    }
}

/// Reads a file with its checksum; `None` if there is none.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub(crate) fn read_sealed<T: DeserializeOwned>(
    path: &Path,
    remedy: &'static str,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read_file(path, remedy)? else {
        return Ok(None);
    };
    let json = unsealed(path, &bytes, remedy)?;
    let is_sealed = json.len() < bytes.len();
    let read = serde_json::from_slice(json).map(Some);
    // What is as it was written is not damaged.
    if let Err(error) = &read
        && is_sealed
    {
        let found = format!("this version does not know what it holds ({error})");
        return Err(unusable(path, found, remedy));
    }
    read.map_err(|source| StoreError::Damaged {
        path: path.to_owned(),
        remedy,
        source,
    })
}

/// Files that are damaged and are to be set aside.
#[derive(Debug, Default)]
struct SetAside {
    paths: Vec<PathBuf>,
}

impl SetAside {
    /// Takes note of a file that is damaged or cannot be right; `None` then. It may be noted twice.
    fn unless_unusable<T>(&mut self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Err(error) if matches!(error, StoreError::Unusable { .. }) => self.note(error),
            other => self.unless_damaged(other),
        }
    }

    /// Takes note of a file that is damaged; `None` then.
    fn unless_damaged<T>(&mut self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Err(error) if error.is_damage() => self.note(error),
            other => other.map(Some),
        }
    }

    fn note<T>(&mut self, error: StoreError) -> Result<Option<T>, StoreError> {
        let Some(path) = error.path().map(Path::to_owned) else {
            return Err(error);
        };
        if self.paths.contains(&path) {
            return Ok(None);
        }
        warn!(
            error = &error as &dyn std::error::Error,
            "a file of the config store is damaged and is set aside"
        );
        self.paths.push(path);
        Ok(None)
    }

    /// Renames the files, and returns whether `live.json` was one of them.
    fn move_away(&self, directory: &Path) -> Result<bool, StoreError> {
        for path in &self.paths {
            let numbered = |number: usize| path.with_added_extension(format!("damaged-{number}"));
            let free = (1..MAX_DAMAGED).find(|number| !numbered(*number).exists());
            let target = numbered(free.unwrap_or(MAX_DAMAGED));
            fs::rename(path, &target).map_err(|source| StoreError::Write {
                path: path.clone(),
                source,
            })?;
            warn!(file = %path.display(), kept_as = %target.display(), "set a damaged file aside");
        }
        Ok(self.paths.contains(&directory.join("live.json")))
    }
}

/// Returns the newest revision that can be read.
fn newest_revision(
    directory: &Path,
    numbers: &[u64],
    aside: &mut SetAside,
) -> Result<Manifest, StoreError> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    for number in numbers.into_iter().rev() {
        let read = aside.unless_unusable(read_revision(directory, number))?;
        if let Some(Some(manifest)) = read {
            return Ok(manifest);
        }
    }
    Err(StoreError::Unusable {
        path: directory.join("live.json"),
        found: "it is damaged, and there is no revision that can be read".to_owned(),
        remedy: "put back a copy from a backup, or give the gate another directory with `--store`",
    })
}

/// Encodes what a file holds, with its checksum.
pub(crate) fn sealed<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = encode(what, value)?;
    let line = seal(&bytes, FORMAT);
    bytes.extend_from_slice(&line);
    Ok(bytes)
}

/// Returns the last line of a file.
fn seal(json: &[u8], format: u32) -> Vec<u8> {
    let head = [SEAL, format.to_string().as_bytes(), b" "].concat();
    let digest = Digest::of(&[json, &head].concat());
    [&head[..], digest.to_string().as_bytes(), b"\n"].concat()
}

/// Returns the JSON of a file if it is what was written. Format 1 has no checksum.
fn unsealed<'a>(
    path: &Path,
    bytes: &'a [u8],
    remedy: &'static str,
) -> Result<&'a [u8], StoreError> {
    let Some(at) = memchr::memmem::rfind(bytes, SEAL) else {
        return Ok(bytes);
    };
    let (json, line) = bytes.split_at(at);
    let said = std::str::from_utf8(&line[SEAL.len()..]).unwrap_or_default();
    let format = said
        .split_once(' ')
        .and_then(|(format, _)| format.parse().ok());
    match format {
        Some(format) if seal(json, format) != line => {}
        Some(format) if format > FORMAT => {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        Some(_) => return Ok(json),
        None => {}
    }
    Err(StoreError::Checksum {
        path: path.to_owned(),
        remedy,
    })
}

/// Reads a file of at most [`MAX_FILE_BYTES`]; `None` if there is none.
pub(super) fn read_file(path: &Path, remedy: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
    let failed = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    // Asked before opening: to open a pipe would wait for whoever writes to it.
    if !metadata.is_file() {
        return Err(unusable(path, "it is not a plain file".to_owned(), remedy));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // One byte more than the limit tells too much from just enough.
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let what = format!("`{}`", path.display());
        return Err(StoreError::TooLarge {
            what,
            found_bytes: metadata.len(),
            most_bytes: MAX_FILE_BYTES,
        });
    }
    Ok(Some(bytes))
}

impl KeptRevision {
    fn of(manifest: &Manifest) -> Self {
        Self {
            summary: RevisionSummary::of(manifest),
            modules: pinned_digests(manifest.pipeline()).collect(),
        }
    }
}

pub(super) fn module_file(digest: Digest) -> String {
    format!("{}.wasm", digest.hex())
}

/// Lists the modules and their sizes; other files are none of ours.
pub(super) fn list_modules(directory: &Path) -> Result<BTreeMap<Digest, u64>, StoreError> {
    let mut modules = BTreeMap::new();
    for name in list_names(directory)? {
        let digits = name.strip_suffix(".wasm");
        let digest = digits.and_then(|digits| format!("sha256:{digits}").parse().ok());
        if let Some(digest) = digest {
            let path = directory.join(&name);
            let metadata =
                fs::metadata(&path).map_err(|source| StoreError::Read { path, source })?;
            modules.insert(digest, metadata.len());
        }
    }
    Ok(modules)
}

/// Lists the numbers of the revision files; other files are none of ours.
fn list_revisions(directory: &Path) -> Result<Vec<u64>, StoreError> {
    let number = |name: &String| {
        let number: u64 = name.strip_suffix(".json")?.parse().ok()?;
        // `007.json` or `+7.json` were not written by us.
        (format!("{number}.json") == *name).then_some(number)
    };
    Ok(list_names(directory)?.iter().filter_map(number).collect())
}

/// Lists the names in a directory; one that is not UTF-8 cannot be ours and is left out.
fn list_names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let failed = |source| StoreError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// Replaces `name` in `directory` so that a crash at any point leaves the old or the new content.
///
/// # Errors
/// The file could not be written. If only the last step failed, readers see the new content
/// already, and a power cut may still bring the old one back.
pub(crate) fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.tmp"));
    let write = || {
        crash_point()?;
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        crash_point()?;
        file.write_all(bytes)?;
        crash_point()?;
        file.sync_all()?;
        crash_point()?;
        fs::rename(&temporary, &path)?;
        crash_point()?;
        sync_directory(directory)
    };
    write().map_err(|source| StoreError::Write {
        path: path.clone(),
        source,
    })
}

/// Removes a file, which may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    let removed = crash_point().and_then(|()| match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    });
    removed.map_err(|source| StoreError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes renames in a directory outlast a power cut.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Stands between any two effects on the disk; in tests the process "dies" here.
#[cfg(not(test))]
fn crash_point() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::crash_point;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::config_store::tests::{entry, manifest, pinned_to, rule};

    thread_local! {
        /// How many more crash points this thread passes; none after the first failure either.
        static STEPS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub(super) fn crash_point() -> io::Result<()> {
        STEPS_LEFT.with(|left| match left.get() {
            0 => Err(io::Error::other("the power is gone")),
            steps => {
                left.set(steps - 1);
                Ok(())
            }
        })
    }

    /// Runs `edit` once for each crash point in it; `check` sees the store that a new process
    /// finds, and whether the edit got to its end.
    fn at_every_crash_point(
        prepare: impl Fn(&Path),
        edit: impl Fn(&Embedded) -> Result<(), StoreError>,
        check: impl Fn(&Embedded, bool),
    ) {
        for steps in 0.. {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let store = Embedded::open(dir.path()).unwrap();
            STEPS_LEFT.set(steps);
            let done = edit(&store).is_ok();
            let unused = STEPS_LEFT.replace(usize::MAX);
            drop(store);

            let reopened = Embedded::open(dir.path()).unwrap();
            check(&reopened, done);
            let names = list_names(dir.path()).unwrap();
            let leftover = names.iter().find(|name| name.ends_with(".tmp"));
            assert_eq!(leftover, None, "after {steps} steps");
            let newest = list_revisions(&dir.path().join("revisions"))
                .unwrap()
                .into_iter()
                .max();
            assert!(
                newest.unwrap_or(0) <= reopened.live().revision,
                "after {steps} steps"
            );
            // It must also be able to go on.
            reopened
                .publish(&manifest(reopened.live().revision + 1))
                .unwrap();
            if unused > 0 {
                assert!(done, "no step failed, yet the edit did");
                assert!(steps > 3, "the edit has crash points");
                return;
            }
        }
    }

    /// Lays down the files of as many published revisions.
    fn published(dir: &Path, revisions: u64) {
        fs::create_dir(dir.join("revisions")).unwrap();
        for number in 1..=revisions {
            let bytes = encode("it", &manifest(number)).unwrap();
            fs::write(dir.join(format!("revisions/{number}.json")), &bytes).unwrap();
            fs::write(dir.join("live.json"), &bytes).unwrap();
        }
    }

    #[test]
    fn crash_during_a_publish_leaves_before_or_after() {
        // From nothing, from a first revision, and with a revision to forget.
        for before in [0, 1, MAX_REVISIONS as u64] {
            at_every_crash_point(
                |dir| published(dir, before),
                |store| store.publish(&manifest(before + 1)),
                |store, done| {
                    let live = store.live();
                    let untouched = if before == 0 {
                        Manifest::empty()
                    } else {
                        manifest(before)
                    };
                    assert!(live == manifest(before + 1) || (live == untouched && !done));
                    assert_eq!(store.draft(), *live.pipeline(), "no draft: it follows");
                    let last = store.revisions().last().map_or(0, |line| line.revision);
                    assert_eq!(last, live.revision);
                    assert!(store.revisions().len() <= MAX_REVISIONS);
                },
            );
        }
    }

    #[test]
    fn crash_during_a_rollback_leaves_before_or_after() {
        let mut edited = Pipeline::empty();
        edited.processors.push(rule(7));
        let mut back = manifest(2);
        back.rolled_back_to = Some(1);
        let as_live = manifest(1).pipelines.remove(0);
        for (draft, after) in [(&edited, &edited), (&as_live, back.pipeline())] {
            at_every_crash_point(
                |dir| {
                    let store = Embedded::open(dir).unwrap();
                    store.publish(&manifest(1)).unwrap();
                    store.save_draft(draft, &store.draft()).unwrap();
                },
                |store| store.publish(&back),
                |store, done| {
                    if store.live() == back {
                        assert_eq!(store.draft(), *after);
                    } else {
                        assert!(!done);
                        assert_eq!((store.live(), store.draft()), (manifest(1), draft.clone()));
                    }
                },
            );
        }
    }

    #[test]
    fn crash_during_a_draft_edit_leaves_before_or_after() {
        let draft = |number| {
            let mut draft = Pipeline::empty();
            draft.processors.push(rule(number));
            draft
        };
        at_every_crash_point(
            |dir| {
                let store = Embedded::open(dir).unwrap();
                store.save_draft(&draft(1), &store.draft()).unwrap();
            },
            |store| store.save_draft(&draft(2), &store.draft()),
            |store, done| {
                let found = store.draft();
                assert!(found == draft(2) || (found == draft(1) && !done));
                assert_eq!(store.live(), Manifest::empty());
            },
        );
    }

    #[test]
    fn crash_while_a_module_changes_leaves_before_or_after() {
        let digest = Digest::of;
        at_every_crash_point(
            |dir| {
                let store = Embedded::open(dir).unwrap();
                store.put_module(entry("m", b"one"), b"one").unwrap();
                let mut pinned = manifest(1);
                pinned.pipelines[0] = pinned_to(b"one");
                store.publish(&pinned).unwrap();
            },
            |store| store.put_module(entry("m", b"two"), b"two"),
            |store, done| {
                let [found] = &store.modules()[..] else {
                    panic!("one name: {:?}", store.modules());
                };
                assert!(found.digest == digest(b"two") || !done);
                let bytes = store.module_bytes(found.digest).unwrap();
                assert_eq!(bytes.map(|bytes| digest(&bytes)), Some(found.digest));
                let pinned = store.module_bytes(digest(b"one")).unwrap();
                assert_eq!(pinned.as_deref(), Some(&b"one"[..]), "a revision needs it");
            },
        );
        at_every_crash_point(
            |dir| {
                let store = Embedded::open(dir).unwrap();
                store.put_module(entry("m", b"one"), b"one").unwrap();
            },
            |store| store.delete_module("m").map(drop),
            |store, done| {
                let bytes = store.module_bytes(digest(b"one")).unwrap();
                match store.modules().is_empty() {
                    true => assert_eq!(bytes, None),
                    false => assert!(!done && bytes.is_some()),
                }
            },
        );
    }

    #[test]
    fn damaged_modules_are_told_and_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        store.put_module(entry("m", b"one"), b"one").unwrap();
        let file = dir
            .path()
            .join("modules")
            .join(module_file(Digest::of(b"one")));
        fs::write(&file, "two").unwrap();
        let found = store
            .module_bytes(Digest::of(b"one"))
            .unwrap_err()
            .to_string();
        assert!(found.contains("it is damaged"), "{found}");
        store.put_module(entry("m", b"one"), b"one").unwrap();
        assert!(store.module_bytes(Digest::of(b"one")).unwrap().is_some());
        fs::write(
            dir.path()
                .join("modules")
                .join(module_file(Digest::of(b"x"))),
            "x",
        )
        .unwrap();
        fs::write(dir.path().join("modules/.x.wasm.tmp"), "x").unwrap();
        drop(store);
        drop(Embedded::open(dir.path()).unwrap());
        let names = list_names(&dir.path().join("modules")).unwrap();
        assert_eq!(
            names,
            [module_file(Digest::of(b"one"))],
            "leftovers are removed"
        );
    }

    #[test]
    fn failed_publish_can_be_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        store.publish(&manifest(1)).unwrap();
        STEPS_LEFT.set(8);
        let failed = store.publish(&manifest(2));
        STEPS_LEFT.set(usize::MAX);
        assert!(
            matches!(failed, Err(StoreError::Write { .. })),
            "{failed:?}"
        );
        assert_eq!(store.live(), manifest(1));
        assert_eq!(store.revision(2).unwrap(), None);
        store.publish(&manifest(2)).unwrap();
        drop(store);
        assert_eq!(Embedded::open(dir.path()).unwrap().live(), manifest(2));
    }

    #[test]
    fn torn_leftovers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        Embedded::open(dir.path())
            .unwrap()
            .publish(&manifest(1))
            .unwrap();
        fs::write(dir.path().join(".live.json.tmp"), "{\"versi").unwrap();
        fs::write(dir.path().join("revisions/.2.json.tmp"), "").unwrap();
        fs::write(dir.path().join("revisions/2.json"), "{\"versi").unwrap();
        fs::write(dir.path().join("revisions/notes.txt"), "mine").unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.live(), manifest(1));
        let mut names = list_names(&dir.path().join("revisions")).unwrap();
        names.sort();
        assert_eq!(names, ["1.json", "notes.txt"]);
    }

    #[test]
    fn second_gate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Embedded::open(dir.path()).unwrap();
        let text = Embedded::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("in use by another gate"), "{text}");
        drop(first);
        Embedded::open(dir.path()).unwrap();
    }

    #[test]
    fn damaged_files_are_named_with_a_remedy() {
        let wrong_format = r#"{"version":"9","pipelines":[]}"#;
        let no_pipeline = r#"{"version":"1.0","pipelines":[]}"#;
        let cases: [(&str, &[u8], &str); 2] = [
            ("live.json", wrong_format.as_bytes(), "the version is `9`"),
            ("live.json", no_pipeline.as_bytes(), "0 pipelines"),
        ];
        for (name, content, wanted) in cases {
            let dir = tempfile::tempdir().unwrap();
            Embedded::open(dir.path())
                .unwrap()
                .publish(&manifest(1))
                .unwrap();
            fs::write(dir.path().join(name), content).unwrap();
            let text = Embedded::open(dir.path()).unwrap_err().to_string();
            assert!(
                text.contains(name) && text.contains(wanted),
                "{name}: {text}"
            );
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn damaged_drafts_and_revisions_are_set_aside_and_bounded() {
        let not_one = serde_json::to_string(&manifest(2)).unwrap();
        let cases: [(&str, &[u8]); 5] = [
            ("draft.json", b"[1, 2"),
            (
                "draft.json",
                br#"{"name":"x","processors":[],"outputs":[],"batch_size":0}"#,
            ),
            ("draft.json", b""),
            ("revisions/1.json", b"{}"),
            ("revisions/1.json", not_one.as_bytes()),
        ];
        for (name, content) in cases {
            let dir = tempfile::tempdir().unwrap();
            for number in 1..=2 {
                let store = Embedded::open(dir.path()).unwrap();
                store.publish(&manifest(number)).unwrap();
            }
            for _ in 0..MAX_DAMAGED + 2 {
                fs::write(dir.path().join(name), content).unwrap();
                let store = Embedded::open(dir.path()).unwrap();
                assert_eq!(store.live(), manifest(2), "{name}");
                assert_eq!(store.draft(), *store.live().pipeline(), "{name}");
            }
            let aside = dir.path().join(format!("{name}.damaged-1"));
            assert_eq!(fs::read(aside).unwrap(), content);
            let last = MAX_DAMAGED + 1;
            assert!(!dir.path().join(format!("{name}.damaged-{last}")).exists());
        }
    }

    #[test]
    fn every_changed_byte_of_the_live_manifest_is_seen_and_the_newest_revision_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        (1..=2).for_each(|n| store.publish(&manifest(n)).unwrap());
        drop(store);
        let path = dir.path().join("live.json");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            let store = Embedded::open(dir.path()).unwrap();
            assert_eq!(store.live(), manifest(2), "byte {at}");
            assert_eq!(fs::read(&path).unwrap(), whole, "byte {at}");
        }
        // An older one in its place is told from it.
        let store = Embedded::open(dir.path()).unwrap();
        store.publish(&manifest(3)).unwrap();
        drop(store);
        fs::copy(dir.path().join("revisions/1.json"), &path).unwrap();
        let text = Embedded::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("newer ones were published"), "{text}");
        assert!(dir.path().join("revisions/3.json").exists());
    }

    #[test]
    fn newer_format_is_refused_and_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        store.publish(&manifest(1)).unwrap();
        drop(store);
        for name in ["live.json", "draft.json", "revisions/1.json"] {
            let path = dir.path().join(name);
            let before = fs::read(&path).ok();
            let json = b"what is this";
            fs::write(&path, [&json[..], &seal(json, 3)].concat()).unwrap();
            let text = Embedded::open(dir.path()).unwrap_err().to_string();
            assert!(text.contains("has format 3"), "{text}");
            assert!(fs::read(&path).unwrap().starts_with(json));
            match before {
                Some(before) => fs::write(&path, before).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
        }
    }

    #[test]
    fn directory_in_place_of_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("live.json")).unwrap();
        let text = Embedded::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("not a plain file"), "{text}");
    }

    #[test]
    fn size_limit_breached_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("draft.json")).unwrap();
        // Sparse: takes no room on the disk.
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        let err = Embedded::open(dir.path()).unwrap_err();
        assert!(matches!(err, StoreError::TooLarge { .. }), "{err:?}");
    }

    #[test]
    fn missing_live_with_history_is_refused_and_nothing_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        (1..=2).for_each(|n| store.publish(&manifest(n)).unwrap());
        drop(store);
        fs::remove_file(dir.path().join("live.json")).unwrap();
        let text = Embedded::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("it is missing"), "{text}");
        assert!(dir.path().join("revisions/2.json").exists());
    }

    #[test]
    fn place_that_cannot_be_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let err = Embedded::open(&file).unwrap_err();
        assert!(matches!(err, StoreError::Open { .. }), "{err:?}");
    }
}
