//! Where the Redis is, how to reach it, and what its failures are.
//!
//! Every wait is bounded: connecting, the handshake, and each answer. A connection that failed is
//! thrown away, so no answer is ever taken for that of another question.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{
    Client, ClientTlsConfig, Connection, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, RedisError, TlsCertificates,
};
use streamgate_processors::named_file;

/// Longest time to connect and log in.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time for an answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time for an answer that a module travels in.
pub(crate) const MODULE_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest file of certificates, in bytes.
const MAX_PEM_BYTES: usize = 4 * 1024 * 1024;

/// Port of a Sentinel that has none in its URL.
const SENTINEL_PORT: u16 = 26379;

/// A Redis, as an operator writes it. Neither `Debug` nor `Display` shows the password.
///
/// - `redis://[user[:password]@]host[:port][/db]`, `rediss://` over TLS, `redis+unix:///path`: as
///   the client library has them
/// - `redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[/db]`, or
///   `rediss+sentinel://`: the master of that name, asked for at each connect; user and password
///   are those of the master
#[derive(Clone, PartialEq, Eq)]
pub struct RedisLocation {
    url: String,
}

/// Certificates for `rediss://`; the system's roots count if there is no CA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CA's certificate (PEM).
    pub ca: Option<PathBuf>,
    /// The certificate and the key of this gate (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A Redis that can be connected to. `Debug` shows no password.
pub(crate) struct Server {
    shown: String,
    target: Target,
}

enum Target {
    Single(Client),
    Sentinel {
        sentinels: Vec<Client>,
        service: String,
        /// What the master is connected to with, but for its address.
        master: ConnectionInfo,
        tls: Option<TlsCertificates>,
    },
}

/// What kind of failure it was: a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// `-NOAUTH`, `-WRONGPASS`: not logged in.
    Auth,
    /// `-NOPERM`: the ACL user may not.
    Permission,
    /// `-OOM`: no memory left.
    OutOfMemory,
    /// `-READONLY`: a replica.
    ReadOnly,
    /// `-LOADING`, `-BUSY`, `-TRYAGAIN`, `-MASTERDOWN`: not yet.
    Busy,
    /// `-ERR max number of clients reached`.
    TooManyClients,
    /// `-MISCONF`: it cannot persist.
    CannotPersist,
    /// `-WRONGTYPE`: another kind of value than expected.
    WrongType,
    /// `-CROSSSLOT`, `-MOVED`, `-CLUSTERDOWN`: a Redis Cluster.
    Cluster,
    /// Any other answer.
    Other,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Auth,
        Self::Permission,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::Busy,
        Self::TooManyClients,
        Self::CannotPersist,
        Self::WrongType,
        Self::Cluster,
        Self::Other,
    ];

    /// Says which fault an error is.
    pub(crate) fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.kind() == ErrorKind::AuthenticationFailed {
            return Self::Auth;
        }
        if error.is_io_error() || error.is_connection_refusal() || error.is_connection_dropped() {
            return Self::Unreachable;
        }
        // Of a pipeline or a transaction the first command that failed says why.
        let errors = error.clone().into_server_errors();
        let first = errors.as_deref().and_then(<[_]>::first);
        match first.map(|(_, error)| error.code()).or(error.code()) {
            Some("NOAUTH" | "WRONGPASS") => Self::Auth,
            Some("NOPERM") => Self::Permission,
            Some("OOM") => Self::OutOfMemory,
            Some("READONLY" | "NOREPLICAS") => Self::ReadOnly,
            Some("LOADING" | "BUSY" | "BUSYLOADING" | "TRYAGAIN" | "MASTERDOWN") => Self::Busy,
            Some("MISCONF") => Self::CannotPersist,
            Some("WRONGTYPE") => Self::WrongType,
            Some("CROSSSLOT" | "MOVED" | "ASK" | "CLUSTERDOWN") => Self::Cluster,
            _ if error.to_string().contains("max number of clients") => Self::TooManyClients,
            _ => Self::Other,
        }
    }

    /// Its name in metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::OutOfMemory => "out_of_memory",
            Self::ReadOnly => "read_only",
            Self::Busy => "busy",
            Self::TooManyClients => "too_many_clients",
            Self::CannotPersist => "cannot_persist",
            Self::WrongType => "wrong_type",
            Self::Cluster => "cluster",
            Self::Other => "other",
        }
    }

    /// What an operator can do about it.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => "check that it runs and that the address in `--store` is right",
            Self::Timeout => "it is overloaded, stopped, or a firewall swallows the packets",
            Self::Auth => "check user and password in `--store`",
            Self::Permission => "give the ACL user what docs/redis.md lists",
            Self::OutOfMemory => "raise its `maxmemory`, or free some",
            Self::ReadOnly => "it is a replica; point `--store` at the master, or at Sentinel",
            Self::Busy => "it is starting or busy; it will be tried again",
            Self::TooManyClients => "raise its `maxclients`",
            Self::CannotPersist => "it cannot write its snapshot; see its log",
            Self::WrongType => "another program uses a key of that name; remove the key",
            Self::Cluster => "Redis Cluster is not supported; use a single Redis or Sentinel",
            Self::Other => "see the log of the Redis",
        }
    }
}

