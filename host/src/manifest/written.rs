//! Reads what a person wrote: a file of `apply`, `diff` or `--manifest`, or a whole draft.
//!
//! Stricter than what is read from a store: a key that is not known is refused, and so is a key
//! that stands twice and a list that is left out. What a typo changes must never be published. A
//! file is YAML or JSON, and a whole manifest or one pipeline; `rules` may stand for `processors`.

use serde::{
    Deserialize,
    de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{
    DEFAULT_BATCH_SIZE, DEFAULT_PIPELINE, FORMAT_VERSION, Invalid, Manifest, check_manifest,
    name_outputs, pointer_of,
};

/// The fields of a manifest.
const MANIFEST_FIELDS: [&str; 8] = [
    "version",
    "revision",
    "timestamp",
    "rolled_back_to",
    "author",
    "comment",
    "digest",
    "pipelines",
];

/// The fields of a pipeline.
const PIPELINE_FIELDS: [&str; 4] = ["name", "processors", "outputs", "batch_size"];

/// The fields of a pipeline in a file.
const FILE_FIELDS: [&str; 5] = ["name", ALIAS, "processors", "outputs", "batch_size"];

/// What `processors` may be called in a file.
const ALIAS: &str = "rules";

/// A manifest as a person wrote it in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The manifest, with defaults filled in.
    pub manifest: Manifest,
    /// Where the pipeline is in the file: `/pipelines/0`, or empty if it is the whole file.
    prefix: &'static str,
    /// What the file calls the list of rules.
    rules: &'static str,
}

impl Written {
    /// Reads a file. `revision` and `timestamp` may be left out, `version`, `name` and `batch_size`
    /// have defaults.
    ///
    /// # Errors
    /// [`Invalid`], with a pointer into the file: it is neither YAML nor JSON, has a key that is
    /// not known or stands twice, leaves a list out, or has another shape.
    pub fn parse(text: &[u8]) -> Result<Self, Invalid> {
        let Value::Object(mut fields) = read_document(text)? else {
            let message = "expected a manifest or a pipeline, which are objects";
            return Err(Invalid::new("invalid_manifest", "", message));
        };
        let is_manifest = ["version", "pipelines"]
            .iter()
            .any(|field| fields.contains_key(*field));
        let (pipeline, prefix) = if is_manifest {
            check_keys(&fields, &MANIFEST_FIELDS, "")?;
            (take_pipeline(&mut fields)?, "/pipelines/0")
        } else {
            (std::mem::take(&mut fields), "")
        };
        let (pipeline, rules) = complete(pipeline).map_err(|fault| fault.under(prefix))?;
        fields
            .entry("version")
            .or_insert_with(|| FORMAT_VERSION.into());
        let pipelines = Value::Array(vec![Value::Object(pipeline)]);
        fields.insert("pipelines".to_owned(), pipelines);
        let mut written = Self {
            manifest: Manifest::empty(),
            prefix,
            rules,
        };
        let manifest: Manifest = shape(Value::Object(fields))
            .map_err(|fault| written.in_the_file(fault, "/pipelines/0"))?;
        written.manifest = manifest;
        let [pipeline] = written.manifest.pipelines.as_mut_slice() else {
            unreachable!("one was put there");
        };
        name_outputs(&mut pipeline.outputs);
        check_manifest(&written.manifest)
            .map_err(|fault| written.in_the_file(fault, "/pipelines/0"))?;
        Ok(written)
    }

    /// The fault of a manifest or pipeline, seen from the file. `pipeline` is where the pipeline is
    /// in what the pointer is about.
    pub fn in_the_file(&self, mut fault: Invalid, pipeline: &str) -> Invalid {
        fault.pointer = self.pointer_in_the_file(&fault.pointer, pipeline);
        fault
    }

    /// The same for a pointer.
    pub fn pointer_in_the_file(&self, pointer: &str, pipeline: &str) -> String {
        let Some(rest) = pointer.strip_prefix(pipeline) else {
            return pointer.to_owned();
        };
        match rest.strip_prefix("/processors") {
            Some(rest) => format!("{}/{}{rest}", self.prefix, self.rules),
            None => format!("{}{rest}", self.prefix),
        }
    }
}

