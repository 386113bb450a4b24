//! What stands behind the gate: receivers of lines over TCP and of requests, which record what
//! arrives and may misbehave.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{
    Capture, Port, eventually, holds_within,
    http::{content_length, parse_headers, split_head},
};

/// How often a thread that waits on a socket looks whether it is to end.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A receiver of lines over TCP.
pub(crate) struct TcpReceiver {
    address: SocketAddr,
    /// All that arrived, over all connections, in the order in which it came.
    pub(crate) received: Capture,
    running: Option<Running>,
    port: Port,
}

/// The threads of a receiver; they end when this is dropped.
pub(super) struct Running {
    ended: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl TcpReceiver {
    /// Takes whatever comes.
    pub(crate) fn start() -> Self {
        let mut receiver = Self::absent();
        receiver.resume();
        receiver
    }

    /// Has an address that refuses connections until [`Self::resume`].
    pub(crate) fn absent() -> Self {
        let port = Port::reserve();
        Self {
            address: port.address(),
            received: Capture::default(),
            running: None,
            port,
        }
    }

    /// Hands what comes, connection by connection, to a function of the test instead of keeping it.
    pub(crate) fn watching<W>(watcher: impl Fn() -> W + Send + Sync + 'static) -> Self
    where
        W: FnMut(&[u8]) + Send + 'static,
    {
        let mut receiver = Self::absent();
        receiver.run(move |stream, ended| read_all(stream, ended, watcher()));
        receiver
    }

    /// Accepts connections and never reads from them.
    pub(crate) fn hanging() -> Self {
        let mut receiver = Self::absent();
        receiver.run(|stream, ended| {
            while !ended.load(Ordering::SeqCst) {
                thread::park_timeout(LOOK_EVERY);
            }
            drop(stream);
        });
        receiver
    }

    /// Accepts connections again.
    pub(crate) fn resume(&mut self) {
        let received = self.received.clone();
        self.run(move |stream, ended| {
            let received = received.clone();
            read_all(stream, ended, move |bytes| received.push(bytes));
        });
    }

    /// Takes whatever comes, over TLS.
    pub(crate) fn secured(config: ServerConfig) -> Self {
        let config = Arc::new(config);
        let mut receiver = Self::absent();
        let received = receiver.received.clone();
        receiver.run(move |stream, ended| {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a good config");
            let received = received.clone();
            let stream = StreamOwned::new(connection, stream);
            read_all(stream, ended, move |bytes| received.push(bytes));
        });
        receiver
    }

    /// Closes all connections and refuses new ones.
    pub(crate) fn pause(&mut self) {
        self.running = None;
    }

    fn run(&mut self, serve: impl Fn(TcpStream, &AtomicBool) + Send + Sync + 'static) {
        assert!(self.running.is_none(), "the receiver runs already");
        self.running = Some(Running::start(self.port.listen(), serve));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Running {
    pub(super) fn start(
        listener: TcpListener,
        serve: impl Fn(TcpStream, &AtomicBool) + Send + Sync + 'static,
    ) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let serve = Arc::new(serve);
        let accepting = thread::spawn(move || {
            listener
                .set_nonblocking(true)
                .expect("an option of sockets");
            let mut connections = Vec::new();
            while !until.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (serve, until) = (Arc::clone(&serve), Arc::clone(&until));
                        connections.push(thread::spawn(move || {
                            stream.set_nonblocking(false).expect("an option of sockets");
                            let limit = Some(LOOK_EVERY);
                            stream
                                .set_read_timeout(limit)
                                .expect("an option of sockets");
                            serve(stream, &until);
                        }));
                    }
                    Err(_) => thread::park_timeout(Duration::from_millis(2)),
                }
            }
            drop(listener);
            for connection in connections {
                // A watcher that panicked failed its test by what is missing.
                let _ = connection.join();
            }
        });
        Self {
            ended,
            threads: vec![accepting],
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for TcpReceiver {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the TCP receiver got {}", self.received.tail());
        }
    }
}

fn read_all(mut stream: impl Read, ended: &AtomicBool, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 256 * 1024];
    while !ended.load(Ordering::SeqCst) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => take(&buffer[..read]),
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// A request that came whole.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// When it had come whole.
    pub(crate) at: Instant,
    /// Whether it was answered with a success.
    pub(crate) taken: bool,
}

