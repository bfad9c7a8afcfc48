//! Webhooks, recovery and the worker: does what happens later happen at all?

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, heatmap, lines, stack, stat, states, table};
use crate::query::{age, rate, read, since};

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-events",
        "Payments: webhooks and workers",
        "Does what happens later happen at all?",
        "WorkerDead",
    )
    .row("Webhooks", webhooks())
    .row("Recovery", recovery())
    .row("Workers", workers())
}

fn webhooks() -> [Panel; 7] {
    [
        stat("Webhooks unread")
            .size(6, 4)
            .query(read("payments_webhook_inbox_pending", ""), "")
            .colours(GREEN, &[(20.0, AMBER), (500.0, RED)])
            .about(
                "Do webhooks pile up?",
                "stored deliveries that were not read.",
                "they grow: the worker is dead or one of them fails again and again.",
            )
            .to("pay-stock")
            .runbook("WebhookBacklog"),
        stat("Oldest unread")
            .size(6, 4)
            .below()
            .unit("s")
            .query(age("payments_webhook_oldest_pending_timestamp_seconds", ""), "")
            .colours(GREEN, &[(30.0, AMBER), (300.0, RED)])
            .about(
                "Since when is one not read?",
                "age of the oldest delivery that is due; 0 is none.",
                "above five minutes buyers who paid by transfer wait for their order.",
            )
            .to("pay-stock")
            .runbook("WebhookBacklog"),
        stat("Last received")
            .size(6, 8)
            .unit("s")
            .query(
                since("payments_webhook_last_received_timestamp_seconds", r#"@,provider=~"$provider""#, "provider"),
                "{{provider}}, ago",
            )
            .colours(GREEN, &[(900.0, AMBER)])
            .about(
                "Does the PG still call us?",
                "seconds since the last delivery; without sales it grows too.",
                "silence with sales: the PG's console, our door's address, a certificate.",
            )
            .to("pay-pg")
            .runbook("WebhookSilence"),
        lines("At the door")
            .size(12, 8)
            .unit("reqps")
            .query(rate("payments_webhooks_received_total", r#"@,provider=~"$provider""#, "outcome"), "{{outcome}}")
            .about(
                "What arrives?",
                "deliveries per second; duplicates are the PG's habit and harmless.",
                "undecodable or too_large: somebody else knocks, or the PG changed.",
            )
            .to("pay-pg")
            .runbook("WebhookForged"),
        lines("What they changed")
            .unit("reqps")
            .query(rate("payments_webhooks_applied_total", r#"@,provider=~"$provider""#, "outcome"), "{{outcome}}")
            .about(
                "What do webhooks do?",
                "per second by what became of them; most change nothing, since we knew it.",
                "secret_mismatch: forged, or the secret was changed on one side only.",
            )
            .to("pay-affected")
            .runbook("WebhookForged"),
        lines("From receipt to effect")
            .unit("s")
            .quantiles("payments_webhook_delay_seconds", r#"@,provider=~"$provider""#, "")
            .colours(GREEN, &[(2.5, AMBER), (60.0, RED)])
            .about(
                "How long does a webhook wait?",
                "half to 999 of 1000 were applied sooner; the objective is 2.5 s.",
                "slow in steps of the worker's pause: too few workers.",
            )
            .to("pay-slo")
            .runbook("WebhookBacklog"),
        heatmap("Delay of webhooks")
            .size(8, 8)
            .unit("s")
            .query(
                r#"sum by (le) (increase(payments_webhook_delay_seconds_bucket{@,provider=~"$provider"}[@]))"#,
                "{{le}}",
            )
            .about(
                "Is one late, or are all?",
                "darker is more deliveries; dots are traces.",
                "a thin band far up: deferred ones that wait for their payment.",
            )
            .to("pay-stock")
            .runbook("WebhookBacklog"),
    ]
}

fn recovery() -> [Panel; 4] {
    [
        lines("In doubt now")
            .size(6, 8)
            .query(read("payments_unresolved", "kind"), "{{kind}}")
            .about(
                "How many outcomes are uncertain?",
                "payments and cancellations, from the database.",
                "some for seconds is normal; a slope means that the PG does not answer.",
            )
            .to("pay-affected")
            .runbook("DoubtSurge"),
        lines("Age of the oldest doubt")
            .size(6, 8)
            .unit("s")
            .query(age("payments_oldest_unresolved_timestamp_seconds", "kind"), "{{kind}}")
            .colours(GREEN, &[(60.0, AMBER), (300.0, RED)])
            .about(
                "Does doubt end?",
                "a saw is good; a straight slope is one that does not end.",
                "ask by hand with `paygauge inquire`; never confirm again.",
            )
            .to("pay-affected")
            .runbook("DoubtStuck"),
        stack("Inquiries")
            .size(6, 8)
            .unit("reqps")
            .query(rate("payments_inquiries_total", r#"@,provider=~"$provider""#, "result"), "{{result}}")
            .about(
                "Does asking help?",
                "inquiries per second by what they brought.",
                "only still_unknown: the PG itself does not know; see its breaker.",
            )
            .to("pay-pg")
            .runbook("DoubtStuck"),
        lines("Answered in time")
            .size(6, 8)
            .unit("percentunit")
            .max(1.0)
            .query(r#"sum by (operation) (rate(payments_doubts_resolved_total{@,in_time="true"}[@])) / (sum by (operation) (rate(payments_doubts_resolved_total{@}[@])) > 0)"#, "{{operation}}")
            .empty("no doubt was resolved")
            .data("the scenario makes doubts and resolves them")
            .about(
                "Is doubt gone within five minutes?",
                "share of the resolved doubts that lasted less.",
                "below 99.5 % the objective is missed: recovery is slow, or the PG was away.",
            )
            .to("pay-slo")
            .runbook("DoubtStuck"),
    ]
}

fn workers() -> [Panel; 8] {
    [
        table("Last good round")
            .size(6, 8)
            .unit("s")
            .query(since("payments_worker_last_success_timestamp_seconds", "@", "task"), "{{task}}")
            .column("Value", "ago", "s")
            .colours(GREEN, &[(60.0, AMBER), (300.0, RED)])
            .about(
                "Which loop is dead?",
                "seconds since each task last ended a round well, in any process; audit_full is rare by design.",
                "one is old: its rounds fail, see the log; all are old: no worker runs.",
            )
            .to("pay-runtime")
            .runbook("WorkerDead"),
        states("Rounds that fail")
            .size(9, 8)
            .unit("percentunit")
            .query(r#"sum by (task) (rate(payments_worker_ticks_total{@,result="failed"}[@])) / (sum by (task) (rate(payments_worker_ticks_total{@}[@])) > 0)"#, "{{task}}")
            .colours(GREEN, &[(0.01, AMBER), (0.5, RED)])
            .empty("no rounds")
            .about(
                "Which task fails, and since when?",
                "share of failed rounds; a gap is a task that did not run.",
                "red for all: the database; red for one: its own cause, see the log.",
            )
            .to("pay-db")
            .runbook("WorkerDead"),
        lines("Rounds")
            .size(9, 8)
            .unit("ops")
            .query(rate("payments_worker_ticks_total", "@", "task, result"), "{{task}} {{result}}")
            .about(
                "Do the tasks run?",
                "rounds per second by task and end.",
                "worked all the time: it does not keep up; add a worker.",
            )
            .to("pay-db")
            .runbook("WorkerDead"),
        lines("Time of a round, p95")
            .size(12, 8)
            .unit("s")
            .query("histogram_quantile(0.95, sum by (le, task) (rate(payments_worker_round_duration_seconds_bucket{@}[@])))", "{{task}}")
            .about(
                "Which task is slow?",
                "95 of 100 rounds were faster.",
                "recovery is as slow as the PG; overview and audit are as slow as the database.",
            )
            .to("pay-db")
            .runbook("WorkerDead"),
        lines("Rows per second")
            .size(12, 8)
            .unit("rowsps")
            .query(rate("payments_worker_rows_total", "@", "task"), "{{task}}")
            .about(
                "How much work is done later?",
                "rows that the tasks took care of.",
                "recovery works hard: the PG fails; webhooks work hard: a burst of the PG.",
            )
            .to("pay-pg")
            .runbook("WebhookBacklog"),
        stat("Figures from the database")
            .size(8, 5)
            .unit("s")
            .query("time() - max(payments_overview_last_success_timestamp_seconds{@job} > 0)", "ago")
            .colours(GREEN, &[(30.0, AMBER), (90.0, RED)])
            .about(
                "Are the figures that come from the database current?",
                "seconds since the worker read them; all gauges of states and ages stand on it.",
                "old: trust none of them, and see who leads.",
            )
            .to("pay-overview")
            .runbook("OverviewStale"),
        stat("Who reads them")
            .size(8, 5)
            .query("sum(payments_overview_leader{@job})", "leaders")
            .words(&[(0, "nobody", RED), (1, "one worker", GREEN)])
            .colours(RED, &[(1.0, GREEN), (2.0, AMBER)])
            .about(
                "Does exactly one worker read the figures?",
                "how many hold the lock; during a change of hands none or two for moments.",
                "nobody: no worker runs; two for long: one lost its session and does not know.",
            )
            .to("pay-runtime")
            .runbook("OverviewStale"),
        lines("Waiting operations of workers")
            .size(8, 5)
            .unit("reqps")
            .query(r#"sum by (operation, outcome) (payments:operations:rate1m{job=~"$job",operation=~"recover|webhook_apply|expire"})"#, "{{operation}} {{outcome}}")
            .about(
                "How does later work end?",
                "recoveries, webhooks and expiries per second by outcome.",
                "errors: the log has the trace; unknown: the PG.",
            )
            .to("pay-affected")
            .runbook("WorkerDead"),
    ]
}
