//! Who may use the control API, and send events over HTTP where that needs a token.
//!
//! A request is allowed by a bearer token. Without one it is allowed only if the control API
//! listens on a loopback address and there are no tokens, or if the gate runs with
//! `--insecure-control`. Tokens are kept beside the config ([`store`]); a thread looks for changes,
//! so that a token that is created or revoked elsewhere counts within [`POLL`] here.
//!
//! If the tokens of a fleet cannot be read for [`MAX_AGE`], none of them is valid any more: a token
//! that was revoked at another gate must not live on at one that is cut off. The token of
//! `--bootstrap-token` belongs to this gate alone and stays valid.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use streamgate_processors::named_file;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    config_store::{
        RedisSettings, StoreError, StoreLocation,
        embedded::{read_sealed, replace_file, sealed},
    },
    digest::Digest,
};

pub mod store;
pub mod token;

use self::{
    store::{TokenStore, UpdateError},
    token::{BOOTSTRAP, Role, Token, TokenList, TokenRecord, now},
};

/// The `WWW-Authenticate` header of an answer with 401 (RFC 6750, section 3).
pub const CHALLENGE: &str = "Bearer realm=\"streamgate\"";

/// Time from one look at the tokens to the next.
pub const POLL: Duration = Duration::from_secs(1);

/// Shortest time between two looks that a token which is not known asks for.
const SHORTEST_POLL: Duration = Duration::from_millis(200);

/// How long a request with a token that is not known waits for such a look.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Longest time that the tokens of a fleet are valid without being read again.
const MAX_AGE: Duration = Duration::from_secs(300);

/// Looks until the bootstrap token is read again.
const BOOTSTRAP_EVERY: u32 = 10;

/// Shortest bootstrap token, in characters, and the largest file, in bytes.
const MIN_BOOTSTRAP_CHARS: usize = 32;
const MAX_BOOTSTRAP_BYTES: usize = 4096;

/// The file in the gate's own directory that holds the first token.
pub const FIRST_TOKEN_FILE: &str = "admin-token";

/// The file there that holds the tokens of a fleet as they were read last.
const REMEMBERED: &str = "tokens.json";
const REMEMBERED_REMEDY: &str = "remove it to go on with the tokens that Redis has";

/// The name of the first token.
const FIRST_TOKEN: &str = "admin";

/// How access is set up.
#[derive(Debug, Clone, Default)]
pub struct AccessSettings {
    /// Whether the control API can be reached from other hosts, so that it needs a token.
    pub is_exposed: bool,
    /// Whether the control API needs no token, wherever it listens.
    pub insecure: bool,
    /// Where the bootstrap token is.
    pub bootstrap: Option<BootstrapToken>,
    /// The gate's own directory, for the first token and the last tokens that were read.
    pub directory: Option<PathBuf>,
}

/// Where the bootstrap token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapToken {
    /// In an environment variable of the process.
    Environment(String),
    /// In a file.
    File(PathBuf),
}

/// Who sent a request that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token; `None` if none was needed.
    pub name: Option<String>,
    /// What the caller may do.
    pub role: Role,
    /// Whether a token proved it.
    pub is_proven: bool,
}

/// Why a request is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It has no token.
    Missing,
    /// The `Authorization` header is not that of a bearer token.
    Malformed,
    /// There is no such token, or not any more.
    Unknown,
    /// The token has expired.
    Expired,
    /// The tokens could not be read for too long.
    Unavailable,
    /// The token is for something else.
    Role,
}

impl Denied {
    /// The code of the problem that a client is told.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed => "token_malformed",
            Self::Unknown => "token_unknown",
            Self::Expired => "token_expired",
            Self::Unavailable => "tokens_unavailable",
            Self::Role => "role_not_enough",
        }
    }
}

/// A handle to the tokens. Cheap to copy.
#[derive(Debug, Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: TokenStore,
    settings: AccessSettings,
    known: ArcSwap<Known>,
    /// Whether somebody waits for a look.
    wanted: Mutex<bool>,
    wake: Condvar,
    /// Counts the looks that were finished.
    looks: watch::Sender<u64>,
}

