//! Who can write to Redis, and has no signing key, cannot make a gate run anything.

use serde_json::{Value, json};

use crate::support::{
    Body, Gate, RedisServer, Request, Setup, drops, eventually, foreign, guest, member,
    signing_keys,
};

/// A Redis, a gate that publishes, and one that only checks.
struct Signed {
    redis: RedisServer,
    publisher: Gate,
    follower: Gate,
    keys: tempfile::TempDir,
}

impl Signed {
    /// With revision 1 in force, which drops DEBUG.
    fn start() -> Self {
        let redis = RedisServer::start();
        let keys = tempfile::tempdir().expect("a temporary directory");
        let (private, public) = signing_keys(keys.path(), "ours");
        let publisher = member(&redis, "publisher")
            .flag("signing-key", private.display().to_string())
            .start();
        let follower = member(&redis, "follower")
            .flag("trusted-keys", public.display().to_string())
            .start();
        publisher.run(&drops("DEBUG"), &[]);
        follower.reaches(1);
        assert_eq!(follower.config()["signed"], true);
        Self {
            redis,
            publisher,
            follower,
            keys,
        }
    }

    fn config(&self) -> Vec<u8> {
        self.redis
            .bytes("streamgate_config")
            .expect("it was published")
    }

    /// Writes a manifest as an attacker would; both gates refuse it, for that reason.
    fn is_refused(&self, manifest: impl AsRef<[u8]>, word: &str) {
        self.redis.publish(manifest);
        for gate in [&self.publisher, &self.follower] {
            eventually(&format!("it is refused: {word}"), || {
                let reason = gate.config()["refused"]["reason"].clone();
                reason.as_str().is_some_and(|reason| reason.contains(word))
            });
        }
        self.nothing_changed();
    }

    fn nothing_changed(&self) {
        for gate in [&self.publisher, &self.follower] {
            let before = gate.pipeline();
            gate.send(b"DEBUG one\nINFO two\n");
            let received = before["received"].as_u64().expect("a number") + 2;
            let after = gate.settled(received);
            let count = |books: &Value| books["filtered"].as_u64().expect("a number");
            assert_eq!(count(&after), count(&before) + 1);
        }
    }
}

fn replaced(text: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).expect("UTF-8");
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn what_is_unsigned_changed_or_of_another_key_is_refused() {
    let signed = Signed::start();
    let config = signed.config();
    signed.is_refused(foreign("INFO"), "it is not signed");
    signed.is_refused(
        replaced(&config, "DEBUG", "INFO_"),
        "its signature is wrong",
    );
    signed.is_refused(
        replaced(&config, "\"revision\":1", "\"revision\":7"),
        "its signature is wrong",
    );
    // A signature of theirs, from a Redis of theirs.
    let other = RedisServer::start();
    let (private, _) = signing_keys(signed.keys.path(), "theirs");
    let attacker = member(&other, "attacker")
        .flag("signing-key", private.display().to_string())
        .start();
    attacker.run(&drops("INFO"), &[]);
    attacker.run(&drops("INFO"), &[]);
    let theirs = other.bytes("streamgate_config").expect("it was published");
    signed.is_refused(&theirs, "none of the trusted keys");
    // Ours, of another document.
    let draft = signed
        .redis
        .bytes("streamgate_draft")
        .expect("there is one");
    signed.is_refused(&draft, "its signature is wrong");
    // What an operator publishes goes on.
    signed.publisher.run(&drops("DEBUG"), &[]);
    eventually("all is well", || signed.follower.config()["state"] == "ok");
    signed.nothing_changed();
}

#[test]
fn what_was_signed_before_does_not_come_back() {
    let signed = Signed::start();
    let first = signed.config();
    signed.publisher.run(&drops("TRACE"), &[]);
    signed.publisher.run(&drops("DEBUG"), &[]);
    signed.follower.reaches(3);
    // A replay of the first revision, and the counter set back.
    signed.redis.set("streamgate_revision", "1");
    signed.redis.publish(&first);
    for gate in [&signed.publisher, &signed.follower] {
        eventually("it is seen", || gate.config()["store_behind"] == 1);
        assert_eq!(gate.revision(), 3);
    }
    signed.nothing_changed();
    assert_eq!(signed.publisher.publish(), 4);
    signed.follower.reaches(4);
    // A revision of the history that is another one's.
    let second = signed.redis.bytes("streamgate_revisions:2").expect("kept");
    signed.redis.set("streamgate_revisions:3", &second);
    let refused = signed
        .publisher
        .try_edit("POST", "/revisions/3/rollback", &Value::Null);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("it holds revision 2"),
        "{}",
        refused.text()
    );
    let changed = replaced(&second, "TRACE", "DEBUG");
    signed.redis.set("streamgate_revisions:2", changed);
    let refused = signed
        .publisher
        .try_edit("POST", "/revisions/2/rollback", &Value::Null);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("signature is wrong"),
        "{}",
        refused.text()
    );
}

