//! What a config can have sent and shown: secrets by reference from where they may be, never
//! written out, and nothing that a terminal would act on.

use serde_json::{Value, json};

use crate::support::{
    Gate, HttpReceiver, RedisServer, Reply, Setup, eventually, member, replace_in_files,
};

#[track_caller]
fn refused(gate: &Gate, output: &Value, code: &str, pointer: &str) -> String {
    let answer = gate.try_edit("POST", "/outputs", output);
    assert_eq!(answer.status, 422, "{output}: {answer}");
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{output}: {problem}");
    assert_eq!(problem["pointer"], pointer, "{output}: {problem}");
    problem["detail"].as_str().expect("a text").to_owned()
}

#[test]
fn references_lead_only_to_secrets_and_the_refusal_names_the_setting() {
    let setup = Setup::new()
        .env("HOME_OF_NOTHING", "hunter2")
        .env("TEAM_TOKEN", "a")
        .env("DD_API_KEY", "a")
        .env("STREAMGATE_SECRET_ENV", "OTHER,TEAM_*");
    let folder = setup.directory().join("secrets");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("token"), "a").unwrap();
    std::fs::write(setup.directory().join("file"), "hunter2").unwrap();
    let outside = setup.directory().join("file").display().to_string();
    let gate = setup
        .flag("secret-files", folder.display().to_string())
        .start();
    let http = |value: &str| json!({"type": "http", "url": "http://h/", "headers": {"a": value}});
    for (reference, flag) in [
        ("env:HOME_OF_NOTHING", "--secret-env HOME_OF_NOTHING"),
        ("env:NOT_THERE", "--secret-env NOT_THERE"),
        ("env:PATH", "--secret-env PATH"),
        ("env:AWS_SECRET_ACCESS_KEY", "--secret-env"),
        ("file:/etc/passwd", "--secret-files /etc"),
        ("file:/proc/self/environ", "--secret-files"),
        ("file:/not/there", "--secret-files /not"),
        (&format!("file:{outside}"), "--secret-files"),
        (
            &format!("file:{}/../file", folder.display()),
            "--secret-files",
        ),
    ] {
        let output = http(&format!("x ${{{reference}}}"));
        let detail = refused(&gate, &output, "forbidden_secret", "/headers/a");
        assert!(detail.contains(flag), "{detail}");
        for (kind, field) in [("datadog", "api_key"), ("newrelic", "license_key")] {
            let output = json!({"type": kind, field: reference});
            let pointer = format!("/{field}");
            let detail = refused(&gate, &output, "forbidden_secret", &pointer);
            assert!(!detail.contains("hunter2"), "{detail}");
        }
    }
    let file = format!("${{file:{}/token}}", folder.display());
    for value in ["${env:TEAM_TOKEN}", "${env:DD_API_KEY}", &file] {
        gate.edit("POST", "/outputs", &http(value));
    }
    gate.finish(0);
}

#[test]
fn secrets_that_are_written_out_are_refused_and_not_repeated() {
    let gate = Setup::new().start();
    for name in [
        "authorization",
        "Authorization",
        "cookie",
        "x-api-key",
        "X_Api_Key",
        "api-key",
        "apikey",
        "x-auth-token",
        "x-auth",
        "x-license-key",
        "x-insert-key",
        "dd-api-key",
        "dd-application-key",
        "x-amz-security-token",
        "x-goog-api-key",
        "x-logzio-token",
        "x-client-secret",
        "x-password",
        "x-credentials",
        "x-hub-signature-256",
        "ocp-apim-subscription-key",
        "x-functions-key",
    ] {
        let output = json!({"type": "http", "url": "http://h/", "headers": {name: "hunter2"}});
        let pointer = format!("/headers/{name}");
        let detail = refused(&gate, &output, "literal_secret", &pointer);
        assert!(
            detail.contains("${env:") && !detail.contains("hunter2"),
            "{detail}"
        );
    }
    for name in [
        "api_key",
        "token",
        "access_token",
        "sig",
        "key",
        "X-Amz-Signature",
    ] {
        let output = json!({"type": "http", "url": format!("http://h/a?b=c&{name}=hunter2")});
        let detail = refused(&gate, &output, "literal_secret", "/url");
        assert!(!detail.contains("hunter2"), "{detail}");
    }
    let twice = json!({
        "type": "http", "url": "http://h/", "headers": {"X-Team": "a", "x-team": "b"},
    });
    refused(&gate, &twice, "duplicate_header", "/headers/x-team");
    let letters = json!({"type": "http", "url": "http://h/", "dead_letters": true});
    refused(&gate, &letters, "invalid_output", "/dead_letters");
    for wrong in [json!("all"), json!(5), json!([1])] {
        let letters = json!({"type": "http", "url": "http://h/", "dead_letters": wrong});
        refused(&gate, &letters, "invalid_output", "/dead_letters");
    }
    gate.finish(0);
}

