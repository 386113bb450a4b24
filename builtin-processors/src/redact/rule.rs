//! One rule: what it looks for, where, and what it does about it.

use std::{cmp::Reverse, collections::HashSet};

use regex_automata::util::captures::Captures;
use serde::Deserialize;

use crate::{
    OnError, RuleError,
    detectors::{self, Boundary, Detector},
    list,
    matcher::{MAX_PATTERN_BYTES, Pattern, Use},
    scan::ByteSet,
    shown,
};

use super::{
    action::{self, Hasher, MAX_KEY_ID_BYTES, Mask},
    json::{self, Fields, MAX_FIELDS, Scalars, Span},
    key,
    replacement::{self, Part},
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
    allow: HashSet<Box<[u8]>>,
    /// Where the groups of a match go, if the replacement names one.
    captures: Option<Captures>,
}

/// What a rule looks for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pattern: Pattern,
    detector: Option<&'static Detector>,
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
    /// The event goes no further.
    Dropped,
    /// The new body takes more room than there is.
    NoRoom,
}

/// Scratch space for one body at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch {
    spans: Vec<Found>,
    written: Vec<Span>,
    texts: Vec<u8>,
    scalars: Scalars,
}

/// Something to hide, and which target found it.
#[derive(Debug, Clone, Copy)]
struct Found {
    start: usize,
    end: usize,
    target: usize,
    /// Where its text is, if that had to be written at once.
    text: (usize, usize),
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
        Ok(Self {
            targets,
            on_error,
            action,
            fields: fields(&params)?,
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

    /// Applies the rule to a body. `hits` says where a gate has its hits of the rows of a target;
    /// `None` if the target cannot match. The new body is written to `out`, which is empty,
    /// and has at most `room` bytes.
    pub(super) fn apply(
        &mut self,
        body: &[u8],
        hits: impl Fn(usize) -> Option<Known>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        room: usize,
    ) -> Applied {
        scratch.spans.clear();
        scratch.texts.clear();
        let Ok(()) = self.search(body, hits, scratch, room) else {
            return Applied::NoRoom;
        };
        if scratch.spans.is_empty() {
            return Applied::Not;
        }
        match self.action {
            Action::Drop => return Applied::Dropped,
            Action::Tag => return Applied::Tagged,
            _ => {}
        }
        merge(&mut scratch.spans);
        let Ok(()) = self.write_texts(body, scratch, room) else {
            return Applied::NoRoom;
        };
        let Scratch {
            written,
            texts,
            scalars,
            ..
        } = scratch;
        match scalars.read(body, None) {
            Some(scalars) => json::replace(body, scalars, written, texts, out),
            None => {
                let mut copied = 0;
                for span in written {
                    out.extend_from_slice(&body[copied..span.start]);
                    out.extend_from_slice(&texts[span.text.clone()]);
                    copied = span.end;
                }
                out.extend_from_slice(&body[copied..]);
            }
        }
        match out.len() <= room {
            true => Applied::Changed,
            false => Applied::NoRoom,
        }
    }

    /// Finds what is to be hidden.
    fn search(
        &mut self,
        body: &[u8],
        hits: impl Fn(usize) -> Option<Known>,
        scratch: &mut Scratch,
        room: usize,
    ) -> Result<(), TooMuch> {
        let Self {
            targets,
            action,
            fields,
            allow,
            captures,
            ..
        } = self;
        let mut search = Search {
            body,
            action,
            allow,
            captures: captures.as_mut(),
            spans: &mut scratch.spans,
            texts: &mut scratch.texts,
            room,
        };
        let mut within = None;
        if let Some((fields, only_these)) = fields {
            match scratch.scalars.read(body, Some(fields)) {
                Some(scalars) => within = Some((scalars, *only_these)),
                None if *only_these => return Ok(()),
                None => {}
            }
        }
        for (number, target) in targets.iter().enumerate() {
            let Some(known) = hits(number) else {
                continue;
            };
            match within {
                None => search.run(number, target, 0..body.len(), known)?,
                Some((scalars, only_these)) => {
                    for scalar in scalars
                        .iter()
                        .filter(|scalar| scalar.selected == only_these)
                    {
                        search.run(number, target, scalar.start..scalar.end, Known::Nothing)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what stands in place of each find.
    fn write_texts(&self, body: &[u8], scratch: &mut Scratch, room: usize) -> Result<(), TooMuch> {
        let Scratch {
            spans,
            written,
            texts,
            ..
        } = scratch;
        written.clear();
        for span in &*spans {
            let mut text = span.text.0..span.text.1;
            if self.captures.is_none() {
                text.start = texts.len();
                let value = &body[span.start..span.end];
                let kept = self.targets[span.target]
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
            written.push(Span {
                start: span.start,
                end: span.end,
                text,
            });
        }
        Ok(())
    }
}

/// What is known of the hits of a target in a body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    Nothing,
    /// The first and the last place.
    Hits(usize, usize),
}

impl Known {
    /// Whether there may be a match at or after `at`.
    fn may_be(self, at: usize) -> bool {
        match self {
            Self::Nothing => true,
            Self::Hits(_, last) => at <= last,
        }
    }

    /// The first hit at or after `at`, if that is known.
    fn first(self, at: usize) -> Option<usize> {
        match self {
            Self::Hits(first, _) if at <= first => Some(first),
            _ => None,
        }
    }
}

/// The new texts of one body take more room than there is.
struct TooMuch;

/// The search of one body for all targets of a rule.
struct Search<'a> {
    body: &'a [u8],
    action: &'a Action,
    allow: &'a HashSet<Box<[u8]>>,
    captures: Option<&'a mut Captures>,
    spans: &'a mut Vec<Found>,
    texts: &'a mut Vec<u8>,
    room: usize,
}

impl Search<'_> {
    /// Finds a target in a part of the body.
    fn run(
        &mut self,
        number: usize,
        target: &Target,
        part: std::ops::Range<usize>,
        known: Known,
    ) -> Result<(), TooMuch> {
        match target.detector {
            Some(detector) => {
                self.detect(number, &target.pattern, detector, part, known);
                Ok(())
            }
            None => self.match_in(number, &target.pattern, part, known),
        }
    }

    /// Finds the matches of a user's pattern. Its anchors are the ends of the part.
    fn match_in(
        &mut self,
        number: usize,
        pattern: &Pattern,
        part: std::ops::Range<usize>,
        known: Known,
    ) -> Result<(), TooMuch> {
        let base = part.start;
        let text = &self.body[part];
        let mut at = 0;
        while known.may_be(at)
            && let Some(found) =
                pattern.next_match(text, at, known.first(at), self.captures.as_deref_mut())
        {
            // No pattern matches the empty string, so every turn moves on.
            at = found.end();
            let (start, end) = (base + found.start(), base + found.end());
            if !self.is_wanted(start, end) {
                continue;
            }
            let written = self.texts.len();
            if let (Action::Replace(parts), Some(captures)) = (self.action, &self.captures) {
                for part in parts {
                    let text = match part {
                        Part::Text(text) => text,
                        Part::Group(group) => match captures.get_group(*group) {
                            Some(group) => &text[group.range()],
                            None => continue,
                        },
                    };
                    if self.texts.len() + text.len() > self.room {
                        return Err(TooMuch);
                    }
                    self.texts.extend_from_slice(text);
                }
            }
            self.spans.push(Found {
                start,
                end,
                target: number,
                text: (written, self.texts.len()),
            });
        }
        Ok(())
    }

    /// Finds what a detector confirms, as [`detectors::Finder`] does.
    fn detect(
        &mut self,
        number: usize,
        pattern: &Pattern,
        detector: &Detector,
        part: std::ops::Range<usize>,
        known: Known,
    ) {
        let text = &self.body[..part.end];
        let mut at = part.start;
        while at < part.end
            && known.may_be(at)
            && let Some(found) = pattern.next_match(text, at, known.first(at), None)
        {
            at = found.start() + 1;
            if detector.confirms(self.body, found.start(), found.end()) {
                let hidden = detector.hidden(self.body, found.start(), found.end());
                at = hidden.end.max(found.end());
                let end = hidden.end.min(part.end);
                if hidden.start < end && self.is_wanted(hidden.start, end) {
                    self.spans.push(Found {
                        start: hidden.start,
                        end,
                        target: number,
                        text: (0, 0),
                    });
                }
            }
        }
    }

    /// Whether a find is neither allowed nor a hash that was put there before.
    fn is_wanted(&self, start: usize, end: usize) -> bool {
        let is_own = match self.action {
            Action::Hash(hasher) => hasher.is_own(self.body, start, end),
            _ => false,
        };
        !is_own && (self.allow.is_empty() || !self.allow.contains(&self.body[start..end]))
    }
}

/// Puts finds in order, and makes one of those that overlap: the first, and the longer of two that
/// begin together, says what stands in place of all.
fn merge(spans: &mut Vec<Found>) {
    spans.sort_by_key(|span| (span.start, Reverse(span.end), span.target));
    spans.dedup_by(|next, first| {
        let overlaps = next.start < first.end;
        if overlaps {
            first.end = first.end.max(next.end);
        }
        overlaps
    });
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
                Ok(Target {
                    pattern: Pattern::build_for(
                        detector.pattern,
                        false,
                        Use::Beside(never_beside(detector.boundary)),
                        &pointer,
                    )?,
                    detector: Some(detector),
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
    if params.ignore_case.is_some() && params.pattern.is_none() {
        return Err(RuleError::new(
            "conflicting_params",
            "/params/ignore_case",
            "`ignore_case` belongs to `pattern`, which is not given; remove it",
        ));
    }
    Ok(())
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
    let fields = Fields::parse(entries).map_err(|at| {
        let message = format!(
            "`{name}` has the path `{}`; expected keys joined by `/`, none of them empty",
            shown(&entries[at])
        );
        RuleError::new("invalid_path", format!("/params/{name}/{at}"), message)
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
