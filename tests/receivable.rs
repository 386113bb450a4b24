//! What an output sends is what its receiver takes: strict receivers of every format, over events
//! with every odd byte. A body that is wrong in any way is refused with 400, so that its events
//! become dead letters and do not arrive.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::support::{
    HttpReceiver, Received, Reply, Request, Setup, decompressed, eventually, replace_in_files,
};

/// An event as a receiver has it: what it says, and its time in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    value: Value,
    ms: Option<u64>,
}

/// Reads a body strictly; `None` if it is not exactly what the format is.
type Reader = fn(&str) -> Option<Vec<Event>>;

fn plain(value: Value) -> Event {
    Event { value, ms: None }
}

fn json_array(body: &str) -> Option<Vec<Event>> {
    let values: Vec<Value> = serde_json::from_str(body).ok()?;
    Some(values.into_iter().map(plain).collect())
}

fn array_of_objects(body: &str) -> Option<Vec<Event>> {
    json_array(body).filter(|events| events.iter().all(|event| event.value.is_object()))
}

fn ndjson(body: &str) -> Option<Vec<Event>> {
    let lines = body.strip_suffix('\n')?.split(['\n', '\r']);
    lines
        .map(|line| serde_json::from_str(line).ok().map(plain))
        .collect()
}

fn datadog(body: &str) -> Option<Vec<Event>> {
    let events = array_of_objects(body)?.into_iter().map(|event| {
        let Value::Object(mut object) = event.value else {
            return None;
        };
        let ms = object.remove("timestamp")?.as_u64();
        Some(Event {
            value: Value::Object(object),
            ms: Some(ms?),
        })
    });
    events.collect()
}

fn newrelic(body: &str) -> Option<Vec<Event>> {
    let body: Value = serde_json::from_str(body).ok()?;
    let logs = body[0]["logs"].as_array()?.iter().map(|log| {
        let value = match (&log["attributes"], &log["message"]) {
            (attributes @ Value::Object(_), Value::Null) => attributes.clone(),
            (Value::Null, text @ Value::String(_)) => json!({"message": text}),
            _ => return None,
        };
        Some(Event {
            value,
            ms: Some(log["timestamp"].as_u64()?),
        })
    });
    logs.collect()
}

fn cloudwatch(body: &str) -> Option<Vec<Event>> {
    let body: Value = serde_json::from_str(body).ok()?;
    let events = body["logEvents"].as_array()?.iter().map(|event| {
        let text = event["message"].as_str().filter(|text| !text.is_empty())?;
        Some(Event {
            value: json!(text),
            ms: Some(event["timestamp"].as_u64()?),
        })
    });
    events.collect()
}

/// How a format shows an event that is given by its text.
type Shown = fn(&[u8]) -> Value;

fn as_message(text: &[u8]) -> Value {
    json!({"message": String::from_utf8_lossy(text)})
}

/// Any JSON value as it is.
fn as_value(text: &[u8]) -> Value {
    strict_value(text).unwrap_or_else(|| as_message(text))
}

/// A JSON object as it is.
fn as_object(text: &[u8]) -> Value {
    strict_value(text)
        .filter(Value::is_object)
        .unwrap_or_else(|| as_message(text))
}

fn as_text(text: &[u8]) -> Value {
    match String::from_utf8_lossy(text).as_ref() {
        "" => json!(" "),
        text => json!(text),
    }
}

fn strict_value(text: &[u8]) -> Option<Value> {
    // The one event here whose escapes a strict reader does not take.
    let text = String::from_utf8_lossy(text).replace(LONE, "\\ufffd");
    serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()
}

const LONE: &str = "\\udbff";

