//! Events in the bodies of requests.
//!
//! What a body holds and what an answer means is said by a [`Format`]; here are connections,
//! compression and size. Redirects are not followed, a proxy is used only if the settings name one
//! (`HTTP_PROXY` and the like are ignored), and no more than [`MAX_ANSWER_BYTES`] of an answer are
//! read.
//!
//! Sent with each request, besides the headers of the settings:
//!
//! | header | means |
//! | --- | --- |
//! | `x-streamgate-batch` | 32 hexadecimal digits, the same when the same body is sent again |
//! | `x-streamgate-revision` | the revision whose rules the events passed |
//! | `x-streamgate-bypassed` | `true` if a rule let some of them pass untouched |

use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{
    Client, Proxy, Response, StatusCode, Url,
    dns::{Name, Resolve, Resolving},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use rustls::ClientConfig;
use tokio::task::{block_in_place, spawn_blocking};

use super::{
    MOST_ERROR_CHARS,
    destination::OutputPolicy,
    exchange::{Answer, First, Format, Outcome, Payload, said},
    format::{Json, Lines, cloudwatch::CloudWatch, datadog::Datadog, newrelic::NewRelic},
    pace::Cause,
    queue::{Group, Origin},
    runner::Attempt,
    secret::{self, Secret},
    settings::{Compression, FormatSettings, Framing, HttpSettings, Method, ProxySettings, Values},
    shown::one_line,
    tls,
};

/// Most bytes of an answer that are read; reading it lets the connection be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How long a connection, with its TLS, may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After so much silence the kernel asks whether the receiver is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection that was not used for so long is closed; the name is looked up for the next one.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// On real logs (loghub's Android, Hadoop, OpenSSH, Zookeeper) as small as level 3, zstd's default,
/// at up to twice the speed.
const ZSTD_LEVEL: i32 = 1;

/// So many bytes of events are written into a body on a thread that serves sockets.
const INLINE_ENCODE_BYTES: usize = 256 * 1024;

/// Keys that requests are signed with are read again so long after: those of AWS are replaced
/// before they expire.
const KEYS_READ_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// After so many requests in a row that a receiver took, the size is tried again that it refused.
const TRY_LARGER_AFTER: u32 = 100;

const BATCH: HeaderName = HeaderName::from_static("x-streamgate-batch");
const REVISION: HeaderName = HeaderName::from_static("x-streamgate-revision");
const BYPASSED: HeaderName = HeaderName::from_static("x-streamgate-bypassed");

/// Makes the clients of an output. They differ only in the credentials that they send to its proxy.
#[derive(Debug)]
pub(super) struct Clients {
    tls: ClientConfig,
    settings: Arc<HttpSettings>,
    policy: OutputPolicy,
    /// The newest client, which lanes share, and its credentials.
    newest: Mutex<(Option<HeaderValue>, Client)>,
}

/// Sends requests to one URL, one at a time.
#[derive(Debug)]
pub(super) struct HttpRequests {
    clients: Arc<Clients>,
    client: Client,
    settings: Arc<HttpSettings>,
    format: Box<dyn Format>,
    /// Read when needed.
    secrets: Option<Secrets>,
    /// The request of the last attempt, if it failed and may be sent again.
    prepared: Option<Prepared>,
    /// What the receiver takes, once it has refused a body as too large.
    most_events: usize,
    taken_in_a_row: u32,
}

/// What was read from where the settings say that secrets are.
struct Secrets {
    /// The headers of the settings with their secrets.
    headers: HeaderMap,
    /// The value of `Proxy-Authorization`, which is sent to the proxy.
    proxy: Option<HeaderValue>,
    /// Those that requests are signed with.
    keys: Vec<String>,
    read_at: Instant,
    generation: u64,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

#[derive(Debug)]
struct Prepared {
    group: u64,
    done: usize,
    /// Bytes of the group that it stands for.
    bytes: usize,
    /// Without its body, which is below.
    payload: Payload,
    /// As it travels; none if all events were set aside.
    body: Option<Bytes>,
    id: String,
}

impl Clients {
    /// Makes what all requests of an output share. Blocks on the files of its TLS settings.
    pub(super) fn new(settings: HttpSettings, policy: &OutputPolicy) -> Result<Self, String> {
        let tls = tls::client_config(settings.tls.as_ref()).map_err(|(_, error)| error)?;
        let client = client(tls.clone(), &settings, policy, None)?;
        Ok(Self {
            tls,
            settings: Arc::new(settings),
            policy: policy.clone(),
            newest: Mutex::new((None, client)),
        })
    }

    /// Returns a client that sends these credentials to the proxy.
    fn with(&self, authorization: Option<&HeaderValue>) -> Result<Client, String> {
        let mut newest = self.newest.lock();
        if newest.0.as_ref() != authorization {
            let tls = self.tls.clone();
            let client = client(tls, &self.settings, &self.policy, authorization)?;
            *newest = (authorization.cloned(), client);
        }
        Ok(newest.1.clone())
    }
}

fn client(
    tls: ClientConfig,
    settings: &HttpSettings,
    policy: &OutputPolicy,
    authorization: Option<&HeaderValue>,
) -> Result<Client, String> {
    // The host of this URL is the one that is connected to.
    let mut connected_to = &settings.url;
    let mut builder = Client::builder().no_proxy();
    if let Some(through) = &settings.proxy {
        connected_to = &through.url;
        let mut proxy = Proxy::all(through.url.clone()).map_err(|error| describe(&error))?;
        if let Some(authorization) = authorization {
            proxy = proxy.custom_http_auth(authorization.clone());
        }
        builder = builder.proxy(proxy);
    }
    builder
        .tls_backend_preconfigured(tls)
        .timeout(settings.timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
        .tcp_keepalive(KEEPALIVE)
        .pool_idle_timeout(IDLE_CONNECTION)
        .pool_max_idle_per_host(settings.max_in_flight)
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(AllowedAddresses {
            policy: policy.clone(),
            port: connected_to.port_or_known_default().unwrap_or_default(),
        })
        .user_agent(concat!("streamgate/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| describe(&error))
}

impl HttpRequests {
    pub(super) fn new(clients: Arc<Clients>) -> Self {
        let settings = Arc::clone(&clients.settings);
        let max_bytes = settings.batching.max_bytes;
        let format: Box<dyn Format> = match &settings.format {
            FormatSettings::Framed(Framing::Lines, _) => Box::new(Lines { max_bytes }),
            FormatSettings::Framed(framing, values) => Box::new(Json {
                max_bytes,
                array: *framing == Framing::JsonArray,
                objects: *values == Values::Objects,
            }),
            FormatSettings::Datadog => Box::new(Datadog { max_bytes }),
            FormatSettings::NewRelic { common } => Box::new(NewRelic {
                max_bytes,
                common: common.clone(),
            }),
            FormatSettings::CloudWatch(settings) => Box::new(CloudWatch {
                settings: (**settings).clone(),
            }),
        };
        let client = clients.newest.lock().1.clone();
        Self {
            clients,
            client,
            settings,
            format,
            secrets: None,
            prepared: None,
            most_events: usize::MAX,
            taken_in_a_row: 0,
        }
    }

    /// Makes one attempt at what follows the first `done` bytes of the group.
    pub(super) async fn send(&mut self, group: &Group, done: usize, batch_size: usize) -> Attempt {
        let mut asked_first = false;
        loop {
            let prepared = match self.prepare(group, done, batch_size).await {
                Ok(prepared) => prepared,
                Err(error) => return failed(error, Cause::Denied, None),
            };
            let outcome = match self.exchange(&prepared, group.origin()).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.prepared = Some(prepared);
                    return failed(error, Cause::Unreachable, None);
                }
            };
            let Prepared { bytes, payload, .. } = &prepared;
            match outcome {
                Outcome::Sent => {
                    self.was_taken();
                    return match payload.set_aside.is_empty() {
                        true => Attempt::Sent { bytes: *bytes },
                        false => Attempt::Partly {
                            bytes: *bytes,
                            rejected: prepared.payload.set_aside,
                            retry: Vec::new(),
                        },
                    };
                }
                Outcome::Partly { rejected, retry } => {
                    let mut rejected = rejected;
                    rejected.extend(prepared.payload.set_aside);
                    rejected.sort_unstable_by_key(|refused| refused.index);
                    return Attempt::Partly {
                        bytes: prepared.bytes,
                        rejected,
                        retry,
                    };
                }
                Outcome::Retry { after, error } => {
                    self.prepared = Some(prepared);
                    return failed(error, Cause::Answered, after);
                }
                Outcome::First { requests, .. } if !asked_first => {
                    asked_first = true;
                    self.prepared = Some(prepared);
                    for request in requests {
                        match self.ask_first(request).await {
                            Ok(()) => {}
                            Err((error, cause)) => {
                                if cause == Cause::Denied {
                                    self.secrets = None;
                                }
                                return failed(error, cause, None);
                            }
                        }
                    }
                }
                Outcome::Denied { error } | Outcome::First { error, .. } => {
                    self.secrets = None;
                    self.prepared = Some(prepared);
                    return failed(error, Cause::Denied, None);
                }
                Outcome::Split { .. } if payload.consumed > 1 => {
                    self.most_events = payload.consumed.div_ceil(2);
                    self.taken_in_a_row = 0;
                }
                Outcome::Split { error } | Outcome::Rejected { error } => {
                    return Attempt::Rejected {
                        bytes: *bytes,
                        error,
                    };
                }
            }
        }
    }

    /// Forgets a request that will not be sent again.
    pub(super) fn forget(&mut self) {
        self.prepared = None;
    }

    fn was_taken(&mut self) {
        self.taken_in_a_row += 1;
        if self.taken_in_a_row >= TRY_LARGER_AFTER {
            self.taken_in_a_row = 0;
            self.most_events = self.most_events.saturating_mul(2);
        }
    }

    /// Reads the secrets, if that was not done since the receiver refused them, or if keys that
    /// requests are signed with may have been replaced. Files are read on a thread where that may
    /// block: only this lane waits for them.
    async fn read_secrets(&mut self) -> Result<(), String> {
        let keys = self.format.secrets();
        if let Some(secrets) = &self.secrets
            && (keys.is_empty() || secrets.read_at.elapsed() < KEYS_READ_AGAIN_AFTER)
            && secrets.generation == secret::generation()
        {
            return Ok(());
        }
        let settings = Arc::clone(&self.settings);
        let generation = secret::generation();
        let read = move || {
            let keys = keys.iter().map(Secret::read);
            Ok(Secrets {
                headers: filled(&settings)?,
                proxy: proxy_authorization(&settings)?,
                keys: keys.collect::<Result<_, String>>()?,
                read_at: Instant::now(),
                generation,
            })
        };
        let settings = &self.settings;
        let in_headers = settings.headers.iter().any(|(_, value)| value.is_secret());
        let may_block = in_headers
            || !self.format.secrets().is_empty()
            || settings
                .proxy
                .as_ref()
                .is_some_and(|proxy| proxy.authorization.is_some());
        let read = match may_block {
            false => read(),
            true => spawn_blocking(read)
                .await
                .unwrap_or_else(|error| Err(error.to_string())),
        };
        match (read, &mut self.secrets) {
            (Ok(secrets), known) => {
                self.client = self.clients.with(secrets.proxy.as_ref())?;
                *known = Some(secrets);
            }
            // Those that were read before serve until the receiver refuses them.
            (Err(_), Some(known)) => {
                (known.read_at, known.generation) = (Instant::now(), generation);
            }
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }

    /// Writes the next body, or takes the one that failed before.
    async fn prepare(
        &mut self,
        group: &Group,
        done: usize,
        batch_size: usize,
    ) -> Result<Prepared, String> {
        self.read_secrets().await?;
        if let Some(prepared) = self.prepared.take()
            && (prepared.group, prepared.done) == (group.serial(), done)
        {
            return Ok(prepared);
        }
        let most = self.settings.batching.max_events.unwrap_or(batch_size);
        let most = most.min(self.most_events).max(1);
        let format = &mut self.format;
        let mut encode = || format.encode(&mut group.events_behind(done), most);
        let mut payload = match group.bytes() - done > INLINE_ENCODE_BYTES {
            true => block_in_place(&mut encode),
            false => encode(),
        };
        let bytes = bytes_of(group, done, payload.consumed);
        let body = match std::mem::take(&mut payload.body) {
            body if body.is_empty() => None,
            body => Some(compressed(body, self.settings.compression).await?),
        };
        let id = format!("{:032x}", fastrand::u128(..));
        Ok(Prepared {
            group: group.serial(),
            done,
            bytes,
            payload,
            body,
            id,
        })
    }

    /// Sends a request and reads the answer.
    async fn exchange(&mut self, prepared: &Prepared, origin: Origin) -> Result<Outcome, String> {
        let Some(body) = &prepared.body else {
            return Ok(Outcome::Sent);
        };
        let mut headers = HeaderMap::new();
        match self.settings.compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        }
        .map(|name| headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name)));
        let batch = HeaderValue::try_from(&prepared.id);
        headers.insert(BATCH, batch.expect("it is hexadecimal"));
        if origin.revision > 0 {
            headers.insert(REVISION, HeaderValue::from(origin.revision));
        }
        if origin.bypassed {
            headers.insert(BYPASSED, HeaderValue::from_static("true"));
        }
        let (status, headers, body) = match self.request(headers, body.clone()).await {
            Ok(answer) => answer,
            Err((error, Cause::Denied)) => return Ok(Outcome::Denied { error }),
            Err((error, _)) => return Err(error),
        };
        let answer = Answer {
            status,
            headers: &headers,
            body: &body,
        };
        Ok(self.format.outcome(&answer, &prepared.payload))
    }

    /// Makes a request that events have to wait for.
    async fn ask_first(&mut self, first: First) -> Result<(), (String, Cause)> {
        let headers = HeaderMap::from_iter(first.headers);
        let (status, headers, body) = self.request(headers, first.body.into()).await?;
        let answer = Answer {
            status,
            headers: &headers,
            body: &body,
        };
        let is_fine = status.is_success()
            || memchr::memmem::find(&body, first.tolerated.as_bytes()).is_some();
        match is_fine {
            true => Ok(()),
            false => Err((said(&answer), Cause::Denied)),
        }
    }

    /// Sends a request with the headers of the settings and these, and reads the answer.
    async fn request(
        &mut self,
        more: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), (String, Cause)> {
        let settings = &self.settings;
        let proxy = settings.proxy.as_ref();
        for url in std::iter::once(&settings.url).chain(proxy.map(|proxy| &proxy.url)) {
            if let Some(reason) = refusal_of_address(url, &self.clients.policy) {
                return Err((reason, Cause::Unreachable));
            }
        }
        let known = self.secrets.as_ref();
        let (mut headers, keys) = known.map_or_else(Default::default, |secrets| {
            (secrets.headers.clone(), &secrets.keys[..])
        });
        headers
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static(self.format.content_type()));
        headers.extend(more);
        let now = SystemTime::now();
        self.format
            .sign(keys, &settings.url, &mut headers, &body, now)
            .map_err(|error| (error, Cause::Denied))?;
        let method = match settings.method {
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
        };
        let request = self
            .client
            .request(method, settings.url.clone())
            .headers(headers)
            .body(body);
        let response = request.send().await.map_err(|error| match proxy {
            None => (describe(&error), Cause::Unreachable),
            Some(proxy) => describe_through(proxy, &error),
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        // In a tunnel, a 407 is the answer of the receiver.
        if let Some(proxy) = proxy
            && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED
            && settings.url.scheme() == "http"
        {
            return Err((denied_by(proxy), Cause::Denied));
        }
        let body = read_answer(response).await;
        Ok((status, headers, body))
    }
}

fn failed(error: String, cause: Cause, retry_after: Option<Duration>) -> Attempt {
    Attempt::Failed {
        bytes: 0,
        error,
        cause,
        retry_after,
    }
}

/// Puts the secrets into the headers of the settings.
fn filled(settings: &HttpSettings) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, template) in &settings.headers {
        let mut value = HeaderValue::try_from(template.fill()?)
            .map_err(|_| format!("the header `{name}` has characters that no header may have"))?;
        value.set_sensitive(template.is_secret());
        headers.insert(name.clone(), value);
    }
    Ok(headers)
}

