//! The Redis store: one config for many gates.
//!
//! Redis is where gates learn of changes, and nothing more: what is in force lives on in each gate
//! and on its disk (`last_good`). Everything is written by optimistic transactions (`WATCH`), so that
//! of two publishers one wins, and nobody ever sees half of a change. No scripts, so that an ACL can
//! forbid them.
//!
//! | key | holds |
//! | --- | --- |
//! | `streamgate_config` | the live manifest (JSON) |
//! | `streamgate_updates` | a channel: `RELOAD` after each publish |
//! | `streamgate_revision` | number of the newest revision |
//! | `streamgate_revisions:<n>` | the manifest of that revision, for the last hundred |
//! | `streamgate_history` | a line for each of them (JSON) |
//! | `streamgate_draft` | the draft (JSON) |
//! | `streamgate_modules` | which module each name means, and which are there (JSON) |
//! | `streamgate_module:<sha256>` | a module's bytes |
//! | `streamgate_node:<id>` | what a gate runs (JSON); expires |
//! | `streamgate_nodes` | the ids of gates (a set) |
//!
//! `streamgate_config` and the channel are the seed's: a manifest that another program writes there is
//! applied, and what we write there such a program can read. Signed, documents end in a `signature`
//! (see `seal`).
//!
//! Nothing is read without a bound: values are asked for with `GETRANGE`.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ::redis::{Cmd, Connection, RedisError, Value as Reply, cmd, pipe};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::{info, warn};

use super::{
    MAX_REVISIONS, ModuleEntry, RevisionSummary, SavedDraft, StoreError, check_room,
    last_good::LastGood, with_entry,
};
use crate::{
    digest::Digest,
    manifest::{Manifest, Pipeline, check_pipeline, pinned_digests},
    wasm::MAX_MODULE_BYTES,
};

pub(crate) use self::{
    link::{Link, Outage},
    seal::Kind,
    server::Server,
};
pub use self::{
    seal::{KeyFileError, SealError, SigningKey, TrustedKeys},
    server::{Fault, RedisLocation, TlsFiles},
};

mod foreign;
mod link;
mod seal;
mod server;

/// Where the live manifest is.
const CONFIG: &str = "streamgate_config";
/// The channel on which changes are told.
pub(crate) const UPDATES: &str = "streamgate_updates";
/// What is told there.
const RELOAD: &str = "RELOAD";
const REVISION: &str = "streamgate_revision";
const HISTORY: &str = "streamgate_history";
const DRAFT: &str = "streamgate_draft";
const MODULES: &str = "streamgate_modules";
const NODES: &str = "streamgate_nodes";

/// Largest document that is read or written, in bytes.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// Largest state of a gate that is read, in bytes.
const MAX_NODE_BYTES: usize = 16 * 1024;

/// Most gates that are shown and waited for.
const MAX_NODES: usize = 1_000;

/// How often a transaction is tried when others keep changing the same.
const MAX_ATTEMPTS: usize = 16;

/// Greatest number of a revision: numbers in JSON are exact up to here in every language.
const MAX_REVISION: u64 = (1 << 53) - 1;

/// Times that are no further apart are the same, in seconds: a time that is written as JSON and read
/// again, by us or by another program, may be another in its last digits.
const SAME_TIME_SECONDS: f64 = 0.001;

/// A config store in Redis.
#[derive(Debug)]
pub struct Redis {
    server: Arc<Server>,
    link: Mutex<Link>,
    signing: Option<SigningKey>,
    trusted: Option<TrustedKeys>,
    last_good: LastGood,
}

/// What a Redis store is opened with.
#[derive(Debug, Default)]
pub struct RedisSettings {
    /// Certificates for `rediss://`.
    pub tls: TlsFiles,
    /// Signs what this gate writes.
    pub signing: Option<SigningKey>,
    /// If set, only what these keys signed counts.
    pub trusted: Option<TrustedKeys>,
    /// Where the last good manifest and its modules are kept; `None` keeps them in memory.
    pub cache: Option<std::path::PathBuf>,
}

