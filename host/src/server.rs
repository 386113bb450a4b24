//! From a [`Config`] to a running gate and to its end: the map of the program.
//!
//! Everything is built before a door is opened, and nothing afterwards. The end goes the way that
//! events go: the doors close, workers finish what was accepted, outputs send it; each step waits
//! for the one before it, and all of them end within the grace period.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, runtime::Handle, task::JoinSet, time::timeout_at};
use tracing::{error, info, warn};

use crate::{
    access::{Access, AccessError},
    audit::AuditLog,
    books::{Books, Ingest},
    buffer::{Backlog, WorkQueue},
    config::{Config, Listen, ListenerTls},
    config_store::{
        ConfigStore, Redis, StoreError,
        redis::{Found, superseding},
    },
    control::{self, ControlState},
    fleet::{Fleet, check_found},
    gate::{Gate, first_revision},
    handshake::{self, Handshake, ServerTls, TlsFiles},
    http_server,
    ingest::{self, Intake},
    manifest::{Invalid, Manifest, Rule, WASM, written::Written},
    memory::Memory,
    outputs::{self, ClaimError, FanOut, Launcher, OutputPolicy, Registry, Room},
    pipeline::{BuildError, Overload, Revision, Shared, spawn_worker},
    shutdown::{self, Shutdown},
    slots::Slots,
    wasm::{Compiler, Wasm},
};

/// Connections that the kernel may keep until they are accepted.
const BACKLOG: i32 = 1024;

/// Budget for each connection over TCP, and over HTTP, that may be there: what a connection takes
/// is not charged, and so has to be a small part of it. One over TCP takes about 2 KiB, one over
/// HTTP 19 KiB, and up to 60 KiB with a long head.
const BUDGET_A_TCP_CONNECTION: usize = 16 * 1024;
const BUDGET_AN_HTTP_CONNECTION: usize = 256 * 1024;

/// The same on top for TLS, which keeps up to a record (16 KiB) in each direction and its keys.
const BUDGET_OF_TLS: usize = 48 * 1024;

/// File descriptors that connections of senders leave to the control API, outputs, spools and
/// stores, if the process may have that many twice; otherwise half of what it may have.
const RESERVED_DESCRIPTORS: usize = 512;

/// Least memory for compiled patterns of all rules; otherwise it is twice the memory budget, so that
/// a revision may have as much as the budget while it takes the place of another such one.
const LEAST_FOR_PATTERNS: usize = 256 << 20;

/// Largest manifest file, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 * 1024 * 1024;

/// How long outputs have to book what they give up.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// Why the gate cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener's address is taken or not ours.
    #[error("cannot listen on {address}: {source}; set `{setting}`")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The setting that says so.
        setting: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The config store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate or the key of a listener cannot be used.
    #[error("`{listener}_tls`: {reason}")]
    Tls {
        /// Whose.
        listener: &'static str,
        /// What was found, and what was expected.
        reason: String,
    },
    /// Nobody could use the control API, or its tokens cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The folder of the spools cannot be used.
    #[error(transparent)]
    Spools(#[from] ClaimError),
    /// The manifest file cannot be read.
    #[error("cannot read the manifest {}: {source}", path.display())]
    UnreadableManifest {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The manifest file cannot be right.
    #[error("the manifest {} is not valid: {fault}", path.display())]
    InvalidManifest {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        fault: Invalid,
    },
    /// The live manifest in the store cannot be built by this program.
    #[error("the live manifest in the store cannot be built: {0}; mend or remove the store")]
    Unbuildable(BuildError),
    /// The operating system refused something else.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The grace period was over before everything was sent.
    #[error("{left} could not be sent within the grace period of {} s", grace.as_secs())]
    Undrained {
        /// What was given up.
        left: Left,
        /// The grace period.
        grace: Duration,
    },
}

/// The events that were given up at the end.
#[derive(Debug)]
pub struct Left {
    /// Events that did not get to the end of the chain.
    in_flight: u64,
    /// Those of each output, by its id.
    outputs: Vec<(String, u64)>,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_outputs: u64 = self.outputs.iter().map(|(_, events)| events).sum();
        write!(f, "{} events", self.in_flight + of_outputs)?;
        let mut parts: Vec<String> = Vec::new();
        if self.in_flight > 0 {
            parts.push(format!("{} before the outputs", self.in_flight));
        }
        for (id, events) in &self.outputs {
            parts.push(format!("{events} of the output `{id}`"));
        }
        match parts.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", parts.join(", ")),
        }
    }
}