#[test]
fn a_module_that_was_swapped_is_not_run() {
    let signed = Signed::start();
    let Signed {
        redis,
        publisher,
        follower,
        keys,
    } = &signed;
    let upload = |name: &str, file: &str| {
        let bytes = std::fs::read(guest(file)).expect("the module was built");
        let path = format!("/modules/{name}");
        let mut request = Request::new("PUT", &path).body(Body::Whole(&bytes));
        request.patience *= 6;
        publisher.ask(&request).expect(200);
        bytes
    };
    let keeps = upload("mine", "keep-all");
    let drops_words = upload("other", "drop-keyword");
    let digest = |bytes: &[u8]| streamgate::digest::Digest::of(bytes);
    let rule = json!([
        {"id": "f", "type": "filter", "params": {"value": "DEBUG"}},
        {"id": "w", "type": "wasm", "params": {"module": "mine"}},
    ]);
    publisher.run(&rule, &[]);
    follower.reaches(2);
    let config = signed.config();
    // The digest in the manifest.
    let (ours, theirs) = (digest(&keeps).to_string(), digest(&drops_words).to_string());
    signed.is_refused(replaced(&config, &ours, &theirs), "its signature is wrong");
    redis.publish(&config);
    // The bytes under the digest: another module, native code, what wasmtime wrote.
    let public = keys.path().join("ours-public.pem").display().to_string();
    for bytes in [&drops_words[..], b"\x7fELF\x02\x01\x01\0", &[b'x'; 4096]] {
        redis.set(
            &format!("streamgate_module:{}", digest(&keeps).hex()),
            bytes,
        );
        let new: Gate = Setup::new()
            .flag("store", redis.url())
            .flag("node", "new")
            .flag("trusted-keys", &public)
            .env("STREAMGATE_START_EMPTY", "true")
            .start();
        eventually("it is refused", || {
            let reason = new.config()["refused"]["reason"].clone();
            reason
                .as_str()
                .is_some_and(|reason| reason.contains("its digest is"))
        });
        assert_eq!(new.revision(), 0);
        signed.nothing_changed();
    }
    // What the name means, for the next publish.
    let modules = redis.bytes("streamgate_modules").expect("there are some");
    let swapped = replaced(&replaced(&modules, &ours, &theirs), &theirs, &ours);
    redis.set(
        "streamgate_modules",
        swapped.iter().rev().copied().collect::<Vec<_>>(),
    );
    let refused = publisher.try_edit("POST", "/publish", &Value::Null);
    assert_eq!(refused.status, 409, "{}", refused.text());
    let swapped = replaced(&modules, "\"name\":\"mine\"", "\"name\":\"mink\"");
    redis.set("streamgate_modules", swapped);
    let refused = publisher.try_edit("POST", "/publish", &Value::Null);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("signature is wrong"),
        "{}",
        refused.text()
    );
}

#[test]
fn a_draft_that_was_changed_is_not_signed() {
    let signed = Signed::start();
    let draft = signed
        .redis
        .bytes("streamgate_draft")
        .expect("there is one");
    signed
        .redis
        .set("streamgate_draft", replaced(&draft, "DEBUG", "INFO_"));
    for (method, path) in [("GET", "/rules"), ("POST", "/publish")] {
        let refused = signed.publisher.try_edit(method, path, &Value::Null);
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert_eq!(refused.json()["code"], "unusable_document");
        assert!(
            refused.text().contains("signature is wrong"),
            "{}",
            refused.text()
        );
    }
    signed.nothing_changed();
}

#[test]
fn a_gate_without_the_key_does_not_publish() {
    let signed = Signed::start();
    let refused = signed.follower.try_edit("PUT", "/rules", &drops("INFO"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["code"], "cannot_sign");
    signed.nothing_changed();
}

#[test]
fn key_files_that_cannot_be_right_are_bad_usage() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (private, public) = signing_keys(folder.path(), "one");
    let (other, _) = signing_keys(folder.path(), "two");
    let (private, public, other) = (
        private.display().to_string(),
        public.display().to_string(),
        other.display().to_string(),
    );
    let none = folder.path().join("none.pem").display().to_string();
    for (flags, part) in [
        (&[("trusted-keys", &private)][..], "PUBLIC KEY"),
        (&[("signing-key", &public)], "PRIVATE KEY"),
        (&[("trusted-keys", &none)], "none.pem"),
        (
            &[("trusted-keys", &public), ("signing-key", &other)],
            "is not in `trusted_keys`",
        ),
    ] {
        let setup = flags
            .iter()
            .fold(member(&redis, "a"), |setup, (flag, value)| {
                setup.flag(flag, value.as_str())
            });
        setup.run_to_end().expect_error(2, part);
    }
}
