//! Finds the fields that a rule is about in a JSON event, without parsing the rest of it.
//!
//! All fields of a rule are located in one walk, which ends as soon as nothing better can come.
//! Values that no place leads into are skipped over, not built. Events that hold no JSON simply
//! have no fields; nothing here fails. Nothing allocates for an event, except to decode a string or
//! a key that holds escapes or is no UTF-8, and where more than [`INLINE_STATES`] places lead on at
//! once.

use std::{borrow::Cow, ops::ControlFlow};

use crate::{RuleError, shown};

pub(crate) use number::Number;
pub(crate) use scanner::Value;

use path::{Glob, Path, Step};
use scanner::{Kind, Scanner};

pub(crate) mod envelope;
pub(crate) mod member;
mod number;
pub(crate) mod path;
mod scanner;

/// Deepest place that a path may name.
pub(crate) const MAX_DEPTH: usize = 32;

/// Most fields that one rule may name.
pub(crate) const MAX_FIELDS: usize = 16;

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
    pub(crate) fn of_attribute(
        name: &str,
        ignore_case: bool,
        pointer: &str,
    ) -> Result<Self, RuleError> {
        if name.is_empty() {
            return Err(RuleError::new(
                "empty_attribute",
                pointer,
                "the attribute's name is empty; expected one like `service.name`",
            ));
        }
        let step = |key: String| Step::Key(Glob::exact(&key, ignore_case));
        let places = places_of_attribute(name).into_iter();
        let places = places.map(|place| place.into_iter().map(step).collect());
        Ok(Self {
            places: places.collect(),
        })
    }

    /// Reads an exact path in the grammar of [`path`].
    ///
    /// # Errors
    /// [`RuleError`] at `pointer` if it cannot be read.
    pub(crate) fn of_path(path: &str, ignore_case: bool, pointer: &str) -> Result<Self, RuleError> {
        let read = Path::parse(path, ignore_case).map_err(|error| {
            let message = format!("the path is `{}`: {}", shown(path), error.message);
            RuleError::new("invalid_path", pointer, message)
        })?;
        Ok(Self {
            places: vec![read.steps],
        })
    }

    /// Reads the field of a `key`: a path if it begins with `/` or holds a `[` or a `*`, else an
    /// attribute. It must lead to one value.
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
        let field = match key.starts_with('/') || key.contains(['[', '*']) {
            true => Self::of_path(key, false, pointer)?,
            false => Self::of_attribute(key, false, pointer)?,
        };
        if field.has_many_values() {
            return Err(RuleError::new(
                "ambiguous_key",
                pointer,
                format!(
                    "`key` is `{}`, which leads to many values; expected keys without `*`, and one \
                     element, like `[0]`",
                    shown(key)
                ),
            ));
        }
        Ok(field)
    }

    /// Whether one event can have several values of it: a path through `*`, `**` or `[*]`.
    pub(crate) fn has_many_values(&self) -> bool {
        let is_many = |step: &Step| match step {
            Step::Key(glob) => glob.literal().is_none(),
            Step::AnyDepth | Step::Each => true,
            Step::Index(_) => false,
        };
        self.places.iter().flatten().any(is_many)
    }
}

/// The fields of one rule, merged into one tree, so that one walk finds them all.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    /// The tree; the first node is its root.
    nodes: Vec<Node>,
}

/// The number of a node in its tree.
type State = u32;

