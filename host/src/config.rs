//! The settings of the process: what it listens on, where its store is, how much it may take.
//!
//! A flag wins over its environment variable, the environment over the file given by `--config`,
//! the file over the default. Values are parsed here once; a [`Config`] cannot be wrong in itself.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    access::{AccessSettings, BootstrapToken},
    config_store::{
        RedisSettings, StoreError, StoreLocation,
        redis::{self, KeyFileError, SigningKey, TrustedKeys},
    },
    handshake::TlsFiles,
    ingest::{Limits, framing::MIN_EVENT_BYTES, udp::MAX_DATAGRAM_BYTES},
    memory::{BlockSize, MIN_BUDGET_BYTES},
    nearest::with_suggestion,
    outputs::{OutputPolicy, SecretSources},
    wasm::CompileLimits,
};

pub mod units;

/// Every setting as it is written: in flags, in the environment, or in the file.
#[derive(Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen for lines over TCP; port 0 takes a free one, `off` does not listen
    /// [default: port 8081 of all addresses]
    #[arg(long, env = "STREAMGATE_TCP", value_name = "HOST:PORT")]
    pub tcp: Option<String>,
    /// Where to listen for lines over UDP [default: port 8082 of all addresses]
    #[arg(long, env = "STREAMGATE_UDP", value_name = "HOST:PORT")]
    pub udp: Option<String>,
    /// Where to listen for `POST /ingest` [default: port 8080 of all addresses]
    #[arg(long, env = "STREAMGATE_HTTP", value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Where the control API listens [default: 127.0.0.1:8000]
    #[arg(long, env = "STREAMGATE_CONTROL", value_name = "HOST:PORT")]
    pub control: Option<String>,
    /// TLS for lines over TCP: the certificate (PEM) to show and its key; with `client-ca`, senders
    /// must show a certificate that it signed
    #[arg(
        long,
        env = "STREAMGATE_TCP_TLS",
        value_name = "cert=FILE,key=FILE[,client-ca=FILE]"
    )]
    pub tcp_tls: Option<String>,
    /// The same for `POST /ingest`
    #[arg(
        long,
        env = "STREAMGATE_HTTP_TLS",
        value_name = "cert=FILE,key=FILE[,client-ca=FILE]"
    )]
    pub http_tls: Option<String>,
    /// The same for the control API
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_TLS",
        value_name = "cert=FILE,key=FILE[,client-ca=FILE]"
    )]
    pub control_tls: Option<String>,
    /// Listeners behind a load balancer that sends a PROXY header (version 1 or 2): `tcp`, `http`
    #[arg(
        long,
        env = "STREAMGATE_PROXY_PROTOCOL",
        value_name = "LISTENER",
        value_delimiter = ','
    )]
    pub proxy_protocol: Vec<String>,
    /// Take `POST /ingest` only with a token of the role `sender`
    #[arg(long, env = "STREAMGATE_HTTP_TOKENS")]
    pub http_tokens: bool,
    /// Let everybody who reaches the control API use it without a token
    #[arg(long, env = "STREAMGATE_INSECURE_CONTROL")]
    pub insecure_control: bool,
    /// A name by which the control API is asked, beside addresses and `localhost`; may be repeated
    #[arg(
        long,
        env = "STREAMGATE_CONTROL_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub control_host: Vec<String>,
    /// A token for the control API with all rights, for automation: `file:PATH` or `env:NAME`
    #[arg(long, env = "STREAMGATE_BOOTSTRAP_TOKEN", value_name = "REFERENCE")]
    pub bootstrap_token: Option<String>,
    /// Where rules, outputs and revisions are kept: a directory, `memory:`, or a Redis that gates
    /// share, `redis://[user:password@]host[:port][/db]` [default: ./streamgate-data]
    #[arg(long, env = "STREAMGATE_STORE", value_name = "DIR|URL")]
    pub store: Option<String>,
    /// With a Redis: where the last good config is kept, to start from when Redis is away; `off`
    /// keeps none [default: ./streamgate-cache]
    #[arg(long, env = "STREAMGATE_CACHE", value_name = "DIR")]
    pub cache: Option<String>,
    /// With `rediss://`: the certificate (PEM) of the CA [default: the system's]
    #[arg(long, env = "STREAMGATE_STORE_CA", value_name = "FILE")]
    pub store_ca: Option<PathBuf>,
    /// With `rediss://`: the certificate (PEM) that this gate shows
    #[arg(long, env = "STREAMGATE_STORE_CERT", value_name = "FILE")]
    pub store_cert: Option<PathBuf>,
    /// With `rediss://`: the key (PEM) of that certificate
    #[arg(long, env = "STREAMGATE_STORE_KEY", value_name = "FILE")]
    pub store_key: Option<PathBuf>,
    /// With a Redis: take only config that these public keys (PEM, Ed25519) signed
    #[arg(long, env = "STREAMGATE_TRUSTED_KEYS", value_name = "FILE")]
    pub trusted_keys: Option<PathBuf>,
    /// With a Redis: sign what is published here with this private key (PEM, Ed25519)
    #[arg(long, env = "STREAMGATE_SIGNING_KEY", value_name = "FILE")]
    pub signing_key: Option<PathBuf>,
    /// A manifest (YAML or JSON) to begin with if the store has none
    #[arg(long, env = "STREAMGATE_MANIFEST", value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// A file (TOML) with these settings, named as the flags with `_` for `-`
    #[arg(long, env = "STREAMGATE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The memory that events may take, from the socket to the last output [default: 256MiB]
    #[arg(long, env = "STREAMGATE_MEMORY_BUDGET", value_name = "SIZE")]
    pub memory_budget: Option<String>,
    /// Threads that run the rules [default: half of the processors, at least 1]
    #[arg(long, env = "STREAMGATE_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// The longest event; a longer one is cut and marked when the rules have seen it [default:
    /// 256KiB]
    #[arg(long, env = "STREAMGATE_MAX_EVENT", value_name = "SIZE")]
    pub max_event: Option<String>,
    /// The longest datagram; of a longer one the rest is lost [default: 65535]
    #[arg(long, env = "STREAMGATE_MAX_DATAGRAM", value_name = "SIZE")]
    pub max_datagram: Option<String>,
    /// Sockets that share the UDP port, each with a thread [default: half of the processors, 1 to
    /// 8]
    #[arg(long, env = "STREAMGATE_UDP_SOCKETS", value_name = "N")]
    pub udp_sockets: Option<usize>,
    /// The longest body of a `POST /ingest`, after decompression [default: 16MiB]
    #[arg(long, env = "STREAMGATE_MAX_BODY", value_name = "SIZE")]
    pub max_body: Option<String>,
    /// The most TCP connections at a time [default: 10000]
    #[arg(long, env = "STREAMGATE_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// How long compiling a WASM module may take, in processor time [default: 60s]
    #[arg(long, env = "STREAMGATE_COMPILE_TIME", value_name = "TIME")]
    pub compile_time: Option<String>,
    /// The memory that compiling a WASM module may take [default: 1GiB]
    #[arg(long, env = "STREAMGATE_COMPILE_MEMORY", value_name = "SIZE")]
    pub compile_memory: Option<String>,
    /// How long the end may take: what was accepted is sent within it [default: 10s]
    #[arg(long, env = "STREAMGATE_GRACE_PERIOD", value_name = "TIME")]
    pub grace_period: Option<String>,
    /// Where outputs keep their spools and dead letters; `off` keeps none [default: `outputs` in
    /// the directory of the store, or of the cache]
    #[arg(long, env = "STREAMGATE_SPOOL", value_name = "DIR")]
    pub spool: Option<String>,
    /// The folder below which outputs of type `file` write; `off` lets none [default: `files` in
    /// the directory of the store, or of the cache]
    #[arg(long, env = "STREAMGATE_FILES", value_name = "DIR")]
    pub files: Option<String>,
    /// Answer `POST /ingest` only when every output has the events delivered or on its disk
    #[arg(long, env = "STREAMGATE_DURABLE")]
    pub durable: bool,
    /// With a Redis: take events without rules while the config is not known, as Redis cannot be
    /// read and there is no last good config
    #[arg(long, env = "STREAMGATE_START_EMPTY")]
    pub start_empty: bool,
    /// Let outputs send to link-local and metadata addresses, where clouds keep the credentials of the
    /// machine
    #[arg(long, env = "STREAMGATE_ALLOW_LINK_LOCAL")]
    pub allow_link_local: bool,
    /// A variable of the environment that outputs may refer to as a secret, or `PREFIX*` for all that
    /// begin so; may be repeated. Names that vendors use and `STREAMGATE_SECRET_*` always are
    #[arg(
        long,
        env = "STREAMGATE_SECRET_ENV",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub secret_env: Vec<String>,
    /// A folder whose files outputs may refer to as secrets; may be repeated. `/run/secrets` always is
    #[arg(
        long,
        env = "STREAMGATE_SECRET_FILES",
        value_name = "DIR",
        value_delimiter = ','
    )]
    pub secret_files: Vec<PathBuf>,
    /// The name of this gate [default: its host name]
    #[arg(long, env = "STREAMGATE_NODE", value_name = "NAME")]
    pub node: Option<String>,
}

