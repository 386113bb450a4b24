//! Finds the events that any of some rules may be about, in one pass, and runs the rules on those.
//!
//! Whether a rule does something to an event is decided by that rule, on what the rules before it
//! left; the pass only says which events and rules are worth asking. A rule that was not hit in an
//! event that no rule before it changed has nothing to do there; where one did change it, the new
//! body is scanned for the rest of the rules. So the outcome, and each tally, is that of the rules
//! one after the other, but for one thing: what the rewritten events of a batch may take is counted
//! once for all the rules.

use std::{mem, ops::ControlFlow};

use streamgate_guest::{
    Batch, Editor, Event, Rest, Rewrite, Tally, Verdict, WITHHELD, rewrite_limit,
};

use crate::{
    matcher::Residue,
    scan::{Gate, Hit},
    view::{Alphabet, View, find_trigger},
};

use super::{
    rule::{Applied, Rule, Scratch},
    search::Known,
};

/// How often a rule is applied again to what it left.
const MOST_ROUNDS: usize = 4;

/// What an engine may hold on to between batches, for each body.
const RESTING_BYTES: usize = 256 * 1024;

/// Bytes that the gate scans ahead of the event that is decided on.
const AHEAD_BYTES: usize = 4096;

/// Hits that are kept for later events, and what the list of them may hold on to between batches.
const MOST_AHEAD: usize = 1024;

/// Where there is no hit.
const NOWHERE: usize = usize::MAX;

#[derive(Debug, Clone)]
pub(super) struct Engine {
    plan: Plan,
    state: State,
}

/// What is looked for.
#[derive(Debug, Clone)]
struct Plan {
    /// Looks for the targets that have rows; a target's number counts through all rules.
    gate: Gate,
    /// Looks for the others.
    residue: Residue,
    /// For each target, its rule.
    rules: Vec<usize>,
    /// For each rule, its first target; and the number of all, at the end.
    first_targets: Vec<usize>,
    /// What a match of any target can be made of.
    alphabet: Alphabet,
    /// The targets that have no rows, ascending.
    without_rows: Vec<usize>,
    /// The rules that look at the bytes of events with views, ascending.
    of_source: Vec<usize>,
}

/// Scratch space, kept and reused.
#[derive(Debug, Clone)]
struct State {
    ahead: Ahead,
    /// For each pass of the residue, its next hit in the slice; `NOWHERE` if there is none.
    residues: Vec<usize>,
    /// Where in the slice the residue and a trigger are next; `NOWHERE` if there is none.
    residue: usize,
    trigger: usize,
    view: View,
    /// For each layer of the view, what is hit in its text.
    hits: Vec<Hits>,
    scratch: Scratch,
    /// The body as the rules left it so far, and room for the next one.
    current: Vec<u8>,
    next: Vec<u8>,
}

/// One pass over a batch.
struct Pass<'a> {
    plan: &'a Plan,
    state: &'a mut State,
    rules: &'a mut [Rule],
    tallies: &'a mut [Tally],
}

/// What the pass found in one body.
#[derive(Debug, Clone, Default)]
struct Hits {
    /// For each target, its first and its last hit.
    first: Vec<usize>,
    last: Vec<usize>,
    /// The targets that have one, ascending.
    targets: Vec<usize>,
    /// Whether one of the targets without rows may match.
    residue: bool,
}

