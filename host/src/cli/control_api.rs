//! A client of a gate's control API, for commands.

use std::{error::Error, path::PathBuf, time::Duration};

use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use serde_json::Value;

use crate::pem::{authorities, certificates, private_key, provider};

/// Longest time for an answer: a large module takes minutes to compile on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Most of an answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where the control API is.
#[derive(Clone, clap::Args)]
pub struct Target {
    /// The control API of the gate
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    control: String,
    /// The token for the control API; better given by the environment, where other users of this
    /// host do not see it
    #[arg(
        long,
        env = "STREAMGATE_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// With `https://`: the certificate (PEM) of the CA [default: the system's]
    #[arg(long, env = "STREAMGATE_CONTROL_CA", value_name = "FILE")]
    control_ca: Option<PathBuf>,
    /// With `https://`: the certificate (PEM) to show
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_CERT",
        value_name = "FILE",
        requires = "control_key"
    )]
    control_cert: Option<PathBuf>,
    /// With `https://`: the key (PEM) of that certificate
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_KEY",
        value_name = "FILE",
        requires = "control_cert"
    )]
    control_key: Option<PathBuf>,
}

/// Why there is no answer, or none that one can work with.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers.
    #[error("{0}; is a gate running there? (`--control URL`)")]
    NoAnswer(String),
    /// A certificate or key cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
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

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
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
        let tls = self.tls().map_err(ApiError::Tls)?;
        let url = format!("{}{path}", self.control.trim_end_matches('/'));
        let (status, body) = runtime
            .block_on(self.exchange(method, url, kind, body, tls))
            .map_err(|error| ApiError::NoAnswer(chain(&error)))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let mut detail = match answer["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => String::from_utf8_lossy(&body).chars().take(500).collect(),
        };
        if status == 401 && self.token.is_none() {
            detail = format!("{detail}; set the environment variable STREAMGATE_TOKEN to it");
        }
        let pointer = answer["pointer"].as_str().filter(|at| !at.is_empty());
        Err(ApiError::Refused {
            status,
            detail,
            pointer: pointer.map(str::to_owned),
        })
    }

    fn tls(&self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.control_ca {
            None => builder
                .with_platform_verifier()
                .map_err(|error| error.to_string())?,
            Some(path) => builder.with_root_certificates(authorities(path)?),
        };
        match (&self.control_cert, &self.control_key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| error.to_string()),
            _ => Ok(builder.with_no_client_auth()),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(reqwest::Method::GET, path, "application/json", Vec::new())
    }

    async fn exchange(
        &self,
        method: reqwest::Method,
        url: String,
        kind: &str,
        body: Vec<u8>,
        tls: ClientConfig,
    ) -> Result<(u16, Vec<u8>), reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .tls_backend_preconfigured(tls)
            .build()?;
        let mut request = client.request(method, url).header("content-type", kind);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.body(body).send().await?;
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
}

fn place(pointer: Option<&str>) -> String {
    pointer.map_or(String::new(), |pointer| format!("{pointer}: "))
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
