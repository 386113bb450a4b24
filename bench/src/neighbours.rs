//! `neighbours`: what a guest that misbehaves on one connection's events does to another connection.
//!
//! Two connections send at a fixed rate, each to a worker of its own, through one WASM rule. One event
//! in a thousand of the first connection is poison. In each turn the guest commits a sin on it, or none;
//! the latency of the second connection's events is compared. Turns with and without the sin alternate,
//! so that what the machine's neighbours do is shared. Every event has to arrive: the rule's
//! `on_error` is `pass`.

use std::io::{Write, stdout};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::prctl;
use serde::Serialize;
use serde_json::{Value, json};

use crate::arrivals::{Arrivals, nanoseconds};
use crate::control::Control;
use crate::modules::Modules;
use crate::receiver::empty_histogram;
use crate::report::{Origin, Percentiles, save};
use crate::subject::Subject;

/// What the guest `misbehave` does to poison.
const SINS: [&str; 8] = [
    "loop",
    "bulk_copy",
    "memory_bomb",
    "stack_overflow",
    "trap",
    "wrong_index",
    "giant_answer",
    "log_flood",
];

/// Of so many events of the first connection one is poison.
const POISON_EVERY: u64 = 1_000;

/// Time between two writes of a connection.
const WRITE_EVERY: Duration = Duration::from_millis(1);

/// Flags of `neighbours`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gate's program
    #[arg(long)]
    gate: PathBuf,
    /// Which sins
    #[arg(long, value_delimiter = ',', default_values = SINS)]
    sins: Vec<String>,
    /// Events a second of each connection
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// How long a turn is, in seconds. A guest's first long failure runs as anything else does, so it
    /// should be far more than a hundred times as long
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How many turns there are with each sin, and as many without
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// A folder with the modules, `<name>.wasm` each; by default `tests/build-guests` makes them
    #[arg(long)]
    modules: Option<PathBuf>,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    events_per_second: u64,
    seconds: u64,
    rounds: usize,
    poison_every: u64,
    sins: Vec<Sin>,
}

/// What a sin did.
#[derive(Serialize)]
struct Sin {
    sin: String,
    /// The neighbour's latency in the turns without it.
    without: Percentiles,
    /// And with it.
    with: Percentiles,
    /// By how much its p99 moved, in percent.
    p99_moved_percent: f64,
    /// Poisonous events that were sent, and events that failed or were bypassed with an open breaker.
    poison: u64,
    failed: u64,
    bypassed: u64,
}

/// Measures, prints a table, and saves the report.
///
/// # Errors
/// If a process fails or an event is lost: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let module = Modules::find(args.modules.as_deref())?.read("misbehave")?;
    let origin = Origin::read();
    let mut out = stdout().lock();
    writeln!(
        out,
        "{} events/s on each of two connections, {} turns of {} s each, commit {}",
        args.rate, args.rounds, args.seconds, origin.commit
    )?;
    writeln!(
        out,
        "{:<15} {:>12} {:>12} {:>8} {:>8} {:>8} {:>9}",
        "sin", "p99 without", "p99 with", "moved %", "poison", "failed", "bypassed"
    )?;
    let mut sins = Vec::new();
    for sin in &args.sins {
        let measured = measure(args, sin, &module).with_context(|| format!("sin `{sin}`"))?;
        writeln!(
            out,
            "{:<15} {:>9.3} ms {:>9.3} ms {:>8.1} {:>8} {:>8} {:>9}",
            measured.sin,
            measured.without.p99_us / 1e3,
            measured.with.p99_us / 1e3,
            measured.p99_moved_percent,
            measured.poison,
            measured.failed,
            measured.bypassed,
        )?;
        sins.push(measured);
    }
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "neighbours",
            origin,
            events_per_second: args.rate,
            seconds: args.seconds,
            rounds: args.rounds,
            poison_every: POISON_EVERY,
            sins,
        };
        save(path, &report)?;
    }
    Ok(())
}

fn measure(args: &Args, sin: &str, module: &[u8]) -> Result<Sin> {
    let arrivals = Arrivals::listen()?;
    let gate = Gate::start(args, arrivals.address, module)?;
    let (mut with, mut without) = (empty_histogram(), empty_histogram());
    let (mut sent, mut poison, mut failed, mut bypassed) = (0, 0, 0, 0);
    // Connections, buffers and caches are warm before anything is counted.
    gate.sins("none")?;
    sent += offer(args, gate.ingest, Duration::from_secs(1))?;
    arrivals.wait_for(sent)?;
    arrivals.take();
    for _ in 0..args.rounds {
        for (sin, latency) in [("none", &mut without), (sin, &mut with)] {
            gate.sins(sin)?;
            let before = gate.failed_and_bypassed()?;
            let offered = offer(args, gate.ingest, Duration::from_secs(args.seconds))?;
            sent += offered;
            arrivals.wait_for(sent)?;
            latency.add(arrivals.take())?;
            let after = gate.failed_and_bypassed()?;
            if sin != "none" {
                poison += offered / 2 / POISON_EVERY;
                failed += after.0 - before.0;
                bypassed += after.1 - before.1;
            }
        }
    }
    gate.subject.stop()?;
    let (without, with) = (Percentiles::of(&without), Percentiles::of(&with));
    Ok(Sin {
        sin: sin.to_owned(),
        p99_moved_percent: (with.p99_us / without.p99_us - 1.0) * 100.0,
        without,
        with,
        poison,
        failed,
        bypassed,
    })
}

