//! Compiled modules on the local disk: a start takes no time for what an earlier one compiled.
//!
//! ```text
//! <module's SHA-256>-<compatibility>.code   streamgate-code 1 <SHA-256 of what follows>\n
//!                                           <the name of the file>\n
//!                                           <what the module is, JSON>\n
//!                                           <machine code>
//! ```
//!
//! Machine code is trusted, so it is taken only from files that nobody but this user can have
//! written: the directory and the files belong to the user that the gate runs as, and give no
//! rights to others. The compatibility is a hash over the version of the gate, that of the engine,
//! its settings and the features of the processor. A file that is damaged, or is not the
//! one that was written under its name, is removed, and the module compiled again. Without a
//! directory that can be trusted there is no cache, and everything else works.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{fs::OFlags, process::geteuid};
use tracing::{debug, warn};

use super::{ModuleInfo, compile::Artifact, engine};
use crate::digest::Digest;

/// What a file begins with: its format.
const FORMAT: &str = "streamgate-code 1";

/// Most files that are kept, and most bytes of them together; the ones used longest ago go first.
const MAX_FILES: usize = 32;
const MAX_BYTES: u64 = 1 << 30;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 513 << 20;

/// Rights of others than the owner.
const RIGHTS_OF_OTHERS: u32 = 0o077;

/// A directory with compiled modules.
#[derive(Debug)]
pub(super) struct CodeCache {
    directory: PathBuf,
    compatibility: u64,
}

