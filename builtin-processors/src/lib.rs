//! The native processors: bytes in, bytes out, no I/O, no clock of their own.
//!
//! [`Builtin`] is the closed set of them, by the name that a rule's `type` gives. A builtin is
//! built once for each published revision and then copied for each worker: what was compiled is
//! shared, and so is what `dedupe`, `throttle` and `sample` by a target remember; scratch space and
//! random state are not. A rule that a new revision did not change goes on with what it remembers.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use streamgate_guest::{Batch, Processor, Tally, Verdict};

pub use attribute_filter::AttributeFilter;
pub use clock::Clock;
pub use compiled::limit_compiled_patterns;
pub use dedupe::Dedupe;
pub use filter::{Filter, FusedFilters};
pub use redact::{Notes, Redact};
pub use sample::Sample;
pub use scan::find_line_ends;
pub use text_params::check_texts;
pub use throttle::Throttle;

pub mod detectors;
pub mod named_file;

mod attribute_filter;
mod clock;
mod compiled;
mod condition;
mod dedupe;
mod filter;
mod json;
mod key;
mod matcher;
mod memory;
mod redact;
mod sample;
mod scan;
mod text_matcher;
mod text_params;
mod throttle;
mod view;

/// The names that a rule's `type` may have.
pub const TYPES: [&str; 6] = [
    "attribute_filter",
    "dedupe",
    "filter",
    "redact",
    "sample",
    "throttle",
];

/// A rule of one of the native types, compiled.
#[derive(Debug, Clone)]
pub enum Builtin {
    /// `filter`: drops or keeps by keyword or pattern.
    Filter(Filter),
    /// `attribute_filter`: drops or keeps by JSON fields.
    AttributeFilter(AttributeFilter),
    /// `dedupe`: drops what was there a moment ago.
    Dedupe(Box<Dedupe>),
    /// `redact`: replaces what must not leave.
    Redact(Redact),
    /// `sample`: keeps a share, at random, by key or by a target.
    Sample(Box<Sample>),
    /// `throttle`: drops what exceeds a rate.
    Throttle(Box<Throttle>),
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
    /// `deduplicated`
    Deduplicated,
    /// `throttled`
    Throttled,
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
            "dedupe" => Ok(Self::Dedupe(Box::new(Dedupe::build(parse(params)?)?))),
            "redact" => Redact::build(parse(params)?, on_error).map(Self::Redact),
            "sample" => Ok(Self::Sample(Box::new(Sample::build(&parse(params)?)?))),
            "throttle" => Ok(Self::Throttle(Box::new(Throttle::build(parse(params)?)?))),
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

    /// Returns a copy for one worker: random state starts from `seed`, and the time is what `clock`
    /// tells. What is remembered is shared by all copies, whose clocks must tell the same time.
    pub fn for_worker(&self, seed: u64, clock: &Clock) -> Self {
        let mut copy = self.clone();
        match &mut copy {
            Self::Filter(_) | Self::AttributeFilter(_) | Self::Redact(_) => {}
            Self::Dedupe(dedupe) => dedupe.look_at(clock),
            Self::Sample(sample) => sample.for_worker(seed, clock),
            Self::Throttle(throttle) => throttle.look_at(clock),
        }
        copy
    }

    /// Goes on with what `previous` remembers, the same rule in the revision before, if its
    /// parameters are the same; else it starts from nothing.
    pub fn continue_from(&mut self, previous: &Self) {
        match (self, previous) {
            (Self::Dedupe(dedupe), Self::Dedupe(previous)) => dedupe.continue_from(previous),
            (Self::Sample(sample), Self::Sample(previous)) => sample.continue_from(previous),
            (Self::Throttle(throttle), Self::Throttle(previous)) => {
                throttle.continue_from(previous);
            }
            _ => {}
        }
    }

    /// Makes this copy, which is new, go on in the middle of a batch, where a panic interrupted
    /// another copy of the same rule: on the events that are left, it does what was decided
    /// already. Scratch space of the other one is not looked at otherwise.
    pub fn resume_from(&mut self, interrupted: &mut Self) {
        match (self, interrupted) {
            (Self::Dedupe(dedupe), Self::Dedupe(interrupted)) => dedupe.resume_from(interrupted),
            (Self::Sample(sample), Self::Sample(interrupted)) => sample.resume_from(interrupted),
            (Self::Throttle(throttle), Self::Throttle(interrupted)) => {
                throttle.resume_from(interrupted);
            }
            _ => {}
        }
    }

    /// Applies the rule to the batch, as [`Processor::process`] does, and adds what it did to
    /// `tally`. Whatever a `redact` rule did stands there also if it panics; of others, nothing
    /// does then.
    pub fn process_into(&mut self, batch: &mut Batch, tally: &mut Tally) {
        match self {
            Self::Redact(redact) => redact.process_each(batch, std::slice::from_mut(tally)),
            other => *tally += other.process(batch),
        }
    }

    /// Returns the account that this rule's drops are booked on.
    pub fn drop_account(&self) -> DropAccount {
        match self {
            Self::Filter(_) | Self::AttributeFilter(_) => DropAccount::Filtered,
            Self::Dedupe(_) => DropAccount::Deduplicated,
            Self::Sample(_) => DropAccount::Sampled,
            Self::Throttle(_) => DropAccount::Throttled,
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
            Self::Dedupe(dedupe) => dedupe.process(batch),
            Self::Redact(redact) => redact.process(batch),
            Self::Sample(sample) => sample.process(batch),
            Self::Throttle(throttle) => throttle.process(batch),
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

/// A parameter that compares as text, or as a number if it was written as one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Scalar")]
struct Literal {
    text: String,
    number: Option<json::Number>,
}

impl From<Scalar> for Text {
    fn from(scalar: Scalar) -> Self {
        Self(Literal::from(scalar).text)
    }
}

impl From<Scalar> for Literal {
    fn from(scalar: Scalar) -> Self {
        let (text, is_number) = match scalar {
            Scalar::String(text) => (text, false),
            Scalar::Number(number) => (number.to_string(), true),
            Scalar::Bool(boolean) => (boolean.to_string(), false),
        };
        let number = json::Number::parse(&text).filter(|_| is_number);
        Self { text, number }
    }
}

fn parse<T: DeserializeOwned>(params: &Map<String, Value>) -> Result<T, RuleError> {
    parse_at(Value::Object(params.clone()), "/params")
}

/// Reads the parameters that stand at `pointer`.
fn parse_at<T: DeserializeOwned>(params: Value, pointer: &str) -> Result<T, RuleError> {
    serde_path_to_error::deserialize(params).map_err(|error| {
        let mut pointer = pointer.to_owned();
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
