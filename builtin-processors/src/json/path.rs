//! Reads the paths by which rules name the fields of JSON events. There is one grammar for all
//! rules.
//!
//! With a `/` in it, keys are joined by `/`; else by `.`. `*` stands for any part of a key, `**`
//! for any number of keys, `[0]` for one element of an array and `[*]` for every one, `["a.b"]` for
//! a key as it is.
//! A path that cannot be read, or that is a spelling of another language, is refused with the
//! nearest right spelling: a path that silently matches nothing would let through what a rule shall
//! hide.

use super::MAX_DEPTH;

/// One step from a value to values inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The members of an object with such a key.
    Key(Glob),
    /// Any number of steps; as the last step, at least one.
    AnyDepth,
    /// The element of an array, counted from 0.
    Index(usize),
    /// Every element of an array.
    Each,
}

/// A path as a rule writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    /// The steps from the outside to the inside: 1 to [`MAX_DEPTH`].
    pub(crate) steps: Vec<Step>,
}

/// Why a path cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathError {
    /// What was found, what is expected, and the nearest right spelling.
    pub(crate) message: String,
}

impl Path {
    /// Reads a path. With `ignore_case`, its keys compare without regard to case.
    ///
    /// # Errors
    /// [`PathError`] if the path cannot be read or has more than [`MAX_DEPTH`] steps.
    pub(crate) fn parse(text: &str, ignore_case: bool) -> Result<Self, PathError> {
        read(text, ignore_case)
            .map(|steps| Self { steps })
            .map_err(|fault| PathError {
                message: fault.explain(text),
            })
    }
}

/// A key, in which `*` may stand for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    ignore_case: bool,
    /// The parts between the stars; a single part if the key has no star.
    parts: Vec<Part>,
}

/// The text between two stars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    text: String,
    /// Its characters as they are compared.
    chars: Box<[char]>,
    /// For each beginning of the part: how long the longest shorter beginning is that ends it. With
    /// this table (Knuth, Morris, Pratt) a search never goes back in the key.
    fallback: Box<[usize]>,
}

impl Glob {
    /// Makes the key that is this text and no other.
    pub(crate) fn exact(text: &str, ignore_case: bool) -> Self {
        Self::of_parts(vec![text.to_owned()], ignore_case)
    }

    fn of_parts(parts: Vec<String>, ignore_case: bool) -> Self {
        let part = |text: String| {
            let chars: Box<[char]> = text.chars().map(|c| folded(c, ignore_case)).collect();
            let fallback = fallback(&chars);
            Part {
                text,
                chars,
                fallback,
            }
        };
        Self {
            ignore_case,
            parts: parts.into_iter().map(part).collect(),
        }
    }

    /// Says whether the key, decoded, is one of those meant. Takes linear time and allocates
    /// nothing.
    pub(crate) fn matches(&self, key: &str) -> bool {
        let (first, rest) = match self.parts.as_slice() {
            [only] if !self.ignore_case => return *key == *only.text,
            [first, rest @ ..] => (first, rest),
            [] => return false,
        };
        let Some(key) = self.behind(key, first) else {
            return false;
        };
        let Some((last, middle)) = rest.split_last() else {
            return key.is_empty();
        };
        let Some(mut key) = self.before(key, last) else {
            return false;
        };
        // The leftmost place of each part leaves most room to the next.
        for part in middle {
            match self.find(key, part) {
                Some(end) => key = &key[end..],
                None => return false,
            }
        }
        true
    }

