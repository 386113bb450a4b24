//! Outputs to vendors, against receivers that enforce what each vendor's documentation says: the
//! shape of a request, its limits, and its own way to refuse. A request that is wrong in any way is
//! refused as the vendor would, so that events of it never count as sent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use ring::{digest, hmac};
use serde_json::{Value, json};

use crate::support::{
    Gate, HttpReceiver, Received, Reply, Setup, decompressed, eventually, pseudo_random,
};

/// What a vendor has taken, event by event.
type Taken = Arc<Mutex<Vec<Value>>>;

fn taken(taken: &Taken) -> Vec<Value> {
    taken.lock().expect("no judge panics").clone()
}

/// Events of every kind, and what each is when it is text.
fn mixed(count: usize) -> (Vec<u8>, Vec<String>) {
    let mut random = pseudo_random(7);
    let (mut bytes, mut texts) = (Vec::new(), Vec::new());
    for number in 0..count {
        let event: Vec<u8> = match random.u8(0..100) {
            0 => vec![b'x'; random.usize(100_000..250_000)],
            1 => b"not \xff\xfe UTF-8".to_vec(),
            2 => "quotes \" and \\ and \t tabs \u{1} and ä €".into(),
            3..40 => json!({"message": "an object", "n": number, "nested": {"a": [1, "x"]}})
                .to_string()
                .into_bytes(),
            _ => format!("plain text, number {number}").into_bytes(),
        };
        texts.push(String::from_utf8_lossy(&event).into_owned());
        bytes.extend_from_slice(&event);
        bytes.push(b'\n');
    }
    (bytes, texts)
}

fn body_of(request: &Received) -> Vec<u8> {
    match request.header("content-encoding") {
        None => request.body.clone(),
        Some(compression) => decompressed(compression, &request.body),
    }
}

#[track_caller]
fn wait_for(taken_events: &Taken, events: usize) {
    eventually("the vendor has taken all", || {
        taken_events.lock().expect("no judge panics").len() >= events
    });
}

/// Waits until nothing is under way and returns what `/stats` says of the output.
fn settled(gate: &Gate, received: usize) -> Value {
    gate.settled(received as u64)["outputs"][0].clone()
}

/// Datadog, as "Send logs" (v2) of its API reference says.
fn datadog(
    taken: &Taken,
    fault: impl Fn() -> Option<Reply> + Send + Sync + 'static,
) -> HttpReceiver {
    let taken = Arc::clone(taken);
    HttpReceiver::judging(move |request| {
        let refuse = |status| Reply::Body(status, json!({"errors": [{"title": "no"}]}).to_string());
        if !request.line.starts_with("POST /api/v2/logs?") {
            return refuse(404);
        }
        if request.header("dd-api-key") != Some("a-datadog-key") {
            return refuse(403);
        }
        if request.header("content-type") != Some("application/json") {
            return refuse(400);
        }
        if let Some(fault) = fault() {
            return fault;
        }
        let body = body_of(request);
        if body.len() > 5_000_000 {
            return refuse(413);
        }
        let Ok(events) = serde_json::from_slice::<Vec<Value>>(&body) else {
            return refuse(400);
        };
        let is_log = |event: &Value| event.is_object() && event["timestamp"].is_u64();
        if events.len() > 1_000 || !events.iter().all(is_log) {
            return refuse(400);
        }
        taken.lock().expect("no judge panics").extend(events);
        Reply::Body(202, "{}".to_owned())
    })
}

fn datadog_output(receiver: &HttpReceiver) -> Value {
    json!({
        "id": "vendor", "type": "datadog", "api_key": "env:DATADOG_API_KEY",
        "endpoint": format!("{}/api/v2/logs", receiver.url()),
        "service": "shop", "source": "gate", "tags": ["env:prod", "team:core"],
    })
}

fn with_keys() -> Setup {
    Setup::new()
        .env("DATADOG_API_KEY", "a-datadog-key")
        .env("NEW_RELIC_LICENSE_KEY", "a-new-relic-key")
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "an-aws-secret")
}

