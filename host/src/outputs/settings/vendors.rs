//! Outputs to vendors: what is theirs, so that a config says only where and as whom.
//!
//! `docs/outputs.md` lists their fields.
//!
//! Bodies are compressed with gzip, except those of `cloudwatch`, which accepts no compression.
//! Limits of size and number are the vendor's ([`super::super::format`]); `max_batch_bytes` and
//! `max_batch_events` only lower them.

use reqwest::{Url, header::HeaderName};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    super::{format::cloudwatch::CloudWatchSettings, secret::Secret, shown::one_line},
    Common, Compression, FormatSettings, HttpSettings, Invalid, Method, OutputPolicy, Preset,
    Template, parse_url,
};

/// The longest name of a log group or stream, and of a region.
///
/// Source: CloudWatch Logs API reference, "PutLogEvents".
const MAX_NAME_CHARS: usize = 512;

#[derive(Deserialize)]
pub(super) struct DatadogFields {
    api_key: String,
    site: Option<String>,
    endpoint: Option<String>,
    service: Option<String>,
    source: Option<String>,
    hostname: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

pub(super) fn datadog(
    fields: DatadogFields,
    common: Common,
    policy: &OutputPolicy,
) -> Result<HttpSettings, Invalid> {
    let site = fields.site.as_deref().unwrap_or("datadoghq.com");
    check_domain(site, "/site", "datadoghq.eu")?;
    let default = format!("https://http-intake.logs.{site}/api/v2/logs");
    let mut url = endpoint(fields.endpoint.as_deref(), &default)?;
    let tags = (!fields.tags.is_empty()).then(|| fields.tags.join(","));
    let parameters = [
        ("ddsource", fields.source),
        ("service", fields.service),
        ("hostname", fields.hostname),
        ("ddtags", tags),
    ];
    for (name, value) in parameters {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, &value);
        }
    }
    let preset = Preset {
        url,
        method: Method::Post,
        headers: vec![key_header(
            "dd-api-key",
            &fields.api_key,
            "/api_key",
            policy,
        )?],
        format: FormatSettings::Datadog,
        compressions: &[Compression::Gzip, Compression::None, Compression::Zstd],
        max_bytes: 4_250_000,
        max_events: Some(1_000),
    };
    preset.with(common, policy)
}

