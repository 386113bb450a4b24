//! Takes fields out of JSON events, or cuts them short. The idea to take from here: JSON without a tree.
//! Each event is read once; values that stay are copied as they were written and never decoded.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use streamgate_guest::{Batch, Processor, Tally, Verdict, export};

/// Trims the outermost object of an event. What is no JSON object goes on as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrimJson {
    /// Fields that are taken out.
    #[serde(default)]
    remove: BTreeSet<String>,
    /// Fields whose text is cut, and the characters that stay of it.
    #[serde(default)]
    cut: BTreeMap<String, usize>,
    /// Where new bodies are made; kept, so that memory is taken once and not for each event.
    #[serde(skip)]
    body: Vec<u8>,
}

impl Processor for TrimJson {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self { remove, cut, body } = self;
        let edited = batch.edit_each(|event, rewrite| {
            body.clear();
            let mut json = serde_json::Deserializer::from_slice(event.body());
            let trimmed = json.deserialize_map(Trim { remove, cut, body });
            match trimmed.and_then(|trimmed| json.end().map(|()| trimmed)) {
                Ok(true) => rewrite.replace(body),
                Ok(false) | Err(_) => Verdict::Keep,
            }
        });
        edited.into()
    }
}

export!(TrimJson);

/// Reads an object and writes what stays of it to `body`; says whether that is less.
struct Trim<'t> {
    remove: &'t BTreeSet<String>,
    cut: &'t BTreeMap<String, usize>,
    body: &'t mut Vec<u8>,
}

/// Text that is borrowed from the event unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Trim<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<bool, A::Error> {
        let Self { remove, cut, body } = self;
        let mut trimmed = false;
        body.push(b'{');
        while let Some(Text(key)) = fields.next_key()? {
            let value: &RawValue = fields.next_value()?;
            if remove.contains(&*key) {
                trimmed = true;
                continue;
            }
            if body.len() > 1 {
                body.push(b',');
            }
            write_json(&key, body)?;
            body.push(b':');
            match cut.get(&*key).and_then(|&limit| shortened(value, limit)) {
                Some(short) => {
                    trimmed = true;
                    write_json(&short, body)?;
                }
                None => body.extend_from_slice(value.get().as_bytes()),
            }
        }
        body.push(b'}');
        Ok(trimmed)
    }
}

/// Returns the first `limit` characters and an ellipsis, if `value` is text and has more of them.
fn shortened(value: &RawValue, limit: usize) -> Option<String> {
    let written = value.get();
    // Between its quotes, a text has at least a byte for each character.
    if !written.starts_with('"') || written.len() <= limit.saturating_add(2) {
        return None;
    }
    let Text(text) = serde_json::from_str(written).ok()?;
    let (end, _) = text.char_indices().nth(limit)?;
    Some(format!("{}…", &text[..end]))
}

fn write_json<E: Error>(text: &str, body: &mut Vec<u8>) -> Result<(), E> {
    serde_json::to_writer(body, text).map_err(E::custom)
}

#[cfg(test)]
mod tests {
    use streamgate_guest::testing::{Harness, Outcome};

    use super::*;

    fn run(event: &str) -> Outcome {
        let config = r#"{"remove": ["stack", "debug"], "cut": {"message": 5}}"#;
        let mut harness = Harness::<TrimJson>::configure(config).unwrap();
        harness.run([event]).remove(0)
    }

    #[test]
    fn fields_are_removed_and_cut() {
        for (event, trimmed) in [
            (
                r#"{"level":"info","stack":["a",{"b":"}"}],"n":1.50}"#,
                r#"{"level":"info","n":1.50}"#,
            ),
            (r#" { "stack" : 1 } "#, "{}"),
            (r#"{"debug":1,"a":2,"debug":3}"#, r#"{"a":2}"#),
            (r#"{"st\u0061ck":1,"a\"b":2}"#, r#"{"a\"b":2}"#),
            (r#"{"message":"good morning"}"#, r#"{"message":"good …"}"#),
            (
                r#"{"message":"äöü\n\"\u0078y"}"#,
                r#"{"message":"äöü\n\"…"}"#,
            ),
        ] {
            assert_eq!(run(event), Outcome::replaced(trimmed), "{event}");
        }
    }

    #[test]
    fn what_needs_no_trimming_is_not_touched() {
        for event in [
            "",
            "plain text with stack",
            r#"{"level": "info", "inner": {"stack": 1}}"#,
            r#"{"message":"hello"}"#,
            r#"{"message":"\u0068\u0065\u006c\u006c\u006f"}"#,
            r#"{"message":123456789}"#,
            r#"["stack"]"#,
            r#"{"stack":1"#,
            r#"{"stack":1} and more"#,
            r#"{"stack":tru}"#,
        ] {
            assert_eq!(run(event), Outcome::Kept, "{event}");
        }
    }
}
