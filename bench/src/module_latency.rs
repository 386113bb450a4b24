//! `module-latency`: how long it takes from a module's upload to the first event that it processed.
//!
//! A round uploads a module whose bytes the gate has never seen, names it in a rule, publishes, and then
//! sends a few events. The clock runs from before the upload to when the first of them arrives. What
//! arrives must be what the module makes of them, to the byte, and the gate must say that the code it
//! runs is the code of this round. Each module has a gate of its own, so that its first round shows
//! what starting the WASM engine takes.

use std::io::{Read, Write, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use streamgate::digest::Digest;

use crate::cases::{Case, Guest};
use crate::contender::Contender;
use crate::control::Control;
use crate::modules::Modules;
use crate::report::{Origin, median, save};

/// How long events may take to come out.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(10);
/// Room for reads that nobody has looked at yet.
const READS: usize = 64;

/// Flags of `module-latency`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gate's program
    #[arg(long)]
    gate: PathBuf,
    /// An argument for the gate, put before those of the benchmark; may be repeated
    #[arg(long, allow_hyphen_values = true)]
    gate_arg: Vec<String>,
    /// A folder with the modules, `<name>.wasm` each; by default `tests/build-guests` makes them
    #[arg(long)]
    modules: Option<PathBuf>,
    /// Which modules, or `all`
    #[arg(long = "module", value_delimiter = ',', default_value = "all")]
    names: Vec<String>,
    /// How often each module is uploaded
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Where to write the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A module, and what it makes of a few events.
struct Sample {
    guest: Guest,
    offered: String,
    expected: String,
}

/// The modules of the guest SDK with the configs of their pages.
fn samples() -> Vec<Sample> {
    let sample = |module, config, offered: &str, expected: &str| Sample {
        guest: Guest { module, config },
        offered: offered.to_owned(),
        expected: expected.to_owned(),
    };
    vec![
        sample("keep-all", "{}", "one\ntwo\n", "one\ntwo\n"),
        sample(
            "drop-keyword",
            r#"{"keyword": "DEBUG"}"#,
            "DEBUG tick\nINFO ready\n",
            "INFO ready\n",
        ),
        sample(
            "mask-email",
            r#"{"replacement": "[email]"}"#,
            "from ann@example.org\nnobody\n",
            "from [email]\nnobody\n",
        ),
        sample(
            "trim-json",
            r#"{"remove": ["stack"], "cut": {"message": 200}}"#,
            "{\"level\":\"info\",\"stack\":[\"a\"]}\n",
            "{\"level\":\"info\"}\n",
        ),
        sample(
            "keep-first",
            r#"{"first": 100, "window_seconds": 10}"#,
            &format!("{}disk full\n", "user 1 logged in\n".repeat(101)),
            &format!("{}disk full\n", "user 1 logged in\n".repeat(100)),
        ),
    ]
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    origin: Origin,
    results: Vec<ModuleResult>,
}

/// What one module took. Medians of its rounds but the first, which is apart.
#[derive(Serialize)]
struct ModuleResult {
    module: &'static str,
    module_bytes: usize,
    first_ms: f64,
    median: Round,
    slowest_ms: f64,
    rounds: Vec<Round>,
}

/// What one upload took, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    /// `PUT /modules/{name}`: compiled, checked and kept.
    upload_ms: f64,
    /// `PUT /rules`.
    rules_ms: f64,
    /// `POST /publish`: instances made and configured, the revision live.
    publish_ms: f64,
    /// From the events' sending to the arrival of the first of them.
    event_ms: f64,
    /// All of it.
    total_ms: f64,
}

