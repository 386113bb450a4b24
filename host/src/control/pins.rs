//! Which code a rule of type `wasm` runs: found out when it is published.
//!
//! In the draft a rule follows the name of its module; in a manifest it is pinned to the digest that
//! the name had at the time. So an upload changes nothing that is live, and a revision brings its
//! code back with it.

use serde_json::Value;

use crate::{
    config_store::{ConfigStore, ModuleEntry},
    manifest::{Invalid, Pipeline, Rule, WASM},
    wasm::Params,
};

/// Pins every rule of type `wasm` that is not pinned yet, disabled ones too.
///
/// # Errors
/// [`Invalid`] for a rule whose module there is not; its pointer starts at the pipeline.
pub(super) fn pin(pipeline: &mut Pipeline, modules: &[ModuleEntry]) -> Result<(), Invalid> {
    for (at, rule) in pipeline.processors.iter_mut().enumerate() {
        if rule.kind == WASM {
            pin_rule(rule, modules).map_err(|fault| fault.under(&format!("/processors/{at}")))?;
        }
    }
    Ok(())
}

/// Returns the pipeline as it would be published; as it is if it cannot be.
pub(super) fn pinned(pipeline: &Pipeline, modules: &[ModuleEntry]) -> Pipeline {
    let mut pinned = pipeline.clone();
    match pin(&mut pinned, modules) {
        Ok(()) => pinned,
        Err(_) => pipeline.clone(),
    }
}

/// Checks that the store has the module of a rule, if it needs one.
///
/// # Errors
/// [`Invalid`] with the remedy; its pointer starts at the rule.
pub(super) fn check(rule: &Rule, store: &ConfigStore) -> Result<(), Invalid> {
    if rule.kind != WASM {
        return Ok(());
    }
    let params = Params::parse(rule)?;
    match params.pinned()? {
        None => match store.modules() {
            Ok(modules) => pin_rule(&mut rule.clone(), &modules),
            // A store that fails says so when the draft is saved.
            Err(_) => Ok(()),
        },
        Some(digest) => match store.module_bytes(digest) {
            // A store that fails says so when the rule is published.
            Ok(Some(_)) | Err(_) => Ok(()),
            Ok(None) => Err(
                unknown(&params.module, &format!(" with the digest {digest}"))
                    .at_pointer("/params/digest"),
            ),
        },
    }
}

/// Returns the ids of the rules that name the module.
pub(super) fn rules_of(pipeline: &Pipeline, module: &str) -> Vec<String> {
    let names = |rule: &&Rule| {
        rule.kind == WASM && rule.params.get("module").and_then(Value::as_str) == Some(module)
    };
    let rules = pipeline.processors.iter().filter(names);
    rules.map(|rule| rule.id.clone()).collect()
}

fn pin_rule(rule: &mut Rule, modules: &[ModuleEntry]) -> Result<(), Invalid> {
    let params = Params::parse(rule)?;
    if params.digest.is_some() {
        return Ok(());
    }
    let found = modules.iter().find(|module| module.name == params.module);
    let module = found.ok_or_else(|| unknown(&params.module, ""))?;
    rule.params
        .insert("digest".to_owned(), module.digest.to_string().into());
    Ok(())
}

fn unknown(name: &str, which: &str) -> Invalid {
    let name: String = name.chars().take(128).collect();
    Invalid::new(
        "unknown_module",
        "/params/module",
        format!("there is no module `{name}`{which}; upload it with `PUT /modules/{name}`"),
    )
}
