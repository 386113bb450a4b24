//! Finds one field of a JSON event, without parsing the rest of it.
//!
//! The event is walked lazily: values that no place leads into are skipped over, not built. Bytes
//! that are no JSON object simply have no fields; nothing here fails or allocates for an event,
//! except to decode a string or a key that holds escapes.

use std::borrow::Cow;

use sonic_rs::{JsonValueTrait, LazyValue, ObjectJsonIter};

/// Where a field may be: keys from the outermost object inwards.
pub(crate) type Place = Vec<String>;

/// Deepest place that a path may name.
pub(crate) const MAX_DEPTH: usize = 32;

/// Deepest nesting of an event whose fields are looked at. The JSON library skips values by
/// recursion, and an event of a hundred thousand `[` must not overflow a worker's stack. Deeper
/// events are treated as text.
const MAX_NESTING: usize = 128;

/// Lists the places where an attribute of that name is looked for, the likeliest first.
///
/// They are the usual ones of OpenTelemetry's JSON and of loggers that imitate it: the top level,
/// the event's `attributes`, its resource, its body; a dotted name also as nested objects.
/// `log.level` is also known by the names that the log data model gives it.
///
/// Source: the search paths of the project's seed; OpenTelemetry log data model, "Severity".
pub(crate) fn places_of_attribute(attribute: &str) -> Vec<Place> {
    let place = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Place>();
    let mut places = vec![place(&[attribute])];
    if attribute.contains('.') {
        places.push(attribute.split('.').map(str::to_owned).collect());
    }
    for outer in [
        &["attributes"][..],
        &["resource", "attributes"],
        &["resourceAttributes"],
        &["resource"],
        &["body"],
    ] {
        places.push(place(&[outer, &[attribute]].concat()));
    }
    if attribute == "log.level" {
        for name in [
            "severity",
            "severityText",
            "SeverityText",
            "severity_text",
            "level",
        ] {
            places.push(place(&[name]));
        }
    }
    places
}

/// Splits an explicit path, `resource/attributes/service.name`. A leading `/` is allowed; `~1`
/// stands for a `/` in a key and `~0` for a `~`, as in RFC 6901.
pub(crate) fn place_of_path(path: &str) -> Option<Place> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let place: Place = path
        .split('/')
        .map(|key| key.replace("~1", "/").replace("~0", "~"))
        .collect();
    let valid = place.len() <= MAX_DEPTH && place.iter().all(|key| !key.is_empty());
    valid.then_some(place)
}

/// Finds the value at the first of `places` that the event has one at.
pub(crate) fn find<'a>(body: &'a [u8], places: &[Place]) -> Option<LazyValue<'a>> {
    // Nearly every event that is no JSON is told by its first byte.
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') || nests_deeper(body, MAX_NESTING) {
        return None;
    }
    let mut best = None;
    walk(
        sonic_rs::to_object_iter(body),
        places,
        0,
        u64::MAX,
        &mut best,
    );
    best.map(|(_, value)| value)
}

