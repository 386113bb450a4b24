//! What comes before the bytes of a connection: the PROXY header and TLS, where they are switched
//! on.
//!
//! A PROXY header (version 1 or 2) says for whom a load balancer connects. Where it is switched on
//! it must be there, since anybody could write one. No byte more than the header is read.
//!
//! Certificates are read again every [`RELOAD_EVERY`] and at SIGHUP; a connection keeps those that
//! it began with. Files that cannot be used are told, and change nothing.
//!
//! Sources: "The PROXY protocol, versions 1 & 2" (HAProxy, 2020); RFC 8446 (TLS 1.3).

use std::{
    io,
    net::IpAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ppp::{HeaderResult, PartialResult, v1, v2};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

use crate::{
    digest::Digest,
    pem::{self, authorities, certificates, private_key, provider},
    shutdown::Shutdown,
};

/// Time from one look at the files of certificates to the next.
pub const RELOAD_EVERY: Duration = Duration::from_secs(30);

/// Longest time for the PROXY header and the TLS handshake together.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Largest PROXY header, in bytes. Version 1 has 107 at most, version 2 has 52 and some extensions.
const MAX_PROXY_BYTES: usize = 4096;

/// The shortest header, `PROXY UNKNOWN\r\n`; version 2 has one byte more before its addresses.
const SHORTEST_PROXY_BYTES: usize = 15;

/// The longest header of version 1.
const LONGEST_V1_BYTES: usize = 107;

/// Shortest time between two log lines about connections that were refused.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// The files of a listener's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate to show, and those that lead to its authority (PEM).
    pub certificate: PathBuf,
    /// The private key of that certificate (PEM).
    pub key: PathBuf,
    /// The authorities, one of which must have signed a certificate of the client (PEM). Without
    /// them none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// What a listener asks of a connection before its bytes; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    listener: &'static str,
    tls: Option<Arc<ServerTls>>,
    has_proxy_header: bool,
    warned: Arc<Mutex<Option<Instant>>>,
}

/// The TLS of a listener, as its files were read last.
#[derive(Debug)]
pub struct ServerTls {
    listener: &'static str,
    files: TlsFiles,
    protocols: &'static [&'static [u8]],
    config: ArcSwap<ServerConfig>,
    /// What the files held when they were read last.
    read: Mutex<Read>,
}

#[derive(Debug, PartialEq)]
enum Read {
    Files(Vec<Digest>),
    Failed(String),
}

/// A connection whose bytes are the peer's.
#[derive(Debug)]
pub enum Stream {
    /// As the socket has them.
    Plain(TcpStream),
    /// Out of TLS. Boxed, since it is much larger.
    Tls(Box<TlsStream<TcpStream>>),
}

impl TlsFiles {
    /// Reads `cert=FILE,key=FILE[,client-ca=FILE]`.
    ///
    /// # Errors
    /// Says what was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected `cert=FILE,key=FILE`, and `,client-ca=FILE` to ask clients for a \
                        certificate";
        let (mut certificate, mut key, mut client_ca) = (None, None, None);
        for part in text.split(',') {
            let slot = match part.split_once('=') {
                Some(("cert", path)) if !path.is_empty() => (&mut certificate, path),
                Some(("key", path)) if !path.is_empty() => (&mut key, path),
                Some(("client-ca", path)) if !path.is_empty() => (&mut client_ca, path),
                _ => return Err(format!("`{part}` is not known; {expected}")),
            };
            if slot.0.replace(PathBuf::from(slot.1)).is_some() {
                return Err(format!("`{part}` is given twice; {expected}"));
            }
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Self {
                certificate,
                key,
                client_ca,
            }),
            (None, _) => Err(format!("`cert` is missing; {expected}")),
            (_, None) => Err(format!("`key` is missing; {expected}")),
        }
    }
}

impl ServerTls {
    /// Reads the files. `protocols` is what is offered by ALPN. Blocks.
    ///
    /// # Errors
    /// A file cannot be read, or they do not belong together.
    pub fn open(
        listener: &'static str,
        files: TlsFiles,
        protocols: &'static [&'static [u8]],
    ) -> Result<Self, String> {
        let config = server_config(&files, protocols)?;
        Ok(Self {
            listener,
            read: Mutex::new(content(&files)),
            files,
            protocols,
            config: ArcSwap::from_pointee(config),
        })
    }

    /// Reads the files again if they hold something else. Blocks.
    fn reload(&self) {
        let found = content(&self.files);
        let mut read = self.read.lock();
        if *read == found {
            return;
        }
        match server_config(&self.files, self.protocols) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                info!(listener = self.listener, "read the certificates again");
            }
            Err(reason) => warn!(
                listener = self.listener,
                reason, "the new certificates cannot be used; those that were read last count"
            ),
        }
        *read = found;
    }
}

