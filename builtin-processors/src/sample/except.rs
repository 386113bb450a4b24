//! What is never sampled away.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Literal, RuleError,
    condition::{self, Conditions, JoinedParams},
    matcher::Pattern,
    parse_at,
    text_matcher::TextMatcher,
};

/// Most exceptions of one rule.
const MAX_EXCEPTIONS: usize = 16;

/// Events that are kept whatever the share is.
#[derive(Debug, Clone)]
pub(super) struct Except {
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone)]
enum Exception {
    /// By what stands anywhere in the event.
    Text(Box<TextMatcher>),
    /// By JSON fields.
    Fields(Box<Conditions>),
}

/// One exception, of either form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    // `value` and `values` belong to both.
    value: Option<Literal>,
    values: Option<Vec<Literal>>,
    pattern: Option<String>,
    // Of texts for one form, of the names of fields for the other.
    ignore_case: Option<bool>,
    attribute: Option<String>,
    path: Option<String>,
    operator: Option<String>,
    all: Option<Vec<condition::Params>>,
    any: Option<Vec<condition::Params>>,
}

impl Except {
    /// Builds the exceptions that stand at `/params/except`: one, or a list.
    ///
    /// # Errors
    /// [`RuleError`] names the parameter that cannot be right.
    pub(super) fn build(params: &Value) -> Result<Self, RuleError> {
        const POINTER: &str = "/params/except";
        let exceptions = match params {
            Value::Array(list) if list.is_empty() || list.len() > MAX_EXCEPTIONS => {
                let count = list.len();
                return Err(RuleError::new(
                    "invalid_except",
                    POINTER,
                    format!("`except` has {count} exceptions; expected 1 to {MAX_EXCEPTIONS}"),
                ));
            }
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(at, params)| Exception::build(params, &format!("{POINTER}/{at}")))
                .collect::<Result<_, _>>()?,
            one => vec![Exception::build(one, POINTER)?],
        };
        Ok(Self { exceptions })
    }

    /// Says whether the event is an exception.
    pub(super) fn holds_for(&mut self, body: &[u8]) -> bool {
        self.exceptions.iter_mut().any(|exception| match exception {
            Exception::Text(matcher) => matcher.matches_body(body),
            Exception::Fields(conditions) => conditions.hold_for(body),
        })
    }

    /// Returns where the next exception begins in a slice of whole events, one of which begins at
    /// `at`.
    pub(super) fn next(&mut self, slice: &[u8], mut at: usize) -> Option<usize> {
        while at < slice.len() {
            // Several would each have to look ahead, and again behind each hit of another.
            let start = match self.exceptions.as_mut_slice() {
                [Exception::Text(matcher)] => {
                    let hit = matcher.next(slice, at).filter(|&hit| hit < slice.len())?;
                    memchr::memrchr(b'\n', &slice[at..hit]).map_or(at, |i| at + i + 1)
                }
                _ => at,
            };
            let end = memchr::memchr(b'\n', &slice[start..])?;
            let body = &slice[start..start + end];
            if self.holds_for(body.strip_suffix(b"\r").unwrap_or(body)) {
                return Some(start);
            }
            at = start + end + 1;
        }
        None
    }
}

impl Exception {
    fn build(params: &Value, pointer: &str) -> Result<Self, RuleError> {
        let params: Params = parse_at(params.clone(), pointer)?;
        let by_fields = params.attribute.is_some()
            || params.path.is_some()
            || params.operator.is_some()
            || params.all.is_some()
            || params.any.is_some();
        if by_fields && params.pattern.is_some() {
            return Err(RuleError::new(
                "conflicting_params",
                format!("{pointer}/pattern"),
                "`pattern` looks at the whole event, and the exception is about its fields; make it \
                 two exceptions, or use the operator `regex`",
            ));
        }
        if by_fields {
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
            let conditions = Conditions::build(joined, pointer)?;
            return Ok(Self::Fields(Box::new(conditions)));
        }
        text_matcher(params, pointer).map(|matcher| Self::Text(Box::new(matcher)))
    }
}

fn text_matcher(params: Params, pointer: &str) -> Result<TextMatcher, RuleError> {
    let ignore_case = params.ignore_case.unwrap_or(false);
    match (params.value, params.values, params.pattern) {
        (Some(value), None, None) => {
            let keyword = (format!("{pointer}/value"), value.text);
            TextMatcher::keywords(&[keyword], ignore_case, false)
        }
        (None, Some(values), None) if values.is_empty() => Err(RuleError::new(
            "invalid_keyword",
            format!("{pointer}/values"),
            "no keyword is given; expected at least one",
        )),
        (None, Some(values), None) => {
            let keywords: Vec<(String, String)> = values
                .into_iter()
                .enumerate()
                .map(|(at, value)| (format!("{pointer}/values/{at}"), value.text))
                .collect();
            TextMatcher::keywords(&keywords, ignore_case, false)
        }
        (None, None, Some(pattern)) => {
            let pattern = Pattern::build(&pattern, ignore_case, &format!("{pointer}/pattern"))?;
            Ok(TextMatcher::pattern(pattern, false))
        }
        (None, None, None) => Err(RuleError::new(
            "missing_param",
            pointer,
            "an exception needs `value`, `values`, `pattern`, or a field and an `operator`; none is \
             given",
        )),
        _ => Err(RuleError::new(
            "conflicting_params",
            pointer,
            "an exception takes one of `value`, `values` and `pattern`; more than one is given",
        )),
    }
}