impl ServerError {
    /// Whether the start was refused, or the usage or config is bad: exit code 2.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Undrained { .. })
    }
}

/// Where lines come in.
struct Doors {
    tcp: Option<TcpListener>,
    udp: Vec<UdpSocket>,
}

/// The TLS of the listeners.
struct Tls {
    tcp: Option<Arc<ServerTls>>,
    http: Option<Arc<ServerTls>>,
    control: Option<Arc<ServerTls>>,
}

/// What a gate begins with.
struct Beginning {
    revision: Revision,
    /// Whether that is the config that it should have. Otherwise it is the empty one, as the store
    /// could not be read and there is no last good one.
    is_known: bool,
}

/// Runs the gate until `end` has begun and everything is drained.
///
/// # Errors
/// [`ServerError`] if it cannot start, or could not drain in time.
pub async fn run(config: Config, end: Shutdown) -> Result<(), ServerError> {
    let config = Arc::new(config);
    let patterns = (2 * config.memory_budget_bytes).max(LEAST_FOR_PATTERNS);
    streamgate_processors::limit_compiled_patterns(patterns);
    let connections = Connections::within(&config, raise_descriptor_limit());
    // The control API answers from the first moment to the end of the drain, so that one can watch
    // both.
    let (control_end, control_shutdown) = shutdown::channel();
    let mut control = JoinSet::new();
    let (router, api) = http_server::later(control::starting);
    let opening = Arc::clone(&config);
    let Some(tls) = unless_ended(&end, move || Tls::open(&opening.tls)).await? else {
        return Ok(());
    };
    tokio::spawn(handshake::reload(
        tls.all(),
        outputs::read_secrets_again,
        end.clone(),
    ));
    if let Some(listener) = bind(&config.control, "control", bind_tcp)? {
        listening("control", listener.local_addr()?);
        let own = &config.outputs.listeners;
        own.register("control", listener.local_addr()?);
        let options = http_server::Options {
            max_connections: connections.control,
            handshake: Handshake::new("control", tls.control.clone(), false),
            ..control::http_options()
        };
        let shutdown = async move { control_shutdown.begun().await };
        control.spawn(http_server::serve(listener, router, options, shutdown));
    }
    let opening = Arc::clone(&config);
    let Some(store) = unless_ended(&end, move || open_store(&opening)).await? else {
        return Ok(());
    };
    let store = Arc::new(store);
    let opening = Arc::clone(&config);
    let Some(access) = unless_ended(&end, move || open_access(&opening)).await? else {
        return Ok(());
    };
    let spools = config.outputs.folder.as_deref();
    let _claimed = spools.map(outputs::claim).transpose()?;
    let http = bind(&config.http, "http", bind_tcp)?;
    if let Some(http) = &http {
        let own = &config.outputs.listeners;
        own.register("http", http.local_addr()?);
    }
    let mut doors = Doors::bind(&config)?;

    let memory = Memory::new(config.memory_budget_bytes);
    let books = Arc::new(Books::default());
    let backlog = Arc::new(Backlog::default());
    let room = Arc::new(Room::default());
    let registry = Arc::new(Registry::default());
    let launcher = Launcher {
        runtime: Handle::current(),
        policy: config.outputs.clone(),
        books: Arc::clone(&books),
        room: Arc::clone(&room),
        registry: Arc::clone(&registry),
    };
    let compiler = Compiler::Child(config.compile);
    let wasm = Wasm::new(config.workers, compiler, config.code_cache());
    let building = {
        let (config, store) = (Arc::clone(&config), Arc::clone(&store));
        let (launcher, memory, wasm) = (launcher.clone(), Arc::clone(&memory), wasm.clone());
        move || {
            let build = |manifest: &Manifest| {
                let modules = |digest| store.module_bytes(digest);
                first_revision(manifest, &launcher, &memory, &wasm, &modules)
            };
            begin(&store, &config, build)
        }
    };
    let Some(Beginning { revision, is_known }) = unless_ended(&end, building).await? else {
        return Ok(());
    };
    let first = revision.number;
    let shared = Arc::new(Shared {
        revision: ArcSwap::from_pointee(revision),
        books: Arc::clone(&books),
        backlog: Arc::clone(&backlog),
        fan_out: FanOut { room },
        // Outputs have the other half.
        overload: Overload::new(memory.budget_bytes() / 2),
        max_event_bytes: config.limits.max_event_bytes,
    });
    let queues: Vec<Arc<WorkQueue>> = (0..config.workers)
        .map(|_| Arc::new(WorkQueue::new(Arc::clone(&backlog))))
        .collect();
    let workers = queues
        .iter()
        .enumerate()
        .map(|(number, queue)| spawn_worker(number, Arc::clone(&shared), Arc::clone(queue)))
        .collect::<Result<Vec<_>, _>>()?;
    let gate = Gate::new(
        config.node.clone(),
        Arc::clone(&shared),
        queues.clone(),
        Arc::clone(&memory),
        launcher,
        wasm,
        is_known,
    );
    let intake = Intake::new(
        memory,
        Arc::clone(&books),
        config.limits,
        config.durable,
        queues.clone(),
    );

    let fleet = Fleet::join(gate.clone(), &store)?;
    let location = store.location();
    let senders = config.http_tokens.then(|| access.clone());
    api.ready(control::router(
        ControlState::new(gate.clone(), access, store, fleet.clone()),
        AuditLog::new(config.access.directory.as_deref()),
        config.control_hosts.clone(),
    ));
    let mut ingests = JoinSet::new();
    let (router, ingest_api) = http_server::later(ingest::http::starting);
    if let Some(listener) = http {
        listening("http", listener.local_addr()?);
        let options = http_server::Options {
            max_connections: connections.http,
            books: Some((Arc::clone(&books), Ingest::Http)),
            grace_period: config.grace_period / 2,
            handshake: Handshake::new("http", tls.http.clone(), config.proxy_protocol.http),
            ..http_server::Options::default()
        };
        let end = end.clone();
        let shutdown = async move { end.begun().await };
        ingests.spawn(http_server::serve(listener, router, options, shutdown));
    }
    if !is_known {
        error!(
            store = location,
            "the config store cannot be read and there is no last good config: no events are taken until it \
             can be; start with `--start-empty` to take them without rules"
        );
        // What is closed is not connected to, and loses no datagram without a word.
        drop(doors);
        gate.config_known(&end).await;
        doors = Doors::bind(&config)?;
    }
    if !end.has_begun() {
        ingest_api.ready(ingest::http::router(Arc::clone(&intake), senders));
        let handshake = Handshake::new("tcp", tls.tcp.clone(), config.proxy_protocol.tcp);
        doors.open(&intake, connections.tcp, handshake, &end, &mut ingests)?;
        info!(revision = first, workers = config.workers, "ready");
    }
    drop(intake);

    end.begun().await;
    gate.begin_end();
    if let Some(fleet) = fleet {
        // Nobody waits for it: if Redis does not answer, the others see for themselves.
        thread::spawn(move || fleet.leave());
    }
    info!(grace_seconds = config.grace_period.as_secs(), "draining");
    let deadline = Instant::now() + config.grace_period;
    let drained = drain(deadline, ingests, &queues, workers, &gate, &registry).await;
    if !drained {
        registry.abort();
        let _ = timeout_at((Instant::now() + ABORT_LIMIT).into(), registry.ended()).await;
    }
    let stats = gate.stats();
    drop(control_end);
    // Whoever asks for the last figures gets an answer, and nobody holds the end up.
    let _ = timeout_at(
        (Instant::now() + Duration::from_millis(500)).into(),
        control.join_all(),
    )
    .await;
    let pipeline = &stats.pipelines[0];
    info!(
        received = pipeline.received,
        delivered_to_chain_end = pipeline.delivered_to_chain_end,
        in_flight = pipeline.in_flight,
        "stopped"
    );
    let (in_flight, outputs) = (pipeline.in_flight, registry.left_behind());
    if drained && in_flight + books.queued() == 0 && outputs.is_empty() {
        return Ok(());
    }
    Err(ServerError::Undrained {
        left: Left { in_flight, outputs },
        grace: config.grace_period,
    })
}