#[test]
fn datadog_takes_every_event_within_its_limits() {
    let events = Taken::default();
    let receiver = datadog(&events, || None);
    let gate = with_keys().start();
    gate.run(&json!([]), &[datadog_output(&receiver)]);
    let (bytes, texts) = mixed(6_000);
    gate.send(&bytes);
    wait_for(&events, texts.len());
    for (event, text) in taken(&events).iter().zip(&texts) {
        let object = serde_json::from_str(text).ok().filter(Value::is_object);
        let mut expected = object.unwrap_or_else(|| json!({"message": text}));
        expected["timestamp"] = event["timestamp"].clone();
        assert_eq!(*event, expected);
    }
    let line = &receiver.requests()[0].line;
    for parameter in [
        "ddsource=gate",
        "service=shop",
        "ddtags=env%3Aprod%2Cteam%3Acore",
    ] {
        assert!(line.contains(parameter), "{line}");
    }
    let output = settled(&gate, texts.len());
    assert_eq!(output["sent"], texts.len());
    assert!(receiver.requests().iter().all(|request| request.taken));
    gate.stop();
}

/// What a vendor may answer on a bad day, every other time. Malformed answers say nothing, so the
/// same is sent again.
fn bad_day(number: usize) -> Option<Reply> {
    let replies = [
        Reply::Status(429),
        Reply::Raw(b"HTTP/1.1 2"),
        Reply::Status(500),
        Reply::Raw(b"\0\xff\xfenot http at all\r\n\r\n"),
        Reply::With(503, "Retry-After: 0\r\n"),
        Reply::Reset,
        Reply::Status(408),
    ];
    match number.is_multiple_of(2) {
        true => replies.get(number / 2).cloned(),
        false => None,
    }
}

#[test]
fn datadog_on_a_bad_day_costs_no_event() {
    let (events, asked) = (Taken::default(), AtomicUsize::new(0));
    let receiver = datadog(&events, move || {
        bad_day(asked.fetch_add(1, Ordering::SeqCst))
    });
    let gate = with_keys().start();
    gate.run(&json!([]), &[datadog_output(&receiver)]);
    let (bytes, texts) = mixed(3_000);
    gate.send(&bytes);
    wait_for(&events, texts.len());
    assert_eq!(settled(&gate, texts.len())["sent"], texts.len());
    assert_eq!(taken(&events).len(), texts.len());
    gate.stop();
}

#[test]
fn vendors_that_refuse_the_key_are_waited_for_and_it_is_shown_nowhere() {
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join("key");
    std::fs::write(&path, "a-wrong-key").unwrap();
    let events = Taken::default();
    let (dogs, relics) = (datadog(&events, || None), newrelic(&events, || None));
    let mut outputs = [datadog_output(&dogs), newrelic_output(&relics)];
    outputs[0]["api_key"] = json!(format!("file:{}", path.display()));
    outputs[1]["id"] = json!("other");
    outputs[1]["license_key"] = json!(format!("file:{}", path.display()));
    let secrets = keys.path().display().to_string();
    let gate = with_keys().flag("secret-files", secrets).start();
    gate.run(&json!([]), &outputs);
    gate.send(b"one\n");
    eventually("both are open", || {
        let status = gate.get("/status");
        status["outputs"][0]["state"] == "open" && status["outputs"][1]["state"] == "open"
    });
    let metrics = gate.ask(&crate::support::Request::new("GET", "/metrics"));
    let shown = [
        gate.get("/status").to_string(),
        gate.get("/outputs").to_string(),
        metrics.text(),
    ];
    assert!(!shown.concat().contains("a-wrong-key"));
    // One key for both, for this test.
    std::fs::write(&path, "a-datadog-key").unwrap();
    wait_for(&events, 1);
    std::fs::write(&path, "a-new-relic-key").unwrap();
    wait_for(&events, 2);
    gate.settled(1);
    assert!(!gate.stop().stderr.contains("-key\""));
}

