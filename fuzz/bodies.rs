//! What the fuzz targets do with any bytes. Each panics if something that was promised does not
//! hold.

use serde_json::{Map, Value, json};
use streamgate_guest::{Batch, Processor, Tally};
use streamgate_processors::{
    Builtin, Clock, OnError, TYPES,
    detectors::{self, Finder},
};

/// Most bytes that are looked at: what is longer repeats itself.
const MOST_BYTES: usize = 4096;

/// Every check answers for any bytes and any range, and what is sensitive lies in the event.
pub fn detectors(data: &[u8]) {
    let [number, start, length, event @ ..] = data else {
        return;
    };
    let event = &event[..event.len().min(MOST_BYTES)];
    let all = detectors::all();
    let detector = &all[usize::from(*number) % all.len()];
    let (start, end) = (
        usize::from(*start),
        usize::from(*start) + usize::from(*length),
    );
    if detector.confirms(event, start, end) {
        let hidden = detector.hidden(event, start, end);
        assert!(hidden.start >= start && hidden.end <= event.len() && hidden.start < hidden.end);
    }
    let finder = Finder::build(detector).expect("every pattern compiles");
    let found = finder.find_all(event);
    assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
}

/// Redacting twice is redacting once, no event appears or goes, and JSON stays JSON.
pub fn redact(data: &[u8]) {
    let [first, second, action, lines @ ..] = data else {
        return;
    };
    let all = detectors::all();
    let name = |number: &u8| all[usize::from(*number) % all.len()].name;
    let mut names = vec![name(first)];
    if name(second) != names[0] {
        names.push(name(second));
    }
    let params = match action % 4 {
        0 => json!({"detectors": names}),
        1 => json!({"detectors": names, "action": "mask", "keep_last": 4}),
        2 => json!({"detectors": names, "fields": ["**/a", "kept[*]/b"]}),
        _ => json!({"detectors": names, "except_fields": ["**/kept"]}),
    };
    let mut redact = build("redact", &params).expect("the rule is right");
    let lines = lines_of(lines);
    let (once, tally) = run(&mut redact, &lines);
    assert_eq!(count(&once), count(&lines));
    assert_eq!(tally.dropped, 0);
    let (twice, _) = run(&mut redact, &once);
    assert_eq!(once, twice, "{params}");
    for (before, after) in lines
        .split(|&byte| byte == b'\n')
        .zip(once.split(|&byte| byte == b'\n'))
    {
        let is_json = |text: &[u8]| serde_json::from_slice::<Value>(text).is_ok();
        if before.starts_with(b"{") && is_json(before) {
            assert!(is_json(after), "{}", String::from_utf8_lossy(after));
        }
    }
}

/// A filter by a pattern drops what a regex finds in the body of an event, and nothing else.
pub fn patterns(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let (Some(pattern), Some(lines)) = (parts.next(), parts.next()) else {
        return;
    };
    let Ok(pattern) = std::str::from_utf8(pattern) else {
        return;
    };
    // In the bytes: what a view makes of them is no business of a regex.
    let params = json!({"pattern": pattern, "text": "source"});
    let (Some(mut filter), Ok(regex)) = (
        build("filter", &params),
        regex::bytes::RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build(),
    ) else {
        return;
    };
    let lines = lines_of(lines);
    let kept: Vec<u8> = lines
        .split_inclusive(|&byte| byte == b'\n')
        .filter(|line| {
            let body = line.strip_suffix(b"\n").unwrap_or(line);
            !regex.is_match(body.strip_suffix(b"\r").unwrap_or(body))
        })
        .flatten()
        .copied()
        .collect();
    let (left, _) = run(&mut filter, &lines);
    assert_eq!(
        left,
        kept,
        "{pattern:?} over {:?}",
        String::from_utf8_lossy(&lines)
    );
}

/// Whatever a rule's parameters are, it is built or refused; and if built, it stands any events.
pub fn rules(data: &[u8]) {
    let [kind, rest @ ..] = data else {
        return;
    };
    let kind = TYPES[usize::from(*kind) % TYPES.len()];
    let mut parts = rest.splitn(2, |&byte| byte == 0);
    let params = parts.next().unwrap_or_default();
    let Ok(Value::Object(params)) = serde_json::from_slice(&params[..params.len().min(MOST_BYTES)])
    else {
        return;
    };
    let Some(mut rule) = build_from(kind, &params) else {
        return;
    };
    let lines = lines_of(parts.next().unwrap_or_default());
    let (left, tally) = run(&mut rule, &lines);
    assert_eq!(
        count(&left) + tally.dropped + tally.failed_dropped,
        count(&lines)
    );
}

fn build(kind: &str, params: &Value) -> Option<Builtin> {
    build_from(kind, params.as_object()?)
}

fn build_from(kind: &str, params: &Map<String, Value>) -> Option<Builtin> {
    let built = Builtin::build(kind, params, OnError::Mask).ok()?;
    Some(built.for_worker(7, &Clock::default()))
}

/// Any bytes as whole events.
fn lines_of(data: &[u8]) -> Vec<u8> {
    let mut lines = data[..data.len().min(MOST_BYTES)].to_vec();
    if !lines.is_empty() && !lines.ends_with(b"\n") {
        lines.push(b'\n');
    }
    lines
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().map(|&byte| u64::from(byte == b'\n')).sum()
}

fn run(rule: &mut Builtin, lines: &[u8]) -> (Vec<u8>, Tally) {
    let mut batch = Batch::from_lines(lines);
    let tally = rule.process(&mut batch);
    (batch.slices().collect::<Vec<_>>().concat(), tally)
}
