//! The process: flags, environment, files, exit codes; and one sentence when it cannot start.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::support::{Ended, Setup};

#[test]
fn port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for flag in ["tcp", "http", "control"] {
        let ended = Setup::new().flag(flag, address.as_str()).run_to_end();
        ended.expect_error(2, &format!("cannot listen on {address}"));
        ended.expect_error(2, &format!("set `{flag}`"));
    }
}

#[test]
fn wrong_flags_are_bad_usage() {
    for (flag, value, part) in [
        ("tcp", "here", "`tcp`: `here` is no address"),
        ("udp", "256.0.0.1:5", "`udp`: "),
        ("workers", "0", "`workers`: "),
        ("max-event", "1GiB", "`max_event`: "),
        ("memory-budget", "little", "`memory_budget`: "),
        ("grace-period", "10", "`grace_period`: "),
        (
            "store",
            "redis://localhost/db",
            "the URL of the Redis is not valid",
        ),
        (
            "trusted-keys",
            "keys.pem",
            "signatures are for a store in Redis",
        ),
    ] {
        let ended = Setup::new().flag(flag, value).run_to_end();
        ended.expect_error(2, part);
    }
}

#[test]
fn unknown_flag_is_bad_usage() {
    let ended = Setup::new().flag("tpc", "127.0.0.1:0").run_to_end();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("--tpc"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--tcp"), "it says what was meant");
    assert!(ended.stdout.is_empty());
}

#[test]
fn environment_is_read_and_checked() {
    let gate = Setup::new()
        .without("tcp")
        .without("udp")
        .env("TCP_PORT", "0")
        .env("UDP_PORT", "0")
        .env("STREAMGATE_WORKERS", "3")
        .start();
    assert_eq!(gate.get("/status")["workers"], 3);
    assert!(gate.tcp().ip().is_unspecified());
    let tcp = format!("127.0.0.1:{}", gate.tcp().port());
    let mut stream = std::net::TcpStream::connect(tcp).expect("the gate listens");
    std::io::Write::write_all(&mut stream, b"one\n").expect("the gate reads");
    drop(stream);
    gate.stdout.wait_for(b"one\n");
    gate.finish(1);

    let wrong = Setup::new().without("tcp").env("TCP_PORT", "many");
    wrong.run_to_end().expect_error(2, "`tcp`: ");
    let redis = Setup::new().without("store").env("REDIS_HOST", "redis");
    let redis = redis.env("REDIS_PORT", "many");
    redis.run_to_end().expect_error(2, "`store`: ");
}

#[test]
fn flag_wins_over_environment_and_environment_over_file() {
    let setup = Setup::new();
    let file = setup.directory().join("streamgate.toml");
    fs::write(&file, "node = 'file'\nworkers = 2\nmax_event = '1KiB'\n").expect("ours");
    let gate = setup
        .without("node")
        .flag("config", file.display().to_string())
        .flag("max-event", "100")
        .env("STREAMGATE_WORKERS", "4")
        .start();
    let status = gate.get("/status");
    assert_eq!(status["gate"], "file");
    assert_eq!(status["workers"], 4);
    gate.send("x".repeat(101).as_bytes());
    assert_eq!(gate.settled(1)["ingest"]["tcp"]["truncated"], 1);
    gate.stop();
}

#[test]
fn wrong_config_file_is_bad_usage() {
    for (text, part) in [
        ("tcp = 'off'\ntpc = 'off'\n", "line 2: unknown field `tpc`"),
        ("tcp = \n", "is not valid"),
        ("workers = 'two'\n", "is not valid"),
        ("udp = 'nowhere'\n", "`udp`: "),
    ] {
        let setup = Setup::new().without("udp").without("workers");
        let file = setup.directory().join("streamgate.toml");
        fs::write(&file, text).expect("the directory is ours");
        let ended = setup
            .flag("config", file.display().to_string())
            .run_to_end();
        ended.expect_error(2, part);
    }
    let missing = Setup::new().flag("config", "missing.toml").run_to_end();
    missing.expect_error(2, "cannot read the config file missing.toml");
}

#[test]
fn wrong_manifest_is_bad_usage() {
    let pipeline = json!({
        "name": "p", "processors": [], "outputs": [], "batch_size": 100,
    });
    let with = |field: &str, value: serde_json::Value| {
        let mut pipeline = pipeline.clone();
        pipeline[field] = value;
        json!({"version": "1.0", "pipelines": [pipeline]}).to_string()
    };
    let rule = json!([{"id": "a", "type": "redact", "params": {"pattern": "("}}]);
    for (text, part) in [
        ("{".to_owned(), "is not valid"),
        (
            json!({"version": "2.0", "pipelines": [pipeline]}).to_string(),
            "/version",
        ),
        (
            json!({"version": "1.0", "pipelines": []}).to_string(),
            "/pipelines",
        ),
        (with("batch_size", json!(0)), "/pipelines/0/batch_size"),
        (
            with("processors", rule),
            "/pipelines/0/processors/0/params/pattern",
        ),
        (
            with("outputs", json!([{"type": "tcp"}])),
            "/pipelines/0/outputs/0",
        ),
    ] {
        let setup = Setup::new();
        let file = setup.directory().join("given.json");
        fs::write(&file, text).expect("the directory is ours");
        let ended = setup
            .flag("manifest", file.display().to_string())
            .run_to_end();
        ended.expect_error(2, part);
    }
    let missing = Setup::new().flag("manifest", "missing.json").run_to_end();
    missing.expect_error(2, "cannot read the manifest missing.json");
}

#[test]
fn manifest_is_for_an_empty_store_only() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let rules = |id: &str| json!([{"id": id, "type": "filter", "params": {"value": "DEBUG"}}]);
    let first = Setup::new().store(store.path());
    let gate = first.manifest(&rules("first"), &json!([])).start();
    assert_eq!(gate.get("/rules"), rules("first"));
    assert_eq!(gate.stats()["revision"], 1);
    gate.finish(0);
    let second = Setup::new().store(store.path());
    let gate = second.manifest(&rules("second"), &json!([])).start();
    assert_eq!(gate.get("/rules"), rules("first"));
    gate.finish(0);
}

