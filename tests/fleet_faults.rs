//! Redis away, frozen, emptied, older, full, read-only, corrupt: events flow on, nothing is
//! half-applied, and what comes next is followed.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Body, Gate, RedisServer, Request, drops, eventually, foreign, guest, member};

/// Sends events to a gate all the time, one after the other; returns how many.
fn under_load<T>(gate: &Gate, work: impl FnOnce() -> T) -> (u64, T) {
    let (ended, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = gate.connect();
            while !ended.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut stream, b"an event\n").expect("the gate reads");
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        let end = EndOnDrop(&ended);
        let done = work();
        drop(end);
        done
    });
    (sent.into_inner(), done)
}

/// Ends the load when the work panics too, or its thread would be waited for without end.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_degraded(gate: &Gate, word: &str) -> bool {
    let config = gate.config();
    config["state"] == "degraded"
        && config["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains(word))
}

#[test]
fn a_gate_starts_from_its_last_good_config_when_redis_is_away() {
    let mut redis = RedisServer::start();
    let kept = tempfile::tempdir().expect("a temporary directory");
    let cache = kept.path().display().to_string();
    let gate = member(&redis, "a").flag("cache", &cache).start();
    let bytes = std::fs::read(guest("drop-keyword")).expect("the module was built");
    let mut upload = Request::new("PUT", "/modules/mine").body(Body::Whole(&bytes));
    upload.patience *= 6;
    gate.ask(&upload).expect(200);
    let rules = json!([
        {"id": "f", "type": "filter", "params": {"value": "TRACE"}},
        {"id": "w", "type": "wasm", "params": {"module": "mine", "config": {"keyword": "DEBUG"}}},
    ]);
    assert_eq!(gate.run(&rules, &[]), 1);
    gate.kill();
    redis.kill();

    let gate = member(&redis, "a").flag("cache", &cache).start();
    assert_eq!(gate.revision(), 1);
    gate.send(b"TRACE one\nDEBUG two\nINFO three\n");
    let books = gate.settled(3);
    assert_eq!(
        (&books["filtered"], &books["rule_dropped"]),
        (&json!(1), &json!(1))
    );
    assert!(
        is_degraded(&gate, "Redis cannot be used"),
        "{}",
        gate.config()
    );
    let refused = gate.try_edit("PUT", "/rules", &drops("X"));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["code"], "store_unavailable");

    // One that never ran anything does not know what to redact: it takes no events ...
    let mut new = member(&redis, "new").launch();
    eventually("the reason is logged", || {
        let mut log = new.log().into_iter();
        log.any(|line| line.to_string().contains("--start-empty"))
    });
    new.ask(&Request::new("GET", "/healthz")).expect(200);
    let not_ready = new.ask(&Request::new("GET", "/readyz")).expect(503);
    assert_eq!(not_ready.json()["code"], "not_ready");
    assert!(!new.listens("tcp") && !new.listens("udp"));
    let event = Request::new("POST", "/ingest").body(Body::Whole(b"DEBUG\n"));
    let refused = new.ingest(&event).expect(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // ... unless it is told to.
    let open = member(&redis, "open")
        .env("STREAMGATE_START_EMPTY", "true")
        .start();
    open.send(b"DEBUG\n");
    assert_eq!(open.settled(1)["delivered_to_chain_end"], 1);
    open.stop();

    redis.start_again_empty();
    redis.publish(foreign("INFO"));
    new.wait_until_ready();
    new.comes_to_drop("INFO");
    gate.comes_to_drop("INFO");
    eventually("all is well", || gate.config()["state"] == "ok");
}