/// What `streamgate_config` holds.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// The same bytes as those of this digest, which was asked with.
    Same,
    /// Other bytes.
    Document {
        /// Of the bytes.
        digest: Digest,
        /// A manifest, or why it is none that this gate takes.
        manifest: Result<Manifest, String>,
    },
}

/// What `streamgate_modules` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Modules {
    /// By name.
    entries: Vec<ModuleEntry>,
    /// The modules that are there, and their sizes in bytes.
    stored: BTreeMap<Digest, u64>,
}

/// What `streamgate_history` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct History {
    /// Oldest first.
    revisions: Vec<Line>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    summary: RevisionSummary,
    /// The modules that it needs.
    modules: Vec<Digest>,
}

/// What was there when a transaction began.
struct Snapshot {
    /// The live manifest: the newest of what Redis has and what this gate runs.
    live: Manifest,
    /// The number that the next revision gets.
    next: u64,
    draft: Option<Pipeline>,
    modules: Modules,
    history: History,
}

/// What a transaction does.
#[derive(Default)]
struct Changes {
    commands: Vec<Cmd>,
    /// The list of modules is another.
    lists_modules_anew: bool,
}

impl Redis {
    /// Opens the store; connects to nothing yet.
    pub(crate) fn open(
        location: &RedisLocation,
        settings: RedisSettings,
    ) -> Result<Self, StoreError> {
        let RedisSettings {
            tls,
            signing,
            trusted,
            cache,
        } = settings;
        let unusable = |message| StoreError::RedisSettings { message };
        let server = Arc::new(Server::open(location, &tls).map_err(unusable)?);
        // Who signs wants signatures checked.
        let trusted = trusted.or_else(|| signing.as_ref().map(SigningKey::trusted));
        if let (Some(signing), Some(trusted)) = (&signing, &trusted)
            && !trusted.trusts(signing)
        {
            return Err(unusable(
                "the public key of `signing_key` is not in `trusted_keys`: this gate would refuse what \
                 it publishes; add it there"
                    .to_owned(),
            ));
        }
        Ok(Self {
            link: Mutex::new(Link::new(Arc::clone(&server))),
            server,
            signing,
            trusted,
            last_good: LastGood::open(cache.as_deref())?,
        })
    }

    /// A connection of its own, for somebody who must not wait for others.
    pub(crate) fn link(&self) -> Link {
        Link::new(Arc::clone(&self.server))
    }

    /// Where it is, without what is secret.
    pub(crate) fn shown(&self) -> &str {
        self.server.shown()
    }

    /// Whether only signed config counts.
    pub(crate) fn is_signed(&self) -> bool {
        self.trusted.is_some()
    }

    /// What is in force here.
    pub(crate) fn last_good(&self) -> &LastGood {
        &self.last_good
    }

    pub(super) fn draft(&self) -> Result<Pipeline, StoreError> {
        let snapshot = self.run(|connection| self.snapshot(connection))?;
        Ok(snapshot.draft())
    }

    pub(super) fn save_draft(
        &self,
        draft: &Pipeline,
        replaces: &Pipeline,
    ) -> Result<(), StoreError> {
        self.transact(|snapshot, _| {
            if snapshot.draft() != *replaces {
                return Err(StoreError::DraftChanged.into());
            }
            let saved = SavedDraft {
                pipeline: draft.clone(),
                saved_at_revision: snapshot.live.revision,
            };
            let mut changes = Changes::default();
            changes.set(DRAFT, self.encode(Kind::Draft, "the draft", &saved)?);
            snapshot.draft = Some(draft.clone());
            self.forget_modules(snapshot, &mut changes)?;
            Ok(changes)
        })
        .map(|_| ())
    }

    pub(super) fn live(&self) -> Result<Manifest, StoreError> {
        let snapshot = self.run(|connection| self.snapshot(connection))?;
        Ok(snapshot.live)
    }

    pub(super) fn next_revision(&self) -> Result<u64, StoreError> {
        let snapshot = self.run(|connection| self.snapshot(connection))?;
        Ok(snapshot.next)
    }

