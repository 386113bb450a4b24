//! One event's bytes inside a batch.

use std::{borrow::Cow, fmt};

use serde::Deserialize;

/// A view of one event: its body, and the terminator that ends it on the wire.
///
/// **Shape**: the last byte is `\n`; a `\r` right before it belongs to the terminator too. The body
/// never contains `\n`. It may hold any other byte, valid UTF-8 or not, and it may be empty.
///
/// Events are equal if their bytes are, wherever they lie.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl PartialEq for Event<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Event<'_> {}

impl<'a> Event<'a> {
    /// Wraps the bytes of one event, terminator included.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::at(bytes, 0)
    }

    /// The same, for an event that begins at `offset` in the slice that an editor was given.
    pub(crate) fn at(bytes: &'a [u8], offset: usize) -> Self {
        debug_assert!(bytes.ends_with(b"\n"), "an event ends with a line feed");
        Self { bytes, offset }
    }

    /// Returns where it begins in the slice that [`Editor::next`](crate::Editor::next) was given; 0 for
    /// an event that comes from elsewhere, as from [`Batch::iter`](crate::Batch::iter).
    pub fn offset(self) -> usize {
        self.offset
    }

    /// Returns what the application wrote, without the terminator.
    pub fn body(self) -> &'a [u8] {
        &self.bytes[..self.bytes.len() - self.terminator_len()]
    }

    /// Returns the body as text; what is not valid UTF-8 becomes `\u{FFFD}`. Copies only then.
    pub fn text(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.body())
    }

    /// Says whether the body contains `text`. Every body contains the empty text.
    ///
    /// To look for one text in many events, [`Batch::edit`](crate::Batch::edit) with a search over
    /// whole slices is faster.
    pub fn contains(self, text: &str) -> bool {
        memchr::memmem::find(self.body(), text.as_bytes()).is_some()
    }

    /// Reads the body as JSON; `None` if it is none, or not of the shape of `T`.
    ///
    /// Fields that `T` does not name are skipped. A `T` that borrows from the event copies nothing.
    pub fn json<T: Deserialize<'a>>(self) -> Option<T> {
        serde_json::from_slice(self.body()).ok()
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

    #[test]
    fn an_event_reads_as_text_and_as_json() {
        let event = Event::new(b"{\"level\":\"info\",\"n\":1}\r\n");
        assert!(event.contains("info") && event.contains("") && !event.contains("\r"));
        #[derive(Deserialize, PartialEq, Debug)]
        struct Level<'a> {
            level: &'a str,
        }
        assert_eq!(event.json(), Some(Level { level: "info" }));
        assert_eq!(Event::new(b"level=info\n").json::<Level<'_>>(), None);
        assert_eq!(Event::new(b"a\xffb\n").text(), "a\u{FFFD}b");
    }
}
