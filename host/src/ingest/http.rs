//! `POST /ingest`: lines, NDJSON, JSON or the frames of Logplex, plain or compressed.
//!
//! A request is taken whole or not at all: its events go to the workers when all of the body has
//! come, lies within the memory budget and makes sense; then it is answered with 202 and
//! `{"accepted": n}`. If the budget has no room the answer is 429 with `Retry-After`, at once.
//!
//! | `Content-Type` | events |
//! | --- | --- |
//! | `application/json` (or `+json`) | each element of an array; otherwise each of the JSON values that follow one another |
//! | `application/logplex-1` | each frame: its length in digits, a space, and so many bytes (RFC 6587, section 3.4.1) |
//! | anything else, or none | each line; so NDJSON too |
//!
//! A JSON element that is a string is the event's text, unless it holds a line end; any other
//! element is its JSON text, on one line. A byte order mark before JSON is no part of it.
//! `Content-Encoding` may be `gzip`, `deflate` or `zstd`, one of them; limits apply to what comes
//! out of it, while it comes out. Several compressed streams may follow one another; anything else
//! behind one is refused, but for zeros behind gzip, with which tapes and blocks are filled up.
//!
//! With durable ingest the answer waits until every output has all events delivered, on the disk of its
//! spool (after an `fsync`), or with its dead letters; events that a rule dropped count too. If one was
//! given up, or after 30 s, it is 503 with `Retry-After`, and the sender sends the request again: events
//! may then arrive twice, never not at all.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::TryStreamExt;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::{json, value::RawValue};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt, ReadBuf},
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::timeout,
};
use tokio_util::io::StreamReader;

use super::{
    Intake,
    framing::{Framer, cut_long_lines, line_ending},
};
use crate::{
    books::Ingest,
    http_server::ConnectionId,
    memory::{Block, BlockSize, Charge},
    receipt::Receipt,
};

/// A body that has not come within this time is refused.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// With durable ingest: a sender whose events are not safe within this time is told to send them again.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a sender is asked to wait when the budget is spent.
const RETRY_AFTER_SECONDS: &str = "1";

/// A zstd frame may ask for this much memory, as a power of two: 8 MiB, the least that every
/// decoder has to support (RFC 8878, section 3.1.1.1.2).
const ZSTD_WINDOW_LOG: u32 = 23;

/// Bodies of JSON or frames that have more bytes, unpacked, are taken apart away from the threads that
/// serve sockets: an array of small numbers of this size costs about half a millisecond.
const INLINE_JSON_BYTES: usize = 16 * 1024;

/// So many bytes of a body are moved on a thread that serves sockets.
const INLINE_MOVE_BYTES: usize = 512 * 1024;

/// Most bodies that are taken apart there at a time: the processors' number. Others wait.
static TAKING_APART: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism();
    Semaphore::new(processors.map_or(1, usize::from))
});

/// Returns the routes of the HTTP ingest.
pub fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/ingest", post(ingest))
        .route("/ingest/", post(ingest))
        .fallback(|| async { Refusal::NotFound.into_response() })
        .method_not_allowed_fallback(|| async { Refusal::NotAllowed.into_response() })
        .with_state(intake)
}

async fn ingest(
    State(intake): State<Arc<Intake>>,
    Extension(ConnectionId(connection)): Extension<ConnectionId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let taken = timeout(BODY_TIMEOUT, read_events(&intake, &headers, body));
    match taken.await.unwrap_or(Err(Refusal::TooSlow)) {
        Ok(Events { blocks, truncated }) => {
            let number = usize::try_from(connection).unwrap_or_default();
            let lane = intake.lane_of(Ingest::Http, number);
            let accepted: usize = blocks.iter().map(|block| block.events()).sum();
            lane.note_truncated(truncated);
            let receipt = intake.durable.then(Receipt::new);
            // Held until all blocks have theirs, so that the receipt is not closed between two.
            let first = receipt.as_ref().map(Receipt::claim);
            for block in blocks {
                lane.send_claimed(block, None, receipt.as_ref().map(Receipt::claim));
            }
            if let Some(claim) = first {
                claim.settle();
            }
            if let Some(receipt) = receipt {
                let safe = timeout(DURABLE_TIMEOUT, receipt.settled()).await;
                if safe != Ok(true) {
                    return Refusal::NotSafe.into_response();
                }
            }
            let answer = json!({ "accepted": accepted, "truncated": truncated });
            (StatusCode::ACCEPTED, axum::Json(answer)).into_response()
        }
        Err(refusal) => {
            intake.books.refused(Ingest::Http);
            refusal.into_response()
        }
    }
}

