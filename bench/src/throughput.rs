//! `throughput`: what an event costs when the process is given all it can take.
//!
//! Every run of a contender has a run of the relay right before it, in every round: times on a
//! shared machine drift, their ratio within a minute hardly does.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cases::{CASES, Case};
use crate::contender::Contender;
use crate::events::Load;
use crate::measure::{self, Cost};
use crate::modules::Modules;
use crate::report::{Origin, median, save};

/// A block is about this long, as long as a read.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;
/// How many events the relay is given to find out how many make a run of the right length.
const CALIBRATION_EVENTS: usize = 1_000_000;
/// How long the relay should need for a run.
const RUN_SECONDS: f64 = 2.5;

/// Flags of `throughput`.
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
    /// Which cases: names, `all` with builtin rules, `wasm` for those with a WASM rule
    #[arg(long = "case", value_delimiter = ',', default_value = "all")]
    cases: Vec<String>,
    /// A folder with the modules, `<name>.wasm` each; by default `tests/build-guests` makes them
    #[arg(long)]
    modules: Option<PathBuf>,
    /// How many connections send at the same time
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Events a run, all connections together; by default as many as the relay takes in 2.5 s
    #[arg(long)]
    events: Option<usize>,
    /// Length of an event in bytes, newline included
    #[arg(long, default_value_t = 192)]
    event_bytes: usize,
    /// How many blocks of 256 KiB a connection may have under way
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    window_blocks: u16,
    /// Send without a window, as fast as the sockets take it
    #[arg(long, conflicts_with = "window_blocks")]
    unpaced: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Args {
    /// The most blocks that a connection may have under way.
    fn window(&self) -> usize {
        match self.unpaced {
            true => usize::MAX,
            false => self.window_blocks.into(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    connections: usize,
    events: usize,
    event_bytes: usize,
    /// Nothing if the sender had no window.
    window_blocks: Option<u16>,
    summary: Vec<Summary>,
    runs: Vec<Run>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    round: usize,
    contender: String,
    case: &'static str,
    cpu_ns_per_event: f64,
    /// CPU of an event over that of the relay's run right before; 1 for the relay.
    ratio_to_relay: f64,
    cost: Cost,
}

/// The medians of one contender and case over all rounds.
#[derive(Serialize)]
struct Summary {
    contender: String,
    case: &'static str,
    cpu_ns_per_event: f64,
    ratio_to_relay: f64,
    events_per_second: f64,
    megabytes_per_second: f64,
    /// CPU of an event beyond that of the case `pass` in the same round, if that was measured.
    cpu_ns_over_pass: Option<f64>,
    peak_resident_bytes: u64,
    books_checked: bool,
}

/// Measures, prints a table, and saves the report.
///
/// # Errors
/// If a case is unknown, a process fails, or an answer is wrong: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cases = find_cases(&args.cases)?;
    let gate = args.gate.as_ref();
    let modules = args.modules.as_deref();
    let contenders = find_contenders(gate, &args.gate_arg, args.plain, &cases, modules)?;
    let origin = Origin::read();
    let load = calibrated(args, &cases)?;
    let mut out = stdout().lock();
    writeln!(
        out,
        "{} events of {} bytes a run, {} connections, {} rounds, commit {}",
        load.events, load.event_bytes, load.connections, args.rounds, origin.commit
    )?;
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        for case in &cases {
            for contender in contenders.iter().filter(|one| one.takes_part_in(case)) {
                let relay = measure::cost(&Contender::Relay, case, load, args.window())?;
                let base = relay.cpu_ns_per_event();
                runs.push(Run::of(round, &Contender::Relay, case, base, relay));
                let cost = measure::cost(contender, case, load, args.window())?;
                runs.push(Run::of(round, contender, case, base, cost));
            }
            if contenders.is_empty() {
                let relay = measure::cost(&Contender::Relay, case, load, args.window())?;
                let base = relay.cpu_ns_per_event();
                runs.push(Run::of(round, &Contender::Relay, case, base, relay));
            }
        }
    }
    let summary = summarise(&runs);
    print(&mut out, &summary)?;
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "throughput",
            origin,
            connections: load.connections,
            events: load.events,
            event_bytes: load.event_bytes,
            window_blocks: (!args.unpaced).then_some(args.window_blocks),
            summary,
            runs,
        };
        save(path, &report)?;
    }
    Ok(())
}

/// Finds cases by name.
///
/// # Errors
/// If there is no case of that name.
pub(crate) fn find_cases(names: &[String]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for name in names {
        if name == "all" || name == "wasm" {
            let of_kind = |case: &Case| case.guest.is_some() == (name == "wasm");
            cases.extend(CASES.into_iter().filter(of_kind));
        } else if let Some(case) = Case::by_name(name) {
            cases.push(case);
        } else {
            let known = CASES.map(|case| case.name).join("`, `");
            bail!("found no case `{name}`, expected `all`, `wasm`, `{known}`");
        }
    }
    Ok(cases)
}

