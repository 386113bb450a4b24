//! Text of others (receivers, configs, names that were looked up) on one line of a log or an
//! answer: without characters that a terminal would act on, and bounded.

/// Most characters of a text that a receiver or a config determines.
pub(super) const MOST_CHARS: usize = 200;

/// Escapes control characters and those that change how the text around them is shown, and cuts the
/// text after `most` characters.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let mut chars = text.chars();
    for (count, c) in chars.by_ref().enumerate() {
        if count == most {
            shown.push('…');
            break;
        }
        match is_harmless(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

/// Returns the first character that [`one_line`] would escape.
pub(super) fn first_escaped(text: &str) -> Option<char> {
    text.chars().find(|c| !is_harmless(*c))
}

/// Whether a terminal shows a character as itself. Unicode's line separators and the marks that
/// turn the direction of text around are not control characters to `char`.
///
/// Source: Unicode Standard Annex #9, section 2 (directional formatting characters).
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped_and_long_text_is_cut() {
        for (text, shown) in [
            ("plain, äöü, 語", "plain, äöü, 語"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\r\nb\tc\0", "a\\u{d}\\u{a}b\\u{9}c\\u{0}"),
            ("\u{9b}2J\u{202e}x\u{2028}", "\\u{9b}2J\\u{202e}x\\u{2028}"),
        ] {
            assert_eq!(one_line(text, MOST_CHARS), shown);
        }
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("abc", 3), "abc");
    }
}