/// Most connections of each listener.
#[derive(Debug, Clone, Copy)]
struct Connections {
    tcp: usize,
    http: usize,
    control: usize,
}

impl Connections {
    /// Divides what the memory budget and the limit of open files allow.
    fn within(config: &Config, descriptors: usize) -> Self {
        let most = config.limits.max_connections;
        let budget = config.memory_budget_bytes;
        let control = control::http_options().max_connections;
        let free = descriptors.saturating_sub(open_descriptors());
        let senders = free.saturating_sub(RESERVED_DESCRIPTORS.min(free / 2));
        let of_tls = |files: &Option<TlsFiles>| match files {
            Some(_) => BUDGET_OF_TLS,
            None => 0,
        };
        let (tcp, http) = (
            BUDGET_A_TCP_CONNECTION + of_tls(&config.tls.tcp),
            BUDGET_AN_HTTP_CONNECTION + of_tls(&config.tls.http),
        );
        let limits = Self {
            tcp: most.min(budget / tcp).min(senders / 4 * 3),
            http: most.min(budget / http).min(senders / 4),
            control: control.min(free / 4),
        };
        if senders / 4 * 3 < most {
            warn!(
                open_files = descriptors,
                tcp = limits.tcp,
                http = limits.http,
                max_connections = most,
                "the limit of open files allows fewer connections than `max_connections`; raise it \
                 (`ulimit -n`, `LimitNOFILE=` of systemd)"
            );
        }
        limits
    }
}

