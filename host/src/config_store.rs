//! The config store: where the draft, the live manifest and its history are kept.
//!
//! Promises that an edit is in the store whole or not at all, whatever happens to the process, and
//! that what it hands out has the shape of a manifest. Whether a manifest can be built is for
//! `gate` to say, and who may edit when for `control`. Everything here blocks: async callers go
//! through `spawn_blocking`. A store in Redis may fail at any time: that costs edits and publishes,
//! and nothing else.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use streamgate_spool::Holder;
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    manifest::{Manifest, Pipeline},
    wasm::ModuleInfo,
};

pub mod embedded;
pub(crate) mod last_good;
pub mod memory;
pub mod redis;

pub use self::{
    embedded::Embedded,
    memory::Memory,
    redis::{Redis, RedisLocation, RedisSettings},
};

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

/// Where a config store is, as an operator writes it: a directory, `memory:` or a `redis://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// Plain files in this directory, which is made if it is missing.
    Directory(PathBuf),
    /// Nowhere: what was published ends with the process.
    Memory,
    /// In a Redis, which other gates may share.
    Redis(RedisLocation),
}

/// A config store that is open.
#[derive(Debug)]
pub enum ConfigStore {
    /// Plain files in a directory.
    Embedded(Embedded),
    /// The memory of this process.
    Memory(Memory),
    /// A Redis. Boxed, since it is much larger than the others.
    Redis(Box<Redis>),
}

/// A draft as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct SavedDraft {
    #[serde(flatten)]
    pipeline: Pipeline,
    /// The revision that was live when it was saved, or the rollback that left it alone.
    #[serde(default)]
    saved_at_revision: u64,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RevisionSummary {
    /// Number of the revision, counted from 1.
    pub revision: u64,
    /// When it was published, in seconds since 1970-01-01T00:00:00Z.
    pub timestamp: f64,
    /// How many rules it has, disabled ones included.
    pub rules: usize,
    /// How many outputs it has; none means the console.
    pub outputs: usize,
    /// The revision that it brought back, if it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u64>,
    /// Who published it: the name of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What whoever published it said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The SHA-256 of what it runs; equal in revisions that run the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
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
    /// The location is that of a Redis, and cannot be right. The URL itself may hold a password.
    #[error("{message}")]
    RedisSettings { message: String },
    /// The Redis does not do what it is asked.
    #[error("the config store {server} cannot be used: {outage}")]
    Redis {
        server: String,
        outage: redis::Outage,
    },
    /// What a key of Redis holds cannot be used.
    #[error("`{key}` in Redis cannot be used: {reason}; {remedy}")]
    Document {
        key: String,
        reason: String,
        remedy: &'static str,
    },
    /// Only signed config counts, and this gate cannot sign.
    #[error(
        "this gate takes signed config only and has no key to sign with: make changes at a gate that \
         was started with `--signing-key`"
    )]
    CannotSign,
    /// Somebody else changed the draft in between.
    #[error("somebody else changed the draft at the same time; read it and try again")]
    DraftChanged,
    /// The location is an empty string.
    #[error(
        "the store location is empty; set `--store` to a directory, `memory:` or `redis://HOST:PORT`"
    )]
    NoLocation,
    /// The location looks like a URL, of no kind of store that there is. The rest of it may hold a
    /// password.
    #[error(
        "`{scheme}:` is not a kind of store; expected a directory (`./{scheme}:...` for one of \
         that name), `memory:`, or the URL of a Redis: `redis://`, `rediss://`, `redis+unix://`, \
         `unix://`, `redis+sentinel://` or `rediss+sentinel://`"
    )]
    UnknownScheme { scheme: String },
    /// Another gate holds the lock of the directory.
    #[error(
        "the directory `{}` is in use by another gate ({holder}); stop that one or give this one its own \
         directory with `{setting}`", path.display()
    )]
    Locked {
        path: PathBuf,
        holder: Holder,
        setting: &'static str,
    },
    /// The directory or its lock cannot be made or opened.
    #[error(
        "cannot open the directory `{}`; set `{setting}` to one that can be written",
        path.display()
    )]
    Open {
        path: PathBuf,
        setting: &'static str,
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
    /// A file is not what its checksum says.
    #[error(
        "`{}` is damaged: it does not match its checksum; {remedy}; if it was edited by hand, remove its          last line", path.display()
    )]
    Checksum { path: PathBuf, remedy: &'static str },
    /// A newer version wrote a file.
    #[error(
        "`{}` has format {found}, and this version knows formats 1 to {known}; use the version that \
         wrote it, or another directory", path.display()
    )]
    Newer {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    /// A file is JSON of the right shape and still impossible.
    #[error("`{}` cannot be used: {found}; {remedy}", path.display())]
    Unusable {
        path: PathBuf,
        found: String,
        remedy: &'static str,
    },
    /// Something is larger than the store takes.
    #[error("{what} takes {found_bytes} bytes; the store takes at most {most_bytes}")]
    TooLarge {
        what: String,
        found_bytes: u64,
        most_bytes: u64,
    },
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

impl StoreError {
    /// Whether there is no room to write.
    pub(crate) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Write { source, .. } => {
                matches!(source.kind(), FileTooLarge | QuotaExceeded | StorageFull)
            }
            _ => false,
        }
    }

    /// The file that it is about.
    fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Damaged { path, .. }
            | Self::Checksum { path, .. }
            | Self::Unusable { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Whether a file is there, can be read, and holds what was never written.
    fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Checksum { .. })
    }
}