/// Each format: its output, its receiver, and how it shows an event.
fn formats() -> Vec<(&'static str, Value, Reader, Shown)> {
    let framed = |framing: &str| json!({"type": "http", "framing": framing});
    let objects = |framing: &str| json!({"type": "http", "framing": framing, "values": "objects"});
    vec![
        ("json_array", framed("json_array"), json_array, as_value),
        ("ndjson", framed("ndjson"), ndjson, as_value),
        (
            "array of objects",
            objects("json_array"),
            array_of_objects,
            as_object,
        ),
        ("ndjson of objects", objects("ndjson"), ndjson, as_object),
        (
            "datadog",
            json!({"type": "datadog", "api_key": "env:STREAMGATE_SECRET_VENDOR"}),
            datadog,
            as_object,
        ),
        (
            "newrelic",
            json!({"type": "newrelic", "license_key": "env:STREAMGATE_SECRET_VENDOR"}),
            newrelic,
            as_object,
        ),
        (
            "cloudwatch",
            json!({
                "type": "cloudwatch", "region": "eu-central-1", "group": "g", "stream": "s",
                "access_key_id": "env:STREAMGATE_SECRET_VENDOR", "secret_access_key": "env:STREAMGATE_SECRET_VENDOR",
            }),
            cloudwatch,
            as_text,
        ),
    ]
}

/// A receiver that reads strictly, and answers 503 while it is held.
struct Strict {
    receiver: HttpReceiver,
    events: Arc<Mutex<Vec<Event>>>,
    held: Arc<AtomicBool>,
}

impl Strict {
    fn start(read: Reader, held: bool) -> Self {
        let (events, held) = (Arc::default(), Arc::new(AtomicBool::new(held)));
        let (taken, holds): (Arc<Mutex<Vec<Event>>>, _) = (Arc::clone(&events), Arc::clone(&held));
        let receiver = HttpReceiver::judging(move |request| {
            if holds.load(Ordering::SeqCst) {
                return Reply::Status(503);
            }
            let Some(found) = body_of(request).and_then(|body| read(&body)) else {
                return Reply::Status(400);
            };
            taken.lock().expect("no judge panics").extend(found);
            Reply::Body(200, "{}".to_owned())
        });
        Self {
            receiver,
            events,
            held,
        }
    }

    fn output(&self, id: &str, fields: &Value) -> Value {
        let mut output = fields.clone();
        let url = if output["type"] == "http" {
            "url"
        } else {
            "endpoint"
        };
        output[url] = json!(self.receiver.url());
        output["id"] = json!(id);
        output
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().expect("no judge panics").clone()
    }
}

fn body_of(request: &Received) -> Option<String> {
    let body = match request.header("content-encoding") {
        None => request.body.clone(),
        Some(compression) => decompressed(compression, &request.body),
    };
    String::from_utf8(body).ok()
}

fn with_key() -> Setup {
    Setup::new().env("STREAMGATE_SECRET_VENDOR", "a-key")
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    now.as_millis().try_into().expect("a u64")
}

