//! How a guest is made from the rule's config.

use serde::de::DeserializeOwned;

use crate::Processor;

/// A processor that can be made from a rule's `params.config`.
///
/// A [`Processor`] that is [`Deserialize`](serde::Deserialize) has it for free: its fields are the
/// config, and what it needs beyond that goes into `#[serde(skip)]` fields. Add
/// `#[serde(deny_unknown_fields)]`, so that a misspelt field is told to whoever publishes the rule.
///
/// Implement it by hand, for a type that is not `Deserialize`, where the config has to be checked or
/// compiled into something else first; [`parse_config`] does the reading:
///
/// ```
/// use streamgate_guest::{Batch, Configure, Processor, Tally, parse_config};
///
/// struct CutLong {
///     limit: usize,
/// }
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     limit: usize,
/// }
///
/// impl Configure for CutLong {
///     fn configure(config: &str) -> Result<Self, String> {
///         let Config { limit } = parse_config(config)?;
///         if limit == 0 {
///             return Err("`limit` is 0; expected at least 1 byte".to_owned());
///         }
///         Ok(Self { limit })
///     }
/// }
///
/// impl Processor for CutLong {
///     fn process(&mut self, batch: &mut Batch) -> Tally {
///         Tally::dropped(batch.retain(|event| event.body().len() <= self.limit))
///     }
/// }
///
/// assert!(CutLong::configure(r#"{"limit": 80}"#).is_ok());
/// ```
pub trait Configure: Processor + Sized {
    /// Makes the processor from `params.config` of the rule, as JSON: `{}` if the rule has none.
    ///
    /// # Errors
    /// What is wrong with the config, for whoever publishes the rule: what was found, what was
    /// expected, and the remedy.
    fn configure(config: &str) -> Result<Self, String>;
}

impl<P: Processor + DeserializeOwned> Configure for P {
    fn configure(config: &str) -> Result<Self, String> {
        parse_config(config)
    }
}

/// Reads a config.
///
/// # Errors
/// Says which field is wrong, what was found and what was expected:
/// `` `limits[2].bytes`: invalid type: string "x", expected usize ``.
pub fn parse_config<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(config);
    let mut track = serde_path_to_error::Track::new();
    let parsed = T::deserialize(serde_path_to_error::Deserializer::new(
        &mut json, &mut track,
    ));
    let error = match parsed.and_then(|parsed| json.end().map(|()| parsed)) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    // The gate hands over the config on one line, so that a place in it says nothing.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let message = message.strip_suffix(&place).unwrap_or(&message);
    let path = track.path();
    // Without a segment the path is the whole config, and shows as a dot.
    match path.iter().next() {
        None => Err(message.to_owned()),
        Some(_) => Err(format!("`{path}`: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        words: Vec<Word>,
        #[serde(default)]
        limit: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Word {
        text: String,
    }

    #[test]
    fn a_wrong_config_is_told_by_field() {
        for (config, message) in [
            ("{}", "missing field `words`"),
            (
                r#"{"words": 7}"#,
                "`words`: invalid type: integer `7`, expected a sequence",
            ),
            (
                r#"{"words": [{"text": "a"}, {"text": 1}]}"#,
                "`words[1].text`: invalid type: integer `1`, expected a string",
            ),
            (r#"{"words": [{}]}"#, "`words[0]`: missing field `text`"),
            (
                r#"{"words": [], "limit": 300}"#,
                "`limit`: invalid value: integer `300`, expected u8",
            ),
            (
                r#"{"wrods": []}"#,
                "`wrods`: unknown field `wrods`, expected `words` or `limit`",
            ),
            (r#"{"words": []} x"#, "trailing characters"),
            ("", "EOF while parsing a value"),
        ] {
            assert_eq!(parse_config::<Config>(config).expect_err(config), message);
        }
    }

    #[test]
    fn a_right_config_is_read() {
        let config = Config {
            words: vec![Word {
                text: "a".to_owned(),
            }],
            limit: 0,
        };
        assert_eq!(parse_config(r#"{"words":[{"text":"a"}]}"#), Ok(config));
    }
}
