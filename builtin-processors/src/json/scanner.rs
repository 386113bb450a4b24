//! Steps through JSON text, value by value, without building any of them.
//!
//! Strict by RFC 8259, but for what is inside of strings: escapes and control characters there are
//! taken as they come, and so are bytes that are no UTF-8. Nothing recurses, whatever the event
//! nests. `None` always means that the text is malformed or nests too deep; the scanner is of no
//! use then.

use std::borrow::Cow;

/// Deepest nesting of an event whose fields are looked at; deeper ones are treated as text.
pub(super) const MAX_NESTING: usize = 128;

/// Stands somewhere in JSON text, always at the beginning of a token.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// What a value is, told by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Literal,
}

/// A value as it is written.
///
/// **Shape**: `raw` is one complete JSON value without white space around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    raw: &'a [u8],
    start: usize,
    escaped: bool,
}

impl<'a> Value<'a> {
    /// Returns it as it is written; a string with its quotes.
    pub(crate) fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Returns where it begins in the scanner's text.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Returns the decoded string; `None` if the value is not a string, or its escapes are invalid.
    /// Bytes that are not UTF-8 become replacement characters.
    pub(crate) fn decoded(&self) -> Option<Cow<'a, str>> {
        if let Some(inner) = self.unescaped() {
            return Some(readable(inner));
        }
        if self.raw.first() != Some(&b'"') {
            return None;
        }
        let decoded = match std::str::from_utf8(self.raw) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_str(&String::from_utf8_lossy(self.raw)),
        };
        decoded.ok().map(Cow::Owned)
    }

    /// Returns what stands between the quotes of a string without escapes.
    pub(crate) fn unescaped(&self) -> Option<&'a [u8]> {
        let inner = self.raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        (!self.escaped).then_some(inner)
    }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let mut scanner = Self { text, at: 0 };
        scanner.skip_blanks();
        scanner
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Returns the object or array that began at `start` and was just closed.
    pub(super) fn container_from(&self, start: usize) -> Value<'a> {
        Value {
            raw: &self.text[start..self.closed_at()],
            start,
            escaped: false,
        }
    }

    /// Tells what the next value is.
    pub(super) fn kind(&self) -> Option<Kind> {
        Some(match self.peek()? {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b'-' | b'0'..=b'9' => Kind::Number,
            b't' | b'f' | b'n' => Kind::Literal,
            _ => return None,
        })
    }

    /// Goes into an object; says whether it has a member.
    pub(super) fn open_object(&mut self) -> Option<bool> {
        self.expect(b'{')?;
        self.opened(b'}')
    }

    /// Goes into an array; says whether it has an element.
    pub(super) fn open_array(&mut self) -> Option<bool> {
        self.expect(b'[')?;
        self.opened(b']')
    }

    /// Reads a key and the colon behind it.
    pub(super) fn key(&mut self) -> Option<Value<'a>> {
        let value = self.string()?;
        self.expect(b':')?;
        Some(value)
    }

    /// Goes on behind the value of a member; says whether there is another member.
    pub(super) fn next_member(&mut self) -> Option<bool> {
        self.next(b'}')
    }

    /// Goes on behind an element; says whether there is another one.
    pub(super) fn next_element(&mut self) -> Option<bool> {
        self.next(b']')
    }

    /// Reads a value of any kind that stands that many brackets deep.
    pub(super) fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        if self.kind()? == Kind::String {
            return self.string();
        }
        let start = self.at;
        let end = self.skip_to_end(depth)?;
        Some(Value {
            raw: &self.text[start..end],
            start,
            escaped: false,
        })
    }

    /// Skips a value of any kind that stands that many brackets deep.
    pub(super) fn skip(&mut self, depth: usize) -> Option<()> {
        self.skip_to_end(depth).map(drop)
    }

    /// Says whether nothing is left.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// Skips a value; returns where it ended, before any white space.
    fn skip_to_end(&mut self, depth: usize) -> Option<usize> {
        // A bit for each open bracket, the innermost lowest: 1 is an object. So the stack is
        // bounded and costs nothing.
        let mut brackets: u128 = 0;
        let mut open = 0;
        loop {
            let mut end = match self.kind()? {
                Kind::String => self.skip_string()?.0,
                Kind::Number => self.skip_number()?,
                Kind::Literal => self.skip_literal()?,
                kind => {
                    if depth + open >= MAX_NESTING {
                        return None;
                    }
                    let is_object = kind == Kind::Object;
                    let more = match is_object {
                        true => self.open_object()?,
                        false => self.open_array()?,
                    };
                    if more {
                        brackets = brackets << 1 | u128::from(is_object);
                        open += 1;
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                    self.closed_at()
                }
            };
            // Close what ends here.
            loop {
                if open == 0 {
                    self.at = end;
                    self.skip_blanks();
                    return Some(end);
                }
                let is_object = brackets & 1 == 1;
                let more = match is_object {
                    true => self.next_member()?,
                    false => self.next_element()?,
                };
                if more {
                    if is_object {
                        self.skip_key()?;
                    }
                    break;
                }
                brackets >>= 1;
                open -= 1;
                end = self.closed_at();
            }
        }
    }

    /// Returns where the bracket that was just closed ends: behind it may be white space only.
    fn closed_at(&self) -> usize {
        let before = &self.text[..self.at];
        let blanks = before.iter().rev().take_while(|byte| is_blank(**byte));
        self.at - blanks.count()
    }

    fn skip_key(&mut self) -> Option<()> {
        self.skip_string()?;
        self.expect(b':')
    }

    fn string(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        let (end, escaped) = self.skip_string()?;
        Some(Value {
            raw: &self.text[start..end],
            start,
            escaped,
        })
    }

    /// Skips a string and white space; returns where it ended, and whether it holds escapes.
    fn skip_string(&mut self) -> Option<(usize, bool)> {
        let bytes = self.text;
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let mut at = self.at + 1;
        let mut escaped = false;
        loop {
            at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes[at] == b'"' {
                break;
            }
            escaped = true;
            at += 2;
        }
        let end = at + 1;
        self.at = end;
        self.skip_blanks();
        Some((end, escaped))
    }

    fn skip_number(&mut self) -> Option<usize> {
        let bytes = self.text;
        let digits = |from: usize| {
            let digits = bytes[from..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            from + digits.count()
        };
        let mut at = self.at;
        if bytes[at] == b'-' {
            at += 1;
        }
        let whole = digits(at);
        if whole == at || (bytes[at] == b'0' && whole > at + 1) {
            return None;
        }
        at = whole;
        if bytes.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            if fraction == at + 1 {
                return None;
            }
            at = fraction;
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            at += 1;
            if let Some(b'+' | b'-') = bytes.get(at) {
                at += 1;
            }
            let exponent = digits(at);
            if exponent == at {
                return None;
            }
            at = exponent;
        }
        self.at = at;
        self.skip_blanks();
        Some(at)
    }

    fn skip_literal(&mut self) -> Option<usize> {
        let rest = &self.text[self.at..];
        let literal = ["true", "false", "null"]
            .into_iter()
            .find(|literal| rest.starts_with(literal.as_bytes()))?;
        let end = self.at + literal.len();
        self.at = end;
        self.skip_blanks();
        Some(end)
    }

    fn opened(&mut self, close: u8) -> Option<bool> {
        let empty = self.peek()? == close;
        if empty {
            self.step();
        }
        Some(!empty)
    }

    fn next(&mut self, close: u8) -> Option<bool> {
        let byte = self.peek()?;
        if byte != b',' && byte != close {
            return None;
        }
        self.step();
        Some(byte == b',')
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.step())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Goes behind the byte, an ASCII one, and the white space behind it.
    fn step(&mut self) {
        self.at += 1;
        self.skip_blanks();
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.at += 1;
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Returns bytes as text; those that are no UTF-8 become replacement characters.
pub(super) fn readable(bytes: &[u8]) -> Cow<'_, str> {
    // Nearly all bytes are text, for which this look is the quicker one.
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}
