//! How events are written into bodies, and what receivers want in them.
//!
//! | framing | body | event that is not JSON |
//! | --- | --- | --- |
//! | `lines` | one event a line, as it is | as it is |
//! | `ndjson` | one JSON value a line | `{"message": "..."}` |
//! | `json_array` | one array of JSON values | `{"message": "..."}` |
//!
//! What an event is in JSON is decided in one place, [`json_value`]: it is put in as it is only if
//! every receiver can read it there. Bytes that are not UTF-8 and escapes of half a surrogate pair
//! become U+FFFD. The line ending, LF or CRLF, is no part of it.

use std::{borrow::Cow, fmt, time::SystemTime};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    exchange::{Format, Payload},
    queue::Arrived,
};

pub(super) mod cloudwatch;
pub(super) mod datadog;
pub(super) mod newrelic;
mod sigv4;

/// Most levels of arrays and objects in an event that is put into JSON as it is. Parsers have
/// limits, of which 64 is the lowest that is common (.NET's), and a format adds up to four levels.
const MAX_DEPTH: u8 = 60;

/// One event a line, as it is.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) max_bytes: usize,
}

impl Format for Lines {
    fn content_type(&self) -> &'static str {
        "text/plain"
    }

    fn encode(&mut self, events: &mut dyn Iterator<Item = Arrived<'_>>, most: usize) -> Payload {
        let mut payload = Payload::default();
        for Arrived { line: event, .. } in events.take(most) {
            let full = payload.body.len() + event.len() + 1 > self.max_bytes;
            if full && payload.consumed > 0 {
                break;
            }
            payload.body.extend_from_slice(event);
            payload.body.push(b'\n');
            payload.consumed += 1;
        }
        payload
    }
}

/// JSON values, one a line or in an array.
#[derive(Debug)]
pub(super) struct Json {
    pub(super) max_bytes: usize,
    pub(super) array: bool,
    /// Whether all values are objects: any other becomes the `message` of one.
    pub(super) objects: bool,
}

impl Format for Json {
    fn content_type(&self) -> &'static str {
        match self.array {
            true => "application/json",
            false => "application/x-ndjson",
        }
    }

    fn encode(&mut self, events: &mut dyn Iterator<Item = Arrived<'_>>, most: usize) -> Payload {
        let mut payload = Payload::default();
        let (mut begin, end) = match self.array {
            true => (b"[".as_slice(), b"]".as_slice()),
            false => (b"".as_slice(), b"\n".as_slice()),
        };
        let between: &[u8] = if self.array { b"," } else { b"\n" };
        let body = &mut payload.body;
        for event in events.take(most) {
            let before = body.len();
            body.extend_from_slice(begin);
            let value = match self.objects {
                true => json_object(event.text()),
                false => json_value(event.text()),
            };
            match value {
                Some(value) => body.extend_from_slice(value.as_bytes()),
                None => {
                    body.extend_from_slice(b"{\"message\":");
                    push_string(body, event.text());
                    body.push(b'}');
                }
            }
            if body.len() + end.len() > self.max_bytes && payload.consumed > 0 {
                body.truncate(before);
                break;
            }
            payload.consumed += 1;
            begin = between;
        }
        body.extend_from_slice(end);
        payload
    }
}

/// Returns an event's text as the JSON value that it is, on one line, to be put into a larger one;
/// `None` if it is text that has to become a JSON string.
///
/// A value is JSON if a strict receiver can read it: no number beyond a 64-bit float, no more than
/// [`MAX_DEPTH`] levels.
pub(super) fn json_value(text: &[u8]) -> Option<Cow<'_, str>> {
    let text = without_mark(text).trim_ascii();
    // Most texts are told by their first byte.
    let begins = matches!(
        text.first()?,
        b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'
    );
    if !begins {
        return None;
    }
    let text = String::from_utf8_lossy(text);
    let value = match is_strict(&text) {
        true => text,
        false => {
            let replaced = without_lone_surrogates(&text)?;
            is_strict(&replaced).then_some(Cow::Owned(replaced))?
        }
    };
    // Strings have no such byte; between values it is white space, and some readers of lines end
    // one there.
    Some(match value.contains('\r') {
        true => Cow::Owned(value.replace('\r', " ")),
        false => value,
    })
}

/// As [`json_value`], if the value is an object.
pub(super) fn json_object(text: &[u8]) -> Option<Cow<'_, str>> {
    let is_object = without_mark(text).trim_ascii_start().first() == Some(&b'{');
    is_object.then(|| json_value(text)).flatten()
}

/// Takes off the byte order mark with which Windows programs begin a text; no JSON may begin with
/// it.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn is_strict(text: &str) -> bool {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { levels: MAX_DEPTH };
    value.deserialize(&mut reader).is_ok() && reader.end().is_ok()
}

