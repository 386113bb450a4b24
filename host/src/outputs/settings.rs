//! What an output is made from: the fields of a manifest's output, checked.
//!
//! `docs/outputs.md` lists the fields of each type, with their meaning, unit and default.

use std::{collections::BTreeMap, time::Duration};

use reqwest::header::HeaderName;
use serde::Deserialize;
use tracing::warn;

use super::{
    destination::OutputPolicy,
    format::cloudwatch::CloudWatchSettings,
    secret::{SecretSources, Template},
    shown::{MOST_CHARS, one_line},
    tls::{self, TlsSettings},
};
use crate::{
    config::units,
    manifest::{Invalid, Output, pointer_of},
};

mod check;
mod file;
mod given;
mod literals;
mod proxy;
mod vendors;

use given::{Given, Object};
use proxy::ProxyFields;

pub(super) use check::{faults, of_fields};
pub(super) use file::FileSettings;
pub(super) use literals::hide;
pub(super) use proxy::ProxySettings;

/// Time between two `fsync`s of a spool; Vector's too.
const FSYNC_INTERVAL: Duration = Duration::from_millis(500);

const TYPES: &str = "`cloudwatch`, `console`, `datadog`, `file`, `http`, `newrelic`, `tcp`";

/// Most headers of one output.
const MAX_HEADERS: usize = 64;

/// An output's settings. Equal settings mean that a running output can be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSettings {
    /// Where events go.
    pub target: Target,
    /// What is done when they do not get there.
    pub delivery: DeliverySettings,
    /// What an edit of this output would be refused for; it runs because it did before.
    pub warnings: Vec<String>,
}

/// Where events go, by type.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// To stdout.
    Console,
    /// To a file.
    File(FileSettings),
    /// Lines over TCP.
    Tcp(TcpSettings),
    /// Requests.
    Http(HttpSettings),
}

/// What is done with events that do not get to the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// The disk between the queue and the receiver.
    pub spool: Option<SpoolSettings>,
    /// Most bytes of the dead letters; none if they are not kept.
    pub dead_letters: Option<u64>,
    /// How long the same events are tried on a receiver that answers.
    pub give_up_after: Duration,
}

/// Settings of an output's spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Most bytes of its files.
    pub max_bytes: u64,
    /// What gives way.
    pub when_full: WhenFull,
    /// When events are forced to the disk.
    pub fsync: FsyncPolicy,
}

impl SpoolSettings {
    /// Of a spool that is only emptied.
    pub(super) fn leftover() -> Self {
        Self {
            max_bytes: MAX_SPOOL_BYTES,
            when_full: WhenFull::Block,
            fsync: FsyncPolicy::Never,
        }
    }
}

impl From<SpoolSettings> for streamgate_spool::Settings {
    fn from(settings: SpoolSettings) -> Self {
        use streamgate_spool::{Fsync, Settings, WhenFull as Spooled};
        Settings {
            max_bytes: settings.max_bytes,
            when_full: match settings.when_full {
                WhenFull::Block => Spooled::Block,
                WhenFull::DropOldest => Spooled::DropOldest,
                WhenFull::DropNewest => Spooled::DropNewest,
            },
            fsync: match settings.fsync {
                FsyncPolicy::Never => Fsync::Never,
                FsyncPolicy::Interval => Fsync::Interval(FSYNC_INTERVAL),
                FsyncPolicy::Always => Fsync::Always,
            },
        }
    }
}

/// What gives way when a spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Nothing: the output's queue fills.
    Block,
    /// The oldest events.
    DropOldest,
    /// The newest.
    DropNewest,
}

/// When events are forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsyncPolicy {
    /// When the system likes.
    Never,
    /// Every 500 ms.
    Interval,
    /// Every batch.
    Always,
}

/// Settings of a `tcp` output.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpSettings {
    /// `host:port`; the name is looked up again at every connection.
    pub address: String,
    /// Whether and how the connection is secured.
    pub tls: Option<TlsSettings>,
}

/// Settings of an output that sends requests.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSettings {
    /// Where to send.
    pub url: reqwest::Url,
    /// How.
    pub method: Method,
    /// What to send with every request.
    pub headers: Vec<(HeaderName, Template)>,
    /// How events are written into a body, and what answers mean.
    pub format: FormatSettings,
    /// What is done to the body.
    pub compression: Compression,
    /// For a whole request, from the connection to the end of the answer.
    pub timeout: Duration,
    /// How much goes into a request.
    pub batching: Batching,
    /// Requests at the same time.
    pub max_in_flight: usize,
    /// How connections are secured, with `https://`.
    pub tls: Option<TlsSettings>,
    /// What requests are sent through.
    pub proxy: Option<Box<ProxySettings>>,
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `POST`
    Post,
    /// `PUT`
    Put,
}