/// What the steps so far lead to.
#[derive(Debug, Clone, Default)]
struct Node {
    keys: Vec<(Glob, State)>,
    indexes: Vec<(usize, State)>,
    each: Option<State>,
    /// The member or element whatever its key or index: the end of a path that ends with `**`.
    any: Option<State>,
    /// The node behind a `**`, which is active wherever this one is.
    deep: Option<State>,
    /// Whether this node stands behind a `**`: then it stays active all the way down.
    is_deep: bool,
    /// The fields of which this is a place, and which of their places: 0 is the likeliest.
    ends: Vec<(usize, usize)>,
    /// This node, and what stands behind a `**` that follows it.
    active: Vec<State>,
    /// Whether it leads to members by their keys as they are, each to one node, and to nothing
    /// else.
    has_exact_keys_only: bool,
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
        let mut tree = Self {
            nodes: vec![Node::default()],
        };
        for (number, field) in fields.iter().enumerate() {
            for (rank, steps) in field.places.iter().enumerate() {
                let mut state = steps.iter().fold(0, |state, step| tree.child(state, step));
                if steps.last() == Some(&Step::AnyDepth) {
                    state = tree.any_child(state);
                }
                tree.nodes[state as usize].ends.push((number, rank));
            }
        }
        for number in 0..tree.next_state() {
            let next = |state: &State| tree.nodes[*state as usize].deep;
            let active = std::iter::successors(Some(number), next).collect();
            let node = &mut tree.nodes[number as usize];
            node.active = active;
            node.has_exact_keys_only = !node.is_deep
                && node.indexes.is_empty()
                && node.each.is_none()
                && node.any.is_none()
                && node
                    .keys
                    .iter()
                    .all(|(glob, _)| glob.exact_bytes().is_some());
        }
        tree
    }

    fn next_state(&self) -> State {
        State::try_from(self.nodes.len()).expect("a rule has far fewer steps")
    }

    fn child(&mut self, state: State, step: &Step) -> State {
        let new = self.next_state();
        let node = &mut self.nodes[state as usize];
        let child = match step {
            Step::Key(glob) => child_of(&mut node.keys, glob, new),
            Step::Index(index) => child_of(&mut node.indexes, index, new),
            Step::Each => *node.each.get_or_insert(new),
            Step::AnyDepth => *node.deep.get_or_insert(new),
        };
        if child == new {
            self.nodes.push(Node {
                is_deep: *step == Step::AnyDepth,
                ..Node::default()
            });
        }
        child
    }

    fn any_child(&mut self, state: State) -> State {
        let new = self.next_state();
        let child = *self.nodes[state as usize].any.get_or_insert(new);
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// Walks the JSON of the event and shows every value at a place of a field to `visit`, an
    /// object or array behind what is in it, until it breaks.
    ///
    /// What was found before an event turns out to be malformed counts.
    pub(crate) fn locate<'a>(
        &self,
        body: &'a [u8],
        mut visit: impl FnMut(Hit<'a, '_>) -> ControlFlow<()>,
    ) {
        let Some(start) = envelope::json_start(body) else {
            return;
        };
        let mut scanner = Scanner::new(&body[start..]);
        let states = self.states_of(0);
        let _ = self.walk(&mut scanner, &states, 0, &mut visit);
    }

    /// Walks the value at the scanner, at that depth. `None` ends the walk: the visitor broke it
    /// off, or the event is malformed. Recurses at most [`scanner::MAX_NESTING`] deep.
    fn walk<'a>(
        &self,
        scanner: &mut Scanner<'a>,
        states: &States<'_>,
        depth: usize,
        visit: &mut impl FnMut(Hit<'a, '_>) -> ControlFlow<()>,
    ) -> Option<()> {
        let kind = scanner.kind()?;
        if matches!(kind, Kind::Object | Kind::Array) && depth >= scanner::MAX_NESTING {
            return None;
        }
        match kind {
            Kind::Object => {
                let mut more = scanner.open_object()?;
                let exact = match states.as_slice() {
                    &[only] => Some(self.node(only)).filter(|node| node.has_exact_keys_only),
                    _ => None,
                };
                while more {
                    let key = scanner.key()?;
                    // Most rules name their fields exactly, and few members are one of them.
                    let inner = match exact.map(|node| node.child_of_key(&key)) {
                        Some(None) => None,
                        Some(Some(child)) => Some(self.states_of(child)),
                        None => Some(self.of_member(states, &key)),
                    };
                    match inner {
                        Some(inner) => self.descend(scanner, &inner, depth + 1, visit)?,
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
                    let inner = self.of_element(states, index);
                    self.descend(scanner, &inner, depth + 1, visit)?;
                    index += 1;
                    more = scanner.next_element()?;
                }
                Some(())
            }
            _ => scanner.skip(depth),
        }
    }

    /// Walks on into the value at the scanner if a place leads on, and shows it to the visitor if
    /// it is the end of a place. The scanner is behind the value then.
    fn descend<'a>(
        &self,
        scanner: &mut Scanner<'a>,
        states: &States<'_>,
        depth: usize,
        visit: &mut impl FnMut(Hit<'a, '_>) -> ControlFlow<()>,
    ) -> Option<()> {
        if states.as_slice().is_empty() {
            return scanner.skip(depth);
        }
        let nodes = || states.as_slice().iter().map(|&state| self.node(state));
        let is_container = matches!(scanner.kind()?, Kind::Object | Kind::Array);
        let leads_on = is_container && nodes().any(Node::leads_on);
        if nodes().all(|node| node.ends.is_empty()) {
            return match leads_on {
                true => self.walk(scanner, states, depth, visit),
                false => scanner.skip(depth),
            };
        }
        // Of a value that also leads on, the end is known when it was walked: so each byte is read
        // once, however many places lead into each other.
        let value = match leads_on {
            true => {
                let start = scanner.position();
                self.walk(scanner, states, depth, visit)?;
                scanner.container_from(start)
            }
            false => scanner.value(depth)?,
        };
        for node in nodes() {
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
        Some(())
    }
}