/// A JSON value of so many levels at most; read and forgotten.
#[derive(Clone, Copy)]
struct Strict {
    levels: u8,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1);
        levels
            .map(|levels| Self { levels })
            .ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while elements.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while members.next_key_seed(inner)?.is_some() {
            members.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Replaces each escape of half a surrogate pair (`\ud800`), which stands for no character, with
/// `\ufffd`; `None` if there is none.
fn without_lone_surrogates(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut replaced, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = memchr::memchr(b'\\', bytes.get(at..)?) {
        let escape = at + found;
        at = match unit(escape) {
            Some(0xd800..=0xdbff) if matches!(unit(escape + 6), Some(0xdc00..=0xdfff)) => {
                escape + 12
            }
            Some(0xd800..=0xdfff) => {
                replaced.push_str(&json[copied..escape]);
                replaced.push_str("\\ufffd");
                copied = escape + 6;
                copied
            }
            _ => escape + 2,
        };
    }
    (copied > 0).then(|| replaced + &json[copied..])
}

/// Returns a time in milliseconds since 1970.
fn milliseconds(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}

/// Appends text as a JSON string. What is not UTF-8 becomes U+FFFD.
pub(super) fn push_string(body: &mut Vec<u8>, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    // Writing to memory does not fail, and a string is always JSON.
    let _ = serde_json::to_writer(body, &*text);
}

/// Returns as much of a text as fits into so many bytes, at a boundary of characters.
pub(super) fn cut(text: &[u8], most: usize) -> &[u8] {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while end > 0 && text[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Encodes until all is consumed, and returns the bodies.
    pub(in super::super) fn bodies(
        format: &mut dyn Format,
        events: &[Vec<u8>],
        most: usize,
    ) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        let mut done = 0;
        while done < events.len() {
            let at = SystemTime::now();
            let mut rest = events[done..].iter().map(|line| Arrived { line, at });
            let payload = format.encode(&mut rest, most);
            assert!((1..=most).contains(&payload.consumed));
            assert!(payload.set_aside.is_empty());
            done += payload.consumed;
            bodies.push(payload.body);
        }
        bodies
    }

    pub(in super::super) fn events() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let event = prop_oneof![
            "[^\n]{0,40}".prop_map(String::into_bytes),
            Just(br#" {"level": "INFO", "n": 1e400} "#.to_vec()),
            Just(b" {\"level\": \"\xff\",\r \"s\": \"\\ud83d\\ude00\"} \r".to_vec()),
            Just(b"\xff\xfe \"quoted\"\t\x00".to_vec()),
            Just(b"[1, 2]".to_vec()),
            Just(b"7".to_vec()),
        ];
        prop::collection::vec(event, 1..60)
    }

    /// What a strict receiver finds.
    fn expected(event: &[u8], objects: bool) -> Value {
        let event = event.strip_suffix(b"\r").unwrap_or(event);
        let text = String::from_utf8_lossy(event);
        match serde_json::from_str(text.trim_ascii()) {
            Ok(value @ Value::Object(_)) => value,
            Ok(value) if !objects => value,
            _ => serde_json::json!({"message": text}),
        }
    }

    proptest! {
        #[test]
        fn every_event_is_in_one_body_of_valid_json_within_the_limits(
            events in events(), most in 1_usize..20, max_bytes in 1_usize..300, array: bool,
            objects: bool,
        ) {
            let mut format = Json { max_bytes, array, objects };
            let mut found = Vec::new();
            for body in bodies(&mut format, &events, most) {
                let values: Vec<Value> = match array {
                    true => serde_json::from_slice(&body).unwrap(),
                    false => body
                        .strip_suffix(b"\n")
                        .unwrap()
                        .split(|byte| *byte == b'\n')
                        .map(|line| serde_json::from_slice(line).unwrap())
                        .collect(),
                };
                prop_assert!(body.len() <= max_bytes || values.len() == 1);
                found.extend(values);
            }
            let expected: Vec<Value> =
                events.iter().map(|event| expected(event, objects)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn only_what_a_strict_receiver_reads_is_put_in_as_it_is() {
        let value = |text: &[u8]| json_value(text).map(Cow::into_owned);
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert!(value(&nested(60)).is_some());
        for text in [
            &nested(61)[..],
            &nested(100_000),
            br#"{"n":1e400}"#,
            b"{\"a\":1}\xff",
            b"{\"a\":\"\t\"}",
            br#""\u12""#,
            br#"{"a":1} {"b":2}"#,
            b"",
        ] {
            assert_eq!(value(text), None, "{}", text.escape_ascii());
        }
        for (text, expected) in [
            (
                &b"{\"a\":\"bad \xff byte\"}"[..],
                "{\"a\":\"bad \u{fffd} byte\"}",
            ),
            (br#"{"a":"\ud800"}"#, r#"{"a":"\ufffd"}"#),
            (
                br#"{"a":"\udc00\ud800x\\ud800"}"#,
                r#"{"a":"\ufffd\ufffdx\\ud800"}"#,
            ),
            (
                br#"["\uD83D\ude00", "\ude00"]"#,
                r#"["\uD83D\ude00", "\ufffd"]"#,
            ),
            (b" {\r\"a\":1}\r", "{ \"a\":1}"),
            (b"-7", "-7"),
            (b"\xef\xbb\xbf{}", "{}"),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected));
        }
        assert_eq!(json_object(b"[{}]"), None);
        assert!(json_object(b" {}").is_some());
    }
}
