//! Finds *rows* in a pattern: stretches of byte classes, one of which every match contains.
//!
//! A pattern is read as a sequence of items. From each place where a stretch may begin, all ways to
//! go on are followed for as long as they stay few: `\d{3}[ .-]?\d{4}` has the rows `ddd[ .-]dddd`
//! and `ddddddd`. Of all sets of rows that are found so, the one that the fewest positions of
//! ordinary log text have is taken.
//!
//! Classes are of bytes. A character beyond ASCII that a class also takes in (`\d` means every
//! digit of Unicode) has several, and is found by its first byte instead.

use std::ops::ControlFlow;

use regex_syntax::hir::{Class, Hir, HirKind, Literal};

use super::byte_set::ByteSet;
use crate::view::Alphabet;

/// Longest row.
const MAX_PLACES: usize = 24;

/// Most rows of one pattern that do not come from an alternation of the user's.
const MAX_ROWS: usize = 12;

/// Most rows of one pattern in all.
const MAX_ALL_ROWS: usize = 64;

/// Lengths of rows that are tried.
const LENGTHS: [usize; 8] = [2, 3, 4, 6, 8, 12, 16, MAX_PLACES];

/// Most places where a stretch may begin that are looked at.
const MAX_STARTS: usize = 64;

/// Steps in following the ways from one start, and for a pattern altogether.
const MAX_STEPS: usize = 1_000;
const MAX_ALL_STEPS: usize = 100_000;

/// Deepest chain of things still to follow, which is recursion.
const MAX_DEPTH: usize = 200;

/// Deepest nesting of the pattern that is looked into.
const MAX_NESTING: usize = 24;

/// How many of the best sets of rows are tried on the sample.
const TRIED: usize = 16;

/// The share of positions of a row that would rather be one more row to look for.
const PRICE_OF_A_ROW: f64 = 2e-4;

/// More hits than this at a position are not worth looking for: twice in a line.
const MAX_RATE: f64 = 0.012;

/// Ordinary log lines, without anything private, to tell how often a row occurs by chance.
pub(super) const SAMPLE: &[u8] = include_bytes!("sample.txt");

/// The rows of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    /// Every match contains one of these, or a byte of `beyond`.
    pub(crate) rows: Vec<Places>,
    /// Bytes that never stand right before or behind what is looked for.
    pub(crate) never_beside: ByteSet,
    /// First bytes of the characters beyond ASCII that could stand at a place of a row.
    pub(crate) beyond: ByteSet,
    /// How many bytes before a row a match may begin, if there is a bound.
    pub(crate) before: Option<usize>,
    /// At how many positions of a byte of log text a row lies, roughly.
    pub(crate) rate: f64,
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Places {
    pub(crate) sets: Vec<ByteSet>,
    /// Whether every match that it is in begins with it, and ends with it.
    pub(crate) begins: bool,
    pub(crate) ends: bool,
}

/// One place: which bytes may stand there alone, and which may begin a longer character there.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Place {
    set: ByteSet,
    beyond: ByteSet,
}

#[derive(Debug)]
enum Item {
    Place(Place),
    Repeat {
        sub: Vec<Item>,
        min: u32,
        max: Option<u32>,
        longest: Option<usize>,
    },
    /// The branches, and the length of the longest.
    Branches(Vec<Vec<Item>>, Option<usize>),
}

impl Rows {
    /// Finds the rows of a pattern, if it has any.
    ///
    /// The pattern must match no line feed, as `matcher::widen` sees to.
    pub(crate) fn of(hir: &Hir) -> Option<Self> {
        let mut items = Vec::new();
        flatten(hir, &mut items, 0)?;
        let mut budget = MAX_ALL_STEPS;
        best_rows(&items, &mut budget, MAX_ALL_ROWS, (true, true))
    }

    /// Says which bytes never stand beside a match that counts: letters and digits, mostly. What
    /// stands behind an escape of JSON is let pass.
    pub(crate) fn never_beside(mut self, bytes: ByteSet) -> Self {
        self.never_beside = bytes;
        self
    }

    /// Returns the bytes that stand at the places of the rows, and those that a row begins with
    /// which has to stand alone.
    pub(crate) fn alphabet(&self) -> Alphabet {
        let mut alphabet = Alphabet {
            inside: self.beyond,
            first: ByteSet::default(),
        };
        for row in &self.rows {
            for set in &row.sets {
                alphabet.inside = alphabet.inside.union(set);
            }
            if row.begins && !self.never_beside.is_empty() {
                alphabet.first = row
                    .sets
                    .first()
                    .map_or(alphabet.first, |set| alphabet.first.union(set));
            }
        }
        alphabet
    }

