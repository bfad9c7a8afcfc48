//! The PG: is it up, is it slow, what do we not ask it, and does doubt end?

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, heatmap, lines, stack, stat, states, table};
use crate::query::{rate, share, since};

const CALLS: &str = "http_client_request_duration_seconds_count";

pub fn dashboard() -> Dashboard {
    Dashboard::new("pay-pg", "Payments: PG", "Is the PG up, fast and understood, and does doubt end?", "PgDown")
        .row("Is it up?", up())
        .row("Is it slow?", slow())
        .row("What we do not ask it", guard())
        .row("Doubt", doubt())
}

fn up() -> [Panel; 6] {
    [
        stat("Calls that got an answer")
            .unit("percentunit")
            .decimals(2)
            .query(
                format!("1 - ({})", share(CALLS, r#",outcome=~"not_sent|unknown",provider=~"$provider""#, r#",provider=~"$provider""#, "provider")),
                "{{provider}}",
            )
            .colours(RED, &[(0.7, AMBER), (0.99, GREEN)])
            .about(
                "Is the PG up?",
                "a decline is an answer; no answer and an answer that says nothing are not.",
                "below 70 % it is down: the breaker opens by itself. Tell the PG and the shop.",
            )
            .to("pay-affected")
            .runbook("PgDown"),
        stat("Last certain answer")
            .unit("s")
            .query(since("payments_pg_last_success_timestamp_seconds", r#"@,provider=~"$provider""#, "provider, operation"), "{{provider}} {{operation}}")
            .colours(GREEN, &[(300.0, AMBER), (3600.0, RED)])
            .size(8, 4)
            .about(
                "When did the PG last answer?",
                "seconds ago, by verb; without traffic it grows too.",
                "old for all verbs while calls go out: it is down; old for one: that endpoint.",
            )
            .to("pay-events")
            .runbook("PgDown"),
        stat("Calls in flight")
            .query(r#"sum by (provider) (http_client_active_requests{@,provider=~"$provider"})"#, "{{provider}}")
            .colours(GREEN, &[(32.0, AMBER), (64.0, RED)])
            .about(
                "Does the PG hang?",
                "calls that wait for an answer now.",
                "near the permits: it hangs, and we are next; see the permits below.",
            )
            .to("pay-runtime")
            .runbook("PgSlow"),
        states("Breakers")
            .size(8, 4)
            .query(r#"max by (provider, operation) (2 * payments_pg_breaker_state{@,state="open",provider=~"$provider"} + ignoring (state) payments_pg_breaker_state{@,state="half_open",provider=~"$provider"})"#, "{{provider}} {{operation}}")
            .words(&[(0, "closed", GREEN), (1, "half open", AMBER), (2, "open", RED)])
            .colours(GREEN, &[(1.0, AMBER), (2.0, RED)])
            .about(
                "What do we not ask the PG now?",
                "the worst state of any process; red answers buyers at once instead of letting them wait.",
                "it closes by itself after good trials; do not restart to close it.",
            )
            .to("pay-overview")
            .runbook("BreakerOpen"),
        lines("Calls by outcome")
            .size(12, 8)
            .unit("reqps")
            .query(rate(CALLS, r#"@,provider=~"$provider""#, "operation, outcome"), "{{operation}} {{outcome}}")
            .about(
                "How do calls end?",
                "calls per second by verb and outcome.",
                "not_sent: the network or DNS; unknown: it took the call and did not say; refused: our contract.",
            )
            .to("pay-affected")
            .runbook("PgDown"),
        lines("Failures by HTTP status")
            .size(12, 8)
            .unit("reqps")
            .query(rate(CALLS, r#"@,provider=~"$provider",outcome=~"not_sent|unknown|refused""#, "http_response_status_code, outcome"), "{{http_response_status_code}} {{outcome}}")
            .empty("no call failed")
            .data("the scenario makes calls fail")
            .about(
                "What does the PG say when it fails?",
                "failed calls per second by status; no status is no answer.",
                "5xx: theirs; 429: we are too fast; 401 or 403: our key.",
            )
            .to("pay-events")
            .runbook("PgDown"),
    ]
}

fn slow() -> [Panel; 4] {
    let near = |operation: &str| {
        format!(
            r#"1 - (sum by (provider, operation) (rate(http_client_request_duration_seconds_bucket{{@,provider=~"$provider",operation="{operation}",le="7.5"}}[@])) / (sum by (provider, operation) (rate({CALLS}{{@,provider=~"$provider",operation="{operation}"}}[@])) > 0))"#
        )
    };
    [
        lines("Time of a call")
            .unit("s")
            .quantiles("http_client_request_duration_seconds", r#"@,provider=~"$provider",operation=~"confirm|cancel""#, "")
            .colours(GREEN, &[(2.5, AMBER), (7.5, RED)])
            .about(
                "Is the PG slow with money?",
                "half to 999 of 1000 confirms and cancels were faster; dots are real payments.",
                "open a dot; p50 up: all of it; only p99 up: a part of it.",
            )
            .to("pay-overview")
            .runbook("PgSlow"),
        lines("p99 by verb")
            .unit("s")
            .query(r#"histogram_quantile(0.99, sum by (le, provider, operation) (rate(http_client_request_duration_seconds_bucket{@,provider=~"$provider"}[@])))"#, "{{provider}} {{operation}}")
            .about(
                "Which endpoint is slow?",
                "99 of 100 calls were faster, by verb.",
                "inquire or list alone: reads; confirm: buyers wait.",
            )
            .to("pay-overview")
            .runbook("PgSlow"),
        lines("Near the deadline")
            .unit("percentunit")
            .query(near("confirm"), "confirm")
            .query(near("cancel"), "cancel")
            .colours(GREEN, &[(0.01, AMBER)])
            .about(
                "How many calls will soon run out of time?",
                "share of calls slower than 7.5 s.",
                "above 1 % doubts follow; do not lower the deadline, it makes more of them.",
            )
            .to("pay-slo")
            .runbook("PgSlow"),
        heatmap("Time of confirms at the PG")
            .size(24, 8)
            .unit("s")
            .query(r#"sum by (le) (increase(http_client_request_duration_seconds_bucket{@,provider=~"$provider",operation="confirm"}[@]))"#, "{{le}}")
            .about(
                "Is the PG slow for all or for a few?",
                "darker is more calls; a band of its own is a cause of its own.",
                "click a dot: to its trace or its payment.",
            )
            .to("pay-funnel")
            .runbook("PgSlow"),
    ]
}

fn guard() -> [Panel; 4] {
    [
        lines("Permits taken")
            .size(6, 8)
            .query(r#"sum by (provider, lane) (payments_pg_permits{@,provider=~"$provider"})"#, "{{provider}} {{lane}}")
            .query(r#"sum by (provider, lane) (payments_pg_permits_max{@,provider=~"$provider"})"#, "most {{provider}} {{lane}}")
            .about(
                "Are we near the most calls that we allow?",
                "permits to call the PG by lane, and the most.",
                "at the most: calls are slow or many; more permits only help when the PG is fast.",
            )
            .to("pay-runtime")
            .runbook("LoadShed"),
        lines("Not even tried")
            .size(6, 8)
            .unit("reqps")
            .query(rate("payments_pg_admissions_refused_total", r#"@,provider=~"$provider""#, "operation, lane, reason"), "{{operation}} {{lane}} {{reason}}")
            .about(
                "Whom do we turn away, and why?",
                "calls per second that were refused before they were sent; no money moved.",
                "breaker_open: the PG is down; saturated: it is slow.",
            )
            .to("pay-affected")
            .runbook("LoadShed"),
        lines("Breakers that changed")
            .size(6, 8)
            .query("sum by (provider, operation, to) (increase(payments_pg_breaker_transitions_total{@,provider=~\"$provider\"}[@]))", "{{provider}} {{operation}} to {{to}}")
            .about(
                "How often does the PG fail and come back?",
                "changes of state in each interval.",
                "open and half open in turn: it is half dead; say so to the PG.",
            )
            .to("pay-events")
            .runbook("BreakerOpen"),
        lines("Sent again")
            .size(6, 8)
            .unit("reqps")
            .query(rate("payments_pg_resends_total", r#"@,provider=~"$provider""#, "provider, operation"), "{{provider}} {{operation}}")
            .about(
                "Do we repeat ourselves?",
                "calls per second sent again with the same key; the PG takes them as one.",
                "many: the network eats answers; see not_sent and unknown above.",
            )
            .to("pay-events")
            .runbook("PgDown"),
    ]
}

fn doubt() -> [Panel; 5] {
    [
        lines("Doubts opened")
            .size(6, 8)
            .unit("reqps")
            .query(
                rate("payments_doubts_opened_total", r#"@,provider=~"$provider""#, "operation, cause"),
                "{{operation}} {{cause}}",
            )
            .about(
                "How often do we not know?",
                "outcomes per second that became uncertain, by cause.",
                "a jump: the PG hangs or fails; recovery asks until it is certain.",
            )
            .to("pay-affected")
            .runbook("DoubtSurge"),
        stack("Doubts resolved")
            .size(6, 8)
            .unit("reqps")
            .query(rate("payments_doubts_resolved_total", r#"@,provider=~"$provider""#, "resolution"), "{{resolution}}")
            .about(
                "What becomes of doubt?",
                "per second by what the PG said later.",
                "mostly approved: buyers paid and saw an error; tell support.",
            )
            .to("pay-affected")
            .runbook("DoubtStuck"),
        heatmap("How long doubt lasts")
            .size(6, 8)
            .unit("s")
            .query("sum by (le) (increase(payments_doubt_duration_seconds_bucket{@}[@]))", "{{le}}")
            .empty("no doubt was resolved")
            .data("the scenario makes doubts and resolves them")
            .about(
                "Does doubt end within five minutes?",
                "darker is more; dots are payments.",
                "long ones: see the breaker of inquire, and the worker.",
            )
            .to("pay-events")
            .runbook("DoubtStuck"),
        lines("Time to certainty")
            .size(6, 8)
            .unit("s")
            .quantiles("payments_doubt_duration_seconds", "@", "")
            .colours(GREEN, &[(60.0, AMBER), (300.0, RED)])
            .empty("no doubt was resolved")
            .data("the scenario makes doubts and resolves them")
            .about(
                "How long does a buyer stay in doubt?",
                "half to 999 of 1000 were certain sooner.",
                "above five minutes the objective is missed.",
            )
            .to("pay-slo")
            .runbook("DoubtStuck"),
        table("Codes of this time")
            .size(24, 7)
            .sql(
                "select provider, outcome, method, reason, code, count(*) as payments, max(at) as last
                  from observability.affected where $__timeFilter(at) and payment >= observability.first_id($__timeFrom()) and provider ~ '^(${provider:regex})$'
                  group by provider, outcome, method, reason, code order by payments desc limit 20",
            )
            .empty("no failed payment")
            .drill("nothing fails in a healthy hour")
            .about(
                "Which codes does the PG give?",
                "payments and cancellations that failed or are in doubt, by the PG's own code.",
                "look the code up in the PG's manual; a new one belongs into our table.",
            )
            .to("pay-affected")
            .runbook("PgCodesUnmapped"),
    ]
}
