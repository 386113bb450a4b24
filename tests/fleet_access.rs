//! Ways to a Redis: ACL users with no more than they need, TLS, Sentinel.

use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::{Gate, RedisServer, Setup, certificates, drops, eventually, member};

/// The ACL lines of docs/redis.md.
fn acl_lines() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis.md");
    let page = std::fs::read_to_string(page).expect("docs/redis.md");
    let lines = page
        .lines()
        .filter_map(|line| line.strip_prefix("ACL SETUSER "));
    lines.map(str::to_owned).collect()
}

fn as_user(redis: &RedisServer, user: &str, name: &str) -> Setup {
    let url = format!("redis://{user}@127.0.0.1:{}", redis.port);
    member(redis, name).flag("store", url)
}

#[test]
fn the_documented_acl_users_can_do_what_they_need_and_nothing_else() {
    let redis = RedisServer::start();
    let lines = acl_lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let mut connection = redis.connection();
    for line in &lines {
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER");
        for word in line.split_whitespace() {
            acl.arg(word);
        }
        acl.exec(&mut connection).expect("valid ACL lines");
    }
    redis::cmd("ACL")
        .arg(&["SETUSER", "default", "off"])
        .exec(&mut connection)
        .expect("an admin may");
    let publisher = as_user(&redis, "publisher:publisher-password", "publisher").start();
    let follower = as_user(&redis, "gate:gate-password", "follower").start();
    publisher.run(&drops("DEBUG"), &[]);
    let answer = publisher.edit("POST", "/publish?republish=true&wait=10s", &Value::Null);
    assert_eq!(
        answer["gates"].as_array().expect("a list").len(),
        2,
        "{answer}"
    );
    follower.reaches(2);
    assert_eq!(follower.config()["state"], "ok", "{}", follower.config());
    assert_eq!(publisher.config()["state"], "ok", "{}", publisher.config());
    // It may read the draft, and not change it.
    assert_eq!(follower.get("/rules"), drops("DEBUG"));
    let refused = follower.try_edit("PUT", "/rules", &drops("TRACE"));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("ACL"), "{}", refused.text());
    // Nobody's password is in what a gate tells or logs.
    for gate in [&publisher, &follower] {
        let told = format!("{} {}", gate.get("/status"), gate.stderr.text());
        assert!(!told.contains("-password"), "{told}");
    }
    let scripts: Result<i64, _> = redis::Client::open(format!(
        "redis://publisher:publisher-password@127.0.0.1:{}",
        redis.port
    ))
    .and_then(|client| client.get_connection())
    .and_then(|mut own| redis::cmd("EVAL").arg("return 1").arg(0).query(&mut own));
    assert_eq!(scripts.expect_err("no scripts").code(), Some("NOPERM"));
}

#[test]
fn a_wrong_password_is_told_without_the_password() {
    let redis = RedisServer::start_with(&["--requirepass", "right"]);
    let url = format!("redis://:wrong-hunter2@127.0.0.1:{}", redis.port);
    let setup = Setup::new().flag("store", url);
    let gate = setup.env("STREAMGATE_START_EMPTY", "true").start();
    eventually("it is refused", || gate.config()["state"] == "degraded");
    let told = format!("{} {}", gate.get("/status"), gate.stderr.text());
    assert!(told.contains("check user and password"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn tls_with_an_own_ca_and_client_certificates() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let tls_port = free_port().to_string();
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ]);
    let url = format!("rediss://127.0.0.1:{tls_port}");
    let setup = |name: &str| member(&redis, name).flag("store", &url);
    let gate = setup("a")
        .flag("store-ca", file("ca.pem"))
        .flag("store-cert", file("client.pem"))
        .flag("store-key", file("client.key"))
        .start();
    gate.run(&drops("DEBUG"), &[]);
    gate.comes_to_drop("DEBUG");
    eventually("it listens", || gate.config()["subscribed"] == true);
    // Whom nobody vouches for is not talked to, and neither is who shows no certificate.
    let setup = |name: &str| setup(name).env("STREAMGATE_START_EMPTY", "true");
    let stranger = setup("b").start();
    eventually("it is refused", || stranger.config()["state"] == "degraded");
    let nameless = setup("c").flag("store-ca", file("ca.pem")).start();
    eventually("it is refused", || nameless.config()["state"] == "degraded");
    for gate in [stranger, nameless] {
        assert_eq!(gate.revision(), 0);
    }
    let unreadable = setup("d").flag("store-ca", file("none.pem"));
    unreadable.run_to_end().expect_error(2, "none.pem");
}

#[test]
fn sentinel_says_which_redis_is_the_master() {
    let mut first = RedisServer::start();
    let second = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", first.port)]);
    let sentinel = Sentinel::start(first.port);
    let url = format!(
        "redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main",
        sentinel.port
    );
    let gate: Gate = Setup::new().flag("store", url).start();
    assert_eq!(gate.run(&drops("DEBUG"), &[]), 1);
    eventually("the replica has it", || {
        second.bytes("streamgate_config").is_some()
    });
    first.kill();
    eventually("the replica is the master, and is found", || {
        gate.try_edit("PUT", "/rules", &drops("TRACE")).status == 200
    });
    assert_eq!(gate.publish(), 2);
    gate.comes_to_drop("TRACE");
    assert!(second.bytes("streamgate_revisions:2").is_some());
}

/// A `redis-sentinel` that watches one master, and needs nobody's consent.
struct Sentinel {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    fn start(master: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let path = folder.path().join("sentinel.conf");
        let mut file = std::fs::File::create(&path).expect("the folder is ours");
        writeln!(
            file,
            "port {port}\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000"
        )
        .expect("the file is ours");
        let child = Command::new("redis-server")
            .arg(&path)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let sentinel = Self {
            child,
            port,
            _folder: folder,
        };
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("a URL");
        eventually("the sentinel knows the master and its replica", || {
            let Ok(mut connection) = client.get_connection() else {
                return false;
            };
            let replicas: Result<Vec<redis::Value>, _> = redis::cmd("SENTINEL")
                .arg("replicas")
                .arg("main")
                .query(&mut connection);
            replicas.is_ok_and(|replicas| replicas.len() == 1)
        });
        sentinel
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}