/// The settings of the process, checked.
#[derive(Debug)]
pub struct Config {
    /// Lines over TCP.
    pub tcp: Listen,
    /// Lines over UDP.
    pub udp: Listen,
    /// `POST /ingest`.
    pub http: Listen,
    /// The control API.
    pub control: Listen,
    /// The TLS of each listener that has it.
    pub tls: ListenerTls,
    /// The listeners that get a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Whether `POST /ingest` needs a token.
    pub http_tokens: bool,
    /// Who may use the control API.
    pub access: AccessSettings,
    /// Names by which the control API is asked, beside addresses and `localhost`.
    pub control_hosts: Vec<String>,
    /// Where rules, outputs and revisions are kept.
    pub store: StoreLocation,
    /// What a store in Redis is opened with.
    pub redis: RedisFiles,
    /// A manifest to begin with if the store has none.
    pub manifest: Option<PathBuf>,
    /// The memory that events may take, in bytes.
    pub memory_budget_bytes: usize,
    /// Sockets that share the UDP port.
    pub udp_sockets: usize,
    /// Threads that run the rules.
    pub workers: usize,
    /// Bounds of what is taken in.
    pub limits: Limits,
    /// What compiling a WASM module may cost.
    pub compile: CompileLimits,
    /// What outputs may do, and where they keep files.
    pub outputs: OutputPolicy,
    /// Whether `POST /ingest` is answered only when events are safe.
    pub durable: bool,
    /// Whether events are taken without rules while the config is not known.
    pub start_empty: bool,
    /// How long the end may take.
    pub grace_period: Duration,
    /// The name of this gate.
    pub node: String,
}

