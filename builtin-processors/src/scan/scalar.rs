//! One position after the other: the meaning of [`Gate::scan`], and what runs where there are no
//! vectors that we know of.

use std::ops::{ControlFlow, Range};

use super::{Gate, Hit};

/// Shows where rows lie, by ascending place of their windows.
pub(super) fn scan<B>(
    gate: &Gate,
    haystack: &[u8],
    part: Range<usize>,
    mut visit: impl FnMut(Hit) -> ControlFlow<B>,
) -> ControlFlow<B> {
    for at in part {
        for row in gate.rows.iter().filter(|row| row.lies_at(haystack, at)) {
            let owner = row.owner;
            visit(Hit { at, owner })?;
        }
    }
    ControlFlow::Continue(())
}
