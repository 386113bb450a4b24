//! Log lines about the gate itself, to stderr: text on a terminal, JSON otherwise.
//!
//! stderr may be a pipe that is not read, or a file on a full disk. A thread of its own writes to
//! it, from a bounded queue, so that no other thread ever waits for it: lines that find the queue
//! full, or that cannot be written, are dropped and counted.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::error;
use tracing_subscriber::{EnvFilter, fmt, fmt::MakeWriter};

/// The environment variable with the log level, `info` if it is not set; also takes directives such
/// as `warn,streamgate::outputs=debug`.
pub const LEVEL_VARIABLE: &str = "STREAMGATE_LOG";

/// Lines that may wait for stderr; with [`MAX_LINE_BYTES`] each, 16 MiB.
const MAX_WAITING_LINES: usize = 1024;

/// Longest log line, in bytes; a longer one is cut.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// How long the process waits at its end for what was logged to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Pause between two attempts to put something into a full queue.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// All lines before it are written, or lost.
    Flush(SyncSender<()>),
}

/// Hands each line to the thread that writes.
#[derive(Debug, Clone)]
struct LogQueue(SyncSender<Message>);

/// Begins to log.
///
/// # Errors
/// If the operating system has no thread to give.
pub fn init() -> io::Result<()> {
    let (sender, messages) = sync_channel(MAX_WAITING_LINES);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_all(&messages))?;
    let queue = LogQueue(QUEUE.get_or_init(|| sender).clone());
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(queue);
    if io::stderr().is_terminal() {
        builder.with_ansi(true).with_target(false).init();
    } else {
        builder
            .json()
            .with_current_span(false)
            .with_span_list(false)
            .init();
    }
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Returns how many log lines were dropped.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes a last line to stderr, and waits until everything that was logged is written, a second at
/// most.
pub fn finish(line: Option<&str>) {
    let line = line.map(|line| format!("{line}\n").into_bytes());
    let Some(queue) = QUEUE.get() else {
        if let Some(line) = line {
            // Nothing runs yet that could be held up. Where stderr is full or closed the exit code
            // alone has to tell.
            let _ = io::stderr().write_all(&line);
        }
        return;
    };
    let deadline = Instant::now() + FLUSH_TIME;
    let (done, flushed) = sync_channel(1);
    let line = line.map(Message::Line);
    for message in line.into_iter().chain([Message::Flush(done)]) {
        if !put(queue, message, deadline) {
            return;
        }
    }
    let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// Puts a message into the queue; returns false if there was no room until the deadline.
fn put(queue: &SyncSender<Message>, mut message: Message, deadline: Instant) -> bool {
    loop {
        match queue.try_send(message) {
            Ok(()) => return true,
            Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                message = back;
                thread::sleep(RETRY_PAUSE);
            }
            Err(_) => return false,
        }
    }
}

fn write_all(messages: &Receiver<Message>) {
    let mut stderr = io::stderr();
    for message in messages {
        match message {
            Message::Line(line) => {
                if stderr.write_all(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Logs a panic as one line. The standard library's hook would write to stderr on the thread that
/// panicked.
fn log_panic(about: &PanicHookInfo<'_>) {
    let message = about.payload_as_str().unwrap_or("no message");
    let location = about.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    error!(
        location,
        thread = thread::current().name(),
        backtrace = backtrace.map(tracing::field::display),
        "panic: {message}"
    );
}

impl Write for LogQueue {
    /// Takes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut copy = line[..line.len().min(MAX_LINE_BYTES)].to_vec();
        if copy.len() < line.len() {
            copy.truncate(MAX_LINE_BYTES - 1);
            copy.push(b'\n');
        }
        if self.0.try_send(Message::Line(copy)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
