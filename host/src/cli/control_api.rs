//! A client of a gate's control API, for commands.

use std::{error::Error, time::Duration};

use serde_json::Value;

/// Longest time for an answer: a large module takes minutes to compile on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Most of an answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where the control API is.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The control API of the gate
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    control: String,
}

/// Why there is no answer, or none that one can work with.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers.
    #[error("{0}; is a gate running there? (`--control URL`)")]
    NoAnswer(String),
    /// The gate says no.
    #[error("the gate refuses (HTTP {status}): {}{detail}", place(pointer.as_deref()))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the gate says.
        detail: String,
        /// The field that it is about.
        pointer: Option<String>,
    },
}

impl Target {
    /// Sends a request and returns the JSON of the answer, which is a success.
    pub(crate) fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Value, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ApiError::NoAnswer(error.to_string()))?;
        let url = format!("{}{path}", self.control.trim_end_matches('/'));
        let (status, body) = runtime
            .block_on(exchange(method, url, kind, body))
            .map_err(|error| ApiError::NoAnswer(chain(&error)))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let detail = match answer["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => String::from_utf8_lossy(&body).chars().take(500).collect(),
        };
        let pointer = answer["pointer"].as_str().filter(|at| !at.is_empty());
        Err(ApiError::Refused {
            status,
            detail,
            pointer: pointer.map(str::to_owned),
        })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(reqwest::Method::GET, path, "application/json", Vec::new())
    }
}

fn place(pointer: Option<&str>) -> String {
    pointer.map_or(String::new(), |pointer| format!("{pointer}: "))
}

async fn exchange(
    method: reqwest::Method,
    url: String,
    kind: &str,
    body: Vec<u8>,
) -> Result<(u16, Vec<u8>), reqwest::Error> {
    // Without one reqwest panics; another part of the program may have been here first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let mut response = client
        .request(method, url)
        .header("content-type", kind)
        .body(body)
        .send()
        .await?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok((status, body))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
