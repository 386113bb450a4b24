//! Measures what it costs to read the text of events: rules over events without, with some and with
//! only encoded text. `cargo bench -p streamgate-processors --bench text`; with a word behind it,
//! only the rows that have it in their name.
//!
//! Then each detector, and some rules, get single events of 256 KiB that are one piece again and
//! again, which makes a search, a check or a decoder begin anew all the time; the slowest are
//! shown.
//!
//! One core, batches of 256 KiB of lines of about 200 bytes, 16 different ones in turn; filling
//! them is not timed. Times are the best of several rounds. To compare two versions, build both and
//! run them in turn.

use std::{
    hint::black_box,
    io::{Write, stdout},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, OnError, detectors};

const BLOCK_BYTES: usize = 256 * 1024;
const BLOCKS: usize = 16;
const LONG_BYTES: usize = 256 * 1024;
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(100);

/// Events of one kind.
struct Stream {
    name: &'static str,
    blocks: Vec<Vec<u8>>,
    events: usize,
}

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    let streams = [
        stream("plain text", 0, plain),
        stream("plain text, 5 % with a find", 5, plain),
        stream("JSON, 5 % with a find", 5, found_in_json),
        stream("JSON without escapes", 0, json_line),
        stream("JSON, 20 % with escapes", 20, json_line),
        stream("JSON, all with escapes", 100, json_line),
        stream("URLs, all percent-encoded", 100, url_line),
    ];
    let five = ["credit_card", "email", "us_ssn", "ipv4", "phone"];
    let rules = [
        (
            "one pattern",
            "redact",
            json!({"pattern": r"\d{3}-\d{2}-\d{4}"}),
        ),
        ("five detectors", "redact", json!({"detectors": five})),
        ("password", "redact", json!({"detectors": ["password"]})),
        ("a keyword", "filter", json!({"value": "DEBUG"})),
        (
            "an attribute",
            "attribute_filter",
            json!({"attribute": "level", "operator": "equals", "value": "DEBUG"}),
        ),
    ];
    for stream in &streams {
        for (rule, kind, params) in &rules {
            let name = format!("{}, {rule}", stream.name);
            if name.contains(&wanted) {
                let time = measure(stream, kind, params);
                writeln!(stdout(), "{name:60} {time:8.1} ns an event").expect("can write");
            }
        }
    }
    long_events(&wanted);
}

/// Pieces that are hard on a lexer, a decoder or a check.
const PIECES: [&str; 28] = [
    "\\t1",
    "\\\"",
    "\\u0022",
    "{\"a\":",
    "{\"a\":\"{",
    "[{\"",
    "{}",
    "{\\\"a\\\":",
    "%25",
    "%7B%22a%22%3A",
    "a%20b&c=+",
    "\u{1b}[1;",
    "\u{1b}]8;;a",
    "password=",
    "\"password\":\"",
    "-----BEGIN PRIVATE KEY-----",
    "ssn 1",
    "1 ",
    "4111 1111 1111 1111 ",
    "a@",
    "1.",
    "a:",
    "eyJ",
    "eyJ.",
    "@",
    "DE",
    "AKIA",
    "Cookie: a=b;",
];

fn long_events(wanted: &str) {
    let mut rules: Vec<(String, Value)> = detectors::all()
        .iter()
        .map(|one| (one.name.to_owned(), json!({"detectors": [one.name]})))
        .collect();
    rules.push(("`\\d`".to_owned(), json!({"pattern": r"\d"})));
    rules.push(("`\\S+`".to_owned(), json!({"pattern": r"\S+"})));
    let by_field = json!({"pattern": "(?s).+", "fields": ["**/a", "b/*/c", "x[*]"]});
    rules.push(("`(?s).+` in fields".to_owned(), by_field));
    let mut times = Vec::new();
    for (name, params) in &rules {
        let name = format!("long events, {name}");
        if !name.contains(wanted) {
            continue;
        }
        let params = params.as_object().expect("an object");
        let mut rule = Builtin::build("redact", params, OnError::Mask).expect("valid");
        for piece in PIECES {
            let text = piece.repeat(LONG_BYTES / piece.len());
            for (shape, event) in [
                ("alone", text.clone()),
                ("in a text", json!({"password": text}).to_string()),
            ] {
                let mut best = Duration::MAX;
                for _ in 0..2 {
                    let mut batch = Batch::from_lines(event.as_str());
                    let begun = Instant::now();
                    black_box(rule.process(&mut batch));
                    best = best.min(begun.elapsed());
                }
                times.push((best, format!("{name}, {}, {shape}", piece.escape_debug())));
            }
        }
    }
    times.sort_unstable_by(|a, b| b.cmp(a));
    for (time, name) in times.iter().take(8) {
        writeln!(stdout(), "{name:60} {time:8.1?}").expect("can write");
    }
}

