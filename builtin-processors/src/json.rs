//! Finds the fields that a rule is about in a JSON event, without parsing the rest of it.
//!
//! All fields of a rule are located in one walk, which ends as soon as nothing better can come.
//! Values that no place leads into are skipped over, not built. Bytes that are no JSON object simply
//! have no fields; nothing here fails, and nothing allocates for an event, except to decode a string
//! or a key that holds escapes.

use std::{borrow::Cow, ops::ControlFlow};

use crate::{RuleError, shown};

pub(crate) use number::Number;
pub(crate) use scanner::Value;
use scanner::{Kind, Scanner};

pub(crate) mod member;
mod number;
mod scanner;

/// Deepest place that a path may name.
pub(crate) const MAX_DEPTH: usize = 32;

/// Most fields that one rule may name.
pub(crate) const MAX_FIELDS: usize = 16;

/// One step from a value to a value inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The member of an object with that key.
    Key(String),
    /// The element of an array, counted from 0.
    Index(usize),
    /// Every element of an array.
    Each,
}

/// One field: the places where it may be, the likeliest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    places: Vec<Vec<Step>>,
}

impl Field {
    /// Reads the name of an attribute, which is looked for in its usual places.
    ///
    /// # Errors
    /// [`RuleError`] at `pointer` if the name is empty.
    pub(crate) fn of_attribute(name: &str, pointer: &str) -> Result<Self, RuleError> {
        if name.is_empty() {
            return Err(RuleError::new(
                "empty_attribute",
                pointer,
                "the attribute's name is empty; expected one like `service.name`",
            ));
        }
        let keys = |place: Vec<String>| place.into_iter().map(Step::Key).collect();
        let places = places_of_attribute(name).into_iter().map(keys).collect();
        Ok(Self { places })
    }

    /// Reads an exact path: with a `/` in it, keys joined by `/` (a leading one is allowed; `~1` is a
    /// `/` in a key, `~0` a `~`, as in RFC 6901); else keys joined by `.`, where `["a.b"]` is a key
    /// that holds a dot. In both, `[3]` is an element of an array and `[*]` each of them.
    ///
    /// # Errors
    /// [`RuleError`] at `pointer` if it cannot be read, or is deeper than [`MAX_DEPTH`].
    pub(crate) fn of_path(path: &str, pointer: &str) -> Result<Self, RuleError> {
        let steps = match path.contains('/') {
            true => steps_of_slashes(path),
            false => steps_of_dots(path),
        };
        let steps = steps.filter(|steps| steps.len() <= MAX_DEPTH);
        let steps = steps.ok_or_else(|| {
            RuleError::new(
                "invalid_path",
                pointer,
                format!(
                    "the path is `{}`; expected 1 to {MAX_DEPTH} steps like `http/target`, \
                     `http.target`, `items[0].id` or `items[*].id`, no key empty",
                    shown(path)
                ),
            )
        })?;
        Ok(Self {
            places: vec![steps],
        })
    }

    /// Reads the field of a `key`: a path if it begins with `/` or holds a `[`, else an attribute.
    /// It must lead to one value.
    ///
    /// # Errors
    /// [`RuleError`] at `pointer`.
    pub(crate) fn of_key(key: &str, pointer: &str) -> Result<Self, RuleError> {
        if key.is_empty() {
            return Err(RuleError::new(
                "empty_key",
                pointer,
                "`key` is empty; expected a name like `trace_id`, or no `key` at all",
            ));
        }
        let field = match key.starts_with('/') || key.contains('[') {
            true => Self::of_path(key, pointer)?,
            false => Self::of_attribute(key, pointer)?,
        };
        if field.has_many_values() {
            return Err(RuleError::new(
                "ambiguous_key",
                pointer,
                format!(
                    "`key` is `{}`, which leads to many values; expected one element, like `[0]`",
                    shown(key)
                ),
            ));
        }
        Ok(field)
    }

