//! Which format a spool has.
//!
//! The file `format` says `streamgate-spool N CRC`: the number of the format, and the CRC-32 of
//! what is before it, in hexadecimal. A spool without it is of format 1 (StreamGate 0.1). A file
//! that is damaged says nothing, and is written anew.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

/// The format that is written.
pub(crate) const FORMAT: u32 = 2;

const NAME: &str = "format";

/// Most bytes of the file.
const MAX_BYTES: u64 = 64;

/// Returns the format that a folder says it has, if it says so.
pub(crate) fn read(folder: &Path) -> Option<u32> {
    let path = folder.join(NAME);
    if !fs::metadata(&path).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let mut file = File::open(path).ok()?.take(MAX_BYTES);
    file.read_to_string(&mut text).ok()?;
    let (number, _) = text.strip_prefix("streamgate-spool ")?.split_once(' ')?;
    let number = number.parse().ok()?;
    (text == line(number)).then_some(number)
}

/// Says that a folder has the format that is written.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    if read(folder) == Some(FORMAT) {
        return Ok(());
    }
    File::create(folder.join(NAME))?.write_all(line(FORMAT).as_bytes())
}

fn line(number: u32) -> String {
    let said = format!("streamgate-spool {number}");
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}
