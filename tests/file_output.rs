//! Outputs of type `file`: every event is in one file, whatever happens to the files.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::support::{Gate, Setup, TcpReceiver, decompressed, eventually, lines_of};

fn file(path: &str) -> Value {
    json!({"id": "out", "type": "file", "path": path})
}

/// Events of 100 bytes, which sort in their order.
fn numbered(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers
        .flat_map(|number| format!("{number:099}\n").into_bytes())
        .collect()
}

/// The files of a folder, by name.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    paths
}

/// What is in all of a folder's files, in the order in which it was written.
fn all_in(folder: &Path) -> Vec<u8> {
    // The one without an ending is the newest.
    let mut files = files_in(folder);
    files.rotate_left(1);
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("it is there");
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => decompressed("gzip", &bytes),
            Some("zst") => decompressed("zstd", &bytes),
            _ => bytes,
        }
    };
    files.into_iter().flat_map(read).collect()
}

fn sent(gate: &Gate) -> u64 {
    gate.pipeline()["outputs"][0]["sent"]
        .as_u64()
        .expect("a number")
}

#[test]
fn events_are_appended_in_order_and_a_torn_one_stays_alone() {
    let store = tempfile::tempdir().unwrap();
    let path = store.path().join("files/deep/down/app.log");
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([]), &[file("deep/down/app.log")]);
    gate.send(&numbered(0..10_000));
    gate.finish(10_000);
    assert_eq!(fs::read(&path).unwrap(), numbered(0..10_000));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);

    let mut torn = fs::OpenOptions::new().append(true).open(&path).unwrap();
    torn.write_all(b"half an ev").unwrap();
    let gate = Setup::new().store(store.path()).start();
    gate.send(&numbered(10_000..10_001));
    gate.finish(1);
    let expected = [
        numbered(0..10_000),
        b"half an ev\n".to_vec(),
        numbered(10_000..10_001),
    ];
    assert_eq!(fs::read(&path).unwrap(), expected.concat());
}

#[test]
fn large_file_is_put_aside_and_compressed() {
    for compression in ["none", "gzip", "zstd"] {
        let gate = Setup::new().start();
        let folder = gate.directory().join("store/files");
        let mut output = file("app.log");
        output["rotate_bytes"] = json!("1MiB");
        output["compression"] = json!(compression);
        gate.run(&json!([]), &[output]);
        for part in 0..10 {
            gate.send(&numbered(part * 5_000..part * 5_000 + 5_000));
            eventually("it is sent", || sent(&gate) == (part as u64 + 1) * 5_000);
        }
        let ending = match compression {
            "none" => "Z",
            "gzip" => ".gz",
            _ => ".zst",
        };
        eventually("what was put aside is compressed", || {
            let files = files_in(&folder);
            files[1..]
                .iter()
                .all(|file| file.to_string_lossy().ends_with(ending))
        });
        assert!(files_in(&folder).len() > 4);
        for file in files_in(&folder) {
            assert!(fs::metadata(file).unwrap().len() <= 1024 * 1024);
        }
        assert!(all_in(&folder) == numbered(0..50_000), "{compression}");
        gate.finish(50_000);
    }
}

#[test]
fn no_more_files_are_kept_than_is_said() {
    let gate = Setup::new().start();
    let folder = gate.directory().join("store/files");
    fs::create_dir_all(&folder).unwrap();
    // Not one of the gate's.
    let other = folder.join("app.log.2026-11-23");
    fs::write(&other, "kept").unwrap();
    let mut output = file("app.log");
    output["rotate_bytes"] = json!(1024 * 1024);
    output["max_files"] = json!(2);
    gate.run(&json!([]), &[output]);
    for part in 0..10 {
        gate.send(&numbered(part * 10_000..part * 10_000 + 10_000));
        eventually("it is sent", || sent(&gate) == (part as u64 + 1) * 10_000);
    }
    eventually("the oldest are deleted", || files_in(&folder).len() == 4);
    assert_eq!(fs::read(&other).unwrap(), b"kept");
    fs::remove_file(other).unwrap();
    let kept = all_in(&folder);
    assert!(numbered(0..100_000).ends_with(&kept));
    gate.finish(100_000);
}

#[test]
fn file_is_put_aside_when_its_period_ends() {
    let gate = Setup::new().start();
    let folder = gate.directory().join("store/files");
    let mut output = file("app.log");
    output["rotate_every_s"] = json!(3_600);
    gate.run(&json!([]), &[output]);
    gate.send(&numbered(0..10));
    eventually("it is sent", || sent(&gate) == 10);
    // The hour has passed, and nothing more came.
    let long_ago = SystemTime::now() - Duration::from_secs(4_000);
    let mut app = fs::File::options();
    let app = app.append(true).open(folder.join("app.log")).unwrap();
    app.set_modified(long_ago).unwrap();
    eventually("it has another name", || {
        !folder.join("app.log").exists() && files_in(&folder).len() == 1
    });
    gate.send(&numbered(10..20));
    eventually("it is sent", || sent(&gate) == 20);
    assert_eq!(fs::read(folder.join("app.log")).unwrap(), numbered(10..20));
    gate.finish(20);
}

