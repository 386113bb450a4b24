//! What becomes of a batch in the middle of which an editor panicked.
//!
//! The events before the guilty one are decided, those behind it are not looked at yet. So the two are
//! set aside, whoever caught the panic does something about the guilty event alone, and goes on behind
//! it. Nothing of this costs an edit that nobody interrupts anything.

use std::mem;

use super::{Batch, Edited, Run, count_events};

/// Where a panic ended an edit: `runs` are those that were decided on, the guilty event if it is known,
/// and the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interruption {
    pub(super) decided_runs: usize,
    pub(super) has_event: bool,
    pub(super) edited: Edited,
}

/// What is known of an edit that a panic ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted {
    /// What was done to the events before.
    pub edited: Edited,
    /// Whether it is known at which event it was, which is now the only one of the batch. If not, the
    /// batch is empty now.
    pub at_event: bool,
}

/// Events that are not to be seen for the time being.
#[derive(Debug, Default)]
pub(super) struct Aside {
    before: Vec<Run>,
    before_events: usize,
    behind: Vec<Run>,
    behind_events: usize,
    /// Whether the events behind are looked at one by one.
    one_by_one: bool,
}

impl Aside {
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.behind.is_empty()
    }

    pub(super) fn is_one_by_one(&self) -> bool {
        self.one_by_one
    }

    pub(super) fn capacity(&self) -> usize {
        self.before.capacity() + self.behind.capacity()
    }
}

impl Batch {
    /// After a panic in an edit: sets all events aside but the one that was being decided on, and tells
    /// what was done before it. `None` if the last edit came to its end, or there was none.
    ///
    /// Then decide on that event by another edit, call [`go_on`](Self::go_on), edit what there is then,
    /// as often as it takes, and call [`rejoin`](Self::rejoin). If the event is not known, as the panic was in the search
    /// for the next one, edits after `go_on` search in one event at a time, until it is known.
    pub fn isolate_interrupted(&mut self) -> Option<Interrupted> {
        let Interruption {
            decided_runs,
            has_event,
            edited,
        } = self.interruption.take()?;
        let event_runs = usize::from(has_event);
        let rest = self.runs.split_off(decided_runs + event_runs);
        let event = self.runs.split_off(decided_runs);
        let rest_events: usize = rest
            .iter()
            .map(|run| count_events(run.of(&self.bytes, &self.overflow)))
            .sum();
        let aside = &mut self.aside;
        aside.before.append(&mut self.runs);
        aside.before_events += self.events - rest_events - event_runs;
        // What was behind before is still behind that.
        let behind = mem::replace(&mut aside.behind, rest);
        aside.behind.extend(behind);
        aside.behind_events += rest_events;
        aside.one_by_one = !has_event;
        self.runs = event;
        self.events = event_runs;
        Some(Interrupted {
            edited,
            at_event: has_event,
        })
    }

    /// Goes on with the events behind the one that [`isolate_interrupted`](Self::isolate_interrupted)
    /// left.
    pub fn go_on(&mut self) {
        let aside = &mut self.aside;
        aside.before.append(&mut self.runs);
        aside.before_events += self.events;
        self.runs = mem::take(&mut aside.behind);
        self.events = mem::take(&mut aside.behind_events);
    }

    /// Brings back what was set aside.
    pub fn rejoin(&mut self) {
        let aside = mem::take(&mut self.aside);
        if !aside.before.is_empty() {
            let runs = mem::replace(&mut self.runs, aside.before);
            self.runs.extend(runs);
        }
        self.runs.extend(aside.behind);
        self.events += aside.before_events + aside.behind_events;
    }

