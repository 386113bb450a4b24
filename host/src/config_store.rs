//! The config store: where the draft, the live manifest and its history are kept.
//!
//! Promises that an edit is in the store whole or not at all, whatever happens to the process, and
//! that what it hands out has the shape of a manifest. Whether a manifest can be built is for
//! `gate` to say, and who may edit when for `control`. Everything here blocks: async callers go
//! through `spawn_blocking`.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    manifest::{Manifest, Pipeline},
    wasm::ModuleInfo,
};

pub mod embedded;
pub mod memory;

pub use self::{embedded::Embedded, memory::Memory};

/// How many revisions are kept; publishing one more forgets the oldest.
///
/// A hundred publishes are weeks of work for most users, and a hundred manifests of usual size
/// (some KiB each) are nothing to a disk.
pub const MAX_REVISIONS: usize = 100;

/// Largest draft or manifest that is written or read, in bytes of JSON; a larger one is refused.
///
/// Both directions share the limit, so that nothing is written which could not be read back.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most modules that have a name at a time.
pub const MAX_MODULES: usize = 256;

/// Most bytes of all modules together, those included that only older revisions need.
pub const MAX_MODULES_BYTES: u64 = 1 << 30;

/// Where a config store is, as an operator writes it: `memory:` or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// Plain files in this directory, which is made if it is missing.
    Directory(PathBuf),
    /// Nowhere: what was published ends with the process.
    Memory,
}

/// A config store that is open.
#[derive(Debug)]
pub enum ConfigStore {
    /// Plain files in a directory.
    Embedded(Embedded),
    /// The memory of this process.
    Memory(Memory),
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RevisionSummary {
    /// Number of the revision, counted from 1.
    pub revision: u64,
    /// When it was published, in seconds since 1970-01-01T00:00:00Z.
    pub timestamp: f64,
    /// How many rules it has, disabled ones included.
    pub rules: usize,
    /// How many outputs it has; none means the console.
    pub outputs: usize,
}

/// A module that has a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModuleEntry {
    /// What rules call it; 1 to 128 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// The SHA-256 of its bytes: `sha256:` and 64 hexadecimal digits.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was uploaded, in seconds since 1970-01-01T00:00:00Z.
    pub uploaded: f64,
    /// What it is.
    #[serde(flatten)]
    pub info: ModuleInfo,
}

/// Why a config store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the message of each variant says what its fields are"
)]
pub enum StoreError {
    /// The location names a store that is not in this build. The URL itself may hold a password.
    #[error(
        "a `{scheme}` store is not available: this build has the embedded and the memory store \
         only; set `--store` to a directory or to `memory:`"
    )]
    UnknownStore { scheme: &'static str },
    /// The location is an empty string.
    #[error("the store location is empty; set `--store` to a directory or to `memory:`")]
    NoLocation,
    /// Another gate holds the lock of the directory.
    #[error(
        "the store `{}` is in use by another gate; stop that one or give this one its own \
         directory with `--store`", path.display()
    )]
    Locked { path: PathBuf },
    /// The directory or its lock cannot be made or opened.
    #[error(
        "cannot open the store `{}`; set `--store` to a directory that can be written",
        path.display()
    )]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file is there and cannot be read.
    #[error(
        "cannot read `{}`; check that it is a plain file which this user may read",
        path.display()
    )]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file cannot be written; what it held before still counts.
    #[error("cannot write `{}`; check free space and permissions", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file is not JSON, or not JSON of the right shape.
    #[error("`{}` is damaged; {remedy}", path.display())]
    Damaged {
        path: PathBuf,
        remedy: &'static str,
        source: serde_json::Error,
    },
    /// A file is JSON of the right shape and still impossible.
    #[error("`{}` cannot be used: {found}; {remedy}", path.display())]
    Unusable {
        path: PathBuf,
        found: String,
        remedy: &'static str,
    },
    /// Something is larger than [`MAX_FILE_BYTES`].
    #[error("{what} takes {found_bytes} bytes; the store takes at most {MAX_FILE_BYTES}")]
    TooLarge { what: String, found_bytes: u64 },
    /// There are [`MAX_MODULES`] modules already.
    #[error("there are {MAX_MODULES} modules, which is the most; delete one that no rule names")]
    TooManyModules,
    /// All modules together would be larger than [`MAX_MODULES_BYTES`].
    #[error(
        "with this one all modules take {found_bytes} bytes; the store takes at most \
         {MAX_MODULES_BYTES}; delete modules that no rule names"
    )]
    ModulesTooLarge { found_bytes: u64 },
    /// A draft or manifest cannot be written as JSON.
    #[error("cannot write {what} as JSON")]
    Encode {
        what: String,
        source: serde_json::Error,
    },
    /// Somebody else published in between.
    #[error(
        "revision {found} cannot be published, {expected} is next; read the live one and try again"
    )]
    Conflict { found: u64, expected: u64 },
}