/// What was read last.
#[derive(Debug, Clone)]
struct Known {
    list: TokenList,
    /// When the store was last read without an error.
    read: Option<Instant>,
    /// Whether the list is of this process, or of one before it that could read the store.
    is_known: bool,
    bootstrap: Option<Digest>,
}

impl Access {
    /// Reads the tokens, makes the first one if one is needed and there is none, and begins to look
    /// for changes. Blocks.
    ///
    /// # Errors
    /// [`AccessError`] if nobody could ever use the control API, or the tokens are damaged.
    pub fn open(
        location: &StoreLocation,
        redis: RedisSettings,
        settings: AccessSettings,
    ) -> Result<Self, AccessError> {
        let store = TokenStore::open(location, redis)?;
        let bootstrap = match &settings.bootstrap {
            Some(source) => Some(source.read()?),
            None => None,
        };
        let has_place = settings.directory.is_some() || store.is_shared();
        if settings.is_exposed && !settings.insecure && bootstrap.is_none() && !has_place {
            return Err(AccessError::NoPlace);
        }
        let remembered = match &settings.directory {
            Some(directory) if store.is_shared() => {
                read_sealed(&directory.join(REMEMBERED), REMEMBERED_REMEDY)?
            }
            _ => None,
        };
        let inner = Arc::new(Inner {
            known: ArcSwap::from_pointee(Known {
                is_known: remembered.is_some() || !store.is_shared(),
                list: remembered.unwrap_or_default(),
                read: None,
                bootstrap,
            }),
            store,
            settings,
            wanted: Mutex::new(false),
            wake: Condvar::new(),
            looks: watch::Sender::new(0),
        });
        match inner.look() {
            Ok(()) => {}
            // The Redis of a fleet may be away when a gate starts.
            Err(error) if inner.store.is_shared() => warn!(
                error = &error as &dyn std::error::Error,
                "the tokens of the control API cannot be read; will try again"
            ),
            Err(error) => return Err(error.into()),
        }
        if inner.needs_first() && inner.settings.directory.is_none() {
            warn!(
                "the control API needs a token and there is none; create one with `streamgate token \
                 create NAME --role admin --store STORE`"
            );
        }
        let weak = Arc::downgrade(&inner);
        thread::Builder::new()
            .name("tokens".to_owned())
            .spawn(move || follow(&weak))
            .map_err(AccessError::Thread)?;
        Ok(Self { inner })
    }

    /// Finds out who sent a request with this `Authorization` header.
    ///
    /// # Errors
    /// [`Denied`] says why the request is not allowed.
    pub async fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, Denied> {
        let found = self.check(authorization);
        if found != Err(Denied::Unknown) {
            return found;
        }
        // It may have been created a moment ago, at another gate or with the command line.
        self.look_again().await;
        self.check(authorization)
    }

    /// Checks that events may be sent with this `Authorization` header.
    ///
    /// # Errors
    /// [`Denied`] says why they may not.
    pub async fn sender(&self, authorization: Option<&[u8]>) -> Result<(), Denied> {
        let check = || {
            let header = authorization.ok_or(Denied::Missing)?;
            let token = bearer(header).ok_or(Denied::Malformed)?;
            let caller = self.prove(&self.inner.known.load(), token)?;
            match caller.role.includes(Role::Sender) {
                true => Ok(()),
                false => Err(Denied::Role),
            }
        };
        let checked = check();
        if checked != Err(Denied::Unknown) {
            return checked;
        }
        self.look_again().await;
        check()
    }

    fn check(&self, authorization: Option<&[u8]>) -> Result<Caller, Denied> {
        let known = self.inner.known.load();
        let proven = match authorization {
            None => Err(Denied::Missing),
            Some(header) => bearer(header)
                .ok_or(Denied::Malformed)
                .and_then(|token| self.prove(&known, token)),
        };
        match proven {
            Err(_) if self.is_open(&known) => Ok(Caller {
                name: None,
                role: self.open_role(&known),
                is_proven: false,
            }),
            proven => proven,
        }
    }