/// Measures, prints a table, and saves the report.
///
/// # Errors
/// If a module is refused or what it leaves is wrong: then there is no report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let samples = find_samples(&args.names)?;
    ensure!(
        args.rounds >= 2,
        "`--rounds` must be 2 or more: the first one is apart"
    );
    let modules = Modules::find(args.modules.as_deref())?;
    let program = args.gate.canonicalize();
    let gate = Contender::Gate {
        name: "gate".to_owned(),
        program: program
            .with_context(|| format!("cannot find the gate at `{}`", args.gate.display()))?,
        arguments: args.gate_arg.clone(),
        modules: None,
    };
    let origin = Origin::read();
    let mut out = stdout().lock();
    writeln!(
        out,
        "ms from upload to the first event's arrival, {} rounds, commit {}",
        args.rounds, origin.commit
    )?;
    writeln!(
        out,
        "{:<13} {:>6} {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8} {:>8}",
        "module", "KiB", "median", "slowest", "first", "upload", "rules", "publish", "event"
    )?;
    let mut results = Vec::new();
    for sample in &samples {
        let module = sample.guest.module;
        let result =
            measure(&gate, sample, &modules, args.rounds).with_context(|| format!("`{module}`"))?;
        print(&mut out, &result)?;
        results.push(result);
    }
    if let Some(path) = &args.json {
        let report = Report {
            benchmark: "module-latency",
            origin,
            results,
        };
        save(path, &report)?;
    }
    Ok(())
}

fn find_samples(names: &[String]) -> Result<Vec<Sample>> {
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        let wanted = |sample: &Sample| name == "all" || name == sample.guest.module;
        found.extend(samples().into_iter().filter(wanted));
        if found.len() == before {
            let known: Vec<_> = samples().iter().map(|sample| sample.guest.module).collect();
            let known = known.join("`, `");
            bail!("found no module `{name}`, expected `all`, `{known}`");
        }
    }
    Ok(found)
}

fn measure(
    gate: &Contender,
    sample: &Sample,
    modules: &Modules,
    rounds: usize,
) -> Result<ModuleResult> {
    let module = modules.read(sample.guest.module)?;
    let arrivals = Arrivals::listen()?;
    let case = Case::by_name("pass").context("the case is in the table")?;
    let running = gate.start(&case, arrivals.address)?;
    let control = running.control.context("the gate has a control API")?;
    let mut ingest = TcpStream::connect(running.ingest).context("cannot connect to the gate")?;
    ingest.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    // Connections are up, both of them, before anything is timed.
    ingest.write_all(b"hello\n").context("cannot send")?;
    arrivals.expect(b"hello\n")?;

    let mut taken = Vec::new();
    let mut calls = 0;
    for round in 0..rounds {
        let bytes = with_nonce(&module, round)?;
        let took = upload(control, sample, &bytes, &mut ingest, &arrivals)
            .with_context(|| running.subject.last_log())?;
        calls = check_code(control, Digest::of(&bytes), calls)?;
        taken.push(took);
    }
    drop(ingest);
    running.subject.stop()?;
    let (first, rest) = taken.split_first().context("there is a round")?;
    let middle = |field: fn(&Round) -> f64| median(rest.iter().map(field));
    Ok(ModuleResult {
        module: sample.guest.module,
        module_bytes: module.len(),
        first_ms: first.total_ms,
        median: Round {
            upload_ms: middle(|round| round.upload_ms),
            rules_ms: middle(|round| round.rules_ms),
            publish_ms: middle(|round| round.publish_ms),
            event_ms: middle(|round| round.event_ms),
            total_ms: middle(|round| round.total_ms),
        },
        slowest_ms: rest.iter().map(|round| round.total_ms).fold(0.0, f64::max),
        rounds: taken,
    })
}

/// Uploads, publishes and sends, and waits for what comes out.
fn upload(
    control: Control,
    sample: &Sample,
    bytes: &[u8],
    ingest: &mut TcpStream,
    arrivals: &Arrivals,
) -> Result<Round> {
    let rules = [sample.guest.rule()?];
    let begun = Instant::now();
    control.put_module(sample.guest.module, bytes)?;
    let uploaded = Instant::now();
    control.put_rules(&rules)?;
    let ruled = Instant::now();
    control.publish()?;
    let published = Instant::now();
    ingest
        .write_all(sample.offered.as_bytes())
        .context("cannot send")?;
    let arrived = arrivals.expect(sample.expected.as_bytes())?;
    let milliseconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    Ok(Round {
        upload_ms: milliseconds(begun, uploaded),
        rules_ms: milliseconds(uploaded, ruled),
        publish_ms: milliseconds(ruled, published),
        event_ms: milliseconds(published, arrived),
        total_ms: milliseconds(begun, arrived),
    })
}

