//! The texts and numbers of a JSON event: where they are, which of them belong to the fields of a
//! rule, and how to replace parts of them so that what comes out is JSON again.
//!
//! Strict by RFC 8259, but for UTF-8, which is left to who reads the event. An event that is no JSON
//! object or array is text, and has no fields. Nothing here recurses, and scratch space is reused.

use std::ops::Range;

use crate::json::place_of_path;

/// Most entries in `fields` or `except_fields`.
pub(super) const MAX_FIELDS: usize = 64;

/// A text without its quotes, or a number, `true`, `false` or `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether it stands in quotes.
    pub(super) quoted: bool,
    /// Whether the rule's fields select it.
    pub(super) selected: bool,
}

/// What is to be written in place of a stretch of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    /// The range of the new text in a buffer beside.
    pub(super) text: Range<usize>,
}

/// Fields by their path.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    paths: Vec<Path>,
}

#[derive(Debug, Clone)]
struct Path {
    /// `None` is any key.
    keys: Vec<Option<String>>,
    /// Whether it may begin at any depth.
    anywhere: bool,
}

impl Fields {
    /// Reads paths: keys joined by `/`, `*` for any key, `**/` before them for any depth. The faulty
    /// entry's number is the error.
    pub(super) fn parse(entries: &[String]) -> Result<Self, usize> {
        let parse = |(at, entry): (usize, &String)| {
            let rest = entry.strip_prefix("**/");
            let place = place_of_path(rest.unwrap_or(entry)).ok_or(at)?;
            Ok(Path {
                keys: place
                    .into_iter()
                    .map(|key| (key != "*").then_some(key))
                    .collect(),
                anywhere: rest.is_some(),
            })
        };
        let paths: Result<Vec<Path>, usize> = entries.iter().enumerate().map(parse).collect();
        Ok(Self { paths: paths? })
    }

    /// Whether the field that these keys lead to is named.
    fn name(&self, body: &[u8], keys: &[Level]) -> bool {
        let same = |(wanted, level): (&Option<String>, &Level)| {
            wanted
                .as_ref()
                .is_none_or(|wanted| key_is(&body[level.key.clone()], wanted))
        };
        self.paths.iter().any(|path| {
            let keys = match path.anywhere {
                true => keys
                    .get(keys.len().wrapping_sub(path.keys.len())..)
                    .unwrap_or_default(),
                false => keys,
            };
            keys.len() == path.keys.len() && path.keys.iter().zip(keys).all(same)
        })
    }
}

fn key_is(written: &[u8], wanted: &str) -> bool {
    if !written.contains(&b'\\') {
        return written == wanted.as_bytes();
    }
    let quoted = [b"\"", written, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|key| key == wanted)
}

/// Reads events; holds the scalars of the last one.
#[derive(Debug, Clone, Default)]
pub(super) struct Scalars {
    list: Vec<Scalar>,
    levels: Vec<Level>,
    /// The levels that are objects.
    objects: Vec<Level>,
}

/// An object or an array that is open.
#[derive(Debug, Clone)]
struct Level {
    is_object: bool,
    /// Whether what is in it is selected, whatever its key.
    all_selected: bool,
    /// Whether the value of the current key is.
    selected: bool,
    /// The current key.
    key: Range<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    CommaOrEnd,
    Nothing,
}

impl Scalars {
    /// Returns the scalars of the event, keys included unless there are fields; `None` if it is no
    /// JSON object or array.
    pub(super) fn read(&mut self, body: &[u8], fields: Option<&Fields>) -> Option<&[Scalar]> {
        self.list.clear();
        self.levels.clear();
        self.objects.clear();
        let first = body.iter().find(|byte| !is_blank(**byte))?;
        let read = matches!(first, b'{' | b'[') && self.walk(body, fields).is_some();
        read.then_some(self.list.as_slice())
    }