/// The files of a store in Redis.
#[derive(Debug, Clone, Default)]
pub struct RedisFiles {
    /// Where the last good config is kept.
    pub cache: Option<PathBuf>,
    /// Certificates for `rediss://`.
    pub tls: redis::TlsFiles,
    /// The public keys that config must be signed by.
    pub trusted_keys: Option<PathBuf>,
    /// The private key that signs.
    pub signing_key: Option<PathBuf>,
}

impl RedisFiles {
    /// Reads the keys: what a store in Redis is opened with.
    ///
    /// # Errors
    /// A key cannot be read.
    pub fn settings(&self) -> Result<RedisSettings, StoreError> {
        let unusable = |error: KeyFileError| StoreError::RedisSettings {
            message: error.to_string(),
        };
        let signing = self.signing_key.as_deref().map(SigningKey::read);
        let trusted = self.trusted_keys.as_deref().map(TrustedKeys::read);
        Ok(RedisSettings {
            tls: self.tls.clone(),
            signing: signing.transpose().map_err(unusable)?,
            trusted: trusted.transpose().map_err(unusable)?,
            cache: self.cache.clone(),
        })
    }
}

/// The TLS of each listener that has it.
#[derive(Debug, Clone, Default)]
pub struct ListenerTls {
    /// Lines over TCP.
    pub tcp: Option<TlsFiles>,
    /// `POST /ingest`.
    pub http: Option<TlsFiles>,
    /// The control API.
    pub control: Option<TlsFiles>,
}

/// The listeners that get a PROXY header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Lines over TCP.
    pub tcp: bool,
    /// `POST /ingest`.
    pub http: bool,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
    /// At this port of all addresses, IPv6 too where there is any. The default: `localhost` may
    /// mean either, and a datagram to the one that nobody listens on is lost without a word.
    Everywhere(u16),
}

impl Listen {
    /// Whether other hosts may reach it.
    fn is_exposed(&self) -> bool {
        match self {
            Self::Off => false,
            Self::At(address) => !address.ip().to_canonical().is_loopback(),
            Self::Everywhere(_) => true,
        }
    }
}