/// Names the programs that are compared with the relay. The gate is given `modules`, or those of
/// the repository, if there is a case with a WASM rule.
///
/// # Errors
/// If the gate's program is not there, or there are no modules.
pub(crate) fn find_contenders(
    gate: Option<&PathBuf>,
    arguments: &[String],
    plain: bool,
    cases: &[Case],
    modules: Option<&Path>,
) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    if plain {
        contenders.push(Contender::plain()?);
    }
    if let Some(gate) = gate {
        let program = gate
            .canonicalize()
            .with_context(|| format!("cannot find the gate at `{}`", gate.display()))?;
        contenders.push(Contender::Gate {
            name: "gate".to_owned(),
            program,
            arguments: arguments.to_vec(),
            modules: match cases.iter().any(|case| case.guest.is_some()) {
                true => Some(Modules::find(modules)?),
                false => None,
            },
        });
    }
    Ok(contenders)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive count of events, far below 2^53"
)]
fn calibrated(args: &Args, cases: &[Case]) -> Result<Load> {
    let mut load = Load {
        connections: args.connections,
        events: args.events.unwrap_or(CALIBRATION_EVENTS),
        event_bytes: args.event_bytes,
        block_events: (BLOCK_BYTES / args.event_bytes.max(1)).clamp(2, 5_000),
    };
    if let (None, Some(case)) = (args.events, cases.first()) {
        let cost = measure::cost(&Contender::Relay, case, load, args.window())?;
        let events = (cost.events_per_second() * RUN_SECONDS) as usize;
        load.events = events.next_multiple_of(100_000);
    }
    Ok(load)
}

impl Run {
    fn of(round: usize, contender: &Contender, case: &Case, base: f64, cost: Cost) -> Self {
        let cpu_ns_per_event = cost.cpu_ns_per_event();
        Self {
            round,
            contender: contender.name().to_owned(),
            case: case.name,
            cpu_ns_per_event,
            ratio_to_relay: cpu_ns_per_event / base,
            cost,
        }
    }
}

fn summarise(runs: &[Run]) -> Vec<Summary> {
    let mut keys: Vec<(&str, &'static str)> = Vec::new();
    for run in runs {
        let key = (run.contender.as_str(), run.case);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let summary = keys.into_iter().map(|(contender, case)| {
        let same = || {
            runs.iter()
                .filter(move |run| run.contender == contender && run.case == case)
        };
        Summary {
            contender: contender.to_owned(),
            case,
            cpu_ns_per_event: median(same().map(|run| run.cpu_ns_per_event)),
            ratio_to_relay: median(same().map(|run| run.ratio_to_relay)),
            events_per_second: median(same().map(|run| run.cost.events_per_second())),
            megabytes_per_second: median(same().map(|run| run.cost.megabytes_per_second())),
            cpu_ns_over_pass: over_pass(runs, contender, case),
            peak_resident_bytes: same()
                .map(|run| run.cost.peak_resident_bytes)
                .max()
                .unwrap_or(0),
            books_checked: same().all(|run| run.cost.books_checked),
        }
    });
    summary.collect()
}

/// Returns the median over the rounds of what `case` takes beyond `pass`.
fn over_pass(runs: &[Run], contender: &str, case: &str) -> Option<f64> {
    let of = |case: &str, round: usize| {
        let mut runs = runs.iter();
        runs.find(|run| run.contender == contender && run.case == case && run.round == round)
            .map(|run| run.cpu_ns_per_event)
    };
    if case == "pass" || contender == Contender::Relay.name() {
        return None;
    }
    let last = runs.iter().map(|run| run.round).max()?;
    let differences = (1..=last).map(|round| Some(of(case, round)? - of("pass", round)?));
    differences.collect::<Option<Vec<_>>>().map(median)
}

fn print(out: &mut impl Write, summary: &[Summary]) -> Result<()> {
    writeln!(
        out,
        "{:<10} {:<10} {:>12} {:>9} {:>9} {:>13} {:>8} {:>9}  books  what",
        "case", "process", "CPU ns/event", "to relay", "over pass", "events/s", "MB/s", "peak MiB"
    )?;
    for row in summary {
        writeln!(
            out,
            "{:<10} {:<10} {:>12.1} {:>9.2} {:>9} {:>13.0} {:>8.0} {:>9.1}  {:<5}  {}",
            row.case,
            row.contender,
            row.cpu_ns_per_event,
            row.ratio_to_relay,
            row.cpu_ns_over_pass
                .map_or_else(|| "-".to_owned(), |over| format!("{over:.1}")),
            row.events_per_second,
            row.megabytes_per_second,
            mebibytes(row.peak_resident_bytes),
            if row.books_checked { "agree" } else { "-" },
            about(row),
        )?;
    }
    Ok(())
}

fn about(row: &Summary) -> &'static str {
    match Case::by_name(row.case) {
        Some(case) if row.contender != Contender::Relay.name() => case.about,
        _ => "bytes in, bytes out",
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
