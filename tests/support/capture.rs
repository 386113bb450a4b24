//! What a stream brought: kept up to a bound, and watched while it comes.

use std::{
    io::Read,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::eventually;

/// The most that is kept, in bytes; no test comes near it, so more is a failure.
const LIMIT_BYTES: usize = 512 * 1024 * 1024;

/// The end of it that a failing test prints, in bytes.
const SHOWN_BYTES: usize = 4 * 1024;

/// The bytes of a stream, shared with the thread that reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Mutex<Vec<u8>>,
    overflowed: AtomicBool,
    ended: AtomicBool,
    /// Held while the stream is not read.
    reads: Mutex<()>,
}

impl Capture {
    /// Reads `stream` to its end in a thread of its own.
    pub(crate) fn of(mut stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let writer = capture.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                writer.push(&buffer[..read]);
                drop(writer.pause());
            }
            writer.state.ended.store(true, Ordering::SeqCst);
        });
        capture
    }

    /// Nothing, because there is no stream.
    pub(crate) fn none() -> Self {
        Self::of(std::io::empty())
    }

    /// Lets the stream not be read, but for once more, while the guard lives.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        self.state
            .reads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends bytes.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        if kept.len() + bytes.len() > LIMIT_BYTES {
            self.state.overflowed.store(true, Ordering::SeqCst);
        } else {
            kept.extend_from_slice(bytes);
        }
    }

    /// Returns all that came up to now.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// The same as text; what is no UTF-8 is replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock()).into_owned()
    }

    /// Returns how many bytes came up to now.
    pub(crate) fn len(&self) -> usize {
        assert!(
            !self.state.overflowed.load(Ordering::SeqCst),
            "more than {LIMIT_BYTES} bytes arrived"
        );
        self.lock().len()
    }

    /// Waits until exactly `expected` is what came.
    #[track_caller]
    pub(crate) fn wait_for(&self, expected: &[u8]) {
        eventually(
            &format!("{} bytes arrive, found {}", expected.len(), self.len()),
            || self.len() >= expected.len(),
        );
        assert_same_bytes(&self.lock(), expected);
    }

    /// Waits until the stream has ended.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) {
        eventually("the stream ends", || {
            self.state.ended.load(Ordering::SeqCst)
        });
    }

    /// Returns the end of it, for a person to read.
    pub(crate) fn tail(&self) -> String {
        let bytes = self.lock();
        let from = bytes.len().saturating_sub(SHOWN_BYTES);
        let shown = String::from_utf8_lossy(&bytes[from..]);
        format!("{} bytes, of which the last are:\n{shown}", bytes.len())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // A thread that panicked while it held this has failed its test already.
        self.state
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same_bytes(found: &[u8], expected: &[u8]) {
    if found == expected {
        return;
    }
    let at = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected)
        .unwrap_or(found.len().min(expected.len()));
    let around = |bytes: &[u8]| {
        let part = &bytes[at.saturating_sub(80).min(bytes.len())..(at + 80).min(bytes.len())];
        part.escape_ascii().to_string()
    };
    panic!(
        "the bytes differ at {at}; found {} bytes, expected {}\n   found: {}\nexpected: {}",
        found.len(),
        expected.len(),
        around(found),
        around(expected)
    );
}