/// A setting that cannot be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file given by `--config` cannot be read.
    #[error("cannot read the config file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file given by `--config` is no TOML, or has a setting that there is not.
    #[error("the config file {} is not valid: {message}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        message: String,
    },
    /// A value cannot be right.
    #[error("`{setting}`: {message}")]
    InvalidValue {
        /// The setting's name in the file; the flag's has `-` for `_`.
        setting: &'static str,
        /// What was found and what was expected.
        message: String,
    },
}

/// The seed's variables, which work too: `TCP_PORT`, `UDP_PORT`, `REDIS_HOST` and `REDIS_PORT`.
#[derive(Debug, Default)]
pub struct SeedEnvironment {
    /// `TCP_PORT`
    pub tcp_port: Option<String>,
    /// `UDP_PORT`
    pub udp_port: Option<String>,
    /// `REDIS_HOST`: selects a store in Redis.
    pub redis_host: Option<String>,
    /// `REDIS_PORT`
    pub redis_port: Option<String>,
}

impl SeedEnvironment {
    /// Reads the environment of the process.
    pub fn read() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        // Kubernetes sets `REDIS_PORT=tcp://...` for a Service that is called `redis`.
        let port = |name| variable(name).filter(|value| !value.contains("://"));
        Self {
            tcp_port: port("TCP_PORT"),
            udp_port: port("UDP_PORT"),
            redis_host: variable("REDIS_HOST"),
            redis_port: port("REDIS_PORT"),
        }
    }
}

impl Config {
    /// Returns where compiled modules are kept, if this gate has a directory of its own.
    pub fn code_cache(&self) -> Option<PathBuf> {
        own_directory(&self.store, &self.redis).map(|directory| directory.join("compiled"))
    }

    /// Puts flags, environment, file and defaults together.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that cannot be right.
    pub fn load(given: Settings, seed: SeedEnvironment) -> Result<Self, ConfigError> {
        let file = match &given.config {
            None => Settings::default(),
            Some(path) => read_file(path)?,
        };
        let port = |port: Option<String>| port.map(|port| format!("0.0.0.0:{port}"));
        let seed_store = seed.redis_host.map(|host| {
            let port = seed.redis_port.as_deref().unwrap_or("6379");
            // An IPv6 address needs brackets in a URL.
            match host.contains(':') && !host.starts_with('[') {
                true => format!("redis://[{host}]:{port}"),
                false => format!("redis://{host}:{port}"),
            }
        });
        let given_store = given.store.clone().or(seed_store);
        let store = given_store.or_else(|| file.store.clone());
        let store = store.as_deref().unwrap_or("./streamgate-data");
        let store = store
            .parse()
            .map_err(|error| invalid("store", format!("{error}")))?;
        let redis = redis_files(&given, &file, &store)?;
        let spool = given.spool.clone().or(file.spool.clone());
        let files = given.files.clone().or(file.files.clone());
        let folder = |given: Option<String>, name| output_folder(given, name, &store, &redis);
        let outputs = OutputPolicy {
            folder: folder(spool, "outputs"),
            files: folder(files, "files"),
            allow_link_local: given.allow_link_local || file.allow_link_local,
            secrets: secret_sources(&given, &file)?,
            listeners: Arc::default(),
        };
        let tcp = given.tcp.or(port(seed.tcp_port)).or(file.tcp);
        let udp = given.udp.or(port(seed.udp_port)).or(file.udp);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);