    /// Makes each event a run of its own.
    pub(super) fn take_apart(&mut self) {
        let mut apart = Vec::with_capacity(self.events);
        for run in &self.runs {
            let mut start = run.start as usize;
            for at in memchr::memchr_iter(b'\n', run.of(&self.bytes, &self.overflow)) {
                let end = run.start as usize + at + 1;
                apart.push(Run::new(start, end, run.overflowed));
                start = end;
            }
        }
        self.runs = apart;
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use proptest::prelude::*;

    use super::*;
    use crate::{Editor, Event, Rest, Rewrite, Verdict};

    /// Decides by the first letter: `d` is dropped, `r` rewritten, `p` panics in `decide`, `s` in `next`;
    /// others are passed over, or pointed at and kept if they begin with `k`.
    struct ByLetter {
        seen: usize,
    }

    fn panic_quietly() -> ! {
        // Without the hook, which would write a backtrace for each.
        resume_unwind(Box::new("on purpose"))
    }

    impl Editor for ByLetter {
        fn next(&mut self, slice: &[u8], mut at: usize) -> Option<usize> {
            while at < slice.len() {
                match slice[at] {
                    b's' => panic_quietly(),
                    b'd' | b'r' | b'p' | b'k' => return Some(at),
                    _ => at += memchr::memchr(b'\n', &slice[at..])? + 1,
                }
            }
            None
        }

        fn decide(&mut self, event: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict {
            self.seen += 1;
            match event.body()[0] {
                b'd' => Verdict::Drop,
                b'r' => rewrite.replace(&[b"R", event.body()].concat()),
                b'p' => {
                    rewrite.push(b"half of it").expect("there is room");
                    panic_quietly()
                }
                _ => Verdict::Keep,
            }
        }
    }

    fn becomes(line: &str, rest: Rest, guilty: Verdict) -> Option<Vec<u8>> {
        match (line.as_bytes()[0], guilty) {
            (b'd', _) | (b'p' | b's', Verdict::Drop) => None,
            (b'p' | b's', Verdict::Withhold) => {
                let event = Event::new(line.as_bytes());
                Some([crate::WITHHELD, event.terminator()].concat())
            }
            (b'r', _) => Some([b"R", line.as_bytes()].concat()),
            (b'k' | b'p' | b's', _) => Some(line.as_bytes().to_vec()),
            _ => (rest == Rest::Keep).then(|| line.as_bytes().to_vec()),
        }
    }

    /// Edits as the gate does; returns the sum of what was done, and how many events were guilty.
    fn edit_to_the_end(batch: &mut Batch, rest: Rest, guilty: Verdict) -> (Edited, usize) {
        let (mut sum, mut panics) = (Edited::default(), 0);
        let mut add = |edited: Edited| {
            sum.dropped += edited.dropped;
            sum.changed += edited.changed;
        };
        loop {
            let mut editor = ByLetter { seen: 0 };
            let ended = catch_unwind(AssertUnwindSafe(|| batch.edit_with(rest, &mut editor)));
            if let Ok(edited) = ended {
                add(edited);
                break;
            }
            let interrupted = batch.isolate_interrupted().expect("it was an edit");
            add(interrupted.edited);
            assert_eq!(batch.events(), usize::from(interrupted.at_event));
            assert_eq!(batch.iter().count(), batch.events());
            if interrupted.at_event {
                panics += 1;
                add(batch.edit_each(|_, _| guilty));
            }
            batch.go_on();
        }
        batch.rejoin();
        (sum, panics)
    }

    fn check(lines: &[String], rest: Rest, guilty: Verdict) {
        let mut batch = Batch::from_lines(lines.concat());
        let (edited, panics) = edit_to_the_end(&mut batch, rest, guilty);
        let expected: Vec<Vec<u8>> = lines
            .iter()
            .filter_map(|line| becomes(line, rest, guilty))
            .collect();
        let found: Vec<Vec<u8>> = batch.iter().map(|event| event.bytes().to_vec()).collect();
        assert_eq!(found, expected);
        assert_eq!(batch.events(), expected.len());
        assert_eq!(edited.dropped, (lines.len() - expected.len()) as u64);
        let are_guilty = |line: &&String| line.starts_with(['p', 's']);
        assert_eq!(panics, lines.iter().filter(are_guilty).count());
        batch.retain(|event| event.body().len() > 2);
        batch.settle(&mut crate::Scratch::default());
    }

    #[test]
    fn first_and_last_event_and_all_can_be_guilty() {
        for letters in [
            "p", "s", "pk", "kp", "sk", "ks", "ps", "sp", "xpx", "rsr", "dsd", "pppp",
        ] {
            let lines: Vec<String> = letters
                .chars()
                .map(|letter| format!("{letter}\n"))
                .collect();
            for rest in [Rest::Keep, Rest::Drop] {
                for guilty in [Verdict::Keep, Verdict::Drop, Verdict::Withhold] {
                    check(&lines, rest, guilty);
                }
            }
        }
    }

    #[test]
    fn batch_that_nobody_goes_on_with_has_all_its_events() {
        let mut batch = Batch::from_lines("k\nd\nr\np\nx\n");
        let mut editor = ByLetter { seen: 0 };
        let ended = catch_unwind(AssertUnwindSafe(|| {
            batch.edit_with(Rest::Keep, &mut editor)
        }));
        assert!(ended.is_err());
        assert_eq!(editor.seen, 4);
        assert_eq!(batch.events(), 4);
        assert_eq!(
            batch.slices().flatten().copied().collect::<Vec<_>>(),
            b"k\nRr\np\nx\n"
        );
        // Another edit makes it forget.
        batch.retain(|_| true);
        assert_eq!(batch.isolate_interrupted(), None);
    }

    proptest! {
        #[test]
        fn only_the_guilty_are_treated_as_such(
            lines in prop::collection::vec("[drpskxyz][a-c]{0,3}\r?\n", 0..30),
            drop_rest in any::<bool>(),
            guilty in prop::sample::select(vec![Verdict::Keep, Verdict::Drop, Verdict::Withhold]),
            before in any::<bool>(),
        ) {
            let rest = if drop_rest { Rest::Drop } else { Rest::Keep };
            if before {
                // Some events are in the overflow already.
                let mut batch = Batch::from_lines(lines.concat());
                batch.edit_each(|event, rewrite| match event.body().len() {
                    3 => rewrite.replace(&[event.body(), b"++"].concat()),
                    _ => Verdict::Keep,
                });
                let lines: Vec<String> = batch
                    .iter()
                    .map(|event| String::from_utf8(event.bytes().to_vec()).expect("ASCII"))
                    .collect();
                let (edited, _) = edit_to_the_end(&mut batch, rest, guilty);
                let expected: Vec<Vec<u8>> =
                    lines.iter().filter_map(|line| becomes(line, rest, guilty)).collect();
                let found: Vec<Vec<u8>> =
                    batch.iter().map(|event| event.bytes().to_vec()).collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!((lines.len() - batch.events()) as u64, edited.dropped);
            } else {
                check(&lines, rest, guilty);
            }
        }
    }
}
