//! New Relic's Log API.
//!
//! | limit | value |
//! | --- | --- |
//! | body | 1,000,000 bytes, uncompressed here, so that it holds whatever is counted |
//! | attributes of an event | 255; the name of one 255 characters |
//!
//! The body is `[{"common": {"attributes": ...}, "logs": [...]}]`: what the settings say of all
//! events is sent once. An event that is a JSON object becomes a log with its members as
//! `attributes` and its `message` or `log` as `message`, if it is a string; text becomes the
//! `message`. An event that does not fit into a body alone is set aside with that reason.
//!
//! Sources: New Relic docs, "Introduction to the Log API" and "Log data limits"; Vector,
//! `sinks/new_relic/config.rs`.

use super::{
    super::{
        exchange::{Answer, Format, Outcome, Payload, Refused, by_status_of_vendor},
        queue::Arrived,
    },
    json_object, milliseconds, push_string,
};

/// Most bytes of a body.
const MAX_BODY_BYTES: usize = 1_000_000;

/// Writes the detailed form of the API.
#[derive(Debug)]
pub(in super::super) struct NewRelic {
    pub(in super::super) max_bytes: usize,
    /// A JSON object: the attributes that all events have in common.
    pub(in super::super) common: String,
}

impl Format for NewRelic {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&mut self, events: &mut dyn Iterator<Item = Arrived<'_>>, most: usize) -> Payload {
        const END: &[u8] = b"]}]";
        let mut payload = Payload::default();
        let mut begin = format!(r#"[{{"common":{{"attributes":{}}},"logs":["#, self.common);
        let most_bytes = self.max_bytes.min(MAX_BODY_BYTES);
        let mut written = 0;
        let body = &mut payload.body;
        for event in events.take(most) {
            let before = body.len();
            body.extend_from_slice(begin.as_bytes());
            let ms = milliseconds(event.at);
            body.extend_from_slice(format!(r#"{{"timestamp":{ms},"#).as_bytes());
            match json_object(event.text()) {
                Some(object) => {
                    body.extend_from_slice(b"\"attributes\":");
                    body.extend_from_slice(object.as_bytes());
                }
                None => {
                    body.extend_from_slice(b"\"message\":");
                    push_string(body, event.text());
                }
            }
            body.push(b'}');
            if body.len() + END.len() > most_bytes {
                body.truncate(before);
                // The one that comes first would never fit.
                if written > 0 {
                    break;
                }
                payload.set_aside.push(Refused {
                    index: payload.consumed,
                    reason: format!("New Relic takes at most {MAX_BODY_BYTES} bytes at once"),
                });
                payload.consumed += 1;
                continue;
            }
            payload.consumed += 1;
            written += 1;
            ",".clone_into(&mut begin);
        }
        if written > 0 {
            body.extend_from_slice(END);
        }
        payload
    }

    /// 408, 429 and 5xx are tried again; 413 is split; 401 and 403 keep the events, and so does
    /// 404, which a wrong region answers; any other is final.
    fn outcome(&mut self, answer: &Answer<'_>, _payload: &Payload) -> Outcome {
        by_status_of_vendor(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;

    fn encode(events: &[&[u8]], most: usize) -> Payload {
        let mut format = NewRelic {
            max_bytes: usize::MAX,
            common: r#"{"service":"api"}"#.to_owned(),
        };
        let at = SystemTime::UNIX_EPOCH;
        format.encode(&mut events.iter().map(|line| Arrived { line, at }), most)
    }

    #[test]
    fn body_is_the_detailed_form() {
        let payload = encode(&[b"text \xff", br#"{"message": "m", "n": 1}"#], 10);
        let body: Value = serde_json::from_slice(&payload.body).unwrap();
        assert_eq!(
            body,
            json!([{
                "common": {"attributes": {"service": "api"}},
                "logs": [
                    {"timestamp": 0, "message": "text \u{fffd}"},
                    {"timestamp": 0, "attributes": {"message": "m", "n": 1}},
                ],
            }])
        );
        assert_eq!(payload.consumed, 2);
    }

    #[test]
    fn bodies_keep_within_the_limit_and_what_never_fits_is_set_aside() {
        let large = vec![b'x'; 1_000_001];
        let half = vec![b'y'; 400_000];
        let payload = encode(&[&large, &half, &half, &half], 10);
        assert_eq!(payload.consumed, 3);
        assert_eq!(payload.set_aside.len(), 1);
        assert_eq!(payload.set_aside[0].index, 0);
        assert!(payload.body.len() <= MAX_BODY_BYTES);
        let alone = encode(&[&large], 10);
        assert!(alone.body.is_empty() && alone.consumed == 1);
    }
}
