//! Finds the keys, texts and other values of JSON, and of what is nearly JSON.
//!
//! Writers leave more than RFC 8259 allows: `NaN`, numbers with leading zeros, raw control
//! characters, escapes that JSON does not have, single quotes, names without quotes, a comma too
//! many, a second document or words behind the first one, a document that was cut off. All of these
//! are read, as the place of every member is still certain. Where it is not, the document is
//! unreadable, and the rules say what becomes of it.
//!
//! One pass, linear in the length of the text; nothing recurses.

use std::ops::Range;

use crate::json;

/// Most nodes of one event: what is beyond makes it unreadable.
const MAX_NODES: usize = 1 << 18;

/// Most objects and arrays inside one another.
const MAX_OPEN: usize = 512;

/// Most blanks and brackets of arrays before the first object of a document.
const MAX_BEFORE_OBJECT: usize = 256;

/// Bytes of a text that are looked at eight at a time, before vectors are quicker.
const SHORT_TEXT: usize = 32;

/// No node.
pub(crate) const NONE: u32 = u32::MAX;

/// A key, a value, or an object or array around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    /// Without quotes; with brackets.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The object or array that it is in; of a document inside a text, that text.
    pub(crate) parent: u32,
    pub(crate) kind: Kind,
    /// Its quotes; 0 if it has none.
    pub(crate) mark: u8,
    /// The decoding step that its escapes are removed by.
    pub(crate) step: u8,
    /// Whether there are escapes in it.
    pub(crate) is_escaped: bool,
    /// Whether its end was there, and not cut off.
    pub(crate) is_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    /// The name of a member; the next node is its value.
    Key,
    /// A value in quotes.
    Text,
    /// Another value: a number, `true`, `false`, `null`, or a word where one of these should be.
    Bare,
}

/// What a text is, as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Structure {
    /// No JSON.
    #[default]
    Plain,
    /// JSON, or so near to it that the place of every value is certain.
    Json,
    /// It begins like JSON and cannot be read.
    Unreadable,
}

impl Node {
    pub(crate) fn is_container(&self) -> bool {
        matches!(self.kind, Kind::Object | Kind::Array)
    }

    pub(crate) fn is_quoted(&self) -> bool {
        self.mark != 0
    }
}

/// Reads the documents of an event, and adds their nodes.
pub(super) fn read_event(text: &[u8], nodes: &mut Vec<Node>) -> Structure {
    let blank = text
        .iter()
        .position(|&byte| !is_blank(byte) && byte != 0)
        .unwrap_or(text.len());
    let start = match text.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => text.len() - rest.len() + skip_blanks(rest, 0),
        None => blank,
    };
    // What begins with a brace wants to be JSON, whatever comes behind it.
    if text.get(start) == Some(&b'{') || begins_array(text, start) {
        return read_from(text, start, text.len(), NONE, 0, nodes);
    }
    // An array of numbers, but not `[12] starting`.
    if text.get(start) == Some(&b'[') && json::is_value(text) {
        return read_from(text, start, text.len(), NONE, 0, nodes);
    }
    match document_start(text, 0, text.len()) {
        Some(at) if continues_json(&text[..at]) => Structure::Unreadable,
        Some(at) => read_from(text, at, text.len(), NONE, 0, nodes),
        None if is_broken_json(text) => Structure::Unreadable,
        None => Structure::Plain,
    }
}

/// Reads the documents inside a text of JSON, if there are any, and adds their nodes.
pub(super) fn read_inside(
    text: &[u8],
    range: Range<usize>,
    parent: u32,
    step: u8,
    nodes: &mut Vec<Node>,
) -> Structure {
    let Some(at) = document_start(text, range.start, range.end) else {
        let content = &text[..range.end];
        let begun = skip_blanks(content, range.start);
        // A text that begins so wants to be JSON.
        return match content.get(begun..begun + 2) {
            Some(b"{\"" | b"{'") => Structure::Unreadable,
            _ => Structure::Plain,
        };
    };
    let before = nodes.len();
    let structure = read_from(text, at, range.end, parent, step, nodes);
    if structure == Structure::Unreadable {
        nodes.truncate(before);
    }
    structure
}

/// Reads the documents from the one at `start` on.
fn read_from(
    text: &[u8],
    start: usize,
    end: usize,
    parent: u32,
    step: u8,
    nodes: &mut Vec<Node>,
) -> Structure {
    let mut at = start;
    loop {
        let mut lexer = Lexer {
            text: &text[..end],
            nodes,
            step,
        };
        let Some(behind) = lexer.document(at, parent) else {
            return Structure::Unreadable;
        };
        at = skip_filling(&text[..end], behind);
        let next = match text[..end].get(at) {
            None => return Structure::Json,
            // The document was a part of a larger one.
            Some(b'}' | b']' | b':' | b'"') => return Structure::Unreadable,
            Some(b',') => {
                let behind = skip_filling(&text[..end], at + 1);
                match text[..end].get(behind) {
                    None => return Structure::Json,
                    Some(b'{' | b'[') => behind,
                    Some(_) => return Structure::Unreadable,
                }
            }
            Some(b'{') => at,
            Some(_) => match document_start(text, at, end) {
                Some(next) => next,
                None => return Structure::Json,
            },
        };
        at = next;
    }
}

