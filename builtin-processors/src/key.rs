//! The key of a rule: which events belong together, by one or several of their fields.

use std::ops::ControlFlow;

use serde::Deserialize;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use crate::{
    RuleError,
    json::{self, Field, Fields},
};

/// Most fields of one key.
const MAX_FIELDS: usize = 8;

/// A `key` as a rule writes it: a field or a list of fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected the name of a field or a list of such names"
)]
pub(crate) enum Names {
    One(String),
    Many(Vec<String>),
}

/// Reads the key of an event.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    fields: Fields,
    count: usize,
}

impl Key {
    /// Builds the key that stands at `/params/key`.
    ///
    /// # Errors
    /// [`RuleError`] names the field that cannot be read.
    pub(crate) fn build(names: &Names) -> Result<Self, RuleError> {
        let fields: Vec<Field> = match names {
            Names::One(name) => vec![Field::of_key(name, "/params/key")?],
            Names::Many(names) if names.is_empty() || names.len() > MAX_FIELDS => {
                return Err(RuleError::new(
                    "invalid_key",
                    "/params/key",
                    format!(
                        "`key` has {} fields; expected 1 to {MAX_FIELDS}",
                        names.len()
                    ),
                ));
            }
            Names::Many(names) => names
                .iter()
                .enumerate()
                .map(|(at, name)| Field::of_key(name, &format!("/params/key/{at}")))
                .collect::<Result<_, _>>()?,
        };
        if let Some(twice) = (1..fields.len()).find(|&at| fields[..at].contains(&fields[at])) {
            return Err(RuleError::new(
                "invalid_key",
                format!("/params/key/{twice}"),
                "`key` has this field already; remove one of them",
            ));
        }
        Ok(Self {
            fields: Fields::new(&fields),
            count: fields.len(),
        })
    }

    /// Reads the key of an event: 128 bits of a hash that are alike for events whose fields are. A
    /// field that is missing counts as one more value; `None` if the event has none of them.
    pub(crate) fn hash(&self, body: &[u8], seed: u64) -> Option<u128> {
        self.read(body, |text| xxh3_128_with_seed(text, seed))
    }

    /// As [`hash`](Self::hash), but one field's value is what `of_value` makes of its text.
    pub(crate) fn read(&self, body: &[u8], of_value: impl Fn(&[u8]) -> u128) -> Option<u128> {
        let mut ranks = [usize::MAX; MAX_FIELDS];
        let mut parts = [0; MAX_FIELDS];
        let mut open = self.count;
        self.fields.locate(body, |hit| {
            if hit.rank < ranks[hit.field] {
                ranks[hit.field] = hit.rank;
                parts[hit.field] = of_value(&json::bytes(hit.value));
                if hit.rank == 0 {
                    open -= 1;
                    if open == 0 {
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        });
        if ranks == [usize::MAX; MAX_FIELDS] {
            return None;
        }
        if self.count == 1 {
            return Some(parts[0]);
        }
        let mut joined = [0; MAX_FIELDS * 17];
        for ((bytes, part), rank) in joined.chunks_exact_mut(17).zip(parts).zip(ranks) {
            bytes[..16].copy_from_slice(&part.to_le_bytes());
            bytes[16] = u8::from(rank != usize::MAX);
        }
        Some(xxh3_128(&joined))
    }
}
