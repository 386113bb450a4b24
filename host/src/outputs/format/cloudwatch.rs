//! CloudWatch Logs: `PutLogEvents`, signed.
//!
//! | limit | value |
//! | --- | --- |
//! | a request | 1,048,576 bytes of messages in UTF-8, and 26 more for each event |
//! | events in a request | 10,000 |
//! | one event | 1,000,000 bytes with its 26; what is behind is cut off |
//! | age of an event | not older than 14 days, not 2 hours in the future: refused one by one |
//! | times of a request | in order, and within 24 hours |
//!
//! An event has the time at which it left the chain, or that of the event before it, if that is
//! later: workers hand their events over side by side. The log group and the stream are created
//! when they are missing, if `create` says so.
//!
//! | answer | what is done |
//! | --- | --- |
//! | `ThrottlingException`, `ServiceUnavailableException`, 429, 5xx | tried again |
//! | about credentials (`InvalidSignatureException`, ...) | events are kept, probes are made |
//! | `ResourceNotFoundException` | group and stream are created, or as before |
//! | `DataAlreadyAcceptedException` | it was sent |
//! | `InvalidParameterException` | split, down to the event that is refused |
//! | 200 with `rejectedLogEventsInfo` | the events that it names are refused |
//!
//! Sources: CloudWatch Logs API reference, "PutLogEvents"; Vector,
//! `sinks/aws_cloudwatch_logs/retry.rs`; Fluent Bit,
//! `plugins/out_cloudwatch_logs/cloudwatch_api.h`.

use std::time::SystemTime;

use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{
        exchange::{Answer, First, Format, Outcome, Payload, Refused, by_status, said},
        queue::Arrived,
        secret::Secret,
    },
    cut, milliseconds, push_string,
    sigv4::{Credentials, Scope, sign},
};

/// Most bytes of messages, with [`EVENT_BYTES`] for each.
const MAX_BATCH_BYTES: usize = 1_048_576;

/// What an event counts besides its message.
const EVENT_BYTES: usize = 26;

/// Most events in a request.
const MAX_EVENTS: usize = 10_000;

/// Most milliseconds between the first event of a request and the last.
const MAX_SPAN_MS: u128 = 24 * 60 * 60 * 1_000;

