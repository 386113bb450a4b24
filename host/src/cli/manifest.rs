//! `streamgate apply`, `diff` and `status`: config that is kept in files, and what the gates run.

use std::{
    io::{self, Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Map, Value, json};
use similar::TextDiff;

use super::{
    control_api::{ApiError, Target},
    read,
};
use crate::manifest::{DEFAULT_BATCH_SIZE, DEFAULT_PIPELINE, WASM};

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
    /// A file is no manifest.
    #[error("{} is no manifest: {message}", path.display())]
    NoManifest {
        /// Which.
        path: PathBuf,
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
    let pipeline = read_pipeline(&args.file)?;
    let send = |method, path: &str, body: &Value| {
        let body = body.to_string().into_bytes();
        args.target.send(method, path, "application/json", body)
    };
    let saved = send(reqwest::Method::PUT, "/draft", &pipeline)?;
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
    let wait: String = args
        .wait
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let path = format!("/publish?wait={wait}");
    let published =
        args.target
            .send(reqwest::Method::POST, &path, "application/json", Vec::new())?;
    writeln!(out, "published revision {}", published["revision"])?;
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
    let wanted = read_pipeline(&args.file)?;
    let draft = args.target.get("/draft")?;
    let revision = draft["live_revision"].as_u64().unwrap_or(0);
    let live = match revision {
        0 => Value::Null,
        revision => args.target.get(&format!("/revisions/{revision}"))?["pipelines"][0].take(),
    };
    let mut live = with_defaults(live.as_object().cloned().unwrap_or_default());
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
fn read_pipeline(path: &Path) -> Result<Value, ManifestCommandError> {
    let refuse = |message: String| ManifestCommandError::NoManifest {
        path: path.to_owned(),
        message,
    };
    let bytes = read(path).map_err(|source| ManifestCommandError::File {
        path: path.to_owned(),
        source,
    })?;
    let document = String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))?;
    // JSON is YAML too, but its own reader says better what is wrong with it.
    let value: Value = match document.trim_start().starts_with(['{', '[']) {
        true => serde_json::from_str(&document).map_err(|error| refuse(error.to_string()))?,
        false => serde_saphyr::from_str(&document).map_err(|error| refuse(error.to_string()))?,
    };
    let Value::Object(mut manifest) = value else {
        return Err(refuse("expected an object".to_owned()));
    };
    let pipeline = match manifest.remove("pipelines") {
        None => manifest,
        Some(Value::Array(mut pipelines)) if pipelines.len() == 1 => match pipelines.remove(0) {
            Value::Object(pipeline) => pipeline,
            _ => return Err(refuse("/pipelines/0: expected an object".to_owned())),
        },
        Some(_) => return Err(refuse("/pipelines: expected exactly one".to_owned())),
    };
    Ok(with_defaults(pipeline))
}

fn with_defaults(mut pipeline: Map<String, Value>) -> Value {
    for (field, default) in [
        ("name", json!(DEFAULT_PIPELINE)),
        ("processors", json!([])),
        ("outputs", json!([])),
        ("batch_size", json!(DEFAULT_BATCH_SIZE)),
    ] {
        pipeline.entry(field).or_insert(default);
    }
    Value::Object(pipeline)
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
