//! Writes a number into a JSON object, as a member at its top level.

use std::io::Write;

use super::scanner::Scanner;
use super::{Number, scanner::Kind, text};

/// Where a member of an object is, or would be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Member {
    /// What the new text replaces, in bytes of the body; empty if there is no such member yet.
    start: usize,
    end: usize,
    new: Option<New>,
    /// What the member is worth now, if it is there and a number.
    pub(crate) number: Option<Number>,
}

/// How a member is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum New {
    /// To an object that has none.
    Only,
    /// Behind others.
    Another,
}

/// Looks for the member with that key; `None` if the body is no JSON object.
///
/// Walks the whole body: what is added to malformed JSON would only make it worse.
pub(crate) fn find(body: &[u8], key: &str) -> Option<Member> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return None;
    }
    let mut scanner = Scanner::new(std::str::from_utf8(body).ok()?.as_bytes());
    if scanner.kind()? != Kind::Object {
        return None;
    }
    let mut found = None;
    let mut more = scanner.open_object()?;
    let mut end = scanner.position();
    let has_members = more;
    while more {
        let name = scanner.key()?;
        let is_it = match name.unescaped() {
            Some(written) => written == key.as_bytes(),
            None => text(&name) == key,
        };
        let value = scanner.value(1)?;
        end = value.start() + value.raw().len();
        // Of a key that stands twice, most parsers take the last.
        if is_it {
            found = Some(Member {
                start: value.start(),
                end,
                new: None,
                number: Number::of(&value),
            });
        }
        more = scanner.next_member()?;
    }
    if !scanner.is_at_end() {
        return None;
    }
    let new = match has_members {
        true => New::Another,
        false => {
            // The closing bracket was stepped over.
            end = body.iter().rposition(|&byte| byte == b'}')?;
            New::Only
        }
    };
    Some(found.unwrap_or(Member {
        start: end,
        end,
        new: Some(new),
        number: None,
    }))
}

impl Member {
    /// Writes the body with the member set to `number` into `out`, which is emptied first.
    /// `quoted_key` is the key as JSON writes it, quotes included.
    pub(crate) fn write(self, body: &[u8], quoted_key: &str, number: f64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&body[..self.start]);
        if let Some(new) = self.new {
            if new == New::Another {
                out.push(b',');
            }
            out.extend_from_slice(quoted_key.as_bytes());
            out.push(b':');
        }
        write_number(number, out);
        out.extend_from_slice(&body[self.end..]);
    }
}

/// Writes the shortest text that reads back as the same `f64`.
pub(crate) fn write_number(number: f64, out: &mut Vec<u8>) {
    let written = match number.abs() < 1e15 {
        true => write!(out, "{number}"),
        false => write!(out, "{number:e}"),
    };
    written.expect("a vector takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(body: &str, number: f64) -> Option<String> {
        let mut out = Vec::new();
        find(body.as_bytes(), "n")?.write(body.as_bytes(), "\"n\"", number, &mut out);
        Some(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn the_member_is_added_or_replaced() {
        for (body, expected) in [
            (r#"{}"#, r#"{"n":10}"#),
            (r#" { } "#, r#" { "n":10} "#),
            (r#"{"a":1}"#, r#"{"a":1,"n":10}"#),
            (r#"{"a":[{"n":2}] } "#, r#"{"a":[{"n":2}],"n":10 } "#),
            (r#"{"n":2.5,"a":1}"#, r#"{"n":10,"a":1}"#),
            (r#"{"a":"x" , "n" : "text" }"#, r#"{"a":"x" , "n" : 10 }"#),
            (r#"{"n":1,"n":2}"#, r#"{"n":1,"n":10}"#),
            (r#"{"\u006e":[1,2]}"#, r#"{"\u006e":10}"#),
        ] {
            assert_eq!(set(body, 10.0).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_left_alone() {
        for body in [
            "",
            "x",
            "[]",
            "{",
            "{\"a\":1",
            "{\"a\":1}x",
            "{\"a\":1}}",
            "{,}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{} {}",
            "1",
            "{\"a\":tru}",
        ] {
            assert_eq!(set(body, 1.0), None, "{body}");
        }
    }

    #[test]
    fn numbers_read_back_as_they_were() {
        for number in [1.0, 10.0, 1.0 / 0.3, 1e15, 1e300, 123_456_789.5] {
            let mut out = Vec::new();
            write_number(number, &mut out);
            let text = String::from_utf8(out).expect("ASCII");
            let read: f64 = serde_json::from_str(&text).expect("JSON");
            assert_eq!(read, number, "{text}");
        }
    }
}
