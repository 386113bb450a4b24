//! `attribute_filter`: drops events by the value of a JSON field.
//!
//! | parameter | means |
//! | --- | --- |
//! | `attribute` | a name, looked for in the usual OpenTelemetry places |
//! | `path` | or the exact place, keys joined by `/`: `resource/attributes/service.name` |
//! | `operator` | `equals`, `contains` or `regex` |
//! | `value` | what to compare with |
//!
//! A JSON number, boolean or null compares by its text as written (`200` equals `"200"`, `2e2` does
//! not). An event that is no JSON object, or that has no such field, passes.

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Tally};

use crate::{
    RuleError, Text,
    json::{self, MAX_DEPTH, Place},
    list,
    matcher::{MAX_PATTERN_BYTES, Pattern},
    shown,
};

const OPERATORS: [&str; 3] = ["equals", "contains", "regex"];

/// Drops events by the value of a JSON field.
#[derive(Debug, Clone)]
pub struct AttributeFilter {
    places: Vec<Place>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Equals(String),
    Contains(String),
    Regex(Box<Pattern>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    attribute: Option<String>,
    path: Option<String>,
    operator: String,
    value: Text,
}

impl AttributeFilter {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let Params {
            attribute,
            path,
            operator,
            value: Text(value),
        } = params;
        let places = match (attribute, path) {
            (Some(attribute), None) if attribute.is_empty() => {
                return Err(RuleError::new(
                    "empty_attribute",
                    "/params/attribute",
                    "`attribute` is empty; expected a name like `service.name`",
                ));
            }
            (Some(attribute), None) => json::places_of_attribute(&attribute),
            (None, Some(path)) => match json::place_of_path(&path) {
                Some(place) => vec![place],
                None => {
                    return Err(RuleError::new(
                        "invalid_path",
                        "/params/path",
                        format!(
                            "`path` is `{}`; expected 1 to {MAX_DEPTH} keys joined by `/`, \
                             none of them empty",
                            shown(&path)
                        ),
                    ));
                }
            },
            (None, None) => {
                return Err(RuleError::new(
                    "missing_param",
                    "/params",
                    "an attribute_filter needs `attribute` or `path`; neither is given",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(RuleError::new(
                    "conflicting_params",
                    "/params",
                    "an attribute_filter takes `attribute` or `path`; both are given",
                ));
            }
        };
        if value.len() > MAX_PATTERN_BYTES {
            return Err(RuleError::new(
                "value_too_long",
                "/params/value",
                format!(
                    "`value` has {} bytes; expected at most {MAX_PATTERN_BYTES}",
                    value.len()
                ),
            ));
        }
        let test = match operator.as_str() {
            "equals" => Test::Equals(value),
            "contains" if value.is_empty() => {
                return Err(RuleError::new(
                    "empty_value",
                    "/params/value",
                    "`value` is empty and every text contains it; expected at least one character",
                ));
            }
            "contains" => Test::Contains(value),
            "regex" => Test::Regex(Box::new(Pattern::build(&value, false, "/params/value")?)),
            unknown => {
                return Err(RuleError::new(
                    "unknown_operator",
                    "/params/operator",
                    format!(
                        "`operator` is `{}`; expected one of {}",
                        shown(unknown),
                        list(&OPERATORS)
                    ),
                ));
            }
        };
        Ok(Self { places, test })
    }

    fn matches(&self, body: &[u8]) -> bool {
        let Some(value) = json::find(body, &self.places) else {
            return false;
        };
        let text = json::text(&value);
        match &self.test {
            Test::Equals(wanted) => *text == **wanted,
            Test::Contains(wanted) => {
                memchr::memmem::find(text.as_bytes(), wanted.as_bytes()).is_some()
            }
            Test::Regex(pattern) => pattern.is_match(text.as_bytes()),
        }
    }
}

impl Processor for AttributeFilter {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        // Once an event, and not over the buffer: JSON can only be walked from its start.
        Tally::dropped(batch.retain(|event| !self.matches(event.body())))
    }
}