#[test]
fn a_redis_that_dies_costs_nothing_but_changes() {
    let mut redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    assert_eq!(gate.run(&drops("DEBUG"), &[]), 1);
    redis.save();
    let (sent, ()) = under_load(&gate, || {
        redis.kill();
        eventually("it is noticed", || {
            is_degraded(&gate, "Redis cannot be used")
        });
        assert_eq!(gate.get("/readyz")["status"], "ready");
        assert_eq!(gate.try_edit("GET", "/rules", &Value::Null).status, 503);
        assert!(
            gate.metric(r#"streamgate_config_store_failures_total{reason="unreachable"}"#) > 0.0
        );
        eventually("reading fails too", || {
            gate.metric("streamgate_config_store_up") < 1.0
        });
        redis.start_again();
        eventually("it is back", || gate.config()["state"] == "ok");
        redis.publish(foreign("TRACE"));
        eventually("the new config is in force", || {
            gate.config()["subscribed"] == true
        });
    });
    assert_eq!(gate.settled(sent)["delivered_to_chain_end"], sent);
    gate.comes_to_drop("TRACE");
}

#[test]
fn a_frozen_redis_is_noticed_and_caught_up_with() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    assert_eq!(gate.run(&drops("DEBUG"), &[]), 1);
    let (sent, ()) = under_load(&gate, || {
        redis.freeze();
        eventually("it is noticed", || {
            is_degraded(&gate, "overloaded, stopped")
        });
        eventually("the subscription too", || {
            gate.config()["subscribed"] == false
        });
        let begun = Instant::now();
        let refused = gate.try_edit("POST", "/publish", &Value::Null);
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(begun.elapsed() < Duration::from_secs(15), "a bounded wait");
        redis.thaw();
        eventually("it is back", || {
            let config = gate.config();
            config["state"] == "ok" && config["subscribed"] == true
        });
    });
    assert_eq!(gate.settled(sent)["delivered_to_chain_end"], sent);
    gate.run(&drops("TRACE"), &[]);
    gate.comes_to_drop("TRACE");
}

#[test]
fn an_older_redis_does_not_bring_an_older_revision_back() {
    let mut redis = RedisServer::start();
    let [a, b] = ["a", "b"].map(|name| member(&redis, name).start());
    a.run(&drops("ONE"), &[]);
    a.run(&drops("TWO"), &[]);
    redis.save();
    a.run(&drops("THREE"), &[]);
    b.reaches(3);
    redis.kill();
    redis.start_again();
    for gate in [&a, &b] {
        eventually("it is seen that Redis is behind", || {
            gate.config()["store_behind"] == 2
        });
        assert_eq!(gate.revision(), 3);
        gate.comes_to_drop("THREE");
    }
    // What is live here is what an operator goes on from, and the next publish mends it.
    assert_eq!(a.get("/draft")["live_revision"], 3);
    assert_eq!(
        a.edit("POST", "/publish?republish=true&wait=10s", &Value::Null)["revision"],
        4
    );
    b.reaches(4);
    assert!(b.config()["store_behind"].is_null());
}

#[test]
fn an_emptied_redis_is_mended_by_the_next_publish_modules_included() {
    let mut redis = RedisServer::start();
    let a = member(&redis, "a").start();
    let bytes = std::fs::read(guest("drop-keyword")).expect("the module was built");
    let mut upload = Request::new("PUT", "/modules/mine").body(Body::Whole(&bytes));
    upload.patience *= 6;
    a.ask(&upload).expect(200);
    let params = json!({"module": "mine", "config": {"keyword": "DEBUG"}});
    a.run(&json!([{"id": "w", "type": "wasm", "params": params}]), &[]);
    a.send(b"DEBUG\n");
    assert_eq!(a.settled(1)["rule_dropped"], 1);

    redis.kill();
    redis.start_again_empty();
    eventually("it is seen", || a.config()["store_behind"] == 0);
    a.send(b"DEBUG\n");
    assert_eq!(a.settled(2)["rule_dropped"], 1 + 1, "it goes on");
    assert_eq!(a.publish(), 2, "the number goes on too");

    let b = member(&redis, "b").start();
    assert_eq!(b.revision(), 2);
    b.send(b"DEBUG\n");
    assert_eq!(b.settled(1)["rule_dropped"], 1, "the module came back");
}

