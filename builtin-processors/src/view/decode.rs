//! The encodings that a view removes: escapes of JSON texts, percent-encoding, terminal codes.
//!
//! | encoding | source |
//! | --- | --- |
//! | escapes of JSON | RFC 8259, section 7; also `\'`, `\xNN`, `\v` and `\0`, which writers of JavaScript and Python leave |
//! | percent-encoding | RFC 3986, section 2.1; `+` for a blank: WHATWG URL, `application/x-www-form-urlencoded` |
//! | terminal codes | ECMA-48, section 5: CSI, OSC and the escape sequences of two characters |

use std::ops::Range;

use super::{lexer::Node, map::Decoder};

/// A piece of text that an escape stands for.
pub(super) struct Escape {
    /// Bytes of the source.
    pub(super) length: usize,
    text: [u8; 4],
    text_length: usize,
}

impl Escape {
    pub(super) fn decoded(&self) -> &[u8] {
        &self.text[..self.text_length]
    }

    fn byte(length: usize, byte: u8) -> Option<Self> {
        Self::character(length, char::from(byte))
    }

    fn character(length: usize, character: char) -> Option<Self> {
        let mut text = [0; 4];
        let text_length = character.encode_utf8(&mut text).len();
        Some(Self {
            length,
            text,
            text_length,
        })
    }
}

/// Decodes the escapes in those keys and texts that were read last, by `step`.
pub(super) fn json(from: &[u8], nodes: &[Node], step: u8, decoder: &mut Decoder<'_>) {
    let read_last = |node: &&Node| node.is_quoted() && node.step == step && node.is_escaped;
    for node in nodes.iter().filter(read_last) {
        escapes(from, node.start..node.end, decoder);
    }
}

/// Decodes the escapes in a range.
pub(super) fn escapes(from: &[u8], range: Range<usize>, decoder: &mut Decoder<'_>) {
    let content = &from[..range.end];
    let mut at = range.start;
    loop {
        // Escapes often follow one another.
        if content.get(at) != Some(&b'\\') {
            match content
                .get(at..)
                .and_then(|rest| memchr::memchr(b'\\', rest))
            {
                Some(found) => at += found,
                None => return,
            }
        }
        // What ends a terminal code escapes nothing.
        if at > 0 && content[at - 1] == 0x1b && content.get(at + 1) != Some(&b'u') {
            at += 1;
            continue;
        }
        match escape(&content[at..]) {
            Some(escape) => {
                decoder.put(at..at + escape.length, escape.decoded());
                at += escape.length;
            }
            // Nobody knows what it stands for: it is text as it is.
            None => at = (at + 2).min(content.len()),
        }
    }
}

/// Reads the escape that the bytes begin with.
pub(super) fn escape(bytes: &[u8]) -> Option<Escape> {
    match bytes.get(1)? {
        byte @ (b'"' | b'\'' | b'\\' | b'/') => Escape::byte(2, *byte),
        b'b' => Escape::byte(2, 8),
        b'f' => Escape::byte(2, 12),
        b'n' => Escape::byte(2, b'\n'),
        b'r' => Escape::byte(2, b'\r'),
        b't' => Escape::byte(2, b'\t'),
        b'v' => Escape::byte(2, 11),
        b'0' => Escape::byte(2, 0),
        b'x' => Escape::character(4, char::from_u32(hexadecimal(bytes.get(2..4)?)?)?),
        b'u' => {
            let unit = hexadecimal(bytes.get(2..6)?)?;
            if let Some(character) = char::from_u32(unit) {
                return Escape::character(6, character);
            }
            let low = bytes.get(6..12).and_then(|rest| {
                let low = hexadecimal(rest.strip_prefix(b"\\u")?)?;
                (0xdc00..0xe000).contains(&low).then_some(low)
            });
            match low.filter(|_| unit < 0xdc00) {
                Some(low) => {
                    let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    Escape::character(12, char::from_u32(code)?)
                }
                None => Escape::character(6, char::REPLACEMENT_CHARACTER),
            }
        }
        _ => None,
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })
}

/// The byte that `%HH` at `at` stands for.
pub(super) fn percent_at(text: &[u8], at: usize) -> Option<u8> {
    let [b'%', high, low] = text.get(at..at + 3)? else {
        return None;
    };
    let value = char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Finds the next `%HH` at or after `at`.
pub(super) fn find_percent(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        at += memchr::memchr(b'%', text.get(at..)?)?;
        if percent_at(text, at).is_some() {
            return Some(at);
        }
        at += 1;
    }
}

