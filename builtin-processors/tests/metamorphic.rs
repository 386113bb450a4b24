//! What a rule does to an event does not depend on how the event was written.
//!
//! Each example of each detector, and a set of patterns with a text that each finds, goes through
//! writers of JSON, JSON inside a text of JSON, percent-encoding and codes of terminals. What comes
//! out, decoded, must equal what the rule makes of the plain text. All actions that leave something
//! are run; `hash` shows that a value has one hash, however it was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde_json::{Value, json};
use streamgate_processors::{
    Redact,
    detectors::{self, Finder},
};

#[path = "harness/mod.rs"]
mod harness;

/// How a program writes JSON.
struct Writer {
    name: &'static str,
    comma: &'static str,
    colon: &'static str,
    /// Writes a character of a key or a text.
    escape: fn(char, &mut String),
}

const WRITERS: [Writer; 9] = [
    Writer {
        name: "plain",
        comma: ",",
        colon: ":",
        escape: escape_least,
    },
    Writer {
        name: "PHP",
        comma: ",",
        colon: ":",
        escape: |c, out| match c {
            '/' => out.push_str("\\/"),
            _ if !c.is_ascii() => escape_units(c, false, out),
            _ => escape_least(c, out),
        },
    },
    Writer {
        name: "Go",
        comma: ",",
        colon: ":",
        escape: |c, out| match c {
            '&' | '<' | '>' | '\u{2028}' | '\u{2029}' => escape_units(c, false, out),
            _ => escape_least(c, out),
        },
    },
    Writer {
        name: ".NET",
        comma: ",",
        colon: ":",
        escape: |c, out| match c {
            '"' | '+' | '&' | '\'' | '<' | '>' | '`' => escape_units(c, true, out),
            _ if !c.is_ascii() => escape_units(c, true, out),
            _ => escape_least(c, out),
        },
    },
    Writer {
        name: "Gson",
        comma: ",",
        colon: ":",
        escape: |c, out| match c {
            '=' | '\'' | '&' | '<' | '>' | '\u{2028}' | '\u{2029}' => escape_units(c, false, out),
            _ => escape_least(c, out),
        },
    },
    Writer {
        name: "Jackson",
        comma: ",",
        colon: ":",
        escape: |c, out| match c.is_ascii() {
            true => escape_least(c, out),
            false => escape_units(c, true, out),
        },
    },
    Writer {
        name: "Python",
        comma: ", ",
        colon: ": ",
        escape: |c, out| match c.is_ascii() {
            true => escape_least(c, out),
            false => escape_units(c, false, out),
        },
    },
    Writer {
        name: "all escaped",
        comma: ",",
        colon: ":",
        escape: |c, out| escape_units(c, false, out),
    },
    Writer {
        name: "all escaped, upper case",
        comma: " , ",
        colon: " : ",
        escape: |c, out| escape_units(c, true, out),
    },
];

/// Escapes only what JSON asks for.
fn escape_least(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        _ if c < ' ' => escape_units(c, false, out),
        _ => out.push(c),
    }
}

/// Escapes by UTF-16 units: one, or a surrogate pair.
fn escape_units(c: char, upper: bool, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let written = match upper {
            true => write!(out, "\\u{unit:04X}"),
            false => write!(out, "\\u{unit:04x}"),
        };
        written.expect("a string takes all that is written to it");
    }
}

impl Writer {
    fn write(&self, value: &Value) -> String {
        let joined = |parts: Vec<String>| parts.join(self.comma);
        match value {
            Value::String(text) => {
                let mut out = String::from("\"");
                text.chars().for_each(|c| (self.escape)(c, &mut out));
                out + "\""
            }
            Value::Array(list) => {
                format!(
                    "[{}]",
                    joined(list.iter().map(|one| self.write(one)).collect())
                )
            }
            Value::Object(members) => {
                let member = |(key, value): (&String, &Value)| {
                    self.write(&key.as_str().into()) + self.colon + &self.write(value)
                };
                format!("{{{}}}", joined(members.iter().map(member).collect()))
            }
            other => other.to_string(),
        }
    }
}