impl Fields {
    /// Returns the states that a node has.
    fn states_of(&self, node: State) -> States<'_> {
        States::Known(&self.node(node).active)
    }

    fn node(&self, state: State) -> &Node {
        &self.nodes[state as usize]
    }

    /// Returns the states of a member with that key.
    fn of_member(&self, states: &States<'_>, key: &Value<'_>) -> States<'_> {
        let mut inner = States::none();
        // Nearly every key is compared as it is written: only globs and escapes need it decoded.
        let written = key.unescaped();
        let mut decoded = None;
        for &state in states.as_slice() {
            for (glob, child) in &self.node(state).keys {
                let is_meant = match (glob.exact_bytes(), written) {
                    (Some(exact), Some(written)) => exact == written,
                    _ => glob.matches(decoded.get_or_insert_with(|| text(key))),
                };
                if is_meant {
                    inner.add(&self.nodes, *child);
                }
            }
            self.add_whatever_the_key(&mut inner, state);
        }
        inner
    }

    /// Returns the states of the element with that index.
    fn of_element(&self, states: &States<'_>, index: usize) -> States<'_> {
        let mut inner = States::none();
        for &state in states.as_slice() {
            let node = self.node(state);
            for (_, child) in node.indexes.iter().filter(|(known, _)| *known == index) {
                inner.add(&self.nodes, *child);
            }
            if let Some(each) = node.each {
                inner.add(&self.nodes, each);
            }
            self.add_whatever_the_key(&mut inner, state);
        }
        inner
    }

    /// Adds what a state leads to whatever the key or the index.
    fn add_whatever_the_key(&self, inner: &mut States<'_>, state: State) {
        let node = self.node(state);
        if let Some(any) = node.any {
            inner.add(&self.nodes, any);
        }
        if node.is_deep {
            inner.add(&self.nodes, state);
        }
    }
}

impl Node {
    /// Returns what the key leads to, if keys alone lead on and no two are alike.
    fn child_of_key(&self, key: &Value<'_>) -> Option<State> {
        let find = |key: &[u8]| {
            let mut keys = self.keys.iter();
            keys.find(|(glob, _)| glob.exact_bytes() == Some(key))
        };
        let found = match key.unescaped() {
            Some(written) => find(written),
            None => find(text(key).as_bytes()),
        };
        found.map(|&(_, child)| child)
    }

    fn leads_on(&self) -> bool {
        self.is_deep
            || !self.keys.is_empty()
            || !self.indexes.is_empty()
            || self.each.is_some()
            || self.any.is_some()
    }
}

fn child_of<K: PartialEq + Clone>(children: &mut Vec<(K, State)>, key: &K, new: State) -> State {
    let known = children.iter().find(|(known, _)| known == key);
    known.map(|&(_, child)| child).unwrap_or_else(|| {
        children.push((key.clone(), new));
        new
    })
}

