//! Measures the rules alone, against what one would write without them. `cargo bench -p
//! streamgate-processors`; with a word behind it (`-- five`), only the rows that have it in their name;
//! with `-- --blocks DIR`, the lines of the five go to files there, for `hyperscan/run`.
//!
//! One core, batches of 256 KiB of 200-byte lines, 16 different ones in turn; filling them is not timed.
//! Every contender's output is compared with the others' before any time counts. Times are the best of
//! several rounds, which is what the code costs when nothing else runs.

use std::{
    borrow::Cow,
    hint::black_box,
    io::{Write, stdout},
    time::{Duration, Instant},
};

use regex_automata::meta;
use serde_json::{Value, json};
use streamgate_guest::{Batch, Processor, Tally};
use streamgate_processors::{Builtin, Filter, OnError, Redact, detectors};

const LINE_BYTES: usize = 200;
const BLOCK_BYTES: usize = 256 * 1024;
const BLOCKS: usize = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(150);

/// The name of a detector, a plain pattern, and what both find.
const PII: [(&str, &str, &str); 5] = [
    (
        "credit_card",
        r"\d{4}[- ]\d{4}[- ]\d{4}[- ]\d{4}",
        "card 4012-8888-8888-1881",
    ),
    (
        "email",
        r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}",
        "mail jane.doe@example.org",
    ),
    ("us_ssn", r"\d{3}-\d{2}-\d{4}", "ssn 536-22-1847"),
    (
        "ipv4",
        r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
        "client 192.0.2.174",
    ),
    ("phone", r"\(\d{3}\) \d{3}-\d{4}", "phone (415) 555-0143"),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if let Some(folder) = arguments
        .position(|argument| argument == "--blocks")
        .and_then(|at| std::env::args().nth(at + 2))
    {
        for percent in [0, 5, 20] {
            let path = std::path::Path::new(&folder).join(format!("five-{percent:02}-percent"));
            std::fs::write(path, blocks_of_five(percent).concat()).expect("can write");
        }
        return;
    }
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut bench = Bench {
        wanted: wanted.unwrap_or_default(),
    };
    bench.five();
    bench.all_detectors();
    bench.many_patterns();
    bench.filters();
}

struct Bench {
    wanted: String,
}

impl Bench {
    /// The five as patterns, in the words of the whole-process benchmark, and as detectors.
    fn five(&mut self) {
        for percent in [0, 5, 20] {
            let name = |what: &str| format!("five, {percent} % of lines, {what}");
            let blocks = blocks_of_five(percent);
            let names = PII.map(|(name, ..)| name);
            let patterns = PII.map(|(_, pattern, _)| pattern);
            let mut detectors = redact(&json!({"detectors": names}));
            let mut ours =
                Redact::fuse(&patterns.map(|pattern| redact(&json!({"pattern": pattern}))));
            let mut per_line = PerLine::new(&patterns);
            let mut whole = Whole::new(&patterns);
            let expected: Vec<Vec<u8>> = blocks
                .iter()
                .map(|block| per_line.run(block).to_vec())
                .collect();
            check(
                "one regex",
                &expected,
                blocks.iter().map(|block| whole.run(block).to_vec()),
            );
            check(
                "patterns",
                &expected,
                blocks.iter().map(|block| run(&mut ours, block)),
            );
            check(
                "detectors",
                &expected,
                blocks.iter().map(|block| run(&mut detectors, block)),
            );
            self.time(&name("five regexes a line"), &blocks, |block| {
                _ = per_line.run(block)
            });
            self.time(&name("one fused regex"), &blocks, |block| {
                _ = whole.run(block)
            });
            self.time_processor(&name("five rules"), &blocks, &mut ours);
            self.time_processor(&name("one rule of five detectors"), &blocks, &mut detectors);
        }
    }

