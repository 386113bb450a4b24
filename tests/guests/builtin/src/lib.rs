//! Any native rule as a module, so that the same rule can be run, and measured, both ways.
//!
//! Config: `{"type": "filter", "params": {"value": "DEBUG"}, "on_error": "pass"}`, as in a rule;
//! `on_error` is `pass`, `mask` (the default) or `drop`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use streamgate_guest::{Batch, Configure, Processor, Tally, export, host, parse_config};
use streamgate_processors::{Builtin, Clock, OnError};

/// A native rule.
#[derive(Debug)]
pub struct Guest(Builtin);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    params: Map<String, Value>,
    #[serde(default)]
    on_error: OnErrorName,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnErrorName {
    Pass,
    #[default]
    Mask,
    Drop,
}

impl Configure for Guest {
    fn configure(config: &str) -> Result<Self, String> {
        let Config {
            kind,
            params,
            on_error,
        } = parse_config(config)?;
        let on_error = match on_error {
            OnErrorName::Pass => OnError::Pass,
            OnErrorName::Mask => OnError::Mask,
            OnErrorName::Drop => OnError::Drop,
        };
        let builtin = Builtin::build(&kind, &params, on_error)
            .map_err(|error| format!("`{}`: {error}", error.pointer))?;
        let clock = Clock::new(|| Duration::from_millis(host::now_ms()));
        Ok(Self(builtin.for_worker(host::random(), &clock)))
    }
}

impl Processor for Guest {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        self.0.process(batch)
    }
}

export!(Guest);

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use streamgate_guest::testing::Harness;
    use streamgate_processors::TYPES;

    use super::*;

    fn harness(kind: &str, params: &Value) -> Result<Harness<Guest>, String> {
        let config = serde_json::json!({"type": kind, "params": params, "on_error": "pass"});
        Harness::configure(&config.to_string())
    }

    #[test]
    fn every_case_of_the_native_rules_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../builtin-processors");
        let mut held = 0;
        for kind in TYPES {
            let text = fs::read_to_string(folder.join(format!("testdata/{kind}.toml"))).unwrap();
            let cases: Value = toml::from_str(&text).unwrap();
            for case in cases["case"].as_array().unwrap() {
                let built = harness(kind, &case["params"]);
                if case["error"].is_object() {
                    assert!(built.is_err(), "{kind}: {case}");
                    continue;
                }
                let strings = |key: &str| -> Vec<String> {
                    let events = case[key].as_array().into_iter().flatten();
                    events
                        .map(|event| event.as_str().unwrap().to_owned())
                        .collect()
                };
                let survivors = built.unwrap().survivors(strings("in"));
                assert_eq!(survivors, strings("out"), "{kind}: {case}");
                held += 1;
            }
        }
        assert!(held > 20, "only {held} cases were found");
    }

    #[test]
    fn a_wrong_rule_is_told_by_field() {
        let refused = harness("sample", &serde_json::json!({"rate": 2})).unwrap_err();
        assert_eq!(
            refused,
            "`/params/rate`: `rate` is 2; expected the share to keep, from 0 to 1"
        );
    }
}
