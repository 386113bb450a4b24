//! What edits a batch, where two closures would have to share what they know.

use crate::{Event, Rewrite, Verdict};

/// Says which events of a batch are to be decided on, and what becomes of each; see
/// [`Batch::edit_with`](crate::Batch::edit_with).
///
/// ```
/// use streamgate_guest::{Batch, Editor, Event, Rest, Rewrite, Verdict};
///
/// /// Drops every event that contains a `!`.
/// struct Calm {
///     /// Where in the slice the last one was found.
///     found: usize,
/// }
///
/// impl Editor for Calm {
///     fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
///         self.found = at + slice[at..].iter().position(|&byte| byte == b'!')?;
///         Some(self.found)
///     }
///
///     fn decide(&mut self, event: Event<'_>, _: &mut Rewrite<'_>) -> Verdict {
///         assert_eq!(event.body()[self.found - event.offset()], b'!');
///         Verdict::Drop
///     }
/// }
///
/// let mut batch = Batch::from_lines("ready\nhey!\n");
/// let edited = batch.edit_with(Rest::Keep, &mut Calm { found: 0 });
/// assert_eq!(edited.dropped, 1);
/// ```
pub trait Editor {
    /// Returns the offset in `slice` of any byte of the next event to decide on, at or after `at`;
    /// `None` if there is none in the rest of the slice.
    ///
    /// `slice` is whole events, and one of them begins at `at`, or `at` is its end. A call with 0 is
    /// for a slice that was not seen before; the next one for the same slice begins behind the event
    /// that was decided on.
    fn next(&mut self, slice: &[u8], at: usize) -> Option<usize>;

    /// Says what becomes of the event that [`next`](Self::next) pointed at last, having pushed the new
    /// body to `rewrite` for [`Verdict::Replace`]. [`Event::offset`] is where it begins in that slice.
    fn decide(&mut self, event: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict;
}

/// Two closures that know nothing of each other.
pub(crate) struct Closures<F, D> {
    pub(crate) find: F,
    pub(crate) decide: D,
}

impl<F, D> Editor for Closures<F, D>
where
    F: FnMut(&[u8], usize) -> Option<usize>,
    D: FnMut(Event<'_>, &mut Rewrite<'_>) -> Verdict,
{
    #[inline]
    fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
        (self.find)(slice, at)
    }

    #[inline]
    fn decide(&mut self, event: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict {
        (self.decide)(event, rewrite)
    }
}
