//! `streamgate module push`: uploads a module over the control API.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use super::{ModuleCommandError, read};

/// Longest time for the answer: a large module takes seconds to compile.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Most of an answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Flags of `module push`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The module
    file: PathBuf,
    /// The name that rules will have for it
    #[arg(long)]
    name: String,
    /// The control API of the gate
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    control: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, ModuleCommandError> {
    let bytes = read(&args.file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, body) = runtime.block_on(upload(args, bytes))?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status != 200 {
        let detail = answer["detail"].as_str().map(str::to_owned);
        let detail = detail.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        return Err(ModuleCommandError::refused(format!(
            "the gate refuses the module (HTTP {status}): {detail}"
        )));
    }
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

async fn upload(args: &Args, bytes: Vec<u8>) -> Result<(u16, Vec<u8>), ModuleCommandError> {
    let url = format!(
        "{}/modules/{}",
        args.control.trim_end_matches('/'),
        args.name
    );
    let failed = |error: reqwest::Error| {
        use std::error::Error;
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        ModuleCommandError::refused(format!(
            "{text}; is a gate running there? (`--control URL`)"
        ))
    };
    // Without one reqwest panics; another part of the program may have been here first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .build()
        .map_err(failed)?;
    let mut response = client
        .put(url)
        .header("content-type", "application/wasm")
        .body(bytes)
        .send()
        .await
        .map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok((status, body))
}