    /// Whether requests to the control API need a token now.
    pub fn needs_token(&self) -> bool {
        !self.is_open(&self.inner.known.load())
    }

    fn is_open(&self, known: &Known) -> bool {
        let settings = &self.inner.settings;
        let no_tokens = !known.list.has_control() && known.bootstrap.is_none();
        settings.insecure || (!settings.is_exposed && no_tokens)
    }

    /// What a caller without a token may do where none is needed. Until the tokens of a fleet were
    /// read for the first time there may be some.
    fn open_role(&self, known: &Known) -> Role {
        match self.inner.settings.insecure || known.is_known {
            true => Role::Admin,
            false => Role::Viewer,
        }
    }

    /// Finds out whose token it is.
    fn prove(&self, known: &Known, token: &[u8]) -> Result<Caller, Denied> {
        use subtle::ConstantTimeEq;
        let digest = Digest::of(token);
        let proven = |name: &str, role| Caller {
            name: Some(name.to_owned()),
            role,
            is_proven: true,
        };
        if let Some(bootstrap) = known.bootstrap
            && bool::from(bootstrap.bytes().ct_eq(digest.bytes()))
        {
            return Ok(proven(BOOTSTRAP, Role::Admin));
        }
        let is_stale =
            self.inner.store.is_shared() && known.read.is_none_or(|read| read.elapsed() > MAX_AGE);
        match known.list.find(digest) {
            _ if is_stale => Err(Denied::Unavailable),
            None => Err(Denied::Unknown),
            Some(record) if record.is_expired(now()) => Err(Denied::Expired),
            Some(record) => Ok(proven(&record.name, record.role)),
        }
    }

    /// Waits until the tokens were read again, for a bounded time.
    async fn look_again(&self) {
        let mut looks = self.inner.looks.subscribe();
        looks.borrow_and_update();
        *self.inner.wanted.lock() = true;
        self.inner.wake.notify_one();
        let _ = tokio::time::timeout(LOOK_LIMIT, looks.changed()).await;
    }

    /// Lists the tokens.
    pub fn list(&self) -> Vec<TokenRecord> {
        self.inner.known.load().list.tokens.clone()
    }

    /// Creates a token. Blocks.
    ///
    /// # Errors
    /// The name cannot be used, or the store cannot be written.
    pub fn create(
        &self,
        name: &str,
        role: Role,
        lifetime: Option<Duration>,
    ) -> Result<(Token, TokenRecord), UpdateError> {
        let known = self.inner.known.load().list.clone();
        let created = create(&self.inner.store, &known, name, role, lifetime)?;
        self.inner.look().map_err(UpdateError::Store)?;
        Ok(created)
    }

    /// Revokes a token: it is not valid here when this returns. Blocks.
    ///
    /// # Errors
    /// There is none of this name, or the store cannot be written.
    pub fn revoke(&self, name: &str) -> Result<TokenRecord, UpdateError> {
        let known = self.inner.known.load().list.clone();
        let revoked = self.inner.store.update(&known, |list| list.revoke(name))?;
        self.inner.look().map_err(UpdateError::Store)?;
        Ok(revoked)
    }
}

/// Creates a token in a store.
///
/// # Errors
/// The name cannot be used, or the store cannot be written.
pub fn create(
    store: &TokenStore,
    known: &TokenList,
    name: &str,
    role: Role,
    lifetime: Option<Duration>,
) -> Result<(Token, TokenRecord), UpdateError> {
    let token = Token::generate().map_err(|source| StoreError::Write {
        path: PathBuf::from("token"),
        source,
    })?;
    let created = now();
    let record = TokenRecord {
        name: name.to_owned(),
        role,
        digest: token.digest(),
        created,
        expires: lifetime.map(|lifetime| created.saturating_add(lifetime.as_secs())),
    };
    store.update(known, |list| list.add(record.clone()))?;
    Ok((token, record))
}

