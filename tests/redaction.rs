//! Redaction through the real gate: what fields cannot be told of, and what a cut divides.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Setup, eventually};

/// One event each: with the field, without it, nearly JSON, broken, and text.
const WITH_FIELD: &str = r#"{"user":{"email":"mira@example.net"},"from":"jo@example.org"}"#;
const WITHOUT_FIELD: &str = r#"{"from":"jo@example.org"}"#;
const NOT_A_NUMBER: &str = r#"{"load":NaN,"user":{"email":"mira@example.net"}}"#;
const TRAILING_COMMA: &str = r#"{"user":{"email":"mira@example.net",},}"#;
const BROKEN: &str = r#"{"user":{"email" "mira@example.net"}}"#;
const BROKEN_BEHIND_A_PREFIX: &str =
    r#"2026-11-28T09:14:02Z stdout F {"user":{"email" "mira@example.net"}}"#;
const TEXT: &str = "mail from mira@example.net";
/// Nothing in it can match, so the rule does not look at its fields.
const NO_CANDIDATE: &str = r#"{"other":1}"#;

const WITHHELD: &str = "[withheld by streamgate]";

#[test]
fn detectors_scan_an_event_whose_fields_cannot_be_told() {
    let params = json!({"detectors": ["email"], "fields": ["user/email"]});
    check_fields(
        &params,
        &[
            (BROKEN, r#"{"user":{"email" "[REDACTED]"}}"#),
            (
                BROKEN_BEHIND_A_PREFIX,
                r#"2026-11-28T09:14:02Z stdout F {"user":{"email" "[REDACTED]"}}"#,
            ),
        ],
    );
}

#[test]
fn pattern_withholds_an_event_whose_fields_cannot_be_told() {
    let params = json!({"pattern": r"[\w.]+@[\w.]+", "fields": ["user/email"]});
    check_fields(
        &params,
        &[(BROKEN, WITHHELD), (BROKEN_BEHIND_A_PREFIX, WITHHELD)],
    );
}

#[test]
fn on_unstructured_says_what_becomes_of_such_an_event() {
    for (value, expected) in [
        (
            "scan",
            &[(BROKEN, r#"{"user":{"email" "[REDACTED]"}}"#)][..],
        ),
        ("mask", &[(BROKEN, WITHHELD)]),
        ("pass", &[(BROKEN, BROKEN)]),
        ("drop", &[(BROKEN, "")]),
    ] {
        let params = json!({
            "pattern": r"[\w.]+@[\w.]+", "fields": ["user/email"], "on_unstructured": value,
        });
        check_fields(&params, expected);
    }
}

/// Runs a redact rule about `user/email` over a mixed stream. `broken` are events whose fields
/// cannot be told, with what comes out of each; nothing, if it is empty.
#[track_caller]
fn check_fields(params: &Value, broken: &[(&str, &str)]) {
    let mut events = vec![
        (
            WITH_FIELD,
            r#"{"user":{"email":"[REDACTED]"},"from":"jo@example.org"}"#,
        ),
        (WITHOUT_FIELD, WITHOUT_FIELD),
        (
            NOT_A_NUMBER,
            r#"{"load":NaN,"user":{"email":"[REDACTED]"}}"#,
        ),
        (TRAILING_COMMA, r#"{"user":{"email":"[REDACTED]",},}"#),
        (TEXT, TEXT),
        (NO_CANDIDATE, NO_CANDIDATE),
    ];
    events.extend(broken);
    let lines: String = events
        .iter()
        .map(|(event, _)| format!("{event}\n"))
        .collect();
    let expected = events.iter().filter(|(_, expected)| !expected.is_empty());
    let expected: String = expected
        .map(|(_, expected)| format!("{expected}\n"))
        .collect();

    let gate = Setup::new().start();
    let rule = |id: &str, params: &Value| json!({"id": id, "type": "redact", "params": params});
    // The second one is fused with the first, and is about nothing here.
    let other = rule("other", &json!({"pattern": "nothing of the kind"}));
    gate.run(&json!([rule("mails", params), other]), &[]);
    gate.send(lines.as_bytes());
    let stats = gate.settled(events.len() as u64);
    gate.stdout.wait_for(expected.as_bytes());
    let figures = |at: usize| {
        let rule = &stats["rules"][at];
        ["unstructured", "no_fields"].map(|figure| rule[figure].as_u64().expect("a number"))
    };
    // The event without the field, and the text, which has no fields at all.
    assert_eq!(figures(0), [broken.len() as u64, 2], "{stats:#}");
    assert_eq!(figures(1), [0, 0], "{stats:#}");
    let metrics = gate.ask(&crate::support::Request::new("GET", "/metrics"));
    let metrics = String::from_utf8(metrics.expect(200).body).expect("UTF-8");
    for line in [
        format!(
            "streamgate_rule_unstructured_events_total{{rule=\"mails\",type=\"redact\"}} {:?}",
            broken.len() as f64
        ),
        "streamgate_rule_no_fields_events_total{rule=\"mails\",type=\"redact\"} 2.0".to_owned(),
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    gate.stop();
}

#[test]
fn samples_of_what_a_rule_reads_are_right() {
    let reference = include_str!("../docs/rules.md");
    let (before, block) = reference
        .split_once("<!-- redact: each first line becomes the second -->\n```text\n")
        .expect("a mark");
    let (samples, _) = block.split_once("```").expect("the block ends");
    // The rule is in the sentence before.
    let (_, rule) = before.rsplit_once("The rule `").expect("a sentence");
    let (rule, _) = rule.split_once('`').expect("it ends");
    let rule: Value = serde_json::from_str(rule).expect("a rule");
    let lines: Vec<&str> = samples.lines().collect();
    let (pairs, []) = lines.as_chunks::<2>() else {
        panic!("a line is without its other");
    };
    assert!(!pairs.is_empty());
    let side =
        |at: usize| -> String { pairs.iter().map(|pair| format!("{}\n", pair[at])).collect() };

    let gate = Setup::new().start();
    gate.run(&json!([rule]), &[]);
    gate.send(side(0).as_bytes());
    gate.settled(pairs.len() as u64);
    gate.stdout.wait_for(side(1).as_bytes());
    gate.stop();
}

/// An event that is longer than the limit, and what must and must not come out of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Oversize {
    rules: Value,
    settings: Settings,
    #[serde(rename = "in")]
    event: String,
    out_lacks: Vec<String>,
    #[serde(default)]
    out_has: Vec<String>,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    max_event: String,
}

#[test]
fn value_at_the_cut_of_a_long_event_does_not_leave() {
    let cases = include_str!("data/oversize-cut.json");
    let cases: Vec<Oversize> = serde_json::from_str(cases).expect("a list of cases");
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in &cases {
        let gate = Setup::new()
            .flag("max-event", case.settings.max_event.as_str())
            .start();
        gate.run(&case.rules, &[]);
        gate.send(format!("{}\n", case.event).as_bytes());
        let stats = gate.settled(1);
        assert_eq!(stats["ingest"]["tcp"]["truncated"], 1, "{}", case.why);
        eventually("the event comes out", || {
            gate.stdout.bytes().ends_with(b"\n")
        });
        let found = gate.stdout.text();
        let limit: usize = case.settings.max_event.parse().expect("a number");
        let is_right = found.trim_end_matches('\n').len() <= limit
            && case.out_lacks.iter().all(|text| !found.contains(text))
            && case.out_has.iter().all(|text| found.contains(text));
        if !is_right {
            wrong.push(format!("{}\n{} gives {found}", case.why, case.rules));
        }
        gate.stop();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
