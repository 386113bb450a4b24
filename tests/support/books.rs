//! The books, as `GET /stats` shows them.

use serde_json::Value;

/// Asserts both equations, exactly; they hold at every moment.
#[track_caller]
pub(crate) fn assert_books_balance(stats: &Value) {
    for pipeline in list(stats, "pipelines") {
        let accounted: u64 = [
            "in_flight",
            "delivered_to_chain_end",
            "filtered",
            "sampled",
            "deduplicated",
            "throttled",
            "rule_dropped",
            "shed",
        ]
        .iter()
        .map(|account| number(pipeline, account))
        .sum();
        assert_eq!(
            number(pipeline, "received"),
            accounted,
            "`received` is not what was accounted for: {pipeline:#}"
        );
        for output in list(pipeline, "outputs") {
            let discarded: u64 = output["discarded"]
                .as_object()
                .expect("discarded, by reason")
                .values()
                .map(|events| events.as_u64().expect("a number"))
                .sum();
            let accounted = ["sent", "dead_lettered", "queued"]
                .iter()
                .map(|account| number(output, account))
                .sum::<u64>()
                + discarded;
            let came = ["offered", "recovered", "redriven"];
            assert_eq!(
                came.iter().map(|way| number(output, way)).sum::<u64>(),
                accounted,
                "`offered` is not what was accounted for: {output:#}"
            );
        }
    }
}

/// Whether nothing is under way: not before the workers, not in an output.
pub(crate) fn is_at_rest(stats: &Value) -> bool {
    list(stats, "pipelines").iter().all(|pipeline| {
        number(pipeline, "in_flight") == 0
            && list(pipeline, "outputs")
                .iter()
                .all(|output| number(output, "queued") == 0)
    })
}

fn number(of: &Value, field: &str) -> u64 {
    of[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no number `{field}` in {of:#}"))
}

fn list<'a>(of: &'a Value, field: &str) -> &'a Vec<Value> {
    of[field]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{field}` in {of:#}"))
}
