//! An event as a reader sees it: what its encodings stand for, and where that is in its bytes.
//!
//! Rules look for text. The bytes of an event are one writing of it: PHP writes `/` as `\/`, .NET
//! `@` as `\u0040`, a URL holds `%40`, a logger puts JSON into a string of JSON, a console is
//! coloured. A [`View`] holds the texts of one event with these removed, and where in the event
//! each piece of them is, so that what is found in a text can be replaced in the event.
//!
//! ```text
//! event    {"m":"mira\u0040example.net","u":"/x?a=b%40c"}
//! layer 0  {"m":"mira@example.net","u":"/x?a=b%40c"}          escapes of JSON
//! layer 1  {"m":"mira@example.net","u":"/x?a=b@c"}            percent-encoding
//! ```
//!
//! Each layer is made of the one before it by a step. Those of JSON (one for each level of JSON
//! inside JSON) all lead to layer 0, which replaces the source: `tname` is not in `"a\tname"`.
//! Percent-encoding and terminal codes may also be meant as they are, so their layers are searched
//! beside the one before.
//!
//! A view is made only of an event with a [trigger](find_trigger). Any other event is its own text.
//! Its [`Structure`] as JSON is found out when a rule asks for it.

use std::{mem, ops::Range};

use serde::Deserialize;

pub(crate) use alphabet::Alphabet;
pub(crate) use lexer::{Kind, NONE, Node, Structure};
pub(crate) use regions::Region;

use self::map::{Decoder, Map};

mod alphabet;
mod decode;
mod lexer;
mod map;
mod regions;

/// Levels of JSON inside JSON that are decoded.
const MAX_LEVELS: usize = 4;

/// Times that percent-encoding is removed.
const MAX_PERCENT: usize = 2;

/// Most steps of one event: levels of JSON, or what is left of it; terminal codes;
/// percent-encoding, each time with the JSON in it; `+`.
const MAX_STEPS: usize = MAX_LEVELS + 1 + 2 * MAX_PERCENT + 1;

/// What a view may hold on to between events, for each of its parts, in bytes.
const RESTING_BYTES: usize = 256 * 1024;

/// Which text a rule looks at, as its parameter `text` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TextName {
    /// What a reader sees.
    #[default]
    Decoded,
    /// The bytes of the event.
    Source,
}

/// The texts of one event.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    layers: Vec<Layer>,
    /// How many of them are of this event.
    layer_count: usize,
    steps: Vec<Step>,
    step_count: usize,
    structure: Structure,
    /// Whether the nodes of layer 0 are known.
    is_read: bool,
    /// Whether a text inside begins like JSON and cannot be read.
    is_broken_inside: bool,
    scratch: Scratch,
}

#[derive(Debug, Clone, Default)]
struct Scratch {
    text: Vec<u8>,
    look: Vec<u8>,
    map: Map,
    nodes: Vec<Node>,
    /// The new numbers of nodes.
    numbers: Vec<u32>,
    /// Where documents may be, and in which text.
    inside: Vec<(Range<usize>, usize)>,
    encoded: Vec<Range<usize>>,
    regions: Vec<Region>,
}

/// One text.
#[derive(Debug, Clone, Default)]
struct Layer {
    /// Empty if it is the event's own bytes.
    text: Vec<u8>,
    is_source: bool,
    nodes: Vec<Node>,
    /// How many steps lead to it.
    steps: usize,
    regions: Vec<Region>,
    is_divided: bool,
}

/// How one text is made of another.
#[derive(Debug, Clone, Default)]
struct Step {
    encoding: Encoding,
    map: Map,
    /// Of percent-encoding: what was encoded, in the decoded text.
    stretches: Vec<Range<usize>>,
    /// The pieces of the stretches between `&` that were not encoded.
    parameters: Vec<Range<usize>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    /// The escapes of texts.
    Json,
    /// What would be escapes of texts, in an event whose texts cannot be told.
    Broken,
    Ansi,
    Percent,
    /// `+` for a blank.
    Plus,
}

