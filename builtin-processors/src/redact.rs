//! `redact`: replaces what must not leave.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `pattern` | a regular expression (the syntax of the `regex` crate) | required |
//! | `replacement` | what stands in its place; `$1`, `${name}` insert a group, `$$` a `$` | `[REDACTED]` |
//! | `ignore_case` | whether upper and lower case are alike | `false` |
//!
//! Every match in an event is replaced, from left to right. What lies outside the matches is never
//! changed. A replacement cannot make a new event: a line feed in it is refused.

use regex_automata::util::captures::Captures;
use serde::Deserialize;
use streamgate_guest::{Batch, NoRoom, Processor, Rest, Rewrite, Tally, Verdict};

use crate::{OnError, RuleError, matcher::Pattern, shown};

/// Longest replacement, in bytes.
const MAX_REPLACEMENT_BYTES: usize = 1024;

const DEFAULT_REPLACEMENT: &str = "[REDACTED]";

/// Replaces every match of a pattern.
#[derive(Debug, Clone)]
pub struct Redact {
    pattern: Pattern,
    replacement: Vec<Part>,
    captures: Captures,
    on_error: OnError,
}

/// A piece of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    pattern: String,
    replacement: Option<String>,
    #[serde(default)]
    ignore_case: bool,
}

impl Redact {
    pub(crate) fn build(params: &Params, on_error: OnError) -> Result<Self, RuleError> {
        let pattern = Pattern::build(&params.pattern, params.ignore_case, "/params/pattern")?;
        let replacement = params.replacement.as_deref().unwrap_or(DEFAULT_REPLACEMENT);
        let replacement = parse_replacement(replacement, &pattern)?;
        let captures = pattern.captures();
        Ok(Self {
            pattern,
            replacement,
            captures,
            on_error,
        })
    }
}

impl Processor for Redact {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self {
            pattern,
            replacement,
            captures,
            on_error,
        } = self;
        let mut tally = Tally::default();
        batch.edit(
            Rest::Keep,
            |slice, at| pattern.find(slice, at),
            |event, rewrite| match rewrite_body(
                event.body(),
                pattern,
                replacement,
                captures,
                rewrite,
            ) {
                Ok(true) => {
                    tally.changed += 1;
                    Verdict::Replace
                }
                Ok(false) => Verdict::Keep,
                Err(NoRoom) => on_error.verdict(&mut tally),
            },
        );
        tally
    }
}

/// Writes `body` with every match replaced; `Ok(false)` if there is no match.
fn rewrite_body(
    body: &[u8],
    pattern: &Pattern,
    replacement: &[Part],
    captures: &mut Captures,
    rewrite: &mut Rewrite<'_>,
) -> Result<bool, NoRoom> {
    // Finding groups costs a second engine; most replacements name none.
    let needs_groups = replacement
        .iter()
        .any(|part| matches!(part, Part::Group(_)));
    let mut copied = 0;
    loop {
        let groups = needs_groups.then_some(&mut *captures);
        let found = pattern.next_match(body, copied, groups);
        // No pattern matches the empty string, so every turn moves on.
        let Some(found) = found else { break };
        rewrite.push(&body[copied..found.start()])?;
        for part in replacement {
            match part {
                Part::Text(text) => rewrite.push(text)?,
                Part::Group(group) => {
                    if let Some(group) = captures.get_group(*group) {
                        rewrite.push(&body[group.range()])?;
                    }
                }
            }
        }
        copied = found.end();
    }
    if copied == 0 {
        return Ok(false);
    }
    rewrite.push(&body[copied..])?;
    Ok(true)
}

/// Splits a replacement into text and groups, by the rules of `regex::Regex::replace`.
fn parse_replacement(replacement: &str, pattern: &Pattern) -> Result<Vec<Part>, RuleError> {
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
            Ok(number) => Some(number).filter(|&number| number < pattern.group_count()),
            Err(_) => pattern.group(name),
        };
        let Some(group) = group else {
            return Err(refuse(
                "unknown_group",
                format!(
                    "`replacement` names the group `{}`, and the pattern has no such group; \
                     write `${{1}}` to end a name, `$$` for a `$`",
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::{meta::Regex, util::syntax};

    use super::*;

    /// Replaces the slow way: the regex, from the start of each body. The match is put in `<>`, or
    /// left out of them.
    fn redact_slowly(regex: &Regex, body: &[u8], with_match: bool) -> Vec<u8> {
        let (mut out, mut copied) = (Vec::new(), 0);
        for found in regex.find_iter(body) {
            let shown = if with_match { found.range() } else { 0..0 };
            out.extend_from_slice(&body[copied..found.start()]);
            out.extend_from_slice(&[b"<", &body[shown], b">"].concat());
            copied = found.end();
        }
        out.extend_from_slice(&body[copied..]);
        out
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            r"\d", r"\d{2}", r"\d{1,3}", "-", "-", r"\.", "a", "[a-c]+", r"\b", "^", "$", "x?",
            "(?:a|bc)", "é", ".",
        ]);
        prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat())
    }

    fn some_body() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "1",
            "23",
            "-",
            "-",
            ".",
            "a",
            "bc",
            " ",
            "x",
            "é",
            "\u{661}",
            "\r",
            "some words without any digits in them, long enough for a block of 64 bytes ",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn redaction_agrees_with_the_slow_twin(
            pattern in some_pattern(),
            bodies in prop::collection::vec(some_body(), 1..6),
            groups in any::<bool>(),
        ) {
            let params = Params {
                pattern: pattern.clone(),
                replacement: Some(if groups { "<$0>" } else { "<>" }.to_owned()),
                ignore_case: false,
            };
            let Ok(mut redact) = Redact::build(&params, OnError::Mask) else { return Ok(()) };
            let syntax = syntax::Config::new().utf8(false);
            let regex = Regex::builder().syntax(syntax).build(&pattern).expect("compiles");
            let joined: String = bodies.iter().flat_map(|body| [body.as_str(), "\n"]).collect();
            let mut batch = Batch::from_lines(joined);
            let expected: Vec<Vec<u8>> = batch
                .iter()
                .map(|event| redact_slowly(&regex, event.body(), groups))
                .collect();
            redact.process(&mut batch);
            let found: Vec<Vec<u8>> = batch.iter().map(|event| event.body().to_vec()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_event_that_outgrows_the_batch_meets_on_error() {
        for (on_error, expected, failed, failed_dropped) in [
            (
                OnError::Mask,
                &b"[withheld by streamgate]\nkeep\n"[..],
                1,
                0,
            ),
            (OnError::Drop, b"keep\n", 0, 1),
        ] {
            let params = Params {
                pattern: "(a+)".to_owned(),
                replacement: Some("$1".repeat(200)),
                ignore_case: false,
            };
            let mut redact = Redact::build(&params, on_error).expect("valid");
            let mut batch = Batch::from_lines(["a".repeat(1000).as_str(), "keep"].join("\n"));
            let tally = redact.process(&mut batch);
            assert_eq!(batch.slices().collect::<Vec<_>>().concat(), expected);
            assert_eq!(
                (tally.failed, tally.failed_dropped),
                (failed, failed_dropped)
            );
        }
    }
}
