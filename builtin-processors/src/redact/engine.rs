//! Finds the events that any of some rules may be about, in one pass, and runs the rules on those.
//!
//! Whether a rule does something to an event is decided by that rule, on what the rules before it
//! left; the pass only says which events and rules are worth asking. A rule that was not hit in an
//! event that no rule before it changed has nothing to do there; where one did change it, the new
//! body is scanned for the rest of the rules. So the outcome, and each tally, is that of the rules
//! one after the other, but for one thing: what the rewritten events of a batch may take is counted
//! once for all the rules.

use std::{
    cell::{Cell, RefCell},
    mem,
    ops::ControlFlow,
};

use streamgate_guest::{Batch, Event, Rest, Rewrite, Tally, Verdict, WITHHELD};

use crate::{
    matcher::Residue,
    scan::{Gate, Hit},
};

use super::rule::{Applied, Known, Rule, Scratch};

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
    /// The targets that have no rows, ascending.
    without_rows: Vec<usize>,
}

/// Scratch space, kept and reused.
#[derive(Debug, Clone)]
struct State {
    ahead: Ahead,
    /// For each pass of the residue, its next hit in the slice; `NOWHERE` if there is none.
    residues: Vec<usize>,
    hits: Hits,
    scratch: Scratch,
    /// The body as the rules left it so far, and room for the next one.
    current: Vec<u8>,
    next: Vec<u8>,
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
            hits: Hits {
                first: vec![NOWHERE; rule_of.len()],
                last: vec![NOWHERE; rule_of.len()],
                ..Hits::default()
            },
            scratch: Scratch::default(),
            current: Vec::new(),
            next: Vec::new(),
        };
        let plan = Plan {
            gate: Gate::new(with_rows),
            residue,
            without_rows: without_rows.map(|(at, _)| at).collect(),
            rules: rule_of,
            first_targets,
        };
        Self { plan, state }
    }

    pub(super) fn process(&mut self, rules: &mut [Rule], batch: &mut Batch, tallies: &mut [Tally]) {
        let Self { plan, state } = self;
        // Two closures share what is known of the slice.
        let ahead = RefCell::new(mem::take(&mut state.ahead));
        let residue_hit = Cell::new(NOWHERE);
        let mut residues = mem::take(&mut state.residues);
        batch.edit(
            Rest::Keep,
            |slice, at| {
                let gate = ahead.borrow_mut().next(&plan.gate, slice, at);
                let residue = plan.next_residue(&mut residues, slice, at);
                // The slice stays where it is in memory until the decision.
                residue_hit.set(match residue {
                    NOWHERE => NOWHERE,
                    hit => slice.as_ptr().addr() + hit,
                });
                Some(gate.min(residue)).filter(|&hit| hit != NOWHERE)
            },
            |event, rewrite| {
                let offset = residue_hit
                    .get()
                    .wrapping_sub(event.bytes().as_ptr().addr());
                let residue = offset < event.bytes().len();
                state.hits.forget();
                state.hits.residue = residue;
                ahead.borrow_mut().take(&plan.gate, event, &mut state.hits);
                state.decide(plan, rules, event, rewrite, tallies)
            },
        );
        state.ahead = ahead.into_inner();
        state.residues = residues;
        state.ahead.rest();
        for body in [&mut state.current, &mut state.next] {
            body.clear();
            body.shrink_to(RESTING_BYTES);
        }
    }
}

impl State {
    /// Decides on an event, the hits in which are known.
    fn decide(
        &mut self,
        plan: &Plan,
        rules: &mut [Rule],
        event: Event<'_>,
        rewrite: &mut Rewrite<'_>,
        tallies: &mut [Tally],
    ) -> Verdict {
        let mut changed = false;
        // The rule to ask next, and how often it has changed this event.
        let (mut least, mut asked, mut round) = (0, None, 0);
        while let Some(number) = plan.next_rule(&self.hits, least) {
            let (rule, tally) = (&mut rules[number], &mut tallies[number]);
            if asked != Some(number) {
                (asked, round) = (Some(number), 0);
            }
            least = number;
            let body = match changed {
                true => self.current.as_slice(),
                false => event.body(),
            };
            self.next.clear();
            let (hits, base) = (&self.hits, plan.first_targets[number]);
            let without_rows = &plan.without_rows;
            let known = |target: usize| match hits.first[base + target] {
                NOWHERE if hits.residue && without_rows.binary_search(&(base + target)).is_ok() => {
                    Some(Known::Nothing)
                }
                NOWHERE => None,
                hit => Some(Known::Hits(hit, hits.last[base + target])),
            };
            let (scratch, room) = (&mut self.scratch, rewrite.room());
            match rule.apply(body, known, scratch, &mut self.next, room) {
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
            self.hits.forget();
            if let Some(&target) = plan
                .first_targets
                .get(least)
                .filter(|_| least < rules.len())
            {
                self.hits.collect(&plan.gate, &self.current, target);
                let rest = plan.without_rows.last().is_some_and(|&last| last >= target);
                self.hits.residue = rest && plan.residue.find(&self.current, 0).is_some();
            }
        }
        match changed {
            true => rewrite.replace(&self.current),
            false => Verdict::Keep,
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
    fn next_rule(&self, hits: &Hits, least: usize) -> Option<usize> {
        let target = *self.first_targets.get(least)?;
        let next = |targets: &[usize]| {
            let at = targets.partition_point(|&hit| hit < target);
            targets.get(at).map(|&hit| self.rules[hit])
        };
        let residue = match hits.residue {
            true => next(&self.without_rows),
            false => None,
        };
        next(&hits.targets).into_iter().chain(residue).min()
    }
}

impl Hits {
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

/// The hits in what was scanned of a slice and not decided on yet, so that no byte is scanned twice.
#[derive(Debug, Clone, Default)]
struct Ahead {
    hits: Vec<Hit>,
    /// How many of them are behind.
    taken: usize,
    /// Where in memory the slice begins at present, and how far it is scanned.
    slice: usize,
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
        // Events that grow move the slice, if they are in the same buffer.
        self.slice = slice.as_ptr().addr();
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
        let begin = event.bytes().as_ptr().addr() - self.slice;
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