/// New Relic, as "Introduction to the Log API" says.
fn newrelic(
    taken: &Taken,
    fault: impl Fn() -> Option<Reply> + Send + Sync + 'static,
) -> HttpReceiver {
    let taken = Arc::clone(taken);
    HttpReceiver::judging(move |request| {
        if request.header("api-key") != Some("a-new-relic-key") {
            return Reply::Status(403);
        }
        if let Some(fault) = fault() {
            return fault;
        }
        let body = body_of(request);
        if body.len() > 1_000_000 || request.body.len() > 1_000_000 {
            return Reply::Status(413);
        }
        let Ok(body) = serde_json::from_slice::<Value>(&body) else {
            return Reply::Status(400);
        };
        let Some(logs) = body[0]["logs"].as_array() else {
            return Reply::Status(400);
        };
        let common = &body[0]["common"]["attributes"];
        let is_log = |log: &Value| {
            log["timestamp"].is_u64()
                && (log["message"].is_string() || log["attributes"].is_object())
        };
        if common["team"] != "core" || !logs.iter().all(is_log) {
            return Reply::Status(400);
        }
        taken
            .lock()
            .expect("no judge panics")
            .extend(logs.iter().cloned());
        Reply::Body(202, json!({"requestId": "1"}).to_string())
    })
}

fn newrelic_output(receiver: &HttpReceiver) -> Value {
    json!({
        "id": "vendor", "type": "newrelic", "license_key": "env:NEW_RELIC_LICENSE_KEY",
        "endpoint": receiver.url(), "attributes": {"team": "core"},
    })
}

#[test]
fn newrelic_takes_every_event_within_its_limits() {
    for bad in [false, true] {
        let (events, asked) = (Taken::default(), AtomicUsize::new(0));
        let receiver = newrelic(&events, move || {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            bad_day(number).filter(|_| bad)
        });
        let gate = with_keys().start();
        gate.run(&json!([]), &[newrelic_output(&receiver)]);
        let (bytes, texts) = mixed(2_000);
        gate.send(&bytes);
        wait_for(&events, texts.len());
        for (event, text) in taken(&events).iter().zip(&texts) {
            match serde_json::from_str(text).ok().filter(Value::is_object) {
                Some(object) => assert_eq!(event["attributes"], object),
                None => assert_eq!(event["message"], *text),
            }
        }
        assert_eq!(settled(&gate, texts.len())["sent"], texts.len());
        assert_eq!(taken(&events).len(), texts.len());
        gate.stop();
    }
}

#[test]
fn event_that_newrelic_never_takes_is_a_dead_letter_and_its_neighbours_arrive() {
    let events = Taken::default();
    let receiver = newrelic(&events, || None);
    let gate = with_keys().flag("max-event", "2MiB").start();
    gate.run(&json!([]), &[newrelic_output(&receiver)]);
    gate.send(
        &[
            b"before\n".to_vec(),
            vec![b'x'; 1_200_000],
            b"\nafter\n".to_vec(),
        ]
        .concat(),
    );
    let output = settled(&gate, 3);
    assert_eq!(
        (&output["sent"], &output["dead_lettered"]),
        (&json!(2), &json!(1))
    );
    let letters = gate.get("/outputs/vendor/dead-letters");
    let reason = letters["dead_letters"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("1000000 bytes"), "{reason}");
    gate.stop();
}

/// Answers a request otherwise than the vendor's rules say.
type Fault = Box<dyn Fn(&[Value]) -> Option<Reply> + Send + Sync>;

/// CloudWatch Logs, as "PutLogEvents" of its API reference says, with a signature that is checked.
struct CloudWatch {
    group: AtomicBool,
    stream: AtomicBool,
    taken: Taken,
    fault: Fault,
}

impl CloudWatch {
    fn start(
        taken: &Taken,
        fault: impl Fn(&[Value]) -> Option<Reply> + Send + Sync + 'static,
    ) -> HttpReceiver {
        let judge = Self {
            group: AtomicBool::new(false),
            stream: AtomicBool::new(false),
            taken: Arc::clone(taken),
            fault: Box::new(fault),
        };
        HttpReceiver::judging(move |request| judge.judge(request))
    }