/// Finds a document that begins with `{"key":`, or an array of such, at or after `at`.
fn document_start(text: &[u8], at: usize, end: usize) -> Option<usize> {
    let text = &text[..end];
    let mut from = at;
    loop {
        let brace = from + memchr::memchr(b'{', text.get(from..)?)?;
        if begins_object(text, brace) {
            let outside = text[at..brace]
                .iter()
                .rev()
                .take(MAX_BEFORE_OBJECT)
                .take_while(|&&byte| is_blank(byte) || byte == b'[')
                .count();
            let brackets = &text[brace - outside..brace];
            let first = brackets.iter().position(|&byte| byte == b'[');
            return Some(first.map_or(brace, |first| brace - outside + first));
        }
        from = brace + 1;
    }
}

/// Whether an event begins with an object, or with an array of texts, objects or arrays.
pub(super) fn begins_json(text: &[u8]) -> bool {
    let start = skip_blanks(text, 0);
    text.get(start) == Some(&b'{') || begins_array(text, start)
}

/// Whether an array begins here that holds texts, objects or arrays: `[12:00]` begins none.
fn begins_array(text: &[u8], at: usize) -> bool {
    text.get(at) == Some(&b'[')
        && matches!(
            text.get(skip_blanks(text, at + 1)),
            Some(b'{' | b'[' | b'"' | b'\'')
        )
}

/// Whether the brace is followed by a key in quotes and a colon.
fn begins_object(text: &[u8], brace: usize) -> bool {
    let quote = skip_blanks(text, brace + 1);
    let Some(&mark @ (b'"' | b'\'')) = text.get(quote) else {
        return false;
    };
    let key = &text[quote + 1..];
    let mut at = 0;
    loop {
        match key.get(at) {
            Some(b'\\') => at += 2,
            Some(&byte) if byte == mark => break,
            Some(_) => at += 1,
            None => return false,
        }
    }
    text.get(skip_blanks(text, quote + 1 + at + 1)) == Some(&b':')
}

/// Whether text before a document is the beginning of a larger one.
fn continues_json(before: &[u8]) -> bool {
    let filled = before.len()
        - before
            .iter()
            .rev()
            .take_while(|&&byte| is_blank(byte))
            .count();
    let before = &before[..filled];
    before.ends_with(b"\":") || before.ends_with(b"',") || before.ends_with(b"\",") || {
        let rest = before.strip_suffix(b":").unwrap_or(before);
        let rest = &rest[..rest.len() - rest.iter().rev().take_while(|&&b| is_blank(b)).count()];
        rest.len() < before.len() && rest.ends_with(b"\"")
    }
}

/// Whether there are members of an object in a text in which no document can be found.
fn is_broken_json(text: &[u8]) -> bool {
    memchr::memchr2(b'{', b'}', text).is_some() && memchr::memmem::find(text, b"\":").is_some()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn skip_blanks(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|&&byte| is_blank(byte)).count()
}

/// Skips what may fill the end of a record.
fn skip_filling(text: &[u8], at: usize) -> usize {
    let is_filling = |byte: u8| is_blank(byte) || byte == 0;
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|&&byte| is_filling(byte)).count()
}

struct Lexer<'a> {
    text: &'a [u8],
    nodes: &'a mut Vec<Node>,
    step: u8,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    CommaOrEnd,
}