/// The events of one request, not yet on their way.
#[derive(Debug, Default)]
struct Events {
    blocks: Vec<Block>,
    truncated: u64,
}

/// Why a request is not taken.
#[derive(Debug)]
enum Refusal {
    NoMemory,
    NotSafe,
    TooLarge(usize),
    TooSlow,
    UnknownEncoding(String),
    UnknownTransfer(String),
    InvalidFrame(String),
    Undecodable(String),
    InvalidJson(String),
    NotFound,
    NotAllowed,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, detail) = match self {
            Self::NoMemory => (
                StatusCode::TOO_MANY_REQUESTS,
                "no_memory",
                "the memory budget is spent; nothing of this request was taken, send it again \
                 after `Retry-After`"
                    .to_owned(),
            ),
            Self::NotSafe => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_safe",
                "not every output has all events delivered or on its disk; they may arrive, and may \
                 not: send the request again after `Retry-After`"
                    .to_owned(),
            ),
            Self::TooLarge(limit) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!(
                    "the body, decompressed, is larger than {limit} bytes; nothing of it was \
                     taken, send it in parts"
                ),
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "body_too_slow",
                format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
            ),
            Self::UnknownEncoding(found) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unknown_encoding",
                format!(
                    "`Content-Encoding` is `{found}`; expected one of gzip, deflate and zstd, or none"
                ),
            ),
            Self::UnknownTransfer(found) => (
                StatusCode::NOT_IMPLEMENTED,
                "unknown_transfer_encoding",
                format!(
                    "`Transfer-Encoding` is `{found}`; expected chunked or none. Compress with \
                     `Content-Encoding`"
                ),
            ),
            Self::InvalidFrame(error) => (
                StatusCode::BAD_REQUEST,
                "invalid_frame",
                format!(
                    "the body is not made of frames: {error}; nothing of it was taken. Send lines \
                     with another `Content-Type`, such as text/plain"
                ),
            ),
            Self::Undecodable(error) => (
                StatusCode::BAD_REQUEST,
                "undecodable_body",
                format!("the body cannot be read: {error}; nothing of it was taken"),
            ),
            Self::InvalidJson(error) => (
                StatusCode::BAD_REQUEST,
                "invalid_json",
                format!(
                    "the body is not JSON: {error}; nothing of it was taken. Send lines with \
                     another `Content-Type`, such as application/x-ndjson"
                ),
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "not_found",
                "there is only `POST /ingest` here".to_owned(),
            ),
            Self::NotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "events are sent with `POST`".to_owned(),
            ),
        };
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": code,
            "detail": detail,
        });
        let mut response = (status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            let seconds = header::HeaderValue::from_static(RETRY_AFTER_SECONDS);
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

async fn read_events(
    intake: &Arc<Intake>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Events, Refusal> {
    let limit = intake.limits.max_body_bytes;
    let announced = text_of(headers, header::CONTENT_LENGTH)
        .parse::<usize>()
        .ok();
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::TooLarge(limit));
    }
    let body = decoded(headers, body)?;
    let content_type = text_of(headers, header::CONTENT_TYPE).to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let take: fn(&Arc<Intake>, &[u8]) -> Result<Events, Refusal> = match essence {
        "application/logplex-1" => framed_events,
        _ => json_events,
    };
    if matches!(essence, "application/json" | "application/logplex-1") || essence.ends_with("+json")
    {
        let (text, charge) = read_whole(intake, body).await?;
        let length = text.len();
        let intake = Arc::clone(intake);
        let take_apart = move || {
            let events = take(&intake, &text);
            drop(charge);
            events
        };
        if length <= INLINE_JSON_BYTES {
            return take_apart();
        }
        let permit = TAKING_APART.acquire().await;
        let permit = permit.expect("it is never closed");
        let taken_apart = spawn_blocking(move || {
            let _permit = permit;
            take_apart()
        });
        taken_apart
            .await
            .unwrap_or_else(|error| Err(Refusal::Undecodable(error.to_string())))
    } else {
        read_lines(intake, body, announced).await
    }
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// Returns the codings of a header that is a list, over all of its lines, without those that change
/// nothing; lower-case.
fn codings(headers: &HeaderMap, name: HeaderName, nothing: &str) -> Vec<String> {
    let mut codings = Vec::new();
    for line in headers.get_all(name) {
        let line = String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase();
        let named = line.split(',').map(str::trim);
        let named = named.filter(|coding| !coding.is_empty() && *coding != nothing);
        codings.extend(named.map(str::to_owned));
    }
    codings
}

/// Names codings in an error.
fn shown(codings: &[String]) -> String {
    codings.join(", ").chars().take(60).collect()
}

fn decoded(headers: &HeaderMap, body: Body) -> Result<Reader, Refusal> {
    // Chunks are undone already; a body that is compressed besides is not (RFC 9112, section 6.1).
    let transfer = codings(headers, header::TRANSFER_ENCODING, "chunked");
    if !transfer.is_empty() {
        return Err(Refusal::UnknownTransfer(shown(&transfer)));
    }
    let body = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let encodings = codings(headers, header::CONTENT_ENCODING, "identity");
    let encoding = match &encodings[..] {
        [] => "",
        [one] => one,
        several => return Err(Refusal::UnknownEncoding(shown(several))),
    };
    Ok(match encoding {
        "" => Box::pin(body),
        "gzip" | "x-gzip" => Box::pin(GzipMembers::new(Box::pin(body))),
        // "deflate" is the zlib format (RFC 9110, section 8.4.1.2).
        "deflate" => {
            let mut decoder = ZlibDecoder::new(body);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        "zstd" => {
            let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
            let mut decoder = ZstdDecoder::with_params(body, &[window]);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        _ => return Err(Refusal::UnknownEncoding(shown(&encodings))),
    })
}

/// The members of a gzip body, one after the other, and zeros behind the last.
struct GzipMembers<R> {
    state: Members<R>,
}

enum Members<R> {
    /// In the middle of one.
    Within(Box<GzipDecoder<R>>),
    /// At the end of one.
    Behind(R),
    /// All that comes has to be zeros.
    Padding(R),
    Ended,
}

impl<R: AsyncBufRead + Unpin> GzipMembers<R> {
    fn new(body: R) -> Self {
        Self {
            state: Members::Within(Box::new(GzipDecoder::new(body))),
        }
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for GzipMembers<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            // What fails is not read again.
            self.state = match std::mem::replace(&mut self.state, Members::Ended) {
                Members::Ended => return Poll::Ready(Ok(())),
                Members::Within(mut decoder) => {
                    let read = Pin::new(&mut *decoder).poll_read(cx, buffer);
                    if read.is_pending() || buffer.filled().len() > before {
                        self.state = Members::Within(decoder);
                        return read;
                    }
                    std::task::ready!(read)?;
                    Members::Behind(decoder.into_inner())
                }
                Members::Behind(mut body) => match Pin::new(&mut body).poll_fill_buf(cx) {
                    Poll::Pending => {
                        self.state = Members::Behind(body);
                        return Poll::Pending;
                    }
                    Poll::Ready(next) => match next?.first() {
                        None => Members::Ended,
                        Some(0) => Members::Padding(body),
                        Some(_) => Members::Within(Box::new(GzipDecoder::new(body))),
                    },
                },
                Members::Padding(mut body) => {
                    let Poll::Ready(next) = Pin::new(&mut body).poll_fill_buf(cx) else {
                        self.state = Members::Padding(body);
                        return Poll::Pending;
                    };
                    let next = next?;
                    if next.iter().any(|byte| *byte != 0) {
                        let error =
                            "there is something else behind the zeros after the gzip stream";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                    match next.len() {
                        0 => Members::Ended,
                        zeros => {
                            Pin::new(&mut body).consume(zeros);
                            Members::Padding(body)
                        }
                    }
                }
            };
        }
    }
}

/// Reads a body of lines straight into blocks.
async fn read_lines(
    intake: &Arc<Intake>,
    mut body: Reader,
    announced: Option<usize>,
) -> Result<Events, Refusal> {
    let limit = intake.limits.max_body_bytes;
    let mut framer = Framer::new(intake.limits.max_event_bytes);
    let mut events = Events::default();
    let mut total = 0;
    let size = announced
        .and_then(BlockSize::fitting)
        .unwrap_or(BlockSize::LARGE);
    let mut size = size.min(BlockSize::LARGE);
    let mut block = intake.memory.try_acquire(size).ok_or(Refusal::NoMemory)?;
    let (mut carried, mut filled) = (0, 0);
    loop {
        let capacity = block.capacity();
        let read = body.read(&mut block.buffer_mut()[filled..capacity]).await;
        let read = read.map_err(|error| Refusal::Undecodable(describe(&error)))?;
        total += read;
        if total > limit {
            return Err(Refusal::TooLarge(limit));
        }
        filled += read;
        // A block goes on when it is full; a body comes in many small reads.
        if read > 0 && filled < capacity {
            continue;
        }
        let framed = framer.frame(block.buffer_mut(), carried, filled);
        events.truncated += framed.truncated;
        block.note_cut(framed.cut);
        let rest = block.buffer_mut()[framed.rest.clone()].to_vec();
        if framed.end > 0 {
            block.set_filled(framed.end);
            events.blocks.push(block);
        } else {
            drop(block);
        }
        if read == 0 {
            if !rest.is_empty() {
                events.truncated += u64::from(framer.is_above_limit(&rest));
                events.blocks.push(block_of(intake, &rest)?);
            }
            return Ok(events);
        }
        size = size.max(BlockSize::fitting(rest.len() + 1).unwrap_or(BlockSize::LARGEST));
        block = intake.memory.try_acquire(size).ok_or(Refusal::NoMemory)?;
        block.buffer_mut()[..rest.len()].copy_from_slice(&rest);
        (carried, filled) = (rest.len(), rest.len());
        // Unpacking a body that has come never waits for anything.
        yield_now().await;
    }
}

/// Makes a block of one line without its line feed.
fn block_of(intake: &Arc<Intake>, line: &[u8]) -> Result<Block, Refusal> {
    let ending = line_ending(line);
    let length = line.len() + ending.len();
    let size = BlockSize::fitting(length).unwrap_or(BlockSize::LARGEST);
    let mut block = intake.memory.try_acquire(size).ok_or(Refusal::NoMemory)?;
    let buffer = block.buffer_mut();
    buffer[..line.len()].copy_from_slice(line);
    buffer[line.len()..length].copy_from_slice(ending);
    block.set_filled(length);
    Ok(block)
}

/// Reads a body that has to be in one piece, charging it to the budget as it comes.
async fn read_whole(
    intake: &Arc<Intake>,
    mut body: Reader,
) -> Result<(Vec<u8>, Vec<Charge>), Refusal> {
    const STEP: usize = 256 * 1024;
    // `read_to_end` wants so much room beyond what it reads.
    const PROBE: usize = 64;
    let limit = intake.limits.max_body_bytes;
    let mut text = Vec::new();
    let mut charges = Vec::new();
    loop {
        let filled = text.len();
        if filled > limit {
            return Err(Refusal::TooLarge(limit));
        }
        charges.push(intake.memory.try_charge(STEP).ok_or(Refusal::NoMemory)?);
        // To make room moves what has come, which takes long if that is much.
        if filled > INLINE_MOVE_BYTES && text.capacity() - filled < STEP + PROBE {
            let grow = move || {
                text.reserve(filled.max(STEP + PROBE));
                text
            };
            let grown = spawn_blocking(grow).await;
            text = grown.map_err(|error| Refusal::Undecodable(error.to_string()))?;
        }
        let mut step = (&mut body).take(STEP as u64);
        let read = step.read_to_end(&mut text).await;
        if read.map_err(|error| Refusal::Undecodable(describe(&error)))? < STEP {
            return match text.len() > limit {
                true => Err(Refusal::TooLarge(limit)),
                false => Ok((text, charges)),
            };
        }
        // Unpacking a body that has come never waits for anything.
        yield_now().await;
    }
}

/// Makes events of frames, each with its length before it. A line feed at the end of a frame is no
/// part of its event; a frame of several lines is several events.
fn framed_events(intake: &Arc<Intake>, bytes: &[u8]) -> Result<Events, Refusal> {
    let mut writer = EventWriter::new(intake);
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let (length, frame) = framed_length(rest).ok_or_else(|| {
            Refusal::InvalidFrame(format!(
                "at byte {at} there is no length; expected digits and a space"
            ))
        })?;
        let Some((frame, behind)) = frame.split_at_checked(length) else {
            return Err(Refusal::InvalidFrame(format!(
                "the frame at byte {at} has {} bytes; expected {length}",
                frame.len()
            )));
        };
        let frame = frame.strip_suffix(b"\n").unwrap_or(frame);
        for line in frame.split(|byte| *byte == b'\n') {
            writer.append(line)?;
        }
        rest = behind;
    }
    writer.flush();
    Ok(writer.events)
}

/// Reads the length of a frame; returns it with what is behind it.
fn framed_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(&bytes[..space]).ok()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let length = is_number.then(|| digits.parse().ok()).flatten()?;
    Some((length, &bytes[space + 1..]))
}

/// Makes events of a JSON document, or of several in a row.
fn json_events(intake: &Arc<Intake>, text: &[u8]) -> Result<Events, Refusal> {
    let mut writer = EventWriter::new(intake);
    // Windows programs begin a text in UTF-8 with a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let parsed = if first == Some(&b'[') {
        deserializer
            .deserialize_seq(&mut writer)
            .and_then(|()| deserializer.end())
    } else {
        deserializer.into_iter::<&RawValue>().try_for_each(|value| {
            writer.write(value?);
            Ok(())
        })
    };
    if let Some(refusal) = writer.refusal.take() {
        return Err(refusal);
    }
    parsed.map_err(|error| Refusal::InvalidJson(error.to_string()))?;
    writer.flush();
    Ok(writer.events)
}