/// Says whether arrays and objects are nested more than `limit` deep.
fn nests_deeper(body: &[u8], limit: usize) -> bool {
    // Nesting cannot exceed the number of opening brackets, and counting those is vectorised.
    if memchr::memchr2_iter(b'[', b'{', body)
        .take(limit + 1)
        .count()
        <= limit
    {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}

/// Walks one object. `open` has a bit for each place whose first `depth` keys led here.
fn walk<'a>(
    object: ObjectJsonIter<'a>,
    places: &[Place],
    depth: usize,
    open: u64,
    best: &mut Option<(usize, LazyValue<'a>)>,
) {
    for member in object {
        // The rest of a malformed object cannot be told; what was found before it counts.
        let Ok((key, value)) = member else { return };
        let mut deeper = 0;
        for (at, place) in places.iter().enumerate() {
            if open & (1 << at) == 0 || place.get(depth).is_none_or(|wanted| *wanted != *key) {
                continue;
            }
            if place.len() > depth + 1 {
                deeper |= 1 << at;
            } else if best.as_ref().is_none_or(|(found, _)| at < *found) {
                *best = Some((at, value.clone()));
                if at == 0 {
                    return;
                }
            }
        }
        if deeper != 0
            && let Some(object) = value.into_object_iter()
        {
            walk(object, places, depth + 1, deeper, best);
        }
    }
}

/// Returns a value as text: a string decoded, everything else as it is written.
pub(crate) fn text<'a>(value: &'a LazyValue<'_>) -> Cow<'a, str> {
    match value.as_str() {
        Some(decoded) => Cow::Borrowed(decoded),
        None => Cow::Borrowed(value.as_raw_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(event: &str, attribute: &str) -> Option<String> {
        let value = find(event.as_bytes(), &places_of_attribute(attribute))?;
        Some(text(&value).into_owned())
    }

    #[test]
    fn the_usual_places_are_searched() {
        for event in [
            r#"{"service.name":"x"}"#,
            r#"{"a":[{"service.name":"y"}],"service":{"name":"x"}}"#,
            r#"{"attributes":{"service.name":"x"}}"#,
            r#"{"resource":{"attributes":{"b":1,"service.name":"x"}}}"#,
            r#"{"resourceAttributes":{"service.name":"x"}}"#,
            r#" {"resource":{"service.name":"x"}}"#,
            r#"{"body":{"service.name":"x"}, "other": "service.name"}"#,
            r#"{"service\u002ename":"\u0078"}"#,
        ] {
            assert_eq!(
                found(event, "service.name").as_deref(),
                Some("x"),
                "{event}"
            );
        }
        assert_eq!(
            found(r#"{"severityText":"INFO"}"#, "log.level").as_deref(),
            Some("INFO")
        );
        assert_eq!(found(r#"{"n":1.50}"#, "n").as_deref(), Some("1.50"));
    }

    #[test]
    fn the_likeliest_place_wins_wherever_it_stands() {
        let event = r#"{"body":{"k":"3"},"attributes":{"k":"2"},"k":"1"}"#;
        assert_eq!(found(event, "k").as_deref(), Some("1"));
    }

    #[test]
    fn what_is_no_json_has_no_fields() {
        for event in [
            "",
            "k=1",
            "{",
            "{\"k\"",
            "{\"k\":}",
            "[{\"k\":1}]",
            "{\"a\":tru,\"k\":1}",
        ] {
            assert_eq!(found(event, "k"), None, "{event}");
        }
        assert!(find(b"{\"k\":\"\xff\"}", &places_of_attribute("k")).is_none());
    }

    #[test]
    fn deep_nesting_overflows_no_stack() {
        let nested = |depth: usize, text: &str| {
            format!(
                r#"{{"a":{}"{text}"{},"k":"v"}}"#,
                "[".repeat(depth),
                "]".repeat(depth)
            )
        };
        assert_eq!(found(&nested(100_000, ""), "k"), None);
        assert_eq!(found(&nested(MAX_NESTING, ""), "k"), None);
        assert_eq!(
            found(&nested(MAX_NESTING - 1, ""), "k").as_deref(),
            Some("v")
        );
        let brackets_in_text = nested(3, &r#"[[\"{"#.repeat(1000));
        assert_eq!(found(&brackets_in_text, "k").as_deref(), Some("v"));
        let closed_in_text = nested(100_000, &"]".repeat(200_000));
        assert_eq!(found(&closed_in_text, "k"), None);
    }

    #[test]
    fn paths_are_split_at_slashes() {
        let keys = |path| place_of_path(path).expect("valid").join("|");
        assert_eq!(keys("a/b.c"), "a|b.c");
        assert_eq!(keys("/a~1b/~0"), "a/b|~");
        assert!(place_of_path("a//b").is_none());
        assert!(place_of_path("").is_none());
    }
}
