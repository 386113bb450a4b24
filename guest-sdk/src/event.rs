//! One event's bytes inside a batch.

use std::fmt;

/// A view of one event: its body, and the terminator that ends it on the wire.
///
/// **Shape**: the last byte is `\n`; a `\r` right before it belongs to the terminator too. The body
/// never contains `\n`. It may hold any other byte, valid UTF-8 or not, and it may be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    bytes: &'a [u8],
}

impl<'a> Event<'a> {
    /// Wraps the bytes of one event, terminator included.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        debug_assert!(bytes.ends_with(b"\n"), "an event ends with a line feed");
        Self { bytes }
    }

    /// Returns what the application wrote, without the terminator.
    pub fn body(self) -> &'a [u8] {
        &self.bytes[..self.bytes.len() - self.terminator_len()]
    }

    /// Returns `\n` or `\r\n`.
    pub fn terminator(self) -> &'a [u8] {
        &self.bytes[self.bytes.len() - self.terminator_len()..]
    }

    /// Returns the body and the terminator, as they leave.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    fn terminator_len(self) -> usize {
        if self.bytes.ends_with(b"\r\n") { 2 } else { 1 }
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.bytes.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminator_is_no_part_of_the_body() {
        for (bytes, body, terminator) in [
            (&b"a\n"[..], &b"a"[..], &b"\n"[..]),
            (b"a\r\n", b"a", b"\r\n"),
            (b"a\rb\n", b"a\rb", b"\n"),
            (b"a\r\r\n", b"a\r", b"\r\n"),
            (b"\n", b"", b"\n"),
            (b"\r\n", b"", b"\r\n"),
        ] {
            let event = Event::new(bytes);
            assert_eq!((event.body(), event.terminator()), (body, terminator));
        }
    }
}
