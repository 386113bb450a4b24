//! `streamgate module`: what authors of WASM rules do without a gate, and how a module gets to one.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use super::control_api::ApiError;

mod new;
mod push;
mod test;

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
    /// The gate does not answer, or says no.
    #[error(transparent)]
    Api(#[from] ApiError),
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

/// Reads a whole file.
fn read(path: &Path) -> Result<Vec<u8>, ModuleCommandError> {
    super::read(path).map_err(|source| ModuleCommandError::File {
        path: path.to_owned(),
        source,
    })
}
