//! The command line: what the program can be asked to do.

use clap::{Parser, Subcommand};

use crate::config::Settings;

pub mod module;

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