/// Whether there may be a document in a text of JSON: quotes were escaped there, or are of the
/// other kind.
fn may_hold_document(text: &[u8], was_escaped: bool) -> bool {
    match was_escaped {
        true => memchr::memchr(b'{', text).is_some(),
        false => memchr::memmem::find(text, b"{'").is_some(),
    }
}

/// Finds the next byte at or after `at` that may make a view differ from the bytes: a backslash, a
/// `%` before two hexadecimal digits, an escape character.
pub(crate) fn find_trigger(slice: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        at += memchr::memchr3(b'\\', b'%', 0x1b, slice.get(at..)?)?;
        if slice[at] != b'%' || decode::percent_at(slice, at).is_some() {
            return Some(at);
        }
        at += 1;
    }
}

impl View {
    /// Begins with an event; `has_trigger` says whether it has one.
    pub(crate) fn begin(&mut self, body: &[u8], has_trigger: bool) {
        self.step_count = 0;
        self.layer_count = 0;
        self.is_read = false;
        self.is_broken_inside = false;
        self.structure = Structure::Plain;
        let layer = self.add_layer(0);
        layer.is_source = true;
        if has_trigger {
            self.read(body);
            self.decode(body);
        }
    }

    /// Says whether one of the texts of an event with a trigger may hold something of that alphabet
    /// that its bytes do not hold: `holds` is shown texts, from which a match in any layer cannot
    /// be missing. It is a quick look, without the structure of the event: most events hold
    /// nothing, and need no view.
    ///
    /// In JSON, backslashes stand in texts only, so that their escapes can be removed without
    /// knowing where these begin. What would be otherwise in one layer is so in the bytes, or the
    /// answer is yes.
    pub(crate) fn may_hold(
        &mut self,
        body: &[u8],
        alphabet: &Alphabet,
        mut holds: impl FnMut(&[u8]) -> bool,
    ) -> bool {
        if !alphabet.may_be_encoded(body) {
            return false;
        }
        let has_backslash = memchr::memchr(b'\\', body).is_some();
        // Elsewhere than in JSON from the first byte on, it depends on the structure what is an
        // escape.
        if has_backslash && !lexer::begins_json(body) {
            return true;
        }
        let Scratch {
            text: next,
            look: text,
            map,
            ..
        } = &mut self.scratch;
        let mut is_body = true;
        if has_backslash {
            let mut decoder = Decoder::new(body, text, map);
            decode::escapes(body, 0..body.len(), &mut decoder);
            if decoder.finish() {
                is_body = false;
                // There may be JSON inside JSON.
                if memchr::memchr(b'\\', text).is_some() || holds(text) {
                    return true;
                }
            }
        }
        let (mut is_percent, mut has_plus) = (false, false);
        for encoding in [
            Encoding::Ansi,
            Encoding::Percent,
            Encoding::Percent,
            Encoding::Plus,
        ] {
            let from = if is_body { body } else { text.as_slice() };
            let is_decoded = match encoding {
                Encoding::Percent => {
                    let is_decoded = decode::percent_quickly(from, next);
                    let plus_count = |text| memchr::memchr_iter(b'+', text).count();
                    // One that was written `%2B` stands there only now.
                    has_plus |= is_decoded && plus_count(next) > plus_count(from)
                        || decode::has_encoded_plus(from);
                    is_percent |= is_decoded;
                    is_decoded
                }
                Encoding::Ansi if memchr::memchr(0x1b, from).is_some() => {
                    let mut decoder = Decoder::new(from, next, map);
                    decode::ansi(from, &mut decoder);
                    decoder.finish()
                }
                // Where they are after that, only a view knows.
                Encoding::Plus if has_plus => return true,
                _ => false,
            };
            if !is_decoded {
                continue;
            }
            mem::swap(text, next);
            is_body = false;
            let has_escapes = is_percent && memchr::memchr(b'\\', text).is_some();
            if has_escapes || holds(text) {
                return true;
            }
        }
        false
    }

