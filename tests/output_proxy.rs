//! Outputs that send their requests through a proxy.

use serde_json::{Value, json};

use crate::support::{
    Gate, HttpProxy, HttpReceiver, Setup, certificates, eventually, server_config,
};

fn numbered(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| format!("event {number:08}\n").into_bytes())
        .collect()
}

fn last_error(gate: &Gate, output: usize) -> String {
    let status = gate.get("/status");
    let error = &status["outputs"][output]["last_error"];
    error.as_str().unwrap_or_default().to_owned()
}

/// A receiver at `http://` and one at `https://`, and an output to each through a proxy.
struct Receivers {
    folder: tempfile::TempDir,
    plain: HttpReceiver,
    secured: HttpReceiver,
}

impl Receivers {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        certificates(folder.path());
        let config = server_config(folder.path(), "server", false);
        Self {
            plain: HttpReceiver::start(),
            secured: HttpReceiver::secured(config),
            folder,
        }
    }

    fn outputs(&self, more: &Value) -> [Value; 2] {
        let mut plain = json!({"id": "plain", "type": "http", "url": self.plain.url()});
        let mut secured = json!({
            "id": "secured", "type": "http", "url": self.secured.url(),
            "tls": {"ca": self.folder.path().join("ca.pem")},
        });
        for (name, value) in more.as_object().expect("fields") {
            plain[name] = value.clone();
            secured[name] = value.clone();
        }
        [plain, secured]
    }

    #[track_caller]
    fn wait_for(&self, events: &[u8]) {
        self.plain.wait_for(events);
        self.secured.wait_for(events);
        for request in [self.plain.requests(), self.secured.requests()].concat() {
            assert_eq!(request.header("proxy-authorization"), None, "{request:?}");
        }
    }
}

/// Waits until both outputs show an error with this text; no event is given up meanwhile.
#[track_caller]
fn both_fail(gate: &Gate, text: &str, events: u64) {
    for output in 0..2 {
        eventually("the error is shown", || {
            last_error(gate, output).contains(text)
        });
        let stats = gate.pipeline();
        assert_eq!(stats["outputs"][output]["queued"], events, "{stats:#}");
    }
}

#[test]
fn requests_go_through_the_proxy_and_secured_ones_in_a_tunnel() {
    let (receivers, proxy) = (Receivers::start(), HttpProxy::start());
    // Only the proxy looks the name of the receiver up.
    let named = HttpReceiver::start();
    let named_output = json!({
        "id": "named", "type": "http", "proxy": proxy.url(),
        "url": format!("http://receiver.invalid:{}/logs?a=b", named.port()),
    });
    let [plain, secured] = receivers.outputs(&json!({"proxy": proxy.url()}));
    let gate = Setup::new().start();
    gate.run(&json!([]), &[plain, secured, named_output]);
    let events = numbered(1_000);
    gate.send(&events);
    receivers.wait_for(&events);
    named.wait_for(&events);
    assert!(named.requests()[0].line.starts_with("POST /logs?a=b "));
    let heads = proxy.heads();
    let came = |start: String| heads.iter().any(|head| head.starts_with(&start));
    let plain = format!("POST {}/ HTTP/1.1\r\n", receivers.plain.url());
    assert!(came(plain), "{heads:#?}");
    let tunnel = format!("CONNECT 127.0.0.1:{} ", receivers.secured.port());
    assert!(came(tunnel), "{heads:#?}");
    assert!(came(format!(
        "POST http://receiver.invalid:{}/",
        named.port()
    )));
    gate.finish(1_000);
}

/// The proxy is verified with the same authority as the receivers.
#[test]
fn requests_go_through_a_proxy_that_is_secured_itself() {
    let receivers = Receivers::start();
    let config = server_config(receivers.folder.path(), "server", false);
    let proxy = HttpProxy::secured(config);
    let [mut plain, secured] = receivers.outputs(&json!({"proxy": proxy.url()}));
    let gate = Setup::new().start();
    gate.run(&json!([]), &[plain.clone(), secured.clone()]);
    gate.send(b"an event\n");
    receivers.secured.wait_for(b"an event\n");
    eventually("the certificate of the proxy is refused", || {
        last_error(&gate, 0).contains("certificate")
    });
    assert!(receivers.plain.requests().is_empty());
    plain["tls"] = secured["tls"].clone();
    gate.run(&json!([]), &[plain, secured]);
    receivers.wait_for(b"an event\n");
    gate.finish(1);
}

