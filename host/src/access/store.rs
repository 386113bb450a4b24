//! Where tokens are kept: beside the config, in the directory of the store or in Redis.
//!
//! In a directory the file is not behind the lock of the gate that runs there, so that the command
//! line can create and revoke tokens while the gate runs and while it does not: whoever may write
//! to the directory has all rights anyway. Everything here blocks.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::token::{TokenError, TokenList};
use crate::config_store::{
    Redis, RedisSettings, StoreError, StoreLocation,
    embedded::{read_sealed, replace_file, sealed},
    redis::Kind,
};

/// The file in the directory of a store.
const FILE: &str = "tokens.json";

/// Held by whoever changes it.
const LOCK: &str = "tokens.lock";

/// How long to wait for somebody else who changes it.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// The key in Redis.
const KEY: &str = "streamgate_tokens";

const KEY_REMEDY: &str =
    "delete the key, and create the tokens again with `streamgate token create`";
const REMEDY: &str = "remove it, and create the tokens again with `streamgate token create`";

/// The tokens of a gate, or of all gates that share a Redis.
#[derive(Debug)]
pub enum TokenStore {
    /// The file `tokens.json` in this directory.
    Directory(PathBuf),
    /// Nowhere: they end with the process.
    Memory(Mutex<TokenList>),
    /// A key in Redis. Boxed, since it is much larger than the others.
    Redis(Box<Redis>),
}

/// Tells two contents of the store apart without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

/// Why tokens were not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// They cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change cannot be made.
    #[error(transparent)]
    Refused(#[from] TokenError),
}

impl TokenStore {
    /// Opens the tokens of the store at `location`.
    ///
    /// # Errors
    /// The settings of a Redis cannot be right. It is not connected to yet.
    pub fn open(location: &StoreLocation, redis: RedisSettings) -> Result<Self, StoreError> {
        Ok(match location {
            StoreLocation::Directory(directory) => Self::Directory(directory.clone()),
            StoreLocation::Memory => Self::Memory(Mutex::default()),
            StoreLocation::Redis(location) => {
                let settings = RedisSettings {
                    cache: None,
                    ..redis
                };
                Self::Redis(Box::new(Redis::open(location, settings)?))
            }
        })
    }

    /// Whether gates share it, so that it may be out of reach.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// Reads the list; empty if there is none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is not signed as it must be.
    pub fn read(&self) -> Result<TokenList, StoreError> {
        match self {
            Self::Directory(directory) => read_file(directory),
            Self::Memory(list) => Ok(list.lock().clone()),
            Self::Redis(redis) => {
                let list = redis.document(Kind::Tokens, KEY, KEY_REMEDY)?;
                Ok(list.unwrap_or_default())
            }
        }
    }

    /// Returns what changes when the list does; `None` if only reading it tells.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let Self::Directory(directory) = self else {
            return None;
        };
        let metadata = fs::metadata(directory.join(FILE)).ok()?;
        Some(Stamp {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }

    /// Changes the list. `known` is the newest that the caller has seen: a store that lost it, or has
    /// an older one, gets it back.
    ///
    /// # Errors
    /// The change is refused, or cannot be written; the list is as it was then.
    pub fn update<T>(
        &self,
        known: &TokenList,
        change: impl Fn(&mut TokenList) -> Result<T, TokenError>,
    ) -> Result<T, UpdateError> {
        match self {
            Self::Directory(directory) => {
                let _lock = lock(directory)?;
                let mut list = read_file(directory)?;
                let done = change(&mut list)?;
                replace_file(directory, FILE, &sealed("the tokens", &list)?)?;
                Ok(done)
            }
            Self::Memory(list) => {
                let mut list = list.lock();
                let mut changed = list.clone();
                let done = change(&mut changed)?;
                *list = changed;
                Ok(done)
            }
            Self::Redis(redis) => {
                let change = |found: Option<TokenList>| {
                    let mut list = match found {
                        Some(found) => TokenList::newer(found, known),
                        None => known.clone(),
                    };
                    let done = change(&mut list)?;
                    Ok::<_, TokenError>((list, done))
                };
                Ok(redis.update_document(Kind::Tokens, KEY, KEY_REMEDY, change)??)
            }
        }
    }
}

fn read_file(directory: &Path) -> Result<TokenList, StoreError> {
    let list = read_sealed(&directory.join(FILE), REMEDY)?;
    Ok(list.unwrap_or_default())
}

/// Waits until nobody else changes the file, for a bounded time.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let failed = |source| StoreError::Write {
        path: path.clone(),
        source,
    };
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another process holds its lock",
                )));
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::token::{Role, Token, TokenRecord};

    fn record(name: &str) -> TokenRecord {
        TokenRecord {
            name: name.to_owned(),
            role: Role::Admin,
            digest: Token::generate().unwrap().digest(),
            created: 1,
            expires: None,
        }
    }

    #[test]
    fn changes_from_many_threads_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for number in 0..8 {
                let directory = folder.path().to_owned();
                scope.spawn(move || {
                    let store = TokenStore::Directory(directory);
                    let add = |list: &mut TokenList| list.add(record(&format!("t{number}")));
                    store.update(&TokenList::default(), add).unwrap();
                });
            }
        });
        let store = TokenStore::Directory(folder.path().to_owned());
        let list = store.read().unwrap();
        assert_eq!((list.tokens.len(), list.generation), (8, 8));
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damaged_file_is_told_and_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::Directory(folder.path().to_owned());
        assert_eq!(store.read().unwrap(), TokenList::default());
        let before = store.stamp();
        store
            .update(&TokenList::default(), |list| list.add(record("a")))
            .unwrap();
        assert_ne!(store.stamp(), before);
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("admin", "Admin")).unwrap();
        assert!(store.read().is_err());
        let refused = store.update(&TokenList::default(), |list| list.add(record("b")));
        assert!(refused.is_err());
    }
}