    /// Lets go of what an unusual event took.
    pub(crate) fn rest(&mut self) {
        let nodes = RESTING_BYTES / size_of::<Node>();
        for layer in &mut self.layers {
            layer.text.clear();
            layer.text.shrink_to(RESTING_BYTES);
            layer.nodes.clear();
            layer.nodes.shrink_to(nodes);
            layer.regions.clear();
            layer.regions.shrink_to(nodes);
        }
        for step in &mut self.steps {
            step.map.clear();
            step.map.shrink_to(nodes);
            step.stretches.clear();
            step.stretches.shrink_to(nodes);
            step.parameters.clear();
            step.parameters.shrink_to(nodes);
        }
        self.scratch.text.clear();
        self.scratch.text.shrink_to(RESTING_BYTES);
        self.scratch.look.clear();
        self.scratch.look.shrink_to(RESTING_BYTES);
        self.scratch.map.clear();
        self.scratch.map.shrink_to(nodes);
        self.scratch.nodes.clear();
        self.scratch.nodes.shrink_to(nodes);
        self.scratch.numbers.clear();
        self.scratch.numbers.shrink_to(nodes);
        self.scratch.inside.clear();
        self.scratch.inside.shrink_to(nodes);
        self.scratch.encoded.clear();
        self.scratch.encoded.shrink_to(nodes);
        self.scratch.regions.clear();
        self.scratch.regions.shrink_to(nodes);
        self.layer_count = 0;
        self.step_count = 0;
    }

    /// Returns how many layers there are, at least one.
    pub(crate) fn layers(&self) -> usize {
        self.layer_count
    }

    /// Whether a layer is the event's own bytes.
    pub(crate) fn is_source(&self, layer: usize) -> bool {
        self.layers[layer].is_source
    }

    /// Whether a layer is without escapes where nobody knows that these are some.
    pub(crate) fn is_guess(&self, layer: usize) -> bool {
        let steps = &self.steps[..self.layers[layer].steps];
        steps
            .last()
            .is_some_and(|step| step.encoding == Encoding::Broken)
    }

    /// Returns the text of a layer.
    pub(crate) fn text<'a>(&'a self, layer: usize, body: &'a [u8]) -> &'a [u8] {
        let layer = &self.layers[layer];
        match layer.is_source {
            true => body,
            false => &layer.text,
        }
    }

    /// Says what the event is, as JSON, and finds its keys and values.
    pub(crate) fn read(&mut self, body: &[u8]) -> Structure {
        if !self.is_read {
            let nodes = &mut self.layers[0].nodes;
            nodes.clear();
            self.structure = lexer::read_event(body, nodes);
            if self.structure == Structure::Unreadable {
                nodes.clear();
            }
            self.is_read = true;
        }
        self.structure
    }

    /// Whether it is known what the event is, as JSON.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether a text inside the event begins like JSON and cannot be read.
    pub(crate) fn is_broken_inside(&self) -> bool {
        self.is_broken_inside
    }

    /// Returns the keys and values of a layer, in the order in which they begin; an object or an
    /// array is before what is in it, a key right before its value. [`read`](Self::read) finds
    /// them.
    pub(crate) fn nodes(&self, layer: usize) -> &[Node] {
        &self.layers[layer].nodes
    }

    /// Counts the documents of layer 0, those inside texts too.
    pub(crate) fn documents(&self) -> usize {
        let nodes = &self.layers[0].nodes;
        let is_root = |node: &&Node| {
            node.is_container() && (node.parent == NONE || nodes[node.parent as usize].is_quoted())
        };
        nodes.iter().filter(is_root).count()
    }

    /// Finds the regions of a layer; the event must have been read.
    pub(crate) fn divide(&mut self, layer: usize, body: &[u8]) {
        debug_assert!(self.is_read, "an event is read before it is divided");
        let layer = &mut self.layers[layer];
        if !layer.is_divided {
            let length = match layer.is_source {
                true => body.len(),
                false => layer.text.len(),
            };
            regions::divide(length, &layer.nodes, &mut layer.regions);
            let steps = &self.steps[..layer.steps];
            for (number, step) in steps.iter().enumerate() {
                if step.parameters.is_empty() {
                    continue;
                }
                let encoded = &mut self.scratch.encoded;
                encoded.clear();
                encoded.extend(step.parameters.iter().map(|parameter| {
                    let later = &steps[number + 1..];
                    let place = |at| later.iter().fold(at, |at, step| step.map.text_of(at));
                    place(parameter.start)..place(parameter.end)
                }));
                regions::divide_again(encoded, &mut layer.regions, &mut self.scratch.regions);
            }
            layer.is_divided = true;
        }
    }

