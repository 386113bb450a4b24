//! Events into a file, which is put aside when it is large or old enough.
//!
//! The file itself is never compressed, so that it can be followed with `tail -F` and a crash costs
//! no more than the event that was being written; only rotated files are ([`aside`]). Writing to a
//! disk blocks, so this output has its own thread, and another one that tidies up.
//!
//! A file that someone moves away or deletes is made again with the next events.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use tracing::{error, warn};

use super::{
    OutputState,
    console::{failed, write},
    queue::Group,
    runner::Attempt,
    settings::{FileSettings, FsyncPolicy},
};

mod aside;

/// How often the tidying thread forces what was written to the disk, and rotates files.
const TIDY_INTERVAL: Duration = Duration::from_millis(500);

/// How long tidying up is left alone after it failed, for example for want of space.
const TIDY_PAUSE: Duration = Duration::from_secs(30);

/// Files hold what is nobody else's business.
const MODE: u32 = 0o640;

/// Writes events to a file.
#[derive(Debug)]
pub(super) struct FileLines {
    file: Arc<LogFile>,
    /// Wakes the tidying thread; it ends when this is gone.
    put_aside: mpsc::SyncSender<()>,
}

/// A file, as one output sees it.
#[derive(Debug)]
struct LogFile {
    settings: FileSettings,
    turns: Arc<Turns>,
    open: Mutex<Option<File>>,
    /// Something was written that was not forced to the disk.
    unsynced: AtomicBool,
    /// What forcing it to the disk said, until an attempt to send has told it.
    sync_error: Mutex<Option<io::Error>>,
}

/// Locks of one path. Several outputs may have the same path, such as one that is being replaced
/// and still has events.
#[derive(Debug, Default)]
struct Turns {
    writing: Mutex<()>,
    tidying: Mutex<()>,
}

/// The turns of each path that an output writes to.
static TURNS: Mutex<BTreeMap<PathBuf, Weak<Turns>>> = Mutex::new(BTreeMap::new());