impl FromStr for StoreLocation {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        if let Some(redis) = RedisLocation::parse(text) {
            return redis
                .map(Self::Redis)
                .map_err(|message| StoreError::RedisSettings { message });
        }
        match text {
            "" => Err(StoreError::NoLocation),
            "memory:" => Ok(Self::Memory),
            other => match scheme(other) {
                Some(scheme) => Err(StoreError::UnknownScheme {
                    scheme: scheme.chars().take(40).collect(),
                }),
                None => Ok(Self::Directory(PathBuf::from(other))),
            },
        }
    }
}

/// The scheme of a URL (RFC 3986, section 3.1), for one that a typo makes of it too: `redis:/host`.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let is_scheme =
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(part);
    is_scheme.then_some(scheme)
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Memory => f.write_str("memory:"),
            Self::Redis(redis) => redis.fmt(f),
        }
    }
}

impl ConfigStore {
    /// Opens the store at `location`, and makes an empty one if there is none yet. `redis` is for a
    /// store in Redis, which is not connected to yet.
    ///
    /// # Errors
    /// What is there belongs to another gate, cannot be read, or is damaged. Nothing was changed
    /// then.
    pub fn open(location: &StoreLocation, redis: RedisSettings) -> Result<Self, StoreError> {
        match location {
            StoreLocation::Directory(path) => Embedded::open(path).map(Self::Embedded),
            StoreLocation::Memory => Ok(Self::Memory(Memory::new())),
            StoreLocation::Redis(location) => {
                let store = Redis::open(location, redis)?;
                Ok(Self::Redis(Box::new(store)))
            }
        }
    }

    /// Says where it is, without what is secret.
    pub fn location(&self) -> String {
        match self {
            Self::Embedded(store) => store.directory().display().to_string(),
            Self::Memory(_) => "memory:".to_owned(),
            Self::Redis(store) => store.shown().to_owned(),
        }
    }

    /// Returns the store if it is one that other gates may share.
    pub(crate) fn shared(&self) -> Option<&Redis> {
        match self {
            Self::Embedded(_) | Self::Memory(_) => None,
            Self::Redis(store) => Some(store),
        }
    }

