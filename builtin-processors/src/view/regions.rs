//! Where a match may begin, and how far it may go from there.
//!
//! Fields of JSON are written side by side, and a pattern knows nothing of them: `token=\S+` would
//! go on into the next member. So a text of JSON is divided into regions, by where a match begins:
//!
//! | it begins | it ends at the latest |
//! | --- | --- |
//! | in a text | where the text ends |
//! | in a key | where the key ends; a match that needs more, where its value ends |
//! | between them (a pattern for the source of JSON, such as `"pin":\s*\d+`) | where the member ends, or the text that the document is in |
//! | outside of JSON | where the event ends |

use std::ops::Range;

use super::lexer::{Kind, NONE, Node};

/// Matches that begin at `start` or behind it, up to the next region, end at `limit` at the latest.
/// If there are none, those that end at `reach` at the latest count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: usize,
    pub(crate) limit: usize,
    pub(crate) reach: usize,
}

/// Divides a text; `nodes` are in the order in which they begin.
pub(super) fn divide(length: usize, nodes: &[Node], regions: &mut Vec<Region>) {
    regions.clear();
    let mut divider = Divider {
        nodes,
        regions,
        at: 0,
    };
    // The texts that the node lies in: the innermost is the last.
    let mut texts: Vec<usize> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        while let Some(&end) = texts.last().filter(|&&end| end <= node.start) {
            divider.push(end, end);
            texts.pop();
        }
        let around = texts.last().copied();
        match node.kind {
            Kind::Object | Kind::Array => {
                if node.parent == NONE || nodes[node.parent as usize].is_quoted() {
                    divider.push(node.start, around.unwrap_or(length));
                }
            }
            Kind::Key | Kind::Text | Kind::Bare => {
                let limit = around.unwrap_or_else(|| divider.limit_before(number));
                // The bracket before the first key begins the object, its quote the member.
                if around.is_none() && node.kind == Kind::Key && divider.is_first(number) {
                    // Terminal codes may have taken the quote with them.
                    let quote = node.start.saturating_sub(usize::from(node.is_quoted()));
                    divider.push(quote, nodes[node.parent as usize].end);
                }
                divider.push(node.start, limit);
                let has_document = nodes
                    .get(number + 1)
                    .is_some_and(|next| next.parent as usize == number);
                match node.kind {
                    Kind::Key => divider.push_key(node.end, divider.reach_of_key(number)),
                    _ if has_document => texts.push(node.end),
                    _ => divider.push(node.end, node.end),
                }
            }
        }
    }
    while let Some(end) = texts.pop() {
        divider.push(end, end);
    }
    divider.push(length, length);
}

/// Divides regions further: a match that begins in a parameter of a URL ends with it.
pub(super) fn divide_again(
    parameters: &[Range<usize>],
    regions: &mut Vec<Region>,
    scratch: &mut Vec<Region>,
) {
    scratch.clear();
    let mut parameters = parameters
        .iter()
        .filter(|one| one.start < one.end)
        .peekable();
    for (number, region) in regions.iter().enumerate() {
        let next = regions
            .get(number + 1)
            .map_or(usize::MAX, |next| next.start);
        let mut at = region.start;
        while at < next {
            while parameters.next_if(|one| one.end <= at).is_some() {}
            let (end, most) = match parameters.peek() {
                Some(one) if one.start <= at => (one.end.min(next), one.end),
                Some(one) => (one.start.min(next), usize::MAX),
                None => (next, usize::MAX),
            };
            scratch.push(Region {
                start: at,
                limit: region.limit.min(most),
                reach: region.reach.min(most),
            });
            at = end;
        }
    }
    std::mem::swap(regions, scratch);
}

struct Divider<'a> {
    nodes: &'a [Node],
    regions: &'a mut Vec<Region>,
    at: usize,
}

impl Divider<'_> {
    /// Adds a region from the last one up to `end`.
    fn push(&mut self, end: usize, limit: usize) {
        if self.at < end {
            self.regions.push(Region {
                start: self.at,
                limit,
                reach: limit,
            });
            self.at = end;
        }
    }

    /// Adds the region of a key.
    fn push_key(&mut self, end: usize, reach: usize) {
        if self.at < end {
            self.regions.push(Region {
                start: self.at,
                limit: end,
                reach,
            });
            self.at = end;
        }
    }

    /// Whether it is the first in its object or array.
    fn is_first(&self, number: usize) -> bool {
        number == self.nodes[number].parent as usize + 1
    }

    /// How far a match may go that begins right before a key or a value.
    fn limit_before(&self, number: usize) -> usize {
        let node = &self.nodes[number];
        let container = &self.nodes[node.parent as usize];
        match node.kind {
            Kind::Key => self.end_of_value(number),
            _ if container.kind == Kind::Array => container.end,
            _ => node.end,
        }
    }

    /// Where the value of a key ends.
    fn end_of_value(&self, key: usize) -> usize {
        self.value(key)
            .map_or(self.nodes[key].end, |value| value.end)
    }

    /// How far a match may go that begins in a key and needs more: to the end of its value; of an
    /// array, to the end of its first element.
    fn reach_of_key(&self, key: usize) -> usize {
        let own = self.nodes[key].end;
        match self.value(key) {
            Some(value) if !value.is_container() => value.end,
            Some(array) if array.kind == Kind::Array => match self.nodes.get(key + 2) {
                Some(first) if first.parent as usize == key + 1 && !first.is_container() => {
                    first.end
                }
                _ => own,
            },
            _ => own,
        }
    }

    fn value(&self, key: usize) -> Option<&Node> {
        let value = self.nodes.get(key + 1)?;
        let is_value = value.parent == self.nodes[key].parent && value.kind != Kind::Key;
        is_value.then_some(value)
    }
}
