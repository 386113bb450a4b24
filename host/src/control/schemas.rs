//! The JSON schemas of what clients send: rules, outputs, drafts, tokens, the batch size.
//!
//! Promises to be as exact as a JSON schema can be: names, types, ranges, and which fields belong
//! together. What depends on more than the document is left to the checks of `gate`: whether a
//! regular expression compiles, whether an id is taken, whether a file or a module exists. Schemas
//! of answers are derived from their types.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a schema is put together from parts that are made in place"
)]

use serde_json::{Map, Value, json};
use streamgate_processors::detectors;

use crate::manifest::{MAX_BATCH_SIZE, MAX_ID_BYTES, MAX_OUTPUTS, MAX_RULES, WASM};

/// Longest name of a place, key or field, and longest pattern. The checks count bytes and are
/// stricter for some; a schema counts characters.
const MAX_PATTERN_CHARS: usize = 16 * 1024;

/// Most values or keywords of a rule.
const MAX_VALUES: usize = 100_000;

/// Returns the schemas of the components, by name.
pub(super) fn components() -> Map<String, Value> {
    let schemas = [
        ("Id", id()),
        ("NewRule", one_of(rules(true))),
        ("RuleUpdate", one_of(rules(false))),
        ("NewRules", list(reference("NewRule"), 0, MAX_RULES)),
        ("NewOutput", one_of(outputs())),
        ("NewDraft", draft()),
        ("NewBatchSize", batch_size()),
        ("NewToken", token()),
        ("Size", size(1 << 20, 1 << 44)),
        ("ModuleCode", json!({"type": "string", "format": "binary"})),
        ("Condition", one_of(conditions())),
        ("Exception", one_of(exceptions())),
    ];
    schemas
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// Returns the name of the schema of a request's body.
pub(super) fn of_body(method: &str, path: &str) -> Option<&'static str> {
    match (method, path) {
        ("post", "/rules") => Some("NewRule"),
        ("put", "/rules") => Some("NewRules"),
        ("put", "/rules/{id}") => Some("RuleUpdate"),
        ("post", "/outputs") | ("put", "/outputs/{id}") => Some("NewOutput"),
        ("put", "/draft") => Some("NewDraft"),
        ("put", "/modules/{name}") => Some("ModuleCode"),
        ("post", "/config/batch_size") => Some("NewBatchSize"),
        ("post", "/tokens") => Some("NewToken"),
        _ => None,
    }
}

/// Returns the schema of a parameter of a path or a query.
pub(super) fn of_parameter(name: &str) -> Option<Value> {
    match name {
        "id" | "name" => Some(reference("Id")),
        "revision" => Some(json!({"type": "integer", "minimum": 0, "maximum": u64::MAX})),
        "size" => Some(settings_size()),
        "allow_removal" | "republish" => Some(json!({"type": "boolean"})),
        // As far as a pattern can say it: a time up to 30 s.
        "wait" => Some(json!({
            "type": "string",
            "pattern": "^(0|([0-9]{1,4}|[12][0-9]{4}|30000)ms|([0-9]|[12][0-9]|30)s)$"
        })),
        "comment" => Some(json!({
            "type": "string", "maxLength": 200, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$"
        })),
        _ => None,
    }
}

fn settings_size() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": MAX_BATCH_SIZE})
}

fn id() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES,
        "pattern": "^[A-Za-z0-9._-]+$",
        "description": "1 to 128 of `A-Z a-z 0-9 . _ -`"
    })
}

/// The rules, one schema a type. With `PUT /rules/{id}` the body's `id` may be left out.
fn rules(needs_id: bool) -> Vec<Value> {
    let kinds = [
        ("filter", one_of(filters())),
        ("attribute_filter", attribute_filter()),
        ("redact", redact()),
        ("sample", sample()),
        ("dedupe", dedupe()),
        ("throttle", throttle()),
        (WASM, wasm()),
    ];
    let rule = |(kind, params): (&str, Value)| {
        // Only these two types can do without any parameter.
        let required: &[&str] = match (needs_id, kind) {
            (true, "dedupe") => &["id", "type"],
            (false, "dedupe") => &["type"],
            (true, _) => &["id", "type", "params"],
            (false, _) => &["type", "params"],
        };
        let mut schema = object(
            required,
            json!({
                "id": reference("Id"),
                "type": {"type": "string", "enum": [kind]},
                "params": params,
                "enabled": boolean("A disabled rule is kept and not run."),
                "on_overload": {
                    "enum": ["bypass", "enforce", null],
                    "description": "What happens when the gate is overloaded. Default: `enforce` \
                                    for redact and for wasm with `privacy`, else `bypass`."
                },
                "on_error": {
                    "enum": ["pass", "mask", "drop", null],
                    "description": "What happens to an event that the rule fails on. Default: \
                                    `mask` for redact and for wasm with `privacy`, else `pass`."
                }
            }),
        );
        schema["title"] = kind.into();
        schema
    };
    kinds.into_iter().map(rule).collect()
}

