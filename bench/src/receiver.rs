//! Receives what the process under test sends, and checks every byte of it.
//!
//! Promises: an event that is missing, repeated, out of its connection's order, torn or altered in any
//! byte is a fault, and a run with a fault has no result. Events of different connections may come
//! interleaved in any way, on any number of connections. Leaves to others: what is expected
//! (`events.rs`) and how long to wait for it (`measure.rs`).
//!
//! Cost of the check: a lock a read and a connection seen in it, a `memcmp` an event.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use thiserror::Error;

use crate::events::{Block, Layout, MAX_CONNECTIONS, Stream, read_time};

/// Room of one read; the same as the relay's.
const READ_BYTES: usize = 256 * 1024;
/// How much of a faulty event is quoted.
const QUOTED_BYTES: usize = 400;
/// Room for reports: a connection makes two, and is not held up if nobody has read them yet.
const REPORTS: usize = 4 * MAX_CONNECTIONS;
/// A run without a single new event for this long has stalled.
const STALL: Duration = Duration::from_secs(15);
/// How long the process under test may take to close its outputs after it was stopped.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// What was wrong with what arrived.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Bytes that do not begin with the number of an event that was offered.
    #[error("found no event where one must begin (torn or foreign): {found:?}")]
    Torn {
        /// What stood there.
        found: String,
    },
    /// An event that is not the next one of its connection: others were lost, this one is repeated,
    /// was to be dropped, or is out of order.
    #[error("connection {connection}: expected {expected:?}, found {found:?}")]
    OutOfSequence {
        /// The connection it was offered on.
        connection: usize,
        /// The event that had to come next.
        expected: String,
        /// The event that came.
        found: String,
    },
    /// The right event with the wrong bytes.
    #[error("connection {connection}: event altered, expected {expected:?}, found {found:?}")]
    Altered {
        /// The connection it was offered on.
        connection: usize,
        /// What had to come.
        expected: String,
        /// What came.
        found: String,
    },
    /// An event after the last one that had to arrive.
    #[error("connection {connection}: an event after the last one: {found:?}")]
    Surplus {
        /// The connection it was offered on.
        connection: usize,
        /// What came.
        found: String,
    },
    /// A connection was closed within an event.
    #[error("the connection was closed within an event: {found:?}")]
    Cut {
        /// What there was of it.
        found: String,
    },
}

/// How far one connection's events have arrived.
#[derive(Debug)]
struct Cursor {
    connection: usize,
    layout: Layout,
    expected: Vec<Block>,
    blocks: usize,
    block: usize,
    event: usize,
    /// Where send times count from, and the latencies so far; if latency is measured.
    latency: Option<(Instant, Histogram<u64>)>,
}

impl Cursor {
    fn new(stream: &Stream, origin: Option<Instant>) -> Self {
        let mut expected = stream.expected.clone();
        expected[0].renumber(0);
        Self {
            connection: stream.connection,
            layout: stream.layout,
            expected,
            blocks: stream.blocks,
            block: 0,
            event: 0,
            latency: origin.map(|origin| (origin, empty_histogram())),
        }
    }

    /// Takes events of this connection from the front of `bytes` for as long as they are what is
    /// expected; returns how many bytes and events were taken. Stops at another connection's event
    /// and at the end of what was read.
    fn take(&mut self, bytes: &[u8], arrived: Instant) -> Result<(usize, usize), Fault> {
        let mut taken = 0;
        let mut events = 0;
        loop {
            let rest = &bytes[taken..];
            let Some(connection) = connection_of(rest, self.layout)? else {
                break;
            };
            if connection != self.connection {
                break;
            }
            if self.block == self.blocks {
                return Err(Fault::Surplus {
                    connection,
                    found: quote(rest),
                });
            }
            let variant = self.block % self.expected.len();
            let span = self.expected[variant].span(self.event);
            let expected = &mut self.expected[variant].bytes[span];
            let Some(found) = rest.get(..expected.len()) else {
                break;
            };
            if let Some((origin, histogram)) = &mut self.latency {
                let trace = self.layout.trace();
                expected[trace.clone()].copy_from_slice(&found[trace.clone()]);
                record(*origin, histogram, &found[trace], arrived);
            }
            if found != expected {
                return Err(self.explain(rest));
            }
            taken += found.len();
            events += 1;
            self.advance();
        }
        Ok((taken, events))
    }

    fn advance(&mut self) {
        self.event += 1;
        let count = self.expected.len();
        if self.event == self.expected[self.block % count].len() {
            self.event = 0;
            self.block += 1;
            if self.block < self.blocks {
                self.expected[self.block % count].renumber(self.block);
            }
        }
    }

