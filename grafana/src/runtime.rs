//! The processes: CPU, memory, files, the event loop, and whether telemetry itself can be trusted.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, heatmap, lines, stack, stat, table};
use crate::query::{ours, rate, share};

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-runtime",
        "Payments: processes",
        "Are the processes well, and does telemetry tell the truth?",
        "TargetDown",
    )
    .row("Processes", processes())
    .row("HTTP", http())
    .row("Event loop", event_loop())
    .row("Telemetry about itself", telemetry())
}

fn processes() -> [Panel; 8] {
    [
        stat("Targets down")
            .size(8, 4)
            .query(r#"sum(1 - up{job=~"$job"})"#, "")
            .colours(GREEN, &[(1.0, RED)])
            .empty("nothing is scraped")
            .about(
                "Does Prometheus reach every process?",
                "targets that should answer and do not.",
                "any: the process died, or its operations port is shut.",
            )
            .to("pay-overview")
            .runbook("TargetDown"),
        stat("Panics")
            .size(8, 4)
            .below()
            .query("sum(increase(payments_panics_total{@}[$__range]))", "")
            .colours(GREEN, &[(1.0, RED)])
            .zero("a healthy program does not panic")
            .about(
                "Did a task panic?",
                "panics of the chosen time; each was caught and left one log line.",
                "the trace of the line shows where: it is a defect.",
            )
            .to("pay-affected")
            .runbook("PanicSeen"),
        lines("CPU")
            .query(ours("rate(process_cpu_seconds_total{@}[@])"), "{{instance}}")
            .about(
                "How busy are the CPUs?",
                "cores used by each process.",
                "at the limit: add processes; PG calls cost none, so it is our work.",
            )
            .to("pay-overview")
            .runbook("EventLoopLag"),
        lines("CPU per operation")
            .unit("s")
            .query(
                format!(
                    "sum({}) / (sum(rate(payments_operations_total{{@}}[@])) > 0)",
                    ours("rate(process_cpu_seconds_total{@}[@])")
                ),
                "per operation",
            )
            .about(
                "Did an operation become dearer?",
                "seconds of CPU per operation, with everything that a process does besides.",
                "a step up at a deploy is that deploy.",
            )
            .to("pay-db")
            .runbook("EventLoopLag"),
        lines("Memory")
            .unit("bytes")
            .query(ours("process_resident_memory_bytes{@}"), "{{instance}}")
            .about(
                "Does memory grow?",
                "resident bytes of each process.",
                "a slope without end is a leak: restart, keep a profile.",
            )
            .to("pay-overview")
            .runbook("MemoryHigh"),
        lines("Files and sockets")
            .unit("percentunit")
            .query(ours("process_open_fds{@} / process_max_fds{@}"), "{{instance}}")
            .colours(GREEN, &[(0.8, AMBER)])
            .about(
                "Does a process run out of files?",
                "open ones as a share of the most.",
                "near the most: raise the limit, then find who leaks.",
            )
            .to("pay-overview")
            .runbook("FdHigh"),
        stat("Youngest process")
            .size(4, 8)
            .unit("s")
            .query(format!("time() - max({})", ours("process_start_time_seconds{@}")), "up for")
            .colours(AMBER, &[(300.0, GREEN)])
            .about(
                "Was there a restart?",
                "seconds since the last start of any process.",
                "young without a deploy: it crashed; see the log's last lines.",
            )
            .to("pay-overview")
            .runbook("TargetDown"),
        table("Configuration")
            .size(4, 8)
            .query("count by (env, hash) (payments_config_info{@})", "")
            .column("Value", "processes", "short")
            .about(
                "Do all run with the same settings?",
                "how many processes have which hash of their settings.",
                "two hashes in one env for long: a roll-out that stopped half-way.",
            )
            .to("pay-overview")
            .runbook("TargetDown"),
    ]
}

fn http() -> [Panel; 5] {
    let of = "http_server_request_duration_seconds";
    [
        stack("Requests by route")
            .unit("reqps")
            .query(rate(&format!("{of}_count"), "@", "http_route"), "{{http_route}}")
            .about("Who calls what?", "requests per second by route.", "one route jumps: a client in a loop.")
            .to("pay-funnel")
            .runbook("LoadShed"),
        lines("5xx by route")
            .unit("percentunit")
            .query(
                share(&format!("{of}_count"), r#",http_response_status_code=~"5..""#, "", "http_route"),
                "{{http_route}}",
            )
            .about(
                "Which route fails?",
                "share of answers with a 5xx.",
                "503 is load shedding, 502 and 504 the PG, 500 a defect.",
            )
            .to("pay-affected")
            .runbook("ConfirmBudgetBurnFast"),
        lines("Time of requests")
            .unit("s")
            .quantiles(of, "@", "")
            .about(
                "How long do callers wait?",
                "half to 999 of 1000 requests were faster; dots are traces.",
                "see which route by the heat map's dots, then the steps.",
            )
            .to("pay-db")
            .runbook("ConfirmLatencyBurn"),
        heatmap("Requests by time")
            .size(16, 8)
            .unit("s")
            .query(format!("sum by (le) (increase({of}_bucket{{@}}[@]))"), "{{le}}")
            .about(
                "Is it slow for all or for a few?",
                "darker is more requests.",
                "reads are at the bottom, confirms further up; a new band is a new cause.",
            )
            .to("pay-pg")
            .runbook("ConfirmLatencyBurn"),
        lines("In flight")
            .query("sum by (http_request_method) (http_server_active_requests{@})", "{{http_request_method}}")
            .query("sum(payments_event_streams{@})", "streams of events")
            .about(
                "Do requests pile up?",
                "requests that are answered now, and buyers who follow their orders.",
                "a rise without more requests: something hangs; see PG and pool.",
            )
            .to("pay-pg")
            .runbook("LoadShed"),
    ]
}

fn event_loop() -> [Panel; 4] {
    [
        lines("Lag of the event loop")
            .size(6, 8)
            .unit("s")
            .quantiles("payments_event_loop_lag_seconds", "@", "")
            .colours(GREEN, &[(0.1, AMBER)])
            .about(
                "Does something block the loop?",
                "how much later than asked a timer fires.",
                "above 0.1 s: a blocking call or too little CPU.",
            )
            .to("pay-overview")
            .runbook("EventLoopLag"),
        lines("Workers busy")
            .size(6, 8)
            .unit("percentunit")
            .query("sum by (instance) (rate(payments_tokio_busy_seconds_total{@}[@])) / sum by (instance) (payments_tokio_workers{@})", "{{instance}}")
            .colours(GREEN, &[(0.9, AMBER)])
            .about(
                "Are the runtime's threads full?",
                "share of their time that they work.",
                "near 1: more CPU or more processes.",
            )
            .to("pay-overview")
            .runbook("EventLoopLag"),
        lines("Tasks alive")
            .size(6, 8)
            .query("payments_tokio_alive_tasks{@}", "{{instance}}")
            .about(
                "Do tasks leak?",
                "tasks that have not ended.",
                "a slope without more requests in flight is a leak.",
            )
            .to("pay-events")
            .runbook("MemoryHigh"),
        lines("Tasks waiting to run")
            .size(6, 8)
            .query("payments_tokio_queue_depth{@}", "{{instance}}")
            .about(
                "Do tasks wait for a thread?",
                "length of the runtime's queue.",
                "above zero for long: the threads are blocked or too few.",
            )
            .to("pay-events")
            .runbook("EventLoopLag"),
    ]
}

fn telemetry() -> [Panel; 8] {
    [
        lines("Log lines")
            .size(6, 8)
            .unit("short")
            .query("sum by (level) (rate(payments_log_lines_total{@}[@]))", "{{level}}")
            .about(
                "What do the logs say, and how much?",
                "lines per second by level; an error wants a person.",
                "errors above zero: open the logs link.",
            )
            .to("pay-affected")
            .runbook("LogLinesDropped"),
        stat("Log lines lost")
            .size(3, 8)
            .query("sum(increase(payments_log_lines_dropped_total{@}[$__range]))", "")
            .colours(GREEN, &[(1.0, AMBER)])
            .zero("the log's reader keeps up")
            .about(
                "Are the logs complete?",
                "lines that were dropped because nobody took them.",
                "the collector is slow; what is missing is not in Loki either.",
            )
            .to("pay-overview")
            .runbook("LogLinesDropped"),
        stat("Secrets caught in logs")
            .size(3, 8)
            .query("sum(increase(payments_log_redactions_total{@}[$__range]))", "")
            .colours(GREEN, &[(1.0, RED)])
            .zero("nothing secret reaches a log line")
            .about(
                "Did something secret nearly reach the log?",
                "pieces that were masked at the last moment.",
                "a defect: find the line by its time and mend what wrote it; treat the secret as seen.",
            )
            .to("pay-overview")
            .runbook("RedactionTripped"),
        lines("Spans")
            .size(6, 8)
            .unit("ops")
            .query(rate("payments_trace_spans_total", "@", "result"), "{{result}}")
            .about(
                "Do traces arrive?",
                "spans per second: sent, not chosen, lost.",
                "queue_full or export_failed: the trace store is away; payments do not mind.",
            )
            .to("pay-overview")
            .runbook("TelemetryDropping"),
        stack("Why traces are kept")
            .size(6, 8)
            .unit("ops")
            .query(rate("payments_traces_total", "@", "decision"), "{{decision}}")
            .about(
                "Which traces do we keep?",
                "traces per second by decision; errors and slow ones are always kept.",
                "overflow: too many at a time, ordinary ones were lost.",
            )
            .to("pay-affected")
            .runbook("TelemetryDropping"),
        lines("Series and exemplars")
            .size(8, 7)
            .query("payments_metrics_series{@}", "series {{instance}}")
            .query("payments_exemplars_stored{@}", "exemplars {{instance}}")
            .query(ours("scrape_samples_post_metric_relabeling{@}"), "samples {{instance}}")
            .about(
                "Does the number of series grow?",
                "series and exemplars of each process, and samples per scrape.",
                "a slope: a label got free text; the limit of the scrape would blind us.",
            )
            .to("pay-overview")
            .runbook("CardinalityHigh"),
        lines("Time to render the metrics")
            .size(8, 7)
            .unit("s")
            .quantiles("payments_metrics_render_duration_seconds", "@", "")
            .query(ours("scrape_duration_seconds{@}"), "scrape {{instance}}")
            .colours(GREEN, &[(2.5, AMBER)])
            .about(
                "Is the scrape in danger?",
                "time to write the exposition, and what Prometheus waited for it.",
                "near the scrape's time limit of 4 s: series have grown.",
            )
            .to("pay-overview")
            .runbook("CardinalityHigh"),
        lines("Rules that fail in Prometheus")
            .size(8, 7)
            .unit("ops")
            .query("sum(rate(prometheus_rule_evaluation_failures_total[@]))", "failures")
            .about(
                "Can Prometheus evaluate its rules?",
                "failed evaluations per second.",
                "above zero: alerts are blind; see its own log.",
            )
            .to("pay-slo")
            .runbook("RuleFailures"),
    ]
}
