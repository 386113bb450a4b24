//! Where events begin and end in what was read: lines, ended by `\n` or `\r\n`.
//!
//! Works in place. A line above the limit is kept with [`LOOK_AHEAD_BYTES`] more, so that the rules
//! see what lies across the limit whole; it is cut behind them ([`cut_processed`]), and marked with
//! [`TRUNCATED`]. A line above even that is cut and marked here. Each is counted here. However the
//! bytes of a connection are divided into reads, the events are the same. Invalid UTF-8, NUL, a
//! lone `\r` and empty lines are events like any other.

use std::ops::Range;

use streamgate_guest::{Batch, Verdict, WITHHELD, floor_char};

/// Ends an event of which the rest was cut off.
pub const TRUNCATED: &[u8] = b" [truncated]";

/// What is kept of a line beyond the limit until the rules have seen it, in bytes. A value that
/// lies across the limit is found as long as its end is within this.
pub const LOOK_AHEAD_BYTES: usize = 4096;

/// Least value of the limit, in bytes.
pub const MIN_EVENT_BYTES: usize = 64;

/// Finds events in the reads of one connection.
#[derive(Debug)]
pub struct Framer {
    max_event_bytes: usize,
    /// The line that is being read was cut; what comes before the next `\n` is its rest.
    skipping: bool,
}

/// What was found in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Framed {
    /// Whole events lie before this offset.
    pub end: usize,
    /// The beginning of the next one, to be carried over to the next read.
    pub rest: Range<usize>,
    /// How many events are above the limit.
    pub truncated: u64,
    /// Whether one of them was cut here, behind the look-ahead.
    pub cut: bool,
}

impl Framer {
    /// Frames with that limit, at least [`MIN_EVENT_BYTES`].
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes: max_event_bytes.max(MIN_EVENT_BYTES),
            skipping: false,
        }
    }

    /// Frames the first `filled` bytes, of which the first `carried` were the rest last time.
    pub fn frame(&mut self, buffer: &mut [u8], carried: usize, filled: usize) -> Framed {
        let mut filled = filled;
        if self.skipping {
            debug_assert_eq!(carried, 0, "nothing of a cut line is carried over");
            let Some(at) = memchr::memchr(b'\n', &buffer[..filled]) else {
                return Framed {
                    end: 0,
                    rest: 0..0,
                    truncated: 0,
                    cut: false,
                };
            };
            self.skipping = false;
            buffer.copy_within(at + 1..filled, 0);
            filled -= at + 1;
        }
        let carried = carried.min(filled);
        if let Some(at) = memchr::memrchr(b'\n', &buffer[carried..filled]) {
            let end = carried + at + 1;
            let long = cut_long_lines(buffer, end, self.max_event_bytes);
            let kept_end = long.end;
            let rest = end..filled;
            if self.is_beyond_look_ahead(&buffer[rest.clone()]) {
                // Rare: the rest is above the limit too. It is moved up so that it can be cut.
                buffer.copy_within(rest.clone(), kept_end);
                let rest = &mut buffer[kept_end..kept_end + rest.len()];
                let cut = self.cut(rest);
                return Framed {
                    end: kept_end + cut,
                    rest: 0..0,
                    truncated: long.truncated + 1,
                    cut: true,
                };
            }
            return Framed {
                end: kept_end,
                rest,
                truncated: long.truncated,
                cut: long.cut,
            };
        }
        if self.is_beyond_look_ahead(&buffer[..filled]) {
            let end = self.cut(&mut buffer[..filled]);
            return Framed {
                end,
                rest: 0..0,
                truncated: 1,
                cut: true,
            };
        }
        Framed {
            end: 0,
            rest: 0..filled,
            truncated: 0,
            cut: false,
        }
    }

    /// Gives a line up before its end has come, because there is no room to wait for it. What comes
    /// before the next `\n` is its rest. Returns what stands for it.
    ///
    /// The rules would see the half of a value at its end, so its body is withheld.
    pub fn give_up(&mut self) -> Vec<u8> {
        self.skipping = true;
        withheld_line()
    }

    /// Whether a line that no line feed will end is above the limit, and has to be counted.
    pub fn is_above_limit(&self, line: &[u8]) -> bool {
        body_len(line) > self.max_event_bytes
    }

    fn is_beyond_look_ahead(&self, line: &[u8]) -> bool {
        // A `\r` may turn out to be half of the terminator.
        body_len(line) > self.max_event_bytes + LOOK_AHEAD_BYTES
    }

    /// Cuts a line whose end has not come; returns the length of the event.
    fn cut(&mut self, line: &mut [u8]) -> usize {
        self.skipping = true;
        cut_behind_look_ahead(line, self.max_event_bytes)
    }
}