    /// Whether so few positions of log text have a row that it is worth looking for.
    pub(crate) fn are_telling(&self) -> bool {
        let likely: f64 = self.rows.iter().map(|row| likelihood(&row.sets)).sum();
        self.rate.max(likely) <= MAX_RATE
    }
}

/// Says at which share of the positions of the sample a row lies.
pub(super) fn rate_in_sample(row: &[ByteSet]) -> f64 {
    let hits = SAMPLE
        .windows(row.len())
        .filter(|window| {
            row.iter()
                .zip(*window)
                .all(|(set, byte)| set.contains(*byte))
        })
        .count();
    share(hits, SAMPLE.len())
}

#[expect(clippy::cast_precision_loss, reason = "both are far below 2^52")]
pub(super) fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Says how likely a row is in random text of the frequencies of logs.
pub(super) fn likelihood(row: &[ByteSet]) -> f64 {
    let mut likely = 1.0;
    let mut behind_digit = false;
    for set in row {
        likely *= set.frequency(behind_digit);
        behind_digit = set.is_mostly_digits();
    }
    likely
}

/// `None` if it nests too deep to be looked into, or a part of it never matches.
fn flatten(hir: &Hir, items: &mut Vec<Item>, depth: usize) -> Option<()> {
    if depth > MAX_NESTING {
        return None;
    }
    match hir.kind() {
        // What is zero bytes long moves no place.
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(Literal(bytes)) => {
            items.extend(bytes.iter().map(|&byte| {
                Item::Place(Place {
                    set: ByteSet::single(byte),
                    beyond: ByteSet::default(),
                })
            }));
        }
        HirKind::Class(class) => items.push(Item::Place(place_of_class(class)?)),
        HirKind::Capture(capture) => flatten(&capture.sub, items, depth + 1)?,
        HirKind::Concat(parts) => {
            for part in parts {
                flatten(part, items, depth + 1)?;
            }
        }
        HirKind::Repetition(repetition) => {
            let mut sub = Vec::new();
            if flatten(&repetition.sub, &mut sub, depth + 1).is_none() {
                // Of what never matches there can be no turn, if there need be none.
                return (repetition.min == 0 && depth < MAX_NESTING).then_some(());
            }
            items.push(Item::Repeat {
                sub,
                min: repetition.min,
                max: repetition.max,
                longest: repetition.sub.properties().maximum_len(),
            });
        }
        HirKind::Alternation(parts) => {
            let mut branches = Vec::with_capacity(parts.len());
            for part in parts {
                let mut branch = Vec::new();
                flatten(part, &mut branch, depth + 1)?;
                branches.push(branch);
            }
            items.push(Item::Branches(branches, hir.properties().maximum_len()));
        }
    }
    Some(())
}

/// `None` for a class that takes nothing in.
fn place_of_class(class: &Class) -> Option<Place> {
    let mut place = Place {
        set: ByteSet::default(),
        beyond: ByteSet::default(),
    };
    match class {
        Class::Bytes(class) => {
            for range in class.ranges() {
                (range.start()..=range.end()).for_each(|byte| place.set.insert(byte));
            }
        }
        Class::Unicode(class) => {
            for range in class.ranges() {
                for ascii in range.start()..=range.end().min('\x7f') {
                    place.set.insert(u8::try_from(ascii).expect("is ASCII"));
                }
                if range.end() > '\x7f' {
                    let first = first_byte(range.start().max('\u{80}'));
                    (first..=first_byte(range.end())).for_each(|byte| place.beyond.insert(byte));
                }
            }
        }
    }
    (!place.set.is_empty() || !place.beyond.is_empty()).then_some(place)
}

/// The first byte of a character in UTF-8. It grows with the character.
fn first_byte(character: char) -> u8 {
    let mut bytes = [0; 4];
    character.encode_utf8(&mut bytes).as_bytes()[0]
}

/// The most bytes that an item matches.
fn longest(item: &Item) -> Option<usize> {
    match item {
        // A character beyond ASCII has up to four bytes.
        Item::Place(place) if place.beyond.is_empty() => Some(1),
        Item::Place(_) => Some(4),
        Item::Repeat { max, longest, .. } => turns_length(*max, *longest),
        Item::Branches(_, longest) => *longest,
    }
}

fn turns_length(turns: Option<u32>, longest: Option<usize>) -> Option<usize> {
    usize::try_from(turns?).ok()?.checked_mul(longest?)
}

fn add(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    a?.checked_add(b?)
}

/// Something still to follow.
#[derive(Clone, Copy, Debug)]
enum Frame<'a> {
    Items(&'a [Item]),
    Turns {
        sub: &'a [Item],
        min: u32,
        max: Option<u32>,
    },
}

