//! Lines over TCP.
//!
//! A connection costs no buffer while nothing comes: a block is taken when there is something to
//! read. If the memory budget is spent, or [`WINDOW_BLOCKS`] of the connection's batches wait for a
//! worker, the socket is not read, and TCP slows the sender down.
//!
//! A connection that pauses inside a line holds a copy of what came of it, and no block, and is on
//! the list of those who let go when others need the room ([`Holders`](crate::memory::Holders)).

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    Intake, Lane,
    framing::{Framer, line_ending, withheld_line},
};
use crate::{
    books::Ingest,
    handshake::{Handshake, Stream},
    http_server::AcceptErrors,
    memory::{Block, BlockSize, Charge, Holder, Peer, Share},
    shutdown::Shutdown,
    slots::{Phase, Phases, Slot, Slots},
};

/// Batches of one connection that may wait for a worker. It keeps what is in flight small enough
/// for the processor's cache, and one connection from filling the room of all.
const WINDOW_BLOCKS: usize = 4;

/// The rest of a line is copied out of its block at once, unless it is longer than this: then only
/// if nothing comes for [`COPY_AFTER`], since lines that come in many reads would be copied with
/// each.
const COPIED_REST_BYTES: usize = 2048;
const COPY_AFTER: Duration = Duration::from_millis(20);

/// Connections that may keep a block while they wait so; as many buffers of each size are kept for
/// reuse.
pub(super) const WAITING_BLOCKS: usize = 32;

/// Reads that leave most of a block empty before a smaller one is taken.
const READS_BEFORE_SHRINKING: u32 = 8;

/// If the budget is spent for so long, a line that is only half there is given up: the halves of
/// many lines must not fill the budget that their other halves wait for.
const PARTIAL_LINE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of a connection may take to be told.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// How long a connection that keeps sending is still read after shutdown has begun.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A connection on which nothing has come for so long is idle.
pub const IDLE_AFTER: Duration = Duration::from_millis(500);

/// A peer that is gone without a word is noticed after 60 s + 3 * 10 s.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Serves connections until shutdown; then reads what has already arrived on each, and ends.
pub async fn serve(
    listener: TcpListener,
    intake: Arc<Intake>,
    slots: Arc<Slots>,
    handshake: Handshake,
    shutdown: Shutdown,
) {
    let mut connections = JoinSet::new();
    let mut accept_errors = AcceptErrors::of("tcp");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.begun() => break,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                accept_errors.pause(&error).await;
                continue;
            }
        };
        let slot = tokio::select! {
            slot = slots.take(Peer::from(address.ip())) => slot,
            () = shutdown.begun() => break,
        };
        if let Some(slot) = slot {
            let (intake, shutdown) = (Arc::clone(&intake), shutdown.clone());
            let taking = handshake.clone();
            connections.spawn(async move {
                let taken = tokio::select! {
                    biased;
                    taken = taking.take(stream, address.ip()) => taken,
                    () = slot.needed() => return,
                    () = shutdown.begun() => return,
                };
                match taken {
                    Ok((stream, from)) => {
                        let from = Peer::from(from);
                        Connection::new(stream, from, slot, &intake, shutdown)
                            .run()
                            .await;
                    }
                    Err(_) => intake.books.refused_connection(Ingest::Tcp),
                }
            });
        }
    }
    drop(listener);
    connections.join_all().await;
}

/// What was read of a line whose end has not come.
#[derive(Debug)]
enum Partial {
    Nothing,
    /// A short beginning, on its own.
    Copied(Vec<u8>, Charge),
    /// A long one, in the block it was read into.
    InBlock(Box<Block>, usize),
}

struct Connection {
    stream: Stream,
    slot: Slot,
    phases: Phases,
    holder: Holder,
    intake: Arc<Intake>,
    lane: Lane,
    window: Arc<Semaphore>,
    framer: Framer,
    partial: Partial,
    size: BlockSize,
    small_reads: u32,
    shutdown: Shutdown,
    drain_until: Option<Instant>,
}