/// What is found in a text, and by which rule.
struct Sample {
    /// The detector or the pattern.
    target: String,
    params: Value,
    /// Whether the rule is about a field, so that it has no plain text without JSON.
    by_field: bool,
    text: String,
    /// The sensitive parts of the text.
    hidden: Vec<String>,
    /// Where the first of them begins and ends.
    first: std::ops::Range<usize>,
}

fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for detector in detectors::all() {
        let finder = Finder::build(detector).expect("compiles");
        for example in detector.examples {
            let found = finder.find_all(example.as_bytes());
            samples.push(Sample {
                target: detector.name.to_owned(),
                params: json!({"detectors": [detector.name]}),
                by_field: false,
                text: (*example).to_owned(),
                hidden: found
                    .iter()
                    .map(|range| example[range.clone()].to_owned())
                    .collect(),
                first: found[0].clone(),
            });
        }
    }
    for (pattern, text, hidden, by_field) in [
        (
            r"\b\d{3}-\d{2}-\d{4}\b",
            "id\t528-41-7093\n",
            "528-41-7093",
            false,
        ),
        (
            r"\b\d{3}-\d{2}-\d{4}\b",
            "id 528-41-7093 ok",
            "528-41-7093",
            false,
        ),
        ("Krüger", "von Krüger hier", "Krüger", false),
        (r"🔑\w+", "use 🔑tango7 now", "🔑tango7", false),
        (
            r"/accounts/\w+",
            "GET /accounts/q7Zr11 200",
            "/accounts/q7Zr11",
            false,
        ),
        (r"\tname", "a\tname b", "\tname", false),
        (
            r"token=\S+",
            "refresh token=k1+x/y now",
            "token=k1+x/y",
            false,
        ),
        (r"secret\s+\S+", "a secret\nb7x9", "secret\nb7x9", false),
        (r"[A-ZÀ-Þ]{2}\d{6}", "Paß ÄB123456.", "ÄB123456", false),
        (r"(?i)ключ=\w+", "КЛЮЧ=тополь7 ok", "КЛЮЧ=тополь7", false),
        (
            r"<[^<>@]+@[^<>]+>",
            "from <mira@quill.example> ok",
            "<mira@quill.example>",
            false,
        ),
        (r"'[^']{4,}'", "it 'quill7' there", "'quill7'", false),
        (r"\d+\.\d{2} ?€", "pay 12.50 € now", "12.50 €", false),
        (r"pin\W+\d{4}", "the pin: 4711.", "pin: 4711", false),
        (r"\+\d{2}/\d+", "tel +49/30123456", "+49/30123456", false),
        (r"\w+\\\w+", r"by CORP\mira7 ok", r"CORP\mira7", false),
        (
            r#"say "[^"]+""#,
            r#"say "quill 7", he"#,
            r#"say "quill 7""#,
            false,
        ),
        (r"^\d{6}$", "481516", "481516", true),
        (r"\S+$", "ends with quill7", "quill7", true),
        (r"^.+@", "mira@host", "mira@", true),
    ] {
        let start = text.find(hidden).expect("is in the text");
        let mut params = json!({"pattern": pattern});
        if by_field {
            params["fields"] = json!(["**/m"]);
        }
        samples.push(Sample {
            target: pattern.to_owned(),
            params,
            by_field,
            text: text.to_owned(),
            hidden: vec![hidden.to_owned()],
            first: start..start + hidden.len(),
        });
    }
    samples
}

impl Sample {
    /// Builds the rule with each action that leaves something in place of a match.
    fn rules(&self) -> Vec<(&'static str, Redact)> {
        let actions = [
            ("replace", json!({})),
            ("mask", json!({"action": "mask", "keep_last": 2})),
            (
                "hash",
                json!({"action": "hash", "key": harness::KEY, "key_id": "k1"}),
            ),
        ];
        let build = |(action, more): (&'static str, Value)| {
            let mut params = self.params.clone();
            for (name, value) in more.as_object().expect("an object") {
                params[name] = value.clone();
            }
            let rule = harness::build(&params);
            (
                action,
                rule.unwrap_or_else(|error| panic!("{}: {error}", self.target)),
            )
        };
        actions.map(build).into()
    }