fn measure(stream: &Stream, kind: &str, params: &Value) -> f64 {
    let params = params.as_object().expect("an object");
    let mut rule = Builtin::build(kind, params, OnError::Mask).expect("valid");
    let mut batch = Batch::new(vec![0; BLOCK_BYTES + 1024]);
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let (mut spent, mut events) = (Duration::ZERO, 0);
        while spent < ROUND {
            for block in &stream.blocks {
                batch.buffer_mut()[..block.len()].copy_from_slice(block);
                batch.set_filled(block.len());
                let begun = Instant::now();
                black_box(rule.process(&mut batch));
                spent += begun.elapsed();
                batch.clear();
            }
            events += stream.events;
        }
        best = best.min(spent.as_secs_f64() * 1e9 / f64::from(u32::try_from(events).expect("few")));
    }
    best
}

fn stream(
    name: &'static str,
    percent: u32,
    line: fn(&mut fastrand::Rng, bool) -> String,
) -> Stream {
    let mut random = fastrand::Rng::with_seed(7);
    let mut events = 0;
    let blocks = (0..BLOCKS)
        .map(|_| {
            let mut block = Vec::new();
            loop {
                let encoded = random.u32(..100) < percent;
                let line = line(&mut random, encoded);
                if block.len() + line.len() + 1 > BLOCK_BYTES {
                    return block;
                }
                block.extend_from_slice(line.as_bytes());
                block.push(b'\n');
                events += 1;
            }
        })
        .collect();
    Stream {
        name,
        blocks,
        events,
    }
}

fn number(random: &mut fastrand::Rng) -> u32 {
    random.u32(10_000..99_999)
}

const FIND: &str = "536-22-8741";

fn plain(random: &mut fastrand::Rng, has_find: bool) -> String {
    format!(
        "2026-11-28T09:14:02.{}Z INFO checkout worker-{} accepted the order {} of tenant {} after {} us, \
         queue depth {}, retries {}, cache hit, region eu-central, shard {}, ok {}",
        number(random),
        number(random) % 16,
        number(random),
        number(random) % 999,
        number(random),
        number(random) % 64,
        number(random) % 3,
        number(random) % 128,
        if has_find { FIND } else { "" },
    )
}

fn json_line(random: &mut fastrand::Rng, encoded: bool) -> String {
    let message = match (encoded, random.u8(..3)) {
        (false, _) => "order accepted by the payment service, cache hit, no retries",
        (true, 0) => r#"order accepted by \"payment\", said:\n\tno retries, cache hit"#,
        (true, 1) => r"GET https:\/\/shop.example\/orders\/accepted took a moment, hit",
        (true, _) => r"caf\u00e9 \u003corder\u003e accepted by the payment service, hit",
    };
    format!(
        "{{\"time\":\"2026-11-28T09:14:02.{}Z\",\"level\":\"INFO\",\"service\":\"checkout\",\"message\":\
         \"{message}\",\"order\":{},\"us\":{},\"ok\":true}}",
        number(random),
        number(random),
        number(random)
    )
}

fn found_in_json(random: &mut fastrand::Rng, has_find: bool) -> String {
    let line = json_line(random, false);
    match has_find {
        true => line.replace("cache hit", FIND),
        false => line,
    }
}

fn url_line(random: &mut fastrand::Rng, _: bool) -> String {
    format!(
        "192.0.2.{} - - [28/Nov/2026:09:14:02 +0000] \"GET /search?q=blue%20jeans%2Fslim&page={}&ref=\
         https%3A%2F%2Fshop.example%2Fsale HTTP/1.1\" 200 {} \"-\" \"Mozilla/5.0 (X11)\"",
        number(random) % 250,
        number(random) % 40,
        number(random)
    )
}