impl Engine {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut rule_of = Vec::new();
        let mut first_targets = vec![0];
        for (number, rule) in rules.iter().enumerate() {
            rule_of.extend(rule.targets.iter().map(|_| number));
            first_targets.push(rule_of.len());
        }
        let patterns = || {
            rules
                .iter()
                .flat_map(|rule| &rule.targets)
                .map(|target| &target.pattern)
        };
        let with_rows = patterns().enumerate();
        let with_rows = with_rows.filter_map(|(at, pattern)| Some((at, pattern.rows()?)));
        let without_rows = patterns()
            .enumerate()
            .filter(|(_, pattern)| pattern.rows().is_none());
        let residue = Residue::new(patterns());
        let state = State {
            ahead: Ahead::default(),
            residues: vec![NOWHERE; residue.passes()],
            residue: NOWHERE,
            trigger: NOWHERE,
            view: View::default(),
            hits: vec![Hits::new(rule_of.len())],
            scratch: Scratch::default(),
            current: Vec::new(),
            next: Vec::new(),
        };
        let plan = Plan {
            gate: Gate::new(with_rows),
            residue,
            alphabet: patterns().fold(Alphabet::default(), |all, pattern| {
                all.union(&pattern.alphabet())
            }),
            without_rows: without_rows.map(|(at, _)| at).collect(),
            rules: rule_of,
            first_targets,
            of_source: (0..rules.len())
                .filter(|rule| rules[*rule].looks_at_source())
                .collect(),
        };
        Self { plan, state }
    }

    pub(super) fn process(&mut self, rules: &mut [Rule], batch: &mut Batch, tallies: &mut [Tally]) {
        let Self { plan, state } = self;
        let mut pass = Pass {
            plan,
            state,
            rules,
            tallies,
        };
        batch.edit_with(Rest::Keep, &mut pass);
        state.rest();
    }
}

impl Editor for Pass<'_> {
    fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
        let Self { plan, state, .. } = self;
        let gate = state.ahead.next(&plan.gate, slice, at);
        state.residue = plan.next_residue(&mut state.residues, slice, at);
        // At 0 it is another slice.
        if at == 0 || state.trigger < at {
            state.trigger = find_trigger(slice, at).unwrap_or(NOWHERE);
        }
        let next = gate.min(state.residue).min(state.trigger);
        (next != NOWHERE).then_some(next)
    }

    fn decide(&mut self, event: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict {
        let Self {
            plan,
            state,
            rules,
            tallies,
        } = self;
        let (begin, body) = (event.offset(), event.body());
        let has_trigger = (begin..begin + body.len()).contains(&state.trigger);
        let bytes = begin..begin + event.bytes().len();
        let hits = &mut state.hits[0];
        hits.forget();
        hits.residue = bytes.contains(&state.residue);
        state.ahead.take(&plan.gate, event, hits);
        if has_trigger {
            let is_hit = hits.residue || !hits.targets.is_empty();
            if !is_hit && !state.may_hit(plan, body) {
                return Verdict::Keep;
            }
            state.view.begin(body, true);
            state.scan_layers(plan, body, 0);
        } else {
            state.view.begin(body, false);
        }
        state.apply(plan, rules, event, rewrite, tallies)
    }
}

impl State {
    /// Runs the rules on an event, the hits in whose texts are known.
    fn apply(
        &mut self,
        plan: &Plan,
        rules: &mut [Rule],
        event: Event<'_>,
        rewrite: &mut Rewrite<'_>,
        tallies: &mut [Tally],
    ) -> Verdict {
        let mut changed = false;
        // A carriage return at the end of what a rule left is part of the terminator to the next
        // one.
        let mut carried = false;
        // The rule to ask next, and how often it has changed this event.
        let (mut least, mut asked, mut round) = (0, None, 0);
        let mut room = 0;
        while let Some(number) = plan.next_rule(self, least) {
            let (rule, tally) = (&mut rules[number], &mut tallies[number]);
            let body = match changed {
                true => self.current.as_slice(),
                false => event.body(),
            };
            if asked != Some(number) {
                (asked, round) = (Some(number), 0);
                room = rewrite_limit(body.len()).min(rewrite.room());
            }
            least = number;
            self.next.clear();
            let (hits, base) = (&self.hits, plan.first_targets[number]);
            let without_rows = &plan.without_rows;
            let known = |layer: usize, target: usize| {
                let hits = &hits[layer];
                match hits.first[base + target] {
                    NOWHERE
                        if hits.residue && without_rows.binary_search(&(base + target)).is_ok() =>
                    {
                        Some(Known::default())
                    }
                    NOWHERE => None,
                    hit => Some(Known {
                        hits: Some((hit, hits.last[base + target])),
                        first_match: None,
                    }),
                }
            };
            let (view, scratch) = (&mut self.view, &mut self.scratch);
            let again = round > 0;
            match rule.apply(body, view, again, known, scratch, &mut self.next, room) {
                Applied::Not => {
                    least += 1;
                    continue;
                }
                Applied::Tagged => {
                    tally.changed += 1;
                    least += 1;
                    continue;
                }
                Applied::Dropped => {
                    tally.dropped += 1;
                    return Verdict::Drop;
                }
                Applied::Withheld => {
                    tally.changed += u64::from(round == 0);
                    self.next.clear();
                    self.next.extend_from_slice(WITHHELD);
                    least += 1;
                }
                Applied::Changed => {
                    tally.changed += u64::from(round == 0);
                    let same = self.next.as_slice() == body;
                    let again = rule.repeats() && !same && round < MOST_ROUNDS;
                    least += usize::from(!again);
                    round += 1;
                }
                Applied::NoRoom => match rule.on_error.verdict(tally) {
                    Verdict::Drop => return Verdict::Drop,
                    Verdict::Withhold => {
                        self.next.clear();
                        self.next.extend_from_slice(WITHHELD);
                        least += 1;
                    }
                    _ => {
                        least += 1;
                        continue;
                    }
                },
            }
            mem::swap(&mut self.current, &mut self.next);
            changed = true;
            // A line feed in it would make another event, and the batch replaces it.
            for byte in &mut self.current {
                if *byte == b'\n' {
                    *byte = b' ';
                }
            }
            if !carried && event.terminator() == b"\n" && self.current.last() == Some(&b'\r') {
                carried = true;
                self.current.pop();
            }
            if least < rules.len() {
                let current = mem::take(&mut self.current);
                let has_trigger = find_trigger(&current, 0).is_some();
                let least = plan.first_targets[least];
                self.view.begin(&current, false);
                self.scan_layer(plan, 0, &current, least);
                let is_hit = self.hits[0].residue || !self.hits[0].targets.is_empty();
                if has_trigger && (is_hit || self.may_hit(plan, &current)) {
                    self.view.begin(&current, true);
                    self.scan_layers(plan, &current, least);
                }
                self.current = current;
            }
        }
        if carried {
            self.current.push(b'\r');
        }
        match changed {
            true => rewrite.replace(&self.current),
            false => Verdict::Keep,
        }
    }

