//! The command line: what the program can be asked to do.

use std::{io, path::Path};

use clap::{Parser, Subcommand};

use crate::config::Settings;

pub mod control_api;
pub mod environment;
pub mod manifest;
pub mod module;
pub mod token;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// The log governance gate: takes logs over TCP, UDP and HTTP, runs them through rules that can be
/// changed while it runs, and sends the rest on.
///
/// Try it: start `streamgate`, then `echo "hello" | nc localhost 8081`. Rules are added at
/// http://localhost:8000/docs.
#[derive(Debug, Parser)]
#[command(
    name = "streamgate",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do; `serve`, which runs the gate, if it is left out
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings, if there is no command.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the gate until SIGTERM or SIGINT; a second signal ends it at once
    Serve(Box<Settings>),
    /// Publishes a manifest from a file, so that config can be kept in version control
    Apply(manifest::ApplyArgs),
    /// Shows what `apply` would change; exit code 1 if there is anything
    Diff(manifest::DiffArgs),
    /// Shows what a gate and those that share its config store run
    Status(manifest::StatusArgs),
    /// Creates, lists and revokes tokens for the control API
    #[command(subcommand)]
    Token(token::Command),
    /// Makes, tries and uploads rules in WASM
    #[command(subcommand)]
    Module(module::Command),
    /// Compiles one module from stdin to stdout: the gate's own child
    #[command(name = crate::wasm::SUBCOMMAND, hide = true)]
    CompileModule {
        /// Processor time that it may take, in seconds
        cpu_seconds: u64,
        /// Address space that it may take, in bytes
        address_space: u64,
    },
}

/// Reads a whole file of at most [`MAX_FILE_BYTES`]; `-` is stdin.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match path.as_os_str() == "-" {
        true => read_all(io::stdin().lock()),
        false => read_all(std::fs::File::open(path)?),
    }
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
