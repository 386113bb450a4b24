//! What is sent: logs that imitate real ones, with all that real ones have.

use std::io::Cursor;

use async_compression::tokio::bufread::{GzipEncoder, ZlibEncoder, ZstdEncoder};
use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A generator that gives the same numbers in every run.
pub(crate) fn pseudo_random(seed: u64) -> Rng {
    Rng::with_seed(seed)
}

/// Splits at line feeds, which stay.
pub(crate) fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n')
}

/// Compresses for `Content-Encoding`.
pub(crate) fn compress(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let source = Cursor::new(bytes);
    match encoding {
        "gzip" => read_to_end(GzipEncoder::new(source)),
        "deflate" => read_to_end(ZlibEncoder::new(source)),
        "zstd" => read_to_end(ZstdEncoder::new(source)),
        unknown => panic!("no encoder for {unknown}"),
    }
}

fn read_to_end(mut encoder: impl AsyncRead + Unpin) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let mut compressed = Vec::new();
    runtime
        .expect("a runtime without drivers")
        .block_on(encoder.read_to_end(&mut compressed))
        .expect("memory takes everything");
    compressed
}

/// Undoes `gzip` or `zstd`.
pub(crate) fn decompressed(compression: &str, body: &[u8]) -> Vec<u8> {
    match compression {
        "gzip" => {
            let mut found = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(body);
            std::io::Read::read_to_end(&mut decoder, &mut found).expect("a gzip body");
            found
        }
        _ => zstd::stream::decode_all(body).expect("a zstd body"),
    }
}

/// Makes the lines of a file, one after the other, by their numbers.
type MakeLine = fn(&mut Rng, usize) -> Vec<u8>;

/// Sixteen files, by what is peculiar about them.
pub(crate) fn generated_logs() -> Vec<(String, Vec<u8>)> {
    let kinds: [(&str, MakeLine); 16] = [
        ("lf", |rng, at| [message(rng, at), b"\n".to_vec()].concat()),
        ("crlf", |rng, at| {
            [message(rng, at), b"\r\n".to_vec()].concat()
        }),
        ("mixed ends", |rng, at| {
            let end: &[u8] = if rng.bool() { b"\n" } else { b"\r\n" };
            [message(rng, at), end.to_vec()].concat()
        }),
        ("lone cr", |rng, at| {
            let (one, two) = (message(rng, at), message(rng, at));
            [one, b"\r".to_vec(), two, b"\r\r\n".to_vec()].concat()
        }),
        ("nul", |rng, at| {
            [b"\0".to_vec(), message(rng, at), b"\0\0\n".to_vec()].concat()
        }),
        ("invalid utf-8", |rng, at| {
            let broken: &[u8] = rng
                .choice([&b"\xff\xfe"[..], b"\xc3", b"\xed\xa0\x80", b"\xf8\x88"])
                .expect("not empty");
            [message(rng, at), broken.to_vec(), b"\n".to_vec()].concat()
        }),
        ("bom", |rng, at| {
            let bom: &[u8] = if at == 0 { b"\xef\xbb\xbf" } else { b"" };
            [bom.to_vec(), message(rng, at), b"\r\n".to_vec()].concat()
        }),
        ("empty lines", |rng, at| {
            let empty = b"\n".repeat(rng.usize(0..4));
            [empty, message(rng, at), b"\n\r\n".to_vec()].concat()
        }),
        ("long lines", |rng, at| {
            let long = at.is_multiple_of(20);
            let padding = vec![b'x'; if long { 100_000 } else { 0 }];
            [message(rng, at), padding, b"\n".to_vec()].concat()
        }),
        ("no final newline", |rng, at| {
            let end: &[u8] = if at == LINES - 1 { b"" } else { b"\n" };
            [message(rng, at), end.to_vec()].concat()
        }),
        ("json", |rng, at| {
            let text = String::from_utf8_lossy(&message(rng, at)).into_owned();
            let event = serde_json::json!({"at": at, "body": text, "level": "INFO"});
            format!("{event}\n").into_bytes()
        }),
        ("stack traces", |rng, at| {
            let frames = "\tat com.example.Service.call(Service.java:42)\n".repeat(rng.usize(0..9));
            [message(rng, at), b"\n".to_vec(), frames.into_bytes()].concat()
        }),
        ("many scripts", |rng, at| {
            let words = ["Zahlung für Müller", "支払い完了", "оплата прошла", "💳✅"];
            let word = rng.choice(words).expect("not empty");
            [message(rng, at), format!(" {word}\n").into_bytes()].concat()
        }),
        ("short lines", |rng, _| {
            [vec![b'.'; rng.usize(0..3)], b"\n".to_vec()].concat()
        }),
        ("ansi colours", |rng, at| {
            [
                b"\x1b[31m".to_vec(),
                message(rng, at),
                b"\x1b[0m\n".to_vec(),
            ]
            .concat()
        }),
        ("all bytes", |rng, at| {
            let mut bytes: Vec<u8> = (0..=255).filter(|&byte| byte != b'\n').collect();
            bytes.rotate_left(rng.usize(0..255));
            [message(rng, at), bytes, b"\n".to_vec()].concat()
        }),
    ];
    let make = |(seed, (name, line)): (usize, (&str, MakeLine))| {
        let mut rng = pseudo_random(seed as u64);
        let file = (0..LINES).flat_map(|at| line(&mut rng, at)).collect();
        (name.to_owned(), file)
    };
    kinds.into_iter().enumerate().map(make).collect()
}

/// Lines of a generated file, about.
const LINES: usize = 400;

fn message(rng: &mut Rng, at: usize) -> Vec<u8> {
    let level = rng
        .choice(["DEBUG", "INFO", "WARN", "ERROR"])
        .expect("not empty");
    let service = rng
        .choice(["auth", "billing", "search"])
        .expect("not empty");
    let words = ["request", "took", "session", "opened", "user", "closed"];
    let mut text = format!(
        "2026-01-12T10:00:{:02}.{at:03}Z {level} {service}:",
        at % 60
    );
    for _ in 0..rng.usize(1..12) {
        let word = rng.choice(words).expect("not empty");
        text.push_str(&format!(" {word}={}", rng.u32(..)));
    }
    text.into_bytes()
}
