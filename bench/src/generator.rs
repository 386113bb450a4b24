//! Offers events: as fast as the process under test takes them, or at a fixed rate.
//!
//! At full speed a connection keeps a bounded number of blocks under way: it sends the next one when an
//! older one has come out at the other end. Without that the kernel lets its receive queue grow to tens
//! of megabytes, and what is then measured is memory that has left the caches, not the process.
//!
//! At a fixed rate the load is open: every write has an intended time that depends on the clock alone,
//! events carry that time, and a write that comes late does not move the ones after it. So time that
//! an event spends waiting for a slow process to read counts as latency (no coordinated omission).

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use nix::sys::prctl;

use crate::events::{Stream, write_time};
use crate::receiver::{Checker, empty_histogram, nanos_since};

/// How long connecting and a single write may take.
const SOCKET_DEADLINE: Duration = Duration::from_secs(30);

/// How events are offered.
#[derive(Clone)]
pub(crate) enum Offer {
    /// At full speed, with at most so many blocks of a connection under way.
    Window(usize, Arc<Checker>),
    /// At a fixed rate.
    Paced(Pace),
}

/// A fixed rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The instant that intended times count from.
    pub origin: Instant,
    /// Events a second, all connections together.
    pub events_per_second: usize,
    /// How often each connection writes what is due; connections take turns within it.
    pub write_every: Duration,
    /// Events of this first span carry the time 0, which is not recorded.
    pub warm_up: Duration,
}

/// Connections that are open and wait for the word to send.
pub(crate) struct Generator {
    go: Arc<Barrier>,
    sending: Vec<JoinHandle<Result<Sent>>>,
}

/// A connection that has sent everything, still open.
struct Sent {
    socket: TcpStream,
    lateness: Histogram<u64>,
}

/// All connections after the last event was written; they close when this is dropped.
pub(crate) struct Offered {
    /// Nanoseconds by which writes came after their intended time; empty without a pace.
    pub lateness: Histogram<u64>,
    _sockets: Vec<TcpStream>,
}

impl Generator {
    /// Opens a connection for each of `streams`.
    ///
    /// # Errors
    /// If a connection cannot be opened; none is left open then.
    pub(crate) fn connect(to: SocketAddr, streams: Vec<Stream>, offer: &Offer) -> Result<Self> {
        let connections = streams.len();
        let sockets = (0..connections)
            .map(|_| {
                let socket = TcpStream::connect_timeout(&to, SOCKET_DEADLINE)
                    .with_context(|| format!("cannot connect to {to}"))?;
                socket.set_nodelay(true).context("cannot set TCP_NODELAY")?;
                Ok(socket)
            })
            .collect::<Result<Vec<_>>>()?;
        let go = Arc::new(Barrier::new(connections + 1));
        let sending = streams
            .into_iter()
            .zip(sockets)
            .map(|(stream, socket)| {
                let (go, offer) = (go.clone(), offer.clone());
                thread::spawn(move || {
                    go.wait();
                    match offer {
                        Offer::Window(blocks, checker) => send(stream, socket, blocks, &checker),
                        Offer::Paced(pace) => send_paced(stream, socket, pace, connections),
                    }
                })
            })
            .collect();
        Ok(Self { go, sending })
    }

    /// Lets all connections send; returns when that was.
    #[must_use]
    pub(crate) fn start(&self) -> Instant {
        let started = Instant::now();
        self.go.wait();
        started
    }

    /// Waits until everything has been written.
    ///
    /// # Errors
    /// If a connection broke.
    pub(crate) fn finish(self) -> Result<Offered> {
        let mut offered = Offered {
            lateness: empty_histogram(),
            _sockets: Vec::new(),
        };
        for sending in self.sending {
            let sent = sending
                .join()
                .map_err(|_| anyhow!("a generator thread has panicked"))??;
            offered
                .lateness
                .add(&sent.lateness)
                .context("cannot add up lateness")?;
            offered._sockets.push(sent.socket);
        }
        Ok(offered)
    }
}

fn send(
    mut stream: Stream,
    mut socket: TcpStream,
    window: usize,
    checker: &Checker,
) -> Result<Sent> {
    let variants = stream.offered.len();
    for number in 0..stream.blocks {
        checker.wait_blocks(stream.connection, (number + 1).saturating_sub(window))?;
        let block = &mut stream.offered[number % variants];
        block.renumber(number);
        socket.write_all(&block.bytes).context("cannot send")?;
    }
    Ok(Sent {
        socket,
        lateness: empty_histogram(),
    })
}

fn send_paced(
    mut stream: Stream,
    mut socket: TcpStream,
    pace: Pace,
    connections: usize,
) -> Result<Sent> {
    // The default slack of 50 µs would be most of the latency that is looked for.
    prctl::set_timerslack(1).context("cannot set the timer slack")?;
    let mut lateness = empty_histogram();
    let trace = stream.layout.trace();
    let variants = stream.offered.len();
    let total = stream.offered_events();
    let per_second = pace.events_per_second as f64 / connections as f64;
    let turn = pace
        .write_every
        .mul_f64(stream.connection as f64 / connections as f64);
    let start = Instant::now() + turn;
    let (mut sent, mut block, mut index) = (0, 0, 0);
    stream.offered[0].renumber(0);
    for tick in 0u32.. {
        if sent == total {
            break;
        }
        let intended = start + pace.write_every * tick;
        // Float to integer: seconds times a rate, far below 2^53.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "see above"
        )]
        let due = ((pace.write_every * (tick + 1)).as_secs_f64() * per_second) as usize;
        let due = due.min(total);
        if due == sent {
            continue;
        }
        let early = intended.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::sleep(early);
        }
        lateness.saturating_record(nanos_since(intended, Instant::now()));
        let warm = pace.write_every * tick >= pace.warm_up;
        let stamp = if warm {
            nanos_since(pace.origin, intended)
        } else {
            0
        };
        while sent < due {
            let events = &mut stream.offered[block % variants];
            let first = events.span(index).start;
            let count = (due - sent).min(events.len() - index);
            for event in index..index + count {
                let span = events.span(event);
                write_time(&mut events.bytes[span][trace.clone()], stamp);
            }
            let last = events.ends[index + count - 1];
            socket
                .write_all(&events.bytes[first..last])
                .context("cannot send")?;
            sent += count;
            index += count;
            if index == events.len() {
                index = 0;
                block += 1;
                stream.offered[block % variants].renumber(block);
            }
        }
    }
    Ok(Sent { socket, lateness })
}
