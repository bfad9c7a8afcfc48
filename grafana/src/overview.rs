//! Is money OK? One screen, no scrolling.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, GREY, Panel, RED, bars, heatmap, lines, stack, stat, states, table};
use crate::query::{age, share};

/// Rules of the audit that are about units rather than money.
const STOCK: &str = "stock_.*|product_whole|line_units";

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-overview",
        "Payments: overview",
        "Is money OK, who hurts, and what changed?",
        "ConfirmBudgetBurnFast",
    )
    .panels(verdict())
    .panels(books())
    .panels(who())
    .panels(shape())
    .panels(changes())
}

fn verdict() -> [Panel; 7] {
    [
        stat("Verdict")
            .size(4, 3)
            .query("max(payments:verdict)", "")
            .words(&[
                (0, "OK", GREEN),
                (1, "LOOK", AMBER),
                (2, "DEGRADED", AMBER),
                (3, "FAILING", RED),
                (4, "DRIFT", RED),
                (5, "BLIND", RED),
            ])
            .colours(GREY, &[(0.0, GREEN), (1.0, AMBER), (3.0, RED)])
            .about(
                "Are payments OK right now?",
                "one word for everything; the worst reason wins. DRIFT means that the books are wrong, BLIND that nobody looks.",
                "read the reasons beside it, then follow the panel that is not green; the link lists who is hit.",
            )
            .to("pay-affected")
            .runbook("ConfirmBudgetBurnFast"),
        table("Why")
            .size(5, 3)
            .query("sort_desc(max by (reason) (payments:verdict_reason) > 0)", "")
            .column("Value", "weight", "short")
            .column("reason", "reason", "string")
            .empty("nothing is wrong")
            .drill("a healthy system has no reason")
            .about(
                "Which reasons make the verdict?",
                "each reason that holds, with its weight; 5 outweighs all.",
                "start with the top row; its runbook has the alert's name.",
            )
            .to("pay-slo"),
        stat("Confirms that work")
            .size(3, 3)
            .unit("percentunit")
            .decimals(2)
            .query("1 - max(payments:confirm_bad:ratio_rate5m)", "")
            .colours(RED, &[(0.8, AMBER), (0.999, GREEN)])
            .about(
                "Do confirms come to a certain end?",
                "share of the last 5 minutes; declines count as working, since the PG answered.",
                "below 99.9 % look at who hurts, below 80 % it is an outage: open the PG.",
            )
            .to("pay-pg")
            .runbook("ConfirmBudgetBurnFast"),
        stat("Approved")
            .size(3, 3)
            .unit("percentunit")
            .decimals(1)
            .query("max(payments:confirm_approval:ratio_rate30m)", "")
            .colours(AMBER, &[(0.6, GREEN)])
            .about(
                "How many buyers get through?",
                "approved among approved and declined, of 30 minutes.",
                "a drop with a healthy PG is the buyers, the issuers or our contract: see declines by class.",
            )
            .to("pay-funnel")
            .runbook("ApprovalRateDropped"),
        stat("Confirms per second")
            .size(3, 3)
            .unit("reqps")
            .decimals(2)
            .query(r#"sum(payments:operations:rate1m{job=~"$job",operation="confirm",outcome!="replayed"})"#, "")
            .colours(AMBER, &[(0.001, GREEN)])
            .about(
                "Is there traffic at all?",
                "confirms of the last minute without replays; amber is none.",
                "none in a busy hour: the checkout, DNS or our door; compare with last week below.",
            )
            .to("pay-funnel")
            .runbook("TrafficVanished"),
        stat("Taken per minute")
            .size(3, 3)
            .unit("locale")
            .decimals(0)
            .query(r#"60 * sum by (currency) (rate(payments_amount_minor_units_sum{@,operation="confirm",currency=~"$currency"}[@]))"#, "{{currency}}")
            .colours(AMBER, &[(0.001, GREEN)])
            .about(
                "How much money comes in?",
                "minor units per minute by currency, after commit.",
                "far from usual with usual traffic: look at amounts and methods in the funnel.",
            )
            .to("pay-funnel"),
        stat("Slowest 1 %")
            .size(3, 3)
            .unit("s")
            .query(r#"histogram_quantile(0.99, sum by (le) (rate(payments_operation_duration_seconds_bucket{@,operation="confirm"}[@])))"#, "")
            .colours(GREEN, &[(2.5, AMBER), (7.5, RED)])
            .about(
                "How long does an unlucky buyer wait?",
                "99 of 100 confirms were faster.",
                "see the steps: is it the PG, the database or a wait? Then open a dot of the heat map.",
            )
            .to("pay-pg")
            .runbook("ConfirmLatencyBurn"),
    ]
}

fn books() -> [Panel; 7] {
    let drift = |matcher: &str| format!("sum(max by (rule) (payments_audit_violations{{@job,{matcher}}}))");
    [
        stat("Money at risk")
            .size(4, 3)
            .unit("locale")
            .query(r#"sum by (currency) (max without (instance) (payments_unresolved_amount_minor_units{@job,currency=~"$currency"}))"#, "{{currency}}")
            .colours(GREEN, &[(1_000_000.0, AMBER), (10_000_000.0, RED)])
            .about(
                "How much money is in doubt?",
                "minor units of payments and cancellations whose outcome is not certain; those on their way are among them.",
                "let recovery ask; when it grows, the PG does not answer. Never confirm again by hand.",
            )
            .to("pay-affected")
            .runbook("MoneyAtRiskHigh"),
        stat("Oldest doubt")
            .size(4, 3)
            .unit("s")
            .query(age("payments_oldest_unresolved_timestamp_seconds", "kind"), "{{kind}}")
            .colours(GREEN, &[(60.0, AMBER), (300.0, RED)])
            .about(
                "Does doubt end?",
                "age of the oldest uncertain outcome; 0 is none, no figure means that nobody looks.",
                "above five minutes the recovery does not get through: see inquiries and the PG.",
            )
            .to("pay-events")
            .runbook("DoubtStuck"),
        stat("Money that does not add up")
            .size(3, 3)
            .query(drift(&format!(r#"rule!~"stuck_.*|{STOCK}""#)), "")
            .colours(GREEN, &[(1.0, RED)])
            .zero("a healthy program breaks no rule")
            .about(
                "Is money drifting?",
                "rows that break a rule of the audit about money, keys and histories.",
                "any row is a defect or somebody's hand: see the rule, stop what writes, do not mend rows.",
            )
            .to("pay-stock")
            .runbook("AuditViolation"),
        stat("Stock that does not add up")
            .size(3, 3)
            .query(drift(&format!(r#"rule=~"{STOCK}""#)), "")
            .colours(GREEN, &[(1.0, RED)])
            .zero("a healthy program loses no unit")
            .about(
                "Is stock drifting?",
                "rows that break a rule of the audit about units.",
                "open stock, find the product by the rule's query, and do not correct before the cause is known.",
            )
            .to("pay-stock")
            .runbook("AuditViolation"),
        stat("Differences from the PG")
            .size(3, 3)
            .query("sum(max by (kind) (payments_findings_open{@job}))", "")
            .colours(GREEN, &[(1.0, AMBER)])
            .about(
                "Do the PG's books and ours agree?",
                "open findings of reconciliation.",
                "each waits for a repair or a person: see kinds and age.",
            )
            .to("pay-stock")
            .runbook("FindingsOpen"),
        stat("Proven until")
            .size(3, 3)
            .unit("s")
            .query(
                r#"time() - min(max by (rule) (payments_audit_proven_until_timestamp_seconds{@job,mode="changed"} > 0))"#,
                "ago",
            )
            .colours(GREEN, &[(60.0, AMBER), (300.0, RED)])
            .about(
                "Since when is nothing proven?",
                "seconds since every rule had judged everything that was committed.",
                "when it grows the auditor is dead or late: green figures beside it are then old.",
            )
            .to("pay-stock")
            .runbook("AuditStale"),
        stat("Error budget left")
            .size(4, 3)
            .unit("percentunit")
            .decimals(1)
            .query("clamp_min(min(slo:budget_remaining:ratio), -1)", "")
            .colours(RED, &[(0.0, AMBER), (0.25, GREEN)])
            .about(
                "How much failure can we still afford this month?",
                "the worst of all objectives; below 0 it is spent, and the scale ends at -100 %.",
                "nearly spent: no risky deploy. See what spent it.",
            )
            .to("pay-slo")
            .runbook("ConfirmBudgetBurnTicket"),
    ]
}

fn who() -> [Panel; 3] {
    let (bad, valid) = (
        r#",operation="confirm",outcome=~"pg_error|unknown|error",provider=~"$provider",method=~"$method""#,
        r#",operation="confirm",outcome!~"replayed|rejected|conflict",provider=~"$provider",method=~"$method""#,
    );
    [
        states("Who hurts")
            .size(9, 6)
            .unit("percentunit")
            .query(share("payments_operations_total", bad, valid, "provider, method"), "{{provider}} {{method}}")
            .colours(GREEN, &[(0.001, AMBER), (0.05, RED)])
            .empty("no traffic")
            .each_affected()
            .about(
                "Which provider and method hurts, and since when?",
                "share of confirms without a certain end; `none` is a failure before the PG named a method. No bar is no traffic.",
                "one row red: that method or PG; all red: us or the database. A click on a bar lists who is hit.",
            )
            .to("pay-pg")
            .runbook("PgDown"),
        table("Worst slices")
            .size(8, 6)
            .query(
                r#"topk(5, sum by (provider, method, outcome) (increase(payments_operations_total{@,operation="confirm",outcome=~"pg_error|unknown|error"}[$__range])) > 0)"#,
                "",
            )
            .column("Value", "confirms", "short")
            .empty("none failed")
            .data("the scenario makes confirms fail")
            .each_affected()
            .about(
                "Where do most failures come from?",
                "failed confirms of the chosen time; `error` is ours, `pg_error` the PG's, `unknown` is in doubt.",
                "follow the row to the payments that were hit.",
            )
            .to("pay-affected")
            .runbook("ConfirmBudgetBurnSlow"),
        stack("Where the time goes")
            .size(7, 6)
            .unit("s")
            .query(
                r#"sum by (step) (rate(payments_step_duration_seconds_sum{@,operation="confirm"}[@])) / ignoring (step) group_left () (sum(rate(payments_operation_duration_seconds_count{@,operation="confirm"}[@])) > 0)"#,
                "{{step}}",
            )
            .about(
                "Which step of a confirm takes the time?",
                "mean seconds per confirm by step; together they are the whole.",
                "pg_call: the PG; lock_wait or pool_wait: the database; unattributed: a defect of ours.",
            )
            .to("pay-db")
            .runbook("ConfirmLatencyBurn"),
    ]
}

fn shape() -> [Panel; 3] {
    let technical = r#",outcome=~"not_sent|unknown",provider=~"$provider""#;
    [
        heatmap("How long confirms take")
            .size(8, 6)
            .unit("s")
            .query(r#"sum by (le) (increase(payments_operation_duration_seconds_bucket{@,operation="confirm"}[@]))"#, "{{le}}")
            .about(
                "Is it slow for all or for a few?",
                "darker is more confirms; a second band is a second cause. Dots are real payments.",
                "click a dot: to its trace, or to the payment itself.",
            )
            .to("pay-pg")
            .runbook("ConfirmLatencyBurn"),
        stack("How confirms end")
            .size(8, 6)
            .unit("reqps")
            .query(r#"sum by (outcome) (rate(payments_operations_total{@,operation="confirm",provider=~"$provider",method=~"$method"}[@]))"#, "{{outcome}}")
            .about(
                "What becomes of confirms?",
                "per second by outcome.",
                "pg_error or unknown grow: the PG. error: us. conflict or replayed: clients try again.",
            )
            .to("pay-funnel")
            .runbook("ConfirmBudgetBurnFast"),
        bars("PG calls that fail")
            .size(8, 6)
            .unit("percentunit")
            .max(1.0)
            .query(share("http_client_request_duration_seconds_count", technical, r#",provider=~"$provider""#, "provider, operation"), "{{provider}} {{operation}}")
            .colours(GREEN, &[(0.01, AMBER), (0.3, RED)])
            .empty("no calls")
            .about(
                "Is the PG down, and for what?",
                "share of calls without a usable answer, by verb.",
                "above 30 %: the PG is down; the breaker will open. Tell the PG, tell the shop.",
            )
            .to("pay-pg")
            .runbook("PgDown"),
    ]
}

fn changes() -> [Panel; 4] {
    let running = "(time() - max by (instance) (process_start_time_seconds{@job})) * on (instance) group_right () max by (instance, version, revision) (payments_build_info{@job}) * on (instance) group_left (env, hash) max by (instance, env, hash) (payments_config_info{@job})";
    [
        table("Pages that fire")
            .size(6, 5)
            .query(r#"max by (alertname, provider) (ALERTS{alertstate="firing",severity="page"})"#, "")
            .without("Value")
            .empty("no page fires")
            .drill("a healthy system fires no page")
            .about(
                "What is known to be wrong, and what do I do?",
                "every page that fires now.",
                "open the runbook with the name of the page; it is over when the row is gone.",
            )
            .to("pay-slo")
            .runbook("Watchdog"),
        table("What runs")
            .size(8, 5)
            .query(running, "")
            .column("Value", "up for", "s")
            .about(
                "What changed: was there a deploy or a new configuration?",
                "each process with its version, the hash of its configuration and how long it runs.",
                "trouble as young as a process: roll back first, ask later. Two hashes in one env: finish the roll-out.",
            )
            .to("pay-runtime")
            .runbook("TargetDown"),
        lines("Confirms and a week ago")
            .size(6, 5)
            .unit("reqps")
            .query(r#"sum(payments:operations:rate1m{job=~"$job",operation="confirm",outcome!="replayed"})"#, "now")
            .query(r#"sum(payments:operations:rate1m{job=~"$job",operation="confirm",outcome!="replayed"} offset 1w)"#, "a week ago")
            .drill("a week of history is needed for the second line")
            .about(
                "Did the traffic change?",
                "the same hour of last week on the same axis.",
                "half of it is gone: the door, the checkout or a campaign that ended.",
            )
            .to("pay-funnel")
            .runbook("TrafficDropped"),
        stat("Customers hit")
            .size(4, 5)
            .sql("select count(distinct customer) as customers, count(*) as payments from observability.affected
                  where $__timeFilter(at) and payment >= observability.first_id($__timeFrom()) and provider ~ '^(${provider:regex})$' and method ~ '^(${method:regex})$'
                  and outcome <> 'declined'")
            .colours(GREEN, &[(1.0, AMBER), (100.0, RED)])
            .about(
                "How many customers and payments are hit?",
                "payments of the chosen time that are in doubt, go back, or could not be canceled; declines are not among them.",
                "the link lists them, masked, with trace and order.",
            )
            .to("pay-affected"),
    ]
}
