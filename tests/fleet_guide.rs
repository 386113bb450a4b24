//! `docs/redis.md`, done as it says.

use std::{os::unix::fs::symlink, process::Command};

use serde_json::Value;

use crate::support::{Gate, RedisServer, eventually, member};

const GUIDE: &str = include_str!("../docs/redis.md");

/// Returns the code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let blocks = GUIDE.split(&fence).skip(1);
    blocks
        .map(|block| block.split_once("```").expect("the block ends").0)
        .collect()
}

fn block_with(language: &str, word: &str) -> &'static str {
    let found = blocks(language)
        .into_iter()
        .find(|block| block.contains(word));
    found.unwrap_or_else(|| panic!("no block has `{word}`"))
}

/// Runs commands in a folder, one line after the other; returns how each ended and what it said.
fn run(folder: &std::path::Path, gate: Option<&Gate>, block: &str) -> Vec<(Option<i32>, String)> {
    let link = folder.join("streamgate");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_streamgate"), &link).expect("the folder is ours");
    }
    let path = std::env::var("PATH").expect("there is a path");
    let lines = block.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let mut command = Command::new("bash");
            command
                .args(["-c", line])
                .current_dir(folder)
                .env("PATH", format!("{}:{path}", folder.display()));
            if let Some(gate) = gate {
                let control = format!("http://{}", gate.control());
                command.env("STREAMGATE_CONTROL_URL", control);
            }
            let output = command.output().expect("bash is installed");
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.code(), said)
        })
        .collect()
}

#[test]
fn files_are_compared_and_applied() {
    let redis = RedisServer::start();
    let [gate, other] = ["gate-1", "gate-2"].map(|name| member(&redis, name).start());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let manifest = block_with("yaml", "drop_debug");
    std::fs::write(folder.path().join("gate.yaml"), manifest).expect("the folder is ours");
    eventually("they know of each other", || {
        gate.get("/status")["fleet"]
            .as_array()
            .is_some_and(|fleet| fleet.len() == 2)
    });
    let ended = run(
        folder.path(),
        Some(&gate),
        block_with("sh", "streamgate diff"),
    );
    let codes: Vec<Option<i32>> = ended.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [Some(1), Some(0)], "{ended:?}");
    other.comes_to_drop("DEBUG");
    // What the status looks like: the same words, other numbers.
    let status = run(folder.path(), Some(&gate), "streamgate status");
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace();
        words
            .filter(|word| {
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            })
            .map(str::to_owned)
            .collect()
    };
    let shown = block_with("text", "gate-2");
    assert_eq!(words(&status[0].1), words(shown), "{}", status[0].1);
    // And one line of the answer of a publish.
    let answer = gate.edit("POST", "/publish?wait=10s", &Value::Null);
    let line: Value = serde_json::from_str(block_with("json", "apply_ms")).expect("JSON");
    let found = answer["gates"].as_array().expect("a list");
    let found = found
        .iter()
        .find(|one| one["id"] == line["id"])
        .expect("it is there");
    assert_eq!(found["status"], line["status"]);
    assert!(found["apply_ms"].is_number() && line["apply_ms"].is_number());
}

#[test]
fn the_manifest_of_another_program_is_applied() {
    let redis = RedisServer::start();
    let gate = member(&redis, "gate-1").start();
    redis.publish(block_with("json", "pipelines").trim());
    gate.comes_to_drop("DEBUG");
}

#[test]
fn keys_that_are_made_as_it_says_sign_and_are_trusted() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (code, said) in run(folder.path(), None, block_with("sh", "openssl")) {
        assert_eq!(code, Some(0), "{said}");
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let redis = RedisServer::start();
    let publisher = member(&redis, "publisher")
        .flag("signing-key", file("signing.pem"))
        .flag("trusted-keys", file("trusted.pem"))
        .start();
    let follower = member(&redis, "follower")
        .flag("trusted-keys", file("trusted.pem"))
        .start();
    publisher.publish();
    follower.reaches(1);
}
