//! The lock on a folder, which keeps other processes out of it.
//!
//! The file `lock` in the folder is locked with `flock` and holds the number of the process that
//! has it. The system lets go of the lock when the process ends, however it ends.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// The files that this process has locked, by device and inode.
static OWN: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// The name of the file.
const NAME: &str = "lock";

/// Who has a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Another part of this process.
    ThisProcess,
    /// Another process, with this number if it is known.
    Process(Option<u32>),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisProcess => f.write_str("another part of this process"),
            Self::Process(Some(pid)) => write!(f, "process {pid}"),
            Self::Process(None) => f.write_str("another process"),
        }
    }
}

/// Why a folder cannot be locked.
#[derive(Debug)]
pub enum LockError {
    /// It is locked already.
    Held(Holder),
    /// The system has no lock to give.
    Io(io::Error),
}

/// A lock on a folder; it ends with this.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    file: File,
    id: (u64, u64),
}

impl FolderLock {
    /// Locks a folder, which is there. Never waits.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let mut file = options.open(&path).map_err(LockError::Io)?;
        let metadata = file.metadata().map_err(LockError::Io)?;
        let id = (metadata.dev(), metadata.ino());
        let mut own = OWN.lock();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if own.contains(&id) => {
                return Err(LockError::Held(Holder::ThisProcess));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held(Holder::Process(pid_in(&mut file))));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        own.insert(id);
        drop(own);
        // Only others want to read it; a full disk must not keep the folder from being used.
        let pid = std::process::id();
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{pid}"));
        Ok(Self { path, file, id })
    }

    /// Whether the file that is locked still has its name: if not, another process can lock the
    /// folder.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // In this order, nobody here takes the folder for one of another process.
        let mut own = OWN.lock();
        own.remove(&self.id);
        let _ = self.file.unlock();
    }
}

/// Whether a path leads to an open file.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