    /// Returns the regions that [`divide`](Self::divide) found.
    pub(crate) fn regions(&self, layer: usize) -> &[Region] {
        &self.layers[layer].regions
    }

    /// Returns which bytes of the event a range of a layer's text came from.
    pub(crate) fn source_of(&self, layer: usize, range: Range<usize>) -> Range<usize> {
        let steps = &self.steps[..self.layers[layer].steps];
        steps
            .iter()
            .rev()
            .fold(range, |range, step| step.map.source_of(range))
    }

    /// Returns where in a layer's text a range of the event is.
    pub(crate) fn text_of(&self, layer: usize, source: Range<usize>) -> Range<usize> {
        let steps = &self.steps[..self.layers[layer].steps];
        let place = |at: usize| steps.iter().fold(at, |at, step| step.map.text_of(at));
        place(source.start)..place(source.end)
    }

    /// Takes pieces of encodings off the edges of a range of a layer: terminal codes that the next
    /// layer is without, and what it decodes, if the range holds a part of that only.
    pub(crate) fn without_split_pieces(&self, layer: usize, range: Range<usize>) -> Range<usize> {
        let steps = &self.steps[..self.step_count];
        let Some(step) = steps.get(self.layers[layer].steps) else {
            return range;
        };
        if step.encoding == Encoding::Ansi {
            return step.map.without_removed(range);
        }
        let start = step.map.piece_around(range.start);
        let end = step.map.piece_around(range.end);
        if start.is_some() && start == end {
            return range;
        }
        let whole = start.map_or(range.start, |piece| piece.end)
            ..end.map_or(range.end, |piece| piece.start);
        match whole.start < whole.end {
            true => whole,
            false => range,
        }
    }

    /// Writes `text` as it must be written where a range of a layer begins, with the encodings that
    /// are in force there. `in_quotes` puts it into quotes of its own.
    pub(crate) fn encode(
        &self,
        layer: usize,
        range: Range<usize>,
        in_quotes: bool,
        text: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        let quotes = self.quotes_around(layer, &range);
        let begun = out.len();
        match in_quotes {
            true => {
                out.push(b'"');
                decode::write_json(text, b'"', out);
                out.push(b'"');
            }
            false => out.extend_from_slice(text),
        }
        let mut encode_again = |out: &mut Vec<u8>, write: &dyn Fn(&[u8], &mut Vec<u8>)| {
            scratch.clear();
            scratch.extend_from_slice(&out[begun..]);
            out.truncate(begun);
            write(scratch, out);
        };
        let mut place = range;
        let steps = self.layers[layer].steps;
        if let (0, Some(mark)) = (steps, quotes[0]) {
            encode_again(out, &|text, out| decode::write_json(text, mark, out));
        }
        for (number, step) in self.steps[..steps].iter().enumerate().rev() {
            match step.encoding {
                Encoding::Json => {
                    if let Some(mark) = quotes[number] {
                        encode_again(out, &|text, out| decode::write_json(text, mark, out));
                    }
                }
                Encoding::Broken => {
                    // Of an event that can be read, only the texts cannot.
                    let in_text = quotes.iter().any(Option::is_some);
                    if in_text || self.structure == Structure::Unreadable {
                        encode_again(out, &|text, out| decode::write_json(text, b'"', out));
                    }
                }
                Encoding::Percent => {
                    let behind = step
                        .stretches
                        .partition_point(|stretch| stretch.end <= place.start);
                    let stretch = step.stretches.get(behind);
                    if stretch.is_some_and(|stretch| stretch.start <= place.start) {
                        encode_again(out, &decode::write_percent);
                    }
                }
                Encoding::Ansi | Encoding::Plus => {}
            }
            place = step.map.source_of(place);
        }
    }