    /// Tells a wrong event from the right event with wrong bytes.
    fn explain(&self, rest: &[u8]) -> Fault {
        let block = &self.expected[self.block % self.expected.len()];
        let expected = &block.bytes[block.span(self.event)];
        let number = self.layout.number();
        let same = rest.get(number.clone()) == expected.get(number);
        let (connection, found, expected) = (self.connection, quote(rest), quote(expected));
        if same {
            Fault::Altered {
                connection,
                expected,
                found,
            }
        } else {
            Fault::OutOfSequence {
                connection,
                expected,
                found,
            }
        }
    }
}

fn record(origin: Instant, histogram: &mut Histogram<u64>, trace: &[u8], arrived: Instant) {
    // Zero stands for what was sent while warming up.
    if let Some(sent) = read_time(trace).filter(|&sent| sent != 0) {
        histogram.saturating_record(nanos_since(origin, arrived).saturating_sub(sent));
    }
}

/// Nanoseconds from `origin` to `then`, which is not before it.
#[must_use]
pub(crate) fn nanos_since(origin: Instant, then: Instant) -> u64 {
    u64::try_from(then.duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a histogram of nanoseconds, three digits exact, up to a minute.
#[must_use]
pub(crate) fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .expect("the bounds are constants that the histogram accepts")
}

/// Reads the connection's number; `None` if so much has not arrived yet.
fn connection_of(bytes: &[u8], layout: Layout) -> Result<Option<usize>, Fault> {
    match bytes.get(layout.connection()) {
        Some(&[tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => Ok(Some(
            usize::from(tens - b'0') * 10 + usize::from(ones - b'0'),
        )),
        Some(_) => Err(Fault::Torn {
            found: quote(bytes),
        }),
        None => Ok(None),
    }
}

/// Quotes the event at the front of `bytes`.
fn quote(bytes: &[u8]) -> String {
    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |newline| newline + 1);
    String::from_utf8_lossy(&bytes[..end.min(QUOTED_BYTES)]).into_owned()
}

/// Checks what arrives against what is expected; shared by all connections.
#[derive(Debug)]
pub(crate) struct Checker {
    layout: Layout,
    cursors: Vec<(Mutex<Cursor>, Condvar)>,
    missing: AtomicUsize,
}

impl Checker {
    /// Expects the answers to `streams`, which number their connections from 0. With an `origin`,
    /// trace ids are send times counted from it, and latency is recorded.
    #[must_use]
    pub(crate) fn new(streams: &[Stream], origin: Option<Instant>) -> Self {
        debug_assert!((1..=MAX_CONNECTIONS).contains(&streams.len()));
        Self {
            layout: streams[0].layout,
            missing: AtomicUsize::new(streams.iter().map(Stream::expected_events).sum()),
            cursors: streams
                .iter()
                .map(|stream| (Mutex::new(Cursor::new(stream, origin)), Condvar::new()))
                .collect(),
        }
    }

    /// Checks all whole events at the front of `bytes`; returns how many bytes they are and whether
    /// the last missing event was among them.
    ///
    /// # Errors
    /// The first fault; what comes after it is not looked at.
    pub(crate) fn check(&self, bytes: &[u8], arrived: Instant) -> Result<(usize, bool), Fault> {
        let mut taken = 0;
        let mut complete = false;
        while let Some(connection) = connection_of(&bytes[taken..], self.layout)? {
            let rest = &bytes[taken..];
            let (cursor, moved) = self
                .cursors
                .get(connection)
                .ok_or_else(|| Fault::Torn { found: quote(rest) })?;
            let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
            let block = cursor.block;
            let (length, events) = cursor.take(rest, arrived)?;
            if cursor.block != block {
                moved.notify_all();
            }
            if events == 0 {
                break;
            }
            taken += length;
            complete |= self.missing.fetch_sub(events, Ordering::AcqRel) == events;
        }
        Ok((taken, complete))
    }

    /// Waits until so many whole blocks of a connection have arrived.
    ///
    /// # Errors
    /// If none arrives for `STALL`.
    pub(crate) fn wait_blocks(&self, connection: usize, blocks: usize) -> Result<()> {
        let (cursor, moved) = &self.cursors[connection];
        let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
        while cursor.block < blocks {
            let waited = moved.wait_timeout(cursor, STALL);
            let timeout;
            (cursor, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            ensure!(
                !timeout.timed_out(),
                "connection {connection}: waited {STALL:?} for block {} to arrive",
                cursor.block
            );
        }
        Ok(())
    }

    /// How many events have still to arrive.
    #[must_use]
    pub(crate) fn missing(&self) -> usize {
        self.missing.load(Ordering::Acquire)
    }

    /// Returns the latency of all recorded events.
    ///
    /// # Errors
    /// If histograms cannot be added up, which equal bounds rule out.
    pub(crate) fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = empty_histogram();
        for (cursor, _) in &self.cursors {
            let cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, histogram)) = &cursor.latency {
                all.add(histogram).context("cannot add up latencies")?;
            }
        }
        Ok(all)
    }
}