    /// One rule of the whole catalogue, and how long it takes to build.
    fn all_detectors(&mut self) {
        let names: Vec<&str> = detectors::all()
            .iter()
            .map(|detector| detector.name)
            .collect();
        let count = names.len();
        if !format!("{count} detectors").contains(&self.wanted) {
            return;
        }
        let begun = Instant::now();
        let mut one = redact(&json!({"detectors": names}));
        let built = begun.elapsed();
        writeln!(
            stdout(),
            "{count} detectors in one rule are built in {built:.1?}"
        )
        .expect("can print");
        let mut apart: Vec<Redact> = names
            .iter()
            .map(|name| redact(&json!({"detectors": [name]})))
            .collect();
        for percent in [0, 5] {
            let blocks = blocks_of_five(percent);
            let one_by_one = |block: &Vec<u8>| {
                let mut batch = Batch::from_lines(block.clone());
                for rule in &mut apart {
                    rule.process(&mut batch);
                }
                batch.slices().collect::<Vec<_>>().concat()
            };
            let expected: Vec<Vec<u8>> = blocks.iter().map(one_by_one).collect();
            let found = blocks.iter().map(|block| run(&mut one, block));
            check("all detectors", &expected, found);
            self.time_processor(
                &format!("{count} detectors, {percent} % of lines"),
                &blocks,
                &mut one,
            );
        }
    }

    fn many_patterns(&mut self) {
        for percent in [0, 5] {
            let patterns = hundred_patterns();
            let blocks = blocks(percent, |n| patterns[n % 5].1.clone());
            for count in [1, 5, 20, 100] {
                let rules =
                    patterns[..count].map_each(|(pattern, _)| redact(&json!({"pattern": pattern})));
                let mut fused = Redact::fuse(&rules);
                let mut rules = rules;
                let one_by_one = |block: &Vec<u8>| {
                    let mut batch = Batch::from_lines(block.clone());
                    for rule in &mut rules {
                        rule.process(&mut batch);
                    }
                    batch.slices().collect::<Vec<_>>().concat()
                };
                let expected: Vec<Vec<u8>> = blocks.iter().map(one_by_one).collect();
                check(
                    "fused",
                    &expected,
                    blocks.iter().map(|block| run(&mut fused, block)),
                );
                let name = format!("{count} patterns, {percent} % of lines");
                self.time_processor(&name, &blocks, &mut fused);
            }
        }
    }

    fn filters(&mut self) {
        for percent in [0, 20] {
            let words = keywords();
            let blocks = blocks(percent, |n| words[(n * 7) % 10 * 100].clone());
            // All words that occur are among the 10 first here.
            let some: Vec<String> = (0..10).map(|n| words[n * 100].clone()).collect();
            let mut ten = filter(&json!({"values": some}));
            let mut thousand = filter(&json!({"values": words}));
            let expected: Vec<Vec<u8>> = blocks.iter().map(|block| run(&mut ten, block)).collect();
            check(
                "1000",
                &expected,
                blocks.iter().map(|block| run(&mut thousand, block)),
            );
            let mut one = filter(&json!({"value": "DEBUG"}));
            let debug = debug_blocks(percent);
            self.time_processor(
                &format!("filter, 1 keyword, drops {percent} %"),
                &debug,
                &mut one,
            );
            self.time_processor(
                &format!("filter, 10 keywords, drops {percent} %"),
                &blocks,
                &mut ten,
            );
            self.time_processor(
                &format!("filter, 1000 keywords, drops {percent} %"),
                &blocks,
                &mut thousand,
            );
        }
    }

    fn time_processor(&mut self, name: &str, blocks: &[Vec<u8>], processor: &mut impl Processor) {
        let mut batch = Batch::new(vec![0; BLOCK_BYTES]);
        let mut tally = Tally::default();
        self.time_parts(name, blocks, |block| {
            batch.buffer_mut()[..block.len()].copy_from_slice(block);
            batch.set_filled(block.len());
            let begun = Instant::now();
            tally = processor.process(&mut batch);
            begun.elapsed()
        });
        black_box(tally);
    }

    fn time(&mut self, name: &str, blocks: &[Vec<u8>], mut run: impl FnMut(&[u8])) {
        self.time_parts(name, blocks, |block| {
            let begun = Instant::now();
            run(block);
            begun.elapsed()
        });
    }

    /// Prints the best time of some rounds; `run` says what of its time counts.
    fn time_parts(
        &mut self,
        name: &str,
        blocks: &[Vec<u8>],
        mut run: impl FnMut(&[u8]) -> Duration,
    ) {
        if !name.contains(&self.wanted) {
            return;
        }
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (mut spent, mut lines) = (Duration::ZERO, 0_u32);
            while spent < ROUND {
                for block in blocks {
                    spent += run(block);
                    lines += u32::try_from(block.len() / LINE_BYTES).expect("is small");
                }
            }
            best = best.min(spent.as_secs_f64() * 1e9 / f64::from(lines));
        }
        let speed = f64::from(u32::try_from(LINE_BYTES).expect("is small")) / best;
        writeln!(stdout(), "{name:<58} {best:>8.1} ns/line {speed:>7.2} GB/s").expect("can print");
    }
}