    /// Returns how many gates listen.
    pub(super) fn publish(&self, manifest: &Manifest) -> Result<usize, StoreError> {
        let replies = self.transact(|snapshot, connection| {
            if manifest.revision != snapshot.next || manifest.revision > MAX_REVISION {
                return Err(StoreError::Conflict {
                    found: manifest.revision,
                    expected: snapshot.next,
                }
                .into());
            }
            let number = manifest.revision;
            let text = foreign::write(manifest).map_err(|source| StoreError::Encode {
                what: "the manifest".to_owned(),
                source,
            })?;
            let document = self.seal(Kind::Manifest, "the manifest", text)?;
            let mut changes = Changes::default();
            self.bring_modules(manifest, snapshot, connection, &mut changes)?;
            changes.set(&revision_key(number), document.clone());
            let Snapshot { history, .. } = snapshot;
            history.revisions.push(Line {
                summary: RevisionSummary::of(manifest),
                modules: pinned_digests(manifest.pipeline()).collect(),
            });
            let old = history.revisions.len().saturating_sub(MAX_REVISIONS);
            for forgotten in history.revisions.drain(..old) {
                changes.delete(&revision_key(forgotten.summary.revision));
            }
            let lines = self.encode(Kind::History, "the history", history)?;
            changes.set(HISTORY, lines);
            let live = snapshot.live.pipeline();
            let draft = snapshot.draft.as_ref();
            let was_edited = draft.is_some_and(|draft| !draft.is_published_as(live));
            if manifest.rolled_back_to.is_some() && !was_edited {
                snapshot.draft = None;
                changes.delete(DRAFT);
            }
            snapshot.live = manifest.clone();
            self.forget_modules(snapshot, &mut changes)?;
            changes.set(REVISION, number.to_string().into_bytes());
            changes.set(CONFIG, document);
            changes.commands.push({
                let mut publish = cmd("PUBLISH");
                publish.arg(UPDATES).arg(RELOAD);
                publish
            });
            Ok(changes)
        })?;
        // It is in force from here on, and the caller makes it so.
        self.last_good.keep(manifest);
        match replies.last() {
            Some(Reply::Int(told)) => Ok(usize::try_from(*told).unwrap_or(0)),
            _ => Ok(0),
        }
    }

    /// Whether the live manifest in Redis is that revision, and its modules are there.
    pub(super) fn holds(&self, revision: u64) -> Result<bool, StoreError> {
        self.run(|connection| {
            let text = get(connection, CONFIG, MAX_DOCUMENT_BYTES)?;
            let Ok(found) = self.parse_manifest(&text) else {
                return Ok(false);
            };
            for digest in pinned_digests(found.pipeline()) {
                let there: bool = cmd("EXISTS").arg(module_key(digest)).query(connection)?;
                if !there {
                    return Ok(false);
                }
            }
            Ok(found.revision == revision)
        })
    }

    pub(super) fn revisions(&self) -> Result<Vec<RevisionSummary>, StoreError> {
        let snapshot = self.run(|connection| self.snapshot(connection))?;
        let lines = snapshot.history.revisions.into_iter();
        Ok(lines.map(|line| line.summary).collect())
    }

