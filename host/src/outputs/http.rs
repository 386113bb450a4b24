//! Events as the body of a `POST`: one event a line, at most `batch_size` of them, one request at a
//! time, so that order is kept.
//!
//! Redirects are not followed, the system's proxy settings are not used, and no more than
//! [`MAX_ANSWER_BYTES`] of an answer are read.

use std::{sync::Once, time::Duration};

use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};

use super::{queue::Group, retry::LONGEST_ASKED_DELAY, runner::Attempt, settings::HttpSettings};

/// Most bytes of events in one request, unless a single event is larger.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Most bytes of an answer that are read; reading it lets the connection be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Posts lines to one URL.
#[derive(Debug)]
pub(super) struct HttpPost {
    client: Client,
    settings: HttpSettings,
}

impl HttpPost {
    pub(super) fn build(settings: &HttpSettings) -> reqwest::Result<Self> {
        static PROVIDER: Once = Once::new();
        // ring and not the default aws-lc: it builds with a C compiler alone.
        PROVIDER.call_once(|| {
            // An error only says that another provider was installed first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.extend(settings.headers.clone());
        let client = Client::builder()
            .default_headers(headers)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("streamgate/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            settings: settings.clone(),
        })
    }

    pub(super) async fn send(&mut self, group: &Group, done: usize, batch_size: usize) -> Attempt {
        let body = body_of(group, done, batch_size);
        let bytes = body.len();
        let failed = |error, retry_after, answered| Attempt::Failed {
            bytes: 0,
            error,
            retry_after,
            answered,
        };
        let response = match self
            .client
            .post(self.settings.url.clone())
            .body(body)
            .send()
            .await
        {
            Ok(response) => response,
            Err(error) => return failed(describe(&error), None, false),
        };
        let status = response.status();
        let retry_after = asked_delay(response.headers());
        discard_answer(response).await;
        if status.is_success() {
            Attempt::Sent { bytes }
        } else if is_retryable(status) {
            failed(format!("the receiver answered {status}"), retry_after, true)
        } else {
            Attempt::Rejected {
                bytes,
                error: format!("the receiver answered {status}"),
            }
        }
    }
}

/// Copies whole events, at least one.
fn body_of(group: &Group, done: usize, batch_size: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut events = 0;
    for slice in group.slices(done) {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', slice) {
            let event = &slice[from..=end];
            let full = events == batch_size || body.len() + event.len() > MAX_BODY_BYTES;
            if full && events > 0 {
                return body;
            }
            body.extend_from_slice(event);
            events += 1;
            from = end + 1;
        }
    }
    body
}

/// 429 and 5xx may pass, as may a request that the receiver says came too slowly or too early.
///
/// Source: RFC 9110, section 15; RFC 6585, section 4; RFC 8470, section 5.2.
fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error()
}

/// Reads `Retry-After` in seconds. The form with a date is taken as "not said".
fn asked_delay(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_ASKED_DELAY))
}

async fn discard_answer(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > MAX_ANSWER_BYTES {
            break;
        }
    }
}

/// The whole chain of causes on one line; the URL is left out, it may hold a token.
fn describe(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_timeout() => "the request timed out".to_owned(),
        () if error.is_connect() => "cannot connect".to_owned(),
        () => "the request failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