/// Most bytes of one event, with [`EVENT_BYTES`].
const MAX_EVENT_BYTES: usize = 1_000_000;

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Where events go, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudWatchSettings {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// The log group.
    pub group: String,
    /// The log stream in it.
    pub stream: String,
    /// Whether they are created when they are missing.
    pub create: bool,
    /// Who signs.
    pub access_key_id: Secret,
    /// With what.
    pub secret_access_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// Writes `PutLogEvents`.
#[derive(Debug)]
pub(in super::super) struct CloudWatch {
    pub(in super::super) settings: CloudWatchSettings,
}

impl Format for CloudWatch {
    fn content_type(&self) -> &'static str {
        "application/x-amz-json-1.1"
    }

    fn encode(&mut self, events: &mut dyn Iterator<Item = Arrived<'_>>, most: usize) -> Payload {
        let mut payload = Payload::default();
        let body = &mut payload.body;
        body.extend_from_slice(b"{\"logGroupName\":");
        push_string(body, self.settings.group.as_bytes());
        body.extend_from_slice(b",\"logStreamName\":");
        push_string(body, self.settings.stream.as_bytes());
        body.extend_from_slice(b",\"logEvents\":[");
        let (mut counted, mut first, mut last) = (0, None, 0);
        for event in events.take(most.min(MAX_EVENTS)) {
            let ms = milliseconds(event.at).max(last);
            if ms - *first.get_or_insert(ms) > MAX_SPAN_MS {
                break;
            }
            let event = event.text();
            // What is not UTF-8 may grow to three times its size.
            let text = String::from_utf8_lossy(cut(event, MAX_EVENT_BYTES - EVENT_BYTES));
            let text = cut(text.as_bytes(), MAX_EVENT_BYTES - EVENT_BYTES);
            // A message must not be empty.
            let text = if text.is_empty() { b" " } else { text };
            counted += text.len() + EVENT_BYTES;
            if counted > MAX_BATCH_BYTES {
                break;
            }
            if payload.consumed > 0 {
                body.push(b',');
            }
            body.extend_from_slice(format!("{{\"timestamp\":{ms},\"message\":").as_bytes());
            push_string(body, text);
            body.push(b'}');
            payload.consumed += 1;
            last = ms;
        }
        body.extend_from_slice(b"]}");
        payload
    }

    fn secrets(&self) -> Vec<Secret> {
        let settings = &self.settings;
        let mut secrets = vec![
            settings.access_key_id.clone(),
            settings.secret_access_key.clone(),
        ];
        secrets.extend(settings.session_token.clone());
        secrets
    }

    fn sign(
        &mut self,
        secrets: &[String],
        url: &Url,
        headers: &mut HeaderMap,
        body: &[u8],
        now: SystemTime,
    ) -> Result<(), String> {
        let settings = &self.settings;
        let [access_key_id, secret_access_key, token @ ..] = secrets else {
            return Err("the keys that requests are signed with were not read".to_owned());
        };
        let credentials = Credentials {
            access_key_id: access_key_id.clone(),
            secret_access_key: secret_access_key.clone(),
            session_token: token.first().cloned(),
        };
        headers
            .entry(TARGET)
            .or_insert(HeaderValue::from_static("Logs_20140328.PutLogEvents"));
        let in_header = |value: &str| {
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| "a credential has characters that no header may have".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        if let Some(token) = &credentials.session_token {
            headers.insert(TOKEN, in_header(token)?);
        }
        let signed = [TARGET, TOKEN].into_iter().filter_map(|name| {
            let value = headers.get(&name)?.clone();
            Some((name, value))
        });
        let signed = HeaderMap::from_iter(signed);
        let scope = Scope {
            region: &settings.region,
            service: "logs",
        };
        let (date, authorization) = sign(&credentials, &scope, ("POST", url), &signed, body, now);
        headers.insert(DATE, in_header(&date)?);
        headers.insert(AUTHORIZATION, in_header(&authorization)?);
        Ok(())
    }

    fn outcome(&mut self, answer: &Answer<'_>, payload: &Payload) -> Outcome {
        let error = said(answer);
        if answer.status.is_success() {
            return rejected(answer, payload.consumed);
        }
        if matches!(answer.status.as_u16(), 429 | 500..=599) {
            return by_status(answer);
        }
        match error_type(answer.body).as_deref() {
            Some(
                "ThrottlingException"
                | "ServiceUnavailableException"
                | "RequestTimeoutException"
                | "OperationAbortedException",
            ) => Outcome::Retry { after: None, error },
            Some("DataAlreadyAcceptedException") => Outcome::Sent,
            Some("InvalidParameterException") => Outcome::Split { error },
            Some("ResourceNotFoundException") if self.settings.create => self.create(error),
            Some(
                "ResourceNotFoundException"
                | "UnrecognizedClientException"
                | "InvalidSignatureException"
                | "IncompleteSignatureException"
                | "MissingAuthenticationTokenException"
                | "InvalidClientTokenId"
                | "AccessDeniedException"
                | "ExpiredTokenException"
                | "OptInRequired",
            ) => Outcome::Denied { error },
            _ => by_status(answer),
        }
    }
}

impl CloudWatch {
    /// What has to be asked for before events can be sent. That one of the two is there is no
    /// fault.
    fn create(&self, error: String) -> Outcome {
        let CloudWatchSettings { group, stream, .. } = &self.settings;
        let ask = |target, body: serde_json::Value| First {
            headers: vec![(TARGET, HeaderValue::from_static(target))],
            body: body.to_string().into_bytes(),
            tolerated: "ResourceAlreadyExistsException",
        };
        Outcome::First {
            requests: vec![
                ask(
                    "Logs_20140328.CreateLogGroup",
                    json!({"logGroupName": group}),
                ),
                ask(
                    "Logs_20140328.CreateLogStream",
                    json!({"logGroupName": group, "logStreamName": stream}),
                ),
            ],
            error,
        }
    }
}

/// Reads which events of a request that was taken were refused.
fn rejected(answer: &Answer<'_>, events: usize) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Taken {
        rejected_log_events_info: Option<Info>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Info {
        too_new_log_event_start_index: Option<usize>,
        too_old_log_event_end_index: Option<usize>,
        expired_log_event_end_index: Option<usize>,
    }
    let taken: Option<Taken> = serde_json::from_slice(answer.body).ok();
    let Some(info) = taken.and_then(|taken| taken.rejected_log_events_info) else {
        return Outcome::Sent;
    };
    let old = info.too_old_log_event_end_index.unwrap_or(0);
    let expired = info.expired_log_event_end_index.unwrap_or(0);
    let new = info.too_new_log_event_start_index.unwrap_or(events);
    let reason = |index: usize| match () {
        () if index < expired => Some("CloudWatch: older than what the log group keeps"),
        () if index < old => Some("CloudWatch: older than 14 days"),
        () if index >= new => Some("CloudWatch: more than 2 hours in the future"),
        () => None,
    };
    let refused = (0..events).filter_map(|index| {
        let reason = reason(index)?.to_owned();
        Some(Refused { index, reason })
    });
    Outcome::Partly {
        rejected: refused.collect(),
        retry: Vec::new(),
    }
}

/// Reads the name of an error: `{"__type": "namespace#Name"}`.
fn error_type(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Failed {
        #[serde(rename = "__type")]
        kind: String,
    }
    let failed: Failed = serde_json::from_slice(body).ok()?;
    let name = failed.kind.rsplit('#').next().unwrap_or_default();
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::Value;

    use super::*;

    fn format() -> CloudWatch {
        let secret = || {
            let sources = crate::outputs::SecretSources::default();
            Secret::parse("env:PATH", "", &sources).expect("it is set")
        };
        CloudWatch {
            settings: CloudWatchSettings {
                region: "eu-central-1".to_owned(),
                group: "a \"group\"".to_owned(),
                stream: "s".to_owned(),
                create: true,
                access_key_id: secret(),
                secret_access_key: secret(),
                session_token: None,
            },
        }
    }

    fn encode(events: &[&[u8]]) -> Payload {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_234);
        let mut events = events.iter().map(|line| Arrived { line, at });
        format().encode(&mut events, usize::MAX)
    }

    #[test]
    fn times_of_a_request_are_in_order_and_within_a_day() {
        let times = [5_000, 4_000, 6_000, 86_405_000, 86_405_001];
        let mut events = times.into_iter().map(|ms| Arrived {
            line: b"x\r",
            at: SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(ms),
        });
        let payload = format().encode(&mut events, usize::MAX);
        assert_eq!(payload.consumed, 4);
        let body: Value = serde_json::from_slice(&payload.body).unwrap();
        let found: Vec<_> = body["logEvents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| (event["timestamp"].as_u64().unwrap(), &event["message"]))
            .collect();
        let expected =
            [5_000, 5_000, 6_000, 86_405_000].map(|ms| (ms, &body["logEvents"][0]["message"]));
        assert_eq!(found, expected);
        assert_eq!(body["logEvents"][0]["message"], "x");
    }

    fn outcome(status: u16, body: &str, events: usize) -> Outcome {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
        };
        let payload = Payload {
            consumed: events,
            ..Payload::default()
        };
        format().outcome(&answer, &payload)
    }

    #[test]
    fn request_keeps_within_the_limits() {
        let body: Value = serde_json::from_slice(&encode(&[b"a\xff", b""]).body).unwrap();
        assert_eq!(
            body,
            json!({
                "logGroupName": "a \"group\"", "logStreamName": "s",
                "logEvents": [
                    {"timestamp": 1_234, "message": "a\u{fffd}"},
                    {"timestamp": 1_234, "message": " "},
                ],
            })
        );
        assert_eq!(encode(&vec![b"x".as_slice(); 20_000]).consumed, 10_000);
        // 2,000 of 500 bytes are 1,052,000 with their 26: four too many, and a bit.
        let payload = encode(&vec![[b'x'; 500].as_slice(); 2_000]);
        assert_eq!(payload.consumed, 1_048_576 / 526);
        for event in [vec![b'x'; 2_000_000], vec![0xff; 2_000_000]] {
            let payload = encode(&[&event]);
            let body: Value = serde_json::from_slice(&payload.body).unwrap();
            let message = body["logEvents"][0]["message"].as_str().unwrap();
            assert!((999_000..=999_974).contains(&message.len()));
        }
    }

    #[test]
    fn refused_events_are_those_that_the_answer_names() {
        let body = r#"{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 2,
            "expiredLogEventEndIndex": 1, "tooNewLogEventStartIndex": 4}}"#;
        let Outcome::Partly { rejected, retry } = outcome(200, body, 5) else {
            panic!("some were refused");
        };
        let indexes: Vec<usize> = rejected.iter().map(|refused| refused.index).collect();
        assert_eq!(indexes, [0, 1, 4]);
        assert!(retry.is_empty() && rejected[0].reason.contains("keeps"));
        for whole in ["{}", "", "not json", r#"{"nextSequenceToken": "1"}"#] {
            assert_eq!(outcome(200, whole, 5), Outcome::Sent);
        }
        // An index that there is not names no event.
        let body = r#"{"rejectedLogEventsInfo": {"tooNewLogEventStartIndex": 99}}"#;
        assert!(
            matches!(outcome(200, body, 5), Outcome::Partly { rejected, .. } if rejected.is_empty())
        );
    }

    #[test]
    fn errors_are_told_apart() {
        let failed = |status, name: &str| {
            let body = format!(r#"{{"__type": "com.amazonaws.logs#{name}"}}"#);
            outcome(status, &body, 5)
        };
        assert!(matches!(
            failed(400, "ThrottlingException"),
            Outcome::Retry { .. }
        ));
        assert!(matches!(
            failed(500, "InternalFailure"),
            Outcome::Retry { .. }
        ));
        assert!(matches!(
            failed(400, "ExpiredTokenException"),
            Outcome::Denied { .. }
        ));
        assert!(matches!(failed(403, "Whatever"), Outcome::Denied { .. }));
        assert!(matches!(
            failed(400, "InvalidParameterException"),
            Outcome::Split { .. }
        ));
        assert!(matches!(
            failed(400, "ResourceNotFoundException"),
            Outcome::First { .. }
        ));
        assert!(matches!(failed(400, "Unheard"), Outcome::Rejected { .. }));
        assert_eq!(failed(400, "DataAlreadyAcceptedException"), Outcome::Sent);
    }
}