        let control = listen("control", given.control.or(file.control))?
            .unwrap_or(Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000))));
        let bootstrap = given.bootstrap_token.or(file.bootstrap_token);
        let bootstrap = bootstrap.as_deref().map(BootstrapToken::parse).transpose();
        let access = AccessSettings {
            is_exposed: control.is_exposed(),
            insecure: given.insecure_control || file.insecure_control,
            bootstrap: bootstrap.map_err(|message| invalid("bootstrap_token", message))?,
            directory: own_directory(&store, &redis).cloned(),
        };
        let control_hosts = match given.control_host.is_empty() {
            true => file.control_host,
            false => given.control_host,
        };
        for host in &control_hosts {
            check_host_name(host)?;
        }

        let tls = |setting, given: Option<String>| match given {
            None => Ok(None),
            Some(text) => TlsFiles::parse(&text)
                .map(Some)
                .map_err(|message| invalid(setting, message)),
        };
        let tls = ListenerTls {
            tcp: tls("tcp_tls", given.tcp_tls.or(file.tcp_tls))?,
            http: tls("http_tls", given.http_tls.or(file.http_tls))?,
            control: tls("control_tls", given.control_tls.or(file.control_tls))?,
        };
        let proxied = match given.proxy_protocol.is_empty() {
            true => file.proxy_protocol,
            false => given.proxy_protocol,
        };

        let config = Self {
            tls,
            proxy_protocol: proxy_protocol(&proxied)?,
            http_tokens: given.http_tokens || file.http_tokens,
            access,
            control_hosts,
            tcp: listen("tcp", tcp)?.unwrap_or(Listen::Everywhere(8081)),
            udp: listen("udp", udp)?.unwrap_or(Listen::Everywhere(8082)),
            http: listen("http", given.http.or(file.http))?.unwrap_or(Listen::Everywhere(8080)),
            control,
            redis,
            store,
            outputs,
            durable: given.durable || file.durable,
            start_empty: given.start_empty || file.start_empty,
            manifest: given.manifest.or(file.manifest),
            memory_budget_bytes: size(
                "memory_budget",
                given.memory_budget.or(file.memory_budget),
                256 << 20,
                MIN_BUDGET_BYTES..=(1 << 40),
            )?,
            udp_sockets: within(
                "udp_sockets",
                given
                    .udp_sockets
                    .or(file.udp_sockets)
                    .unwrap_or((processors / 2).clamp(1, 8)),
                1..=64,
            )?,
            workers: within(
                "workers",
                given
                    .workers
                    .or(file.workers)
                    .unwrap_or((processors / 2).max(1)),
                1..=1024,
            )?,
            limits: Limits {
                max_event_bytes: size(
                    "max_event",
                    given.max_event.or(file.max_event),
                    256 << 10,
                    MIN_EVENT_BYTES..=BlockSize::LARGEST.bytes() / 2,
                )?,
                max_datagram_bytes: size(
                    "max_datagram",
                    given.max_datagram.or(file.max_datagram),
                    MAX_DATAGRAM_BYTES,
                    1..=MAX_DATAGRAM_BYTES,
                )?,
                max_body_bytes: size(
                    "max_body",
                    given.max_body.or(file.max_body),
                    16 << 20,
                    1..=(1 << 30),
                )?,
                max_connections: within(
                    "max_connections",
                    given
                        .max_connections
                        .or(file.max_connections)
                        .unwrap_or(10_000),
                    1..=1_000_000,
                )?,
            },
            compile: CompileLimits {
                time: match given.compile_time.or(file.compile_time) {
                    None => CompileLimits::default().time,
                    Some(text) => compile_time(&text)?,
                },
                memory_bytes: size(
                    "compile_memory",
                    given.compile_memory.or(file.compile_memory),
                    1 << 30,
                    (64 << 20)..=(1 << 40),
                )? as u64,
            },
            grace_period: match given.grace_period.or(file.grace_period) {
                None => Duration::from_secs(10),
                Some(text) => units::duration(&text).map_err(|m| invalid("grace_period", m))?,
            },
            node: match given.node.or(file.node) {
                Some(node) => node,
                None => host_name(),
            },
        };
        Ok(config)
    }
}

/// The directory of this gate's own files: that of the store, or of the cache.
fn own_directory<'a>(store: &'a StoreLocation, redis: &'a RedisFiles) -> Option<&'a PathBuf> {
    match store {
        StoreLocation::Directory(directory) => Some(directory),
        StoreLocation::Redis(_) => redis.cache.as_ref(),
        StoreLocation::Memory => None,
    }
}

fn output_folder(
    given: Option<String>,
    name: &str,
    store: &StoreLocation,
    redis: &RedisFiles,
) -> Option<PathBuf> {
    let beside = own_directory(store, redis);
    match given {
        Some(off) if off == "off" => None,
        Some(folder) => Some(PathBuf::from(folder)),
        None => beside.map(|directory| directory.join(name)),
    }
}

