//! Runs the benchmark itself, small, with the plain reference in the gate's place.

use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_streamgate-bench");

fn bench(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .output()
        .expect("the benchmark starts")
}

fn report(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("results/report.json");
    let path_text = path.to_str().expect("its name is text");
    let output = bench(&[arguments, &["--json", path_text]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = std::fs::read(path).expect("the report is there");
    serde_json::from_slice(&report).expect("the report is JSON")
}

#[test]
fn throughput_measures_every_case_and_checks_the_books() {
    let report = report(&[
        "throughput",
        "--gate",
        PROGRAM,
        "--gate-arg",
        "plain",
        "--events",
        "20000",
        "--rounds",
        "2",
    ]);
    let summary = report["summary"].as_array().expect("a list");
    assert_eq!(summary.len(), 10, "five cases, relay and gate: {report}");
    for row in summary {
        assert!(row["cpu_ns_per_event"].as_f64() > Some(0.0), "{row}");
        assert_eq!(row["books_checked"], row["contender"] == "gate", "{row}");
    }
    assert_eq!(report["runs"].as_array().map(Vec::len), Some(20));
    for word in report["origin"]["command"].as_array().expect("a list") {
        let word = word.as_str().expect("text");
        assert!(!word.contains('/'), "a path of this machine: {word}");
    }
}

#[test]
fn latency_measures_relay_and_gate() {
    let report = report(&[
        "latency",
        "--gate",
        PROGRAM,
        "--gate-arg",
        "plain",
        "--rates",
        "4000",
        "--seconds",
        "1",
    ]);
    let summary = report["summary"].as_array().expect("a list");
    assert_eq!(summary.len(), 2, "{report}");
    for row in summary {
        let latency = &row["latency"];
        // The case drops one event in five; the second of warming up is not recorded.
        assert!(
            (2_500..4_500).contains(&latency["count"].as_u64().expect("a count")),
            "{row}"
        );
        assert!(latency["p50_us"].as_f64() > Some(0.0), "{row}");
    }
}

/// The relay redacts nothing; given as the gate it must be found out.
#[test]
fn wrong_answer_has_no_result() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("leaky");
    // Takes the gate's flags, finds the output's port in the manifest, and relays.
    let text = format!(
        "#!/bin/sh\nfor last; do :; done\n\
         to=$(sed 's/.*\"address\":\"\\([^\"]*\\)\".*/\\1/' \"$last\")\n\
         echo '{{\"message\":\"listening\",\"listener\":\"control\",\"address\":\"127.0.0.1:1\"}}' >&2\n\
         exec '{PROGRAM}' relay --forward \"$to\"\n"
    );
    std::fs::write(&script, text).expect("the script is written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("the script is made executable");
    let script = script.to_str().expect("its name is text");
    let arguments = [
        "throughput",
        "--gate",
        script,
        "--events",
        "20000",
        "--rounds",
        "1",
    ];
    let output = bench(&[&arguments[..], &["--case", "drop_ssn"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(
        error.contains("found") && error.contains("expected"),
        "{error}"
    );
    assert!(
        output.stdout.windows(7).all(|word| word != b"ns/even"),
        "no table"
    );
}

#[test]
fn unknown_case_is_named() {
    let output = bench(&["throughput", "--case", "drop_all"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("found no case `drop_all`, expected `all`, `wasm`, `pass`"),
        "{error}"
    );
}
