//! Serves a router over HTTP/1.1: the accept loop of the control API and of the HTTP ingest.
//!
//! Promises that no client can hold a connection without sending a request or without reading the
//! answer, that there are never more connections than allowed, that one which waits for its client
//! gives way to a new one when there are as many ([`Slots`]), and that running out of file
//! descriptors slows accepting instead of spinning or ending it. What bodies may be and how long
//! they may take is for the router to say.
//!
//! Our own loop, because `axum::serve` sets no timeout for the head of a request: a client that
//! sends one byte a minute would keep its connection for ever.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Uri, header},
    response::Response,
};
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Semaphore,
    task::JoinSet,
    time,
};
use tracing::{debug, warn};

use crate::{
    books::{Books, Ingest},
    handshake::{Handshake, Stream},
    memory::Peer,
    shutdown,
    slots::{Phase, Phases, Slot, Slots},
};

/// Pause after an error of `accept` that is not about one connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Shortest time between two log lines about such errors: they come in thousands.
const ACCEPT_WARN_EVERY: Duration = Duration::from_secs(1);

/// How much of a body that the router leaves unread is still read (and thrown away), and for how
/// long.
const MAX_DISCARDED_BYTES: u64 = 256 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a request that are read ahead, for each connection: what it may hold that is not
/// charged to the memory budget.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Clients that are told at the same time that there is no place for them, and how long they have
/// to read it; further ones are closed without a word.
const REFUSALS: usize = 64;
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// What they are told.
const NO_PLACE: &str = "{\"code\":\"no_place\",\"detail\":\"all connections of this listener are taken; \
    nothing of the request was read, send it again after `Retry-After`\",\"status\":503,\
    \"title\":\"Service Unavailable\",\"type\":\"about:blank\"}";

/// Number of a connection, unique in the life of the process. Each request carries it as an
/// extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// Where a request comes from. Each request carries it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Limits of one listener.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the listener is called in logs.
    pub listener: &'static str,
    /// Where connections that are closed for others, or refused, are booked.
    pub books: Option<(Arc<Books>, Ingest)>,
    /// Most connections at a time; for a further one, one that waits for its client is closed, and
    /// if there is none the new one is answered with 503. Default: 1024.
    pub max_connections: usize,
    /// Longest time for the head of a request, counted from when the connection became idle; then
    /// the connection is closed. So it is the keep-alive timeout too. Default: 10 s.
    pub head_timeout: Duration,
    /// Largest head of a request; a larger one is answered with 431. Default: 16 KiB.
    pub max_head_bytes: usize,
    /// Most header fields of a request; more are answered with 431. Default: 100.
    pub max_headers: usize,
    /// Longest time that a client may leave what was sent to it unread; then the connection is
    /// closed. On Linux only, elsewhere such a client may stay. Default: 30 s.
    pub unread_timeout: Duration,
    /// What comes before the first request. Default: nothing.
    pub handshake: Handshake,
    /// How long requests that are under way may still take after `shutdown`. Default: 10 s.
    pub grace_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listener: "http",
            books: None,
            max_connections: 1024,
            head_timeout: Duration::from_secs(10),
            max_head_bytes: 16 * 1024,
            max_headers: 100,
            unread_timeout: Duration::from_secs(30),
            handshake: Handshake::default(),
            grace_period: Duration::from_secs(10),
        }
    }
}

/// Fills in the router that [`later`] stands for.
#[derive(Debug)]
pub struct Later {
    router: Arc<OnceLock<Router>>,
}

/// Returns a router that answers by `starting` until it is replaced by another one.
pub fn later(starting: fn(&Uri) -> Response) -> (Router, Later) {
    let router = Arc::new(OnceLock::<Router>::new());
    let later = Later {
        router: Arc::clone(&router),
    };
    let answer = async move |request: Request<Body>| match router.get() {
        Some(router) => {
            let answered = TowerToHyperService::new(router.clone()).call(request);
            answered.await.unwrap_or_else(|never| match never {})
        }
        None => starting(request.uri()),
    };
    (Router::new().fallback(answer), later)
}

impl Later {
    /// Has `router` answer from now on.
    pub fn ready(self, router: Router) {
        // This is the only one who sets it.
        let _ = self.router.set(router);
    }
}

