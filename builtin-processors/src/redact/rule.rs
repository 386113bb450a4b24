//! One rule: what it looks for, where, and what it does about it.

use std::{cmp::Reverse, collections::HashSet, ops::Range};

use regex_automata::{Match, util::captures::Captures};
use serde::Deserialize;

use crate::{
    OnError, RuleError,
    detectors::{self, Boundary, Detector},
    list,
    matcher::{MAX_PATTERN_BYTES, Pattern, Use},
    scan::ByteSet,
    shown,
    view::{Kind, NONE, Node, Structure, TextName, View},
};

use super::{
    action::{self, Hasher, MAX_KEY_ID_BYTES, Mask},
    fields::{Fields, MAX_FIELDS, Selection},
    key,
    replacement::{self, Part},
    search::{Found, Known, Parts, Search, TooMuch},
    write::{Span, Writer},
};

/// Most values in `allow`.
const MAX_ALLOWED: usize = 100_000;

#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) targets: Vec<Target>,
    pub(super) on_error: OnError,
    action: Action,
    /// The fields, and whether it is about them or about all others.
    fields: Option<(Fields, bool)>,
    on_unstructured: OnUnstructured,
    /// Which of the texts of an event it looks at.
    text: TextUse,
    allow: HashSet<Box<[u8]>>,
    /// Where the groups of a match go, if the replacement names one.
    captures: Option<Captures>,
    /// What it could not tell the fields of, since that was asked for last.
    pub(super) notes: Notes,
}

/// How many events a rule looked into that its fields could not be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notes {
    /// Events that begin like JSON and cannot be read; `on_unstructured` says what becomes of them.
    pub unstructured: u64,
    /// Events that have none of the rule's `fields`, and passed untouched.
    pub no_fields: u64,
}

/// What becomes of an event that begins like JSON and cannot be read, for a rule with fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnUnstructured {
    /// The rule looks at all of it.
    Scan,
    /// Its body is withheld.
    Mask,
    /// It is dropped.
    Drop,
    /// It goes on as it is.
    Pass,
}

/// Which of the texts of an event a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextUse {
    Decoded,
    Source,
    /// Both: the pattern names an escape of JSON.
    Both,
}

/// What a rule looks for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pattern: Pattern,
    pub(super) detector: Option<&'static Detector>,
    /// Bytes beside which no match of the detector counts.
    pub(super) never_beside: ByteSet,
}

#[derive(Debug, Clone)]
enum Action {
    Replace(Vec<Part>),
    Mask(Mask),
    Hash(Box<Hasher>),
    Truncate,
    Drop,
    Tag,
}

/// What a rule did to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// There is nothing to do.
    Not,
    /// There is, in a dry run.
    Tagged,
    /// The new body is in `out`.
    Changed,
    /// The event goes on, but for its body.
    Withheld,
    /// The event goes no further.
    Dropped,
    /// The new body takes more room than there is.
    NoRoom,
}

/// The first match of a target in a layer that was searched as a whole.
#[derive(Debug, Clone, Copy)]
struct FirstMatch {
    layer: usize,
    target: usize,
    range: Match,
}

/// Scratch space for one body at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch {
    found: Vec<Found>,
    allowed: Vec<(usize, Range<usize>)>,
    spans: Vec<Span>,
    texts: Vec<u8>,
    selection: Selection,
    parts: Parts,
    writer: Writer,
}

