//! Files that a user names: keys, secrets, certificates.
//!
//! A name may lead anywhere: to a pipe without a writer, to a device, to a file system that
//! does not answer. So a file is opened without waiting for another side, must be a regular file,
//! is read up to a limit, and has to be read within [`READ_LIMIT`]. It is read on a thread of its
//! own, since there is no way to end a call of a file system that hangs. No more than
//! [`MAX_READERS`] such threads run, and one for each file.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{File, FileType},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How long a file may take to be opened and read.
pub const READ_LIMIT: Duration = Duration::from_secs(5);

/// Most files that are read at a time. Those that hang count.
const MAX_READERS: usize = 64;

/// A file that cannot be read, and why; never what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    path: PathBuf,
    reason: String,
}

impl Unreadable {
    /// Says why, without the name.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read `{}`: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for Unreadable {}

/// Reads a regular file of at most `most` bytes. Blocks, at most for [`READ_LIMIT`].
///
/// # Errors
/// [`Unreadable`] says what was found, what was expected and the remedy.
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>, Unreadable> {
    let named = path.to_owned();
    within(READ_LIMIT, path, move || read_now(&named, most)).map_err(|reason| Unreadable {
        path: path.to_owned(),
        reason,
    })
}

fn read_now(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let said = |error: io::Error| error.to_string();
    let file = open(path).map_err(said)?;
    let metadata = file.metadata().map_err(said)?;
    if !metadata.is_file() {
        return Err(format!(
            "it is {}; expected a regular file: write the content into one, and name that",
            named(metadata.file_type())
        ));
    }
    let too_large = || format!("it has more than {most} bytes, the limit for this kind of file");
    if metadata.len() > most as u64 {
        return Err(too_large());
    }
    let mut content = Vec::new();
    // One byte more than may be, to tell; a file may grow meanwhile.
    let read = file.take(most as u64 + 1).read_to_end(&mut content);
    match read.map_err(said)? {
        read if read > most => Err(too_large()),
        _ => Ok(content),
    }
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};

    // Without NONBLOCK the opening of a pipe waits until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn named(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;

    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe (FIFO)",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "a special file",
    }
}

#[cfg(not(unix))]
fn named(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else {
        "a special file"
    }
}

/// The files that are being read.
static READING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Signalled when one of them was read.
static ENDED: Condvar = Condvar::new();

/// A file that is being read, until this is dropped.
struct Turn(PathBuf);

impl Turn {
    /// Waits until no other thread reads the file and fewer than [`MAX_READERS`] files are read.
    fn wait(path: &Path, deadline: Instant) -> Option<Self> {
        let mut reading = reading();
        while reading.contains(path) || reading.len() >= MAX_READERS {
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = ENDED.wait_timeout(reading, left);
            reading = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        reading.insert(path.to_owned());
        Some(Self(path.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        reading().remove(&self.0);
        ENDED.notify_all();
    }
}

fn reading() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    READING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`, which reads the file, on a thread of its own, and waits for it at most for so long.
fn within<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    if cfg!(not(unix)) {
        return work();
    }
    let hangs = || {
        format!(
            "it was not read within {} s; check whether its file system answers, or name a file on \
             another one",
            limit.as_secs_f32()
        )
    };
    let deadline = Instant::now() + limit;
    let turn = Turn::wait(path, deadline).ok_or_else(hangs)?;
    let (sender, read) = mpsc::sync_channel(1);
    let reader = thread::Builder::new().name("named-file".to_owned());
    let started = reader.spawn(move || {
        let done = work();
        drop(turn);
        // The caller may have given up at the limit.
        let _ = sender.send(done);
    });
    started.map_err(|error| format!("cannot start a thread to read it: {error}"))?;
    let left = deadline.saturating_duration_since(Instant::now());
    read.recv_timeout(left).unwrap_or_else(|_| Err(hangs()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let name = format!("streamgate-named-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn only_a_regular_file_within_the_limit_is_read() {
        let path = fresh("file");
        std::fs::write(&path, b"0123456789").expect("can be written");
        assert_eq!(read(&path, 10).expect("fits"), b"0123456789");
        let error = read(&path, 9).expect_err("too large").to_string();
        assert!(error.contains("more than 9 bytes"), "{error}");
        std::fs::remove_file(&path).expect("can be removed");
        assert!(
            read(&path, 9)
                .expect_err("gone")
                .to_string()
                .starts_with("cannot read")
        );
        let pipe = fresh("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("can be made");
        for (path, found) in [
            (pipe.as_path(), "a pipe (FIFO)"),
            (Path::new("/dev/zero"), "a device"),
            (std::env::temp_dir().as_path(), "a directory"),
        ] {
            let begun = Instant::now();
            let error = read(path, 10).expect_err(found).to_string();
            assert!(error.contains(found), "{error}");
            assert!(error.contains("expected a regular file"), "{error}");
            assert!(begun.elapsed() < READ_LIMIT / 2, "{error}");
        }
        std::fs::remove_file(&pipe).expect("can be removed");
    }

    #[test]
    fn file_that_hangs_holds_up_its_own_readers_only() {
        let (answer, hangs) = mpsc::sync_channel::<()>(0);
        let (path, limit) = (fresh("hangs"), Duration::from_millis(50));
        let first = within(limit, &path, move || {
            let _ = hangs.recv();
            Ok(1)
        });
        assert!(first.expect_err("it hangs").contains("was not read within"));
        // The first thread still has it, so that no second one hangs there.
        let second = within(limit, &path, || Ok(2));
        assert!(
            second
                .expect_err("it hangs")
                .contains("was not read within")
        );
        let other = within(READ_LIMIT, &fresh("answers"), || Ok(3));
        assert_eq!(other, Ok(3));
        drop(answer);
        assert_eq!(within(READ_LIMIT, &path, || Ok(4)), Ok(4));
    }
}