/// Credentials that are missing, wrong, and right: events wait, and the file is read again.
#[test]
fn proxy_gets_credentials_and_events_wait_until_it_accepts_them() {
    let receivers = Receivers::start();
    let proxy = HttpProxy::expecting("Basic dXNlcjpwYXNz");
    let setup = Setup::new();
    let folder = setup.directory().join("secrets");
    std::fs::create_dir(&folder).expect("the directory is ours");
    let file = folder.join("proxy");
    std::fs::write(&file, "d3Jvbmc6\n").expect("the directory is ours");
    let gate = setup
        .flag("secret-files", folder.display().to_string())
        .env("STREAMGATE_SECRET_PROXY", "Basic dXNlcjpwYXNz")
        .start();
    let mut events = numbered(10);
    gate.run(
        &json!([]),
        &receivers.outputs(&json!({"proxy": proxy.url()})),
    );
    gate.send(&events);
    both_fail(&gate, "answered 407: it expects credentials; set", 10);
    let by_file = json!({
        "proxy": proxy.url(),
        "proxy_authorization": format!("Basic ${{file:{}}}", file.display()),
    });
    gate.run(&json!([]), &receivers.outputs(&by_file));
    both_fail(
        &gate,
        "answered 407: it does not accept the credentials",
        10,
    );
    let log = gate.log();
    assert!(!format!("{log:?}").contains("d3Jvbmc6"), "{log:?}");
    std::fs::write(&file, "dXNlcjpwYXNz\n").expect("the directory is ours");
    receivers.wait_for(&events);
    let by_variable = json!({
        "proxy": proxy.url(), "proxy_authorization": "env:STREAMGATE_SECRET_PROXY",
    });
    gate.run(&json!([]), &receivers.outputs(&by_variable));
    gate.send(b"one more\n");
    events.extend_from_slice(b"one more\n");
    receivers.wait_for(&events);
    for path in ["/outputs", "/status", "/revisions/3"] {
        let shown = gate.get(path).to_string();
        assert!(!shown.contains("dXNlcjpwYXNz"), "{path}: {shown}");
    }
    gate.finish(11);
}

#[test]
fn nothing_is_lost_while_the_proxy_is_down() {
    let (receivers, mut proxy) = (Receivers::start(), HttpProxy::start());
    let gate = Setup::new().start();
    gate.run(
        &json!([]),
        &receivers.outputs(&json!({"proxy": proxy.url()})),
    );
    let mut events = numbered(100);
    gate.send(&events);
    receivers.wait_for(&events);
    proxy.pause();
    gate.send(&events);
    both_fail(&gate, &format!("through the proxy `{}`", proxy.url()), 100);
    proxy.resume();
    events.extend_from_within(..);
    receivers.wait_for(&events);
    gate.finish(200);
}

/// Requests are tried again after an invalid answer, and an output with another proxy takes the
/// events over.
#[test]
fn nothing_is_lost_when_the_proxy_answers_garbage_or_is_replaced() {
    let receivers = Receivers::start();
    for garbage in [
        &b"\0\x01nonsense\r\n\r\n"[..],
        b"",
        b"HTTP/1.1 999999 \x1b[31mred\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        let proxy = HttpProxy::answering(garbage);
        let gate = Setup::new().start();
        gate.run(
            &json!([]),
            &receivers.outputs(&json!({"proxy": proxy.url()})),
        );
        gate.send(&numbered(10));
        both_fail(&gate, "through the proxy", 10);
        let [plain, secured] = [receivers.plain.taken(), receivers.secured.taken()];
        let works = HttpProxy::start();
        gate.run(
            &json!([]),
            &receivers.outputs(&json!({"proxy": works.url()})),
        );
        let events = numbered(10);
        receivers.plain.wait_for(&[&plain[..], &events].concat());
        receivers
            .secured
            .wait_for(&[&secured[..], &events].concat());
        gate.finish(10);
    }
    let proxy = HttpProxy::answering(b"HTTP/1.1 403 Tested\r\nContent-Length: 0\r\n\r\n");
    let gate = Setup::new().start();
    gate.run(
        &json!([]),
        &receivers.outputs(&json!({"proxy": proxy.url()})),
    );
    gate.send(&numbered(10));
    both_fail(&gate, "", 10);
    eventually("it is shown", || {
        last_error(&gate, 1).contains("answered `CONNECT` with another status than 200")
    });
    gate.kill();
}

#[test]
fn proxy_settings_of_the_environment_are_ignored() {
    let (receivers, proxy) = (Receivers::start(), HttpProxy::answering(b"nonsense"));
    let mut setup = Setup::new();
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
    ] {
        setup = setup.env(name, proxy.url());
    }
    let gate = setup.start();
    gate.run(&json!([]), &receivers.outputs(&json!({})));
    gate.send(b"an event\n");
    receivers.wait_for(b"an event\n");
    assert!(proxy.heads().is_empty());
    gate.stop();
    let works = HttpProxy::start();
    let gate = Setup::new().env("NO_PROXY", "*").start();
    gate.run(
        &json!([]),
        &receivers.outputs(&json!({"proxy": works.url()})),
    );
    gate.send(b"an event\n");
    receivers.wait_for(b"an event\nan event\n");
    assert!(works.heads().len() >= 2);
    gate.stop();
}

