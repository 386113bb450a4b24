//! Datadog's log intake.
//!
//! | limit | value |
//! | --- | --- |
//! | body, uncompressed | 5,000,000 bytes; filled up to 4,250,000, as Vector does, since what surrounds the events counts too |
//! | events in a body | 1,000 |
//! | one event | 1,000,000 bytes; what is behind is cut off here, as Datadog would |
//!
//! An event that is a JSON object goes as it is; text becomes `{"message": ...}`. Tags, source, service
//! and host name of the settings travel as query parameters of the URL (`ddtags`, `ddsource`, `service`,
//! `hostname`), which an event's own attributes override. 400, 401, 403, 404 and 413 are not repeated as they are:
//! see [`Format::outcome`] here.
//!
//! Sources: Datadog API reference, "Send logs" (v2); Vector, `sinks/datadog/logs/config.rs`.

use std::time::SystemTime;

use super::{
    super::exchange::{Answer, Format, Outcome, Payload, by_status_of_vendor},
    cut, is_object, push_string,
};

/// Bytes that a body is filled up to.
const GOAL_BYTES: usize = 4_250_000;

/// Most events in a body.
const MAX_EVENTS: usize = 1_000;

/// Most bytes of one event.
const MAX_EVENT_BYTES: usize = 1_000_000;

/// Writes arrays of objects.
#[derive(Debug)]
pub(in super::super) struct Datadog {
    pub(in super::super) max_bytes: usize,
}

impl Format for Datadog {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(
        &mut self,
        events: &mut dyn Iterator<Item = &[u8]>,
        most: usize,
        _at: SystemTime,
    ) -> Payload {
        let mut payload = Payload::default();
        let body = &mut payload.body;
        for event in events.take(most.min(MAX_EVENTS)) {
            let before = body.len();
            body.push(if payload.consumed == 0 { b'[' } else { b',' });
            match event.len() <= MAX_EVENT_BYTES && is_object(event) {
                true => body.extend_from_slice(event.trim_ascii()),
                false => {
                    body.extend_from_slice(b"{\"message\":");
                    push_string(body, cut(event, MAX_EVENT_BYTES - 64));
                    body.push(b'}');
                }
            }
            if body.len() + 1 > self.max_bytes.min(GOAL_BYTES) && payload.consumed > 0 {
                body.truncate(before);
                break;
            }
            payload.consumed += 1;
        }
        body.push(b']');
        payload
    }

    /// 408, 429 and 5xx are tried again; 413 is split; 401 and 403 keep the events, and so does 404,
    /// which a wrong site answers; any other is final.
    fn outcome(&mut self, answer: &Answer<'_>, _payload: &Payload) -> Outcome {
        by_status_of_vendor(answer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{
        super::tests::{bodies, events},
        *,
    };

    proptest! {
        #[test]
        fn bodies_are_arrays_of_objects_within_the_limits(events in events(), most in 1_usize..20) {
            let mut format = Datadog { max_bytes: 500 };
            let mut count = 0;
            for body in bodies(&mut format, &events, most) {
                let values: Vec<serde_json::Map<String, Value>> = match serde_json::from_slice(&body) {
                    Ok(values) => values,
                    // 1e400 is JSON that `Value` cannot hold.
                    Err(error) => {
                        prop_assert!(error.to_string().contains("out of range"), "{}", error);
                        return Ok(());
                    }
                };
                prop_assert!(body.len() <= 500 || values.len() == 1);
                count += values.len();
            }
            prop_assert_eq!(count, events.len());
        }
    }

    #[test]
    fn body_holds_a_thousand_events_and_large_ones_are_cut() {
        let mut format = Datadog {
            max_bytes: usize::MAX,
        };
        let small = vec![b"x".to_vec(); 2_500];
        let sizes: Vec<usize> = bodies(&mut format, &small, usize::MAX)
            .iter()
            .map(|body| serde_json::from_slice::<Vec<Value>>(body).unwrap().len())
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let large = "ä".repeat(600_000).into_bytes();
        for body in bodies(&mut format, &vec![large; 20], usize::MAX) {
            assert!(body.len() <= 5_000_000);
            let values: Vec<Value> = serde_json::from_slice(&body).unwrap();
            let message = values[0]["message"].as_str().unwrap();
            assert!(message.len() <= MAX_EVENT_BYTES && message.chars().all(|c| c == 'ä'));
        }
        let object = vec![br#"{"message": "m", "level": "INFO"}"#.to_vec()];
        let body = bodies(&mut format, &object, 1).remove(0);
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value, json!([{"message": "m", "level": "INFO"}]));
    }
}