    /// Says whether any target may be hit in the texts of an event with a trigger, apart from its
    /// bytes.
    fn may_hit(&mut self, plan: &Plan, body: &[u8]) -> bool {
        self.view.may_hold(body, &plan.alphabet, |text| {
            plan.gate.find(text, 0).is_some() || plan.residue.may_match(text)
        })
    }

    /// Finds what the targets from `least` on hit in the layers of the view. What they hit in the
    /// bytes of the event is known already.
    fn scan_layers(&mut self, plan: &Plan, body: &[u8], least: usize) {
        for layer in 0..self.view.layers() {
            if self.hits.len() == layer {
                self.hits.push(Hits::new(plan.rules.len()));
            }
            if layer > 0 || !self.view.is_source(0) {
                self.scan_layer(plan, layer, body, least);
            }
        }
    }

    fn scan_layer(&mut self, plan: &Plan, layer: usize, body: &[u8], least: usize) {
        let rest = plan.without_rows.last().is_some_and(|&last| last >= least);
        let text = self.view.text(layer, body);
        let hits = &mut self.hits[layer];
        hits.forget();
        hits.collect(&plan.gate, text, least);
        hits.residue = rest && plan.residue.may_match(text);
    }

    fn rest(&mut self) {
        self.ahead.rest();
        self.view.rest();
        self.scratch.rest(RESTING_BYTES);
        for body in [&mut self.current, &mut self.next] {
            body.clear();
            body.shrink_to(RESTING_BYTES);
        }
    }
}

impl Plan {
    /// Returns where in the slice a target without rows may have its next match, at or after `at`;
    /// `NOWHERE` if there is none. `known` is what each pass found last.
    fn next_residue(&self, known: &mut [usize], slice: &[u8], at: usize) -> usize {
        let mut next = NOWHERE;
        for (pass, known) in known.iter_mut().enumerate() {
            // At 0 it is another slice.
            if at == 0 || *known < at {
                let found = self.residue.find_in_pass(pass, slice, at);
                *known = found.unwrap_or(NOWHERE);
            }
            next = next.min(*known);
        }
        next
    }

