//! Rules, made over the control API: what each type does to events, and when.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Gate, Setup, TcpReceiver, lines_of};

#[test]
fn filter_drops_what_holds_a_keyword() {
    check(
        &json!([{"id": "r", "type": "filter", "params": {"value": "DEBUG"}}]),
        "DEBUG a\nINFO b\nx DEBUGy\ndebug c\n",
        "INFO b\ndebug c\n",
        "filtered",
    );
}

#[test]
fn filter_drops_what_holds_one_of_several_keywords_in_any_case() {
    check(
        &json!([{"id": "r", "type": "filter", "params": {
            "values": ["health", "heartbeat"], "ignore_case": true,
        }}]),
        "GET /Health\nHEARTBEAT\nGET /pay\n",
        "GET /pay\n",
        "filtered",
    );
}

#[test]
fn filter_keeps_only_what_matches() {
    check(
        &json!([{"id": "r", "type": "filter", "params": {
            "pattern": "^(ERROR|FATAL)\\b", "mode": "keep",
        }}]),
        "ERROR a\nINFO ERROR\nFATAL b\r\nERRORS\n",
        "ERROR a\nFATAL b\r\n",
        "filtered",
    );
}

#[test]
fn attribute_filter_drops_by_a_field() {
    let event = |service: &str| format!("{{\"service.name\": \"{service}\", \"body\": \"x\"}}\n");
    let nested = "{\"resource\": {\"attributes\": {\"service.name\": \"test\"}}}\n";
    let text = "service.name test\n";
    check(
        &json!([{"id": "r", "type": "attribute_filter", "params": {
            "attribute": "service.name", "operator": "equals", "value": "test",
        }}]),
        &[&event("test"), &event("prod"), nested, text].concat(),
        &[&event("prod"), text].concat(),
        "filtered",
    );
}

#[test]
fn attribute_filter_drops_by_a_path() {
    check(
        &json!([{"id": "r", "type": "attribute_filter", "params": {
            "path": "http/target", "operator": "regex", "value": "^/(live|ready)z$",
        }}]),
        "{\"http\": {\"target\": \"/livez\"}}\n{\"http\": {\"target\": \"/livez/2\"}}\n",
        "{\"http\": {\"target\": \"/livez/2\"}}\n",
        "filtered",
    );
}

#[test]
fn redact_replaces_every_match() {
    check(
        &json!([{"id": "r", "type": "redact", "params": {
            "pattern": "(\\d{3})-\\d{2}-\\d{4}", "replacement": "$1-XX-XXXX",
        }}]),
        "a 123-45-6789 b 987-65-4321\r\nnothing\n\n111-22-3333",
        "a 123-XX-XXXX b 987-XX-XXXX\r\nnothing\n\n111-XX-XXXX\n",
        "delivered_to_chain_end",
    );
}

#[test]
fn sample_of_nothing_drops_everything() {
    check(
        &json!([{"id": "r", "type": "sample", "params": {"rate": 0}}]),
        "one\ntwo\n",
        "",
        "sampled",
    );
}

#[test]
fn sample_of_everything_drops_nothing() {
    check(
        &json!([{"id": "r", "type": "sample", "params": {"rate": 1}}]),
        "one\ntwo\n",
        "one\ntwo\n",
        "sampled",
    );
}

#[test]
fn sample_by_key_keeps_the_same_traces_on_every_gate() {
    const TRACES: usize = 2_000;
    let rules = json!([{"id": "r", "type": "sample", "params": {
        "rate": 0.25, "key": "trace_id",
    }}]);
    let events: Vec<String> = (0..2 * TRACES)
        .map(|at| format!("{{\"trace_id\": \"t{}\", \"at\": {at}}}\n", at % TRACES))
        .collect();
    let sampled = || {
        let receiver = TcpReceiver::start();
        let gate = Setup::new().sending_to(receiver.address()).start();
        gate.edit("PUT", "/rules", &rules);
        gate.publish();
        gate.send(events.concat().as_bytes());
        let stats = gate.settled(2 * TRACES as u64);
        let sent = stats["outputs"][0]["sent_bytes"]
            .as_u64()
            .expect("a number");
        let sent = usize::try_from(sent).expect("it is small");
        crate::support::eventually("all of it arrives", || receiver.received.len() >= sent);
        gate.stop();
        receiver.received.text()
    };
    let kept = sampled();
    assert_eq!(kept, sampled(), "two gates agree");
    let trace = |event: &Value| event["trace_id"].as_str().map(str::to_owned);
    let events = kept
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"));
    let traces: Vec<String> = events.filter_map(|event| trace(&event)).collect();
    let distinct: BTreeSet<&String> = traces.iter().collect();
    assert_eq!(traces.len(), 2 * distinct.len(), "a trace is kept whole");
    // A quarter of 2,000 is 500, with a standard deviation of 20.
    assert!((380..620).contains(&distinct.len()), "{}", distinct.len());
}

