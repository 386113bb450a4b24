//! Runs a processor over sample events in plain `cargo test`, with no gate and no WASM.
//!
//! Events go the way they go in a guest: as columns in, as changes out. What the processor asks
//! [`host`](crate::host) for is answered by the harness: the clock stands at 0 until it is set, and
//! random numbers are the same in each run.

use std::fmt;

use crate::{
    Configure,
    changes::Changes,
    host::{Level, native::TestHost},
};

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on as it was.
    Kept,
    /// It goes no further.
    Dropped,
    /// It goes on with this body.
    Replaced(Body),
}

/// The new body of an event; shows as text in a failed assertion.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(pub Vec<u8>);

/// A configured processor and the host it talks to.
///
/// ```
/// use streamgate_guest::{Batch, Processor, Tally, testing::{Harness, Outcome}};
///
/// #[derive(serde::Deserialize)]
/// struct DropKeyword {
///     keyword: String,
/// }
///
/// impl Processor for DropKeyword {
///     fn process(&mut self, batch: &mut Batch) -> Tally {
///         Tally::dropped(batch.retain(|event| !event.contains(&self.keyword)))
///     }
/// }
///
/// let mut harness = Harness::<DropKeyword>::configure(r#"{"keyword": "DEBUG"}"#)?;
/// let outcomes = harness.run(["INFO ready", "DEBUG tick"]);
/// assert_eq!(outcomes, [Outcome::Kept, Outcome::Dropped]);
/// # Ok::<(), String>(())
/// ```
#[derive(Debug)]
pub struct Harness<P> {
    processor: P,
    host: TestHost,
}

impl Outcome {
    /// The outcome of an event that goes on with `body`.
    pub fn replaced(body: impl AsRef<[u8]>) -> Self {
        Self::Replaced(Body(body.as_ref().to_vec()))
    }
}

impl<P: Configure> Harness<P> {
    /// Configures the processor with `config`, a rule's `params.config` as JSON.
    ///
    /// # Errors
    /// What the processor has against the config.
    pub fn configure(config: &str) -> Result<Self, String> {
        let mut host = TestHost::default();
        let processor = host.answer(|| P::configure(config))?;
        Ok(Self { processor, host })
    }

    /// Processes one batch and returns what became of each event.
    ///
    /// An item is an event; one without a terminator gets a line feed.
    ///
    /// # Panics
    /// If an item is more than one event.
    pub fn run<E: AsRef<[u8]>>(&mut self, events: impl IntoIterator<Item = E>) -> Vec<Outcome> {
        let (bytes, ends) = columns(events);
        let count = ends.len();
        if count == 0 {
            return Vec::new();
        }
        let Self { processor, host } = self;
        let changes = host.answer(|| crate::export::process(processor, bytes, ends));
        outcomes(&changes, count)
    }

    /// Processes one batch and returns the bodies of the events that go on, as text.
    ///
    /// # Panics
    /// If an item is more than one event.
    pub fn survivors<E: AsRef<[u8]>>(
        &mut self,
        events: impl IntoIterator<Item = E>,
    ) -> Vec<String> {
        let events: Vec<E> = events.into_iter().collect();
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let outcomes = self.run(&events);
        let each = events.iter().zip(outcomes);
        each.filter_map(|(event, outcome)| match outcome {
            Outcome::Kept => {
                let body = event.as_ref();
                let body = body
                    .strip_suffix(b"\n")
                    .map_or(body, |body| body.strip_suffix(b"\r").unwrap_or(body));
                Some(text(body))
            }
            Outcome::Dropped => None,
            Outcome::Replaced(Body(body)) => Some(text(&body)),
        })
        .collect()
    }

    /// Returns the processor, to look at its state.
    pub fn processor(&self) -> &P {
        &self.processor
    }

    /// Returns the lines that were logged so far.
    pub fn logged(&self) -> &[(Level, String)] {
        &self.host.logged
    }

    /// Returns what was added to the counter `name` so far.
    pub fn counted(&self, name: &str) -> u64 {
        self.host.counted.get(name).copied().unwrap_or(0)
    }