    /// Returns the first rule, from `least` on, that may have something to do.
    fn next_rule(&self, state: &State, least: usize) -> Option<usize> {
        let target = *self.first_targets.get(least)?;
        let next = |targets: &[usize]| {
            let at = targets.partition_point(|&hit| hit < target);
            targets.get(at).map(|&hit| self.rules[hit])
        };
        let layers = state.view.layers();
        let hits = state.hits[..layers].iter();
        let by_hits = hits.filter_map(|hits| {
            let residue = match hits.residue {
                true => next(&self.without_rows),
                false => None,
            };
            next(&hits.targets).into_iter().chain(residue).min()
        });
        let of_source = match state.view.is_source(0) {
            true => None,
            false => {
                let at = self.of_source.partition_point(|&rule| rule < least);
                self.of_source.get(at).copied()
            }
        };
        by_hits.chain(of_source).min()
    }
}

impl Hits {
    fn new(targets: usize) -> Self {
        Self {
            first: vec![NOWHERE; targets],
            last: vec![NOWHERE; targets],
            ..Self::default()
        }
    }

    fn forget(&mut self) {
        for target in self.targets.drain(..) {
            self.first[target] = NOWHERE;
        }
        self.residue = false;
    }

    /// Finds the first and the last hits of the targets from `least` on.
    fn collect(&mut self, gate: &Gate, body: &[u8], least: usize) {
        let done: ControlFlow<()> = gate.scan(body, 0, |hit| {
            if hit.owner >= least {
                self.add(hit);
            }
            ControlFlow::Continue(())
        });
        debug_assert!(done.is_continue());
        self.targets.sort_unstable();
    }

    /// Adds a hit that is not before any other of its target.
    fn add(&mut self, Hit { at, owner }: Hit) {
        self.last[owner] = at;
        if self.first[owner] == NOWHERE {
            self.first[owner] = at;
            self.targets.push(owner);
        }
    }
}

/// The hits in what was scanned of a slice and not decided on yet, so that no byte is scanned
/// twice.
#[derive(Debug, Clone, Default)]
struct Ahead {
    hits: Vec<Hit>,
    /// How many of them are behind.
    taken: usize,
    /// How far the slice is scanned.
    scanned: usize,
}

impl Ahead {
    /// Returns the next hit at or after `at`, or `NOWHERE`.
    fn next(&mut self, gate: &Gate, slice: &[u8], at: usize) -> usize {
        if at == 0 {
            // Another slice.
            (self.taken, self.scanned) = (0, 0);
            self.hits.clear();
        }
        loop {
            while let Some(hit) = self.hits.get(self.taken) {
                if hit.at >= at {
                    return hit.at;
                }
                self.taken += 1;
            }
            self.scanned = self.scanned.max(at);
            if self.scanned >= slice.len() {
                return NOWHERE;
            }
            self.taken = 0;
            self.hits.clear();
            let part = self.scanned..slice.len().min(self.scanned + AHEAD_BYTES);
            self.scanned = part.end;
            let stopped = gate.scan_part(slice, part, |hit| {
                // All hits at a place, or none: it is there that the scan goes on.
                if self.hits.len() >= MOST_AHEAD
                    && self.hits.last().is_some_and(|last| last.at < hit.at)
                {
                    return ControlFlow::Break(hit.at);
                }
                self.hits.push(hit);
                ControlFlow::Continue(())
            });
            if let ControlFlow::Break(at) = stopped {
                self.scanned = at;
            }
        }
    }

    /// Adds the hits in an event of the slice, in the order of their targets.
    fn take(&mut self, gate: &Gate, event: Event<'_>, hits: &mut Hits) {
        let body = event.body();
        let begin = event.offset();
        let end = begin + body.len();
        while let Some(&hit) = self.hits.get(self.taken).filter(|hit| hit.at < end) {
            // None is before the event: `next` went past those.
            hits.add(Hit {
                at: hit.at - begin,
                ..hit
            });
            self.taken += 1;
        }
        if self.scanned < end {
            let part = self.scanned.max(begin) - begin..body.len();
            let done: ControlFlow<()> = gate.scan_part(body, part, |hit| {
                hits.add(hit);
                ControlFlow::Continue(())
            });
            debug_assert!(done.is_continue());
            self.scanned = end;
        }
        hits.targets.sort_unstable();
    }

    /// Forgets the slice.
    fn rest(&mut self) {
        self.hits.clear();
        self.hits.shrink_to(MOST_AHEAD);
    }
}