/// Serves `router` on `listener` until `shutdown` is ready, then lets requests under way end
/// within the grace period. Idle connections are closed at once; so is `listener`.
///
/// `shutdown` may be any future: `token.cancelled_owned()`, a `watch` that changes.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Slots::new(
        options.listener,
        options.max_connections,
        Duration::ZERO,
        options.books.clone(),
    );
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let graceful = GracefulShutdown::new();
    // Ends handshakes; it begins when `close` is dropped.
    let (close, closing) = shutdown::channel();
    let mut connections = JoinSet::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_buf_size(READ_AHEAD_BYTES)
        .max_header_size(options.max_head_bytes)
        .max_headers(options.max_headers);

    let mut accept_errors = AcceptErrors::of(options.listener);
    let mut ended = std::pin::pin!(shutdown);
    loop {
        let (stream, address) = tokio::select! {
            biased;
            () = &mut ended => break,
            // Takes finished ones out, so that the set is no larger than the number of slots.
            Some(done) = connections.join_next() => {
                report_panic(done);
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(err) => {
                    accept_errors.pause(&err).await;
                    continue;
                }
            }
        };
        set_socket_options(&stream, &options);
        let slot = tokio::select! {
            biased;
            () = &mut ended => break,
            slot = slots.take(Peer::from(address.ip())) => slot,
        };
        let Some(slot) = slot else {
            // In TLS it would be told more than it costs to close.
            if !options.handshake.has_tls()
                && let Ok(place) = Arc::clone(&refusals).try_acquire_owned()
            {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(place);
                });
            }
            continue;
        };
        let accepted = Accepted {
            stream,
            from: address.ip(),
            slot,
            handshake: options.handshake.clone(),
        };
        let (http, router, books) = (http.clone(), router.clone(), options.books.clone());
        let (watcher, closing) = (graceful.watcher(), closing.clone());
        connections.spawn(async move {
            let taken = tokio::select! {
                taken = accepted.handshake.take(accepted.stream, accepted.from) => taken,
                () = accepted.slot.needed() => return,
                () = closing.begun() => return,
            };
            match (taken, books) {
                (Ok((stream, from)), _) => {
                    run_connection(&http, watcher, (stream, from), accepted.slot, router).await;
                }
                (Err(_), Some((books, ingest))) => books.refused_connection(ingest),
                (Err(_), None) => {}
            }
        });
    }
    drop((listener, close));
    drain(connections, graceful, options.grace_period).await;
}

/// Tells a client that there is no place for it. What it sends meanwhile is read, so that the
/// answer is not lost in a reset.
async fn refuse(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{NO_PLACE}",
        NO_PLACE.len()
    );
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = time::timeout(REFUSAL_TIMEOUT, told).await;
}

/// Sets what a connection can also live without, so that a failure is worth no more than a line.
fn set_socket_options(stream: &TcpStream, options: &Options) {
    // An answer is written whole; waiting for more to send along only costs time.
    if let Err(err) = stream.set_nodelay(true) {
        debug!(error = %err, "could not set TCP_NODELAY");
    }
    // The kernel counts the time for us, without a timer for each write. It covers a client that
    // is gone as well as one that is there and does not read (tcp(7)).
    #[cfg(target_os = "linux")]
    if let Err(err) =
        socket2::SockRef::from(stream).set_tcp_user_timeout(Some(options.unread_timeout))
    {
        debug!(error = %err, "could not set TCP_USER_TIMEOUT");
    }
}

/// A connection with a place.
struct Accepted {
    stream: TcpStream,
    from: IpAddr,
    slot: Slot,
    handshake: Handshake,
}

/// Serves one connection; the slot is free again when it ends.
async fn run_connection(
    http: &http1::Builder,
    watcher: Watcher,
    (stream, from): (Stream, IpAddr),
    slot: Slot,
    router: Router,
) {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only uniqueness counts.
    let id = ConnectionId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
    let router = TowerToHyperService::new(router);
    let (peer, phases) = (Peer::from(from), slot.phases());
    let client = ClientAddress(from.to_canonical());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(id);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(client);
        call(router.clone(), request, phases.clone())
    });
    let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection => ended,
        () = slot.needed() => Ok(()),
    };
    if let Err(err) = ended {
        // Clients go away and time out: no concern of an operator.
        debug!(
            connection = id.0,
            error = &err as &dyn std::error::Error,
            "connection ended"
        );
    }
}

