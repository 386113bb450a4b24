//! One position after the other: the meaning of [`Shape::find`], and what runs where there are no
//! vectors that we know of.

use super::Shape;

/// Finds the least position at or after `at` where the row lies, or that holds the first byte of a
/// character beyond ASCII that could be part of one.
pub(super) fn find(shape: &Shape, haystack: &[u8], at: usize) -> Option<usize> {
    (at..haystack.len()).find(|&position| {
        shape.beyond.contains(haystack[position]) || shape.is_at(haystack, position)
    })
}
