//! `chain`: the rules alone, in process, without sockets, queues or threads.
//!
//! What is timed is `Processor::process` of each rule in turn over batches of 256 KiB; filling the
//! batch is not. The first pass over every block compares what is left with what must be left, and a
//! wrong answer has no result. Cases without builtin rules have nothing to measure and are left out.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, Clock, OnError};

use crate::cases::Case;
use crate::events::{Block, Load};
use crate::report::{Origin, median, save};
use crate::throughput::{BLOCK_BYTES, find_cases};

/// Flags of `chain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which cases, or `all`
    #[arg(long = "case", value_delimiter = ',', default_value = "all")]
    cases: Vec<String>,
    /// Length of an event in bytes, newline included
    #[arg(long, default_value_t = 192)]
    event_bytes: usize,
    /// How long each case is measured in each round, in milliseconds
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    event_bytes: usize,
    results: Vec<CaseResult>,
}

/// The medians of one case.
#[derive(Serialize)]
struct CaseResult {
    case: &'static str,
    ns_per_event: f64,
    gigabytes_per_second: f64,
    rounds_ns_per_event: Vec<f64>,
}

/// Measures, prints a table, and saves the report.
///
/// # Errors
/// If a case is unknown, a rule is refused, or an answer is wrong: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cases = find_cases(&args.cases)?;
    let has_rules = |case: &&Case| !case.rules().is_empty();
    let duration = Duration::from_millis(args.milliseconds);
    let mut results = Vec::new();
    for case in cases.iter().filter(has_rules) {
        let mut rounds = Vec::new();
        for _ in 0..args.rounds {
            rounds.push(measure(case, args.event_bytes, duration)?);
        }
        let ns_per_event = median(rounds.iter().copied());
        #[expect(
            clippy::cast_precision_loss,
            reason = "an event has far fewer than 2^52 bytes"
        )]
        let gigabytes_per_second = args.event_bytes as f64 / ns_per_event;
        results.push(CaseResult {
            case: case.name,
            ns_per_event,
            gigabytes_per_second,
            rounds_ns_per_event: rounds,
        });
    }
    let mut out = stdout().lock();
    writeln!(out, "{:<10} {:>10} {:>8}", "case", "ns/event", "GB/s")?;
    for result in &results {
        let (ns, speed) = (result.ns_per_event, result.gigabytes_per_second);
        writeln!(out, "{:<10} {ns:>10.1} {speed:>8.2}", result.case)?;
    }
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "chain",
            origin: Origin::read(),
            event_bytes: args.event_bytes,
            results,
        };
        save(path, &report)?;
    }
    Ok(())
}

/// Returns the nanoseconds that the chain of `case` takes for an event.
fn measure(case: &Case, event_bytes: usize, duration: Duration) -> Result<f64> {
    let load = Load {
        connections: 1,
        events: 1,
        event_bytes,
        block_events: BLOCK_BYTES / event_bytes,
    };
    let streams = load.streams(case)?;
    let stream = streams.first().context("there is one connection")?;
    let mut chain = chain(case)?;
    let mut batch = Batch::new(vec![0; BLOCK_BYTES]);
    for (offered, expected) in stream.offered.iter().zip(&stream.expected) {
        process(&mut chain, &mut batch, offered);
        let left: Vec<u8> = batch.slices().flatten().copied().collect();
        ensure!(
            left == expected.bytes && batch.events() == expected.len(),
            "case {}: the chain left {} events of {} bytes, expected {} of {}, or other bytes",
            case.name,
            batch.events(),
            left.len(),
            expected.len(),
            expected.bytes.len(),
        );
    }
    let (mut spent, mut events) = (Duration::ZERO, 0);
    for offered in stream.offered.iter().cycle() {
        spent += process(&mut chain, &mut batch, offered);
        events += offered.len();
        if spent >= duration {
            break;
        }
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "far below 2^52 events in the time given"
    )]
    let ns_per_event = spent.as_secs_f64() * 1e9 / events as f64;
    Ok(ns_per_event)
}

fn chain(case: &Case) -> Result<Vec<Builtin>> {
    let build = |rule: &serde_json::Value| {
        let kind = rule["type"].as_str().context("a rule has a type")?;
        let params = rule["params"]
            .as_object()
            .context("a rule has parameters")?;
        Ok(Builtin::build(kind, params, OnError::Mask)?.for_worker(0, &Clock::default()))
    };
    case.rules().iter().map(build).collect()
}

/// Runs the chain over one block and returns how long that took.
fn process(chain: &mut [Builtin], batch: &mut Batch, block: &Block) -> Duration {
    batch.clear();
    batch.buffer_mut()[..block.bytes.len()].copy_from_slice(&block.bytes);
    batch.set_filled(block.bytes.len());
    let begun = Instant::now();
    for processor in chain {
        processor.process(batch);
    }
    begun.elapsed()
}