/// Raises the limit of open files as far as the process may, and returns it.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => return limit(maximum),
            Err(error) => warn!(%error, "cannot raise the limit of open files"),
        }
    }
    limit(current)
}

/// A limit as a number; none is a large one.
fn limit(descriptors: Option<u64>) -> usize {
    descriptors.map_or(usize::MAX, |descriptors| {
        usize::try_from(descriptors).unwrap_or(usize::MAX)
    })
}

/// How many files are open now.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(32, Iterator::count)
}

/// Waits for each stage in turn; false if the deadline came first.
async fn drain(
    deadline: Instant,
    ingests: JoinSet<()>,
    queues: &[Arc<WorkQueue>],
    workers: Vec<thread::JoinHandle<()>>,
    gate: &Gate,
    registry: &Registry,
) -> bool {
    let deadline = deadline.into();
    let doors_closed = timeout_at(deadline, ingests.join_all()).await.is_ok();
    if !doors_closed {
        warn!("some senders did not end in time");
    }
    for queue in queues {
        queue.close();
    }
    let joined = tokio::task::spawn_blocking(move || {
        workers.into_iter().all(|worker| worker.join().is_ok())
    });
    if !matches!(timeout_at(deadline, joined).await, Ok(Ok(true))) {
        warn!("the workers did not end in time");
        return false;
    }
    // No worker holds the last revision any more; this lets go of its outputs.
    gate.retire();
    let sent = timeout_at(deadline, registry.ended()).await;
    if sent.is_err() {
        warn!("some outputs could not send everything in time");
    }
    doors_closed && sent.is_ok()
}

/// Builds what a gate of a fleet begins with: what is live, or else what it ran last, or else the
/// manifest that it was given. Redis need not be there.
fn first_shared_revision(
    store: &ConfigStore,
    redis: &Redis,
    config: &Config,
    build: impl Fn(&Manifest) -> Result<Revision, BuildError>,
) -> Result<Beginning, ServerError> {
    let known = |revision| Beginning {
        revision,
        is_known: true,
    };
    let last_good = redis.last_good().manifest();
    // Without a last good config, an empty store means the empty config, and nothing else does.
    let mut is_known = last_good.revision > 0 || config.start_empty;
    match redis.look(&mut redis.link(), None) {
        Ok(Found::Document {
            manifest: Ok(manifest),
            ..
        }) => {
            if let Some(manifest) = superseding(manifest, &last_good) {
                let checked = check_found(redis, &manifest, &last_good, &config.outputs);
                match checked.and_then(|()| build(&manifest)) {
                    Ok(revision) => {
                        redis.last_good().keep(&manifest);
                        return Ok(known(revision));
                    }
                    Err(error) => warn!(
                        revision = manifest.revision,
                        reason = error.to_string(),
                        "the live manifest cannot be built; starting from the last good one"
                    ),
                }
            }
        }
        Ok(Found::Document {
            manifest: Err(reason),
            ..
        }) => warn!(reason, "the live manifest in Redis is not taken"),
        Ok(Found::Nothing) => is_known |= matches!(store.next_revision(), Ok(1)),
        Ok(Found::Same) => {}
        Err(outage) => warn!(
            reason = %outage,
            revision = last_good.revision,
            "Redis cannot be used; starting from the last good config"
        ),
    }
    if last_good.revision == 0
        && last_good.pipeline().processors.is_empty()
        && let Some(path) = &config.manifest
    {
        // It counts until something is published.
        let manifest = Manifest {
            revision: 0,
            rolled_back_to: None,
            ..read_manifest(path, &config.outputs)?
        };
        let revision = build(&manifest).map_err(ServerError::Unbuildable)?;
        redis.last_good().keep(&manifest);
        return Ok(known(revision));
    }
    Ok(Beginning {
        revision: build(&last_good).map_err(ServerError::Unbuildable)?,
        is_known,
    })
}

