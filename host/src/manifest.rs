//! What a user writes and publishes: rules, outputs and the batch size of each pipeline.
//!
//! Plain data, as it travels over REST and lies in the config store. Field names are shared with
//! the seed of the project (`version`, `pipelines`, `processors`, `outputs`, `batch_size`), so that
//! its tools can read what we write. Whether a rule can be *built* is for `pipeline::chain` and
//! `outputs` to say; here only shapes are checked.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{digest::Digest, nearest::with_suggestion};

pub mod written;

/// The manifest format that this build reads and writes.
pub const FORMAT_VERSION: &str = "1.0";

/// The one pipeline of a manifest made over REST; the seed's name for it.
pub const DEFAULT_PIPELINE: &str = "default_pipeline";

/// Default of `batch_size`, in events for one send of an output; the seed's number.
pub const DEFAULT_BATCH_SIZE: u32 = 100;

/// Greatest `batch_size`, in events; the seed's number.
pub const MAX_BATCH_SIZE: u32 = 10_000;

/// The `type` of rules that run a module.
pub const WASM: &str = "wasm";

/// Longest id of a rule or an output, in bytes. Ids are labels of metrics and parts of paths.
pub const MAX_ID_BYTES: usize = 128;

/// Most rules that one pipeline takes.
pub const MAX_RULES: usize = 10_000;

/// Most outputs that one pipeline takes.
pub const MAX_OUTPUTS: usize = 256;

/// A published configuration: what one revision of the gate runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// Format of this document, `"1.0"`.
    pub version: String,
    /// Number of the revision; 0 is the empty one that a new gate starts with.
    #[serde(default)]
    pub revision: u64,
    /// When it was published, in seconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub timestamp: f64,
    /// The revision that it brought back, if it is a rollback: then the draft is this one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u64>,
    /// Who published it: the name of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What whoever published it said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The SHA-256 of the pipeline as JSON without spaces and with sorted keys: two revisions that
    /// run the same have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// Exactly one today.
    pub pipelines: Vec<Pipeline>,
}

/// One chain of rules and the outputs behind it. The draft is one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pipeline {
    /// Its name; what is made over REST is called `default_pipeline`.
    pub name: String,
    /// The rules, in the order in which they are applied.
    pub processors: Vec<Rule>,
    /// Where events go; none means the console.
    pub outputs: Vec<Output>,
    /// Most events in one send of an output, 1 to 10,000. A cap, never a wait.
    pub batch_size: u32,
}

/// One rule, as a user writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its pipeline; 1 to 128 of `A-Z a-z 0-9 . _ -`.
    pub id: String,
    /// `filter`, `attribute_filter`, `redact`, `sample`, `dedupe`, `throttle` or `wasm`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the rule does; its fields depend on `type`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub params: Map<String, Value>,
    /// A disabled rule is kept in the manifest and not run.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// What happens when the gate is overloaded. Default: `enforce` for redact, else `bypass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_overload: Option<OnOverload>,
    /// What happens to an event that the rule fails on. Default: `mask` for redact, else `pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
}

/// What a rule does while the gate is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnOverload {
    /// Events go on untouched by this rule, and are counted.
    Bypass,
    /// The rule always runs; the gate pushes back or sheds instead.
    Enforce,
}

/// What happens to an event that a rule fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The event goes on untouched.
    Pass,
    /// The event goes on with its body withheld.
    Mask,
    /// The event is dropped and counted.
    Drop,
}

/// One output, as a user writes it: `id`, `type`, and the fields of that type beside them.
///
/// An `id` that is left out is made from the type when the output is added (`http-1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Output {
    /// Unique in its pipeline; 1 to 128 of `A-Z a-z 0-9 . _ -`.
    #[serde(default)]
    pub id: String,
    /// `cloudwatch`, `console`, `datadog`, `file`, `http`, `newrelic` or `tcp`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The fields of the type, such as `address` of tcp and `url` of http; docs/outputs.md has them all.
    // A map and not a flattened struct: `outputs` parses it with the messages a user deserves.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub settings: BTreeMap<String, Value>,
}

