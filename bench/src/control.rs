//! A client for the gate's control API: one request a connection, and no more than we ask of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// How long one request may take; compiling a large module on a busy machine takes seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// A control API, by its address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Control(pub SocketAddr);

impl Control {
    /// Gets a JSON page; `None` for 404.
    ///
    /// # Errors
    /// If there is no answer, or another status than 200 and 404.
    pub(crate) fn get(self, path: &str) -> Result<Option<String>> {
        let answer = self.ask("GET", path, "", &[])?;
        if answer.status == 404 {
            return Ok(None);
        }
        answer.succeeded().map(Some)
    }

    /// Uploads a module, which the gate checks and compiles.
    ///
    /// # Errors
    /// If there is no answer, or the gate refuses the module.
    pub(crate) fn put_module(self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = format!("/modules/{name}");
        let answer = self.ask("PUT", &path, "application/wasm", bytes)?;
        answer.succeeded().map(drop)
    }

    /// Makes `rules` all the rules of the draft.
    ///
    /// # Errors
    /// If there is no answer, or the gate refuses one of them.
    pub(crate) fn put_rules(self, rules: &[Value]) -> Result<()> {
        let body = json!(rules).to_string();
        let answer = self.ask("PUT", "/rules", "application/json", body.as_bytes())?;
        answer.succeeded().map(drop)
    }

    /// Makes the draft live.
    ///
    /// # Errors
    /// If there is no answer, or the draft is not live then.
    pub(crate) fn publish(self) -> Result<()> {
        let answer = self.ask(
            "POST",
            "/publish?allow_removal=true&republish=true",
            "application/json",
            b"{}",
        )?;
        let body = answer.succeeded()?;
        let published: Value = serde_json::from_str(&body)
            .with_context(|| format!("cannot read the answer of `POST /publish`: {body}"))?;
        ensure!(
            published["status"] == "published",
            "`POST /publish`: expected the status `published`, found {body}"
        );
        Ok(())
    }

    /// Sends JSON and returns what comes back.
    ///
    /// # Errors
    /// If there is no answer, or another status than 200.
    pub(crate) fn send(self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let answer = self.ask(method, path, "application/json", body.as_bytes())?;
        let body = answer.succeeded()?;
        serde_json::from_str(&body).with_context(|| format!("cannot read {body}"))
    }

    fn ask(self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Answer> {
        let Self(address) = self;
        let request = format!("{method} http://{address}{path}");
        let failed = || format!("no answer to {request}");
        let mut stream =
            TcpStream::connect_timeout(&address, REQUEST_DEADLINE).with_context(failed)?;
        stream.set_nodelay(true).with_context(failed)?;
        stream
            .set_read_timeout(Some(REQUEST_DEADLINE))
            .with_context(failed)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n");
        if method != "GET" {
            let length = body.len();
            head.push_str(&format!(
                "content-type: {content_type}\r\ncontent-length: {length}\r\n"
            ));
        }
        head.push_str("connection: close\r\n\r\n");
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .with_context(failed)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).with_context(failed)?;
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok(Answer {
            status: status.with_context(failed)?,
            body: body.with_context(failed)?,
            request,
        })
    }
}

/// What came back.
struct Answer {
    request: String,
    status: u16,
    body: String,
}

impl Answer {
    /// Returns the body of an answer with status 200.
    fn succeeded(self) -> Result<String> {
        let Self {
            request,
            status,
            body,
        } = self;
        ensure!(status == 200, "{request} answers {status}: {body}");
        Ok(body)
    }
}
