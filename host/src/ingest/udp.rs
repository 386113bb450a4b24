//! Lines in datagrams: one or more in each; the last one counts without a line feed.
//!
//! Nothing can push a sender of UDP back: what does not fit in the memory budget is shed and
//! counted, when those who hold some of it and do not use it had [`ROOM_PATIENCE`] to let go. So is
//! what the kernel has to drop because nobody read in time, in datagrams, as it cannot be told how
//! many events were in them.
//!
//! Each socket has a thread of its own, which reads up to [`DATAGRAMS_A_READ`] datagrams with one
//! system call and gathers them in batches. Several sockets may share a port: then the kernel gives
//! each sender to one of them, for good, so that its events stay in their order.

use std::{
    io::{self, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt::RxqOvfl,
    },
};
use streamgate_guest::count_events;
use tokio::runtime::Handle;
use tracing::warn;

use super::{
    Intake, Lane,
    framing::{TRUNCATED, cut_long_lines, line_ending},
};
use crate::{
    books::{Ingest, ShedReason},
    memory::{Block, BlockSize, Share},
    shutdown::Shutdown,
};

/// Largest datagram of UDP over IP: a length field of 16 bits.
pub const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Room that the kernel is asked to keep for datagrams we have not read yet. It grants what
/// `net.core.rmem_max` allows.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Pause after an error of the socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// How often a thread that waits for datagrams looks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a socket that datagrams keep coming to is still read after shutdown has begun.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How long room is waited for, and how long nobody waits again if none was found. The kernel keeps
/// what comes meanwhile.
const ROOM_PATIENCE: Duration = Duration::from_millis(300);
const NO_PATIENCE: Duration = Duration::from_secs(1);

/// Most datagrams of one system call.
const DATAGRAMS_A_READ: usize = 64;

/// Most bytes of room for them: fewer are read at once where they may be large.
const READ_BYTES: usize = 2 * 1024 * 1024;

/// Reads in a row before what was gathered is sent on, though more is there.
const READS_A_TURN: usize = 4;

/// Makes a socket ready: a large receive buffer (the kernel may grant less), and the count of what
/// the kernel drops.
///
/// # Errors
/// If it cannot be made to block with a time limit.
pub fn prepare(socket: &UdpSocket) -> io::Result<()> {
    if let Err(error) = socket2::SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        warn!(%error, "cannot enlarge the receive buffer of the UDP socket");
    }
    if let Err(error) = setsockopt(socket, RxqOvfl, &1) {
        warn!(%error, "what the kernel drops of UDP is not counted");
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(LOOK_INTERVAL))
}