impl RedisLocation {
    /// Returns the location that `text` is, if it is that of a Redis at all.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it: it may hold a password.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        let (scheme, _) = text.split_once("://")?;
        let known = [
            "redis",
            "rediss",
            "redis+unix",
            "unix",
            "redis+sentinel",
            "rediss+sentinel",
        ];
        let scheme = known.iter().find(|s| s.eq_ignore_ascii_case(scheme))?;
        let location = Self {
            url: format!("{scheme}{}", &text[scheme.len()..]),
        };
        Some(Server::open(&location, &TlsFiles::default()).map(|_| location))
    }

    /// The URL without what is secret in it.
    fn shown(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        // A query or a fragment may hold a password too.
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        format!("{scheme}://{}", &rest[..end])
    }
}

impl fmt::Display for RedisLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for RedisLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.shown).finish()
    }
}

impl Server {
    /// Reads the location; connects to nothing.
    ///
    /// # Errors
    /// What is wrong with it, in words for an operator and without a password.
    pub(crate) fn open(location: &RedisLocation, tls: &TlsFiles) -> Result<Self, String> {
        let tls = tls.read()?;
        let target = match location.url.split_once("+sentinel://") {
            Some((scheme, rest)) => Self::sentinel(scheme, rest, tls)?,
            None => Target::Single(client(info(&location.url)?, tls.as_ref())?),
        };
        Ok(Self {
            shown: location.shown(),
            target,
        })
    }