    /// Returns the draft: what was edited since, or else the live pipeline.
    ///
    /// # Errors
    /// It cannot be read; so with all that follow.
    pub fn draft(&self) -> Result<Pipeline, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.draft()),
            Self::Memory(store) => Ok(store.draft()),
            Self::Redis(store) => store.draft(),
        }
    }

    /// Replaces the draft, if it is still `replaces`.
    ///
    /// # Errors
    /// [`StoreError::DraftChanged`] if it is another by now, or the draft is too large or cannot be
    /// written; the one before still counts.
    pub fn save_draft(&self, draft: &Pipeline, replaces: &Pipeline) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.save_draft(draft, replaces),
            Self::Memory(store) => store.save_draft(draft, replaces),
            Self::Redis(store) => store.save_draft(draft, replaces),
        }
    }

    /// Returns the live manifest; revision 0 is that of a store nothing was published to.
    pub fn live(&self) -> Result<Manifest, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.live()),
            Self::Memory(store) => Ok(store.live()),
            Self::Redis(store) => store.live(),
        }
    }

    /// Returns the number that the next revision must have.
    pub fn next_revision(&self) -> Result<u64, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.live().revision + 1),
            Self::Memory(store) => Ok(store.live().revision + 1),
            Self::Redis(store) => store.next_revision(),
        }
    }

    /// Makes `manifest` the live one, and returns how many gates were told. Its `revision` must be
    /// the next one. If it is a rollback and the draft was what is live, it is the draft from then
    /// on too; a draft with unpublished edits is left alone.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the number is another, or the manifest is too large or cannot
    /// be written. The live manifest is the one before then.
    pub fn publish(&self, manifest: &Manifest) -> Result<usize, StoreError> {
        match self {
            Self::Embedded(store) => store.publish(manifest).map(|()| 1),
            Self::Memory(store) => store.publish(manifest).map(|()| 1),
            Self::Redis(store) => store.publish(manifest),
        }
    }

    /// Whether what is stored is that revision, whole. A Redis may have lost it, or hold what
    /// another program wrote.
    pub fn holds(&self, revision: u64) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(_) | Self::Memory(_) => Ok(true),
            Self::Redis(store) => store.holds(revision),
        }
    }

    /// Lists the last [`MAX_REVISIONS`] revisions, oldest first.
    pub fn revisions(&self) -> Result<Vec<RevisionSummary>, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.revisions()),
            Self::Memory(store) => Ok(store.revisions()),
            Self::Redis(store) => store.revisions(),
        }
    }

    /// Returns one revision, or `None` if there was none of this number or it is forgotten.
    pub fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        match self {
            Self::Embedded(store) => store.revision(number),
            Self::Memory(store) => Ok(store.revision(number)),
            Self::Redis(store) => store.revision(number),
        }
    }

    /// Gives `bytes` a name, which may have meant another module before.
    ///
    /// A module is kept for as long as something needs it: its name, the draft, the live manifest,
    /// or a revision that is pinned to its digest.
    ///
    /// # Errors
    /// There are too many modules or they are too large, or it cannot be written; nothing was
    /// changed then.
    pub fn put_module(&self, entry: ModuleEntry, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.put_module(entry, bytes),
            Self::Memory(store) => store.put_module(entry, bytes),
            Self::Redis(store) => store.put_module(&entry, bytes),
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
            Self::Redis(store) => store.delete_module(name),
        }
    }

    /// Lists the modules that have a name, by name.
    pub fn modules(&self) -> Result<Vec<ModuleEntry>, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.modules()),
            Self::Memory(store) => Ok(store.modules()),
            Self::Redis(store) => store.modules(),
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
            Self::Redis(store) => store.module_bytes(digest),
        }
    }
}

/// Checks that one more module has room: among `entries` by name, and in `stored` bytes that are
/// there.
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
            rolled_back_to: manifest.rolled_back_to,
            author: manifest.author.clone(),
            comment: manifest.comment.clone(),
            digest: manifest.digest,
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
            most_bytes: MAX_FILE_BYTES,
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
#[path = "../../tests/support/redis.rs"]
#[expect(dead_code, reason = "most of it is for the end-to-end tests")]
mod redis_server;

#[cfg(test)]
mod tests {
    use super::{redis_server::RedisServer, *};
    use crate::manifest::Rule;

    fn open(location: &StoreLocation) -> ConfigStore {
        ConfigStore::open(location, RedisSettings::default()).unwrap()
    }

    /// One of each kind.
    fn locations(dir: &std::path::Path, redis: &RedisServer) -> [StoreLocation; 3] {
        [
            StoreLocation::Memory,
            StoreLocation::Directory(dir.into()),
            redis.url().parse().unwrap(),
        ]
    }

