//! The cases that are measured: the rules the gate is given, and what must come out of it.
//!
//! A case is data. Its expected answer does not come from running the rules: `dropped` and `masked`
//! say by construction which events must be missing and which texts must be replaced, and
//! `events.rs` builds the expected bytes from that. A test holds the two against each other.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What an event looks like on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One line of text: time, event number, level, then free text.
    Text,
    /// One JSON object with the same content.
    Json,
}

/// A kind of private data that some events carry; an event carries one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secret {
    /// A US social security number.
    Ssn,
    /// A payment card number in groups of four.
    Card,
    /// An email address.
    Email,
    /// An IPv4 address.
    Ipv4,
    /// A US telephone number.
    Phone,
}

impl Secret {
    /// All kinds, in the order in which rules redact them.
    pub(crate) const ALL: [Self; 5] = [Self::Ssn, Self::Card, Self::Email, Self::Ipv4, Self::Phone];

    /// Out of 100 events, how many carry this kind.
    #[must_use]
    pub(crate) const fn share_percent(self) -> u64 {
        match self {
            Self::Ssn | Self::Email => 5,
            Self::Card | Self::Phone => 2,
            Self::Ipv4 => 10,
        }
    }

    /// The id of the redact rule, the pattern it looks for, and what it writes instead.
    #[must_use]
    pub(crate) const fn rule(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ssn => ("ssn", r"\d{3}-\d{2}-\d{4}", "XXX-XX-XXXX"),
            Self::Card => (
                "credit_card",
                r"\d{4}[- ]\d{4}[- ]\d{4}[- ]\d{4}",
                "XXXX-XXXX-XXXX-XXXX",
            ),
            Self::Email => (
                "email",
                r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}",
                "[email]",
            ),
            Self::Ipv4 => (
                "ipv4",
                r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
                "[address]",
            ),
            Self::Phone => ("phone", r"\(\d{3}\) \d{3}-\d{4}", "(XXX) XXX-XXXX"),
        }
    }
}

/// A WASM rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest {
    /// The name of its module.
    pub module: &'static str,
    /// What the guest is configured with, as JSON.
    pub config: &'static str,
}

impl Guest {
    /// Returns the rule as the control API wants it.
    ///
    /// # Errors
    /// If the config is no JSON.
    pub(crate) fn rule(&self) -> Result<Value> {
        let config: Value = serde_json::from_str(self.config)
            .with_context(|| format!("the config of `{}` is no JSON", self.module))?;
        Ok(json!({
            "id": "guest", "type": "wasm", "params": {"module": self.module, "config": config},
        }))
    }
}

/// One case: what the gate is told, and what must then be true of its output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// The name on the command line and in results.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub about: &'static str,
    /// The shape of the events offered.
    pub format: Format,
    /// Whether every DEBUG event must be missing from the output.
    pub drops_debug: bool,
    /// The private data that must be replaced; other kinds must arrive as they were sent.
    pub masked: &'static [Secret],
    /// The WASM rule that does so; without one, builtin rules do.
    pub guest: Option<Guest>,
}

/// Every case, in the order in which a report shows them.
pub(crate) const CASES: [Case; 7] = [
    Case {
        name: "pass",
        about: "no rule",
        format: Format::Text,
        drops_debug: false,
        masked: &[],
        guest: None,
    },
    Case {
        name: "drop",
        about: "drop DEBUG",
        format: Format::Text,
        drops_debug: true,
        masked: &[],
        guest: None,
    },
    Case {
        name: "drop_ssn",
        about: "drop DEBUG, redact SSN",
        format: Format::Text,
        drops_debug: true,
        masked: &[Secret::Ssn],
        guest: None,
    },
    Case {
        name: "drop_five",
        about: "drop DEBUG, redact five patterns",
        format: Format::Text,
        drops_debug: true,
        masked: &Secret::ALL,
        guest: None,
    },
    Case {
        name: "json_ssn",
        about: "drop by JSON field, redact SSN",
        format: Format::Json,
        drops_debug: true,
        masked: &[Secret::Ssn],
        guest: None,
    },
    Case {
        name: "wasm_keep",
        about: "WASM: keep everything",
        format: Format::Text,
        drops_debug: false,
        masked: &[],
        guest: Some(Guest {
            module: "keep-all",
            config: "{}",
        }),
    },
    Case {
        name: "wasm_drop",
        about: "WASM: drop DEBUG",
        format: Format::Text,
        drops_debug: true,
        masked: &[],
        guest: Some(Guest {
            module: "drop-keyword",
            config: r#"{"keyword": "DEBUG"}"#,
        }),
    },
];

impl Case {
    /// Finds a case by its name.
    #[must_use]
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        CASES.into_iter().find(|case| case.name == name)
    }

    /// Returns the builtin rules of this case as the manifest wants them.
    #[must_use]
    pub(crate) fn rules(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        if self.guest.is_some() {
            return rules;
        }
        if self.drops_debug {
            rules.push(match self.format {
                Format::Text => json!({
                    "id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"},
                }),
                Format::Json => json!({
                    "id": "drop_debug", "type": "attribute_filter",
                    "params": {"attribute": "level", "operator": "equals", "value": "DEBUG"},
                }),
            });
        }
        for secret in self.masked {
            let (id, pattern, replacement) = secret.rule();
            rules.push(json!({
                "id": id, "type": "redact",
                "params": {"pattern": pattern, "replacement": replacement},
            }));
        }
        rules
    }

    /// Returns the manifest of this case, with one TCP output to `receiver`. A WASM rule is not in
    /// it: its module has to be uploaded first.
    #[must_use]
    pub(crate) fn manifest(&self, receiver: std::net::SocketAddr) -> Value {
        json!({
            "version": "1.0",
            "pipelines": [{
                "name": "default_pipeline",
                "processors": self.rules(),
                "outputs": [{"id": "sink", "type": "tcp", "address": receiver.to_string()}],
                "batch_size": 10_000,
            }],
        })
    }
}