    /// Returns the key if only one is meant, as the path spells it. Whether its case counts is for
    /// [`matches`](Self::matches) to say.
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [only] => Some(&only.text),
            _ => None,
        }
    }

    /// Returns the bytes of the key if only one is meant, in this case.
    pub(super) fn exact_bytes(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [only] if !self.ignore_case => Some(only.text.as_bytes()),
            _ => None,
        }
    }

    /// Returns what stands behind the part, with which the key must begin.
    fn behind<'k>(&self, key: &'k str, part: &Part) -> Option<&'k str> {
        let mut chars = key.chars();
        for wanted in &part.chars {
            if folded(chars.next()?, self.ignore_case) != *wanted {
                return None;
            }
        }
        Some(chars.as_str())
    }

    /// Returns what stands before the part, with which the key must end.
    fn before<'k>(&self, key: &'k str, part: &Part) -> Option<&'k str> {
        let mut chars = key.chars();
        for wanted in part.chars.iter().rev() {
            if folded(chars.next_back()?, self.ignore_case) != *wanted {
                return None;
            }
        }
        Some(chars.as_str())
    }

    /// Returns where the first place of the part ends.
    fn find(&self, key: &str, part: &Part) -> Option<usize> {
        let mut matched = 0;
        for (at, found) in key.char_indices() {
            let c = folded(found, self.ignore_case);
            while matched > 0 && part.chars[matched] != c {
                matched = part.fallback[matched - 1];
            }
            if part.chars[matched] == c {
                matched += 1;
            }
            if matched == part.chars.len() {
                return Some(at + found.len_utf8());
            }
        }
        None
    }
}

/// Returns the character as it is compared: with `ignore_case` its simple lower case.
fn folded(c: char, ignore_case: bool) -> char {
    if !ignore_case {
        return c;
    }
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(only), None) => only,
        _ => c,
    }
}

fn fallback(chars: &[char]) -> Box<[usize]> {
    let mut table = vec![0; chars.len()];
    let mut matched = 0;
    for at in 1..chars.len() {
        while matched > 0 && chars[at] != chars[matched] {
            matched = table[matched - 1];
        }
        if chars[at] == chars[matched] {
            matched += 1;
        }
        table[at] = matched;
    }
    table.into_boxed_slice()
}

/// What is wrong with a path. Numbers are offsets into its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Empty,
    EmptyKey,
    JsonPath,
    /// A bracket that is opened there and not closed.
    Unclosed(usize),
    /// A bracket that is closed there and not opened.
    Unopened(usize),
    /// Brackets that hold nothing, or a key of no characters.
    EmptyBrackets {
        open: usize,
        end: usize,
    },
    /// Brackets that hold no index, no `*` and no key in quotes.
    OddBrackets {
        open: usize,
        end: usize,
    },
    /// Text right behind brackets.
    Joined(usize),
    /// `**` beside other characters of a key.
    Stars,
    TooManySteps(usize),
}

fn read(text: &str, ignore_case: bool) -> Result<Vec<Step>, Fault> {
    if text == "$" || text.starts_with("$.") || text.starts_with("$[") {
        return Err(Fault::JsonPath);
    }
    let separator = separator(text);
    let mut at = usize::from(separator == '/' && text.starts_with('/'));
    if at == text.len() {
        return Err(Fault::Empty);
    }
    let mut steps = Vec::new();
    loop {
        let name = read_key(&text[at..], separator, ignore_case)?;
        at += name.length;
        let opens = text[at..].starts_with('[');
        match name.step {
            Some(Step::AnyDepth) if steps.last() == Some(&Step::AnyDepth) => {}
            Some(step) => steps.push(step),
            None if opens => {}
            None if text[at..].starts_with(']') => {}
            None => return Err(Fault::EmptyKey),
        }
        while text[at..].starts_with('[') {
            let (step, end) = read_brackets(text, at, ignore_case)?;
            steps.push(step);
            at = end;
        }
        let mut behind = text[at..].chars();
        match behind.next() {
            None => break,
            Some(next) if next == separator => at += 1,
            Some(']') => return Err(Fault::Unopened(at)),
            Some(_) => return Err(Fault::Joined(at)),
        }
    }
    match steps.len() {
        0..=MAX_DEPTH => Ok(steps),
        count => Err(Fault::TooManySteps(count)),
    }
}

