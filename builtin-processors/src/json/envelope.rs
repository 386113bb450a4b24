//! Finds where the JSON of an event begins: many programs and collectors put text before it.

/// Returns where a JSON document begins in an event; `None` if the event holds none.
///
/// At the beginning of an event, behind a byte order mark, NULs and blanks, every `{` counts.
/// Behind other text (`<134>1 ... {"a":1}` of syslog, `2026-11-28T09:14:02.5Z stdout F {"a":1}` of
/// CRI, `INFO body={"a":1}`), a `{` counts with a quote or a `}` next to it. A `[` counts
/// everywhere only with a `{`, a `"` or a `[` next to it, as texts often begin with a time in
/// brackets. Blanks may stand between. The document need not be valid. Takes linear time.
pub(crate) fn json_start(body: &[u8]) -> Option<usize> {
    // Nearly every event that holds JSON begins with it.
    if body.first() == Some(&b'{') {
        return Some(0);
    }
    let mark = match body.starts_with(b"\xef\xbb\xbf") {
        true => 3,
        false => 0,
    };
    let is_padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let mut at = mark
        + body[mark..]
            .iter()
            .take_while(|&byte| is_padding(byte))
            .count();
    if body.get(at) == Some(&b'{') {
        return Some(at);
    }
    loop {
        at += memchr::memchr2(b'{', b'[', &body[at..])?;
        let inside = &body[at + 1..];
        let next = inside.iter().find(|byte| !byte.is_ascii_whitespace());
        let begins = match body[at] {
            b'{' => matches!(next, Some(b'"' | b'\'' | b'}')),
            _ => matches!(next, Some(b'{' | b'"' | b'[')),
        };
        if begins {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_found_behind_what_stands_before_it() {
        for (event, document) in [
            ("{\"a\":1}", Some("{\"a\":1}")),
            ("{not json", Some("{not json")),
            ("\u{feff}{\"a\":1}", Some("{\"a\":1}")),
            ("\u{feff} \0{x", Some("{x")),
            ("\0\0 \t{}", Some("{}")),
            (
                "<134>1 2026-11-28T09:14:02Z h app - - - {\"a\":1}",
                Some("{\"a\":1}"),
            ),
            (
                "<134>1 - h app - - [x@1 k=\"v\"] { \"a\":1}",
                Some("{ \"a\":1}"),
            ),
            (
                "2026-11-28T09:14:02.5Z stdout F {\"a\":1}",
                Some("{\"a\":1}"),
            ),
            (
                "2026-11-28T09:14:02.5Z stdout F [{\"a\":1}]",
                Some("[{\"a\":1}]"),
            ),
            ("INFO body={\"a\":1} rest", Some("{\"a\":1} rest")),
            ("INFO {'a': 1}", Some("{'a': 1}")),
            ("[2026-11-28 10:00:00] {\"a\":1}", Some("{\"a\":1}")),
            ("[{\"a\":1}]", Some("[{\"a\":1}]")),
            ("[ [1]]", Some("[ [1]]")),
            ("[\"a\"]", Some("[\"a\"]")),
            ("[2026-11-28 10:00:00] text", None),
            ("[1, 2]", None),
            ("text {x} {y}", None),
            ("text", None),
            ("", None),
            ("\u{feff}", None),
            ("text {", None),
            ("text [", None),
        ] {
            let found = json_start(event.as_bytes()).map(|start| &event[start..]);
            assert_eq!(found, document, "{event}");
        }
    }

    #[test]
    fn brackets_without_end_take_linear_time() {
        let start = std::time::Instant::now();
        for piece in ["x{", "x[", "x{ ", "{ x", " ", "\0"] {
            let event = [b"x", piece.repeat(1 << 18).as_bytes()].concat();
            assert_eq!(json_start(&event), None, "{piece}");
        }
        let blanks = [b"x{".as_slice(), &vec![b' '; 1 << 20], b"x"].concat();
        assert_eq!(json_start(&blanks), None);
        assert!(start.elapsed() < std::time::Duration::from_secs(2));
    }
}