/// The way of the textbook: each line, each regex.
struct PerLine {
    regexes: Vec<regex::bytes::Regex>,
    out: Vec<u8>,
}

impl PerLine {
    fn new(patterns: &[&str]) -> Self {
        Self {
            regexes: patterns
                .map_each(|pattern| regex::bytes::Regex::new(pattern).expect("compiles")),
            out: Vec::new(),
        }
    }

    fn run(&mut self, block: &[u8]) -> &[u8] {
        self.out.clear();
        for line in block.split_inclusive(|&byte| byte == b'\n') {
            let mut line = Cow::Borrowed(line);
            for regex in &self.regexes {
                let replacement = regex::bytes::NoExpand(b"[REDACTED]");
                if let Cow::Owned(replaced) = regex.replace_all(&line, replacement) {
                    line = Cow::Owned(replaced);
                }
            }
            self.out.extend_from_slice(&line);
        }
        &self.out
    }
}

/// One regex of all patterns over the whole block.
struct Whole {
    regex: meta::Regex,
    out: Vec<u8>,
}

impl Whole {
    fn new(patterns: &[&str]) -> Self {
        Self {
            regex: meta::Regex::new_many(patterns).expect("compiles"),
            out: Vec::new(),
        }
    }

    fn run(&mut self, block: &[u8]) -> &[u8] {
        self.out.clear();
        let mut copied = 0;
        for found in self.regex.find_iter(block) {
            self.out.extend_from_slice(&block[copied..found.start()]);
            self.out.extend_from_slice(b"[REDACTED]");
            copied = found.end();
        }
        self.out.extend_from_slice(&block[copied..]);
        &self.out
    }
}

/// Lines, a share of which has one of the five.
fn blocks_of_five(percent: usize) -> Vec<Vec<u8>> {
    blocks(percent, |n| PII[n % PII.len()].2.to_owned())
}

trait MapEach<T> {
    fn map_each<U>(&self, map: impl FnMut(&T) -> U) -> Vec<U>;
}

impl<T> MapEach<T> for [T] {
    fn map_each<U>(&self, map: impl FnMut(&T) -> U) -> Vec<U> {
        self.iter().map(map).collect()
    }
}

fn redact(params: &Value) -> Redact {
    let params = params.as_object().expect("is an object");
    match Builtin::build("redact", params, OnError::Mask) {
        Ok(Builtin::Redact(redact)) => redact,
        other => panic!("{other:?}"),
    }
}

fn filter(params: &Value) -> Filter {
    let params = params.as_object().expect("is an object");
    match Builtin::build("filter", params, OnError::Pass) {
        Ok(Builtin::Filter(filter)) => filter,
        other => panic!("{other:?}"),
    }
}

fn run(processor: &mut impl Processor, block: &[u8]) -> Vec<u8> {
    let mut batch = Batch::from_lines(block);
    processor.process(&mut batch);
    batch.slices().collect::<Vec<_>>().concat()
}