fn redis_files(
    given: &Settings,
    file: &Settings,
    store: &StoreLocation,
) -> Result<RedisFiles, ConfigError> {
    let either = |pick: fn(&Settings) -> &Option<PathBuf>| {
        pick(given).clone().or_else(|| pick(file).clone())
    };
    let certificate = either(|settings| &settings.store_cert);
    let key = either(|settings| &settings.store_key);
    let tls = redis::TlsFiles {
        ca: either(|settings| &settings.store_ca),
        identity: match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => {
                let message = "it is given without `store_key`; give both".to_owned();
                return Err(invalid("store_cert", message));
            }
            (None, Some(_)) => {
                let message = "it is given without `store_cert`; give both".to_owned();
                return Err(invalid("store_key", message));
            }
        },
    };
    let trusted_keys = either(|settings| &settings.trusted_keys);
    let signing_key = either(|settings| &settings.signing_key);
    if !matches!(store, StoreLocation::Redis(_)) {
        for (setting, given) in [
            ("trusted_keys", &trusted_keys),
            ("signing_key", &signing_key),
        ] {
            if given.is_some() {
                let message = "signatures are for a store in Redis; set `store` to a `redis://` URL, or \
                               leave this out";
                return Err(invalid(setting, message.to_owned()));
            }
        }
    }
    let cache = given.cache.as_deref().or(file.cache.as_deref());
    Ok(RedisFiles {
        cache: match cache.unwrap_or("./streamgate-cache") {
            "" => {
                return Err(invalid(
                    "cache",
                    "it is empty; give a directory, or `off`".to_owned(),
                ));
            }
            "off" => None,
            directory => Some(directory.into()),
        },
        tls,
        trusted_keys,
        signing_key,
    })
}

/// What secrets outputs may refer to, besides those that they always may.
fn secret_sources(given: &Settings, file: &Settings) -> Result<SecretSources, ConfigError> {
    let variables = match given.secret_env.is_empty() {
        true => file.secret_env.clone(),
        false => given.secret_env.clone(),
    };
    for name in &variables {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let stem = name.strip_suffix('*').unwrap_or(name);
        if name.is_empty() || !stem.bytes().all(fits) {
            return Err(invalid(
                "secret_env",
                format!(
                    "{name:?} is not the name of a variable; expected letters, digits and `_`, and \
                     `*` at the end for all that begin so, for example `LOGS_TOKEN` or `LOGS_*`"
                ),
            ));
        }
    }
    let folders = match given.secret_files.is_empty() {
        true => file.secret_files.clone(),
        false => given.secret_files.clone(),
    };
    for folder in &folders {
        if !folder.is_absolute() {
            return Err(invalid(
                "secret_files",
                format!(
                    "{folder:?} is not absolute; expected, for example, `/etc/streamgate/secrets`"
                ),
            ));
        }
    }
    Ok(SecretSources {
        variables,
        folders,
        confined: false,
    })
}

fn read_file(path: &std::path::Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start].matches('\n').count() + 1);
        let place = line.map_or(String::new(), |line| format!("line {line}: "));
        // The message of a value of another type does not say whose it is.
        let written = line.and_then(|line| text.lines().nth(line - 1));
        let key = written.filter(|_| error.message().starts_with("invalid type"));
        let key = key.map_or(String::new(), |written| {
            let key = written.split('=').next().unwrap_or_default();
            format!("`{}`: ", key.trim_matches(['[', ']', ' ']))
        });
        let found = with_suggestion(error.message().to_owned());
        let message = format!("{place}{key}{found}");
        ConfigError::InvalidFile {
            path: path.to_owned(),
            message,
        }
    })
}

fn invalid(setting: &'static str, message: String) -> ConfigError {
    ConfigError::InvalidValue { setting, message }
}

fn proxy_protocol(listeners: &[String]) -> Result<ProxyProtocol, ConfigError> {
    let mut proxied = ProxyProtocol::default();
    for listener in listeners {
        match listener.as_str() {
            "tcp" => proxied.tcp = true,
            "http" => proxied.http = true,
            _ => {
                let message = format!(
                    "`{listener}` is not a listener with a PROXY header; expected `tcp` or `http`"
                );
                return Err(invalid("proxy_protocol", message));
            }
        }
    }
    Ok(proxied)
}