impl CodeCache {
    /// Opens the cache in `directory`, which is made if it is missing. `None`, and a warning, if it
    /// cannot be trusted.
    pub(super) fn open(directory: &Path) -> Option<Self> {
        match Self::try_open(directory) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!(
                    directory = %directory.display(),
                    %error,
                    "compiled modules are not kept; each start compiles them again"
                );
                None
            }
        }
    }

    fn try_open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let metadata = fs::symlink_metadata(directory)?;
        if !metadata.is_dir() || !is_ours_alone(&metadata) {
            return Err(io::Error::other(
                "expected a directory of the user that the gate runs as, which others have no rights to \
                 (mode 0700)",
            ));
        }
        Ok(Self {
            directory: directory.to_owned(),
            compatibility: compatibility()?,
        })
    }

    /// Returns what was compiled of the module before, if it is there and whole.
    pub(super) fn read(&self, digest: Digest) -> Option<Artifact> {
        let name = self.name_of(digest);
        let path = self.directory.join(&name);
        let read = read(&path, &name);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %error, "a compiled module cannot be used; compiling it again");
            let _ = fs::remove_file(&path);
        }
        read.ok()
    }

    /// Keeps what was compiled of a module. One call at a time.
    pub(super) fn write(&self, digest: Digest, artifact: &Artifact) {
        if let Err(error) = self.try_write(digest, artifact).and_then(|()| self.trim()) {
            warn!(
                directory = %self.directory.display(),
                %error,
                "a compiled module was not kept; the next start compiles it again"
            );
        }
    }

    fn try_write(&self, digest: Digest, artifact: &Artifact) -> io::Result<()> {
        let name = self.name_of(digest);
        let mut content = format!("{name}\n").into_bytes();
        serde_json::to_writer(&mut content, &artifact.info)?;
        content.push(b'\n');
        content.extend_from_slice(&artifact.code);
        // Damage is told by the checksum, so that nothing has to be forced to the disk.
        let unfinished = self.directory.join(".new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        writeln!(file, "{FORMAT} {}", Digest::of(&content).hex())?;
        file.write_all(&content)?;
        fs::rename(&unfinished, self.directory.join(name))
    }

    /// Removes the files that were used longest ago, until the rest is within the bounds.
    fn trim(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort_unstable_by(|a, b| b.cmp(a));
        let mut bytes = 0;
        for (number, (_, length, path)) in files.into_iter().enumerate() {
            bytes += length;
            if number >= MAX_FILES || bytes > MAX_BYTES {
                debug!(path = %path.display(), "removing a compiled module that was not used lately");
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn name_of(&self, digest: Digest) -> String {
        format!("{}-{:016x}.code", digest.hex(), self.compatibility)
    }

    #[cfg(test)]
    fn path_of(&self, digest: Digest) -> PathBuf {
        self.directory.join(self.name_of(digest))
    }
}

fn read(path: &Path, name: &str) -> io::Result<Artifact> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES || !is_ours_alone(&metadata) {
        return Err(io::Error::other(
            "expected a regular file of the user that the gate runs as, which others have no rights to",
        ));
    }
    let mut content = Vec::new();
    (&file).take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    let artifact = parse(content, name).ok_or_else(|| io::Error::other("it is damaged"))?;
    // The files that are used stay.
    let _ = touch(&file);
    Ok(artifact)
}

fn parse(mut content: Vec<u8>, name: &str) -> Option<Artifact> {
    let head = memchr::memchr(b'\n', &content)?;
    let checksum = std::str::from_utf8(&content[..head]).ok()?;
    let checksum = checksum.strip_prefix(FORMAT)?.strip_prefix(' ')?;
    let rest = &content[head + 1..];
    if Digest::of(rest).hex() != checksum {
        return None;
    }
    let rest = rest.strip_prefix(name.as_bytes())?.strip_prefix(b"\n")?;
    let end = memchr::memchr(b'\n', rest)?;
    let info: ModuleInfo = serde_json::from_slice(&rest[..end]).ok()?;
    let before_code = content.len() - rest.len() + end + 1;
    content.drain(..before_code);
    Some(Artifact {
        info,
        code: content,
    })
}

fn touch(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}

fn is_ours_alone(metadata: &fs::Metadata) -> bool {
    metadata.uid() == geteuid().as_raw() && metadata.mode() & RIGHTS_OF_OTHERS == 0
}

/// Returns what code has to be compiled for to run in this process.
fn compatibility() -> io::Result<u64> {
    let engine = engine::compiler().map_err(|error| io::Error::other(format!("{error:#}")))?;
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn artifact(code: &[u8]) -> Artifact {
        let info = ModuleInfo {
            kind: "component".to_owned(),
            imports: vec!["a#b".to_owned()],
            exports: Vec::new(),
        };
        Artifact {
            info,
            code: code.to_vec(),
        }
    }

    fn opened() -> (tempfile::TempDir, CodeCache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = CodeCache::open(&directory.path().join("compiled")).expect("it can be trusted");
        (directory, cache)
    }

    #[test]
    fn what_was_kept_is_read_again() {
        let (_directory, cache) = opened();
        let digest = Digest::of(b"module");
        assert!(cache.read(digest).is_none());
        cache.write(digest, &artifact(b"code\nwith lines"));
        let read = cache.read(digest).expect("it was kept");
        assert_eq!(read.code, b"code\nwith lines");
        assert_eq!(read.info, artifact(b"").info);
        assert!(cache.read(Digest::of(b"another")).is_none());
    }

    #[test]
    fn damaged_files_are_removed() {
        let (_directory, cache) = opened();
        let digest = Digest::of(b"module");
        let path = cache.path_of(digest);
        cache.write(digest, &artifact(b"some code"));
        let whole = fs::read(&path).expect("it is there");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            cache.write(digest, &artifact(b"some code"));
            fs::write(&path, &damaged).expect("it is ours");
            assert!(cache.read(digest).is_none(), "byte {at}");
            assert!(!path.exists(), "byte {at}");
            cache.write(digest, &artifact(b"some code"));
            fs::write(&path, &whole[..at]).expect("it is ours");
            assert!(cache.read(digest).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn the_code_of_another_module_is_not_used() {
        let (_directory, cache) = opened();
        let (mine, other) = (Digest::of(b"mine"), Digest::of(b"other"));
        cache.write(mine, &artifact(b"my code"));
        cache.write(other, &artifact(b"other code"));
        fs::copy(cache.path_of(other), cache.path_of(mine)).expect("they are ours");
        assert!(cache.read(mine).is_none());
        assert!(!cache.path_of(mine).exists());
        assert_eq!(cache.read(other).expect("it is whole").code, b"other code");
    }

    #[test]
    fn what_others_could_have_written_is_not_used() {
        let (directory, cache) = opened();
        let digest = Digest::of(b"module");
        let path = cache.path_of(digest);
        cache.write(digest, &artifact(b"code"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).expect("it is ours");
        assert!(cache.read(digest).is_none());

        cache.write(digest, &artifact(b"code"));
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("it is ours");
        symlink(&elsewhere, &path).expect("it is ours");
        assert!(cache.read(digest).is_none(), "a link is not followed");

        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&cache.directory, open).expect("it is ours");
        assert!(CodeCache::open(&cache.directory).is_none());
    }

    #[test]
    fn files_used_longest_ago_go_first() {
        let (_directory, cache) = opened();
        let digests: Vec<Digest> = (0..=MAX_FILES)
            .map(|n| Digest::of(&[n.try_into().expect("few")]))
            .collect();
        let hour = std::time::Duration::from_secs(3600);
        for (number, digest) in digests.iter().enumerate() {
            cache.write(*digest, &artifact(b"code"));
            let file = File::options()
                .write(true)
                .open(cache.path_of(*digest))
                .expect("it is there");
            let age = hour * u32::try_from(MAX_FILES - number).expect("few");
            file.set_modified(SystemTime::now() - age)
                .expect("it is ours");
        }
        cache.trim().expect("it is ours");
        assert!(cache.read(digests[0]).is_none());
        assert!(
            digests[1..]
                .iter()
                .all(|digest| cache.read(*digest).is_some())
        );
    }
}
