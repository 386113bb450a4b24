//! `streamgate module push`: uploads a module over the control API.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::Value;

use super::{ModuleCommandError, read};
use crate::cli::control_api::Target;

/// Flags of `module push`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The module
    file: PathBuf,
    /// The name that rules will have for it
    #[arg(long)]
    name: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, ModuleCommandError> {
    let bytes = read(&args.file)?;
    let path = format!("/modules/{}", args.name);
    let answer = args
        .target
        .send(reqwest::Method::PUT, &path, "application/wasm", bytes)?;
    let module = &answer["module"];
    let text = |field: &str| module[field].as_str().unwrap_or("?").to_owned();
    let rules: Vec<&str> = answer["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut out = stdout().lock();
    writeln!(
        out,
        "{} `{}`: {}, {} bytes, {}",
        answer["status"].as_str().unwrap_or("uploaded"),
        args.name,
        text("kind"),
        module["size_bytes"],
        text("digest"),
    )?;
    match rules.as_slice() {
        [] => writeln!(
            out,
            "no rule names it yet; add one of type `wasm` with `\"module\": \"{}\"`",
            args.name
        )?,
        rules => writeln!(
            out,
            "rules that name it: {}; publish to run it",
            rules.join(", ")
        )?,
    }
    Ok(ExitCode::SUCCESS)
}