    /// Sets the clock, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn set_now_ms(&mut self, now_ms: u64) {
        self.host.now_ms = now_ms;
    }

    /// Starts the random numbers from `seed`.
    pub fn set_seed(&mut self, seed: u64) {
        self.host.random_state = seed;
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Lays events end to end.
fn columns<E: AsRef<[u8]>>(events: impl IntoIterator<Item = E>) -> (Vec<u8>, Vec<u32>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for event in events {
        let event = event.as_ref();
        let body = event.strip_suffix(b"\n").unwrap_or(event);
        assert!(
            !body.contains(&b'\n'),
            "an item is one event, and `{}` is more",
            event.escape_ascii()
        );
        bytes.extend_from_slice(body);
        bytes.push(b'\n');
        ends.push(u32::try_from(bytes.len()).expect("a sample is far below 4 GiB"));
    }
    (bytes, ends)
}

/// Reads the changes of a batch of `count` events.
fn outcomes(changes: &Changes, count: usize) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Kept; count];
    for event in &changes.dropped {
        outcomes[*event as usize] = Outcome::Dropped;
    }
    let mut start = 0;
    for (event, end) in changes.replaced.iter().zip(&changes.ends) {
        let end = *end as usize;
        outcomes[*event as usize] = Outcome::replaced(&changes.bytes[start..end]);
        start = end;
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{Batch, Processor, Tally, Verdict, host};

    /// Does a bit of everything.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        word: String,
        #[serde(skip)]
        batches: u64,
    }

    impl Processor for Sample {
        fn process(&mut self, batch: &mut Batch) -> Tally {
            self.batches += 1;
            host::count("batches", 1);
            host::info(&format!("{} at {}", self.batches, host::now_ms()));
            let edited = batch.edit_each(|event, rewrite| match &*event.text() {
                text if text == self.word => Verdict::Drop,
                "random" => rewrite.replace(host::random().to_string().as_bytes()),
                "upper" => rewrite.replace(b"UPPER"),
                _ => Verdict::Keep,
            });
            edited.into()
        }
    }

    fn harness() -> Harness<Sample> {
        Harness::configure(r#"{"word": "x"}"#).expect("valid")
    }

    #[test]
    fn each_event_has_its_outcome() {
        let mut harness = harness();
        let outcomes = harness.run(["a", "x\r\n", "upper\r\n", "x y\n", ""]);
        let expected = [
            Outcome::Kept,
            Outcome::Dropped,
            Outcome::replaced("UPPER"),
            Outcome::Kept,
            Outcome::Kept,
        ];
        assert_eq!(outcomes, expected);
        assert_eq!(harness.survivors(["x", "upper", "b\r\n"]), ["UPPER", "b"]);
        assert_eq!(harness.run([""; 0]), []);
        assert_eq!(harness.processor().batches, 2);
    }

    #[test]
    fn the_host_is_the_harness() {
        let mut harness = harness();
        harness.set_now_ms(7);
        harness.run(["a"]);
        harness.run(["a"]);
        let lines = ["1 at 7", "2 at 7"].map(|line| (Level::Info, line.to_owned()));
        assert_eq!(harness.logged(), lines);
        assert_eq!(
            (harness.counted("batches"), harness.counted("others")),
            (2, 0)
        );
        let first = harness.survivors(["random"; 2]);
        assert_ne!(first[0], first[1]);
        harness.set_seed(0);
        assert_eq!(harness.survivors(["random"; 2]), first);
    }

    #[test]
    fn a_refused_config_is_told() {
        let refused = Harness::<Sample>::configure(r#"{"word": 1}"#).err();
        let message = "`word`: invalid type: integer `1`, expected a string";
        assert_eq!(refused.as_deref(), Some(message));
    }

    #[test]
    #[should_panic(expected = "an item is one event")]
    fn two_events_in_one_item_are_refused() {
        harness().run(["a\nb"]);
    }

    #[test]
    #[should_panic(expected = "is no name of a counter")]
    fn a_counter_that_the_gate_would_refuse_fails_the_test() {
        TestHost::default().answer(|| host::count("not-a-name", 1));
    }
}
