//! Whole-process benchmark: runs the real gate over loopback TCP and measures it from outside.
//!
//! In reading order: `cases` says what is measured, `events` makes what is offered and what must come
//! out, `generator` offers it, `receiver` checks it, `subject` is the process between the two, and
//! `measure` is one run. `throughput`, `latency`, `chain`, `guests`, `module_latency`, `neighbours`, `fleet`
//! and `outputs` are the commands; `reference` has the programs that the gate is compared with. `README.md` says how
//! to run it and how to read it.

use std::io::{Write, stderr};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

mod arrivals;
mod cases;
mod chain;
mod contender;
mod control;
mod events;
mod fleet;
mod generator;
mod guests;
mod latency;
mod measure;
mod module_latency;
mod modules;
mod neighbours;
mod outputs;
mod receiver;
mod reference;
mod report;
mod sinks;
mod subject;
mod throughput;

// The gate's own: what `guests` runs in this process is to be served as it is in the gate.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures StreamGate as a whole process, from outside, with every event checked.
#[derive(Parser)]
#[command(name = "streamgate-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// CPU time of an event, and events a second, when the process is given all it can take
    Throughput(throughput::Args),
    /// Time from an event's intended send time to its arrival, at a fixed rate
    Latency(latency::Args),
    /// Time of an event in the rules alone, without sockets, queues or threads
    Chain(chain::Args),
    /// Time of an event in a WASM rule alone, beside the same processor as native code
    Guests(guests::Args),
    /// Time from the upload of a module to the arrival of the first event that it processed
    ModuleLatency(module_latency::Args),
    /// Latency of a connection's events while a guest misbehaves on those of another one
    Neighbours(neighbours::Args),
    /// Gates that share a Redis: publishes, a storm of them under load, a large manifest
    Fleet(fleet::Args),
    /// What sending costs by kind of output, beside a dead neighbour, and with a backlog on disk
    Outputs(outputs::Args),
    /// The bare relay, as a process of its own
    #[command(hide = true)]
    Relay(reference::relay::Args),
    /// The plain gate, as a process of its own
    #[command(hide = true)]
    Plain(reference::plain::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if stderr is closed.
            drop(writeln!(stderr().lock(), "streamgate-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Benchmark) -> Result<()> {
    match command {
        Benchmark::Throughput(args) => throughput::run(args),
        Benchmark::Latency(args) => latency::run(args),
        Benchmark::Chain(args) => chain::run(args),
        Benchmark::Guests(args) => guests::run(args),
        Benchmark::ModuleLatency(args) => module_latency::run(args),
        Benchmark::Neighbours(args) => neighbours::run(args),
        Benchmark::Fleet(args) => fleet::run(args),
        Benchmark::Outputs(args) => outputs::run(args),
        Benchmark::Relay(args) => reference::relay::run(args),
        Benchmark::Plain(args) => reference::plain::run(args),
    }
}