/// Serves a socket until shutdown, and then until it is empty. Blocks, on a thread of a runtime.
pub fn serve(socket: &UdpSocket, intake: &Arc<Intake>, shutdown: &Shutdown) {
    let room = intake.limits.max_datagram_bytes;
    let datagrams = (READ_BYTES / room).clamp(1, DATAGRAMS_A_READ);
    let mut receiver = Receiver {
        intake: Arc::clone(intake),
        lane: intake.lane(Ingest::Udp),
        datagrams: vec![0; datagrams * room],
        room,
        lengths: Vec::with_capacity(datagrams),
        dropped: 0,
        block: None,
        filled: 0,
        runtime: Handle::current(),
        impatient_until: None,
    };
    let mut drain_until = None;
    loop {
        let ending = shutdown.has_begun();
        if ending {
            let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN_TIME);
            if Instant::now() > until {
                return;
            }
        }
        match receiver.read_a_turn(socket, ending) {
            Ok(Turn::More) => {}
            Ok(Turn::Empty) if ending => return,
            Ok(Turn::Empty) => {}
            Err(error) => {
                warn!(%error, "cannot read from the UDP socket, will try again");
                if ending {
                    return;
                }
                thread::sleep(ERROR_PAUSE);
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
    /// The datagrams that were read last, each at the start of its room.
    datagrams: Vec<u8>,
    room: usize,
    /// How long they are, and whether the kernel had to cut them.
    lengths: Vec<(usize, bool)>,
    /// What the kernel has dropped of this socket so far; it counts in 32 bits, from 0 again after
    /// that.
    dropped: u32,
    /// Where datagrams are gathered, and up to where it is filled.
    block: Option<Block>,
    filled: usize,
    runtime: Handle,
    /// Until when room is not waited for.
    impatient_until: Option<Instant>,
}

impl Receiver {
    /// Waits for datagrams, unless it is the end; reads on for as long as there are many, and sends
    /// them.
    fn read_a_turn(&mut self, socket: &UdpSocket, ending: bool) -> io::Result<Turn> {
        let most = self.datagrams.len() / self.room;
        let mut turn = Ok(Turn::More);
        for read in 0..READS_A_TURN {
            let wait = match read == 0 && !ending {
                true => MsgFlags::MSG_WAITFORONE,
                false => MsgFlags::MSG_DONTWAIT,
            };
            match self.receive(socket, wait) {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    turn = Ok(Turn::Empty);
                    break;
                }
                Err(error) => {
                    turn = Err(error.into());
                    break;
                }
            }
            for at in 0..self.lengths.len() {
                let (length, truncated) = self.lengths[at];
                self.gather(at * self.room, length, truncated);
            }
            if self.lengths.len() < most {
                break;
            }
        }
        self.flush();
        turn
    }

    /// Reads datagrams with one system call.
    fn receive(&mut self, socket: &UdpSocket, flags: MsgFlags) -> nix::Result<()> {
        self.lengths.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self
            .datagrams
            .chunks_exact_mut(self.room)
            .map(|room| [IoSliceMut::new(room)])
            .collect();
        // Not kept: the kernel notes in them how much control data came, and takes it for room the
        // next time.
        let control = nix::cmsg_space!(u32);
        let mut headers = MultiHeaders::<()>::preallocate(slices.len(), Some(control));
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter_mut(),
            flags,
            None,
        )?;
        let mut dropped = self.dropped;
        for message in received {
            let truncated = message.flags.contains(MsgFlags::MSG_TRUNC);
            self.lengths.push((message.bytes, truncated));
            for control in message.cmsgs()? {
                if let ControlMessageOwned::RxqOvfl(count) = control {
                    dropped = count;
                }
            }
        }
        let more = dropped.wrapping_sub(self.dropped);
        if more > 0 {
            self.intake.books.dropped_by_kernel(Ingest::Udp, more);
        }
        self.dropped = dropped;
        Ok(())
    }

    /// Appends the lines of a datagram to the batch; an empty datagram has none.
    fn gather(&mut self, from: usize, length: usize, truncated: bool) {
        if length == 0 {
            return;
        }
        // The mark and the line feed that may have to be added, or the CRLF of what has no mark.
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
            self.block = self.room(size.max(BlockSize::MEDIUM));
            self.filled = 0;
        }
        let Some(block) = &mut self.block else {
            let datagram = &self.datagrams[from..from + length];
            let events = count_events(datagram) + usize::from(!datagram.ends_with(b"\n"));
            self.intake
                .books
                .shed(Ingest::Udp, ShedReason::NoMemory, events, length);
            return;
        };
        let start = self.filled;
        let free = &mut block.buffer_mut()[start..];
        free[..length].copy_from_slice(&self.datagrams[from..from + length]);
        let mut end = length;
        let mut cut = 0;
        if truncated {
            free[end..end + TRUNCATED.len()].copy_from_slice(TRUNCATED);
            end += TRUNCATED.len();
            cut = 1;
        }
        if free[end - 1] != b'\n' {
            let ending = line_ending(&free[..end]);
            free[end..end + ending.len()].copy_from_slice(ending);
            end += ending.len();
        }
        let long = cut_long_lines(free, end, self.intake.limits.max_event_bytes);
        self.filled = start + long.end;
        block.note_cut(long.cut);
        self.lane.note_truncated(cut + long.truncated);
    }

    /// Takes a block; waits for one now and then.
    fn room(&mut self, size: BlockSize) -> Option<Block> {
        let memory = &self.intake.memory;
        let block = memory.try_acquire(size);
        let now = Instant::now();
        if block.is_some() || self.impatient_until.is_some_and(|until| now < until) {
            return block;
        }
        let block = self
            .runtime
            .block_on(memory.acquire_within(Share::All, size, ROOM_PATIENCE));
        self.impatient_until = block.is_none().then(|| Instant::now() + NO_PATIENCE);
        block
    }

    fn flush(&mut self) {
        if let Some(mut block) = self.block.take() {
            block.set_filled(self.filled);
            self.lane.send(block, None);
        }
    }
}
