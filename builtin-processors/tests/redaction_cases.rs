//! Runs the cases in `testdata/redaction/`: the rules of one chain, one event, and what comes out.
//!
//! `out` is the event that comes out; where several are right, `out_lacks` and `out_has` are texts
//! that must not and must be in it. With `or_refused` a rule may be refused instead, at one of its
//! parameters. `why` says what the case is about.

use std::{fs, panic, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};

#[path = "harness/mod.rs"]
mod harness;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rules: Vec<Rule>,
    #[serde(rename = "in")]
    event: Option<String>,
    in_base64: Option<String>,
    out: Option<String>,
    out_base64: Option<String>,
    #[serde(default)]
    out_lacks: Vec<String>,
    #[serde(default)]
    out_has: Vec<String>,
    #[serde(default)]
    or_refused: bool,
    /// Keys by the names that rules refer to.
    #[serde(default)]
    env: Map<String, Value>,
    why: String,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(rename = "type")]
    kind: String,
    params: Value,
}

#[test]
fn every_case_of_redaction_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/redaction");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .flatten()
        .collect();
    files.sort_by_key(fs::DirEntry::file_name);
    assert!(!files.is_empty());
    let (mut count, mut wrong) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(file.path()).expect("a file of text");
        let cases: Vec<Case> = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{:?}: {error}", file.path()));
        for (at, case) in cases.iter().enumerate() {
            count += 1;
            // A panic is a wrong result as well, and the other cases still run.
            let result = panic::catch_unwind(|| check(case));
            if let Err(fault) = result.unwrap_or_else(|_| Err("the rule panics".to_owned())) {
                let name = file.file_name();
                wrong.push(format!("{}[{at}] {}\n{fault}", name.display(), case.why));
            }
        }
    }
    let (wrongs, list) = (wrong.len(), wrong.join("\n\n"));
    assert!(
        wrong.is_empty(),
        "{wrongs} of {count} cases are wrong:\n\n{list}"
    );
}

fn check(case: &Case) -> Result<(), String> {
    let event = match (&case.event, &case.in_base64) {
        (Some(text), None) => text.clone().into_bytes(),
        (None, Some(encoded)) => from_base64(encoded),
        _ => return Err("expected one of `in` and `in_base64`".to_owned()),
    };
    let mut bytes = event.clone();
    bytes.push(b'\n');
    for rule in &case.rules {
        if rule.kind != "redact" {
            return Err(format!("the type is `{}`; expected `redact`", rule.kind));
        }
        match harness::build(&with_keys(&rule.params, &case.env)) {
            Ok(mut redact) => bytes = harness::run(&mut redact, &bytes),
            Err(error) if case.or_refused && error.pointer.starts_with("/params/") => return Ok(()),
            Err(error) => return Err(format!("refused at {}: {error}", error.pointer)),
        }
    }
    let out = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let shown = String::from_utf8_lossy(out);
    let expected = match (&case.out, &case.out_base64) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(encoded)) => Some(from_base64(encoded)),
        (None, None) => None,
    };
    if let Some(expected) = expected {
        return match out == expected {
            true => Ok(()),
            false => Err(format!(
                "in       {}\nexpected {}\ngot      {shown}",
                String::from_utf8_lossy(&event),
                String::from_utf8_lossy(&expected)
            )),
        };
    }
    let left = case
        .out_lacks
        .iter()
        .filter(|text| shown.contains(&***text));
    let missing = case.out_has.iter().filter(|text| !shown.contains(&***text));
    let faults: Vec<&String> = left.chain(missing).collect();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "in  {}\ngot {shown}\nleft or missing: {faults:?}",
            String::from_utf8_lossy(&event)
        )),
    }
}

/// Lets a rule read its key from a file in place of the environment, which no test may set.
fn with_keys(params: &Value, env: &Map<String, Value>) -> Value {
    let mut params = params.clone();
    if let Some(key) = params.get_mut("key") {
        let name = key
            .as_str()
            .and_then(|reference| reference.strip_prefix("env:"));
        assert!(
            name.is_some_and(|name| env.contains_key(name)),
            "{key} is in `env`"
        );
        *key = harness::KEY.into();
    }
    params
}

fn from_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{text} is no base64"),
    };
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::from(value(byte));
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.extend(u8::try_from(bits >> count & 0xff));
        }
    }
    bytes
}