async fn call(
    router: TowerToHyperService<Router>,
    request: Request<Incoming>,
    phases: Phases,
) -> Result<Response, Infallible> {
    let expects = request.headers().contains_key(header::EXPECT);
    phases.enter(match request.body().is_end_stream() {
        true => Phase::Busy,
        false => Phase::Receiving,
    });
    let of_body = phases.clone();
    let body = |inner| Body::new(ReadToEnd::new(inner, expects, of_body));
    let answer = router.call(request.map(body)).await;
    // The client has to read the answer, and then to send the next request.
    phases.enter(Phase::Idle);
    answer
}

/// The body of a request. What the router leaves of it is read and thrown away, within bounds: a
/// client that writes its whole body before it reads would otherwise see the connection reset, and
/// never the answer.
struct ReadToEnd {
    /// None when its end was seen.
    inner: Option<Incoming>,
    /// The client waits to be asked for the body, and was not. It has sent nothing yet, and will
    /// not once it has the answer.
    unasked: bool,
    phases: Phases,
}

impl ReadToEnd {
    fn new(inner: Incoming, expects: bool, phases: Phases) -> Self {
        Self {
            inner: Some(inner),
            unasked: expects,
            phases,
        }
    }
}

impl HttpBody for ReadToEnd {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.unasked = false;
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.inner = None;
            self.phases.enter(Phase::Busy);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.as_ref();
        inner.map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else {
            return;
        };
        if self.unasked || inner.is_end_stream() {
            return;
        }
        let read_on = async move {
            let mut left = MAX_DISCARDED_BYTES;
            while let Some(Ok(frame)) = inner.frame().await {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(rest) = left.checked_sub(bytes) else {
                    return;
                };
                left = rest;
            }
        };
        // Ends with the connection, whose number is limited, and in any case at the timeout.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(time::timeout(DISCARD_TIMEOUT, read_on));
        }
    }
}

/// Waits until all connections are closed, or for the grace period.
async fn drain(mut connections: JoinSet<()>, graceful: GracefulShutdown, grace_period: Duration) {
    if time::timeout(grace_period, graceful.shutdown())
        .await
        .is_err()
    {
        warn!(
            connections = connections.len(),
            "grace period is over, closing connections"
        );
    }
    connections.shutdown().await;
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended {
        warn!(error = %err, "serving a connection failed, the connection is closed");
    }
}

/// What to do when `accept` fails.
#[derive(Debug)]
pub struct AcceptErrors {
    listener: &'static str,
    last_warning: Option<time::Instant>,
}

impl AcceptErrors {
    /// For a listener of that name.
    pub fn of(listener: &'static str) -> Self {
        Self {
            listener,
            last_warning: None,
        }
    }

    /// Waits a little, unless the error is about one connection that is gone already. Says so once
    /// in [`ACCEPT_WARN_EVERY`] at most.
    pub async fn pause(&mut self, err: &io::Error) {
        if matches!(
            err.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::Interrupted
        ) {
            return;
        }
        let now = time::Instant::now();
        if self
            .last_warning
            .is_none_or(|last| now - last >= ACCEPT_WARN_EVERY)
        {
            self.last_warning = Some(now);
            warn!(listener = self.listener, error = %err, "cannot accept connections, will retry");
        }
        time::sleep(ACCEPT_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::atomic::AtomicUsize};

    use axum::{Extension, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    async fn start(options: Options) -> Server {
        let slow = || async {
            time::sleep(Duration::from_millis(200)).await;
            "slept"
        };
        let endless = async || {
            BEGUN.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        };
        let id =
            |Extension(ConnectionId(id)): Extension<ConnectionId>| async move { id.to_string() };
        let router = Router::new()
            .route("/slow", get(slow))
            .route("/endless", get(endless))
            .route("/large", get(|| async { vec![b'x'; 64 * 1024 * 1024] }))
            .route("/id", get(id));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, options, async {
            let _ = stopped.await;
        }));
        Server {
            address,
            stop,
            task,
        }
    }

