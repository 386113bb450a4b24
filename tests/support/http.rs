//! A client of HTTP/1.1 over a blocking socket: one request, one answer, one connection.
//!
//! Written out, because tests want to send what a well-behaved client does not: half a body, a
//! length that is not true.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::PATIENCE;

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(&'a str, String)>,
    pub(crate) body: Body<'a>,
    /// Whether there is a `Host` header of itself.
    has_host: bool,
    /// How long to wait for each piece of the answer.
    pub(crate) patience: Duration,
}

/// How a body is sent.
#[derive(Debug, Clone)]
pub(crate) enum Body<'a> {
    /// No body, and no header that speaks of one.
    None,
    /// With its length.
    Whole(&'a [u8]),
    /// In chunks.
    Chunked(&'a [u8]),
    /// So many zeros, with their length.
    Zeros(usize),
}

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: Body::None,
            has_host: true,
            patience: PATIENCE,
        }
    }

    pub(crate) fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Body<'a>) -> Self {
        self.body = body;
        self
    }

    /// Leaves the `Host` header to the caller.
    pub(crate) fn without_host(mut self, without: bool) -> Self {
        self.has_host = !without;
        self
    }

    /// Waits longer for the answer than [`PATIENCE`].
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn head(&self) -> String {
        let Self { method, path, .. } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if self.has_host {
            head.push_str("Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            Body::None => {}
            Body::Whole(body) => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
            Body::Zeros(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
            Body::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        head
    }

    fn write_to(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(self.head().as_bytes())?;
        match &self.body {
            Body::None => Ok(()),
            Body::Whole(body) => stream.write_all(body),
            Body::Zeros(length) => {
                let zeros = vec![0; 64 * 1024];
                let mut left = *length;
                while left > 0 {
                    let now = left.min(zeros.len());
                    stream.write_all(&zeros[..now])?;
                    left -= now;
                }
                Ok(())
            }
            Body::Chunked(body) => {
                for chunk in body.chunks(60_000) {
                    stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    stream.write_all(chunk)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")
            }
        }
    }
}

impl Answer {
    /// Returns a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads the body as JSON.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {self}"))
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        let body: String = body.chars().take(2_000).collect();
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

/// Sends a request and reads the answer while the body is still on its way, as good clients do: an
/// answer that comes early is not lost when the server closes.
///
/// # Errors
/// The connection broke before the answer was whole.
pub(crate) fn request(address: SocketAddr, request: &Request<'_>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(request.patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let reading = stream.try_clone()?;
    let reader = thread::spawn(move || read_answer(reading));
    // A server that has answered may close; the answer tells.
    let written = request.write_to(&mut stream);
    let answer = reader.join().expect("the reader does not panic");
    let _ = stream.shutdown(Shutdown::Both);
    answer.map_err(|error| match written {
        Err(write_error) => io::Error::other(format!("{error}; before that: {write_error}")),
        Ok(()) => error,
    })
}

/// Sends all of a request before it reads a byte of the answer, as many clients do.
///
/// # Errors
/// The connection broke before the request was sent or the answer was whole.
pub(crate) fn request_written_first(
    address: SocketAddr,
    request: &Request<'_>,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(request.patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    request.write_to(&mut stream)?;
    read_answer(stream)
}

/// Reads one answer: its head, then as many bytes as its `Content-Length` says.
pub(crate) fn read_answer(mut stream: impl Read) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(answer) = parse(&bytes)? {
            return Ok(answer);
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let Some((head, body)) = split_head(bytes) else {
        return Ok(None);
    };
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status in `{head}`")))?;
    let headers = parse_headers(lines);
    let length = content_length(&headers)
        .ok_or_else(|| io::Error::other(format!("no `Content-Length` in `{head}`")))?;
    Ok((body.len() >= length).then(|| Answer {
        status,
        headers,
        body: body[..length].to_vec(),
    }))
}

/// Splits at the end of the head of a message, if it has come.
pub(crate) fn split_head(bytes: &[u8]) -> Option<(String, &[u8])> {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    Some((head, &bytes[at + 4..]))
}

/// Reads header lines; names become lower-case.
pub(crate) fn parse_headers<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

/// Returns the length that the headers announce.
pub(crate) fn content_length(headers: &[(String, String)]) -> Option<usize> {
    headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
}
