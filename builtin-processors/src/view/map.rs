//! Which bytes of a source each byte of a decoded text came from.

use std::ops::Range;

use super::lexer::Node;

/// How one text was made of another: copied, but for the pieces that were decoded or removed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Map {
    /// Ascending in both texts.
    pieces: Vec<Piece>,
}

/// A stretch of the source that reads differently in the text.
#[derive(Debug, Clone, Copy)]
struct Piece {
    text: usize,
    /// Equal to `text` if the piece was removed.
    text_end: usize,
    source: usize,
    source_end: usize,
}

impl Map {
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }

    pub(super) fn shrink_to(&mut self, pieces: usize) {
        self.pieces.shrink_to(pieces);
    }

    /// Returns where the source of a range of the text begins and ends. Pieces that the range holds
    /// a part of are in it as a whole; what was removed at its edges is not.
    pub(super) fn source_of(&self, range: Range<usize>) -> Range<usize> {
        let start = self.start_in_source(range.start);
        start..self.end_in_source(range.end).max(start)
    }

    fn start_in_source(&self, at: usize) -> usize {
        let behind = self.pieces.partition_point(|piece| piece.text <= at);
        match behind.checked_sub(1).map(|last| self.pieces[last]) {
            None => at,
            Some(piece) if at < piece.text_end => piece.source,
            Some(piece) => piece.source_end + (at - piece.text_end),
        }
    }

    fn end_in_source(&self, at: usize) -> usize {
        let behind = self.pieces.partition_point(|piece| piece.text < at);
        match behind.checked_sub(1).map(|last| self.pieces[last]) {
            None => at,
            Some(piece) if at <= piece.text_end => piece.source_end,
            Some(piece) => piece.source_end + (at - piece.text_end),
        }
    }

    /// Returns where in the text a place of the source is. A place inside a piece is where the
    /// piece begins.
    pub(super) fn text_of(&self, source: usize) -> usize {
        let behind = self.pieces.partition_point(|piece| piece.source <= source);
        match behind.checked_sub(1).map(|last| self.pieces[last]) {
            None => source,
            Some(piece) if source < piece.source_end => piece.text,
            Some(piece) => piece.text_end + (source - piece.source_end),
        }
    }

    /// Moves nodes of the source to where they are in the text; they are in the order in which they
    /// begin.
    pub(super) fn move_nodes(&self, nodes: &mut [Node]) {
        let place = |behind: usize, at: usize| match behind.checked_sub(1) {
            None => at,
            Some(last) => {
                let piece = self.pieces[last];
                match at < piece.source_end {
                    true => piece.text,
                    false => piece.text_end + (at - piece.source_end),
                }
            }
        };
        let mut behind = 0;
        for node in nodes {
            while self
                .pieces
                .get(behind)
                .is_some_and(|piece| piece.source <= node.start)
            {
                behind += 1;
            }
            let mut behind_end = behind;
            if node.is_container() {
                behind_end = self
                    .pieces
                    .partition_point(|piece| piece.source <= node.end);
            } else {
                while self
                    .pieces
                    .get(behind_end)
                    .is_some_and(|piece| piece.source <= node.end)
                {
                    behind_end += 1;
                }
            }
            node.start = place(behind, node.start);
            node.end = place(behind_end, node.end);
        }
    }

    /// Takes pieces that were removed off the edges of a range of the source.
    pub(super) fn without_removed(&self, source: Range<usize>) -> Range<usize> {
        let mut whole = source.clone();
        let mut first = self
            .pieces
            .partition_point(|piece| piece.source_end <= whole.start);
        while let Some(piece) = self.pieces.get(first)
            && piece.source <= whole.start
            && whole.start < whole.end
            && piece.text == piece.text_end
        {
            whole.start = piece.source_end;
            first += 1;
        }
        let mut behind = self
            .pieces
            .partition_point(|piece| piece.source < whole.end);
        while let Some(piece) = behind.checked_sub(1).map(|last| self.pieces[last])
            && piece.source_end >= whole.end
            && whole.start < whole.end
            && piece.text == piece.text_end
        {
            whole.end = piece.source;
            behind -= 1;
        }
        match whole.start < whole.end {
            true => whole,
            false => source,
        }
    }

    /// Returns the piece of the source that the place is inside of, its first byte not counted.
    pub(super) fn piece_around(&self, source: usize) -> Option<Range<usize>> {
        let behind = self.pieces.partition_point(|piece| piece.source < source);
        let piece = self.pieces[behind.checked_sub(1)?];
        (source < piece.source_end).then_some(piece.source..piece.source_end)
    }
}

/// Makes a text of another one, piece by piece.
pub(super) struct Decoder<'a> {
    from: &'a [u8],
    to: &'a mut Vec<u8>,
    map: &'a mut Map,
    /// What was copied or decoded of `from`.
    done: usize,
}

impl<'a> Decoder<'a> {
    /// Starts with an empty text.
    pub(super) fn new(from: &'a [u8], to: &'a mut Vec<u8>, map: &'a mut Map) -> Self {
        to.clear();
        map.clear();
        Self {
            from,
            to,
            map,
            done: 0,
        }
    }

    /// Writes `decoded` in place of a range at or after all the ranges before.
    pub(super) fn put(&mut self, range: Range<usize>, decoded: &[u8]) {
        self.to
            .extend_from_slice(&self.from[self.done..range.start]);
        let text = self.to.len();
        self.to.extend_from_slice(decoded);
        self.map.pieces.push(Piece {
            text,
            text_end: self.to.len(),
            source: range.start,
            source_end: range.end,
        });
        self.done = range.end;
    }

    /// Returns where in the text a place of the source will be that is behind all that was decoded.
    pub(super) fn text_of(&self, source: usize) -> usize {
        self.to.len() + (source - self.done)
    }

    /// Copies the rest; returns whether any piece was decoded.
    pub(super) fn finish(self) -> bool {
        self.to.extend_from_slice(&self.from[self.done..]);
        !self.map.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_in_both_texts() {
        let (mut text, mut map) = (Vec::new(), Map::default());
        // `a\u0040b` and a colour code, which is removed.
        let mut decoder = Decoder::new(b"a\\u0040b\x1b[1mc", &mut text, &mut map);
        decoder.put(1..7, b"@");
        decoder.put(8..12, b"");
        assert!(decoder.finish());
        assert_eq!(text, b"a@bc");
        for (range, source) in [
            (0..1, 0..1),
            (1..2, 1..7),
            (0..3, 0..8),
            (3..4, 12..13),
            (2..4, 7..13),
            (1..4, 1..13),
        ] {
            assert_eq!(map.source_of(range.clone()), source, "{range:?}");
        }
        for (source, place) in [
            (0, 0),
            (1, 1),
            (4, 1),
            (7, 2),
            (8, 3),
            (10, 3),
            (12, 3),
            (13, 4),
        ] {
            assert_eq!(map.text_of(source), place, "{source}");
        }
        assert_eq!(map.piece_around(1), None);
        assert_eq!(map.piece_around(2), Some(1..7));
        assert_eq!(map.piece_around(7), None);
    }
}
