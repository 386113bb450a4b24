//! What an output is made from: the fields of a manifest's output, checked.
//!
//! | type | field | means | default |
//! | --- | --- | --- | --- |
//! | `console` | | events go to stdout | |
//! | `tcp` | `address` | `host:port` of a receiver of lines | required |
//! | `http` | `url` | where to `POST`, `http://` or `https://` | required |
//! | | `headers` | an object of header names and values, sent with every request | none |
//! | | `timeout_ms` | for a whole request, 1 to 300,000 | 10,000 |

use std::{collections::BTreeMap, time::Duration};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::manifest::{Invalid, Output, pointer_of};

const TYPES: &str = "`console`, `http`, `tcp`";

/// Longest time that a whole request may be given.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most headers of one output.
const MAX_HEADERS: usize = 64;

/// An output's settings, by type. Equal settings mean that a running output can be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputSettings {
    /// Events go to stdout.
    Console,
    /// Lines over TCP.
    Tcp(TcpSettings),
    /// `POST` of lines.
    Http(HttpSettings),
}

/// Settings of a `tcp` output.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpSettings {
    /// `host:port`; the name is looked up again at every connection.
    pub address: String,
}

/// Settings of an `http` output.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSettings {
    /// Where to send.
    pub url: reqwest::Url,
    /// What to send with every request.
    pub headers: HeaderMap,
    /// For a whole request, from the connection to the end of the answer.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleFields {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpFields {
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpFields {
    url: String,
    // The seed writes `null` for "none".
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    timeout_ms: Option<u64>,
}

impl OutputSettings {
    /// Checks an output of a manifest.
    ///
    /// # Errors
    /// [`Invalid`] names the field; its pointer starts at the output.
    pub fn parse(output: &Output) -> Result<Self, Invalid> {
        match output.kind.as_str() {
            "console" => {
                // The seed writes every field for every type, `null` where it has no meaning.
                let ConsoleFields {} = fields(output)?;
                Ok(Self::Console)
            }
            "tcp" => {
                let TcpFields { address } = fields(output)?;
                check_address(&address)?;
                Ok(Self::Tcp(TcpSettings { address }))
            }
            "http" => parse_http(fields(output)?).map(Self::Http),
            unknown => {
                let shown: String = unknown.chars().take(60).collect();
                Err(Invalid::new(
                    "unknown_output_type",
                    "/type",
                    format!("output type is `{shown}`; expected one of {TYPES}"),
                ))
            }
        }
    }

    /// Returns the type's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Tcp(_) => "tcp",
            Self::Http(_) => "http",
        }
    }
}

fn fields<T: DeserializeOwned>(output: &Output) -> Result<T, Invalid> {
    let given = output.settings.iter().filter(|(_, value)| !value.is_null());
    let given: serde_json::Map<String, Value> = given
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    serde_path_to_error::deserialize(Value::Object(given)).map_err(|error| {
        let pointer = pointer_of(error.path());
        let message = error.into_inner().to_string();
        Invalid::new(
            "invalid_output",
            pointer,
            format!("{} output: {message}", output.kind),
        )
    })
}

fn check_address(address: &str) -> Result<(), Invalid> {
    let valid = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if valid && address.len() <= 300 {
        return Ok(());
    }
    let shown: String = address.chars().take(60).collect();
    Err(Invalid::new(
        "invalid_address",
        "/address",
        format!(
            "`address` is `{shown}`; expected `host:port`, for example `logs.example.com:5140`"
        ),
    ))
}

fn parse_http(fields: HttpFields) -> Result<HttpSettings, Invalid> {
    let shown: String = fields.url.chars().take(100).collect();
    let invalid_url = |cause: &str| {
        Invalid::new(
            "invalid_url",
            "/url",
            format!("`url` is `{shown}`: {cause}; expected `http://host/path` or `https://...`"),
        )
    };
    let url = reqwest::Url::parse(&fields.url).map_err(|error| invalid_url(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid_url("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Invalid::new(
            "credentials_in_url",
            "/url",
            "`url` holds a user name or password, which would be shown wherever the url is; \
             send them in `headers`",
        ));
    }
    let given = fields.headers.unwrap_or_default();
    if given.len() > MAX_HEADERS {
        return Err(Invalid::new(
            "too_many",
            "/headers",
            format!(
                "{} headers are given; expected at most {MAX_HEADERS}",
                given.len()
            ),
        ));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let invalid = |what| {
            Invalid::new(
                "invalid_header",
                pointer.clone(),
                format!("`{name}`: {what}"),
            )
        };
        let header = HeaderName::try_from(&name)
            .map_err(|_| invalid("a header name has only letters, digits and `-`"))?;
        let value = HeaderValue::try_from(&value)
            .map_err(|_| invalid("a header value has only visible characters and spaces"))?;
        headers.insert(header, value);
    }
    let timeout = fields
        .timeout_ms
        .map_or(DEFAULT_TIMEOUT, Duration::from_millis);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(Invalid::new(
            "invalid_timeout",
            "/timeout_ms",
            format!(
                "`timeout_ms` is {}; expected 1 to {}",
                timeout.as_millis(),
                MAX_TIMEOUT.as_millis()
            ),
        ));
    }
    Ok(HttpSettings {
        url,
        headers,
        timeout,
    })
}
