//! What must hold of `redact` whatever the rules and the events are.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use streamgate_guest::{Batch, Processor, Tally};
use streamgate_processors::{Builtin, OnError, Redact, detectors};

fn params(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("parameters are an object")
}

fn redact(value: &Value) -> Redact {
    match Builtin::build("redact", params(value), OnError::Mask) {
        Ok(Builtin::Redact(redact)) => redact,
        other => panic!("{value}: {other:?}"),
    }
}

fn bytes(batch: &Batch) -> Vec<u8> {
    batch.slices().collect::<Vec<_>>().concat()
}

fn run(redact: &mut Redact, input: &[u8]) -> Vec<u8> {
    let mut batch = Batch::from_lines(input);
    redact.process(&mut batch);
    bytes(&batch)
}

/// Rules of all kinds, detectors often.
fn some_rule() -> impl Strategy<Value = Value> {
    let names: Vec<&str> = detectors::all()
        .iter()
        .map(|detector| detector.name)
        .collect();
    let names = proptest::sample::subsequence(names, 1..5);
    let by_detectors = (names, 0..6_u8).prop_map(|(detectors, action)| match action {
        0 => json!({"detectors": detectors, "action": "mask", "keep_last": 4}),
        1 => json!({"detectors": detectors, "action": "drop"}),
        2 => json!({"detectors": detectors, "action": "tag"}),
        3 => json!({"detectors": detectors, "action": "hash", "key": KEY}),
        4 => json!({"detectors": detectors, "except_fields": ["**/kept", "a/*/b"]}),
        _ => json!({"detectors": detectors}),
    });
    let pattern = prop::sample::select(vec![
        r"\d{3}-\d{2}-\d{4}",
        r"\d+",
        r"(?i)user",
        r"[a-z]+@",
        r"\w\s\w",
        r#""[a-z]+":\s*\d+"#,
        "REDACTED",
        r"\[",
        "^.",
        ".$",
        r"é|x\b",
    ]);
    let by_pattern = (pattern, 0..5_u8).prop_map(|(pattern, action)| match action {
        0 => json!({"pattern": pattern, "replacement": "user 078-05-1120 a@b.cc"}),
        1 => json!({"pattern": pattern, "action": "mask", "keep_first": 1}),
        2 => json!({"pattern": pattern, "replacement": "<$0\"\\>", "fields": ["a", "**/n"]}),
        3 => json!({"pattern": pattern, "action": "drop"}),
        _ => json!({"pattern": pattern}),
    });
    prop_oneof![by_detectors, by_pattern]
}

const KEY: &str = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/testdata/key.txt");

