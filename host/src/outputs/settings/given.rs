//! The fields of an output as they are given, read into types.
//!
//! Which fields a type of output has is read from these types, so that an error about an unknown
//! field lists all of them.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

use super::{
    super::shown::{MOST_CHARS, one_line},
    Invalid, Output, pointer_of,
};

/// The fields of an output that have not been read yet.
pub(super) struct Given<'a> {
    pub(super) kind: &'a str,
    fields: Map<String, Value>,
    /// The names of fields that were read, or could have been.
    known: Vec<&'static str>,
}

impl<'a> Given<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        // `null` is the same as no value.
        let set = output.settings.iter().filter(|(_, value)| !value.is_null());
        Self {
            kind: &output.kind,
            fields: set
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            known: Vec::new(),
        }
    }

    /// Reads the fields of a type, and leaves all others.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<T, Invalid> {
        let names = fields_of::<T>();
        let given = names
            .iter()
            .filter_map(|name| self.fields.remove_entry(*name));
        let given = given.collect();
        self.known.splice(..0, names.iter().copied());
        self.parse(given)
    }

    /// Removes the fields of a type without reading them.
    pub(super) fn ignore<T: DeserializeOwned>(&mut self) {
        for name in fields_of::<T>() {
            self.fields.remove(*name);
        }
    }

    /// Reads the fields of a type; any other field is an error.
    pub(super) fn rest<T: DeserializeOwned>(&mut self) -> Result<T, Invalid> {
        let names = fields_of::<T>();
        self.known.splice(..0, names.iter().copied());
        let unknown = |name: &&String| !self.known.contains(&name.as_str());
        if let Some(unknown) = self.fields.keys().find(unknown) {
            let known = self.known.iter().map(|name| format!("`{name}`"));
            let known: Vec<String> = known.collect();
            let expected = match &known[..] {
                [] => "there are no fields".to_owned(),
                [one] => format!("expected {one}"),
                several => format!("expected one of {}", several.join(", ")),
            };
            return Err(Invalid::new(
                "invalid_output",
                format!("/{}", unknown.replace('~', "~0").replace('/', "~1")),
                format!(
                    "{} output: unknown field `{}`, {expected}",
                    self.kind,
                    one_line(unknown, 60)
                ),
            ));
        }
        let rest = std::mem::take(&mut self.fields);
        self.parse(rest)
    }

    fn parse<T: DeserializeOwned>(&self, fields: Map<String, Value>) -> Result<T, Invalid> {
        let fields = Value::Object(fields);
        serde_path_to_error::deserialize(&fields).map_err(|error| {
            let pointer = pointer_of(error.path());
            let message = error.into_inner().to_string();
            let found = fields.pointer(&pointer).unwrap_or(&Value::Null);
            let message = match expected(&message) {
                Some(expected) => {
                    let name = pointer.trim_start_matches('/').replace('/', ".");
                    let found = shown(found, expected);
                    format!("`{}` is {found}; expected {expected}", one_line(&name, 60))
                }
                None => one_line(&message, MOST_CHARS * 4),
            };
            let kind = self.kind;
            Invalid::new(
                "invalid_output",
                pointer,
                format!("{kind} output: {message}"),
            )
        })
    }
}

const WHOLE_NUMBER: &str = "a whole number, 0 or more";

/// Says what a message of serde about a value of another type expected, in the words of JSON.
fn expected(message: &str) -> Option<&str> {
    let of_type = |rest: &'static str| message.strip_prefix(rest);
    let Some(rest) = of_type("invalid type: ").or_else(|| of_type("invalid value: ")) else {
        return message.strip_prefix("expected ");
    };
    let (_, expected) = rest.rsplit_once(", expected ")?;
    Some(match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => WHOLE_NUMBER,
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a map" => "an object",
        "a sequence" => "a list",
        // Enums are written as strings.
        "path string" | "string or map" | "map with a single key" | "unit" | "unit variant" => {
            "a string"
        }
        other => other,
    })
}

/// Says what was found. The value itself is only repeated in place of a number: any other may hold
/// a secret.
fn shown(found: &Value, expected: &str) -> String {
    match found {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar if expected == WHOLE_NUMBER => format!("`{}`", one_line(&scalar.to_string(), 60)),
        Value::Null => "`null`".to_owned(),
        Value::Bool(_) => "`true` or `false`".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "a string".to_owned(),
    }
}

/// A value that must be a JSON object. Serde also reads a struct from a list, by the order of its
/// fields.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Returns the names of the fields of a type. Serde hands them to the format that a value is read
/// from; no value is read here.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    let read = T::deserialize(Names(&mut names));
    debug_assert!(read.is_err(), "there is no value to read");
    names
}

