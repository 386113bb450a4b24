//! `POST /ingest`: every dialect, and everything that is refused, whole.

use std::thread;

use serde_json::Value;

use crate::support::{
    Answer, Body, Gate, Request, Setup, compress, eventually, request_written_first,
};

#[test]
fn lines_are_events() {
    accepted(&[], b"one\ntwo\r\n\nfour", 4, b"one\ntwo\r\n\nfour\n");
}

#[test]
fn ndjson_lines_are_events() {
    let body = b"{\"a\": 1}\n{\"a\":  2}\n";
    let kind = ("Content-Type", "application/x-ndjson");
    accepted(&[kind], body, 2, body);
}

#[test]
fn elements_of_a_json_array_are_events() {
    let body = b"[{\"a\": 1}, \"text\", \"two\\nlines\", 3, null, [4]]";
    let events = b"{\"a\": 1}\ntext\n\"two\\nlines\"\n3\nnull\n[4]\n";
    accepted(&[JSON], body, 6, events);
}

#[test]
fn pretty_printed_json_object_is_one_event() {
    let body = b"{\n  \"level\": \"INFO\",\r\n  \"body\": \"x\\ny\"\n}\n";
    let event = b"{   \"level\": \"INFO\",    \"body\": \"x\\ny\" }\n";
    accepted(&[JSON], body, 1, event);
}

#[test]
fn json_values_in_a_row_are_events() {
    let kind = ("Content-Type", "application/vnd.logs+json; charset=utf-8");
    accepted(
        &[kind],
        b"{\"a\":1}\n{\"a\":2} \"three\"",
        3,
        b"{\"a\":1}\n{\"a\":2}\nthree\n",
    );
}

#[test]
fn empty_body_has_no_events() {
    accepted(&[], b"", 0, b"");
    accepted(&[JSON], b"[]", 0, b"");
}

#[test]
fn compressed_bodies_are_decoded() {
    let lines = b"packed: one\npacked: two\n".repeat(5_000);
    let gate = Setup::new().start();
    for (at, encoding) in ["gzip", "deflate", "zstd"].into_iter().enumerate() {
        let packed = compress(encoding, &lines);
        let post = post(&[("Content-Encoding", encoding)]).body(Body::Whole(&packed));
        let answer = gate.ingest(&post).expect(202);
        assert_eq!(answer.json()["accepted"], 10_000);
        gate.settled(10_000 * (at as u64 + 1));
    }
    gate.stdout.wait_for(&lines.repeat(3));
    gate.stop();
}

#[test]
fn members_of_a_gzip_body_are_read_to_the_last() {
    let packed = [compress("gzip", b"one\n"), compress("gzip", b"two\n")].concat();
    accepted(&[("Content-Encoding", "gzip")], &packed, 2, b"one\ntwo\n");
}

#[test]
fn chunked_body_is_read() {
    let lines = b"a chunk of it\n".repeat(20_000);
    let gate = Setup::new().start();
    let answer = gate.ingest(&post(&[]).body(Body::Chunked(&lines)));
    assert_eq!(answer.expect(202).json()["accepted"], 20_000);
    gate.settled(20_000);
    gate.stdout.wait_for(&lines);
    gate.stop();
}