/// What a connection's thread has to say.
enum Report {
    Complete(Instant),
    Failed(anyhow::Error),
    Closed,
}

/// Listens for the process under test.
pub(crate) struct Receiver {
    address: SocketAddr,
    checker: Arc<Checker>,
    reports: mpsc::Receiver<Report>,
    stopping: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
    closed: usize,
}

impl Receiver {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// If no port can be had.
    pub(crate) fn bind(checker: Arc<Checker>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen for the process under test")?;
        let address = listener.local_addr().context("cannot tell own address")?;
        let (report, reports) = mpsc::sync_channel(REPORTS);
        let stopping = Arc::new(AtomicBool::new(false));
        let opened = Arc::new(AtomicUsize::new(0));
        let accepting = thread::spawn({
            let (checker, stopping, opened) = (checker.clone(), stopping.clone(), opened.clone());
            move || accept(&listener, &checker, &stopping, &opened, &report)
        });
        Ok(Self {
            address,
            checker,
            reports,
            stopping,
            opened,
            accepting: Some(accepting),
            closed: 0,
        })
    }

    /// Waits until the last missing event has arrived; returns when that was.
    ///
    /// # Errors
    /// A fault in what arrived, a broken connection, or no new event for `STALL`.
    pub(crate) fn wait_complete(&mut self) -> Result<Instant> {
        let mut missing = self.checker.missing();
        let mut moved = Instant::now();
        loop {
            match self.reports.recv_timeout(Duration::from_millis(250)) {
                Ok(Report::Complete(at)) => return Ok(at),
                Ok(Report::Failed(error)) => return Err(error),
                Ok(Report::Closed) => self.closed += 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the receiver has ended"),
            }
            let now_missing = self.checker.missing();
            if now_missing != missing {
                (missing, moved) = (now_missing, Instant::now());
            } else if moved.elapsed() > STALL {
                bail!("waited {STALL:?} for the next event, {missing} are missing");
            }
        }
    }

    /// Waits until every connection has been closed and checks that nothing came after the end.
    /// Call it once the process under test has been stopped.
    ///
    /// # Errors
    /// A fault in what arrived, or a connection that stays open.
    pub(crate) fn wait_closed(&mut self) -> Result<()> {
        let deadline = Instant::now() + CLOSE_DEADLINE;
        while self.closed < self.opened.load(Ordering::Acquire) {
            match self
                .reports
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(Report::Complete(_)) => {}
                Ok(Report::Failed(error)) => return Err(error),
                Ok(Report::Closed) => self.closed += 1,
                Err(_) => bail!("waited {CLOSE_DEADLINE:?} for the outputs to be closed"),
            }
        }
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread that waits in `accept`.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

fn accept(
    listener: &TcpListener,
    checker: &Arc<Checker>,
    stopping: &AtomicBool,
    opened: &AtomicUsize,
    report: &mpsc::SyncSender<Report>,
) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((stream, _)) => {
                opened.fetch_add(1, Ordering::AcqRel);
                let (checker, report) = (checker.clone(), report.clone());
                thread::spawn(move || receive(stream, &checker, &report));
            }
            Err(error) => {
                let error = anyhow::Error::from(error).context("cannot accept a connection");
                drop(report.send(Report::Failed(error)));
                return;
            }
        }
    }
}

fn receive(mut stream: TcpStream, checker: &Checker, report: &mpsc::SyncSender<Report>) {
    let outcome = read_all(&mut stream, checker, report);
    // Nobody listens any more once a run has failed; then there is nothing to say either.
    drop(report.send(outcome.map_or_else(Report::Failed, |()| Report::Closed)));
}