#[test]
fn a_lost_message_is_made_up_for_by_polling() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    eventually("it listens", || gate.config()["subscribed"] == true);
    redis.set("streamgate_config", foreign("DEBUG"));
    gate.comes_to_drop("DEBUG");
}

#[test]
fn what_cannot_be_right_is_refused_whole() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    assert_eq!(gate.run(&drops("DEBUG"), &[]), 1);
    let mut refusals = 0.0;
    let rule = |rule: Value| {
        json!({"version": "1.0", "revision": 9, "pipelines": [{"processors": [
            {"id": "ok", "type": "filter", "params": {"value": "HALF"}}, rule,
        ]}]})
        .to_string()
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    let huge = format!(r#"{{"pad": "{}"}}"#, "x".repeat(50 << 20));
    for (value, word) in [
        ("not JSON at all".to_owned(), "expected"),
        ("[1, 2, 3]".to_owned(), "invalid"),
        ("{}".to_owned(), "pipelines"),
        (
            r#"{"version": "9.0", "pipelines": [{}]}"#.to_owned(),
            "/version",
        ),
        (
            rule(json!({"id": "bad", "type": "redact", "params": {"pattern": "("}})),
            "pattern",
        ),
        (
            rule(json!({"id": "bad", "type": "unheard-of"})),
            "rule type",
        ),
        (
            rule(json!({"id": "ok", "type": "filter", "params": {"value": "x"}})),
            "twice",
        ),
        (
            rule(json!({"id": "bad", "type": "wasm", "params": {"module": "m", "digest": digest}})),
            "module",
        ),
        (huge, "larger than"),
    ] {
        redis.publish(&value);
        eventually(&format!("{word} is refused"), || is_degraded(&gate, word));
        assert_eq!(gate.revision(), 1, "the last good one stays in force");
        assert!(gate.config()["refused"]["at"].is_number());
        let refused = gate.metric("streamgate_config_refused_total");
        assert!(refused > refusals, "{word}: it is counted");
        refusals = refused;
    }
    // A key of another type.
    let mut connection = redis.connection();
    redis::cmd("DEL")
        .arg("streamgate_config")
        .exec(&mut connection)
        .expect("DEL");
    redis::cmd("LPUSH")
        .arg("streamgate_config")
        .arg("x")
        .exec(&mut connection)
        .expect("LPUSH");
    redis.tell();
    eventually("it is refused", || {
        is_degraded(&gate, "another program uses a key")
    });
    gate.send(b"DEBUG one\nHALF two\nINFO three\n");
    assert_eq!(
        gate.settled(3)["filtered"],
        1,
        "nothing of all that was applied"
    );
    redis::cmd("DEL")
        .arg("streamgate_config")
        .exec(&mut connection)
        .expect("DEL");
    // An operator's publish is what mends it.
    assert!(gate.run(&drops("TRACE"), &[]) > 1);
    gate.comes_to_drop("TRACE");
    eventually("all is well", || gate.config()["state"] == "ok");
}

#[test]
fn a_module_that_comes_late_is_waited_for() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    let bytes = std::fs::read(guest("drop-keyword")).expect("the module was built");
    let hex = sha256(&bytes);
    let manifest = json!({"version": "1.0", "revision": 1, "pipelines": [{"processors": [
        {"id": "w", "type": "wasm", "params": {
            "module": "m", "digest": format!("sha256:{hex}"), "config": {"keyword": "DEBUG"}}},
    ]}]});
    redis.publish(manifest.to_string());
    eventually("it is missing", || is_degraded(&gate, "module"));
    // Others' bytes under its name are none of it, and neither is native code.
    for wrong in [
        &b"\0asm\x01\0\0\0"[..],
        b"\x7fELF\x02\x01\x01",
        &bytes[..bytes.len() - 1],
    ] {
        redis.set(&format!("streamgate_module:{hex}"), wrong);
        redis.tell();
        eventually("it is refused", || is_degraded(&gate, "its digest is"));
        assert_eq!(gate.revision(), 0);
    }
    redis.set(&format!("streamgate_module:{hex}"), &bytes);
    gate.reaches(1);
    gate.send(b"DEBUG\n");
    assert_eq!(gate.settled(1)["rule_dropped"], 1);
}