impl Received {
    /// Returns the value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// With this status.
    Status(u16),
    /// With this status and these header lines.
    With(u16, &'static str),
    /// With this status and this body.
    Body(u16, String),
    /// With these bytes, whatever they are, and the end of the connection.
    Raw(&'static [u8]),
    /// With 200 and a body that never ends, a byte every 20 ms.
    Trickle,
    /// With 200 and a body of so many bytes.
    Flood(usize),
    /// By resetting the connection.
    Reset,
    /// With 200, after so long.
    Late(Duration),
    /// Never; the connection stays open.
    Hang,
    /// By closing the connection.
    Close,
}

/// A receiver of `POST` requests.
pub(crate) struct HttpReceiver {
    scheme: &'static str,
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Received>>>,
    _running: Running,
    _port: Port,
}

impl HttpReceiver {
    /// Answers everything with 200.
    pub(crate) fn start() -> Self {
        Self::answering(|_| Reply::Status(200))
    }

    /// Answers the request of that number, from 0, as the function says.
    pub(crate) fn answering(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(move |number, _| reply(number))
    }

    /// Answers each request as the function says.
    pub(crate) fn judging(reply: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(move |_, request| reply(request))
    }

    fn run(reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Self {
        let port = Port::reserve();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&requests);
        let running = Running::start(port.listen(), move |stream, ended| {
            // The gate may go away at any time, and a test sees what did not arrive.
            let _ = serve(stream, ended, &record, &reply);
        });
        Self {
            scheme: "http",
            address: port.address(),
            requests,
            _running: running,
            _port: port,
        }
    }

    /// Answers everything with 200, over TLS.
    pub(crate) fn secured(config: ServerConfig) -> Self {
        let config = Arc::new(config);
        let port = Port::reserve();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&requests);
        let running = Running::start(port.listen(), move |stream, ended| {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a good config");
            // Whether a client is content with us is what tests are about.
            let stream = StreamOwned::new(connection, stream);
            let reply = |_, _: &Received| Reply::Status(200);
            let _ = serve(stream, ended, &record, &reply);
        });
        Self {
            scheme: "https",
            address: port.address(),
            requests,
            _running: running,
            _port: port,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns all requests up to now.
    pub(crate) fn requests(&self) -> Vec<Received> {
        lock(&self.requests).clone()
    }

    /// Returns the bodies of the requests that were taken, one after the other.
    pub(crate) fn taken(&self) -> Vec<u8> {
        let requests = lock(&self.requests);
        let taken = requests.iter().filter(|request| request.taken);
        taken.flat_map(|request| request.body.clone()).collect()
    }

    /// Waits until exactly `expected` is what was taken.
    #[track_caller]
    pub(crate) fn wait_for(&self, expected: &[u8]) {
        let taken = || -> usize {
            let requests = lock(&self.requests);
            let taken = requests.iter().filter(|request| request.taken);
            taken.map(|request| request.body.len()).sum()
        };
        eventually("the requests arrive", || taken() >= expected.len());
        super::capture::assert_same_bytes(&self.taken(), expected);
    }
}

impl Drop for HttpReceiver {
    fn drop(&mut self) {
        if thread::panicking() {
            let requests = lock(&self.requests);
            eprintln!("--- the HTTP receiver got {} requests", requests.len());
            for request in requests.iter().rev().take(3).rev() {
                let body = &request.body[..request.body.len().min(500)];
                eprintln!("{} {}", request.line, body.escape_ascii());
            }
        }
    }
}

fn lock(requests: &Mutex<Vec<Received>>) -> MutexGuard<'_, Vec<Received>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection, secured or not.
trait Stream: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

fn serve(
    mut stream: impl Stream,
    ended: &AtomicBool,
    requests: &Mutex<Vec<Received>>,
    reply: &impl Fn(usize, &Received) -> Reply,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while !ended.load(Ordering::SeqCst) {
        if let Some((received, length)) = parse(&bytes) {
            bytes.drain(..length);
            let reply = answer(requests, received, reply);
            match reply {
                Reply::Status(status) => write_answer(&mut stream, status, "", "ok")?,
                Reply::With(status, headers) => write_answer(&mut stream, status, headers, "ok")?,
                Reply::Body(status, body) => write_answer(&mut stream, status, "", &body)?,
                Reply::Flood(bytes) => write_answer(&mut stream, 200, "", &"x".repeat(bytes))?,
                Reply::Late(pause) => {
                    holds_within(pause, || ended.load(Ordering::SeqCst));
                    write_answer(&mut stream, 200, "", "ok")?;
                }
                Reply::Raw(bytes) => return stream.write_all(bytes),
                Reply::Trickle => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    while !ended.load(Ordering::SeqCst) {
                        stream.write_all(b"1\r\nx\r\n")?;
                        thread::park_timeout(LOOK_EVERY);
                    }
                    return Ok(());
                }
                Reply::Reset => {
                    let now = Some(Duration::ZERO);
                    socket2::SockRef::from(stream.socket()).set_linger(now)?;
                    return Ok(());
                }
                Reply::Close => return Ok(()),
                Reply::Hang => {
                    // For as long as the test; a deadline of its own only bounds a mistake.
                    holds_within(Duration::from_secs(300), || ended.load(Ordering::SeqCst));
                    return Ok(());
                }
            }
            continue;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Records a request before it is answered, so that who has the answer can see it.
fn answer(
    requests: &Mutex<Vec<Received>>,
    mut received: Received,
    reply: &impl Fn(usize, &Received) -> Reply,
) -> Reply {
    let mut requests = lock(requests);
    let reply = reply(requests.len(), &received);
    received.taken = matches!(
        reply,
        Reply::Status(200..300)
            | Reply::With(200..300, _)
            | Reply::Body(200..300, _)
            | Reply::Late(_)
            | Reply::Flood(_)
    );
    requests.push(received);
    reply
}

fn parse(bytes: &[u8]) -> Option<(Received, usize)> {
    let (head, body) = split_head(bytes)?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = parse_headers(lines);
    let length = content_length(&headers).unwrap_or_default();
    let body = body.get(..length)?;
    let received = Received {
        line,
        headers,
        body: body.to_vec(),
        at: Instant::now(),
        taken: false,
    };
    Some((received, head.len() + 4 + length))
}

fn write_answer(stream: &mut impl Write, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status} Tested\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes())
}
