//! Lines in datagrams: one or more in each; the last one counts without a line feed.
//!
//! Nothing can push a sender of UDP back: what does not fit in the memory budget is shed and
//! counted. Datagrams that wait in the socket are gathered in one batch.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};
use streamgate_guest::count_events;
use tokio::{io::Interest, net::UdpSocket, time::sleep};
use tracing::warn;

use super::{
    Intake, Lane,
    framing::{TRUNCATED, cut_long_lines},
};
use crate::{
    books::{Ingest, ShedReason},
    memory::{Block, BlockSize},
    shutdown::Shutdown,
};

/// Largest datagram of UDP over IP: a length field of 16 bits.
pub const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Room that the kernel is asked to keep for datagrams we have not read yet. It grants what
/// `net.core.rmem_max` allows.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Pause after an error of the socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// How long a socket that datagrams keep coming to is still read after shutdown has begun.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Datagrams read in a row before other tasks have their turn.
const DATAGRAMS_A_TURN: usize = 256;

/// Asks for a large receive buffer; the kernel may grant less.
pub fn enlarge_receive_buffer(socket: &UdpSocket) {
    if let Err(error) = socket2::SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        warn!(%error, "cannot enlarge the receive buffer of the UDP socket");
    }
}

/// Serves a socket until shutdown, and then until it is empty.
pub async fn serve(socket: UdpSocket, intake: Arc<Intake>, shutdown: Shutdown) {
    let lane = intake.lane(Ingest::Udp);
    let datagram = vec![0; intake.limits.max_datagram_bytes];
    let mut receiver = Receiver {
        intake,
        lane,
        datagram,
        block: None,
        filled: 0,
    };
    let mut drain_until = None;
    loop {
        if shutdown.has_begun() {
            let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN_TIME);
            if Instant::now() > until {
                return;
            }
        } else {
            tokio::select! {
                ready = socket.readable() => if let Err(error) = ready {
                    warn!(%error, "the UDP socket failed, will try again");
                    sleep(ERROR_PAUSE).await;
                },
                () = shutdown.begun() => {}
            }
        }
        match receiver.read_a_turn(&socket) {
            Ok(Turn::More) => tokio::task::yield_now().await,
            Ok(Turn::Empty) if shutdown.has_begun() => return,
            Ok(Turn::Empty) => {}
            Err(error) => {
                warn!(%error, "cannot read from the UDP socket, will try again");
                if shutdown.has_begun() {
                    return;
                }
                sleep(ERROR_PAUSE).await;
            }
        }
    }
}

enum Turn {
    More,
    Empty,
}

struct Receiver {
    intake: Arc<Intake>,
    lane: Lane,
    /// The datagram that was read last.
    datagram: Vec<u8>,
    /// Where datagrams are gathered, and up to where it is filled.
    block: Option<Block>,
    filled: usize,
}

impl Receiver {
    /// Reads datagrams until the socket is empty or others must have their turn, and sends them.
    fn read_a_turn(&mut self, socket: &UdpSocket) -> io::Result<Turn> {
        let mut turn = Ok(Turn::More);
        for _ in 0..DATAGRAMS_A_TURN {
            match self.receive(socket) {
                Ok((length, truncated)) => self.gather(length, truncated),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    turn = Ok(Turn::Empty);
                    break;
                }
                Err(error) => {
                    turn = Err(error);
                    break;
                }
            }
        }
        self.flush();
        turn
    }

    /// Reads one datagram; also says whether the kernel had to cut it. `recv` would not say.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<(usize, bool)> {
        let datagram = &mut self.datagram;
        socket.try_io(Interest::READABLE, || {
            let mut slices = [IoSliceMut::new(datagram)];
            let mut control = RecvAncillaryBuffer::default();
            let received = recvmsg(
                socket.as_fd(),
                &mut slices,
                &mut control,
                RecvFlags::empty(),
            )?;
            Ok((received.bytes, received.flags.contains(ReturnFlags::TRUNC)))
        })
    }

    /// Appends the lines of a datagram to the batch; an empty datagram has none.
    fn gather(&mut self, length: usize, truncated: bool) {
        if length == 0 {
            return;
        }
        // The mark and the line feed that may have to be added.
        let needed = length + TRUNCATED.len() + 1;
        if self
            .block
            .as_ref()
            .is_some_and(|block| block.capacity() - self.filled < needed)
        {
            self.flush();
        }
        if self.block.is_none() {
            let size = BlockSize::fitting(needed).expect("a datagram is smaller than a block");
            self.block = self.intake.memory.try_acquire(size.max(BlockSize::MEDIUM));
            self.filled = 0;
        }
        let Some(block) = &mut self.block else {
            let datagram = &self.datagram[..length];
            let events = count_events(datagram) + usize::from(!datagram.ends_with(b"\n"));
            self.intake
                .books
                .shed(Ingest::Udp, ShedReason::NoMemory, events, length);
            return;
        };
        let start = self.filled;
        let free = &mut block.buffer_mut()[start..];
        free[..length].copy_from_slice(&self.datagram[..length]);
        let mut end = length;
        let mut cut = 0;
        if truncated {
            free[end..end + TRUNCATED.len()].copy_from_slice(TRUNCATED);
            end += TRUNCATED.len();
            cut = 1;
        }
        if free[end - 1] != b'\n' {
            free[end] = b'\n';
            end += 1;
        }
        let (end, long) = cut_long_lines(free, end, self.intake.limits.max_event_bytes);
        self.filled = start + end;
        self.lane.note_truncated(cut + long);
    }

    fn flush(&mut self) {
        if let Some(mut block) = self.block.take() {
            block.set_filled(self.filled);
            self.lane.send(block, None);
        }
    }
}
