//! What a rule writes in place of a match: text, and groups of the match.

use crate::{RuleError, matcher::Pattern, shown};

/// Longest replacement, in bytes.
const MAX_REPLACEMENT_BYTES: usize = 1024;

/// What is written if the rule does not say.
pub(super) const DEFAULT: &str = "[REDACTED]";

/// A piece of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Vec<u8>),
    Group(usize),
}

/// Splits a replacement into text and groups, by the rules of `regex::Regex::replace`.
pub(super) fn parse(replacement: &str, pattern: Option<&Pattern>) -> Result<Vec<Part>, RuleError> {
    let refuse = |code, message: String| RuleError::new(code, "/params/replacement", message);
    if replacement.len() > MAX_REPLACEMENT_BYTES {
        return Err(refuse(
            "replacement_too_long",
            format!(
                "`replacement` has {} bytes; expected at most {MAX_REPLACEMENT_BYTES}",
                replacement.len()
            ),
        ));
    }
    if replacement.contains(['\n', '\r']) {
        return Err(refuse(
            "invalid_replacement",
            "`replacement` contains a line end and would make new events; remove it".to_owned(),
        ));
    }
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut rest = replacement;
    while let Some(at) = rest.find('$') {
        text.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push(b'$');
            rest = after;
            continue;
        }
        let (name, after) = match rest
            .strip_prefix('{')
            .and_then(|braced| braced.split_once('}'))
        {
            Some(split) => split,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                rest.split_at(rest.find(|c| !word(c)).unwrap_or(rest.len()))
            }
        };
        if name.is_empty() {
            text.push(b'$');
            continue;
        }
        let group = match name.parse::<usize>() {
            Ok(number) => pattern
                .filter(|pattern| number < pattern.group_count())
                .map(|_| number),
            Err(_) => pattern.and_then(|pattern| pattern.group(name)),
        };
        let Some(group) = group else {
            return Err(refuse(
                "unknown_group",
                format!(
                    "`replacement` names the group `{}`, and there is no such group in a \
                     pattern; write `${{1}}` to end a name, `$$` for a `$`",
                    shown(name)
                ),
            ));
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Group(group));
        rest = after;
    }
    text.extend_from_slice(rest.as_bytes());
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}
