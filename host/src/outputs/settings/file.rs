//! Outputs of type `file`.
//!
//! `docs/outputs.md` lists their fields.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Access, access};
use serde::Deserialize;

use super::{
    super::shown::one_line, Compression, FsyncPolicy, Invalid, OutputPolicy, Size, bytes_within,
    within,
};

/// Smallest and largest `rotate_bytes`.
const ROTATE_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// Longest path, in bytes, without what is added to the name of a rotated file. The kernel takes
/// names of 255 bytes and paths of 4,096 (`NAME_MAX`, `PATH_MAX` in limits.h).
const MAX_PATH_BYTES: usize = 3_000;
const MAX_NAME_BYTES: usize = 200;

/// Settings of a `file` output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// The file.
    pub path: PathBuf,
    /// It is put aside before it would become larger.
    pub rotate_bytes: u64,
    /// It is put aside when such a period ends.
    pub rotate_every: Option<Duration>,
    /// So many are kept that were put aside.
    pub max_files: usize,
    /// What is done to a file that was put aside.
    pub compression: Compression,
    /// When events are forced to the disk.
    pub fsync: FsyncPolicy,
}

#[derive(Deserialize)]
pub(super) struct FileFields {
    path: String,
    rotate_bytes: Option<Size>,
    rotate_every_s: Option<u64>,
    max_files: Option<usize>,
    compression: Option<Compression>,
    fsync: Option<FsyncPolicy>,
}

pub(super) fn parse(fields: &FileFields, policy: &OutputPolicy) -> Result<FileSettings, Invalid> {
    let rotate_bytes = match &fields.rotate_bytes {
        None => 100 << 20,
        Some(size) => bytes_within(size, "/rotate_bytes", ROTATE_BYTES)?,
    };
    let every = within("rotate_every_s", fields.rotate_every_s, 60..=2_678_400)?;
    let max_files = within("max_files", fields.max_files, 1..=10_000)?;
    Ok(FileSettings {
        path: parse_path(&fields.path, policy)?,
        rotate_bytes,
        rotate_every: every.map(Duration::from_secs),
        max_files: max_files.unwrap_or(10),
        compression: fields.compression.unwrap_or(Compression::None),
        fsync: fields.fsync.unwrap_or(FsyncPolicy::Interval),
    })
}

/// Finds the file, and refuses one that cannot be written or is outside the folder: someone who may
/// edit outputs must not be able to write to any file of the machine.
fn parse_path(given: &str, policy: &OutputPolicy) -> Result<PathBuf, Invalid> {
    let shown = one_line(given, 100);
    let invalid = |cause: String| Invalid::new("invalid_path", "/path", cause);
    let Some(root) = &policy.files else {
        return Err(invalid(
            "this gate has no folder for files; start it with `--files DIR`".to_owned(),
        ));
    };
    let root = std::path::absolute(root)
        .map_err(|error| invalid(format!("`--files` is not a path: {error}")))?;
    let path = root.join(given);
    let outside = || {
        invalid(format!(
            "`{shown}` is not below `{}`; expected a path below it, or start the gate with \
             another `--files DIR`",
            root.display()
        ))
    };
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let Ok(below) = path.strip_prefix(&root) else {
        return Err(outside());
    };
    if !below.components().all(is_plain) || below.as_os_str().is_empty() {
        return Err(outside());
    }
    let name = path.file_name().map_or(0, |name| name.len());
    let ends_as_folder = given.ends_with('/');
    if ends_as_folder
        || name > MAX_NAME_BYTES
        || given.len() > MAX_PATH_BYTES
        || given.contains('\0')
    {
        return Err(invalid(format!(
            "`{shown}` cannot be the path of a file; expected at most {MAX_PATH_BYTES} bytes, of \
             which the name has at most {MAX_NAME_BYTES}"
        )));
    }
    if path_leaves(&root, &path) {
        return Err(outside());
    }
    check_writable(&path)
        .map_err(|error| invalid(format!("`{shown}` cannot be written: {error}")))?;
    Ok(path)
}

/// Whether a symbolic link on the way leads out of `root`.
fn path_leaves(root: &Path, path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    match (
        existing.and_then(|path| path.canonicalize().ok()),
        root.canonicalize(),
    ) {
        (Some(real), Ok(root)) => !real.starts_with(&root),
        // There is no root yet, so nothing in it can lead away.
        _ => false,
    }
}

/// Checks a file that is there, or the folder that it would be made in.
fn check_writable(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(io::Error::other("it is not a regular file")),
        Ok(_) => Ok(access(path, Access::WRITE_OK | Access::READ_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut folders = path.ancestors().skip(1);
            let folder = folders.find(|folder| folder.symlink_metadata().is_ok());
            let folder = folder.ok_or(error)?;
            match folder.is_dir() {
                true => Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?),
                false => Err(io::Error::other(format!(
                    "`{}` is not a folder",
                    folder.display()
                ))),
            }
        }
        Err(error) => Err(error),
    }
}
