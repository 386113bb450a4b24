//! A forward proxy: it hands requests in absolute form on, and opens tunnels (`CONNECT`).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{
    Port,
    http::{content_length, parse_headers, split_head},
    receiver::{LOOK_EVERY, Running, is_timeout},
};

/// A proxy, which connects to names that end in `.invalid` at 127.0.0.1.
pub(crate) struct HttpProxy {
    port: Port,
    running: Option<Running>,
    /// With TLS, if it is given.
    secured: Option<Arc<ServerConfig>>,
    /// The heads of all requests, those of tunnels included, as they came.
    heads: Arc<Mutex<Vec<String>>>,
    behavior: Behavior,
}

#[derive(Clone, Copy)]
enum Behavior {
    /// Serves every request.
    Open,
    /// Serves requests with this value of `Proxy-Authorization`, and answers others with 407.
    Expects(&'static str),
    /// Answers every request with these bytes and closes the connection.
    Answers(&'static [u8]),
}

/// A connection to a client, secured or not.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl HttpProxy {
    pub(crate) fn start() -> Self {
        Self::run(None, Behavior::Open)
    }

    /// Serves every request over TLS.
    pub(crate) fn secured(config: ServerConfig) -> Self {
        Self::run(Some(config), Behavior::Open)
    }

    pub(crate) fn expecting(authorization: &'static str) -> Self {
        Self::run(None, Behavior::Expects(authorization))
    }

    pub(crate) fn answering(bytes: &'static [u8]) -> Self {
        Self::run(None, Behavior::Answers(bytes))
    }

    fn run(secured: Option<ServerConfig>, behavior: Behavior) -> Self {
        let mut proxy = Self {
            port: Port::reserve(),
            running: None,
            secured: secured.map(Arc::new),
            heads: Arc::default(),
            behavior,
        };
        proxy.resume();
        proxy
    }

    /// Closes all connections and refuses new ones.
    pub(crate) fn pause(&mut self) {
        self.running = None;
    }

    pub(crate) fn resume(&mut self) {
        let (heads, behavior) = (Arc::clone(&self.heads), self.behavior);
        let secured = self.secured.clone();
        self.running = Some(Running::start(self.port.listen(), move |client, ended| {
            // Either side may end a connection at any time.
            let _ = match &secured {
                None => serve(client, ended, &heads, behavior),
                Some(config) => {
                    let connection = ServerConnection::new(Arc::clone(config));
                    let connection = connection.expect("a good config");
                    serve(
                        StreamOwned::new(connection, client),
                        ended,
                        &heads,
                        behavior,
                    )
                }
            };
        }));
    }

    pub(crate) fn url(&self) -> String {
        let scheme = match self.secured {
            None => "http",
            Some(_) => "https",
        };
        format!("{scheme}://{}", self.port.address())
    }

    /// Returns the heads of all requests up to now.
    pub(crate) fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.clone()
    }
}

fn serve(
    mut client: impl Stream,
    ended: &AtomicBool,
    heads: &Mutex<Vec<String>>,
    behavior: Behavior,
) -> io::Result<()> {
    while let Some((head, body)) = read_message(&mut client, ended)? {
        let mut known = heads.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(head.clone());
        drop(known);
        let mut lines = head.split("\r\n");
        let request = lines.next().unwrap_or_default();
        let headers = parse_headers(lines);
        let authorization = headers
            .iter()
            .find(|(name, _)| name == "proxy-authorization");
        match behavior {
            Behavior::Open => {}
            Behavior::Answers(bytes) => return client.write_all(bytes),
            Behavior::Expects(expected) => {
                if authorization.is_none_or(|(_, value)| value != expected) {
                    client.write_all(
                        b"HTTP/1.1 407 Tested\r\nProxy-Authenticate: Basic\r\n\
                          Content-Length: 0\r\n\r\n",
                    )?;
                    continue;
                }
            }
        }
        let mut parts = request.split(' ');
        let (method, target) = (parts.next(), parts.next().unwrap_or_default());
        if method == Some("CONNECT") {
            let mut receiver = connect(target)?;
            client.write_all(b"HTTP/1.1 200 Tested\r\n\r\n")?;
            // Each waits for a moment only.
            while !ended.load(Ordering::SeqCst)
                && relay(&mut client, &mut receiver)?
                && relay(&mut receiver, &mut client)?
            {}
            return Ok(());
        }
        let target = target.strip_prefix("http://").unwrap_or_default();
        let (host, path) = target.split_once('/').unwrap_or((target, ""));
        let mut receiver = connect(host)?;
        let mut forwarded = format!("{} /{path} HTTP/1.1\r\n", method.unwrap_or_default());
        for (name, value) in &headers {
            if !name.starts_with("proxy-") {
                forwarded.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        forwarded.push_str("\r\n");
        receiver.write_all(&[forwarded.as_bytes(), &body].concat())?;
        let Some((head, body)) = read_message(&mut receiver, ended)? else {
            return Ok(());
        };
        client.write_all(&[head.as_bytes(), b"\r\n\r\n", &body].concat())?;
    }
    Ok(())
}

fn connect(host_and_port: &str) -> io::Result<TcpStream> {
    let (host, port) = host_and_port
        .rsplit_once(':')
        .unwrap_or((host_and_port, ""));
    let host = match host.ends_with(".invalid") {
        true => "127.0.0.1",
        false => host,
    };
    let address: SocketAddr = format!("{host}:{port}").parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    Ok(stream)
}

/// Reads a head and the body of the length that it tells; `None` at the end of the connection.
fn read_message(
    stream: &mut impl Stream,
    ended: &AtomicBool,
) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while !ended.load(Ordering::SeqCst) {
        if let Some((head, body)) = split_head(&bytes) {
            let headers = parse_headers(head.split("\r\n").skip(1));
            let length = content_length(&headers).unwrap_or_default();
            if let Some(body) = body.get(..length) {
                return Ok(Some((head, body.to_vec())));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Copies what has come from one side to the other; `false` at the end of the connection.
fn relay(from: &mut impl Stream, to: &mut impl Stream) -> io::Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    match from.read(&mut buffer) {
        Ok(read) => to.write_all(&buffer[..read]).map(|()| read > 0),
        Err(error) if is_timeout(&error) => Ok(true),
        Err(error) => Err(error),
    }
}