/// Decodes percent-encoding, once. Adds the stretches that are encoded, in the decoded text: a
/// stretch is a run without blanks and quotes that holds a `%HH`. Its parameters are what is
/// between `&`.
pub(super) fn percent(
    from: &[u8],
    decoder: &mut Decoder<'_>,
    stretches: &mut Vec<Range<usize>>,
    parameters: &mut Vec<Range<usize>>,
) {
    let mut behind = 0;
    while let Some(first) = find_percent(from, behind) {
        let before = &from[behind..first];
        let start = before.iter().rposition(|&byte| ends_stretch(byte));
        let start = start.map_or(behind, |edge| behind + edge + 1);
        let length = from[first..].iter().position(|&byte| ends_stretch(byte));
        let end = length.map_or(from.len(), |length| first + length);
        let text_start = decoder.text_of(start);
        let mut parameter = text_start;
        let mut at = start;
        while let Some(found) = memchr::memchr2(b'%', b'&', &from[at..end]) {
            at += found;
            match percent_at(&from[..end], at) {
                Some(byte) => {
                    decoder.put(at..at + 3, &[byte]);
                    at += 3;
                }
                None => {
                    if from[at] == b'&' {
                        let text = decoder.text_of(at);
                        parameters.push(parameter..text);
                        parameter = text + 1;
                    }
                    at += 1;
                }
            }
        }
        let text_end = decoder.text_of(end);
        parameters.push(parameter..text_end);
        stretches.push(text_start..text_end);
        behind = end;
    }
}

/// Removes percent-encoding, once, and says nothing of where it was; returns whether there was any.
pub(super) fn percent_quickly(from: &[u8], to: &mut Vec<u8>) -> bool {
    to.clear();
    let mut done = 0;
    let mut at = 0;
    while let Some(found) = from.get(at..).and_then(|rest| memchr::memchr(b'%', rest)) {
        at += found;
        match percent_at(from, at) {
            Some(byte) => {
                to.extend_from_slice(&from[done..at]);
                to.push(byte);
                at += 3;
                done = at;
            }
            None => at += 1,
        }
    }
    to.extend_from_slice(&from[done..]);
    done > 0
}

fn ends_stretch(byte: u8) -> bool {
    byte <= b' ' || matches!(byte, 0x7f | b'"' | b'\'' | b'<' | b'>' | b'`')
}

/// Whether there is a `+` in a stretch that is percent-encoded: mostly it is in the time zone of a
/// log.
pub(super) fn has_encoded_plus(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr(b'+', rest)) {
        let plus = at + found;
        let start = text[at..plus].iter().rposition(|&byte| ends_stretch(byte));
        let start = start.map_or(at, |edge| at + edge + 1);
        let length = text[plus..].iter().position(|&byte| ends_stretch(byte));
        let end = length.map_or(text.len(), |length| plus + length);
        if find_percent(&text[..end], start).is_some() {
            return true;
        }
        at = end;
    }
    false
}

/// Decodes `+` to a blank in the stretches.
pub(super) fn plus(from: &[u8], stretches: &[Range<usize>], decoder: &mut Decoder<'_>) {
    for stretch in stretches {
        let found = memchr::memchr_iter(b'+', &from[stretch.clone()]);
        for at in found {
            let at = stretch.start + at;
            decoder.put(at..at + 1, b" ");
        }
    }
}

/// Removes terminal codes.
pub(super) fn ansi(from: &[u8], decoder: &mut Decoder<'_>) {
    let mut at = 0;
    while let Some(found) = from.get(at..).and_then(|rest| memchr::memchr(0x1b, rest)) {
        at += found;
        let length = code_length(&from[at..]);
        decoder.put(at..at + length, b"");
        at += length;
    }
}

/// The length of the terminal code that the bytes begin with.
fn code_length(bytes: &[u8]) -> usize {
    let rest = bytes.get(2..).unwrap_or_default();
    match bytes.get(1) {
        // CSI: parameters, intermediate bytes, a final one.
        Some(b'[') => {
            let inner = rest
                .iter()
                .take_while(|byte| (0x20..0x40).contains(*byte))
                .count();
            let is_final = rest
                .get(inner)
                .is_some_and(|byte| (0x40..0x7f).contains(byte));
            2 + inner + usize::from(is_final)
        }
        // OSC: up to BEL, or ESC `\`.
        Some(b']') => {
            let end = memchr::memchr2(0x07, 0x1b, rest).unwrap_or(rest.len());
            match rest.get(end..) {
                Some([0x07, ..]) => 2 + end + 1,
                Some([0x1b, b'\\', ..]) => 2 + end + 2,
                _ => 2 + end,
            }
        }
        Some(b'(' | b')' | b'#') => 3.min(bytes.len()),
        Some(0x40..=0x5f | b'7' | b'8' | b'=' | b'>' | b'c') => 2,
        _ => 1,
    }
}

/// Writes text with the escapes that JSON needs.
pub(super) fn write_json(text: &[u8], mark: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            byte if byte == mark => out.extend_from_slice(&[b'\\', byte]),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            ..0x20 => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            _ => out.push(byte),
        }
    }
}

/// Writes text with those bytes encoded that would mean something else in a URL or a form; brackets
/// and stars stay, so that a replacement can be read.
pub(super) fn write_percent(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        match byte {
            b'%'
            | b'&'
            | b'='
            | b'+'
            | b'#'
            | b'?'
            | b'/'
            | b'"'
            | b'\''
            | b'`'
            | b'<'
            | b'>'
            | b'\\'
            | ..=b' '
            | 0x7f.. => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'%', high, low]);
            }
            _ => out.push(byte),
        }
    }
}
