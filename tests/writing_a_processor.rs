//! `docs/writing-a-processor.md`, and what the README says of rules in WASM, done as they say.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Body, Gate, Request, Setup, guest};

const GUIDE: &str = include_str!("../docs/writing-a-processor.md");
const README: &str = include_str!("../README.md");

/// Returns the code block after `comment`.
fn block<'a>(text: &'a str, comment: &str) -> &'a str {
    let (_, after) = text
        .split_once(comment)
        .unwrap_or_else(|| panic!("there is no `{comment}`"));
    let (_, block) = after.split_once("```").expect("a block follows");
    let (_, block) = block.split_once('\n').expect("its language ends the line");
    block.split_once("```").expect("the block ends").0
}

/// A folder in which commands are run, with `streamgate` on the path.
struct Shell<'a> {
    folder: TempDir,
    gate: &'a Gate,
}

impl<'a> Shell<'a> {
    fn new(gate: &'a Gate) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let link = folder.path().join("streamgate");
        symlink(env!("CARGO_BIN_EXE_streamgate"), link).expect("the directory is ours");
        Self { folder, gate }
    }

    /// Runs a block and returns what it printed.
    fn run(&self, block: &str, inside: &str) -> String {
        let control = format!("localhost:{}", self.gate.control().port());
        let block = block.replace("localhost:8000", &control);
        let path = std::env::var("PATH").expect("there is a path");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block])
            .current_dir(self.folder.path().join(inside))
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("STREAMGATE_SDK", root.join("guest-sdk"))
            .env("STREAMGATE_CONTROL_URL", format!("http://{control}"))
            // The guide says where things are, and what the repository has is all that is needed.
            .env_remove("CARGO_TARGET_DIR")
            .env("CARGO_NET_OFFLINE", "true")
            .output()
            .expect("bash is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Whether this toolchain can build modules without help.
fn has_target() -> bool {
    let output = Command::new("rustc")
        .args([
            "--print",
            "target-libdir",
            "--target",
            "wasm32-unknown-unknown",
        ])
        .output();
    let libdir = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    libdir.is_ok_and(|libdir| !libdir.is_empty() && fs::read_dir(libdir).is_ok())
}

#[test]
fn five_minutes_lead_from_nothing_to_a_live_rule() {
    let gate = Setup::new().start();
    let shell = Shell::new(&gate);
    shell.run(block(GUIDE, "<!-- five minutes: new -->"), ".");
    let folder = shell.folder.path().join("drop-noise");
    let written = fs::read_to_string(folder.join("src/lib.rs")).expect("it was made");
    let shown = block(GUIDE, "<!-- five minutes: the rule -->");
    assert!(
        written.contains(shown),
        "the guide shows another rule than the template has"
    );
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    fs::copy(lock, folder.join("Cargo.lock")).expect("both are there");

    let build = block(GUIDE, "<!-- five minutes: build -->");
    // Asks a server, which a test may not have.
    let build = build.replace("rustup target add wasm32-unknown-unknown", "true");
    let module = "target/wasm32-unknown-unknown/release/drop_noise.wasm";
    if has_target() {
        shell.run(&build, ".");
    } else {
        eprintln!("this toolchain has no wasm32 target: the module is the one of drop-keyword");
        let native = build.lines().filter(|line| !line.contains("--target"));
        shell.run(&native.collect::<Vec<_>>().join("\n"), ".");
        let module = folder.join(module);
        fs::create_dir_all(module.parent().expect("a folder")).expect("the directory is ours");
        fs::copy(guest("drop-keyword"), module).expect("it was built");
    }

    let test = block(GUIDE, "<!-- five minutes: test -->");
    let (_, expected) = test
        .split_once("# Output:\n")
        .expect("the block has its output");
    let expected: String = expected
        .lines()
        .map(|line| format!("{}\n", &line[2..]))
        .collect();
    assert_eq!(shell.run(test, "drop-noise"), expected);

    let said = shell.run(block(GUIDE, "<!-- five minutes: live -->"), "drop-noise");
    assert!(said.contains("\"published\""), "{said}");
    gate.send(b"INFO ready\nDEBUG tick\n");
    gate.stdout.wait_for(b"INFO ready\n");
    gate.finish(2);
}

fn upload(gate: &Gate, name: &str, module: &PathBuf) {
    let bytes = fs::read(module).expect("it was built");
    let path = format!("/modules/{name}");
    // On a busy machine the compiler, which has a low priority, takes its time.
    let patience = std::time::Duration::from_secs(180);
    let request = Request::new("PUT", &path).body(Body::Whole(&bytes));
    gate.ask(&request.patience(patience)).expect(200);
}

#[test]
fn rule_samples_of_the_guide_are_accepted() {
    let gate = Setup::new().start();
    for name in ["drop-keyword", "trim-json", "keep-first", "mask-email"] {
        upload(&gate, name, &guest(name));
    }
    let sample = block(GUIDE, "<!-- rules: every one of them is accepted -->");
    let rules: Value = serde_json::from_str(sample).expect("JSON");
    gate.run(&rules, &[]);
    gate.send(b"DEBUG tick\nmail to alice@example.com\n{\"stack\": \"a\", \"b\": 1}\n");
    let stats = gate.settled(3);
    assert_eq!(stats["rules"][0]["dropped"], 1, "{stats:#}");
    assert_eq!(stats["rules"][1]["changed"], 1, "{stats:#}");
    assert_eq!(stats["rules"][3]["changed"], 1, "{stats:#}");
    gate.stop();
}

#[test]
fn what_the_readme_says_of_wasm_works() {
    let gate = Setup::new().start();
    let shell = Shell::new(&gate);
    fs::copy(
        guest("drop-keyword"),
        shell.folder.path().join("drop-keyword.wasm"),
    )
    .expect("it was built");
    let said = shell.run(block(README, "<!-- wasm: upload, rule, publish -->"), ".");
    assert!(said.contains("\"published\""), "{said}");
    gate.send(b"INFO ready\nDEBUG tick\n");
    gate.stdout.wait_for(b"INFO ready\n");
    gate.finish(2);
}

/// Each example says in its README what its config looks like.
#[test]
fn configs_in_the_examples_readmes_are_accepted() {
    let gate = Setup::new().start();
    for name in ["drop-keyword", "trim-json", "keep-first", "mask-email"] {
        upload(&gate, name, &guest(name));
        gate.edit("PUT", "/rules", &serde_json::json!([]));
        let readme =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{name}/README.md"));
        let readme = fs::read_to_string(readme).expect("every example has one");
        let Some((_, sample)) = readme.split_once("```json\n") else {
            panic!("{name} shows no config");
        };
        let sample = sample.split_once("```").expect("the block ends").0;
        let config: Value = serde_json::from_str(sample).expect("JSON");
        let rule = serde_json::json!({"id": name, "type": "wasm", "params": {
            "module": name, "config": config,
        }});
        gate.edit("POST", "/rules", &rule);
        gate.edit("POST", "/validate", &Value::Null);
    }
    gate.stop();
}