impl FromStr for StoreLocation {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        // Only the scheme goes into the error: what follows it may be a password.
        for scheme in ["redis", "rediss"] {
            let rest = text
                .get(..scheme.len())
                .filter(|head| head.eq_ignore_ascii_case(scheme));
            if rest.is_some() && text[scheme.len()..].starts_with("://") {
                return Err(StoreError::UnknownStore { scheme });
            }
        }
        match text {
            "" => Err(StoreError::NoLocation),
            "memory:" => Ok(Self::Memory),
            directory => Ok(Self::Directory(PathBuf::from(directory))),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

impl ConfigStore {
    /// Opens the store at `location`, and makes an empty one if there is none yet.
    ///
    /// # Errors
    /// What is there belongs to another gate, cannot be read, or is damaged. Nothing was changed
    /// then.
    pub fn open(location: &StoreLocation) -> Result<Self, StoreError> {
        match location {
            StoreLocation::Directory(path) => Embedded::open(path).map(Self::Embedded),
            StoreLocation::Memory => Ok(Self::Memory(Memory::new())),
        }
    }

    /// Returns the draft: what was edited since, or else the live pipeline.
    pub fn draft(&self) -> Result<Pipeline, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.draft()),
            Self::Memory(store) => Ok(store.draft()),
        }
    }

    /// Replaces the draft.
    ///
    /// # Errors
    /// The draft is too large or cannot be written; the one before still counts.
    pub fn save_draft(&self, draft: &Pipeline) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.save_draft(draft),
            Self::Memory(store) => store.save_draft(draft),
        }
    }

    /// Returns the live manifest; revision 0 is that of a store nothing was published to.
    pub fn live(&self) -> Result<Manifest, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.live()),
            Self::Memory(store) => Ok(store.live()),
        }
    }

    /// Makes `manifest` the live one. Its `revision` must be that of the live one plus one. If it is a
    /// rollback, it is the draft from then on too.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the number is another, or the manifest is too large or cannot
    /// be written. The live manifest is the one before then.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.publish(manifest),
            Self::Memory(store) => store.publish(manifest),
        }
    }

    /// Lists the last [`MAX_REVISIONS`] revisions, oldest first.
    pub fn revisions(&self) -> Result<Vec<RevisionSummary>, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.revisions()),
            Self::Memory(store) => Ok(store.revisions()),
        }
    }

    /// Returns one revision, or `None` if there was none of this number or it is forgotten.
    pub fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        match self {
            Self::Embedded(store) => store.revision(number),
            Self::Memory(store) => Ok(store.revision(number)),
        }
    }
}

impl ConfigStore {
    /// Gives `bytes` a name, which may have meant another module before.
    ///
    /// A module is kept for as long as something needs it: its name, the draft, the live manifest, or
    /// a revision that is pinned to its digest.
    ///
    /// # Errors
    /// There are too many modules or they are too large, or it cannot be written; nothing was changed
    /// then.
    pub fn put_module(&self, entry: ModuleEntry, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.put_module(entry, bytes),
            Self::Memory(store) => store.put_module(entry, bytes),
        }
    }

    /// Takes a name away; false if there is no such name.
    ///
    /// # Errors
    /// It cannot be written; the name is there still.
    pub fn delete_module(&self, name: &str) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.delete_module(name),
            Self::Memory(store) => Ok(store.delete_module(name)),
        }
    }

    /// Lists the modules that have a name, by name.
    pub fn modules(&self) -> Vec<ModuleEntry> {
        match self {
            Self::Embedded(store) => store.modules(),
            Self::Memory(store) => store.modules(),
        }
    }

    /// Returns the bytes of a module, whether it has a name or not; `None` if there is none.
    ///
    /// # Errors
    /// They cannot be read, or are not those of the digest any more.
    pub fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Embedded(store) => store.module_bytes(digest),
            Self::Memory(store) => Ok(store.module_bytes(digest)),
        }
    }
}