#[test]
fn file_that_is_moved_or_deleted_is_made_again() {
    let gate = Setup::new().start();
    let folder = gate.directory().join("store/files");
    let path = folder.join("app.log");
    gate.run(&json!([]), &[file("app.log")]);
    gate.send(&numbered(0..10));
    eventually("it is sent", || sent(&gate) == 10);
    fs::rename(&path, folder.join("moved")).unwrap();
    gate.send(&numbered(10..20));
    eventually("it is sent", || sent(&gate) == 20);
    assert_eq!(fs::read(folder.join("moved")).unwrap(), numbered(0..10));
    assert_eq!(fs::read(&path).unwrap(), numbered(10..20));
    // The whole folder.
    fs::remove_dir_all(&folder).unwrap();
    gate.send(&numbered(20..30));
    eventually("it is sent", || sent(&gate) == 30);
    assert_eq!(fs::read(&path).unwrap(), numbered(20..30));
    gate.finish(30);
}

/// As on a full disk: what was written in part is taken back, and it goes on when there is room.
#[test]
fn full_disk_costs_no_event_and_hurts_no_other_output() {
    let other = TcpReceiver::start();
    let gate = Setup::new().start();
    let path = gate.directory().join("store/files/app.log");
    let outputs = [
        file("app.log"),
        json!({"id": "other", "type": "tcp", "address": other.address().to_string()}),
    ];
    gate.run(&json!([]), &outputs);
    gate.limit_file_size(Some(150_050));
    gate.send(&numbered(0..5_000));
    other.received.wait_for(&numbered(0..5_000));
    eventually("it is told", || {
        let output = &gate.get("/status")["outputs"][0];
        let error = output["last_error"].as_str().unwrap_or_default();
        output["state"] != "ok" && error.contains("app.log") && error.contains("large")
    });
    assert_eq!(fs::read(&path).unwrap(), numbered(0..1_500));
    gate.limit_file_size(None);
    eventually("the rest is written", || sent(&gate) == 5_000);
    assert_eq!(fs::read(&path).unwrap(), numbered(0..5_000));
    gate.finish(5_000);
}

#[test]
fn folder_that_is_in_the_way_is_told_and_waited_for() {
    let gate = Setup::new().start();
    let folder = gate.directory().join("store/files");
    gate.run(&json!([]), &[file("app.log")]);
    fs::create_dir_all(folder.join("app.log/kept")).unwrap();
    gate.send(&numbered(0..10));
    eventually("it is told", || {
        gate.get("/status")["outputs"][0]["state"] != "ok"
    });
    fs::remove_dir_all(folder.join("app.log")).unwrap();
    eventually("it is sent", || sent(&gate) == 10);
    gate.finish(10);
}

#[test]
fn replaced_output_and_its_successor_write_one_file() {
    let store = tempfile::tempdir().unwrap();
    let gate = Setup::new().store(store.path()).start();
    for part in 0..20 {
        let mut output = file("app.log");
        output["max_files"] = json!(100 + part);
        output["rotate_bytes"] = json!("1MiB");
        output["compression"] = json!("gzip");
        gate.run(&json!([]), &[output]);
        gate.send(&numbered(part * 2_000..part * 2_000 + 2_000));
    }
    gate.finish(40_000);
    let found = all_in(&store.path().join("files"));
    let mut lines: Vec<&[u8]> = lines_of(&found).collect();
    lines.sort_unstable();
    assert!(lines.concat() == numbered(0..40_000));
}

#[test]
fn path_that_cannot_be_right_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let gate = Setup::new().start();
    let folder = gate.directory().join("store/files");
    fs::create_dir_all(folder.join("a-folder")).unwrap();
    fs::write(folder.join("a-file"), "").unwrap();
    symlink(outside.path(), folder.join("away")).unwrap();
    symlink("/dev/full", folder.join("full")).unwrap();
    let long = "x".repeat(300);
    let deep = "x/".repeat(2_000);
    let cases = [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "/",
        "a-folder",
        "a-folder/",
        "a-file/x",
        "away/x",
        "full",
        "nul\0",
        &long,
        &deep,
    ];
    for path in cases {
        let answer = gate.try_edit("POST", "/outputs", &file(path));
        let answer = answer.expect(422).json();
        assert_eq!(answer["pointer"], "/path", "{path}: {answer}");
    }
    // Absolute is fine where it is below.
    let below = folder.join("x.log").display().to_string();
    gate.edit("POST", "/outputs", &file(&below));
    gate.stop();

    let gate = Setup::new().flag("files", "off").start();
    let answer = gate
        .try_edit("POST", "/outputs", &file("x.log"))
        .expect(422);
    assert!(answer.text().contains("--files DIR"), "{answer}");
    gate.stop();
}

#[test]
fn fields_of_a_file_are_checked() {
    let gate = Setup::new().start();
    for (field, value) in [
        ("rotate_bytes", json!(1_000)),
        ("rotate_bytes", json!("much")),
        ("rotate_every_s", json!(59)),
        ("max_files", json!(0)),
        ("compression", json!("lz4")),
        ("fsync", json!("sometimes")),
        ("url", json!("http://localhost")),
    ] {
        let mut output = file("x.log");
        output[field] = value;
        let answer = gate.try_edit("POST", "/outputs", &output).expect(422);
        assert_eq!(answer.json()["pointer"], format!("/{field}"), "{answer}");
    }
    gate.stop();
}
