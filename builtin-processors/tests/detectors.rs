//! The catalogue of detectors against cases kept as data: `detectors/<category>.toml`.
//!
//! A section is a detector. In a `positive` event, what stands between `«` and `»` must be hidden, and
//! nothing else; in a `negative` one this detector finds nothing. Each case runs through the plain
//! [`Finder`] and through a redact rule.

use std::{collections::BTreeMap, fs, ops::Range, path::Path};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{
    Builtin, OnError,
    detectors::{self, Finder},
};

/// Fewest cases of each kind.
const FEWEST: usize = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    positive: Vec<String>,
    negative: Vec<String>,
}

fn cases() -> BTreeMap<String, Cases> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("detectors");
    let files = fs::read_dir(folder).expect("the folder is there");
    let mut all = BTreeMap::new();
    for file in files.flatten() {
        let text = fs::read_to_string(file.path()).expect("a file of text");
        let cases: BTreeMap<String, Cases> =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{:?}: {error}", file.path()));
        all.extend(cases);
    }
    all
}

/// Takes the marks out of a positive event; says what stood between them.
fn marked(event: &str) -> (String, Range<usize>) {
    let start = event.find('«').expect("a `«`");
    let event = event.replacen('«', "", 1);
    let end = event.find('»').expect("a `»`");
    (event.replacen('»', "", 1), start..end)
}

fn redacted(name: &str, event: &str) -> String {
    let params = json!({"detectors": [name]});
    let params = params.as_object().expect("an object");
    let mut redact = Builtin::build("redact", params, OnError::Mask)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut batch = Batch::from_lines(format!("{event}\n"));
    redact.process(&mut batch);
    let bytes = batch.slices().collect::<Vec<_>>().concat();
    String::from_utf8(bytes)
        .expect("is text")
        .trim_end_matches('\n')
        .to_owned()
}

#[test]
fn every_detector_has_cases_and_finds_what_is_marked() {
    let cases = cases();
    let mut wrong = Vec::new();
    for name in cases.keys() {
        if detectors::by_name(name).is_err() {
            wrong.push(format!("[{name}] is no detector"));
        }
    }
    for detector in detectors::all() {
        let name = detector.name;
        let Some(cases) = cases.get(name) else {
            wrong.push(format!("{name} has no cases"));
            continue;
        };
        if cases.positive.len().min(cases.negative.len()) < FEWEST {
            wrong.push(format!("{name} has too few cases"));
        }
        let finder = Finder::build(detector).expect("compiles");
        for event in &cases.positive {
            let (event, expected) = marked(event);
            let found = finder.find_all(event.as_bytes());
            if found != [expected.clone()] {
                wrong.push(format!(
                    "{name}: `{event}`: {found:?}, expected {expected:?}"
                ));
                continue;
            }
            let (before, behind) = (&event[..expected.start], &event[expected.end..]);
            let left = redacted(name, &event);
            if left != format!("{before}[REDACTED]{behind}") {
                wrong.push(format!("{name}: `{event}` became `{left}`"));
            }
        }
        for event in &cases.negative {
            let found = finder.find_all(event.as_bytes());
            if !found.is_empty() || redacted(name, event) != *event {
                wrong.push(format!("{name}: `{event}`: {found:?}, expected nothing"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_are_at_least_sixty() {
    assert!(detectors::all().len() >= 60);
}

/// Pieces that shapes are made of, and any bytes.
fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let examples = detectors::all()
        .iter()
        .flat_map(|detector| detector.examples);
    let examples: Vec<Vec<u8>> = examples
        .map(|example| example.as_bytes().to_vec())
        .collect();
    let piece = prop_oneof![
        prop::sample::select(examples),
        prop::collection::vec(any::<u8>(), 0..24),
        "[ -~]{0,24}".prop_map(String::into_bytes),
        "[0-9]{0,20}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a check is asked, it answers; and what it calls sensitive lies in the event.
    #[test]
    fn no_check_panics_on_any_bytes(
        number in 0..detectors::all().len(),
        event in some_bytes(),
        start in 0..80_usize,
        length in 0..80_usize,
    ) {
        let detector = &detectors::all()[number];
        let _ = detector.confirms(&event, start, start + length);
        let finder = Finder::build(detector).expect("compiles");
        for hidden in finder.find_all(&event) {
            prop_assert!(hidden.start < hidden.end && hidden.end <= event.len());
        }
        if let Some(end) = event.len().checked_sub(1).filter(|&end| start < end) {
            let hidden = detector.hidden(&event, start, end);
            prop_assert!(hidden.end <= event.len() && hidden.start >= start, "{hidden:?}");
        }
    }
}