impl Manifest {
    /// The manifest of a gate that was never told anything: no rules, the console.
    pub fn empty() -> Self {
        Self {
            version: FORMAT_VERSION.to_owned(),
            revision: 0,
            timestamp: 0.0,
            rolled_back_to: None,
            author: None,
            comment: None,
            digest: None,
            pipelines: vec![Pipeline::empty()],
        }
    }

    /// The pipeline that events go through.
    pub fn pipeline(&self) -> &Pipeline {
        // `check_manifest` refuses any other number.
        &self.pipelines[0]
    }
}

impl Pipeline {
    /// Passes everything on to the console.
    pub fn empty() -> Self {
        Self {
            name: DEFAULT_PIPELINE.to_owned(),
            processors: Vec::new(),
            outputs: Vec::new(),
            batch_size: DEFAULT_BATCH_SIZE,
        }
    }
}

impl Pipeline {
    /// Returns the SHA-256 of the pipeline as JSON without spaces and with sorted keys.
    pub fn digest(&self) -> Digest {
        let mut value = serde_json::to_value(self).expect("it has string keys only");
        value.sort_all_objects();
        Digest::of(value.to_string().as_bytes())
    }

    /// Whether `published` is this pipeline, but for the digests that publishing adds to its rules.
    pub fn is_published_as(&self, published: &Self) -> bool {
        let mut published = published.clone();
        for (rule, own) in published.processors.iter_mut().zip(&self.processors) {
            if rule.kind == WASM && !own.params.contains_key("digest") {
                rule.params.remove("digest");
            }
        }
        *self == published
    }
}

impl Rule {
    /// Whether the rule hides something in every event: what protects privacy, is enabled, is never
    /// skipped under overload, and does more than count.
    pub fn always_protects(&self) -> bool {
        let param = |name: &str| self.params.get(name);
        let is_privacy = match self.kind.as_str() {
            WASM => param("privacy") == Some(&Value::Bool(true)),
            kind => streamgate_processors::is_privacy(kind),
        };
        let only_counts = param("action").and_then(Value::as_str) == Some("tag");
        let may_be_skipped = self.on_overload == Some(OnOverload::Bypass);
        is_privacy && self.enabled && !only_counts && !may_be_skipped
    }
}

/// Returns the digests that rules of the pipeline are pinned to: the code that it needs.
pub fn pinned_digests(pipeline: &Pipeline) -> impl Iterator<Item = Digest> {
    pipeline.processors.iter().filter_map(|rule| {
        let digest = rule.params.get("digest")?;
        (rule.kind == WASM).then(|| digest.as_str()?.parse().ok())?
    })
}

/// Reads a manifest that someone wrote by hand or with another tool: fields that we do not know are
/// passed over, outputs without an id get one.
///
/// # Errors
/// [`Invalid`], with a pointer from the root, for what is no manifest.
pub fn parse_manifest(text: &[u8]) -> Result<Manifest, Invalid> {
    let deserializer = &mut serde_json::Deserializer::from_slice(text);
    let mut manifest: Manifest =
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let pointer = pointer_of(error.path());
            Invalid::new("invalid_manifest", pointer, error.into_inner().to_string())
        })?;
    for pipeline in &mut manifest.pipelines {
        name_outputs(&mut pipeline.outputs);
    }
    check_manifest(&manifest)?;
    Ok(manifest)
}

/// Checks what can be said of a manifest without building it. Pointers start at the root.
///
/// # Errors
/// [`Invalid`] for another format, another number of pipelines than one, and what
/// [`check_pipeline`] refuses.
pub fn check_manifest(manifest: &Manifest) -> Result<(), Invalid> {
    if manifest.version != FORMAT_VERSION {
        let found: String = manifest.version.chars().take(40).collect();
        return Err(Invalid::new(
            "unknown_version",
            "/version",
            format!("the version is `{found}`; expected `{FORMAT_VERSION}`"),
        ));
    }
    let [pipeline] = manifest.pipelines.as_slice() else {
        let found = manifest.pipelines.len();
        return Err(Invalid::new(
            "pipeline_count",
            "/pipelines",
            format!("there are {found} pipelines; expected exactly one"),
        ));
    };
    check_pipeline(pipeline).map_err(|fault| fault.under("/pipelines/0"))
}

/// Gives every output an id that has none.
pub fn name_outputs(outputs: &mut [Output]) {
    for at in 0..outputs.len() {
        if outputs[at].id.is_empty() {
            outputs[at].id = free_output_id(outputs, &outputs[at].kind);
        }
    }
}