    /// Whether one event can have several values of it: a path through `[*]`.
    pub(crate) fn has_many_values(&self) -> bool {
        self.places.iter().any(|steps| steps.contains(&Step::Each))
    }
}

/// The fields of one rule, merged into one tree, so that one walk finds them all.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    root: Node,
}

/// What the steps so far lead to.
#[derive(Debug, Clone, Default)]
struct Node {
    keys: Vec<(String, Node)>,
    indexes: Vec<(usize, Node)>,
    each: Option<Box<Node>>,
    /// The fields of which this is a place, and which of their places: 0 is the likeliest.
    ends: Vec<(usize, usize)>,
}

/// A value that was found.
pub(crate) struct Hit<'a, 'b> {
    /// Which of the rule's fields it is, counted from 0.
    pub(crate) field: usize,
    /// At which of the field's places, counted from 0: the least is the field's value.
    pub(crate) rank: usize,
    /// The value.
    pub(crate) value: &'b Value<'a>,
}

impl Fields {
    /// Merges the fields; they are numbered in that order.
    pub(crate) fn new(fields: &[Field]) -> Self {
        let mut root = Node::default();
        for (number, field) in fields.iter().enumerate() {
            for (rank, steps) in field.places.iter().enumerate() {
                let node = steps.iter().fold(&mut root, Node::child);
                node.ends.push((number, rank));
            }
        }
        Self { root }
    }

    /// Walks the event and shows every value at a place of a field to `visit`, in the order in which
    /// they stand, until it breaks.
    pub(crate) fn locate<'a>(
        &self,
        body: &'a [u8],
        mut visit: impl FnMut(Hit<'a, '_>) -> ControlFlow<()>,
    ) {
        // Nearly every event that is no JSON is told by its first byte.
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'{') {
            return;
        }
        if let Ok(text) = std::str::from_utf8(body) {
            // What was found before an event turns out to be malformed counts.
            let mut scanner = Scanner::new(text);
            let _ = walk(&mut scanner, &self.root, 0, &mut visit);
        }
    }
}

impl Node {
    fn child(&mut self, step: &Step) -> &mut Self {
        match step {
            Step::Key(key) => child_of(&mut self.keys, key),
            Step::Index(index) => child_of(&mut self.indexes, index),
            Step::Each => self.each.get_or_insert_default(),
        }
    }

    fn key(&self, key: &str) -> Option<&Self> {
        self.keys
            .iter()
            .find_map(|(known, node)| (known == key).then_some(node))
    }

    fn index(&self, index: usize) -> Option<&Self> {
        self.indexes
            .iter()
            .find_map(|(known, node)| (*known == index).then_some(node))
    }

    fn leads_on(&self) -> bool {
        !self.keys.is_empty() || !self.indexes.is_empty() || self.each.is_some()
    }
}

fn child_of<'a, K: PartialEq + Clone>(children: &'a mut Vec<(K, Node)>, key: &K) -> &'a mut Node {
    let at = children.iter().position(|(known, _)| known == key);
    let at = at.unwrap_or_else(|| {
        children.push((key.clone(), Node::default()));
        children.len() - 1
    });
    &mut children[at].1
}

/// Walks the value at the scanner, at that depth. `None` ends the walk: the visitor broke it off, or
/// the event is malformed. Recurses at most [`MAX_DEPTH`] deep, as places are no longer.
fn walk<'a>(
    scanner: &mut Scanner<'a>,
    node: &Node,
    depth: usize,
    visit: &mut impl FnMut(Hit<'a, '_>) -> ControlFlow<()>,
) -> Option<()> {
    match scanner.kind()? {
        Kind::Object => {
            let mut more = scanner.open_object()?;
            while more {
                let key = scanner.key()?;
                match node.key(&key) {
                    Some(child) => descend(scanner, &[child], depth + 1, visit)?,
                    None => scanner.skip(depth + 1)?,
                }
                more = scanner.next_member()?;
            }
            Some(())
        }
        Kind::Array => {
            let mut more = scanner.open_array()?;
            let mut index = 0;
            while more {
                match (node.index(index), node.each.as_deref()) {
                    (Some(one), Some(each)) => {
                        descend(scanner, &[one, each], depth + 1, visit)?;
                    }
                    (Some(node), None) | (None, Some(node)) => {
                        descend(scanner, &[node], depth + 1, visit)?;
                    }
                    (None, None) => scanner.skip(depth + 1)?,
                }
                index += 1;
                more = scanner.next_element()?;
            }
            Some(())
        }
        _ => scanner.skip(depth),
    }
}