/// Sends on both connections; returns how many events were sent.
fn offer(args: &Args, ingest: SocketAddr, length: Duration) -> Result<u64> {
    // The gate gives connections to its two workers in turn.
    let sockets = [TcpStream::connect(ingest)?, TcpStream::connect(ingest)?];
    let begun = Instant::now();
    let rate = args.rate;
    let sending = sockets.into_iter().enumerate().map(|(number, socket)| {
        thread::spawn(move || send(socket, number == 0, rate, begun, length))
    });
    let mut sent = 0;
    for sending in sending.collect::<Vec<_>>() {
        sent += sending.join().map_err(|_| anyhow!("a sender panicked"))??;
    }
    Ok(sent)
}

/// Sends events at a fixed rate: those of the neighbour each with the time at which it was due.
fn send(
    mut socket: TcpStream,
    sinner: bool,
    rate: u64,
    begun: Instant,
    length: Duration,
) -> Result<u64> {
    socket.set_nodelay(true)?;
    prctl::set_timerslack(1).context("cannot set the timer slack")?;
    let total = rate * u64::try_from(length.as_millis())? / 1_000;
    let mut sent = 0;
    let mut text = Vec::new();
    for tick in 1_u32.. {
        if sent == total {
            break;
        }
        thread::sleep((begun + WRITE_EVERY * tick).saturating_duration_since(Instant::now()));
        let due = u64::try_from((WRITE_EVERY * tick).as_micros())? * rate / 1_000_000;
        text.clear();
        while sent < due.min(total) {
            sent += 1;
            let at = begun + Duration::from_secs_f64(sent as f64 / rate as f64);
            match (sinner, sent % POISON_EVERY) {
                (true, 0) => writeln!(text, "- {:-<160}", "poison ")?,
                (true, _) => writeln!(text, "- {:-<160}", "an event ")?,
                (false, _) => writeln!(text, "{} {:-<160}", nanoseconds(at), "an event ")?,
            }
        }
        socket.write_all(&text).context("cannot send")?;
    }
    Ok(sent)
}

/// A gate with two workers.
struct Gate {
    subject: Subject,
    control: Control,
    ingest: SocketAddr,
    sends_to: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gate {
    fn start(args: &Args, sends_to: SocketAddr, module: &[u8]) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let program = args.gate.canonicalize();
        let mut command = Command::new(program.context("cannot find the gate")?);
        command.current_dir(folder.path());
        for listener in ["--tcp", "--control"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.args(["--udp", "off", "--http", "off", "--workers", "2"]);
        let subject = Subject::start("gate", command, &["tcp", "control"])?;
        let control = Control(subject.address("control")?);
        control.put_module("misbehave", module)?;
        Ok(Self {
            control,
            ingest: subject.address("tcp")?,
            sends_to,
            subject,
            _folder: folder,
        })
    }

    /// Has the guest commit that sin on poison from now on. It is another rule each time, so that what
    /// the breaker remembers of the last one does not count.
    fn sins(&self, sin: &str) -> Result<()> {
        let rule = json!({
            "id": "guest", "type": "wasm",
            "params": {"module": "misbehave", "config": {"sin": sin, "on": "poison"}},
        });
        let output = json!({"id": "out", "type": "tcp", "address": self.sends_to.to_string()});
        let draft = json!({
            "name": "default_pipeline", "processors": [rule], "outputs": [output], "batch_size": 100,
        });
        self.control.send("PUT", "/draft", &draft)?;
        self.control.publish()
    }

    /// How many events failed or were bypassed so far.
    fn failed_and_bypassed(&self) -> Result<(u64, u64)> {
        let stats = self.control.get("/stats")?.context("no `/stats`")?;
        let stats: Value = serde_json::from_str(&stats)?;
        let rule = &stats["pipelines"][0]["rules"][0];
        let account = |name| {
            rule[name]
                .as_u64()
                .with_context(|| format!("no `{name}` in {rule}"))
        };
        Ok((account("failed")?, account("bypassed")?))
    }
}