    fn replace_draft(store: &ConfigStore, draft: &Pipeline) {
        store.save_draft(draft, &store.draft().unwrap()).unwrap();
    }

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
        let redis = "redis://host/2".parse::<StoreLocation>().unwrap();
        assert!(matches!(redis, StoreLocation::Redis(_)), "{redis}");
        for text in [
            "mysql://x",
            "redis:/x",
            "redis:x",
            "http://x",
            "memory:x",
            "memory://",
        ] {
            let error = text.parse::<StoreLocation>().expect_err(text).to_string();
            assert!(error.contains("`redis://`"), "{error}");
        }
        for text in ["./mysql:", "/data:1", "a/b:c", "data_1:x"] {
            let location = text.parse::<StoreLocation>().expect(text);
            assert_eq!(location, StoreLocation::Directory(text.into()));
        }
        assert!(matches!(
            "".parse::<StoreLocation>(),
            Err(StoreError::NoLocation)
        ));
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
        let redis = RedisServer::start();
        for location in locations(dir.path(), &redis) {
            let mut store = open(&location);
            let has = |store: &ConfigStore, bytes: &[u8]| {
                let found = store.module_bytes(Digest::of(bytes)).unwrap();
                found.inspect(|found| assert_eq!(found, bytes)).is_some()
            };
            assert_eq!(store.modules().unwrap(), []);
            store.put_module(entry("b", b"one"), b"one").unwrap();
            store.put_module(entry("a", b"one"), b"one").unwrap();
            assert_eq!(
                store.modules().unwrap(),
                [entry("a", b"one"), entry("b", b"one")]
            );

            // A name that moves on leaves the old bytes to whoever needs them.
            store.put_module(entry("a", b"two"), b"two").unwrap();
            assert!(has(&store, b"one") && has(&store, b"two"));
            store.put_module(entry("b", b"two"), b"two").unwrap();
            assert!(!has(&store, b"one"), "nothing needs it any more");

            // A revision and the draft need what their rules are pinned to.
            let mut pinned = manifest(1);
            pinned.pipelines[0] = pinned_to(b"two");
            replace_draft(&store, &pinned_to(b"two"));
            store.publish(&pinned).unwrap();
            assert!(store.delete_module("a").unwrap() && store.delete_module("b").unwrap());
            assert!(!store.delete_module("b").unwrap());
            assert_eq!(store.modules().unwrap(), []);
            assert!(has(&store, b"two"));
            if location != StoreLocation::Memory {
                drop(store);
                store = open(&location);
                assert!(has(&store, b"two"), "after a restart");
            }
            for number in 2..=MAX_REVISIONS as u64 {
                store.publish(&manifest(number)).unwrap();
            }
            replace_draft(&store, &Pipeline::empty());
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
        let store = open(&StoreLocation::Memory);
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
        let redis = RedisServer::start();
        for location in locations(dir.path(), &redis) {
            let store = open(&location);
            assert_eq!(store.live().unwrap(), Manifest::empty());
            assert_eq!(store.draft().unwrap(), Pipeline::empty());
            assert_eq!(store.revisions().unwrap(), []);

            let mut draft = Pipeline::empty();
            draft.processors.push(rule(7));
            replace_draft(&store, &draft);
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
                draft,
                "a rollback leaves edits that were not published alone"
            );
            replace_draft(&store, back.pipeline());
            let mut back = manifest(last + 2);
            back.rolled_back_to = Some(last);
            store.publish(&back).unwrap();
            assert_eq!(
                store.draft().unwrap(),
                *back.pipeline(),
                "without edits a rollback is the draft too"
            );
            assert!(store.holds(last + 2).unwrap());
            let last = last + 2;

            let stale = store.publish(&manifest(last));
            assert!(
                matches!(stale, Err(StoreError::Conflict { .. })),
                "{stale:?}"
            );
            assert_eq!(store.live().unwrap(), back);

            let stale = store.save_draft(&draft, &Pipeline::empty());
            assert!(matches!(stale, Err(StoreError::DraftChanged)), "{stale:?}");
            assert_eq!(store.draft().unwrap(), *back.pipeline());
        }
    }

    #[test]
    fn of_two_who_publish_at_once_one_wins() {
        let redis = RedisServer::start();
        let location: StoreLocation = redis.url().parse().unwrap();
        for round in 1..=20 {
            let wins = std::thread::scope(|scope| {
                let publish = || {
                    let store = open(&location);
                    match store.publish(&manifest(round)) {
                        Ok(_) => 1,
                        Err(StoreError::Conflict { expected, .. }) => {
                            assert_eq!(expected, round + 1);
                            0
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                let both = [scope.spawn(publish), scope.spawn(publish)];
                both.map(|one| one.join().unwrap()).iter().sum::<i32>()
            });
            assert_eq!(wins, 1, "round {round}");
        }
        let numbers = open(&location).revisions().unwrap();
        let numbers: Vec<u64> = numbers.iter().map(|line| line.revision).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    }
}