/// Shows the value at the scanner to the visitor if it is the end of a place, and walks on into it if
/// a place leads on. The scanner is behind the value then.
fn descend<'a>(
    scanner: &mut Scanner<'a>,
    nodes: &[&Node],
    depth: usize,
    visit: &mut impl FnMut(Hit<'a, '_>) -> ControlFlow<()>,
) -> Option<()> {
    let value = match nodes.iter().any(|node| !node.ends.is_empty()) || nodes.len() > 1 {
        // The ends of a value are known when it was skipped over; one that also leads on is rare
        // and is walked again.
        true => {
            let before = scanner.position();
            let value = scanner.value(depth)?;
            let behind = scanner.position();
            for node in nodes {
                for &(field, rank) in &node.ends {
                    let hit = Hit {
                        field,
                        rank,
                        value: &value,
                    };
                    if visit(hit).is_break() {
                        return None;
                    }
                }
            }
            Some((before, behind))
        }
        false => None,
    };
    match value {
        None => walk(scanner, nodes.first()?, depth, visit),
        Some((before, behind)) => {
            for node in nodes.iter().filter(|node| node.leads_on()) {
                scanner.go_to(before);
                walk(scanner, node, depth, visit)?;
            }
            scanner.go_to(behind);
            Some(())
        }
    }
}

/// Lists the places where an attribute of that name is looked for, the likeliest first.
///
/// They are the usual ones of OpenTelemetry's JSON and of loggers that imitate it: the top level,
/// the event's `attributes`, its resource, its body; a dotted name also as nested objects.
/// `log.level` is also known by the names that the log data model gives it.
///
/// Source: the search paths of the project's seed; OpenTelemetry log data model, "Severity".
fn places_of_attribute(attribute: &str) -> Vec<Vec<String>> {
    let place = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect();
    let mut places: Vec<Vec<String>> = vec![place(&[attribute])];
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
pub(crate) fn place_of_path(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let place: Vec<String> = path
        .split('/')
        .map(|key| key.replace("~1", "/").replace("~0", "~"))
        .collect();
    let valid = place.len() <= MAX_DEPTH && place.iter().all(|key| !key.is_empty());
    valid.then_some(place)
}

fn steps_of_slashes(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for key in place_of_path(path)? {
        let (key, brackets) = key.split_at(key.find('[').unwrap_or(key.len()));
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        } else if steps.is_empty() {
            return None;
        }
        push_brackets(brackets, &mut steps)?;
    }
    Some(steps)
}

fn steps_of_dots(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        let (key, behind) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        } else if !behind.starts_with("[\"") {
            return None;
        }
        rest = behind;
        while rest.starts_with('[') {
            let (step, behind) = bracket(rest)?;
            steps.push(step);
            rest = behind;
        }
        if rest.is_empty() {
            return Some(steps);
        }
        rest = rest.strip_prefix('.')?;
    }
}

fn push_brackets(mut text: &str, steps: &mut Vec<Step>) -> Option<()> {
    while !text.is_empty() {
        let (step, behind) = bracket(text)?;
        steps.push(step);
        text = behind;
    }
    Some(())
}