/// Looks whether the one rule runs that code, and was called since `before` calls; returns how many
/// there were. A rule's record goes on from revision to revision.
fn check_code(control: Control, expected: Digest, before: u64) -> Result<u64> {
    let status = control
        .get("/status")?
        .context("the gate has a `/status`")?;
    let status: Value = serde_json::from_str(&status)
        .with_context(|| format!("cannot read `GET /status`, found {status}"))?;
    let wasm = &status["rules"][0]["wasm"];
    let calls = wasm["calls"].as_u64().unwrap_or(0);
    ensure!(
        wasm["digest"] == expected.to_string().as_str() && calls > before,
        "expected `GET /status` to show {expected} with more than {before} calls, found {wasm}"
    );
    Ok(calls)
}

/// Adds a custom section, which changes what the module is called by and nothing of what it does.
///
/// Source: WebAssembly core specification, section 5.5.3: id 0, length, name, any bytes. Components have
/// the same. Lengths below 128 are one byte of LEB128.
fn with_nonce(module: &[u8], round: usize) -> Result<Vec<u8>> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let name = b"nonce";
    let nonce = [now.as_nanos().to_le_bytes(), (round as u128).to_le_bytes()].concat();
    let length = u8::try_from(1 + name.len() + nonce.len()).context("the section is short")?;
    let name_length = u8::try_from(name.len()).context("the name is short")?;
    Ok([module, &[0, length, name_length], name, &nonce].concat())
}

/// What the gate sends, as it arrives.
struct Arrivals {
    address: SocketAddr,
    reads: mpsc::Receiver<(Instant, Vec<u8>)>,
}

impl Arrivals {
    /// Listens on a free loopback port.
    fn listen() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen for the gate")?;
        let address = listener.local_addr().context("cannot tell own address")?;
        let (report, reads) = mpsc::sync_channel(READS);
        // Ends with the process; it waits in `accept` until then.
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let report = report.clone();
                thread::spawn(move || read(socket, &report));
            }
        });
        Ok(Self { address, reads })
    }

    /// Waits until as many bytes as expected have arrived; returns when the first of them did.
    ///
    /// # Errors
    /// If they do not come in time, or are others.
    fn expect(&self, expected: &[u8]) -> Result<Instant> {
        let mut first = None;
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let Ok((at, bytes)) = self.reads.recv_timeout(ARRIVAL_DEADLINE) else {
                bail!(
                    "waited {ARRIVAL_DEADLINE:?} for events; expected {:?}, found {:?}",
                    String::from_utf8_lossy(expected),
                    String::from_utf8_lossy(&found)
                );
            };
            first.get_or_insert(at);
            found.extend_from_slice(&bytes);
        }
        ensure!(
            found == expected,
            "expected {:?}, found {:?}",
            String::from_utf8_lossy(expected),
            String::from_utf8_lossy(&found)
        );
        first.context("nothing was expected")
    }
}

fn read(mut socket: TcpStream, report: &mpsc::SyncSender<(Instant, Vec<u8>)>) {
    let mut room = vec![0; 64 * 1024];
    while let Ok(length) = socket.read(&mut room) {
        let read = (Instant::now(), room[..length].to_vec());
        if length == 0 || report.send(read).is_err() {
            return;
        }
    }
}

fn print(out: &mut impl Write, result: &ModuleResult) -> Result<()> {
    let median = &result.median;
    writeln!(
        out,
        "{:<13} {:>6} {:>8.1} {:>8.1} {:>8.1}   {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
        result.module,
        result.module_bytes / 1024,
        median.total_ms,
        result.slowest_ms,
        result.first_ms,
        median.upload_ms,
        median.rules_ms,
        median.publish_ms,
        median.event_ms,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_a_section_of_its_own() {
        let module = b"\0asm\x01\0\0\0";
        let one = with_nonce(module, 1).unwrap();
        assert_eq!(&one[..8], module);
        assert_eq!(one[8], 0, "the id of a custom section");
        assert_eq!(usize::from(one[9]), one.len() - 10, "its length");
        assert_eq!(&one[10..16], b"\x05nonce");
        assert_ne!(one, with_nonce(module, 2).unwrap());
    }

    #[test]
    fn every_sample_has_a_config_and_an_answer() {
        for sample in samples() {
            sample.guest.rule().unwrap();
            assert!(sample.expected.ends_with('\n') && sample.offered.ends_with('\n'));
        }
    }
}