/// So many states need no memory of their own.
const INLINE_STATES: usize = 8;

/// The nodes that the steps to a value lead to.
///
/// **Shape**: no node is in it twice, so that it has at most as many as the rule has steps.
enum States<'t> {
    /// As one node has them.
    Known(&'t [State]),
    Few([State; INLINE_STATES], usize),
    Many(Vec<State>),
}

impl States<'_> {
    fn none() -> Self {
        Self::Known(&[])
    }

    fn as_slice(&self) -> &[State] {
        match self {
            Self::Known(states) => states,
            Self::Few(states, count) => &states[..*count],
            Self::Many(states) => states,
        }
    }

    /// Adds the states that a node has.
    fn add(&mut self, nodes: &[Node], node: State) {
        for &state in &nodes[node as usize].active {
            // A node has one way to it, but a deep one also stays from the level above.
            if nodes[state as usize].is_deep && self.as_slice().contains(&state) {
                return;
            }
            self.push(state);
        }
    }

    fn push(&mut self, state: State) {
        match self {
            Self::Known(states) => {
                let mut few = [0; INLINE_STATES];
                few[0] = state;
                *self = match states.is_empty() {
                    true => Self::Few(few, 1),
                    false => Self::Many([states, [state].as_slice()].concat()),
                };
            }
            Self::Few(states, count) if *count < INLINE_STATES => {
                states[*count] = state;
                *count += 1;
            }
            Self::Few(states, _) => {
                *self = Self::Many([states.as_slice(), [state].as_slice()].concat());
            }
            Self::Many(states) => states.push(state),
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

/// Says whether the body is one JSON value of any kind, and nothing else.
pub(crate) fn is_value(body: &[u8]) -> bool {
    let mut scanner = Scanner::new(body);
    let is_whole = scanner.skip(0).is_some() && scanner.is_at_end();
    is_whole && std::str::from_utf8(body).is_ok()
}

/// Returns a value as text: a string decoded, everything else as it is written. Bytes that are no
/// UTF-8 become replacement characters.
pub(crate) fn text<'a>(value: &Value<'a>) -> Cow<'a, str> {
    value
        .decoded()
        .unwrap_or_else(|| scanner::readable(value.raw()))
}