/// Reads `[3]`, `[*]` or `["key"]`; returns the rest too.
fn bracket(text: &str) -> Option<(Step, &str)> {
    let inner = text.strip_prefix('[')?;
    if let Some(quoted) = inner.strip_prefix('"') {
        let (key, behind) = quoted.split_once("\"]")?;
        return (!key.is_empty()).then(|| (Step::Key(key.to_owned()), behind));
    }
    let (inner, behind) = inner.split_once(']')?;
    if inner == "*" {
        return Some((Step::Each, behind));
    }
    // `parse` would take a sign.
    let digits = !inner.is_empty() && inner.bytes().all(|byte| byte.is_ascii_digit());
    let index = inner.parse().ok().filter(|_| digits)?;
    Some((Step::Index(index), behind))
}

/// Says whether the body is one JSON value of any kind, and nothing else.
pub(crate) fn is_value(body: &[u8]) -> bool {
    let value = |text| {
        let mut scanner = Scanner::new(text);
        scanner.skip(0)?;
        Some(scanner.is_at_end())
    };
    std::str::from_utf8(body).ok().and_then(value) == Some(true)
}

/// Returns a value as text: a string decoded, everything else as it is written.
pub(crate) fn text<'a>(value: &Value<'a>) -> Cow<'a, str> {
    value.decoded().unwrap_or(Cow::Borrowed(value.raw()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(body: &[u8], field: Field) -> Option<String> {
        let mut best: Option<(usize, String)> = None;
        Fields::new(&[field]).locate(body, |hit| {
            if best.as_ref().is_none_or(|(rank, _)| hit.rank < *rank) {
                best = Some((hit.rank, text(hit.value).into_owned()));
            }
            ControlFlow::Continue(())
        });
        best.map(|(_, text)| text)
    }

    fn found(event: &str, attribute: &str) -> Option<String> {
        find(
            event.as_bytes(),
            Field::of_attribute(attribute, "/p").expect("valid"),
        )
    }

    fn all(event: &str, paths: &[&str]) -> Vec<(usize, String)> {
        let fields: Vec<Field> = paths
            .iter()
            .map(|path| Field::of_path(path, "/p").expect("valid"))
            .collect();
        let mut hits = Vec::new();
        Fields::new(&fields).locate(event.as_bytes(), |hit| {
            hits.push((hit.field, text(hit.value).into_owned()));
            ControlFlow::Continue(())
        });
        hits
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
            "{\"a\":[1,,2],\"k\":1}",
            "{\"a\":01,\"k\":1}",
            "{\"a\":{]},\"k\":1}",
        ] {
            assert_eq!(found(event, "k"), None, "{event}");
        }
        assert_eq!(
            find(
                b"{\"k\":\"\xff\"}",
                Field::of_attribute("k", "/p").expect("valid")
            ),
            None
        );
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
        let deepest = scanner::MAX_NESTING;
        assert_eq!(found(&nested(100_000, ""), "k"), None);
        assert_eq!(found(&nested(deepest, ""), "k"), None);
        assert_eq!(found(&nested(deepest - 1, ""), "k").as_deref(), Some("v"));
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

    #[test]
    fn paths_lead_through_objects_and_arrays() {
        let event = r#"{"a":{"b":[{"c":1},{"c":2,"d.e":3}]},"a.b":4,"x":[[5,6],[7]]}"#;
        for (path, values) in [
            ("a.b[0].c", "1"),
            ("a.b[1].c", "2"),
            ("a/b[1]/c", "2"),
            ("a/b/[1]/c", "2"),
            ("a.b[*].c", "1 2"),
            ("a.b[1][\"d.e\"]", "3"),
            ("/a/b[1]/d.e", "3"),
            ("[\"a.b\"]", "4"),
            ("/a.b", "4"),
            ("x[0][1]", "6"),
            ("x[*][0]", "5 7"),
            ("x[*][*]", "5 6 7"),
            ("x[2]", ""),
            ("a.c", ""),
            ("a[0]", ""),
            ("x.y", ""),
        ] {
            let found: Vec<String> = all(event, &[path])
                .into_iter()
                .map(|(_, text)| text)
                .collect();
            assert_eq!(found.join(" "), values, "{path}");
        }
        for path in [
            "", ".", "a.", ".a", "a..b", "a[", "a[]", "a[-1]", "a[+1]", "a[x]", "a[0]b", "[0]",
            "/[0]", "a[\"\"]", "a//b", "/", "a[0", "[*].a",
        ] {
            let fault = Field::of_path(path, "/p").expect_err(path);
            assert_eq!((fault.code, &*fault.pointer), ("invalid_path", "/p"));
        }
        assert!(Field::of_path(&"a.".repeat(MAX_DEPTH), "/p").is_err());
    }

    #[test]
    fn one_walk_finds_all_fields_even_one_inside_another() {
        let event = r#"{"a":{"b":[1,2]},"c":"x"}"#;
        let hits = all(event, &["c", "a", "a.b[*]", "a.b[1]", "a.b"]);
        let expected = [
            (1, "{\"b\":[1,2]}"),
            (4, "[1,2]"),
            (2, "1"),
            (3, "2"),
            (2, "2"),
            (0, "x"),
        ];
        assert_eq!(hits, expected.map(|(field, text)| (field, text.to_owned())));
    }

    #[test]
    fn keys_that_cannot_be_read_are_refused() {
        for (key, code) in [
            ("", "empty_key"),
            ("/a//b", "invalid_path"),
            ("a[x]", "invalid_path"),
            ("items[*].id", "ambiguous_key"),
        ] {
            let fault = Field::of_key(key, "/params/key").expect_err(key);
            assert_eq!((fault.code, &*fault.pointer), (code, "/params/key"));
        }
        assert_eq!(
            find(
                br#"{"items":[{"id":7}]}"#,
                Field::of_key("items[0].id", "/p").expect("valid")
            )
            .as_deref(),
            Some("7")
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            any::<i32>().prop_map(|eighths| (f64::from(eighths) / 8.0).into()),
            ".{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-c\"\\\\é]{1,2}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_is_found_is_what_a_parser_finds(inner in json(), pretty in any::<bool>()) {
            let event = serde_json::json!({"a": inner, "z": 1});
            let body = match pretty {
                true => serde_json::to_string_pretty(&event).expect("JSON"),
                false => event.to_string(),
            };
            let hits = all(&body, &["a.a", "a[1]", "a[*].b", "z"]);
            let mut expected = Vec::new();
            let mut expect = |field, value: Option<&serde_json::Value>| {
                if let Some(value) = value {
                    expected.push((field, value.clone()));
                }
            };
            expect(0, event["a"].get("a"));
            for (at, element) in event["a"].as_array().into_iter().flatten().enumerate() {
                if at == 1 {
                    expect(1, Some(element));
                }
                expect(2, element.get("b"));
            }
            expect(3, event.get("z"));
            let hits: Vec<(usize, serde_json::Value)> = hits
                .into_iter()
                .zip(&expected)
                .map(|((field, text), (_, expected))| {
                    let value = match expected {
                        serde_json::Value::String(_) => text.into(),
                        _ => serde_json::from_str(&text).expect("raw JSON"),
                    };
                    (field, value)
                })
                .collect();
            prop_assert_eq!(hits, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(
            prop_oneof![
                Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b':'),
                Just(b','), Just(b'\\'), Just(b'a'), Just(b'1'), Just(b'-'), Just(b'.'),
                Just(b'e'), Just(b' '), any::<u8>(),
            ],
            0..60,
        )) {
            let body = [b"{\"a\":".as_slice(), &body].concat();
            let fields = ["a", "a.a", "a[*]"].map(|path| Field::of_path(path, "/p").expect("valid"));
            Fields::new(&fields).locate(&body, |hit| {
                let _ = text(hit.value);
                let _ = Number::of(hit.value);
                ControlFlow::Continue(())
            });
            let _ = member::find(&body, "a");
        }
    }
}