    /// Returns, for each step, the quotes of the text that a range of a layer lies in.
    fn quotes_around(&self, layer: usize, range: &Range<usize>) -> [Option<u8>; MAX_STEPS] {
        let nodes = &self.layers[layer].nodes;
        let mut quotes = [None; MAX_STEPS];
        let mut number = nodes.partition_point(|node| node.start <= range.start);
        number = number.wrapping_sub(1);
        while let Some(node) = nodes.get(number) {
            if node.is_quoted() && node.start <= range.start && range.end <= node.end {
                quotes[usize::from(node.step)] = Some(node.mark);
            }
            number = node.parent as usize;
        }
        quotes
    }

    /// Makes the layers of an event with a trigger, which was read.
    fn decode(&mut self, body: &[u8]) {
        match self.structure {
            Structure::Plain => {}
            Structure::Json => self.decode_json(body),
            Structure::Unreadable => {}
        }
        if self.structure == Structure::Unreadable || self.is_broken_inside {
            let mut levels = self.step_count;
            while levels < MAX_LEVELS && self.add_decoded(body, Encoding::Broken) {
                levels += 1;
            }
        }
        self.add_decoded(body, Encoding::Ansi);
        let mut times = 0;
        while times < MAX_PERCENT && self.add_decoded(body, Encoding::Percent) {
            self.decode_in_stretches(body);
            times += 1;
        }
        if times > 0 {
            self.add_decoded(body, Encoding::Plus);
        }
    }

    /// Removes the escapes of JSON from layer 0, and from the documents in its texts.
    fn decode_json(&mut self, body: &[u8]) {
        self.remove_escapes(0, body);
        for _ in 1..MAX_LEVELS {
            let last = self.step_count - 1;
            let mut inside = mem::take(&mut self.scratch.inside);
            inside.clear();
            let nodes = &self.layers[0].nodes;
            let text = self.text(0, body);
            for (number, node) in nodes.iter().enumerate() {
                let may_hold = node.kind == Kind::Text
                    && usize::from(node.step) == last
                    && may_hold_document(&text[node.start..node.end], node.is_escaped);
                if may_hold {
                    inside.push((node.start..node.end, number));
                }
            }
            let found = self.read_inside(0, body, &inside);
            self.scratch.inside = inside;
            if !found {
                break;
            }
            self.remove_escapes(0, body);
        }
    }

    /// Removes the escapes of JSON from the documents in what was percent-encoded.
    fn decode_in_stretches(&mut self, body: &[u8]) {
        let layer = self.layer_count - 1;
        let mut inside = mem::take(&mut self.scratch.inside);
        inside.clear();
        let step = &self.steps[self.step_count - 1];
        let nodes = &self.layers[layer].nodes;
        let text = self.text(layer, body);
        for stretch in &step.stretches {
            if memchr::memchr(b'{', &text[stretch.clone()]).is_none() {
                continue;
            }
            // It is in one text, or in no JSON at all.
            let behind = nodes.partition_point(|node| node.start <= stretch.start);
            let mut around = behind.wrapping_sub(1);
            while let Some(node) = nodes.get(around).filter(|node| node.end <= stretch.start) {
                around = node.parent as usize;
            }
            let ends_before_next = nodes
                .get(behind)
                .is_none_or(|next| stretch.end <= next.start);
            match nodes.get(around) {
                Some(node) if node.kind == Kind::Text && stretch.end <= node.end => {
                    inside.push((stretch.clone(), around));
                }
                None if ends_before_next => inside.push((stretch.clone(), usize::MAX)),
                _ => {}
            }
        }
        if self.read_inside(layer, body, &inside) {
            self.remove_escapes(layer, body);
        }
        self.scratch.inside = inside;
    }

