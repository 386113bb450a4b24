//! `streamgate module`: what authors of WASM rules do without a gate, and how a module gets to one.

use std::{fmt, io, path::PathBuf, process::ExitCode};

use clap::Subcommand;

mod new;
mod push;
mod test;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// What can be done with modules.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a crate to begin with: a rule that works, with its test
    New(new::Args),
    /// Runs a module over events, without a gate, and shows what becomes of each
    Test(test::Args),
    /// Uploads a module to a gate, for rules to name
    Push(push::Args),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ModuleCommandError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was asked for cannot be.
    #[error("{0}")]
    Refused(String),
    /// Nobody reads the output any more, or it cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ModuleCommandError {
    fn refused(what: impl fmt::Display) -> Self {
        Self::Refused(what.to_string())
    }
}

/// Does it.
///
/// # Errors
/// [`ModuleCommandError`], to be told to the user.
pub fn run(command: Command) -> Result<ExitCode, ModuleCommandError> {
    match command {
        Command::New(args) => new::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Push(args) => push::run(&args),
    }
}

/// Reads a whole file of at most [`MAX_FILE_BYTES`].
fn read(path: &PathBuf) -> Result<Vec<u8>, ModuleCommandError> {
    let failed = |source| ModuleCommandError::File {
        path: path.clone(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    read_all(file).map_err(failed)
}

fn read_all(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut from.take(MAX_FILE_BYTES + 1), &mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("more than {MAX_FILE_BYTES} bytes; give it in parts");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
