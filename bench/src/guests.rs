//! `guests`: a WASM rule alone, in process, beside the same processor as native code.
//!
//! What is timed is all that a worker does for a rule and a batch: `Runner::run` for a guest, which
//! finds where events end, copies them into the guest, calls it, checks its answer and applies it;
//! `Processor::process` for native code. Filling the batch is not timed. Before that, everyone does
//! every block once, and whoever leaves other bytes than the others ends the benchmark.
//!
//! Everyone has a turn in every round, so that what the machine's neighbours do is shared. What
//! counts of a turn is its median batch: a batch takes microseconds, and few of them lose the
//! processor. The mean is in the report beside it.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use drop_keyword::DropKeyword;
use keep_all::KeepAll;
use serde::Serialize;
use serde_json::{Value, json};
use streamgate::digest::Digest;
use streamgate::manifest::Rule;
use streamgate::wasm::{Compiler, Module, Params, Runner, Stack, Wasm, WasmRule};
use streamgate_guest::{Batch, Configure, Processor, Tally};
use streamgate_processors::{Builtin, Clock, OnError};
use trim_json::TrimJson;

use crate::cases::Case;
use crate::events::{Block, Load};
use crate::modules::Modules;
use crate::report::{Origin, median, save};

/// Flags of `guests`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder with the modules, `<name>.wasm` each; by default `tests/build-guests` makes them
    #[arg(long)]
    modules: Option<PathBuf>,
    /// Which work, or `all`
    #[arg(long = "work", value_delimiter = ',', default_value = "all")]
    works: Vec<String>,
    /// Length of an event in bytes, newline included
    #[arg(long, default_value_t = 200)]
    event_bytes: usize,
    /// How many events make a batch
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024")]
    batch_events: Vec<usize>,
    /// How long a turn is, in milliseconds
    #[arg(long, default_value_t = 100)]
    milliseconds: u64,
    /// How many turns everyone has
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is done to the events, by a guest and by native code alike.
struct Work {
    name: &'static str,
    /// Whose events are offered.
    case: &'static str,
    /// Whether what is left must be what that case expects; or if not, other than what was offered.
    answers_case: bool,
    module: &'static str,
    config: &'static str,
    native: fn(&str) -> Result<Box<dyn Processor>, String>,
    /// The builtin that does the same, for comparison.
    builtin: Option<Rival>,
}

/// The type of a builtin rule, and its parameters.
type Rival = (&'static str, fn() -> Value);

/// What is measured.
const WORKS: [Work; 4] = [
    Work {
        name: "keep_all",
        case: "pass",
        answers_case: true,
        module: "keep-all",
        config: "{}",
        native: configured::<KeepAll>,
        builtin: None,
    },
    Work {
        name: "keep_each",
        case: "pass",
        answers_case: true,
        module: "keep-all",
        config: r#"{"each": true}"#,
        native: configured::<KeepAll>,
        builtin: None,
    },
    Work {
        name: "drop_keyword",
        case: "drop",
        answers_case: true,
        module: "drop-keyword",
        config: r#"{"keyword": "DEBUG"}"#,
        native: configured::<DropKeyword>,
        builtin: Some(("filter", || json!({"value": "DEBUG"}))),
    },
    Work {
        name: "trim_json",
        case: "json_ssn",
        answers_case: false,
        module: "trim-json",
        config: r#"{"remove": ["trace"], "cut": {"message": 40}}"#,
        native: configured::<TrimJson>,
        builtin: None,
    },
];

fn configured<P: Configure + 'static>(config: &str) -> Result<Box<dyn Processor>, String> {
    Ok(Box::new(P::configure(config)?))
}

/// Somebody who does the work.
struct Contestant {
    name: &'static str,
    way: Way,
}

enum Way {
    Native(Box<dyn Processor>),
    Guest(Box<Runner>),
}

impl Contestant {
    /// Does the work on one batch; returns what was done, and how long that took.
    fn run(&mut self, batch: &mut Batch) -> Result<(Tally, Duration)> {
        match &mut self.way {
            Way::Native(processor) => {
                let begun = Instant::now();
                let tally = processor.process(batch);
                Ok((tally, begun.elapsed()))
            }
            Way::Guest(runner) => {
                let begun = Instant::now();
                let ran = runner.run(batch);
                let took = begun.elapsed();
                let failed = ran.bypassed + ran.failures.iter().sum::<u64>();
                ensure!(
                    failed == 0,
                    "the guest failed: {:?}",
                    runner.rule().status()
                );
                Ok((ran.tally, took))
            }
        }
    }
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    event_bytes: usize,
    milliseconds: u64,
    results: Vec<WorkResult>,
}

