//! The name that somebody probably meant by one that is not known.

/// Longest name that is compared, in bytes; a longer one is not a typo.
const MAX_NAME_BYTES: usize = 64;

/// Names that people use for another: those of the documentation and of other programs.
const SYNONYMS: [(&str, &str); 6] = [
    ("rules", "processors"),
    ("rule", "processors"),
    ("processor", "processors"),
    ("filters", "processors"),
    ("sinks", "outputs"),
    ("kind", "type"),
];

/// Returns the one of `known` that is nearest to `found`, if one is near enough to be meant: at
/// most a third of its letters are others, and at most three.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if found.len() > MAX_NAME_BYTES {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let wanted = plain(found);
    let meant = |name: &str| SYNONYMS.contains(&(wanted.as_str(), name));
    let distance = |name: &str| {
        if meant(name) {
            return 0;
        }
        strsim::damerau_levenshtein(&wanted, &plain(name))
    };
    let most = (wanted.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Adds the name that was probably meant to a message of serde about an unknown field or variant,
/// which lists the known ones; leaves other messages as they are.
pub fn with_suggestion(mut message: String) -> String {
    let Some(name) = suggested(&message).map(str::to_owned) else {
        return message;
    };
    message.push_str(&format!("; did you mean `{name}`?"));
    message
}

fn suggested(message: &str) -> Option<&str> {
    let (_, rest) = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|start| message.split_once(start))?;
    let (found, rest) = rest.split_once("`, expected ")?;
    // Names stand between backticks: every second part.
    nearest(found, rest.split('`').skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_suggested_and_nothing_else() {
        let known = ["processors", "outputs", "batch_size", "name"];
        for (found, expected) in [
            ("rules", Some("processors")),
            ("procesors", Some("processors")),
            ("output", Some("outputs")),
            ("Outputs", Some("outputs")),
            ("batchsize", Some("batch_size")),
            ("batch-size", Some("batch_size")),
            ("nmae", Some("name")),
            ("bogus", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, known), expected, "{found}");
        }
        assert_eq!(nearest(&"a".repeat(65), known), None);
    }

    #[test]
    fn messages_of_serde_get_a_suggestion() {
        let message = "unknown field `vlaue`, expected one of `value`, `values`, `pattern`";
        assert_eq!(
            with_suggestion(message.to_owned()),
            format!("{message}; did you mean `value`?")
        );
        for message in [
            "unknown field `bogus`, expected `value` or `pattern`",
            "unknown field `bogus`, there are no fields",
            "missing field `value`",
        ] {
            assert_eq!(with_suggestion(message.to_owned()), message);
        }
    }
}
