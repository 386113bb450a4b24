//! Events as lines over one TCP connection, in order.
//!
//! A lost connection is made again; an event that was written only in part is sent again from its
//! start. TCP has no acknowledgement that a program could see: what the kernel took counts as sent.

use std::{
    fmt::Debug,
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    OutputState,
    console::{MAX_SLICES, failed},
    destination::OutputPolicy,
    http::allowed_addresses,
    queue::Group,
    runner::Attempt,
    settings::{TcpSettings, host_of, port_of},
    tls::{self, CertificateAsked},
};

/// How long a connection, with its TLS, may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A receiver that takes no byte for so long is given up, and connected to again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a receiver that asked for a certificate is given to say that it does not accept ours.
/// In TLS 1.3 the handshake is over for the gate before the receiver has looked at the certificate
/// (RFC 8446, section 2), and events that were sent meanwhile would be lost without an error.
const REJECTION_TIME: Duration = Duration::from_secs(1);

/// How long the receiver may take to close its side at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends lines to one receiver.
#[derive(Debug)]
pub(super) struct TcpLines {
    settings: TcpSettings,
    policy: OutputPolicy,
    tls: Option<(Arc<ClientConfig>, CertificateAsked)>,
    stream: Option<Box<dyn Stream>>,
}

/// A connection, secured or not.
trait Stream: AsyncRead + AsyncWrite + Debug + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Debug + Send + Sync + Unpin> Stream for S {}

impl TcpLines {
    pub(super) fn new(settings: TcpSettings, policy: OutputPolicy) -> Result<Self, String> {
        let tls = match &settings.tls {
            None => None,
            given => {
                let mut config = tls::client_config(given.as_ref()).map_err(|(_, error)| error)?;
                let asked = CertificateAsked::watch(&mut config);
                Some((Arc::new(config), asked))
            }
        };
        Ok(Self {
            settings,
            policy,
            tls,
            stream: None,
        })
    }

    pub(super) async fn send(
        &mut self,
        group: &Group,
        done: usize,
        state: &OutputState,
    ) -> Attempt {
        let mut written = 0;
        let secured = self.tls.is_some();
        let stream = match self.connected().await {
            Ok(stream) => stream,
            Err(error) => {
                let error = format!("cannot connect to {}: {error}", self.settings.address);
                return failed(group, done, 0, error);
            }
        };
        let cause = loop {
            let slices: Vec<IoSlice<'_>> = group
                .slices(done + written)
                .take(MAX_SLICES)
                .map(IoSlice::new)
                .collect();
            if slices.is_empty() {
                // TLS holds bytes back until it is told to send them.
                match timeout(WRITE_TIMEOUT, stream.flush()).await {
                    Ok(Ok(())) => return Attempt::Sent { bytes: written },
                    Ok(Err(error)) => break error,
                    Err(_) => break io::Error::from(io::ErrorKind::TimedOut),
                }
            }
            match timeout(WRITE_TIMEOUT, stream.write_vectored(&slices)).await {
                Ok(Ok(0)) => break io::Error::from(io::ErrorKind::WriteZero),
                Ok(Ok(bytes)) => {
                    written += bytes;
                    state.progressed();
                }
                Ok(Err(error)) => break error,
                Err(_) => break io::Error::from(io::ErrorKind::TimedOut),
            }
        };
        self.stream = None;
        let error = format!("cannot send to {}: {cause}", self.settings.address);
        // What TLS took may not have left; sending it again is better than losing it.
        let written = if secured { 0 } else { written };
        failed(group, done, written, error)
    }

    /// Ends the stream in order, so that what was written is not cut off by a reset.
    pub(super) async fn finish(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        if stream.shutdown().await.is_ok() {
            let mut ignored = [0; 512];
            let closed = async { while stream.read(&mut ignored).await.is_ok_and(|n| n > 0) {} };
            // A receiver that keeps talking or stays open is not waited for.
            let _ = timeout(FINISH_TIMEOUT, closed).await;
        }
    }

    async fn connected(&mut self) -> io::Result<&mut Box<dyn Stream>> {
        if self.stream.as_mut().is_some_and(was_closed) {
            self.stream = None;
        }
        if self.stream.is_none() {
            let stream = timeout(CONNECT_TIMEOUT, self.connect()).await??;
            self.stream = Some(stream);
        }
        Ok(self.stream.as_mut().expect("was just set"))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let address = &self.settings.address;
        let host = host_of(address);
        let addresses = allowed_addresses(host, port_of(address), &self.policy).await?;
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        // A last small write must not wait for the acknowledgement of the one before it.
        stream.set_nodelay(true)?;
        let Some((tls, certificate)) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(tls));
        certificate.forget();
        let mut stream = connector.connect(name, stream).await?;
        if certificate.was_asked() {
            let mut said = [0; 512];
            match timeout(REJECTION_TIME, stream.read(&mut said)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
        Ok(Box::new(stream))
    }
}

/// Whether the receiver has closed; writing to it would seem to work once. Costs no system call
/// while nothing came back. What a receiver says is read and ignored.
fn was_closed(stream: &mut Box<dyn Stream>) -> bool {
    let mut ignored = [0; 512];
    for _ in 0..16 {
        match stream.read(&mut ignored).now_or_never() {
            None => return false,
            Some(Ok(read)) if read > 0 => {}
            Some(_) => return true,
        }
    }
    false
}