    /// Reads the documents in ranges of a layer, each of which lies in the text of that number;
    /// returns whether there are any.
    fn read_inside(&mut self, layer: usize, body: &[u8], inside: &[(Range<usize>, usize)]) -> bool {
        if inside.is_empty() {
            return false;
        }
        let step = u8::try_from(self.step_count).unwrap_or(u8::MAX);
        let Scratch {
            nodes: new,
            numbers,
            ..
        } = &mut self.scratch;
        new.clear();
        numbers.clear();
        let old = &self.layers[layer].nodes;
        let text = match self.layers[layer].is_source {
            true => body,
            false => &self.layers[layer].text,
        };
        let copy = |to: usize, numbers: &mut Vec<u32>, new: &mut Vec<Node>| {
            for node in &old[numbers.len()..to.max(numbers.len())] {
                numbers.push(u32::try_from(new.len()).unwrap_or(NONE));
                let parent = match node.parent {
                    NONE => NONE,
                    parent => numbers[parent as usize],
                };
                new.push(Node { parent, ..*node });
            }
        };
        let mut found = false;
        for (range, parent) in inside {
            let behind = old.partition_point(|node| node.start <= range.start);
            let to = match *parent {
                usize::MAX => behind,
                parent => behind.max(parent + 1),
            };
            copy(to, numbers, new);
            let parent = numbers.get(*parent).copied().unwrap_or(NONE);
            let structure = lexer::read_inside(text, range.clone(), parent, step, new);
            found |= structure == Structure::Json;
            self.is_broken_inside |= structure == Structure::Unreadable;
        }
        if found {
            copy(old.len(), numbers, new);
            mem::swap(&mut self.layers[layer].nodes, new);
        }
        found
    }

    /// Removes the escapes of those texts of a layer that were read last, in a step of their own.
    fn remove_escapes(&mut self, layer: usize, body: &[u8]) {
        let number = self.step_count;
        self.add_step(Encoding::Json);
        let step = &mut self.steps[number];
        let layer = &mut self.layers[layer];
        let from = match layer.is_source {
            true => body,
            false => &layer.text,
        };
        let mut decoder = Decoder::new(from, &mut self.scratch.text, &mut step.map);
        let last = u8::try_from(number).unwrap_or(u8::MAX);
        decode::json(from, &layer.nodes, last, &mut decoder);
        if decoder.finish() {
            step.map.move_nodes(&mut layer.nodes);
            mem::swap(&mut layer.text, &mut self.scratch.text);
            layer.is_source = false;
        }
        layer.steps = number + 1;
    }

    /// Adds a layer with one encoding removed from the last one, unless that changes nothing.
    fn add_decoded(&mut self, body: &[u8], encoding: Encoding) -> bool {
        let last = self.layer_count - 1;
        let number = self.step_count;
        let has_any = {
            let text = self.text(last, body);
            match encoding {
                Encoding::Json | Encoding::Broken => memchr::memchr(b'\\', text).is_some(),
                Encoding::Ansi => memchr::memchr(0x1b, text).is_some(),
                Encoding::Percent => decode::find_percent(text, 0).is_some(),
                Encoding::Plus => memchr::memchr(b'+', text).is_some(),
            }
        };
        if !has_any {
            return false;
        }
        let mut encoded = mem::take(&mut self.scratch.encoded);
        if encoding == Encoding::Plus {
            self.find_stretches(&mut encoded);
        }
        self.add_step(encoding);
        self.add_layer(number + 1);
        let (done, new) = self.layers.split_at_mut(last + 1);
        let (from, to) = (&done[last], &mut new[0]);
        let step = &mut self.steps[number];
        let text = match from.is_source {
            true => body,
            false => &from.text,
        };
        let mut decoder = Decoder::new(text, &mut to.text, &mut step.map);
        match encoding {
            Encoding::Json => {}
            Encoding::Broken => decode::escapes(text, 0..text.len(), &mut decoder),
            Encoding::Ansi => decode::ansi(text, &mut decoder),
            Encoding::Percent => {
                decode::percent(
                    text,
                    &mut decoder,
                    &mut step.stretches,
                    &mut step.parameters,
                );
            }
            Encoding::Plus => decode::plus(text, &encoded, &mut decoder),
        }
        self.scratch.encoded = encoded;
        if !decoder.finish() {
            self.layer_count -= 1;
            self.step_count -= 1;
            return false;
        }
        to.nodes.extend_from_slice(&from.nodes);
        step.map.move_nodes(&mut to.nodes);
        true
    }

