//! The bodies of the fuzz targets (`fuzz/`), over bytes that are likely to get somewhere.

use proptest::prelude::*;
use streamgate_processors::detectors;

#[path = "../../fuzz/bodies.rs"]
#[expect(unreachable_pub, reason = "for the fuzz targets it is a library")]
mod bodies;

/// Lines of examples, near examples, JSON and noise.
fn some_lines() -> impl Strategy<Value = Vec<u8>> {
    let examples = detectors::all()
        .iter()
        .flat_map(|detector| detector.examples);
    let examples: Vec<Vec<u8>> = examples
        .map(|example| example.as_bytes().to_vec())
        .collect();
    let piece = prop_oneof![
        3 => prop::sample::select(examples),
        1 => prop::collection::vec(any::<u8>(), 0..16),
        2 => "[ -~]{0,16}".prop_map(String::into_bytes),
        2 => prop::sample::select(vec![
            "{\"a\":\"", "\"}", "\n", "\r\n", "password=", "\"kept\":", "\\", "\\n", ": ", "12", "é",
            "{\"a\":\"{\\\"a\\\":\\\"", "\\\"}", "\\u0040", "\\ud83d", "%40", "%2540", "%22", "\u{1b}[1m", "+",
            "[{", "]", "{'a': '", "\u{feff}",
        ]).prop_map(|piece| piece.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn some_pattern() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        "[a-e0-3]".prop_map(String::from),
        prop::sample::select(vec![
            r"\d",
            r"\w",
            r"[^a]",
            ".",
            r"\b",
            "^",
            "$",
            r"\s",
            "(?i)b",
            "[0-9a-f]{4}",
            r"\d{2,3}",
            "ab|cd",
            "é",
            "x*",
            "(?:-|:)",
            "1+",
            "e?",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(atom, 1..8).prop_map(|atoms| atoms.concat())
}

fn some_params() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        r#"{"value":"a","mode":"keep"}"#,
        r#"{"values":["aa","bb","12"],"ignore_case":true}"#,
        r#"{"path":"a","operator":"exists"}"#,
        r#"{"attribute":"a.b","operator":"in","values":["x",1]}"#,
        r#"{"rate":0.5,"key":"a"}"#,
        r#"{"target_per_second":1,"record_rate":"n"}"#,
        r#"{"key":["a"],"count_field":"c"}"#,
        r#"{"per_second":1,"key":"a"}"#,
        r#"{"pattern":"a+","action":"mask"}"#,
        r#"{"detectors":["password","jwt"],"fields":["a"]}"#,
        r#"{"rate":2}"#,
        "{}",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn detectors_stand_any_bytes(head in any::<[u8; 3]>(), lines in some_lines()) {
        bodies::detectors(&[&head[..], &lines].concat());
    }

    #[test]
    fn redact_stands_any_bytes(head in any::<[u8; 3]>(), lines in some_lines()) {
        bodies::redact(&[&head[..], &lines].concat());
    }

    #[test]
    fn patterns_find_what_regexes_find(pattern in some_pattern(), lines in "[a-e0-3é:x \r\n-]{0,64}") {
        bodies::patterns(&[pattern.as_bytes(), b"\0", lines.as_bytes()].concat());
    }

    #[test]
    fn rules_stand_any_parameters(kind in any::<u8>(), params in some_params(), lines in some_lines()) {
        bodies::rules(&[&[kind], params.as_bytes(), b"\0", &lines].concat());
    }
}
