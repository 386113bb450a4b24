//! The rules of a revision as ordered steps.
//!
//! A [`CompiledChain`] is immutable and shared; each worker runs a [`Chain`] of its own, made from
//! it when the worker first sees the revision.

use std::sync::Arc;

use serde::Serialize;
use streamgate_guest::{Batch, Processor, Tally};
use streamgate_processors::{Builtin, OnError as ProcessorOnError, is_privacy};
use utoipa::ToSchema;

use crate::{
    books::{Books, Ledger, NamedRule, RuleAccount},
    manifest::{Invalid, OnError, OnOverload, Rule},
};

/// The enabled rules of a revision, compiled.
#[derive(Debug)]
pub struct CompiledChain {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    builtin: Builtin,
    on_overload: OnOverload,
    rule: NamedRule,
}

/// One rule's state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RuleStatus {
    /// The rule's id.
    pub id: String,
    /// The rule's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `active`, or `bypassed` while the gate is overloaded.
    pub state: String,
}

/// One worker's copy of a chain.
#[derive(Debug)]
pub struct Chain {
    steps: Vec<WorkerStep>,
}

#[derive(Debug)]
struct WorkerStep {
    builtin: Builtin,
    on_overload: OnOverload,
    account: Arc<RuleAccount>,
    /// What the last batch came to, until it is booked.
    seen: u64,
    bypassed: u64,
    tally: Tally,
}

impl CompiledChain {
    /// Compiles the rules. A rule that was in `previous` under the same id and type keeps its
    /// account.
    ///
    /// # Errors
    /// [`Invalid`] for the first rule that cannot be built; its pointer starts at the pipeline.
    pub fn build(
        rules: &[Rule],
        books: &Arc<Books>,
        previous: Option<&Self>,
    ) -> Result<Self, Invalid> {
        let mut steps = Vec::with_capacity(rules.len());
        for (at, rule) in rules.iter().enumerate() {
            let builtin =
                build_rule(rule).map_err(|fault| fault.under(&format!("/processors/{at}")))?;
            if !rule.enabled {
                continue;
            }
            let known = previous.and_then(|chain| chain.rule(&rule.id, &rule.kind));
            let account = known.map_or_else(|| books.open_rule(), |rule| Arc::clone(&rule.account));
            let rule_name = NamedRule {
                id: rule.id.clone(),
                kind: rule.kind.clone(),
                account,
            };
            steps.push(Step {
                builtin,
                on_overload: on_overload(rule),
                rule: rule_name,
            });
        }
        Ok(Self { steps })
    }

    /// Returns the rules that run, in order.
    pub fn rules(&self) -> Vec<NamedRule> {
        self.steps.iter().map(|step| step.rule.clone()).collect()
    }

    /// Says of each rule whether it runs.
    pub fn statuses(&self, overloaded: bool) -> Vec<RuleStatus> {
        let status = |step: &Step| {
            let bypassed = overloaded && step.on_overload == OnOverload::Bypass;
            RuleStatus {
                id: step.rule.id.clone(),
                kind: step.rule.kind.clone(),
                state: if bypassed { "bypassed" } else { "active" }.to_owned(),
            }
        };
        self.steps.iter().map(status).collect()
    }

    /// Returns a copy for one worker.
    pub fn for_worker(&self) -> Chain {
        let steps = self
            .steps
            .iter()
            .map(|step| WorkerStep {
                builtin: step.builtin.for_worker(fastrand::u64(..)),
                on_overload: step.on_overload,
                account: Arc::clone(&step.rule.account),
                seen: 0,
                bypassed: 0,
                tally: Tally::default(),
            })
            .collect();
        Chain { steps }
    }

    fn rule(&self, id: &str, kind: &str) -> Option<&NamedRule> {
        self.steps
            .iter()
            .map(|step| &step.rule)
            .find(|rule| rule.id == id && rule.kind == kind)
    }
}

impl Chain {
    /// Runs every step over the batch. What was done is remembered until [`book`](Self::book).
    pub fn run(&mut self, batch: &mut Batch, overloaded: bool) {
        for step in &mut self.steps {
            let events = batch.events() as u64;
            (step.seen, step.bypassed, step.tally) = (0, 0, Tally::default());
            if events == 0 {
                continue;
            }
            if overloaded && step.on_overload == OnOverload::Bypass {
                step.bypassed = events;
            } else {
                step.seen = events;
                step.tally = step.builtin.process(batch);
            }
        }
    }

    /// Books what the last run did.
    pub fn book(&self, ledger: &mut Ledger) {
        for step in &self.steps {
            if step.seen > 0 {
                ledger.rule(
                    &step.account,
                    step.builtin.drop_account(),
                    step.seen,
                    step.tally,
                );
            }
            if step.bypassed > 0 {
                ledger.bypassed(&step.account, step.bypassed);
            }
        }
    }
}

/// Builds one rule; the pointer of a fault starts at the rule.
///
/// # Errors
/// [`Invalid`] names the field and the remedy.
pub fn build_rule(rule: &Rule) -> Result<Builtin, Invalid> {
    let on_error = match rule.on_error {
        Some(OnError::Pass) if is_privacy(&rule.kind) => {
            return Err(Invalid::new(
                "leaking_on_error",
                "/on_error",
                format!(
                    "`on_error` of a `{}` rule is `pass`, which lets raw data out; \
                     expected `mask` or `drop`",
                    rule.kind
                ),
            ));
        }
        Some(OnError::Pass) => ProcessorOnError::Pass,
        Some(OnError::Mask) => ProcessorOnError::Mask,
        Some(OnError::Drop) => ProcessorOnError::Drop,
        None if is_privacy(&rule.kind) => ProcessorOnError::Mask,
        None => ProcessorOnError::Pass,
    };
    Builtin::build(&rule.kind, &rule.params, on_error)
        .map_err(|error| Invalid::new(error.code, error.pointer, error.message))
}

fn on_overload(rule: &Rule) -> OnOverload {
    let default = if is_privacy(&rule.kind) {
        OnOverload::Enforce
    } else {
        OnOverload::Bypass
    };
    rule.on_overload.unwrap_or(default)
}