/// Returns what joins the keys: a `/` if there is one outside of quoted keys.
fn separator(text: &str) -> char {
    let mut rest = text;
    while let Some(at) = rest.find(['/', '[']) {
        if rest[at..].starts_with('/') {
            return '/';
        }
        rest = match rest[at..]
            .strip_prefix("[\"")
            .map(|quoted| (quoted, end_of_quoted(quoted)))
        {
            Some((quoted, Some(end))) => &quoted[end..],
            _ => &rest[at + 1..],
        };
    }
    '.'
}

/// Returns the offset of the quote that ends a key of which the first quote was read.
fn end_of_quoted(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// A key, and how much of the path it takes; no step if that is nothing.
struct Name {
    step: Option<Step>,
    length: usize,
}

fn read_key(text: &str, separator: char, ignore_case: bool) -> Result<Name, Fault> {
    let mut parts = vec![String::new()];
    let mut chars = text.char_indices().peekable();
    let mut length = text.len();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, next)| next);
        let literal = match (c, next) {
            ('\\', Some(escaped @ ('*' | '\\'))) => Some(escaped),
            ('~', Some('0')) => Some('~'),
            ('~', Some('1')) => Some('/'),
            _ => None,
        };
        let part = parts.last_mut().expect("there is a part from the start");
        if let Some(literal) = literal {
            chars.next();
            part.push(literal);
        } else if c == separator || c == '[' || c == ']' {
            length = at;
            break;
        } else if c == '*' {
            parts.push(String::new());
        } else {
            part.push(c);
        }
    }
    let step = match &text[..length] {
        "" => None,
        "**" => Some(Step::AnyDepth),
        // The parts at both ends may be empty, those between two stars may not.
        _ if parts.len() > 2 && parts[1..parts.len() - 1].iter().any(String::is_empty) => {
            return Err(Fault::Stars);
        }
        _ => Some(Step::Key(Glob::of_parts(parts, ignore_case))),
    };
    Ok(Name { step, length })
}

/// Reads `[3]`, `[*]` or `["key"]` at `open`; returns where it ends too.
fn read_brackets(text: &str, open: usize, ignore_case: bool) -> Result<(Step, usize), Fault> {
    let inner = &text[open + 1..];
    if let Some(quoted) = inner.strip_prefix('"') {
        let end = end_of_quoted(quoted).filter(|&end| quoted[end..].starts_with("\"]"));
        let end = end.ok_or(Fault::Unclosed(open))?;
        let behind = open + 2 + end + 2;
        if end == 0 {
            return Err(Fault::EmptyBrackets { open, end: behind });
        }
        let key = unescaped(&quoted[..end]);
        return Ok((Step::Key(Glob::exact(&key, ignore_case)), behind));
    }
    let length = inner.find(']').ok_or(Fault::Unclosed(open))?;
    let end = open + 1 + length + 1;
    let step = match &inner[..length] {
        "" => return Err(Fault::EmptyBrackets { open, end }),
        "*" => Step::Each,
        // `parse` would take a sign.
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let index = digits.parse();
            Step::Index(index.map_err(|_| Fault::OddBrackets { open, end })?)
        }
        _ => return Err(Fault::OddBrackets { open, end }),
    };
    Ok((step, end))
}

/// Decodes `\"` and `\\` in a quoted key.
fn unescaped(quoted: &str) -> String {
    let mut key = String::with_capacity(quoted.len());
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&escaped @ ('"' | '\\'))) => {
                chars.next();
                key.push(escaped);
            }
            _ => key.push(c),
        }
    }
    key
}

/// Writes a key so that a path takes it as it is.
fn quoted(key: &str) -> String {
    let key = key.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[\"{key}\"]")
}