#[test]
fn what_makes_no_sense_is_refused_whole() {
    let gate = Setup::new().start();
    let packed = compress("gzip", &b"lost?\n".repeat(1_000));
    let cut = &packed[..packed.len() - 9];
    let gzip = ("Content-Encoding", "gzip");
    let zstd = ("Content-Encoding", "zstd");
    let cases: [(&str, Request<'_>, u16, &str); 9] = [
        (
            "unknown encoding",
            post(&[("Content-Encoding", "br")]).body(Body::Whole(b"x\n")),
            415,
            "unknown_encoding",
        ),
        (
            "several encodings",
            post(&[("Content-Encoding", "gzip, gzip")]).body(Body::Whole(b"x\n")),
            415,
            "unknown_encoding",
        ),
        (
            "no gzip",
            post(&[gzip]).body(Body::Whole(b"these are lines\n")),
            400,
            "undecodable_body",
        ),
        (
            "half of a gzip",
            post(&[gzip]).body(Body::Whole(cut)),
            400,
            "undecodable_body",
        ),
        (
            "gzip that is said to be zstd",
            post(&[zstd]).body(Body::Whole(&packed)),
            400,
            "undecodable_body",
        ),
        (
            "half an array",
            post(&[JSON]).body(Body::Whole(b"[\"one\", \"two\"")),
            400,
            "invalid_json",
        ),
        (
            "an array and more",
            post(&[JSON]).body(Body::Whole(b"[\"one\"] two")),
            400,
            "invalid_json",
        ),
        (
            "an object and half of one",
            post(&[JSON]).body(Body::Whole(b"{\"a\":1}\n{\"a\":")),
            400,
            "invalid_json",
        ),
        (
            "lines that are said to be JSON",
            post(&[JSON]).body(Body::Whole(b"just a line\n")),
            400,
            "invalid_json",
        ),
    ];
    for (name, request, status, code) in &cases {
        refused(name, &gate.ingest(request), *status, code);
    }
    refused_none_taken(&gate, cases.len());
    gate.finish(1);
}

/// What becomes of a body: the lines that are taken of it, or the status and code of the refusal.
type Fate = Result<&'static [u8], (u16, &'static str)>;

/// Encodings and what may be behind a stream, by a client that writes all before it reads.
#[test]
fn encoded_body_is_taken_whole_or_refused() {
    const UNDECODABLE: Fate = Err((400, "undecodable_body"));
    let mut cases: Vec<(String, &str, Vec<u8>, Fate)> = Vec::new();
    for encoding in ["gzip", "deflate", "zstd"] {
        let (one, two) = (compress(encoding, b"one\n"), compress(encoding, b"two\n"));
        let zeros_are_padding: Fate = match encoding {
            "gzip" => Ok(b"one\n"),
            _ => UNDECODABLE,
        };
        let zeros = vec![0; 100_000];
        let endings: [(&str, Vec<u8>, Fate); 9] = [
            ("alone", Vec::new(), Ok(b"one\n")),
            ("a second stream", two.clone(), Ok(b"one\ntwo\n")),
            (
                "half of a second",
                two[..two.len() / 2].to_vec(),
                UNDECODABLE,
            ),
            (
                "a second and garbage",
                [&two[..], b"garbage"].concat(),
                UNDECODABLE,
            ),
            ("garbage", b"garbage".to_vec(), UNDECODABLE),
            ("one byte of garbage", b"g".to_vec(), UNDECODABLE),
            ("a zero", vec![0], zeros_are_padding),
            ("zeros", zeros.clone(), zeros_are_padding),
            (
                "zeros and garbage",
                [&zeros[..], b"g"].concat(),
                UNDECODABLE,
            ),
        ];
        for (name, ending, fate) in endings {
            let body = [&one[..], &ending].concat();
            cases.push((format!("{encoding}, {name}"), encoding, body, fate));
        }
        for less in 1..one.len() {
            let body = one[..one.len() - less].to_vec();
            cases.push((
                format!("{encoding}, cut by {less}"),
                encoding,
                body,
                UNDECODABLE,
            ));
        }
    }
    let gate = Setup::new().start();
    let mut books = Books::default();
    for (name, encoding, body, fate) in &cases {
        for body in [Body::Whole(body), Body::Chunked(body)] {
            let request = post(&[("Content-Encoding", *encoding)]).body(body);
            books.check(&gate, name, &request, *fate);
        }
    }
    books.finish(gate);
}