impl Turns {
    fn of(path: &Path) -> Arc<Self> {
        let mut all = TURNS.lock();
        all.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = all.get(path).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Self::default());
        all.insert(path.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

impl FileLines {
    /// Opens the file later, with the first events; now it starts the thread that tidies up.
    pub(super) fn start(settings: FileSettings, id: String) -> io::Result<Self> {
        let (put_aside, woken) = mpsc::sync_channel(1);
        let file = Arc::new(LogFile {
            turns: Turns::of(&settings.path),
            settings,
            open: Mutex::default(),
            unsynced: AtomicBool::new(false),
            sync_error: Mutex::default(),
        });
        let tidied = Arc::clone(&file);
        thread::Builder::new()
            .name("file".to_owned())
            .spawn(move || tidy(&tidied, &woken, &id))?;
        Ok(Self { file, put_aside })
    }

    pub(super) fn send(&mut self, group: &Group, done: usize, state: &OutputState) -> Attempt {
        let _turn = self.file.turns.writing.lock();
        match self.file.append(group, done, state) {
            Ok(put_aside) => {
                if put_aside {
                    // One that is full says that it will be woken anyway.
                    let _ = self.put_aside.try_send(());
                }
                Attempt::Sent {
                    bytes: group.bytes() - done,
                }
            }
            Err((written, error)) => {
                let path = self.file.settings.path.display();
                failed(
                    group,
                    done,
                    written,
                    format!("cannot write to `{path}`: {error}"),
                )
            }
        }
    }

    /// Forces to the disk what was written.
    pub(super) fn finish(&mut self, id: &str) {
        if self.file.settings.fsync != FsyncPolicy::Never
            && let Err(error) = self.file.sync()
        {
            error!(output = %id, %error, "the file may not be on the disk");
        }
    }
}

impl LogFile {
    /// Appends what follows the first `done` bytes of a group. Returns whether a file was rotated;
    /// an error comes with how many bytes are in the file nevertheless, whole events.
    fn append(
        &self,
        group: &Group,
        done: usize,
        state: &OutputState,
    ) -> Result<bool, (usize, io::Error)> {
        let mut open = self.open.lock();
        if let Some(error) = self.sync_error.lock().take() {
            *open = None;
            return Err((0, error));
        }
        let incoming = (group.bytes() - done) as u64;
        let (put_aside, before) = self
            .make_current(&mut open, incoming)
            .map_err(|error| (0, error))?;
        let file = open.as_mut().expect("was just made current");
        self.unsynced.store(true, Ordering::Relaxed);
        let (written, written_all) = write(file, group, done, state);
        // Whoever waits was promised that the events survive.
        let synced = match self.settings.fsync == FsyncPolicy::Always || group.is_awaited() {
            true => written_all
                .and_then(|()| file.sync_data())
                .map_err(|error| (0, error)),
            false => written_all.map_err(|error| {
                let whole = group.event_start(done + written) - done;
                (whole, error)
            }),
        };
        if let Err((kept, error)) = synced {
            // What does not count must not stay, or it is there twice. If it cannot be taken back,
            // the file is ended with a line feed when it is opened again.
            let after = file.metadata().map(|metadata| metadata.len());
            if after.is_ok_and(|after| after == before + written as u64) {
                let _ = file.set_len(before + kept as u64);
            }
            *open = None;
            return Err((kept, error));
        }
        Ok(put_aside)
    }

    /// Sees to it that the file that is open is the one that the path names, and that so many bytes
    /// more may go into it. Returns whether one was put aside for it, and how long the file is.
    fn make_current(&self, open: &mut Option<File>, incoming: u64) -> io::Result<(bool, u64)> {
        let path = &self.settings.path;
        let mut put_aside = false;
        let mut found = match fs::symlink_metadata(path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_due = |there: &fs::Metadata| {
            let after = there.len().saturating_add(incoming);
            let too_large = there.len() > 0 && after > self.settings.rotate_bytes;
            there.is_file() && (too_large || self.is_of_an_old_period(there))
        };
        if found.as_ref().is_some_and(is_due) {
            self.put_aside(open)?;
            (put_aside, found) = (true, None);
        }
        if let (Some(there), Some(file)) = (&found, open.as_ref()) {
            let opened = file.metadata()?;
            if (there.dev(), there.ino()) == (opened.dev(), opened.ino()) {
                return Ok((put_aside, there.len()));
            }
        }
        let (file, length) = self.create()?;
        *open = Some(file);
        Ok((put_aside, length))
    }

    /// Opens the file, or makes it; returns its length. A file without a line feed at its end gets
    /// one: the last line is an event of which a crash left only the beginning.
    fn create(&self) -> io::Result<(File, u64)> {
        let path = &self.settings.path;
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        // Not through a link, which may lead anywhere; and a pipe without a reader must not block.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut length = metadata.len();
        if length == 0 {
            if self.settings.fsync != FsyncPolicy::Never {
                File::open(folder)?.sync_all()?;
            }
            return Ok((file, length));
        }
        let mut last = [0];
        file.read_exact_at(&mut last, length - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
        Ok((file, length))
    }

    /// Gives the file another name, so that the next events go into a new one.
    fn put_aside(&self, open: &mut Option<File>) -> io::Result<()> {
        if let Some(file) = open.take()
            && self.settings.fsync != FsyncPolicy::Never
        {
            file.sync_data()?;
        }
        aside::rename(&self.settings.path)
    }

    fn is_of_an_old_period(&self, there: &fs::Metadata) -> bool {
        let Some(every) = self.settings.rotate_every else {
            return false;
        };
        let period = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or_default().as_secs() / every.as_secs()
        };
        let last_written = there.modified().unwrap_or(SystemTime::now());
        there.len() > 0 && period(last_written) != period(SystemTime::now())
    }

    /// Forces to the disk what was written since the last time.
    fn sync(&self) -> io::Result<()> {
        if !self.unsynced.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        // Not with the lock held: it may take long, and more can be written meanwhile.
        let file = self.open.lock().as_ref().map(File::try_clone);
        file.map_or(Ok(()), |file| file?.sync_data())
    }

    /// Puts the file aside if its period has ended and nothing came since.
    fn end_period(&self) -> io::Result<bool> {
        let _turn = self.turns.writing.lock();
        let mut open = self.open.lock();
        match fs::symlink_metadata(&self.settings.path) {
            Ok(there) if there.is_file() && self.is_of_an_old_period(&there) => {
                self.put_aside(&mut open).map(|()| true)
            }
            _ => Ok(false),
        }
    }
}

/// Runs as long as an output: forces its file to the disk, rotates it when its period ends, and
/// compresses and deletes rotated files.
fn tidy(file: &LogFile, woken: &mpsc::Receiver<()>, id: &str) {
    let mut due = true;
    let mut not_before = Instant::now();
    loop {
        match woken.recv_timeout(TIDY_INTERVAL) {
            Ok(()) => due = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if file.settings.fsync == FsyncPolicy::Interval
            && let Err(error) = file.sync()
        {
            error!(output = %id, %error, "events that count as sent may not be on the disk");
            *file.sync_error.lock() = Some(error);
        }
        if not_before > Instant::now() {
            continue;
        }
        let tidied = file.end_period().and_then(|ended| {
            due |= ended;
            match due {
                true => {
                    let _turn = file.turns.tidying.lock();
                    aside::tidy(&file.settings, id)
                }
                false => Ok(()),
            }
        });
        match tidied {
            Ok(()) => due = false,
            Err(error) => {
                warn!(output = %id, %error, "cannot tidy up behind the file");
                not_before = Instant::now() + TIDY_PAUSE;
            }
        }
    }
}
