//! What a gate sends, counted and timed as it arrives: for loads of which each event says when it was due.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::receiver::empty_histogram;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Time between two writes of a load.
const WRITE_EVERY: Duration = Duration::from_millis(1);

/// The time since the start of this program.
pub(crate) fn nanoseconds(at: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    u64::try_from(at.saturating_duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}

/// What the gate sends, counted and timed as it arrives.
pub(crate) struct Arrivals {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicU64>,
    latency: Arc<Mutex<Histogram<u64>>>,
}

impl Arrivals {
    /// Begins to listen.
    ///
    /// # Errors
    /// If there is no port.
    pub(crate) fn listen() -> Result<Self> {
        nanoseconds(Instant::now());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let arrivals = Self {
            address: listener.local_addr()?,
            count: Arc::default(),
            latency: Arc::new(Mutex::new(empty_histogram())),
        };
        let (count, latency) = (Arc::clone(&arrivals.count), Arc::clone(&arrivals.latency));
        // Ends with the process; it waits in `accept` until then.
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (count, latency) = (Arc::clone(&count), Arc::clone(&latency));
                thread::spawn(move || read(socket, &count, &latency));
            }
        });
        Ok(arrivals)
    }

    /// Returns how many events arrived.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits for that many events, and no more.
    ///
    /// # Errors
    /// If there are others.
    pub(crate) fn wait_for(&self, count: u64) -> Result<()> {
        wait_until("all events arrived", || Ok(self.count() >= count))?;
        ensure!(
            self.count() == count,
            "expected {count} events, found {}",
            self.count()
        );
        Ok(())
    }

    /// Returns the latencies since it was asked last.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut latency, empty_histogram())
    }
}

fn read(socket: TcpStream, count: &AtomicU64, latency: &Mutex<Histogram<u64>>) {
    let mut reader = BufReader::with_capacity(256 * 1024, socket);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        let now = nanoseconds(Instant::now());
        let text = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        let due: Option<u64> = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok());
        if let Some(due) = due {
            let mut latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
            latency.saturating_record(now.saturating_sub(due).max(1));
        }
        count.fetch_add(1, Ordering::Release);
        line.clear();
    }
}

/// Sends events at a rate, each with the time at which it was due; returns how many.
///
/// # Errors
/// If the gate does not take them.
pub(crate) fn send_paced(ingest: SocketAddr, rate: u64, length: Duration) -> Result<u64> {
    let mut stream = TcpStream::connect(ingest).context("cannot connect to the gate")?;
    stream.set_nodelay(true)?;
    let (begun, mut sent) = (Instant::now(), 0);
    let mut text = Vec::new();
    while begun.elapsed() < length {
        let due = u64::try_from(begun.elapsed().as_micros())? * rate / 1_000_000;
        text.clear();
        while sent < due {
            sent += 1;
            let at = begun + Duration::from_secs_f64(sent as f64 / rate as f64);
            writeln!(text, "{} {:-<160}", nanoseconds(at), "an event ")?;
        }
        stream.write_all(&text).context("cannot send")?;
        thread::sleep(WRITE_EVERY);
    }
    Ok(sent)
}

/// Waits for a condition.
///
/// # Errors
/// If it takes too long, or cannot be told.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "waited {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
