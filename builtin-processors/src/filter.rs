//! `filter`: drops or keeps events by keyword or pattern, anywhere in the event.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `value` | a keyword | one of the three is required |
//! | `values` | keywords, any of which matches; at most 100,000 | |
//! | `pattern` | a regular expression (the syntax of the `regex` crate) | |
//! | `ignore_case` | whether upper and lower case are alike | `false` |
//! | `mode` | `drop` what matches, or `keep` only what matches | `drop` |

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Rest, Tally, Verdict};

use crate::{
    RuleError, Text,
    matcher::{Matcher, Pattern},
};

/// Drops or keeps events by keyword or pattern.
#[derive(Debug, Clone)]
pub struct Filter {
    matcher: Matcher,
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    value: Option<Text>,
    values: Option<Vec<Text>>,
    pattern: Option<String>,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    mode: Mode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    Drop,
    Keep,
}

impl Filter {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let Params {
            value,
            values,
            pattern,
            ignore_case,
            mode,
        } = params;
        let matcher = match (value, values, pattern) {
            (Some(Text(value)), None, None) => {
                Matcher::keywords(&[("/params/value".to_owned(), value)], ignore_case)?
            }
            (None, Some(values), None) => {
                let keywords: Vec<(String, String)> = values
                    .into_iter()
                    .enumerate()
                    .map(|(at, Text(value))| (format!("/params/values/{at}"), value))
                    .collect();
                Matcher::keywords(&keywords, ignore_case)?
            }
            (None, None, Some(pattern)) => {
                let pattern = Pattern::build(&pattern, ignore_case, "/params/pattern")?;
                Matcher::Pattern(Box::new(pattern))
            }
            (None, None, None) => {
                return Err(RuleError::new(
                    "missing_param",
                    "/params",
                    "a filter needs one of `value`, `values` and `pattern`; none is given",
                ));
            }
            _ => {
                return Err(RuleError::new(
                    "conflicting_params",
                    "/params",
                    "a filter takes one of `value`, `values` and `pattern`; more than one is given",
                ));
            }
        };
        Ok(Self { matcher, mode })
    }
}

impl Processor for Filter {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self { matcher, mode } = self;
        let (rest, matched, unconfirmed) = match mode {
            Mode::Drop => (Rest::Keep, Verdict::Drop, Verdict::Keep),
            Mode::Keep => (Rest::Drop, Verdict::Keep, Verdict::Drop),
        };
        let edited = batch.edit(
            rest,
            |slice, at| matcher.find(slice, at),
            |event, _| {
                if matcher.confirms(event.body()) {
                    matched
                } else {
                    unconfirmed
                }
            },
        );
        Tally::dropped(edited.dropped)
    }
}