fn filters() -> Vec<Value> {
    let common = json!({
        "ignore_case": boolean("Whether upper and lower case are alike."),
        "mode": {"type": "string", "enum": ["drop", "keep"]},
        "text": {"type": "string", "enum": ["decoded", "source"]}
    });
    exactly_one(&keywords(), &[], &common)
}

fn keywords() -> [(&'static str, Value); 3] {
    [
        ("value", keyword()),
        ("values", list(keyword(), 1, MAX_VALUES)),
        ("pattern", pattern()),
    ]
}

const NO_CONTROLS: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]*$";

fn keyword() -> Value {
    json!({"type": "string", "minLength": 1, "pattern": "^[^\\r\\n]+$"})
}

fn pattern() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": MAX_PATTERN_CHARS,
        "description": "A regular expression in the syntax of the `regex` crate."
    })
}

/// One condition of `attribute_filter`: a field, an operator, and what the operator compares with.
fn conditions() -> Vec<Value> {
    let literal = json!({"type": ["string", "number", "boolean"]});
    let operands = [
        (
            &["exists"][..],
            "value",
            json!({"type": ["boolean", "null"]}),
            false,
        ),
        (&["equals", "not_equals"], "value", literal.clone(), true),
        // A field may hold line ends, unlike an event.
        (
            &["contains", "not_contains"],
            "value",
            json!({"type": "string", "minLength": 1}),
            true,
        ),
        (
            &["in", "not_in"],
            "values",
            list(literal, 1, MAX_VALUES),
            true,
        ),
        (&["regex"], "value", pattern(), true),
        (
            &["gt", "gte", "lt", "lte"],
            "value",
            json!({"type": "number"}),
            true,
        ),
    ];
    let fields = [("attribute", some_text()), ("path", some_text())];
    let mut schemas = Vec::new();
    for (operators, operand, schema, is_required) in operands {
        let mut required = vec!["operator"];
        if is_required {
            required.push(operand);
        }
        let common = json!({
            "operator": {"type": "string", "enum": operators},
            operand: schema,
            "ignore_case": {"type": ["boolean", "null"]}
        });
        schemas.extend(exactly_one(&fields, &required, &common));
    }
    schemas
}

fn attribute_filter() -> Value {
    let mode = json!({"type": "string", "enum": ["drop", "keep"]});
    let mut schemas = conditions();
    for schema in &mut schemas {
        schema["properties"]["mode"] = mode.clone();
    }
    let conditions = list(reference("Condition"), 1, 16);
    let joined = [("all", conditions.clone()), ("any", conditions)];
    schemas.extend(exactly_one(&joined, &[], &json!({"mode": mode})));
    one_of(schemas)
}

/// What a `sample` rule always keeps: what a condition of `attribute_filter` or a `filter` matches.
fn exceptions() -> Vec<Value> {
    let conditions = list(reference("Condition"), 1, 16);
    let joined = [("all", conditions.clone()), ("any", conditions)];
    let mut schemas = self::conditions();
    schemas.extend(exactly_one(&joined, &[], &json!({})));
    let ignore_case = json!({"ignore_case": {"type": ["boolean", "null"]}});
    schemas.extend(exactly_one(&keywords(), &[], &ignore_case));
    schemas
}