#[derive(Deserialize)]
pub(super) struct NewRelicFields {
    license_key: String,
    region: Option<NewRelicRegion>,
    endpoint: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NewRelicRegion {
    Us,
    Eu,
    Gov,
}

pub(super) fn newrelic(
    fields: NewRelicFields,
    common: Common,
    policy: &OutputPolicy,
) -> Result<HttpSettings, Invalid> {
    // Source: New Relic docs, "Introduction to the Log API".
    let default = match fields.region.unwrap_or(NewRelicRegion::Us) {
        NewRelicRegion::Us => "https://log-api.newrelic.com/log/v1",
        NewRelicRegion::Eu => "https://log-api.eu.newrelic.com/log/v1",
        NewRelicRegion::Gov => "https://gov-log-api.newrelic.com/log/v1",
    };
    let preset = Preset {
        url: endpoint(fields.endpoint.as_deref(), default)?,
        method: Method::Post,
        headers: vec![key_header(
            "api-key",
            &fields.license_key,
            "/license_key",
            policy,
        )?],
        format: FormatSettings::NewRelic {
            common: Value::Object(fields.attributes).to_string(),
        },
        compressions: &[Compression::Gzip, Compression::None],
        max_bytes: 1_000_000,
        max_events: Some(10_000),
    };
    preset.with(common, policy)
}

#[derive(Deserialize)]
pub(super) struct CloudWatchFields {
    region: String,
    group: String,
    stream: String,
    create: Option<bool>,
    endpoint: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
}

pub(super) fn cloudwatch(
    fields: CloudWatchFields,
    common: Common,
    policy: &OutputPolicy,
) -> Result<HttpSettings, Invalid> {
    let region = fields.region;
    check_domain(&region, "/region", "eu-central-1")?;
    check_name(&fields.group, "/group", &['-', '_', '/', '.', '#'])?;
    check_stream(&fields.stream)?;
    // Source: AWS general reference, "Amazon CloudWatch Logs endpoints and quotas"; the partitions'
    // domains are in "AWS service endpoints".
    let domain = match region.starts_with("cn-") {
        true => "amazonaws.com.cn",
        false => "amazonaws.com",
    };
    let default = format!("https://logs.{region}.{domain}/");
    let secret = |given: Option<String>, name: &str, pointer: &str| {
        let reference = given.unwrap_or_else(|| format!("env:{name}"));
        Secret::parse(&reference, pointer, &policy.secrets)
    };
    let session_token = match (fields.session_token, std::env::var_os("AWS_SESSION_TOKEN")) {
        (None, None) => None,
        (given, _) => Some(secret(given, "AWS_SESSION_TOKEN", "/session_token")?),
    };
    let settings = CloudWatchSettings {
        group: fields.group,
        stream: fields.stream,
        create: fields.create.unwrap_or(true),
        access_key_id: secret(fields.access_key_id, "AWS_ACCESS_KEY_ID", "/access_key_id")?,
        secret_access_key: secret(
            fields.secret_access_key,
            "AWS_SECRET_ACCESS_KEY",
            "/secret_access_key",
        )?,
        session_token,
        region,
    };
    let preset = Preset {
        url: endpoint(fields.endpoint.as_deref(), &default)?,
        method: Method::Post,
        headers: Vec::new(),
        format: FormatSettings::CloudWatch(Box::new(settings)),
        compressions: &[Compression::None],
        max_bytes: 1_048_576,
        max_events: Some(10_000),
    };
    preset.with(common, policy)
}

fn endpoint(given: Option<&str>, default: &str) -> Result<Url, Invalid> {
    parse_url(given.unwrap_or(default), "/endpoint")
}

/// Makes the header that holds a key.
fn key_header(
    name: &'static str,
    reference: &str,
    pointer: &str,
    policy: &OutputPolicy,
) -> Result<(HeaderName, Template), Invalid> {
    let key = Template::of_secret(Secret::parse(reference, pointer, &policy.secrets)?);
    Ok((HeaderName::from_static(name), key))
}

/// Refuses what could not be a part of a host's name.
fn check_domain(given: &str, pointer: &str, example: &str) -> Result<(), Invalid> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    match !given.is_empty() && given.len() <= MAX_NAME_CHARS && given.chars().all(fits) {
        true => Ok(()),
        false => Err(unfit(
            given,
            pointer,
            &format!("expected one such as `{example}`"),
        )),
    }
}

/// Refuses a name that the vendor would refuse.
fn check_name(given: &str, pointer: &str, marks: &[char]) -> Result<(), Invalid> {
    let fits = |c: char| c.is_ascii_alphanumeric() || marks.contains(&c);
    match !given.is_empty() && given.len() <= MAX_NAME_CHARS && given.chars().all(fits) {
        true => Ok(()),
        false => Err(unfit(
            given,
            pointer,
            &format!("expected 1 to {MAX_NAME_CHARS} of letters, digits and {marks:?}"),
        )),
    }
}

/// A stream's name may have anything but `:` and `*`.
fn check_stream(given: &str) -> Result<(), Invalid> {
    let chars = given.chars().count();
    match (1..=MAX_NAME_CHARS).contains(&chars) && !given.contains([':', '*']) {
        true => Ok(()),
        false => Err(unfit(
            given,
            "/stream",
            &format!("expected 1 to {MAX_NAME_CHARS} characters other than `:` and `*`"),
        )),
    }
}

fn unfit(given: &str, pointer: &str, expected: &str) -> Invalid {
    let shown = one_line(given, 60);
    let name = pointer.trim_start_matches('/');
    Invalid::new(
        "invalid_output",
        pointer,
        format!("`{name}` is `{shown}`; {expected}"),
    )
}