/// A config from before these were refused runs; what it has is flagged, and hidden.
#[test]
fn live_config_with_other_secrets_runs_and_shows_none() {
    let receiver = HttpReceiver::judging(|request| match request.header("authorization") {
        Some("Bearer hunter2") if request.header("x-from") == Some("ours") => Reply::Status(200),
        _ => Reply::Status(401),
    });
    let store = tempfile::tempdir().expect("a directory");
    let start = || {
        Setup::new()
            .env("OURS", "ours")
            .env("DD_API_KEY", "a")
            .store(store.path())
            .start()
    };
    let gate = start();
    let output = json!({
        "id": "out", "type": "http", "url": format!("{}/?a=hunter2", receiver.url()),
        "headers": {"x-first": "Bearer hunter2", "x-from": "${env:DD_API_KEY}"},
    });
    gate.run(&json!([]), &[output]);
    gate.stop();
    for (from, to) in [
        ("x-first", "authorization"),
        ("env:DD_API_KEY", "env:OURS"),
        ("?a=", "?token="),
    ] {
        replace_in_files(store.path(), from, to);
    }
    let gate = start();
    gate.send(b"an event\n");
    receiver.wait_for(b"an event\n");
    let status = gate.get("/status");
    let warnings = status["outputs"][0]["warnings"].as_array().expect("a list");
    let warned = |text: &str| warnings.iter().any(|it| it.to_string().contains(text));
    assert!(warned("/headers/authorization"), "{status:#}");
    assert!(warned("--secret-env OURS"), "{status:#}");
    assert!(warned("/url"), "{status:#}");
    let mut hidden = 0;
    for path in [
        "/outputs",
        "/outputs/out",
        "/draft",
        "/revisions",
        "/revisions/1",
        "/status",
        "/stats",
    ] {
        let shown = gate.get(path).to_string();
        assert!(!shown.contains("hunter2"), "{path}: {shown}");
        hidden += usize::from(shown.contains("<hidden>"));
    }
    assert!(hidden >= 4, "{hidden}");
    let answer = gate.try_edit("POST", "/publish", &Value::Null).expect(422);
    assert!(!answer.text().contains("hunter2"), "{answer}");
    // What was hidden is not taken for a secret.
    let shown = gate.get("/outputs/out");
    gate.try_edit("PUT", "/outputs/out", &shown).expect(422);
    let log = gate.finish(1).stderr;
    assert!(!log.contains("hunter2"), "{log}");
    let lines = log
        .lines()
        .filter(|line| line.contains("could not be published again"));
    assert_eq!(lines.count(), 3, "{log}");
}

const ODD: &str = "\u{1b}[31mred\u{7}\u{9b}2J\r\n\u{202e}";

fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\u{202e}')
}