fn redact() -> Value {
    let names: Vec<&str> = detectors::all().iter().map(|found| found.name).collect();
    let detectors = json!({
        "type": "array", "minItems": 1, "uniqueItems": true,
        "items": {"type": "string", "enum": names}
    });
    let count = nullable(integer(0, u64::MAX));
    let actions = [
        (&["replace"][..], json!({"replacement": text(1024)}), None),
        (
            &["mask"],
            json!({"keep_first": count, "keep_last": count}),
            Some("action"),
        ),
        (
            &["hash"],
            json!({
                "key": {"type": "string", "pattern": "^(env|file):."},
                "key_id": {
                    "type": ["string", "null"], "minLength": 1, "maxLength": 32,
                    "pattern": "^[A-Za-z0-9._-]+$"
                }
            }),
            Some("key"),
        ),
        (&["truncate", "drop", "tag"], json!({}), Some("action")),
    ];
    let mut schemas = Vec::new();
    for (names, fields, needed) in actions {
        let mut common = json!({
            "action": {"type": "string", "enum": names},
            "fields": nullable(list(some_text(), 1, 64)),
            "except_fields": nullable(list(some_text(), 1, 64)),
            "on_unstructured": {"enum": ["scan", "mask", "drop", "pass", null]},
            "ignore_case": {"type": ["boolean", "null"]},
            "text": {"type": "string", "enum": ["decoded", "source"]},
            "allow": nullable(list(some_text(), 0, MAX_VALUES))
        });
        merge(&mut common, fields);
        let mut required: Vec<&str> = needed.into_iter().collect();
        if needed == Some("key") {
            required.push("action");
        }
        let choices = [("pattern", pattern()), ("detectors", detectors.clone())];
        schemas.extend(exactly_one(&choices, &required, &common));
    }
    one_of(schemas)
}

fn sample() -> Value {
    let common = json!({
        "key": key(),
        "except": {
            "oneOf": [
                reference("Exception"), list(reference("Exception"), 1, 16), {"type": "null"}
            ],
            "description": "What is always kept."
        },
        "record_rate": nullable(name(256))
    });
    let mut by_rate = common.clone();
    merge(&mut by_rate, json!({"rate": number(0.0, 1.0)}));
    let mut by_target = common;
    merge(
        &mut by_target,
        json!({
            "target_per_second": number(0.001, 1e9),
            "interval_seconds": nullable(number(0.1, 3600.0)),
            "weight": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
            "burst_multiple": {"type": ["number", "null"], "exclusiveMinimum": 1, "maximum": 1e6},
            "max_keys": nullable(integer(1, 10_000))
        }),
    );
    one_of(vec![
        object(&["rate"], by_rate),
        object(&["target_per_second"], by_target),
    ])
}

fn dedupe() -> Value {
    object(
        &[],
        json!({
            "key": key(),
            "window_seconds": nullable(number(0.001, 86_400.0)),
            "count_field": nullable(name(256)),
            "count_suffix": nullable(name(256)),
            "max_keys": nullable(integer(1, 1_000_000))
        }),
    )
}

fn throttle() -> Value {
    object(
        &["per_second"],
        json!({
            "per_second": number(0.001, 1e6),
            "burst": nullable(integer(1, 1_000_000)),
            "key": key(),
            "max_keys": nullable(integer(1, 1_000_000))
        }),
    )
}

fn wasm() -> Value {
    let limits = object(
        &[],
        json!({
            "memory_bytes": integer(64 << 10, 1 << 30),
            "batch_ms": integer(1, 10_000),
            "configure_ms": integer(1, 60_000),
            "stack_bytes": integer(64 << 10, 1 << 20),
            "output_bytes": nullable(integer(1, 256 << 20)),
            "log_per_second": integer(0, 1_000)
        }),
    );
    object(
        &["module"],
        json!({
            "module": reference("Id"),
            "digest": {"type": ["string", "null"], "pattern": "^sha256:[0-9a-f]{64}$"},
            "config": {"description": "Passed to the module's `configure` as JSON."},
            "privacy": boolean("Whether the rule protects what must not leave."),
            "limits": limits
        }),
    )
}

/// A key: the name of a field, or a list of names.
fn key() -> Value {
    json!({
        "type": ["string", "array", "null"], "minLength": 1,
        "items": some_text(), "minItems": 1, "maxItems": 8,
        "uniqueItems": true
    })
}