/// Reads JSON in which no key stands twice in one object.
///
/// # Errors
/// What `serde_json` says, and where.
pub fn read_json(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<Unique>(text).map(|value| value.0)
}

/// Checks that a value which is to be a pipeline has only keys that a pipeline has. That it is an
/// object is for others to say.
///
/// # Errors
/// [`Invalid`] points to the key.
pub fn check_pipeline_keys(pipeline: &Value) -> Result<(), Invalid> {
    match pipeline {
        Value::Object(fields) => check_keys(fields, &PIPELINE_FIELDS, ""),
        _ => Ok(()),
    }
}

/// Reads YAML or JSON, whichever it is.
fn read_document(text: &[u8]) -> Result<Value, Invalid> {
    let refuse = |message: String| Invalid::new("invalid_manifest", "", message);
    let text = std::str::from_utf8(text).map_err(|_| refuse("it is not UTF-8".to_owned()))?;
    let text = text.trim_start_matches('\u{feff}');
    // JSON is YAML too, but its own reader says better what is wrong with it.
    if text.trim_start().starts_with(['{', '[']) {
        return read_json(text.as_bytes())
            .map_err(|error| refuse(format!("it is not valid JSON: {error}")));
    }
    serde_saphyr::from_str::<Unique>(text)
        .map(|value| value.0)
        .map_err(|error| refuse(format!("it is not valid YAML: {error}")))
}

/// Takes the one pipeline out of a manifest.
fn take_pipeline(manifest: &mut Map<String, Value>) -> Result<Map<String, Value>, Invalid> {
    let refuse =
        |pointer: &str, message: String| Err(Invalid::new("pipeline_count", pointer, message));
    let mut pipelines = match manifest.remove("pipelines") {
        Some(Value::Array(pipelines)) => pipelines,
        Some(_) => return refuse("/pipelines", "expected a list with one pipeline".to_owned()),
        None => {
            let message = "`pipelines` is missing; expected a list with one pipeline";
            return refuse("", message.to_owned());
        }
    };
    if pipelines.len() != 1 {
        let found = pipelines.len();
        let message = format!("there are {found} pipelines; expected exactly one");
        return refuse("/pipelines", message);
    }
    match pipelines.remove(0) {
        Value::Object(pipeline) => Ok(pipeline),
        _ => refuse("/pipelines/0", "expected an object".to_owned()),
    }
}

/// Checks the keys of a pipeline and fills in what may be left out; returns what it calls the list
/// of rules.
fn complete(
    mut pipeline: Map<String, Value>,
) -> Result<(Map<String, Value>, &'static str), Invalid> {
    check_keys(&pipeline, &FILE_FIELDS, "")?;
    let rules = match (pipeline.remove(ALIAS), pipeline.contains_key("processors")) {
        (Some(_), true) => {
            let message = "`rules` and `processors` are the same list; write one of them";
            return Err(Invalid::new("ambiguous_rules", "/rules", message));
        }
        (Some(rules), false) => {
            pipeline.insert("processors".to_owned(), rules);
            ALIAS
        }
        (None, _) => "processors",
    };
    for (field, name) in [("processors", rules), ("outputs", "outputs")] {
        let found = match pipeline.get(field) {
            Some(Value::Null) => "is empty",
            None => "is missing",
            Some(_) => continue,
        };
        let name = match field {
            "processors" if !pipeline.contains_key(field) => "rules",
            _ => name,
        };
        let pointer = match pipeline.contains_key(field) {
            true => format!("/{name}"),
            false => String::new(),
        };
        return Err(Invalid::new(
            "missing_list",
            pointer,
            format!(
                "`{name}` {found}; expected a list. For an empty one, which replaces what is live, \
                 write `{name}: []`"
            ),
        ));
    }
    for (field, default) in [
        ("name", Value::from(DEFAULT_PIPELINE)),
        ("batch_size", Value::from(DEFAULT_BATCH_SIZE)),
    ] {
        pipeline.entry(field).or_insert(default);
    }
    Ok((pipeline, rules))
}

