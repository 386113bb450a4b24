//! The audit log: who changed what, when, and with which outcome, one JSON object in a line.
//!
//! Lines are only ever added. At [`MAX_FILE_BYTES`] the file is renamed, and [`KEPT_FILES`] older
//! ones are kept, so that the disk is not filled. What is secret is never in it: paths of the API,
//! names and digests only.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout_at};
use tracing::{error, info};

use crate::{access::token::Role, digest::Digest, timestamp::rfc3339};

/// The file in the gate's own directory.
pub const FILE: &str = "audit.jsonl";

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// How long a request waits for its entry.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Older files that are kept, `audit.jsonl.1` being the newest of them.
const KEPT_FILES: u32 = 4;

/// Longest path of a request that is recorded, in characters.
const MAX_PATH_CHARS: usize = 256;

/// The audit log of a gate.
#[derive(Debug)]
pub struct AuditLog {
    /// None if the gate has no directory of its own; then entries go to its log.
    path: Option<PathBuf>,
    /// Held while a line is written, so that lines and files come one after the other, and no more
    /// than one thread waits for the disk.
    writing: Arc<Mutex<()>>,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Entry {
    time: String,
    /// The name of the token; `null` if none was needed.
    pub who: Option<String>,
    /// The role that the caller had.
    pub role: Role,
    /// The address of the caller; `null` for a command on the gate's host.
    pub from: Option<String>,
    /// What was asked for: `PUT /rules/ssn`, or a command.
    pub action: String,
    /// `done`, or the code of the problem.
    pub outcome: String,
    /// The token that was created or revoked: its name, and its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<(String, Role)>,
    /// The draft, if it was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<Difference>,
    /// What is live, if it was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Difference>,
}

/// The SHA-256 of something before and after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Difference {
    before: Digest,
    after: Digest,
}

impl Difference {
    /// Tells two values apart by the digest of their JSON.
    pub fn between<T: Serialize>(before: &T, after: &T) -> Self {
        let digest = |value| Digest::of(&serde_json::to_vec(value).unwrap_or_default());
        Self {
            before: digest(before),
            after: digest(after),
        }
    }
}

impl Entry {
    fn line(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Begins an entry with the present time.
    pub fn now(who: Option<String>, role: Role, action: &str) -> Self {
        Self {
            time: rfc3339(SystemTime::now()),
            who,
            role,
            from: None,
            action: action.chars().take(MAX_PATH_CHARS).collect(),
            outcome: "done".to_owned(),
            token: None,
            draft: None,
            live: None,
        }
    }
}

impl AuditLog {
    /// The audit log in a directory, or in the gate's log if there is none.
    pub fn new(directory: Option<&Path>) -> Self {
        Self {
            path: directory.map(|directory| directory.join(FILE)),
            writing: Arc::default(),
        }
    }

    /// Adds an entry. What was done is done: if the disk refuses the entry, or does not take it within
    /// [`WRITE_LIMIT`], it is in the gate's log.
    pub async fn record_in_time(self: Arc<Self>, entry: Entry) {
        let deadline = tokio::time::Instant::now() + WRITE_LIMIT;
        let told = entry.line();
        let writing = Arc::clone(&self.writing).lock_owned();
        let Ok(writing) = timeout_at(deadline, writing).await else {
            return self.tell(&told, "an entry before it is still being written");
        };
        let log = Arc::clone(&self);
        let written = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            log.record(&entry);
        });
        if timeout_at(deadline, written).await.is_err() {
            self.tell(&told, "the disk does not answer");
        }
    }

    /// Adds an entry. Blocks, on a disk that hangs for as long as it does.
    pub fn record(&self, entry: &Entry) {
        let mut line = entry.line();
        let Some(path) = &self.path else {
            info!(entry = %String::from_utf8_lossy(&line), "audit");
            return;
        };
        line.push(b'\n');
        if let Err(error) = append(path, &line) {
            self.tell(&line, &error.to_string());
        }
    }

    fn tell(&self, line: &[u8], reason: &str) {
        error!(
            reason,
            path = self.path.as_deref().map(|path| path.display().to_string()),
            entry = %String::from_utf8_lossy(line),
            "cannot write the audit log; the entry is here"
        );
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path).ok();
    if metadata.as_ref().is_some_and(|found| !found.is_file()) {
        // A pipe would be waited for.
        return Err(io::Error::other("it is not a regular file; remove it"));
    }
    let length = metadata.map_or(0, |metadata| metadata.len());
    if length > 0 && length + line.len() as u64 > MAX_FILE_BYTES {
        rotate(path)?;
    }
    let mut options = File::options();
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    options.append(true).create(true).mode(0o600);
    let mut file = options.custom_flags(nonblocking).open(path)?;
    file.write_all(line)?;
    file.sync_data()
}

/// Renames each file to the next number; the one with the last number is replaced.
fn rotate(path: &Path) -> io::Result<()> {
    let numbered = |number: u32| match number {
        0 => path.to_owned(),
        number => path.with_added_extension(number.to_string()),
    };
    for number in (0..KEPT_FILES).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_and_files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::new(Some(folder.path()));
        log.record(&Entry::now(
            Some("ann".to_owned()),
            Role::Editor,
            "PUT /rules/a\u{1b}[0m\n",
        ));
        log.record(&Entry::now(None, Role::Admin, &"x".repeat(10_000)));
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((lines.len(), &lines[0]["who"]), (2, &"ann".into()));
        assert!(!text.contains('\u{1b}') && text.len() < 1_000, "{text}");
        for _ in 0..KEPT_FILES + 2 {
            let full = File::options().write(true).open(&path).unwrap();
            full.set_len(MAX_FILE_BYTES).unwrap();
            log.record(&Entry::now(None, Role::Admin, "x"));
        }
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1 + KEPT_FILES as usize);
    }
}