/// Events with every odd byte, without their line ends.
fn odd_events() -> Vec<Vec<u8>> {
    let mut events: Vec<Vec<u8>> = Vec::new();
    for byte in (0..=255).filter(|byte| *byte != b'\n') {
        events.push([b"text ".as_slice(), &[byte], b" and more"].concat());
        events.push([br#"{"a":"in JSON "#.as_slice(), &[byte], b"\"}"].concat());
        events.push(
            [
                br#"{"a":"between values","#.as_slice(),
                &[byte],
                br#""b":1}"#,
            ]
            .concat(),
        );
    }
    let all: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    events.push(all);
    let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for event in [
        "",
        "\u{feff}{\"a\":1}",
        "a lone\rcarriage return",
        &format!("{{\"a\":\"{LONE}\"}}"),
        r#"{"a":"\ud83d\ude00"}"#,
        r#"{"a":1e400}"#,
        &format!("{{\"a\":{nested}}}"),
        "404",
        "\"quoted\"",
        "null",
        "[1, 2]",
        "[\"not closed\"",
        r#"{"a":1} {"b":2}"#,
        r#" {"a" : 1} "#,
        "{}",
        "{\"a\":\"\u{2028}\"}",
    ] {
        events.push(event.as_bytes().to_vec());
    }
    events
}

#[test]
fn every_format_is_taken_by_a_strict_receiver_whatever_the_bytes() {
    let events = odd_events();
    for line_end in [b"\n".as_slice(), b"\r\n"] {
        let gate = with_key().start();
        let strict: Vec<_> = formats()
            .into_iter()
            .map(|(name, fields, read, shown)| (name, fields, Strict::start(read, false), shown))
            .collect();
        let outputs: Vec<Value> = (0..)
            .zip(&strict)
            .map(|(at, (_, fields, receiver, _))| receiver.output(&format!("out{at}"), fields))
            .collect();
        gate.run(&json!([]), &outputs);
        let mut bytes = Vec::new();
        for event in &events {
            bytes.extend_from_slice(event);
            bytes.extend_from_slice(line_end);
        }
        let before = now_ms();
        gate.send(&bytes);
        let stats = gate.settled(events.len() as u64);
        let after = now_ms();
        for (at, (name, _, receiver, shown)) in strict.iter().enumerate() {
            let figures = &stats["outputs"][at];
            assert_eq!(figures["sent"], events.len(), "{name}: {figures:#}");
            let found = receiver.events();
            assert_eq!(found.len(), events.len(), "{name}");
            for (event, found) in events.iter().zip(found) {
                // With LF ends, a CR at the end is the end's.
                let text = event.strip_suffix(b"\r").unwrap_or(event);
                assert_eq!(found.value, shown(text), "{name}: {}", event.escape_ascii());
                if let Some(ms) = found.ms {
                    assert!(
                        (before..=after).contains(&ms),
                        "{name}: {before} {ms} {after}"
                    );
                }
            }
        }
        gate.stop();
    }
}

/// Events that wait for their receiver, in memory or in a spool, have the time of their own arrival
/// each, though they leave in one request.
#[test]
fn time_is_that_of_arrival_however_long_an_event_waited() {
    for spool in [false, true] {
        let gate = with_key().start();
        let timed = formats()
            .into_iter()
            .filter(|(name, ..)| ["datadog", "newrelic", "cloudwatch"].contains(name));
        let strict: Vec<_> = timed
            .map(|(name, fields, read, _)| (name, fields, Strict::start(read, true)))
            .collect();
        let outputs: Vec<Value> = (0..)
            .zip(&strict)
            .map(|(at, (_, fields, receiver))| {
                let mut output = receiver.output(&format!("out{at}"), fields);
                if spool {
                    output["spool"] = json!({"max_bytes": "8MiB"});
                }
                output
            })
            .collect();
        gate.run(&json!([]), &outputs);
        let mut sent = Vec::new();
        for number in 0..4 {
            // The last time has passed by more than what may be wrong.
            eventually("three seconds have passed", || {
                sent.last()
                    .is_none_or(|(_, after)| now_ms() > after + 3_000)
            });
            let before = now_ms();
            gate.send(format!("event {number}\n").as_bytes());
            eventually("it is received", || {
                gate.pipeline()["received"] == number + 1
            });
            eventually("it is with the outputs", || {
                let stats = gate.pipeline();
                (0..3).all(|at| stats["outputs"][at]["offered"] == number + 1)
            });
            sent.push((before, now_ms()));
        }
        for (_, _, receiver) in &strict {
            receiver.held.store(false, Ordering::SeqCst);
        }
        gate.settled(4);
        for (name, _, receiver) in &strict {
            let found = receiver.events();
            assert_eq!(found.len(), 4, "{name}");
            for ((before, after), event) in sent.iter().zip(found) {
                let ms = event.ms.expect("each has a time");
                assert!(
                    (before - 1_000..=after + 1_000).contains(&ms),
                    "{name}, spool {spool}: {before} {ms} {after}: {event:?}"
                );
            }
        }
        gate.stop();
    }
}

#[test]
fn line_ending_is_no_part_of_a_dead_letter_and_a_carriage_return_is() {
    let receiver = HttpReceiver::answering(|_| Reply::Status(400));
    let gate = Setup::new().start();
    gate.run(
        &json!([]),
        &[json!({"id": "out", "type": "http", "url": receiver.url()})],
    );
    let body =
        b"hello windows\r\n\r\na lone\rcarriage return\r\n{\"a\":1}\r\nlast without an end\r";
    let post = || Request::new("POST", "/ingest").body(crate::support::Body::Whole(body));
    gate.ingest(&post()).expect(202);
    gate.settled(5);
    let letters = gate.get("/outputs/out/dead-letters");
    let events: Vec<&str> = letters["dead_letters"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|letter| letter["event"].as_str())
        .collect();
    assert_eq!(
        events,
        [
            "hello windows",
            "",
            "a lone\rcarriage return",
            "{\"a\":1}",
            "last without an end\r"
        ]
    );
    gate.stop();
}

#[test]
fn carriage_return_at_the_end_of_what_has_no_line_feed_is_data() {
    let strict = Strict::start(ndjson, false);
    let gate = Setup::new().start();
    let output = strict.output("out", &json!({"type": "http", "framing": "ndjson"}));
    gate.run(&json!([]), &[output]);
    gate.send(b"tcp\r");
    gate.settled(1);
    gate.send_datagram(b"udp\r");
    gate.settled(2);
    let body = crate::support::Body::Whole(b"http\r");
    gate.ingest(&Request::new("POST", "/ingest").body(body))
        .expect(202);
    gate.settled(3);
    let found: Vec<Value> = strict
        .events()
        .into_iter()
        .map(|event| event.value)
        .collect();
    let expected = ["tcp\r", "udp\r", "http\r"].map(|text| json!({"message": text}));
    assert_eq!(found, expected);
    gate.stop();
}

/// Names that HTTP, the gate or a vendor's format sets.
#[test]
fn headers_that_are_set_for_the_output_are_refused() {
    let gate = with_key().start();
    let receiver = HttpReceiver::start();
    let of_http = [
        "Content-Length",
        "transfer-encoding",
        "HOST",
        "Connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "Expect",
        "Content-Encoding",
        "http2-settings",
        "X-StreamGate-Batch",
        "x-streamgate-revision",
        "x-streamgate-bypassed",
        "X-StreamGate-Anything",
    ];
    let of_vendors = [
        (
            "datadog",
            ["DD-API-KEY", "DD-Application-Key", "content-type"].as_slice(),
        ),
        (
            "newrelic",
            &["Api-Key", "content-type", "X-License-Key", "x-insert-key"],
        ),
        (
            "cloudwatch",
            &[
                "Authorization",
                "x-amz-date",
                "X-Amz-Target",
                "X-Amz-Anything",
                "content-type",
            ],
        ),
    ];
    for (name, fields, ..) in formats() {
        let kind = fields["type"].as_str().expect("a type");
        let vendors = of_vendors.iter().find(|(vendor, _)| *vendor == kind);
        let vendors = vendors.map_or(&[][..], |(_, names)| names);
        for header in of_http.iter().chain(vendors) {
            let mut output = fields.clone();
            let url = if kind == "http" { "url" } else { "endpoint" };
            output[url] = json!(receiver.url());
            output["headers"] = json!({*header: "5"});
            let problem = gate
                .try_edit("POST", "/outputs", &output)
                .expect(422)
                .json();
            assert_eq!(
                problem["code"], "reserved_header",
                "{name} {header}: {problem}"
            );
            assert_eq!(
                problem["pointer"],
                format!("/headers/{header}"),
                "{problem}"
            );
            let detail = problem["detail"].as_str().expect("a sentence");
            assert!(
                detail.contains(header) && detail.contains("remove it"),
                "{detail}"
            );
        }
    }
    let fine = json!({
        "type": "http", "url": receiver.url(),
        "headers": {"content-type": "text/x-log", "authorization": "Bearer ${env:STREAMGATE_SECRET_VENDOR}"},
    });
    gate.edit("POST", "/outputs", &fine);
    gate.stop();
}

/// A config from before these names were refused runs, without them.
#[test]
fn live_config_with_a_header_that_is_refused_now_runs_without_it() {
    let receiver = HttpReceiver::start();
    let store = tempfile::tempdir().expect("a directory");
    let gate = Setup::new().store(store.path()).start();
    let output = json!({
        "id": "out", "type": "http", "url": receiver.url(), "headers": {"x-team": "core"},
    });
    gate.run(&json!([]), &[output]);
    gate.stop();
    replace_in_files(store.path(), "x-team", "content-length");
    let gate = Setup::new().store(store.path()).start();
    gate.send(b"all of it arrives\n");
    receiver.wait_for(b"all of it arrives\n");
    let is_warning = |line: &Value| {
        let line = line.to_string();
        line.contains("content-length") && line.contains("ignored")
    };
    assert!(gate.log().iter().any(is_warning), "{:?}", gate.log());
    // And it is not published again.
    let problem = gate
        .try_edit("POST", "/publish", &Value::Null)
        .expect(422)
        .json();
    assert_eq!(problem["code"], "reserved_header", "{problem}");
    gate.stop();
}
