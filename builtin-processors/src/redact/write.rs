//! Writes an event with what was found replaced, so that JSON stays JSON.
//!
//! What is found in a text is replaced there, escaped. A number of which a part is found becomes a
//! text. What reaches over the edge of a text or a number is replaced as it is, if the event stays
//! as readable as it was (a user's `"pin":\d+` does so with `"pin":0`); else only the keys and
//! values that it touches are replaced: the first by the new text, others by nothing.

use std::ops::Range;

use serde::de::IgnoredAny;

use crate::view::{Kind, Structure, View, find_trigger};

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
                out.extend_from_slice(part(body, done..span.source.start));
                view.encode(layer, range, false, text, &mut self.encoded, out);
                done = span.source.end.max(done);
                continue;
            };
            // All of the value is put into quotes, what is left of it too.
            let whole = view.source_of(layer, bare.clone());
            let bytes = view.text(layer, body);
            let mut value = part(bytes, bare.start..range.start).to_vec();
            value.extend_from_slice(text);
            let (mut behind, mut end) = (range.end, span.source.end);
            while let Some(more) = spans.next_if(|more| more.source.end <= whole.end) {
                let place = match more.layer == layer {
                    true => more.range.clone(),
                    false => view.text_of(layer, more.source.clone()),
                };
                value.extend_from_slice(part(bytes, behind..place.start));
                value.extend_from_slice(&texts[more.text.clone()]);
                (behind, end) = (place.end, more.source.end);
            }
            value.extend_from_slice(part(bytes, behind..bare.end));
            out.extend_from_slice(part(body, done..whole.start));
            view.encode(layer, bare, true, &value, &mut self.encoded, out);
            done = whole.end.max(end).max(done);
        }
        out.extend_from_slice(part(body, done..body.len()));
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

/// A part of a text; nothing, if it ends before it begins.
fn part(text: &[u8], range: Range<usize>) -> &[u8] {
    text.get(range).unwrap_or_default()
}

fn is_valid(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Finds what holds a span: the innermost node that all of it is in.
fn holder(view: &View, span: &Span) -> Holder {
    let nodes = view.nodes(span.layer);
    let range = &span.range;
    let mut number = nodes.partition_point(|node| node.start <= range.start);
    number = number.wrapping_sub(1);
    while let Some(node) = nodes.get(number) {
        if range.start < node.end && range.end <= node.end {
            return match node.kind {
                Kind::Bare => Holder::Bare(node.start..node.end),
                _ if node.is_container() || !node.is_quoted() => Holder::Structure,
                // Whatever else is in the text, a document too, is text there.
                _ => Holder::Text,
            };
        }
        number = node.parent as usize;
    }
    // It is outside of JSON, or it reaches there: nothing is JSON as a whole.
    Holder::Text
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
        let mut at = span.range.start;
        let mut number = nodes.partition_point(|node| node.start <= at);
        // The outermost text that it begins in, if it is one; what is in that text is text.
        let mut around = number.wrapping_sub(1);
        let mut outermost = None;
        while let Some(node) = nodes.get(around) {
            if at < node.end && !node.is_container() {
                outermost = Some(around);
            }
            around = node.parent as usize;
        }
        let mut push = |range: Range<usize>| {
            clipped.push(Span {
                source: view.source_of(span.layer, range.clone()),
                layer: span.layer,
                range,
                text: text.clone(),
            });
            text.end = text.start;
        };
        if let Some(around) = outermost {
            let end = nodes[around].end.min(span.range.end);
            push(at..end);
            at = end;
            number = nodes.partition_point(|node| node.start < at);
        }
        while let Some(node) = nodes.get(number).filter(|node| node.start < span.range.end) {
            number += 1;
            if !node.is_container() && at < node.end {
                let range = node.start.max(at)..node.end.min(span.range.end);
                at = range.end;
                push(range);
            }
        }
    }
}
