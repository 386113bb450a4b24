//! Receivers for the outputs benchmark: of lines and of requests, secured or not. They take what comes as
//! fast as they can, and count it.
//!
//! What arrived is compared with what was offered by a sum over all lines, each of which counts as a
//! number made from its bytes: a line that is missing, there twice or altered changes the sum, whatever
//! the order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde::Deserialize;

/// Room of one read.
const READ_BYTES: usize = 256 * 1024;
/// The largest body that is taken.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// What arrived.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    events: AtomicU64,
    sum: AtomicU64,
}

impl Tally {
    /// Counts whole lines; returns how many bytes of `bytes` they are.
    pub(crate) fn count(&self, bytes: &[u8]) -> usize {
        let (mut events, mut sum, mut from) = (0, 0_u64, 0);
        for end in memchr::memchr_iter(b'\n', bytes) {
            sum = sum.wrapping_add(number_of(&bytes[from..end]));
            events += 1;
            from = end + 1;
        }
        self.sum.fetch_add(sum, Ordering::AcqRel);
        self.events.fetch_add(events, Ordering::AcqRel);
        from
    }

    /// Counts lines that come in parts.
    ///
    /// # Errors
    /// If it cannot be read, or ends within a line.
    pub(crate) fn count_all(&self, mut source: impl Read) -> Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut filled = 0;
        loop {
            let read = source.read(&mut buffer[filled..])?;
            if read == 0 {
                ensure!(filled == 0, "what came ended within a line");
                return Ok(());
            }
            filled += read;
            let counted = self.count(&buffer[..filled]);
            buffer.copy_within(counted..filled, 0);
            filled -= counted;
            ensure!(filled < buffer.len(), "a line of {filled} bytes");
        }
    }

    /// How many events there were.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    /// The sum over all of them.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Acquire)
    }
}

/// Makes a number of a line's bytes: each eight of them are added and multiplied in.
fn number_of(line: &[u8]) -> u64 {
    // A large odd number, so that every bit of what came before counts: 2^64 over the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = line.as_chunks::<8>();
    let mut number = line.len() as u64;
    for word in words {
        number = (number.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    for &byte in rest {
        number = (number.rotate_left(23) ^ u64::from(byte)).wrapping_mul(FACTOR);
    }
    number
}

/// What a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Lines over TCP.
    Lines,
    /// Lines in the bodies of requests.
    Requests,
}

/// A receiver; it ends with the process.
pub(crate) struct Sink {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What came.
    pub(crate) tally: Arc<Tally>,
    ended: Arc<AtomicBool>,
}

impl Sink {
    /// Begins to listen, with TLS if there is a config for it.
    ///
    /// # Errors
    /// If there is no port.
    pub(crate) fn listen(protocol: Protocol, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        Self::listen_at((Ipv4Addr::LOCALHOST, 0).into(), protocol, tls)
    }

    /// Begins to listen at an address.
    ///
    /// # Errors
    /// If it is taken.
    pub(crate) fn listen_at(
        address: SocketAddr,
        protocol: Protocol,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).context("cannot listen for the gate")?;
        let sink = Self {
            address: listener.local_addr()?,
            tally: Arc::default(),
            ended: Arc::default(),
        };
        let (tally, ended) = (Arc::clone(&sink.tally), Arc::clone(&sink.ended));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (tally, tls) = (Arc::clone(&tally), tls.clone());
                // Whoever waits for events sees that they are missing.
                thread::spawn(move || serve(stream, protocol, tls, &tally));
            }
        });
        Ok(sink)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // It waits in `accept` to be told.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(
    stream: TcpStream,
    protocol: Protocol,
    tls: Option<Arc<ServerConfig>>,
    tally: &Tally,
) -> Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => take(stream, protocol, tally),
        Some(config) => {
            let connection = ServerConnection::new(config)?;
            take(StreamOwned::new(connection, stream), protocol, tally)
        }
    }
}

fn take(stream: impl Read + Write, protocol: Protocol, tally: &Tally) -> Result<()> {
    if protocol == Protocol::Lines {
        return tally.count_all(stream);
    }
    let mut reader = BufReader::with_capacity(READ_BYTES, stream);
    while let Some((length, encoding)) = read_head(&mut reader)? {
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = match encoding.as_deref() {
            None => body,
            Some("gzip") => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
                plain
            }
            Some(_) => zstd::stream::decode_all(&body[..])?,
        };
        let counted = match body.first() {
            Some(b'[') => count_objects(&body, tally)?,
            _ => tally.count(&body),
        };
        ensure!(counted == body.len(), "a body that ends within a line");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        reader.get_mut().write_all(answer)?;
    }
    Ok(())
}

/// Counts the `message`s of an array of objects, as a vendor's intake gets it.
fn count_objects(body: &[u8], tally: &Tally) -> Result<usize> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        message: std::borrow::Cow<'a, str>,
    }
    let objects: Vec<Object<'_>> = serde_json::from_slice(body)?;
    for object in objects {
        tally.count(format!("{}\n", object.message).as_bytes());
    }
    Ok(body.len())
}

/// Reads the head of a request: the length of its body, and how that is compressed. `None` at the end.
fn read_head(reader: &mut impl BufRead) -> Result<Option<(usize, Option<String>)>> {
    let (mut length, mut encoding) = (0, None);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.take(16 * 1024).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim_end().is_empty() {
            return Ok(Some((length, encoding)));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "content-encoding" => encoding = Some(value.trim().to_owned()),
            _ => {}
        }
        ensure!(length <= MAX_BODY_BYTES, "a body of {length} bytes");
    }
}

/// Makes a certificate for the loopback address in `folder` (`ca.pem`), and what a server needs to show it.
///
/// # Errors
/// If `openssl` is not there, or refuses.
pub(crate) fn certificate(folder: &Path) -> Result<Arc<ServerConfig>> {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem \
                     -out ca.pem -subj /CN=bench -addext subjectAltName=IP:127.0.0.1 \
                     -addext basicConstraints=critical,CA:FALSE";
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .context("cannot run openssl (on Debian: apt-get install openssl)")?;
    ensure!(
        made.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let certificate = CertificateDer::from_pem_file(folder.join("ca.pem"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_tells_every_difference_but_order() {
        let of = |bytes: &[u8]| {
            let tally = Tally::default();
            tally.count_all(bytes).unwrap();
            (tally.events(), tally.sum())
        };
        let expected = of(b"one event\ntwo\nand a third one\n");
        assert_eq!(of(b"and a third one\ntwo\none event\n"), expected);
        for other in [
            &b"one event\ntwo\n"[..],
            b"one event\ntwo\nand a third onf\n",
            b"one event\none event\nand a third one\n",
            b"one event\n\ntwoand a third one\n",
        ] {
            assert_ne!(of(other), expected);
        }
        assert!(Tally::default().count_all(&b"torn"[..]).is_err());
    }
}