/// Checks that one more module has room: among `entries` by name, and in `stored` bytes that are there.
fn check_room(
    entries: &[ModuleEntry],
    stored: &BTreeMap<Digest, u64>,
    new: &ModuleEntry,
) -> Result<(), StoreError> {
    let is_new = entries.iter().all(|entry| entry.name != new.name);
    if is_new && entries.len() >= MAX_MODULES {
        return Err(StoreError::TooManyModules);
    }
    let others = stored.iter().filter(|(digest, _)| **digest != new.digest);
    let found_bytes = others.map(|(_, bytes)| bytes).sum::<u64>() + new.size_bytes;
    if found_bytes > MAX_MODULES_BYTES {
        return Err(StoreError::ModulesTooLarge { found_bytes });
    }
    Ok(())
}

/// The entries with `new` among them, by name.
fn with_entry(entries: &[ModuleEntry], new: ModuleEntry) -> Vec<ModuleEntry> {
    let mut entries: Vec<_> = entries
        .iter()
        .filter(|entry| entry.name != new.name)
        .cloned()
        .collect();
    entries.push(new);
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

impl RevisionSummary {
    /// Sums up `manifest`.
    fn of(manifest: &Manifest) -> Self {
        Self {
            revision: manifest.revision,
            timestamp: manifest.timestamp,
            rules: manifest.pipeline().processors.len(),
            outputs: manifest.pipeline().outputs.len(),
        }
    }
}

/// Writes `value` as JSON, if it is not larger than what can be read back. `what` is for the error.
fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|source| StoreError::Encode {
        what: what.to_owned(),
        source,
    })?;
    let found_bytes = bytes.len() as u64;
    if found_bytes > MAX_FILE_BYTES {
        return Err(StoreError::TooLarge {
            what: what.to_owned(),
            found_bytes,
        });
    }
    Ok(bytes)
}