#[track_caller]
fn refused(gate: &Gate, output: &Value, code: &str, pointer: &str) -> String {
    let answer = gate.try_edit("POST", "/outputs", output);
    assert_eq!(answer.status, 422, "{output}: {answer}");
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{output}: {problem}");
    assert_eq!(problem["pointer"], pointer, "{output}: {problem}");
    let detail = problem["detail"].as_str().expect("a text").to_owned();
    assert!(!detail.contains("hunter2"), "{detail}");
    detail
}

#[test]
fn proxies_that_cannot_be_used_are_refused() {
    let gate = Setup::new().env("DD_API_KEY", "a").start();
    let through = |proxy: &str| json!({"type": "http", "url": "http://h/", "proxy": proxy});
    let own = format!("http://{}", gate.control());
    for (proxy, code) in [
        ("http://user:hunter2@proxy:3128", "credentials_in_url"),
        ("user:hunter2@proxy:3128", "credentials_in_url"),
        ("https://user@proxy:3128", "credentials_in_url"),
        ("socks5://proxy:1080", "invalid_url"),
        ("proxy:3128", "invalid_url"),
        ("proxy", "invalid_url"),
        ("", "invalid_url"),
        ("http://proxy:3128/path", "invalid_url"),
        ("http://proxy:3128/?a=b", "invalid_url"),
        ("http://proxy:3128/#a", "invalid_url"),
        ("http://pro xy:3128", "invalid_url"),
        ("http://proxy:3128\n", "invalid_url"),
        ("http://169.254.169.254:80", "forbidden_address"),
        ("http://2852039166", "forbidden_address"),
        ("https://[::ffff:169.254.169.254]", "forbidden_address"),
        ("http://0.0.0.0:3128", "forbidden_address"),
        (&own, "forbidden_address"),
    ] {
        refused(&gate, &through(proxy), code, "/proxy");
        let mut vendor = json!({"type": "datadog", "api_key": "env:DD_API_KEY"});
        vendor["proxy"] = json!(proxy);
        refused(&gate, &vendor, code, "/proxy");
    }
    for (authorization, code) in [
        ("Basic hunter2", "literal_secret"),
        ("hunter2", "literal_secret"),
        ("", "literal_secret"),
        ("Basic ${env:PATH}", "forbidden_secret"),
        ("env:PATH", "forbidden_secret"),
        ("file:/etc/passwd", "forbidden_secret"),
        ("Basic ${env:STREAMGATE_SECRET_UNSET}", "unreadable_secret"),
        ("Basic ${env:DD_API_KEY", "invalid_secret"),
        ("\u{7}${env:DD_API_KEY}", "invalid_header"),
    ] {
        let mut output = through("http://proxy:3128");
        output["proxy_authorization"] = json!(authorization);
        refused(&gate, &output, code, "/proxy_authorization");
    }
    let alone = json!({
        "type": "http", "url": "http://h/", "proxy_authorization": "env:DD_API_KEY",
    });
    refused(&gate, &alone, "invalid_proxy", "/proxy_authorization");
    let header = json!({
        "type": "http", "url": "http://h/", "headers": {"Proxy-Authorization": "${env:DD_API_KEY}"},
    });
    let pointer = "/headers/Proxy-Authorization";
    let detail = refused(&gate, &header, "reserved_header", pointer);
    assert!(detail.contains("`proxy_authorization`"), "{detail}");
    for (output, fields) in [
        (
            json!({"type": "tcp", "address": "h:1"}),
            "expected one of `address`, `tls`, `spool`, `dead_letters`",
        ),
        (
            json!({"type": "file", "path": "a"}),
            "expected one of `path`",
        ),
        (json!({"type": "console"}), "there are no fields"),
    ] {
        let mut output = output;
        output["proxy"] = json!("http://proxy:3128");
        let detail = refused(&gate, &output, "invalid_output", "/proxy");
        assert!(detail.contains("unknown field `proxy`"), "{detail}");
        assert!(detail.contains(fields), "{detail}");
    }
    gate.finish(0);
}

/// The name of a proxy is looked up when a connection is made, and its address is checked then.
#[test]
fn name_of_a_proxy_that_leads_to_the_gate_itself_is_not_connected_to() {
    let receivers = Receivers::start();
    let gate = Setup::new().start();
    let proxy = format!("http://localhost:{}", gate.tcp().port());
    gate.run(&json!([]), &receivers.outputs(&json!({"proxy": proxy})));
    gate.send(b"an event\n");
    both_fail(&gate, "through the proxy", 1);
    // A request would have been received as lines.
    assert_eq!(gate.pipeline()["received"], 1);
    gate.kill();
}
