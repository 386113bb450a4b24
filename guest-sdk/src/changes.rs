//! What became of the events of a batch, as it crosses from a guest to the gate.

/// What became of the events of a batch; those that are not named go on as they were.
///
/// **Shape**: as `changes` in the WIT world, and promised to be within its rules: `dropped` and
/// `replaced` are numbers of events, strictly ascending, none in both. The new bodies lie end to end
/// in `bytes`, without terminators and without line feeds; body `i` ends at `ends[i]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) dropped: Vec<u32>,
    pub(crate) replaced: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<u32>,
}

impl Changes {
    /// Names an event, behind all that were named before, and its new body.
    pub(crate) fn replace(&mut self, event: u32, body: &[u8]) {
        self.replaced.push(event);
        self.bytes.extend_from_slice(body);
        self.ends
            .push(u32::try_from(self.bytes.len()).expect("rewritten events are bounded"));
    }
}