    /// Divides the text at its sign: the key, and the value with what stands before it.
    fn key_and_value(&self) -> Option<(&str, &str)> {
        let before = &self.text[..self.first.start];
        let sign = before.rfind([':', '='])?;
        let key = before[..sign].trim_matches(['"', '{', ' ']);
        let value = self.text[sign + 1..].trim_matches(['"', '}', ' ']);
        let is_key = !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_alphanumeric() || " _-.".contains(c))
            && !value.contains('"')
            && !value.starts_with("//");
        is_key.then_some((key, value))
    }
}

/// A run that differs from the plain text.
struct Miss {
    target: String,
    action: &'static str,
    fault: String,
}

/// What is wrong, by the way the event was written.
#[derive(Default)]
struct Report {
    runs: usize,
    misses: BTreeMap<String, Vec<Miss>>,
}

impl Report {
    fn compare(
        &mut self,
        way: &str,
        sample: &Sample,
        action: &'static str,
        event: &str,
        result: Result<(), String>,
    ) {
        self.runs += 1;
        if let Err(fault) = result {
            self.misses.entry(way.to_owned()).or_default().push(Miss {
                target: sample.target.clone(),
                action,
                fault: format!("{fault}\n    in       {event}"),
            });
        }
    }

    /// Fails with one table of all ways, and an example of each.
    fn finish(self) {
        if self.misses.is_empty() {
            return;
        }
        let count: usize = self.misses.values().map(Vec::len).sum();
        let mut text = format!("{count} of {} runs differ from the plain text\n", self.runs);
        for (way, misses) in &self.misses {
            let targets: BTreeSet<&str> = misses.iter().map(|miss| &*miss.target).collect();
            let shown: Vec<&str> = targets.iter().take(8).copied().collect();
            let more = match targets.len() - shown.len() {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let Miss {
                target,
                action,
                fault,
            } = &misses[0];
            let _ = writeln!(
                text,
                "\n{way}: {} misses: {}{more}\n  for {target} ({action}):\n    {fault}",
                misses.len(),
                shown.join(", ")
            );
        }
        panic!("{text}");
    }
}

fn run(redact: &mut Redact, event: &str) -> String {
    let out = harness::run(redact, format!("{event}\n").as_bytes());
    let out = String::from_utf8_lossy(&out).into_owned();
    out.strip_suffix('\n').unwrap_or(&out).to_owned()
}

fn same<T: PartialEq + std::fmt::Display>(got: &T, expected: &T, out: &str) -> Result<(), String> {
    match got == expected {
        true => Ok(()),
        false => Err(format!(
            "expected {expected}\n    got      {got}\n    written  {out}"
        )),
    }
}

fn parsed(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error}\n    written  {text}"))
}

/// Parses a text of JSON, and again the member `log` of what it holds, so many times.
fn unnested(text: &str, levels: usize) -> Result<Value, String> {
    let mut value = parsed(text)?;
    for _ in 0..levels {
        let inner = value["log"]
            .as_str()
            .ok_or_else(|| format!("no `log` in {text}"))?;
        value = parsed(inner)?;
    }
    Ok(value)
}

/// Returns what the rule makes of the text where nothing is encoded, and checks that it is hidden.
fn plain(sample: &Sample, redact: &mut Redact) -> Result<String, String> {
    let out = match sample.by_field || sample.text.contains(['\n', '\t']) {
        false => run(redact, &sample.text),
        // A text that no line can hold, or that has no fields.
        true => {
            let event = json!({"m": sample.text}).to_string();
            let out = parsed(&run(redact, &event))?;
            out["m"]
                .as_str()
                .map(str::to_owned)
                .ok_or("`m` is no text")?
        }
    };
    match sample.hidden.iter().find(|hidden| out.contains(&***hidden)) {
        Some(hidden) => Err(format!("`{hidden}` is left in {out}")),
        None => Ok(out),
    }
}