    /// Requests for `/endless` whose heads were read.
    static BEGUN: AtomicUsize = AtomicUsize::new(0);

    async fn send(address: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn read_all(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        time::timeout(WAIT, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn request_carries_the_id_of_its_connection() {
        let server = start(Options::default()).await;
        let twice = "GET /id HTTP/1.1\r\nHost: h\r\n\r\n\
                     GET /id HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let answer = read_all(send(server.address, twice).await).await;
            let ids: Vec<String> = answer
                .split("HTTP/1.1 200 OK")
                .filter_map(|one| Some(one.split_once("\r\n\r\n")?.1.to_owned()))
                .collect();
            assert_eq!(ids.len(), 2, "{answer}");
            assert_eq!(ids[0], ids[1]);
            bodies.push(ids[0].clone());
        }
        assert_ne!(bodies[0], bodies[1]);
    }

    #[tokio::test]
    async fn head_timeout_breached_closes_the_connection() {
        let options = Options {
            head_timeout: Duration::from_millis(100),
            ..Options::default()
        };
        let server = start(options).await;
        for request in ["", "GET /id HTTP/1.1\r\nHost"] {
            let answer = read_all(send(server.address, request).await).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn head_size_breached_is_answered_with_431() {
        let server = start(Options::default()).await;
        let padding = "x".repeat(Options::default().max_head_bytes);
        let long = format!("GET /id HTTP/1.1\r\nHost: h\r\nPadding: {padding}");
        let many = format!(
            "GET /id HTTP/1.1\r\nHost: h\r\n{}\r\n",
            "A: b\r\n".repeat(101)
        );
        for request in [long, many] {
            let answer = read_all(send(server.address, &request).await).await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
    }

    #[tokio::test]
    async fn connection_over_the_limit_takes_the_place_of_an_idle_one() {
        let server = start(Options {
            max_connections: 1,
            ..Options::default()
        })
        .await;
        let mut idle = send(server.address, "GET /id HTTP/1.1\r\nHost").await;
        let request = "GET /id HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let answer = read_all(send(server.address, request).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        // What it had sent may not have been read, and then it is reset.
        let ended = time::timeout(WAIT, idle.read(&mut [0; 16])).await.unwrap();
        assert_eq!(ended.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn connection_over_the_limit_is_answered_if_no_other_is_idle() {
        let server = start(Options {
            max_connections: 1,
            ..Options::default()
        })
        .await;
        let request = "GET /id HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let begun = BEGUN.load(Ordering::SeqCst);
        let _busy = send(server.address, "GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
        while BEGUN.load(Ordering::SeqCst) == begun {
            time::sleep(Duration::from_millis(1)).await;
        }
        let answer = read_all(send(server.address, request).await).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("Retry-After: 1"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{answer}"
        );
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn unread_timeout_breached_frees_the_slot() {
        let unread_timeout = Duration::from_millis(300);
        let options = Options {
            max_connections: 1,
            unread_timeout,
            ..Options::default()
        };
        let server = start(options).await;
        let _unread = send(server.address, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let request = "GET /id HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let answer = read_all(send(server.address, request).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn shutdown_waits_for_requests_and_closes_idle_connections() {
        let server = start(Options::default()).await;
        let idle = send(server.address, "").await;
        let slow = send(server.address, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
        time::sleep(Duration::from_millis(50)).await;
        server.stop.send(()).unwrap();
        time::timeout(WAIT, server.task).await.unwrap().unwrap();
        assert!(read_all(slow).await.ends_with("slept"));
        assert_eq!(read_all(idle).await, "");
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn grace_period_breached_closes_the_connection() {
        let options = Options {
            grace_period: Duration::from_millis(100),
            ..Options::default()
        };
        let server = start(options).await;
        let endless = send(server.address, "GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
        time::sleep(Duration::from_millis(50)).await;
        server.stop.send(()).unwrap();
        time::timeout(WAIT, server.task).await.unwrap().unwrap();
        assert_eq!(read_all(endless).await, "");
    }
}
