//! A log gate as it is written in an afternoon: a thread a connection, a regex a rule and event.
//!
//! Takes the gate's flags and manifest and keeps its books, so that whatever measures the gate can
//! measure this, and so that the benchmark is tested without the gate. Understands the rules of
//! `cases.rs` and no others.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use memchr::memmem;
use regex_automata::meta::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{READ_BYTES, announce, connect, exit_on_terminate};

/// The gate's flags, as far as the benchmark uses them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where events come in
    #[arg(long)]
    tcp: SocketAddr,
    /// Must be `off`
    #[arg(long, value_parser = ["off"])]
    udp: String,
    /// Must be `off`
    #[arg(long, value_parser = ["off"])]
    http: String,
    /// Where `GET /stats` is answered
    #[arg(long)]
    control: SocketAddr,
    /// Must be `memory:`
    #[arg(long, value_parser = ["memory:"])]
    store: String,
    /// The rules and the output
    #[arg(long)]
    manifest: PathBuf,
}

#[derive(Deserialize)]
struct Manifest {
    pipelines: Vec<Pipeline>,
}

#[derive(Deserialize)]
struct Pipeline {
    processors: Vec<Rule>,
    outputs: Vec<OutputConfig>,
}

#[derive(Deserialize)]
struct OutputConfig {
    address: SocketAddr,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(rename = "type")]
    kind: String,
    params: Value,
}

/// A rule, compiled.
enum Step {
    Filter(Box<memmem::Finder<'static>>),
    LevelFilter(String),
    Redact(Regex, Vec<u8>),
}

impl Step {
    fn build(rule: &Rule) -> Result<Self> {
        let text = |name: &str| {
            let value = rule.params[name].as_str();
            value.with_context(|| format!("rule of type `{}` has no `{name}`", rule.kind))
        };
        match rule.kind.as_str() {
            "filter" => {
                let finder = memmem::Finder::new(text("value")?).into_owned();
                Ok(Self::Filter(Box::new(finder)))
            }
            "attribute_filter" if text("attribute")? == "level" => {
                Ok(Self::LevelFilter(text("value")?.to_owned()))
            }
            "redact" => Ok(Self::Redact(
                Regex::new(text("pattern")?).context("pattern does not compile")?,
                text("replacement")?.as_bytes().to_vec(),
            )),
            kind => bail!("found a rule of type `{kind}`, expected one that `cases.rs` uses"),
        }
    }

    /// Applies the rule to `event`; returns whether the event goes on.
    fn apply(&self, event: &mut Vec<u8>) -> bool {
        match self {
            Self::Filter(finder) => finder.find(event).is_none(),
            Self::LevelFilter(value) => {
                #[derive(Deserialize)]
                struct Level<'a> {
                    level: &'a str,
                }
                !serde_json::from_slice::<Level<'_>>(event).is_ok_and(|it| it.level == value)
            }
            Self::Redact(pattern, replacement) => {
                let mut from = 0;
                while let Some(hit) = pattern.find(regex_automata::Input::new(event).range(from..))
                {
                    from = hit.start() + replacement.len();
                    event.splice(hit.range(), replacement.iter().copied());
                }
                true
            }
        }
    }
}

/// What all connections share.
struct Gate {
    steps: Vec<Step>,
    output: Mutex<TcpStream>,
    received: AtomicU64,
    filtered: AtomicU64,
    sent: AtomicU64,
}

/// Serves until the process is told to stop.
///
/// # Errors
/// If the manifest cannot be used, or a port not be had.
pub(crate) fn run(args: &Args) -> Result<()> {
    exit_on_terminate()?;
    let manifest = fs::read(&args.manifest).context("cannot read the manifest")?;
    let manifest: Manifest = serde_json::from_slice(&manifest).context("bad manifest")?;
    let [pipeline] = manifest.pipelines.as_slice() else {
        bail!("expected one pipeline");
    };
    let [output] = pipeline.outputs.as_slice() else {
        bail!("expected one output");
    };
    let gate = Arc::new(Gate {
        steps: pipeline
            .processors
            .iter()
            .map(Step::build)
            .collect::<Result<_>>()?,
        output: Mutex::new(connect(output.address)?),
        received: AtomicU64::new(0),
        filtered: AtomicU64::new(0),
        sent: AtomicU64::new(0),
    });
    let control = TcpListener::bind(args.control).context("cannot listen for control")?;
    announce("control", control.local_addr()?)?;
    thread::spawn({
        let gate = gate.clone();
        move || answer_stats(&control, &gate)
    });
    let listener = TcpListener::bind(args.tcp).context("cannot listen")?;
    announce("tcp", listener.local_addr()?)?;
    for accepted in listener.incoming() {
        let input = accepted.context("cannot accept")?;
        let gate = gate.clone();
        // A broken connection ends alone; the receiver misses what is missing.
        thread::spawn(move || serve(input, &gate));
    }
    Ok(())
}

fn serve(mut input: TcpStream, gate: &Gate) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    let mut event = Vec::new();
    let mut survivors = Vec::with_capacity(READ_BYTES);
    loop {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        survivors.clear();
        let (mut start, mut received, mut sent) = (0, 0, 0);
        while let Some(length) = memchr::memchr(b'\n', &buffer[start..filled]) {
            event.clear();
            event.extend_from_slice(&buffer[start..=start + length]);
            start += length + 1;
            received += 1;
            if gate.steps.iter().all(|step| step.apply(&mut event)) {
                survivors.extend_from_slice(&event);
                sent += 1;
            }
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled == buffer.len() {
            return Err(anyhow!("found an event longer than {READ_BYTES} bytes"));
        }
        gate.received.fetch_add(received, Ordering::AcqRel);
        gate.filtered.fetch_add(received - sent, Ordering::AcqRel);
        let mut output = gate.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&survivors)?;
        drop(output);
        gate.sent.fetch_add(sent, Ordering::AcqRel);
    }
}

/// Answers everything that is asked with the books.
fn answer_stats(control: &TcpListener, gate: &Gate) {
    for mut asked in control.incoming().flatten() {
        let mut request = [0; 1024];
        if asked.read(&mut request).is_err() {
            continue;
        }
        let received = gate.received.load(Ordering::Acquire);
        let filtered = gate.filtered.load(Ordering::Acquire);
        let sent = gate.sent.load(Ordering::Acquire);
        let body = json!({"pipelines": [{
            "received": received,
            "in_flight": received.saturating_sub(filtered + sent),
            "filtered": filtered,
            "delivered_to_chain_end": sent,
            "outputs": [{"sent": sent}],
        }]});
        // The request came in one piece, as the benchmark sends it; whoever asked may be gone by now.
        drop(write!(
            asked,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}"
        ));
    }
}