    /// Finds what was percent-encoded in the text of the last layer.
    fn find_stretches(&self, stretches: &mut Vec<Range<usize>>) {
        stretches.clear();
        let steps = &self.steps[..self.step_count];
        let is_percent = |step: &Step| step.encoding == Encoding::Percent;
        // What was encoded twice was so once.
        let Some(first) = steps.iter().position(is_percent) else {
            return;
        };
        stretches.extend_from_slice(&steps[first].stretches);
        for step in &steps[first + 1..] {
            for stretch in &mut *stretches {
                *stretch = step.map.text_of(stretch.start)..step.map.text_of(stretch.end);
            }
        }
    }

    fn add_step(&mut self, encoding: Encoding) -> &mut Step {
        if self.steps.len() == self.step_count {
            self.steps.push(Step::default());
        }
        self.step_count += 1;
        let step = &mut self.steps[self.step_count - 1];
        step.encoding = encoding;
        step.map.clear();
        step.stretches.clear();
        step.parameters.clear();
        step
    }

    fn add_layer(&mut self, steps: usize) -> &mut Layer {
        if self.layers.len() == self.layer_count {
            self.layers.push(Layer::default());
        }
        self.layer_count += 1;
        let layer = &mut self.layers[self.layer_count - 1];
        layer.text.clear();
        layer.nodes.clear();
        layer.regions.clear();
        (layer.is_source, layer.is_divided, layer.steps) = (false, false, steps);
        layer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of an event's layers.
    fn texts(body: &str) -> Vec<String> {
        let mut view = View::default();
        view.begin(body.as_bytes(), find_trigger(body.as_bytes(), 0).is_some());
        let text = |layer| String::from_utf8_lossy(view.text(layer, body.as_bytes())).into_owned();
        (0..view.layers()).map(text).collect()
    }

    #[test]
    fn encodings_are_removed() {
        for (body, expected) in [
            (r#"{"m":"a\u0040b\/c"}"#, &[r#"{"m":"a@b/c"}"#][..]),
            (r"C:\new\u0040", &[r"C:\new\u0040"]),
            (
                r#"{"log":"{\"a\":\"{\\\"b\\\":\\\"c\\\\nd\\\"}\"}"}"#,
                &["{\"log\":\"{\"a\":\"{\"b\":\"c\nd\"}\"}\"}"],
            ),
            (r#"{"m":"say \"{\" now"}"#, &[r#"{"m":"say "{" now"}"#]),
            (
                "a%2520b+c d%2B",
                &["a%2520b+c d%2B", "a%20b+c d+", "a b+c d+", "a b c d "],
            ),
            (
                "\x1b[1mx\x1b]8;;u\x1b\\y",
                &["\x1b[1mx\x1b]8;;u\x1b\\y", "xy"],
            ),
            (
                r#"{"m":"\u001b[1mx"}"#,
                &["{\"m\":\"\x1b[1mx\"}", r#"{"m":"x"}"#],
            ),
            (
                "q=%7B%22m%22%3A%22a%5Cnb%22%7D",
                &["q=%7B%22m%22%3A%22a%5Cnb%22%7D", "q={\"m\":\"a\nb\"}"],
            ),
            ("100% of 5%x", &["100% of 5%x"]),
            (
                r#"{"a":1 "b":"\u0040"}"#,
                &[r#"{"a":1 "b":"\u0040"}"#, r#"{"a":1 "b":"@"}"#],
            ),
        ] {
            assert_eq!(texts(body), expected, "{body}");
        }
    }

    /// Hides each `secret` of the last layer.
    fn hide(body: &str, replacement: &str) -> String {
        let mut view = View::default();
        let bytes = body.as_bytes();
        view.begin(bytes, find_trigger(bytes, 0).is_some());
        view.read(bytes);
        let layer = view.layers() - 1;
        let (mut out, mut done) = (Vec::new(), 0);
        for at in memchr::memmem::find_iter(view.text(layer, bytes), b"secret") {
            let range = at..at + 6;
            let source = view.source_of(layer, range.clone());
            out.extend_from_slice(&bytes[done..source.start]);
            let mut scratch = Vec::new();
            view.encode(
                layer,
                range,
                false,
                replacement.as_bytes(),
                &mut scratch,
                &mut out,
            );
            done = source.end;
        }
        out.extend_from_slice(&bytes[done..]);
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn replacements_are_encoded_for_their_place() {
        for (body, expected) in [
            ("a secret", r#"a "=\"#),
            (r#"{"m":"secret"}"#, r#"{"m":"\"=\\"}"#),
            (r#"{"m":"s\u0065cret"}"#, r#"{"m":"\"=\\"}"#),
            (
                r#"{"l":"{\"m\":\"secret\"}"}"#,
                r#"{"l":"{\"m\":\"\\\"=\\\\\"}"}"#,
            ),
            ("x=%73ecret&y=1", "x=%22%3D%5C&y=1"),
            ("x=%2573ecret", "x=%2522%253D%255C"),
            (r#"{"u":"x=%73ecret"}"#, r#"{"u":"x=%22%3D%5C"}"#),
            ("{'m': 'secret'}", r#"{'m': '"=\\'}"#),
            ("\x1b[1msecret\x1b[0m", "\x1b[1m\"=\\\x1b[0m"),
        ] {
            assert_eq!(hide(body, "\"=\\"), expected, "{body}");
        }
    }

    #[test]
    fn what_is_nearly_json_is_read() {
        for (body, expected) in [
            (r#"{"a":1}"#, Structure::Json),
            (r#"{"a":NaN,"b":-Infinity,"c":007,}"#, Structure::Json),
            (r#"{"a":"it\'s \x22","b":word}"#, Structure::Json),
            ("{\"a\":\"\x1b[1m\"}{\"b\":2} // retry", Structure::Json),
            (r#"{"a":"cut"#, Structure::Json),
            (r#"{"a":{"b"#, Structure::Json),
            ("\u{feff}{\"a\":1}", Structure::Json),
            ("\0 {\"a\":1}\0", Structure::Json),
            (r#"<134>1 - host app - - - {"a":1}"#, Structure::Json),
            ("{'a': 'b', 'ok': True}", Structure::Json),
            (r#"INFO body: {"a":1} done"#, Structure::Json),
            (r#"[{"a":1}]"#, Structure::Json),
            (r#"{"a":"he said "hi" b"}"#, Structure::Unreadable),
            (r#"{"a":1x"b":2}"#, Structure::Unreadable),
            (r#"x"a":{"b":1}}"#, Structure::Unreadable),
            (r#"xa":1,"b":2}"#, Structure::Unreadable),
            (r#"{"a":1},"b":2}"#, Structure::Unreadable),
            ("[2026-11-28 10:00:00] main: ready", Structure::Plain),
            ("plain text {x} with \"quotes\"", Structure::Plain),
            ("", Structure::Plain),
        ] {
            assert_eq!(View::default().read_alone(body), expected, "{body}");
        }
    }

    impl View {
        fn read_alone(&mut self, body: &str) -> Structure {
            self.begin(body.as_bytes(), false);
            self.read(body.as_bytes())
        }
    }

    #[test]
    fn matches_end_with_what_they_begin_in() {
        let body = br#"<1> {"k":"v","n":[12,{"x":null}]} behind"#;
        let mut view = View::default();
        view.begin(body, false);
        view.read(body);
        view.divide(0, body);
        let limit_at = |place: &[u8]| {
            let at = memchr::memmem::find(body, place).expect("is there");
            let regions = view.regions(0);
            let region = regions[regions.partition_point(|one| one.start <= at) - 1];
            String::from_utf8_lossy(&body[at..region.reach]).into_owned()
        };
        for (place, reach) in [
            (&b"1>"[..], r#"1> {"k":"v","n":[12,{"x":null}]} behind"#),
            (b"{\"k", r#"{"k":"v","n":[12,{"x":null}]}"#),
            (b"k\"", r#"k":"v"#),
            (b":\"v", r#":"v"#),
            (b"v\"", "v"),
            (b",\"n", r#","n":[12,{"x":null}]"#),
            (b"n\"", r#"n":[12"#),
            (b"[12", r#"[12,{"x":null}]"#),
            (b"12", "12"),
            (b"x\"", r#"x":null"#),
            (b"behind", "behind"),
        ] {
            assert_eq!(limit_at(place), reach);
        }
    }
}