/// One kind of work, with batches of one size.
#[derive(Serialize)]
struct WorkResult {
    work: &'static str,
    batch_events: usize,
    times: Vec<Time>,
    /// Median over the rounds of the guest's time over the native processor's.
    guest_to_native: f64,
}

/// What one contestant took.
#[derive(Serialize)]
struct Time {
    contestant: &'static str,
    /// Median over the rounds.
    ns_per_event: f64,
    /// By the median batch of each round.
    rounds_ns_per_event: Vec<f64>,
    /// By all batches of each round, with whatever interrupted them.
    rounds_mean_ns_per_event: Vec<f64>,
}

/// Measures, prints a table, and saves the report.
///
/// # Errors
/// If a module is refused, a guest fails, or answers differ: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let works = find_works(&args.works)?;
    let modules = Modules::find(args.modules.as_deref())?;
    let host = Wasm::new(1, Compiler::Here, None);
    let origin = Origin::read();
    let mut out = stdout().lock();
    writeln!(
        out,
        "ns/event, events of {} bytes, {} rounds of {} ms, commit {}",
        args.event_bytes, args.rounds, args.milliseconds, origin.commit
    )?;
    writeln!(
        out,
        "{:<13} {:>6} {:>9} {:>9} {:>6} {:>9}",
        "work", "batch", "guest", "native", "ratio", "builtin"
    )?;
    let mut results = Vec::new();
    for work in works {
        let bytes = modules.read(work.module)?;
        let module = host
            .load(Digest::of(&bytes), &bytes, Stack::default())
            .with_context(|| format!("module `{}`", work.module))?;
        for &batch_events in &args.batch_events {
            let result = measure(work, &module, batch_events, args)
                .with_context(|| format!("`{}`, batches of {batch_events}", work.name))?;
            print(&mut out, &result)?;
            results.push(result);
        }
    }
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "guests",
            origin,
            event_bytes: args.event_bytes,
            milliseconds: args.milliseconds,
            results,
        };
        save(path, &report)?;
    }
    Ok(())
}

fn find_works(names: &[String]) -> Result<Vec<&'static Work>> {
    let mut works = Vec::new();
    for name in names {
        let before = works.len();
        works.extend(
            WORKS
                .iter()
                .filter(|work| name == "all" || name == work.name),
        );
        ensure!(
            works.len() > before,
            "found no work `{name}`, expected `all`, `{}`",
            WORKS.map(|work| work.name).join("`, `")
        );
    }
    Ok(works)
}

fn measure(
    work: &Work,
    module: &Arc<Module>,
    batch_events: usize,
    args: &Args,
) -> Result<WorkResult> {
    let load = Load {
        connections: 1,
        events: 1,
        event_bytes: args.event_bytes,
        block_events: batch_events,
    };
    let case = Case::by_name(work.case).context("the case is in the table")?;
    let streams = load.streams(&case)?;
    let stream = streams.first().context("there is one connection")?;
    let mut contestants = contestants(work, module)?;
    let mut batch = Batch::new(vec![0; batch_events * args.event_bytes]);
    for (offered, expected) in stream.offered.iter().zip(&stream.expected) {
        let mut agreed: Option<(Vec<u8>, Tally)> = None;
        for contestant in &mut contestants {
            fill(&mut batch, offered);
            let (tally, _) = contestant.run(&mut batch)?;
            let left: Vec<u8> = batch.slices().flatten().copied().collect();
            let right = match work.answers_case {
                true => left == expected.bytes,
                false => left != offered.bytes,
            };
            ensure!(right, "{} left wrong bytes", contestant.name);
            let (agreed_left, agreed_tally) = agreed.get_or_insert_with(|| (left.clone(), tally));
            ensure!(
                left == *agreed_left && tally == *agreed_tally,
                "{} left {} bytes with {tally:?}, others {} with {agreed_tally:?}, or other bytes",
                contestant.name,
                left.len(),
                agreed_left.len(),
            );
        }
    }
    let mut times: Vec<Time> = contestants
        .iter()
        .map(|contestant| Time {
            contestant: contestant.name,
            ns_per_event: f64::NAN,
            rounds_ns_per_event: Vec::new(),
            rounds_mean_ns_per_event: Vec::new(),
        })
        .collect();
    let turn = Duration::from_millis(args.milliseconds);
    for _ in 0..args.rounds {
        for (contestant, time) in contestants.iter_mut().zip(&mut times) {
            let batches = take_turn(contestant, &mut batch, &stream.offered, turn)?;
            #[expect(
                clippy::cast_precision_loss,
                reason = "far below 2^52 batches and events"
            )]
            let (count, events) = (batches.len() as f64, batch_events as f64);
            let mean = batches.iter().sum::<f64>() / count;
            time.rounds_mean_ns_per_event.push(mean / events);
            time.rounds_ns_per_event.push(median(batches) / events);
        }
    }
    for time in &mut times {
        time.ns_per_event = median(time.rounds_ns_per_event.iter().copied());
    }
    let [guest, native, ..] = times.as_slice() else {
        return Err(anyhow!("expected a guest and native code"));
    };
    let rounds = guest
        .rounds_ns_per_event
        .iter()
        .zip(&native.rounds_ns_per_event);
    Ok(WorkResult {
        work: work.name,
        batch_events,
        guest_to_native: median(rounds.map(|(guest, native)| guest / native)),
        times,
    })
}