/// Pieces that detectors find, and pieces that they nearly find.
fn some_text() -> impl Strategy<Value = String> {
    let examples = detectors::all()
        .iter()
        .flat_map(|detector| detector.examples);
    let examples: Vec<String> = examples.map(|&example| example.to_owned()).collect();
    let piece = prop_oneof![
        3 => prop::sample::select(examples),
        3 => prop::sample::select(vec![
            " ", "  ", "user=", "\"", "\\", "-", ".", "12", "4111 1111 1111 1111", "é", "[", ":",
            "078-05-1120", "a@b.cc", "10.1.2.3", "ssn ", "\u{661}", "2026-11-23T08:10:05Z", ",", "\t",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,12}",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat().replace('\n', " "))
}

fn some_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        some_text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![4_111_111_111_111_111_i64, 78_051_120, 2_025_550_143])
            .prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        (-1e6..1e6_f64).prop_map(Value::from),
    ];
    let key = prop_oneof![
        2 => prop::sample::select(vec!["a", "b", "n", "kept", "ssn", "card", "user"])
            .prop_map(str::to_owned),
        1 => some_text(),
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn some_event() -> impl Strategy<Value = String> {
    prop_oneof![some_text(), some_json().prop_map(|value| value.to_string())]
}

fn some_lines() -> impl Strategy<Value = Vec<u8>> {
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    prop::collection::vec((some_event(), end), 1..8).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|(line, end)| (line + end).into_bytes())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn fused_rules_do_what_they_do_one_after_another(
        rules in prop::collection::vec(some_rule(), 1..6),
        lines in some_lines(),
    ) {
        let mut one_by_one: Vec<Redact> = rules.iter().map(redact).collect();
        let mut fused = Redact::fuse(&one_by_one);
        let mut batch = Batch::from_lines(lines.clone());
        let expected: Vec<Tally> =
            one_by_one.iter_mut().map(|redact| redact.process(&mut batch)).collect();
        let mut fused_batch = Batch::from_lines(lines);
        let mut tallies = vec![Tally::default(); rules.len()];
        fused.process_each(&mut fused_batch, &mut tallies);
        prop_assert_eq!(
            String::from_utf8_lossy(&bytes(&fused_batch)).into_owned(),
            String::from_utf8_lossy(&bytes(&batch)).into_owned()
        );
        prop_assert_eq!(tallies, expected);
        prop_assert_eq!(fused_batch.events(), batch.events());
    }

    #[test]
    fn cutting_the_stream_elsewhere_changes_nothing(
        rules in prop::collection::vec(some_rule(), 1..4),
        lines in some_lines(),
    ) {
        let mut fused = Redact::fuse(&rules.iter().map(redact).collect::<Vec<_>>());
        let expected = run(&mut fused, &lines);
        let cut: Vec<u8> =
            lines.split_inclusive(|&byte| byte == b'\n').flat_map(|line| run(&mut fused, line)).collect();
        prop_assert_eq!(cut, expected);
    }

    #[test]
    fn json_stays_json(rule in some_rule(), event in some_json()) {
        let mut redact = redact(&rule);
        let event = event.to_string();
        let out = run(&mut redact, event.as_bytes());
        let out = String::from_utf8(out).expect("is still UTF-8");
        // An event may be dropped; a text that is no object or array is no event in JSON.
        if !out.is_empty() && event.starts_with(['{', '[']) {
            prop_assert!(
                serde_json::from_str::<serde::de::IgnoredAny>(&out).is_ok(), "{event} became {out}"
            );
        }
    }

    #[test]
    fn redacting_twice_is_redacting_once(
        names in proptest::sample::subsequence(
            detectors::all().iter().map(|detector| detector.name).collect::<Vec<_>>(), 1..6),
        action in 0..4_u8,
        lines in some_lines(),
    ) {
        let mut redact = redact(&match action {
            0 => json!({"detectors": names}),
            1 => json!({"detectors": names, "action": "mask", "keep_last": 4}),
            2 => json!({"detectors": names, "action": "mask"}),
            _ => json!({"detectors": names, "action": "hash", "key": KEY, "key_id": "k-1"}),
        });
        let once = run(&mut redact, &lines);
        let twice = run(&mut redact, &once);
        prop_assert_eq!(String::from_utf8_lossy(&twice), String::from_utf8_lossy(&once));
    }

    #[test]
    fn detectors_find_what_their_plain_twins_find(
        number in 0..detectors::all().len(),
        text in some_text(),
    ) {
        let detector = &detectors::all()[number];
        // With drop there are no second rounds and no JSON.
        let mut redact = redact(&json!({"detectors": [detector.name], "action": "drop"}));
        let finder = detectors::Finder::build(detector).expect("compiles");
        let out = run(&mut redact, format!("{text}\n").as_bytes());
        prop_assert_eq!(out.is_empty(), finder.find(text.as_bytes(), 0).is_some());
    }

    #[test]
    fn what_no_detector_finds_is_not_touched(
        number in 0..detectors::all().len(),
        text in some_text(),
    ) {
        let detector = &detectors::all()[number];
        let finder = detectors::Finder::build(detector).expect("compiles");
        let found = finder.find_all(text.as_bytes());
        let is_json = serde_json::from_str::<Value>(&text).is_ok();
        prop_assume!(!is_json && !text.is_empty());
        let (mut expected, mut copied) = (Vec::new(), 0);
        for range in &found {
            expected.extend_from_slice(&text.as_bytes()[copied..range.start]);
            expected.extend_from_slice(b"[REDACTED]");
            copied = range.end;
        }
        expected.extend_from_slice(&text.as_bytes()[copied..]);
        // A second round may find more, beside what was replaced.
        prop_assume!(finder.find(&expected, 0).is_none());
        let out = run(&mut redact(&json!({"detectors": [detector.name]})), text.as_bytes());
        expected.push(b'\n');
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }
}