/// Refuses any revision but the next one.
fn check_next(live: &Manifest, next: &Manifest) -> Result<(), StoreError> {
    let expected = live.revision + 1;
    if next.revision != expected {
        return Err(StoreError::Conflict {
            found: next.revision,
            expected,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Rule;

    /// A manifest of this number with as many rules.
    pub(super) fn manifest(revision: u64) -> Manifest {
        let mut manifest = Manifest::empty();
        manifest.revision = revision;
        manifest.timestamp = revision as f64;
        manifest.pipelines[0].processors = (0..revision).map(rule).collect();
        manifest
    }

    pub(super) fn rule(number: u64) -> Rule {
        serde_json::from_value(serde_json::json!({"id": format!("r{number}"), "type": "filter"}))
            .expect("a rule")
    }

    #[test]
    fn locations_are_told_apart() {
        assert_eq!(
            "memory:".parse::<StoreLocation>().unwrap(),
            StoreLocation::Memory
        );
        assert_eq!(
            "./data".parse::<StoreLocation>().unwrap(),
            StoreLocation::Directory("./data".into())
        );
        assert!(matches!(
            "".parse::<StoreLocation>(),
            Err(StoreError::NoLocation)
        ));
    }

    #[test]
    fn redis_is_refused_without_repeating_its_password() {
        for url in ["redis://:hunter2@host:6379", "REDISS://:hunter2@host"] {
            let text = url.parse::<StoreLocation>().unwrap_err().to_string();
            assert!(text.contains("embedded and the memory store"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    pub(super) fn entry(name: &str, bytes: &[u8]) -> ModuleEntry {
        ModuleEntry {
            name: name.to_owned(),
            digest: Digest::of(bytes),
            size_bytes: bytes.len() as u64,
            uploaded: 1.0,
            info: ModuleInfo {
                kind: "core".to_owned(),
                imports: Vec::new(),
                exports: vec!["process".to_owned()],
            },
        }
    }

    /// A pipeline with a rule that is pinned to the digest of `bytes`.
    pub(super) fn pinned_to(bytes: &[u8]) -> Pipeline {
        let mut pipeline = Pipeline::empty();
        let rule = serde_json::json!({
            "id": "pinned", "type": "wasm",
            "params": {"module": "m", "digest": Digest::of(bytes)},
        });
        pipeline.processors = vec![serde_json::from_value(rule).expect("a rule")];
        pipeline
    }

    #[test]
    fn every_store_keeps_modules_for_as_long_as_something_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        for location in [
            StoreLocation::Memory,
            StoreLocation::Directory(dir.path().into()),
        ] {
            let mut store = ConfigStore::open(&location).unwrap();
            let has = |store: &ConfigStore, bytes: &[u8]| {
                let found = store.module_bytes(Digest::of(bytes)).unwrap();
                found.inspect(|found| assert_eq!(found, bytes)).is_some()
            };
            assert_eq!(store.modules(), []);
            store.put_module(entry("b", b"one"), b"one").unwrap();
            store.put_module(entry("a", b"one"), b"one").unwrap();
            assert_eq!(store.modules(), [entry("a", b"one"), entry("b", b"one")]);

            // A name that moves on leaves the old bytes to whoever needs them.
            store.put_module(entry("a", b"two"), b"two").unwrap();
            assert!(has(&store, b"one") && has(&store, b"two"));
            store.put_module(entry("b", b"two"), b"two").unwrap();
            assert!(!has(&store, b"one"), "nothing needs it any more");

            // A revision and the draft need what their rules are pinned to.
            let mut pinned = manifest(1);
            pinned.pipelines[0] = pinned_to(b"two");
            store.save_draft(&pinned_to(b"two")).unwrap();
            store.publish(&pinned).unwrap();
            assert!(store.delete_module("a").unwrap() && store.delete_module("b").unwrap());
            assert!(!store.delete_module("b").unwrap());
            assert_eq!(store.modules(), []);
            assert!(has(&store, b"two"));
            if let StoreLocation::Directory(_) = location {
                drop(store);
                store = ConfigStore::open(&location).unwrap();
                assert!(has(&store, b"two"), "after a restart");
            }
            for number in 2..=MAX_REVISIONS as u64 {
                store.publish(&manifest(number)).unwrap();
            }
            store.save_draft(&Pipeline::empty()).unwrap();
            assert!(has(&store, b"two"), "the first revision is still kept");
            store.publish(&manifest(MAX_REVISIONS as u64 + 1)).unwrap();
            assert!(
                !has(&store, b"two"),
                "the last revision that needs it is forgotten"
            );
        }
    }

    #[test]
    fn modules_are_bounded_in_number_and_bytes() {
        let store = ConfigStore::open(&StoreLocation::Memory).unwrap();
        for number in 0..MAX_MODULES {
            store
                .put_module(entry(&number.to_string(), b"x"), b"x")
                .unwrap();
        }
        let more = store.put_module(entry("more", b"x"), b"x");
        assert!(matches!(more, Err(StoreError::TooManyModules)), "{more:?}");
        store.put_module(entry("0", b"y"), b"y").unwrap();
        let mut giant = entry("1", b"z");
        giant.size_bytes = MAX_MODULES_BYTES;
        let giant = store.put_module(giant, b"z");
        assert!(
            matches!(giant, Err(StoreError::ModulesTooLarge { .. })),
            "{giant:?}"
        );
    }

    #[test]
    fn every_store_keeps_the_same_promises() {
        let dir = tempfile::tempdir().unwrap();
        for location in [
            StoreLocation::Memory,
            StoreLocation::Directory(dir.path().into()),
        ] {
            let store = ConfigStore::open(&location).unwrap();
            assert_eq!(store.live().unwrap(), Manifest::empty());
            assert_eq!(store.draft().unwrap(), Pipeline::empty());
            assert_eq!(store.revisions().unwrap(), []);

            let mut draft = Pipeline::empty();
            draft.processors.push(rule(7));
            store.save_draft(&draft).unwrap();
            assert_eq!(store.draft().unwrap(), draft);
            assert_eq!(store.live().unwrap(), Manifest::empty());

            let last = MAX_REVISIONS as u64 + 3;
            for number in 1..=last {
                store.publish(&manifest(number)).unwrap();
            }
            assert_eq!(store.live().unwrap(), manifest(last));
            assert_eq!(
                store.draft().unwrap(),
                draft,
                "a publish leaves the draft alone"
            );
            let numbers: Vec<u64> = store
                .revisions()
                .unwrap()
                .iter()
                .map(|line| line.revision)
                .collect();
            assert_eq!(numbers, (4..=last).collect::<Vec<_>>());
            assert_eq!(store.revision(3).unwrap(), None);
            assert_eq!(store.revision(4).unwrap(), Some(manifest(4)));

            let mut back = manifest(last + 1);
            back.rolled_back_to = Some(last);
            store.publish(&back).unwrap();
            assert_eq!(
                store.draft().unwrap(),
                *back.pipeline(),
                "a rollback is the draft too"
            );
            let last = last + 1;

            let stale = store.publish(&manifest(last));
            assert!(
                matches!(stale, Err(StoreError::Conflict { .. })),
                "{stale:?}"
            );
            assert_eq!(store.live().unwrap(), back);
        }
    }
}
