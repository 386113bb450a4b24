//! The programs that are compared, and how each is started for a case.

use std::env;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::cases::Case;
use crate::control::Control;
use crate::modules::Modules;
use crate::subject::Subject;

/// How long the books may take to show what has already arrived.
const BOOKS_DEADLINE: Duration = Duration::from_secs(10);

/// A program to be measured.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// Our own relay: bytes in, bytes out. The yardstick: what the sockets alone cost.
    Relay,
    /// A program that takes the gate's flags and a manifest.
    Gate {
        /// The name in the report.
        name: String,
        /// The program.
        program: PathBuf,
        /// Arguments in front of ours.
        arguments: Vec<String>,
        /// The modules it is given for cases with a WASM rule; none if it cannot run such rules.
        modules: Option<Modules>,
    },
}

impl Contender {
    /// Returns the contender that this program itself offers as a reference: what a careful
    /// afternoon's Rust does, with a regex a rule and event.
    ///
    /// # Errors
    /// If this program cannot tell where it is.
    pub(crate) fn plain() -> Result<Self> {
        Ok(Self::Gate {
            name: "plain".to_owned(),
            program: own_program()?,
            arguments: vec!["plain".to_owned()],
            modules: None,
        })
    }

    /// The name in the report.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Relay => "relay",
            Self::Gate { name, .. } => name,
        }
    }

    /// Whether it applies a case's rules; the relay passes everything.
    #[must_use]
    pub(crate) const fn applies_rules(&self) -> bool {
        matches!(self, Self::Gate { .. })
    }

    /// Whether it can be measured in `case`; there is no use in it if it cannot run the case's module.
    #[must_use]
    pub(crate) const fn takes_part_in(&self, case: &Case) -> bool {
        match self {
            Self::Relay => true,
            Self::Gate { modules, .. } => case.guest.is_none() || modules.is_some(),
        }
    }

    /// Starts the program with an output to `receiver`. The rules of `case` are live when it returns.
    ///
    /// # Errors
    /// If it cannot be started, does not listen in time, or refuses the rules.
    pub(crate) fn start(&self, case: &Case, receiver: SocketAddr) -> Result<Running> {
        match self {
            Self::Relay => {
                let mut command = Command::new(own_program()?);
                command.args(["relay", "--forward", &receiver.to_string()]);
                let subject = Subject::start("relay", command, &["tcp"])?;
                Ok(Running {
                    ingest: subject.address("tcp")?,
                    control: None,
                    subject,
                    _manifest: None,
                })
            }
            Self::Gate {
                name,
                program,
                arguments,
                modules,
            } => {
                let mut manifest = NamedTempFile::new().context("cannot make a manifest file")?;
                serde_json::to_writer(&mut manifest, &case.manifest(receiver))
                    .context("cannot write the manifest")?;
                manifest.flush().context("cannot write the manifest")?;
                let mut command = Command::new(program);
                command
                    .args(arguments)
                    .args(["--tcp", "127.0.0.1:0", "--udp", "off", "--http", "off"])
                    .args(["--control", "127.0.0.1:0", "--store", "memory:"])
                    .arg("--manifest")
                    .arg(manifest.path());
                let subject = Subject::start(name, command, &["tcp", "control"])?;
                let control = Control(subject.address("control")?);
                if let Some(guest) = &case.guest {
                    let modules = modules.as_ref();
                    let modules = modules.with_context(|| format!("`{name}` has no modules"))?;
                    control.put_module(guest.module, &modules.read(guest.module)?)?;
                    control.put_rules(&[guest.rule()?])?;
                    control.publish()?;
                }
                Ok(Running {
                    ingest: subject.address("tcp")?,
                    control: Some(control),
                    subject,
                    _manifest: Some(manifest),
                })
            }
        }
    }
}

fn own_program() -> Result<PathBuf> {
    env::current_exe().context("cannot tell where this program is")
}

/// A contender that listens.
pub(crate) struct Running {
    /// The process.
    pub subject: Subject,
    /// Where it takes events.
    pub ingest: SocketAddr,
    /// Its control API, if it has one.
    pub control: Option<Control>,
    _manifest: Option<NamedTempFile>,
}

/// What a pipeline's books say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Books {
    /// Events that were taken in.
    pub received: u64,
    /// Events that a filter dropped.
    pub filtered: u64,
    /// Events that a WASM rule dropped.
    pub rule_dropped: u64,
    /// Events that came out of the chain.
    pub delivered_to_chain_end: u64,
    /// Events that the output has sent.
    pub sent: u64,
}

impl Running {
    /// Waits until the process's own books show exactly `expected`; returns whether it keeps any.
    ///
    /// # Errors
    /// If it keeps books and they differ.
    pub(crate) fn check_books(&self, expected: Books) -> Result<bool> {
        let Some(control) = self.control else {
            return Ok(false);
        };
        let deadline = Instant::now() + BOOKS_DEADLINE;
        loop {
            let Some((books, in_flight)) = read_books(control)? else {
                return Ok(false);
            };
            if books == expected && in_flight == 0 {
                return Ok(true);
            }
            ensure!(
                Instant::now() < deadline,
                "waited {BOOKS_DEADLINE:?} for the books to balance: expected {expected:?}, \
                 found {books:?} and {in_flight} in flight"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Reads `GET /stats`; `None` if there is no such page.
fn read_books(control: Control) -> Result<Option<(Books, u64)>> {
    #[derive(Deserialize)]
    struct Stats {
        pipelines: Vec<Pipeline>,
    }
    #[derive(Deserialize)]
    struct Pipeline {
        received: u64,
        in_flight: u64,
        filtered: u64,
        // The plain reference has no such rules, and no such account.
        #[serde(default)]
        rule_dropped: u64,
        delivered_to_chain_end: u64,
        outputs: Vec<Output>,
    }
    #[derive(Deserialize)]
    struct Output {
        sent: u64,
    }
    let Some(body) = control.get("/stats")? else {
        return Ok(None);
    };
    let stats: Stats = serde_json::from_str(&body)
        .with_context(|| format!("cannot read `GET /stats`, found {body}"))?;
    let [pipeline] = stats.pipelines.as_slice() else {
        bail!("`GET /stats`: expected one pipeline, found {body}");
    };
    let [output] = pipeline.outputs.as_slice() else {
        bail!("`GET /stats`: expected one output, found {body}");
    };
    let books = Books {
        received: pipeline.received,
        filtered: pipeline.filtered,
        rule_dropped: pipeline.rule_dropped,
        delivered_to_chain_end: pipeline.delivered_to_chain_end,
        sent: output.sent,
    };
    Ok(Some((books, pipeline.in_flight)))
}
