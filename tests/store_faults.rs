//! A config store whose files are damaged, of another version, or on a full disk.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Setup, copy_folder};

fn rule(id: &str) -> Value {
    json!({"id": id, "type": "filter", "params": {"value": id}})
}

#[test]
fn damaged_live_manifest_is_replaced_by_the_newest_revision_and_told() {
    let store = tempfile::tempdir().unwrap();
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([rule("DEBUG")]), &[]);
    gate.run(&json!([rule("SECRET")]), &[]);
    gate.stop();
    let path = store.path().join("live.json");
    let live = fs::read_to_string(&path).unwrap();
    // One changed byte would turn the rule off.
    fs::write(&path, live.replace("SECRET", "SECREU")).unwrap();
    fs::write(store.path().join("draft.json"), "{").unwrap();
    fs::write(store.path().join("revisions/1.json"), "").unwrap();
    let gate = Setup::new().store(store.path()).start();
    gate.send(b"a SECRET\nanother\n");
    gate.stdout.wait_for(b"another\n");
    let log = gate.stderr.text();
    for name in ["live.json", "draft.json", "1.json"] {
        assert!(log.contains(&format!("{name}.damaged-1")), "{name}: {log}");
    }
    let told = "the newest revision that can be read is live now";
    assert!(log.contains(told), "{log}");
    gate.finish(2);
    assert_eq!(fs::read_to_string(&path).unwrap(), live);
}

#[test]
fn rules_stay_when_the_live_manifest_of_the_first_publish_is_missing() {
    let store = tempfile::tempdir().unwrap();
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([rule("SECRET")]), &[]);
    gate.stop();
    fs::remove_file(store.path().join("live.json")).unwrap();
    for _ in 0..2 {
        let gate = Setup::new().store(store.path()).start();
        gate.send(b"a SECRET\nanother\n");
        gate.stdout.wait_for(b"another\n");
        gate.finish(2);
    }
    assert!(store.path().join("live.json").exists());
}

#[test]
fn store_of_version_0_1_is_read() {
    let store = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/version-0.1/store");
    copy_folder(&data, store.path());
    let gate = Setup::new().store(store.path()).start();
    assert_eq!(gate.get("/rules")[1]["id"], "later");
    assert!(!gate.log().iter().any(|fields| {
        fields["message"]
            .as_str()
            .is_some_and(|message| message.contains("damaged"))
    }));
    gate.run(&json!([rule("SECRET")]), &[]);
    gate.stop();
    let live = fs::read_to_string(store.path().join("live.json")).unwrap();
    assert!(live.contains("\n#streamgate-store 2 sha256:"), "{live}");
    Setup::new().store(store.path()).start().stop();
}

#[test]
fn store_on_a_full_disk_says_so_and_stays_as_it_was() {
    let store = tempfile::tempdir().unwrap();
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([rule("DEBUG")]), &[]);
    let before = gate.get("/rules");
    gate.limit_file_size(Some(8));
    let answer = gate.try_edit("POST", "/rules", &rule("SECRET")).expect(507);
    assert_eq!(answer.json()["code"], "store_full");
    assert_eq!(gate.get("/rules"), before);
    gate.try_edit("POST", "/publish?republish=true", &json!({}))
        .expect(507);
    gate.limit_file_size(None);
    gate.edit("POST", "/rules", &rule("SECRET"));
    gate.edit("POST", "/publish", &json!({}));
    gate.stop();
}