#[test]
fn attribute_filter_compares_numbers_in_arrays() {
    check(
        &json!([{"id": "r", "type": "attribute_filter", "params": {
            "all": [
                {"path": "spans[*].ms", "operator": "gt", "value": 500},
                {"attribute": "service.name", "operator": "not_in", "values": ["pay", "login"]},
            ],
        }}]),
        "{\"service.name\": \"web\", \"spans\": [{\"ms\": 3}, {\"ms\": 501.5}]}\n\
         {\"service.name\": \"pay\", \"spans\": [{\"ms\": 900}]}\n\
         {\"service.name\": \"web\", \"spans\": [{\"ms\": 3}, {\"ms\": \"slow\"}]}\n",
        "{\"service.name\": \"pay\", \"spans\": [{\"ms\": 900}]}\n\
         {\"service.name\": \"web\", \"spans\": [{\"ms\": 3}, {\"ms\": \"slow\"}]}\n",
        "filtered",
    );
}

#[test]
fn sample_keeps_exceptions_and_records_the_rate() {
    check(
        &json!([{"id": "r", "type": "sample", "params": {
            "rate": 0, "record_rate": "count",
            "except": [{"value": "ERROR"}, {"attribute": "status", "operator": "gte", "value": 500}],
        }}]),
        "INFO a\nERROR b\n{\"status\": 503}\n{\"status\": 200}\n",
        "ERROR b\n{\"status\": 503,\"count\":1}\n",
        "sampled",
    );
}

#[test]
fn dedupe_and_throttle_count_all_connections_together_and_outlive_other_edits() {
    let gate = Setup::new().start();
    let dedupe = json!({"id": "d", "type": "dedupe", "params": {
        "key": "id", "window_seconds": 3600,
    }});
    let throttle = json!({"id": "t", "type": "throttle", "params": {
        "per_second": 0.001, "burst": 3,
    }});
    gate.run(&json!([dedupe, throttle]), &[]);
    let event = |id: u32| format!("{{\"id\": {id}}}\n");
    for _ in 0..4 {
        // Each over a connection, and so perhaps to a worker, of its own.
        gate.send([event(1), event(2)].concat().as_bytes());
    }
    let stats = gate.settled(8);
    assert_eq!(stats["deduplicated"], 6, "{stats:#}");
    assert_eq!(stats["delivered_to_chain_end"], 2, "{stats:#}");

    let other = json!({"id": "o", "type": "filter", "params": {"value": "DEBUG"}});
    gate.edit("PUT", "/rules", &json!([other, dedupe, throttle]));
    gate.publish();
    gate.send([event(1), event(3), event(4), event(5)].concat().as_bytes());
    let stats = gate.settled(12);
    assert_eq!(stats["deduplicated"], 7, "{stats:#}");
    // Of a burst of 3, one was left.
    assert_eq!(stats["throttled"], 2, "{stats:#}");
    assert_eq!(stats["delivered_to_chain_end"], 3, "{stats:#}");
    gate.stop();
}

#[test]
fn sample_by_target_keeps_what_is_below_it_and_thins_out_a_flood() {
    let gate = Setup::new().start();
    gate.run(
        &json!([{"id": "r", "type": "sample", "params": {"target_per_second": 10}}]),
        &[],
    );
    gate.send("x\n".repeat(50).as_bytes());
    assert_eq!(gate.settled(50)["delivered_to_chain_end"], 50);
    gate.send("x\n".repeat(200_000).as_bytes());
    let delivered = gate.settled(200_050)["delivered_to_chain_end"].as_u64();
    // As long as it may take: the target, and what the first look at a flood lets pass.
    assert!(
        delivered.is_some_and(|events| events < 20_000),
        "{delivered:?}"
    );
    gate.stop();
}

#[test]
fn filters_that_follow_one_another_keep_their_own_accounts() {
    let gate = Setup::new().start();
    let words = ["DEBUG", "healthz", "cache hit", "TRACE"];
    let rules: Vec<Value> = words
        .iter()
        .map(|word| json!({"id": word.replace(' ', "-"), "type": "filter", "params": {"value": word}}))
        .collect();
    gate.run(&json!(rules), &[]);
    gate.send(b"TRACE healthz\nkept one\nDEBUG cache hit\ncache hit\nhealthz\nTRACE\nkept two\n");
    let stats = gate.settled(7);
    gate.stdout.wait_for(b"kept one\nkept two\n");
    // Whoever comes first takes an event; whoever comes later never sees it.
    for (at, (seen, dropped)) in [(7, 1), (6, 2), (4, 1), (3, 1)].into_iter().enumerate() {
        let rule = &stats["rules"][at];
        assert_eq!(
            (&rule["seen"], &rule["dropped"]),
            (&json!(seen), &json!(dropped)),
            "{rule}"
        );
    }
    assert_eq!(stats["filtered"], 5);
    gate.stop();
}

