//! What was answered is there after the end of the process, whichever end it was.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Gate, Request, Setup, TcpReceiver, eventually, pseudo_random, request};

#[test]
fn rules_outputs_and_revisions_survive_a_clean_end() {
    survive(|gate| {
        gate.stop();
    });
}

#[test]
fn rules_outputs_and_revisions_survive_sigkill() {
    survive(Gate::kill);
}

/// Kills the gate at random moments of a stream of edits. What it holds when it is started again is
/// the state after the last edit that was answered, or after the one that was under way.
#[test]
fn sigkill_leaves_the_state_before_or_after_an_edit() {
    const ROUNDS: u64 = 40;
    let store = tempfile::tempdir().expect("a temporary directory");
    let mut state = State::empty();
    let mut halfway = 0;
    for round in 0..ROUNDS {
        let mut rng = pseudo_random(round);
        let gate = Setup::new().store(store.path()).start();
        assert_eq!(State::of(&gate), state, "round {round}");
        let edits = rng.u64(1..12);
        let pause = Duration::from_micros(rng.u64(0..3_000));
        let (before, after) = edit_until_killed(&gate, &mut rng, state, edits, pause);
        gate_is_gone(gate);

        let gate = Setup::new().store(store.path()).start();
        state = State::of(&gate);
        assert!(
            state == before || state == after,
            "round {round}: found {state:#?}\nbefore {before:#?}\nafter {after:#?}"
        );
        halfway += u64::from(state == after && before != after);
        gate.send(b"still here\n");
        gate.settled(1);
        gate.kill();
    }
    eprintln!("in {halfway} of {ROUNDS} rounds the edit under way was stored, though not answered");
}

/// What the store holds, as the control API shows it.
#[derive(Debug, Clone, PartialEq)]
struct State {
    draft: Value,
    revision: u64,
    live: Value,
}

impl State {
    fn empty() -> Self {
        let pipeline = json!({
            "name": "default_pipeline", "processors": [], "outputs": [], "batch_size": 100,
        });
        Self {
            draft: pipeline.clone(),
            revision: 0,
            live: pipeline,
        }
    }

    fn of(gate: &Gate) -> Self {
        let mut draft = gate.get("/draft");
        let revision = gate.stats()["revision"].as_u64().expect("a number");
        assert_eq!(draft["live_revision"], revision);
        let revisions = gate.get("/revisions");
        let newest = revisions[0]["revision"].as_u64().unwrap_or_default();
        assert_eq!(newest, revision, "the newest revision is the live one");
        let live = match revision {
            0 => Self::empty().live,
            _ => gate.get(&format!("/revisions/{revision}"))["pipelines"][0].take(),
        };
        Self {
            draft: draft["pipeline"].take(),
            revision,
            live,
        }
    }

    /// An edit out of the usual ones, and the state that it leads to.
    fn edit(&self, rng: &mut Rng) -> (&'static str, String, Value, Self) {
        let mut after = self.clone();
        let rules = after.draft["processors"].as_array_mut().expect("a list");
        let rule = |id: &str, rng: &mut Rng| {
            let value = format!("{:x}", rng.u64(..)).repeat(rng.usize(1..200));
            json!({"id": id, "type": "filter", "params": {"value": value}})
        };
        let (method, path, body) = match rng.u8(0..6) {
            0 if !rules.is_empty() => {
                let removed = rules.remove(rng.usize(0..rules.len()));
                let id = removed["id"].as_str().expect("a string");
                ("DELETE", format!("/rules/{id}"), Value::Null)
            }
            1 if !rules.is_empty() => {
                let at = rng.usize(0..rules.len());
                let id = rules[at]["id"].as_str().expect("a string").to_owned();
                rules[at] = rule(&id, rng);
                ("PUT", format!("/rules/{id}"), rules[at].clone())
            }
            2 => {
                let size = rng.u32(1..=10_000);
                after.draft["batch_size"] = size.into();
                let path = format!("/config/batch_size?size={size}");
                ("POST", path, Value::Null)
            }
            3 | 4 => {
                after.revision += 1;
                after.live = after.draft.clone();
                ("POST", "/publish?republish=true".to_owned(), Value::Null)
            }
            _ => {
                let rule = rule(&format!("r{}", rng.u64(..)), rng);
                rules.push(rule.clone());
                ("POST", "/rules".to_owned(), rule)
            }
        };
        (method, path, body, after)
    }
}

/// Edits until the gate is gone; returns the state after the last edit that was answered, and after
/// the one that was under way.
fn edit_until_killed(
    gate: &Gate,
    rng: &mut Rng,
    mut state: State,
    edits: u64,
    pause: Duration,
) -> (State, State) {
    let begun = AtomicU64::new(0);
    let (control, pid) = (gate.control(), gate.process_id());
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the edits begin", || begun.load(Ordering::SeqCst) >= edits);
            // A moment within an edit: too short to sleep for.
            let instant = Instant::now() + pause;
            while Instant::now() < instant {
                std::hint::spin_loop();
            }
            let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
            kill_process(pid, Signal::KILL).expect("our child");
        });
        loop {
            let (method, path, body, after) = state.edit(rng);
            let text = match body {
                Value::Null => String::new(),
                body => body.to_string(),
            };
            let body = crate::support::Body::Whole(text.as_bytes());
            begun.fetch_add(1, Ordering::SeqCst);
            let edit = Request::new(method, &path).header("Content-Type", "application/json");
            match request(control, &edit.body(body)) {
                Ok(answer) => {
                    answer.expect(200);
                    state = after;
                }
                Err(_) => return (state, after),
            }
        }
    })
}

fn gate_is_gone(mut gate: Gate) {
    assert!(!gate.wait().status.success(), "it was killed");
}

/// Edits everything there is, ends the gate, and looks what the next one has.
fn survive(end: impl Fn(Gate)) {
    let store = tempfile::tempdir().expect("a temporary directory");
    let receiver = TcpReceiver::start();
    let gate = Setup::new().store(store.path()).start();
    let rules = json!([
        {"id": "b", "type": "filter", "params": {"value": "DEBUG"}},
        {"id": "a", "type": "redact", "params": {"pattern": "\\d+", "replacement": "#"},
         "on_overload": "enforce", "on_error": "drop"},
    ]);
    let address = receiver.address().to_string();
    let output = json!({"id": "out", "type": "tcp", "address": address});
    gate.edit("POST", "/config/batch_size?size=17", &Value::Null);
    assert_eq!(gate.run(&rules, &[output]), 1);
    gate.edit("DELETE", "/rules/b", &Value::Null);
    assert_eq!(gate.publish(), 2);
    // In the draft only.
    let draft = json!({"id": "c", "type": "sample", "params": {"rate": 0.5}});
    gate.edit("POST", "/rules", &draft);
    let before = State::of(&gate);
    let first = gate.get("/revisions/1");
    end(gate);

    let gate = Setup::new().store(store.path()).start();
    assert_eq!(State::of(&gate), before);
    assert_eq!(gate.get("/revisions/1"), first);
    assert_eq!(gate.get("/rules/c"), draft);
    assert_eq!(gate.get("/config/batch_size")["batch_size"], 17);
    assert_eq!(gate.get("/draft")["differs_from_live"], true);
    gate.send(b"DEBUG 12 and 345\n");
    receiver.received.wait_for(b"DEBUG # and #\n");
    assert_eq!(gate.publish(), 3);
    gate.finish(1);
}