#[test]
fn encodings_are_read_from_all_headers_or_refused() {
    const ENCODING: &str = "Content-Encoding";
    const UNKNOWN: Fate = Err((415, "unknown_encoding"));
    let one = compress("gzip", b"one\n");
    let twice = compress("gzip", &one);
    let (plain, packed): (&[u8], &[u8]) = (b"one\n", &one);
    let taken: Fate = Ok(b"one\n");
    let cases: [(&[&str], &[u8], Fate); 13] = [
        (&[], plain, taken),
        (&[""], plain, taken),
        (&["identity"], plain, taken),
        (&["identity, Identity", "identity"], plain, taken),
        (&["GZip"], packed, taken),
        (&["x-gzip"], packed, taken),
        (&["gzip, identity"], packed, taken),
        (&["identity", "gzip"], packed, taken),
        (&["", "gzip ,"], packed, taken),
        (&["gzip", "gzip"], &twice, UNKNOWN),
        (&["gzip, gzip"], &twice, UNKNOWN),
        (&["identity", "br"], packed, UNKNOWN),
        (&["gz\u{ef}p"], packed, UNKNOWN),
    ];
    let gate = Setup::new().start();
    let mut books = Books::default();
    for (values, body, fate) in cases {
        let headers: Vec<_> = values.iter().map(|value| (ENCODING, *value)).collect();
        let request = post(&headers).body(Body::Whole(body));
        books.check(&gate, &format!("{values:?}"), &request, fate);
    }
    let request = post(&[("Transfer-Encoding", "gzip")]).body(Body::Chunked(&one));
    let fate = Err((501, "unknown_transfer_encoding"));
    books.check(&gate, "gzip, chunked", &request, fate);
    books.finish(gate);
}