/// Checks a name that a `Host` header may have.
fn check_host_name(host: &str) -> Result<(), ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match (1..=253).contains(&host.len()) && host.bytes().all(allowed) {
        true => Ok(()),
        false => Err(invalid(
            "control_host",
            format!(
                "`{host}` is not a valid host name; expected one like `gate.example.com`, without a port"
            ),
        )),
    }
}

fn listen(setting: &'static str, given: Option<String>) -> Result<Option<Listen>, ConfigError> {
    let Some(text) = given else { return Ok(None) };
    if text == "off" {
        return Ok(Some(Listen::Off));
    }
    let expected = "expected `HOST:PORT`, such as `0.0.0.0:8081`, or `off`";
    let mut addresses = text.to_socket_addrs().map_err(|error| {
        invalid(
            setting,
            format!("`{text}` is no address: {error}; {expected}"),
        )
    })?;
    match addresses.next() {
        Some(address) => Ok(Some(Listen::At(address))),
        None => Err(invalid(
            setting,
            format!("`{text}` names no address; {expected}"),
        )),
    }
}

fn size(
    setting: &'static str,
    given: Option<String>,
    default: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<usize, ConfigError> {
    let bytes = match given {
        None => default,
        Some(text) => units::bytes(&text).map_err(|message| invalid(setting, message))?,
    };
    within(setting, bytes, allowed)
}

fn within<T: PartialOrd + fmt::Display>(
    setting: &'static str,
    value: T,
    allowed: std::ops::RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (allowed.start(), allowed.end());
    Err(invalid(
        setting,
        format!("{value} is out of range; expected {least} to {most}"),
    ))
}

/// Whole seconds, as the operating system limits it.
fn compile_time(text: &str) -> Result<Duration, ConfigError> {
    let time = units::duration(text).map_err(|message| invalid("compile_time", message))?;
    within("compile_time", time.as_secs(), 1..=3_600).map(Duration::from_secs)
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    if name.is_empty() {
        "gate".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn load(flags: &[&str]) -> Result<Config, ConfigError> {
        let cli = Cli::try_parse_from([&["streamgate"], flags].concat()).expect("flags are known");
        Config::load(cli.settings, SeedEnvironment::default())
    }

    #[test]
    fn flags_win_over_the_seeds_environment_and_that_over_the_file() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(
            file.path(),
            "tcp = '127.0.0.1:1'\nudp = '127.0.0.1:2'\nhttp = 'off'\n",
        )
        .expect("written");
        let path = file.path().to_str().expect("UTF-8");
        let cli = Cli::try_parse_from(["streamgate", "--tcp", "127.0.0.1:3", "--config", path]);
        let seed = SeedEnvironment {
            udp_port: Some("4".to_owned()),
            ..SeedEnvironment::default()
        };
        let config = Config::load(cli.expect("flags are known").settings, seed).expect("valid");
        let at = |address: &str| Listen::At(address.parse().expect("an address"));
        assert_eq!(config.tcp, at("127.0.0.1:3"));
        assert_eq!(config.udp, at("0.0.0.0:4"));
        assert_eq!(config.http, Listen::Off);
        assert_eq!(config.control, at("127.0.0.1:8000"));
    }

    #[test]
    fn wrong_values_name_the_setting() {
        for (flags, setting) in [
            (["--memory-budget", "1MiB"], "memory_budget"),
            (["--memory-budget", "much"], "memory_budget"),
            (["--max-event", "1"], "max_event"),
            (["--workers", "0"], "workers"),
            (["--tcp", "8081"], "tcp"),
            (["--grace-period", "10"], "grace_period"),
            (["--store", "redis://localhost/db"], "store"),
        ] {
            let error = load(&flags).expect_err("out of range").to_string();
            assert!(error.starts_with(&format!("`{setting}`: ")), "{error}");
        }
    }

    #[test]
    fn broken_files_are_refused_with_the_line() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "tcp = 'off'\nudp = 7\n").expect("written");
        let error = load(&["--config", file.path().to_str().expect("UTF-8")]).expect_err("no text");
        assert!(error.to_string().contains("line 2: "), "{error}");
    }

    #[test]
    fn unknown_settings_in_the_file_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "tcp = 'off'\ntpc = 'off'\n").expect("written");
        let error = load(&["--config", file.path().to_str().expect("UTF-8")]).expect_err("unknown");
        let message = error.to_string();
        assert!(message.contains("line 2: unknown field `tpc`"), "{message}");
    }
}
