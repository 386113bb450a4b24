//! `streamgate module test`: a module and events, without a gate.
//!
//! Output is one line an event: what became of it, a tab, and its body as it is now. It is the same
//! in each run of a rule that is the same in each run, so that it can be kept as a golden file.

use std::{
    fmt::Write as _,
    fs,
    io::{Write, stderr, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use serde_json::{Value, json};
use streamgate_guest::Batch;

use super::{ModuleCommandError, read};
use crate::cli::read_all;
use crate::{
    digest::Digest,
    manifest::Rule,
    wasm::{Activity, Compiler, Outcome, Params, Runner, Wasm, WasmRule},
};

/// Flags of `module test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The module: a component, or a core module that carries its world
    file: PathBuf,
    /// What the rule's `params.config` would be, JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// A file with events, one a line [default: stdin]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// A file with the output that is expected; another one is a failure
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Writes the golden file instead of comparing with it
    #[arg(long, requires = "golden")]
    update: bool,
    /// Most events that the module is given at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_events: u32,
    /// What the rule's `params.limits` would be, JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    limits: String,
}

/// Differences that are shown before the rest is left out.
const MAX_DIFFERENCES: usize = 10;

pub(super) fn run(args: &Args) -> Result<ExitCode, ModuleCommandError> {
    let bytes = read(&args.file)?;
    let mut runner = Runner::new(build(args, &bytes)?);
    let input = match &args.input {
        Some(path) => read(path)?,
        None => read_all(stdin().lock())?,
    };
    let mut report = String::new();
    let mut counted = Counted::default();
    let begun = Instant::now();
    for lines in batches(&input, args.batch_events as usize) {
        let mut batch = Batch::from_lines(lines);
        let before: Vec<Vec<u8>> = batch.iter().map(|event| event.body().to_vec()).collect();
        runner.run(&mut batch);
        let mut outcomes = runner.outcomes().peekable();
        for (at, body) in before.iter().enumerate() {
            let outcome = outcomes.next_if(|(event, _)| *event == at);
            let outcome = outcome.map_or(Outcome::Kept, |(_, outcome)| outcome);
            counted.add(&outcome);
            describe(&mut report, &outcome, body);
        }
    }
    let took = begun.elapsed();
    summarise(&counted, &runner.rule().status().activity, took)?;
    match &args.golden {
        None => {
            stdout().lock().write_all(report.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(path) if args.update => {
            fs::write(path, &report).map_err(|source| ModuleCommandError::File {
                path: path.clone(),
                source,
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Some(path) => compare(&report, &String::from_utf8_lossy(&read(path)?)),
    }
}

fn build(args: &Args, bytes: &[u8]) -> Result<Arc<WasmRule>, ModuleCommandError> {
    let parse = |flag: &str, text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| {
            ModuleCommandError::refused(format!("`--{flag}` is not valid JSON: {error}"))
        })
    };
    let (config, limits) = (
        parse("config", &args.config)?,
        parse("limits", &args.limits)?,
    );
    let name = args
        .file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let rule: Rule = serde_json::from_value(json!({
        "id": name,
        "type": crate::manifest::WASM,
        "params": {"module": name, "config": config, "limits": limits},
    }))
    .map_err(ModuleCommandError::refused)?;
    let params = Params::parse(&rule).map_err(ModuleCommandError::refused)?;
    // It is the user's own, so it is compiled here.
    let wasm = Wasm::new(1, Compiler::Here, None);
    let module = wasm
        .load(Digest::of(bytes), bytes, params.limits.stack())
        .map_err(ModuleCommandError::refused)?;
    WasmRule::build(&rule, &params, module, 1, None)
        .map(Arc::new)
        .map_err(|fault| ModuleCommandError::refused(fault.message))
}

/// Cuts lines into batches of so many events.
fn batches(input: &[u8], events: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = input;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr_iter(b'\n', rest).nth(events - 1);
        let (batch, left) = rest.split_at(end.map_or(rest.len(), |at| at + 1));
        rest = left;
        Some(batch)
    })
}

fn describe(report: &mut String, outcome: &Outcome<'_>, body: &[u8]) {
    let body = String::from_utf8_lossy(body);
    let written = match outcome {
        Outcome::Kept => writeln!(report, "kept\t{body}"),
        Outcome::Dropped => writeln!(report, "dropped\t{body}"),
        Outcome::Replaced(new) => writeln!(report, "replaced\t{}", String::from_utf8_lossy(new)),
        Outcome::Failed(reason) => writeln!(report, "failed ({})\t{body}", reason.name()),
    };
    written.expect("a string takes what is written");
}

#[derive(Debug, Default)]
struct Counted {
    kept: u64,
    dropped: u64,
    replaced: u64,
    failed: u64,
}

impl Counted {
    fn add(&mut self, outcome: &Outcome<'_>) {
        match outcome {
            Outcome::Kept => self.kept += 1,
            Outcome::Dropped => self.dropped += 1,
            Outcome::Replaced(_) => self.replaced += 1,
            Outcome::Failed(_) => self.failed += 1,
        }
    }
}

/// Says on stderr what is no part of the output: sums, times, and what the guest counted.
fn summarise(
    counted: &Counted,
    activity: &Activity,
    took: std::time::Duration,
) -> Result<(), ModuleCommandError> {
    let Counted {
        kept,
        dropped,
        replaced,
        failed,
    } = counted;
    let events = kept + dropped + replaced + failed;
    let micros = took.as_micros() / u128::from(events.max(1));
    let mut err = stderr().lock();
    writeln!(
        err,
        "{events} events: {kept} kept, {dropped} dropped, {replaced} replaced, {failed} failed; \
         {micros} us an event, {} KiB of memory",
        activity.memory_bytes / 1024
    )?;
    for (name, count) in &activity.counters {
        writeln!(err, "counted {name}: {count}")?;
    }
    if let Some(failure) = &activity.last_failure {
        writeln!(
            err,
            "last failure ({}): {}",
            failure.reason, failure.message
        )?;
    }
    Ok(())
}

fn compare(found: &str, expected: &str) -> Result<ExitCode, ModuleCommandError> {
    let (mut found, mut expected) = (found.lines(), expected.lines());
    let mut out = stdout().lock();
    let mut differences = 0;
    for line in 1.. {
        let (found, expected) = match (found.next(), expected.next()) {
            (None, None) => break,
            (found, expected) if found == expected => continue,
            different => different,
        };
        differences += 1;
        if differences <= MAX_DIFFERENCES {
            writeln!(out, "line {line}:")?;
            writeln!(out, "  expected {}", expected.unwrap_or("(no more events)"))?;
            writeln!(out, "  found    {}", found.unwrap_or("(no more events)"))?;
        }
    }
    if differences == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(ModuleCommandError::refused(format!(
        "{differences} events are not as the golden file has them; `--update` makes it as they are"
    )))
}
