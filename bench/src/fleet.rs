//! `fleet`: gates that share a Redis.
//!
//! - **publish**: three gates; how long a publish takes until all of them say that it is in force.
//! - **storm**: one gate under load, first left alone, then with a thousand publishes a second; what
//!   that does to the latency of events and to memory.
//! - **outage**: one gate under load while the Redis is frozen, and then while it is dead; what that does
//!   to the latency of events, and how long it takes after each until what is new is in force.
//! - **large**: a manifest of thousands of rules and hundreds of outputs, validated and published.
//!
//! All is on loopback. The Redis is started for the run, with nothing in it.

use std::io::{Write, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::{Value, json};

use crate::arrivals::{Arrivals, send_paced, wait_until};
use crate::control::Control;
use crate::receiver::empty_histogram;
use crate::report::{Origin, Percentiles, save};
use crate::subject::Subject;

/// Gates that a publish has to reach.
const GATES: usize = 3;

/// Flags of `fleet`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gate's program
    #[arg(long)]
    gate: PathBuf,
    /// How many publishes are timed
    #[arg(long, default_value_t = 200)]
    publishes: usize,
    /// How many of them a second; a gate applies ten at most
    #[arg(long, default_value_t = 8.0)]
    publishes_per_second: f64,
    /// How long a storm is, in seconds, and the quiet before it
    #[arg(long, default_value_t = 30)]
    storm_seconds: u64,
    /// Publishes a second of a storm
    #[arg(long, default_value_t = 1_000)]
    storm_rate: u64,
    /// How long the Redis is frozen, and then dead, in seconds
    #[arg(long, default_value_t = 20)]
    outage_seconds: u64,
    /// Events a second under load
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Rules of the large manifest
    #[arg(long, default_value_t = 5_000)]
    rules: usize,
    /// Outputs of the large manifest
    #[arg(long, default_value_t = 200)]
    outputs: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    publish: Publish,
    storm: Storm,
    outage: Outage,
    large: Large,
}

#[derive(Serialize)]
struct Publish {
    gates: usize,
    publishes: usize,
    per_second: f64,
    /// From the request to the answer, which comes when all gates have said so.
    all_applied: Percentiles,
}

#[derive(Serialize)]
struct Storm {
    seconds: u64,
    events_per_second: u64,
    publishes_per_second: f64,
    /// Revisions that were made live meanwhile.
    applied: u64,
    quiet: Percentiles,
    storm: Percentiles,
    events_sent: u64,
    events_arrived: u64,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
}

#[derive(Serialize)]
struct Outage {
    seconds: u64,
    quiet: Percentiles,
    frozen: Percentiles,
    dead: Percentiles,
    /// From the end of each outage until a manifest that was written then is in force.
    after_frozen_ms: f64,
    after_dead_ms: f64,
    events_sent: u64,
    events_arrived: u64,
}

#[derive(Serialize)]
struct Large {
    rules: usize,
    outputs: usize,
    document_bytes: usize,
    draft_ms: f64,
    validate_ms: f64,
    publish_ms: f64,
    apply_ms: f64,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
}

/// Measures, prints, and saves the report.
///
/// # Errors
/// If a process fails, an event is lost, or a gate refuses something: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let origin = Origin::read();
    let mut out = stdout().lock();
    let publish = time_publishes(args)?;
    writeln!(
        out,
        "publish: in force at {GATES} gates, {} publishes: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        publish.publishes,
        publish.all_applied.p50_us / 1e3,
        publish.all_applied.p99_us / 1e3,
        publish.all_applied.max_us / 1e3,
    )?;
    let storm = time_storm(args)?;
    writeln!(
        out,
        "storm: {:.0} publishes/s for {} s, {} applied; {} of {} events arrived at {}/s",
        storm.publishes_per_second,
        storm.seconds,
        storm.applied,
        storm.events_arrived,
        storm.events_sent,
        storm.events_per_second,
    )?;
    for (name, latency) in [("quiet", &storm.quiet), ("storm", &storm.storm)] {
        print_latency(&mut out, name, latency)?;
    }
    writeln!(
        out,
        "  resident: {:.1} MiB before, {:.1} MiB after",
        mebibytes(storm.resident_bytes_before),
        mebibytes(storm.resident_bytes_after),
    )?;
    let outage = time_outage(args)?;
    writeln!(
        out,
        "outage: caught up {:.0} ms after {} s frozen, {:.0} ms after {} s dead; {} of {} events arrived",
        outage.after_frozen_ms,
        outage.seconds,
        outage.after_dead_ms,
        outage.seconds,
        outage.events_arrived,
        outage.events_sent,
    )?;
    for (name, latency) in [
        ("quiet", &outage.quiet),
        ("frozen", &outage.frozen),
        ("dead", &outage.dead),
    ] {
        print_latency(&mut out, name, latency)?;
    }
    let large = time_large(args)?;
    writeln!(
        out,
        "large: {} rules, {} outputs: draft {:.0} ms, validate {:.0} ms, publish {:.0} ms, of it apply {:.1} ms; \
         resident {:.1} MiB before, {:.1} MiB after",
        large.rules,
        large.outputs,
        large.draft_ms,
        large.validate_ms,
        large.publish_ms,
        large.apply_ms,
        mebibytes(large.resident_bytes_before),
        mebibytes(large.resident_bytes_after),
    )?;
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "fleet",
            origin,
            publish,
            storm,
            outage,
            large,
        };
        save(path, &report)?;
    }
    Ok(())
}