/// Returns the token of an `Authorization` header (RFC 6750, section 2.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Looks for changes until nobody needs them.
fn follow(inner: &Weak<Inner>) {
    let mut failed = false;
    let mut looks = 0_u32;
    let mut stamp = None;
    loop {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        thread::sleep(SHORTEST_POLL);
        {
            let mut wanted = inner.wanted.lock();
            if !*wanted {
                inner.wake.wait_for(&mut wanted, POLL - SHORTEST_POLL);
            }
            *wanted = false;
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(BOOTSTRAP_EVERY) {
            inner.read_bootstrap();
        }
        let found = inner.store.stamp();
        if found.is_some() && found == stamp {
            inner.looks.send_modify(|looks| *looks += 1);
            continue;
        }
        match inner.look() {
            Ok(()) => {
                stamp = found;
                failed = false;
            }
            Err(error) if !failed => {
                failed = true;
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the tokens of the control API cannot be read; those that were read last count"
                );
            }
            Err(_) => {}
        }
    }
}

impl Inner {
    /// Reads the tokens, and makes the first one if one is needed and there is none.
    fn look(&self) -> Result<(), StoreError> {
        let read = self.read();
        self.looks.send_modify(|looks| *looks += 1);
        read?;
        match &self.settings.directory {
            Some(directory) if self.needs_first() => self.make_first(directory),
            _ => Ok(()),
        }
    }

    /// Whether nobody can use the control API.
    fn needs_first(&self) -> bool {
        let settings = &self.settings;
        let is_closed = settings.is_exposed && !settings.insecure && settings.bootstrap.is_none();
        let known = self.known.load();
        is_closed && known.read.is_some() && !known.list.has_control()
    }

    /// Reads the tokens.
    fn read(&self) -> Result<(), StoreError> {
        let found = self.store.read()?;
        let before = self.known.rcu(|known| Known {
            // A Redis that lost its tokens, or was set back, revokes and revives none.
            list: match self.store.is_shared() {
                true => TokenList::newer(found.clone(), &known.list),
                false => found.clone(),
            },
            read: Some(Instant::now()),
            is_known: true,
            bootstrap: known.bootstrap,
        });
        let known = self.known.load();
        let is_new = known.list != before.list || !before.is_known;
        if self.store.is_shared() && is_new {
            self.remember(&known.list);
        }
        if found.generation < known.list.generation {
            self.restore(&known.list);
        }
        Ok(())
    }

    /// Writes the tokens to a Redis that lost them or was set back, so that whoever changes them next
    /// changes these.
    fn restore(&self, known: &TokenList) {
        match self.store.update(known, |_| Ok(())) {
            Ok(()) => info!("Redis had older tokens than this gate, and has these again"),
            // Another gate can, or the next change does it.
            Err(error) => debug!(%error, "could not write the tokens to Redis again"),
        }
    }

    /// Keeps the tokens of a fleet, so that a restart takes no older ones for new.
    fn remember(&self, list: &TokenList) {
        let Some(directory) = &self.settings.directory else {
            return;
        };
        let kept = sealed("the tokens", list)
            .and_then(|bytes| replace_file(directory, REMEMBERED, &bytes));
        if let Err(error) = kept {
            warn!(
                error = &error as &dyn std::error::Error,
                "could not keep the list of tokens on disk"
            );
        }
    }

    /// Makes the first token and leaves it where only this user can read it.
    fn make_first(&self, directory: &std::path::Path) -> Result<(), StoreError> {
        let known = self.known.load().list.clone();
        let (token, _) = match create(&self.store, &known, FIRST_TOKEN, Role::Admin, None) {
            Ok(created) => created,
            // Another gate of the fleet was faster.
            Err(UpdateError::Refused(_)) => return self.read(),
            Err(UpdateError::Store(error)) => return Err(error),
        };
        let text = format!("{}\n", token.reveal());
        replace_file(directory, FIRST_TOKEN_FILE, text.as_bytes())?;
        info!(
            path = %directory.join(FIRST_TOKEN_FILE).display(),
            "created a token for the control API; `streamgate token show` prints it"
        );
        self.read()
    }

