//! `attribute_filter`: drops or keeps events by the values of their JSON fields.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `attribute` | a name, looked for in the usual OpenTelemetry places | this or `path` |
//! | `path` | the exact place, in the one grammar of all rules: `resource/attributes/service.name`, `http.target`, `items[0].id`, `**/id`, `headers/x-*` | |
//! | `ignore_case` | whether upper and lower case are alike in the names of `attribute` or `path`; values always compare as they are | `false` |
//! | `operator` | see below | required |
//! | `value` | what to compare with | |
//! | `values` | for `in` and `not_in`: a list, at most 100,000 | |
//! | `all`, `any` | instead of all these: up to 16 conditions of that form, all or any of which must hold | |
//! | `mode` | `drop` what matches, or `keep` only what matches | `drop` |
//!
//! | operator | holds if the event has the field and its value |
//! | --- | --- |
//! | `exists` | is anything, `null` too; with `value: false`, if the event does not have the field |
//! | `equals`, `not_equals` | is `value`, or is not |
//! | `contains`, `not_contains` | has `value` in it, or has not |
//! | `in`, `not_in` | is one of `values`, or is none |
//! | `regex` | matches the regular expression `value` somewhere |
//! | `gt`, `gte`, `lt`, `lte` | is a number, and more, at least, less, at most `value` |
//!
//! Texts compare as they are, other JSON values by their text as written. Where the rule gives a
//! number (`200`, not `"200"`), and for `gt` to `lte`, numbers compare as numbers, and a text that is
//! a number is one: `200` equals `200.0`, `2e2` and `"200"`. Whole numbers compare exactly.
//!
//! With `*`, `**` or `[*]` a condition is about any of the values, and a `not_` one about none of them.
//! JSON is found behind a prefix too, such as that of syslog; an event without any has no fields.
//! Conditions under `all` that contradict each other are refused.

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Tally};

use crate::{
    Literal, RuleError,
    condition::{self, Conditions, JoinedParams},
    filter::Mode,
};

/// Drops or keeps events by the values of their JSON fields.
#[derive(Debug, Clone)]
pub struct AttributeFilter {
    conditions: Conditions,
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    attribute: Option<String>,
    path: Option<String>,
    operator: Option<String>,
    value: Option<Literal>,
    values: Option<Vec<Literal>>,
    ignore_case: Option<bool>,
    all: Option<Vec<condition::Params>>,
    any: Option<Vec<condition::Params>>,
    #[serde(default)]
    mode: Mode,
}

impl AttributeFilter {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let joined = JoinedParams {
            one: condition::Params {
                attribute: params.attribute,
                path: params.path,
                operator: params.operator,
                value: params.value,
                values: params.values,
                ignore_case: params.ignore_case,
            },
            all: params.all,
            any: params.any,
        };
        Ok(Self {
            conditions: Conditions::build(joined, "/params")?,
            mode: params.mode,
        })
    }
}

impl Processor for AttributeFilter {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let keep = self.mode == Mode::Keep;
        // Once an event, and not over the buffer: JSON can only be walked from its start.
        Tally::dropped(batch.retain(|event| self.conditions.hold_for(event.body()) == keep))
    }
}