impl Fault {
    fn explain(self, text: &str) -> String {
        let separator = separator(text);
        match self {
            Self::Empty => "the path is empty; expected keys like `user/email`".to_owned(),
            Self::EmptyKey => {
                let doubled = format!("{separator}{separator}");
                let mut one = text.to_owned();
                while one.contains(&doubled) {
                    one = one.replace(&doubled, &separator.to_string());
                }
                let one = one.trim_matches(separator);
                with_spelling("a key of the path is empty", &[one])
            }
            Self::JsonPath => {
                let keys = text.trim_start_matches('$');
                let keys = keys.replace("['", "[\"").replace("']", "\"]");
                let deep = keys.replace("..", "/**/").replace('.', "/");
                let found = "the path is JSONPath, in which `$` is the event; expected keys only";
                with_spelling(found, &[deep.trim_start_matches('/'), &keys])
            }
            Self::Unclosed(open) => {
                let closed = match text[open..].starts_with("[\"") {
                    true => format!("{}\"]", text.trim_end_matches([']', '"'])),
                    false => format!("{text}]"),
                };
                with_spelling("a bracket of the path is not closed", &[&closed])
            }
            Self::Unopened(at) => {
                let found = "a bracket of the path is closed that was not opened";
                let key = quoted(text.rsplit(separator).next().unwrap_or(text));
                let without = [&text[..at], &text[at + 1..]].concat();
                with_spelling(found, &[&without, &key])
            }
            Self::EmptyBrackets { open, end } => {
                let each = [&text[..open], "[*]", &text[end..]].concat();
                let found = "the brackets are empty; expected an index, `*` or a key in quotes";
                with_spelling(found, &[&each])
            }
            Self::OddBrackets { open, end } => {
                let (before, inner, behind) =
                    (&text[..open], &text[open + 1..end - 1], &text[end..]);
                let each = [before, "[*]", behind].concat();
                let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                if is_number(inner.trim_start_matches(['-', '+']))
                    || inner.contains(['*', ':', '?'])
                {
                    let found = format!(
                        "the brackets hold `{inner}`; expected an index from 0 on, or `*` for every \
                         element"
                    );
                    return with_spelling(&found, &[&each]);
                }
                let key = inner.trim_matches('\'');
                let joined = match before.is_empty() || before.ends_with(separator) {
                    true => [before, key, behind].concat(),
                    false => format!("{before}{separator}{key}{behind}"),
                };
                let found = format!(
                    "the brackets hold `{inner}`; expected an index, `*` or a key in quotes"
                );
                with_spelling(&found, &[&joined, &[before, &quoted(key), behind].concat()])
            }
            Self::Joined(at) => {
                let joined = format!("{}{separator}{}", &text[..at], &text[at..]);
                let found = "text stands right behind brackets; expected a separator there";
                let start = text[..at].rfind(separator).map_or(0, |at| at + 1);
                let end = text[at..]
                    .find(separator)
                    .map_or(text.len(), |end| at + end);
                let one_key = [&text[..start], &quoted(&text[start..end]), &text[end..]].concat();
                with_spelling(found, &[&joined, &one_key])
            }
            Self::Stars => {
                let mut one = text.to_owned();
                while one.contains("**") {
                    one = one.replace("**", "*");
                }
                let found = "`**` stands beside other characters of a key; expected `*` within a key, \
                             and `**` alone between two separators";
                with_spelling(found, &[&one])
            }
            Self::TooManySteps(count) => {
                format!("the path has {count} steps; expected at most {MAX_DEPTH}")
            }
        }
    }
}

