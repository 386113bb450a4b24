//! Gates that share a Redis.

use serde_json::{Value, json};

use super::{Gate, Setup, eventually, redis::RedisServer};

/// A gate of this name on that Redis.
pub(crate) fn member(redis: &RedisServer, name: &str) -> Setup {
    Setup::new().flag("store", redis.url()).flag("node", name)
}

/// A manifest as another program writes it, with one filter.
pub(crate) fn foreign(keyword: &str) -> String {
    json!({
        "version": "1.0",
        "pipelines": [{
            "name": "default_pipeline",
            "processors": [{"id": "f", "type": "filter", "params": {"value": keyword}}],
            "outputs": [],
            "batch_size": 100
        }]
    })
    .to_string()
}

/// A rule that drops events with that word.
pub(crate) fn drops(word: &str) -> Value {
    json!([{"id": "f", "type": "filter", "params": {"value": word}}])
}

impl Gate {
    /// The revision in force.
    pub(crate) fn revision(&self) -> u64 {
        self.get("/status")["revision"].as_u64().expect("a number")
    }

    /// How it stands to its config store.
    pub(crate) fn config(&self) -> Value {
        self.get("/status")["config"].take()
    }

    /// Waits until a revision is in force.
    #[track_caller]
    pub(crate) fn reaches(&self, revision: u64) {
        eventually(&format!("revision {revision} is in force"), || {
            self.revision() == revision
        });
    }

    /// Waits until it drops events with `word`, and passes on others: sends one of each at a time.
    /// Returns how many it sent.
    #[track_caller]
    pub(crate) fn comes_to_drop(&self, word: &str) -> u64 {
        let mut sent = 0;
        eventually(&format!("events with {word} are dropped"), || {
            let before = self.pipeline();
            self.send(format!("{word} one\nother two\n").as_bytes());
            sent += 2;
            let received = before["received"].as_u64().expect("a number") + 2;
            let after = self.settled(received);
            let filtered = |books: &Value| books["filtered"].as_u64().expect("a number");
            filtered(&after) == filtered(&before) + 1
        });
        sent
    }

    /// A counter or gauge of `/metrics`.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self
            .ask(&super::Request::new("GET", "/metrics"))
            .expect(200)
            .text();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("there is no {series}:\n{text}"));
        value
            .trim_start_matches("{}")
            .trim()
            .parse()
            .expect("a number")
    }
}