    fn judge(&self, request: &Received) -> Reply {
        if request.header("content-type") != Some("application/x-amz-json-1.1") {
            return refused("SerializationException");
        }
        if request.header("authorization") != Some(&signature(request, "an-aws-secret")) {
            return refused("InvalidSignatureException");
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return refused("SerializationException");
        };
        if body["logGroupName"] != "/shop/prod" {
            return refused("InvalidParameterException");
        }
        match request.header("x-amz-target") {
            Some("Logs_20140328.CreateLogGroup") => match self.group.swap(true, Ordering::SeqCst) {
                false => Reply::Body(200, String::new()),
                true => refused("ResourceAlreadyExistsException"),
            },
            Some("Logs_20140328.CreateLogStream") => match self.group.load(Ordering::SeqCst) {
                true => {
                    self.stream
                        .store(body["logStreamName"] == "gate-1", Ordering::SeqCst);
                    Reply::Body(200, String::new())
                }
                false => refused("ResourceNotFoundException"),
            },
            Some("Logs_20140328.PutLogEvents") => match self.stream.load(Ordering::SeqCst) {
                true => self.put(&body),
                false => refused("ResourceNotFoundException"),
            },
            _ => refused("UnknownOperationException"),
        }
    }

    fn put(&self, body: &Value) -> Reply {
        let Some(events) = body["logEvents"].as_array() else {
            return refused("InvalidParameterException");
        };
        let size = |event: &Value| event["message"].as_str().map_or(0, str::len) + 26;
        let time = |event: &Value| event["timestamp"].as_u64();
        let in_order = events.is_sorted_by_key(time);
        let fits = events
            .iter()
            .all(|event| (27..=1_000_000).contains(&size(event)));
        let all: usize = events.iter().map(size).sum();
        let valid = in_order && fits && (1..=10_000).contains(&events.len()) && all <= 1_048_576;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("after 1970").as_millis();
        let is_new = |event: &Value| time(event).is_some_and(|ms| u128::from(ms) + 60_000 > now);
        if !valid || !events.iter().all(is_new) {
            return refused("InvalidParameterException");
        }
        if let Some(fault) = (self.fault)(events) {
            return fault;
        }
        self.taken
            .lock()
            .expect("no judge panics")
            .extend(events.iter().cloned());
        Reply::Body(200, json!({"nextSequenceToken": "x"}).to_string())
    }
}

fn refused(kind: &str) -> Reply {
    let body = json!({"__type": format!("com.amazonaws.logs#{kind}"), "message": "no"});
    Reply::Body(400, body.to_string())
}

/// What `authorization` must be, from "Create a signed AWS API request" of the IAM user guide.
fn signature(request: &Received, secret: &str) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let hash = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let header = |name| request.header(name).unwrap_or_default();
    let date = header("x-amz-date");
    let scope = format!(
        "{}/eu-central-1/logs/aws4_request",
        date.get(..8).unwrap_or_default()
    );
    let canonical = format!(
        "POST\n/\n\nhost:{}\nx-amz-date:{date}\nx-amz-target:{}\n\nhost;x-amz-date;x-amz-target\n{}",
        header("host"),
        header("x-amz-target"),
        hash(&request.body)
    );
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        hash(canonical.as_bytes())
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/').chain([text.as_str()]) {
        let by = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&by, part.as_bytes()).as_ref().to_vec();
    }
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, \
         SignedHeaders=host;x-amz-date;x-amz-target, Signature={}",
        hex(&key)
    )
}

fn cloudwatch_output(receiver: &HttpReceiver) -> Value {
    json!({
        "id": "vendor", "type": "cloudwatch", "region": "eu-central-1", "group": "/shop/prod",
        "stream": "gate-1", "endpoint": receiver.url(),
    })
}

#[test]
fn cloudwatch_takes_every_event_within_its_limits_and_group_and_stream_are_made() {
    for bad in [false, true] {
        let (events, asked) = (Taken::default(), AtomicUsize::new(0));
        let receiver = CloudWatch::start(&events, move |_| {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            match number {
                _ if !bad => None,
                20 => Some(refused("ThrottlingException")),
                number => bad_day(number),
            }
        });
        let gate = with_keys().start();
        gate.run(&json!([]), &[cloudwatch_output(&receiver)]);
        let (bytes, texts) = mixed(3_000);
        gate.send(&bytes);
        wait_for(&events, texts.len());
        for (event, text) in taken(&events).iter().zip(&texts) {
            assert_eq!(event["message"], *text);
        }
        assert_eq!(settled(&gate, texts.len())["sent"], texts.len());
        assert_eq!(taken(&events).len(), texts.len());
        gate.stop();
    }
}

