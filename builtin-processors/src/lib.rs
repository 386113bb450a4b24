//! The native processors: bytes in, bytes out, no I/O, no clock of their own.
//!
//! [`Builtin`] is the closed set of them, by the name that a rule's `type` gives. A builtin is built
//! once for each published revision and then copied for each worker: what was compiled is shared,
//! scratch space and random state are not.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use streamgate_guest::{Batch, Processor, Tally, Verdict};

pub use attribute_filter::AttributeFilter;
pub use filter::Filter;
pub use redact::Redact;
pub use sample::Sample;

pub mod detectors;

mod attribute_filter;
mod filter;
mod json;
mod matcher;
mod redact;
mod sample;
mod scan;

/// The names that a rule's `type` may have.
pub const TYPES: [&str; 4] = ["attribute_filter", "filter", "redact", "sample"];

/// A rule of one of the native types, compiled.
#[derive(Debug, Clone)]
pub enum Builtin {
    /// `filter`: drops or keeps by keyword or pattern.
    Filter(Filter),
    /// `attribute_filter`: drops by a JSON field.
    AttributeFilter(AttributeFilter),
    /// `redact`: replaces what must not leave.
    Redact(Redact),
    /// `sample`: keeps a share, at random or by key.
    Sample(Sample),
}

/// What happens to an event that a rule fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It goes on untouched.
    Pass,
    /// It goes on with its body withheld.
    Mask,
    /// It is dropped.
    Drop,
}

/// Which account a rule's drops are booked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropAccount {
    /// `filtered`
    Filtered,
    /// `sampled`
    Sampled,
    /// `rule_dropped`
    RuleDropped,
}

/// Why a rule cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuleError {
    /// Stable, for programs.
    pub code: &'static str,
    /// JSON pointer to the field, from the root of the rule: `/params/pattern`.
    pub pointer: String,
    /// What was found, what was expected, and the remedy.
    pub message: String,
}

impl RuleError {
    fn new(code: &'static str, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

impl Builtin {
    /// Builds the rule of type `kind` from its parameters.
    ///
    /// # Errors
    /// [`RuleError`] names the field that cannot be right: an unknown type or parameter, a pattern
    /// that does not compile or would match every event, a rate outside 0 to 1.
    pub fn build(
        kind: &str,
        params: &Map<String, Value>,
        on_error: OnError,
    ) -> Result<Self, RuleError> {
        match kind {
            "filter" => Filter::build(parse(params)?).map(Self::Filter),
            "attribute_filter" => AttributeFilter::build(parse(params)?).map(Self::AttributeFilter),
            "redact" => Redact::build(parse(params)?, on_error).map(Self::Redact),
            "sample" => Sample::build(parse(params)?).map(Self::Sample),
            unknown => Err(RuleError::new(
                "unknown_rule_type",
                "/type",
                format!(
                    "rule type is `{}`; expected one of {}",
                    shown(unknown),
                    list(&TYPES)
                ),
            )),
        }
    }

    /// Returns a copy for one worker: random state starts from `seed`.
    pub fn for_worker(&self, seed: u64) -> Self {
        let mut copy = self.clone();
        if let Self::Sample(sample) = &mut copy {
            sample.reseed(seed);
        }
        copy
    }

    /// Returns the account that this rule's drops are booked on.
    pub fn drop_account(&self) -> DropAccount {
        match self {
            Self::Filter(_) | Self::AttributeFilter(_) => DropAccount::Filtered,
            Self::Sample(_) => DropAccount::Sampled,
            Self::Redact(_) => DropAccount::RuleDropped,
        }
    }
}

/// Whether rules of this type protect what must not leave: they are never skipped by default.
pub fn is_privacy(kind: &str) -> bool {
    kind == "redact"
}

impl Processor for Builtin {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        match self {
            Self::Filter(filter) => filter.process(batch),
            Self::AttributeFilter(filter) => filter.process(batch),
            Self::Redact(redact) => redact.process(batch),
            Self::Sample(sample) => sample.process(batch),
        }
    }
}

impl OnError {
    /// Books one failed event and says what becomes of it.
    fn verdict(self, tally: &mut Tally) -> Verdict {
        match self {
            Self::Pass => {
                tally.failed += 1;
                Verdict::Keep
            }
            Self::Mask => {
                tally.failed += 1;
                Verdict::Withhold
            }
            Self::Drop => {
                tally.failed_dropped += 1;
                Verdict::Drop
            }
        }
    }
}

/// A parameter that compares as text: a JSON string, or a number or boolean by its text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Scalar")]
struct Text(String);

// The untagged form is hidden behind `Text`; its message is replaced by serde's own for a scalar.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, a number or a boolean")]
enum Scalar {
    String(String),
    Number(serde_json::Number),
    Bool(bool),
}

impl From<Scalar> for Text {
    fn from(scalar: Scalar) -> Self {
        Self(match scalar {
            Scalar::String(text) => text,
            Scalar::Number(number) => number.to_string(),
            Scalar::Bool(boolean) => boolean.to_string(),
        })
    }
}

fn parse<T: DeserializeOwned>(params: &Map<String, Value>) -> Result<T, RuleError> {
    serde_path_to_error::deserialize(Value::Object(params.clone())).map_err(|error| {
        let mut pointer = String::from("/params");
        for segment in error.path() {
            match segment {
                serde_path_to_error::Segment::Seq { index } => {
                    pointer.push_str(&format!("/{index}"));
                }
                serde_path_to_error::Segment::Map { key } => {
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
                _ => {}
            }
        }
        RuleError::new("invalid_params", pointer, error.into_inner().to_string())
    })
}

fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Shortens foreign text for a message.
fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