/// Returns what ends a line that came without a line feed. A CR at its end is a part of it, and
/// must not become the half of a line ending.
pub fn line_ending(line: &[u8]) -> &'static [u8] {
    match line.ends_with(b"\r") {
        true => b"\r\n",
        false => b"\n",
    }
}

/// What stands for a line of which only a part came, line feed included.
pub fn withheld_line() -> Vec<u8> {
    [WITHHELD, b"\n"].concat()
}

/// What became of the lines before `end`; see [`cut_long_lines`].
#[derive(Debug, PartialEq, Eq)]
pub struct LongLines {
    /// Where the last one ends now.
    pub end: usize,
    /// How many are above the limit.
    pub truncated: u64,
    /// Whether one of them was cut, behind the look-ahead.
    pub cut: bool,
}

/// Counts the lines above the limit among those before `end`, and cuts those that are above it by
/// more than [`LOOK_AHEAD_BYTES`]. The lines are not looked at, if all of them together are below
/// the limit.
pub fn cut_long_lines(buffer: &mut [u8], end: usize, max_event_bytes: usize) -> LongLines {
    let mut long = LongLines {
        end,
        truncated: 0,
        cut: false,
    };
    if end <= max_event_bytes {
        return long;
    }
    let (mut read, mut write) = (0, 0);
    while read < end {
        let line_end = memchr::memchr(b'\n', &buffer[read..end]).map_or(end, |at| read + at + 1);
        let line = &mut buffer[read..line_end];
        let mut length = line.len();
        let body_bytes = body_len(line.strip_suffix(b"\n").unwrap_or(line));
        long.truncated += u64::from(body_bytes > max_event_bytes);
        if body_bytes > max_event_bytes + LOOK_AHEAD_BYTES {
            length = cut_behind_look_ahead(line, max_event_bytes);
            long.cut = true;
        }
        if write != read {
            buffer.copy_within(read..read + length, write);
        }
        write += length;
        read = line_end;
    }
    long.end = write;
    long
}

/// Cuts the events that are above the limit when the rules are done with them, in place. `was_cut`
/// says whether one of them was cut before the rules saw it, and `rules` whether there were any.
///
/// What was cut before may end in the half of a value that no rule knew. If the rules made such an
/// event so short that its end would leave, that end is removed, as far as a value that is found
/// may reach.
pub fn cut_processed(batch: &mut Batch, max_event_bytes: usize, was_cut: bool, rules: bool) {
    if was_cut && rules {
        batch.edit_each(
            |event, rewrite| match event.body().strip_suffix(TRUNCATED) {
                Some(text) if event.body().len() <= max_event_bytes => {
                    let kept = floor_char(text, text.len().saturating_sub(LOOK_AHEAD_BYTES));
                    rewrite.replace(&[&text[..kept], TRUNCATED].concat())
                }
                _ => Verdict::Keep,
            },
        );
    }
    batch.cut_bodies(max_event_bytes, TRUNCATED);
}

/// Cuts a line at the end of the look-ahead, so that the mark fits before it; returns the length of
/// the event.
fn cut_behind_look_ahead(line: &mut [u8], max_event_bytes: usize) -> usize {
    let most = max_event_bytes + LOOK_AHEAD_BYTES;
    let cut_at = floor_char(line, most - TRUNCATED.len());
    let end = cut_at + TRUNCATED.len();
    line[cut_at..end].copy_from_slice(TRUNCATED);
    line[end] = b'\n';
    end + 1
}