/// How events are written into a body, where the receiver has no format of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// One event a line, as it is.
    Lines,
    /// One JSON value a line.
    Ndjson,
    /// One array of JSON values.
    JsonArray,
}

/// What the JSON values of a body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// What an event is: an object, a number, an array, ...; text as `{"message": "..."}`.
    Any,
    /// Objects: any other event as `{"message": "..."}`.
    Objects,
}

/// How events are written into a body, and what answers mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatSettings {
    /// As any receiver takes it.
    Framed(Framing, Values),
    /// Datadog's log intake.
    Datadog,
    /// New Relic's Log API.
    NewRelic {
        /// A JSON object: the attributes that all events have in common.
        common: String,
    },
    /// `PutLogEvents`.
    CloudWatch(Box<CloudWatchSettings>),
}

/// What is done to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Nothing.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// How much goes into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Most bytes, before compression.
    pub max_bytes: usize,
    /// Most events, if not the pipeline's `batch_size`.
    pub max_events: Option<usize>,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
}

#[derive(Deserialize)]
struct ConsoleFields {}

#[derive(Deserialize)]
struct TcpFields {
    address: String,
    tls: Option<Object<TlsSettings>>,
}

#[derive(Deserialize)]
struct HttpFields {
    url: String,
    method: Option<Method>,
    framing: Option<Framing>,
    values: Option<Values>,
}

/// What all outputs have in common that send requests.
#[derive(Deserialize)]
struct RequestFields {
    headers: Option<BTreeMap<String, String>>,
    compression: Option<Compression>,
    timeout_ms: Option<u64>,
    max_batch_bytes: Option<usize>,
    max_batch_events: Option<usize>,
    linger_ms: Option<u64>,
    max_in_flight: Option<usize>,
    tls: Option<Object<TlsSettings>>,
}

/// What all outputs that send requests have in common.
struct Common {
    request: RequestFields,
    proxy: ProxyFields,
}

/// What all outputs have in common that keep events on the disk.
#[derive(Deserialize)]
struct DeliveryFields {
    spool: Option<Object<SpoolFields>>,
    dead_letters: Option<DeadLetterFields>,
}