#[test]
fn events_that_cloudwatch_rejects_one_by_one_are_dead_letters() {
    let events = Taken::default();
    let receiver = CloudWatch::start(&events, |events| {
        // Of those that come together, the first two are too old, and the last is too new.
        let info =
            json!({"tooOldLogEventEndIndex": 2, "tooNewLogEventStartIndex": events.len() - 1});
        let whole = json!({"rejectedLogEventsInfo": info}).to_string();
        (events.len() == 10).then_some(Reply::Body(200, whole))
    });
    let gate = with_keys().start();
    let mut output = cloudwatch_output(&receiver);
    output["max_batch_events"] = json!(10);
    output["linger_ms"] = json!(60_000);
    output["max_batch_bytes"] = json!(1_024);
    gate.run(&json!([]), &[output]);
    let lines: Vec<u8> = (0..10)
        .flat_map(|n| format!("{n}{}\n", "x".repeat(200)).into_bytes())
        .collect();
    gate.send(&lines);
    let output = settled(&gate, 10);
    assert_eq!(
        (&output["sent"], &output["dead_lettered"]),
        (&json!(7), &json!(3))
    );
    let letters = gate.get("/outputs/vendor/dead-letters");
    let letters = letters["dead_letters"].as_array().unwrap();
    let of = |index: usize| {
        let letter = &letters[index];
        (
            letter["event"].as_str().unwrap()[..1].to_owned(),
            letter["reason"].to_string(),
        )
    };
    assert!(
        of(0).0 == "0" && of(1).0 == "1" && of(2).0 == "9",
        "{letters:?}"
    );
    assert!(
        of(1).1.contains("14 days") && of(2).1.contains("future"),
        "{letters:?}"
    );
    gate.stop();
}

/// One event that the vendor refuses costs the others nothing.
#[test]
fn request_that_cloudwatch_refuses_is_split_down_to_the_event() {
    let events = Taken::default();
    let receiver = CloudWatch::start(&events, |events| {
        let poisoned = |event: &Value| event["message"].as_str() == Some("poison");
        events
            .iter()
            .any(poisoned)
            .then(|| refused("InvalidParameterException"))
    });
    let gate = with_keys().start();
    gate.run(&json!([]), &[cloudwatch_output(&receiver)]);
    let line = |number| match number {
        77 => "poison\n".to_owned(),
        number => format!("event {number}\n"),
    };
    let lines: Vec<u8> = (0..200)
        .flat_map(|number| line(number).into_bytes())
        .collect();
    gate.send(&lines);
    let output = settled(&gate, 200);
    assert_eq!(
        (&output["sent"], &output["dead_lettered"]),
        (&json!(199), &json!(1))
    );
    let letters = gate.get("/outputs/vendor/dead-letters");
    assert_eq!(letters["dead_letters"][0]["event"], "poison");
    gate.stop();
}

#[test]
fn group_that_is_missing_is_waited_for_where_it_must_not_be_made() {
    let events = Taken::default();
    let receiver = CloudWatch::start(&events, |_| None);
    let gate = with_keys().start();
    let mut output = cloudwatch_output(&receiver);
    output["create"] = json!(false);
    gate.run(&json!([]), &[output.clone()]);
    gate.send(b"one\n");
    eventually("it is told", || {
        let status = gate.get("/status");
        let error = status["outputs"][0]["last_error"]
            .as_str()
            .unwrap_or_default();
        error.contains("ResourceNotFoundException")
    });
    assert!(taken(&events).is_empty());
    output["create"] = json!(true);
    output["timeout_ms"] = json!(Duration::from_secs(9).as_millis());
    gate.run(&json!([]), &[output]);
    gate.send(b"two\n");
    wait_for(&events, 1);
    gate.stop();
}