fn print_latency(out: &mut impl Write, name: &str, latency: &Percentiles) -> Result<()> {
    writeln!(
        out,
        "  {name}: p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms",
        latency.p50_us / 1e3,
        latency.p99_us / 1e3,
        latency.p999_us / 1e3,
    )?;
    Ok(())
}

fn time_publishes(args: &Args) -> Result<Publish> {
    let redis = Redis::start()?;
    let gates = (0..GATES)
        .map(|number| Member::start(args, &redis, number, None))
        .collect::<Result<Vec<_>>>()?;
    let control = gates[0].control;
    wait_until("the gates know of each other", || {
        let status = status_of(control)?;
        let known = status["fleet"].as_array().map_or(0, Vec::len);
        let listen = |gate: &Member| {
            let status = status_of(gate.control)?;
            Ok::<_, anyhow::Error>(status["config"]["subscribed"] == true)
        };
        let all_listen = gates.iter().map(listen).collect::<Result<Vec<_>>>()?;
        Ok(known == GATES && all_listen.iter().all(|listens| *listens))
    })?;
    let mut taken = empty_histogram();
    let pause = Duration::from_secs_f64(1.0 / args.publishes_per_second);
    for number in 0..args.publishes {
        let next = Instant::now() + pause;
        control.put_rules(&[filter(number)])?;
        let begun = Instant::now();
        let answer = control.send(
            "POST",
            "/publish?allow_removal=true&republish=true&wait=10s",
            &json!({}),
        )?;
        let took = begun.elapsed();
        let outcomes = answer["gates"].as_array().context("no gates")?;
        ensure!(
            outcomes.len() == GATES && outcomes.iter().all(|gate| gate["status"] == "applied"),
            "expected all gates to apply it, found {answer}"
        );
        record(&mut taken, took)?;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    for gate in gates {
        gate.subject.stop()?;
    }
    Ok(Publish {
        gates: GATES,
        publishes: args.publishes,
        per_second: args.publishes_per_second,
        all_applied: Percentiles::of(&taken),
    })
}

fn time_storm(args: &Args) -> Result<Storm> {
    let redis = Redis::start()?;
    let arrivals = Arrivals::listen()?;
    let gate = Member::start(args, &redis, 0, Some(arrivals.address))?;
    let length = Duration::from_secs(args.storm_seconds);
    // Connections, buffers and caches are warm before anything is counted.
    let mut sent = send_paced(gate.ingest, args.rate, Duration::from_secs(2))?;
    arrivals.wait_for(sent)?;
    arrivals.take();
    sent += send_paced(gate.ingest, args.rate, length)?;
    arrivals.wait_for(sent)?;
    let quiet = arrivals.take();
    let resident_bytes_before = gate.subject.resident_bytes()?;

    let applied_before = gate.applied()?;
    let ended = Arc::new(AtomicBool::new(false));
    let storm = thread::spawn({
        let (url, ended, rate) = (redis.url(), Arc::clone(&ended), args.storm_rate);
        let output = output(0, arrivals.address);
        move || publish_without_end(&url, &output, rate, &ended)
    });
    let begun = Instant::now();
    sent += send_paced(gate.ingest, args.rate, length)?;
    arrivals.wait_for(sent)?;
    ended.store(true, Ordering::Relaxed);
    let took = begun.elapsed();
    let published = storm
        .join()
        .map_err(|_| anyhow::anyhow!("the storm broke off"))??;
    let stormy = arrivals.take();
    wait_until("the last one is in force", || {
        Ok(gate.revision()? == published)
    })?;
    let result = Storm {
        seconds: args.storm_seconds,
        events_per_second: args.rate,
        publishes_per_second: published as f64 / took.as_secs_f64(),
        applied: gate.applied()? - applied_before,
        quiet: Percentiles::of(&quiet),
        storm: Percentiles::of(&stormy),
        events_sent: sent,
        events_arrived: arrivals.count(),
        resident_bytes_before,
        resident_bytes_after: gate.subject.resident_bytes()?,
    };
    gate.subject.stop()?;
    Ok(result)
}

fn time_outage(args: &Args) -> Result<Outage> {
    let mut redis = Redis::start()?;
    let arrivals = Arrivals::listen()?;
    let gate = Member::start(args, &redis, 0, Some(arrivals.address))?;
    let length = Duration::from_secs(args.outage_seconds);
    let mut sent = send_paced(gate.ingest, args.rate, Duration::from_secs(2))?;
    arrivals.wait_for(sent)?;
    arrivals.take();
    let mut under_load = || {
        sent += send_paced(gate.ingest, args.rate, length)?;
        arrivals.wait_for(sent)?;
        Ok::<_, anyhow::Error>(Percentiles::of(&arrivals.take()))
    };
    let quiet = under_load()?;
    let caught_up = |redis: &Redis, revision: u64| {
        let ended = Instant::now();
        redis.set(
            &json!({"version": "1.0", "revision": revision, "pipelines": [{
                "processors": [filter(0)], "outputs": [output(0, arrivals.address)],
            }]}),
        )?;
        wait_until("it is in force", || Ok(gate.revision()? == revision))?;
        Ok::<_, anyhow::Error>(ended.elapsed().as_secs_f64() * 1e3)
    };
    redis.signal(Signal::SIGSTOP)?;
    let frozen = under_load()?;
    redis.signal(Signal::SIGCONT)?;
    let after_frozen_ms = caught_up(&redis, 1)?;
    redis.signal(Signal::SIGKILL)?;
    redis.child.wait()?;
    let dead = under_load()?;
    redis.start_again()?;
    let after_dead_ms = caught_up(&redis, 2)?;
    let result = Outage {
        seconds: args.outage_seconds,
        quiet,
        frozen,
        dead,
        after_frozen_ms,
        after_dead_ms,
        events_sent: sent,
        events_arrived: arrivals.count(),
    };
    gate.subject.stop()?;
    Ok(result)
}

fn time_large(args: &Args) -> Result<Large> {
    let redis = Redis::start()?;
    let arrivals = Arrivals::listen()?;
    let gate = Member::start(args, &redis, 0, None)?;
    let resident_bytes_before = gate.subject.resident_bytes()?;
    let outputs: Vec<Value> = (0..args.outputs)
        .map(|number| output(number, arrivals.address))
        .collect();
    let draft = json!({
        "name": "default_pipeline",
        "processors": (0..args.rules).map(rule).collect::<Vec<_>>(),
        "outputs": outputs,
        "batch_size": 100,
    });
    let time = |method, path, body: &Value| {
        let begun = Instant::now();
        let answer = gate.control.send(method, path, body)?;
        Ok::<_, anyhow::Error>((begun.elapsed().as_secs_f64() * 1e3, answer))
    };
    let (draft_ms, _) = time("PUT", "/draft", &draft)?;
    let (validate_ms, _) = time("POST", "/validate", &json!({}))?;
    let (publish_ms, answer) = time(
        "POST",
        "/publish?allow_removal=true&republish=true",
        &json!({}),
    )?;
    let apply_ms = answer["gates"][0]["apply_ms"].as_f64();
    let result = Large {
        rules: args.rules,
        outputs: args.outputs,
        document_bytes: draft.to_string().len(),
        draft_ms,
        validate_ms,
        publish_ms,
        apply_ms: apply_ms.context("no `apply_ms`")?,
        resident_bytes_before,
        resident_bytes_after: gate.subject.resident_bytes()?,
    };
    gate.subject.stop()?;
    Ok(result)
}

/// A rule of the large manifest: of each type some.
fn rule(number: usize) -> Value {
    let id = format!("rule-{number}");
    match number % 4 {
        0 => json!({"id": id, "type": "redact", "params": {
            "pattern": format!("card-{number}-\\d{{4}}"), "replacement": "[card]"}}),
        1 => json!({"id": id, "type": "attribute_filter", "params": {
            "attribute": "service.name", "operator": "equals", "value": format!("service-{number}")}}),
        2 => json!({"id": id, "type": "sample", "params": {"rate": 0.5, "key": "trace_id"}}),
        _ => filter(number),
    }
}

fn filter(number: usize) -> Value {
    json!({"id": format!("rule-{number}"), "type": "filter", "params": {"value": format!("word-{number}-")}})
}

fn output(number: usize, address: SocketAddr) -> Value {
    json!({"id": format!("out-{number}"), "type": "tcp", "address": address.to_string()})
}

/// Publishes as another program does, at a rate; returns the number of the last revision.
fn publish_without_end(url: &str, output: &Value, rate: u64, ended: &AtomicBool) -> Result<u64> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let begun = Instant::now();
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        number += 1;
        let manifest = json!({"version": "1.0", "revision": number, "pipelines": [{
            "processors": [filter(usize::try_from(number)?)], "outputs": [output],
        }]});
        redis::pipe()
            .cmd("SET")
            .arg("streamgate_config")
            .arg(manifest.to_string())
            .ignore()
            .cmd("PUBLISH")
            .arg("streamgate_updates")
            .arg("RELOAD")
            .ignore()
            .exec(&mut connection)?;
        let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(number)
}