    /// Reads the bootstrap token again. One that cannot be read stays as it is.
    fn read_bootstrap(&self) {
        let Some(source) = &self.settings.bootstrap else {
            return;
        };
        match source.read() {
            Ok(digest) => {
                self.known.rcu(|known| Known {
                    bootstrap: Some(digest),
                    ..Known::clone(known)
                });
            }
            Err(error) => warn!(reason = %error, "the bootstrap token stays as it was read last"),
        }
    }
}

impl BootstrapToken {
    /// Reads the setting: `env:NAME` or `file:/path`.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            // What was found is not repeated: it may be the token itself.
            _ => Err(
                "expected where the token is, `file:PATH` or `env:NAME`, and not the token itself"
                    .to_owned(),
            ),
        }
    }

    fn read(&self) -> Result<Digest, AccessError> {
        let refuse = |reason: String| AccessError::Bootstrap { reason };
        let text = match self {
            Self::Environment(name) => std::env::var(name)
                .map_err(|error| refuse(format!("the environment variable `{name}`: {error}")))?,
            Self::File(path) => {
                let bytes = named_file::read(path, MAX_BOOTSTRAP_BYTES)
                    .map_err(|error| refuse(error.to_string()))?;
                String::from_utf8(bytes)
                    .map_err(|_| refuse(format!("`{}` is not UTF-8", path.display())))?
            }
        };
        let token = text.trim();
        let is_printable = token.bytes().all(|b| b.is_ascii_graphic());
        if token.len() < MIN_BOOTSTRAP_CHARS || !is_printable {
            return Err(refuse(format!(
                "it has {} characters; expected at least {MIN_BOOTSTRAP_CHARS}, printable ASCII \
                 without blanks, such as `openssl rand -hex 32` prints",
                token.chars().count()
            )));
        }
        Ok(Digest::of(token.as_bytes()))
    }
}

