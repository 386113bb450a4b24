//! Files that were put aside: their names, their compression and their end.
//!
//! A file `app.log` that is rotated becomes `app.log.20261123T210254.000Z`, by the time of its
//! rotation, and `.gz` or `.zst` is added when it is compressed. During compression there is also a
//! file that ends in `.partial`; a crash leaves it there, and the next try overwrites it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufReader},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::write::GzEncoder;
use tracing::info;

use super::MODE;
use crate::outputs::settings::{Compression, FileSettings};

/// Endings of compressed files.
const ENDINGS: [&str; 2] = [".gz", ".zst"];

/// What zstd itself takes as its default.
const ZSTD_LEVEL: i32 = 3;

/// Gives a file the name of one that was put aside now.
pub(super) fn rename(path: &Path) -> io::Result<()> {
    let mut time = SystemTime::now();
    loop {
        let name = with_ending(path, &format!(".{}", stamp(time)));
        let taken = |ending: &str| with_ending(&name, ending).symlink_metadata().is_ok();
        if !taken("") && !ENDINGS.iter().any(|ending| taken(ending)) {
            return fs::rename(path, name);
        }
        time += Duration::from_millis(1);
    }
}

/// Deletes the oldest files, and compresses the others where that is wanted.
pub(super) fn tidy(settings: &FileSettings, id: &str) -> io::Result<()> {
    let mut files = files_aside(&settings.path)?;
    // Their names sort as their times do.
    files.sort_unstable();
    let surplus = files.len().saturating_sub(settings.max_files);
    for file in files.drain(..surplus) {
        fs::remove_file(&file)?;
        let file = file.display();
        info!(output = %id, %file, "deleted the oldest file: `max_files` are kept");
    }
    let ending = match settings.compression {
        Compression::None => return Ok(()),
        Compression::Gzip => ".gz",
        Compression::Zstd => ".zst",
    };
    for file in files {
        if is_compressed(&file) {
            continue;
        }
        let partial = with_ending(&file, ".partial");
        let target = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(&partial)?;
        let compressed = compress(&file, target, settings.compression);
        if let Err(error) = compressed {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        fs::rename(&partial, with_ending(&file, ending))?;
        fs::remove_file(&file)?;
    }
    Ok(())
}

fn compress(source: &Path, target: File, compression: Compression) -> io::Result<()> {
    let mut source = BufReader::with_capacity(256 * 1024, File::open(source)?);
    let target = match compression {
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(target, flate2::Compression::default());
            io::copy(&mut source, &mut encoder)?;
            encoder.finish()?
        }
        Compression::None | Compression::Zstd => {
            let mut encoder = zstd::stream::Encoder::new(target, ZSTD_LEVEL)?;
            io::copy(&mut source, &mut encoder)?;
            encoder.finish()?
        }
    };
    target.sync_all()
}

/// Finds the files of this path that were put aside, compressed or not.
fn files_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let candidate = entry.file_name();
        let rest = candidate
            .as_encoded_bytes()
            .strip_prefix(name.as_encoded_bytes())
            .and_then(|rest| rest.strip_prefix(b"."));
        if rest.is_some_and(is_of_one_aside) && entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether this is what [`stamp`] writes, and maybe an ending.
fn is_of_one_aside(rest: &[u8]) -> bool {
    const SHAPE: &[u8] = b"00000000T000000.000Z";
    let Some((stamp, ending)) = rest.split_at_checked(SHAPE.len()) else {
        return false;
    };
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    };
    stamp.iter().zip(SHAPE).all(fits)
        && (ending.is_empty() || ENDINGS.iter().any(|known| known.as_bytes() == ending))
}

fn is_compressed(file: &Path) -> bool {
    let name = file.as_os_str().as_encoded_bytes();
    ENDINGS
        .iter()
        .any(|ending| name.ends_with(ending.as_bytes()))
}

/// Writes a time as `20261123T210254.123Z`.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let milliseconds = since.unwrap_or_default().subsec_millis();
    let seconds = crate::timestamp::basic(time);
    format!("{}.{milliseconds:03}Z", seconds.trim_end_matches('Z'))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}