fn record(histogram: &mut Histogram<u64>, time: Duration) -> Result<()> {
    let time = u64::try_from(time.as_nanos()).context("a long time")?;
    histogram.saturating_record(time);
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn status_of(control: Control) -> Result<Value> {
    let text = control.get("/status")?.context("no `/status`")?;
    Ok(serde_json::from_str(&text)?)
}

/// A gate of the fleet.
struct Member {
    subject: Subject,
    control: Control,
    ingest: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Member {
    fn start(
        args: &Args,
        redis: &Redis,
        number: usize,
        sends_to: Option<SocketAddr>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let name = format!("gate-{number}");
        let program = args.gate.canonicalize();
        let mut command = Command::new(program.context("cannot find the gate")?);
        command.current_dir(folder.path());
        command.args(["--store", &redis.url(), "--node", &name]);
        for listener in ["--tcp", "--control"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.args(["--udp", "off", "--http", "off"]);
        if let Some(address) = sends_to {
            let manifest = json!({"version": "1.0", "pipelines": [{
                "name": "default_pipeline", "processors": [], "outputs": [output(0, address)], "batch_size": 100,
            }]});
            // Without a number, so that those of the storm begin with 1.
            redis.set(&manifest)?;
        }
        let subject = Subject::start(&name, command, &["tcp", "control"])?;
        Ok(Self {
            control: Control(subject.address("control")?),
            ingest: subject.address("tcp")?,
            subject,
            _folder: folder,
        })
    }

    fn revision(&self) -> Result<u64> {
        let status = status_of(self.control)?;
        status["revision"].as_u64().context("no revision")
    }

    /// How many revisions it has made live.
    fn applied(&self) -> Result<u64> {
        let text = self.control.get("/metrics")?.context("no metrics")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("streamgate_config_applied_total"))
            .and_then(|value| {
                // OpenMetrics writes counters as floats.
                let value = value.trim_start_matches("{}").trim();
                value.split('.').next()?.parse().ok()
            });
        value.context("no `streamgate_config_applied_total`")
    }
}

/// A Redis of the benchmark's own.
struct Redis {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let redis = Self {
            child: Self::spawn(port, &folder)?,
            port,
            folder,
        };
        redis.wait()?;
        Ok(redis)
    }

    fn spawn(port: u16, folder: &tempfile::TempDir) -> Result<Child> {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start `redis-server`; install it")
    }

    /// Starts it again, with nothing in it.
    fn start_again(&mut self) -> Result<()> {
        self.child = Self::spawn(self.port, &self.folder)?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        wait_until("Redis answers", || {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok())
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).context("the Redis is gone")
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn set(&self, manifest: &Value) -> Result<()> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        redis::cmd("SET")
            .arg("streamgate_config")
            .arg(manifest.to_string())
            .exec(&mut connection)?;
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