#[test]
fn rule_samples_of_the_reference_are_accepted() {
    let reference = concat!(
        include_str!("../docs/rules.md"),
        include_str!("../docs/detectors.md")
    );
    let blocks = reference.split("<!-- rules: every one of them is accepted -->\n```json\n");
    let rules: Vec<Value> = blocks
        .skip(1)
        .flat_map(|block| {
            let (json, _) = block.split_once("```").expect("the block ends");
            serde_json::from_str::<Vec<Value>>(json).expect("a list of rules")
        })
        .collect();
    assert_eq!(rules.len(), 14);
    let gate = Setup::new().start();
    let wanted = "{\"tenant\": \"a-17\", \"log.level\": \"ERROR\"}\n";
    gate.run(&json!(rules), &[]);
    gate.send(wanted.as_bytes());
    gate.settled(1);
    gate.stdout
        .wait_for(b"{\"tenant\": \"a-17\", \"log.level\": \"ERROR\",\"sample_count\":1}\n");
    gate.stop();
}

#[test]
fn draft_does_nothing_until_it_is_published() {
    let gate = Setup::new().start();
    let rule = json!({"id": "r", "type": "filter", "params": {"value": "DEBUG"}});
    let answer = gate.edit("POST", "/rules", &rule);
    assert_eq!(answer, json!({"status": "added", "rule": rule}));
    assert_eq!(gate.get("/draft")["differs_from_live"], true);
    assert_eq!(gate.edit("POST", "/validate", &Value::Null)["rules"], 1);
    let mut flow = Flow::through(gate);
    flow.send("DEBUG 1\n", "DEBUG 1\n");
    assert_eq!(flow.gate.publish(), 1);
    assert_eq!(flow.gate.get("/draft")["differs_from_live"], false);
    flow.send("DEBUG 2\n", "");
    flow.gate.edit("DELETE", "/rules/r", &Value::Null);
    assert_eq!(flow.gate.get("/rules"), json!([]));
    flow.send("DEBUG 3\n", "");
    assert_eq!(flow.gate.publish(), 2);
    flow.send("DEBUG 4\n", "DEBUG 4\n");
    flow.finish();
}

#[test]
fn order_of_rules_is_meaning() {
    let redact = json!({"id": "redact", "type": "redact", "params": {
        "pattern": "secret", "replacement": "DEBUG",
    }});
    let filter = json!({"id": "filter", "type": "filter", "params": {"value": "DEBUG"}});
    let mut flow = Flow::through(Setup::new().start());
    flow.gate.edit("PUT", "/rules", &json!([redact, filter]));
    flow.gate.publish();
    flow.send("secret\n", "");
    flow.gate.edit("PUT", "/rules", &json!([filter, redact]));
    assert_eq!(flow.gate.get("/rules"), json!([filter, redact]));
    flow.gate.publish();
    flow.send("secret\n", "DEBUG\n");
    flow.finish();
}

#[test]
fn rule_is_replaced_in_its_place() {
    let rule =
        |id: &str, value: &str| json!({"id": id, "type": "filter", "params": {"value": value}});
    let mut flow = Flow::through(Setup::new().start());
    let both = json!([rule("first", "one"), rule("second", "two")]);
    flow.gate.edit("PUT", "/rules", &both);
    let without_id = json!({"type": "filter", "params": {"value": "three"}});
    let answer = flow.gate.edit("PUT", "/rules/first", &without_id);
    assert_eq!(
        answer,
        json!({"status": "updated", "rule": rule("first", "three")})
    );
    assert_eq!(flow.gate.get("/rules/first"), rule("first", "three"));
    assert_eq!(
        flow.gate.get("/rules"),
        json!([rule("first", "three"), rule("second", "two")])
    );
    flow.gate.publish();
    flow.send("one\ntwo\nthree\n", "one\n");
    flow.finish();
}

#[test]
fn disabled_rule_is_kept_and_not_run() {
    let rule = |enabled: bool| json!([{"id": "r", "type": "filter", "enabled": enabled, "params": {"value": "x"}}]);
    let mut flow = Flow::through(Setup::new().start());
    flow.gate.run(&rule(false), &[]);
    flow.send("x 1\n", "x 1\n");
    assert_eq!(flow.gate.get("/rules"), rule(false));
    flow.gate.run(&rule(true), &[]);
    flow.send("x 2\n", "");
    flow.finish();
}

