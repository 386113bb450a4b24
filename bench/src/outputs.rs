//! `outputs`: what it costs to send, by kind of output; what a dead one does to its neighbour; and how
//! soon a backlog on the disk is gone.
//!
//! - **kinds**: events as fast as they go through a gate with one output. CPU of the gate, until its books
//!   say that all are sent; everything that arrived is compared with what was offered.
//! - **neighbours**: two outputs under a steady load, both alive, and then the other one dead in two ways;
//!   the latency of the one that lives, and the gate's memory.
//! - **backlog**: events into a spool while the receiver is dead, a `kill -9`, a start; then the receiver
//!   is back, and events keep coming.

use std::fs;
use std::io::{Write, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::ServerConfig;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::arrivals::{Arrivals, send_paced};
use crate::cases::{Case, Format};
use crate::control::Control;
use crate::events::Load;
use crate::report::{Origin, Percentiles, median, save};
use crate::sinks::{Protocol, Sink, Tally, certificate};
use crate::subject::Subject;

/// How long a run may stand still.
const STALL: Duration = Duration::from_secs(20);
/// Connections that events come over.
const CONNECTIONS: usize = 4;
/// Size of an event with its line feed.
const EVENT_BYTES: usize = 192;

/// Flags of `outputs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gate's program
    #[arg(long)]
    gate: PathBuf,
    /// Only these kinds, by name; `none` for no kind at all
    #[arg(long, value_delimiter = ',', default_value = "all")]
    kind: Vec<String>,
    /// Events of each run
    #[arg(long, default_value_t = 2_000_000)]
    events: usize,
    /// How often each kind is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each of the three loads with a neighbour is, in seconds; 0 for none
    #[arg(long, default_value_t = 60)]
    neighbour_seconds: u64,
    /// Events a second of that load, and of what comes while a backlog drains
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Size of the backlog, in MiB; 0 for none
    #[arg(long, default_value_t = 1_024)]
    backlog_mib: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    events: usize,
    event_bytes: usize,
    kinds: Vec<Row>,
    neighbours: Option<Neighbours>,
    backlog: Option<Backlog>,
}

/// The medians of one kind.
#[derive(Serialize)]
struct Row {
    kind: &'static str,
    about: &'static str,
    cpu_ns_per_event: f64,
    events_per_second: f64,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    cpu_ns_per_event: f64,
    events_per_second: f64,
    peak_resident_bytes: u64,
}

#[derive(Serialize)]
struct Neighbours {
    seconds: u64,
    events_per_second: u64,
    both_alive: Percentiles,
    refuses: Percentiles,
    hangs: Percentiles,
    both_alive_again: Percentiles,
    peak_resident_bytes: u64,
}

#[derive(Serialize)]
struct Backlog {
    events: u64,
    disk_bytes: u64,
    /// Into the spool.
    filled_per_second: f64,
    /// From the start of the process until it listens.
    start_ms: f64,
    /// And until the receiver, which is there, has the first event.
    first_event_ms: f64,
    live_per_second: u64,
    /// Of the backlog, while live events come too.
    drained_per_second: f64,
    peak_resident_bytes: u64,
}

/// A kind of output.
struct Kind {
    name: &'static str,
    about: &'static str,
    receiver: Receiver,
    tls: bool,
    /// What the settings have besides the address.
    settings: fn() -> Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Pipe,
    Folder,
    Lines,
    Requests,
}

const fn kind(
    name: &'static str,
    about: &'static str,
    receiver: Receiver,
    tls: bool,
    settings: fn() -> Value,
) -> Kind {
    Kind {
        name,
        about,
        receiver,
        tls,
        settings,
    }
}