/// Where a stretch may begin: what follows it, the next last, and how many bytes of a match may
/// come before.
#[derive(Debug)]
struct Start<'a> {
    frames: Vec<Frame<'a>>,
    before: Option<usize>,
}

/// Finds the best set of rows of a sequence.
fn best_rows(
    items: &[Item],
    budget: &mut usize,
    room: usize,
    (begins, ends): (bool, bool),
) -> Option<Rows> {
    let mut all = Vec::new();
    starts(items, &mut Vec::new(), Some(0), &mut all);
    let mut found: Vec<(f64, Rows)> = Vec::new();
    for (at, start) in all.iter().enumerate() {
        for length in LENGTHS {
            // The first start is where the whole begins.
            let edges = (begins && at == 0, ends);
            let Some(rows) = follow(start, length, budget, edges) else {
                break;
            };
            if found.iter().all(|(_, other)| other.rows != rows.rows) {
                let likely: f64 = rows.rows.iter().map(|row| likelihood(&row.sets)).sum();
                found.push((likely + price(&rows), rows));
            }
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let tried = found.into_iter().take(TRIED).map(|(likely, mut rows)| {
        rows.rate = rows.rows.iter().map(|row| rate_in_sample(&row.sets)).sum();
        (likely + rows.rate, rows)
    });
    let mut best = tried.min_by(|a, b| a.0.total_cmp(&b.0));
    // Each branch of an alternation may be known by something else.
    let mut before = Some(0);
    for (at, item) in items.iter().enumerate() {
        let edges = (begins && at == 0, ends && at + 1 == items.len());
        if let Item::Branches(branches, _) = item
            && branches.len() <= room
            && let Some(mut rows) = rows_of_branches(branches, budget, room, edges)
        {
            rows.before = add(rows.before, before);
            let likely: f64 = rows.rows.iter().map(|row| likelihood(&row.sets)).sum();
            let cost = likely + rows.rate + price(&rows);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, rows));
            }
        }
        before = add(before, longest(item));
    }
    best.map(|(_, rows)| rows)
}

fn price(rows: &Rows) -> f64 {
    share(rows.rows.len(), 1) * PRICE_OF_A_ROW
}

fn rows_of_branches(
    branches: &[Vec<Item>],
    budget: &mut usize,
    room: usize,
    edges: (bool, bool),
) -> Option<Rows> {
    let mut union = Rows {
        rows: Vec::new(),
        never_beside: ByteSet::default(),
        beyond: ByteSet::default(),
        before: Some(0),
        rate: 0.0,
    };
    for branch in branches {
        let left = room.checked_sub(union.rows.len())?;
        let rows = best_rows(branch, budget, left, edges)?;
        union.rows.extend(rows.rows);
        union.beyond = union.beyond.union(&rows.beyond);
        union.before = union.before.zip(rows.before).map(|(a, b)| a.max(b));
        union.rate += rows.rate;
    }
    (union.rows.len() <= room).then_some(union)
}

/// Lists the places of a sequence, followed by `tail`, where a stretch may begin.
fn starts<'a>(
    items: &'a [Item],
    tail: &mut Vec<Frame<'a>>,
    mut before: Option<usize>,
    all: &mut Vec<Start<'a>>,
) {
    for (at, item) in items.iter().enumerate() {
        if all.len() >= MAX_STARTS {
            return;
        }
        let mut frames = tail.clone();
        frames.push(Frame::Items(&items[at..]));
        all.push(Start { frames, before });
        if let Item::Repeat {
            sub,
            min,
            max,
            longest,
        } = item
        {
            // With the last turns, for what comes behind them.
            let mut turns: Vec<u32> = [1, 2, 4, 8].into_iter().filter(|k| k < min).collect();
            if *min > 0 {
                turns.push(*min);
            }
            for last in turns {
                let earlier = turns_length(max.map(|max| max - last), *longest);
                let depth = tail.len();
                tail.push(Frame::Items(&items[at + 1..]));
                let others = last - 1;
                tail.push(Frame::Turns {
                    sub,
                    min: others,
                    max: Some(others),
                });
                if tail.len() < MAX_NESTING {
                    starts(sub, tail, add(before, earlier), all);
                }
                tail.truncate(depth);
            }
        }
        before = add(before, longest(item));
    }
}

