//! A labelled corpus: events that hold one sensitive value, or none, drawn from a seed.
//!
//! It shares no code with the checks that it judges. Check digits are computed here forwards, from the
//! standards, where a check verifies; keys and phrases are those that programs and people write.

use std::ops::Range;

use fastrand::Rng;

use super::values;

/// An event, and what in it is sensitive.
pub(crate) struct Case {
    pub(crate) event: String,
    /// The detector that must find it, and where.
    pub(crate) label: Option<(&'static str, Range<usize>)>,
}

/// Values of each detector, and near misses for a tenth of them.
const POSITIVES: usize = 200;
const NEAR_MISSES: usize = 40;

/// Events without anything sensitive.
const CLEAN: usize = 12_000;

/// Draws the corpus.
pub(crate) fn draw(seed: u64) -> Vec<Case> {
    let mut rng = Rng::with_seed(seed);
    let mut cases = Vec::new();
    for kind in values::kinds() {
        for _ in 0..POSITIVES {
            cases.push(positive(&kind, &mut rng));
        }
        if let Some(spoil) = kind.spoil {
            for _ in 0..NEAR_MISSES {
                let value = spoil(&mut rng);
                let (event, _) = embed(&kind, &value, &mut rng);
                cases.push(Case { event, label: None });
            }
        }
    }
    cases.extend((0..CLEAN).map(|_| Case {
        event: clean(&mut rng),
        label: None,
    }));
    cases
}

fn positive(kind: &values::Kind, rng: &mut Rng) -> Case {
    let value = (kind.draw)(rng);
    let (event, at) = match kind.frame {
        Some(frame) => frame(&value, rng),
        None => embed(kind, &value, rng),
    };
    Case {
        event,
        label: Some((kind.name, at)),
    }
}

/// Puts a value where such values stand in logs.
fn embed(kind: &values::Kind, value: &str, rng: &mut Rng) -> (String, Range<usize>) {
    let phrase = kind.keys[rng.usize(..kind.keys.len())];
    let snake = phrase.to_lowercase().replace(' ', "_");
    let kebab = phrase.to_lowercase().replace(' ', "-");
    let camel = camel(phrase);
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit())
        && !value.starts_with('0')
        && value.len() <= 18;
    let fits_url = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let (before, behind) = match rng.usize(..10) {
        0 => (format!("level=info {snake}="), " status=200".to_owned()),
        1 => (
            format!("{{\"ts\":\"2026-11-23T08:10:05Z\",\"{camel}\":\""),
            "\",\"ok\":true}".to_owned(),
        ),
        2 if is_number => (format!("{{\"{snake}\": "), ", \"page\": 3}".to_owned()),
        2 => (format!("{{\"{snake}\": \""), "\"}".to_owned()),
        3 => (format!("{phrase}: "), String::new()),
        4 => (
            format!("2026-11-23 08:10:05 INFO [worker-3] customer 42 changed {phrase} to "),
            " in 12 ms".to_owned(),
        ),
        5 => (
            format!("{{\"msg\":\"got {{\\\"{snake}\\\":\\\""),
            "\\\"}\"}".to_owned(),
        ),
        6 if fits_url => (
            format!("10.0.0.7 - - \"GET /v1/lookup?{snake}="),
            "&page=2 HTTP/1.1\" 200 512".replace("10.0.0.7", "-"),
        ),
        6 => (format!("{phrase} = '"), "'".to_owned()),
        7 => (format!("INFO,accounts,{snake},"), ",done".to_owned()),
        8 => (format!("the {phrase} ("), ") was verified".to_owned()),
        _ => (format!("form field {kebab}: \""), "\" accepted".to_owned()),
    };
    // The address of the client is not what this event is about.
    let before = before.replace("10.0.0.7 - - ", "");
    let at = before.len()..before.len() + value.len();
    (format!("{before}{value}{behind}"), at)
}

fn camel(phrase: &str) -> String {
    let mut words = phrase.split(' ');
    let mut camel = words.next().unwrap_or_default().to_lowercase();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(&letters.as_str().to_lowercase());
    }
    camel
}