impl Lexer<'_> {
    /// Reads the document that begins at `at`; returns where it ends, or `None` if that is not
    /// certain.
    fn document(&mut self, at: usize, parent: u32) -> Option<usize> {
        let mut at = at;
        let mut open = parent;
        let mut depth = 0;
        let mut expect = Expect::Value;
        loop {
            at = skip_blanks(self.text, at);
            let Some(&byte) = self.text.get(at) else {
                // Cut off: everything that is open ends here.
                return Some(self.text.len());
            };
            if self.nodes.len() >= MAX_NODES {
                return None;
            }
            match (byte, expect) {
                (b'{' | b'[', Expect::Value | Expect::ValueOrEnd) => {
                    let (kind, next) = match byte {
                        b'{' => (Kind::Object, Expect::KeyOrEnd),
                        _ => (Kind::Array, Expect::ValueOrEnd),
                    };
                    let number = u32::try_from(self.nodes.len()).ok()?;
                    self.push(at, self.text.len(), open, kind);
                    (open, expect) = (number, next);
                    at += 1;
                    depth += 1;
                    if depth > MAX_OPEN {
                        return None;
                    }
                }
                (b'}', Expect::Key | Expect::KeyOrEnd | Expect::CommaOrEnd)
                | (b']', Expect::Value | Expect::ValueOrEnd | Expect::CommaOrEnd) => {
                    let wanted = match byte {
                        b'}' => Kind::Object,
                        _ => Kind::Array,
                    };
                    at += 1;
                    let node = self.nodes.get_mut(open as usize)?;
                    if node.kind != wanted {
                        return None;
                    }
                    (node.end, node.is_closed) = (at, true);
                    open = node.parent;
                    depth -= 1;
                    if open == parent {
                        return Some(at);
                    }
                    expect = Expect::CommaOrEnd;
                }
                (b',', Expect::CommaOrEnd) => {
                    at += 1;
                    expect = match self.nodes[open as usize].kind {
                        Kind::Object => Expect::Key,
                        _ => Expect::Value,
                    };
                }
                (_, Expect::Key | Expect::KeyOrEnd) => {
                    at = self.key(at, open)?;
                    at = skip_blanks(self.text, at);
                    match self.text.get(at) {
                        Some(b':') => at += 1,
                        None => return Some(self.text.len()),
                        Some(_) => return None,
                    }
                    expect = Expect::Value;
                }
                (b'"' | b'\'', Expect::Value | Expect::ValueOrEnd) => {
                    at = self.quoted(at, open, Kind::Text);
                    expect = Expect::CommaOrEnd;
                }
                (_, Expect::Value | Expect::ValueOrEnd) => {
                    let length = bare_length(&self.text[at..]);
                    if length == 0 {
                        return None;
                    }
                    self.push(at, at + length, open, Kind::Bare);
                    at += length;
                    expect = Expect::CommaOrEnd;
                }
                _ => return None,
            }
        }
    }

    /// Reads a key, with or without quotes; returns where it ends.
    fn key(&mut self, at: usize, open: u32) -> Option<usize> {
        if matches!(self.text[at], b'"' | b'\'') {
            return Some(self.quoted(at, open, Kind::Key));
        }
        let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_$-.@".contains(byte);
        let length = self.text[at..].iter().take_while(is_word).count();
        if length == 0 {
            return None;
        }
        self.push(at, at + length, open, Kind::Key);
        Some(at + length)
    }

    /// Reads what is in quotes; returns where the text goes on.
    fn quoted(&mut self, at: usize, open: u32, kind: Kind) -> usize {
        let mark = self.text[at];
        let start = at + 1;
        let mut end = start;
        let mut is_escaped = false;
        let is_closed = loop {
            end += plain_length(&self.text[end.min(self.text.len())..], mark);
            match self.text.get(end) {
                // Terminal codes end so, and nothing is escaped.
                Some(b'\\') if self.text[end - 1] == 0x1b => end += 1,
                Some(b'\\') => {
                    is_escaped = true;
                    end += 2;
                }
                Some(_) => break true,
                None => break false,
            }
        };
        let end = end.min(self.text.len());
        self.push(start, end, open, kind);
        if let Some(node) = self.nodes.last_mut() {
            (node.mark, node.is_escaped, node.is_closed) = (mark, is_escaped, is_closed);
        }
        end + usize::from(is_closed)
    }

    fn push(&mut self, start: usize, end: usize, parent: u32, kind: Kind) {
        self.nodes.push(Node {
            start,
            end,
            parent,
            kind,
            mark: 0,
            step: self.step,
            is_escaped: false,
            is_closed: kind == Kind::Bare,
        });
    }
}

/// How many bytes the text has before a backslash or the mark that ends it.
///
/// Most texts have a few bytes, for which a call of a vectorised search takes longer than the
/// search; so eight bytes are looked at as one number. Of a zero byte, and of none before the first
/// one, the highest bit is set in `(x - 0x01..) & !x & 0x80..` (Warren, "Hacker's Delight", section
/// 6-1).
fn plain_length(text: &[u8], mark: u8) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
    let marks = ONES * u64::from(mark);
    let backslashes = ONES * u64::from(b'\\');
    let mut length = 0;
    let mut chunks = text.chunks_exact(8);
    for chunk in chunks.by_ref().take(SHORT_TEXT / 8) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        let eight = u64::from_le_bytes(eight);
        let found = zero(eight ^ marks) | zero(eight ^ backslashes);
        if found != 0 {
            return length + found.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let rest = &text[length..];
    length + memchr::memchr2(mark, b'\\', rest).unwrap_or(rest.len())
}

/// The length of a value without quotes.
fn bare_length(text: &[u8]) -> usize {
    let ends = |byte: &u8| {
        *byte <= b' ' || matches!(byte, b',' | b':' | b'{' | b'}' | b'[' | b']' | b'"' | b'\'')
    };
    text.iter().position(ends).unwrap_or(text.len())
}
