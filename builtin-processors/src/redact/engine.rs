//! Finds the events that any of some rules may be about, in one pass, and runs the rules on those.
//!
//! Whether a rule does something to an event is decided by that rule, on what the rules before it
//! left; the pass only says which events and rules are worth asking. A rule that was not hit in an
//! event that no rule before it changed has nothing to do there; where one did change it, the new
//! body is scanned for the rest of the rules. So the outcome, and each tally, is that of the rules
//! one after the other, but for one thing: what the rewritten events of a batch may take is counted
//! once for all the rules.

use std::{cell::Cell, mem, ops::ControlFlow};

use streamgate_guest::{Batch, Event, Rest, Rewrite, Tally, Verdict, WITHHELD};

use crate::{matcher::Residue, scan::Gate};

use super::rule::{Applied, Known, Rule, Scratch};

/// How often a rule is applied again to what it left.
const MOST_ROUNDS: usize = 4;

/// What an engine may hold on to between batches, for each body.
const RESTING_BYTES: usize = 256 * 1024;

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
        let state = State {
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
            residue: Residue::new(patterns()),
            without_rows: without_rows.map(|(at, _)| at).collect(),
            rules: rule_of,
            first_targets,
        };
        Self { plan, state }
    }

    pub(super) fn process(&mut self, rules: &mut [Rule], batch: &mut Batch, tallies: &mut [Tally]) {
        // Two closures share what was found last: where in memory, which stays where it is from
        // `find` to the decision.
        let (gate_hit, residue_hit) = (Cell::new(NOWHERE), Cell::new(NOWHERE));
        let Self { plan, state } = self;
        let mut finder = Finder {
            plan,
            next_gate: None,
            next_residue: None,
        };
        batch.edit(
            Rest::Keep,
            |slice, at| {
                let (gate, residue) = finder.find(slice, at);
                let address = |hit: usize| match hit {
                    NOWHERE => NOWHERE,
                    hit => slice.as_ptr().addr() + hit,
                };
                gate_hit.set(address(gate));
                residue_hit.set(address(residue));
                Some(gate.min(residue)).filter(|&hit| hit != NOWHERE)
            },
            |event, rewrite| {
                let begin = event.bytes().as_ptr().addr();
                let inside = |address: usize| {
                    let offset = address.wrapping_sub(begin);
                    (offset < event.bytes().len()).then_some(offset)
                };
                let residue = inside(residue_hit.get()).is_some();
                let from = inside(gate_hit.get());
                state.decide(plan, rules, event, from, residue, rewrite, tallies)
            },
        );
        for body in [&mut state.current, &mut state.next] {
            body.clear();
            body.shrink_to(RESTING_BYTES);
        }
    }
}

impl State {
    /// Decides on an event in which the gate has its first hit at `from`, if it has one.
    #[expect(clippy::too_many_arguments, reason = "what a closure would capture")]
    fn decide(
        &mut self,
        plan: &Plan,
        rules: &mut [Rule],
        event: Event<'_>,
        from: Option<usize>,
        residue: bool,
        rewrite: &mut Rewrite<'_>,
        tallies: &mut [Tally],
    ) -> Verdict {
        self.hits.forget();
        self.hits.residue = residue;
        if let Some(from) = from.filter(|&from| from < event.body().len()) {
            self.hits.collect(&plan.gate, event.body(), from, 0);
        }
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
                self.hits.collect(&plan.gate, &self.current, 0, target);
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

    /// Finds the first hits of the targets from `least` on.
    fn collect(&mut self, gate: &Gate, body: &[u8], from: usize, least: usize) {
        let Self {
            first,
            last,
            targets,
            ..
        } = self;
        let done: ControlFlow<()> = gate.scan(body, from, |hit| {
            if hit.owner >= least {
                last[hit.owner] = hit.at;
                if first[hit.owner] == NOWHERE {
                    first[hit.owner] = hit.at;
                    targets.push(hit.owner);
                }
            }
            ControlFlow::Continue(())
        });
        debug_assert!(done.is_continue());
        targets.sort_unstable();
    }
}

/// Finds the next event to decide on.
struct Finder<'a> {
    plan: &'a Plan,
    /// Where in the current slice each has its next hit, `NOWHERE` if it has none.
    next_gate: Option<usize>,
    next_residue: Option<usize>,
}

impl Finder<'_> {
    /// Returns the next hits at or after `at`.
    fn find(&mut self, slice: &[u8], at: usize) -> (usize, usize) {
        if at == 0 {
            // Another slice.
            (self.next_gate, self.next_residue) = (None, None);
        }
        let find = |next: &mut Option<usize>, find: &dyn Fn() -> Option<usize>| {
            let hit = next.filter(|&hit| hit >= at);
            let hit = hit.unwrap_or_else(|| find().unwrap_or(NOWHERE));
            *next = Some(hit);
            hit
        };
        let gate = find(&mut self.next_gate, &|| self.plan.gate.find(slice, at));
        let residue = find(&mut self.next_residue, &|| {
            self.plan.residue.find(slice, at)
        });
        (gate, residue)
    }
}