/// Writes JSON values as events into blocks.
struct EventWriter<'a> {
    intake: &'a Arc<Intake>,
    events: Events,
    block: Option<(Block, usize)>,
    /// Set when nothing more can be written; serde has no way to carry it.
    refusal: Option<Refusal>,
}

impl<'a> EventWriter<'a> {
    fn new(intake: &'a Arc<Intake>) -> Self {
        Self {
            intake,
            events: Events::default(),
            block: None,
            refusal: None,
        }
    }

    fn write(&mut self, value: &RawValue) {
        if self.refusal.is_some() {
            return;
        }
        let raw = value.get();
        let decoded = match raw.starts_with('"') {
            true => serde_json::from_str::<String>(raw).ok(),
            false => None,
        };
        let text = match &decoded {
            Some(text) if !text.contains(['\n', '\r']) => text.as_str(),
            _ => raw,
        };
        if let Err(refusal) = self.append(text.as_bytes()) {
            self.refusal = Some(refusal);
        }
    }

    fn append(&mut self, text: &[u8]) -> Result<(), Refusal> {
        let needed = text.len() + 1;
        if self
            .block
            .as_ref()
            .is_some_and(|(block, filled)| block.capacity() - filled < needed)
        {
            self.flush();
        }
        if self.block.is_none() {
            let size = BlockSize::fitting(needed).ok_or(Refusal::TooLarge(needed))?;
            let size = size.max(BlockSize::MEDIUM);
            let block = self
                .intake
                .memory
                .try_acquire(size)
                .ok_or(Refusal::NoMemory)?;
            self.block = Some((block, 0));
        }
        let (block, filled) = self.block.as_mut().expect("was just set");
        let free = &mut block.buffer_mut()[*filled..*filled + needed];
        free[..text.len()].copy_from_slice(text);
        // Line ends are white space in JSON text, and nothing else: inside strings they are escaped.
        for byte in &mut free[..text.len()] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        free[text.len()] = b'\n';
        let long = cut_long_lines(free, needed, self.intake.limits.max_event_bytes);
        *filled += long.end;
        self.events.truncated += long.truncated;
        block.note_cut(long.cut);
        Ok(())
    }

    fn flush(&mut self) {
        if let Some((mut block, filled)) = self.block.take() {
            block.set_filled(filled);
            self.events.blocks.push(block);
        }
    }
}

impl<'de> Visitor<'de> for &mut EventWriter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            self.write(element);
        }
        Ok(())
    }
}

fn describe(error: &io::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}