fn check(what: &str, expected: &[Vec<u8>], found: impl Iterator<Item = Vec<u8>>) {
    for (expected, found) in expected.iter().zip(found) {
        let lines = |block: &[u8]| {
            String::from_utf8_lossy(block)
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for (a, b) in lines(expected).iter().zip(lines(&found)) {
            assert_eq!(*a, b, "{what}");
        }
        assert_eq!(expected.len(), found.len(), "{what}");
    }
}

/// A hundred patterns as users write them, each with a text that it matches.
fn hundred_patterns() -> Vec<(String, String)> {
    let mut patterns = vec![
        (
            r"(?-u)\d{3}-\d{2}-\d{4}".to_owned(),
            "536-22-1847".to_owned(),
        ),
        (
            r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}".to_owned(),
            "jane@example.org".to_owned(),
        ),
        (
            r"(?-u)\b\d{4}[- ]\d{4}[- ]\d{4}[- ]\d{4}\b".to_owned(),
            "4012-8888-8888-1881".to_owned(),
        ),
        (
            r"(?-u)\b\d{1,3}(?:\.\d{1,3}){3}\b".to_owned(),
            "192.0.2.174".to_owned(),
        ),
        (
            r"(?-u)\(\d{3}\) \d{3}-\d{4}".to_owned(),
            "(415) 555-0143".to_owned(),
        ),
    ];
    for n in 0..95_usize {
        let word = pseudo_word(n as u64 * 31 + 5, 4 + n % 5);
        patterns.push(match n % 5 {
            0 => (
                format!(r"{word}_[0-9a-f]{{16}}"),
                format!("{word}_0123456789abcdef"),
            ),
            1 => (format!(r"(?i)x-{word}: *\S+"), format!("X-{word}: abc")),
            2 => (format!(r"\b{word}=[^ ,;]+"), format!("{word}=abc")),
            3 => (
                format!(r"(?-u){}{n:02}-\d{{6}}\b", word.to_uppercase()),
                format!("{}{n:02}-123456", word.to_uppercase()),
            ),
            _ => (
                format!(r#"["']{word}["'] *: *["'][^"']+["']"#),
                format!("\"{word}\": \"abc\""),
            ),
        });
    }
    patterns
}

/// A thousand words that one would not want, such as names of hosts and accounts.
fn keywords() -> Vec<String> {
    (0..1000_usize)
        .map(|n| match n % 4 {
            0 => format!(
                "{}.{}.test",
                pseudo_word(n as u64, 6),
                pseudo_word(n as u64 + 9000, 5)
            ),
            1 => format!("acct-{:06}", n * 7919 % 999_983),
            2 => format!(
                "{}_{}",
                pseudo_word(n as u64, 5),
                pseudo_word(n as u64 + 5000, 4)
            ),
            _ => format!("ERR_{}{:03}", pseudo_word(n as u64, 4).to_uppercase(), n),
        })
        .collect()
}

fn pseudo_word(seed: u64, letters: usize) -> String {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut letter = |set: &[u8]| char::from(set[random.below(set.len())]);
    (0..letters)
        .map(|at| match at % 2 {
            0 => letter(b"bcdfghjklmnpqrstvwxz"),
            _ => letter(b"aeiou"),
        })
        .collect()
}

/// Lines of 200 bytes, `percent` of which hold what `secret` makes of the line's number.
fn blocks(percent: usize, secret: impl Fn(usize) -> String) -> Vec<Vec<u8>> {
    lines(
        |n, random| (random.below(100) < percent).then(|| secret(n)),
        |_| "INFO",
    )
}

fn debug_blocks(percent: usize) -> Vec<Vec<u8>> {
    lines(
        |_, _| None,
        |random| {
            if random.below(100) < percent {
                "DEBUG"
            } else {
                "INFO"
            }
        },
    )
}

fn lines(
    secret: impl Fn(usize, &mut Random) -> Option<String>,
    level: impl Fn(&mut Random) -> &'static str,
) -> Vec<Vec<u8>> {
    const WORDS: [&str; 24] = [
        "request",
        "handled",
        "upstream",
        "cache",
        "hit",
        "order",
        "stored",
        "retry",
        "scheduled",
        "session",
        "opened",
        "cart",
        "updated",
        "took=12ms",
        "status=200",
        "region=eu-west-1",
        "user=alice",
        "items=3",
        "path=/api/v1/orders",
        "attempt=1",
        "queue",
        "v2.14.3",
        "total=149.95",
        "page=42",
    ];
    let mut random = Random(42);
    let mut number = 0;
    let mut block = || {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        while block.len() + LINE_BYTES <= BLOCK_BYTES {
            number += 1;
            let mut line = format!(
                "2026-11-23T08:{:02}:{:02}.{:06}Z {} c07b{:08} trace={:016x} ",
                random.below(60),
                random.below(60),
                random.below(1_000_000),
                level(&mut random),
                random.below(100_000_000),
                random.next(),
            );
            let secret = secret(number, &mut random);
            let at = random.below(8);
            let mut words = 0;
            while line.len() < LINE_BYTES {
                match &secret {
                    Some(secret) if words == at => line.push_str(secret),
                    _ => line.push_str(WORDS[random.below(WORDS.len())]),
                }
                line.push(' ');
                words += 1;
            }
            line.truncate(LINE_BYTES - 1);
            line.push('\n');
            block.extend_from_slice(line.as_bytes());
        }
        block
    };
    (0..BLOCKS).map(|_| block()).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("is below a usize")
    }
}
