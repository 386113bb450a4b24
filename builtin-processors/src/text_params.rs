//! Parameters that are texts, written as numbers or booleans.
//!
//! Building a rule takes `{"value": 5}` for the text `5`: rules that were stored so must go on. A
//! rule that a person sends now is checked here first, since a value without its quotes may be a
//! mistake (`on`, `1.10`).

use serde_json::{Map, Value};

use crate::RuleError;

/// The operators that compare text and nothing else.
const TEXT_OPERATORS: [&str; 3] = ["contains", "not_contains", "regex"];

/// Checks that texts among the parameters of a rule are written as texts. What has another shape is
/// left to [`Builtin::build`](crate::Builtin::build).
///
/// # Errors
/// [`RuleError`] points to the value.
pub fn check_texts(kind: &str, params: &Map<String, Value>) -> Result<(), RuleError> {
    match kind {
        "filter" => check_values(params, "/params"),
        "attribute_filter" => check_condition(params, "/params"),
        "sample" => match params.get("except") {
            Some(Value::Array(list)) => list
                .iter()
                .enumerate()
                .try_for_each(|(at, one)| check_exception(one, &format!("/params/except/{at}"))),
            Some(one) => check_exception(one, "/params/except"),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// An exception of `sample` is about fields, or about the text of the event.
fn check_exception(exception: &Value, pointer: &str) -> Result<(), RuleError> {
    let Value::Object(params) = exception else {
        return Ok(());
    };
    let of_fields = ["attribute", "path", "operator", "all", "any"];
    match of_fields.iter().any(|name| params.contains_key(*name)) {
        true => check_condition(params, pointer),
        false => check_values(params, pointer),
    }
}

fn check_condition(params: &Map<String, Value>, pointer: &str) -> Result<(), RuleError> {
    let operator = params.get("operator").and_then(Value::as_str);
    if operator.is_some_and(|operator| TEXT_OPERATORS.contains(&operator)) {
        check_values(params, pointer)?;
    }
    for join in ["all", "any"] {
        let Some(Value::Array(list)) = params.get(join) else {
            continue;
        };
        for (at, one) in list.iter().enumerate() {
            if let Value::Object(one) = one {
                check_condition(one, &format!("{pointer}/{join}/{at}"))?;
            }
        }
    }
    Ok(())
}

fn check_values(params: &Map<String, Value>, pointer: &str) -> Result<(), RuleError> {
    if let Some(value) = params.get("value") {
        check_text(value, &format!("{pointer}/value"))?;
    }
    if let Some(Value::Array(list)) = params.get("values") {
        for (at, value) in list.iter().enumerate() {
            check_text(value, &format!("{pointer}/values/{at}"))?;
        }
    }
    Ok(())
}

fn check_text(value: &Value, pointer: &str) -> Result<(), RuleError> {
    let kind = match value {
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        _ => return Ok(()),
    };
    Err(RuleError::new(
        "invalid_params",
        pointer,
        format!("found the {kind} {value}, expected a text; write \"{value}\" with the quotes"),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_that_are_written_as_numbers_are_refused_where_text_is_compared() {
        for (kind, params, pointer) in [
            ("filter", json!({"value": 5}), "/params/value"),
            ("filter", json!({"values": ["a", true]}), "/params/values/1"),
            (
                "attribute_filter",
                json!({"attribute": "a", "operator": "contains", "value": 5}),
                "/params/value",
            ),
            (
                "attribute_filter",
                json!({"any": [{"path": "a", "operator": "regex", "value": 5}]}),
                "/params/any/0/value",
            ),
            (
                "sample",
                json!({"except": {"value": 500}}),
                "/params/except/value",
            ),
            (
                "sample",
                json!({"except": [{"value": "a"}, {"values": [1]}]}),
                "/params/except/1/values/0",
            ),
        ] {
            let params = params.as_object().expect("an object");
            let error = check_texts(kind, params).expect_err(pointer);
            assert_eq!(error.pointer, pointer);
            assert!(error.message.contains("expected a text"), "{error}");
        }
        for (kind, params) in [
            ("filter", json!({"value": "5", "values": "not for us"})),
            (
                "attribute_filter",
                json!({"attribute": "a", "operator": "equals", "value": 5}),
            ),
            (
                "sample",
                json!({"except": {"path": "a", "operator": "gt", "value": 500}}),
            ),
            ("redact", json!({"pattern": "a"})),
        ] {
            let params = params.as_object().expect("an object");
            assert_eq!(check_texts(kind, params), Ok(()), "{kind}");
        }
    }
}