/// Follows all ways from a start for up to `length` places; `None` if they are too many.
fn follow(
    start: &Start<'_>,
    length: usize,
    budget: &mut usize,
    (begins, ends): (bool, bool),
) -> Option<Rows> {
    let mut walk = Walk {
        begins,
        ends,
        length,
        rows: Vec::new(),
        beyond: ByteSet::default(),
        steps: MAX_STEPS.min(*budget),
    };
    let given = walk.steps;
    let followed = walk.follow_all(&start.frames);
    *budget -= given - walk.steps;
    let none_is_empty = walk.rows.iter().all(|row| !row.sets.is_empty());
    // Ways that only characters beyond ASCII go leave no row behind.
    let any = !walk.rows.is_empty() || !walk.beyond.is_empty();
    (followed.is_continue() && none_is_empty && any).then_some(Rows {
        rows: walk.rows,
        never_beside: ByteSet::default(),
        beyond: walk.beyond,
        before: start.before,
        rate: 0.0,
    })
}

/// The ways from one start.
struct Walk {
    length: usize,
    /// Whether the start is that of the match, and the end of all ways its end.
    begins: bool,
    ends: bool,
    rows: Vec<Places>,
    beyond: ByteSet,
    steps: usize,
}

/// What is still to follow, on the stack of the recursion.
struct Next<'a, 'n> {
    frame: Frame<'a>,
    then: Option<&'n Next<'a, 'n>>,
}

impl Walk {
    fn follow_all(&mut self, frames: &[Frame<'_>]) -> ControlFlow<()> {
        fn chain<'a>(
            walk: &mut Walk,
            frames: &[Frame<'a>],
            then: Option<&Next<'a, '_>>,
        ) -> ControlFlow<()> {
            match frames {
                [] => walk.go(then, &mut Vec::new(), 0),
                [frame, rest @ ..] => {
                    let frame = *frame;
                    chain(walk, rest, Some(&Next { frame, then }))
                }
            }
        }
        // The next to follow is the last, and so becomes the head of the chain.
        chain(self, frames, None)
    }

    fn go(
        &mut self,
        next: Option<&Next<'_, '_>>,
        row: &mut Vec<ByteSet>,
        depth: usize,
    ) -> ControlFlow<()> {
        if self.steps == 0 || depth > MAX_DEPTH {
            return ControlFlow::Break(());
        }
        self.steps -= 1;
        let Some(Next { frame, then }) = next else {
            return self.emit(row, self.ends);
        };
        if row.len() == self.length {
            return self.emit(row, false);
        }
        let then = *then;
        match *frame {
            Frame::Items([]) => self.go(then, row, depth + 1),
            Frame::Items([item, rest @ ..]) => {
                let rest = Next {
                    frame: Frame::Items(rest),
                    then,
                };
                match item {
                    Item::Place(place) => {
                        self.beyond = self.beyond.union(&place.beyond);
                        if place.set.is_empty() {
                            return ControlFlow::Continue(());
                        }
                        row.push(place.set);
                        let went = self.go(Some(&rest), row, depth + 1);
                        row.pop();
                        went
                    }
                    Item::Branches(branches, _) => branches.iter().try_for_each(|branch| {
                        let frame = Frame::Items(branch);
                        let then = Some(&rest);
                        self.go(Some(&Next { frame, then }), row, depth + 1)
                    }),
                    Item::Repeat { sub, min, max, .. } => {
                        let frame = Frame::Turns {
                            sub,
                            min: *min,
                            max: *max,
                        };
                        let then = Some(&rest);
                        self.go(Some(&Next { frame, then }), row, depth + 1)
                    }
                }
            }
            Frame::Turns { max: Some(0), .. } => self.go(then, row, depth + 1),
            Frame::Turns { sub, min, max } => {
                if min == 0 {
                    self.go(then, row, depth + 1)?;
                }
                let frame = Frame::Turns {
                    sub,
                    min: min.saturating_sub(1),
                    max: max.map(|max| max - 1),
                };
                let more = Next { frame, then };
                let frame = Frame::Items(sub);
                let then = Some(&more);
                self.go(Some(&Next { frame, then }), row, depth + 1)
            }
        }
    }

    fn emit(&mut self, row: &[ByteSet], ends: bool) -> ControlFlow<()> {
        let row = Places {
            sets: row.to_vec(),
            begins: self.begins,
            ends,
        };
        // All rows of a walk begin alike.
        let covers = |wide: &Places, narrow: &Places| {
            let (long_enough, same_end) = match wide.ends {
                true => (wide.sets.len() == narrow.sets.len(), narrow.ends),
                false => (wide.sets.len() <= narrow.sets.len(), true),
            };
            long_enough && same_end && wide.sets.iter().zip(&narrow.sets).all(|(a, b)| a.covers(b))
        };
        if self.rows.iter().any(|other| covers(other, &row)) {
            return ControlFlow::Continue(());
        }
        self.rows.retain(|other| !covers(&row, other));
        self.rows.push(row);
        match self.rows.len() <= MAX_ROWS {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}
