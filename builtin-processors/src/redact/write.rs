//! Writes an event with what was found replaced, so that JSON stays JSON.
//!
//! What is found in a text is replaced there, escaped. A number of which a part is found becomes a text.
//! What reaches over the edge of a text or a number is replaced as it is, if the event stays as readable
//! as it was (a user's `"pin":\d+` does so with `"pin":0`); else only the keys and values that it
//! touches are replaced: the first by the new text, others by nothing.

use std::ops::Range;

use serde::de::IgnoredAny;

use crate::view::{Kind, Node, Structure, View, find_trigger};

/// What is to be written in place of a stretch of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// In the bytes of the event.
    pub(super) source: Range<usize>,
    /// The layer that it was found in, and where.
    pub(super) layer: usize,
    pub(super) range: Range<usize>,
    /// Where the new text is in a buffer beside.
    pub(super) text: Range<usize>,
}

/// Scratch space, which is reused.
#[derive(Debug, Clone, Default)]
pub(super) struct Writer {
    clipped: Vec<Span>,
    encoded: Vec<u8>,
    /// Reads what was written.
    view: View,
}

/// What holds a span.
enum Holder {
    /// A text, or no JSON: the new text is encoded for its place.
    Text,
    /// A number, or another value without quotes; its range in the layer.
    Bare(Range<usize>),
    /// More than one key or value, or what is between them.
    Structure,
}

impl Writer {
    /// Writes the event with its spans replaced, which are in order and do not overlap.
    pub(super) fn write(
        &mut self,
        body: &[u8],
        view: &View,
        spans: &[Span],
        texts: &[u8],
        out: &mut Vec<u8>,
    ) {
        self.write_spans(body, view, spans, texts, out);
        let crosses = |span: &Span| matches!(holder(view, span), Holder::Structure);
        if spans.iter().any(crosses) && !self.reads_as_before(body, view, out) {
            out.clear();
            let mut clipped = std::mem::take(&mut self.clipped);
            clip(view, spans, &mut clipped);
            self.write_spans(body, view, &clipped, texts, out);
            self.clipped = clipped;
        }
    }

    pub(super) fn rest(&mut self, entries: usize) {
        self.clipped.clear();
        self.clipped.shrink_to(entries);
        self.encoded.clear();
        self.encoded.shrink_to(entries);
        self.view.rest();
    }

    fn write_spans(
        &mut self,
        body: &[u8],
        view: &View,
        spans: &[Span],
        texts: &[u8],
        out: &mut Vec<u8>,
    ) {
        let mut done = 0;
        let mut spans = spans.iter().peekable();
        while let Some(span) = spans.next() {
            let text = &texts[span.text.clone()];
            let (layer, range) = (span.layer, span.range.clone());
            let Holder::Bare(bare) = holder(view, span) else {
                out.extend_from_slice(&body[done..span.source.start.max(done)]);
                view.encode(layer, range, false, text, &mut self.encoded, out);
                done = span.source.end.max(done);
                continue;
            };
            // All of the value is put into quotes, what is left of it too.
            let whole = view.source_of(layer, bare.clone());
            let mut value = body[whole.start.max(done)..span.source.start].to_vec();
            value.extend_from_slice(text);
            let mut behind = span.source.end;
            while let Some(more) = spans.next_if(|more| more.source.end <= whole.end) {
                value.extend_from_slice(&body[behind..more.source.start]);
                value.extend_from_slice(&texts[more.text.clone()]);
                behind = more.source.end;
            }
            value.extend_from_slice(&body[behind..whole.end.max(behind)]);
            out.extend_from_slice(&body[done..whole.start.max(done)]);
            view.encode(layer, bare, true, &value, &mut self.encoded, out);
            done = whole.end.max(behind);
        }
        out.extend_from_slice(&body[done..]);
    }

    /// Whether what was written is as readable as JSON as the event was, and has as many documents.
    fn reads_as_before(&mut self, body: &[u8], view: &View, out: &[u8]) -> bool {
        // The documents inside texts are known of a decoded view only.
        let is_decoded = find_trigger(body, 0).is_some();
        self.view.begin(out, is_decoded);
        let structure = self.view.read(out);
        (structure != Structure::Unreadable || view.documents() == 0)
            && self.view.documents() == view.documents()
            && (is_valid(out) || !is_valid(body))
    }
}

fn is_valid(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Finds what holds a span.
fn holder(view: &View, span: &Span) -> Holder {
    let nodes = view.nodes(span.layer);
    let range = &span.range;
    let behind = nodes.partition_point(|node| node.start <= range.start);
    let holds_start = |node: &Node| range.start < node.end;
    let mut number = behind.wrapping_sub(1);
    while let Some(node) = nodes.get(number).filter(|node| !holds_start(node)) {
        number = node.parent as usize;
    }
    let reaches_next = nodes.get(behind).is_some_and(|next| next.start < range.end);
    match nodes.get(number) {
        None if reaches_next => Holder::Structure,
        None => Holder::Text,
        Some(node) if node.end < range.end || node.is_container() => Holder::Structure,
        Some(node) if node.kind == Kind::Bare => Holder::Bare(node.start..node.end),
        // The next one is a document in the text.
        Some(node) if reaches_next || !node.is_quoted() => Holder::Structure,
        Some(_) => Holder::Text,
    }
}

/// Cuts spans down to the keys and values that they touch.
fn clip(view: &View, spans: &[Span], clipped: &mut Vec<Span>) {
    clipped.clear();
    for span in spans {
        if !matches!(holder(view, span), Holder::Structure) {
            clipped.push(span.clone());
            continue;
        }
        let nodes = view.nodes(span.layer);
        let mut text = span.text.clone();
        let first = nodes.partition_point(|node| node.start < span.range.start);
        // The key or value that it begins in is the last one that begins before it.
        let first = first.saturating_sub(1);
        for (number, node) in nodes.iter().enumerate().skip(first) {
            if node.start >= span.range.end {
                break;
            }
            let holds_document = nodes
                .get(number + 1)
                .is_some_and(|next| next.parent as usize == number);
            if node.is_container() || holds_document || node.end <= span.range.start {
                continue;
            }
            let range = node.start.max(span.range.start)..node.end.min(span.range.end);
            clipped.push(Span {
                source: view.source_of(span.layer, range.clone()),
                layer: span.layer,
                range,
                text: text.clone(),
            });
            text.end = text.start;
        }
    }
}