const KINDS: [Kind; 14] = [
    kind(
        "tcp",
        "lines over TCP",
        Receiver::Lines,
        false,
        || json!({"type": "tcp"}),
    ),
    kind(
        "tcp_tls",
        "and TLS",
        Receiver::Lines,
        true,
        || json!({"type": "tcp"}),
    ),
    kind(
        "tcp_spool",
        "and a spool",
        Receiver::Lines,
        false,
        || json!({"type": "tcp", "spool": {"max_bytes": "4GiB"}}),
    ),
    kind(
        "console",
        "stdout, a pipe",
        Receiver::Pipe,
        false,
        || json!({"type": "console"}),
    ),
    kind(
        "file",
        "a file, fsync every 500 ms",
        Receiver::Folder,
        false,
        || json!({"type": "file", "max_files": 1_000}),
    ),
    kind(
        "file_never",
        "a file, no fsync",
        Receiver::Folder,
        false,
        || json!({"type": "file", "max_files": 1_000, "fsync": "never"}),
    ),
    kind(
        "http_default",
        "requests of at most 100 events",
        Receiver::Requests,
        false,
        || json!({"type": "http"}),
    ),
    kind(
        "http",
        "requests of at most 10,000",
        Receiver::Requests,
        false,
        || large(json!({})),
    ),
    kind("http_tls", "and TLS", Receiver::Requests, true, || {
        large(json!({}))
    }),
    kind("http_gzip", "and gzip", Receiver::Requests, false, || {
        large(json!({"compression": "gzip"}))
    }),
    kind("http_zstd", "and zstd", Receiver::Requests, false, || {
        large(json!({"compression": "zstd"}))
    }),
    kind(
        "http_parallel",
        "and 4 at a time",
        Receiver::Requests,
        false,
        || large(json!({"max_in_flight": 4})),
    ),
    kind(
        "http_spool",
        "and a spool",
        Receiver::Requests,
        false,
        || large(json!({"spool": {"max_bytes": "4GiB"}})),
    ),
    kind(
        "datadog",
        "Datadog's JSON, with gzip",
        Receiver::Requests,
        false,
        || json!({"type": "datadog", "api_key": "env:STREAMGATE_SECRET_BENCH"}),
    ),
];

/// An `http` output with large requests, and these settings.
fn large(more: Value) -> Value {
    let mut settings = json!({"type": "http", "max_batch_events": 10_000});
    if let (Value::Object(all), Value::Object(more)) = (&mut settings, more) {
        all.extend(more);
    }
    settings
}