/// Makes an id for an output that has none: its type and the first number that is free.
pub fn free_output_id(outputs: &[Output], kind: &str) -> String {
    (1_usize..)
        .map(|number| format!("{kind}-{number}"))
        .find(|id| outputs.iter().all(|output| output.id != *id))
        .expect("there are fewer outputs than numbers")
}

/// Writes the path that serde found a fault at as a JSON pointer (RFC 6901).
pub fn pointer_of(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            serde_path_to_error::Segment::Seq { index } => format!("/{index}"),
            serde_path_to_error::Segment::Map { key } => {
                format!("/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            _ => String::new(),
        })
        .collect()
}

/// Something in a manifest that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Stable, for programs: `invalid_regex`, `unknown_rule_type`, `duplicate_id`, ...
    pub code: &'static str,
    /// JSON pointer (RFC 6901) to the field, from the root of what was checked.
    pub pointer: String,
    /// What was found, what was expected, and the remedy.
    pub message: String,
}

impl Invalid {
    /// Makes a fault. A message about an unknown field gets the name that was probably meant.
    pub fn new(code: &'static str, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            pointer: pointer.into(),
            message: with_suggestion(message.into()),
        }
    }

    /// The same fault, of another field.
    pub fn at_pointer(mut self, pointer: &str) -> Self {
        pointer.clone_into(&mut self.pointer);
        self
    }

    /// The same fault, seen from further up: `/params/value` becomes `/processors/3/params/value`.
    pub fn under(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.message),
            pointer => write!(f, "{pointer}: {}", self.message),
        }
    }
}

impl std::error::Error for Invalid {}

/// Checks that `id` can be one: pointer `/id` when it cannot.
pub fn check_id(id: &str) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(allowed) {
        let shown: String = id.chars().take(40).collect();
        return Err(Invalid::new(
            "invalid_id",
            "/id",
            format!(
                "`id` is {shown:?}; expected 1 to {MAX_ID_BYTES} characters out of letters, \
                 digits, `.`, `_` and `-`"
            ),
        ));
    }
    Ok(())
}

/// Checks what can be said of a pipeline without building it: ids, counts, the batch size.
/// Pointers start at the pipeline.
pub fn check_pipeline(pipeline: &Pipeline) -> Result<(), Invalid> {
    check_batch_size(pipeline.batch_size)?;
    check_count("processors", pipeline.processors.len(), MAX_RULES)?;
    check_count("outputs", pipeline.outputs.len(), MAX_OUTPUTS)?;
    check_ids(
        "processors",
        pipeline.processors.iter().map(|rule| rule.id.as_str()),
    )?;
    check_ids(
        "outputs",
        pipeline.outputs.iter().map(|output| output.id.as_str()),
    )
}

/// Checks the batch size; pointer `/batch_size`.
pub fn check_batch_size(size: u32) -> Result<(), Invalid> {
    if !(1..=MAX_BATCH_SIZE).contains(&size) {
        return Err(Invalid::new(
            "invalid_batch_size",
            "/batch_size",
            format!("batch size is {size}; expected 1 to {MAX_BATCH_SIZE} events"),
        ));
    }
    Ok(())
}

fn check_count(list: &str, found: usize, most: usize) -> Result<(), Invalid> {
    if found > most {
        return Err(Invalid::new(
            "too_many",
            format!("/{list}"),
            format!("`{list}` has {found} entries; expected at most {most}"),
        ));
    }
    Ok(())
}

fn check_ids<'a>(list: &str, ids: impl Iterator<Item = &'a str>) -> Result<(), Invalid> {
    let mut seen = std::collections::HashSet::new();
    for (at, id) in ids.enumerate() {
        check_id(id).map_err(|fault| fault.under(&format!("/{list}/{at}")))?;
        if !seen.insert(id) {
            return Err(Invalid::new(
                "duplicate_id",
                format!("/{list}/{at}/id"),
                format!("the id `{id}` is used twice in `{list}`; ids must be unique"),
            ));
        }
    }
    Ok(())
}

fn yes() -> bool {
    true
}

// serde hands a reference.
fn is_true(value: &bool) -> bool {
    *value
}