/// Only a receiver that answers is ever given up on, and only requests are answered.
#[derive(Default, Deserialize)]
struct GiveUpFields {
    give_up_after_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolFields {
    max_bytes: Size,
    when_full: Option<WhenFull>,
    fsync: Option<FsyncPolicy>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected `false` or an object with `max_bytes`")]
enum DeadLetterFields {
    Kept(Object<KeptLetters>),
    Wanted(bool),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptLetters {
    max_bytes: Size,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of bytes or a size such as `1GiB`"
)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl OutputSettings {
    /// Checks an output of a manifest.
    ///
    /// # Errors
    /// [`Invalid`] names the field; its pointer starts at the output.
    pub fn parse(output: &Output, policy: &OutputPolicy) -> Result<Self, Invalid> {
        let mut given = Given::new(output);
        let sends_requests = match given.kind {
            "console" => {
                let ConsoleFields {} = given.rest()?;
                return Ok(Self::console());
            }
            "file" | "tcp" => false,
            "http" | "datadog" | "newrelic" | "cloudwatch" => true,
            unknown => {
                let shown = one_line(unknown, 60);
                return Err(Invalid::new(
                    "unknown_output_type",
                    "/type",
                    format!("output type is `{shown}`; expected one of {TYPES}"),
                ));
            }
        };
        let give_up = match sends_requests {
            true => given.take()?,
            false => {
                // A live config may have it; an edit is refused by `check`.
                given.ignore::<GiveUpFields>();
                GiveUpFields::default()
            }
        };
        let delivery = parse_delivery(&given.take()?, &give_up, policy)?;
        let target = match given.kind {
            "file" => Target::File(file::parse(&given.rest()?, policy)?),
            "tcp" => Target::Tcp(parse_tcp(given.rest()?)?),
            kind => {
                let common = Common {
                    proxy: given.take()?,
                    request: given.take()?,
                };
                let http = match kind {
                    "datadog" => vendors::datadog(given.rest()?, common, policy)?,
                    "newrelic" => vendors::newrelic(given.rest()?, common, policy)?,
                    "cloudwatch" => vendors::cloudwatch(given.rest()?, common, policy)?,
                    _ => parse_http(&given.rest()?, common, policy)?,
                };
                Target::Http(http)
            }
        };
        let mut settings = Self {
            target,
            delivery,
            warnings: Vec::new(),
        };
        let faults = faults(output, &settings, policy);
        settings.warnings = faults.iter().map(ToString::to_string).collect();
        Ok(settings)
    }

    /// The output that stands in when none is configured.
    pub fn console() -> Self {
        Self {
            target: Target::Console,
            delivery: DeliverySettings {
                spool: None,
                dead_letters: None,
                give_up_after: DEFAULT_GIVE_UP_AFTER,
            },
            warnings: Vec::new(),
        }
    }

    /// Returns the type's name.
    pub fn kind(&self) -> &'static str {
        match &self.target {
            Target::Console => "console",
            Target::File(_) => "file",
            Target::Tcp(_) => "tcp",
            Target::Http(http) => match http.format {
                FormatSettings::Framed(..) => "http",
                FormatSettings::Datadog => "datadog",
                FormatSettings::NewRelic { .. } => "newrelic",
                FormatSettings::CloudWatch(_) => "cloudwatch",
            },
        }
    }
}

/// Header fields that HTTP or the gate sets, and who does. Names are lower-case; one with a `*`
/// stands for all that begin so.
const OWN_HEADERS: [(&str, &str); 14] = [
    ("connection", "it belongs to the connection"),
    (
        "content-encoding",
        "the output sets it; see its field `compression`",
    ),
    ("content-length", "the output sets it"),
    ("expect", "it belongs to the connection"),
    ("host", "the output sets it from the url"),
    ("http2-settings", "it belongs to the connection"),
    ("keep-alive", "it belongs to the connection"),
    (
        "proxy-authorization",
        "it belongs to the connection; see the field `proxy_authorization`",
    ),
    ("proxy-connection", "it belongs to the connection"),
    ("te", "it belongs to the connection"),
    ("trailer", "it belongs to the connection"),
    ("transfer-encoding", "it belongs to the connection"),
    ("upgrade", "it belongs to the connection"),
    ("x-streamgate-*", "the gate sets those"),
];

/// Says who sets a header field, if it is not for the settings to set.
fn owner_of(name: &str, of_format: &[&str]) -> Option<&'static str> {
    let name = name.trim().to_ascii_lowercase();
    let is = |own: &str| match own.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == own,
    };
    let own = OWN_HEADERS.iter().find(|(own, _)| is(own));
    let vendors = of_format.iter().any(|own| is(own));
    own.map(|(_, owner)| *owner)
        .or(vendors.then_some("the type of the output sets it"))
}

impl FormatSettings {
    /// Returns the names of header fields that requests of this format depend on, lower-case, or
    /// what they begin with and a `*`.
    fn own_headers(&self) -> &'static [&'static str] {
        match self {
            Self::Framed(..) => &[],
            Self::Datadog => &["content-type", "dd-api-key", "dd-application-key"],
            Self::NewRelic { .. } => &["content-type", "api-key", "x-license-key", "x-insert-key"],
            Self::CloudWatch(_) => &["content-type", "authorization", "x-amz-*"],
        }
    }
}

/// The time that the OpenTelemetry Collector retries.
const DEFAULT_GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// Default of what dead letters may take.
const DEAD_LETTER_BYTES: u64 = 16 * 1024 * 1024;

/// Most bytes of a spool.
const MAX_SPOOL_BYTES: u64 = 1 << 44;

fn parse_delivery(
    fields: &DeliveryFields,
    give_up: &GiveUpFields,
    policy: &OutputPolicy,
) -> Result<DeliverySettings, Invalid> {
    let no_folder = |pointer: &str| {
        Invalid::new(
            "no_spool_folder",
            pointer,
            "this gate has no folder for what waits on the disk; start it with `--spool DIR`",
        )
    };
    let seconds = within("give_up_after_s", give_up.give_up_after_s, 1..=604_800)?;
    let spool = match &fields.spool {
        None => None,
        Some(_) if policy.folder.is_none() => return Err(no_folder("/spool")),
        Some(Object(spool)) => Some(SpoolSettings {
            max_bytes: disk_bytes(&spool.max_bytes, "/spool/max_bytes")?,
            when_full: spool.when_full.unwrap_or(WhenFull::Block),
            fsync: spool.fsync.unwrap_or(FsyncPolicy::Interval),
        }),
    };
    let dead_letters = match &fields.dead_letters {
        Some(DeadLetterFields::Wanted(false)) => None,
        None => policy.folder.is_some().then_some(DEAD_LETTER_BYTES),
        Some(_) if policy.folder.is_none() => return Err(no_folder("/dead_letters")),
        Some(DeadLetterFields::Wanted(true)) => Some(DEAD_LETTER_BYTES),
        Some(DeadLetterFields::Kept(Object(kept))) => {
            Some(disk_bytes(&kept.max_bytes, "/dead_letters/max_bytes")?)
        }
    };
    Ok(DeliverySettings {
        spool,
        dead_letters,
        give_up_after: seconds.map_or(DEFAULT_GIVE_UP_AFTER, Duration::from_secs),
    })
}