/// What the files hold: changes are seen by it, whatever their times say.
fn content(files: &TlsFiles) -> Read {
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    let read: Result<Vec<_>, _> = paths
        .into_iter()
        .flatten()
        .map(|path| pem::read(path).map(|content| Digest::of(&content)))
        .collect();
    match read {
        Ok(digests) => Read::Files(digests),
        Err(error) => Read::Failed(error),
    }
}

fn server_config(files: &TlsFiles, protocols: &[&[u8]]) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| format!("`{}`: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!(
            "`{}` and `{}` do not belong together: {error}",
            files.certificate.display(),
            files.key.display()
        )
    })?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Reads certificates again from time to time and at SIGHUP, when `at_hangup` is called too, until
/// the end has begun.
pub async fn reload(all: Vec<Arc<ServerTls>>, at_hangup: fn(), end: Shutdown) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            () = end.begun() => return Ok(()),
            () = sleep(RELOAD_EVERY) => {}
            _ = hangup.recv() => at_hangup(),
        }
        let all = all.clone();
        // A file system that hangs holds up nothing but this.
        let _ = tokio::task::spawn_blocking(move || all.iter().for_each(|tls| tls.reload())).await;
    }
}

impl Handshake {
    /// Asks for these.
    pub fn new(
        listener: &'static str,
        tls: Option<Arc<ServerTls>>,
        has_proxy_header: bool,
    ) -> Self {
        Self {
            listener,
            tls,
            has_proxy_header,
            warned: Arc::default(),
        }
    }

    /// Whether bytes of connections are encrypted.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Takes what comes before the bytes. Returns the connection, and the address that it is from.
    ///
    /// # Errors
    /// The peer does not send what it has to, or not in time.
    pub async fn take(&self, stream: TcpStream, address: IpAddr) -> io::Result<(Stream, IpAddr)> {
        if self.tls.is_none() && !self.has_proxy_header {
            return Ok((Stream::Plain(stream), address));
        }
        let taken = timeout(HANDSHAKE_LIMIT, self.take_now(stream, address)).await;
        let taken = taken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        taken.inspect_err(|error| self.note_refused(address, error))
    }

    async fn take_now(
        &self,
        mut stream: TcpStream,
        mut address: IpAddr,
    ) -> io::Result<(Stream, IpAddr)> {
        if self.has_proxy_header {
            address = proxied(&mut stream).await?.unwrap_or(address);
        }
        let Some(tls) = &self.tls else {
            return Ok((Stream::Plain(stream), address));
        };
        let acceptor = TlsAcceptor::from(tls.config.load_full());
        let stream = acceptor.accept(stream).await?;
        Ok((Stream::Tls(Box::new(stream)), address))
    }

    fn note_refused(&self, address: IpAddr, error: &io::Error) {
        let mut warned = self.warned.lock();
        if warned.is_some_and(|warned| warned.elapsed() < WARN_EVERY) {
            return;
        }
        *warned = Some(Instant::now());
        warn!(
            listener = self.listener,
            from = %address,
            %error,
            "refused a connection: its PROXY header or TLS handshake failed"
        );
    }
}

/// Takes the PROXY header out of a connection, and no byte more. `None` if it names no address: the
/// load balancer connects for itself.
async fn proxied(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; SHORTEST_PROXY_BYTES];
    stream.read_exact(&mut header).await?;
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        // The fixed part has one byte more; the last two of it are the length of the rest.
        read_more(stream, &mut header, 1).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if header.len() + rest > MAX_PROXY_BYTES {
            return Err(invalid(format!(
                "the PROXY header has {} bytes; expected at most {MAX_PROXY_BYTES}",
                header.len() + rest
            )));
        }
        read_more(stream, &mut header, rest).await?;
    } else if header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        // It ends with its line. What follows belongs to somebody else, so it comes byte by byte.
        while !header.ends_with(b"\r\n") && header.len() < LONGEST_V1_BYTES {
            read_more(stream, &mut header, 1).await?;
        }
    }
    read_header(&HeaderResult::parse(&header))
}