/// A format of no values, which notes the names of the fields that it is asked for.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::OutputPolicy, *};
    use crate::outputs::OutputSettings;

    /// Parses an output of this type with its required fields and one more.
    fn fault(kind: &str, field: &str, value: Value) -> Invalid {
        let folder = tempfile::tempdir().unwrap();
        let policy = OutputPolicy {
            folder: Some(folder.path().join("outputs")),
            files: Some(folder.path().join("files")),
            ..OutputPolicy::default()
        };
        let mut output = match kind {
            "file" => json!({"path": "a.log"}),
            "tcp" => json!({"address": "h:1"}),
            "http" => json!({"url": "https://h/"}),
            "datadog" => json!({"api_key": "env:PATH"}),
            "newrelic" => json!({"license_key": "env:PATH"}),
            "cloudwatch" => json!({
                "region": "a", "group": "g", "stream": "s", "access_key_id": "env:PATH",
                "secret_access_key": "env:PATH",
            }),
            _ => json!({}),
        };
        output["type"] = kind.into();
        output[field] = value;
        let output: Output = serde_json::from_value(output).unwrap();
        let parsed = OutputSettings::parse(&output, &policy);
        parsed.expect_err(&format!("{kind} with `{field}`"))
    }

    const REQUESTS: [&str; 4] = ["http", "datadog", "newrelic", "cloudwatch"];

    /// Every field that is an object, with values in the order of its fields.
    #[test]
    fn lists_in_place_of_objects_are_refused() {
        let of_disks = ["file", "tcp"].into_iter().chain(REQUESTS);
        let mut fields: Vec<(&str, &str, Value)> = Vec::new();
        for kind in of_disks {
            fields.push((kind, "spool", json!(["1MiB", "block", "never"])));
            fields.push((kind, "dead_letters", json!(["1MiB"])));
        }
        for kind in REQUESTS {
            fields.push((kind, "headers", json!([["x-team", "core"]])));
            fields.push((kind, "tls", json!([null, null, null])));
        }
        fields.push(("tcp", "tls", json!([null, null, null])));
        fields.push(("newrelic", "attributes", json!([["team", "core"]])));
        for (kind, field, list) in fields {
            for list in [list, json!([])] {
                let fault = fault(kind, field, list);
                assert_eq!(fault.pointer, format!("/{field}"), "{kind}: {fault}");
                let found = format!("{kind} output: `{field}` is a list; expected ");
                assert!(fault.message.starts_with(&found), "{fault}");
                assert!(fault.message.contains("object"), "{fault}");
            }
        }
    }

    #[test]
    fn unknown_fields_are_refused_with_all_fields_of_the_type() {
        for (kind, fields) in [
            ("console", &[][..]),
            (
                "file",
                &["path", "rotate_bytes", "fsync", "spool", "dead_letters"],
            ),
            ("tcp", &["address", "tls", "spool", "dead_letters"]),
            ("http", &["url", "method", "framing", "values"]),
            (
                "datadog",
                &["api_key", "site", "endpoint", "service", "tags"],
            ),
            ("newrelic", &["license_key", "region", "attributes"]),
            (
                "cloudwatch",
                &["region", "group", "stream", "create", "session_token"],
            ),
        ] {
            let fault = fault(kind, "bogus", json!(1));
            assert_eq!(fault.pointer, "/bogus");
            let common = [
                "headers",
                "compression",
                "timeout_ms",
                "max_batch_bytes",
                "max_batch_events",
                "linger_ms",
                "max_in_flight",
                "tls",
                "proxy",
                "proxy_authorization",
                "spool",
                "dead_letters",
                "give_up_after_s",
            ];
            let common = common.iter().filter(|_| REQUESTS.contains(&kind));
            for field in fields.iter().chain(common) {
                assert!(fault.message.contains(&format!("`{field}`")), "{fault}");
            }
        }
        let fault = fault("tcp", "adress", json!(1));
        assert_eq!(
            fault.message,
            "tcp output: unknown field `adress`, expected one of `address`, `tls`, `spool`, \
             `dead_letters`; did you mean `address`?"
        );
    }

    #[test]
    fn values_of_another_type_are_refused_in_the_words_of_json() {
        for (kind, field, value, pointer, message) in [
            (
                "http",
                "timeout_ms",
                json!("5s"),
                "/timeout_ms",
                "`timeout_ms` is `\"5s\"`; expected a whole number, 0 or more",
            ),
            (
                "http",
                "linger_ms",
                json!(-1.5),
                "/linger_ms",
                "`linger_ms` is `-1.5`; expected a whole number, 0 or more",
            ),
            (
                "http",
                "give_up_after_s",
                json!(-1),
                "/give_up_after_s",
                "`give_up_after_s` is `-1`; expected a whole number, 0 or more",
            ),
            (
                "http",
                "url",
                json!(["http://h"]),
                "/url",
                "`url` is a list; expected a string",
            ),
            (
                "http",
                "framing",
                json!(5),
                "/framing",
                "`framing` is a number; expected a string",
            ),
            (
                "http",
                "headers",
                json!("hunter2"),
                "/headers",
                "`headers` is a string; expected an object",
            ),
            (
                "http",
                "headers",
                json!({"x-token": 12_345}),
                "/headers/x-token",
                "`headers.x-token` is a number; expected a string",
            ),
            (
                "http",
                "tls",
                json!(true),
                "/tls",
                "`tls` is `true` or `false`; expected an object",
            ),
            (
                "http",
                "proxy",
                json!({"url": "http://p"}),
                "/proxy",
                "`proxy` is an object; expected a string",
            ),
            (
                "tcp",
                "spool",
                json!("1GiB"),
                "/spool",
                "`spool` is a string; expected an object",
            ),
            (
                "tcp",
                "spool",
                json!({"max_bytes": []}),
                "/spool/max_bytes",
                "`spool.max_bytes` is a list; expected a number of bytes or a size such as `1GiB`",
            ),
            (
                "datadog",
                "tags",
                json!("a:b"),
                "/tags",
                "`tags` is a string; expected a list",
            ),
            (
                "datadog",
                "tags",
                json!(["a:b", 5]),
                "/tags/1",
                "`tags.1` is a number; expected a string",
            ),
            (
                "cloudwatch",
                "create",
                json!("yes"),
                "/create",
                "`create` is a string; expected `true` or `false`",
            ),
        ] {
            let fault = fault(kind, field, value);
            assert_eq!(fault.message, format!("{kind} output: {message}"));
            assert_eq!(fault.pointer, pointer);
        }
    }
}
