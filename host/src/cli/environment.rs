//! The environment: variables that look like settings and are none.
//!
//! A variable with a typo would silently leave a setting to its default, so the log names it.
//! Values are never shown.

use std::{collections::BTreeSet, ffi::OsStr};

use clap::CommandFactory;
use tracing::warn;

use super::Cli;
use crate::{nearest::nearest, telemetry};

/// What our variables begin with.
const PREFIX: &str = "STREAMGATE_";

/// Variables that no flag stands for.
const WITHOUT_FLAG: [&str; 2] = [telemetry::LEVEL_VARIABLE, "STREAMGATE_TOKEN"];

/// Begins the names of variables that hold secrets of outputs and rules.
const SECRETS: &str = "STREAMGATE_SECRET_";

/// Most variables that are named in the log.
const MAX_NAMED: usize = 16;

/// Longest name that is logged, in characters.
const MAX_NAME_CHARS: usize = 64;

/// Logs each variable of the process that begins as ours do and is not known.
pub fn warn_of_unknown() {
    let found = std::env::vars_os();
    let known = known();
    let unknown: Vec<String> = found
        .filter_map(|(name, value)| {
            let name = name.to_string_lossy().into_owned();
            let is_ours = name.starts_with(PREFIX) && !known.contains(&name);
            (is_ours && !name.starts_with(SECRETS) && !is_of_a_service(&name, &value))
                .then_some(name)
        })
        .collect();
    for name in unknown.iter().take(MAX_NAMED) {
        let variable: String = name.chars().take(MAX_NAME_CHARS).collect();
        warn!(
            variable,
            nearest = nearest(name, known.iter().map(String::as_str)),
            "an environment variable is not known and is ignored; `streamgate --help` lists all"
        );
    }
    let others = unknown.len().saturating_sub(MAX_NAMED);
    if others > 0 {
        warn!(
            others,
            "more environment variables are not known and are ignored"
        );
    }
}

/// The variables of all flags of all commands.
fn known() -> BTreeSet<String> {
    let mut known: BTreeSet<String> = WITHOUT_FLAG.map(str::to_owned).into();
    let mut commands = vec![Cli::command()];
    while let Some(command) = commands.pop() {
        let variables = command.get_arguments().filter_map(clap::Arg::get_env);
        known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
        commands.extend(command.get_subcommands().cloned());
    }
    known
}

/// Whether Kubernetes sets such a variable for a Service that is called `streamgate` or
/// `streamgate-...`.
///
/// Source: Kubernetes documentation, "Service", "Environment variables": `{NAME}_SERVICE_HOST`,
/// `{NAME}_SERVICE_PORT[_{PORT NAME}]`, and Docker's `{NAME}_PORT`, whose value is a URL, and
/// `{NAME}_PORT_{NUMBER}_{PROTOCOL}[_PROTO|_PORT|_ADDR]`.
fn is_of_a_service(name: &str, value: &OsStr) -> bool {
    if name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
    {
        return true;
    }
    if name.ends_with("_PORT") && value.to_string_lossy().contains("://") {
        return true;
    }
    name.match_indices("_PORT_").any(|(at, found)| {
        let mut parts = name[at + found.len()..].split('_');
        let number = parts.next().unwrap_or_default();
        let protocol = parts.next().unwrap_or_default();
        !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
            && matches!(protocol, "TCP" | "UDP" | "SCTP")
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && parts.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_flags_have_their_variables() {
        let known = known();
        for name in ["STREAMGATE_TCP", "STREAMGATE_CONTROL_URL", "STREAMGATE_LOG"] {
            assert!(known.contains(name), "{name}: {known:?}");
        }
        assert_eq!(
            nearest("STREAMGATE_TPC", known.iter().map(String::as_str)),
            Some("STREAMGATE_TCP")
        );
    }

    #[test]
    fn variables_of_services_are_told_from_typos() {
        for (name, value) in [
            ("STREAMGATE_SERVICE_HOST", "10.0.0.1"),
            ("STREAMGATE_SERVICE_PORT", "8080"),
            ("STREAMGATE_SERVICE_PORT_HTTP", "8080"),
            ("STREAMGATE_PORT", "tcp://10.0.0.1:8080"),
            ("STREAMGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("STREAMGATE_PORT_8080_TCP_PROTO", "tcp"),
            ("STREAMGATE_UDP_PORT_8082_UDP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_of_a_service(name, OsStr::new(value)), "{name}");
        }
        for (name, value) in [
            ("STREAMGATE_PORT", "8080"),
            ("STREAMGATE_PORT_TCP", "x"),
            ("STREAMGATE_TPC", "127.0.0.1:1"),
            ("STREAMGATE_SERVICE", "x"),
        ] {
            assert!(!is_of_a_service(name, OsStr::new(value)), "{name}");
        }
    }
}