    fn walk(&mut self, body: &[u8], fields: Option<&Fields>) -> Option<()> {
        let mut at = 0;
        let mut expect = Expect::Value;
        loop {
            while body.get(at).is_some_and(|byte| is_blank(*byte)) {
                at += 1;
            }
            let Some(&byte) = body.get(at) else {
                return (expect == Expect::Nothing).then_some(());
            };
            let selected = self.levels.last().is_none_or(|level| level.selected);
            match (byte, expect) {
                (b'{' | b'[', Expect::Value | Expect::ValueOrEnd) => {
                    let is_object = byte == b'{';
                    // Without fields everything is selected.
                    let all_selected = match self.levels.is_empty() {
                        true => fields.is_none(),
                        false => selected,
                    };
                    self.levels.push(Level {
                        is_object,
                        all_selected,
                        selected: all_selected,
                        key: 0..0,
                    });
                    if is_object && fields.is_some() {
                        self.objects.extend(self.levels.last().cloned());
                    }
                    at += 1;
                    expect = match is_object {
                        true => Expect::KeyOrEnd,
                        false => Expect::ValueOrEnd,
                    };
                }
                (b'}', Expect::KeyOrEnd)
                | (b']', Expect::ValueOrEnd)
                | (b'}' | b']', Expect::CommaOrEnd) => {
                    let level = self.levels.pop()?;
                    if level.is_object != (byte == b'}') {
                        return None;
                    }
                    if level.is_object && fields.is_some() {
                        self.objects.pop();
                    }
                    at += 1;
                    expect = self.behind_value();
                }
                (b',', Expect::CommaOrEnd) => {
                    at += 1;
                    expect = match self.levels.last()?.is_object {
                        true => Expect::Key,
                        false => Expect::Value,
                    };
                }
                (b'"', Expect::Key | Expect::KeyOrEnd) => {
                    let end = text_end(body, at)?;
                    if let Some(fields) = fields {
                        self.enter_key(body, at + 1..end, fields);
                    } else {
                        self.push(at + 1, end, true, true);
                    }
                    at = end + 1;
                    while body.get(at).is_some_and(|byte| is_blank(*byte)) {
                        at += 1;
                    }
                    if body.get(at) != Some(&b':') {
                        return None;
                    }
                    at += 1;
                    expect = Expect::Value;
                }
                (b'"', Expect::Value | Expect::ValueOrEnd) => {
                    let end = text_end(body, at)?;
                    self.push(at + 1, end, true, selected);
                    at = end + 1;
                    expect = self.behind_value();
                }
                (_, Expect::Value | Expect::ValueOrEnd) => {
                    let end = at + bare_length(&body[at..])?;
                    self.push(at, end, false, selected);
                    at = end;
                    expect = self.behind_value();
                }
                _ => return None,
            }
        }
    }

    fn enter_key(&mut self, body: &[u8], key: Range<usize>, fields: &Fields) {
        if let Some(object) = self.objects.last_mut() {
            object.key = key;
        }
        let named = fields.name(body, &self.objects);
        if let Some(level) = self.levels.last_mut() {
            level.selected = level.all_selected || named;
        }
    }

    fn behind_value(&self) -> Expect {
        match self.levels.is_empty() {
            true => Expect::Nothing,
            false => Expect::CommaOrEnd,
        }
    }

    fn push(&mut self, start: usize, end: usize, quoted: bool, selected: bool) {
        self.list.push(Scalar {
            start,
            end,
            quoted,
            selected,
        });
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Finds the quote that ends the text whose first quote is at `quote`.
fn text_end(body: &[u8], quote: usize) -> Option<usize> {
    let mut at = quote + 1;
    loop {
        match *body.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += escape_length(&body[at..])?,
            ..0x20 => return None,
            _ => at += 1,
        }
    }
}

/// The length of the escape that the bytes begin with.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => bytes
            .get(2..6)?
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then_some(6),
        _ => None,
    }
}

