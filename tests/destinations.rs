//! Where outputs do not send: addresses of clouds' credentials, of no receiver and of the gate
//! itself, in every way to write them, when a config is edited and when a connection is made.

use serde_json::{Value, json};

use crate::support::{Gate, HttpReceiver, Setup, TcpReceiver, eventually};

/// Hosts as they are written in a URL, that are or look like refused addresses.
const HOSTS: [&str; 66] = [
    // 169.254.169.254, the link-local address of most clouds.
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0XA9FEA9FE",
    "025177524776",
    "0251.0376.0251.0376",
    "0251.254.0xa9.254",
    "0xa9.0xfe.0xa9.0xfe",
    "0xa9.254.169.254",
    "169.0xfea9fe",
    "169.16689662",
    "169.254.43518",
    "169.254.0xa9fe",
    "169.254.0251.0376",
    "169.254.169.254.",
    "2852039166.",
    "%31%36%39.254.169.254",
    "169%2e254%2e169%2e254",
    "%32852039166",
    "０169.254.169.254",
    "１６９.２５４.１６９.２５４",
    "169。254。169。254",
    "①⑥⑨.254.169.254",
    "169.254.169.254%00",
    "169.254.0.1",
    "169.254.255.255",
    "169.254.1",
    // Other clouds.
    "192.0.0.192",
    "3221225664",
    "0xc0.0.0.0300",
    "100.100.100.200",
    "1684301000",
    "0x646464c8",
    "168.63.129.16",
    "0xa83f8110",
    "[fd00:ec2::254]",
    "[fd00:0ec2:0:0::0254]",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:42::42]",
    // Link-local and site-local.
    "[fe80::1]",
    "[FE80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[fe80::a9fe:a9fe]",
    "[febf::1]",
    "[fec0::1]",
    // IPv4 in IPv6.
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[::169.254.169.254]",
    "[::ffff:0:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::169.254.169.254]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:a9fe:a9fe::1]",
    "[2001:0:808:808:0:0:5601:5601]",
    "[2001:db8::5efe:169.254.169.254]",
    "[2001:db8::200:5efe:a9fe:a9fe]",
    // Of no receiver.
    "0.0.0.0",
    "0",
    "[::]",
    "255.255.255.255",
    "224.0.0.1",
];

const SECRET: &str = "env:DD_API_KEY";

/// An output of each type that sends to a URL, without the URL and the name of its field.
fn types_with_a_url() -> [(&'static str, Value); 4] {
    [
        ("url", json!({"type": "http"})),
        ("endpoint", json!({"type": "datadog", "api_key": SECRET})),
        (
            "endpoint",
            json!({"type": "newrelic", "license_key": SECRET}),
        ),
        (
            "endpoint",
            json!({
                "type": "cloudwatch", "region": "eu-central-1", "group": "g", "stream": "s",
                "access_key_id": "env:AWS_ACCESS_KEY_ID",
                "secret_access_key": "env:AWS_SECRET_ACCESS_KEY",
            }),
        ),
    ]
}

fn setup() -> Setup {
    Setup::new()
        .env("DD_API_KEY", "a-key")
        .env("AWS_ACCESS_KEY_ID", "a-key")
        .env("AWS_SECRET_ACCESS_KEY", "a-key")
}

#[track_caller]
fn refused(gate: &Gate, output: &Value, pointer: &str) -> Value {
    let answer = gate.try_edit("POST", "/outputs", output);
    assert_eq!(answer.status, 422, "{output}: {answer}");
    let problem = answer.json();
    assert_eq!(problem["pointer"], pointer, "{output}: {problem}");
    problem
}

#[test]
fn refused_addresses_are_refused_in_every_spelling_and_by_every_type() {
    let gate = setup().start();
    for host in HOSTS {
        for (field, mut output) in types_with_a_url() {
            for scheme in ["http", "https"] {
                output[field] = json!(format!("{scheme}://{host}:8443/logs?a=b"));
                refused(&gate, &output, &format!("/{field}"));
            }
        }
        let output = json!({"type": "tcp", "address": format!("{host}:5140")});
        refused(&gate, &output, "/address");
    }
    // Addresses where receivers are, in their usual form.
    for host in [
        "127.0.0.1",
        "[::1]",
        "10.1.2.3",
        "192.168.0.1",
        "logs.example.com",
        "[fd00::1]",
    ] {
        for (field, mut output) in types_with_a_url() {
            output[field] = json!(format!("http://{host}:9000/logs"));
            gate.edit("POST", "/outputs", &output);
        }
        let output = json!({"type": "tcp", "address": format!("{host}:5140")});
        gate.edit("POST", "/outputs", &output);
    }
    gate.finish(0);
}

#[test]
fn addresses_of_tcp_outputs_are_written_in_the_usual_form() {
    let gate = setup().start();
    // All of these are 127.0.0.1, or look as if they were.
    for host in [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.0.0.01",
        "１２７.0.0.1",
        "host.0x",
        "logs.example.7",
        "localhost%00",
        "local host",
        "user@localhost",
        "[127.0.0.1]",
        "[localhost]",
        "[::1%lo]",
    ] {
        let output = json!({"type": "tcp", "address": format!("{host}:5140")});
        let problem = refused(&gate, &output, "/address");
        let detail = problem["detail"].to_string();
        assert!(detail.contains("expected"), "{detail}");
    }
    gate.finish(0);
}

#[test]
fn urls_with_what_a_parser_removes_are_refused() {
    let gate = setup().start();
    for url in [
        "http://h/\r\nX: y",
        "http://h/a\tb",
        "http://h\n/",
        " http://h/",
        "http://h/ ",
        "http://h/a b",
        "http://h/\u{0}",
        "http://h/\u{7f}",
        "http://h/\u{85}",
        "http:\\\\h\\a",
        "http://h/a#fragment",
        "http:h/a",
        "http:/h/a",
        "http://user@h/",
        "http://@h/",
        "http://:@h/",
        "http://user:password@h/",
    ] {
        for (field, mut output) in types_with_a_url() {
            output[field] = json!(url);
            let problem = refused(&gate, &output, &format!("/{field}"));
            let detail = problem["detail"].as_str().expect("a text");
            assert!(
                !detail.contains(['\r', '\n', '\t', '\0', '\u{7f}']),
                "{detail:?}"
            );
        }
    }
    gate.finish(0);
}

/// Every name of this host's files that leads to the gate itself, and the address of each listener.
#[test]
fn gate_does_not_send_to_itself() {
    let gate = setup().start();
    for (listener, at) in [
        ("tcp", gate.tcp()),
        ("http", gate.http()),
        ("control", gate.control()),
    ] {
        let port = at.port();
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]"] {
            let output = json!({"type": "tcp", "address": format!("{host}:{port}")});
            let problem = refused(&gate, &output, "/address");
            assert_eq!(problem["code"], "forbidden_address", "{problem}");
            let detail = problem["detail"].as_str().expect("a text");
            assert!(detail.contains(&format!("`{listener}`")), "{detail}");
            for (field, mut output) in types_with_a_url() {
                output[field] = json!(format!("http://{host}:{port}/ingest"));
                refused(&gate, &output, &format!("/{field}"));
            }
        }
    }
    gate.finish(0);
}