/// Why access cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The tokens cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bootstrap token cannot be used.
    #[error("the bootstrap token cannot be used: {reason}")]
    Bootstrap {
        /// What was found, and what was expected.
        reason: String,
    },
    /// There is no place for a first token.
    #[error(
        "the control API listens on an address that other hosts can reach, so it needs a token, and \
         a store in memory has no place for the first one; give one with `--bootstrap-token \
         file:PATH`, listen on 127.0.0.1, or allow everybody with `--insecure-control`"
    )]
    NoPlace,
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &std::path::Path, settings: AccessSettings) -> Access {
        let location = StoreLocation::Directory(folder.to_owned());
        Access::open(&location, RedisSettings::default(), settings).unwrap()
    }

    fn header(token: &str) -> Vec<u8> {
        format!("Bearer {token}").into_bytes()
    }

    #[tokio::test]
    async fn loopback_without_tokens_is_open_until_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let access = open(folder.path(), AccessSettings::default());
        let anybody = access.caller(None).await.unwrap();
        assert_eq!((anybody.role, anybody.is_proven), (Role::Admin, false));
        let (token, _) = access.create("a", Role::Viewer, None).unwrap();
        assert_eq!(access.caller(None).await, Err(Denied::Missing));
        let caller = access.caller(Some(&header(token.reveal()))).await.unwrap();
        assert_eq!(caller.name.as_deref(), Some("a"));
        assert_eq!(caller.role, Role::Viewer);
        for (wrong, denied) in [
            ("Basic YTpi", Denied::Malformed),
            ("Bearer", Denied::Malformed),
            ("Bearer  ", Denied::Malformed),
            ("Bearer sgt_0", Denied::Unknown),
        ] {
            assert_eq!(
                access.caller(Some(wrong.as_bytes())).await,
                Err(denied),
                "{wrong}"
            );
        }
        access.revoke("a").unwrap();
        assert!(access.caller(None).await.is_ok());
    }

    #[tokio::test]
    async fn exposed_gate_makes_one_token_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AccessSettings {
            is_exposed: true,
            directory: Some(folder.path().to_owned()),
            ..AccessSettings::default()
        };
        let access = open(folder.path(), settings.clone());
        let path = folder.path().join(FIRST_TOKEN_FILE);
        let token = std::fs::read_to_string(&path).unwrap();
        let authorization = header(token.trim());
        assert_eq!(access.caller(None).await, Err(Denied::Missing));
        assert_eq!(
            access.caller(Some(&authorization)).await.unwrap().role,
            Role::Admin
        );
        drop(access);
        let access = open(folder.path(), settings);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
        assert!(access.caller(Some(&authorization)).await.is_ok());
    }

    #[tokio::test]
    async fn token_of_the_command_line_counts_at_once_and_expires() {
        let folder = tempfile::tempdir().unwrap();
        let access = open(folder.path(), AccessSettings::default());
        let store = TokenStore::Directory(folder.path().to_owned());
        let none = TokenList::default();
        let (token, _) = create(&store, &none, "cli", Role::Editor, None).unwrap();
        let caller = access.caller(Some(&header(token.reveal()))).await;
        // Until the first look nobody knows of tokens, and the gate is open.
        assert_eq!(caller.unwrap().role, Role::Admin);
        access.look_again().await;
        let caller = access.caller(Some(&header(token.reveal()))).await.unwrap();
        assert_eq!(caller.role, Role::Editor);
        let (late, _) = create(&store, &none, "late", Role::Editor, None).unwrap();
        let caller = access.caller(Some(&header(late.reveal()))).await.unwrap();
        assert_eq!(caller.name.as_deref(), Some("late"));
        let short = Some(Duration::ZERO);
        let (gone, _) = create(&store, &none, "gone", Role::Editor, short).unwrap();
        let denied = access.caller(Some(&header(gone.reveal()))).await;
        assert_eq!(denied, Err(Denied::Expired));
    }

    #[tokio::test]
    async fn tokens_of_a_fleet_that_were_not_read_for_too_long_are_not_valid() {
        // Nobody listens there.
        let location = "redis://127.0.0.1:1".parse().unwrap();
        let secret = "b".repeat(MIN_BOOTSTRAP_CHARS);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, &secret).unwrap();
        let settings = AccessSettings {
            bootstrap: Some(BootstrapToken::File(path)),
            ..AccessSettings::default()
        };
        let access = Access::open(&location, RedisSettings::default(), settings).unwrap();
        let token = Token::generate().unwrap();
        let read_before = |age: Duration| {
            let mut list = TokenList::default();
            list.add(TokenRecord {
                name: "a".to_owned(),
                role: Role::Viewer,
                digest: token.digest(),
                created: 1,
                expires: None,
            })
            .unwrap();
            access.inner.known.rcu(|known| Known {
                list: list.clone(),
                read: Instant::now().checked_sub(age),
                is_known: true,
                bootstrap: known.bootstrap,
            });
        };
        let authorization = header(token.reveal());
        read_before(MAX_AGE - Duration::from_secs(30));
        assert!(access.caller(Some(&authorization)).await.is_ok());
        read_before(MAX_AGE + Duration::from_secs(1));
        let denied = access.caller(Some(&authorization)).await;
        assert_eq!(denied, Err(Denied::Unavailable));
        assert!(access.caller(Some(&header(&secret))).await.is_ok());
    }

    #[test]
    fn bootstrap_token_is_a_reference_and_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = BootstrapToken::parse(&format!("file:{}", path.display())).unwrap();
        assert!(source.read().is_err());
        std::fs::write(&path, "short\n").unwrap();
        assert!(source.read().is_err());
        std::fs::write(&path, format!("{}\n", "x".repeat(32))).unwrap();
        assert_eq!(
            source.read().unwrap(),
            Digest::of("x".repeat(32).as_bytes())
        );
        for wrong in ["hunter2hunter2", "env:", "file:", "vault:x"] {
            let message = BootstrapToken::parse(wrong).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