/// An event of the kinds that are mistaken for sensitive ones.
fn clean(rng: &mut Rng) -> String {
    let digits = |rng: &mut Rng, count: usize| values::digits(rng, count);
    let hex = |rng: &mut Rng, count: usize| values::letters(rng, b"0123456789abcdef", count);
    let seconds = 1_600_000_000 + rng.u64(..400_000_000);
    let word = [
        "alpha",
        "billing",
        "cart",
        "delta",
        "eu-west-1",
        "frontend",
        "gateway",
    ];
    let word = word[rng.usize(..word.len())];
    match rng.usize(..30) {
        0 => format!(
            "order_id={} total={}.{:02} EUR",
            digits(rng, 10),
            rng.u32(1..5_000),
            rng.u32(..100)
        ),
        1 => format!("{{\"timestamp\":{seconds},\"level\":\"info\",\"msg\":\"started {word}\"}}"),
        2 => format!("ts={}{} event={word}", seconds, digits(rng, 3)),
        3 => format!(
            "start_ns={}{} span={}",
            seconds,
            digits(rng, 9),
            hex(rng, 16)
        ),
        4 => format!(
            "upgraded {word} from {}.{}.{} to {}.{}.{}-rc{}",
            rng.u8(..20),
            rng.u8(..30),
            rng.u8(..99),
            rng.u8(..20),
            rng.u8(..30),
            rng.u8(..99),
            rng.u8(..9)
        ),
        5 => format!(
            "request_id={} took {} ms",
            values::uuid(rng),
            rng.u32(..9_000)
        ),
        6 => format!("sha256:{} pulled in {} ms", hex(rng, 64), rng.u32(..9_000)),
        7 => format!("commit {} by deploy bot on {word}", hex(rng, 40)),
        8 => format!(
            "trace_id={} span_id={} sampled=1",
            hex(rng, 32),
            hex(rng, 16)
        ),
        9 => format!(
            "price {}.{:02} qty {} sku {}-{}",
            rng.u32(..900),
            rng.u32(..100),
            rng.u32(1..50),
            word,
            digits(rng, 6)
        ),
        10 => format!(
            "tracking number 1Z{} shipped",
            values::letters(rng, b"0123456789ABCDEFGHJKLMNP", 16)
        ),
        11 => format!(
            "pos lat={}.{} lon=-{}.{}",
            rng.u8(..90),
            digits(rng, 6),
            rng.u8(..180),
            digits(rng, 6)
        ),
        12 => format!(
            "java.lang.IllegalStateException: queue {word} is full\\n\\tat com.example.{word}.Main.run(Main.java:{})",
            rng.u16(1..2_000)
        ),
        13 => format!(
            "kubelet: pod {word}-{}-{} on node ip-10-0-{}-{} is ready",
            hex(rng, 9),
            values::letters(rng, b"bcdfghjklmnpqrstvwxz2456789", 5),
            rng.u8(..),
            rng.u8(..)
        ),
        14 => format!(
            "LOG:  checkpoint complete: wrote {} buffers; lsn={}/{}",
            rng.u16(..),
            hex(rng, 1).to_uppercase(),
            hex(rng, 8).to_uppercase()
        ),
        15 => format!(
            "systemd[1]: Started {word}.service, PID {}, memory {}",
            rng.u32(2..4_000_000),
            digits(rng, 9)
        ),
        16 => format!(
            "invoice {}-{} of {:02}/{:02}/2026 paid",
            digits(rng, 4),
            digits(rng, 7),
            rng.u8(1..29),
            rng.u8(1..13)
        ),
        17 => format!(
            "{{\"id\":\"{}\",\"etag\":\"{}\",\"size\":{}}}",
            values::uuid(rng),
            hex(rng, 32),
            digits(rng, 9)
        ),
        18 => format!(
            "image data:image/png;base64,{} loaded",
            values::letters(rng, BASE64, 120)
        ),
        19 => format!(
            "metric {word}.latency p99={}.{} count={}",
            rng.u16(..),
            digits(rng, 4),
            digits(rng, 11)
        ),
        20 => format!(
            "ticket #{} moved to batch {} job {}",
            digits(rng, 9),
            digits(rng, 12),
            digits(rng, 15)
        ),
        21 => format!("cache key {word}:{}:{} hit", digits(rng, 13), hex(rng, 12)),
        22 => format!(
            "GET /static/{}.js?v={} HTTP/1.1 304",
            hex(rng, 20),
            digits(rng, 10)
        ),
        23 => format!(
            "std::{word}::Error at src/main.rs:{}:{}",
            rng.u16(1..900),
            rng.u8(1..80)
        ),
        24 => format!(
            "{:02}:{:02}:{:02} {word} worker {} finished block {}",
            rng.u8(..24),
            rng.u8(..60),
            rng.u8(..60),
            rng.u8(..),
            digits(rng, 16)
        ),
        25 => format!(
            "session {} offset {} partition {}",
            values::letters(rng, b"abcdefghijklmnopqrstuvwxyz", 12),
            digits(rng, 12),
            rng.u8(..)
        ),
        26 => [
            "password is required",
            "token expired for client",
            "the secret was rotated",
            "cookie policy accepted",
            "basic authentication failed",
            "bearer of the certificate",
            "passport control is closed",
            "routing table updated",
            "card declined",
            "call failed",
        ][rng.usize(..10)]
        .to_owned(),
        27 => format!(
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{}.0.{}.{} Safari/537.36",
            rng.u8(90..140),
            rng.u16(1000..9999),
            rng.u8(..)
        ),
        28 => format!(
            "part no {}-{}{} rev {} serial {}",
            values::letters(rng, b"ABCDEFGHJKLMNPQRSTUVWXYZ", 3),
            digits(rng, 5),
            values::letters(rng, b"ABCDEFGHJK", 1),
            rng.u8(1..9),
            values::letters(rng, b"ABCDEFGHJKLMNPQRSTUVWXYZ0123456789", 11)
        ),
        _ => format!(
            "transaction {} duration={}.{}s status=ok code={}",
            digits(rng, 18),
            rng.u8(..),
            digits(rng, 6),
            digits(rng, 5)
        ),
    }
}

pub(crate) const BASE64: &[u8] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