#[test]
fn byte_order_mark_before_json_is_no_part_of_it() {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let gate = Setup::new().start();
    let mut books = Books::default();
    let marked = |body: &[u8]| [MARK, body].concat();
    let (object, array, lines) = (marked(b"{\"a\":1}"), marked(b"[1, 2]"), marked(b"one\n"));
    let compressed = compress("gzip", &object);
    let gzip = ("Content-Encoding", "gzip");
    let twice = marked(&object);
    let cases: [(&str, Request<'_>, Fate); 6] = [
        (
            "object",
            post(&[JSON]).body(Body::Whole(&object)),
            Ok(b"{\"a\":1}\n"),
        ),
        (
            "array",
            post(&[JSON]).body(Body::Chunked(&array)),
            Ok(b"1\n2\n"),
        ),
        (
            "compressed",
            post(&[JSON, gzip]).body(Body::Whole(&compressed)),
            Ok(b"{\"a\":1}\n"),
        ),
        (
            "lines",
            post(&[]).body(Body::Whole(&lines)),
            Ok(b"\xef\xbb\xbfone\n"),
        ),
        (
            "twice",
            post(&[JSON]).body(Body::Whole(&twice)),
            Err((400, "invalid_json")),
        ),
        (
            "in an array",
            post(&[JSON]).body(Body::Whole(b"[\xef\xbb\xbf1]")),
            Err((400, "invalid_json")),
        ),
    ];
    for (name, request, fate) in &cases {
        books.check(&gate, name, request, *fate);
    }
    books.finish(gate);
}

#[test]
fn frames_of_logplex_are_events_without_their_lengths() {
    const KIND: (&str, &str) = ("Content-Type", "application/logplex-1");
    const INVALID: Fate = Err((400, "invalid_frame"));
    let gate = Setup::new().start();
    let mut books = Books::default();
    let cases: [(&[u8], Fate); 10] = [
        (b"", Ok(b"")),
        (b"8 <40>1 a\n9 <40>1 bc\n", Ok(b"<40>1 a\n<40>1 bc\n")),
        (b"7 <40>1 a", Ok(b"<40>1 a\n")),
        (b"8 one\ntwo\n3 6 x", Ok(b"one\ntwo\n6 x\n")),
        (b"0 1 x", Ok(b"\nx\n")),
        (b"9 <40>1 a\n", INVALID),
        (b"3 one3 two!", INVALID),
        (b"+3 one", INVALID),
        (b"99999999999999999999 x", INVALID),
        (b"a line\n", INVALID),
    ];
    for (body, fate) in cases {
        let name = body.escape_ascii().to_string();
        for body in [Body::Whole(body), Body::Chunked(body)] {
            books.check(&gate, &name, &post(&[KIND]).body(body), fate);
        }
    }
    books.finish(gate);
}

/// A refusal is read by a client that sends far more than the kernel holds before it reads.
#[test]
fn refusal_reaches_a_client_that_writes_before_it_reads() {
    let gate = Setup::new()
        .flag("max-body", "2MiB")
        .flag("memory-budget", "32MiB")
        .start();
    let large = vec![b'x'; 24 * 1024 * 1024];
    let whole = Body::Whole(&large);
    let elsewhere = Request::new("POST", "/rules").body(whole.clone());
    let put = Request::new("PUT", "/ingest").body(whole.clone());
    let gzip = ("Content-Encoding", "gzip");
    let cases = [
        (
            "by its length",
            post(&[]).body(whole.clone()),
            413,
            "body_too_large",
        ),
        (
            "in chunks",
            post(&[]).body(Body::Chunked(&large)),
            413,
            "body_too_large",
        ),
        (
            "encoding",
            post(&[("Content-Encoding", "br")]).body(Body::Chunked(&large)),
            415,
            "unknown_encoding",
        ),
        (
            "no gzip",
            post(&[gzip]).body(Body::Chunked(&large)),
            400,
            "undecodable_body",
        ),
        ("elsewhere", elsewhere, 404, "not_found"),
        ("method", put, 405, "method_not_allowed"),
    ];
    for (name, request, status, code) in &cases {
        let answer = request_written_first(gate.http(), request);
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        refused(name, &answer, *status, code);
    }
    gate.finish(0);
}

/// What a gate has taken and refused.
#[derive(Default)]
struct Books {
    out: Vec<u8>,
    refused: usize,
}

impl Books {
    /// Sends a request, all of it before the answer is read, and checks what becomes of it.
    #[track_caller]
    fn check(&mut self, gate: &Gate, name: &str, request: &Request<'_>, fate: Fate) {
        let answer = request_written_first(gate.http(), request);
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        match fate {
            Ok(lines) => {
                assert_eq!(answer.status, 202, "{name}: {answer}");
                let events = lines.iter().filter(|byte| **byte == b'\n').count();
                assert_eq!(answer.json()["accepted"], events, "{name}: {answer}");
                self.out.extend_from_slice(lines);
                // One after the other, so that they come out in order.
                gate.settled(self.events());
            }
            Err((status, code)) => {
                refused(name, &answer, status, code);
                self.refused += 1;
            }
        }
    }

    fn events(&self) -> u64 {
        self.out.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    /// Nothing but what was taken came out.
    #[track_caller]
    fn finish(self, gate: Gate) {
        let stats = gate.settled(self.events());
        assert_eq!(stats["ingest"]["http"]["refused_requests"], self.refused);
        gate.stdout.wait_for(&self.out);
        gate.stop();
    }
}

#[test]
fn only_posts_to_ingest_are_taken() {
    let gate = Setup::new().start();
    let slash = Request::new("POST", "/ingest/").body(Body::Whole(b""));
    assert_eq!(gate.ingest(&slash).expect(202).json()["accepted"], 0);
    let get = gate.ingest(&Request::new("GET", "/ingest"));
    assert_eq!(get.header("allow"), Some("POST"), "{get}");
    refused("GET", &get, 405, "method_not_allowed");
    let elsewhere = Request::new("POST", "/rules").body(Body::Whole(b"x\n"));
    refused("elsewhere", &gate.ingest(&elsewhere), 404, "not_found");
    gate.finish(0);
}

#[test]
fn body_above_the_limit_is_refused() {
    const HUNDRED_MEGABYTES: usize = 100 * 1024 * 1024;
    let gate = Setup::new().start();
    let announced = post(&[]).body(Body::Zeros(HUNDRED_MEGABYTES));
    refused(
        "by its length",
        &gate.ingest(&announced),
        413,
        "body_too_large",
    );
    let body = vec![b'\n'; HUNDRED_MEGABYTES];
    let chunked = post(&[]).body(Body::Chunked(&body));
    refused("in chunks", &gate.ingest(&chunked), 413, "body_too_large");
    let json = post(&[JSON]).body(Body::Chunked(&body));
    refused("JSON in chunks", &gate.ingest(&json), 413, "body_too_large");
    refused_none_taken(&gate, 3);
    gate.finish(1);
}

#[test]
fn body_of_the_limit_is_taken() {
    let gate = Setup::new().flag("max-body", "1000").start();
    let line = [vec![b'm'; 999], b"\n".to_vec()].concat();
    let answer = gate.ingest(&post(&[]).body(Body::Whole(&line)));
    assert_eq!(answer.expect(202).json()["accepted"], 1);
    let longer = [b"m".to_vec(), line.clone()].concat();
    let answer = gate.ingest(&post(&[]).body(Body::Chunked(&longer)));
    refused("one byte more", &answer, 413, "body_too_large");
    gate.settled(1);
    gate.stdout.wait_for(&line);
    gate.stop();
}

#[test]
fn decompression_bomb_is_refused() {
    const MEBIBYTE: usize = 1024 * 1024;
    let gate = Setup::new().flag("memory-budget", "64MiB").start();
    let zeros = vec![0; 64 * MEBIBYTE];
    for encoding in ["gzip", "zstd"] {
        let bomb = compress(encoding, &zeros);
        assert!(bomb.len() < MEBIBYTE, "it is small");
        for kind in ["text/plain", "application/json"] {
            let headers = [("Content-Encoding", encoding), ("Content-Type", kind)];
            let answer = gate.ingest(&post(&headers).body(Body::Whole(&bomb)));
            refused(encoding, &answer, 413, "body_too_large");
        }
    }
    let peak = gate.peak_memory();
    assert!(peak < 150 * MEBIBYTE, "it took {peak} bytes");
    refused_none_taken(&gate, 4);
    gate.finish(1);
}

/// Bodies that do not fit in the budget are refused, over and over, and leave room for the other
/// transports; and the refusal reaches a client that writes its whole body before it reads.
#[test]
fn bodies_above_the_budget_are_refused_and_leave_room_for_others() {
    const MEBIBYTE: usize = 1024 * 1024;
    let gate = Setup::new()
        .flag("memory-budget", "32MiB")
        .flag("max-body", "64MiB")
        .start();
    let http = gate.http();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let large = b"a line\n".repeat(40 * MEBIBYTE / 7);
                let post = post(&[]).body(Body::Chunked(&large));
                for _ in 0..2 {
                    let answer = request_written_first(http, &post).expect("the answer comes");
                    assert_eq!(answer.header("retry-after"), Some("1"), "{answer}");
                    assert_eq!(answer.status, 429, "{answer}");
                }
            })
        })
        .collect();
    let mut events = 0;
    while !clients.iter().all(thread::JoinHandle::is_finished) {
        gate.send(b"over TCP\n");
        gate.send_datagram(b"over UDP\n");
        events += 2;
        eventually("both are delivered", || {
            gate.pipeline()["received"] == events
        });
    }
    for client in clients {
        client.join().expect("each request was refused");
    }
    let line = post(&[]).body(Body::Whole(b"over HTTP\n"));
    gate.ingest(&line).expect(202);
    let stats = gate.settled(events + 1);
    assert_eq!(stats["shed"], 0);
    assert_eq!(stats["ingest"]["http"]["refused_requests"], 8);
    gate.stop();
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn post<'a>(headers: &[(&'a str, &str)]) -> Request<'a> {
    headers
        .iter()
        .fold(Request::new("POST", "/ingest"), |request, (name, value)| {
            request.header(name, *value)
        })
}

/// Sends a body to a new gate, which takes so many events out of it.
#[track_caller]
fn accepted(headers: &[(&str, &str)], body: &[u8], events: u64, out: &[u8]) {
    let gate = Setup::new().start();
    let answer = gate.ingest(&post(headers).body(Body::Whole(body)));
    assert_eq!(answer.expect(202).json()["accepted"], events);
    gate.settled(events);
    gate.stdout.wait_for(out);
    gate.stop();
}

/// Asserts that it was refused with a problem document.
#[track_caller]
fn refused(name: &str, answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{name}: {answer}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{name}: {answer}"
    );
    let problem: Value = answer.json();
    assert_eq!(problem["code"], code, "{name}: {problem}");
    assert_eq!(problem["status"], status, "{name}: {problem}");
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.len() > 20, "{name}: {problem}");
}

/// Asserts that so many requests were refused, that nothing of them was taken, and that events
/// still flow.
#[track_caller]
fn refused_none_taken(gate: &Gate, requests: usize) {
    let stats = gate.settled(0);
    assert_eq!(stats["ingest"]["http"]["refused_requests"], requests);
    gate.send(b"still here\n");
    gate.settled(1);
    gate.stdout.wait_for(b"still here\n");
}