/// Puts the secrets into the value of `Proxy-Authorization`.
fn proxy_authorization(settings: &HttpSettings) -> Result<Option<HeaderValue>, String> {
    let proxy = settings.proxy.as_ref();
    let Some(template) = proxy.and_then(|proxy| proxy.authorization.as_ref()) else {
        return Ok(None);
    };
    let mut value = HeaderValue::try_from(template.fill()?).map_err(|_| {
        "`proxy_authorization` has characters that the value of a header cannot have".to_owned()
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Returns the bytes of the first events behind `done`.
fn bytes_of(group: &Group, done: usize, events: usize) -> usize {
    group
        .events_behind(done)
        .take(events)
        .map(|event| event.line.len() + 1)
        .sum()
}

async fn compressed(body: Vec<u8>, compression: Compression) -> Result<Bytes, String> {
    let compress = move || match compression {
        Compression::None => Ok(body),
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&body).and_then(|()| encoder.finish())
        }
        Compression::Zstd => zstd::bulk::compress(&body, ZSTD_LEVEL),
    };
    let compressed = match compression {
        Compression::None => compress(),
        _ => spawn_blocking(compress)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error))),
    };
    compressed
        .map(Bytes::from)
        .map_err(|error| format!("cannot compress: {error}"))
}

async fn read_answer(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_ANSWER_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    body
}

