//! Where events begin and end in what was read: lines, ended by `\n` or `\r\n`.
//!
//! Works in place. A line above the limit is cut and marked with [`TRUNCATED`]; mark included, its
//! body then has exactly the limit. However the bytes of a connection are divided into reads, the
//! events are the same. Invalid UTF-8, NUL, a lone `\r` and empty lines are events like any other.

use std::ops::Range;

/// Ends an event of which the rest was cut off.
pub const TRUNCATED: &[u8] = b" [truncated]";

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
    /// How many events were cut.
    pub truncated: u64,
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
                };
            };
            self.skipping = false;
            buffer.copy_within(at + 1..filled, 0);
            filled -= at + 1;
        }
        let carried = carried.min(filled);
        if let Some(at) = memchr::memrchr(b'\n', &buffer[carried..filled]) {
            let end = carried + at + 1;
            let (kept_end, truncated) = cut_long_lines(buffer, end, self.max_event_bytes);
            let rest = end..filled;
            if self.is_too_long(&buffer[rest.clone()]) {
                // Rare: the rest is above the limit too. It is moved up so that it can be cut.
                buffer.copy_within(rest.clone(), kept_end);
                let rest = &mut buffer[kept_end..kept_end + rest.len()];
                let cut = self.cut(rest);
                return Framed {
                    end: kept_end + cut,
                    rest: 0..0,
                    truncated: truncated + 1,
                };
            }
            return Framed {
                end: kept_end,
                rest,
                truncated,
            };
        }
        if self.is_too_long(&buffer[..filled]) {
            let end = self.cut(&mut buffer[..filled]);
            return Framed {
                end,
                rest: 0..0,
                truncated: 1,
            };
        }
        Framed {
            end: 0,
            rest: 0..filled,
            truncated: 0,
        }
    }

    /// Cuts a line before its end has come, because the sender does not send it. Returns the event.
    pub fn give_up(&mut self, mut line: Vec<u8>) -> Vec<u8> {
        line.truncate(self.max_event_bytes - TRUNCATED.len());
        line.extend_from_slice(TRUNCATED);
        line.push(b'\n');
        self.skipping = true;
        line
    }

    fn is_too_long(&self, line: &[u8]) -> bool {
        // A `\r` may turn out to be half of the terminator.
        line.len() - usize::from(line.ends_with(b"\r")) > self.max_event_bytes
    }

    /// Cuts a line whose end has not come; returns the length of the event.
    fn cut(&mut self, line: &mut [u8]) -> usize {
        self.skipping = true;
        mark(line, self.max_event_bytes);
        line[self.max_event_bytes] = b'\n';
        self.max_event_bytes + 1
    }
}

/// Cuts the lines above the limit among those before `end`; returns where the last one ends then,
/// and how many were cut. The lines that are not touched are not looked at, if all of them together
/// are below the limit.
pub fn cut_long_lines(buffer: &mut [u8], end: usize, max_event_bytes: usize) -> (usize, u64) {
    if end <= max_event_bytes {
        return (end, 0);
    }
    let (mut read, mut write, mut truncated) = (0, 0, 0);
    while read < end {
        let line_end = memchr::memchr(b'\n', &buffer[read..end]).map_or(end, |at| read + at + 1);
        let line = &buffer[read..line_end];
        let body = line.strip_suffix(b"\n").unwrap_or(line);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        let mut length = line.len();
        if body.len() > max_event_bytes {
            mark(&mut buffer[read..line_end], max_event_bytes);
            buffer[read + max_event_bytes] = b'\n';
            length = max_event_bytes + 1;
            truncated += 1;
        }
        if write != read {
            buffer.copy_within(read..read + length, write);
        }
        write += length;
        read = line_end;
    }
    (write, truncated)
}

fn mark(line: &mut [u8], max_event_bytes: usize) {
    line[max_event_bytes - TRUNCATED.len()..max_event_bytes].copy_from_slice(TRUNCATED);
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
            carried = buffer[framed.rest].to_vec();
        }
        if !carried.is_empty() {
            out.extend_from_slice(&carried);
            out.push(b'\n');
        }
        (out, cuts)
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

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            3 => prop::collection::vec(
                prop::sample::select(vec![b'a', 0, 0xff, b'\r', b' ']), 0..10),
            1 => (LIMIT - 3..LIMIT + 5).prop_map(|length| vec![b'l'; length]),
            1 => (LIMIT - 3..3 * LIMIT).prop_map(|length| vec![b'\r'; length]),
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
            pieces in prop::collection::vec(1usize..200, 1..6),
        ) {
            prop_assert_eq!(frame_all(&stream, &pieces), frame_slowly(&stream));
        }
    }
}
