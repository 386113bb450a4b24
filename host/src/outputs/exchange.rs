//! The seam between the outputs that speak HTTP and the formats that they speak: what a request
//! holds, and what an answer means.
//!
//! A [`Format`] turns events into the body of one request, under the limits of whoever receives it,
//! and reads the answer. It knows nothing of connections, retries or queues; the delivery knows
//! nothing of vendors.

use std::{
    fmt::Debug,
    time::{Duration, SystemTime},
};

use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};

use super::{
    queue::Arrived,
    secret::Secret,
    shown::{MOST_CHARS, one_line},
};

/// The body of one request, before compression.
#[derive(Debug, Default)]
pub(super) struct Payload {
    /// The body's bytes.
    pub(super) body: Vec<u8>,
    /// How many of the offered events were taken from the front, at least one; those that were set
    /// aside included. If all were set aside the body is empty and no request is made.
    pub(super) consumed: usize,
    /// Events among those consumed that are not in the body because this receiver never takes them.
    pub(super) set_aside: Vec<Refused>,
}

/// An event that the receiver will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Its place among the events that were consumed, from 0.
    pub(super) index: usize,
    /// Why, for the dead letters: lower-case, no final stop.
    pub(super) reason: String,
}

/// A receiver's answer. At most 64 KiB of the body are read.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// The status line's code.
    pub(super) status: StatusCode,
    /// The header fields.
    pub(super) headers: &'a HeaderMap,
    /// The beginning of the body.
    pub(super) body: &'a [u8],
}

/// What became of the events of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of them were taken.
    Sent,
    /// Some were refused for good and some may be tried again, by their index among those that were
    /// consumed; all others were taken. Each index is in one of the lists, ascending.
    Partly {
        /// Will never be taken.
        rejected: Vec<Refused>,
        /// Were not taken this time.
        retry: Vec<usize>,
    },
    /// None was taken; the same request may succeed later.
    Retry {
        /// How long the receiver asked to be left alone.
        after: Option<Duration>,
        /// What it said.
        error: String,
    },
    /// None was taken because the credentials are not accepted. The events are good: they are kept,
    /// and tried again slowly.
    Denied {
        /// What it said.
        error: String,
    },
    /// None was taken because the request is too large: half of the events may fit.
    Split {
        /// What it said.
        error: String,
    },
    /// None was taken, and none of them ever will be.
    Rejected {
        /// What it said.
        error: String,
    },
    /// None was taken; after these requests, which hold no events, the same may succeed.
    First {
        /// In this order.
        requests: Vec<First>,
        /// What it said.
        error: String,
    },
}

/// A request that has to be made before events can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct First {
    /// Header fields of its own.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub(super) body: Vec<u8>,
    /// An answer that has this in its body is as good as a success.
    pub(super) tolerated: &'static str,
}

/// How events are written into requests for one kind of receiver.
pub(super) trait Format: Debug + Send {
    /// Returns the value of `Content-Type`.
    fn content_type(&self) -> &'static str;

    /// Writes events into one body, from the front and in order, as many as the receiver's limits
    /// and `most` (events, at least one) let.
    fn encode(&mut self, events: &mut dyn Iterator<Item = Arrived<'_>>, most: usize) -> Payload;

    /// Returns where the secrets are that [`Format::sign`] needs.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }

    /// Adds what depends on the body, such as a signature. `body` is what travels, compressed if it
    /// is; `secrets` are those that [`Format::secrets`] names, in that order.
    ///
    /// # Errors
    /// Says which secret cannot be used; the request counts as [`Outcome::Denied`].
    fn sign(
        &mut self,
        _secrets: &[String],
        _url: &Url,
        _headers: &mut HeaderMap,
        _body: &[u8],
        _now: SystemTime,
    ) -> Result<(), String> {
        Ok(())
    }

    /// Says what an answer to the request with that payload means.
    fn outcome(&mut self, answer: &Answer<'_>, payload: &Payload) -> Outcome {
        let _ = payload;
        by_status(answer)
    }
}

/// What a status means where the receiver has no rules of its own.
///
/// Sources: RFC 9110, section 15; RFC 6585, section 4 (429); RFC 8470, section 5.2 (425).
pub(super) fn by_status(answer: &Answer<'_>) -> Outcome {
    let status = answer.status;
    let error = said(answer);
    match status.as_u16() {
        200..=299 => Outcome::Sent,
        401 | 403 => Outcome::Denied { error },
        413 => Outcome::Split { error },
        408 | 425 | 429 | 500..=599 => Outcome::Retry {
            after: asked_delay(answer.headers, SystemTime::now()),
            error,
        },
        _ => Outcome::Rejected { error },
    }
}

/// What a status means where a vendor's URL is the only one there is: that it is not found says
/// that the site or the account is wrong, and nothing of the events.
pub(super) fn by_status_of_vendor(answer: &Answer<'_>) -> Outcome {
    match answer.status {
        StatusCode::NOT_FOUND => Outcome::Denied {
            error: said(answer),
        },
        _ => by_status(answer),
    }
}

/// A receiver may ask for a pause with `Retry-After`; it is not given more than this.
const LONGEST_ASKED_DELAY: Duration = Duration::from_secs(300);

/// Reads `Retry-After`, in seconds or as a date.
///
/// Source: RFC 9110, section 10.2.3.
pub(super) fn asked_delay(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date that has passed asks for nothing.
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(delay.min(LONGEST_ASKED_DELAY))
}

/// Repeats what a receiver said, shortened and with control characters escaped.
pub(super) fn said(answer: &Answer<'_>) -> String {
    let status = answer.status;
    let body = String::from_utf8_lossy(answer.body);
    let shown = one_line(body.trim(), MOST_CHARS);
    match shown.is_empty() {
        true => format!("the receiver answered {status}"),
        false => format!("the receiver answered {status}: {shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(value: &str, now: u64) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        asked_delay(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now))
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT"; // RFC 9110's own example: 784111777
        assert_eq!(delay("120", 0), Some(Duration::from_secs(120)));
        assert_eq!(delay(date, 784_111_767), Some(Duration::from_secs(10)));
        assert_eq!(delay(date, 784_111_800), Some(Duration::ZERO));
        assert_eq!(delay("99999999999", 0), Some(LONGEST_ASKED_DELAY));
        assert_eq!(delay("soon", 0), None);
        assert_eq!(delay("-1", 0), None);
    }
}