impl Scratch {
    /// Lets go of what an unusual event took.
    pub(super) fn rest(&mut self, bytes: usize) {
        let entries = bytes / size_of::<Found>();
        self.found.clear();
        self.found.shrink_to(entries);
        self.allowed.clear();
        self.allowed.shrink_to(entries);
        self.spans.clear();
        self.spans.shrink_to(entries);
        self.texts.clear();
        self.texts.shrink_to(bytes);
        self.selection.rest(entries);
        self.parts.clear();
        self.parts.only.shrink_to(entries);
        self.parts.except.shrink_to(entries);
        self.writer.rest(entries);
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    pub(super) pattern: Option<String>,
    pub(super) detectors: Option<Vec<String>>,
    pub(super) ignore_case: Option<bool>,
    pub(super) action: ActionName,
    pub(super) replacement: Option<String>,
    pub(super) keep_first: Option<usize>,
    pub(super) keep_last: Option<usize>,
    pub(super) key: Option<String>,
    pub(super) key_id: Option<String>,
    pub(super) fields: Option<Vec<String>>,
    pub(super) except_fields: Option<Vec<String>>,
    pub(super) on_unstructured: Option<OnUnstructured>,
    pub(super) text: TextName,
    pub(super) allow: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ActionName {
    #[default]
    Replace,
    Mask,
    Hash,
    Truncate,
    Drop,
    Tag,
}

impl Rule {
    pub(super) fn build(params: Params, on_error: OnError) -> Result<Self, RuleError> {
        let targets = targets(&params)?;
        refuse_stray_params(&params)?;
        let action = action(&params, &targets)?;
        let names_group = |parts: &[Part]| parts.iter().any(|part| matches!(part, Part::Group(_)));
        let captures = match &action {
            Action::Replace(parts) if names_group(parts) => {
                targets.first().map(|target| target.pattern.captures())
            }
            _ => None,
        };
        let names_escape = || params.pattern.as_deref().is_some_and(names_escape);
        let text = match params.text {
            TextName::Source => TextUse::Source,
            TextName::Decoded if names_escape() => TextUse::Both,
            TextName::Decoded => TextUse::Decoded,
        };
        Ok(Self {
            targets,
            on_error,
            action,
            fields: fields(&params)?,
            on_unstructured: on_unstructured(&params)?,
            text,
            notes: Notes::default(),
            allow: allowed(params.allow)?,
            captures,
        })
    }

    /// Whether what it finds is redacted until nothing new is found.
    pub(super) fn repeats(&self) -> bool {
        self.targets.iter().all(|target| target.detector.is_some())
    }

    /// Returns what detectors' finds are replaced by, if that is one text.
    pub(super) fn fixed_replacement(&self) -> Option<&[u8]> {
        match &self.action {
            Action::Replace(parts) if self.repeats() => match parts.as_slice() {
                [Part::Text(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it looks at the bytes of an event that has a view.
    pub(super) fn looks_at_source(&self) -> bool {
        self.text != TextUse::Decoded
    }

    /// Applies the rule to a body, whose texts are in `view`. `hits` says where in a layer's text a
    /// gate has its hits of the rows of a target; `None` if the target cannot match. The new body
    /// is written to `out`, which is empty, and has at most `room` bytes. `again` says that the
    /// rule left the body so.
    #[expect(
        clippy::too_many_arguments,
        reason = "what an event is, and where its next body goes"
    )]
    pub(super) fn apply(
        &mut self,
        body: &[u8],
        view: &mut View,
        again: bool,
        hits: impl Fn(usize, usize) -> Option<Known>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        room: usize,
    ) -> Applied {
        scratch.found.clear();
        scratch.allowed.clear();
        scratch.texts.clear();
        // To read an event takes longer than to look whether that is needed. One with a trigger is
        // read.
        let mut first = None;
        if self.fields.is_none() && !view.is_read() {
            first = self.first_match(body, view, &hits);
            if first.is_none() {
                return Applied::Not;
            }
        }
        let hits = |layer: usize, target: usize| {
            let first = first.filter(|first| (first.layer, first.target) == (layer, target));
            hits(layer, target).map(|known| Known {
                first_match: first.map(|first| first.range),
                ..known
            })
        };
        let structure = view.read(body);
        let is_broken = structure == Structure::Unreadable || view.is_broken_inside();
        let tags = matches!(self.action, Action::Tag);
        let mut by_fields = false;
        if let Some((_, only_these)) = self.fields {
            if is_broken {
                self.notes.unstructured += u64::from(!again);
                match self.on_unstructured {
                    OnUnstructured::Scan => {}
                    OnUnstructured::Pass => return Applied::Not,
                    _ if tags => return Applied::Tagged,
                    OnUnstructured::Mask => return Applied::Withheld,
                    OnUnstructured::Drop => return Applied::Dropped,
                }
            } else if structure == Structure::Json {
                by_fields = true;
            } else if only_these {
                self.notes.no_fields += u64::from(!again);
                return Applied::Not;
            }
        }
        match self.search(body, view, by_fields, hits, scratch, room) {
            Ok(true) => {}
            Ok(false) => {
                self.notes.no_fields += u64::from(!again);
                return Applied::Not;
            }
            Err(TooMuch) => return Applied::NoRoom,
        }
        drop_allowed(&mut scratch.found, &mut scratch.allowed);
        if scratch.found.is_empty() {
            return Applied::Not;
        }
        match self.action {
            Action::Drop => return Applied::Dropped,
            Action::Tag => return Applied::Tagged,
            _ => {}
        }
        merge(view, &self.targets, &mut scratch.found);
        let Ok(()) = self.write_texts(body, view, scratch, room) else {
            return Applied::NoRoom;
        };
        let Scratch {
            spans,
            texts,
            writer,
            ..
        } = scratch;
        writer.write(body, view, spans, texts, out);
        match out.len() <= room {
            true => Applied::Changed,
            false => Applied::NoRoom,
        }
    }

    /// Finds a match in the texts, each searched as a whole.
    fn first_match(
        &self,
        body: &[u8],
        view: &View,
        hits: &impl Fn(usize, usize) -> Option<Known>,
    ) -> Option<FirstMatch> {
        (0..view.layers()).find_map(|layer| {
            let text = view.text(layer, body);
            let mut targets = self.targets.iter().enumerate();
            targets.find_map(|(target, Target { pattern, .. })| {
                let hit = hits(layer, target)?.first_hit(0);
                let range = pattern.next_match(text, 0..text.len(), hit, None)?;
                Some(FirstMatch {
                    layer,
                    target,
                    range,
                })
            })
        })
    }

    /// Finds what is to be hidden. `Ok(false)` if the event has none of the fields that the rule is
    /// about.
    fn search(
        &mut self,
        body: &[u8],
        view: &mut View,
        by_fields: bool,
        hits: impl Fn(usize, usize) -> Option<Known>,
        scratch: &mut Scratch,
        room: usize,
    ) -> Result<bool, TooMuch> {
        for layer in 0..view.layers() {
            view.divide(layer, body);
        }
        let view = &*view;
        let Self {
            targets,
            action,
            fields,
            allow,
            captures,
            text: text_use,
            ..
        } = self;
        let Scratch {
            found,
            allowed,
            texts,
            selection,
            parts,
            ..
        } = scratch;
        let action = &*action;
        let mut search = Search {
            body,
            view,
            hasher: match action {
                Action::Hash(hasher) => Some(hasher),
                _ => None,
            },
            allow,
            replacement: match action {
                Action::Replace(parts) => parts,
                _ => &[],
            },
            captures: captures.as_mut(),
            found,
            allowed,
            texts,
            room,
        };
        let fields = fields.as_ref().filter(|_| by_fields);
        let looks_at_source = *text_use != TextUse::Decoded && fields.is_none();
        if looks_at_source && (*text_use == TextUse::Source || !view.is_source(0)) {
            for (number, target) in targets.iter().enumerate() {
                let known = match view.is_source(0) {
                    true => hits(0, number),
                    false => Some(Known::default()),
                };
                if let Some(known) = known {
                    search.match_source(number, target, known)?;
                }
            }
            if *text_use == TextUse::Source {
                return Ok(true);
            }
        }
        let mut any = fields.is_none();
        for layer in 0..view.layers() {
            let mut about = None;
            if let Some((fields, only_these)) = fields {
                let (text, nodes) = (view.text(layer, body), view.nodes(layer));
                let named = fields.select(text, nodes, selection);
                any |= named || !only_these;
                if *only_these && !named {
                    continue;
                }
                let found = &mut *search.found;
                match only_these {
                    true => only_named(layer, view, nodes, selection, parts, found),
                    false => all_but_named(nodes, text.len(), selection, targets, parts),
                }
                about = Some(&*parts);
            }
            for (number, target) in targets.iter().enumerate() {
                // Where a part of the text is one, patterns know other anchors than the gate.
                let known = match about {
                    Some(_) if target.detector.is_none() => Some(Known::default()),
                    _ => hits(layer, number),
                };
                if let Some(known) = known {
                    search.run(layer, number, target, about, known)?;
                }
            }
        }
        Ok(any)
    }

    /// Writes what stands in place of each find.
    fn write_texts(
        &self,
        body: &[u8],
        view: &View,
        scratch: &mut Scratch,
        room: usize,
    ) -> Result<(), TooMuch> {
        let Scratch {
            found,
            spans,
            texts,
            ..
        } = scratch;
        spans.clear();
        for one in &*found {
            let mut text = one.text.clone();
            if self.captures.is_none() {
                text.start = texts.len();
                let value = &view.text(one.layer, body)[one.range.clone()];
                let kept = self.targets[one.target]
                    .detector
                    .map_or(&b""[..], |found| found.kept);
                match &self.action {
                    Action::Replace(parts) => {
                        for part in parts {
                            if let Part::Text(part) = part {
                                texts.extend_from_slice(part);
                            }
                        }
                    }
                    Action::Mask(mask) => mask.write(value, kept, texts),
                    Action::Hash(hasher) => hasher.write(value, texts),
                    Action::Truncate => {
                        if !action::write_network(value, texts) {
                            texts.extend_from_slice(replacement::DEFAULT.as_bytes());
                        }
                    }
                    Action::Drop | Action::Tag => {}
                }
                text.end = texts.len();
            }
            if texts.len() > room {
                return Err(TooMuch);
            }
            spans.push(Span {
                source: one.source.clone(),
                layer: one.layer,
                range: one.range.clone(),
                text,
            });
        }
        Ok(())
    }
}

/// Says that a rule is about the values that are named. One that was cut off is hidden at once:
/// what is missing of it may be what the rule would find it by.
fn only_named(
    layer: usize,
    view: &View,
    nodes: &[Node],
    selection: &Selection,
    parts: &mut Parts,
    found: &mut Vec<Found>,
) {
    parts.clear();
    let mut behind = 0;
    for (number, node) in nodes.iter().enumerate() {
        let is_value = matches!(node.kind, Kind::Text | Kind::Bare);
        // What is in a text is a part of it.
        if !is_value || !selection.names(number) || node.start < behind || node.start == node.end {
            continue;
        }
        behind = node.end;
        let range = node.start..node.end;
        if !node.is_closed {
            found.push(Found {
                source: view.source_of(layer, range.clone()),
                layer,
                range: range.clone(),
                target: 0,
                text: 0..0,
            });
        }
        parts.only.push(range);
    }
}

/// Says that a rule is about everything but the values that are named. A pattern is matched with
/// each key and value by itself; a detector needs to see what stands around.
fn all_but_named(
    nodes: &[Node],
    length: usize,
    selection: &Selection,
    targets: &[Target],
    parts: &mut Parts,
) {
    parts.clear();
    for (number, node) in nodes.iter().enumerate() {
        if selection.names(number) && matches!(node.kind, Kind::Text | Kind::Bare) {
            let is_inside = parts
                .except
                .last()
                .is_some_and(|last| node.start < last.end);
            if !is_inside {
                parts.except.push(node.start..node.end);
            }
        }
    }
    if targets.iter().all(|target| target.detector.is_some()) {
        return;
    }
    let mut behind = 0;
    for (number, node) in nodes.iter().enumerate() {
        if node.is_container() {
            // What stands before a document.
            if node.parent == NONE && behind < node.start {
                parts.only.push(behind..node.start);
            }
        } else if !selection.names(number) {
            parts.only.push(node.start..node.end);
        }
        if node.parent == NONE {
            behind = node.end;
        }
    }
    if behind < length {
        parts.only.push(behind..length);
    }
    if parts.only.is_empty() {
        parts.only.push(length..length);
    }
}

/// Whether a pattern names an escape of JSON, such as `\\\\"` or `\\\\u0040`: it was written for
/// the bytes.
fn names_escape(pattern: &str) -> bool {
    let behind = pattern
        .match_indices(r"\\")
        .map(|(at, escape)| &pattern[at + escape.len()..]);
    behind
        .map(|rest| rest.trim_start_matches(['+', '*', '?']))
        .any(|rest| rest.starts_with(['"', '\'', '/']) || rest.starts_with("u00"))
}

/// Puts finds in order, and makes one of those that overlap: the first, and the longer of two that
/// begin together, says what stands in place of all.
fn merge(view: &View, targets: &[Target], found: &mut Vec<Found>) {
    trim_to_decoded(view, found, targets);
    // Of the same find in two layers, the one with fewer encodings is the value.
    found.sort_by_key(|one| {
        let (start, end) = (one.source.start, one.source.end);
        let is_guess = view.is_guess(one.layer);
        (
            start,
            Reverse(end),
            is_guess,
            Reverse(one.layer),
            one.target,
        )
    });
    let mut has_grown = false;
    found.dedup_by(|next, first| {
        let overlaps = next.source.start < first.source.end;
        if overlaps && first.source.end < next.source.end {
            first.source.end = next.source.end;
            has_grown = true;
        }
        overlaps
    });
    if has_grown {
        for one in found {
            one.range = view.text_of(one.layer, one.source.clone());
        }
    }
}

/// Drops what an allowed value is found as in another text: `mira%40example.net` is
/// `mira@example.net`.
fn drop_allowed(found: &mut Vec<Found>, allowed: &mut [(usize, Range<usize>)]) {
    if allowed.is_empty() {
        return;
    }
    allowed.sort_unstable_by_key(|(target, source)| (*target, source.start, source.end));
    found.retain(|one| {
        let place = (one.target, one.source.start);
        let behind = allowed.partition_point(|(target, source)| (*target, source.start) <= place);
        let is_allowed = behind.checked_sub(1).is_some_and(|last| {
            let (target, source) = &allowed[last];
            *target == one.target && one.source.end <= source.end
        });
        !is_allowed
    });
}

/// Lets finds begin where the same detector has them begin in a text with fewer encodings: there it
/// saw that what stands before, such as the `%22` of a quote, is not of the value.
fn trim_to_decoded(view: &View, found: &mut [Found], targets: &[Target]) {
    if found.iter().all(|one| one.layer == 0) {
        return;
    }
    found.sort_by_key(|one| (one.target, one.source.end, one.layer));
    for at in (1..found.len()).rev() {
        let (before, decoded) = found.split_at_mut(at);
        let (encoded, decoded) = (&mut before[at - 1], &decoded[0]);
        let same = encoded.target == decoded.target
            && encoded.source.end == decoded.source.end
            && encoded.layer < decoded.layer
            && !view.is_guess(decoded.layer);
        let is_longer = encoded.source.start < decoded.source.start;
        if same && is_longer && targets[encoded.target].detector.is_some() {
            *encoded = decoded.clone();
        }
    }
}

fn targets(params: &Params) -> Result<Vec<Target>, RuleError> {
    match (&params.pattern, &params.detectors) {
        (Some(pattern), None) => {
            let ignore_case = params.ignore_case.unwrap_or_default();
            let purpose = match params.fields.is_some() || params.except_fields.is_some() {
                true => Use::Parts,
                false => Use::Events,
            };
            Ok(vec![Target {
                pattern: Pattern::build_for(pattern, ignore_case, purpose, "/params/pattern")?,
                detector: None,
                never_beside: ByteSet::default(),
            }])
        }
        (None, Some(names)) if names.is_empty() => Err(RuleError::new(
            "missing_param",
            "/params/detectors",
            "`detectors` is empty and the rule would redact nothing; expected at least one name",
        )),
        (None, Some(names)) => names
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let pointer = format!("/params/detectors/{at}");
                if names[..at].contains(name) {
                    let message = format!("the detector `{}` is named twice", shown(name));
                    return Err(RuleError::new("duplicate_detector", pointer, message));
                }
                let detector = detectors::by_name(name).map_err(|nearest| {
                    let message = format!(
                        "there is no detector `{}`; did you mean `{}`?",
                        shown(name),
                        nearest.name
                    );
                    RuleError::new("unknown_detector", &pointer, message)
                })?;
                let never_beside = never_beside(detector.boundary);
                Ok(Target {
                    pattern: Pattern::build_for(
                        detector.pattern,
                        false,
                        Use::Beside(never_beside),
                        &pointer,
                    )?,
                    detector: Some(detector),
                    never_beside,
                })
            })
            .collect(),
        (None, None) => Err(RuleError::new(
            "missing_param",
            "/params",
            "a redact rule needs `pattern` or `detectors`; neither is given",
        )),
        (Some(_), Some(_)) => Err(RuleError::new(
            "conflicting_params",
            "/params",
            "a redact rule takes `pattern` or `detectors`; both are given",
        )),
    }
}

/// Bytes that a boundary allows on neither side of a match, whatever else stands there.
fn never_beside(boundary: Boundary) -> ByteSet {
    let is_never = |byte: &u8| match boundary {
        Boundary::Any => false,
        Boundary::Word | Boundary::Colons => byte.is_ascii_alphanumeric() || *byte == b'_',
        Boundary::Number | Boundary::Address | Boundary::Grouped => byte.is_ascii_alphanumeric(),
        Boundary::Token => byte.is_ascii_alphanumeric() || b"_-".contains(byte),
    };
    let mut never = ByteSet::default();
    (0..=u8::MAX)
        .filter(is_never)
        .for_each(|byte| never.insert(byte));
    never
}

/// A parameter that does nothing is a misunderstanding.
fn refuse_stray_params(params: &Params) -> Result<(), RuleError> {
    use ActionName::{Hash, Mask, Replace};
    for (name, is_given, action) in [
        ("replacement", params.replacement.is_some(), Replace),
        ("keep_first", params.keep_first.is_some(), Mask),
        ("keep_last", params.keep_last.is_some(), Mask),
        ("key", params.key.is_some(), Hash),
        ("key_id", params.key_id.is_some(), Hash),
    ] {
        if is_given && params.action != action {
            return Err(RuleError::new(
                "conflicting_params",
                format!("/params/{name}"),
                format!(
                    "`{name}` belongs to the action `{}`, and `action` is `{}`; remove one of them",
                    action.text(),
                    params.action.text()
                ),
            ));
        }
    }
    let has_fields = params.fields.is_some() || params.except_fields.is_some();
    if params.ignore_case.is_some() && params.pattern.is_none() && !has_fields {
        return Err(RuleError::new(
            "conflicting_params",
            "/params/ignore_case",
            "`ignore_case` is about `pattern` and the names in `fields`, none of which is given; \
             remove it",
        ));
    }
    if params.text == TextName::Source && has_fields {
        return Err(RuleError::new(
            "conflicting_params",
            "/params/text",
            "`text` is `source`, and the bytes of an event have no `fields`; remove one of them",
        ));
    }
    if params.text == TextName::Source && params.detectors.is_some() {
        return Err(RuleError::new(
            "conflicting_params",
            "/params/text",
            "`text` is `source`, and `detectors` look at what a reader sees; remove one of them",
        ));
    }
    Ok(())
}

fn on_unstructured(params: &Params) -> Result<OnUnstructured, RuleError> {
    let has_fields = params.fields.is_some() || params.except_fields.is_some();
    match params.on_unstructured {
        Some(_) if !has_fields => Err(RuleError::new(
            "conflicting_params",
            "/params/on_unstructured",
            "`on_unstructured` belongs to `fields` or `except_fields`, neither of which is given; \
             remove it",
        )),
        Some(given) => Ok(given),
        // A pattern that is about one field would hide too much, or miss the field, in all of the
        // event.
        None if params.fields.is_some() && params.pattern.is_some() => Ok(OnUnstructured::Mask),
        None => Ok(OnUnstructured::Scan),
    }
}

impl ActionName {
    fn text(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Mask => "mask",
            Self::Hash => "hash",
            Self::Truncate => "truncate",
            Self::Drop => "drop",
            Self::Tag => "tag",
        }
    }
}

fn action(params: &Params, targets: &[Target]) -> Result<Action, RuleError> {
    Ok(match params.action {
        ActionName::Replace => {
            let pattern = targets.iter().find(|target| target.detector.is_none());
            let text = params
                .replacement
                .as_deref()
                .unwrap_or(replacement::DEFAULT);
            Action::Replace(replacement::parse(
                text,
                pattern.map(|target| &target.pattern),
            )?)
        }
        ActionName::Mask => Action::Mask(Mask {
            keep_first: params.keep_first.unwrap_or(0),
            keep_last: params.keep_last.unwrap_or(0),
        }),
        ActionName::Hash => Action::Hash(Box::new(hasher(params)?)),
        ActionName::Truncate => {
            refuse_truncated_others(targets)?;
            Action::Truncate
        }
        ActionName::Drop => Action::Drop,
        ActionName::Tag => Action::Tag,
    })
}

fn hasher(params: &Params) -> Result<Hasher, RuleError> {
    let Some(reference) = &params.key else {
        return Err(RuleError::new(
            "missing_param",
            "/params",
            "the action `hash` needs `key`, where the key is: `env:NAME` or `file:PATH`; a hash \
             without a key can be guessed",
        ));
    };
    let key = key::read(reference)
        .map_err(|message| RuleError::new("unreadable_key", "/params/key", message))?;
    let is_word = |id: &String| {
        (1..=MAX_KEY_ID_BYTES).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if let Some(id) = params.key_id.as_ref().filter(|id| !is_word(id)) {
        let message = format!(
            "`key_id` is `{}`; expected 1 to {MAX_KEY_ID_BYTES} letters, digits, `_`, `-` or `.`",
            shown(id)
        );
        return Err(RuleError::new("invalid_key_id", "/params/key_id", message));
    }
    Ok(Hasher::new(&key, params.key_id.clone()))
}

fn refuse_truncated_others(targets: &[Target]) -> Result<(), RuleError> {
    const ADDRESSES: [&str; 2] = ["ipv4", "ipv6"];
    for (at, target) in targets.iter().enumerate() {
        if let Some(detector) = target
            .detector
            .filter(|found| !ADDRESSES.contains(&found.name))
        {
            return Err(RuleError::new(
                "conflicting_params",
                format!("/params/detectors/{at}"),
                format!(
                    "the action `truncate` is for addresses, and `{}` finds others; expected {}",
                    detector.name,
                    list(&ADDRESSES)
                ),
            ));
        }
    }
    Ok(())
}

fn fields(params: &Params) -> Result<Option<(Fields, bool)>, RuleError> {
    let (name, entries, only_these) = match (&params.fields, &params.except_fields) {
        (None, None) => return Ok(None),
        (Some(fields), None) => ("fields", fields, true),
        (None, Some(fields)) => ("except_fields", fields, false),
        (Some(_), Some(_)) => {
            return Err(RuleError::new(
                "conflicting_params",
                "/params/except_fields",
                "a redact rule takes `fields` or `except_fields`; both are given",
            ));
        }
    };
    if !(1..=MAX_FIELDS).contains(&entries.len()) {
        let message = format!(
            "`{name}` has {} entries; expected 1 to {MAX_FIELDS}",
            entries.len()
        );
        return Err(RuleError::new(
            "invalid_fields",
            format!("/params/{name}"),
            message,
        ));
    }
    let twice = (1..entries.len()).find(|&at| entries[..at].contains(&entries[at]));
    if let Some(at) = twice {
        return Err(RuleError::new(
            "invalid_fields",
            format!("/params/{name}/{at}"),
            format!(
                "`{name}` has the path `{}` twice; remove one",
                shown(&entries[at])
            ),
        ));
    }
    let ignore_case = params.ignore_case.unwrap_or_default();
    let fields = Fields::parse(entries, ignore_case).map_err(|(at, error)| {
        RuleError::new(
            "invalid_path",
            format!("/params/{name}/{at}"),
            error.message,
        )
    })?;
    Ok(Some((fields, only_these)))
}

fn allowed(values: Option<Vec<String>>) -> Result<HashSet<Box<[u8]>>, RuleError> {
    let values = values.unwrap_or_default();
    if values.len() > MAX_ALLOWED {
        let message = format!(
            "`allow` has {} values; expected at most {MAX_ALLOWED}",
            values.len()
        );
        return Err(RuleError::new("allow_too_long", "/params/allow", message));
    }
    for (at, value) in values.iter().enumerate() {
        if !(1..=MAX_PATTERN_BYTES).contains(&value.len()) {
            return Err(RuleError::new(
                "invalid_allow",
                format!("/params/allow/{at}"),
                format!(
                    "the value has {} bytes; expected 1 to {MAX_PATTERN_BYTES}",
                    value.len()
                ),
            ));
        }
    }
    Ok(values
        .into_iter()
        .map(|value| value.into_bytes().into_boxed_slice())
        .collect())
}