fn read_all(
    stream: &mut TcpStream,
    checker: &Checker,
    report: &mpsc::SyncSender<Report>,
) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let length = match stream.read(&mut buffer[filled..]) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read from the process under test"),
        };
        if length == 0 {
            if filled > 0 {
                let found = quote(&buffer[..filled]);
                return Err(Fault::Cut { found }.into());
            }
            return Ok(());
        }
        let arrived = Instant::now();
        filled += length;
        let (taken, complete) = checker.check(&buffer[..filled], arrived)?;
        if complete {
            drop(report.send(Report::Complete(arrived)));
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cases::Case;
    use crate::events::Load;

    fn streams(case: &str) -> Vec<Stream> {
        let case = Case::by_name(case).unwrap();
        Load {
            connections: 2,
            events: 1_000,
            event_bytes: 192,
            block_events: 100,
        }
        .streams(&case)
        .unwrap()
    }

    /// The answer in full, the connections interleaved event by event.
    fn answer(streams: &[Stream]) -> Vec<Vec<u8>> {
        let mut sequences: Vec<_> = streams
            .iter()
            .map(|stream| {
                let mut events = Vec::new();
                for number in 0..stream.blocks {
                    let mut block = stream.expected[number % stream.expected.len()].clone();
                    block.renumber(number);
                    for index in 0..block.len() {
                        events.push(block.bytes[block.span(index)].to_vec());
                    }
                }
                events.into_iter()
            })
            .collect();
        let mut all = Vec::new();
        loop {
            let before = all.len();
            for sequence in &mut sequences {
                all.extend(sequence.next());
            }
            if all.len() == before {
                return all;
            }
        }
    }

    /// Sends `events` over a socket in pieces that do not end where events end.
    fn outcome(streams: &[Stream], events: &[Vec<u8>]) -> Result<()> {
        let mut receiver = Receiver::bind(Arc::new(Checker::new(streams, None)))?;
        let mut stream = TcpStream::connect(receiver.address())?;
        let bytes = events.concat();
        let sending = thread::spawn(move || {
            // A fault makes the receiver hang up, which is then what the test is about.
            bytes
                .chunks(1_000)
                .try_for_each(|piece| stream.write_all(piece))
        });
        let complete = receiver.wait_complete();
        drop(sending.join());
        complete?;
        receiver.wait_closed()
    }

    fn fault(streams: &[Stream], events: &[Vec<u8>]) -> Fault {
        outcome(streams, events).unwrap_err().downcast().unwrap()
    }

    #[test]
    fn right_answer_is_accepted_in_any_interleaving() {
        for case in ["pass", "drop_ssn", "drop_five", "json_ssn"] {
            let streams = streams(case);
            let mut events = answer(&streams);
            outcome(&streams, &events).unwrap();
            events.sort_by_key(|event| event[streams[0].layout.connection()].to_vec());
            outcome(&streams, &events).unwrap();
        }
    }

    #[test]
    fn one_corrupted_byte_is_found() {
        let streams = streams("pass");
        let mut events = answer(&streams);
        events[500][150] ^= 1;
        let fault = fault(&streams, &events);
        assert!(
            matches!(fault, Fault::Altered { connection: 0, .. }),
            "{fault}"
        );
    }

    #[test]
    fn lost_repeated_and_swapped_events_are_found() {
        let streams = streams("drop");
        let right = answer(&streams);
        let mut lost = right.clone();
        lost.remove(301);
        let mut repeated = right.clone();
        repeated.insert(302, right[300].clone());
        let mut swapped = right;
        swapped.swap(300, 302);
        for events in [lost, repeated, swapped] {
            let fault = fault(&streams, &events);
            assert!(matches!(fault, Fault::OutOfSequence { .. }), "{fault}");
        }
    }

    #[test]
    fn event_that_was_to_be_dropped_is_found() {
        let debug = streams("pass")
            .iter()
            .flat_map(|stream| {
                let block = stream.offered[0].clone();
                (0..block.len()).map(move |index| block.bytes[block.span(index)].to_vec())
            })
            .find(|event| memchr::memmem::find(event, b"DEBUG").is_some())
            .unwrap();
        let streams = streams("drop");
        let mut events = answer(&streams);
        events.insert(0, debug);
        let fault = fault(&streams, &events);
        assert!(matches!(fault, Fault::OutOfSequence { .. }), "{fault}");
    }

    #[test]
    fn raw_ssn_is_found() {
        let streams = streams("drop_ssn");
        let mut events = answer(&streams);
        let masked = b"XXX-XX-XXXX";
        let (event, at) = events
            .iter_mut()
            .find_map(|event| memchr::memmem::find(event, masked).map(|at| (event, at)))
            .unwrap();
        event[at..at + masked.len()].copy_from_slice(b"912-34-5678");
        let fault = fault(&streams, &events);
        assert!(matches!(fault, Fault::Altered { .. }), "{fault}");
    }

    #[test]
    fn torn_event_is_found() {
        let streams = streams("pass");
        let mut events = answer(&streams);
        events[400].truncate(100);
        outcome(&streams, &events)
            .unwrap_err()
            .downcast::<Fault>()
            .unwrap();
    }

    #[test]
    fn events_after_the_end_are_found() {
        let streams = streams("pass");
        let mut events = answer(&streams);
        events.push(events[0].clone());
        let found = fault(&streams, &events);
        assert!(
            matches!(found, Fault::Surplus { connection: 0, .. }),
            "{found}"
        );
        events.pop();
        events.push(b"half an".to_vec());
        let found = fault(&streams, &events);
        assert!(matches!(found, Fault::Cut { .. }), "{found}");
    }
}