    pub(super) fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        let key = revision_key(number);
        let text = self.run(|connection| Ok(get(connection, &key, MAX_DOCUMENT_BYTES)?))?;
        if text.is_empty() {
            return Ok(None);
        }
        let unusable = |reason: String| StoreError::Document {
            key: key.clone(),
            reason,
            remedy: "roll back to another revision",
        };
        let manifest = self.parse_manifest(&text).map_err(unusable)?;
        if manifest.revision != number {
            let reason = format!("it holds revision {}", manifest.revision);
            return Err(unusable(reason));
        }
        Ok(Some(manifest))
    }

    pub(super) fn put_module(&self, entry: &ModuleEntry, bytes: &[u8]) -> Result<(), StoreError> {
        self.transact(|snapshot, _| {
            let Modules { entries, stored } = &mut snapshot.modules;
            check_room(entries, stored, entry)?;
            stored.insert(entry.digest, entry.size_bytes);
            *entries = with_entry(entries, entry.clone());
            let mut changes = Changes {
                lists_modules_anew: true,
                ..Changes::default()
            };
            changes.set(&module_key(entry.digest), bytes.to_vec());
            self.forget_modules(snapshot, &mut changes)?;
            Ok(changes)
        })
        .map(|_| ())
    }

    pub(super) fn delete_module(&self, name: &str) -> Result<bool, StoreError> {
        let deleted = std::cell::Cell::new(false);
        self.transact(|snapshot, _| {
            let entries = &mut snapshot.modules.entries;
            let before = entries.len();
            entries.retain(|entry| entry.name != name);
            deleted.set(entries.len() < before);
            let mut changes = Changes::default();
            if deleted.get() {
                changes.lists_modules_anew = true;
                self.forget_modules(snapshot, &mut changes)?;
            }
            Ok(changes)
        })?;
        Ok(deleted.get())
    }

    pub(super) fn modules(&self) -> Result<Vec<ModuleEntry>, StoreError> {
        let snapshot = self.run(|connection| self.snapshot(connection))?;
        Ok(snapshot.modules.entries)
    }

    pub(super) fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.last_good.module(digest) {
            return Ok(Some(bytes));
        }
        self.run_within(server::MODULE_TIMEOUT, |connection| {
            Ok(fetch_module(connection, digest)?)
        })?
        .map(|bytes| self.check_module(digest, bytes))
        .transpose()
    }

    /// The same over another link, for who follows: it waits for no request of the control API.
    pub(crate) fn module_bytes_over(
        &self,
        link: &mut Link,
        digest: Digest,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.last_good.module(digest) {
            return Ok(Some(bytes));
        }
        let fetched = link
            .run(server::MODULE_TIMEOUT, |connection| {
                fetch_module(connection, digest)
            })
            .map_err(|outage| self.unavailable(outage))?;
        fetched
            .map(|bytes| self.check_module(digest, bytes))
            .transpose()
    }

    /// Looks at what is live, if its bytes are not those of `known`.
    pub(crate) fn look(&self, link: &mut Link, known: Option<Digest>) -> Result<Found, Outage> {
        let text = link.run(server::ANSWER_TIMEOUT, |connection| {
            get(connection, CONFIG, MAX_DOCUMENT_BYTES)
        })?;
        if text.is_empty() {
            return Ok(Found::Nothing);
        }
        let digest = Digest::of(&text);
        if known == Some(digest) {
            return Ok(Found::Same);
        }
        let manifest = self.parse_manifest(&text);
        Ok(Found::Document { digest, manifest })
    }

    /// Says what a gate runs, for as long as `lifetime`.
    pub(crate) fn put_node(
        link: &mut Link,
        id: &str,
        state: &[u8],
        lifetime: Duration,
    ) -> Result<(), Outage> {
        link.run(server::ANSWER_TIMEOUT, |connection| {
            pipe()
                .cmd("SET")
                .arg(node_key(id))
                .arg(state)
                .arg("PX")
                .arg(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX))
                .ignore()
                .cmd("SADD")
                .arg(NODES)
                .arg(id)
                .ignore()
                .exec(connection)
        })
    }

    /// Takes a gate's state away: it ends.
    pub(crate) fn remove_node(link: &mut Link, id: &str) -> Result<(), Outage> {
        link.run(server::ANSWER_TIMEOUT, |connection| {
            pipe()
                .cmd("DEL")
                .arg(node_key(id))
                .ignore()
                .cmd("SREM")
                .arg(NODES)
                .arg(id)
                .ignore()
                .exec(connection)
        })
    }

    /// Returns the states of the gates that are alive, by id; at most [`MAX_NODES`].
    pub(crate) fn nodes(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        self.run(|connection| {
            // As many as asked for, whatever the set holds.
            let ids: Vec<Vec<u8>> = cmd("SRANDMEMBER")
                .arg(NODES)
                .arg(MAX_NODES)
                .query(connection)?;
            let mut ids: Vec<String> = ids
                .into_iter()
                .filter_map(|id| String::from_utf8(id).ok())
                .collect();
            ids.sort();
            let mut states = Vec::new();
            if ids.is_empty() {
                return Ok(states);
            }
            let mut asked = pipe();
            for id in &ids {
                asked
                    .cmd("GETRANGE")
                    .arg(node_key(id))
                    .arg(0)
                    .arg(MAX_NODE_BYTES - 1);
            }
            let found: Vec<Vec<u8>> = asked.query(connection)?;
            let mut gone = cmd("SREM");
            gone.arg(NODES);
            let mut any_gone = false;
            for (id, state) in ids.iter().zip(found) {
                if state.is_empty() {
                    gone.arg(id);
                    any_gone = true;
                } else {
                    states.push(state);
                }
            }
            if any_gone {
                // A gate that may only read leaves this to others.
                let _ = gone.exec(connection);
            }
            Ok(states)
        })
    }

    /// Reads a manifest: one of ours, or one that another program wrote.
    fn parse_manifest(&self, text: &[u8]) -> Result<Manifest, String> {
        self.check_document(Kind::Manifest, text)?;
        let manifest = foreign::read(text).map_err(|fault| fault.to_string())?;
        if manifest.revision > MAX_REVISION {
            return Err(format!(
                "/revision: {} is greater than {MAX_REVISION}",
                manifest.revision
            ));
        }
        Ok(manifest)
    }

    /// Checks what holds for every document: its size and its signature.
    fn check_document(&self, kind: Kind, text: &[u8]) -> Result<(), String> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(format!("it is larger than {MAX_DOCUMENT_BYTES} bytes"));
        }
        match &self.trusted {
            Some(trusted) => trusted.check(kind, text).map_err(|fault| fault.to_string()),
            None => Ok(()),
        }
    }

    /// Reads a document that is ours alone.
    fn decode<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &str,
        text: &[u8],
        remedy: &'static str,
    ) -> Result<Option<T>, StoreError> {
        if text.is_empty() {
            return Ok(None);
        }
        let unusable = |reason| StoreError::Document {
            key: key.to_owned(),
            reason,
            remedy,
        };
        self.check_document(kind, text).map_err(unusable)?;
        serde_json::from_slice(text)
            .map(Some)
            .map_err(|error| unusable(error.to_string()))
    }

    fn encode<T: Serialize>(
        &self,
        kind: Kind,
        what: &str,
        document: &T,
    ) -> Result<Vec<u8>, StoreError> {
        let text = serde_json::to_vec(document).map_err(|source| StoreError::Encode {
            what: what.to_owned(),
            source,
        })?;
        self.seal(kind, what, text)
    }

    fn seal(&self, kind: Kind, what: &str, text: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let sealed = match (&self.signing, &self.trusted) {
            (Some(key), _) => key.seal(kind, text),
            (None, Some(_)) => return Err(StoreError::CannotSign),
            (None, None) => text,
        };
        if sealed.len() > MAX_DOCUMENT_BYTES {
            return Err(StoreError::TooLarge {
                what: what.to_owned(),
                found_bytes: sealed.len() as u64,
                most_bytes: MAX_DOCUMENT_BYTES as u64,
            });
        }
        Ok(sealed)
    }

    /// Reads a document beside the config; `None` if there is none.
    ///
    /// # Errors
    /// Redis does not answer, or the document is not signed as it must be, or another one.
    pub(crate) fn document<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &str,
        remedy: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let text = self.run(|connection| Ok(get(connection, key, MAX_DOCUMENT_BYTES)?))?;
        self.decode(kind, key, &text, remedy)
    }

    /// Replaces a document beside the config by what `change` makes of it, which may refuse. It runs
    /// again if somebody else changed the document meanwhile.
    ///
    /// # Errors
    /// As [`document`](Self::document), or the document cannot be signed here.
    pub(crate) fn update_document<T: Serialize + DeserializeOwned, R, E>(
        &self,
        kind: Kind,
        key: &str,
        remedy: &'static str,
        change: impl Fn(Option<T>) -> Result<(T, R), E>,
    ) -> Result<Result<R, E>, StoreError> {
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(Duration::from_micros(fastrand::u64(0..2_000)));
            }
            let done = self.run(|connection| {
                cmd("WATCH").arg(key).exec(connection)?;
                let text = get(connection, key, MAX_DOCUMENT_BYTES)?;
                let (document, done) = match change(self.decode(kind, key, &text, remedy)?) {
                    Ok(changed) => changed,
                    Err(refused) => {
                        cmd("UNWATCH").exec(connection)?;
                        return Ok(Some(Err(refused)));
                    }
                };
                let text = self.encode(kind, key, &document)?;
                let mut transaction = pipe();
                transaction.atomic().cmd("SET").arg(key).arg(text);
                let written: Option<Vec<Reply>> = transaction.query(connection)?;
                Ok(written.map(|_| Ok(done)))
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
        Err(StoreError::DraftChanged)
    }

    fn check_module(&self, digest: Digest, bytes: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(StoreError::Document {
                key: module_key(digest),
                reason: format!("its digest is {found}: it was changed or cut short"),
                remedy: "upload the module again",
            });
        }
        self.last_good.keep_module(digest, &bytes);
        Ok(bytes)
    }

    /// Reads everything but history's manifests and modules' bytes.
    fn snapshot(&self, connection: &mut Connection) -> Result<Snapshot, Failure> {
        let mut asked = pipe();
        for key in [CONFIG, DRAFT, MODULES, HISTORY] {
            asked
                .cmd("GETRANGE")
                .arg(key)
                .arg(0)
                .arg(MAX_DOCUMENT_BYTES);
        }
        asked.cmd("GETRANGE").arg(REVISION).arg(0).arg(31);
        let [config, draft, modules, history, counter]: [Vec<u8>; 5] = asked.query(connection)?;

        let running = self.last_good.manifest();
        let mut live = Manifest::clone(&running);
        let mut newest = live.revision;
        if !config.is_empty() {
            match self.parse_manifest(&config) {
                Ok(found) => {
                    newest = newest.max(found.revision);
                    if let Some(found) = superseding(found, &running) {
                        live = found;
                    }
                }
                // Gates go on with what they have; the next publish mends it.
                Err(reason) => warn!(reason, "`{CONFIG}` is not used"),
            }
        }
        // Text that is no number counts as none: another program's, or an attacker's.
        let counter = std::str::from_utf8(&counter).ok();
        let counter = counter.and_then(|counter| counter.parse::<u64>().ok());
        newest = newest.max(
            counter
                .filter(|&counter| counter < MAX_REVISION)
                .unwrap_or(0),
        );

        let remedy = "remove the key to go on with the live manifest as the draft";
        let draft: Option<SavedDraft> = self.decode(Kind::Draft, DRAFT, &draft, remedy)?;
        if let Some(saved) = &draft {
            check_pipeline(&saved.pipeline).map_err(|fault| StoreError::Document {
                key: DRAFT.to_owned(),
                reason: fault.to_string(),
                remedy,
            })?;
        }
        let draft = draft.filter(|saved| {
            // A draft of another time, brought back by who may write to Redis, must not be signed.
            !self.is_signed() || saved.saved_at_revision <= live.revision
        });
        let modules = self.decode(
            Kind::Modules,
            MODULES,
            &modules,
            "remove the key and upload the modules again",
        )?;
        let history = self.decode(
            Kind::History,
            HISTORY,
            &history,
            "remove the key to go on without the history",
        )?;
        Ok(Snapshot {
            next: newest + 1,
            live,
            draft: draft.map(|saved| saved.pipeline),
            modules: modules.unwrap_or_default(),
            history: history.unwrap_or_default(),
        })
    }

    /// Brings to Redis what a manifest needs and it has not: it lost it, or was emptied.
    fn bring_modules(
        &self,
        manifest: &Manifest,
        snapshot: &mut Snapshot,
        connection: &mut Connection,
        changes: &mut Changes,
    ) -> Result<(), Failure> {
        let needed: BTreeSet<Digest> = pinned_digests(manifest.pipeline()).collect();
        for digest in needed {
            let there: bool = cmd("EXISTS").arg(module_key(digest)).query(connection)?;
            if there {
                continue;
            }
            let bytes = self.last_good.module(digest);
            let bytes = bytes.ok_or_else(|| StoreError::Document {
                key: module_key(digest),
                reason: "it is missing, and this gate has no copy".to_owned(),
                remedy: "upload the module again",
            })?;
            info!(%digest, "bringing a module back to Redis");
            snapshot.modules.stored.insert(digest, bytes.len() as u64);
            changes.set(&module_key(digest), bytes);
            changes.lists_modules_anew = true;
        }
        Ok(())
    }

    /// Removes the modules that nothing needs any more, and writes the list of them if it is another.
    fn forget_modules(
        &self,
        snapshot: &mut Snapshot,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let Modules { entries, stored } = &mut snapshot.modules;
        let pipelines = snapshot.draft.iter().chain([snapshot.live.pipeline()]);
        let lines = snapshot.history.revisions.iter();
        let needed: BTreeSet<Digest> = pipelines
            .flat_map(pinned_digests)
            .chain(lines.flat_map(|line| line.modules.iter().copied()))
            .chain(entries.iter().map(|entry| entry.digest))
            .collect();
        let before = stored.len();
        stored.retain(|digest, _| {
            let keep = needed.contains(digest);
            if !keep {
                changes.delete(&module_key(*digest));
            }
            keep
        });
        if stored.len() < before || changes.lists_modules_anew {
            changes.set(
                MODULES,
                self.encode(Kind::Modules, "the list of modules", &snapshot.modules)?,
            );
        }
        Ok(())
    }

    /// Reads, decides, writes; again if somebody else wrote in between. Returns what Redis answered to
    /// each command.
    fn transact(
        &self,
        decide: impl Fn(&mut Snapshot, &mut Connection) -> Result<Changes, Failure>,
    ) -> Result<Vec<Reply>, StoreError> {
        for attempt in 0..MAX_ATTEMPTS {
            // So that those who collide do not go on doing so in step.
            if attempt > 0 {
                std::thread::sleep(Duration::from_micros(fastrand::u64(0..2_000)));
            }
            let done = self.run_within(server::MODULE_TIMEOUT, |connection| {
                cmd("WATCH")
                    .arg(&[CONFIG, DRAFT, MODULES, HISTORY, REVISION])
                    .exec(connection)?;
                let mut snapshot = self.snapshot(connection)?;
                let changes = decide(&mut snapshot, connection)?;
                if changes.commands.is_empty() {
                    cmd("UNWATCH").exec(connection)?;
                    return Ok(Some(Vec::new()));
                }
                let mut transaction = pipe();
                transaction.atomic();
                for command in changes.commands {
                    transaction.add_command(command);
                }
                let replies: Option<Vec<Reply>> = transaction.query(connection)?;
                Ok(replies)
            })?;
            if let Some(replies) = done {
                return Ok(replies);
            }
        }
        Err(StoreError::DraftChanged)
    }

    fn run<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.run_within(server::ANSWER_TIMEOUT, work)
    }

    fn run_within<T>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut refused = None;
        let done = self.link.lock().run(timeout, |connection| {
            work(connection).map_err(|failure| match failure {
                Failure::Redis(error) => error,
                Failure::Store(error) => {
                    refused = Some(error);
                    // Throws the connection away, and what it watches with it.
                    RedisError::from((::redis::ErrorKind::Client, "refused"))
                }
            })
        });
        match (done, refused) {
            (_, Some(refused)) => Err(refused),
            (done, None) => done.map_err(|outage| self.unavailable(outage)),
        }
    }

    fn unavailable(&self, outage: Outage) -> StoreError {
        StoreError::Redis {
            server: self.shown().to_owned(),
            outage,
        }
    }
}

