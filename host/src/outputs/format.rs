//! How events are written into bodies, and what receivers want in them.
//!
//! | framing | body | event that is not JSON |
//! | --- | --- | --- |
//! | `lines` | one event a line, as it is | as it is |
//! | `ndjson` | one JSON value a line | `{"message": "..."}` |
//! | `json_array` | one array of JSON values | `{"message": "..."}` |
//!
//! Bytes that are not UTF-8 become U+FFFD in JSON.

use std::time::SystemTime;

use serde::de::IgnoredAny;

use super::exchange::{Format, Payload};

pub(super) mod cloudwatch;
pub(super) mod datadog;
pub(super) mod newrelic;
mod sigv4;

/// One event a line, as it is.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) max_bytes: usize,
}

impl Format for Lines {
    fn content_type(&self) -> &'static str {
        "text/plain"
    }

    fn encode(
        &mut self,
        events: &mut dyn Iterator<Item = &[u8]>,
        most: usize,
        _at: SystemTime,
    ) -> Payload {
        let mut payload = Payload::default();
        for event in events.take(most) {
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
}

impl Format for Json {
    fn content_type(&self) -> &'static str {
        match self.array {
            true => "application/json",
            false => "application/x-ndjson",
        }
    }

    fn encode(
        &mut self,
        events: &mut dyn Iterator<Item = &[u8]>,
        most: usize,
        _at: SystemTime,
    ) -> Payload {
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
            match is_json(event) {
                true => body.extend_from_slice(event.trim_ascii()),
                false => {
                    body.extend_from_slice(b"{\"message\":");
                    push_string(body, event);
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

/// Whether an event is one JSON value, and no more.
pub(super) fn is_json(event: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(event).is_ok()
}

/// Whether an event is a JSON object.
pub(super) fn is_object(event: &[u8]) -> bool {
    event.trim_ascii_start().first() == Some(&b'{') && is_json(event)
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
            let mut rest = events[done..].iter().map(Vec::as_slice);
            let payload = format.encode(&mut rest, most, SystemTime::UNIX_EPOCH);
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
            Just(b"\xff\xfe \"quoted\"\t\x00".to_vec()),
            Just(b"[1, 2]".to_vec()),
            Just(b"7".to_vec()),
        ];
        prop::collection::vec(event, 1..60)
    }

    fn expected(event: &[u8]) -> Value {
        match serde_json::from_slice(event) {
            Ok(value) if is_json(event) => value,
            _ => serde_json::json!({"message": String::from_utf8_lossy(event)}),
        }
    }

    proptest! {
        #[test]
        fn every_event_is_in_one_body_of_valid_json_within_the_limits(
            events in events(), most in 1_usize..20, max_bytes in 1_usize..300, array: bool,
        ) {
            // A number that `Value` cannot hold is valid JSON; it only cannot be compared.
            let events: Vec<Vec<u8>> = events
                .into_iter()
                .map(|event| String::from_utf8_lossy(&event).replace("1e400", "1e4").into_bytes())
                .collect();
            let mut format = Json { max_bytes, array };
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
            let expected: Vec<Value> = events.iter().map(|event| expected(event)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
