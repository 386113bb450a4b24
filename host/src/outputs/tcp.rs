//! Events as lines over one TCP connection, in order.
//!
//! A lost connection is made again; an event that was written only in part is sent again from its
//! start. TCP has no acknowledgement that a program could see: what the kernel took counts as sent.

use std::{
    io::{self, IoSlice},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    OutputState,
    console::{MAX_SLICES, failed},
    queue::Group,
    runner::Attempt,
    settings::TcpSettings,
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A receiver that takes no byte for so long is given up, and connected to again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the receiver may take to close its side at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends lines to one receiver.
#[derive(Debug)]
pub(super) struct TcpLines {
    settings: TcpSettings,
    stream: Option<TcpStream>,
}

impl TcpLines {
    pub(super) fn new(settings: TcpSettings) -> Self {
        Self {
            settings,
            stream: None,
        }
    }

    pub(super) async fn send(
        &mut self,
        group: &Group,
        done: usize,
        state: &OutputState,
    ) -> Attempt {
        let mut written = 0;
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
                return Attempt::Sent { bytes: written };
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

    async fn connected(&mut self) -> io::Result<&mut TcpStream> {
        if self.stream.as_ref().is_some_and(was_closed) {
            self.stream = None;
        }
        if self.stream.is_none() {
            let connecting = TcpStream::connect(&self.settings.address);
            let stream = timeout(CONNECT_TIMEOUT, connecting).await??;
            // A last small write must not wait for the acknowledgement of the one before it.
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(self.stream.as_mut().expect("was just set"))
    }
}

/// Whether the receiver has closed; writing to it would seem to work once. Costs no system call
/// while nothing came back. What a receiver says is read and ignored.
fn was_closed(stream: &TcpStream) -> bool {
    let mut ignored = [0; 512];
    for _ in 0..16 {
        match stream.try_read(&mut ignored) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}
