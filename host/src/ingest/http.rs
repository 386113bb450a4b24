//! `POST /ingest`: lines, NDJSON, JSON or the frames of Logplex, plain or compressed.
//!
//! A request is taken whole or not at all: its events go to the workers when all of the body has
//! come, lies within the memory budget and makes sense; then it is answered with 202 and
//! `{"accepted": n}`. If the budget has no room within [`ROOM_PATIENCE`] the answer is 429 with
//! `Retry-After`.
//!
//! The budget is charged by what has come, and by what a decoder keeps. A body that does not go on
//! is on the list of those who let go when others need the room
//! ([`Holders`](crate::memory::Holders)): then it is answered with 429 too.
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
//! With durable ingest the answer waits until every output has all events delivered, on the disk of
//! its spool (after an `fsync`), or with its dead letters; events that a rule dropped count too. If
//! one was given up, or after 30 s, it is 503 with `Retry-After`, and the sender sends the request
//! again: events may then arrive twice, never not at all.

use std::{
    borrow::Cow,
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
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::BufMut;
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
    access::{Access, CHALLENGE, Denied},
    books::Ingest,
    http_server::ConnectionId,
    memory::{Block, BlockSize, Charge, Holder, Peer, Share},
    receipt::Receipt,
};

/// A body that has not come within this time is refused.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// With durable ingest: a sender whose events are not safe within this time is told to send them
/// again.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request waits for room in the budget.
const ROOM_PATIENCE: Duration = Duration::from_millis(500);

/// What a sender is asked to wait when the budget is spent.
const RETRY_AFTER_SECONDS: &str = "1";

/// A zstd frame may ask for this much memory, as a power of two: 8 MiB, the least that every
/// decoder has to support (RFC 8878, section 3.1.1.1.2).
const ZSTD_WINDOW_LOG: u32 = 23;

/// What a zstd decoder takes besides its window: its tables, a block before it is decoded, and one
/// behind it.
const ZSTD_STATE_BYTES: usize = 384 * 1024;

/// What a decoder of gzip or deflate takes: a window of 32 KiB and its tables.
const DEFLATE_BYTES: usize = 64 * 1024;

/// The first charge of a body that has to be in one piece, in bytes; then it is doubled.
const FIRST_STEP_BYTES: usize = 16 * 1024;

/// A string of JSON above this is charged while its escapes are undone, in bytes.
const UNCHARGED_TEXT_BYTES: usize = 16 * 1024;

/// Bodies of JSON or frames that have more bytes, unpacked, are taken apart away from the threads
/// that serve sockets: an array of small numbers of this size costs about half a millisecond.
const INLINE_JSON_BYTES: usize = 16 * 1024;

/// So many bytes of a body are moved on a thread that serves sockets.
const INLINE_MOVE_BYTES: usize = 512 * 1024;

/// Most bodies that are taken apart there at a time: the processors' number. Others wait.
static TAKING_APART: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism();
    Semaphore::new(processors.map_or(1, usize::from))
});

/// So many bytes of a body are unpacked before other work of the thread has its turn.
const BYTES_A_TURN: usize = 256 * 1024;

/// Returns the routes of the HTTP ingest.
///
/// With `senders`, a request needs a token of the role `sender`.
pub fn router(intake: Arc<Intake>, senders: Option<Access>) -> Router {
    let router = Router::new()
        .route("/ingest", post(ingest))
        .route("/ingest/", post(ingest))
        .fallback(|| async { Refusal::NotFound.into_response() })
        .method_not_allowed_fallback(|| async { Refusal::NotAllowed.into_response() })
        .with_state(Arc::clone(&intake));
    match senders {
        None => router,
        Some(access) => router.layer(from_fn_with_state((access, intake), check_sender)),
    }
}

/// Lets requests of senders through.
async fn check_sender(
    State((access, intake)): State<(Access, Arc<Intake>)>,
    request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let authorization = authorization.as_ref().map(HeaderValue::as_bytes);
    match access.sender(authorization).await {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            intake.books.refused(Ingest::Http);
            Refusal::Denied(denied).into_response()
        }
    }
}

/// Answers while the config is not known: a sender is to try again.
pub fn starting(_: &Uri) -> Response {
    Refusal::NotReady.into_response()
}

