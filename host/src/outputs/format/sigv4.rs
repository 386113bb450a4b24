//! Signature Version 4, with which requests to AWS are signed.
//!
//! Source: AWS IAM user guide, "Create a signed AWS API request". Checked against the vectors
//! `get-vanilla` and `post-vanilla` of AWS's published test suite.

use std::time::SystemTime;

use reqwest::{Url, header::HeaderMap};
use ring::{digest, hmac};

use crate::timestamp;

/// What a request is signed with.
pub(super) struct Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
    pub(super) session_token: Option<String>,
}

/// What a signature is for.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// Returns the values of `x-amz-date` and `authorization` for a `POST`. `headers` are those that
/// are signed, besides `host` and `x-amz-date`, which are always signed.
pub(super) fn sign(
    credentials: &Credentials,
    scope: &Scope<'_>,
    (method, url): (&str, &Url),
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> (String, String) {
    let time = timestamp::basic(now);
    let day = &time[..8];
    let mut signed: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.trim().to_owned())
        })
        .collect();
    signed.push(("host".to_owned(), host(url)));
    signed.push(("x-amz-date".to_owned(), time.clone()));
    signed.sort();
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines: String = signed
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let request = format!(
        "{method}\n{path}\n{query}\n{lines}\n{names}\n{hash}",
        path = url.path(),
        query = url.query().unwrap_or_default(),
        hash = hex(digest::digest(&digest::SHA256, body).as_ref()),
    );
    let Scope { region, service } = scope;
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref())
    );
    let secret = format!("AWS4{}", credentials.secret_access_key);
    let mut key = hmac_sha256(secret.as_bytes(), day);
    for part in [*region, *service, "aws4_request"] {
        key = hmac_sha256(key.as_ref(), part);
    }
    let signature = hex(hmac_sha256(key.as_ref(), &to_sign).as_ref());
    let id = &credentials.access_key_id;
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    (time, authorization)
}

/// Returns the host as the request says it.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn signature_of(method: &str) -> (String, String) {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        };
        let scope = Scope {
            region: "us-east-1",
            service: "service",
        };
        // 2015-08-30 12:36:00 UTC
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let url = Url::parse("https://example.amazonaws.com/").unwrap();
        sign(
            &credentials,
            &scope,
            (method, &url),
            &HeaderMap::new(),
            b"",
            now,
        )
    }

    #[test]
    fn vectors_of_aws_are_signed_alike() {
        let (time, vanilla) = signature_of("GET");
        assert_eq!(time, "20150830T123600Z");
        assert_eq!(
            vanilla,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        let (_, post) = signature_of("POST");
        assert!(
            post.ends_with("5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            "{post}"
        );
    }
}