    fn sentinel(scheme: &str, rest: &str, tls: Option<TlsCertificates>) -> Result<Target, String> {
        let expected = "expected `redis+sentinel://host:port,host:port/service/db`";
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let mut parts = rest.split('/');
        let hosts = parts.next().unwrap_or_default();
        let service = parts.next().filter(|service| !service.is_empty());
        let service = service.ok_or(expected)?.to_owned();
        let db = parts.next().unwrap_or("0");
        if hosts.is_empty() || parts.next().is_some() {
            return Err(expected.to_owned());
        }
        let at = if login.is_empty() { "" } else { "@" };
        let master = info(&format!("{scheme}://{login}{at}master/{db}"))?;
        let mut sentinels = Vec::new();
        for host in hosts.split(',') {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| {
                !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
            });
            let url = match has_port {
                true => format!("{scheme}://{host}"),
                false => format!("{scheme}://{host}:{SENTINEL_PORT}"),
            };
            sentinels.push(client(info(&url)?, tls.as_ref())?);
        }
        Ok(Target::Sentinel {
            sentinels,
            service,
            master,
            tls,
        })
    }

    /// The location, without what is secret in it.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects and logs in.
    pub(crate) fn connect(&self) -> Result<Connection, RedisError> {
        match &self.target {
            Target::Single(client) => connect(client),
            Target::Sentinel {
                sentinels,
                service,
                master,
                tls,
            } => {
                let mut failed = None;
                for sentinel in sentinels {
                    match ask_sentinel(sentinel, service) {
                        Ok(address) => {
                            let address = match master.addr() {
                                ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
                                    host: address.0,
                                    port: address.1,
                                    insecure: *insecure,
                                    tls_params: None,
                                },
                                _ => ConnectionAddr::Tcp(address.0, address.1),
                            };
                            let info = master.clone().set_addr(address);
                            let client = open(info, tls.as_ref())?;
                            return connect(&client);
                        }
                        Err(error) => failed = Some(error),
                    }
                }
                Err(failed.expect("a URL has one sentinel or more"))
            }
        }
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Option<TlsCertificates>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let read = |path: &PathBuf| {
            named_file::read(path, MAX_PEM_BYTES).map_err(|error| error.to_string())
        };
        let client_tls = match &self.identity {
            None => None,
            Some((certificate, key)) => Some(ClientTlsConfig {
                client_cert: read(certificate)?,
                client_key: read(key)?,
            }),
        };
        Ok(Some(TlsCertificates {
            client_tls,
            root_cert: self.ca.as_ref().map(read).transpose()?,
        }))
    }
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|error| {
        // The library's text does not repeat the URL.
        format!("the URL of the Redis is not valid: {error}")
    })
}

fn client(info: ConnectionInfo, tls: Option<&TlsCertificates>) -> Result<Client, String> {
    open(info, tls).map_err(|error| format!("the Redis store cannot be set up: {error}"))
}

fn open(info: ConnectionInfo, tls: Option<&TlsCertificates>) -> Result<Client, RedisError> {
    // Without one rustls panics; another part of the program may have been here first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // An ACL user need not be allowed `CLIENT`.
    let redis = info.redis_settings().clone().set_skip_set_lib_name();
    let info = info.set_redis_settings(redis);
    match tls {
        Some(tls) => Client::build_with_tls(info, tls.clone()),
        None => Client::open(info),
    }
}

fn connect(client: &Client) -> Result<Connection, RedisError> {
    let connection = client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(connection)
}

fn ask_sentinel(sentinel: &Client, service: &str) -> Result<(String, u16), RedisError> {
    let mut connection = connect(sentinel)?;
    let address: Option<(String, u16)> = redis::cmd("SENTINEL")
        .arg("get-master-addr-by-name")
        .arg(service)
        .query(&mut connection)?;
    address.ok_or_else(|| {
        RedisError::from((
            ErrorKind::MasterNameNotFoundBySentinel,
            "the sentinel knows no master of that name",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_shown_without_their_password() {
        for (url, shown) in [
            ("redis://:hunter2@host:6379/3", "redis://host:6379/3"),
            ("REDISS://user:hunter2@host", "rediss://host"),
            (
                "redis+sentinel://user:hunter2@one:26379,two/main/1",
                "redis+sentinel://one:26379,two/main/1",
            ),
            ("redis://host?password=hunter2", "redis://host"),
        ] {
            let location = RedisLocation::parse(url)
                .expect("one of ours")
                .expect("valid");
            assert_eq!(location.to_string(), shown);
            assert!(!format!("{location:?}").contains("hunter2"));
        }
    }

    #[test]
    fn other_locations_are_none_of_ours_and_wrong_ones_are_refused() {
        for other in ["./redis", "memory:", "http://host", ""] {
            assert!(RedisLocation::parse(other).is_none(), "{other}");
        }
        for wrong in [
            "redis://",
            "redis://:hunter2@host:port",
            "redis://:hunter2@host/db",
            "redis+sentinel://:hunter2@one,two",
            "redis+sentinel:///main",
        ] {
            let fault = RedisLocation::parse(wrong)
                .expect("one of ours")
                .expect_err(wrong);
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }
}