/// The outputs, one schema a type. A field that is `null` counts as left out, whatever its name.
fn outputs() -> Vec<Value> {
    let tls = object(
        &[],
        json!({
            "ca": nullable(shown_name(4096)), "certificate": nullable(shown_name(4096)),
            "key": nullable(shown_name(4096))
        }),
    );
    let delivery = json!({
        "spool": object(&["max_bytes"], json!({
            "max_bytes": reference("Size"),
            "when_full": {"enum": ["block", "drop_oldest", "drop_newest", null]},
            "fsync": {"enum": ["never", "interval", "always", null]}
        })),
        "dead_letters": one_of(vec![
            json!({"type": "boolean", "enum": [false]}),
            object(&["max_bytes"], json!({"max_bytes": reference("Size")})),
        ])
    });
    let mut request = delivery.clone();
    merge(
        &mut request,
        json!({
            "headers": {
                "type": "object", "maxProperties": 64,
                "propertyNames": {"pattern": "^[A-Za-z0-9-]+$"},
                "additionalProperties": {"type": "string", "pattern": "^[\\x20-\\x7e]*$"}
            },
            "give_up_after_s": integer(1, 604_800),
            "proxy": {"type": "string", "pattern": "^https?://[^\\s\\\\]+$"},
            "proxy_authorization": {"type": "string", "pattern": "^[\\x20-\\x7e]+$"},
            "timeout_ms": integer(1, 300_000),
            "max_batch_bytes": integer(1024, 64 << 20),
            "max_batch_events": integer(1, 10_000),
            "linger_ms": integer(0, 60_000),
            "max_in_flight": integer(1, 64),
            "tls": tls
        }),
    );
    let secret = || json!({"type": "string", "pattern": "^(env|file):."});
    let url = || json!({"type": "string", "pattern": "^https?://[^\\s\\\\]+$"});
    let kinds = [
        ("console", vec![], json!({}), json!({})),
        (
            "file",
            vec!["path"],
            delivery.clone(),
            json!({
                "path": shown_name(3000), "rotate_bytes": size(1 << 20, 1 << 40),
                "rotate_every_s": integer(60, 2_678_400), "max_files": integer(1, 10_000),
                "compression": {"enum": ["none", "gzip", "zstd"]},
                "fsync": {"enum": ["never", "interval", "always"]}
            }),
        ),
        (
            "tcp",
            vec!["address"],
            delivery,
            json!({
                "address": {
                    "type": "string", "maxLength": 300,
                    "pattern": "^([^:\\s]+|\\[.+\\]):[0-9]{1,5}$"
                },
                "tls": request["tls"]
            }),
        ),
        (
            "http",
            vec!["url"],
            request.clone(),
            json!({
                "url": url(), "method": {"enum": ["POST", "PUT"]},
                "framing": {"enum": ["lines", "ndjson", "json_array"]},
                "values": {"enum": ["any", "objects"]},
                "compression": {"enum": ["none", "gzip", "zstd"]}
            }),
        ),
        (
            "datadog",
            vec!["api_key"],
            request.clone(),
            json!({
                "api_key": secret(), "site": domain(), "endpoint": url(),
                "service": {"type": "string"},
                "source": {"type": "string"}, "hostname": {"type": "string"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "compression": {"enum": ["none", "gzip", "zstd"]}
            }),
        ),
        (
            "newrelic",
            vec!["license_key"],
            request.clone(),
            json!({
                "license_key": secret(), "region": {"enum": ["us", "eu", "gov"]},
                "endpoint": url(), "attributes": {"type": "object"},
                "compression": {"enum": ["none", "gzip"]}
            }),
        ),
        (
            "cloudwatch",
            vec!["region", "group", "stream"],
            request,
            json!({
                "region": domain(),
                "group": {
                    "type": "string", "maxLength": 512, "pattern": "^[A-Za-z0-9_/.#-]+$"
                },
                "stream": {
                    "type": "string", "maxLength": 512,
                    "allOf": [{"pattern": "^[^:*]+$"}, {"pattern": NO_CONTROLS}]
                },
                "create": {"type": "boolean"}, "endpoint": url(), "access_key_id": secret(),
                "secret_access_key": secret(), "session_token": secret(),
                "compression": {"enum": ["none"]}
            }),
        ),
    ];
    let output = |(kind, mut required, mut fields, own): (&str, Vec<&str>, Value, Value)| {
        merge(&mut fields, own);
        for (name, schema) in fields.as_object_mut().into_iter().flatten() {
            if !required.contains(&name.as_str()) {
                *schema = nullable(schema.take());
            }
        }
        // An empty `id` counts as left out, too.
        let id = json!({
            "type": "string", "maxLength": MAX_ID_BYTES, "pattern": "^[A-Za-z0-9._-]*$",
            "description": "Made from the type if it is left out or empty, such as `http-1`."
        });
        let kind_schema = json!({"type": "string", "enum": [kind]});
        merge(&mut fields, json!({"id": id, "type": kind_schema}));
        required.push("type");
        let mut schema = object(&required, fields);
        schema["additionalProperties"] = json!({"type": "null"});
        schema["title"] = kind.into();
        schema
    };
    kinds.into_iter().map(output).collect()
}

fn domain() -> Value {
    json!({"type": "string", "maxLength": 512, "pattern": "^[a-z0-9.-]+$"})
}

/// A number of bytes, or a text such as `1GiB`. The range of a text is checked by the gate only.
fn size(least: u64, most: u64) -> Value {
    json!({
        "type": ["integer", "string"], "minimum": least, "maximum": most,
        "pattern": "^ *[0-9]+ *([KkMmGg][Ii]?)?[Bb]? *$"
    })
}

fn draft() -> Value {
    object(
        &["name", "processors", "outputs", "batch_size"],
        json!({
            "name": {"type": "string", "description": "`default_pipeline`, by convention."},
            "processors": list(reference("NewRule"), 0, MAX_RULES),
            "outputs": list(reference("NewOutput"), 0, MAX_OUTPUTS),
            "batch_size": settings_size()
        }),
    )
}

fn batch_size() -> Value {
    let choices = [("batch_size", settings_size()), ("size", settings_size())];
    one_of(exactly_one(&choices, &[], &json!({})))
}

fn token() -> Value {
    object(
        &["name", "role"],
        json!({
            "name": reference("Id"),
            "role": reference("Role"),
            "expires_in": {
                "type": ["string", "null"], "pattern": "^[1-9][0-9]{0,5}[smh]$",
                "description": "How long it is valid, such as `24h`; for ever if it is left out."
            }
        }),
    )
}

/// One schema for each of the fields of which exactly one must be given; the others may be `null`.
fn exactly_one(choices: &[(&str, Value)], required: &[&str], common: &Value) -> Vec<Value> {
    let schema = |(chosen, schema): &(&str, Value)| {
        let mut fields = common.clone();
        for (name, _) in choices {
            fields[name] = json!({"type": "null"});
        }
        fields[chosen] = schema.clone();
        let mut required = required.to_vec();
        required.push(chosen);
        object(&required, fields)
    };
    choices.iter().map(schema).collect()
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({
        "type": "object", "required": required, "properties": properties,
        "additionalProperties": false
    })
}

fn one_of(schemas: Vec<Value>) -> Value {
    json!({"oneOf": schemas})
}

fn list(items: Value, least: usize, most: usize) -> Value {
    json!({"type": "array", "items": items, "minItems": least, "maxItems": most})
}

fn some_text() -> Value {
    json!({"type": "string", "minLength": 1})
}

fn name(most_chars: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": most_chars})
}

/// A name that ends in log lines: without control characters, line ends and marks of direction.
fn shown_name(most_chars: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": most_chars, "pattern": NO_CONTROLS})
}

fn text(most_chars: usize) -> Value {
    json!({"type": ["string", "null"], "maxLength": most_chars})
}

fn boolean(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn integer(least: u64, most: u64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

fn number(least: f64, most: f64) -> Value {
    json!({"type": "number", "minimum": least, "maximum": most})
}

/// Allows `null` as well.
fn nullable(mut schema: Value) -> Value {
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        if !values.contains(&Value::Null) {
            values.push(Value::Null);
        }
        return schema;
    }
    match schema.get_mut("type") {
        Some(Value::Array(types)) if types.iter().any(|kind| kind == "null") => {}
        Some(Value::Array(types)) => types.push("null".into()),
        Some(kind) => *kind = json!([kind.take(), "null"]),
        None => schema = json!({"oneOf": [schema, {"type": "null"}]}),
    }
    schema
}

fn merge(fields: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (fields, more) {
        fields.extend(more);
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