/// The guest, its native twin, and the builtin if there is one; in this order.
fn contestants(work: &Work, module: &Arc<Module>) -> Result<Vec<Contestant>> {
    let config: Value = serde_json::from_str(work.config).context("the config is JSON")?;
    let rule = json!({
        "id": work.name, "type": "wasm", "params": {"module": work.module, "config": config},
    });
    let rule: Rule = serde_json::from_value(rule).context("cannot read the rule")?;
    let refused = |fault: streamgate::manifest::Invalid| anyhow!("the rule is refused: {fault}");
    let params = Params::parse(&rule).map_err(refused)?;
    let rule = WasmRule::build(&rule, &params, Arc::clone(module), 1, None).map_err(refused)?;
    let native = (work.native)(work.config).map_err(|words| anyhow!("{words}"))?;
    let mut contestants = vec![
        Contestant {
            name: "guest",
            way: Way::Guest(Box::new(Runner::new(Arc::new(rule)))),
        },
        Contestant {
            name: "native",
            way: Way::Native(native),
        },
    ];
    if let Some((kind, params)) = work.builtin {
        let params = params();
        let params = params.as_object().context("parameters are an object")?;
        let builtin = Builtin::build(kind, params, OnError::Mask)?.for_worker(0, &Clock::default());
        contestants.push(Contestant {
            name: "builtin",
            way: Way::Native(Box::new(builtin)),
        });
    }
    Ok(contestants)
}

fn fill(batch: &mut Batch, block: &Block) {
    batch.clear();
    batch.buffer_mut()[..block.bytes.len()].copy_from_slice(&block.bytes);
    batch.set_filled(block.bytes.len());
}

/// Has the contestant work for that long; returns the nanoseconds that each batch took.
fn take_turn(
    contestant: &mut Contestant,
    batch: &mut Batch,
    blocks: &[Block],
    turn: Duration,
) -> Result<Vec<f64>> {
    // By wall clock, so that work that takes next to nothing does not take forever to measure.
    let begun = Instant::now();
    let mut batches = Vec::new();
    for block in blocks.iter().cycle() {
        fill(batch, block);
        let (_, took) = contestant.run(batch)?;
        batches.push(took.as_secs_f64() * 1e9);
        if begun.elapsed() >= turn {
            break;
        }
    }
    Ok(batches)
}

fn print(out: &mut impl Write, result: &WorkResult) -> Result<()> {
    let time = |name: &str| {
        let mut times = result.times.iter();
        let time = times.find(|time| time.contestant == name);
        time.map_or_else(
            || "-".to_owned(),
            |time| format!("{:.1}", time.ns_per_event),
        )
    };
    writeln!(
        out,
        "{:<13} {:>6} {:>9} {:>9} {:>6.2} {:>9}",
        result.work,
        result.batch_events,
        time("guest"),
        time("native"),
        result.guest_to_native,
        time("builtin"),
    )?;
    Ok(())
}