impl Snapshot {
    fn draft(&self) -> Pipeline {
        let draft = self.draft.as_ref();
        draft.unwrap_or_else(|| self.live.pipeline()).clone()
    }
}

impl Changes {
    fn set(&mut self, key: &str, value: Vec<u8>) {
        let mut set = cmd("SET");
        set.arg(key).arg(value);
        self.commands.push(set);
    }

    fn delete(&mut self, key: &str) {
        let mut delete = cmd("DEL");
        delete.arg(key);
        self.commands.push(delete);
    }
}

/// A transaction failed on the way, or was not wanted.
#[derive(Debug)]
enum Failure {
    Redis(RedisError),
    Store(StoreError),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Returns `found`, numbered, if it takes the place of what is running.
///
/// Of two with a number the greater one counts, and of two with the same number (a failover may have
/// lost one of them) the later one. A manifest without a number is another program's: it counts if it
/// says something else and is not known to be older. Nothing else ever makes a gate go back.
pub(crate) fn superseding(found: Manifest, running: &Manifest) -> Option<Manifest> {
    if found.revision > 0 {
        let is_later = found.timestamp > running.timestamp + SAME_TIME_SECONDS;
        let supersedes = match found.revision.cmp(&running.revision) {
            Ordering::Greater => true,
            Ordering::Equal => is_later,
            Ordering::Less => false,
        };
        return supersedes.then_some(found);
    }
    let is_known_to_be_older = found.timestamp > 0.0 && is_older(&found, running);
    if is_known_to_be_older || found.pipelines == running.pipelines {
        return None;
    }
    Some(Manifest {
        revision: running.revision,
        timestamp: found.timestamp.max(running.timestamp),
        ..found
    })
}

/// Whether a manifest was made before the one that is running.
pub(crate) fn is_older(found: &Manifest, running: &Manifest) -> bool {
    if found.revision > 0 && found.revision != running.revision {
        return found.revision < running.revision;
    }
    found.timestamp < running.timestamp - SAME_TIME_SECONDS
}

fn revision_key(number: u64) -> String {
    format!("streamgate_revisions:{number}")
}

fn module_key(digest: Digest) -> String {
    format!("streamgate_module:{}", digest.hex())
}

fn node_key(id: &str) -> String {
    format!("streamgate_node:{id}")
}

/// Reads a value of at most `most` bytes; one byte more tells that it is larger.
fn get(connection: &mut Connection, key: &str, most: usize) -> Result<Vec<u8>, RedisError> {
    cmd("GETRANGE").arg(key).arg(0).arg(most).query(connection)
}

fn fetch_module(
    connection: &mut Connection,
    digest: Digest,
) -> Result<Option<Vec<u8>>, RedisError> {
    let bytes = get(connection, &module_key(digest), MAX_MODULE_BYTES)?;
    Ok((!bytes.is_empty()).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(revision: u64, timestamp: f64) -> Manifest {
        Manifest {
            revision,
            timestamp,
            ..Manifest::empty()
        }
    }

    #[test]
    fn what_is_newer_takes_the_place_of_what_runs_and_nothing_else_does() {
        let running = manifest(7, 1_700_000_000.123_456);
        for (revision, later_by, supersedes, older) in [
            (8, 0.0, true, false),
            (8, -3_600.0, true, false),
            (6, 3_600.0, false, true),
            (7, 0.0, false, false),
            (7, 1.0, true, false),
            (7, -1.0, false, true),
            // What is left of a time after it was written and read.
            (7, 0.000_000_3, false, false),
            (7, -0.000_000_3, false, false),
        ] {
            let found = manifest(revision, running.timestamp + later_by);
            assert_eq!(is_older(&found, &running), older, "{revision} {later_by}");
            let newer = superseding(found, &running);
            assert_eq!(newer.is_some(), supersedes, "{revision} {later_by}");
        }
    }

    #[test]
    fn without_a_number_what_says_something_else_counts_if_it_is_not_older() {
        let running = manifest(7, 1_700_000_000.0);
        let mut other = manifest(0, 0.0);
        assert_eq!(
            superseding(other.clone(), &running),
            None,
            "it says the same"
        );
        other.pipelines[0].batch_size = 5;
        let newer = superseding(other.clone(), &running).expect("it says something else");
        assert_eq!((newer.revision, newer.timestamp), (7, running.timestamp));
        other.timestamp = running.timestamp - 1.0;
        assert_eq!(superseding(other.clone(), &running), None, "it is older");
        other.timestamp = running.timestamp + 1.0;
        assert!(superseding(other, &running).is_some());
    }
}