async fn ingest(
    State(intake): State<Arc<Intake>>,
    Extension(ConnectionId(connection)): Extension<ConnectionId>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let taken = timeout(BODY_TIMEOUT, read_events(&intake, peer, &headers, body));
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
            if matches!(refusal, Refusal::Evicted) {
                intake.books.evicted(Ingest::Http);
            }
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
    Denied(Denied),
    NotReady,
    NoMemory,
    Evicted,
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
            Self::Denied(Denied::Unavailable) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "tokens_unavailable",
                "the tokens could not be read for too long; send the request again after `Retry-After`"
                    .to_owned(),
            ),
            Self::Denied(Denied::Role) => (
                StatusCode::FORBIDDEN,
                "role_not_enough",
                "the token is not one of a sender; have one created with the role `sender`".to_owned(),
            ),
            Self::Denied(denied) => (
                StatusCode::UNAUTHORIZED,
                denied.code(),
                "events are taken with a token only; send `Authorization: Bearer TOKEN` with one of the \
                 role `sender`"
                    .to_owned(),
            ),
            Self::NotReady => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_ready",
                "the gate takes no events yet: it is starting, or cannot read its config; send the \
                 request again after `Retry-After`"
                    .to_owned(),
            ),
            Self::NoMemory => (
                StatusCode::TOO_MANY_REQUESTS,
                "no_memory",
                "the memory budget is spent; nothing of this request was taken, send it again \
                 after `Retry-After`"
                    .to_owned(),
            ),
            Self::Evicted => (
                StatusCode::TOO_MANY_REQUESTS,
                "body_evicted",
                "the memory budget is spent, and the rest of the body did not come before others \
                 needed its room; nothing of this request was taken, send it again after \
                 `Retry-After`, and faster or in parts"
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
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            let seconds = HeaderValue::from_static(RETRY_AFTER_SECONDS);
            headers.insert(header::RETRY_AFTER, seconds);
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(CHALLENGE);
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

async fn read_events(
    intake: &Arc<Intake>,
    peer: Peer,
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
    let (body, window) = decoded(headers, body)?;
    let mut body = Reading::new(intake, peer, body, window).await?;
    let content_type = text_of(headers, header::CONTENT_TYPE).to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let take: fn(EventWriter, &[u8]) -> Result<Events, Refusal> = match essence {
        "application/logplex-1" => framed_events,
        _ => json_events,
    };
    if matches!(essence, "application/json" | "application/logplex-1") || essence.ends_with("+json")
    {
        let (text, of_text) = body.read_whole(announced).await?;
        // Whoever needs it more can no longer have it; a decoder is not needed any more.
        drop(body);
        let room = BlockSize::MEDIUM
            .bytes()
            .min(text.len().next_multiple_of(FIRST_STEP_BYTES));
        let writer = EventWriter::new(intake, charge(intake, text.len() + room).await?);
        let length = text.len();
        let take_apart = move || {
            let events = take(writer, &text);
            drop((text, of_text));
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
        body.read_lines().await
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

/// What a decoder keeps of what came out of it.
#[derive(Debug, Clone, Copy)]
enum Window {
    /// There is no decoder.
    None,
    /// So much, whatever comes.
    Fixed(usize),
    /// So much, and besides it what came out, up to another bound.
    Growing(usize, usize),
}

/// Returns what undoes the encoding of a body, and what that takes.
fn decoded(headers: &HeaderMap, body: Body) -> Result<(Reader, Window), Refusal> {
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
        "" => (Box::pin(body), Window::None),
        "gzip" | "x-gzip" => (
            Box::pin(GzipMembers::new(Box::pin(body))),
            Window::Fixed(DEFLATE_BYTES),
        ),
        // "deflate" is the zlib format (RFC 9110, section 8.4.1.2).
        "deflate" => {
            let mut decoder = ZlibDecoder::new(body);
            decoder.multiple_members(true);
            (Box::pin(decoder), Window::Fixed(DEFLATE_BYTES))
        }
        "zstd" => {
            let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
            let mut decoder = ZstdDecoder::with_params(body, &[window]);
            decoder.multiple_members(true);
            let window = Window::Growing(ZSTD_STATE_BYTES, 1 << ZSTD_WINDOW_LOG);
            (Box::pin(decoder), window)
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

/// A body on its way in, charged to the budget as it comes.
struct Reading<'a> {
    intake: &'a Arc<Intake>,
    body: Reader,
    holder: Holder,
    /// What the decoder keeps, and its charge.
    window: Window,
    kept: Option<Charge>,
    kept_bytes: usize,
    /// What has come out of the decoder.
    total: usize,
}

impl<'a> Reading<'a> {
    async fn new(
        intake: &'a Arc<Intake>,
        peer: Peer,
        body: Reader,
        window: Window,
    ) -> Result<Self, Refusal> {
        let mut reading = Self {
            intake,
            body,
            holder: intake.memory.holders.enter(peer, Share::Http),
            window,
            kept: None,
            kept_bytes: 0,
            total: 0,
        };
        reading.charge_window().await?;
        Ok(reading)
    }

    /// Charges what the decoder keeps by now, before it is given the time to keep more.
    async fn charge_window(&mut self) -> Result<(), Refusal> {
        let bytes = match self.window {
            Window::None => 0,
            Window::Fixed(bytes) => bytes,
            // No page of a window is touched before something is written there.
            Window::Growing(state, most) => state + self.total.min(most),
        };
        if bytes > self.kept_bytes {
            let bytes = bytes.next_multiple_of(64 * 1024);
            let more = charge(self.intake, bytes - self.kept_bytes).await?;
            match &mut self.kept {
                Some(kept) => kept.merge(more),
                None => self.kept = Some(more),
            }
            self.kept_bytes = bytes;
        }
        Ok(())
    }

    /// Reads on, holding so many bytes meanwhile; 0 at the end.
    async fn read(&mut self, buffer: &mut impl BufMut, held: usize) -> Result<usize, Refusal> {
        self.charge_window().await?;
        self.holder.hold(held + self.kept_bytes);
        let read = tokio::select! {
            biased;
            read = self.body.read_buf(buffer) => read,
            () = self.holder.evicted() => return Err(Refusal::Evicted),
        };
        let read = read.map_err(|error| Refusal::Undecodable(describe(&error)))?;
        // Unpacking a body that has come never waits for anything.
        if self.total / BYTES_A_TURN < (self.total + read) / BYTES_A_TURN {
            yield_now().await;
        }
        self.total += read;
        match self.total > self.intake.limits.max_body_bytes {
            true => Err(Refusal::TooLarge(self.intake.limits.max_body_bytes)),
            false => Ok(read),
        }
    }

    /// Reads a body of lines straight into blocks, each of the next size.
    async fn read_lines(mut self) -> Result<Events, Refusal> {
        let mut framer = Framer::new(self.intake.limits.max_event_bytes);
        let mut events = Events::default();
        let mut held = 0;
        let mut size = BlockSize::SMALL;
        let mut block = block_within(self.intake, size).await?;
        let (mut carried, mut filled) = (0, 0);
        loop {
            let capacity = block.capacity();
            let mut free = &mut block.buffer_mut()[filled..capacity];
            let read = self.read(&mut free, held + capacity).await?;
            filled += read;
            // A block goes on when it is full; a body comes in many small reads.
            if read > 0 && filled < capacity {
                continue;
            }
            let framed = framer.frame(block.buffer_mut(), carried, filled);
            events.truncated += framed.truncated;
            block.note_cut(framed.cut);
            let (rest, charge) = block.split_off(framed.rest.clone());
            if framed.end > 0 {
                held += capacity;
                block.set_filled(framed.end);
                events.blocks.push(block);
            } else {
                drop(block);
            }
            if read == 0 {
                if !rest.is_empty() {
                    events.truncated += u64::from(framer.is_above_limit(&rest));
                    events.blocks.push(self.block_of(rest, charge));
                }
                return Ok(events);
            }
            size = size.larger().unwrap_or(size).min(BlockSize::LARGE);
            let fitting = BlockSize::fitting(rest.len() + 1).unwrap_or(BlockSize::LARGEST);
            block = block_within(self.intake, size.max(fitting)).await?;
            block.buffer_mut()[..rest.len()].copy_from_slice(&rest);
            (carried, filled) = (rest.len(), rest.len());
        }
    }

    /// Makes a block of one line without its line feed.
    fn block_of(&self, mut line: Vec<u8>, charge: Charge) -> Block {
        line.extend_from_slice(line_ending(&line));
        let filled = line.len();
        let mut block = Block::from_charged(line, charge, &self.intake.memory);
        block.set_filled(filled);
        block
    }

    /// Reads a body that has to be in one piece.
    async fn read_whole(
        &mut self,
        announced: Option<usize>,
    ) -> Result<(Vec<u8>, Option<Charge>), Refusal> {
        // One more byte tells that there are no more.
        let most = match (self.window, announced) {
            (Window::None, Some(length)) => length + 1,
            _ => self.intake.limits.max_body_bytes + 1,
        };
        let (mut text, mut of_text) = (Vec::new(), None);
        loop {
            if text.len() == text.capacity() {
                let room = (2 * text.len())
                    .max(FIRST_STEP_BYTES)
                    .min(most.max(text.len() + 1));
                // Both are there while the one is copied to the other.
                let larger = charge(self.intake, room).await?;
                let is_short = text.len() <= INLINE_MOVE_BYTES;
                let grow = move || {
                    let mut grown = Vec::with_capacity(room);
                    grown.extend_from_slice(&text);
                    grown
                };
                text = match is_short {
                    true => grow(),
                    false => spawn_blocking(grow)
                        .await
                        .map_err(|error| Refusal::Undecodable(error.to_string()))?,
                };
                of_text = Some(larger);
            }
            let held = text.capacity();
            if self.read(&mut text, held).await? == 0 {
                return Ok((text, of_text));
            }
        }
    }
}

async fn charge(intake: &Intake, bytes: usize) -> Result<Charge, Refusal> {
    let charge = intake
        .memory
        .charge_within(Share::Http, bytes, ROOM_PATIENCE);
    charge.await.ok_or(Refusal::NoMemory)
}

async fn block_within(intake: &Intake, size: BlockSize) -> Result<Block, Refusal> {
    let block = intake
        .memory
        .acquire_within(Share::Http, size, ROOM_PATIENCE);
    block.await.ok_or(Refusal::NoMemory)
}

/// Makes events of frames, each with its length before it. A line feed at the end of a frame is no
/// part of its event; a frame of several lines is several events.
fn framed_events(mut writer: EventWriter, bytes: &[u8]) -> Result<Events, Refusal> {
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
fn json_events(mut writer: EventWriter, text: &[u8]) -> Result<Events, Refusal> {
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
struct EventWriter {
    intake: Arc<Intake>,
    /// Charged for its blocks already.
    room: Charge,
    events: Events,
    block: Option<(Block, usize)>,
    /// Set when nothing more can be written; serde has no way to carry it.
    refusal: Option<Refusal>,
}

impl EventWriter {
    fn new(intake: &Arc<Intake>, room: Charge) -> Self {
        Self {
            intake: Arc::clone(intake),
            room,
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
        let mut charge = None;
        let decoded: Option<Cow<'_, str>> = match raw.strip_prefix('"') {
            // Without escapes the text is between the quotes as it is.
            Some(rest) if memchr::memchr(b'\\', raw.as_bytes()).is_none() => {
                rest.strip_suffix('"').map(Cow::Borrowed)
            }
            Some(_) => {
                if raw.len() > UNCHARGED_TEXT_BYTES {
                    // What it grows in may be twice as long, and is copied at the end.
                    charge = self.intake.memory.try_charge(Share::Http, 3 * raw.len());
                    if charge.is_none() {
                        self.refusal = Some(Refusal::NoMemory);
                        return;
                    }
                }
                serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
            }
            None => None,
        };
        let text = match &decoded {
            Some(text) if !text.contains(['\n', '\r']) => text.as_ref(),
            _ => raw,
        };
        if let Err(refusal) = self.append(text.as_bytes()) {
            self.refusal = Some(refusal);
        }
        drop((decoded, charge));
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
            let size = size.max(match self.events.blocks.is_empty() {
                true => BlockSize::SMALL,
                false => BlockSize::MEDIUM,
            });
            let block = self.intake.memory.try_acquire_from(&mut self.room, size);
            let block = block.ok_or(Refusal::NoMemory)?;
            self.block = Some((block, 0));
        }
        let (block, filled) = self.block.as_mut().expect("was just set");
        let free = &mut block.buffer_mut()[*filled..*filled + needed];
        free[..text.len()].copy_from_slice(text);
        // Line ends are white space in JSON text, and nothing else: inside strings they are
        // escaped.
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

impl<'de> Visitor<'de> for &mut EventWriter {
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
