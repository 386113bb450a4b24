//! Secrets that are written into a config in place of a reference: they are refused in edits, and
//! hidden where a config from before that is shown.

use reqwest::Url;
use serde_json::{Map, Value};

use super::{
    super::shown::{MOST_CHARS, one_line},
    Invalid, Output, header_pointer,
};

/// What stands for a secret that is not shown.
const HIDDEN: &str = "<hidden>";

/// A header field or query parameter whose name has one of these in it carries credentials. `_` in
/// a name counts as `-`.
const PARTS_OF_NAMES: [&str; 20] = [
    "access-key",
    "api-key",
    "apikey",
    "app-key",
    "application-key",
    "authorization",
    "cookie",
    "credential",
    "function-key",
    "functions-key",
    "insert-key",
    "license-key",
    "passwd",
    "password",
    "private-key",
    "secret",
    "signature",
    "subscription-key",
    "token",
    "x-auth",
];

/// And one that has one of these names.
const WHOLE_NAMES: [&str; 6] = ["auth", "key", "pass", "pwd", "sig", "access"];

fn carries_credentials(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase().replace('_', "-");
    WHOLE_NAMES.contains(&&*name) || PARTS_OF_NAMES.iter().any(|part| name.contains(part))
}

fn is_literal(value: &str) -> bool {
    !value.trim().is_empty() && !value.contains("${")
}

/// Finds secrets that are written into an output.
pub(super) fn faults(output: &Output) -> Vec<Invalid> {
    let mut faults = Vec::new();
    let headers = output.settings.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        if carries_credentials(name) && value.as_str().is_some_and(is_literal) {
            let name_shown = one_line(name, MOST_CHARS);
            faults.push(Invalid::new(
                "literal_secret",
                header_pointer(name),
                format!(
                    "the header `{name_shown}` carries credentials, and its value is written into \
                     the config, which shows it to everyone who may read the config; expected a \
                     reference, for example `${{env:STREAMGATE_SECRET_NAME}}` or \
                     `${{file:/run/secrets/name}}`"
                ),
            ));
        }
    }
    for field in ["url", "endpoint"] {
        let given = output.settings.get(field).and_then(Value::as_str);
        let Some(url) = given.and_then(|given| Url::parse(given).ok()) else {
            continue;
        };
        let mut parameters = url.query_pairs();
        let found = parameters.find(|(name, value)| carries_credentials(name) && !value.is_empty());
        if let Some((name, _)) = found {
            faults.push(Invalid::new(
                "literal_secret",
                format!("/{field}"),
                format!(
                    "the parameter `{}` of `{field}` carries credentials, which would be shown \
                     wherever the URL is; send them in `headers`, by reference, for example \
                     `${{env:STREAMGATE_SECRET_NAME}}`",
                    one_line(&name, MOST_CHARS)
                ),
            ));
        }
    }
    faults
}

/// Hides the secrets that are written into outputs anywhere in a document. Returns whether there
/// were any.
pub(in super::super) fn hide(document: &mut Value) -> bool {
    match document {
        Value::Array(items) => {
            let mut found = false;
            for item in items {
                found |= hide(item);
            }
            found
        }
        Value::Object(fields) => {
            let mut found = hide_in_output(fields);
            for (_, field) in fields.iter_mut() {
                found |= hide(field);
            }
            found
        }
        _ => false,
    }
}

fn hide_in_output(fields: &mut Map<String, Value>) -> bool {
    let mut found = false;
    let headers = fields.get_mut("headers").and_then(Value::as_object_mut);
    for (name, value) in headers.into_iter().flatten() {
        if carries_credentials(name) && value.as_str().is_some_and(is_literal) {
            *value = HIDDEN.into();
            found = true;
        }
    }
    if let Some(Value::String(value)) = fields.get_mut("proxy_authorization")
        && !value.starts_with("env:")
        && !value.starts_with("file:")
        && is_literal(value)
    {
        HIDDEN.clone_into(value);
        found = true;
    }
    for name in ["url", "endpoint", "proxy"] {
        if let Some(Value::String(given)) = fields.get_mut(name)
            && let Some(hidden) = without_credentials(given)
        {
            *given = hidden;
            found = true;
        }
    }
    found
}

/// Returns a URL without the secrets that are in it, if there are any.
fn without_credentials(given: &str) -> Option<String> {
    let mut url = Url::parse(given).ok()?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user {
        url.set_password(None).ok()?;
        url.set_username("hidden").ok()?;
    }
    let mut found = has_user;
    let parameters = url.query_pairs().into_owned();
    let shown: Vec<(String, String)> = parameters
        .map(|(name, value)| {
            let hides = carries_credentials(&name) && !value.is_empty();
            found |= hides;
            (name, if hides { HIDDEN.to_owned() } else { value })
        })
        .collect();
    if !found {
        return None;
    }
    if !shown.is_empty() {
        url.query_pairs_mut().clear().extend_pairs(shown);
    }
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        let mut shown = json!({"pipelines": [{"outputs": [
            {"type": "http", "url": "http://h/a?api_key=hunter2&b=c", "headers": {
                "Authorization": "Bearer hunter2", "X_API_KEY": "hunter2", "x-team": "core",
                "cookie": "${env:DD_API_KEY}"}},
            {"type": "datadog", "endpoint": "http://user:hunter2@h/"},
        ]}]});
        assert!(hide(&mut shown));
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        let headers = &shown["pipelines"][0]["outputs"][0]["headers"];
        assert_eq!(headers["Authorization"], HIDDEN);
        assert_eq!(headers["x-team"], "core");
        assert_eq!(headers["cookie"], "${env:DD_API_KEY}");
        let mut plain = json!([{"url": "http://h/a?b=c%20d", "headers": {"x-team": "core"}}, 1]);
        let before = plain.clone();
        assert!(!hide(&mut plain));
        assert_eq!(plain, before);
    }
}