#[test]
fn listeners_that_are_off_are_off() {
    let gate = Setup::new().flag("tcp", "off").flag("udp", "off").start();
    let listening = ["tcp", "udp", "http", "control"].map(|listener| gate.listens(listener));
    assert_eq!(listening, [false, false, true, true]);
    gate.finish(0);
    let gate = Setup::new()
        .flag("http", "off")
        .flag("control", "off")
        .start();
    gate.send(b"one\n");
    gate.stdout.wait_for(b"one\n");
    gate.stop();
}

#[test]
fn damaged_live_manifest_without_a_revision_is_an_error_and_is_left_alone() {
    for (text, part) in [("{\"version\"", "is damaged"), ("[]", "is damaged")] {
        let store = tempfile::tempdir().expect("a temporary directory");
        let gate = Setup::new().store(store.path()).start();
        gate.run(&json!([]), &[]);
        gate.finish(0);
        fs::remove_file(store.path().join("revisions/1.json")).expect("it was published");
        let path = store.path().join("live.json");
        fs::write(&path, text).expect("the directory is ours");
        let ended = Setup::new().store(store.path()).run_to_end();
        ended.expect_error(2, part);
        ended.expect_error(2, &path.display().to_string());
        assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
    }
}

#[test]
fn live_manifest_that_cannot_be_built_is_an_error() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let gate = Setup::new().store(store.path()).start();
    let rule = json!([{"id": "a", "type": "filter", "params": {"value": "DEBUG"}}]);
    gate.run(&rule, &[]);
    gate.finish(0);
    let path = store.path().join("live.json");
    let live = fs::read_to_string(&path).expect("it was published");
    // As by hand: without the checksum.
    let (live, _) = live.split_once("\n#streamgate-store ").expect("it has one");
    let of_tomorrow = live.replace("\"filter\"", "\"filter_of_tomorrow\"");
    assert_ne!(live, of_tomorrow);
    fs::write(&path, of_tomorrow).expect("the directory is ours");
    let ended = Setup::new().store(store.path()).run_to_end();
    ended.expect_error(2, "filter_of_tomorrow");
}

#[test]
fn store_that_cannot_be_opened_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("file");
    fs::write(&file, "not a directory").expect("the directory is ours");
    let ended = Setup::new().store(&file).run_to_end();
    ended.expect_error(2, "cannot open the directory");
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).expect("the directory is ours");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("it is ours");
    // For root there are no closed doors.
    if fs::read_dir(&closed).is_err() {
        let ended = Setup::new().store(&closed).run_to_end();
        ended.expect_error(2, "cannot open the store");
    }
    let on_live = folder.path().join("odd");
    fs::create_dir_all(on_live.join("live.json")).expect("the directory is ours");
    let ended = Setup::new().store(&on_live).run_to_end();
    ended.expect_error(2, "live.json");
}

#[test]
fn store_belongs_to_one_gate() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let gate = Setup::new().store(store.path()).start();
    let ended = Setup::new().store(store.path()).run_to_end();
    ended.expect_error(2, "is in use by another gate");
    gate.send(b"unharmed\n");
    gate.stdout.wait_for(b"unharmed\n");
    gate.finish(1);
}

#[test]
fn stdout_is_for_events_only() {
    let gate = Setup::new().env("STREAMGATE_LOG", "debug").start();
    gate.run(&json!([]), &[]);
    gate.send(b"the only line\n");
    gate.settled(1);
    let Ended { stdout, stderr, .. } = gate.stop();
    assert_eq!(stdout, b"the only line\n");
    assert!(!stderr.contains("the only line"), "no event in the log");
    for line in stderr.lines() {
        let parsed = serde_json::from_str::<serde_json::Value>(line);
        assert!(parsed.is_ok(), "`{line}` is not JSON");
    }
}
