//! Conditions on the JSON fields of an event: what `attribute_filter` decides by, and what `sample`
//! makes an exception of.
//!
//! One condition is a field, an operator and what it compares with; several are joined by `all` or by
//! `any`. The fields of all of them are located in one walk, and each value is compared as it is
//! found. A field that the event does not have fulfils no condition, but for `exists` with `false`.

use std::{cmp::Ordering, collections::HashSet, ops::ControlFlow};

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::{
    Literal, RuleError,
    json::{self, Field, Fields, MAX_FIELDS, Number, Value},
    list,
    matcher::{MAX_KEYWORDS, MAX_PATTERN_BYTES, Pattern},
    shown,
};

const OPERATORS: [&str; 12] = [
    "contains",
    "equals",
    "exists",
    "gt",
    "gte",
    "in",
    "lt",
    "lte",
    "not_contains",
    "not_equals",
    "not_in",
    "regex",
];

/// One condition as a rule writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    pub(crate) attribute: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) operator: Option<String>,
    pub(crate) value: Option<Literal>,
    pub(crate) values: Option<Vec<Literal>>,
    /// Whether upper and lower case are alike in the names of the field, not in its value.
    pub(crate) ignore_case: Option<bool>,
}

/// Conditions as a rule writes them: one, or a list of them under `all` or `any`.
#[derive(Debug, Default)]
pub(crate) struct JoinedParams {
    pub(crate) one: Params,
    pub(crate) all: Option<Vec<Params>>,
    pub(crate) any: Option<Vec<Params>>,
}

/// Joined conditions.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    fields: Fields,
    /// Numbered as their fields are.
    conditions: Vec<Condition>,
    join: Join,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    All,
    Any,
}

#[derive(Debug, Clone)]
struct Condition {
    field: Field,
    /// Whether its path leads to many values: then it is about any of them.
    many: bool,
    negated: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Exists,
    Equals(Literal),
    Contains(Box<Finder<'static>>),
    In(Box<Listed>),
    Regex(Box<Pattern>),
    Compare(Comparison, Number),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Gt,
    Gte,
    Lt,
    Lte,
}

/// The values of `in`, hashed: a lookup costs the same for one as for thousands.
#[derive(Debug, Clone)]
struct Listed {
    texts: HashSet<String>,
    numbers: HashSet<(bool, i128)>,
    /// As they were written, for the search for contradictions.
    literals: Vec<Literal>,
}

/// What is known of one condition while an event is walked.
#[derive(Debug, Clone, Copy)]
struct Seen {
    rank: usize,
    hit: bool,
}

const UNSEEN: Seen = Seen {
    rank: usize::MAX,
    hit: false,
};

impl Conditions {
    /// Builds the conditions that stand at `pointer`.
    ///
    /// # Errors
    /// [`RuleError`] names the parameter that cannot be right; also where conditions joined by `all`
    /// contradict each other, or some joined by `any` would hold for every event.
    pub(crate) fn build(params: JoinedParams, pointer: &str) -> Result<Self, RuleError> {
        let JoinedParams { one, all, any } = params;
        let has_one = one.attribute.is_some() || one.path.is_some() || one.operator.is_some();
        let has_value = one.value.is_some() || one.values.is_some() || one.ignore_case.is_some();
        let (list, join, name) = match (all, any) {
            (None, None) => {
                let condition = Condition::build(one, pointer)?;
                return Ok(Self::of(vec![condition], Join::All));
            }
            (Some(list), None) => (list, Join::All, "all"),
            (None, Some(list)) => (list, Join::Any, "any"),
            (Some(_), Some(_)) => {
                return Err(RuleError::new(
                    "conflicting_params",
                    format!("{pointer}/any"),
                    "`all` and `any` are both given; expected one of them",
                ));
            }
        };
        let pointer = format!("{pointer}/{name}");
        if has_one || has_value {
            return Err(RuleError::new(
                "conflicting_params",
                pointer,
                format!(
                    "`{name}` and a condition beside it are given; move that condition into the list"
                ),
            ));
        }
        if list.is_empty() || list.len() > MAX_FIELDS {
            let count = list.len();
            return Err(RuleError::new(
                "invalid_conditions",
                pointer,
                format!("`{name}` has {count} conditions; expected 1 to {MAX_FIELDS}"),
            ));
        }
        let mut conditions: Vec<Condition> = Vec::with_capacity(list.len());
        for (at, params) in list.into_iter().enumerate() {
            let pointer = format!("{pointer}/{at}");
            conditions.push(Condition::build(params, &pointer)?);
            refuse_nonsense(&conditions, join, &pointer)?;
        }
        Ok(Self::of(conditions, join))
    }

