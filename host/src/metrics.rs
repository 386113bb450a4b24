//! Every metric: name, unit, labels. `GET /metrics` is this, made from the books and the status
//! when it is asked for; nothing is counted for it alone.
//!
//! Names are `streamgate_<noun>_<unit>`, counters end in `_total`. Label values are ids of rules
//! and outputs, names of transports and reasons, and names of guests' counters, all of which are
//! bounded in length and number where they are made.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    books::Stats, config_store::redis::Fault, fleet::Counters, gate::Status, outputs::OutputStatus,
    telemetry,
};

/// The content type of what [`write()`] returns: OpenMetrics 1.0, which Prometheus reads.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All series of one name.
#[derive(Debug)]
struct Family {
    /// Without the `_total` of counters, which the encoder adds.
    name: &'static str,
    help: &'static str,
    kind: Kind,
    series: Vec<Series>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
struct Series {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

/// What is shown at one moment.
#[derive(Debug)]
struct Snapshot(Vec<Family>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in self.0.iter().filter(|family| !family.series.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for series in &family.series {
                let mut one = metric.encode_family(&series.labels)?;
                match family.kind {
                    Kind::Counter => {
                        one.encode_counter::<NoLabelSet, _, f64>(&series.value, None)?
                    }
                    Kind::Gauge => one.encode_gauge(&series.value)?,
                }
            }
        }
        Ok(())
    }
}

/// Writes all metrics as text. `fleet` says whether the config store that gates share answers, and
/// what happened with it.
pub fn write(stats: &Stats, status: &Status, fleet: Option<(bool, Counters)>) -> String {
    let mut families = Vec::new();
    of_events(&mut families, stats);
    of_rules(&mut families, stats);
    of_outputs(&mut families, stats);
    of_disks(&mut families, status);
    of_modules(&mut families, status);
    of_process(&mut families, status);
    if let Some((answers, counters)) = fleet {
        of_config(&mut families, answers, counters);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a string takes what is written");
    text
}

fn of_config(families: &mut Vec<Family>, answers: bool, counters: Counters) {
    let mut one = |kind, name, help, value| {
        families.push(family(kind, name, help, [series([], value)]));
    };
    one(
        Kind::Gauge,
        "streamgate_config_store_up",
        "Whether the config store answers",
        u64::from(answers),
    );
    one(
        Kind::Counter,
        "streamgate_config_applied",
        "Manifests that were made live",
        counters.applied,
    );
    one(
        Kind::Counter,
        "streamgate_config_refused",
        "Manifests in the config store that were not taken",
        counters.refused,
    );
    let faults = Fault::ALL.iter().zip(counters.faults);
    let faults = faults.map(|(fault, count)| series([("reason", fault.name())], count));
    families.push(family(
        Kind::Counter,
        "streamgate_config_store_failures",
        "Failures of the config store",
        faults,
    ));
}

fn of_events(families: &mut Vec<Family>, stats: &Stats) {
    let pipelines = &stats.pipelines;
    let ingests = || {
        pipelines.iter().flat_map(|pipeline| {
            let ingest = &pipeline.ingest;
            [
                ("tcp", &ingest.tcp),
                ("udp", &ingest.udp),
                ("http", &ingest.http),
            ]
        })
    };
    let mut counter = |name, help, value: fn(&crate::books::IngestStats) -> u64| {
        let series = ingests().map(|(ingest, stats)| series([("ingest", ingest)], value(stats)));
        families.push(family(Kind::Counter, name, help, series));
    };
    counter(
        "streamgate_received_events",
        "Events that came in",
        |ingest| ingest.received,
    );
    counter("streamgate_received_bytes", "Their bytes", |ingest| {
        ingest.received_bytes
    });
    counter(
        "streamgate_shed_events",
        "Of them, those there was no room for",
        |ingest| ingest.shed,
    );
    counter(
        "streamgate_truncated_events",
        "Of them, those that were cut",
        |ingest| ingest.truncated,
    );
    counter(
        "streamgate_refused_requests",
        "Requests that were refused whole",
        |ingest| ingest.refused_requests,
    );
    counter(
        "streamgate_kernel_dropped_datagrams",
        "Datagrams that the kernel dropped since they were not read in time",
        |ingest| ingest.kernel_dropped_datagrams,
    );
    counter(
        "streamgate_evicted",
        "Half lines and bodies given up since their room in the memory budget was needed",
        |ingest| ingest.evicted,
    );
    counter(
        "streamgate_closed_connections",
        "Connections closed since their place was needed",
        |ingest| ingest.closed_connections,
    );
    counter(
        "streamgate_refused_connections",
        "Connections refused since there was no place",
        |ingest| ingest.refused_connections,
    );
    let mut total = |kind, name, help, value: fn(&crate::books::PipelineStats) -> u64| {
        let series = pipelines
            .iter()
            .map(|pipeline| series([("pipeline", &pipeline.name)], value(pipeline)));
        families.push(family(kind, name, help, series));
    };
    total(
        Kind::Counter,
        "streamgate_delivered_events",
        "Events that reached the end of the chain",
        |pipeline| pipeline.delivered_to_chain_end,
    );
    total(
        Kind::Counter,
        "streamgate_delivered_bytes",
        "Their bytes",
        |pipeline| pipeline.delivered_to_chain_end_bytes,
    );
    total(
        Kind::Gauge,
        "streamgate_in_flight_events",
        "Events between ingest and the end of the chain",
        |pipeline| pipeline.in_flight,
    );
    let dropped = pipelines.iter().flat_map(|pipeline| {
        let reasons = [
            ("filtered", pipeline.filtered),
            ("sampled", pipeline.sampled),
            ("deduplicated", pipeline.deduplicated),
            ("throttled", pipeline.throttled),
            ("rule_dropped", pipeline.rule_dropped),
        ];
        reasons.map(|(reason, events)| {
            series(
                [("pipeline", pipeline.name.as_str()), ("reason", reason)],
                events,
            )
        })
    });
    families.push(family(
        Kind::Counter,
        "streamgate_dropped_events",
        "Events that rules dropped",
        dropped,
    ));
}

fn of_rules(families: &mut Vec<Family>, stats: &Stats) {
    let rules = || stats.pipelines.iter().flat_map(|pipeline| &pipeline.rules);
    let mut counter = |name, help, value: fn(&crate::books::RuleStats) -> u64| {
        let series = rules().map(|rule| {
            series(
                [("rule", rule.id.as_str()), ("type", &rule.kind)],
                value(rule),
            )
        });
        families.push(family(Kind::Counter, name, help, series));
    };
    counter(
        "streamgate_rule_seen_events",
        "Events that the rule looked at",
        |rule| rule.seen,
    );
    counter(
        "streamgate_rule_dropped_events",
        "Events that it dropped",
        |rule| rule.dropped,
    );
    counter(
        "streamgate_rule_changed_events",
        "Events that it changed",
        |rule| rule.changed,
    );
    counter(
        "streamgate_rule_failed_events",
        "Events that it failed on, and that met its on_error",
        |rule| rule.failed + rule.failed_dropped,
    );
    counter(
        "streamgate_rule_unstructured_events",
        "Events that begin like JSON and could not be read by a redact rule with fields or except_fields; its \
         on_unstructured says what became of them",
        |rule| rule.unstructured,
    );
    counter(
        "streamgate_rule_no_fields_events",
        "Events that may hold what a redact rule looks for, have none of its fields, and passed it untouched",
        |rule| rule.no_fields,
    );
    let bypassed = rules().flat_map(|rule| {
        let by_breaker = rule.bypassed_by_breaker;
        let reasons = [
            ("overload", rule.bypassed - by_breaker),
            ("breaker", by_breaker),
        ];
        reasons.map(|(reason, events)| {
            series(
                [
                    ("rule", rule.id.as_str()),
                    ("type", &rule.kind),
                    ("reason", reason),
                ],
                events,
            )
        })
    });
    families.push(family(
        Kind::Counter,
        "streamgate_rule_bypassed_events",
        "Events that passed the rule by untouched",
        bypassed,
    ));
    let failures = rules().flat_map(|rule| {
        rule.failures.iter().map(|(reason, events)| {
            series([("rule", rule.id.as_str()), ("reason", reason)], *events)
        })
    });
    families.push(family(
        Kind::Counter,
        "streamgate_wasm_failed_events",
        "Events that a WASM rule failed on, by reason",
        failures,
    ));
}

fn of_outputs(families: &mut Vec<Family>, stats: &Stats) {
    let outputs = || {
        stats
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.outputs)
    };
    let mut all = |kind, name, help, value: fn(&crate::books::OutputStats) -> u64| {
        let series = outputs().map(|output| {
            series(
                [("output", output.id.as_str()), ("type", &output.kind)],
                value(output),
            )
        });
        families.push(family(kind, name, help, series));
    };
    all(
        Kind::Counter,
        "streamgate_output_sent_events",
        "Events that the receiver took",
        |output| output.sent,
    );
    all(
        Kind::Counter,
        "streamgate_output_sent_bytes",
        "Their bytes",
        |output| output.sent_bytes,
    );
    all(
        Kind::Gauge,
        "streamgate_output_queued_events",
        "Events that wait for the output, or are being sent",
        |output| output.queued,
    );
    all(
        Kind::Counter,
        "streamgate_output_dead_lettered_events",
        "Events that the receiver will never take, and that were kept",
        |output| output.dead_lettered,
    );
    all(
        Kind::Counter,
        "streamgate_output_dead_letters_dropped_events",
        "Dead letters that were deleted to make room for newer ones",
        |output| output.dead_letters_dropped,
    );
    let discarded = outputs().flat_map(|output| {
        output.discarded.iter().map(|(reason, events)| {
            series(
                [
                    ("output", output.id.as_str()),
                    ("type", &output.kind),
                    ("reason", reason),
                ],
                *events,
            )
        })
    });
    families.push(family(
        Kind::Counter,
        "streamgate_output_discarded_events",
        "Events that the output gave up",
        discarded,
    ));
}

/// How outputs are, and what they keep on disk.
fn of_disks(families: &mut Vec<Family>, status: &Status) {
    type Value = fn(&OutputStatus) -> Option<u64>;
    let mut all = |name, help, value: Value| {
        let outputs = status.outputs.iter().filter_map(|output| {
            let labels = [("output", output.id.as_str()), ("type", &output.kind)];
            Some(series(labels, value(output)?))
        });
        families.push(family(Kind::Gauge, name, help, outputs));
    };
    all(
        "streamgate_output_up",
        "Whether the receiver takes events; 0 while attempts fail or nothing goes through",
        |output| Some(u64::from(output.state == "ok")),
    );
    all(
        "streamgate_output_dead_letters",
        "Events among the dead letters",
        |output| output.dead_letters,
    );
    all(
        "streamgate_spool_up",
        "Whether the disk of the spool works; 0 while events go past it",
        |output| Some(u64::from(output.spool.as_ref()?.error.is_none())),
    );
    all(
        "streamgate_spool_events",
        "Events on the disk that were not sent yet",
        |output| Some(output.spool.as_ref()?.events),
    );
    all(
        "streamgate_spool_bytes",
        "Bytes of the spool's files",
        |output| Some(output.spool.as_ref()?.disk_bytes),
    );
    all(
        "streamgate_spool_damaged_bytes",
        "Bytes that were passed over since the output was made, since they are damaged",
        |output| Some(output.spool.as_ref()?.damaged_bytes),
    );
    all(
        "streamgate_spool_damaged_events",
        "Events that were lost since the output was made, since their records are damaged or missing",
        |output| Some(output.spool.as_ref()?.damaged_events),
    );
    let task_failures = status.outputs.iter().map(|output| {
        let labels = [("output", output.id.as_str()), ("type", &output.kind)];
        series(labels, output.task_failures)
    });
    families.push(family(
        Kind::Counter,
        "streamgate_output_task_failures",
        "Tasks of the output that panicked",
        task_failures,
    ));
}

fn of_modules(families: &mut Vec<Family>, status: &Status) {
    let rules = || {
        let wasm = |rule: &'_ crate::pipeline::RuleStatus| rule.wasm.clone();
        status
            .rules
            .iter()
            .filter_map(move |rule| Some((rule.id.as_str(), wasm(rule)?)))
    };
    let mut all = |kind, name, help, value: fn(&crate::wasm::WasmStatus) -> u64| {
        let series = rules().map(|(rule, wasm)| series([("rule", rule)], value(&wasm)));
        families.push(family(kind, name, help, series));
    };
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    all(
        counter,
        "streamgate_wasm_calls",
        "Calls of the module",
        |wasm| wasm.activity.calls,
    );
    all(
        counter,
        "streamgate_wasm_milliseconds",
        "Time they took",
        |wasm| wasm.activity.busy_ms,
    );
    all(
        gauge,
        "streamgate_wasm_instances",
        "Instances there are",
        |wasm| wasm.activity.instances,
    );
    all(
        counter,
        "streamgate_wasm_instances_started",
        "Instances ever started",
        |wasm| wasm.activity.instances_started,
    );
    all(
        gauge,
        "streamgate_wasm_memory_bytes",
        "Linear memory of the instances",
        |wasm| wasm.activity.memory_bytes,
    );
    all(
        gauge,
        "streamgate_wasm_breaker_open",
        "1 while the rule is left alone",
        |wasm| u64::from(wasm.breaker_open),
    );
    all(
        counter,
        "streamgate_wasm_breaker_opened",
        "How often that began",
        |wasm| wasm.breaker_opened,
    );
    all(
        gauge,
        "streamgate_wasm_quarantined",
        "1 while its guests run at a low priority",
        |wasm| u64::from(wasm.quarantined),
    );
    all(
        counter,
        "streamgate_wasm_log_lines",
        "Lines that the module logged",
        |wasm| wasm.activity.log_lines,
    );
    all(
        counter,
        "streamgate_wasm_log_suppressed",
        "Lines above its limit",
        |wasm| wasm.activity.log_suppressed,
    );
    all(
        counter,
        "streamgate_wasm_counts_left_out",
        "Counts with no counter",
        |wasm| wasm.activity.counts_left_out,
    );
    let counts = rules().flat_map(|(rule, wasm)| {
        let counters = wasm.activity.counters.into_iter();
        counters.map(move |(name, count)| series([("rule", rule), ("name", &name)], count))
    });
    families.push(family(
        Kind::Counter,
        "streamgate_guest_count",
        "What modules count",
        counts,
    ));
}

fn of_process(families: &mut Vec<Family>, status: &Status) {
    let mut gauge = |name, help, value: usize| {
        families.push(family(Kind::Gauge, name, help, [series([], value as u64)]));
    };
    let revision = usize::try_from(status.revision).unwrap_or(usize::MAX);
    gauge("streamgate_revision", "Revision that is live", revision);
    gauge(
        "streamgate_overloaded",
        "1 while the gate is overloaded",
        status.overloaded.into(),
    );
    gauge(
        "streamgate_workers",
        "Threads that run rules",
        status.workers,
    );
    gauge(
        "streamgate_memory_budget_bytes",
        "The most that events may take",
        status.memory.budget_bytes,
    );
    gauge(
        "streamgate_memory_used_bytes",
        "What they take",
        status.memory.used_bytes,
    );
    families.push(family(
        Kind::Counter,
        "streamgate_log_lines_dropped",
        "Log lines that stderr did not take",
        [series([], telemetry::dropped_lines())],
    ));
}

fn family(
    kind: Kind,
    name: &'static str,
    help: &'static str,
    series: impl IntoIterator<Item = Series>,
) -> Family {
    Family {
        name,
        help,
        kind,
        series: series.into_iter().collect(),
    }
}

fn series<const N: usize>(labels: [(&'static str, &str); N], value: u64) -> Series {
    #[expect(
        clippy::cast_precision_loss,
        reason = "the format has floats only, exact up to 2^53"
    )]
    let value = value as f64;
    Series {
        labels: labels.map(|(name, text)| (name, text.to_owned())).into(),
        value,
    }
}