fn disk_bytes(size: &Size, pointer: &str) -> Result<u64, Invalid> {
    bytes_within(size, pointer, streamgate_spool::MIN_BYTES..=MAX_SPOOL_BYTES)
}

fn bytes_within(
    size: &Size,
    pointer: &str,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, Invalid> {
    let bytes = match size {
        Size::Bytes(bytes) => *bytes,
        Size::Text(text) => units::bytes(text)
            .map_err(|error| Invalid::new("invalid_output", pointer, error))?
            as u64,
    };
    match allowed.contains(&bytes) {
        true => Ok(bytes),
        false => Err(Invalid::new(
            "out_of_range",
            pointer,
            format!(
                "{bytes} bytes are given; expected {} to {}",
                allowed.start(),
                allowed.end()
            ),
        )),
    }
}

fn parse_tcp(fields: TcpFields) -> Result<TcpSettings, Invalid> {
    let TcpFields { address, tls } = fields;
    let tls = tls.map(|Object(tls)| tls);
    check_address(&address)?;
    let host = host_of(&address);
    if let Some(tls) = &tls {
        tls::check(tls)?;
        if rustls::pki_types::ServerName::try_from(host.to_owned()).is_err() {
            return Err(Invalid::new(
                "invalid_address",
                "/address",
                format!("`{host}` is not a name that a certificate can have"),
            ));
        }
    }
    Ok(TcpSettings { address, tls })
}

fn check_address(address: &str) -> Result<(), Invalid> {
    let valid = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if valid && address.len() <= 300 {
        return Ok(());
    }
    let shown = one_line(address, 60);
    Err(Invalid::new(
        "invalid_address",
        "/address",
        format!(
            "`address` is `{shown}`; expected `host:port`, for example `logs.example.com:5140`"
        ),
    ))
}

/// Returns the port of `host:port`.
pub(super) fn port_of(address: &str) -> u16 {
    let port = address.rsplit_once(':').map(|(_, port)| port);
    port.and_then(|port| port.parse().ok()).unwrap_or_default()
}

/// Returns the host of `host:port`, an IPv6 address without its brackets.
pub(super) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn parse_http(
    fields: &HttpFields,
    common: Common,
    policy: &OutputPolicy,
) -> Result<HttpSettings, Invalid> {
    let framing = fields.framing.unwrap_or(Framing::Lines);
    if fields.values.is_some() && framing == Framing::Lines {
        return Err(Invalid::new(
            "invalid_output",
            "/values",
            "`values` is given, but `framing` is `lines`, which sends events as they are; expected \
             `ndjson` or `json_array`, or no `values`",
        ));
    }
    let values = fields.values.unwrap_or(Values::Any);
    let preset = Preset {
        url: parse_url(&fields.url, "/url")?,
        method: fields.method.unwrap_or(Method::Post),
        headers: Vec::new(),
        format: FormatSettings::Framed(framing, values),
        compressions: &[Compression::None, Compression::Gzip, Compression::Zstd],
        max_bytes: 1024 * 1024,
        max_events: None,
    };
    preset.with(common, policy)
}

/// What a type of output says before the settings do.
struct Preset {
    url: reqwest::Url,
    method: Method,
    headers: Vec<(HeaderName, Template)>,
    format: FormatSettings,
    /// What the receiver understands; the first is the default.
    compressions: &'static [Compression],
    max_bytes: usize,
    max_events: Option<usize>,
}

impl Preset {
    fn with(self, common: Common, policy: &OutputPolicy) -> Result<HttpSettings, Invalid> {
        let proxy = proxy::parse(&common.proxy, &policy.secrets)?;
        let common = common.request;
        let tls = common.tls.map(|Object(tls)| tls);
        if let Some(tls) = &tls {
            let proxy = proxy.as_ref().map(|proxy| proxy.url.scheme());
            if self.url.scheme() != "https" && proxy != Some("https") {
                return Err(Invalid::new(
                    "invalid_tls",
                    "/tls",
                    "`tls` is given, but neither the URL nor `proxy` is `https://`; expected \
                     `https://`, or no `tls`",
                ));
            }
            tls::check(tls)?;
        }
        let compression = common.compression.unwrap_or(self.compressions[0]);
        if !self.compressions.contains(&compression) {
            return Err(Invalid::new(
                "invalid_compression",
                "/compression",
                format!(
                    "this receiver does not understand {compression:?}; expected one of {:?}",
                    self.compressions
                )
                .to_lowercase(),
            ));
        }
        let mut headers = self.headers;
        let of_format = self.format.own_headers();
        let mut given = common.headers.unwrap_or_default();
        // A config from before they were refused keeps running, without them.
        given.retain(|name, _| {
            let owner = owner_of(name, of_format);
            if let Some(owner) = owner {
                let name = one_line(name, MOST_CHARS);
                warn!(
                    header = name,
                    "a header of an output is ignored: {owner}; remove it"
                );
            }
            owner.is_none()
        });
        headers.extend(parse_headers(given, &policy.secrets)?);
        let max_bytes = within("max_batch_bytes", common.max_batch_bytes, 1024..=(64 << 20))?;
        let max_events = within("max_batch_events", common.max_batch_events, 1..=10_000)?;
        let timeout = within("timeout_ms", common.timeout_ms, 1..=300_000)?;
        let linger = within("linger_ms", common.linger_ms, 0..=60_000)?;
        Ok(HttpSettings {
            url: self.url,
            method: self.method,
            headers,
            format: self.format,
            compression,
            timeout: Duration::from_millis(timeout.unwrap_or(30_000)),
            batching: Batching {
                max_bytes: max_bytes.unwrap_or(self.max_bytes),
                max_events: max_events.or(self.max_events),
                linger: Duration::from_millis(linger.unwrap_or(0)),
            },
            max_in_flight: within("max_in_flight", common.max_in_flight, 1..=64)?.unwrap_or(1),
            tls,
            proxy: proxy.map(Box::new),
        })
    }
}

/// Reads a URL of a receiver.
pub(super) fn parse_url(given: &str, pointer: &str) -> Result<reqwest::Url, Invalid> {
    let shown = one_line(given, 100);
    let invalid = |cause: &str| {
        Invalid::new(
            "invalid_url",
            pointer,
            format!("`{shown}`: {cause}; expected `http://host/path` or `https://...`"),
        )
    };
    let url = reqwest::Url::parse(given).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Invalid::new(
            "credentials_in_url",
            pointer,
            "the url holds a user name or password, which would be shown wherever the url is; \
             send them in `headers`",
        ));
    }
    Ok(url)
}

