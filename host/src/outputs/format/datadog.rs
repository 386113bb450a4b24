//! Datadog's log intake.
//!
//! | limit | value |
//! | --- | --- |
//! | body, uncompressed | 5,000,000 bytes; filled up to 4,250,000, as Vector does |
//! | events in a body | 1,000 |
//! | one event | 1,000,000 bytes; what is behind is cut off here, as Datadog would |
//!
//! An event that is a JSON object goes as it is; text becomes `{"message": ...}`. Each has its time
//! of arrival as `timestamp`, in milliseconds since 1970, unless the event itself has one of the
//! attributes that Datadog takes for its time ([`DATES`]). Datadog takes no event that is older
//! than 18 hours: one that waited longer goes without a time, and gets that of its delivery. Tags,
//! source, service and host name of the settings travel as query parameters of the URL (`ddtags`,
//! `ddsource`, `service`, `hostname`), which an event's own attributes override. 400, 401, 403, 404
//! and 413 are not repeated as they are: see [`Format::outcome`] here.
//!
//! Sources: Datadog API reference, "Send logs" (v2); Datadog docs, "Log Date Remapper"; Vector,
//! `sinks/datadog/logs/config.rs`.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{
    super::{
        exchange::{Answer, Format, Outcome, Payload, by_status_of_vendor},
        queue::Arrived,
    },
    cut, json_object, milliseconds, push_string,
};

/// Bytes that a body is filled up to.
const GOAL_BYTES: usize = 4_250_000;

/// Most events in a body.
const MAX_EVENTS: usize = 1_000;

/// Most bytes of one event.
const MAX_EVENT_BYTES: usize = 1_000_000;

/// Bytes of an event that are left for what surrounds its text.
const AROUND_BYTES: usize = 64;

/// An event that is older goes without its time. Datadog's limit is 18 hours; a request may be
/// under way for some of them.
const MAX_AGE: Duration = Duration::from_secs(17 * 60 * 60);

/// Attributes that Datadog takes for the time of an event.
const DATES: [&str; 6] = [
    "timestamp",
    "date",
    "_timestamp",
    "Timestamp",
    "eventTime",
    "published_date",
];

/// Writes arrays of objects.
#[derive(Debug)]
pub(in super::super) struct Datadog {
    pub(in super::super) max_bytes: usize,
}

impl Format for Datadog {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&mut self, events: &mut dyn Iterator<Item = Arrived<'_>>, most: usize) -> Payload {
        let mut payload = Payload::default();
        let body = &mut payload.body;
        let now = SystemTime::now();
        for event in events.take(most.min(MAX_EVENTS)) {
            let before = body.len();
            body.push(if payload.consumed == 0 { b'[' } else { b',' });
            let text = event.text();
            let is_recent = now.duration_since(event.at).unwrap_or_default() < MAX_AGE;
            let ms = is_recent.then(|| milliseconds(event.at));
            let fits = text.len() <= MAX_EVENT_BYTES - AROUND_BYTES;
            match fits.then(|| json_object(text)).flatten() {
                Some(object) => push_object(body, &object, ms),
                None => {
                    body.extend_from_slice(b"{\"message\":");
                    push_string(body, cut(text, MAX_EVENT_BYTES - AROUND_BYTES));
                    if let Some(ms) = ms {
                        body.extend_from_slice(format!(",\"timestamp\":{ms}").as_bytes());
                    }
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

    /// 408, 429 and 5xx are tried again; 413 is split; 401 and 403 keep the events, and so does
    /// 404, which a wrong site answers; any other is final.
    fn outcome(&mut self, answer: &Answer<'_>, _payload: &Payload) -> Outcome {
        by_status_of_vendor(answer)
    }
}

/// Appends an object, with a time if it has none itself.
fn push_object(body: &mut Vec<u8>, object: &str, ms: Option<u128>) {
    let ms = ms.filter(|_| !has_date(object));
    let (Some(ms), Some(members)) = (ms, object.strip_prefix('{')) else {
        body.extend_from_slice(object.as_bytes());
        return;
    };
    let is_empty = members.trim_ascii_start().starts_with('}');
    let comma = if is_empty { "" } else { "," };
    body.extend_from_slice(format!("{{\"timestamp\":{ms}{comma}").as_bytes());
    body.extend_from_slice(members.as_bytes());
}

/// Whether an object has a member that Datadog takes for its time.
fn has_date(object: &str) -> bool {
    struct Members;
    struct Name;

    impl<'de> Visitor<'de> for Members {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
            let mut found = false;
            while let Some(is_date) = members.next_key_seed(Name)? {
                found |= is_date;
                members.next_value::<IgnoredAny>()?;
            }
            Ok(found)
        }
    }

    impl<'de> DeserializeSeed<'de> for Name {
        type Value = bool;

        fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
            reader.deserialize_str(self)
        }
    }

    impl Visitor<'_> for Name {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name")
        }

        fn visit_str<E>(self, name: &str) -> Result<bool, E> {
            Ok(DATES.contains(&name))
        }
    }

    let mut reader = serde_json::Deserializer::from_str(object);
    reader.deserialize_map(Members).unwrap_or(false)
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
                let values: Vec<serde_json::Map<String, Value>> =
                    serde_json::from_slice(&body).unwrap();
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
        let mut value: Value = serde_json::from_slice(&body).unwrap();
        assert!(value[0]["timestamp"].take().is_u64());
        let expected = json!([{"message": "m", "level": "INFO", "timestamp": null}]);
        assert_eq!(value, expected);
    }

    #[test]
    fn event_has_its_own_time_or_that_of_its_arrival() {
        let encode = |line: &str, age: Duration| {
            let at = SystemTime::now() - age;
            let line = line.as_bytes();
            let mut format = Datadog {
                max_bytes: usize::MAX,
            };
            let body = format
                .encode(&mut [Arrived { line, at }].into_iter(), 1)
                .body;
            let event = serde_json::from_slice::<Vec<Value>>(&body)
                .unwrap()
                .remove(0);
            (event, u64::try_from(milliseconds(at)).unwrap())
        };
        let minute = Duration::from_secs(60);
        for (line, mut expected) in [
            ("text", json!({"message": "text"})),
            ("{}", json!({})),
            (r#"{ "timestamps": 1}"#, json!({"timestamps": 1})),
            (r#"{"a":{"date":1}}"#, json!({"a": {"date": 1}})),
        ] {
            let (event, at) = encode(line, minute);
            expected["timestamp"] = at.into();
            assert_eq!(event, expected);
        }
        for name in DATES {
            let (event, _) = encode(&format!(r#"{{"n":1,"{name}":"x"}}"#), minute);
            assert_eq!(event, json!({"n": 1, name: "x"}));
        }
        let (event, _) = encode(r#"{"\u0064ate":1}"#, minute);
        assert_eq!(event, json!({"date": 1}));
        for (line, expected) in [
            ("text", json!({"message": "text"})),
            (r#"{"n":1}"#, json!({"n": 1})),
        ] {
            assert_eq!(encode(line, 18 * 60 * minute).0, expected);
        }
    }
}