#[test]
fn edits_and_publishes_at_the_same_time_are_all_kept() {
    const EDITORS: u64 = 4;
    const EDITS: u64 = 30;
    let gate = Setup::new().start();
    let edit = |editor: u64| -> Vec<u64> {
        let edits = (0..EDITS).map(|at| {
            let id = format!("r{editor}-{at}");
            let rule = json!({"id": id, "type": "filter", "params": {"value": id}});
            gate.edit("POST", "/rules", &rule);
            gate.publish()
        });
        edits.collect()
    };
    let mut revisions: Vec<u64> = std::thread::scope(|scope| {
        let editors: Vec<_> = (0..EDITORS)
            .map(|editor| {
                let edit = &edit;
                scope.spawn(move || edit(editor))
            })
            .collect();
        let published = editors.into_iter().map(|editor| editor.join());
        published
            .flat_map(|revisions| revisions.expect("no editor panicked"))
            .collect()
    });
    revisions.sort_unstable();
    assert!(
        revisions.into_iter().eq(1..=EDITORS * EDITS),
        "each has its own number"
    );
    let rules = gate.get("/rules");
    let ids: BTreeSet<&str> = rules
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|rule| rule["id"].as_str())
        .collect();
    assert_eq!(ids.len() as u64, EDITORS * EDITS, "no edit is lost");
    let live = gate.get(&format!("/revisions/{}", EDITORS * EDITS));
    assert_eq!(live["pipelines"][0]["processors"], rules);
    // The oldest of them are forgotten.
    assert_eq!(gate.get("/revisions").as_array().map(Vec::len), Some(100));
    let forgotten = crate::support::Request::new("GET", "/revisions/20");
    gate.ask(&forgotten).expect(404);
    gate.finish(0);
}

#[test]
fn figures_of_each_rule_are_exact() {
    let gate = Setup::new().start();
    let rules = json!([
        {"id": "a", "type": "filter", "params": {"value": "A"}},
        {"id": "b", "type": "filter", "params": {"value": "B"}},
        {"id": "c", "type": "redact", "params": {"pattern": "C", "replacement": "D"}},
        {"id": "d", "type": "filter", "params": {"value": "D"}},
    ]);
    gate.run(&rules, &[]);
    gate.send(b"A B C\nB C\nC\nnone\nA\nD\n");
    let stats = gate.settled(6);
    let figures = |at: usize| {
        let rule = &stats["rules"][at];
        ["seen", "dropped", "changed"].map(|figure| rule[figure].as_u64().expect("a number"))
    };
    assert_eq!(
        [0, 1, 2, 3].map(figures),
        [[6, 2, 0], [4, 1, 0], [3, 0, 1], [3, 2, 0]]
    );
    assert_eq!(stats["filtered"], 5);
    gate.stdout.wait_for(b"none\n");
    gate.stop();
}

/// Runs lines through rules over every way in, and checks what comes out and how it is booked.
#[track_caller]
fn check(rules: &Value, lines: &str, expected: &str, account: &str) {
    let gate = Setup::new().start();
    assert_eq!(gate.run(rules, &[]), 1);
    let events = {
        let ends = lines.matches('\n').count();
        ends as u64 + u64::from(!lines.ends_with('\n'))
    };
    gate.send(lines.as_bytes());
    gate.settled(events);
    gate.send_datagram(lines.as_bytes());
    gate.settled(2 * events);
    let request = crate::support::Request::new("POST", "/ingest");
    let body = crate::support::Body::Whole(lines.as_bytes());
    gate.ingest(&request.body(body)).expect(202);
    let stats = gate.settled(3 * events);
    gate.stdout.wait_for(expected.repeat(3).as_bytes());
    let survivors = 3 * lines_of(expected.as_bytes()).count() as u64;
    assert_eq!(stats["delivered_to_chain_end"], survivors, "{stats:#}");
    let booked = match account {
        "delivered_to_chain_end" => survivors,
        _ => 3 * events - survivors,
    };
    assert_eq!(stats[account], booked, "{stats:#}");
    gate.stop();
}

/// A gate, and what came out of it so far.
struct Flow {
    gate: Gate,
    sent: u64,
    expected: String,
}

impl Flow {
    fn through(gate: Gate) -> Self {
        Self {
            gate,
            sent: 0,
            expected: String::new(),
        }
    }

    /// Sends lines, and checks that exactly these come out of them.
    #[track_caller]
    fn send(&mut self, lines: &str, expected: &str) {
        self.gate.send(lines.as_bytes());
        self.sent += lines.lines().count() as u64;
        self.gate.settled(self.sent);
        self.expected.push_str(expected);
        self.gate.stdout.wait_for(self.expected.as_bytes());
    }

    fn finish(self) {
        self.gate.finish(self.sent);
    }
}
