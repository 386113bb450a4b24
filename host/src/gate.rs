//! Stub of the running system, until the real one is merged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    books::Stats,
    manifest::{Invalid, Manifest, Output, Rule, check_pipeline},
};

/// The running system.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    revision: Arc<AtomicU64>,
}

/// A compiled revision, not live yet.
#[derive(Debug)]
pub struct Prepared {
    revision: u64,
}

/// What the gate is doing.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Status {
    /// Name of this gate.
    pub gate: String,
    /// The revision that is live.
    pub revision: u64,
}

impl Gate {
    /// Validates and compiles; nothing changes.
    pub fn prepare(&self, manifest: &Manifest) -> Result<Prepared, Invalid> {
        let pipeline = manifest.pipeline();
        check_pipeline(pipeline)?;
        for (at, rule) in pipeline.processors.iter().enumerate() {
            check_rule(rule).map_err(|fault| fault.under(&format!("/processors/{at}")))?;
            // Lets tests have a rule that passes alone and fails in the whole.
            if rule.params.contains_key("fails_late") {
                let pointer = format!("/processors/{at}/params/fails_late");
                return Err(Invalid::new(
                    "fails_late",
                    pointer,
                    "the chain does not build",
                ));
            }
        }
        Ok(Prepared {
            revision: manifest.revision,
        })
    }

    /// Makes a prepared revision live; returns how long it took.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the interface of the real one"
    )]
    pub fn apply(&self, prepared: Prepared) -> Duration {
        let start = Instant::now();
        self.revision.store(prepared.revision, Ordering::Relaxed);
        start.elapsed()
    }

    /// Name of this gate.
    pub fn id(&self) -> &str {
        "gate-1"
    }

    /// Whether events are being taken.
    pub fn is_ready(&self) -> bool {
        true
    }

    /// The books.
    pub fn stats(&self) -> Stats {
        Stats { received: 0 }
    }

    /// What the gate is doing.
    pub fn status(&self) -> Status {
        Status {
            gate: self.id().to_owned(),
            revision: self.revision.load(Ordering::Relaxed),
        }
    }
}

/// Builds one rule and throws it away; pointers start at the rule.
pub fn check_rule(rule: &Rule) -> Result<(), Invalid> {
    match rule.kind.as_str() {
        "filter" | "attribute_filter" | "redact" | "sample" => Ok(()),
        kind => {
            let message = format!("the rule type is `{kind}`; expected `filter` or `redact`");
            Err(Invalid::new("unknown_rule_type", "/type", message))
        }
    }
}

/// Builds one output and throws it away; pointers start at the output.
pub fn check_output(output: &Output) -> Result<(), Invalid> {
    match output.kind.as_str() {
        "http" if !output.settings.contains_key("url") => Err(Invalid::new(
            "missing_field",
            "/url",
            "an http output needs a `url`",
        )),
        "console" | "tcp" | "http" => Ok(()),
        kind => {
            let message = format!("the output type is `{kind}`; expected `console` or `http`");
            Err(Invalid::new("unknown_output_type", "/type", message))
        }
    }
}