/// Reads the tokens, and says in the log who may use the control API without one.
fn open_access(config: &Config) -> Result<Access, ServerError> {
    let settings = &config.access;
    if settings.is_exposed && !settings.insecure && config.tls.control.is_none() {
        warn!(
            "the control API can be reached from other hosts without TLS, so tokens can be read on \
             the way; set `--control-tls`, or have a proxy in front of it speak TLS"
        );
    }
    if settings.is_exposed && settings.insecure {
        warn!(
            "the control API can be reached from other hosts and needs no token \
             (`--insecure-control`): whoever reaches it can change every rule"
        );
    }
    let redis = config.redis.settings()?;
    Ok(Access::open(&config.store, redis, settings.clone())?)
}

fn open_store(config: &Config) -> Result<ConfigStore, ServerError> {
    let store = ConfigStore::open(&config.store, config.redis.settings()?)?;
    let Some(path) = &config.manifest else {
        return Ok(store);
    };
    if store.shared().is_some() {
        publish_first(&store, path, &config.outputs)?;
        return Ok(store);
    }
    if store.live()?.revision > 0 {
        info!("the store has a manifest; the file given by `manifest` is not used");
        return Ok(store);
    }
    let manifest = Manifest {
        revision: 1,
        rolled_back_to: None,
        ..read_manifest(path, &config.outputs)?
    };
    store.save_draft(manifest.pipeline(), &store.draft()?)?;
    store.publish(&manifest)?;
    Ok(store)
}

/// Publishes the first manifest to a Redis that has none. One that is away is for later: then the
/// manifest counts for this gate alone.
fn publish_first(
    store: &ConfigStore,
    path: &PathBuf,
    policy: &OutputPolicy,
) -> Result<(), ServerError> {
    let manifest = read_manifest(path, policy)?;
    let published = match store.next_revision() {
        Ok(1) => store.publish(&Manifest {
            revision: 1,
            rolled_back_to: None,
            ..manifest
        }),
        Ok(_) => {
            info!("the store has a manifest; the file given by `manifest` is not used");
            Ok(0)
        }
        Err(error) => Err(error),
    };
    match published {
        // Another gate was faster with the same.
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(error) => warn!(
            reason = error.to_string(),
            "the manifest given by `manifest` could not be published"
        ),
    }
    Ok(())
}

fn read_manifest(path: &PathBuf, policy: &OutputPolicy) -> Result<Manifest, ServerError> {
    use std::io::Read;
    let unreadable = |source| ServerError::UnreadableManifest {
        path: path.clone(),
        source,
    };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_MANIFEST_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    let invalid = |fault| ServerError::InvalidManifest {
        path: path.clone(),
        fault,
    };
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        let message = format!("it is larger than {MAX_MANIFEST_BYTES} bytes");
        return Err(invalid(Invalid::new("manifest_too_large", "", message)));
    }
    let written = Written::parse(&text).map_err(invalid)?;
    let in_the_file = |fault: Invalid| invalid(written.in_the_file(fault, ""));
    let pipeline = written.manifest.pipeline();
    for (at, rule) in pipeline.processors.iter().enumerate() {
        check_first_rule(rule)
            .map_err(|fault| in_the_file(fault.under(&format!("/processors/{at}"))))?;
    }
    for (at, output) in pipeline.outputs.iter().enumerate() {
        crate::gate::check_output(output, policy)
            .map_err(|fault| in_the_file(fault.under(&format!("/outputs/{at}"))))?;
    }
    Ok(written.manifest)
}

/// Checks a rule of a manifest that a new store begins with: it has no modules yet.
fn check_first_rule(rule: &Rule) -> Result<(), Invalid> {
    if rule.kind == WASM {
        return Err(Invalid::new(
            "unknown_module",
            "/type",
            "a rule of type `wasm` cannot be in the first manifest, since a new store has no \
             modules; upload its module to the running gate, then add the rule",
        ));
    }
    crate::gate::check_rule(rule)
}

/// Does work that blocks on a thread for that. `None` if the end begins first.
async fn unless_ended<T: Send + 'static>(
    end: &Shutdown,
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<Option<T>, ServerError> {
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => {
            done.map_err(io::Error::other)?.map(Some)
        }
        () = end.begun() => Ok(None),
    }
}