/// Adds those spellings to a message that can be read.
fn with_spelling(found: &str, spellings: &[&str]) -> String {
    let readable: Vec<String> = spellings
        .iter()
        .filter(|spelling| read(spelling, false).is_ok())
        .map(|spelling| format!("`{spelling}`"))
        .collect();
    match readable.is_empty() {
        true => format!("{found}, as in `user/email`, `items[0]/id` or `items[*]/id`"),
        false => format!("{found}; write {}", readable.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes the steps one way: keys in angle brackets, a star between their parts.
    fn written(text: &str) -> String {
        let steps = Path::parse(text, false).expect(text).steps;
        let step = |step: &Step| match step {
            Step::Key(glob) => {
                let parts: Vec<&str> = glob.parts.iter().map(|part| &*part.text).collect();
                format!("<{}>", parts.join("(*)"))
            }
            Step::AnyDepth => "**".to_owned(),
            Step::Index(index) => format!("[{index}]"),
            Step::Each => "[*]".to_owned(),
        };
        steps.iter().map(step).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_spelling_means_what_the_documentation_says() {
        for (path, steps) in [
            ("a", "<a>"),
            ("/a", "<a>"),
            ("a/b.c", "<a> <b.c>"),
            ("/a/b", "<a> <b>"),
            ("a.b", "<a> <b>"),
            ("a~1b", "<a/b>"),
            ("/a~1b/~0/~2", "<a/b> <~> <~2>"),
            ("~01/x", "<~1> <x>"),
            ("[\"a.b\"]", "<a.b>"),
            ("a[\"b/c\"].d", "<a> <b/c> <d>"),
            ("a/[\"b/c\"]/d.e", "<a> <b/c> <d.e>"),
            ("a.[\"b\"]", "<a> <b>"),
            (r#"["say \"*\" \\ ~1"]"#, r#"<say "*" \ ~1>"#),
            ("*", "<(*)>"),
            ("a/*/b", "<a> <(*)> <b>"),
            ("a.*.b", "<a> <(*)> <b>"),
            ("**/*secret*", "** <(*)secret(*)>"),
            ("customer/ma*", "<customer> <ma(*)>"),
            (r"a\*b/c\\", r"<a*b> <c\>"),
            (r"a\b", r"<a\b>"),
            ("**", "**"),
            ("**/a", "** <a>"),
            ("a/**", "<a> **"),
            ("a.**.b", "<a> ** <b>"),
            ("a/**/**/b", "<a> ** <b>"),
            ("a[*]", "<a> [*]"),
            ("a[0].b[12]", "<a> [0] <b> [12]"),
            ("cards[0]/cvc", "<cards> [0] <cvc>"),
            ("a/[0]/b", "<a> [0] <b>"),
            ("a[0][*][\"k\"]", "<a> [0] [*] <k>"),
            ("[0]/a", "[0] <a>"),
            ("/[0]", "[0]"),
            ("[*].a", "[*] <a>"),
            ("$schema", "<$schema>"),
            ("$/a", "<$> <a>"),
            ("naïve.ключ", "<naïve> <ключ>"),
            ("user name/e mail", "<user name> <e mail>"),
        ] {
            assert_eq!(written(path), steps, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_nearest_spelling() {
        for (path, hint) in [
            ("", "`user/email`"),
            ("/", "`user/email`"),
            (".", "`user/email`"),
            ("a//b", "write `a/b`"),
            ("//a", "write `a`"),
            ("a..b", "write `a.b`"),
            ("a/", "write `a`"),
            ("a/b/", "write `a/b`"),
            ("a.", "write `a`"),
            (".a.b", "write `a.b`"),
            ("$", "`user/email`"),
            ("$.a.b", "write `a/b`"),
            ("$..a", "write `**/a`"),
            ("$.a[0].b", "write `a[0]/b`"),
            ("$['a']['b']", "write `[\"a\"][\"b\"]`"),
            ("a[0", "write `a[0]`"),
            ("a[\"b", "write `a[\"b\"]`"),
            ("a[\"b\"", "write `a[\"b\"]`"),
            ("a[", "`items[0]/id`"),
            ("a]", "write `a` or `[\"a]\"]`"),
            ("a[]", "write `a[*]`"),
            ("a[\"\"]", "write `a[*]`"),
            ("a[-1]", "write `a[*]`"),
            ("a[+1]", "write `a[*]`"),
            ("a[0:2]", "write `a[*]`"),
            ("a[99999999999999999999999]", "write `a[*]`"),
            ("[a]", "write `a` or `[\"a\"]`"),
            ("x[a].b", "write `x.a.b` or `x[\"a\"].b`"),
            ("x[a]/b", "write `x/a/b` or `x[\"a\"]/b`"),
            ("x['a']", "write `x.a` or `x[\"a\"]`"),
            ("a[0]b", "write `a[0].b` or `[\"a[0]b\"]`"),
            ("x/a[0]b/c", "write `x/a[0]/b/c` or `x/[\"a[0]b\"]/c`"),
            ("a**", "write `a*`"),
            ("x/***", "write `x/*`"),
            ("a**b.c", "write `a*b.c`"),
        ] {
            let fault = Path::parse(path, false).expect_err(path);
            assert!(fault.message.contains(hint), "{path}: {}", fault.message);
        }
        let longest = vec!["a"; MAX_DEPTH].join("/");
        assert!(Path::parse(&longest, false).is_ok());
        let fault = Path::parse(&format!("{longest}[0]"), false).expect_err("too long");
        assert!(fault.message.contains("33 steps"), "{}", fault.message);
    }

    fn glob(text: &str, ignore_case: bool) -> Glob {
        match Path::parse(text, ignore_case).expect(text).steps.as_slice() {
            [Step::Key(glob)] => glob.clone(),
            steps => panic!("{text}: {steps:?}"),
        }
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (text, key, expected) in [
            ("*", "", true),
            ("*", "x", true),
            ("ma*", "mail", true),
            ("ma*", "ma", true),
            ("ma*", "am", false),
            ("*secret*", "db_secret_v2", true),
            ("*secret*", "secret", true),
            ("*secret*", "secre", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*ab*b", "aabb", true),
            ("a*ab*b", "aab", false),
            ("*aab*", "aaab", true),
            ("*é*ю", "xéyю", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
        ] {
            assert_eq!(glob(text, false).matches(key), expected, "{text} {key}");
        }
    }

    #[test]
    fn case_can_be_ignored_beyond_ascii_too() {
        for (text, key) in [
            ("x-api-key", "X-Api-Key"),
            ("ПАРОЛЬ", "пароль"),
            ("*Secret*", "DB_SECRET_v2"),
            ("é*", "École"),
        ] {
            assert!(glob(text, true).matches(key), "{text} {key}");
            assert!(!glob(text, false).matches(key), "{text} {key}");
        }
        assert_eq!(glob("X-Api", true).literal(), Some("X-Api"));
        assert_eq!(glob("X-*", true).literal(), None);
    }

    #[test]
    fn many_stars_take_linear_time() {
        let stars = glob(&format!("{}b", "*a".repeat(500)), false);
        let key = "a".repeat(1 << 20);
        let start = std::time::Instant::now();
        assert!(!stars.matches(&key));
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn a_glob_matches_what_its_regular_expression_does(
            parts in prop::collection::vec("[abA]{1,2}", 1..4),
            ends in any::<(bool, bool)>(),
            key in "[abA]{0,8}",
            ignore_case in any::<bool>(),
        ) {
            let star = |is_there| if is_there { "*" } else { "" };
            let text = format!("{}{}{}", star(ends.0), parts.join("*"), star(ends.1));
            let flags = if ignore_case { "(?i)" } else { "" };
            let expression = format!("{flags}^{}$", text.replace('*', ".*"));
            let expression = regex::Regex::new(&expression).expect("valid");
            prop_assert_eq!(glob(&text, ignore_case).matches(&key), expression.is_match(&key));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in r#"[a/.~01$*\[\]"'\\é-]{0,12}"#) {
            if let Err(fault) = Path::parse(&text, false) {
                prop_assert!(!fault.message.is_empty());
            }
        }
    }
}
