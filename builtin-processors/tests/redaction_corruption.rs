//! Whatever happens to an event beside a value, the value does not leave.
//!
//! Rules that hide get events of JSON in which each byte beside the value, its keys and its sign was
//! replaced, and events that were cut after each byte. A rule may hide more than the value then, or
//! withhold or drop the event; it must not let the value through because it could not read the rest.

use std::collections::BTreeMap;

use serde_json::{Value, json};

#[path = "harness/mod.rs"]
mod harness;

/// A rule, and an event in which it hides a value. What must stay for the rule to know the value, such
/// as its keys, its signs and the blanks beside it, stands between `«` and `»`, and so does the value.
struct Case {
    params: Value,
    event: &'static str,
    value: &'static str,
}

fn case(params: Value, event: &'static str, value: &'static str) -> Case {
    Case {
        params,
        event,
        value,
    }
}

fn cases() -> Vec<Case> {
    let fields = |detector: &str, path: &str| json!({"detectors": [detector], "fields": [path]});
    vec![
        case(
            json!({"detectors": ["email"]}),
            r#"{"n":1,"user":{"email":"«mira.kovac@example.net»","id":7},"ok":true}"#,
            "mira.kovac@example.net",
        ),
        case(
            fields("email", "user/email"),
            r#"{"n":1,"t":"a\tb",«"user"»:{«"email":"mira.kovac@example.net"»,"id":7},"ok":true}"#,
            "mira.kovac@example.net",
        ),
        case(
            json!({"detectors": ["email"], "fields": ["mail"], "action": "hash", "key": harness::KEY}),
            r#"{"n":1,«"mail":"mira.kovac@example.net"»,"m":{"o":"p"}}"#,
            "mira.kovac@example.net",
        ),
        case(
            fields("email", "**/email"),
            r#"{"a":[1,{"b":null}],"c":{«"email":"mira.kovac@example.net"»},"d":-1.5e3}"#,
            "mira.kovac@example.net",
        ),
        case(
            json!({"detectors": ["us_ssn"]}),
            r#"{"m":"the number is« 536-90-4399 »ok","n":[1,2]}"#,
            "536-90-4399",
        ),
        case(
            fields("us_ssn", "person/ssn"),
            r#"{«"person"»:{"name":"Zo\u00eb",«"ssn":"536-90-4399"»},"z":0}"#,
            "536-90-4399",
        ),
        case(
            json!({"detectors": ["credit_card"]}),
            r#"{"pay":{"m":"a« 4111 1111 1111 1111 »b"},"eur":12}"#,
            "4111 1111 1111 1111",
        ),
        case(
            fields("credit_card", "pay.card"),
            r#"{"id":"a-1",«"pay"»:{«"card":"4111111111111111"»,"eur":12}}"#,
            "4111111111111111",
        ),
        case(
            json!({"detectors": ["password"]}),
            r#"{"user":"mira",«"password":"Gr8tefulFox"»,"plan":"pro","n":[{}]}"#,
            "Gr8tefulFox",
        ),
        case(
            fields("password", "login/password"),
            r#"{«"login"»:{"user":"mira",«"password":"Gr8tefulFox"»},"plan":"pro"}"#,
            "Gr8tefulFox",
        ),
        case(
            json!({"detectors": ["generic_secret"]}),
            r#"{"a":"\u0041",«"api_key":"m3Xw81kQz0TnVb6RyLd4"»,"b":{"c":[]}}"#,
            "m3Xw81kQz0TnVb6RyLd4",
        ),
        case(
            fields("generic_secret", "api_key"),
            r#"{"a":"\u0041",«"api_key":"m3Xw81kQz0TnVb6RyLd4"»,"b":{"c":[]}}"#,
            "m3Xw81kQz0TnVb6RyLd4",
        ),
        case(
            json!({"pattern": r"q\d{4}z", "fields": ["a/b"]}),
            r#"{"x":[1,"y"],«"a"»:{"c":"d",«"b":"q4711z"»},"e":null}"#,
            "q4711z",
        ),
        case(
            json!({"pattern": "(?s).+", "fields": ["a/b"], "action": "mask"}),
            r#"{"x":[1,"y"],«"a"»:{"c":"d",«"b":"quill"»},"e":null}"#,
            "quill",
        ),
        case(
            json!({"pattern": r"\w+", "except_fields": ["level"]}),
            r#"{"level":1,"a":{"b":"«quill»"}}"#,
            "quill",
        ),
    ]
}

impl Case {
    /// Returns the event without marks, and for each byte whether it may be replaced.
    fn bytes(&self) -> (Vec<u8>, Vec<bool>) {
        let (mut bytes, mut free) = (Vec::new(), Vec::new());
        let mut outside = true;
        for c in self.event.chars() {
            match c {
                '«' => outside = false,
                '»' => outside = true,
                _ => {
                    bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
                    free.resize(bytes.len(), outside);
                }
            }
        }
        (bytes, free)
    }
}

fn holds(out: &[u8], value: &str) -> bool {
    memchr::memmem::find(out, value.as_bytes()).is_some()
}

/// Fails with one table of the rules, and an example of each.
fn finish(runs: usize, leaks: &BTreeMap<String, Vec<String>>) {
    let count: usize = leaks.values().map(Vec::len).sum();
    let mut text = format!("in {count} of {runs} events the value is left\n");
    for (rule, events) in leaks {
        text += &format!(
            "\n{rule}: {} events, such as\n  {}\n",
            events.len(),
            events[0]
        );
    }
    assert!(leaks.is_empty(), "{text}");
}

#[test]
fn a_wrong_byte_beside_a_value_does_not_let_it_out() {
    let (mut runs, mut leaks) = (0, BTreeMap::<String, Vec<String>>::new());
    for case in cases() {
        let mut redact = harness::build(&case.params).unwrap_or_else(|error| panic!("{error}"));
        let (bytes, free) = case.bytes();
        if holds(&harness::run(&mut redact, &bytes), case.value) {
            let event = bytes.escape_ascii().to_string();
            leaks
                .entry(case.params.to_string())
                .or_default()
                .push(event);
        }
        for at in (0..bytes.len()).filter(|&at| free[at]) {
            for wrong in *b"x\"\\{},\0\xff \x1b" {
                let mut event = bytes.clone();
                event[at] = wrong;
                runs += 1;
                let out = harness::run(&mut redact, &event);
                if holds(&out, case.value) {
                    let event = event.escape_ascii().to_string();
                    leaks
                        .entry(case.params.to_string())
                        .or_default()
                        .push(event);
                }
            }
        }
    }
    finish(runs, &leaks);
}

#[test]
fn a_cut_event_does_not_let_the_value_out() {
    let (mut runs, mut leaks) = (0, BTreeMap::<String, Vec<String>>::new());
    for case in cases() {
        let mut redact = harness::build(&case.params).unwrap_or_else(|error| panic!("{error}"));
        let (bytes, _) = case.bytes();
        for end in 1..=bytes.len() {
            runs += 1;
            let out = harness::run(&mut redact, &bytes[..end]);
            if holds(&out, case.value) {
                let event = bytes[..end].escape_ascii().to_string();
                leaks
                    .entry(case.params.to_string())
                    .or_default()
                    .push(event);
            }
        }
    }
    finish(runs, &leaks);
}
