//! The live manifest as the seed's programs know it: what they wrote is read, what they could not
//! read is put where they do not look.
//!
//! The seed's gate reads `params` of its three rule types as a map of strings to strings; any other
//! value there makes it refuse the whole manifest. So those of our params that are no strings travel
//! beside it, in `more_params`, and are put back when the manifest is read. Fields that nobody here
//! knows are passed over, `null` means what is left out (that is how Go writes an empty list), and a
//! `batch_size` of 0 is the default.
//!
//! Source: the seed's `pkg/config` and `pkg/engine` (sashu2310/streamgate).

use serde_json::{Map, Value};

use crate::{
    digest::Digest,
    manifest::{
        DEFAULT_BATCH_SIZE, DEFAULT_PIPELINE, FORMAT_VERSION, Invalid, Manifest, parse_manifest,
    },
};

/// The rule types that the seed knows.
const SEED_TYPES: [&str; 3] = ["attribute_filter", "filter", "redact"];

/// Params of a rule of such a type that are no strings.
const MORE_PARAMS: &str = "more_params";

/// The fields of a rule.
const RULE_FIELDS: [&str; 6] = ["id", "type", "params", "enabled", "on_overload", "on_error"];

/// Writes a manifest so that the seed's programs can read it too.
pub(super) fn write(manifest: &Manifest) -> Result<Vec<u8>, serde_json::Error> {
    let mut document = serde_json::to_value(manifest)?;
    for rule in rules(&mut document) {
        let is_of_seed = rule
            .get("type")
            .and_then(Value::as_str)
            .is_some_and(|kind| SEED_TYPES.contains(&kind));
        if !is_of_seed {
            continue;
        }
        let Some(Value::Object(params)) = rule.get_mut("params") else {
            continue;
        };
        let (strings, others): (Map<_, _>, Map<_, _>) = std::mem::take(params)
            .into_iter()
            .partition(|(_, value)| value.is_string());
        *params = strings;
        if !others.is_empty() {
            rule.insert(MORE_PARAMS.to_owned(), Value::Object(others));
        }
    }
    serde_json::to_vec(&document)
}

/// Reads a manifest, whoever wrote it. One without `revision` gets the number 0.
///
/// # Errors
/// [`Invalid`], with a pointer from the root, for what is no manifest.
pub(super) fn read(text: &[u8]) -> Result<Manifest, Invalid> {
    let mut document: Value = serde_json::from_slice(text)
        .map_err(|error| Invalid::new("invalid_manifest", "", error.to_string()))?;
    if let Value::Object(manifest) = &mut document {
        // Another program may mean something else by these.
        manifest.retain(|field, value| match field.as_str() {
            "author" | "comment" => value.is_string(),
            "digest" => value
                .as_str()
                .is_some_and(|text| text.parse::<Digest>().is_ok()),
            _ => !value.is_null(),
        });
        manifest
            .entry("version")
            .or_insert_with(|| FORMAT_VERSION.into());
    }
    for pipeline in list(&mut document, "pipelines") {
        let Value::Object(pipeline) = pipeline else {
            continue;
        };
        pipeline.retain(|_, value| !value.is_null());
        if pipeline.get("batch_size").is_some_and(|size| size == 0) {
            pipeline.remove("batch_size");
        }
        for (field, default) in [
            ("name", Value::from(DEFAULT_PIPELINE)),
            ("processors", Value::Array(Vec::new())),
            ("outputs", Value::Array(Vec::new())),
            ("batch_size", Value::from(DEFAULT_BATCH_SIZE)),
        ] {
            pipeline.entry(field).or_insert(default);
        }
    }
    for rule in rules(&mut document) {
        let more = rule.remove(MORE_PARAMS);
        rule.retain(|field, value| RULE_FIELDS.contains(&field.as_str()) && !value.is_null());
        if let Some(Value::Object(more)) = more {
            let params = rule
                .entry("params")
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(params) = params {
                params.extend(more);
            }
        }
    }
    let text = serde_json::to_vec(&document)
        .map_err(|error| Invalid::new("invalid_manifest", "", error.to_string()))?;
    parse_manifest(&text)
}

/// The rules of all pipelines that are objects.
fn rules(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    list(document, "pipelines")
        .flat_map(|pipeline| list(pipeline, "processors"))
        .filter_map(Value::as_object_mut)
}

fn list<'a>(of: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    of.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_we_write_has_strings_only_for_the_seeds_rule_types_and_is_read_back() {
        let manifest: Manifest = serde_json::from_value(json!({
            "version": "1.0", "revision": 7, "timestamp": 1.5,
            "pipelines": [{
                "name": "default_pipeline", "outputs": [], "batch_size": 10,
                "processors": [
                    {"id": "a", "type": "filter", "params": {"values": ["x", "y"], "ignore_case": true}},
                    {"id": "b", "type": "redact", "params": {"pattern": "a", "replacement": "b"}},
                    {"id": "c", "type": "sample", "params": {"rate": 0.5}}
                ]
            }]
        }))
        .expect("a manifest");
        let text = write(&manifest).expect("JSON");
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let rules = &value["pipelines"][0]["processors"];
        assert_eq!(rules[0]["params"], json!({}));
        assert_eq!(rules[1]["params"]["pattern"], "a");
        assert_eq!(rules[2]["params"]["rate"], 0.5);
        assert_eq!(read(&text), Ok(manifest));
    }

    #[test]
    fn what_the_seed_writes_is_read() {
        let manifest = read(
            br#"{"version": "1.0", "timestamp": 1700000000.25, "by": "someone",
                "author": {"name": "someone"}, "comment": 7, "digest": "of another kind",
                "pipelines": [{"name": "default_pipeline", "batch_size": 0, "outputs": null,
                    "processors": [{"id": "a", "type": "filter", "params": {"value": "DEBUG"},
                        "description": null, "order": 3}]}]}"#,
        )
        .expect("a manifest");
        assert_eq!(manifest.revision, 0);
        assert_eq!(manifest.pipeline().batch_size, DEFAULT_BATCH_SIZE);
        assert_eq!(manifest.pipeline().processors[0].params["value"], "DEBUG");
    }

    #[test]
    fn other_values_are_refused_and_none_panics() {
        for text in [
            "",
            "null",
            "[]",
            "7",
            "{}",
            r#"{"pipelines": {}}"#,
            r#"{"pipelines": [7]}"#,
            r#"{"pipelines": [{"processors": {}}]}"#,
            r#"{"pipelines": [{"processors": [7]}]}"#,
            r#"{"pipelines": [{"processors": [{"id": "a", "type": "filter", "params": 7}]}]}"#,
            r#"{"revision": -1, "pipelines": [{}]}"#,
            r#"{"version": "9", "pipelines": [{}]}"#,
            "\u{0}",
            "{\"pipelines\": [[[[",
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(&[b'['].repeat(100_000)).is_err());
    }
}
