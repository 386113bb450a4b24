//! `streamgate apply`, `diff` and `status`: config that is kept in files, and what the gates run.

use std::{
    io::{self, Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::Value;
use similar::TextDiff;

use super::{
    control_api::{ApiError, Target},
    read,
};
use crate::{
    config::units,
    manifest::{Invalid, Pipeline, WASM, written::Written},
};

/// Lines around a change that are shown.
const CONTEXT_LINES: usize = 3;

/// Flags of `apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The manifest, or one pipeline (JSON or YAML); `-` is stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    /// How long to wait for other gates
    #[arg(long, value_name = "TIME", default_value = "10s")]
    wait: String,
    /// Say why, for the history; up to 200 characters
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Publish also what removes the last rule that protects privacy, or all outputs
    #[arg(long)]
    allow_removal: bool,
    /// Replace the draft only; publish nothing
    #[arg(long)]
    draft_only: bool,
    #[command(flatten)]
    target: Target,
}

/// Flags of `diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The manifest, or one pipeline (JSON or YAML); `-` is stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestCommandError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is not a valid manifest.
    #[error("{} is not a valid manifest: {fault}", path.display())]
    NotValid {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and where.
        fault: Invalid,
    },
    /// A flag is not valid.
    #[error("`--{flag}`: {message}")]
    InvalidFlag {
        /// Its name.
        flag: &'static str,
        /// What was found, and what was expected.
        message: String,
    },
    /// The gate does not answer, or says no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nobody reads the output any more, or it cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Makes the file the draft, and publishes it. Exit code 1 if a gate refuses it.
///
/// # Errors
/// [`ManifestCommandError`], to be told to the user.
pub fn apply(args: &ApplyArgs) -> Result<ExitCode, ManifestCommandError> {
    // Before anything is changed.
    let query = query_of(args)?;
    let written = read_written(&args.file)?;
    let body = pipeline_of(&written).to_string().into_bytes();
    let kind = "application/json";
    let saved = args.target.send(reqwest::Method::PUT, "/draft", kind, body);
    let saved = saved.map_err(|error| in_the_file(error, &written))?;
    let mut out = stdout().lock();
    writeln!(
        out,
        "draft {}: {} rules, {} outputs",
        text(&saved["status"]),
        saved["rules"],
        saved["outputs"]
    )?;
    if args.draft_only {
        return Ok(ExitCode::SUCCESS);
    }
    let path = format!("/publish?{query}");
    let published = args
        .target
        .send(reqwest::Method::POST, &path, kind, Vec::new());
    let published = published.map_err(|error| in_the_file(error, &written))?;
    let revision = &published["revision"];
    match published["status"] == "unchanged" {
        true => writeln!(
            out,
            "nothing to publish: revision {revision} is this already"
        )?,
        false => writeln!(out, "published revision {revision}")?,
    }
    let mut failed = false;
    for gate in published["gates"].as_array().into_iter().flatten() {
        let status = text(&gate["status"]);
        failed |= status == "failed";
        let rest = match (gate["apply_ms"].as_f64(), gate["reason"].as_str()) {
            (_, Some(reason)) => format!(": {}", shown(reason)),
            (Some(took), None) => format!(" in {took:.1} ms"),
            (None, None) => String::new(),
        };
        writeln!(out, "  {} {status}{rest}", text(&gate["id"]))?;
    }
    Ok(match failed {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    })
}

/// Shows what `apply` would change of what is live. Exit code 1 if there is anything.
///
/// # Errors
/// [`ManifestCommandError`], to be told to the user.
pub fn diff(args: &DiffArgs) -> Result<ExitCode, ManifestCommandError> {
    let wanted = pipeline_of(&read_written(&args.file)?);
    let draft = args.target.get("/draft")?;
    let revision = draft["live_revision"].as_u64().unwrap_or(0);
    let live = match revision {
        0 => Value::Null,
        revision => args.target.get(&format!("/revisions/{revision}"))?["pipelines"][0].take(),
    };
    // Before the first publish there is nothing that could be the same.
    let mut live = match revision {
        0 => serde_json::to_value(Pipeline::empty()).expect("a pipeline is JSON"),
        _ => live,
    };
    forget_pins(&mut live, &wanted);
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    let (live, wanted) = (pretty(&live), pretty(&wanted));
    if live == wanted {
        writeln!(stdout(), "no difference to revision {revision}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let diff = TextDiff::from_lines(&live, &wanted);
    let mut shown = diff.unified_diff();
    let shown = shown
        .context_radius(CONTEXT_LINES)
        .header(
            &format!("revision {revision}"),
            &args.file.display().to_string(),
        )
        .to_string();
    write!(stdout(), "{}", shown.replace('\x1b', "\u{fffd}"))?;
    Ok(ExitCode::FAILURE)
}

/// Shows what the gates run. Exit code 1 if one of them is not as it should be.
///
/// # Errors
/// [`ManifestCommandError`], to be told to the user.
pub fn status(args: &StatusArgs) -> Result<ExitCode, ManifestCommandError> {
    let status = args.target.get("/status")?;
    let config = &status["config"];
    let mut out = stdout().lock();
    writeln!(
        out,
        "{}  revision {}  up {} s  config {} ({})",
        text(&status["gate"]),
        status["revision"],
        status["uptime_seconds"],
        text(&config["state"]),
        text(&config["store"]),
    )?;
    let mut well = config["state"] == "ok" && config["store_behind"].is_null();
    if let Some(reason) = config["reason"].as_str() {
        writeln!(out, "  {}", shown(reason))?;
    }
    if let Some(behind) = config["store_behind"].as_u64() {
        writeln!(
            out,
            "  the config store has revision {behind} only; publish again to mend it"
        )?;
    }
    let nodes = status["fleet"].as_array();
    if let Some(nodes) = nodes {
        writeln!(
            out,
            "\n{:<32} {:>8} {:>9}  state",
            "gate", "revision", "apply ms"
        )?;
        for node in nodes {
            let state = match node["refused"]["reason"].as_str() {
                Some(reason) => {
                    well = false;
                    format!("refuses {}: {}", node["refused"]["revision"], shown(reason))
                }
                None => "ok".to_owned(),
            };
            writeln!(
                out,
                "{:<32} {:>8} {:>9.1}  {state}",
                text(&node["id"]),
                node["revision"],
                node["apply_ms"].as_f64().unwrap_or(0.0),
            )?;
        }
    }
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Reads a manifest or a pipeline, and fills in what may be left out.
fn read_written(path: &Path) -> Result<Written, ManifestCommandError> {
    let bytes = read(path).map_err(|source| ManifestCommandError::File {
        path: path.to_owned(),
        source,
    })?;
    Written::parse(&bytes).map_err(|fault| ManifestCommandError::NotValid {
        path: path.to_owned(),
        fault,
    })
}

/// The pipeline as it is sent and compared.
fn pipeline_of(written: &Written) -> Value {
    serde_json::to_value(written.manifest.pipeline()).expect("it was read from JSON or YAML")
}

/// Makes a pointer to a field of the draft one to a field of the file.
fn in_the_file(mut error: ApiError, written: &Written) -> ApiError {
    if let ApiError::Refused {
        pointer: Some(pointer),
        ..
    } = &mut error
    {
        *pointer = written.pointer_in_the_file(pointer, "");
    }
    error
}

/// The query of the publish.
fn query_of(args: &ApplyArgs) -> Result<String, ManifestCommandError> {
    if args.wait != "0" {
        units::duration(&args.wait).map_err(|message| ManifestCommandError::InvalidFlag {
            flag: "wait",
            message,
        })?;
    }
    // Only for its query.
    let mut url = reqwest::Url::parse("http://gate/").expect("a URL");
    url.query_pairs_mut().append_pair("wait", &args.wait);
    if let Some(comment) = &args.comment {
        url.query_pairs_mut().append_pair("comment", comment);
    }
    if args.allow_removal {
        url.query_pairs_mut().append_pair("allow_removal", "true");
    }
    Ok(url.query().unwrap_or_default().to_owned())
}

/// Leaves out of what is live the digests that the file does not name: publishing adds them.
fn forget_pins(live: &mut Value, wanted: &Value) {
    let Some(rules) = live["processors"].as_array_mut() else {
        return;
    };
    for rule in rules.iter_mut().filter(|rule| rule["type"] == WASM) {
        let same = wanted["processors"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|other| other["id"] == rule["id"]);
        if same.is_some_and(|same| same["params"]["digest"].is_null())
            && let Some(params) = rule["params"].as_object_mut()
        {
            params.remove("digest");
        }
    }
}

fn text(value: &Value) -> String {
    shown(value.as_str().unwrap_or("?"))
}

/// Foreign text for a terminal: on one line, without what could steer it.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