/// Looks names up as the system does, and leaves out addresses that must not be sent to.
#[derive(Debug)]
struct AllowedAddresses {
    policy: OutputPolicy,
    /// Of all requests; a resolver is not told.
    port: u16,
}

impl Resolve for AllowedAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, port) = (self.policy.clone(), self.port);
        Box::pin(async move {
            let found = allowed_addresses(name.as_str(), port, &policy).await?;
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// Looks a name up; an error if all of its addresses must not be sent to.
pub(super) async fn allowed_addresses(
    host: &str,
    port: u16,
    policy: &OutputPolicy,
) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut refusal = None;
    let mut allowed = Vec::new();
    for address in found {
        match policy.refusal(host, address) {
            None => allowed.push(address),
            Some(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    match (allowed.is_empty(), refusal) {
        (true, Some(reason)) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
        _ => Ok(allowed),
    }
}

/// Says why nothing may be sent to the host of a URL if that is an address: those are not looked
/// up.
fn refusal_of_address(url: &Url, policy: &OutputPolicy) -> Option<String> {
    let host = url
        .host_str()?
        .trim_start_matches('[')
        .trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or_default();
    policy.refusal(host, SocketAddr::new(host.parse().ok()?, port))
}

/// The whole chain of causes on one line; the URL is left out, it may hold a token.
fn describe(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_timeout() => "the request timed out".to_owned(),
        () if error.is_connect() => "cannot connect".to_owned(),
        () => "the request failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    // What a receiver calls itself in its certificate may be in it.
    one_line(&text, MOST_ERROR_CHARS)
}

/// Errors of hyper-util 0.1.21 about a tunnel that was not opened, and what they mean.
const TUNNEL_ERRORS: [(&str, &str); 3] = [
    (
        "tunnel error: unsuccessful",
        "the proxy made no connection to the receiver: it answered `CONNECT` with another status \
         than 200, or not with HTTP",
    ),
    (
        "tunnel error: unexpected end of file",
        "the proxy closed the connection without an answer",
    ),
    (
        "tunnel error: failed to create underlying connection",
        "the proxy cannot be reached",
    ),
];

/// What it says when the proxy answered 407.
const TUNNEL_DENIED: &str = "tunnel error: proxy authorization required";

/// Says why a request through a proxy failed.
fn describe_through(proxy: &ProxySettings, error: &reqwest::Error) -> (String, Cause) {
    let causes = || std::iter::successors(std::error::Error::source(error), |it| it.source());
    if causes().any(|cause| cause.to_string() == TUNNEL_DENIED) {
        return (denied_by(proxy), Cause::Denied);
    }
    let mut text = describe(error);
    for (said, meant) in TUNNEL_ERRORS {
        text = text.replace(said, meant);
    }
    let url = proxy.url.origin().ascii_serialization();
    (
        format!("through the proxy `{url}`: {text}"),
        Cause::Unreachable,
    )
}

/// Says that a proxy answered 407.
fn denied_by(proxy: &ProxySettings) -> String {
    let url = proxy.url.origin().ascii_serialization();
    let remedy = match proxy.authorization {
        Some(_) => "does not accept the credentials in `proxy_authorization`; correct them",
        None => {
            "expects credentials; set `proxy_authorization`, for example to \
             `Basic ${env:STREAMGATE_SECRET_PROXY}`"
        }
    };
    format!("the proxy `{url}` answered 407: it {remedy}")
}