/// Returns a value as [`text`] does, but with bytes that are no UTF-8 as they are, so that texts
/// that differ stay different.
pub(crate) fn bytes<'a>(value: &Value<'a>) -> Cow<'a, [u8]> {
    match value.unescaped() {
        Some(inner) => Cow::Borrowed(inner),
        None => match value.decoded() {
            Some(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
            Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
            None => Cow::Borrowed(value.raw()),
        },
    }
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
            Field::of_attribute(attribute, false, "/p").expect("valid"),
        )
    }

    fn all(event: &str, paths: &[&str]) -> Vec<(usize, String)> {
        let fields: Vec<Field> = paths
            .iter()
            .map(|path| Field::of_path(path, false, "/p").expect("valid"))
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
    }

    #[test]
    fn one_bad_byte_hides_no_field() {
        let field = || Field::of_attribute("k", false, "/p").expect("valid");
        let event = b"{\"a\":\"\xff\",\"\xfe\":1,\"k\":\"v\"}";
        assert_eq!(find(event, field()).as_deref(), Some("v"));
        let event = b"\xff {\"k\":\"a\xffb\"}";
        assert_eq!(find(event, field()).as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn fields_are_found_behind_an_envelope() {
        for event in [
            "\u{feff}{\"k\":\"v\"}",
            "\0{\"k\":\"v\"}",
            "<134>1 2026-11-28T09:14:02Z host app - - - {\"k\":\"v\"}",
            "2026-11-28T09:14:02.5Z stdout F {\"k\":\"v\"}",
            "INFO body={\"k\":\"v\"} and more",
        ] {
            assert_eq!(found(event, "k").as_deref(), Some("v"), "{event}");
        }
    }

    fn values(event: &str, path: &str) -> String {
        let hits = all(event, &[path]).into_iter().map(|(_, text)| text);
        hits.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn stars_lead_to_many_values() {
        let event = r#"{"a":{"x":1,"y":{"x":2,"z":[{"x":3},4]}},"b_x":5,"x":6}"#;
        for (path, expected) in [
            ("*/x", "1"),
            ("a/*/x", "2"),
            ("**/x", "1 2 3 6"),
            ("a/**/x", "1 2 3"),
            (
                "a/**",
                r#"1 2 3 {"x":3} 4 [{"x":3},4] {"x":2,"z":[{"x":3},4]}"#,
            ),
            ("a/y/z/**", r#"3 {"x":3} 4"#),
            ("x/**", ""),
            ("**/z[*]", r#"{"x":3} 4"#),
            ("**/[0]/x", "3"),
            ("*_x", "5"),
            ("**/y/**/x", "2 3"),
            ("**/*/**/*/x", "2"),
            ("**/*/**/*/**/x", "2 3"),
            ("a.y.*[1]", "4"),
            (r#"["*"]"#, ""),
        ] {
            assert_eq!(values(event, path), expected, "{path}");
        }
        assert_eq!(values(r#"[{"a":1},{"a":2}]"#, "[1]/a"), "2");
        assert_eq!(values(r#"{"\u0061b":1}"#, "a*"), "1");
    }

    #[test]
    fn case_is_ignored_where_the_rule_says_so() {
        let event = br#"{"Headers":{"X-Api-Key":"v"}}"#;
        let path = |ignore_case| Field::of_path("headers/x-api-*", ignore_case, "/p");
        assert_eq!(find(event, path(false).expect("valid")), None);
        assert_eq!(
            find(event, path(true).expect("valid")).as_deref(),
            Some("v")
        );
        let name = Field::of_attribute("headers.x-api-key", true, "/p");
        assert_eq!(find(event, name.expect("valid")).as_deref(), Some("v"));
    }

    #[test]
    fn any_depth_takes_linear_time_and_bounded_stack() {
        let depth = scanner::MAX_NESTING;
        let nested = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert_eq!(values(&nested, "**/a").split(' ').count(), depth);
        assert_eq!(values(&format!(r#"{{"a":{nested}}}"#), "**/a"), "");
        let paths = ["**/a/**/a/**/a/**/a/**/b", "**/**/a/**", "**/*a*/**/*a*/x"];
        let inner = r#"{"a":{"a":{"a":1}}}"#;
        let wide = format!("{{\"m\":[{}]}}", vec![inner; 20_000].join(","));
        let start = std::time::Instant::now();
        assert_eq!(all(&wide, &paths).len(), 40_000);
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
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
        let fault = Field::of_path("a..b", false, "/p").expect_err("a..b");
        assert_eq!((fault.code, &*fault.pointer), ("invalid_path", "/p"));
        assert!(fault.message.contains("write `a.b`"), "{}", fault.message);
    }

    #[test]
    fn one_walk_finds_all_fields_even_one_inside_another() {
        let event = r#"{"a":{"b":[1,2]},"c":"x"}"#;
        let hits = all(event, &["c", "a", "a.b[*]", "a.b[1]", "a.b"]);
        let expected = [
            (2, "1"),
            (3, "2"),
            (2, "2"),
            (4, "[1,2]"),
            (1, "{\"b\":[1,2]}"),
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
            ("/user/*", "ambiguous_key"),
            ("user.*", "ambiguous_key"),
            ("**/id", "ambiguous_key"),
            ("/user/na*", "ambiguous_key"),
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
                expect(2, element.get("b"));
                if at == 1 {
                    expect(1, Some(element));
                }
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
            let fields = ["a", "a.a", "a[*]"].map(|path| Field::of_path(path, false, "/p").expect("valid"));
            Fields::new(&fields).locate(&body, |hit| {
                let _ = text(hit.value);
                let _ = Number::of(hit.value);
                ControlFlow::Continue(())
            });
            let _ = member::find(&body, "a");
        }
    }
}