/// Builds what the gate begins with.
fn begin(
    store: &ConfigStore,
    config: &Config,
    build: impl Fn(&Manifest) -> Result<Revision, BuildError>,
) -> Result<Beginning, ServerError> {
    match store.shared() {
        Some(redis) => first_shared_revision(store, redis, config, build),
        None => Ok(Beginning {
            revision: build(&store.live()?).map_err(ServerError::Unbuildable)?,
            is_known: true,
        }),
    }
}

fn listening(listener: &str, address: SocketAddr) {
    info!(listener, %address, "listening");
}

impl Tls {
    /// Reads the files of all listeners.
    fn open(files: &ListenerTls) -> Result<Self, ServerError> {
        let open = |listener, files: &Option<TlsFiles>, protocols| match files {
            None => Ok(None),
            Some(files) => match ServerTls::open(listener, files.clone(), protocols) {
                Ok(tls) => Ok(Some(Arc::new(tls))),
                Err(reason) => Err(ServerError::Tls { listener, reason }),
            },
        };
        Ok(Self {
            tcp: open("tcp", &files.tcp, &[])?,
            http: open("http", &files.http, &[b"http/1.1"])?,
            control: open("control", &files.control, &[b"http/1.1"])?,
        })
    }

    fn all(&self) -> Vec<Arc<ServerTls>> {
        let all = [&self.tcp, &self.http, &self.control];
        all.into_iter().flatten().cloned().collect()
    }
}

impl Doors {
    fn bind(config: &Config) -> Result<Self, ServerError> {
        let tcp = bind(&config.tcp, "tcp", bind_tcp)?;
        if let Some(tcp) = &tcp {
            config.outputs.listeners.register("tcp", tcp.local_addr()?);
        }
        Ok(Self {
            tcp,
            udp: bind(&config.udp, "udp", |address| {
                bind_udp(address, config.udp_sockets)
            })?
            .unwrap_or_default(),
        })
    }

    /// Takes events over TCP and UDP until `end` has begun.
    fn open(
        self,
        intake: &Arc<Intake>,
        connections: usize,
        handshake: Handshake,
        end: &Shutdown,
        ingests: &mut JoinSet<()>,
    ) -> io::Result<()> {
        if let Some(udp) = self.udp.first() {
            listening("udp", udp.local_addr()?);
        }
        if let Some(listener) = self.tcp {
            listening("tcp", listener.local_addr()?);
            let (intake, end) = (Arc::clone(intake), end.clone());
            let accounts = Some((Arc::clone(&intake.books), Ingest::Tcp));
            let slots = Slots::new("tcp", connections, ingest::tcp::IDLE_AFTER, accounts);
            ingests.spawn(ingest::tcp::serve(listener, intake, slots, handshake, end));
        }
        for socket in self.udp {
            let (intake, end) = (Arc::clone(intake), end.clone());
            ingests.spawn_blocking(move || ingest::udp::serve(&socket, &intake, &end));
        }
        Ok(())
    }
}

fn bind<T>(
    listen: &Listen,
    setting: &'static str,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Option<T>, ServerError> {
    let refused = |address, source| ServerError::Listen {
        address,
        setting,
        source,
    };
    match *listen {
        Listen::Off => Ok(None),
        Listen::At(address) => match bind(address) {
            Ok(bound) => Ok(Some(bound)),
            Err(source) => Err(refused(address, source)),
        },
        Listen::Everywhere(port) => {
            let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let old = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            match bind(both) {
                Ok(bound) => Ok(Some(bound)),
                Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                    Err(refused(both, source))
                }
                // This host has no IPv6.
                Err(_) => bind(old).map(Some).map_err(|source| refused(old, source)),
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A gate that is started again must not wait for old connections to be forgotten.
    socket.set_reuse_address(true)?;
    bind_socket(&socket, address)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds sockets that share a port.
fn bind_udp(mut address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let bind = |address: SocketAddr, shared| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_reuse_port(shared)?;
        bind_socket(&socket, address)?;
        Ok::<UdpSocket, io::Error>(socket.into())
    };
    // With the port shared the kernel would not say that another program has it.
    address = bind(address, false)?.local_addr()?;
    let sockets = (0..count).map(|_| {
        let socket = bind(address, count > 1)?;
        ingest::udp::prepare(&socket)?;
        Ok(socket)
    });
    sockets.collect()
}

fn bind_socket(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}
