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
    time::SystemTime,
};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{error, info};

use crate::{access::token::Role, digest::Digest, timestamp::rfc3339};

/// The file in the gate's own directory.
pub const FILE: &str = "audit.jsonl";

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Older files that are kept, `audit.jsonl.1` being the newest of them.
const KEPT_FILES: u32 = 4;

/// Longest path of a request that is recorded, in characters.
const MAX_PATH_CHARS: usize = 256;

/// The audit log of a gate.
#[derive(Debug)]
pub struct AuditLog {
    /// None if the gate has no directory of its own; then entries go to its log.
    path: Option<PathBuf>,
    /// Held while a line is written, so that lines and files come one after the other.
    writing: Mutex<()>,
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
    /// Begins an entry with the present time.
    pub fn now(who: Option<String>, role: Role, action: &str) -> Self {
        Self {
            time: rfc3339(SystemTime::now()),
            who,
            role,
            from: None,
            action: action.chars().take(MAX_PATH_CHARS).collect(),
            outcome: "done".to_owned(),
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
            writing: Mutex::new(()),
        }
    }

    /// Adds an entry. What was done is done: a disk that refuses the entry is told in the gate's
    /// log, together with the entry. Blocks.
    pub fn record(&self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        let Some(path) = &self.path else {
            info!(entry = %String::from_utf8_lossy(&line), "audit");
            return;
        };
        line.push(b'\n');
        let _writing = self.writing.lock();
        if let Err(error) = append(path, &line) {
            error!(
                %error,
                path = %path.display(),
                entry = %String::from_utf8_lossy(&line),
                "cannot write the audit log; the entry is here"
            );
        }
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if length > 0 && length + line.len() as u64 > MAX_FILE_BYTES {
        rotate(path)?;
    }
    let mut options = File::options();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
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