/// Measures, prints, and saves the report.
///
/// # Errors
/// If a process fails, an event is lost, or what arrived is not what was offered: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let origin = Origin::read();
    let mut out = stdout().lock();
    let certificates = tempfile::tempdir()?;
    let tls = certificate(certificates.path())?;
    let offered = Offered::make(args.events)?;
    let mut kinds = Vec::new();
    for kind in &chosen(&args.kind)? {
        let runs = (0..args.rounds)
            .map(|_| measure(args, kind, &offered, &tls, certificates.path()))
            .collect::<Result<Vec<Run>>>()
            .with_context(|| kind.name)?;
        let row = Row {
            kind: kind.name,
            about: kind.about,
            cpu_ns_per_event: median(runs.iter().map(|run| run.cpu_ns_per_event)),
            events_per_second: median(runs.iter().map(|run| run.events_per_second)),
            runs,
        };
        let (cpu, rate) = (row.cpu_ns_per_event, row.events_per_second);
        writeln!(
            out,
            "{:<14} {cpu:>8.1} CPU ns/event {rate:>11.0} events/s {:>7.0} MB/s  {}",
            row.kind,
            rate * EVENT_BYTES as f64 / 1e6,
            row.about,
        )?;
        kinds.push(row);
    }
    let neighbours = match args.neighbour_seconds {
        0 => None,
        seconds => Some(time_neighbours(args, seconds)?),
    };
    if let Some(times) = &neighbours {
        for (name, latency) in [
            ("both alive", &times.both_alive),
            ("other refuses", &times.refuses),
            ("other hangs", &times.hangs),
            ("both alive", &times.both_alive_again),
        ] {
            writeln!(
                out,
                "neighbours, {name}: p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms",
                latency.p50_us / 1e3,
                latency.p99_us / 1e3,
                latency.p999_us / 1e3
            )?;
        }
        writeln!(
            out,
            "neighbours: peak {:.1} MiB",
            mebibytes(times.peak_resident_bytes)
        )?;
    }
    let backlog = match args.backlog_mib {
        0 => None,
        mebibytes => Some(time_backlog(args, mebibytes)?),
    };
    if let Some(times) = &backlog {
        writeln!(
            out,
            "backlog: {} events ({:.0} MiB) at {:.0}/s; start {:.0} ms, first event {:.0} ms; drained {:.0}/s \
             beside {}/s live; peak {:.1} MiB",
            times.events,
            mebibytes(times.disk_bytes),
            times.filled_per_second,
            times.start_ms,
            times.first_event_ms,
            times.drained_per_second,
            times.live_per_second,
            mebibytes(times.peak_resident_bytes),
        )?;
    }
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "outputs",
            origin,
            events: offered.events,
            event_bytes: EVENT_BYTES,
            kinds,
            neighbours,
            backlog,
        };
        save(path, &report)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Kind>> {
    static ALL: [Kind; KINDS.len()] = KINDS;
    if names == ["none"] {
        return Ok(Vec::new());
    }
    let find = |name: &String| match ALL.iter().find(|kind| kind.name == *name) {
        Some(kind) => Ok(vec![kind]),
        None if name == "all" => Ok(ALL.iter().collect()),
        None => {
            let known = ALL.each_ref().map(|kind| kind.name).join("`, `");
            bail!("found no kind `{name}`, expected `all`, `none`, `{known}`")
        }
    };
    Ok(names
        .iter()
        .map(find)
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// What is sent: for each connection the same bytes, over and over.
struct Offered {
    blocks: Vec<Vec<u8>>,
    repeats: usize,
    events: usize,
    sum: u64,
}

impl Offered {
    fn make(events: usize) -> Result<Self> {
        let case = Case::by_name("pass").context("there is no case `pass`")?;
        debug_assert_eq!(case.format, Format::Text);
        let load = Load {
            connections: CONNECTIONS,
            events: CONNECTIONS * 4_096,
            event_bytes: EVENT_BYTES,
            block_events: 4_096,
        };
        let streams = load.streams(&case)?;
        let blocks: Vec<Vec<u8>> = streams
            .iter()
            .map(|stream| stream.offered[0].bytes.clone())
            .collect();
        let once = Tally::default();
        for block in &blocks {
            once.count_all(&block[..])?;
        }
        let repeats = events.div_ceil(usize::try_from(once.events())?).max(1);
        Ok(Self {
            events: usize::try_from(once.events())? * repeats,
            sum: once.sum().wrapping_mul(repeats as u64),
            repeats,
            blocks,
        })
    }

    /// Sends all of it, as fast as the gate takes it.
    fn send(&self, ingest: SocketAddr) -> Result<()> {
        thread::scope(|scope| {
            let sends: Vec<_> = self
                .blocks
                .iter()
                .map(|block| {
                    scope.spawn(move || {
                        let mut stream = TcpStream::connect(ingest)?;
                        (0..self.repeats).try_for_each(|_| stream.write_all(block))
                    })
                })
                .collect();
            for send in sends {
                let sent = send.join();
                sent.map_err(|_| anyhow::anyhow!("a sender broke off"))??;
            }
            Ok(())
        })
    }
}

/// A gate, and the folder of its store.
struct Gate {
    subject: Subject,
    control: Control,
    ingest: SocketAddr,
}

impl Gate {
    /// Starts it with these outputs, its store in `folder`.
    fn start(args: &Args, folder: &Path, outputs: &Value, stdout: Stdio) -> Result<Self> {
        let manifest = folder.join("manifest.json");
        let pipeline = json!({
            "name": "default_pipeline", "processors": [], "outputs": outputs, "batch_size": 100,
        });
        let text = json!({"version": "1.0", "pipelines": [pipeline]}).to_string();
        fs::write(&manifest, text).context("cannot write the manifest")?;
        let mut command = Command::new(&args.gate);
        command
            .args(["--tcp", "127.0.0.1:0", "--udp", "off", "--http", "off"])
            .args(["--control", "127.0.0.1:0", "--grace-period", "60s"])
            .arg("--store")
            .arg(folder.join("store"))
            .arg("--manifest")
            .arg(manifest)
            .env("STREAMGATE_SECRET_BENCH", "a key");
        let subject = Subject::start_with(command, "gate", &["tcp", "control"], stdout)?;
        Ok(Self {
            control: Control(subject.address("control")?),
            ingest: subject.address("tcp")?,
            subject,
        })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let text = self.control.get(path)?;
        Ok(serde_json::from_str(
            &text.with_context(|| format!("no `{path}`"))?,
        )?)
    }

    /// The account of the first output.
    fn account(&self) -> Result<Value> {
        Ok(self.get("/stats")?["pipelines"][0]["outputs"][0].clone())
    }

    /// Waits until the first output has sent that many events, and none was given up.
    fn wait_sent(&self, events: u64) -> Result<()> {
        wait_while_it_moves(&self.subject, || {
            let sent = self.account()?["sent"].as_u64().unwrap_or_default();
            Ok((sent >= events, sent))
        })?;
        let account = self.account()?;
        ensure!(
            account["sent"] == events && account["queued"] == 0,
            "expected {events} events to be sent, found {account}"
        );
        Ok(())
    }
}

/// Waits for a condition for as long as its number moves.
fn wait_while_it_moves(
    subject: &Subject,
    mut look: impl FnMut() -> Result<(bool, u64)>,
) -> Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let (done, number) = look()?;
        if done {
            return Ok(());
        }
        if number != last {
            (last, moved) = (number, Instant::now());
        }
        ensure!(
            moved.elapsed() < STALL,
            "waited {STALL:?} at {number}{}",
            subject.last_log()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn measure(
    args: &Args,
    kind: &Kind,
    offered: &Offered,
    tls: &Arc<ServerConfig>,
    certificates: &Path,
) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let protocol = match kind.receiver {
        Receiver::Lines => Protocol::Lines,
        _ => Protocol::Requests,
    };
    let sink = Sink::listen(protocol, kind.tls.then(|| Arc::clone(tls)))?;
    let mut output = (kind.settings)();
    output["id"] = json!("out");
    match kind.receiver {
        Receiver::Pipe => {}
        Receiver::Folder => output["path"] = json!("out.log"),
        Receiver::Lines => output["address"] = json!(sink.address.to_string()),
        Receiver::Requests => {
            let scheme = if kind.tls { "https" } else { "http" };
            let field = match output["type"].as_str() {
                Some("http") => "url",
                _ => "endpoint",
            };
            output[field] = json!(format!("{scheme}://{}/", sink.address));
        }
    }
    if kind.tls {
        output["tls"] = json!({"ca": certificates.join("ca.pem")});
    }
    let piped = kind.receiver == Receiver::Pipe;
    let stdout = if piped { Stdio::piped() } else { Stdio::null() };
    let mut gate = Gate::start(args, folder.path(), &json!([output]), stdout)?;
    if let Some(pipe) = gate.subject.take_stdout() {
        let tally = Arc::clone(&sink.tally);
        thread::spawn(move || tally.count_all(pipe));
    }
    let before = gate.subject.cpu_time()?.total;
    let begun = Instant::now();
    offered.send(gate.ingest)?;
    gate.wait_sent(offered.events as u64)?;
    let (took, after) = (begun.elapsed(), gate.subject.cpu_time()?.total);
    let peak_resident_bytes = gate.subject.peak_resident_bytes()?;
    gate.subject.stop()?;
    if kind.receiver == Receiver::Folder {
        for entry in fs::read_dir(folder.path().join("store/files"))? {
            sink.tally.count_all(fs::File::open(entry?.path())?)?;
        }
    }
    let arrived = || sink.tally.events() >= offered.events as u64;
    let deadline = Instant::now() + STALL;
    while !arrived() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let found = (sink.tally.events(), sink.tally.sum());
    ensure!(
        found == (offered.events as u64, offered.sum),
        "expected {} events with the sum {:x}, found {} with {:x}",
        offered.events,
        offered.sum,
        found.0,
        found.1
    );
    let cpu = after.saturating_sub(before);
    Ok(Run {
        cpu_ns_per_event: cpu.as_nanos() as f64 / offered.events as f64,
        events_per_second: offered.events as f64 / took.as_secs_f64(),
        peak_resident_bytes,
    })
}

fn time_neighbours(args: &Args, seconds: u64) -> Result<Neighbours> {
    let folder = tempfile::tempdir()?;
    let (live, other) = (Arrivals::listen()?, Arrivals::listen()?);
    // Nobody accepts, and no byte is read; the other address has nobody at all.
    let hanging = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let outputs = |second: SocketAddr| {
        json!([
            {"id": "live", "type": "tcp", "address": live.address.to_string()},
            {"id": "other", "type": "tcp", "address": second.to_string()},
        ])
    };
    let gate = Gate::start(args, folder.path(), &outputs(other.address), Stdio::null())?;
    let mut sent = send_paced(gate.ingest, args.rate, Duration::from_secs(3))?;
    live.wait_for(sent)?;
    live.take();
    let mut under_load = |second: SocketAddr| {
        gate.control.send("DELETE", "/outputs", &json!({}))?;
        for output in outputs(second).as_array().context("a list")? {
            gate.control.send("POST", "/outputs", output)?;
        }
        gate.control.publish()?;
        sent += send_paced(gate.ingest, args.rate, Duration::from_secs(seconds))?;
        live.wait_for(sent)?;
        Ok::<_, anyhow::Error>(Percentiles::of(&live.take()))
    };
    let both_alive = under_load(other.address)?;
    let refuses = under_load(closed)?;
    let hangs = under_load(hanging.local_addr()?)?;
    let both_alive_again = under_load(other.address)?;
    Ok(Neighbours {
        seconds,
        events_per_second: args.rate,
        both_alive,
        refuses,
        hangs,
        both_alive_again,
        peak_resident_bytes: gate.subject.peak_resident_bytes()?,
    })
}

fn time_backlog(args: &Args, mebibytes: usize) -> Result<Backlog> {
    let folder = tempfile::tempdir()?;
    // A port that nobody listens at until later.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut output = large(json!({"spool": {"max_bytes": "16GiB"}}));
    output["id"] = json!("out");
    output["url"] = json!(format!("http://{address}/"));
    let outputs = json!([output]);
    let offered = Offered::make((mebibytes << 20) / EVENT_BYTES)?;
    let backlog = offered.events as u64;
    let (disk_bytes, filled_per_second) = fill(args, &folder, &outputs, &offered)?;

    let sink = Sink::listen_at(address, Protocol::Requests, None)?;
    let begun = Instant::now();
    let gate = Gate::start(args, folder.path(), &outputs, Stdio::null())?;
    let start_ms = begun.elapsed().as_secs_f64() * 1e3;
    while sink.tally.events() == 0 {
        ensure!(
            begun.elapsed() < STALL,
            "no event{}",
            gate.subject.last_log()
        );
        thread::sleep(Duration::from_millis(1));
    }
    let first_event_ms = begun.elapsed().as_secs_f64() * 1e3;
    let (drained, live) = thread::scope(|scope| {
        let drains = scope.spawn(|| {
            wait_while_it_moves(&gate.subject, || {
                let events = sink.tally.events();
                Ok((events >= backlog, events))
            })?;
            Ok::<_, anyhow::Error>(begun.elapsed())
        });
        let mut live = 0;
        while !drains.is_finished() {
            live += send_paced(gate.ingest, args.rate, Duration::from_millis(200))?;
        }
        let drained = drains.join();
        let drained = drained.map_err(|_| anyhow::anyhow!("waiting broke off"))??;
        Ok::<_, anyhow::Error>((drained, live))
    })?;
    wait_while_it_moves(&gate.subject, || {
        let events = sink.tally.events();
        Ok((events >= backlog + live, events))
    })?;
    let seconds = drained.as_secs_f64() - first_event_ms / 1e3;
    let account = gate.account()?;
    ensure!(
        account["recovered"] == backlog && sink.tally.events() == backlog + live,
        "expected {backlog} events of the backlog and {live} others, found {} and {account}",
        sink.tally.events()
    );
    Ok(Backlog {
        events: backlog,
        disk_bytes,
        filled_per_second,
        start_ms,
        first_event_ms,
        live_per_second: args.rate,
        drained_per_second: backlog as f64 / seconds,
        peak_resident_bytes: gate.subject.peak_resident_bytes()?,
    })
}

/// Fills the spool of an output whose receiver is not there, and kills the gate.
fn fill(args: &Args, folder: &TempDir, outputs: &Value, offered: &Offered) -> Result<(u64, f64)> {
    let gate = Gate::start(args, folder.path(), outputs, Stdio::null())?;
    let spool = || Ok::<_, anyhow::Error>(gate.get("/status")?["outputs"][0]["spool"].clone());
    let begun = Instant::now();
    offered.send(gate.ingest)?;
    wait_while_it_moves(&gate.subject, || {
        let events = spool()?["events"].as_u64().unwrap_or_default();
        Ok((events >= offered.events as u64, events))
    })?;
    let took = begun.elapsed();
    let disk_bytes = spool()?["disk_bytes"].as_u64().context("no bytes")?;
    // Without a word, as `kill -9` does.
    drop(gate);
    Ok((disk_bytes, offered.events as f64 / took.as_secs_f64()))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