#[test]
fn what_a_receiver_says_is_shown_without_its_control_characters() {
    for status in [400, 401, 404, 500] {
        let body = format!("{ODD}{}", "x".repeat(10_000));
        let receiver = HttpReceiver::judging(move |_| Reply::Body(status, body.clone()));
        let gate = Setup::new().start();
        let output = json!({"id": "out", "type": "http", "url": receiver.url()});
        gate.run(&json!([]), &[output]);
        gate.send(b"an event\n");
        eventually("the error is shown", || {
            gate.get("/status")["outputs"][0]["last_error"].is_string()
        });
        let status = gate.get("/status");
        let error = status["outputs"][0]["last_error"].as_str().expect("a text");
        assert!(
            is_plain(error) && error.contains("\\u{1b}[31mred"),
            "{error:?}"
        );
        assert!(error.chars().count() < 400, "{error}");
        for line in gate.log() {
            for (_, value) in line.as_object().expect("fields") {
                assert!(value.as_str().is_none_or(is_plain), "{line}");
            }
        }
        gate.kill();
    }
}

/// A reason phrase is not repeated; one with control characters is no answer.
#[test]
fn reason_of_a_status_line_is_not_repeated() {
    let raw = b"HTTP/1.1 500 \x1b[31mred\x1b]0;title\x07\r\nContent-Length: 0\r\n\r\n";
    let receiver = HttpReceiver::judging(move |_| Reply::Raw(raw));
    let gate = Setup::new().start();
    let output = json!({"id": "out", "type": "http", "url": receiver.url()});
    gate.run(&json!([]), &[output]);
    gate.send(b"an event\n");
    eventually("the error is shown", || {
        let status = gate.get("/status");
        let error = status["outputs"][0]["last_error"].as_str();
        error.is_some_and(|error| is_plain(error) && !error.contains("title"))
    });
    gate.kill();
}

#[test]
fn what_a_config_says_is_repeated_without_its_control_characters() {
    let gate = Setup::new().start();
    let http = |fields: Value| {
        let mut output = json!({"type": "http", "url": "http://h/"});
        let fields = fields.as_object().expect("fields").clone();
        output.as_object_mut().expect("fields").extend(fields);
        output
    };
    for output in [
        http(json!({"id": ODD})),
        http(json!({"type": ODD})),
        http(json!({"url": format!("http://h/{ODD}")})),
        http(json!({"url": ODD})),
        http(json!({"headers": {ODD: "a"}})),
        http(json!({"headers": {format!("x-token{ODD}"): "a"}})),
        http(json!({"headers": {"x-team": ODD}})),
        http(json!({"headers": {"x-team": format!("${{env:{ODD}}}")}})),
        http(json!({"headers": {"x-team": format!("${{file:/{ODD}}}")}})),
        http(json!({"framing": ODD})),
        json!({"type": "tcp", "address": format!("{ODD}:5140")}),
        json!({"type": "tcp", "address": ODD}),
        json!({"type": "datadog", "api_key": ODD}),
        json!({"type": "file", "path": ODD}),
        json!({"type": "file", "path": format!("a{ODD}.log")}),
        json!({"type": "tcp", "address": "h:5140", "tls": {"ca": format!("/{ODD}")}}),
        json!({"type": "tcp", "address": "h:5140", ODD: 1}),
        json!({"type": "tcp", "address": "h:5140", "spool": {ODD: 1}}),
        json!({
            "type": "cloudwatch", "region": "eu-central-1", "group": "g", "stream": ODD,
        }),
        http(json!({"proxy": ODD})),
        http(json!({"proxy": format!("http://{ODD}")})),
        http(json!({"proxy": "http://p", "proxy_authorization": ODD})),
    ] {
        let answer = gate
            .try_edit("POST", "/outputs", &output)
            .expect(422)
            .json();
        let detail = answer["detail"].as_str().expect("a text");
        assert!(is_plain(detail), "{output}: {detail:?}");
    }
    for line in gate.log() {
        assert!(is_plain(&line["message"].to_string()), "{line}");
    }
    gate.finish(0);
}

