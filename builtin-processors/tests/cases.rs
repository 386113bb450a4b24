//! Runs the cases in `testdata/`: a rule's parameters, events in, events out.

use std::path::Path;

use serde::Deserialize;
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, OnError, TYPES};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    params: toml::Table,
    #[serde(rename = "in", default)]
    events: Vec<String>,
    out: Option<Vec<String>>,
    error: Option<ExpectedError>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedError {
    code: String,
    pointer: String,
}

#[test]
fn every_case_of_every_type_holds() {
    for kind in TYPES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/{kind}.toml"));
        let text = std::fs::read_to_string(&path).expect("every type has its cases");
        let cases: Cases = toml::from_str(&text).expect("the cases are valid");
        for case in cases.case {
            check(kind, &case);
        }
    }
}

fn check(kind: &str, case: &Case) {
    let name = format!("{kind}: {}", case.name);
    let params = serde_json::to_value(&case.params).expect("TOML fits into JSON");
    let params = params.as_object().expect("a table is an object");
    let built = Builtin::build(kind, params, OnError::Pass);
    if let Some(expected) = &case.error {
        let error = built.expect_err(&name);
        assert_eq!(
            (error.code, error.pointer.as_str()),
            (expected.code.as_str(), expected.pointer.as_str()),
            "{name}: {error}"
        );
        return;
    }
    built.unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = case
        .out
        .as_ref()
        .unwrap_or_else(|| panic!("{name}: has neither out nor error"));
    for terminator in ["\n", "\r\n"] {
        let lines = |events: &[String]| -> String {
            events
                .iter()
                .flat_map(|event| [event.as_str(), terminator])
                .collect()
        };
        let mut batch = Batch::from_lines(lines(&case.events));
        let before = batch.events() as u64;
        // Built anew: what it remembers of one pass is nothing to the next.
        let mut builtin = Builtin::build(kind, params, OnError::Pass).expect("it was built before");
        let tally = builtin.process(&mut batch);
        let left: Vec<u8> = batch.slices().flatten().copied().collect();
        assert_eq!(String::from_utf8_lossy(&left), lines(expected), "{name}");
        assert_eq!(
            batch.events() as u64 + tally.dropped + tally.failed_dropped,
            before,
            "{name}: the tally does not balance"
        );
    }
}