#[test]
fn writers_of_json_change_nothing() {
    let mut report = Report::default();
    for sample in samples() {
        for (action, mut redact) in sample.rules() {
            let text = match plain(&sample, &mut redact) {
                Ok(text) => text,
                Err(fault) => {
                    report.compare("plain text", &sample, action, &sample.text, Err(fault));
                    continue;
                }
            };
            let mut shapes = vec![(
                "value",
                json!({"m": sample.text, "n": 7}),
                json!({"m": text, "n": 7}),
            )];
            // An array is a field as a whole, the number in it too.
            if !sample.by_field {
                shapes.push((
                    "element",
                    json!({"m": [1, sample.text]}),
                    json!({"m": [1, text]}),
                ));
                let (before, after) = ([&*sample.text], [&*text]);
                let of = |[key]: [&str; 1]| {
                    Value::Object([(key.to_owned(), 7.into())].into_iter().collect())
                };
                shapes.push(("key", of(before), of(after)));
            }
            if let Some((key, value)) = sample.key_and_value() {
                let event = json!({key: value, "n": 7});
                let out = run(&mut redact, &event.to_string());
                let is_hidden = !sample.hidden.iter().any(|hidden| out.contains(&**hidden));
                match parsed(&out) {
                    Ok(expected) if is_hidden => shapes.push(("key and value", event, expected)),
                    _ => {
                        let way = "plain, key and value";
                        report.compare(way, &sample, action, &event.to_string(), Err(out));
                    }
                }
            }
            for (shape, event, expected) in shapes {
                for (at, writer) in WRITERS.iter().enumerate() {
                    let written = writer.write(&event);
                    let out = run(&mut redact, &written);
                    let result = parsed(&out).and_then(|got| same(&got, &expected, &out));
                    let way = format!("{}, {shape}", writer.name);
                    report.compare(&way, &sample, action, &written, result);
                    // Each level by the same writer, and by the next one.
                    for step in [0, 1] {
                        let mut written = written.clone();
                        for level in 1..=3 {
                            let writer = &WRITERS[(at + step * level) % WRITERS.len()];
                            written = writer.write(&json!({"log": written, "n": level}));
                            let out = run(&mut redact, &written);
                            let got = unnested(&out, level);
                            let result = got.and_then(|got| same(&got, &expected, &out));
                            let mixed = if step == 0 { "" } else { ", mixed writers" };
                            let way = format!("{}, {shape}, {level} deep{mixed}", WRITERS[at].name);
                            report.compare(&way, &sample, action, &written, result);
                        }
                    }
                }
            }
        }
    }
    report.finish();
}

/// Encodes all but letters, digits and the marks that RFC 3986 reserves for nothing.
fn percent_encoded(text: &str, upper: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let written = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
                continue;
            }
            _ if upper => write!(out, "%{byte:02X}"),
            _ => write!(out, "%{byte:02x}"),
        };
        written.expect("a string takes all that is written to it");
    }
    out
}

fn percent_decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn percent_encoding_changes_nothing() {
    let mut report = Report::default();
    for sample in samples() {
        if sample.by_field || sample.text.contains(['\n', '\t', '%']) {
            continue;
        }
        for (action, mut redact) in sample.rules() {
            let text = match plain(&sample, &mut redact) {
                Ok(text) => text,
                Err(fault) => {
                    report.compare("plain text", &sample, action, &sample.text, Err(fault));
                    continue;
                }
            };
            for (way, times, upper) in [
                ("once", 1, true),
                ("once, lower case", 1, false),
                ("twice", 2, true),
            ] {
                let encoded =
                    (0..times).fold(sample.text.clone(), |text, _| percent_encoded(&text, upper));
                let decoded =
                    |text: &str| (0..times).fold(text.to_owned(), |text, _| percent_decoded(&text));
                for (before, behind) in [("q=", ""), ("GET /a%20b?q=", "&lang=de HTTP/1.1")] {
                    let event = [before, &encoded, behind].concat();
                    let out = run(&mut redact, &event);
                    // The other parameters stay byte for byte.
                    let inner = out
                        .strip_prefix(before)
                        .and_then(|out| out.strip_suffix(behind));
                    let inner = inner.ok_or_else(|| format!("the rest changed: {out}"));
                    let result = inner.and_then(|inner| same(&decoded(inner), &text, &out));
                    report.compare(way, &sample, action, &event, result);
                }
                let event = json!({"url": format!("/x?q={encoded}&n=1"), "n": 1}).to_string();
                let out = run(&mut redact, &event);
                let result = parsed(&out).and_then(|got| {
                    let url = got["url"].as_str().unwrap_or_default();
                    let inner = url
                        .strip_prefix("/x?q=")
                        .and_then(|url| url.strip_suffix("&n=1"));
                    let inner = inner.ok_or_else(|| format!("the rest changed: {out}"))?;
                    same(&decoded(inner), &text, &out)
                });
                report.compare(&format!("{way}, in JSON"), &sample, action, &event, result);
                let json = json!({"m": sample.text, "n": 1}).to_string();
                let encoded = (0..times).fold(json, |text, _| percent_encoded(&text, upper));
                let event = format!("form={encoded}&n=1");
                let out = run(&mut redact, &event);
                let inner = out
                    .strip_prefix("form=")
                    .and_then(|out| out.strip_suffix("&n=1"));
                let inner = inner.ok_or_else(|| format!("the rest changed: {out}"));
                let result = inner.and_then(|inner| {
                    let got = parsed(&decoded(inner))?;
                    same(&got, &json!({"m": text, "n": 1}), &out)
                });
                report.compare(
                    &format!("{way}, around JSON"),
                    &sample,
                    action,
                    &event,
                    result,
                );
            }
        }
    }
    report.finish();
}

