//! The work for an event grows with its length, and not faster, whatever the event is made of.
//!
//! Each detector and a set of rules get long events of one repeated piece, of some length and of
//! eight times that. Where the work is linear, the time grows eightfold; where it is quadratic,
//! 64-fold. Three times the linear growth is allowed, and times too short to tell: so a machine
//! under load passes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, OnError, detectors};

const KEY: &str = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/testdata/key.txt");

const LONG: usize = 64 << 10;
const SHORT: usize = LONG / 8;

/// How much longer the long events may take than the short ones.
const MAX_GROWTH: u32 = 24;

/// So many faults of a rule are shown; the search for more would take long.
const MAX_FAULTS: usize = 4;

/// A time that is no accident: it is not taken again, and ends the search.
const CERTAIN: Duration = Duration::from_secs(1);

/// A time that tells nothing.
const TOO_SHORT: Duration = Duration::from_millis(50);

/// Pieces that make a search, a check, a walk over JSON or a decoder begin again and again.
const PIECES: [&str; 43] = [
    "\\t1",
    "\t1 ",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\\n",
    "\"",
    "\\\"",
    "\\",
    "\\\\\"",
    "\\u",
    "\\u0022",
    "\\ud83d",
    "{",
    "[",
    "}",
    "{\"",
    "[{\"",
    "{}",
    "{\"a\":",
    "{\\\"a\\\":",
    "{\\\"a\\\":1}",
    "%7B%22a%22%3A1%7D x@y.io ",
    "[{\"a\":[",
    "{\"a\":\"{",
    "%",
    "%25",
    "%22",
    "%7B%22a%22%3A",
    "\u{1b}[",
    "\u{1b}[1;",
    "\u{1b}[0m",
    "\u{1b}]",
    "\u{1b}]8;;a",
    "password=",
    "\"password\":\"",
    "password ",
    "ssn ",
    "1",
    "1 ",
    "4111 1111 1111 1111 ",
    "a@",
    "a.",
    "eyJ",
    "eyJhbGciOi.",
];

/// Pieces stand alone, in a text of JSON, and behind each other in a member.
fn events(piece: &str, length: usize) -> Vec<Vec<u8>> {
    let text = piece.repeat(length / piece.len());
    vec![
        text.clone().into_bytes(),
        format!("{{\"m\":\"{text}\",\"n\":1}}").into_bytes(),
        json!({"password": text}).to_string().into_bytes(),
    ]
}

fn time(rule: &mut Builtin, events: &[Vec<u8>]) -> Duration {
    let lines: Vec<u8> = events
        .iter()
        .flat_map(|event| [event, &b"\n"[..]].concat())
        .collect();
    let mut batch = Batch::from_lines(lines);
    let start = Instant::now();
    rule.process(&mut batch);
    start.elapsed()
}

/// Says what grows faster than it should.
fn faults(kind: &str, params: &Value) -> Vec<String> {
    let object = params.as_object().expect("an object");
    let mut rule = Builtin::build(kind, object, OnError::Mask)
        .unwrap_or_else(|error| panic!("{kind} {params}: {error}"));
    let mut faults = Vec::new();
    for piece in PIECES {
        let (long, short) = (events(piece, LONG), events(piece, SHORT));
        let (mut fault, mut is_certain) = (None, false);
        // What happens once may be others who use the machine.
        for _ in 0..3 {
            let taken = time(&mut rule, &long);
            if taken < TOO_SHORT {
                fault = None;
                break;
            }
            let before = time(&mut rule, &short);
            if taken < before * MAX_GROWTH + TOO_SHORT {
                fault = None;
                break;
            }
            fault = Some(format!(
                "{}: {before:?}, and {taken:?} for 8 times that",
                piece.escape_debug()
            ));
            is_certain = taken > CERTAIN;
            if is_certain {
                break;
            }
        }
        faults.extend(fault);
        if is_certain || faults.len() == MAX_FAULTS {
            break;
        }
    }
    match faults.is_empty() {
        true => faults,
        false => vec![format!("{kind} {params}\n  {}", faults.join("\n  "))],
    }
}

fn check(rules: impl IntoIterator<Item = (&'static str, Value)>) {
    let faults: Vec<String> = rules
        .into_iter()
        .flat_map(|(kind, params)| faults(kind, &params))
        .collect();
    assert!(
        faults.is_empty(),
        "the work is not linear:\n{}",
        faults.join("\n")
    );
}

#[test]
fn detectors_take_linear_time() {
    let rule = |detector: &detectors::Detector| ("redact", json!({"detectors": [detector.name]}));
    check(detectors::all().iter().map(rule));
}

#[test]
fn all_detectors_together_take_linear_time() {
    let names: Vec<&str> = detectors::all()
        .iter()
        .map(|detector| detector.name)
        .collect();
    check([("redact", json!({"detectors": names}))]);
}

#[test]
fn rules_of_redact_take_linear_time() {
    check([
        ("redact", json!({"pattern": r"\d+"})),
        ("redact", json!({"pattern": r"\S+@\S+"})),
        ("redact", json!({"pattern": r"(?s).+", "fields": ["**/a"]})),
        (
            "redact",
            json!({"pattern": r#""[a-z]+":\s*\d+"#, "action": "mask", "keep_first": 1}),
        ),
        (
            "redact",
            json!({"pattern": r"\bpassword\b", "action": "hash", "key": KEY}),
        ),
        (
            "redact",
            json!({"pattern": "[{\\[\"]", "replacement": "<$0>"}),
        ),
        (
            "redact",
            json!({"detectors": ["email", "password"], "fields": ["m", "**/password"]}),
        ),
        (
            "redact",
            json!({"detectors": ["email", "password"], "except_fields": ["**/n"]}),
        ),
        (
            "redact",
            json!({"detectors": ["generic_secret", "password"], "action": "mask"}),
        ),
    ]);
}

#[test]
fn filters_take_linear_time() {
    check([
        ("filter", json!({"pattern": r"password=\S+x"})),
        (
            "attribute_filter",
            json!({"path": "m", "operator": "contains", "value": "x"}),
        ),
        (
            "attribute_filter",
            json!({"path": "**/a/**/a/**/*a*", "operator": "exists"}),
        ),
    ]);
}