/// The length of a line without its line feed, less a `\r` at its end.
fn body_len(line: &[u8]) -> usize {
    line.len() - usize::from(line.ends_with(b"\r"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = MIN_EVENT_BYTES;

    /// Feeds a stream in pieces of the given sizes and returns what comes out, and the cuts.
    fn frame_all(stream: &[u8], pieces: &[usize]) -> (Vec<u8>, u64) {
        let mut framer = Framer::new(LIMIT);
        let (mut out, mut cuts) = (Vec::new(), 0);
        let mut carried = Vec::new();
        let mut rest = stream;
        let mut pieces = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next().unwrap_or(1).clamp(1, rest.len()));
            rest = after;
            let mut buffer = [carried.as_slice(), piece].concat();
            let filled = buffer.len();
            let framed = framer.frame(&mut buffer, carried.len(), filled);
            out.extend_from_slice(&buffer[..framed.end]);
            cuts += framed.truncated;
            assert!(framed.rest.len() <= LIMIT + LOOK_AHEAD_BYTES + 1);
            carried = buffer[framed.rest].to_vec();
        }
        if !carried.is_empty() {
            cuts += u64::from(framer.is_above_limit(&carried));
            out.extend_from_slice(&carried);
            out.push(b'\n');
        }
        let mut batch = Batch::from_lines(out);
        cut_processed(&mut batch, LIMIT, cuts > 0, false);
        (batch.slices().flatten().copied().collect(), cuts)
    }

    /// The same, one line after the other.
    fn frame_slowly(stream: &[u8]) -> (Vec<u8>, u64) {
        let (mut out, mut cuts) = (Vec::new(), 0);
        for line in stream.split_inclusive(|&byte| byte == b'\n') {
            let ended = line.strip_suffix(b"\n");
            let body = ended.unwrap_or(line);
            let body = body.strip_suffix(b"\r").unwrap_or(body);
            if body.len() > LIMIT {
                out.extend_from_slice(&body[..LIMIT - TRUNCATED.len()]);
                out.extend_from_slice(TRUNCATED);
                out.push(b'\n');
                cuts += 1;
            } else {
                out.extend_from_slice(line);
                if ended.is_none() {
                    out.push(b'\n');
                }
            }
        }
        (out, cuts)
    }

    #[test]
    fn limit_obeyed() {
        for end in ["\n", "\r\n"] {
            let line = "x".repeat(LIMIT) + end;
            assert_eq!(frame_all(line.as_bytes(), &[7]), (line.into_bytes(), 0));
        }
    }

    #[test]
    fn limit_breached() {
        let line = "x".repeat(LIMIT + 1) + "\r\nnext\n";
        let cut = "x".repeat(LIMIT - TRUNCATED.len()) + " [truncated]\nnext\n";
        assert_eq!(
            frame_all(line.as_bytes(), &[1000]),
            (cut.clone().into_bytes(), 1)
        );
        assert_eq!(frame_all(line.as_bytes(), &[1]), (cut.into_bytes(), 1));
    }

    #[test]
    fn rules_see_a_line_with_what_is_ahead_of_the_limit() {
        let most = LIMIT + LOOK_AHEAD_BYTES;
        for (length, seen, cut) in [(most, most, false), (most + 1, most, true)] {
            let mut buffer = format!("{}\n", "x".repeat(length)).into_bytes();
            let filled = buffer.len();
            let framed = Framer::new(LIMIT).frame(&mut buffer, 0, filled);
            assert_eq!(
                (framed.end, framed.truncated, framed.cut),
                (seen + 1, 1, cut)
            );
            assert_eq!(buffer[..seen].ends_with(TRUNCATED), cut);
        }
    }

    #[test]
    fn end_that_the_rules_moved_below_the_limit_is_removed_if_it_was_cut() {
        let mut buffer = format!(
            "{}ssn 987-65-4321, and more\n",
            "x".repeat(LIMIT + LOOK_AHEAD_BYTES - 23)
        );
        let filled = buffer.len();
        let mut bytes = std::mem::take(&mut buffer).into_bytes();
        let framed = Framer::new(LIMIT).frame(&mut bytes, 0, filled);
        let mut batch = Batch::from_lines(&bytes[..framed.end]);
        batch.edit_each(|event, rewrite| {
            let text = event.text().trim_start_matches('x').to_owned();
            assert_eq!(text, "ssn 987-65- [truncated]");
            rewrite.replace(text.as_bytes())
        });
        cut_processed(&mut batch, LIMIT, framed.cut, true);
        let left: Vec<u8> = batch.slices().flatten().copied().collect();
        assert_eq!(left, b" [truncated]\n");
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            3 => prop::collection::vec(
                prop::sample::select(vec![b'a', 0, 0xff, b'\r', b' ']), 0..10),
            1 => (LIMIT - 3..LIMIT + 5).prop_map(|length| vec![b'l'; length]),
            1 => (LIMIT - 3..3 * LIMIT).prop_map(|length| vec![b'\r'; length]),
            1 => (LIMIT + LOOK_AHEAD_BYTES - 3..LIMIT + LOOK_AHEAD_BYTES + 20)
                .prop_map(|length| vec![b'v'; length]),
        ];
        let end = prop_oneof![Just(&b"\n"[..]), Just(&b"\r\n"[..])];
        (prop::collection::vec((line.clone(), end), 0..12), line).prop_map(|(lines, last)| {
            let mut stream: Vec<u8> = lines
                .into_iter()
                .flat_map(|(line, end)| [line, end.to_vec()].concat())
                .collect();
            stream.extend(last);
            stream
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn events_are_the_same_however_the_bytes_are_cut(
            stream in stream(),
            pieces in prop::collection::vec(prop_oneof![1usize..200, 1usize..6000], 1..6),
        ) {
            prop_assert_eq!(frame_all(&stream, &pieces), frame_slowly(&stream));
        }
    }
}