#[test]
fn secrets_are_read_again_at_sighup() {
    let receiver = HttpReceiver::start();
    let gate = Setup::new().secrets_in_its_directory().start();
    let file = gate.directory().join("token");
    std::fs::write(&file, "first\n").expect("it is ours");
    let headers = json!({"authorization": format!("Bearer ${{file:{}}}", file.display())});
    let output = json!({"id": "out", "type": "http", "url": receiver.url(), "headers": headers});
    gate.run(&json!([]), &[output]);
    let sent_with = |expected: &str| {
        let requests = receiver.requests();
        let last = requests
            .last()
            .and_then(|last| last.header("authorization"));
        last.is_some_and(|found| found == format!("Bearer {expected}"))
    };
    gate.send(b"one\n");
    eventually("it is sent", || sent_with("first"));
    std::fs::write(&file, "second\n").expect("it is ours");
    gate.signal(rustix::process::Signal::HUP);
    let mut events = 1;
    eventually("the new one is sent", || {
        gate.send(b"more\n");
        events += 1;
        gate.settled(events);
        sent_with("second")
    });
    gate.finish(events);
}

/// Whoever can write to Redis does not read this machine's files and variables through it.
#[test]
fn secrets_of_this_machine_are_not_read_for_a_config_that_somebody_put_into_redis() {
    let redis = RedisServer::start();
    let receiver = HttpReceiver::start();
    let gate = member(&redis, "a")
        .env("MINE", "canary-0123456789")
        .secrets_in_its_directory()
        .start();
    let outside = tempfile::tempdir().expect("a temporary directory");
    let file = outside.path().join("secret");
    std::fs::write(&file, "canary-0123456789").expect("it is ours");
    let manifest = |revision: u64, headers: Value| {
        json!({
            "version": "1.0", "revision": revision, "timestamp": 4e9,
            "pipelines": [{
                "name": "default_pipeline", "processors": [], "batch_size": 100,
                "outputs": [{"id": "out", "type": "http", "url": receiver.url(), "headers": headers}]
            }]
        })
        .to_string()
    };
    let references = ["env:MINE".to_owned(), format!("file:{}", file.display())];
    for (revision, reference) in (1..).zip(references) {
        redis.publish(manifest(
            revision,
            json!({"x-a": format!("${{{reference}}}")}),
        ));
        eventually("it is refused", || {
            let refused = gate.config()["refused"].clone();
            refused["revision"] == revision
                && refused["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.contains("secrets are read"))
        });
    }
    assert_eq!(gate.revision(), 0);
    redis.publish(manifest(3, json!({"x-a": "plain"})));
    gate.reaches(3);
    gate.send(b"one\n");
    receiver.wait_for(b"one\n");
    assert!(!format!("{:?}", receiver.requests()).contains("canary"));
    gate.finish(1);
}

/// A link that is changed after the publish leads nowhere, after a restart either.
#[cfg(unix)]
#[test]
fn link_that_comes_to_lead_out_of_the_folder_is_not_read_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (store, secrets) = (folder.path().join("store"), folder.path().join("secrets"));
    std::fs::create_dir(&secrets).expect("it is ours");
    let (inside, outside, link) = (
        secrets.join("inside"),
        folder.path().join("outside"),
        secrets.join("link"),
    );
    std::fs::write(&inside, "inside").expect("it is ours");
    std::fs::write(&outside, "canary-0123456789").expect("it is ours");
    std::os::unix::fs::symlink(&inside, &link).expect("a link");
    let receiver = HttpReceiver::start();
    let setup = || {
        let setup = Setup::new().store(&store);
        setup.env("STREAMGATE_SECRET_FILES", secrets.display().to_string())
    };
    let gate = setup().start();
    let headers = json!({"x-a": format!("${{file:{}}}", link.display())});
    let output = json!({"id": "out", "type": "http", "url": receiver.url(), "headers": headers});
    gate.run(&json!([]), &[output]);
    gate.send(b"one\n");
    receiver.wait_for(b"one\n");
    gate.finish(1);
    std::fs::remove_file(&link).expect("it is ours");
    std::os::unix::fs::symlink(&outside, &link).expect("a link");
    let ended = setup().run_to_end();
    ended.expect_error(2, "leads out of the folders of secrets");
    assert!(!format!("{:?}", receiver.requests()).contains("canary"));
}