/// Codes of terminals: colours, styles, others, and a link.
const CODES: [&str; 5] = [
    "\u{1b}[33m",
    "\u{1b}[1;38;5;214m",
    "\u{1b}[K",
    "\u{1b}[2K\u{1b}[1G",
    "\u{1b}]8;;http://a.example\u{1b}\\",
];

/// Divides a text into the codes in it and the rest.
fn without_codes(text: &str) -> (String, Vec<String>) {
    let codes = regex::Regex::new("\u{1b}\\[[0-9;]*[A-Za-z]|\u{1b}\\]8;;[^\u{1b}]*\u{1b}\\\\")
        .expect("valid");
    let found = codes
        .find_iter(text)
        .map(|code| code.as_str().to_owned())
        .collect();
    (codes.replace_all(text, "").into_owned(), found)
}

#[test]
fn codes_of_terminals_change_nothing() {
    let mut report = Report::default();
    for sample in samples() {
        if sample.by_field || sample.text.contains(['\n', '\t']) {
            continue;
        }
        let (start, end) = (sample.first.start, sample.first.end);
        let sign = sample.text[..start].rfind(['=', ':']);
        let mut places = vec![
            ("before and behind the event", vec![0, sample.text.len()]),
            ("before and behind the value", vec![start, end]),
        ];
        if let Some(sign) = sign {
            places.push(("before the sign", vec![sign]));
            places.push(("behind the sign", vec![sign + 1]));
            places.push(("at every joint", vec![0, sign, sign + 1, start, end]));
        }
        for (action, mut redact) in sample.rules() {
            let text = match plain(&sample, &mut redact) {
                Ok(text) => text,
                Err(fault) => {
                    report.compare("plain text", &sample, action, &sample.text, Err(fault));
                    continue;
                }
            };
            for (place, offsets) in &places {
                for code in CODES {
                    let mut event = sample.text.clone();
                    for &offset in offsets.iter().rev() {
                        event.insert_str(offset, code);
                    }
                    let codes = without_codes(&event).1;
                    let check = |out: &str| {
                        let (rest, left) = without_codes(out);
                        same(&rest, &text, out)?;
                        // A code between two parts of one match goes with it.
                        let is_inside = offsets.iter().any(|&at| start < at && at < end);
                        match left == codes || is_inside {
                            true => Ok(()),
                            false => Err(format!("codes are missing in {out}")),
                        }
                    };
                    let out = run(&mut redact, &event);
                    report.compare(
                        place,
                        &sample,
                        action,
                        &event.escape_debug().to_string(),
                        check(&out),
                    );
                    let event = json!({"m": event, "n": 1}).to_string();
                    let out = run(&mut redact, &event);
                    let result =
                        parsed(&out).and_then(|got| check(got["m"].as_str().unwrap_or_default()));
                    report.compare(
                        &format!("{place}, in JSON"),
                        &sample,
                        action,
                        &event,
                        result,
                    );
                }
            }
        }
    }
    report.finish();
}