/// The length of the number, `true`, `false` or `null` that the bytes begin with.
fn bare_length(bytes: &[u8]) -> Option<usize> {
    for word in [&b"true"[..], b"false", b"null"] {
        if bytes.starts_with(word) {
            return Some(word.len());
        }
    }
    let digits = |at: usize| {
        let rest = bytes.get(at..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let some = |count: usize| (count > 0).then_some(count);
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    at += match bytes.get(at) {
        Some(b'0') => 1,
        _ => some(digits(at))?,
    };
    if bytes.get(at) == Some(&b'.') {
        at += 1 + some(digits(at + 1))?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        at += some(digits(at))?;
    }
    Some(at)
}

/// Writes a JSON event with its spans replaced, so that it is JSON again.
///
/// A span inside a text is replaced there, escaped; a number becomes a text. What reaches over the
/// edge of a text or a number is replaced as it is, if that gives JSON (a user's `"pin":\d+` does so
/// with `"pin":0`); else only the texts and numbers that it touches are replaced: the first by the new
/// text, others by nothing.
pub(super) fn replace(
    body: &[u8],
    scalars: &[Scalar],
    spans: &mut Vec<Span>,
    texts: &[u8],
    out: &mut Vec<u8>,
) {
    let crosses = spans.iter().any(|span| holder(scalars, span).is_none());
    if !crosses {
        return write(body, scalars, spans, texts, out);
    }
    let begun = out.len();
    write(body, scalars, spans, texts, out);
    if Scalars::default().read(&out[begun..], None).is_some() {
        return;
    }
    out.truncate(begun);
    let mut clipped = Vec::with_capacity(spans.len());
    for span in &*spans {
        let mut text = span.text.clone();
        let first = scalars.partition_point(|scalar| scalar.end <= span.start);
        for scalar in scalars[first..]
            .iter()
            .take_while(|scalar| scalar.start < span.end)
        {
            clipped.push(Span {
                start: span.start.max(scalar.start),
                end: span.end.min(scalar.end),
                text: text.clone(),
            });
            text.end = text.start;
        }
    }
    *spans = clipped;
    write(body, scalars, spans, texts, out);
}

/// Finds the scalar that a span lies inside of.
fn holder<'a>(scalars: &'a [Scalar], span: &Span) -> Option<&'a Scalar> {
    let at = scalars.partition_point(|scalar| scalar.end < span.end);
    scalars
        .get(at)
        .filter(|scalar| scalar.start <= span.start && span.end <= scalar.end)
}

fn write(body: &[u8], scalars: &[Scalar], spans: &[Span], texts: &[u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    let mut spans = spans.iter().peekable();
    while let Some(span) = spans.next() {
        let text = &texts[span.text.clone()];
        match holder(scalars, span) {
            None => {
                out.extend_from_slice(&body[copied..span.start]);
                out.extend_from_slice(text);
                copied = span.end;
            }
            Some(scalar) if scalar.quoted => {
                let (start, end) = whole_escapes(body, scalar, span);
                out.extend_from_slice(&body[copied..start.max(copied)]);
                escape(text, out);
                copied = end;
            }
            Some(number) => {
                out.extend_from_slice(&body[copied..number.start]);
                out.push(b'"');
                out.extend_from_slice(&body[number.start..span.start]);
                escape(text, out);
                copied = span.end;
                while let Some(more) = spans.next_if(|more| more.end <= number.end) {
                    out.extend_from_slice(&body[copied..more.start]);
                    escape(&texts[more.text.clone()], out);
                    copied = more.end;
                }
                out.extend_from_slice(&body[copied..number.end]);
                out.push(b'"');
                copied = number.end;
            }
        }
    }
    out.extend_from_slice(&body[copied..]);
}

/// Widens a span so that it splits no escape.
fn whole_escapes(body: &[u8], scalar: &Scalar, span: &Span) -> (usize, usize) {
    let (mut start, mut end) = (span.start, span.end);
    let mut at = scalar.start;
    while let Some(found) = memchr::memchr(b'\\', &body[at..end]) {
        let escape = at + found;
        at = (escape + escape_length(&body[escape..]).unwrap_or(1)).min(scalar.end);
        if escape < start && start < at {
            start = escape;
        }
        if at >= end {
            if escape < span.end {
                end = at;
            }
            break;
        }
    }
    (start, end)
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\t' => out.extend_from_slice(b"\\t"),
            ..0x20 => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            _ => out.push(byte),
        }
    }
}