    fn of(conditions: Vec<Condition>, join: Join) -> Self {
        let fields: Vec<Field> = conditions.iter().map(|one| one.field.clone()).collect();
        Self {
            fields: Fields::new(&fields),
            conditions,
            join,
        }
    }

    /// Says whether the event fulfils the conditions. Walks it once.
    pub(crate) fn hold_for(&self, body: &[u8]) -> bool {
        let mut seen = [UNSEEN; MAX_FIELDS];
        let mut open = self.conditions.len();
        self.fields.locate(body, |hit| {
            let (condition, seen) = (&self.conditions[hit.field], &mut seen[hit.field]);
            let settled = |seen: &Seen| seen.rank == 0 && (!condition.many || seen.hit);
            if hit.rank > seen.rank || settled(seen) {
                return ControlFlow::Continue(());
            }
            if hit.rank < seen.rank {
                *seen = Seen {
                    rank: hit.rank,
                    hit: condition.test.holds_for(hit.value),
                };
            } else if condition.many && !seen.hit {
                // Of a key that stands twice in an object, the first counts; of an array, any.
                seen.hit = condition.test.holds_for(hit.value);
            }
            if settled(seen) {
                open -= 1;
                if open == 0 {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        let mut results = self.conditions.iter().zip(&seen);
        let holds = |(condition, seen): (&Condition, &Seen)| {
            let found = seen.rank != usize::MAX;
            match condition.test {
                Test::Exists => found != condition.negated,
                _ => found && seen.hit != condition.negated,
            }
        };
        match self.join {
            Join::All => results.all(holds),
            Join::Any => results.any(holds),
        }
    }
}

impl Condition {
    fn build(params: Params, pointer: &str) -> Result<Self, RuleError> {
        let Params {
            attribute,
            path,
            operator,
            value,
            values,
            ignore_case,
        } = params;
        let ignore_case = ignore_case.unwrap_or(false);
        let field = match (attribute, path) {
            (Some(name), None) => {
                Field::of_attribute(&name, ignore_case, &format!("{pointer}/attribute"))?
            }
            (None, Some(path)) => Field::of_path(&path, ignore_case, &format!("{pointer}/path"))?,
            (None, None) => {
                return Err(RuleError::new(
                    "missing_param",
                    pointer,
                    "a condition needs `attribute` or `path`; neither is given",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(RuleError::new(
                    "conflicting_params",
                    pointer,
                    "a condition takes `attribute` or `path`; both are given",
                ));
            }
        };
        let Some(operator) = operator else {
            return Err(RuleError::new(
                "missing_param",
                pointer,
                format!(
                    "a condition needs an `operator`, one of {}",
                    list(&OPERATORS)
                ),
            ));
        };
        let (name, negated) = match operator.strip_prefix("not_") {
            Some(name @ ("equals" | "contains" | "in")) => (name, true),
            _ => (operator.as_str(), false),
        };
        let operands = Operands {
            operator: &operator,
            value,
            values,
            pointer,
        };
        let (test, negated) = match name {
            "exists" => (Test::Exists, !operands.wants_existence()?),
            "equals" => (Test::Equals(operands.one()?), negated),
            "contains" => (Test::Contains(operands.part()?), negated),
            "in" => (Test::In(Box::new(operands.listed()?)), negated),
            "regex" => {
                let pattern = operands.one()?.text;
                let pattern = Pattern::build(&pattern, false, &format!("{pointer}/value"))?;
                (Test::Regex(Box::new(pattern)), false)
            }
            "gt" => (Test::Compare(Comparison::Gt, operands.number()?), false),
            "gte" => (Test::Compare(Comparison::Gte, operands.number()?), false),
            "lt" => (Test::Compare(Comparison::Lt, operands.number()?), false),
            "lte" => (Test::Compare(Comparison::Lte, operands.number()?), false),
            unknown => {
                return Err(RuleError::new(
                    "unknown_operator",
                    format!("{pointer}/operator"),
                    format!(
                        "`operator` is `{}`; expected one of {}",
                        shown(unknown),
                        list(&OPERATORS)
                    ),
                ));
            }
        };
        Ok(Self {
            many: field.has_many_values(),
            field,
            negated,
            test,
        })
    }

    /// Says whether this condition holds for a field of that value.
    fn allows(&self, literal: &Literal) -> bool {
        self.test.holds_for_text(&literal.text, literal.number) != self.negated
    }

    /// Returns the values that the field must have one of, if there are such.
    fn admits(&self) -> Option<&[Literal]> {
        match &self.test {
            Test::Equals(literal) if !self.negated => Some(std::slice::from_ref(literal)),
            Test::In(listed) if !self.negated => Some(&listed.literals),
            _ => None,
        }
    }

    fn is_absence(&self) -> bool {
        matches!(self.test, Test::Exists) && self.negated
    }
}

/// What an operator compares with, as a rule writes it.
struct Operands<'a> {
    operator: &'a str,
    value: Option<Literal>,
    values: Option<Vec<Literal>>,
    pointer: &'a str,
}

impl Operands<'_> {
    fn refuse(&self, code: &'static str, param: &str, message: String) -> RuleError {
        RuleError::new(code, format!("{}/{param}", self.pointer), message)
    }

    fn one(self) -> Result<Literal, RuleError> {
        let operator = self.operator;
        if self.values.is_some() {
            let message = format!("`{operator}` compares with one `value`; `values` is for `in`");
            return Err(self.refuse("conflicting_params", "values", message));
        }
        let pointer = self.pointer;
        let value = self.value.ok_or_else(|| {
            let message = format!("`{operator}` needs a `value`; none is given");
            RuleError::new("missing_param", pointer, message)
        })?;
        if value.text.len() > MAX_PATTERN_BYTES {
            return Err(RuleError::new(
                "value_too_long",
                format!("{pointer}/value"),
                format!(
                    "`value` has {} bytes; expected at most {MAX_PATTERN_BYTES}",
                    value.text.len()
                ),
            ));
        }
        Ok(value)
    }

    fn part(self) -> Result<Box<Finder<'static>>, RuleError> {
        let pointer = format!("{}/value", self.pointer);
        let part = self.one()?.text;
        if part.is_empty() {
            return Err(RuleError::new(
                "empty_value",
                pointer,
                "`value` is empty and every text contains it; expected at least one character",
            ));
        }
        Ok(Box::new(Finder::new(part.as_bytes()).into_owned()))
    }

    fn number(self) -> Result<Number, RuleError> {
        let (operator, pointer) = (self.operator, format!("{}/value", self.pointer));
        let literal = self.one()?;
        let number = literal.number.or_else(|| Number::parse(&literal.text));
        number.ok_or_else(|| {
            RuleError::new(
                "invalid_number",
                pointer,
                format!(
                    "`{operator}` compares numbers, and `value` is `{}`; expected one like 500",
                    shown(&literal.text)
                ),
            )
        })
    }

    fn wants_existence(self) -> Result<bool, RuleError> {
        if self.values.is_some() {
            let message = "`exists` takes no `values`; remove them".to_owned();
            return Err(self.refuse("conflicting_params", "values", message));
        }
        match &self.value {
            None => Ok(true),
            Some(literal) if literal.text == "true" => Ok(true),
            Some(literal) if literal.text == "false" => Ok(false),
            Some(other) => {
                let message = format!(
                    "`exists` is asked with `{}`; expected `true`, `false` or no `value`",
                    shown(&other.text)
                );
                Err(self.refuse("conflicting_params", "value", message))
            }
        }
    }

    fn listed(self) -> Result<Listed, RuleError> {
        let operator = self.operator;
        if self.value.is_some() {
            let message = format!("`{operator}` compares with a list; expected `values`");
            return Err(self.refuse("conflicting_params", "value", message));
        }
        let Some(literals) = &self.values else {
            let message = format!("`{operator}` needs `values`, a list; none are given");
            return Err(RuleError::new("missing_param", self.pointer, message));
        };
        if literals.is_empty() || literals.len() > MAX_KEYWORDS {
            let message = format!(
                "`values` has {} values; expected 1 to {MAX_KEYWORDS}",
                literals.len()
            );
            return Err(self.refuse("invalid_values", "values", message));
        }
        let long = |literal: &Literal| literal.text.len() > MAX_PATTERN_BYTES;
        if let Some(at) = literals.iter().position(long) {
            let message = format!(
                "the value has {} bytes; expected at most {MAX_PATTERN_BYTES}",
                literals[at].text.len()
            );
            return Err(self.refuse("value_too_long", &format!("values/{at}"), message));
        }
        let literals = self.values.unwrap_or_default();
        let texts = literals.iter().filter(|literal| literal.number.is_none());
        let numbers = literals.iter().filter_map(|literal| literal.number);
        Ok(Listed {
            texts: texts.map(|literal| literal.text.clone()).collect(),
            numbers: numbers.map(Number::identity).collect(),
            literals,
        })
    }
}

impl Test {
    fn holds_for(&self, value: &Value<'_>) -> bool {
        match self {
            Self::Exists => true,
            // What is compared as a number is not decoded as a text.
            Self::Compare(..) => self.holds_for_text("", Number::of(value)),
            Self::Equals(Literal {
                number: Some(wanted),
                ..
            }) => Number::of(value).is_some_and(|number| number.compare(*wanted).is_eq()),
            Self::In(listed) if !listed.numbers.is_empty() => {
                self.holds_for_text(&json::text(value), Number::of(value))
            }
            _ => self.holds_for_text(&json::text(value), None),
        }
    }

    fn holds_for_text(&self, text: &str, number: Option<Number>) -> bool {
        match self {
            Self::Exists => true,
            Self::Equals(literal) => match literal.number {
                Some(wanted) => number.is_some_and(|number| number.compare(wanted).is_eq()),
                None => *text == *literal.text,
            },
            Self::Contains(finder) => finder.find(text.as_bytes()).is_some(),
            Self::In(listed) => {
                listed.texts.contains(text)
                    || number.is_some_and(|number| listed.numbers.contains(&number.identity()))
            }
            Self::Regex(pattern) => pattern.is_match(text.as_bytes()),
            Self::Compare(comparison, wanted) => {
                number.is_some_and(|number| comparison.holds(number.compare(*wanted)))
            }
        }
    }
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Gt => ordering.is_gt(),
            Self::Gte => ordering.is_ge(),
            Self::Lt => ordering.is_lt(),
            Self::Lte => ordering.is_le(),
        }
    }

    fn is_lower_bound(self) -> bool {
        matches!(self, Self::Gt | Self::Gte)
    }
}

/// Refuses the last of the conditions if, with those before it, nothing or everything fulfils them.
/// Finds what contradicts in one field; it proves no theorems.
fn refuse_nonsense(conditions: &[Condition], join: Join, pointer: &str) -> Result<(), RuleError> {
    let Some((last, before)) = conditions.split_last() else {
        return Ok(());
    };
    let same_field = |other: &&Condition| other.field == last.field;
    if join == Join::Any {
        let exists = |one: &Condition| matches!(one.test, Test::Exists);
        let opposite = |other: &Condition| exists(other) && other.negated != last.negated;
        return match exists(last) && before.iter().filter(same_field).any(opposite) {
            true => Err(RuleError::new(
                "always_true",
                pointer,
                "the field exists or does not, so that `any` holds for every event; remove one",
            )),
            false => Ok(()),
        };
    }
    let contradiction = before
        .iter()
        .filter(same_field)
        .any(|other| contradict(last, other));
    match contradiction {
        true => Err(RuleError::new(
            "contradictory_conditions",
            pointer,
            "no value of the field fulfils this condition and those before it; remove one, or join \
             them by `any`",
        )),
        false => Ok(()),
    }
}

fn contradict(a: &Condition, b: &Condition) -> bool {
    if a.is_absence() != b.is_absence() {
        return true;
    }
    // Of several values, each may fulfil another condition.
    if a.many || a.is_absence() {
        return false;
    }
    // A number that a rule writes stands for all ways to write it, so only numbers judge it.
    let judges = |judge: &Condition, literal: &Literal| match &judge.test {
        Test::Contains(_) | Test::Regex(_) => literal.number.is_none(),
        Test::Equals(other) => literal.number.is_some() == other.number.is_some(),
        Test::In(listed) => listed
            .literals
            .iter()
            .all(|other| other.number.is_some() == literal.number.is_some()),
        Test::Compare(..) | Test::Exists => true,
    };
    let none_left = |admitting: &Condition, judge: &Condition| {
        admitting.admits().is_some_and(|literals| {
            literals
                .iter()
                .all(|literal| judges(judge, literal) && !judge.allows(&with_number(literal)))
        })
    };
    if none_left(a, b) || none_left(b, a) {
        return true;
    }
    let (Test::Compare(one, low), Test::Compare(other, high)) = (&a.test, &b.test) else {
        return false;
    };
    match (one.is_lower_bound(), other.is_lower_bound()) {
        (true, true) | (false, false) => false,
        (lower_first, _) => {
            let (low, high) = match lower_first {
                true => (*low, *high),
                false => (*high, *low),
            };
            let touching = *one != Comparison::Gt
                && *one != Comparison::Lt
                && *other != Comparison::Gt
                && *other != Comparison::Lt;
            match low.compare(high) {
                Ordering::Less => false,
                Ordering::Equal => !touching,
                Ordering::Greater => true,
            }
        }
    }
}

/// An event's text that is a number compares as one too.
fn with_number(literal: &Literal) -> Literal {
    Literal {
        text: literal.text.clone(),
        number: literal.number.or_else(|| Number::parse(&literal.text)),
    }
}