fn check_keys(fields: &Map<String, Value>, known: &[&str], pointer: &str) -> Result<(), Invalid> {
    let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) else {
        return Ok(());
    };
    let shown: String = key.chars().take(60).collect();
    let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "unknown field `{shown}`, expected one of {}",
        list.join(", ")
    );
    let key = key.replace('~', "~0").replace('/', "~1");
    Err(Invalid::new(
        "unknown_field",
        format!("{pointer}/{key}"),
        message,
    ))
}

/// Reads a value as `T`.
fn shape<T: DeserializeOwned>(value: Value) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let pointer = pointer_of(error.path());
        Invalid::new("invalid_manifest", pointer, error.into_inner().to_string())
    })
}

/// A value in which no key stands twice in one object: `serde_json` would take the last one.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if fields.contains_key(&key) {
                let shown: String = key.chars().take(60).collect();
                return Err(A::Error::custom(format!("the key `{shown}` stands twice")));
            }
            let Unique(value) = object.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Written::parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn yaml_and_json_pipelines_and_manifests_are_the_same() {
        let rule = r#"[{"id": "a", "type": "filter", "params": {"value": "DEBUG"}}]"#;
        let texts = [
            "rules:\n  - id: a\n    type: filter\n    params: {value: DEBUG}\noutputs: []\n"
                .to_owned(),
            format!(r#"{{"rules": {rule}, "outputs": []}}"#),
            format!(r#"{{"processors": {rule}, "outputs": [], "batch_size": 100}}"#),
            format!("version: '1.0'\npipelines:\n  - processors: {rule}\n    outputs: []\n"),
            format!("\u{feff} {{\"pipelines\": [{{\"rules\": {rule}, \"outputs\": []}}]}}"),
        ];
        let manifests = texts.map(|text| {
            let written = Written::parse(text.as_bytes());
            written.unwrap_or_else(|fault| panic!("{text}: {fault}"))
        });
        let first = &manifests[0].manifest;
        assert_eq!(first.pipeline().processors[0].params["value"], "DEBUG");
        for other in &manifests {
            assert_eq!(other.manifest, *first);
        }
    }

    #[test]
    fn what_may_be_a_typo_is_refused_with_the_right_name() {
        for (text, expected) in [
            ("rulez: []\noutputs: []", "/rulez: unknown field `rulez`"),
            ("processors: []\noutput: []", "did you mean `outputs`?"),
            (
                "rules: []\noutputs: []\nbatchsize: 5",
                "did you mean `batch_size`?",
            ),
            ("pipelines: []\nversoin: '1.0'", "did you mean `version`?"),
            (
                "pipelines: [{rules: [], outptus: []}]",
                "/pipelines/0/outptus",
            ),
            ("name: x", "`rules` is missing; expected a list"),
            ("rules:\noutputs: []", "/rules: `rules` is empty"),
            (
                "processors:\noutputs: []",
                "/processors: `processors` is empty",
            ),
            ("rules: []", "write `outputs: []`"),
            (
                "rules: []\nprocessors: []\noutputs: []",
                "write one of them",
            ),
            (
                r#"{"rules": [], "outputs": [], "rules": []}"#,
                "`rules` stands twice",
            ),
            ("rules: []\noutputs: []\nrules: []", "not valid YAML"),
            (
                "rules: [{id: a, tpye: filter}]\noutputs: []",
                "/rules/0/tpye",
            ),
            (
                "rules: [{id: a, tpye: filter}]\noutputs: []",
                "did you mean `type`?",
            ),
            ("rules: {}\noutputs: []", "/rules: "),
            (
                "rules: []\noutputs: [{}]",
                "/outputs/0: missing field `type`",
            ),
            (
                "version: '2.0'\npipelines: [{rules: [], outputs: []}]",
                "/version",
            ),
            ("pipelines: []", "exactly one"),
            ("version: '1.0'", "`pipelines` is missing"),
            ("- a", "expected a manifest"),
            ("{\"rules\": [", "not valid JSON"),
            ("", "expected a manifest"),
            ("rules: []\noutputs: []\nbatch_size: 0", "/batch_size"),
            ("rules: []\noutputs: []\nbatch_size: many", "/batch_size"),
        ] {
            let message = refused(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        assert!(Written::parse(&[0xff]).is_err());
        assert!(Written::parse(&[b'['].repeat(100_000)).is_err());
    }
}