/// Names are looked up when a connection is made.
#[test]
fn name_that_leads_to_the_gate_itself_is_not_connected_to() {
    let gate = setup().start();
    // `localhost` may have an IPv6 address too, at which the gate does not listen: the connection
    // is refused there, and never made to the gate.
    let outputs = [
        json!({
            "id": "lines", "type": "tcp", "address": format!("localhost:{}", gate.tcp().port()),
        }),
        json!({
            "id": "posts", "type": "http",
            "url": format!("http://localhost:{}/rules", gate.control().port()),
        }),
    ];
    gate.run(&json!([]), &outputs);
    gate.send(b"an event\n");
    eventually("both fail", || {
        let status = gate.get("/status");
        let outputs = status["outputs"].as_array().expect("a list");
        outputs
            .iter()
            .all(|output| output["last_error"].is_string())
    });
    assert_eq!(gate.pipeline()["received"], 1);
    assert_eq!(gate.get("/rules"), json!([]));
    gate.kill();
}

/// A gate that listens at all addresses is not sent to at any of this host's.
#[test]
fn listener_of_all_addresses_is_known_by_every_address_of_this_host() {
    let gate = setup().flag("tcp", "0.0.0.0:0").start();
    let port = gate.tcp().port();
    for host in ["127.0.0.1", "127.9.9.9", "localhost"] {
        let output = json!({"type": "tcp", "address": format!("{host}:{port}")});
        match host {
            // It may be that `::1` is another program's.
            "localhost" => drop(gate.edit("POST", "/outputs", &output)),
            _ => drop(refused(&gate, &output, "/address")),
        }
    }
    gate.finish(0);
}

#[test]
fn gates_of_one_host_send_to_each_other() {
    let receiver = TcpReceiver::start();
    let last = Setup::new().sending_to(receiver.address()).start();
    let url = format!("http://{}/ingest", last.http());
    let output = json!([{"id": "next", "type": "http", "url": url}]);
    let first = Setup::new().manifest(&json!([]), &output).start();
    first.send(b"through both\n");
    receiver.received.wait_for(b"through both\n");
    first.stop();
    last.stop();
}

/// A config that was live before such a destination was refused: the gate starts and does not send.
#[test]
fn live_config_with_a_refused_destination_starts_and_does_not_send() {
    let store = tempfile::tempdir().expect("a directory");
    let receiver = HttpReceiver::start();
    let gate = Setup::new().store(store.path()).start();
    let outputs = [
        json!({"id": "posts", "type": "http", "url": "http://198.51.100.7:81/"}),
        json!({"id": "lines", "type": "tcp", "address": "198.51.100.7:81"}),
        json!({"id": "fine", "type": "http", "url": receiver.url()}),
    ];
    gate.run(&json!([]), &outputs);
    gate.stop();
    crate::support::replace_in_files(store.path(), "198.51.100.7", "2852039166");
    let gate = Setup::new().store(store.path()).start();
    gate.send(b"an event\n");
    receiver.wait_for(b"an event\n");
    eventually("both fail", || {
        let status = gate.get("/status");
        let fails = |at: usize| {
            let error = status["outputs"][at]["last_error"].to_string();
            error.contains("link-local") && error.contains("--allow-link-local")
        };
        fails(0) && fails(1)
    });
    let status = gate.get("/status");
    let warnings = |at: usize| status["outputs"][at]["warnings"].to_string();
    assert!(warnings(0).contains("/url"), "{status:#}");
    assert!(warnings(1).contains("/address"), "{status:#}");
    assert_eq!(warnings(2), "null");
    let problem = gate
        .try_edit("POST", "/publish", &Value::Null)
        .expect(422)
        .json();
    assert_eq!(problem["code"], "forbidden_address", "{problem}");
    gate.kill();
}