async fn read_more(stream: &mut TcpStream, header: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    let from = header.len();
    header.resize(from + bytes, 0);
    stream.read_exact(&mut header[from..]).await.map(|_| ())
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The address of a header.
fn read_header(header: &HeaderResult<'_>) -> io::Result<Option<IpAddr>> {
    if header.is_incomplete() {
        return Err(invalid("the PROXY header is not whole".to_owned()));
    }
    match header {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            _ if header.command == v2::Command::Local => None,
            v2::Addresses::IPv4(addresses) => Some(addresses.source_address.into()),
            v2::Addresses::IPv6(addresses) => Some(addresses.source_address.into()),
            v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
        }),
        HeaderResult::V1(Err(error)) => Err(invalid(format!("there is no PROXY header: {error}"))),
        HeaderResult::V2(Err(error)) => Err(invalid(format!("there is no PROXY header: {error}"))),
    }
}

impl Stream {
    /// Waits until a read would not wait for the peer, or might not.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => {
                let (socket, session) = stream.get_ref();
                // What was decrypted already is not in the socket any more.
                match session.wants_read() {
                    false => Poll::Ready(Ok(())),
                    true => socket.poll_read_ready(cx),
                }
            }
        }
    }

    /// The socket that the bytes come over.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// Sends bytes in pieces, and returns the address and what is read behind the header.
    async fn sent(pieces: &[&[u8]]) -> io::Result<(Option<IpAddr>, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut client = TcpStream::connect(address).await?;
        let (mut server, _) = listener.accept().await?;
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let sending = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await?;
                tokio::task::yield_now().await;
            }
            client.shutdown().await
        });
        let address = proxied(&mut server).await?;
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await?;
        sending.await??;
        Ok((address, rest))
    }

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    #[tokio::test]
    async fn headers_of_both_versions_are_taken_out_whole() {
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let text = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nline\n";
        let v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\nline\n";
        let mut binary = V2.to_vec();
        binary.extend([0x21, 0x11, 0, 12, 192, 0, 2, 3, 192, 0, 2, 4, 0, 1, 0, 2]);
        binary.extend(b"line\n");
        let mut local = V2.to_vec();
        local.extend([0x20, 0, 0, 0]);
        local.extend(b"line\n");
        for (bytes, expected) in [
            (text.as_slice(), address("192.0.2.1")),
            (v6, address("2001:db8::1")),
            (b"PROXY UNKNOWN\r\nline\n", None),
            (&binary, address("192.0.2.3")),
            (&local, None),
        ] {
            let whole = sent(&[bytes]).await.unwrap();
            assert_eq!(whole, (expected, b"line\n".to_vec()));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(sent(&pieces).await.unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let mut too_long = V2.to_vec();
        too_long.extend([0x21, 0x11, 0xff, 0xff]);
        too_long.extend([0; 5000]);
        for bytes in [
            b"INFO a line\n".as_slice(),
            b"PROXY TCP4 192.0.2.1\r\nline\n",
            b"PROXY TCP4 999.0.2.1 192.0.2.2 1 2\r\n",
            &[b'P'; 5000],
            &too_long,
            b"PROXY TCP4 19",
            b"",
        ] {
            let refused = timeout(Duration::from_secs(5), sent(&[bytes])).await;
            assert!(!matches!(refused, Ok(Ok(_))), "{bytes:?}");
        }
    }

    #[test]
    fn files_are_named_by_what_they_are() {
        let files = TlsFiles::parse("cert=/a.pem,key=/a.key").unwrap();
        assert_eq!(files.client_ca, None);
        let files = TlsFiles::parse("key=/a.key,client-ca=/ca.pem,cert=/a.pem").unwrap();
        assert_eq!(files.client_ca, Some(PathBuf::from("/ca.pem")));
        for wrong in [
            "",
            "/a.pem,/a.key",
            "cert=/a.pem",
            "key=/a.key",
            "cert=/a.pem,key=",
            "cert=/a.pem,key=/a.key,key=/b.key",
            "cert=/a.pem,key=/a.key,ca=/ca.pem",
        ] {
            assert!(TlsFiles::parse(wrong).is_err(), "{wrong}");
        }
    }
}