fn sha256(bytes: &[u8]) -> String {
    streamgate::digest::Digest::of(bytes).hex()
}

#[test]
fn answers_that_refuse_are_an_outage_with_its_reason() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    assert_eq!(gate.run(&drops("DEBUG"), &[]), 1);
    let mut connection = redis.connection();
    let mut admin = |words: &[&str]| {
        redis::cmd(words[0])
            .arg(&words[1..])
            .exec(&mut connection)
            .expect("an admin may");
    };
    let failures = |reason: &str| {
        gate.metric(&format!(
            r#"streamgate_config_store_failures_total{{reason="{reason}"}}"#
        ))
    };
    for (break_it, mend_it, word, reason) in [
        (
            &["CONFIG", "SET", "maxmemory", "1"][..],
            &["CONFIG", "SET", "maxmemory", "0"][..],
            "maxmemory",
            "out_of_memory",
        ),
        (
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
            "replica",
            "read_only",
        ),
    ] {
        let before = failures(reason);
        admin(break_it);
        let refused = gate.try_edit("PUT", "/rules", &drops("NEVER"));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.json()["code"], "store_unavailable");
        let detail = refused.json()["detail"]
            .as_str()
            .expect("a reason")
            .to_owned();
        assert!(detail.contains(word), "{detail}");
        eventually("it is counted", || failures(reason) > before);
        admin(mend_it);
        assert_eq!(gate.get("/rules"), drops("DEBUG"), "nothing was changed");
    }
    // No room for one more connection, and then again.
    // Redis says so and hangs up at once, which may be all that is seen of it.
    let turned_away = || failures("too_many_clients") + failures("unreachable");
    let before = turned_away();
    admin(&["CONFIG", "SET", "maxclients", "1"]);
    admin(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("it is tried again", || turned_away() > before + 1.0);
    admin(&["CONFIG", "SET", "maxclients", "1000"]);
    eventually("all is well", || gate.config()["state"] == "ok");
    // Not logged in any more, and then again.
    admin(&["CONFIG", "SET", "requirepass", "secret"]);
    admin(&["CLIENT", "KILL", "TYPE", "normal"]);
    admin(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("it is noticed", || is_degraded(&gate, "user and password"));
    assert!(failures("auth") > 0.0);
    gate.send(b"INFO\n");
    gate.settled(1);
    admin(&["AUTH", "secret"]);
    admin(&["CONFIG", "SET", "requirepass", ""]);
    eventually("all is well", || gate.config()["state"] == "ok");
    gate.run(&drops("TRACE"), &[]);
    gate.comes_to_drop("TRACE");
}

#[test]
fn a_storm_of_publishes_is_coalesced_and_the_last_one_wins() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    let (sent, begun) = under_load(&gate, || {
        let begun = Instant::now();
        let mut connection = redis.connection();
        for number in 1..=3_000 {
            let mut pipe = redis::pipe();
            let manifest = json!({"version": "1.0", "revision": number, "pipelines": [{
                "processors": drops(&format!("word-{number}-")),
            }]});
            pipe.cmd("SET")
                .arg("streamgate_config")
                .arg(manifest.to_string());
            pipe.cmd("PUBLISH").arg("streamgate_updates").arg("RELOAD");
            pipe.exec(&mut connection).expect("Redis answers");
        }
        gate.reaches(3_000);
        begun
    });
    let applied = gate.metric("streamgate_config_applied_total");
    let most = begun.elapsed().as_secs_f64().ceil() * 10.0;
    assert!(applied <= most, "{applied} changes, {most} were allowed");
    assert_eq!(
        gate.settled(sent)["delivered_to_chain_end"],
        sent,
        "no event is lost"
    );
    gate.comes_to_drop("word-3000-");
}