impl Connection {
    fn new(
        stream: Stream,
        from: Peer,
        slot: Slot,
        intake: &Arc<Intake>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            stream,
            phases: slot.phases(),
            holder: intake.memory.holders.enter(from, Share::All),
            slot,
            intake: Arc::clone(intake),
            lane: intake.lane(Ingest::Tcp),
            window: Arc::new(Semaphore::new(WINDOW_BLOCKS)),
            framer: Framer::new(intake.limits.max_event_bytes),
            partial: Partial::Nothing,
            size: BlockSize::SMALL,
            small_reads: 0,
            shutdown,
            drain_until: None,
        }
    }

    async fn run(mut self) {
        if let Err(error) = SockRef::from(self.stream.socket()).set_tcp_keepalive(&KEEPALIVE) {
            debug!(%error, "cannot set keepalive");
        }
        match self.read_to_end().await {
            Ok(()) => {
                self.send_last_line();
                // Over TLS the sender learns that its end was read.
                let _ = timeout(GOODBYE_LIMIT, self.stream.shutdown()).await;
            }
            Err(error) => {
                debug!(%error, "connection lost");
                self.withhold_last_line();
            }
        }
    }

    async fn read_to_end(&mut self) -> io::Result<()> {
        while self.readable().await? {
            self.intake.in_flight.room().await;
            let window = Arc::clone(&self.window)
                .acquire_owned()
                .await
                .expect("never closed");
            let Some((mut block, carried)) = self.block().await else {
                continue;
            };
            let limit = block.capacity();
            let read = read_now(&mut self.stream, &mut block.buffer_mut()[carried..limit]).await;
            let Some(read) = read.transpose() else {
                // Readiness was a false alarm.
                self.keep(block, 0..carried);
                continue;
            };
            let read = match read {
                Ok(read) => read,
                Err(error) => {
                    self.keep(block, 0..carried);
                    return Err(error);
                }
            };
            if read == 0 {
                self.keep(block, 0..carried);
                return Ok(());
            }
            let filled = carried + read;
            let framed = self.framer.frame(block.buffer_mut(), carried, filled);
            self.adapt(filled, limit);
            self.lane.note_truncated(framed.truncated);
            block.note_cut(framed.cut);
            if framed.end == 0 {
                self.keep(block, framed.rest);
                continue;
            }
            if !framed.rest.is_empty() {
                let (rest, charge) = block.split_off(framed.rest);
                self.partial = Partial::Copied(rest, charge);
            }
            // A line is held since its beginning came; a byte more of it is no progress.
            self.holder.let_go();
            block.set_filled(framed.end);
            block.enter_flight(&self.intake.in_flight);
            self.lane.send(block, Some(window));
        }
        Ok(())
    }

    /// Waits until there is something to read; false if there will not be.
    async fn readable(&mut self) -> io::Result<bool> {
        if self.shutdown.has_begun() {
            // What has arrived is accepted; what comes later is not.
            let until = *self
                .drain_until
                .get_or_insert_with(|| Instant::now() + DRAIN_TIME);
            if Instant::now() > until {
                return Ok(false);
            }
            let ready = poll_fn(|cx| Poll::Ready(self.stream.poll_read_ready(cx))).await;
            return match ready {
                Poll::Ready(result) => result.map(|()| true),
                Poll::Pending => Ok(false),
            };
        }
        let ready = poll_fn(|cx| Poll::Ready(self.stream.poll_read_ready(cx))).await;
        if let Poll::Ready(ready) = ready {
            return ready.map(|()| true);
        }
        self.wait().await
    }

    /// Waits where nothing has come yet; false if nothing will.
    async fn wait(&mut self) -> io::Result<bool> {
        self.phases.enter(match self.partial {
            Partial::Nothing => Phase::Idle,
            _ => Phase::Receiving,
        });
        let intake = Arc::clone(&self.intake);
        let place = match self.partial {
            Partial::InBlock(..) => intake.waiting_blocks.try_acquire().ok(),
            _ => None,
        };
        if place.is_none() {
            self.copy_out();
        }
        loop {
            self.hold();
            let in_block = matches!(self.partial, Partial::InBlock(..));
            tokio::select! {
                biased;
                ready = poll_fn(|cx| self.stream.poll_read_ready(cx)) => {
                    ready?;
                    break;
                }
                () = self.shutdown.begun() => break,
                () = self.slot.needed() => {
                    return Err(io::Error::other("its place was needed for another connection"));
                }
                () = self.holder.evicted() => {
                    self.intake.books.evicted(Ingest::Tcp);
                    if let Some((_, charge)) = self.copied() {
                        self.give_up(charge);
                    }
                    self.phases.enter(Phase::Idle);
                }
                () = sleep(COPY_AFTER), if in_block => self.copy_out(),
            }
        }
        self.phases.enter(Phase::Busy);
        Ok(true)
    }

    /// Notes what is held while nothing comes.
    fn hold(&self) {
        match &self.partial {
            Partial::Nothing => self.holder.let_go(),
            Partial::Copied(line, _) => self.holder.hold(line.len()),
            Partial::InBlock(block, _) => self.holder.hold(block.capacity()),
        }
    }

    /// Gives back the block that what came of a line is in.
    fn copy_out(&mut self) {
        if let Partial::InBlock(block, filled) = &mut self.partial {
            let (line, charge) = block.split_off(0..*filled);
            self.partial = Partial::Copied(line, charge);
        }
    }

    /// Takes what came of a line, with its charge.
    fn copied(&mut self) -> Option<(Vec<u8>, Charge)> {
        match std::mem::replace(&mut self.partial, Partial::Nothing) {
            Partial::Nothing => None,
            Partial::Copied(line, charge) => Some((line, charge)),
            Partial::InBlock(mut block, filled) => Some(block.split_off(0..filled)),
        }
    }

    /// Gives the current line up: what came of it counts as an event, and is withheld.
    fn give_up(&mut self, charge: Charge) {
        let event = self.framer.give_up();
        self.holder.let_go();
        self.lane.note_truncated(1);
        self.send_line(event, charge);
    }

    /// Takes a block with what is there of the current line at its start. `None` if that line had
    /// to be given up for want of memory.
    async fn block(&mut self) -> Option<(Block, usize)> {
        match std::mem::replace(&mut self.partial, Partial::Nothing) {
            Partial::Nothing => Some((self.intake.memory.acquire(self.size).await, 0)),
            Partial::InBlock(block, filled) if filled < block.capacity() => Some((*block, filled)),
            Partial::InBlock(mut block, filled) => {
                let (line, charge) = block.split_off(0..filled);
                drop(block);
                self.extend(line, charge).await
            }
            Partial::Copied(line, charge) => self.extend(line, charge).await,
        }
    }

    async fn extend(&mut self, line: Vec<u8>, charge: Charge) -> Option<(Block, usize)> {
        let size = BlockSize::fitting(line.len() + 1).expect("events are bounded below 16 MiB");
        let acquiring = self.intake.memory.acquire(size.max(self.size));
        if let Ok(mut block) = timeout(PARTIAL_LINE_PATIENCE, acquiring).await {
            block.buffer_mut()[..line.len()].copy_from_slice(&line);
            return Some((block, line.len()));
        }
        drop(line);
        self.intake.books.evicted(Ingest::Tcp);
        self.give_up(charge);
        None
    }

    /// Keeps the beginning of a line for the next read.
    fn keep(&mut self, mut block: Block, rest: std::ops::Range<usize>) {
        self.partial = if rest.is_empty() {
            Partial::Nothing
        } else if rest.start == 0 && rest.len() > COPIED_REST_BYTES {
            Partial::InBlock(Box::new(block), rest.end)
        } else {
            let (line, charge) = block.split_off(rest);
            Partial::Copied(line, charge)
        };
    }

    /// Follows the connection's rate with the size of its blocks.
    fn adapt(&mut self, filled: usize, limit: usize) {
        if filled == limit && self.size < BlockSize::LARGE {
            self.size = self.size.larger().expect("there are sizes above LARGE");
            self.small_reads = 0;
        } else if filled < limit / 8 {
            self.small_reads += 1;
            if self.small_reads >= READS_BEFORE_SHRINKING {
                self.small_reads = 0;
                self.size = self.size.smaller().unwrap_or(self.size);
            }
        } else {
            self.small_reads = 0;
        }
    }

    /// The last line counts without a line feed.
    fn send_last_line(&mut self) {
        let Some((mut line, charge)) = self.copied() else {
            return;
        };
        self.lane
            .note_truncated(u64::from(self.framer.is_above_limit(&line)));
        line.extend_from_slice(line_ending(&line));
        self.send_line(line, charge);
    }

    /// What came of a line before a reset may end in the half of a value, which no rule would know:
    /// it counts as an event, and is withheld.
    fn withhold_last_line(&mut self) {
        let Some((_, charge)) = self.copied() else {
            return;
        };
        self.lane.note_truncated(1);
        self.send_line(withheld_line(), charge);
    }

    fn send_line(&self, line: Vec<u8>, mut charge: Charge) {
        let filled = line.len();
        charge.shrink_to(filled);
        let mut block = Block::from_charged(line, charge, &self.intake.memory);
        block.set_filled(filled);
        self.lane.send(block, None);
    }
}

/// Reads what there is; `None` if there is nothing after all.
///
/// `poll_read` and not `try_read`: when less comes than was asked for, tokio then knows that the
/// socket is empty and spares the system call that would say so.
async fn read_now(stream: &mut Stream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(buffer);
        Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(Some(buffer.filled().len())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(None),
        })
    })
    .await
}
