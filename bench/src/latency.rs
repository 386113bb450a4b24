//! `latency`: how long an event takes from its intended send time to its arrival, at a fixed rate.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::contender::Contender;
use crate::events::Load;
use crate::generator::Pace;
use crate::measure::{self, Cost};
use crate::receiver::empty_histogram;
use crate::report::{Origin, Percentiles, save};
use crate::throughput::{find_cases, find_contenders};

/// Events that are numbered together; a run is rounded up to whole blocks on each connection.
const BLOCK_EVENTS: usize = 100;

/// Flags of `latency`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gate's program; without it only the references are measured
    #[arg(long)]
    gate: Option<PathBuf>,
    /// An argument for the gate, put before those of the benchmark; may be repeated
    #[arg(long, allow_hyphen_values = true)]
    gate_arg: Vec<String>,
    /// Also measures the plain reference: a thread a connection, a regex a rule and event
    #[arg(long)]
    plain: bool,
    /// Events a second, all connections together
    #[arg(long, value_delimiter = ',', default_value = "10000,50000")]
    rates: Vec<usize>,
    /// How long a rate is recorded, after a second of warming up
    #[arg(long, default_value_t = 10)]
    seconds: usize,
    /// Which case
    #[arg(long, default_value = "drop_ssn")]
    case: String,
    /// A folder with the modules, `<name>.wasm` each; by default `tests/build-guests` makes them
    #[arg(long)]
    modules: Option<PathBuf>,
    /// How many connections send
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// How often a connection writes what is due, in microseconds
    #[arg(long, default_value_t = 500)]
    write_every_us: u64,
    /// Length of an event in bytes, newline included
    #[arg(long, default_value_t = 192)]
    event_bytes: usize,
    /// How often everything is measured
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    connections: usize,
    seconds: usize,
    event_bytes: usize,
    write_every_us: u64,
    summary: Vec<Summary>,
    runs: Vec<Run>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    round: usize,
    contender: String,
    case: &'static str,
    rate: usize,
    latency: Percentiles,
    /// How late the generator's own writes were; latency includes this.
    lateness: Percentiles,
    cost: Cost,
    #[serde(skip)]
    histogram: Histogram<u64>,
}

/// All rounds of one contender and rate together.
#[derive(Serialize)]
struct Summary {
    contender: String,
    rate: usize,
    latency: Percentiles,
}

/// Measures, prints a table, and saves the report.
///
/// # Errors
/// If a process fails or an answer is wrong: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.write_every_us > 0, "`--write-every-us` must not be 0");
    let cases = find_cases(std::slice::from_ref(&args.case))?;
    let case = cases.first().context("there is no case")?;
    let mut contenders = vec![Contender::Relay];
    contenders.extend(find_contenders(
        args.gate.as_ref(),
        &args.gate_arg,
        args.plain,
        &cases,
        args.modules.as_deref(),
    )?);
    contenders.retain(|contender| contender.takes_part_in(case));
    let origin = Origin::read();
    let warm_up = 1;
    let mut out = stdout().lock();
    writeln!(
        out,
        "case {}, {} connections, a write every {} us each, {} s, commit {}",
        case.name, args.connections, args.write_every_us, args.seconds, origin.commit
    )?;
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        for &rate in &args.rates {
            ensure!(rate > 0, "a rate must not be 0");
            for contender in &contenders {
                let load = Load {
                    connections: args.connections,
                    events: rate * (args.seconds + warm_up),
                    event_bytes: args.event_bytes,
                    block_events: BLOCK_EVENTS,
                };
                let pace = Pace {
                    origin: Instant::now(),
                    events_per_second: rate,
                    write_every: Duration::from_micros(args.write_every_us),
                    warm_up: Duration::from_secs(warm_up as u64),
                };
                let (cost, delay) = measure::delay(contender, case, load, pace)?;
                runs.push(Run {
                    round,
                    contender: contender.name().to_owned(),
                    case: case.name,
                    rate,
                    latency: Percentiles::of(&delay.latency),
                    lateness: Percentiles::of(&delay.lateness),
                    cost,
                    histogram: delay.latency,
                });
            }
        }
    }
    let summary = summarise(args, &contenders, &runs)?;
    print(&mut out, &summary, &runs)?;
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "latency",
            origin,
            connections: args.connections,
            seconds: args.seconds,
            event_bytes: args.event_bytes,
            write_every_us: args.write_every_us,
            summary,
            runs,
        };
        save(path, &report)?;
    }
    Ok(())
}

fn summarise(args: &Args, contenders: &[Contender], runs: &[Run]) -> Result<Vec<Summary>> {
    let mut summary = Vec::new();
    for &rate in &args.rates {
        for contender in contenders {
            let mut all = empty_histogram();
            for run in runs {
                if run.rate == rate && run.contender == contender.name() {
                    all.add(&run.histogram).context("cannot add up latencies")?;
                }
            }
            summary.push(Summary {
                contender: contender.name().to_owned(),
                rate,
                latency: Percentiles::of(&all),
            });
        }
    }
    Ok(summary)
}

fn print(out: &mut impl Write, summary: &[Summary], runs: &[Run]) -> Result<()> {
    writeln!(
        out,
        "{:>9} {:<10} {:>9} {:>9} {:>9} {:>9}  late p99   CPU ns/event",
        "events/s", "process", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
    )?;
    for row in summary {
        let latency = row.latency;
        let same = || {
            runs.iter()
                .filter(|run| run.rate == row.rate && run.contender == row.contender)
        };
        let late = crate::report::median(same().map(|run| run.lateness.p99_us));
        let cpu = crate::report::median(same().map(|run| run.cost.cpu_ns_per_event()));
        writeln!(
            out,
            "{:>9} {:<10} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>14.0}",
            row.rate,
            row.contender,
            latency.p50_us / 1e3,
            latency.p99_us / 1e3,
            latency.p999_us / 1e3,
            latency.max_us / 1e3,
            late / 1e3,
            cpu,
        )?;
    }
    Ok(())
}