fn header_pointer(name: &str) -> String {
    format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn parse_headers(
    given: BTreeMap<String, String>,
    sources: &SecretSources,
) -> Result<Vec<(HeaderName, Template)>, Invalid> {
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
    let mut headers = Vec::new();
    for (name, value) in given {
        let pointer = header_pointer(&name);
        let invalid = |what| {
            Invalid::new(
                "invalid_header",
                pointer.clone(),
                format!("`{}`: {what}", one_line(&name, MOST_CHARS)),
            )
        };
        let header = HeaderName::try_from(&name)
            .map_err(|_| invalid("a header name has only letters, digits and `-`"))?;
        let template = Template::parse(&value, &pointer, sources)?;
        let visible = |text: &str| reqwest::header::HeaderValue::try_from(text).is_ok();
        if !visible(&value) || !template.fill().is_ok_and(|value| visible(&value)) {
            return Err(invalid(
                "a header value has only visible characters and spaces",
            ));
        }
        headers.push((header, template));
    }
    Ok(headers)
}

/// Checks a number; its pointer is its name.
pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    allowed: std::ops::RangeInclusive<T>,
) -> Result<Option<T>, Invalid> {
    match value {
        Some(value) if !allowed.contains(&value) => Err(Invalid::new(
            "out_of_range",
            format!("/{name}"),
            format!(
                "`{name}` is {value}; expected {} to {}",
                allowed.start(),
                allowed.end()
            ),
        )),
        value => Ok(value),
    }
}
